package satchelclient

import (
	"encoding/json"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

// applyPage stores a page whole: what must go goes at once, its changes are staged, the cursor moves with them, and at
// a checkpoint what was staged is shown.
func applyPage(tx Tx, p *satchelv1.Page) error {
	at, err := getMeta[place](tx, metaPlace)
	if err != nil {
		return err
	}
	// What must go comes first: the same page may bring a record again, by another bucket or with another mask.
	if err := dropBuckets(tx, p.DroppedBuckets, p.DroppedKinds); err != nil {
		return err
	}
	for _, n := range p.Narrowed {
		for _, t := range []Table{TableRecord, TableStaging} {
			if err := narrow(tx, t, n); err != nil {
				return err
			}
		}
	}
	for _, ch := range p.Changes {
		if err := stage(tx, ch); err != nil {
			return err
		}
	}
	if p.Cursor != nil {
		at.Cursor = p.Cursor
	}
	at.Complete = p.Checkpoint && p.SettledPriority == 0
	if p.Checkpoint {
		if err := showStaged(tx); err != nil {
			return err
		}
		at.Token, at.Schema = p.Token, p.SchemaVersion
	}
	if at.Complete {
		at.Seq = p.Seq
		if err := hideSettled(tx, p.Seq); err != nil {
			return err
		}
		if at.Refill {
			at.Refill = false
			if err := removeBucketless(tx); err != nil {
				return err
			}
		}
	}
	return putMeta(tx, metaPlace, at)
}

// stage works out how the record will stand at the checkpoint and keeps that aside. A staged row is a whole one: its
// entered are all its buckets. One that will be gone stays staged as deleted, without fields.
func stage(tx Tx, ch *satchelv1.Change) error {
	id, err := satchel.ParseID(ch.RecordId)
	if err != nil || ch.Kind == "" {
		return fmt.Errorf("satchelclient: a change without a record or a kind: %w", err)
	}
	key := recordKey(ch.Kind, id)
	was, err := getChange(tx, TableStaging, key)
	if err != nil {
		return err
	}
	if was == nil {
		if was, err = getChange(tx, TableRecord, key); err != nil {
			return err
		}
	}
	next := &satchelv1.Change{RecordId: ch.RecordId, Kind: ch.Kind, Rev: ch.Rev, Deleted: ch.Deleted}
	if !ch.Deleted {
		next.Entered = slices.DeleteFunc(slices.Clone(was.GetEntered()), func(b uint64) bool { return slices.Contains(ch.Left, b) })
		next.Entered = append(next.Entered, ch.Entered...)
		slices.Sort(next.Entered)
		next.Entered = slices.Compact(next.Entered)
		next.Deleted = len(next.Entered) == 0
	}
	switch {
	case next.Deleted:
		next.Entered = nil
	case ch.Fields != "":
		next.Fields, next.AuthorId, next.EventMs = ch.Fields, ch.AuthorId, ch.EventMs
	default: // only its buckets moved
		next.Fields, next.AuthorId, next.EventMs = was.GetFields(), was.GetAuthorId(), was.GetEventMs()
		next.Rev = max(ch.Rev, was.GetRev())
	}
	return putProto(tx, TableStaging, key, next)
}

// showStaged replaces what is shown by what is staged.
func showStaged(tx Tx) error {
	err := tx.Scan(TableStaging, nil, nil, func(key, value []byte) error {
		// Whether it goes is told by its buckets alone, which also a drop after its staging took away.
		ch := new(satchelv1.Change)
		if err := unmarshal(value, ch); err != nil {
			return err
		}
		if len(ch.Entered) == 0 {
			return tx.Delete(TableRecord, key)
		}
		return tx.Put(TableRecord, key, value)
	})
	if err != nil {
		return err
	}
	return tx.Clear(TableStaging)
}

// dropBuckets takes buckets away from every record, shown or staged, and deletes what has none left.
func dropBuckets(tx Tx, buckets []uint64, kinds []*satchelv1.DroppedKind) error {
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
	for _, t := range []Table{TableRecord, TableStaging} {
		err := rewrite(tx, t, nil, func(ch *satchelv1.Change) bool {
			if !slices.ContainsFunc(ch.Entered, gone(ch.Kind)) {
				return false
			}
			ch.Entered = slices.DeleteFunc(ch.Entered, gone(ch.Kind))
			if len(ch.Entered) == 0 {
				// Staged, it must stay as a deletion, and its values must not.
				ch.Fields, ch.AuthorId, ch.EventMs, ch.Deleted = "", "", 0, true
			}
			return true
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// narrow deletes fields from every record of the kind.
func narrow(tx Tx, t Table, n *satchelv1.Narrowed) error {
	var failed error
	err := rewrite(tx, t, kindPrefix(n.Kind), func(ch *satchelv1.Change) bool {
		if ch.Fields == "" {
			return false
		}
		var fields map[string]json.RawMessage
		if failed = json.Unmarshal([]byte(ch.Fields), &fields); failed != nil {
			return false
		}
		before := len(fields)
		for _, f := range n.Fields {
			delete(fields, f)
		}
		if len(fields) == before {
			return false
		}
		text, err := json.Marshal(fields)
		failed, ch.Fields = err, string(text)
		return err == nil
	})
	if err == nil {
		err = failed
	}
	return err
}

// rewrite changes rows in place; fn tells whether it changed the row. A shown record that has no buckets left is
// deleted.
func rewrite(tx Tx, t Table, prefix []byte, fn func(*satchelv1.Change) bool) error {
	return tx.Scan(t, prefix, nil, func(key, value []byte) error {
		ch := new(satchelv1.Change)
		if err := unmarshal(value, ch); err != nil {
			return err
		}
		if !fn(ch) {
			return nil
		}
		if t == TableRecord && ch.Deleted {
			return tx.Delete(t, key)
		}
		return putProto(tx, t, key, ch)
	})
}

// refill gives up the cursor: the server fills the device anew. What is shown stays until then, without buckets; at the
// next full checkpoint what did not come again goes.
func refill(tx Tx) error {
	at, err := getMeta[place](tx, metaPlace)
	if err != nil {
		return err
	}
	at.Cursor, at.Complete, at.Refill = nil, false, true
	if err := tx.Clear(TableStaging); err != nil {
		return err
	}
	err = rewrite(tx, TableRecord, nil, func(ch *satchelv1.Change) bool {
		changed := len(ch.Entered) > 0
		ch.Entered = nil
		return changed
	})
	if err != nil {
		return err
	}
	return putMeta(tx, metaPlace, at)
}

func removeBucketless(tx Tx) error {
	return tx.Scan(TableRecord, nil, nil, func(key, value []byte) error {
		ch := new(satchelv1.Change)
		if err := proto.Unmarshal(value, ch); err != nil {
			return err
		}
		if len(ch.Entered) > 0 {
			return nil
		}
		return tx.Delete(TableRecord, key)
	})
}

// wipe deletes what the device knows, and of its own mutations those that the server has kept. Others stay, to be
// sent; with none left, the identity goes too. It tells whether everything is gone.
func wipe(tx Tx, salvaged uint64) (bool, error) {
	left := false
	err := tx.Scan(TableOutbox, nil, nil, func(key, value []byte) error {
		m := new(satchelv1.Mutation)
		if err := unmarshal(value, m); err != nil {
			return err
		}
		if m.Number == 0 || m.Number > salvaged {
			left = true
			return nil
		}
		if err := hide(tx, uintOf(key), m); err != nil {
			return err
		}
		return tx.Delete(TableOutbox, key)
	})
	if err != nil {
		return false, err
	}
	if err := hideSettled(tx, ^uint64(0)); err != nil {
		return false, err
	}
	tables := []Table{TableRecord, TableStaging, TableVerdict}
	if !left {
		tables = Tables()
	}
	for _, t := range tables {
		if err := tx.Clear(t); err != nil {
			return false, err
		}
	}
	if left {
		return false, putMeta(tx, metaPlace, place{})
	}
	return true, nil
}
