package pg

import (
	"fmt"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/satchel-sync/satchel"
)

// NullID gives a parameter that is NULL for the zero ID. An ID given directly is never NULL: the zero ID is the uuid
// of zeros.
func NullID(id satchel.ID) any {
	if id.IsZero() {
		return nil
	}
	return id
}

// registerID teaches a connection that a satchel.ID is a uuid, in binary, also in arrays. NULL scans as the zero ID.
func registerID(m *pgtype.Map) {
	t := &pgtype.Type{Name: "uuid", OID: pgtype.UUIDOID, Codec: idCodec{}}
	m.RegisterType(t)
	registerArrays(m)
	m.RegisterDefaultPgType(satchel.ID{}, "uuid")
	m.RegisterDefaultPgType([]satchel.ID{}, "_uuid")
	m.TryWrapScanPlanFuncs = append([]pgtype.TryWrapScanPlanFunc{wrapIDsScan}, m.TryWrapScanPlanFuncs...)
}

// idCodec is pgx's uuid codec with a short way for satchel.ID.
type idCodec struct{ pgtype.UUIDCodec }

func (c idCodec) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	if _, ok := value.(satchel.ID); ok {
		if format == pgtype.BinaryFormatCode {
			return encodeID{}
		}
		return encodeIDText{}
	}
	return c.UUIDCodec.PlanEncode(m, oid, format, value)
}

func (c idCodec) PlanScan(m *pgtype.Map, oid uint32, format int16, target any) pgtype.ScanPlan {
	if _, ok := target.(*satchel.ID); ok && format == pgtype.BinaryFormatCode {
		return scanID{}
	}
	return c.UUIDCodec.PlanScan(m, oid, format, target) // the text form goes by ID.Scan
}

type encodeID struct{}

func (encodeID) Encode(v any, buf []byte) ([]byte, error) {
	id := v.(satchel.ID)
	return append(buf, id[:]...), nil
}

type encodeIDText struct{}

func (encodeIDText) Encode(v any, buf []byte) ([]byte, error) {
	return append(buf, v.(satchel.ID).String()...), nil
}

type scanID struct{}

func (scanID) Scan(src []byte, dst any) error {
	id := dst.(*satchel.ID)
	switch len(src) {
	case 0:
		*id = satchel.ID{}
	case 16:
		copy(id[:], src)
	default:
		return fmt.Errorf("pg: a uuid has 16 bytes, not %d", len(src))
	}
	return nil
}

// wrapIDsScan spares *[]satchel.ID the way through reflection.
func wrapIDsScan(target any) (pgtype.WrappedScanPlanNextSetter, any, bool) {
	if ids, ok := target.(*[]satchel.ID); ok {
		return &scanIDs{}, (*pgtype.FlatArray[satchel.ID])(ids), true
	}
	return nil, nil, false
}

type scanIDs struct{ next pgtype.ScanPlan }

func (p *scanIDs) SetNext(next pgtype.ScanPlan) { p.next = next }
func (p *scanIDs) Scan(src []byte, dst any) error {
	return p.next.Scan(src, (*pgtype.FlatArray[satchel.ID])(dst.(*[]satchel.ID)))
}
