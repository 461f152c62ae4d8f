package satchelclient

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/internal/mutant"
)

// pageTaker applies one page within one transaction.
type pageTaker struct {
	tx      Tx
	at      place
	nowMs   int64 // the server's clock
	recount bool  // the table of records was not counted yet, or not for a day

	counted bool   // it was counted
	broken  bool   // a row could not be completed: a repair must bring it
	differs string // what was done about a digest that is not the device's own; "" = nothing
}

// recountMs is how often the records are counted anew, so that a store that lost rows is found.
const recountMs = 24 * 3600 * 1000

// take stores the page whole: what must go goes at once, its changes are staged, the cursor moves with them, and at a
// checkpoint what was staged is shown.
func (t *pageTaker) take(p *satchelv1.Page) (err error) {
	if t.at, err = getMeta[place](t.tx, metaPlace); err != nil {
		return err
	}
	// What must go comes first: the same page may bring a record again, by another bucket or with another mask.
	if err := t.dropBuckets(p.DroppedBuckets, p.DroppedKinds); err != nil {
		return err
	}
	if err := t.narrow(p.Narrowed); err != nil {
		return err
	}
	for _, ch := range p.Changes {
		if err := t.stage(ch); err != nil {
			return err
		}
	}
	if p.Cursor != nil {
		t.at.Cursor = p.Cursor
	}
	if p.Forms != nil {
		t.at.doubt(p.Forms)
		if t.at.Forms, err = (proto.MarshalOptions{}).MarshalAppend([]byte{}, p.Forms); err != nil {
			return err
		}
	}
	if t.broken { // not to be shown without what is missing: as with a digest that differs
		t.at.Complete = false
		return t.end(true)
	}
	if mutant.On(mutant.StagedShown) {
		if err := t.showStaged(); err != nil {
			return err
		}
	}
	t.at.Complete = p.Checkpoint && p.SettledPriority == 0
	if !p.Checkpoint {
		return t.end(false)
	}
	if err := t.showStaged(); err != nil {
		return err
	}
	t.at.Seen, t.at.Priority, t.at.Months = max(t.at.Seen, p.Seq), p.SettledPriority, p.FollowedMonths
	if len(p.Token) > 0 || t.at.Complete { // a partial checkpoint may prove nothing: then the one before still does
		t.at.Token = p.Token
	}
	if p.SchemaVersion > 0 || t.at.Complete {
		t.at.Schema = p.SchemaVersion
	}
	if !t.at.Complete {
		return t.end(false)
	}
	t.at.Seq = p.Seq
	if err := t.complete(p.Seq); err != nil {
		return err
	}
	differs, err := t.compare(p.Digest)
	if err != nil {
		return err
	}
	return t.end(differs)
}

// complete ends what a checkpoint with all priorities settled ends.
func (t *pageTaker) complete(seq uint64) error {
	t.at.Repaired, t.at.Unsure = 0, nil
	if t.at.Refill {
		t.at.Refill = false
		if err := removeBucketless(t.tx); err != nil {
			return err
		}
	}
	return hideSettled(t.tx, seq, t.nowMs, true)
}

// nothingNew takes an answer without a page, which says that nothing changed since the cursor. At a full checkpoint that
// makes this moment one too, and own mutations that the server has settled can go from the overlay; the cursor of a
// repair is such a moment as well.
func (t *pageTaker) nothingNew() (err error) {
	if t.at, err = getMeta[place](t.tx, metaPlace); err != nil {
		return err
	}
	switch {
	case t.at.Repaired > 0:
		t.at.Complete, t.at.Priority, t.at.Seq = true, 0, t.at.Repaired
		if err := t.showStaged(); err != nil {
			return err
		}
	case !t.at.Complete:
		return nil
	}
	if err := t.complete(^uint64(0)); err != nil {
		return err
	}
	return t.end(false)
}

func (t *pageTaker) end(repair bool) error {
	if repair {
		t.differs = "repair"
		if t.at.Doubt == sure {
			t.at.Doubt = repaired
		}
		if err := beginRepair(t.tx, false); err != nil {
			return err
		}
	}
	return putMeta(t.tx, metaPlace, t.at)
}

// compare tells whether the digest asks for a repair. When a repair did not help, the cursor is given up, and when that
// did not help either, nothing is done for a day: what the server states is then not what it sends.
func (t *pageTaker) compare(d *satchelv1.Digest) (bool, error) {
	if d == nil {
		return false, nil
	}
	t.recount = t.recount || t.nowMs-t.at.CountedMs > recountMs || t.at.Held != (tally{d.Count, d.Sum})
	if t.recount {
		var held tally
		err := scanChanges(t.tx, TableRecord, nil, nil, func(key []byte, ch *satchelv1.Change) error {
			held.move(idOf(key), nil, ch)
			return nil
		})
		if err != nil {
			return false, err
		}
		t.at.Held, t.at.CountedMs, t.counted = held, t.nowMs, true
	}
	if t.at.Held == (tally{d.Count, d.Sum}) {
		t.at.Doubt = sure
		return false, nil
	}
	switch {
	case t.at.Doubt == repaired:
		t.differs = "refill"
		t.at.Doubt, t.at.DoubtMs = refilled, t.nowMs
		return false, refill(t.tx, &t.at)
	case t.at.Doubt == refilled && t.nowMs-t.at.DoubtMs < recountMs:
		t.differs = "nothing"
		return false, nil
	}
	t.at.Doubt = sure
	return true, nil
}

// stage works out how the record will stand at the checkpoint and keeps that aside. A staged row is a whole one: its
// entered are all its buckets. One that will be gone stays staged without buckets and fields.
func (t *pageTaker) stage(ch *satchelv1.Change) error {
	id, err := satchel.ParseID(ch.RecordId)
	if err != nil || ch.Kind == "" {
		return fmt.Errorf("satchelclient: a change without a record or a kind: %w", err)
	}
	if ch.AsSent {
		if ch, err = completed(t.tx, id, ch); err != nil {
			return err
		}
		if ch == nil {
			t.broken = true
			return nil
		}
	}
	key := recordKey(ch.Kind, id)
	was, err := standing(t.tx, key)
	if err != nil {
		return err
	}
	next := &satchelv1.Change{RecordId: ch.RecordId, Kind: ch.Kind, Rev: ch.Rev, Deleted: ch.Deleted, MergedInto: ch.MergedInto}
	if !ch.Deleted {
		next.Entered = slices.DeleteFunc(slices.Clone(was.GetEntered()), func(b uint64) bool { return slices.Contains(ch.Left, b) })
		next.Entered = append(next.Entered, ch.Entered...)
		slices.Sort(next.Entered)
		next.Entered = slices.Compact(next.Entered)
	}
	switch {
	case len(next.Entered) == 0:
	case ch.Fields != "":
		next.Fields, next.AuthorId, next.EventMs = ch.Fields, ch.AuthorId, ch.EventMs
	default: // only its buckets moved
		next.Fields, next.AuthorId, next.EventMs = was.GetFields(), was.GetAuthorId(), was.GetEventMs()
		next.Rev = max(ch.Rev, was.GetRev())
	}
	return putProto(t.tx, TableStaging, key, next)
}

// standing gives the record as it will stand at the checkpoint; nil = not.
func standing(tx ReadTx, key []byte) (*satchelv1.Change, error) {
	was, err := getChange(tx, TableStaging, key)
	if err == nil && was == nil {
		was, err = getChange(tx, TableRecord, key)
	}
	return was, err
}

// completed gives the row that stands as this device created it, with the change's fields over its own; nil = the
// creation is not here.
func completed(tx Tx, id satchel.ID, ch *satchelv1.Change) (*satchelv1.Change, error) {
	var create *satchelv1.Create
	err := scanOverlay(tx, id[:], func(_ satchel.ID, op *satchelv1.Op) error {
		if op.Kind == ch.Kind && op.GetCreate() != nil {
			create = op.GetCreate()
		}
		return nil
	})
	if err != nil || create == nil {
		return nil, err
	}
	fields := map[string]json.RawMessage{}
	if err := setFields(fields, create.Fields); err != nil {
		return nil, err
	}
	if err := setFields(fields, ch.Fields); err != nil {
		return nil, err
	}
	text, err := json.Marshal(fields)
	whole := proto.CloneOf(ch)
	whole.Fields, whole.AsSent = string(text), false
	return whole, err
}

// showStaged replaces what is shown by what is staged.
func (t *pageTaker) showStaged() error {
	anyMerged, err := some(t.tx, TableMerged)
	if err != nil {
		return err
	}
	anyOffice, err := some(t.tx, TableOffice)
	if err != nil {
		return err
	}
	merged := 0
	err = scanChanges(t.tx, TableStaging, nil, nil, func(key []byte, ch *satchelv1.Change) error {
		// Whether it goes is told by its buckets alone, which also a drop after its staging took away.
		id := idOf(key)
		was, err := getChange(t.tx, TableRecord, key)
		if err != nil {
			return err
		}
		if len(ch.Entered) > 0 {
			if anyMerged {
				if err := t.tx.Delete(TableMerged, id[:]); err != nil {
					return err
				}
			}
			if anyOffice {
				if err := t.tx.Delete(TableOffice, id[:]); err != nil {
					return err
				}
			}
			return putShown(t.tx, &t.at, key, was, ch)
		}
		if ch.Deleted {
			if err := t.died(id, ch); err != nil {
				return err
			}
			if ch.MergedInto != "" {
				merged++
			}
		}
		if was == nil {
			return nil
		}
		return putShown(t.tx, &t.at, key, was, nil)
	})
	if err != nil {
		return err
	}
	if merged > 0 {
		if err := trimAged(t.tx, TableMerged, t.nowMs); err != nil {
			return err
		}
	}
	return t.tx.Clear(TableStaging)
}

// died notes what a tombstone says beside that the record is gone: where its work goes on, and, of an own creation that is
// still shown, that it is not kept at the office.
func (t *pageTaker) died(id satchel.ID, ch *satchelv1.Change) error {
	if ch.MergedInto != "" {
		into, err := satchel.ParseID(ch.MergedInto)
		if err != nil {
			return fmt.Errorf("satchelclient: the record that another was merged into cannot be read: %w", err)
		}
		if err := putJSON(t.tx, TableMerged, id[:], aged{Kind: ch.Kind, Into: into, Ms: t.nowMs}); err != nil {
			return err
		}
	}
	own := false
	err := t.tx.Scan(TableOverlay, id[:], nil, func(_, _ []byte) error { own = true; return ErrStop })
	if err != nil {
		return err
	}
	if !own {
		return t.tx.Delete(TableOffice, id[:])
	}
	return putJSON(t.tx, TableOffice, id[:], aged{Kind: ch.Kind, Dead: true, Ms: t.nowMs})
}

// dropBuckets takes buckets away from every record, shown or staged, and deletes what has none left.
func (t *pageTaker) dropBuckets(buckets []uint64, kinds []*satchelv1.DroppedKind) error {
	if len(buckets) == 0 && len(kinds) == 0 {
		return nil
	}
	gone := func(kind string) func(uint64) bool {
		return func(b uint64) bool {
			return slices.Contains(buckets, b) || slices.ContainsFunc(kinds, func(d *satchelv1.DroppedKind) bool {
				return d.Bucket == b && d.Kind == kind
			})
		}
	}
	return t.rewriteAll(nil, func(ch *satchelv1.Change) (bool, error) {
		if !slices.ContainsFunc(ch.Entered, gone(ch.Kind)) {
			return false, nil
		}
		ch.Entered = slices.DeleteFunc(ch.Entered, gone(ch.Kind))
		if len(ch.Entered) == 0 {
			// Staged, it must stay as one that goes, and its values must not.
			ch.Fields, ch.AuthorId, ch.EventMs = "", "", 0
		}
		return true, nil
	})
}

// narrow deletes fields from every record of their kinds, and their values from copies: items of attentions, and of
// whatever else keeps (record, kind, field, value). What speaks of a record as a whole goes with any of its fields, as on
// the server.
func (t *pageTaker) narrow(all []*satchelv1.Narrowed) error {
	if len(all) == 0 {
		return nil
	}
	hidden := map[string]bool{}
	for _, n := range all {
		hidden[n.Kind+"/"] = true
		for _, f := range n.Fields {
			hidden[n.Kind+"/"+f] = true
		}
	}
	return t.rewriteAll(nil, func(ch *satchelv1.Change) (bool, error) {
		own := hidden[ch.Kind+"/"]
		if ch.Fields == "" || !own && !strings.Contains(ch.Fields, `"items"`) {
			return false, nil
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal([]byte(ch.Fields), &fields); err != nil {
			return false, err
		}
		changed := false
		for name := range fields {
			if own && hidden[ch.Kind+"/"+name] {
				delete(fields, name)
				changed = true
			}
		}
		if withheld := withhold(fields["items"], hidden); withheld != nil {
			fields["items"], changed = withheld, true
		}
		if !changed {
			return false, nil
		}
		text, err := json.Marshal(fields)
		ch.Fields = string(text)
		return true, err
	})
}

// withhold takes hidden values out of copies; nil = there are none.
func withhold(text json.RawMessage, hidden map[string]bool) json.RawMessage {
	var items []map[string]json.RawMessage
	if json.Unmarshal(text, &items) != nil {
		return nil
	}
	changed := false
	for _, item := range items {
		var kind, field string
		_, copied := item["value"]
		if !copied || json.Unmarshal(item["kind"], &kind) != nil || json.Unmarshal(item["field"], &field) != nil {
			continue
		}
		if field, _, _ = strings.Cut(field, "/"); hidden[kind+"/"+field] { // an element of a set goes with its field
			delete(item, "value")
			item["withheld"] = json.RawMessage("true")
			changed = true
		}
	}
	if !changed {
		return nil
	}
	text, err := json.Marshal(items)
	if err != nil {
		return nil
	}
	return text
}

// rewriteAll changes rows in place, shown and staged; fn tells whether it changed the row. A shown record that lost its
// last bucket by it is deleted.
func (t *pageTaker) rewriteAll(prefix []byte, fn func(*satchelv1.Change) (bool, error)) error {
	if err := rewriteShown(t.tx, &t.at, prefix, fn); err != nil {
		return err
	}
	return scanChanges(t.tx, TableStaging, prefix, nil, func(key []byte, ch *satchelv1.Change) error {
		if changed, err := fn(ch); err != nil || !changed {
			return err
		}
		return putProto(t.tx, TableStaging, key, ch)
	})
}

func rewriteShown(tx Tx, at *place, prefix []byte, fn func(*satchelv1.Change) (bool, error)) error {
	return scanChanges(tx, TableRecord, prefix, nil, func(key []byte, was *satchelv1.Change) error {
		ch := proto.CloneOf(was)
		if changed, err := fn(ch); err != nil || !changed {
			return err
		}
		if len(was.Entered) > 0 && len(ch.Entered) == 0 {
			return putShown(tx, at, key, was, nil)
		}
		return putShown(tx, at, key, was, ch)
	})
}

// refill gives up the cursor: the server fills the device anew. What is shown stays until then, without buckets; at the
// next full checkpoint what did not come again goes.
func refill(tx Tx, at *place) error {
	at.Cursor, at.Complete, at.Refill, at.Repaired, at.Held = nil, false, true, 0, tally{}
	if err := tx.Clear(TableStaging); err != nil {
		return err
	}
	return scanChanges(tx, TableRecord, nil, nil, func(key []byte, ch *satchelv1.Change) error {
		if len(ch.Entered) == 0 {
			return nil
		}
		ch.Entered = nil
		return putProto(tx, TableRecord, key, ch)
	})
}

func removeBucketless(tx Tx) error {
	return scanChanges(tx, TableRecord, nil, nil, func(key []byte, ch *satchelv1.Change) error {
		if len(ch.Entered) > 0 {
			return nil
		}
		return tx.Delete(TableRecord, key)
	})
}
