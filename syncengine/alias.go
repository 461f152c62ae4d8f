package syncengine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/jobs"
	"github.com/satchel-sync/satchel/schema"
)

// Merged records (S9). A record that was merged into another is deleted and keeps the root, in which its work goes on.
// The root was never merged itself: who merges a root leads there what led to it. What comes for the loser later, from a
// device that has not heard of it, acts on the root as an edit that has seen nothing of it.

// MergeCommand is the command that merges the op's record into another one of its kind: {"into": "<uuid>"}. Both may be
// named by what was merged into them. The person must see both, may change both and may delete the first. What the server
// alone writes (approvals) is not moved, but by the system; history keeps it. The other takes
// over what it has no value of, elements of sets, what was counted and the min and max of such fields; values that differ
// stay as they are there, and history keeps those of the first. What hangs under the first hangs under the other then.
const MergeCommand = "record.merge"

// merged notes what a batch merged.
type merged struct{ loser, root satchel.ID }

// maxRoots bounds a chain of merges that a job has not shortened yet.
const maxRoots = 32

// loadRoots locks the roots of the merged records that a batch names, in one order.
func (b *batch) loadRoots(ctx context.Context) error {
	for range maxRoots {
		var missing []satchel.ID
		for _, r := range b.rows {
			if r == nil || r.root.IsZero() {
				continue
			}
			if _, known := b.rows[r.root]; !known {
				missing = append(missing, r.root)
			}
		}
		if len(missing) == 0 {
			return nil
		}
		slices.SortFunc(missing, compareIDs)
		if err := b.fetch(ctx, sqlLockRecords, slices.Compact(missing)); err != nil {
			return err
		}
	}
	return nil
}

// root gives the record in which the work on a record goes on: itself, where it was not merged. nil = it is gone.
func (a *attempt) root(ctx context.Context, r *row) (*row, error) {
	var err error
	for range maxRoots {
		if r == nil || r.root.IsZero() {
			return r, nil
		}
		if r, err = a.rowOrPurged(ctx, r.root); err != nil {
			return nil, err
		}
	}
	return nil, &fault{"alias", errors.New("the chain of merged records does not end")}
}

// throughAlias leads an op on a merged record to the root, of which it has seen nothing.
func (a *attempt) throughAlias(ctx context.Context, alias *row, op *Op) (*row, error) {
	r, err := a.root(ctx, alias)
	if r == nil || err != nil {
		return nil, err
	}
	op.via, op.Record, op.BaseRev = alias, r.rec.ID, 0
	return r, nil
}

const sqlAliases = `-- syncengine.Aliases
SELECT id FROM record WHERE org_id = $1 AND id = ANY($2) AND root IS NOT NULL ORDER BY id`

// rewire leads references to merged records to their roots. It gives the merged record that stood as the parent.
func (a *attempt) rewire(ctx context.Context, k *schema.Kind, fields map[string]any) (parent satchel.ID, err error) {
	var unknown []satchel.ID
	aliases := map[string]*row{} // by field
	refs := map[string]satchel.ID{}
	for _, f := range k.Fields() {
		if f.Type != schema.Reference || fields[f.Name] == nil {
			continue
		}
		id := (&schema.Record{Data: fields}).Ref(f.Name)
		refs[f.Name] = id
		r, known := a.rows[id]
		if !known {
			r, known = a.b.rows[id]
		}
		if f.Name == k.Parent {
			if r, err = a.rowOrPurged(ctx, id); err != nil {
				return parent, err
			}
			known = true
		}
		switch {
		case !known && f.Target != "person" && f.Target != "team": // which are never merged
			unknown = append(unknown, id)
		case r != nil && !r.root.IsZero():
			aliases[f.Name] = r
		}
	}
	if len(unknown) > 0 {
		rows, err := a.b.tx.Query(ctx, sqlAliases, a.b.orgID, unknown)
		if err != nil {
			return parent, err
		}
		found, err := pgx.CollectRows(rows, pgx.RowTo[satchel.ID])
		if err != nil {
			return parent, err
		}
		for name, id := range refs {
			if !slices.Contains(found, id) {
				continue
			}
			if aliases[name], err = a.row(ctx, id); err != nil {
				return parent, err
			}
		}
	}
	for name, alias := range aliases {
		root, err := a.root(ctx, alias)
		if err != nil {
			return parent, err
		}
		if root == nil {
			continue
		}
		fields[name] = root.rec.ID.String()
		if name == k.Parent {
			parent = refs[name]
		}
	}
	return parent, nil
}

// mergeRecords does the command record.merge.
func (a *attempt) mergeRecords(ctx context.Context, k *schema.Kind, loser *row, op Op) error {
	if loser == nil {
		return a.missing(op.Record, "")
	}
	var args struct {
		Into satchel.ID `json:"into"`
	}
	if err := json.Unmarshal(op.Args, &args); err != nil || args.Into.IsZero() {
		return refuse(satchel.ReasonBadValue, "into", "record.merge says with `into` which record stays")
	}
	into, err := a.rowOrPurged(ctx, args.Into)
	if err == nil {
		into, err = a.root(ctx, into)
	}
	if err != nil {
		return err
	}
	if err := a.mayMerge(ctx, k, loser, into); err != nil {
		return err
	}
	rootID := into.rec.ID
	from, left := a.withoutServers(k, withoutParent(k, loser.rec, rootID), into.rec)
	got := schema.Unite(k, into.rec, from, a.unitedBy(k, into.rec, loser.rec))
	got.Lost = append(got.Lost, left...)
	changed := make([]string, 0, len(got.Changed))
	for _, c := range got.Changed {
		changed = append(changed, c.Path)
	}
	slices.Sort(changed)
	if err := a.guarded(k, into.rec, changed); err != nil {
		return err
	}
	if got.Record != into.rec {
		a.change(into, got.Record, entry{op: Patch, before: got.Changed, lost: got.Lost})
	} else if len(got.Lost) > 0 {
		a.history = append(a.history, entry{record: rootID, rev: into.rec.Rev, op: Patch, lost: got.Lost, at: a.at, number: a.m.Number})
	}
	gone := loser.rec.Clone()
	gone.Deleted, gone.Rev = true, gone.Rev+1
	alias := *loser
	alias.root = rootID
	a.change(&alias, gone, entry{op: Delete})
	a.merged = append(a.merged, merged{loser.rec.ID, rootID})
	return a.rehang(ctx, loser.rec.ID, rootID)
}

// mayMerge checks a merge: under the rights of now to both, and the guards of the one that goes.
func (a *attempt) mayMerge(ctx context.Context, k *schema.Kind, loser, into *row) error {
	if !a.system && !a.sees(loser) {
		return refuse(satchel.ReasonRecordUnknown, "", "no such record")
	}
	if into == nil || into.rec.Kind != k.Name || !a.system && !a.sees(into) {
		return refuse(satchel.ReasonRecordUnknown, "into", "no such record of this kind")
	}
	if into.rec.ID == loser.rec.ID {
		return refuse(satchel.ReasonSameRecord, "into", "both are the same record, or were merged already")
	}
	if loser.rec.Deleted || into.rec.Deleted {
		return refuse(satchel.ReasonRecordDeleted, "into", "a deleted record is not merged; restore it first")
	}
	if !a.system {
		for _, r := range []*row{loser, into} {
			if err := a.mayUpdate(k, r, nil); err != nil {
				return err
			}
		}
		if !a.b.org.dir.Within(a.b.grants.Kind(k.Name).Delete, a.b.person, loser.rec.OwnerID(k), loser.rec.Author) {
			return refuse(satchel.ReasonForbidden, "", "no right to delete this record")
		}
	}
	if err := a.guarded(k, loser.rec, nil); err != nil {
		return err
	}
	// Led to the other, what hangs between the two would hang under itself.
	for above, depth := into, 0; above != nil && depth < maxDepth; depth++ {
		kind := a.b.org.schema.Kind(above.rec.Kind)
		if kind.Parent == "" || above.rec.Ref(kind.Parent).IsZero() {
			return nil
		}
		next := above.rec.Ref(kind.Parent)
		if next == loser.rec.ID {
			if depth == 0 {
				return nil
			}
			return refuse(satchel.ReasonInvalid, "into", "the record that stays hangs below the other one; hang it elsewhere first")
		}
		var err error
		if above, err = a.row(ctx, next); err != nil {
			return err
		}
	}
	return nil
}

// maxDepth bounds the climb from a record to what it hangs under.
const maxDepth = 32

// withoutParent gives the record without its parent where that is the one given.
func withoutParent(k *schema.Kind, rec *schema.Record, parent satchel.ID) *schema.Record {
	if k.Parent == "" || rec.Ref(k.Parent) != parent {
		return rec
	}
	rec = rec.Clone()
	delete(rec.Data, k.Parent)
	return rec
}

// withoutServers takes out of a record, where a person merges it, what the server alone writes: that one
// quote was approved, or a file stored, says nothing of the other, and nobody makes it so by merging them. The values are
// given for history.
func (a *attempt) withoutServers(k *schema.Kind, rec, into *schema.Record) (*schema.Record, []schema.Value) {
	var left []schema.Value
	if a.system {
		return rec, nil
	}
	for _, f := range k.Fields() {
		v := rec.Data[f.Name]
		if f.Merge != schema.ServerOnly || v == nil {
			continue
		}
		if !schema.Equal(v, into.Data[f.Name]) {
			left = append(left, schema.Value{Path: f.Name, Value: v, Policy: schema.UnitedAway})
			rec = rec.Clone()
			delete(rec.Data, f.Name)
		}
	}
	return rec, left
}

// unitedBy is the edit by which a record takes over another: where it hangs under that one, it comes to hang where that
// one did.
func (a *attempt) unitedBy(k *schema.Kind, into, loser *schema.Record) schema.Edit {
	e := schema.Edit{MinRev: a.firstRev(), At: a.at, Device: a.b.device, Number: a.m.Number}
	if k.Parent != "" && into.Ref(k.Parent) == loser.ID {
		e.Fields = map[string]any{k.Parent: loser.Data[k.Parent]}
	}
	return e
}

// rehang leads what hangs under a merged record to the root, as far as the commit has room; a job does the rest.
func (a *attempt) rehang(ctx context.Context, loser, root satchel.ID) error {
	room := MaxHeads * 3 / 4 // what hangs below that may have to move too
	for _, id := range a.order {
		room -= a.b.headsOf(a.rows[id])
	}
	if room <= 0 {
		return nil
	}
	ids, err := a.b.children(ctx, loser, room)
	if err != nil {
		return err
	}
	for _, rows := range []map[satchel.ID]*row{a.b.rows, a.rows} {
		for _, id := range a.b.hanging(loser, rows) {
			if !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	for _, id := range ids {
		r := a.rows[id]
		if r == nil {
			r = a.b.rows[id]
		}
		if id == root || r == nil {
			continue
		}
		if room -= a.b.headsOf(r); room < 0 {
			return nil
		}
		a.rehangOne(r, loser, root)
	}
	return nil
}

// rehangOne hangs a record under the root where it hangs under the merged one.
func (a *attempt) rehangOne(r *row, loser, root satchel.ID) {
	k := a.b.org.schema.Kind(r.rec.Kind)
	if k.Parent == "" || r.rec.Ref(k.Parent) != loser {
		return
	}
	before := []schema.Change{{Path: k.Parent, Before: r.rec.Data[k.Parent]}}
	next := schema.Rehang(k, r.rec, root.String(), schema.Edit{MinRev: a.firstRev(), At: a.at, Device: a.b.device, Number: a.m.Number})
	a.change(r, next, entry{op: Patch, before: before})
}

// jobMerged leads to the root, in pieces, what the commit of a merge had no room for: what hangs under the merged record,
// and what was merged into it before.
func (e *Engine) jobMerged(ctx context.Context, org satchel.ID, raw json.RawMessage) error {
	var args recordArgs
	if err := json.Unmarshal(raw, &args); err != nil {
		return jobs.Discard(err)
	}
	after := satchel.ID{}
	for {
		ids, err := collect[satchel.ID](ctx, e, sqlChildIDs, org, args.Record, after, movePiece)
		if err != nil {
			return err
		}
		if len(ids) == 0 {
			break
		}
		if err := e.rehangPiece(ctx, org, args.Record, ids); err != nil {
			return err
		}
		after = ids[len(ids)-1]
	}
	for {
		done, err := e.repointPiece(ctx, org, args.Record)
		if err != nil || done {
			return err
		}
	}
}

// rehangPiece leads some of what hangs under a merged record to its root, in one commit.
func (e *Engine) rehangPiece(ctx context.Context, org, loser satchel.ID, ids []satchel.ID) error {
	m := SystemMutation{Org: org, Source: "merge", Cause: "what it hangs under was merged into another record"}
	named := append([]satchel.ID{loser}, ids...)
	slices.SortFunc(named, compareIDs)
	return e.moving(ctx, m, slices.Compact(named), func(a *attempt) error {
		if err := a.b.loadRoots(ctx); err != nil {
			return err
		}
		root, err := a.root(ctx, a.b.rows[loser])
		if err != nil {
			return err
		}
		if root == nil || root.rec.ID == loser {
			return jobs.Discard(fmt.Errorf("record %s is not merged into one that is there", loser))
		}
		for _, id := range ids {
			if r := a.b.rows[id]; r != nil && id != root.rec.ID {
				a.rehangOne(r, loser, root.rec.ID)
			}
		}
		return nil
	})
}

// What was merged into a record that is now merged itself. No head moves: devices need no word of it.
const sqlRepoint = `-- syncengine.Repoint
UPDATE record SET root = $3 WHERE org_id = $1 AND id IN
  (SELECT id FROM record WHERE org_id = $1 AND root = $2 ORDER BY id LIMIT $4 FOR UPDATE)`

const sqlRootOf = `-- syncengine.RootOf
SELECT root FROM record WHERE org_id = $1 AND id = $2 FOR SHARE`

// repointPiece leads some of what was merged into a record, which was merged itself, to the root of now.
func (e *Engine) repointPiece(ctx context.Context, org, loser satchel.ID) (done bool, err error) {
	err = e.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		root := loser
		for range maxRoots {
			var next satchel.ID
			err := tx.QueryRow(ctx, sqlRootOf, org, root).Scan(&next)
			if errors.Is(err, pgx.ErrNoRows) || err == nil && next.IsZero() {
				break
			}
			if err != nil {
				return err
			}
			root = next
		}
		if root == loser {
			done = true
			return nil
		}
		tag, err := tx.Exec(ctx, sqlRepoint, org, loser, root, MaxHeads)
		done = tag.RowsAffected() < MaxHeads
		return err
	})
	return done, err
}
