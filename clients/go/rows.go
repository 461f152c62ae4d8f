package satchelclient

import (
	"encoding/binary"
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

// Keys of TableMeta.
const (
	metaIdentity = "identity"
	metaPlace    = "place"
	metaNumbers  = "numbers"
)

// identity is who this device is. The zero value: nobody has signed in.
type identity struct {
	Installation     string     `json:"installation"`
	Device           satchel.ID `json:"device"`  // under which mutations are numbered
	Session          satchel.ID `json:"session"` // the one of the sign-in: a fork gives another Device, and no other session
	Person           satchel.ID `json:"person"`
	Org              satchel.ID `json:"org"`
	DisplayName      string     `json:"display_name"`
	Access           string     `json:"access"`
	Refresh          string     `json:"refresh"`
	RefreshExpiresMs int64      `json:"refresh_expires_ms"`
}

// place is how far the device's data goes. The zero value: it has nothing.
type place struct {
	Cursor   []byte `json:"cursor"`
	Seq      uint64 `json:"seq"`      // of the last checkpoint with all priorities settled
	Token    []byte `json:"token"`    // of the last checkpoint
	Schema   uint32 `json:"schema"`   // of the last checkpoint
	Complete bool   `json:"complete"` // the last page stored was a checkpoint with all priorities settled
	Refill   bool   `json:"refill"`   // the cursor was given up; records without a bucket go at the next full checkpoint
	ServerMs int64  `json:"server_ms"`
}

// numbers counts. Next is the number that the next mutation sent will get, from 1; Order the place in the outbox of
// the next mutation recorded, from 1.
type numbers struct {
	Next  uint64 `json:"next"`
	Order uint64 `json:"order"`
}

// session gives the device of the sign-in.
func (id identity) session() satchel.ID {
	if id.Session.IsZero() {
		return id.Device // stored before forks were told apart, or nobody has signed in
	}
	return id.Session
}

func getMeta[T any](tx ReadTx, key string) (T, error) {
	var v T
	b, err := tx.Get(TableMeta, []byte(key))
	if err != nil || b == nil {
		return v, err
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return v, fmt.Errorf("satchelclient: the store's %s cannot be read: %w", key, err)
	}
	return v, nil
}

func putMeta(tx Tx, key string, v any) error { return putJSON(tx, TableMeta, []byte(key), v) }

func putJSON(tx Tx, t Table, key []byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return tx.Put(t, key, b)
}

func getNumbers(tx ReadTx) (numbers, error) {
	n, err := getMeta[numbers](tx, metaNumbers)
	n.Next, n.Order = max(n.Next, 1), max(n.Order, 1)
	return n, err
}

func putProto(tx Tx, t Table, key []byte, m proto.Message) error {
	b, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	return tx.Put(t, key, b)
}

func getChange(tx ReadTx, t Table, key []byte) (*satchelv1.Change, error) {
	b, err := tx.Get(t, key)
	if err != nil || b == nil {
		return nil, err
	}
	ch := new(satchelv1.Change)
	return ch, unmarshal(b, ch)
}

func unmarshal(b []byte, m proto.Message) error {
	if err := proto.Unmarshal(b, m); err != nil {
		return fmt.Errorf("satchelclient: a %s in the store cannot be read: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return nil
}

func uintKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func uintOf(key []byte) uint64 { return binary.BigEndian.Uint64(key) }

func kindPrefix(kind string) []byte { return append([]byte(kind), 0) }

func recordKey(kind string, id satchel.ID) []byte { return append(kindPrefix(kind), id[:]...) }

func overlayKey(record satchel.ID, order uint64, op int) []byte {
	key := append(record[:len(record):len(record)], uintKey(order)...)
	return binary.BigEndian.AppendUint16(key, uint16(op))
}

// settled is a mutation that the server has settled and no checkpoint shows yet. Its row is the seq and the mutation.
type settled struct {
	Seq      uint64
	Mutation *satchelv1.Mutation
}

func putSettled(tx Tx, order uint64, s settled) error {
	b, err := proto.MarshalOptions{}.MarshalAppend(uintKey(s.Seq), s.Mutation)
	if err != nil {
		return err
	}
	return tx.Put(TableSettled, uintKey(order), b)
}

func readSettled(b []byte) (settled, error) {
	if len(b) < 8 {
		return settled{}, fmt.Errorf("satchelclient: a settled mutation in the store cannot be read")
	}
	s := settled{Seq: uintOf(b), Mutation: new(satchelv1.Mutation)}
	return s, unmarshal(b[8:], s.Mutation)
}

// verdictRow is a line of the verdict log.
type verdictRow struct {
	Device   satchel.ID `json:"device"`
	ServerMs int64      `json:"server_ms"`
	Mutation []byte     `json:"mutation"`
	Verdict  []byte     `json:"verdict"`
}
