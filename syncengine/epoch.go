package syncengine

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/jobs"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/syncengine/cursor"
)

// Epochs (S18). A database that was restored, or a standby that was promoted, has lost commits that devices know of. It
// begins a new epoch, the high bits of every seq and of every rev made since, so that no number of the line that is gone
// is ever taken for one of this line.

// Cut is where an older epoch ended on this line of the log.
type Cut struct {
	Epoch uint64 `json:"epoch"`
	Cut   uint64 `json:"cut"` // the last seq of that epoch that this database has
	AtMS  int64  `json:"at"`  // when the next epoch was opened
}

// offeredFor is for how long after a restore devices may offer again what it lost: they keep it for 35 days, and the
// ledger keeps its runs for twice that.
const offeredFor = 70 * 24 * time.Hour

// cutLately tells whether devices may still offer again what a restore lost.
func (c clock) cutLately(now time.Time) bool {
	return len(c.Cuts) > 0 && c.Cuts[len(c.Cuts)-1].AtMS > now.Add(-offeredFor).UnixMilli()
}

// wrongBy is by how much the clock of a phone may be wrong here.
const wrongBy = 3 * 24 * time.Hour

// olderThanCut tells whether the batch has work of before the last restore: a phone that lay in a drawer meanwhile offers
// again all that its log has, however old.
func (b *batch) olderThanCut() bool {
	if len(b.clock.Cuts) == 0 {
		return false
	}
	cut := b.clock.Cuts[len(b.clock.Cuts)-1].AtMS + wrongBy.Milliseconds()
	return slices.ContainsFunc(b.in.Mutations, func(m Mutation) bool { return m.Recorded.WallMS < cut })
}

// Lost says what a restored database has lost of what a device was told; see the directive Restored in the proto.
type Lost struct {
	AfterSeq uint64 // what was acknowledged up to this commit is there
	Expected uint64 // the number that the server expects next from the device
	Seq      uint64 // the commit number of now
}

// epoch is that of the clock.
func (c clock) epoch() uint64 { return c.Seq >> epochShift }

// reaches tells whether a commit that somebody was told of is on this line: false = it is beyond the cut of its epoch, of
// an epoch that this line does not have, or above the clock.
func (c clock) reaches(live uint64) bool { return live <= c.common(live) }

// common gives the last commit of this line that a device that has seen a commit can know.
func (c clock) common(seen uint64) uint64 {
	epoch := seen >> epochShift
	if c.epoch() <= epoch {
		return c.Seq
	}
	for i := len(c.Cuts) - 1; i >= 0; i-- { // they rise
		if c.Cuts[i].Epoch <= epoch {
			return c.Cuts[i].Cut
		}
	}
	return 0
}

// readCuts reads the column cuts, which is nearly always empty.
func readCuts(raw []byte) (cuts []Cut, err error) {
	if len(raw) > len("[]") {
		err = json.Unmarshal(raw, &cuts)
	}
	return cuts, err
}

const sqlCheckLine = `-- syncengine.CheckLine
SELECT pg_is_in_recovery(), satchel_check_line()`

// CheckLine opens a new epoch where the database of the connection is on another line of the log than the one that it
// was on: restored from a backup, or a standby that was promoted. It runs on every new connection before the first
// statement (pg.Options.OnConnect). A database that still recovers, or is a standby, is not there yet: a connection that
// outlived its promotion would write with the numbers of the line that is gone. One that is not migrated so far has
// nothing to compare.
func CheckLine(ctx context.Context, conn *pgx.Conn) error {
	var recovers, opened bool
	err := conn.QueryRow(ctx, sqlCheckLine, pgx.QueryExecModeExec).Scan(&recovers, &opened)
	if missing, ok := errors.AsType[*pgconn.PgError](err); ok && missing.Code == "42883" {
		return nil
	}
	if err == nil && recovers {
		return &pgconn.PgError{Severity: "FATAL", Code: "57P03", Message: "the database recovers, or is a standby: it takes no writes yet"}
	}
	return err
}

const sqlWatchLine = `-- syncengine.WatchLine
SELECT satchel_check_line(), coalesce((SELECT opened_at FROM line), 'epoch')`

// watchLine checks the line as CheckLine does, for a pool without that hook and behind a pooler, and forgets everything
// when another server, or an operator, has opened an epoch.
func (e *Engine) watchLine(ctx context.Context) error {
	var opened bool
	var at time.Time
	if err := e.cfg.Pool.QueryRow(ctx, sqlWatchLine).Scan(&opened, &at); err != nil {
		return err
	}
	e.mu.Lock()
	known := e.lineAt
	e.lineAt = at
	e.mu.Unlock()
	if opened || !known.IsZero() && !known.Equal(at) {
		e.cfg.Logger.Warn("syncengine: the database was restored or promoted; a new epoch has begun")
		e.forget()
	}
	return nil
}

const sqlOpenEpoch = `-- syncengine.OpenEpoch
SELECT satchel_open_epoch()`

// openTime bounds OpenEpoch, its wait for a standby included.
const openTime = 30 * time.Second

// OpenEpoch opens a new epoch in every organisation, for an operator who has restored the database from a snapshot of its
// disk: that shows in nothing (`satchel restored`). To do it without need costs each device a look at its rights.
func (e *Engine) OpenEpoch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	_, err := e.cfg.Pool.Exec(ctx, sqlOpenEpoch)
	if err != nil {
		return pg.ToError(err)
	}
	e.cfg.Logger.Warn("syncengine: a new epoch has begun, by hand")
	e.forget()
	return nil
}

// The line is looked at first: a connection that was made while the database recovered has not seen that it is another.
const sqlOpenEpochSeen = `-- syncengine.OpenEpochSeen
SELECT CASE WHEN satchel_check_line() THEN 1 WHEN satchel_open_epoch_seen($1, $2) THEN 2 ELSE 0 END`

const sqlExpected = `-- syncengine.Expected
SELECT coalesce(s.next, l.next) FROM lane l LEFT JOIN lane s ON s.org_id = $1 AND s.device_id = l.successor
WHERE l.org_id = $1 AND l.device_id = $2`

// Restored tells what this database has lost of what the device was told: seen is the highest commit that it was told of
// (0 = none). nil = nothing. It is asked before Apply; when it is not nil, the answer has the directive only.
//
// Where the device has seen a commit of the running epoch that the clock has not reached, the database was restored and
// nobody noticed. The cursor, which is signed, is the proof by which a new epoch is opened at once for all. A number that
// nothing proves opens none (anybody could send one): the device offers again what is above the clock.
//
// The usual answer costs no look at the database: what this server knew of the clock last is at or past seen. That may be
// an epoch late for one call. Nothing wrong comes of it: a number that this line does not expect is not applied, a rev of
// the other line counts as never seen, and the page says repair.
func (e *Engine) Restored(ctx context.Context, p *satchel.Principal, seen uint64, sealed []byte) (*Lost, error) {
	e.mu.Lock()
	known := e.seqs[p.Org]
	e.mu.Unlock()
	if seen == 0 || seen <= known && seen>>epochShift == known>>epochShift {
		return nil, nil
	}
	c, err := readClock(ctx, e.cfg.Pool, p.Org)
	if err != nil {
		return nil, pg.ToError(err)
	}
	e.notice(p.Org, c)
	if c.reaches(seen) {
		return nil, nil
	}
	lost := &Lost{AfterSeq: c.common(seen)}
	if cur, ok := cursor.Open(c.Key, p.Person, sealed); ok && cur.Live > c.Seq {
		var opened int
		if err := e.cfg.Pool.QueryRow(ctx, sqlOpenEpochSeen, p.Org, int64(cur.Live)).Scan(&opened); err != nil {
			return nil, pg.ToError(err)
		}
		switch opened {
		case 1:
			e.cfg.Logger.Warn("syncengine: the database was restored or promoted; a new epoch has begun")
			e.forget()
		case 2:
			e.cfg.Logger.Error("syncengine: a device knows commits that the database does not have: it was restored without a word; a new epoch has begun", "org", p.Org)
			e.forget()
		}
		if c, err = readClock(ctx, e.cfg.Pool, p.Org); err != nil {
			return nil, pg.ToError(err)
		}
		lost.AfterSeq = min(c.common(seen), c.common(cur.Live))
	}
	lost.Seq, lost.Expected = c.Seq, 1
	err = e.cfg.Pool.QueryRow(ctx, sqlExpected, p.Org, p.Device).Scan(&lost.Expected)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, pg.ToError(err)
	}
	return lost, nil
}

// Each device brings back what was lost in its own order, but not in that of the others: what names a record that
// another one has not brought back yet is refused and kept. Nobody should have to press a button for it, so it is tried
// again by itself.
const (
	youngFor   = KeepLedger  // so long devices offer again what was acknowledged
	clocksOff  = time.Minute // by which the database's clock may be ahead of a server's
	firstTry   = time.Minute // after it came; each next one at twice the age
	maxTries   = 14          // the last one at 8192 minutes: within a week
	restoreRun = 500         // tries of one run of the job
)

// young tells since when this line of the log has been running, while devices may still bring back what it lacks.
func (c clock) young(now time.Time) (since time.Time, ok bool) {
	if len(c.Cuts) == 0 {
		return since, false
	}
	since = time.UnixMilli(c.Cuts[len(c.Cuts)-1].AtMS).Add(-clocksOff)
	return since, now.Sub(since) < youngFor
}

// awaits tells whether the batch keeps something that a device may yet bring back what it needs for.
func (b *batch) awaits() bool {
	for _, k := range b.keeps {
		if k.v.Status == Rejected && (k.v.Reason == satchel.ReasonRecordUnknown || k.v.Reason == satchel.ReasonDependsOn) {
			_, young := b.clock.young(b.now)
			return young
		}
	}
	return false
}

func restoredJob(org satchel.ID, at time.Time) jobs.Job {
	return jobs.Job{Kind: JobRestored, Org: org, RunAt: at, Key: "restored", MaxAttempts: 20}
}

// What may be missing something that comes yet. How often it was tried says when it is due; $3 is firstTry, $4 maxTries.
const awaiting = ` AND state = 'open' AND status = 'REJECTED'
  AND verdict ->> 'why' IN ('RECORD_UNKNOWN', 'DEPENDS_ON') AND mutation IS NOT NULL AND at >= $2 AND tries < $4`

const sqlAwaiting = `-- syncengine.Awaiting
SELECT ` + keptColumns + ` FROM kept WHERE org_id = $1` + awaiting + ` AND at + power(2, tries) * $3::interval <= $5 AND (device_id, number) > ($6, $7)
ORDER BY device_id, number LIMIT 1`

const sqlAwaitingNext = `-- syncengine.AwaitingNext
SELECT min(at + power(2, tries) * $3::interval) FROM kept WHERE org_id = $1` + awaiting

// jobRestored tries again, in order per device and in their authors' names, what named a record that was not there after
// a restore. It ends when nothing is left to be tried, and begins again with the next such mutation that is kept.
func (e *Engine) jobRestored(ctx context.Context, org satchel.ID, _ json.RawMessage) error {
	c, err := readClock(ctx, e.cfg.Pool, org)
	if err != nil {
		return err
	}
	now := e.cfg.Now()
	since, young := c.young(now)
	if !young {
		return nil
	}
	left := restoreRun
	pass := func(due time.Time, patient bool) (int, error) {
		tried, applied, err := e.tryAll(ctx, org, left, func(device satchel.ID, number int64) (pgx.Rows, error) {
			return e.cfg.Pool.Query(ctx, sqlAwaiting, org, since, firstTry, maxTries, due, device, number)
		}, func(m *SystemMutation) {
			m.kept.patient, m.Cause = patient, "what it names had not been brought back yet after a restore"
		})
		left -= tried
		return applied, err
	}
	applied, err := pass(now, false)
	for err == nil && applied > 0 && left > 0 { // what one has made another may wait for; in vain it costs no try
		applied, err = pass(now.Add(youngFor), true)
	}
	if err != nil {
		return err
	}
	var next *time.Time
	if err := e.cfg.Pool.QueryRow(ctx, sqlAwaitingNext, org, since, firstTry, maxTries).Scan(&next); err != nil || next == nil {
		return err
	}
	pause := max(next.Sub(now), firstTry)
	if left == restoreRun { // what is due is of people who are disabled now
		pause = max(pause, now.Sub(since)/64)
	}
	return jobs.Snooze(pause)
}

// notice takes note of a clock that was read. A new epoch means that what this server knows is of a line that is gone.
func (e *Engine) notice(id satchel.ID, c clock) {
	e.mu.Lock()
	known, ok := e.seqs[id]
	put(e.seqs, id, c.Seq)
	e.mu.Unlock()
	if ok && known>>epochShift != c.epoch() {
		e.forget()
	}
}

// forget empties the caches: views and buckets that were known may not be in this database.
func (e *Engine) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.orgs)
	clear(e.grants)
	clear(e.follow)
	clear(e.views)
	clear(e.nums)
	clear(e.seqs)
}
