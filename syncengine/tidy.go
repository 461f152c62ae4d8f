package syncengine

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/jobs"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine/cursor"
)

// What nobody can ask for any more goes, once a day and organisation: tombstones behind the horizon (S17), runs of the
// ledger, keys, views, what was settled at the office. All in pieces that hold others up for milliseconds, and each can
// be done again.

// How long things are kept, but for Config.KeepTombstones.
const (
	KeepLedger = 35 * 24 * time.Hour  // runs after their confirmation, keys of sources, settled kept mutations
	KeepViews  = 200 * 24 * time.Hour // after their last use
)

const (
	tidyEvery = 24 * time.Hour
	tidyPiece = 2000 // rows, or heads, that a piece looks at
	tidyRun   = 100  // pieces that one job does; the next one goes on
	sweepRun  = 1000 // most of which only look
)

// A source is listed here when none of its keys can come again 35 days later: a job is tried for hours, a timer's token
// is used once, a decision in a browser or a try at the office is sent again within a session. An import may be done
// again whenever its operator likes, so its keys stay, and so do those of sources that are not known here.
var onceSources = []string{"approval", "desk", "directory", "kept", "media", "parked", "salvage"}

// tidyArgs is the place of a sweep; the zero value is the daily job.
type tidyArgs struct {
	To     uint64 // horizon that the sweep is for
	Bucket int64  // goes on behind this place
	Seq    uint64
	Record satchel.ID
}

func tidyJob(org satchel.ID, at time.Time) jobs.Job {
	return jobs.Job{Kind: JobTidy, Org: org, RunAt: at, Key: "daily"}
}

const sqlOrgs = `-- syncengine.Orgs
SELECT org_id FROM org_clock WHERE org_id > $1 ORDER BY org_id LIMIT $2`

// seedTidy gives every organisation its daily job, where it has none.
func (e *Engine) seedTidy(ctx context.Context) error {
	after := satchel.ID{}
	for {
		ids, err := collect[satchel.ID](ctx, e, sqlOrgs, after, 500)
		if err != nil || len(ids) == 0 {
			return err
		}
		js := make([]jobs.Job, len(ids))
		for i, id := range ids {
			js[i] = tidyJob(id, e.cfg.Now().Add(tidyEvery))
		}
		if err := e.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error { return e.cfg.Jobs.Enqueue(ctx, tx, js...) }); err != nil {
			return err
		}
		after = ids[len(ids)-1]
	}
}

const sqlMark = `-- syncengine.Mark
INSERT INTO mark (org_id, at, seq) SELECT org_id, $2, seq FROM org_clock WHERE org_id = $1 ON CONFLICT DO NOTHING`

const sqlOldMark = `-- syncengine.OldMark
SELECT at, seq FROM mark WHERE org_id = $1 AND at <= $2 ORDER BY at DESC LIMIT 1`

const sqlDropMarks = `-- syncengine.DropMarks
DELETE FROM mark WHERE org_id = $1 AND at < $2`

// jobTidy is the daily job; it enqueues the next one first, so that no failure ends the row of them.
func (e *Engine) jobTidy(ctx context.Context, org satchel.ID, raw json.RawMessage) error {
	var args tidyArgs
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &args); err != nil {
			return jobs.Discard(err)
		}
	}
	if args.To > 0 {
		return e.sweep(ctx, org, args)
	}
	now := e.cfg.Now()
	var sweep tidyArgs
	if err := e.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, sqlMark, org, now); err != nil {
			return err
		}
		js := []jobs.Job{tidyJob(org, now.Add(tidyEvery))}
		var at time.Time
		err := tx.QueryRow(ctx, sqlOldMark, org, now.Add(-e.cfg.KeepTombstones)).Scan(&at, &sweep.To)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		if sweep.To > 0 {
			if _, err := tx.Exec(ctx, sqlDropMarks, org, at); err != nil {
				return err
			}
			js = append(js, jobs.Job{Kind: JobTidy, Org: org, Args: sweep, Key: "sweep"})
		}
		return e.cfg.Jobs.Enqueue(ctx, tx, js...)
	}); err != nil {
		return err
	}
	return e.tidyTables(ctx, org, now)
}

// The statements of tidyTables delete at most $4 rows that are older than $2; $3 is their own.
const (
	sqlTidyLedger = `-- syncengine.TidyLedger
DELETE FROM ledger l USING (SELECT r.device_id, r.first FROM lane n, ledger r
  WHERE n.org_id = $1 AND n.trim_at < $2 AND r.org_id = $1 AND r.device_id = n.device_id
    AND r.first + cardinality(r.ids) <= n.trim_to + 1
    AND EXISTS (SELECT 1 FROM ledger m WHERE m.org_id = $1 AND m.device_id = r.device_id AND m.first > r.first)
  LIMIT $3) old
WHERE l.org_id = $1 AND l.device_id = old.device_id AND l.first = old.first`

	sqlTidyViews = `-- syncengine.TidyViews
DELETE FROM view WHERE org_id = $1 AND hash IN (SELECT hash FROM view WHERE org_id = $1 AND used_on < $2::timestamptz LIMIT $3)`

	sqlTidyKept = `-- syncengine.TidyKept
DELETE FROM kept k USING (SELECT device_id, number FROM kept
  WHERE org_id = $1 AND at < $2 AND state <> 'open' AND settled_at < $2 LIMIT $3) old
WHERE k.org_id = $1 AND k.device_id = old.device_id AND k.number = old.number`

	sqlTidySalvage = `-- syncengine.TidySalvage
DELETE FROM salvage WHERE org_id = $1 AND record_id IN (SELECT record_id FROM salvage WHERE org_id = $1 AND at < $2 ORDER BY at LIMIT $3)`
)

// A run is kept 35 days after its confirmation. When a device confirms is not noted; up to where it had confirmed is,
// each 35 days: what was confirmed at the last such moment goes at the next.
const sqlTrimLanes = `-- syncengine.TrimLanes
UPDATE lane SET trim_to = confirmed, trim_at = $3 WHERE org_id = $1 AND device_id IN
  (SELECT device_id FROM lane WHERE org_id = $1 AND trim_at < $2 AND confirmed > trim_to LIMIT $4)`

// The keys of the sources, walked through in their order.
const sqlTidyKeys = `-- syncengine.TidyKeys
WITH piece AS (SELECT source, key, at FROM ledger_source WHERE org_id = $1 AND (source, key) > ($2, $3) ORDER BY source, key LIMIT $4),
gone AS (DELETE FROM ledger_source l USING piece p WHERE l.org_id = $1 AND l.source = p.source AND l.key = p.key
  AND p.at < $5 AND (p.source = ANY($6) OR p.source LIKE 'rule:%'))
SELECT source, key FROM piece ORDER BY source DESC, key DESC LIMIT 1`

// tidyTables deletes what is too old, in pieces; what is left after tidyRun of them is done tomorrow.
func (e *Engine) tidyTables(ctx context.Context, org satchel.ID, now time.Time) error {
	run := 0
	for _, t := range []struct {
		sql  string
		keep time.Duration
	}{{sqlTidyLedger, KeepLedger}, {sqlTidyViews, KeepViews}, {sqlTidyKept, KeepLedger}, {sqlTidySalvage, e.cfg.KeepTombstones}} {
		for run < tidyRun {
			run++
			tag, err := e.cfg.Pool.Exec(ctx, t.sql, org, now.Add(-t.keep), tidyPiece)
			if err != nil {
				return err
			}
			if tag.RowsAffected() < tidyPiece {
				break
			}
		}
	}
	if run == tidyRun {
		return nil // what trimLanes would note must be gone first
	}
	if _, err := e.cfg.Pool.Exec(ctx, sqlTrimLanes, org, now.Add(-KeepLedger), now, 10*tidyPiece); err != nil {
		return err
	}
	source, key := "", ""
	for range tidyRun {
		err := e.cfg.Pool.QueryRow(ctx, sqlTidyKeys, org, source, key, tidyPiece, now.Add(-KeepLedger), onceSources).Scan(&source, &key)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// The buckets in which something moved since the last sweep, and the heads of one of them between that sweep and the
// horizon; live ones are only passed. The sweep costs what changed on the days that the horizon passed.
const sqlSweepBuckets = `-- syncengine.SweepBuckets
SELECT DISTINCT b.num FROM bucket b, org_clock c
WHERE b.org_id = $1 AND c.org_id = $1 AND b.last_seq > c.swept AND b.num >= $2 ORDER BY b.num LIMIT 1000`

const sqlSweepHeads = `-- syncengine.SweepHeads
SELECT h.seq, h.record_id, h.present,
  coalesce((SELECT r.deleted FROM record r WHERE r.org_id = $1 AND r.id = h.record_id), true) -- never joined: that read all
FROM head h WHERE h.org_id = $1 AND h.bucket = $2 AND (h.seq, h.record_id) > ($3, $4) AND h.seq <= $5
ORDER BY h.seq, h.record_id LIMIT $6`

const sqlSweptTo = `-- syncengine.SweptTo
SELECT swept FROM org_clock WHERE org_id = $1`

const sqlSwept = `-- syncengine.Swept
UPDATE org_clock SET horizon = greatest(horizon, $2), swept = greatest(swept, $2) WHERE org_id = $1`

// sweep deletes heads that left and records that were deleted, all at or behind the horizon, from the place of the
// arguments on.
func (e *Engine) sweep(ctx context.Context, org satchel.ID, at tidyArgs) error {
	var swept uint64
	if err := e.cfg.Pool.QueryRow(ctx, sqlSweptTo, org).Scan(&swept); err != nil {
		return err
	}
	for pieces := 0; ; {
		nums, err := collect[int64](ctx, e, sqlSweepBuckets, org, at.Bucket)
		if err != nil {
			return err
		}
		if len(nums) == 0 {
			_, err := e.cfg.Pool.Exec(ctx, sqlSwept, org, int64(at.To))
			return err
		}
		for _, num := range nums {
			if num > at.Bucket {
				at = tidyArgs{To: at.To, Bucket: num}
			}
			if at.Seq < swept { // what is left of an older sweep is live
				at.Seq, at.Record = swept, cursor.LastRecord
			}
			for more := true; more; pieces++ {
				if pieces == sweepRun {
					return e.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
						return e.cfg.Jobs.Enqueue(ctx, tx, jobs.Job{Kind: JobTidy, Org: org, Args: at, Key: "sweep"})
					})
				}
				if more, err = e.sweepPiece(ctx, org, &at); err != nil {
					return err
				}
			}
		}
		at = tidyArgs{To: at.To, Bucket: nums[len(nums)-1] + 1}
	}
}

// sweepPiece looks at the next heads of a bucket and moves the place behind them. More says that there are others.
func (e *Engine) sweepPiece(ctx context.Context, org satchel.ID, at *tidyArgs) (more bool, err error) {
	rows, err := e.cfg.Pool.Query(ctx, sqlSweepHeads, org, at.Bucket, int64(at.Seq), at.Record, int64(at.To), tidyPiece)
	if err != nil {
		return false, err
	}
	var left, deleted []satchel.ID
	var present, gone bool
	next, n := *at, 0
	if _, err := pgx.ForEachRow(rows, []any{&next.Seq, &next.Record, &present, &gone}, func() error {
		n++
		switch {
		case !present:
			left = append(left, next.Record)
		case gone:
			deleted = append(deleted, next.Record)
		}
		return nil
	}); err != nil {
		return false, err
	}
	if len(left)+len(deleted) > 0 {
		if err := e.purge(ctx, org, at.Bucket, at.To, left, deleted); err != nil {
			return false, err
		}
	}
	*at = next
	return n == tidyPiece, nil
}

// A deleted record lies where its tombstone is; whenever it moved last, all those heads moved.
const sqlLockDeleted = `-- syncengine.LockDeleted
SELECT id FROM record WHERE org_id = $1 AND id = ANY($2) AND deleted AND cardinality(buckets) > 0 ORDER BY id FOR UPDATE`

// Asked behind the lock: who revived it, or moved its tombstone, has done so or waits.
const sqlKeepPurged = `-- syncengine.KeepPurged
INSERT INTO history (org_id, record_id, id, rev, op, before, source, cause, event_ms, received_at)
SELECT r.org_id, r.id, u.id, r.rev, 'purge', jsonb_build_object('kind', r.kind, 'data', r.data, 'stamps', r.stamps, 'author', r.author,
  'parent', r.parent, 'parent_owner', r.parent_owner, 'event_ms', r.event_ms, 'root', r.root), 'tidy', $5, r.event_ms, $6
FROM record r, unnest($2::uuid[], $3::uuid[]) AS u(record_id, id)
WHERE r.org_id = $1 AND r.id = u.record_id AND NOT EXISTS
  (SELECT 1 FROM head h WHERE h.org_id = $1 AND h.bucket = ANY(r.buckets) AND h.record_id = r.id AND h.seq > $4)
RETURNING record_id`

const sqlDropTombstones = `-- syncengine.DropTombstones
DELETE FROM head h USING record r WHERE r.org_id = $1 AND r.id = ANY($2) AND h.org_id = $1 AND h.bucket = ANY(r.buckets) AND h.record_id = r.id`

const sqlDropRecords = `-- syncengine.DropRecords
DELETE FROM record WHERE org_id = $1 AND id = ANY($2)`

const sqlDropLeft = `-- syncengine.DropLeft
DELETE FROM head WHERE org_id = $1 AND bucket = $2 AND record_id = ANY($3) AND NOT present AND seq <= $4`

const sqlHorizon = `-- syncengine.Horizon
UPDATE org_clock SET horizon = greatest(horizon, $2) WHERE org_id = $1`

// purge deletes heads that left a bucket and deleted records, and moves the horizon in the same commit: who sees that
// they are gone sees the horizon. History keeps what a record was, so that an edit can revive it.
func (e *Engine) purge(ctx context.Context, org satchel.ID, bucket int64, to uint64, left, deleted []satchel.ID) error {
	return e.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		locked, err := ids(tx.Query(ctx, sqlLockDeleted, org, deleted))
		if err != nil {
			return err
		}
		entries := make([]satchel.ID, len(locked))
		for i := range entries {
			entries[i] = satchel.NewID()
		}
		gone, err := ids(tx.Query(ctx, sqlKeepPurged, org, locked, entries, int64(to), "deleted longer ago than devices may stay away", e.cfg.Now()))
		if err != nil {
			return err
		}
		var q pgx.Batch
		q.Queue(sqlDropTombstones, org, gone)
		q.Queue(sqlDropRecords, org, gone)
		q.Queue(sqlDropLeft, org, bucket, left, int64(to))
		q.Queue(sqlHorizon, org, int64(to)) // the clock's lock comes last, as in every commit
		return tx.SendBatch(ctx, &q).Close()
	})
}

func ids(rows pgx.Rows, err error) ([]satchel.ID, error) {
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[satchel.ID])
}

const sqlPurged = `-- syncengine.Purged
SELECT rev, before FROM history WHERE org_id = $1 AND record_id = $2 AND op = 'purge' ORDER BY id DESC LIMIT 1`

// purged gives a record that was deleted so long ago that only history has it, as it stood then: an edit revives it, or
// is refused, as if it were there still. nil = there was none. Only what would be refused asks for it. A create does not:
// of a phone that comes with one of before the horizon, it makes the record anew.
func (a *attempt) purged(ctx context.Context, id satchel.ID) (*row, error) {
	if _, waits := a.b.refused[id]; waits || id.IsZero() {
		return nil, nil
	}
	var raw []byte
	rec := &schema.Record{ID: id, Deleted: true}
	err := a.b.tx.QueryRow(ctx, sqlPurged, a.b.orgID, id).Scan(&rec.Rev, &raw)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var was struct {
		Kind         string          `json:"kind"`
		Data, Stamps json.RawMessage // of the same names
		Author       satchel.ID      `json:"author"`
		Parent       satchel.ID      `json:"parent"`
		ParentOwner  satchel.ID      `json:"parent_owner"`
		EventMS      int64           `json:"event_ms"`
		Root         satchel.ID      `json:"root"`
	}
	if err := json.Unmarshal(raw, &was); err != nil {
		return nil, err
	}
	rec.Kind, rec.Author, rec.EventMS = was.Kind, was.Author, was.EventMS
	if rec.Data, err = decodeObject(was.Data); err != nil {
		return nil, err
	}
	if rec.Stamps, err = decodeStamps(was.Stamps); err != nil {
		return nil, err
	}
	r := &row{rec: rec, parent: was.Parent, parentOwner: was.ParentOwner, above: was.ParentOwner, root: was.Root}
	a.b.rows[id] = r
	return r, nil
}

// rowOrPurged is row, or what history has of a record that was purged.
func (a *attempt) rowOrPurged(ctx context.Context, id satchel.ID) (*row, error) {
	r, err := a.row(ctx, id)
	if r == nil && err == nil {
		r, err = a.purged(ctx, id)
	}
	return r, err
}
