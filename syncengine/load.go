package syncengine

import (
	"bytes"
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
	refused map[satchel.ID]satchel.ID // record whose creation was refused → attention

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
	first := uint64(0)
	if b.source == nil {
		first = b.in.Mutations[0].Number
		last := b.in.Mutations[len(b.in.Mutations)-1].Number
		q.Queue(sqlLockLane, b.orgID, b.device)
		q.Queue(sqlRuns, b.orgID, b.device, int64(first)-MaxBatch, int64(last))
	} else {
		q.Queue(sqlSeenKey, b.orgID, b.source.Source, b.source.Key)
	}
	q.Queue(sqlLockRecords, b.orgID, records)
	q.Queue(sqlShareRecords, b.orgID, parents)
	// Behind the locks, so that it knows every bucket in which a locked record lies.
	q.Queue(sqlClock, b.orgID)
	q.Queue(sqlRefused, b.orgID, append(slices.Clone(records), parents...))

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
		l := &b.lane
		err := res.QueryRow().Scan(&l.person, &l.next, &l.confirmed, &l.was, &l.wasBelow, &l.successor, &l.lastEvent)
		if errors.Is(err, pgx.ErrNoRows) {
			return errNoLane
		}
		if err != nil {
			return err
		}
		if l.person != b.person {
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
	err := res.QueryRow().Scan(&c.Seq, &c.Rights, &c.Buckets, &c.SchemaVersion, &c.Key)
	if errors.Is(err, pgx.ErrNoRows) {
		return satchel.E(satchel.NotFound, satchel.ReasonNotFound, "no such organisation")
	}
	if err != nil {
		return err
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

// named collects the ids that the ops name, and those of the records that new ones hang under; sorted, so that two
// batches lock in one order. A batch that only creates shares the parents: many visits to one account do not wait for
// each other. One that also edits locks all of them alike, in one pass: two passes would be two orders, and a deadlock
// costs a second.
func (b *batch) named() (records, parents []satchel.ID) {
	edits := false
	for i := range b.in.Mutations {
		for j := range b.in.Mutations[i].Ops {
			op := &b.in.Mutations[i].Ops[j]
			records = append(records, op.Record)
			edits = edits || op.Action != Create
			if op.Action == Create || op.Action == Patch {
				parents = append(parents, referenced(op.Fields)...)
			}
		}
	}
	order := func(a, b satchel.ID) int { return bytes.Compare(a[:], b[:]) }
	if edits {
		records, parents = append(records, parents...), nil
	}
	slices.SortFunc(records, order)
	records = slices.Compact(records)
	slices.SortFunc(parents, order)
	parents = slices.DeleteFunc(slices.Compact(parents), func(id satchel.ID) bool {
		_, own := slices.BinarySearchFunc(records, id, order)
		return own
	})
	return records, parents
}

// referenced finds what looks like ids among the values of a JSON object, without knowing the schema: at most 8 are
// shared-locked, and only the kind's parent matters.
func referenced(fields json.RawMessage) []satchel.ID {
	var out []satchel.ID
	for rest := fields; len(out) < 8; {
		at := bytes.IndexByte(rest, ':')
		if at < 0 {
			break
		}
		rest = bytes.TrimLeft(rest[at+1:], " \t\r\n")
		if len(rest) >= 38 && rest[0] == '"' && rest[37] == '"' {
			if id, err := satchel.ParseID(string(rest[1:37])); err == nil {
				out = append(out, id)
			}
		}
	}
	return out
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
