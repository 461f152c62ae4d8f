package syncengine

import (
	"context"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/access"
	"github.com/satchel-sync/satchel/internal/mutant"
	"github.com/satchel-sync/satchel/syncengine/cursor"
)

// pageBuilder builds one page in one snapshot.
type pageBuilder struct {
	e        *Engine
	tx       pgx.Tx
	p        *satchel.Principal
	in       PullRequest
	org      *org
	clock    clock
	turn     cursor.Turn
	old      *cursor.View // of the request's cursor; nil = it had none
	first    string       // the oldest month that is followed; "" = all
	budget   int          // bytes left
	used     int          // bytes of the page's changes
	page     *Page
	full     bool // the budget is used up
	digested bool // the page's digest was read
}

// worthShowing is from how many bytes on a page that completes a priority ends there, so that the device shows it before
// the rest has come: fewer are not worth a round trip.
const worthShowing = 32 << 10

func (b *pageBuilder) build(ctx context.Context) error {
	var err error
	if b.org, b.clock, err = b.e.orgNow(ctx, b.tx, b.p.Org); err != nil {
		return err
	}
	profile, err := b.org.profile(b.in.Profile)
	if err != nil {
		return err
	}
	target, follow, err := b.e.target(ctx, b.tx, b.org, b.clock, b.p.Person, profile)
	if err != nil {
		return err
	}
	b.first = follow.first
	if err := b.begin(ctx, target); err != nil || b.page.Repair != nil {
		return err
	}
	if b.turn.Changed {
		b.page.Forms = b.turn.View.Forms(b.org.copies())
	}
	if err := b.live(ctx); err != nil {
		return err
	}
	for !b.full && b.turn.Cursor.Done < len(b.turn.View.Entries) {
		if err := b.fill(ctx); err != nil {
			return err
		}
		if b.page.SettledPriority = b.settled(); b.page.SettledPriority > 0 {
			break
		}
	}
	b.page.More = b.full || b.page.SettledPriority > 0
	if b.full {
		return nil
	}
	b.checkpoint()
	if b.page.SettledPriority > 0 || b.digested {
		return nil
	}
	var q pgx.Batch
	n := queueDigest(&q, b.p.Org, b.turn.View)
	res := b.tx.SendBatch(ctx, &q)
	err = b.digest(res, n)
	if closeErr := res.Close(); err == nil {
		err = closeErr
	}
	return err
}

// checkpoint says that what is settled is complete.
func (b *pageBuilder) checkpoint() {
	b.page.Checkpoint, b.page.Seq, b.page.SchemaVersion = true, b.clock.Seq, b.org.schema.Version
	b.page.FollowedMonths = access.MonthsSince(b.first, b.e.cfg.Now(), b.org.zone)
}

// settled tells how many priorities are settled, where the entry that was just filled is the last of one and showing it
// now is worth a checkpoint and right; 0 = go on. The live part is caught up, or nothing would be filled.
func (b *pageBuilder) settled() int {
	c := &b.turn.Cursor
	if b.full || c.Whole || c.Done == len(b.turn.View.Entries) || b.used < worthShowing && !c.Staged {
		return 0
	}
	n := b.turn.View.Settled(c.Done)
	if n == b.turn.View.Settled(c.Done-1) {
		return 0
	}
	return n
}

// seal gives the page its cursor and, at a checkpoint, its token: the proof of what the device shows, which are the
// entries that are complete.
func (b *pageBuilder) seal(ctx context.Context) (err error) {
	c := &b.turn.Cursor
	if b.turn.Changed {
		if c.View, err = b.e.keepView(ctx, b.p.Org, b.turn.View); err != nil {
			return err
		}
	} else if err := b.e.viewInUse(ctx, b.p.Org, c.View); err != nil {
		return err
	}
	c.Staged = !b.page.Checkpoint
	b.page.Cursor = c.Seal(b.clock.Key, b.p.Person)
	if !b.page.Checkpoint {
		return nil
	}
	shown := c.View
	if c.Done < len(b.turn.View.Entries) {
		if shown, err = b.e.keepView(ctx, b.p.Org, b.turn.View.Complete(c.Done)); err != nil {
			return err
		}
	}
	b.page.Token = cursor.Token{View: shown, Seq: b.page.Seq, TimeMS: b.e.cfg.Now().UnixMilli()}.Seal(b.clock.Key, b.p.Person)
	return nil
}

// copies names the kinds that keep values of others.
func (o *org) copies() []string {
	var out []string
	for _, kind := range o.schema.Kinds() {
		if o.schema.Kind(kind).Copies {
			out = append(out, kind)
		}
	}
	return out
}

// begin opens the cursor and turns it to what the person follows now, or sends the device to repair.
func (b *pageBuilder) begin(ctx context.Context, target *cursor.View) error {
	if len(b.in.Cursor) == 0 {
		b.turn = cursor.Turn{View: target, Changed: true, Cursor: cursor.Cursor{Live: b.clock.Seq, LiveRec: cursor.LastRecord}}
		return nil
	}
	malformed := satchel.E(satchel.Invalid, satchel.ReasonMalformedCursor,
		"the cursor is not one that this server gave to this person; drop the pulled records, keep the pending mutations, and pull with no cursor")
	c, ok := cursor.Open(b.clock.Key, b.p.Person, b.in.Cursor)
	if !ok {
		return malformed
	}
	if !b.clock.reaches(c.Live) {
		b.page.Repair = &RepairOrder{Salvage: true}
		return nil
	}
	old, err := b.e.view(ctx, b.tx, b.p.Org, c.View)
	if err != nil {
		return err
	}
	if old == nil || c.Since() < b.clock.Horizon {
		b.page.Repair = &RepairOrder{}
		return nil
	}
	if c.Done > len(old.Entries) {
		return malformed
	}
	b.old = old
	if old.Same(target) {
		b.turn = cursor.Turn{View: old, Cursor: c}
		return nil
	}
	b.turn = cursor.TurnTo(old, c, target, b.org.copies())
	b.page.Dropped, b.page.DroppedKinds, b.page.Narrowed = b.turn.Dropped, b.turn.DroppedKinds, b.turn.Narrowed
	return nil
}

// mask compiles the view's mask; first is the number of its first parameter.
func (b *pageBuilder) mask(first int) cursor.Mask {
	if mutant.On(mutant.YesterdaysMask) && b.old != nil {
		return b.old.Mask(b.org.schema, first)
	}
	return b.turn.View.Mask(b.org.schema, first)
}

// unmasked tells whether a person may see all these fields of a kind.
func (b *pageBuilder) unmasked(kind string, fields []string) bool {
	m := b.turn.View.Masks[kind]
	for _, f := range fields {
		if slices.Contains(m.Hidden, f) || slices.Contains(m.Partial, f) {
			return false
		}
	}
	return !b.org.schema.Kind(kind).Copies
}

// The first parameter of the mask in each statement, behind those of the statement itself.
const (
	liveParams = 6
	fillParams = 8
)

// live brings what changed in the complete buckets after the live place, in (seq, record) order. Where all are complete
// the digest comes in the same round trip.
func (b *pageBuilder) live(ctx context.Context) error {
	c := &b.turn.Cursor
	nums, wanted := b.complete()
	if len(nums) == 0 {
		c.Live, c.LiveRec = b.clock.Seq, cursor.LastRecord
		return nil
	}
	m := b.mask(liveParams)
	for !b.full {
		limit := b.chunk() + access.MaxBucketsPerRecord
		var q pgx.Batch
		q.Queue("-- syncengine.Live\n"+liveSQL(m), append([]any{b.p.Org, nums, int64(c.Live), c.LiveRec, limit}, m.Args...)...)
		digests := 0
		if !b.digested && c.Done == len(b.turn.View.Entries) {
			digests = queueDigest(&q, b.p.Org, b.turn.View)
		}
		n, err := b.liveChunk(ctx, &q, limit, digests, wanted)
		if err != nil {
			return err
		}
		if n < limit {
			if !b.full {
				c.Live, c.LiveRec = b.clock.Seq, cursor.LastRecord
			}
			return nil
		}
	}
	return nil
}

// complete gives the buckets that are complete, and which of their kinds are.
func (b *pageBuilder) complete() (nums []int64, wanted func(bucket int64, kind string) bool) {
	kinds := map[int64][]string{}
	for _, entry := range b.turn.View.Entries[:b.turn.Cursor.Done] {
		if kinds[entry.Bucket] == nil {
			nums = append(nums, entry.Bucket)
		}
		kinds[entry.Bucket] = append(kinds[entry.Bucket], entry.Kinds...)
	}
	return nums, func(bucket int64, kind string) bool { return slices.Contains(kinds[bucket], kind) }
}

// liveChunk sends a look at the live part, and reads what comes.
func (b *pageBuilder) liveChunk(ctx context.Context, q *pgx.Batch, limit, digests int, wanted func(int64, string) bool) (n int, err error) {
	res := b.tx.SendBatch(ctx, q)
	defer func() {
		if closeErr := res.Close(); err == nil {
			err = closeErr
		}
	}()
	return b.readLive(res, limit, digests, wanted)
}

// readLive reads a look at the live part, and the digest where that was asked for with it.
func (b *pageBuilder) readLive(res pgx.BatchResults, limit, digests int, wanted func(int64, string) bool) (n int, err error) {
	rows, err := res.Query()
	if err != nil {
		return 0, err
	}
	c := &b.turn.Cursor
	if n, err = b.take(rows, limit, wanted, func(seq uint64, record satchel.ID) { c.Live, c.LiveRec = seq, record }); err != nil {
		return n, err
	}
	if digests > 0 && !b.full {
		err = b.digest(res, digests)
	}
	return n, err
}

// fill goes on with the first incomplete bucket.
func (b *pageBuilder) fill(ctx context.Context) error {
	c := &b.turn.Cursor
	entry := b.turn.View.Entries[c.Done]
	if c.FillSince == 0 {
		c.FillSince = b.clock.Seq
	}
	m := b.mask(fillParams)
	for !b.full {
		limit := b.chunk() + 1
		after := c.FillRec
		rows, err := b.tx.Query(ctx, "-- syncengine.Fill\n"+fillSQL(m),
			append([]any{b.p.Org, entry.Bucket, int64(c.FillSeq), after, limit, entry.Kinds, int64(c.FillSince)}, m.Args...)...)
		if err != nil {
			return err
		}
		n, err := b.take(rows, limit, func(int64, string) bool { return true },
			func(seq uint64, record satchel.ID) { c.FillSeq, c.FillRec = seq, record })
		if err != nil {
			return err
		}
		if n < limit && !b.full {
			c.Done++
			c.FillSeq, c.FillRec = 0, satchel.ID{}
			if c.Done == len(b.turn.View.Entries) {
				c.FillSince, c.Whole = 0, false
			}
			return nil
		}
	}
	return nil
}

// usualRow is what a row takes of the budget until some were seen, in bytes.
const usualRow = 1000

// chunk guesses how many rows use up the budget, from those of the page so far, and a tenth more: rows beyond the
// budget were read in vain, and too few cost another look.
func (b *pageBuilder) chunk() int {
	row := usualRow
	if n := len(b.page.Changes); n > 0 {
		row = b.used / n
	}
	n := b.budget / row
	return min(max(n+n/10, 20), 5000)
}

// take reads heads with their rows, in (seq, record) order, groups those of one record, and stops when the budget is
// used up. It gives how many heads it read; of a full chunk the last group may be cut, so it is left for the next one.
func (b *pageBuilder) take(rows pgx.Rows, limit int, wanted func(bucket int64, kind string) bool, passed func(seq uint64, record satchel.ID)) (n int, err error) {
	defer rows.Close()
	var cur RowChange
	var curSeq uint64
	flush := func() {
		if cur.Record.IsZero() {
			return
		}
		passed(curSeq, cur.Record)
		if len(cur.Entered)+len(cur.Left) > 0 {
			if len(cur.Entered) == 0 {
				cur.Fields = nil
			}
			if sent, ok := b.in.Sent[cur.Record]; ok && sent.Rev == cur.Rev && cur.Fields != nil && b.unmasked(cur.Kind, sent.Names) {
				cur.AsSent, cur.Fields = true, sent.Extra
			}
			b.page.Changes = append(b.page.Changes, cur)
			b.used += len(cur.Fields) + rowOverhead
			b.budget -= len(cur.Fields) + rowOverhead
			b.full = b.budget <= 0
		}
	}
	groups := 0
	for rows.Next() {
		var r RowChange
		var bucket int64
		var seq uint64
		var present bool
		if err := rows.Scan(&bucket, &r.Record, &seq, &present, &r.Kind, &r.Rev, &r.Fields, &r.Deleted, &r.Author, &r.EventMS, &r.MergedInto); err != nil {
			return n, err
		}
		n++
		if r.Record != cur.Record || seq != curSeq {
			flush()
			if b.full {
				return n, nil
			}
			groups++
			cur, curSeq = r, seq
		}
		if !wanted(bucket, r.Kind) {
			continue
		}
		if present {
			cur.Entered = append(cur.Entered, bucket)
			if cur.Fields == nil {
				cur.Fields = r.Fields
			}
		} else {
			cur.Left = append(cur.Left, bucket)
		}
	}
	if err := rows.Err(); err != nil {
		return n, err
	}
	if n == limit && groups > 1 {
		return n, nil // the last group may go on behind the limit
	}
	flush()
	return n, nil
}

// headColumns are what a page needs of a head and its record; a tombstone and a head that left carry no fields.
func headColumns(m cursor.Mask) string {
	return `h.bucket, h.record_id, h.seq, h.present, r.kind, r.rev,
  CASE WHEN h.present AND NOT r.deleted THEN (` + m.Fields + `)::text END, r.deleted, r.author, r.event_ms,
  CASE WHEN r.deleted THEN r.root END`
}

// liveSQL probes only buckets in which something is newer than the live place. The page's heads are found before their
// records are read: joined at once, 30 buckets that are all far behind read 6,000 records for a page of 200 (seen in
// the plan, 17 ms instead of 5).
// Parameters: org, buckets, live seq, live record, limit, mask.
func liveSQL(m cursor.Mask) string {
	return `SELECT ` + headColumns(m) + `
FROM (SELECT h.* FROM
    (SELECT DISTINCT b.num FROM bucket b WHERE b.org_id = $1 AND b.num = ANY($2) AND b.last_seq >= $3) b,
    LATERAL (SELECT h.* FROM head h WHERE h.org_id = $1 AND h.bucket = b.num AND (h.seq, h.record_id) > ($3, $4)
      ORDER BY h.seq, h.record_id LIMIT $5) h
  ORDER BY h.seq, h.record_id LIMIT $5) h
JOIN record r ON r.org_id = $1 AND r.id = h.record_id
ORDER BY h.seq, h.record_id LIMIT $5`
}

// fillSQL goes on in one bucket. Heads that were absent, or tombstones, before the filling began are of no use.
// Parameters: org, bucket, seq, record, limit, kinds, since, mask.
func fillSQL(m cursor.Mask) string {
	return `SELECT ` + headColumns(m) + `
FROM head h JOIN record r ON r.org_id = $1 AND r.id = h.record_id
WHERE h.org_id = $1 AND h.bucket = $2 AND (h.seq, h.record_id) > ($3, $4) AND h.kind = ANY($6)
  AND (h.present AND NOT r.deleted OR h.seq > $7)
ORDER BY h.seq, h.record_id LIMIT $5`
}

// The sum of up to 2^31 hashes of 32 bits, each record of each bucket once, fits in 63 bits. Probed bucket by bucket: as
// num = ANY($2) AND kind = ANY($3), 300 buckets were a scan of the table (100 ms and more; as it stands 1 ms, and 0.15 ms
// for 40 buckets).
const sqlDigest = `-- syncengine.Digest
SELECT coalesce(sum(d.count), 0)::bigint, coalesce(sum(d.sum), 0)::bigint
FROM unnest($2::bigint[]) AS u(num),
  LATERAL (SELECT sum(b.count) AS count, sum(b.sum) AS sum FROM bucket b WHERE b.org_id = $1 AND b.num = u.num AND b.kind = ANY($3)) d`

// kindsOf groups a view's buckets by the kinds that come by them: a person's own, what all share, the teams'.
func kindsOf(v *cursor.View) (kinds [][]string, nums [][]int64) {
	at := map[string]int{}
	for _, entry := range v.Entries {
		key := strings.Join(entry.Kinds, " ")
		i, known := at[key]
		if !known {
			i = len(kinds)
			at[key] = i
			kinds, nums = append(kinds, entry.Kinds), append(nums, nil)
		}
		nums[i] = append(nums[i], entry.Bucket)
	}
	return kinds, nums
}

// queueDigest queues the questions for a view's digest, and gives how many they are.
func queueDigest(q *pgx.Batch, org satchel.ID, v *cursor.View) int {
	kinds, nums := kindsOf(v)
	for i := range kinds {
		q.Queue(sqlDigest, org, nums[i], kinds[i])
	}
	return len(kinds)
}

// digest reads what queueDigest asked.
func (b *pageBuilder) digest(res pgx.BatchResults, n int) error {
	d := &Digest{}
	for range n {
		var part Digest
		if err := res.QueryRow().Scan(&part.Count, &part.Sum); err != nil {
			return err
		}
		d.Count, d.Sum = d.Count+part.Count, d.Sum+part.Sum
	}
	b.page.Digest, b.digested = d, true
	return nil
}
