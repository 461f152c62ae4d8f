package syncengine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/access"
	"github.com/satchel-sync/satchel/internal/mutant"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/schema"
)

// row is a record as a batch works on it.
type row struct {
	rec         *schema.Record // as it stands now
	stored      *schema.Record // as it was loaded; nil = not in the table yet
	buckets     []int64        // where it lies in the table
	parent      satchel.ID
	parentOwner satchel.ID
	above       satchel.ID      // parentOwner as in the table
	place       []access.Bucket // where it must lie; nil = where it lies
	changed     bool            // the record, not only its place
	root        satchel.ID      // the record that it was merged into (S9)
}

// batch is one transaction of the flow. It belongs to one goroutine.
type batch struct {
	e      *Engine
	tx     *pg.Tx
	in     Batch
	source *SystemMutation // nil = a device
	orgID  satchel.ID
	person satchel.ID // in whose name; zero = the system
	device satchel.ID
	now    time.Time

	clock   clock
	org     *org
	grants  *access.Grants // nil = the system: everything is allowed
	follow  []followed
	lane    lane
	runs    []run
	known   *Verdict                  // of a system mutation that was seen
	before  map[satchel.ID]Verdict    // by random id: what the device did under other numbers
	unsure  int64                     // what was recorded before may have taken effect, and nobody knows (S3)
	refused map[satchel.ID]satchel.ID // record whose creation was refused to the person → attention

	sent    map[satchel.ID]Sent // creations from which the device can complete their rows
	rows    map[satchel.ID]*row
	heads   int
	history []entry
	changes []Change
	pendAtt []attention
	settled []settledMutation
	moves   []satchel.ID // records whose children are moved by a job
	merged  []merged
	newRef  []refusedRow
	undoRef []satchel.ID // refused creations that now exist
	keeps   []keptRow
	looked  []string // kept mutations whose attention their author closed
	writes  writeSet

	early int64 // the fault SeqFirst's number of the commit
}

func (e *Engine) newBatch(tx *pg.Tx, p *satchel.Principal, in Batch) *batch {
	return &batch{e: e, tx: tx, in: in, orgID: p.Org, person: p.Person, device: p.Device,
		now: e.cfg.Now(), rows: make(map[satchel.ID]*row, 2*len(in.Mutations)), refused: map[satchel.ID]satchel.ID{},
		changes: make([]Change, 0, len(in.Mutations)), history: make([]entry, 0, len(in.Mutations)),
		settled: make([]settledMutation, 0, len(in.Mutations))}
}

func (e *Engine) newSystemBatch(tx *pg.Tx, m SystemMutation) *batch {
	b := &batch{e: e, tx: tx, source: &m, orgID: m.Org, now: e.cfg.Now(),
		rows: map[satchel.ID]*row{}, refused: map[satchel.ID]satchel.ID{}}
	if m.Actor != nil {
		b.person = m.Actor.Person
	}
	b.device, b.in.culprit = m.device, m.culprit
	b.in.occupied = !strings.HasPrefix(m.Source, "import:") // where it is many at once
	b.in.Mutations = []Mutation{{Number: m.number, ID: satchel.DerivedID(m.Org, m.Source+"/"+m.Key), Ops: m.Ops, Token: m.token,
		SchemaVersion: m.schemaVersion}}
	return b
}

// load locks the device's row, then the records that the batch names and what they hang under, and reads the rest that
// the checks need: one round trip.
func (b *batch) load(ctx context.Context) error {
	if mutant.On(mutant.SeqFirst) {
		if err := b.e.cfg.Pool.QueryRow(ctx, sqlNextSeq, b.orgID).Scan(&b.early); err != nil {
			return err
		}
	}
	records, parents := b.named()
	var q pgx.Batch
	if b.source == nil {
		first, last := b.in.Mutations[0].Number, b.in.Mutations[len(b.in.Mutations)-1].Number
		q.Queue(sqlLockLane, b.orgID, b.device)
		q.Queue(sqlRuns, b.orgID, b.device, int64(first)-MaxBatch, int64(first), int64(last))
	} else {
		q.Queue(sqlSeenKey, b.orgID, b.source.Source, b.source.Key)
		if k := b.source.kept; k != nil {
			q.Queue(sqlLockKept, b.orgID, k.device, int64(k.number))
		}
	}
	q.Queue(sqlLockRecords, b.orgID, records)
	q.Queue(sqlShareRecords, b.orgID, parents)
	// Behind the locks, so that it knows every bucket in which a locked record lies.
	q.Queue(sqlDeviceClock, b.orgID, b.device)
	q.Queue(sqlRefused, b.orgID, append(slices.Clone(records), parents...), b.author())

	res := b.tx.SendBatch(ctx, &q)
	err := b.readLoad(res)
	// Behind a lane that is not there yet, a lock may have failed, and with it the transaction.
	if closeErr := res.Close(); closeErr != nil && (err == nil || errors.Is(err, errNoLane)) {
		err = closeErr
	}
	if errors.Is(err, errNoLane) {
		return b.newLane(ctx)
	}
	if err != nil {
		return err
	}
	for _, id := range append(records, parents...) {
		if _, found := b.rows[id]; !found {
			b.rows[id] = nil // it does not exist: that is known now, and need not be asked again
		}
	}
	if !b.lane.successor.IsZero() {
		if err := b.enterFork(ctx); err != nil {
			return err
		}
	}
	if b.source == nil && (!b.lane.was.IsZero() || b.clock.cutLately(b.now) || b.olderThanCut()) {
		if err := b.recall(ctx); err != nil {
			return err
		}
	}
	if err := b.loadRoots(ctx); err != nil {
		return err
	}
	return b.know(ctx)
}

var errNoLane = errors.New("syncengine: the device has no lane yet")

// newLane makes the row of a device that syncs for the first time, then begins anew.
func (b *batch) newLane(ctx context.Context) error {
	if _, err := b.tx.Exec(ctx, sqlNewLane, b.orgID, b.device, b.person); err != nil {
		return err
	}
	if err := b.tx.Commit(ctx); err != nil {
		return err
	}
	return errMoved
}

func (b *batch) readLoad(res pgx.BatchResults) error {
	if b.source == nil {
		var err error
		b.lane, err = scanLane(res.QueryRow())
		if errors.Is(err, pgx.ErrNoRows) {
			return errNoLane
		}
		if err != nil {
			return err
		}
		if b.lane.person != b.person {
			return satchel.E(satchel.Denied, satchel.ReasonNotAllowed, "this device belongs to another person; sign in again to get an id of its own")
		}
		rows, err := res.Query()
		if err != nil {
			return err
		}
		if b.runs, err = pgx.CollectRows(rows, scanRun); err != nil {
			return err
		}
	} else {
		var raw []byte
		var v Verdict
		err := res.QueryRow().Scan(&raw, &v.Seq)
		switch {
		case err == nil:
			if err := json.Unmarshal(raw, &v); err != nil {
				return err
			}
			b.known = &v
		case !errors.Is(err, pgx.ErrNoRows):
			return err
		}
		if b.source.kept != nil {
			if err := b.source.kept.scan(res.QueryRow()); err != nil {
				return err
			}
		}
	}
	for range 2 {
		rows, err := res.Query()
		if err != nil {
			return err
		}
		if err := b.keep(rows); err != nil {
			return err
		}
	}
	c := &b.clock
	var revoked bool
	err := c.scan(res.QueryRow(), &revoked)
	if errors.Is(err, pgx.ErrNoRows) {
		return satchel.E(satchel.NotFound, satchel.ReasonNotFound, "no such organisation")
	}
	if err != nil {
		return err
	}
	if revoked && b.source == nil {
		return satchel.E(satchel.Denied, satchel.ReasonDeviceRevoked, "this device was revoked; what waits on it was not applied")
	}
	rows, err := res.Query()
	if err != nil {
		return err
	}
	var record, att satchel.ID
	_, err = pgx.ForEachRow(rows, []any{&record, &att}, func() error {
		b.refused[record] = att
		return nil
	})
	return err
}

// know brings what the checks need beyond the rows: the organisation and what the person follows.
func (b *batch) know(ctx context.Context) (err error) {
	if b.org, err = b.e.org(ctx, b.tx, b.orgID, b.clock); err != nil {
		return err
	}
	if b.person.IsZero() {
		return nil
	}
	roles := b.org.roles(b.person)
	b.grants = b.e.grantsOf(b.org, roles)
	b.follow, err = b.e.followed(ctx, b.tx, b.org, b.clock, b.person, roles)
	return err
}

// keep reads rows of records into the batch.
func (b *batch) keep(rows pgx.Rows) error {
	defer rows.Close()
	for rows.Next() {
		r, err := scanRecord(rows)
		if err != nil {
			return err
		}
		if b.rows[r.rec.ID] == nil {
			b.rows[r.rec.ID] = r
		}
	}
	return rows.Err()
}

func scanRecord(rows pgx.Rows) (*row, error) {
	r := &row{}
	rec := &schema.Record{}
	var data, stamps []byte
	var owner satchel.ID
	if err := rows.Scan(&rec.ID, &rec.Kind, &rec.Rev, &data, &stamps, &r.buckets, &rec.Author, &owner, &r.parent,
		&r.parentOwner, &rec.EventMS, &rec.Deleted, &r.root); err != nil {
		return nil, err
	}
	var err error
	if rec.Data, err = decodeObject(data); err != nil {
		return nil, fmt.Errorf("record %s: %w", rec.ID, err)
	}
	if rec.Stamps, err = decodeStamps(stamps); err != nil {
		return nil, fmt.Errorf("record %s: %w", rec.ID, err)
	}
	r.rec, r.stored, r.above = rec, rec, r.parentOwner
	return r, nil
}

// get gives a record of the batch, loading and locking it where the batch did not name it. Found later means locked
// late: a deadlock undoes one of the two, which is done again. nil = there is none.
func (b *batch) get(ctx context.Context, id satchel.ID) (*row, error) {
	if r, ok := b.rows[id]; ok {
		return r, nil
	}
	if err := b.fetch(ctx, sqlLockRecords, []satchel.ID{id}); err != nil {
		return nil, err
	}
	return b.rows[id], nil
}

// fetch loads records with a statement of (org, ids); ids that do not exist are remembered as such.
func (b *batch) fetch(ctx context.Context, sql string, ids []satchel.ID) error {
	rows, err := b.tx.Query(ctx, sql, b.orgID, ids)
	if err != nil {
		return err
	}
	if err := b.keep(rows); err != nil {
		return err
	}
	for _, id := range ids {
		if _, ok := b.rows[id]; !ok {
			b.rows[id] = nil
		}
	}
	return nil
}

// loadAttentions finds the persons of the devices that lost and that wrote what stands, and locks the attentions that
// exist: in one round trip, unless who lost tells which attentions those are.
func (b *batch) loadAttentions(ctx context.Context) error {
	var devices, ids []satchel.ID
	first := false
	for _, p := range b.pendAtt {
		for _, d := range []satchel.ID{p.device, p.by} {
			if !d.IsZero() {
				devices = append(devices, d)
			}
		}
		first = first || p.person.IsZero()
	}
	writers := map[satchel.ID]satchel.ID{}
	var q pgx.Batch
	if len(devices) > 0 {
		q.Queue(sqlWriters, b.orgID, devices).Query(func(rows pgx.Rows) error {
			var device, person satchel.ID
			_, err := pgx.ForEachRow(rows, []any{&device, &person}, func() error {
				writers[device] = person
				return nil
			})
			return err
		})
	}
	if first {
		if err := b.tx.SendBatch(ctx, &q).Close(); err != nil {
			return err
		}
		q = pgx.Batch{}
	}
	for i := range b.pendAtt {
		p := &b.pendAtt[i]
		if p.person.IsZero() {
			p.person = writers[p.device]
		}
		if _, known := b.rows[p.key()]; !known && !p.person.IsZero() {
			ids = append(ids, p.key())
		}
	}
	slices.SortFunc(ids, compareIDs)
	if ids = slices.Compact(ids); len(ids) > 0 {
		q.Queue(sqlLockRecords, b.orgID, ids).Query(b.keep)
	}
	if q.Len() > 0 {
		if err := b.tx.SendBatch(ctx, &q).Close(); err != nil {
			return err
		}
	}
	for _, id := range ids {
		if _, found := b.rows[id]; !found {
			b.rows[id] = nil
		}
	}
	for _, p := range b.pendAtt {
		if person, known := writers[p.by]; known {
			p.items[0].(map[string]any)["by"] = person.String()
		}
	}
	return nil
}
