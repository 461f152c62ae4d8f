package syncengine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/access"
	"github.com/satchel-sync/satchel/internal/mutant"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/schema"
)

// epochShift is where the epoch begins in a seq or rev (S18): 2^40 commits fit in one epoch.
const epochShift = 40

// writeSet collects the rows of the last write, column by column.
type writeSet struct {
	heads    headRows // of records that are there already
	newHeads headRows // of those that the batch creates, which have none: their insert needs no look at what is there
	counts   map[bucketKind]*delta
}

// headRows are rows of head, column by column.
type headRows struct {
	buckets []int64
	records []satchel.ID
	kinds   []string
	present []bool
}

func (h *headRows) len() int { return len(h.buckets) }

// bucketKey is a bucket of an organisation in an epoch: a restored database may give the number to another.
type bucketKey struct {
	org    satchel.ID
	epoch  uint64
	bucket access.Bucket
}

type bucketKind struct {
	num  int64
	kind string
}

type delta struct{ count, sum int64 }

// commit writes everything and commits, all in one pipelined write; nothing that can wait comes after the number
// (steps 5 and 7). It gives the seq.
func (b *batch) commit(ctx context.Context) (uint64, error) {
	nums, err := b.bucketNumbers(ctx)
	if err != nil {
		return 0, err
	}
	var q pgx.Batch
	if err := b.queueRecords(&q, nums); err != nil {
		return 0, err
	}
	if q.Len() == 0 && len(b.settled) == 0 {
		return 0, nil // a piece of a move in which everything lies where it must
	}
	if err := b.queueHistory(&q); err != nil {
		return 0, err
	}
	if err := b.queueKept(&q); err != nil {
		return 0, err
	}
	before := q.Len()
	switch {
	case mutant.On(mutant.SeqFirst):
		q.Queue("SELECT $1::bigint", b.early)
	case mutant.On(mutant.RightsBefore):
		q.Queue(sqlNextSeq, b.orgID)
	default:
		q.Queue(sqlNumber, b.orgID, int64(b.clock.Rights))
	}
	b.queueHeads(&q)
	if err := b.queueLedger(&q); err != nil {
		return 0, err
	}

	res := b.tx.SendBatchCommit(ctx, &q)
	var seq uint64
	for i := range q.Len() {
		if i == before {
			err = res.QueryRow().Scan(&seq)
		} else {
			_, err = res.Exec()
		}
		if err != nil {
			break
		}
	}
	if closeErr := res.Close(); err == nil {
		err = closeErr
	}
	return seq, err
}

// numbered is a statement that reads the number of the commit from the clock's row. With the fault SeqFirst the number was
// taken before the work, in a commit of its own.
func (b *batch) numbered(sql string) string {
	if mutant.On(mutant.SeqFirst) {
		return strings.ReplaceAll(sql, "c.seq", strconv.FormatInt(b.early, 10)+"::bigint")
	}
	return sql
}

// bucketNumbers finds the numbers of the buckets in which records must lie. Where one is not there yet (a person's first
// record of a month), it is made, and the batch is done again.
func (b *batch) bucketNumbers(ctx context.Context) (map[access.Bucket]int64, error) {
	nums := map[access.Bucket]int64{}
	for _, f := range b.follow {
		nums[access.Bucket{Stem: f.Stem, Month: f.Month}] = f.Num
	}
	known := func(p access.Bucket) bool {
		if _, ok := nums[p]; ok {
			return true
		}
		b.e.mu.Lock()
		defer b.e.mu.Unlock()
		num, ok := b.e.nums[bucketKey{b.orgID, b.clock.epoch(), p}]
		if ok {
			nums[p] = num
		}
		return ok
	}
	var stems, months []string
	missing := map[access.Bucket]bool{}
	for _, id := range slices.SortedFunc(maps.Keys(b.rows), compareIDs) {
		r := b.rows[id]
		if r == nil {
			continue
		}
		for _, p := range r.place {
			if !missing[p] && !known(p) {
				missing[p] = true
				stems, months = append(stems, p.Stem), append(months, p.Month)
			}
		}
	}
	if len(missing) == 0 {
		return nums, nil
	}
	find := func() error {
		rows, err := b.tx.Query(ctx, sqlFindBuckets, b.orgID, stems, months)
		if err != nil {
			return err
		}
		var p access.Bucket
		var num int64
		_, err = pgx.ForEachRow(rows, []any{&p.Stem, &p.Month, &num}, func() error {
			nums[p] = num
			delete(missing, p)
			b.e.mu.Lock()
			put(b.e.nums, bucketKey{b.orgID, b.clock.epoch(), p}, num)
			b.e.mu.Unlock()
			return nil
		})
		return err
	}
	if err := find(); err != nil || len(missing) == 0 {
		return nums, err
	}
	if err := b.tx.Rollback(ctx); err != nil {
		return nil, err
	}
	var lacking []access.Bucket // in the order in which they were asked for
	for i := range stems {
		if p := (access.Bucket{Stem: stems[i], Month: months[i]}); missing[p] {
			lacking = append(lacking, p)
		}
	}
	if err := b.e.newBuckets(ctx, b.orgID, lacking); err != nil {
		return nil, err
	}
	return nil, errMoved
}

// newBuckets numbers buckets that are not there yet, in a transaction of its own: on the first of a month every rep's
// first visit makes one, and the clock's row must not be held for as long as a batch takes. One that stays empty, since
// the batch fails, does no harm. Who waits for such a bucket is woken to follow it.
func (e *Engine) newBuckets(ctx context.Context, org satchel.ID, missing []access.Bucket) error {
	var stems, months []string
	for _, p := range missing {
		stems, months = append(stems, p.Stem), append(months, p.Month)
	}
	err := e.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, sqlNewBuckets, org, stems, months)
		return err
	})
	if err == nil {
		e.waiters.WakeStems(org, stems)
	}
	return err
}

// queueRecords queues the inserts and updates of records, and notes their heads.
func (b *batch) queueRecords(q *pgx.Batch, nums map[access.Bucket]int64) error {
	var ins, upd recordColumnsSet
	var moveIDs, moveOwners []satchel.ID
	var moveBuckets []string
	b.writes.counts = map[bucketKind]*delta{}
	for _, id := range slices.SortedFunc(maps.Keys(b.rows), compareIDs) {
		r := b.rows[id]
		if r == nil || r.place == nil && !r.changed {
			continue
		}
		buckets := make([]int64, 0, len(r.place))
		for _, p := range r.place {
			buckets = append(buckets, nums[p])
		}
		slices.Sort(buckets)
		switch {
		case r.stored == nil:
			if err := ins.add(r, buckets, b.org.schema); err != nil {
				return err
			}
		case r.changed:
			if err := upd.add(r, buckets, b.org.schema); err != nil {
				return err
			}
		case slices.Equal(buckets, r.buckets) && r.parentOwner == r.above:
			continue
		default:
			moveIDs, moveOwners = append(moveIDs, id), append(moveOwners, r.parentOwner)
			moveBuckets = append(moveBuckets, arrayText(buckets))
			if slices.Equal(buckets, r.buckets) {
				continue // nobody sees a difference; what hangs below will
			}
		}
		b.noteHeads(r, buckets)
	}
	if len(ins.ids) > 0 {
		q.Queue(sqlInsertRecords, b.orgID, b.org.schema.Version, ins.ids, ins.kinds, ins.revs, ins.data, ins.stamps,
			ins.buckets, ins.authors, ins.owners, ins.parents, ins.parentOwners, ins.events, ins.deleted, ins.roots)
	}
	if len(upd.ids) > 0 {
		q.Queue(sqlUpdateRecords, b.orgID, b.org.schema.Version, upd.ids, upd.revs, upd.data, upd.stamps, upd.buckets,
			upd.owners, upd.parents, upd.parentOwners, upd.deleted, upd.roots)
	}
	for _, m := range b.merged { // behind the update, so that what the batch merged into the loser goes along
		q.Queue(sqlRepoint, b.orgID, m.loser, m.root, MaxHeads)
	}
	if len(moveIDs) > 0 {
		q.Queue(sqlMoveRecords, b.orgID, moveIDs, moveBuckets, nullable(moveOwners))
	}
	return nil
}

// recordColumnsSet has records column by column.
type recordColumnsSet struct {
	ids                                    []satchel.ID
	kinds, data, stamps, buckets           []string
	revs, events                           []int64
	authors, owners, parents, parentOwners []any
	roots                                  []any
	deleted                                []bool
}

func (c *recordColumnsSet) add(r *row, buckets []int64, s *schema.Schema) error {
	data, err := encodeJSON(r.rec.Data)
	if err != nil {
		return fmt.Errorf("syncengine: record %s: %w", r.rec.ID, err)
	}
	c.ids = append(c.ids, r.rec.ID)
	c.kinds = append(c.kinds, r.rec.Kind)
	c.revs = append(c.revs, int64(r.rec.Rev))
	c.data = append(c.data, data)
	c.stamps = append(c.stamps, encodeStamps(r.rec.Stamps))
	c.buckets = append(c.buckets, arrayText(buckets))
	c.authors = append(c.authors, pg.NullID(r.rec.Author))
	c.owners = append(c.owners, pg.NullID(r.rec.OwnerID(s.Kind(r.rec.Kind))))
	c.parents = append(c.parents, pg.NullID(r.parent))
	c.parentOwners = append(c.parentOwners, pg.NullID(r.parentOwner))
	c.events = append(c.events, r.rec.EventMS)
	c.deleted = append(c.deleted, r.rec.Deleted)
	c.roots = append(c.roots, pg.NullID(r.root))
	return nil
}

// noteHeads notes the heads of a record: all of them move forward when it changes, and those that it left say so.
func (b *batch) noteHeads(r *row, buckets []int64) {
	h := &b.writes.heads
	if r.stored == nil && !b.in.occupied {
		h = &b.writes.newHeads
	}
	add := func(num int64, present bool) {
		h.buckets, h.records = append(h.buckets, num), append(h.records, r.rec.ID)
		h.kinds, h.present = append(h.kinds, r.rec.Kind), append(h.present, present)
	}
	count := func(num int64, n, sum int64) {
		key := bucketKind{num, r.rec.Kind}
		d := b.writes.counts[key]
		if d == nil {
			d = &delta{}
			b.writes.counts[key] = d
		}
		d.count, d.sum = d.count+n, d.sum+sum
	}
	counted := func(rec *schema.Record) bool { return rec != nil && !rec.Deleted }
	for _, num := range r.buckets {
		if counted(r.stored) {
			count(num, -1, -digest(r.stored))
		} else {
			count(num, 0, 0)
		}
		if !slices.Contains(buckets, num) && !mutant.On(mutant.LeaveForgotten) {
			add(num, false)
		}
	}
	for _, num := range buckets {
		add(num, true)
		if counted(r.rec) {
			count(num, 1, digest(r.rec))
		} else {
			count(num, 0, 0)
		}
	}
}

// digest is H(record, rev): 32 bits of FNV-1a over the id and the rev, mixed, so that a sum of 2^31 of them fits in 63 bits.
func digest(r *schema.Record) int64 {
	h := fnv.New32a()
	h.Write(r.ID[:])
	h.Write(strconv.AppendUint(nil, r.Rev, 10))
	return int64(mixed(h.Sum32()))
}

// mixed spreads a hash over all its bits: without it, two records that go from one rev to the same other one can leave
// the sum as it was.
func mixed(h uint32) uint32 {
	h = (h ^ h>>16) * 0x85ebca6b
	h = (h ^ h>>13) * 0xc2b2ae35
	return h ^ h>>16
}

func (b *batch) queueHeads(q *pgx.Batch) {
	if h := &b.writes.heads; h.len() > 0 {
		q.Queue(b.numbered(sqlHeads), b.orgID, h.buckets, h.records, h.kinds, h.present)
	}
	if h := &b.writes.newHeads; h.len() > 0 {
		q.Queue(b.numbered(sqlNewHeads), b.orgID, h.buckets, h.records, h.kinds, h.present)
	}
	if len(b.writes.counts) == 0 {
		return
	}
	keys := slices.SortedFunc(maps.Keys(b.writes.counts), func(x, y bucketKind) int {
		if x.num != y.num {
			return int(x.num - y.num)
		}
		return bytes.Compare([]byte(x.kind), []byte(y.kind))
	})
	var nums, counts, sums []int64
	var kinds []string
	for _, k := range keys {
		d := b.writes.counts[k]
		nums, kinds = append(nums, k.num), append(kinds, k.kind)
		counts, sums = append(counts, d.count), append(sums, d.sum)
	}
	q.Queue(b.numbered(sqlBuckets), b.orgID, nums, kinds, counts, sums)
}

func (b *batch) queueHistory(q *pgx.Batch) error {
	if len(b.history) == 0 {
		return nil
	}
	n := len(b.history)
	records, ids := make([]satchel.ID, n), make([]satchel.ID, n)
	revs, events := make([]int64, n), make([]int64, n)
	ops := make([]string, n)
	before, lost, actors, numbers, causes := make([]any, n), make([]any, n), make([]any, n), make([]any, n), make([]any, n)
	for i, h := range b.history {
		records[i], ids[i], revs[i], events[i], ops[i] = h.record, satchel.NewID(), int64(h.rev), h.at, h.op.String()
		actors[i] = pg.NullID(b.person)
		if b.source == nil {
			numbers[i] = int64(h.number)
		} else if b.source.Cause != "" {
			causes[i] = b.source.Cause
		}
		if len(h.before) > 0 {
			m := make(map[string]any, len(h.before))
			for _, c := range h.before {
				m[c.Path] = c.Before
			}
			text, err := encodeJSON(m)
			if err != nil {
				return err
			}
			before[i] = text
		}
		if len(h.lost) > 0 {
			m := make(map[string]any, len(h.lost))
			for _, v := range h.lost {
				m[v.Path] = map[string]any{"value": v.Value, "policy": string(v.Policy)}
			}
			text, err := encodeJSON(m)
			if err != nil {
				return err
			}
			lost[i] = text
		}
	}
	source := any(nil)
	if b.source != nil {
		source = b.source.Source
	}
	q.Queue(sqlHistory, b.orgID, pg.NullID(b.device), source, b.now, records, ids, revs, ops, before, lost, actors, numbers, causes, events)
	return nil
}

// queueLedger queues the run of verdicts and the lane's place behind it.
func (b *batch) queueLedger(q *pgx.Batch) error {
	if len(b.settled) == 0 {
		return nil
	}
	if s := b.source; s != nil {
		raw, err := json.Marshal(b.settled[0].v)
		if err != nil {
			return err
		}
		q.Queue(b.numbered(sqlLedgerSource), b.orgID, s.Source, s.Key, string(raw), b.now)
		return nil
	}
	ids := make([]satchel.ID, len(b.settled))
	verdicts := make([]Verdict, len(b.settled))
	plain := true
	for i, s := range b.settled {
		ids[i], verdicts[i] = s.m.ID, s.v
		plain = plain && s.v.plain()
	}
	var raw any
	if !plain {
		text, err := json.Marshal(verdicts)
		if err != nil {
			return err
		}
		raw = string(text)
	}
	first := b.settled[0].m.Number
	b.lane.next = max(b.lane.next, b.settled[len(b.settled)-1].m.end()+1)
	if !mutant.On(mutant.LedgerForgotten) {
		q.Queue(b.numbered(sqlLedger), b.orgID, b.device, int64(first), ids, raw, b.now)
	}
	q.Queue(sqlAdvanceLane, b.orgID, b.device, int64(b.lane.next), int64(min(b.in.Confirmed, b.lane.next-1)), b.lane.lastEvent,
		b.now, b.in.Outbox.Count, oldest(b.in.Outbox), int64(b.in.Outbox.MediaBytes))
	return nil
}

// outcome gives the verdicts of the batch: the stored ones of mutations that were seen, then the new ones.
func (b *batch) outcome(seq uint64) Outcome {
	out := Outcome{Expected: b.lane.next, Sent: b.sent}
	if b.source == nil {
		for i := range b.in.Mutations {
			if id, v, ok := b.stored(b.in.Mutations[i].Number); ok && id == b.in.Mutations[i].ID {
				out.Verdicts = append(out.Verdicts, v)
			}
		}
	}
	for _, s := range b.settled {
		if s.v.Seq == 0 { // what was applied before it came under this number is visible since then
			s.v.Seq = seq
		}
		out.Verdicts = append(out.Verdicts, s.v)
	}
	return out
}

// wake wakes this replica's waiters for what the batch committed.
func (b *batch) wake() {
	b.e.waiters.Wake(b.orgID, b.writes.heads.buckets)
	b.e.waiters.Wake(b.orgID, b.writes.newHeads.buckets)
}

func compareIDs(a, b satchel.ID) int { return bytes.Compare(a[:], b[:]) }

func nullable(ids []satchel.ID) []any {
	out := make([]any, len(ids))
	for i, id := range ids {
		out[i] = pg.NullID(id)
	}
	return out
}
