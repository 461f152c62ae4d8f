package syncengine

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/access"
	"github.com/satchel-sync/satchel/internal/jobs"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/schema"
)

// MaxImport is how many records one call of Import takes, and importTime how long one may take.
const (
	MaxImport  = 500
	importTime = 30 * time.Second
)

// ImportRecord is a record from elsewhere, with the author and the event time that it had there.
type ImportRecord struct {
	ID      satchel.ID
	Kind    string
	Author  satchel.ID // zero = the system
	EventMS int64      // milliseconds since 1970; 0 = now
	Fields  map[string]any
}

// Import creates records in one transaction, known by (source, key): done again, it does nothing. Records that exist
// already stay as they are. Parents come in the same call, before what hangs under them, or in an earlier one. One
// record that breaks its kind's rules fails the call, and the error names it.
func (e *Engine) Import(ctx context.Context, org satchel.ID, source, key string, records []ImportRecord) error {
	if len(records) > MaxImport {
		return satchel.E(satchel.Invalid, satchel.ReasonTooLarge, "one import takes at most %d records", MaxImport)
	}
	m := SystemMutation{Org: org, Source: "import:" + source, Key: key}
	for _, r := range records {
		text, err := encodeJSON(r.Fields)
		if err != nil {
			return err
		}
		m.Ops = append(m.Ops, Op{Action: Create, Record: r.ID, Kind: r.Kind, Fields: json.RawMessage(text)})
	}
	ctx, cancel := context.WithTimeout(ctx, importTime)
	defer cancel()
	err := e.retry(ctx, func() error {
		tx, err := pg.Begin(ctx, e.cfg.Pool, pg.ReadCommitted)
		if err != nil {
			return err
		}
		defer tx.Rollback(context.WithoutCancel(ctx))
		b := e.newSystemBatch(tx, m)
		if err := b.load(ctx); err != nil || b.known != nil {
			return err
		}
		var parents []satchel.ID
		for _, r := range records {
			if k := b.org.schema.Kind(r.Kind); k != nil && k.Parent != "" {
				parents = append(parents, (&schema.Record{Data: r.Fields}).Ref(k.Parent))
			}
		}
		if err := b.shareMissing(ctx, parents); err != nil {
			return err
		}
		a := &attempt{b: b, rows: map[satchel.ID]*row{}, system: true, verdict: Verdict{Status: Applied}}
		for i, r := range records {
			if err := a.importOne(ctx, r, m.Ops[i]); err != nil {
				return fmt.Errorf("record %s (%s): %w", r.ID, r.Kind, err)
			}
		}
		if err := a.place(ctx); err != nil {
			return err
		}
		a.m = b.in.Mutations[0]
		b.accept(a)
		if err := b.react(ctx); err != nil {
			return err
		}
		if _, err = b.commit(ctx); err != nil {
			return err
		}
		b.wake()
		return nil
	})
	return pg.ToError(err)
}

// importOne makes one record of an import.
func (a *attempt) importOne(ctx context.Context, r ImportRecord, op Op) error {
	k := a.b.org.schema.Kind(r.Kind)
	if k == nil {
		return satchel.E(satchel.Invalid, satchel.ReasonUnknownKind, "the schema has no kind %q", r.Kind)
	}
	if a.b.rows[r.ID] != nil {
		return nil
	}
	fields, err := a.fields(k, op.Fields)
	if err != nil {
		return err
	}
	if _, err := a.rewire(ctx, k, fields); err != nil {
		return err
	}
	e := schema.Edit{At: r.EventMS, Fields: fields}
	if e.At == 0 {
		e.At = a.b.now.UnixMilli()
	}
	rec, p := schema.New(k, r.ID, r.Author, a.firstRev(), e)
	if p != nil {
		return satchel.E(satchel.Invalid, p.Reason, "%s %v", p.Detail, p.Paths)
	}
	a.set(&row{rec: rec, changed: true})
	a.history = append(a.history, entry{record: rec.ID, rev: rec.Rev, op: Create, at: e.At})
	return nil
}

// shareMissing loads records that the batch does not have, locked against change.
func (b *batch) shareMissing(ctx context.Context, ids []satchel.ID) error {
	var missing []satchel.ID
	for _, id := range ids {
		if _, known := b.rows[id]; !known && !id.IsZero() {
			missing = append(missing, id)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	rows, err := b.tx.Query(ctx, sqlShareRecords, b.orgID, missing)
	if err != nil {
		return err
	}
	return b.keep(rows)
}

// Handler is a job's handler; internal/jobs has the same.
type Handler = func(ctx context.Context, org satchel.ID, args json.RawMessage) error

// Handlers gives the engine's own jobs, by kind, for the wiring to register.
func (e *Engine) Handlers() map[string]Handler {
	return map[string]Handler{
		JobDirectory: e.jobDirectory,
		JobChildren:  e.jobChildren,
		JobParked:    e.jobParked,
		JobUpgraded:  e.jobUpgraded,
		JobRestored:  e.jobRestored,
		JobMerged:    e.jobMerged,
		JobTidy:      e.jobTidy,
	}
}

// movePiece is how many records one commit of a move looks at: at most 8 buckets left and 8 entered each.
const movePiece = MaxHeads / access.MaxBucketsPerRecord / 2

// What lies in a person's own buckets, in pieces by id, and whether it is the person's (else it hangs under something
// that is). Each piece reads no more than it gives: found by owner, every piece would read all.
const sqlOwned = `-- syncengine.Owned
SELECT r.id, r.owner = $2 FROM
  (SELECT DISTINCT h.record_id FROM bucket_name n,
    LATERAL (SELECT h.record_id FROM head h WHERE h.org_id = $1 AND h.bucket = n.num AND h.record_id > $3 AND h.present
      ORDER BY h.record_id LIMIT $5) h
    WHERE n.org_id = $1 AND n.stem = $4 ORDER BY h.record_id LIMIT $5) h
JOIN record r ON r.org_id = $1 AND r.id = h.record_id ORDER BY r.id`

// jobDirectory mirrors people and teams into records of the kinds person and team, and moves what changed owners' teams
// move. It runs after the commit that changed the rights, so every later commit places by them already.
func (e *Engine) jobDirectory(ctx context.Context, org satchel.ID, raw json.RawMessage) error {
	var args directoryArgs
	if err := json.Unmarshal(raw, &args); err != nil {
		return jobs.Discard(err)
	}
	sch, dir, err := e.Org(ctx, org)
	if err != nil {
		return err
	}
	for _, id := range args.Persons { // who sees what comes first; the mirror below may fail on a schema of its own
		if err := e.moveOwned(ctx, org, id); err != nil {
			return err
		}
	}
	for _, id := range args.Persons {
		p, ok := dir.Person(id)
		if !ok {
			continue
		}
		fields := map[string]any{"name": p.Name, "active": !p.Disabled, "team": nil}
		if !p.Team.IsZero() {
			fields["team"] = p.Team.String()
		}
		if err := e.mirror(ctx, sch, org, "person", id, fields); err != nil {
			return err
		}
	}
	if len(args.Teams) == 0 {
		return nil
	}
	rows, err := e.cfg.Pool.Query(ctx, sqlTeamNames, org, args.Teams)
	if err != nil {
		return err
	}
	type team struct {
		id, parent satchel.ID
		name       string
	}
	teams, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (t team, err error) {
		err = r.Scan(&t.id, &t.name, &t.parent)
		return t, err
	})
	if err != nil {
		return err
	}
	for _, t := range teams {
		fields := map[string]any{"name": t.name, "parent": nil}
		if !t.parent.IsZero() {
			fields["parent"] = t.parent.String()
		}
		if err := e.mirror(ctx, sch, org, "team", t.id, fields); err != nil {
			return err
		}
	}
	return nil
}

// mirror writes a record of the directory as it stands now, with the fields that the schema has for it.
func (e *Engine) mirror(ctx context.Context, sch *schema.Schema, org satchel.ID, kind string, id satchel.ID, fields map[string]any) error {
	k := sch.Kind(kind)
	if k == nil {
		return nil
	}
	maps.DeleteFunc(fields, func(name string, _ any) bool { return k.Field(name) == nil })
	old, err := e.Record(ctx, org, id)
	if err != nil {
		return err
	}
	text, err := encodeJSON(fields)
	if err != nil {
		return err
	}
	op := Op{Action: Patch, Record: id, Kind: kind, Fields: json.RawMessage(text)}
	rev := uint64(0)
	if old == nil {
		op.Action = Create
	} else {
		op.BaseRev, rev = old.Rev, old.Rev
	}
	v, err := e.Submit(ctx, SystemMutation{Org: org, Source: "directory", Ops: []Op{op},
		Key: fmt.Sprintf("%s@%d:%x", id, rev, satchel.DerivedID(id, text)), Cause: "the directory was changed"})
	if err == nil && v.Status == Rejected {
		err = fmt.Errorf("mirror of %s %s: %s", kind, id, v.Reason)
	}
	return err
}

// moveOwned places again what a person owns, in commits of bounded size. A piece that was moved already is found in
// place and costs nothing, so the job can be done again from the start.
func (e *Engine) moveOwned(ctx context.Context, org, person satchel.ID) error {
	after := satchel.ID{}
	for {
		rows, err := e.cfg.Pool.Query(ctx, sqlOwned, org, person, after, access.OwnStem(person), movePiece)
		if err != nil {
			return err
		}
		var owned []satchel.ID
		var id satchel.ID
		var mine bool
		seen := 0
		if _, err := pgx.ForEachRow(rows, []any{&id, &mine}, func() error {
			if seen++; mine {
				owned = append(owned, id)
			}
			after = id
			return nil
		}); err != nil {
			return err
		}
		if seen == 0 {
			return nil
		}
		if len(owned) == 0 {
			continue
		}
		if err := e.replace(ctx, org, owned); err != nil {
			return err
		}
	}
}

// replace places records again, in one commit.
func (e *Engine) replace(ctx context.Context, org satchel.ID, ids []satchel.ID) error {
	return e.moving(ctx, SystemMutation{Org: org, Source: "move"}, ids, func(a *attempt) error {
		for _, id := range ids {
			if r := a.b.rows[id]; r != nil {
				next := *r
				a.set(&next)
			}
		}
		return nil
	})
}

// moving is one commit of a job that moves records in pieces, ids being the piece: they are locked, fn gives the attempt
// what of them is to stand or to be placed again, and they are placed. Where fn gives it nothing, nothing is committed; its
// error undoes the piece. It is done again, fn too, while it only lost against others. m names the organisation, source
// and cause; it gets no verdict and is not remembered, for a piece that was moved already is found in place.
func (e *Engine) moving(ctx context.Context, m SystemMutation, ids []satchel.ID, fn func(*attempt) error) error {
	return e.retry(ctx, func() error {
		tx, err := pg.Begin(ctx, e.cfg.Pool, pg.ReadCommitted)
		if err != nil {
			return err
		}
		defer tx.Rollback(context.WithoutCancel(ctx))
		b := e.newSystemBatch(tx, m)
		if b.clock, err = readClock(ctx, tx, m.Org); err != nil {
			return err
		}
		if err := b.know(ctx); err != nil {
			return err
		}
		if err := b.fetch(ctx, sqlLockRecords, ids); err != nil {
			return err
		}
		a := &attempt{b: b, rows: map[satchel.ID]*row{}, at: b.now.UnixMilli(), system: true}
		if err := fn(a); err != nil || len(a.order) == 0 {
			return err
		}
		if err := a.place(ctx); err != nil {
			return err
		}
		b.accept(a)
		b.settled = nil
		if err := b.react(ctx); err != nil {
			return err
		}
		if _, err := b.commit(ctx); err != nil {
			return err
		}
		b.wake()
		return nil
	})
}

// jobChildren moves what hangs under a record whose owner changed, in pieces.
func (e *Engine) jobChildren(ctx context.Context, org satchel.ID, raw json.RawMessage) error {
	var args recordArgs
	if err := json.Unmarshal(raw, &args); err != nil {
		return jobs.Discard(err)
	}
	after := satchel.ID{}
	for {
		rows, err := e.cfg.Pool.Query(ctx, sqlChildIDs, org, args.Record, after, movePiece)
		if err != nil {
			return err
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[satchel.ID])
		if err != nil {
			return err
		}
		if len(ids) == 0 {
			return nil
		}
		if err := e.replace(ctx, org, ids); err != nil {
			return err
		}
		after = ids[len(ids)-1]
	}
}

const sqlChildIDs = `-- syncengine.ChildIDs
SELECT id FROM record WHERE org_id = $1 AND parent = $2 AND id > $3 ORDER BY id LIMIT $4`

// headsOf gives how many heads a record moves at most: those that it has and those that its kind can give it.
func (b *batch) headsOf(r *row) int {
	return len(r.buckets) + len(b.org.schema.Kind(r.rec.Kind).Buckets)
}

// top is the owner of the topmost record: the parent's, or where there is no parent the record's own.
func top(parentOwner, owner satchel.ID) satchel.ID {
	if parentOwner.IsZero() {
		return owner
	}
	return parentOwner
}

// pullChildren takes what hangs under a record into the mutation, so that it moves in the same commit; where that is
// more than one commit may move, a job moves it in pieces afterwards.
func (a *attempt) pullChildren(ctx context.Context, parent satchel.ID) error {
	left := MaxHeads - a.heads // of a commit of its own: where the batch has no room for it, it waits for the next
	limit := max(left, 0) / 2  // each lies in one bucket at least, and may come to lie in another
	children, err := a.b.children(ctx, parent, limit+1)
	if err != nil {
		return err
	}
	for _, id := range a.b.hanging(parent, a.b.rows) {
		if !slices.Contains(children, id) {
			children = append(children, id)
		}
	}
	// What this very mutation hung there was placed before its parent, where its op came first.
	for _, id := range a.b.hanging(parent, a.rows) {
		if !a.again[id] {
			if a.again == nil {
				a.again = map[satchel.ID]bool{}
			}
			a.again[id] = true
			a.order = append(a.order, id)
		}
	}
	var found []*row
	heads := 0
	for _, id := range children {
		if c := a.b.rows[id]; c != nil && a.rows[id] == nil {
			found = append(found, c)
			heads += a.b.headsOf(c)
		}
	}
	if len(children) > limit || heads > left {
		a.moves = append(a.moves, parent)
		return nil
	}
	a.heads += heads
	for _, c := range found {
		next := *c
		a.set(&next)
	}
	return nil
}

// hanging gives those of the rows that were hung under a record where no table has it yet.
func (b *batch) hanging(parent satchel.ID, rows map[satchel.ID]*row) []satchel.ID {
	var ids []satchel.ID
	for id, r := range rows {
		if r == nil || !r.changed {
			continue
		}
		if k := b.org.schema.Kind(r.rec.Kind); k.Parent != "" && r.rec.Ref(k.Parent) == parent {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, compareIDs)
	return ids
}

// children loads what hangs directly under a record, locked.
func (b *batch) children(ctx context.Context, parent satchel.ID, limit int) ([]satchel.ID, error) {
	rows, err := b.tx.Query(ctx, sqlChildren, b.orgID, []satchel.ID{parent}, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var ids []satchel.ID
	for rows.Next() {
		r, err := scanRecord(rows)
		if err != nil {
			return nil, err
		}
		if b.rows[r.rec.ID] == nil {
			b.rows[r.rec.ID] = r
		}
		ids = append(ids, r.rec.ID)
	}
	return ids, rows.Err()
}

// recordArgs names the record of a job.
type recordArgs struct{ Record satchel.ID }
