package satchelclient

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

// Record is a record as the device shows it: the last checkpoint, with the person's own mutations on top until the
// server's answer to them is shown (S14).
type Record struct {
	ID      satchel.ID
	Kind    string
	Rev     uint64          // of the checkpoint; 0 = the server's version was never shown
	Fields  json.RawMessage // JSON object: field to value, without the fields that this person may not read
	Author  satchel.ID      // zero = the system
	EventMs int64           // when the work took place, milliseconds since 1970; 0 = not known yet
	Pending bool            // own mutations are shown on top
}

// Decode reads the fields into v, like json.Unmarshal.
func (r Record) Decode(v any) error { return json.Unmarshal(r.Fields, v) }

// Text gives a field that is a string, or "".
func (r Record) Text(field string) string {
	var all map[string]json.RawMessage
	var s string
	if json.Unmarshal(r.Fields, &all) != nil || json.Unmarshal(all[field], &s) != nil {
		return ""
	}
	return s
}

// Get gives a record as the device shows it, or [ErrNotFound]. For a record that was merged into another it gives the
// other one, with its own id: edit that one from then on. An edit that was recorded before is shown there.
func (c *Client) Get(ctx context.Context, kind string, id satchel.ID) (Record, error) {
	var r Record
	err := c.store.View(ctx, func(tx ReadTx) error {
		id, moved, err := survivor(tx, id)
		if err != nil {
			return err
		}
		standing, err := getChange(tx, TableRecord, recordKey(kind, id))
		if err != nil {
			return err
		}
		prefix := id[:]
		if moved {
			prefix = nil // own ops may stand under the ids that were merged
		}
		own, err := ownOps(tx, kind, prefix)
		if err != nil {
			return err
		}
		var ok bool
		if r, ok, err = c.show(kind, id, standing, own[id]); err == nil && !ok {
			return ErrNotFound
		}
		return err
	})
	return r, err
}

// List gives all records of a kind as the device shows them, by id, which is by time of creation; of those that were
// merged, the one that they became. Attentions are records of kind "attention".
func (c *Client) List(ctx context.Context, kind string) ([]Record, error) {
	var all []Record
	err := c.store.View(ctx, func(tx ReadTx) error {
		own, err := ownOps(tx, kind, nil)
		if err != nil {
			return err
		}
		add := func(id satchel.ID, standing *satchelv1.Change) error {
			r, ok, err := c.show(kind, id, standing, own[id])
			if ok {
				all = append(all, r)
			}
			delete(own, id)
			return err
		}
		prefix := kindPrefix(kind)
		err = tx.Scan(TableRecord, prefix, nil, func(key, value []byte) error {
			return add(satchel.ID(key[len(prefix):]), readChange(value))
		})
		if err != nil {
			return err
		}
		for id := range own {
			if err := add(id, nil); err != nil {
				return err
			}
		}
		return nil
	})
	slices.SortFunc(all, func(a, b Record) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return all, err
}

// ownOps gives own ops on records of the kind, in the order of recording, by the record that they are shown on.
func ownOps(tx ReadTx, kind string, prefix []byte) (map[satchel.ID][]*satchelv1.Op, error) {
	own := map[satchel.ID][]*satchelv1.Op{}
	type late struct {
		order uint64
		op    *satchelv1.Op
	}
	merged := map[satchel.ID][]late{}
	err := tx.Scan(TableOverlay, prefix, nil, func(key, value []byte) error {
		op := new(satchelv1.Op)
		if proto.Unmarshal(value, op) != nil || op.Kind != kind {
			return nil
		}
		id, order := satchel.ID(key[:16]), uintOf(key[16:])
		root, moved, err := survivor(tx, id)
		if err != nil {
			return err
		}
		if !moved || root == id {
			own[id] = append(own[id], op)
		} else if op.GetPatch() != nil { // what was created is the other now, and whether that one goes is the server's to say
			merged[root] = append(merged[root], late{order, op})
		}
		return nil
	})
	for root, ops := range merged { // they had not seen what else was done to the other: it comes on top
		slices.SortStableFunc(ops, func(a, b late) int { return cmp.Compare(a.order, b.order) })
		for _, l := range ops {
			own[root] = append(own[root], l.op)
		}
	}
	return own, err
}

// survivor gives the record that an id stands for: another one where it was merged. anyMerged tells whether there are
// merged records here at all.
func survivor(tx ReadTx, id satchel.ID) (root satchel.ID, anyMerged bool, err error) {
	if anyMerged, err = some(tx, TableMerged); err != nil || !anyMerged {
		return id, false, err
	}
	for range 8 { // a chain, where an older merge was led on later; never a circle
		row, ok, err := getAged(tx, TableMerged, id)
		if err != nil || !ok {
			return id, true, err
		}
		id = row.Into
	}
	return id, true, nil
}

// OfficeRecord is an own creation that the server has and the device does not follow.
type OfficeRecord struct {
	Kind string
	ID   satchel.ID
	When time.Time // when the server took it
}

// AtOffice lists what the person created here and the server took, but which lies in no bucket that this device follows:
// of a kind that its profile leaves out, an older month, or handed to somebody else at once. It is kept at the office. It
// leaves the list when it comes after all, and after 35 days.
func (c *Client) AtOffice(ctx context.Context) ([]OfficeRecord, error) {
	var all []OfficeRecord
	err := c.store.View(ctx, func(tx ReadTx) error {
		return tx.Scan(TableOffice, nil, nil, func(key, value []byte) error {
			var row aged
			if json.Unmarshal(value, &row) == nil && !row.Dead {
				all = append(all, OfficeRecord{Kind: row.Kind, ID: satchel.ID(key), When: time.UnixMilli(row.Ms)})
			}
			return nil
		})
	})
	return all, err
}

// Status is how far the device is.
type Status struct {
	Seq             uint64 // commit of the last checkpoint with all priorities settled; 0 = there was none
	Complete        bool   // what the last answer brought is shown, and that was all
	SettledPriority uint32 // of the last checkpoint: how many priorities are shown completely; 0 = all, or none yet
	FollowedMonths  uint32 // of facts, this month included; 0 = all
	Pending         int    // mutations that have no verdict
	Repairing       bool   // a repair is under way
}

// Status tells how far the device is.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.store.View(ctx, func(tx ReadTx) error {
		at, err := getMeta[place](tx, metaPlace)
		if err != nil {
			return err
		}
		st, err := getRepair(tx)
		s = Status{Seq: at.Seq, Complete: at.Complete, SettledPriority: at.Priority, FollowedMonths: at.Months, Repairing: st != nil}
		return err
	})
	if err != nil {
		return s, err
	}
	s.Pending, err = c.Pending(ctx)
	return s, err
}

func scanOverlay(tx ReadTx, prefix []byte, fn func(satchel.ID, *satchelv1.Op) error) error {
	return tx.Scan(TableOverlay, prefix, nil, func(key, value []byte) error {
		op := new(satchelv1.Op)
		if proto.Unmarshal(value, op) != nil {
			return nil // what is sent stands in the outbox
		}
		return fn(satchel.ID(key[:16]), op)
	})
}

// show puts own ops, in order, on top of what stands (nil = nothing). It answers false when there is nothing to show:
// the record is not on the device, or an own op deletes it.
func (c *Client) show(kind string, id satchel.ID, standing *satchelv1.Change, ops []*satchelv1.Op) (Record, bool, error) {
	r := Record{ID: id, Kind: kind, Pending: len(ops) > 0}
	visible := standing.GetFields() != ""
	if visible {
		r.Rev, r.Fields, r.EventMs = standing.Rev, json.RawMessage(standing.Fields), standing.EventMs
		if standing.AuthorId != "" {
			author, err := satchel.ParseID(standing.AuthorId)
			if err != nil {
				return r, false, fmt.Errorf("satchelclient: the author of a record cannot be read: %w", err)
			}
			r.Author = author
		}
	}
	var fields map[string]json.RawMessage // nil = r.Fields holds
	open := func() error {
		if fields != nil {
			return nil
		}
		fields = map[string]json.RawMessage{}
		if len(r.Fields) == 0 {
			return nil
		}
		return json.Unmarshal(r.Fields, &fields)
	}
	for _, op := range ops {
		if op.GetCreate() == nil && !visible {
			continue // an edit of what is not on the device shows nothing
		}
		var err error
		switch a := op.Action.(type) {
		case *satchelv1.Op_Create:
			if !visible {
				visible, fields, r.Fields, r.Author = true, nil, nil, c.snapshot().Person
			}
			if err = open(); err == nil {
				err = setFields(fields, a.Create.Fields)
			}
		case *satchelv1.Op_Patch:
			if err = open(); err == nil {
				err = patch(fields, a.Patch)
			}
		case *satchelv1.Op_Delete:
			visible = false
		case *satchelv1.Op_Command:
			// What a command does is the server's to say.
		}
		if err != nil {
			return r, false, fmt.Errorf("satchelclient: the fields of a record cannot be read: %w", err)
		}
	}
	if !visible {
		return r, false, nil
	}
	if fields != nil {
		text, err := json.Marshal(fields)
		if err != nil {
			return r, false, err
		}
		r.Fields = text
	}
	return r, true, nil
}

func setFields(fields map[string]json.RawMessage, object string) error {
	if object == "" {
		return nil
	}
	var set map[string]json.RawMessage
	if err := json.Unmarshal([]byte(object), &set); err != nil {
		return err
	}
	for name, v := range set {
		if string(v) == "null" {
			delete(fields, name)
		} else {
			fields[name] = v
		}
	}
	return nil
}

func patch(fields map[string]json.RawMessage, p *satchelv1.Patch) error {
	if err := setFields(fields, p.Fields); err != nil {
		return err
	}
	// An edit that does not fit what stands is not shown; the server will say what is wrong with it.
	for _, edit := range p.Sets {
		set := []string{}
		if v, ok := fields[edit.Field]; ok && json.Unmarshal(v, &set) != nil {
			continue
		}
		set = slices.DeleteFunc(set, func(e string) bool { return slices.Contains(edit.Remove, e) })
		for _, e := range edit.Add {
			if !slices.Contains(set, e) {
				set = append(set, e)
			}
		}
		text, err := json.Marshal(append([]string{}, set...))
		if err != nil {
			return err
		}
		fields[edit.Field] = text
	}
	for _, inc := range p.Increments {
		sum := big.NewInt(inc.By) // two counters of 64 bits may add up to more
		if v, ok := fields[inc.Field]; ok && string(v) != "null" {
			was, ok := new(big.Int).SetString(string(v), 10)
			if !ok {
				continue
			}
			sum.Add(sum, was)
		}
		fields[inc.Field] = json.RawMessage(sum.String())
	}
	return nil
}
