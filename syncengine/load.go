package syncengine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/access"
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
}

// lane is a device's queue.
type lane struct {
	person          satchel.ID
	next, confirmed uint64
	was             satchel.ID
	wasBelow        uint64
	successor       satchel.ID // the lane that took its place
	lastEvent       int64
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
	before  map[satchel.ID]Verdict    // by random id: what the device did before it forked
	refused map[satchel.ID]satchel.ID // record whose creation was refused to the person → attention

	rows    map[satchel.ID]*row
	heads   int
	history []entry
	changes []Change
	pendAtt []attention
	settled []settledMutation
	moves   []satchel.ID // records whose children are moved by a job
	newRef  []refusedRow
	undoRef []satchel.ID // refused creations that now exist
	parks   []parkedRow
	writes  writeSet

	newStems []string // of buckets that the batch made
}

// run is a row of the ledger.
type run struct {
	first    uint64
	ids      []satchel.ID
	verdicts []Verdict // nil = all APPLIED without notes
	seq      uint64
}

func (e *Engine) newBatch(tx *pg.Tx, p *satchel.Principal, in Batch) *batch {
	return &batch{e: e, tx: tx, in: in, orgID: p.Org, person: p.Person, device: p.Device,
		now: e.cfg.Now(), rows: map[satchel.ID]*row{}, refused: map[satchel.ID]satchel.ID{}}
}

func (e *Engine) newSystemBatch(tx *pg.Tx, m SystemMutation) *batch {
	b := &batch{e: e, tx: tx, source: &m, orgID: m.Org, now: e.cfg.Now(),
		rows: map[satchel.ID]*row{}, refused: map[satchel.ID]satchel.ID{}}
	if m.Actor != nil {
		b.person = m.Actor.Person
	}
	b.device, b.in.culprit = m.device, m.culprit
	b.in.Mutations = []Mutation{{Number: m.number, ID: satchel.DerivedID(m.Org, m.Source+"/"+m.Key), Ops: m.Ops, Token: m.token}}
	return b
}

// load locks the device's row, then the records that the batch names and what they hang under, and reads the rest that
// the checks need: one round trip.
func (b *batch) load(ctx context.Context) error {
	records, parents := b.named()
	var q pgx.Batch
	if b.source == nil {
		first, last := b.in.Mutations[0].Number, b.in.Mutations[len(b.in.Mutations)-1].Number
		q.Queue(sqlLockLane, b.orgID, b.device)
		q.Queue(sqlRuns, b.orgID, b.device, int64(first)-MaxBatch, int64(last))
	} else {
		q.Queue(sqlSeenKey, b.orgID, b.source.Source, b.source.Key)
	}
	q.Queue(sqlLockRecords, b.orgID, records)
	q.Queue(sqlShareRecords, b.orgID, parents)
	// Behind the locks, so that it knows every bucket in which a locked record lies.
	q.Queue(sqlDeviceClock, b.orgID, b.device)
	q.Queue(sqlRefused, b.orgID, append(slices.Clone(records), parents...), b.person)

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
	err := res.QueryRow().Scan(&c.Seq, &c.Rights, &c.Buckets, &c.SchemaVersion, &c.Key, &revoked)
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
		&r.parentOwner, &rec.EventMS, &rec.Deleted); err != nil {
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

// forked tells whether the device's numbering is not the one that the server knows: a known number with another
// random id, or a number below next of which no run is kept (S3). In a lane that took another's place so does a gap:
// the device did not hear that it must take this lane's id, or it is the other one of two with one store.
func (b *batch) forked() bool {
	if !b.lane.was.IsZero() && b.in.Mutations[0].Number > b.lane.next {
		return true
	}
	for i := range b.in.Mutations {
		m := &b.in.Mutations[i]
		if m.Number >= b.lane.next {
			return false
		}
		if id, _, ok := b.stored(m.Number); !ok || id != m.ID {
			return true
		}
	}
	return false
}

// stored gives what the ledger knows of a number.
func (b *batch) stored(number uint64) (satchel.ID, Verdict, bool) {
	for _, r := range b.runs {
		if number < r.first || number >= r.first+uint64(len(r.ids)) {
			continue
		}
		i := int(number - r.first)
		v := r.verdict(i)
		v.Number, v.Seq = number, r.seq
		return r.ids[i], v, true
	}
	return satchel.ID{}, Verdict{}, false
}

// pending gives the mutations that are to be applied now: those that the ledger knows are left out, and nothing is
// when the first new one is not the number expected.
func (b *batch) pending() []Mutation {
	for i := range b.in.Mutations {
		if b.in.Mutations[i].Number >= b.lane.next {
			if b.in.Mutations[i].Number != b.lane.next {
				return nil
			}
			return b.in.Mutations[i:]
		}
	}
	return nil
}

const sqlForkLane = `-- syncengine.ForkLane
INSERT INTO lane (org_id, device_id, person_id, was, was_below, last_event) VALUES ($1, $2, $3, $4, $5, $6)`

const sqlSucceed = `-- syncengine.Succeed
UPDATE lane SET successor = $3 WHERE org_id = $1 AND device_id = $2`

// What the device did before it forked, once or many times, and since, by random id: of two phones with one store, one
// may send under the number expected next what the other has sent under another.
const sqlRunsOfIDs = `-- syncengine.RunsOfIDs
WITH RECURSIVE before (device_id) AS (
	SELECT $2::uuid
	UNION
	SELECT l.was FROM before b JOIN lane l ON l.org_id = $1 AND l.device_id = b.device_id WHERE l.was IS NOT NULL)
SELECT first, ids, verdicts, seq FROM ledger WHERE org_id = $1 AND device_id IN (SELECT device_id FROM before) AND ids && $3`

// DeviceGone waits, in the transaction that revokes a device or signs it out, for the batch of it that is being applied:
// every later one finds the device revoked.
func (e *Engine) DeviceGone(ctx context.Context, tx pgx.Tx, org, device satchel.ID) error {
	_, err := tx.Exec(ctx, sqlHoldLane, org, device)
	return err
}

// fresh tells whether a fork's lane has taken nothing yet: the device may not have heard of it.
func (l lane) fresh() bool { return !l.was.IsZero() && l.next == 1 }

// ForkDevice gives a device whose numbering is not the server's (a phone restored from a backup, or cloned) a new id,
// under which it numbers its pending mutations anew (S3). Its session stays that of its sign-in. Asked again before
// the device used the id, it gives the same one.
func (e *Engine) ForkDevice(ctx context.Context, p *satchel.Principal) (id satchel.ID, err error) {
	err = e.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		lock := func(device satchel.ID) (lane, error) { return scanLane(tx.QueryRow(ctx, sqlLockLane, p.Org, device)) }
		root, err := lock(p.Device)
		if err != nil {
			return err
		}
		current, l := p.Device, root
		if !root.successor.IsZero() {
			current = root.successor
			if l, err = lock(current); err != nil {
				return err
			}
		}
		if l.fresh() {
			id = current
			return nil
		}
		id = satchel.NewID()
		if _, err := tx.Exec(ctx, sqlForkLane, p.Org, id, l.person, current, int64(l.next), l.lastEvent); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, sqlSucceed, p.Org, p.Device, id)
		return err
	})
	return id, pg.ToError(err)
}

// enterFork goes on in the lane that took the place of the device's first one, and finds what the device had done
// before: a random id that the kept runs know gets its verdict.
func (b *batch) enterFork(ctx context.Context) error {
	b.device = b.lane.successor
	first, last := b.in.Mutations[0].Number, b.in.Mutations[len(b.in.Mutations)-1].Number
	var err error
	if b.lane, err = scanLane(b.tx.QueryRow(ctx, sqlLockLane, b.orgID, b.device)); err != nil {
		return err
	}
	ids := make([]satchel.ID, len(b.in.Mutations))
	for i := range b.in.Mutations {
		ids[i] = b.in.Mutations[i].ID
	}
	rows, err := b.tx.Query(ctx, sqlRuns, b.orgID, b.device, int64(first)-MaxBatch, int64(last))
	if err != nil {
		return err
	}
	if b.runs, err = pgx.CollectRows(rows, scanRun); err != nil {
		return err
	}
	if rows, err = b.tx.Query(ctx, sqlRunsOfIDs, b.orgID, b.device, ids); err != nil {
		return err
	}
	old, err := pgx.CollectRows(rows, scanRun)
	if err != nil {
		return err
	}
	b.before = map[satchel.ID]Verdict{}
	for _, r := range old {
		for i, id := range r.ids {
			b.before[id] = r.verdict(i)
		}
	}
	return nil
}

// scanLane reads what sqlLockLane gives.
func scanLane(r pgx.Row) (l lane, err error) {
	err = r.Scan(&l.person, &l.next, &l.confirmed, &l.was, &l.wasBelow, &l.successor, &l.lastEvent)
	return l, err
}

func scanRun(r pgx.CollectableRow) (v run, err error) {
	var raw []byte
	if err = r.Scan(&v.first, &v.ids, &raw, &v.seq); err != nil || len(raw) == 0 {
		return v, err
	}
	if err = json.Unmarshal(raw, &v.verdicts); err == nil && len(v.verdicts) != len(v.ids) {
		err = errors.New("syncengine: a run has other verdicts than ids")
	}
	return v, err
}

// verdict gives that of the run's i-th mutation.
func (r run) verdict(i int) Verdict {
	if r.verdicts == nil {
		return Verdict{Status: Applied}
	}
	return r.verdicts[i]
}
