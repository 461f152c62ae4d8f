package syncengine

import (
	"context"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/syncengine/cursor"
)

// Repair (S17). A device whose digest differs, or whose cursor cannot be continued, compares what it holds with what it
// must hold, bucket by bucket, and takes only the rows that differ. Every step looks at the rights of its own moment;
// the plan's cursor stands at the plan's, so that what changes meanwhile comes with the pages behind it.

// Bounds of a step of a repair.
const (
	MaxRepairRevs  = 5000
	MaxRepairRows  = 500
	repairRowBytes = MaxPageBytes
	repairChunk    = 100 // rows read at once
)

// RepairPlan says what a device must hold, at one moment.
type RepairPlan struct {
	Cursor     []byte // the device goes on with it when the repair is done
	Buckets    []BucketDigest
	StaleKinds []string            // their rows look otherwise now, sorted
	Narrowed   map[string][]string // by kind: fields that must go, sorted
	Forms      []Form              // never nil
	Seq        uint64
}

// BucketDigest is what lies of one kind in one bucket; zero = nothing.
type BucketDigest struct {
	Bucket int64
	Kind   string
	Digest Digest
}

// RecordRevs lists records of one kind in one bucket, in the order of their ids, with their revs.
type RecordRevs struct {
	Records []satchel.ID
	Revs    []uint64
	More    bool
}

// repairing is what a step of a repair knows: the person's view at its moment.
type repairing struct {
	tx    pgx.Tx
	org   *org
	clock clock
	view  *cursor.View
}

// inRepair runs a step in one snapshot.
func (e *Engine) inRepair(ctx context.Context, p *satchel.Principal, profile string, fn func(ctx context.Context, r *repairing) error) error {
	err := pg.Snapshot(ctx, e.cfg.Pool, func(ctx context.Context, tx pgx.Tx) (err error) {
		r := &repairing{tx: tx}
		if r.org, r.clock, err = e.orgNow(ctx, tx, p.Org); err != nil {
			return err
		}
		f, err := r.org.profile(profile)
		if err != nil {
			return err
		}
		if r.view, _, err = e.target(ctx, tx, r.org, r.clock, p.Person, f); err != nil {
			return err
		}
		return fn(ctx, r)
	})
	return pg.ToError(err)
}

const sqlBucketDigests = `-- syncengine.BucketDigests
SELECT b.num, b.kind, b.count, b.sum FROM unnest($2::bigint[]) AS u(num),
  LATERAL (SELECT b.num, b.kind, b.count, b.sum FROM bucket b WHERE b.org_id = $1 AND b.num = u.num AND b.kind = ANY($3) OFFSET 0) b`

const sqlRepaired = `-- syncengine.Repaired
UPDATE lane SET repaired_at = $3 WHERE org_id = $1 AND device_id = $2`

// RepairStart begins a repair: every bucket and kind that the device must hold, with its digest, and what must go from
// rows of kinds that look otherwise than by the forms that the device has. An unknown profile is MALFORMED.
func (e *Engine) RepairStart(ctx context.Context, p *satchel.Principal, profile string, forms []Form) (*RepairPlan, error) {
	var plan *RepairPlan
	var r *repairing
	err := e.inRepair(ctx, p, profile, func(ctx context.Context, step *repairing) error {
		r, plan = step, &RepairPlan{Narrowed: map[string][]string{}, Seq: step.clock.Seq}
		found, err := r.digests(ctx, p.Org)
		if err != nil {
			return err
		}
		for _, entry := range r.view.Entries {
			for _, kind := range entry.Kinds {
				plan.Buckets = append(plan.Buckets, BucketDigest{entry.Bucket, kind, found[bucketKind{entry.Bucket, kind}]})
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	plan.Forms = r.view.Forms(r.org.copies())
	plan.StaleKinds, plan.Narrowed = r.view.Stale(forms, plan.Forms)
	c := cursor.Cursor{Live: plan.Seq, LiveRec: cursor.LastRecord, Done: len(r.view.Entries), Staged: true}
	if c.View, err = e.keepView(ctx, p.Org, r.view); err != nil {
		return nil, pg.ToError(err)
	}
	plan.Cursor = c.Seal(r.clock.Key, p.Person)
	if _, err := e.cfg.Pool.Exec(ctx, sqlRepaired, p.Org, p.Device, e.cfg.Now()); err != nil {
		return nil, pg.ToError(err)
	}
	return plan, nil
}

// digests reads those of the view's buckets and kinds.
func (r *repairing) digests(ctx context.Context, org satchel.ID) (map[bucketKind]Digest, error) {
	out := map[bucketKind]Digest{}
	kinds, nums := kindsOf(r.view)
	for i := range kinds {
		rows, err := r.tx.Query(ctx, sqlBucketDigests, org, nums[i], kinds[i])
		if err != nil {
			return nil, err
		}
		var key bucketKind
		var d Digest
		if _, err := pgx.ForEachRow(rows, []any{&key.num, &key.kind, &d.Count, &d.Sum}, func() error {
			out[key] = d
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// By the key of head: a page begins where the last one ended.
const sqlRepairRevs = `-- syncengine.RepairRevs
SELECT h.record_id, r.rev FROM head h JOIN record r ON r.org_id = $1 AND r.id = h.record_id
WHERE h.org_id = $1 AND h.bucket = $2 AND h.kind = $3 AND h.record_id > $4 AND h.present AND NOT r.deleted
ORDER BY h.record_id LIMIT $5`

// RepairRevs lists what lies of a kind in a bucket, behind a record (zero = from the first), at most MaxRepairRevs. Of a
// bucket or kind that the person does not follow by this profile there is nothing.
func (e *Engine) RepairRevs(ctx context.Context, p *satchel.Principal, profile string, bucket int64, kind string, after satchel.ID) (*RecordRevs, error) {
	var out *RecordRevs
	err := e.inRepair(ctx, p, profile, func(ctx context.Context, r *repairing) error {
		out = &RecordRevs{}
		if !r.view.Gives(bucket, kind) {
			return nil
		}
		rows, err := r.tx.Query(ctx, sqlRepairRevs, p.Org, bucket, kind, after, MaxRepairRevs+1)
		if err != nil {
			return err
		}
		var id satchel.ID
		var rev uint64
		_, err = pgx.ForEachRow(rows, []any{&id, &rev}, func() error {
			if len(out.Records) == MaxRepairRevs {
				out.More = true
				return nil
			}
			out.Records, out.Revs = append(out.Records, id), append(out.Revs, rev)
			return nil
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// repairRowsSQL gives records as they stand, in the order asked for. A record that is there lies in its buckets.
// Parameters: org, ids, the view's buckets, mask.
func repairRowsSQL(m cursor.Mask) string {
	return `-- syncengine.RepairRows
SELECT u.n, r.id, r.kind, r.rev, (` + m.Fields + `)::text, r.author, r.event_ms, r.buckets
FROM unnest($2::uuid[]) WITH ORDINALITY AS u(id, n) JOIN record r ON r.org_id = $1 AND r.id = u.id
WHERE NOT r.deleted AND r.buckets && $3::bigint[] ORDER BY u.n`
}

// repairParams is the first parameter of the mask in repairRowsSQL.
const repairParams = 4

// RepairRows gives records as they stand now for this person, by every bucket of the profile in which they are; one that
// is missing is not this person's, or gone. At most MaxRepairRows are asked for; answered tells how many of them, from
// the first, the rows answer: all rows together take about MaxPageBytes, at least one.
func (e *Engine) RepairRows(ctx context.Context, p *satchel.Principal, profile string, ids []satchel.ID) (rows []RowChange, answered int, err error) {
	if len(ids) > MaxRepairRows {
		return nil, 0, satchel.E(satchel.Invalid, satchel.ReasonMalformed, "at most %d records are asked for at once", MaxRepairRows)
	}
	err = e.inRepair(ctx, p, profile, func(ctx context.Context, r *repairing) error {
		rows, answered = nil, 0
		budget := repairRowBytes
		for answered < len(ids) && budget > 0 {
			chunk := ids[answered:min(answered+repairChunk, len(ids))]
			got, n, used, err := r.rows(ctx, p.Org, chunk, budget)
			if err != nil {
				return err
			}
			rows, answered, budget = append(rows, got...), answered+n, budget-used
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	return rows, answered, nil
}

// rows reads some records until the budget is used up; n of them are answered.
func (r *repairing) rows(ctx context.Context, org satchel.ID, ids []satchel.ID, budget int) (out []RowChange, n, used int, err error) {
	nums := make([]int64, len(r.view.Entries))
	for i, entry := range r.view.Entries {
		nums[i] = entry.Bucket
	}
	m := r.view.Mask(r.org.schema, repairParams)
	rows, err := r.tx.Query(ctx, repairRowsSQL(m), append([]any{org, ids, nums}, m.Args...)...)
	if err != nil {
		return nil, 0, 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var c RowChange
		var at int
		var buckets []int64
		if err := rows.Scan(&at, &c.Record, &c.Kind, &c.Rev, &c.Fields, &c.Author, &c.EventMS, &buckets); err != nil {
			return nil, 0, 0, err
		}
		for _, num := range buckets {
			if r.view.Gives(num, c.Kind) {
				c.Entered = append(c.Entered, num)
			}
		}
		if len(c.Entered) == 0 {
			continue // of a kind that does not come by the buckets in which it lies
		}
		out = append(out, c)
		if used += len(c.Fields) + rowOverhead; used >= budget {
			return out, at, used, nil
		}
	}
	return out, len(ids), used, rows.Err()
}
