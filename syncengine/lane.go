package syncengine

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/pg"
)

// lane is a device's queue.
type lane struct {
	person          satchel.ID
	next, confirmed uint64
	was             satchel.ID
	wasBelow        uint64
	successor       satchel.ID // the lane that took its place
	lastEvent       int64
}

// run is a row of the ledger.
type run struct {
	first    uint64
	ids      []satchel.ID
	verdicts []Verdict // nil = all APPLIED without notes
	seq      uint64
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
