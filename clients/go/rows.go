package satchelclient

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"

	"github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

// Keys of TableMeta.
const (
	metaIdentity = "identity"
	metaPlace    = "place"
	metaNumbers  = "numbers"
	metaRepair   = "repair"
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
	Token    []byte `json:"token"`    // of the last checkpoint that had one
	Schema   uint32 `json:"schema"`   // of the last checkpoint
	Complete bool   `json:"complete"` // the last page stored was a checkpoint with all priorities settled
	Refill   bool   `json:"refill"`   // the cursor was given up; records without a bucket go at the next full checkpoint

	Seen     uint64 `json:"seen"`     // the highest commit that the device was told of (S18)
	Priority uint32 `json:"priority"` // settled at the last checkpoint; 0 = all, or none yet
	Months   uint32 `json:"months"`   // of facts that the device follows; 0 = all
	Forms    []byte `json:"forms"`    // satchel.v1.Forms of the last page that had them; nil = none

	// Unsure names the kinds whose rows came to look otherwise since the last checkpoint with all priorities settled: some
	// may be shown as before, some without what was narrowed.
	Unsure []string `json:"unsure,omitempty"`

	Held      tally  `json:"held"`       // of the records shown
	CountedMs int64  `json:"counted_ms"` // when Held was counted anew, by the server's clock
	Doubt     doubt  `json:"doubt"`
	DoubtMs   int64  `json:"doubt_ms"` // when the cursor was given up
	Repaired  uint64 `json:"repaired"` // not 0: Cursor is that of a repair as of this seq, and what it brought is staged
}

// doubt is what was done already about a digest that is not the device's own, so that it is not done for ever.
type doubt uint8

const (
	sure     doubt = iota // the last digest was the device's own
	repaired              // a repair was made since
	refilled              // and then the cursor given up
)

// tally is a digest: count and sum of hashes over records and their buckets.
type tally struct {
	Count uint64 `json:"count"`
	Sum   uint64 `json:"sum"`
}

// hashOf is H(record, rev) of S17: 32-bit FNV-1a of the id's bytes and the rev in decimal digits, its bits mixed.
func hashOf(id satchel.ID, rev uint64) uint64 {
	h := uint32(2166136261)
	for _, b := range strconv.AppendUint(id[:len(id):len(id)], rev, 10) {
		h = (h ^ uint32(b)) * 16777619
	}
	h = (h ^ h>>16) * 0x85ebca6b
	h = (h ^ h>>13) * 0xc2b2ae35
	return uint64(h ^ h>>16)
}

// move counts a record as it stands now in place of how it stood; nil = it did not, or no longer does.
func (t *tally) move(id satchel.ID, was, now *satchelv1.Change) {
	n, m := uint64(len(was.GetEntered())), uint64(len(now.GetEntered()))
	t.Count += m - n
	t.Sum += m*hashOf(id, now.GetRev()) - n*hashOf(id, was.GetRev())
}

// putShown stores a record as it is shown, was being how it stood; now nil removes it.
func putShown(tx Tx, at *place, key []byte, was, now *satchelv1.Change) error {
	at.Held.move(idOf(key), was, now)
	if now == nil {
		return tx.Delete(TableRecord, key)
	}
	return putProto(tx, TableRecord, key, now)
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
	return readChange(b), nil
}

// readChange reads a record's row; nil = it cannot be read. A damaged row counts as one that is not there, and holds
// nothing up: the server has it, the digest finds that it is missing, and a repair brings it.
func readChange(b []byte) *satchelv1.Change {
	ch := new(satchelv1.Change)
	if proto.Unmarshal(b, ch) != nil || ch.Fields != "" && !json.Valid([]byte(ch.Fields)) {
		return nil
	}
	return ch
}

// scanChanges calls fn for each row of a table of records, and deletes what cannot be read.
func scanChanges(tx Tx, t Table, prefix, after []byte, fn func(key []byte, ch *satchelv1.Change) error) error {
	return tx.Scan(t, prefix, after, func(key, value []byte) error {
		if ch := readChange(value); ch != nil {
			return fn(key, ch)
		}
		return tx.Delete(t, key)
	})
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

// idOf gives the record of a key that ends with its id.
func idOf(key []byte) satchel.ID { return satchel.ID(key[len(key)-len(satchel.ID{}):]) }

// some tells whether the table has a row.
func some(tx ReadTx, t Table) (bool, error) {
	found := false
	err := tx.Scan(t, nil, nil, func(_, _ []byte) error { found = true; return ErrStop })
	return found, err
}

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

// readSettled reads such a row; false = it cannot be read.
func readSettled(b []byte) (settled, bool) {
	if len(b) < 8 {
		return settled{}, false
	}
	s := settled{Seq: uintOf(b), Mutation: new(satchelv1.Mutation)}
	return s, proto.Unmarshal(b[8:], s.Mutation) == nil
}

// verdictRow is a line of the verdict log.
type verdictRow struct {
	Device   satchel.ID `json:"device"`
	ServerMs int64      `json:"server_ms"`
	Mutation []byte     `json:"mutation"`
	Verdict  []byte     `json:"verdict"`
}

// aged is a row of TableMerged or TableOffice: a few bytes about a record that are forgotten in time.
type aged struct {
	Kind string     `json:"kind"`
	Into satchel.ID `json:"into,omitzero"` // merged into
	Dead bool       `json:"dead,omitempty"`
	Ms   int64      `json:"ms"` // by the server's clock
}

// agedMost is how many rows of a table of them are kept.
const agedMost = 10_000

// trimAged forgets what is older than the verdict log, and the oldest of what is too much.
func trimAged(tx Tx, t Table, nowMs int64) error {
	type line struct {
		key []byte
		ms  int64
	}
	var kept []line
	err := tx.Scan(t, nil, nil, func(key, value []byte) error {
		var row aged
		if json.Unmarshal(value, &row) != nil || row.Ms < nowMs-logKeptMs {
			return tx.Delete(t, key)
		}
		kept = append(kept, line{slices.Clone(key), row.Ms})
		return nil
	})
	if err != nil || len(kept) <= agedMost {
		return err
	}
	slices.SortFunc(kept, func(a, b line) int { return cmp.Compare(a.ms, b.ms) })
	for _, l := range kept[:len(kept)-agedMost] {
		if err := tx.Delete(t, l.key); err != nil {
			return err
		}
	}
	return nil
}

func getAged(tx ReadTx, t Table, id satchel.ID) (row aged, ok bool, err error) {
	b, err := tx.Get(t, id[:])
	if err != nil || b == nil {
		return row, false, err
	}
	return row, json.Unmarshal(b, &row) == nil, nil
}

// doubt notes the kinds that look otherwise from now on.
func (at *place) doubt(next *satchelv1.Forms) {
	was := new(satchelv1.Forms)
	if proto.Unmarshal(at.Forms, was) != nil {
		was = nil // every kind that looks in some way of its own
	}
	looks := map[string]uint64{}
	for _, f := range was.GetForms() {
		looks[f.Kind] = f.Form
	}
	for _, f := range next.Forms {
		if looks[f.Kind] != f.Form {
			at.doubtKinds(f.Kind)
		}
		delete(looks, f.Kind)
	}
	for kind := range looks {
		at.doubtKinds(kind)
	}
	slices.Sort(at.Unsure)
}

func (at *place) doubtKinds(kinds ...string) {
	for _, kind := range kinds {
		if !slices.Contains(at.Unsure, kind) {
			at.Unsure = append(at.Unsure, kind)
		}
	}
}

// unsureForms gives the forms with one that no kind has for those that are unsure: all their rows are asked for.
func unsureForms(forms *satchelv1.Forms, unsure []string) *satchelv1.Forms {
	if len(unsure) == 0 {
		return forms
	}
	out := new(satchelv1.Forms)
	for _, f := range forms.GetForms() {
		if !slices.Contains(unsure, f.Kind) {
			out.Forms = append(out.Forms, f)
		}
	}
	for _, kind := range unsure {
		out.Forms = append(out.Forms, &satchelv1.Form{Kind: kind, Form: ^uint64(0)})
	}
	return out
}
