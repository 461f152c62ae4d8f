package pg

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/satchel-sync/satchel"
)

// registerArrays teaches a connection a short way for the arrays that writes are made of: []string, []int64, []bool,
// []satchel.ID, and []any of one of them with nil for NULL. pgx would box each element and let the buffer grow step by
// step, which was a third of what a batch allocated.
func registerArrays(m *pgtype.Map) {
	for _, a := range []struct {
		name, element string
		oid, of       uint32
	}{
		{"_text", "text", pgtype.TextArrayOID, pgtype.TextOID},
		{"_int8", "int8", pgtype.Int8ArrayOID, pgtype.Int8OID},
		{"_bool", "bool", pgtype.BoolArrayOID, pgtype.BoolOID},
		{"_uuid", "uuid", pgtype.UUIDArrayOID, pgtype.UUIDOID},
	} {
		element, ok := m.TypeForOID(a.of)
		if !ok {
			continue
		}
		m.RegisterType(&pgtype.Type{Name: a.name, OID: a.oid, Codec: arrayCodec{&pgtype.ArrayCodec{ElementType: element}, a.of}})
	}
}

// arrayCodec is pgx's array codec with the short way.
type arrayCodec struct {
	*pgtype.ArrayCodec
	of uint32
}

func (c arrayCodec) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	if format == pgtype.BinaryFormatCode {
		ok := false
		switch value.(type) {
		case []string:
			ok = c.of == pgtype.TextOID
		case []int64:
			ok = c.of == pgtype.Int8OID
		case []bool:
			ok = c.of == pgtype.BoolOID
		case []satchel.ID:
			ok = c.of == pgtype.UUIDOID
		case []any:
			ok = true
		}
		if ok {
			return encodeArray{c.of}
		}
	}
	return c.ArrayCodec.PlanEncode(m, oid, format, value)
}

// encodeArray writes the binary form of a one-dimensional array: dimensions, whether there are NULLs, the elements'
// type, length, lower bound, then each element behind its length (Postgres' array_recv).
type encodeArray struct{ of uint32 }

func (p encodeArray) Encode(value any, buf []byte) ([]byte, error) {
	switch v := value.(type) {
	case []string:
		if v == nil {
			return nil, nil
		}
		size := 0
		for i := range v {
			size += len(v[i]) + 4
		}
		buf = p.head(buf, len(v), size, false)
		for i := range v {
			buf = append(appendLen(buf, len(v[i])), v[i]...)
		}
	case []int64:
		if v == nil {
			return nil, nil
		}
		buf = p.head(buf, len(v), 12*len(v), false)
		for i := range v {
			buf = binary.BigEndian.AppendUint64(appendLen(buf, 8), uint64(v[i]))
		}
	case []bool:
		if v == nil {
			return nil, nil
		}
		buf = p.head(buf, len(v), 5*len(v), false)
		for i := range v {
			buf = appendBool(buf, v[i])
		}
	case []satchel.ID:
		if v == nil {
			return nil, nil
		}
		buf = p.head(buf, len(v), 20*len(v), false)
		for i := range v {
			buf = append(appendLen(buf, 16), v[i][:]...)
		}
	case []any:
		if v == nil {
			return nil, nil
		}
		return p.any(v, buf)
	}
	return buf, nil
}

func (p encodeArray) any(v []any, buf []byte) ([]byte, error) {
	buf = p.head(buf, len(v), 20*len(v), slices.Contains(v, nil))
	for i := range v {
		ok := true
		switch e := v[i].(type) {
		case nil:
			buf = appendLen(buf, -1)
		case string:
			ok = p.of == pgtype.TextOID
			buf = append(appendLen(buf, len(e)), e...)
		case int64:
			ok = p.of == pgtype.Int8OID
			buf = binary.BigEndian.AppendUint64(appendLen(buf, 8), uint64(e))
		case bool:
			ok = p.of == pgtype.BoolOID
			buf = appendBool(buf, e)
		case satchel.ID:
			ok = p.of == pgtype.UUIDOID
			buf = append(appendLen(buf, 16), e[:]...)
		default:
			ok = false
		}
		if !ok {
			return nil, fmt.Errorf("pg: element %d of an array is a %T", i, v[i])
		}
	}
	return buf, nil
}

func (p encodeArray) head(buf []byte, n, size int, nulls bool) []byte {
	buf = slices.Grow(buf, size+20)
	if n == 0 {
		buf = appendLen(appendLen(buf, 0), 0)
		return binary.BigEndian.AppendUint32(buf, p.of)
	}
	flag := 0
	if nulls {
		flag = 1
	}
	buf = appendLen(appendLen(buf, 1), flag)
	buf = binary.BigEndian.AppendUint32(buf, p.of)
	return appendLen(appendLen(buf, n), 1)
}

func appendLen(buf []byte, n int) []byte { return binary.BigEndian.AppendUint32(buf, uint32(int32(n))) }

func appendBool(buf []byte, b bool) []byte {
	if b {
		return append(appendLen(buf, 1), 1)
	}
	return append(appendLen(buf, 1), 0)
}
