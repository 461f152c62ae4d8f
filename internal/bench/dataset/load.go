package dataset

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/access"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine"
)

const (
	importSource = "import:bench"
	commitSize   = syncengine.MaxImport // records to a seq, as the engine's own import
	copySize     = 20 * commitSize      // records to a COPY
)

// loader fills the engine's tables by COPY as [syncengine.Engine.Import] would with the same records, commitSize at a
// time; a test holds it to that. It also fills the floor's table with the visits,
// where the organisation has one.
type loader struct {
	pool   *pgxpool.Pool
	org    satchel.ID
	schema *schema.Schema
	dir    *access.Directory
	zone   *time.Location
	now    time.Time

	seq, buckets int64
	nums         map[access.Bucket]int64
	owners       map[satchel.ID]satchel.ID // of the records that others hang under
	counts       map[bucketKind]*count

	records, heads, history, ledger, names, floor [][]any
	sent                                          chan error // of the COPY that runs; nil = none does
}

type bucketKind struct {
	num  int64
	kind string
}

type count struct{ last, n, sum int64 }

// load writes all items.
func load(ctx context.Context, pool *pgxpool.Pool, engine *syncengine.Engine, org satchel.ID, w *World, now time.Time) error {
	l := &loader{pool: pool, org: org, now: now, nums: map[access.Bucket]int64{}, owners: map[satchel.ID]satchel.ID{},
		counts: map[bucketKind]*count{}}
	var err error
	if l.schema, l.dir, err = engine.Org(ctx, org); err != nil {
		return err
	}
	if l.zone, err = time.LoadLocation(timeZone); err != nil {
		return err
	}
	var rights int64
	if err := pool.QueryRow(ctx, sqlStart, org).Scan(&l.seq, &rights, &l.buckets); err != nil {
		return err
	}
	rows, err := pool.Query(ctx, sqlKnownBuckets, org)
	if err != nil {
		return err
	}
	var b access.Bucket
	var num int64
	if _, err := pgx.ForEachRow(rows, []any{&b.Stem, &b.Month, &num}, func() error {
		l.nums[b] = num
		return nil
	}); err != nil {
		return err
	}
	if w.Floor {
		if _, err := pool.Exec(ctx, sqlFloorTable, pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
	}
	defer func() { _ = l.wait() }() // behind an error that tells more
	commit := make([]item, 0, commitSize)
	for it := range w.items {
		if commit = append(commit, it); len(commit) < commitSize {
			continue
		}
		if err := l.commit(ctx, w, commit); err != nil {
			return err
		}
		commit = commit[:0]
	}
	if err := l.commit(ctx, w, commit); err != nil {
		return err
	}
	if err := l.copy(ctx); err != nil {
		return err
	}
	if err := l.wait(); err != nil {
		return err
	}
	return l.finish(ctx, w.Floor)
}

// commit prepares what one commit of the engine would write.
func (l *loader) commit(ctx context.Context, w *World, items []item) error {
	if len(items) == 0 {
		return nil
	}
	l.seq++
	type placed struct {
		rec                 *schema.Record
		kind                *schema.Kind
		parent, parentOwner satchel.ID
		place               []access.Bucket
	}
	all := make([]placed, len(items))
	for i, it := range items {
		p := placed{kind: l.schema.Kind(it.kind)}
		fields, err := schema.DecodeFields(Encode(it.fields))
		if err != nil {
			return err
		}
		if bad := p.kind.CheckFields(fields); bad != nil {
			return fmt.Errorf("dataset: %s: %s %v", it.kind, bad.Detail, bad.Paths)
		}
		rec, bad := schema.New(p.kind, it.id, it.author, 1, schema.Edit{At: it.at.UnixMilli(), Fields: fields})
		if bad != nil {
			return fmt.Errorf("dataset: %s: %s %v", it.kind, bad.Detail, bad.Paths)
		}
		p.rec = rec
		if p.kind.Parent != "" {
			p.parent = rec.Ref(p.kind.Parent)
			p.parentOwner = l.owners[p.parent]
		} else {
			l.owners[rec.ID] = rec.OwnerID(p.kind)
		}
		p.place = access.Place(p.kind, rec, p.parentOwner, l.dir, l.zone)
		all[i] = p
		if it.kind == "visit" && w.Floor {
			l.floor = append(l.floor, []any{it.id, it.author, w.Teams[it.team], l.seq, it.at.UnixMilli(), Encode(fields)})
		}
	}
	slices.SortFunc(all, func(a, b placed) int { return bytes.Compare(a.rec.ID[:], b.rec.ID[:]) })
	l.number(func(yield func([]access.Bucket) bool) {
		for _, p := range all {
			if !yield(p.place) {
				return
			}
		}
	})
	for _, p := range all {
		buckets := make([]int64, len(p.place))
		for i, b := range p.place {
			buckets[i] = l.nums[b]
		}
		slices.Sort(buckets)
		stamps := fmt.Sprintf(`{"":[1,%d,"",0]}`, p.rec.EventMS)
		l.records = append(l.records, []any{l.org, p.rec.ID, p.rec.Kind, int64(1), Encode(p.rec.Data), []byte(stamps), buckets,
			pg.NullID(p.rec.Author), pg.NullID(p.rec.OwnerID(p.kind)), pg.NullID(p.parent), pg.NullID(p.parentOwner),
			p.rec.EventMS, l.schema.Version, false})
		l.history = append(l.history, []any{l.org, p.rec.ID, satchel.NewID(), int64(1), syncengine.Create.String(), importSource,
			p.rec.EventMS, l.now})
		for _, num := range buckets {
			l.heads = append(l.heads, []any{l.org, num, p.rec.ID, p.rec.Kind, l.seq, true})
			c := l.counts[bucketKind{num, p.rec.Kind}]
			if c == nil {
				c = &count{}
				l.counts[bucketKind{num, p.rec.Kind}] = c
			}
			c.last, c.n, c.sum = l.seq, c.n+1, c.sum+digest(p.rec.ID, 1)
		}
	}
	verdict, err := json.Marshal(syncengine.Verdict{Status: syncengine.Applied})
	if err != nil {
		return err
	}
	l.ledger = append(l.ledger, []any{l.org, importSource, commitKey(l.seq), verdict, l.seq, l.now})
	if len(l.records) >= copySize {
		return l.copy(ctx)
	}
	return nil
}

func commitKey(seq int64) string { return strconv.FormatInt(seq, 10) }

// number gives numbers to new buckets in the engine's order: counted down from the new last one, by record.
func (l *loader) number(places func(func([]access.Bucket) bool)) {
	var missing []access.Bucket
	seen := map[access.Bucket]bool{}
	for place := range places {
		for _, b := range place {
			if _, known := l.nums[b]; !known && !seen[b] {
				seen[b] = true
				missing = append(missing, b)
			}
		}
	}
	l.buckets += int64(len(missing))
	for i, b := range missing {
		l.nums[b] = l.buckets - int64(i)
		l.names = append(l.names, []any{l.org, b.Stem, b.Month, l.nums[b]})
	}
}

// digest is H(record, rev) of the bucket's sum.
func digest(id satchel.ID, rev uint64) int64 {
	h := fnv.New32a()
	h.Write(id[:])
	h.Write(strconv.AppendUint(nil, rev, 10))
	mixed := h.Sum32()
	mixed = (mixed ^ mixed>>16) * 0x85ebca6b
	mixed = (mixed ^ mixed>>13) * 0xc2b2ae35
	return int64(mixed ^ mixed>>16)
}

// part is what one COPY sends.
type part struct {
	table   pgx.Identifier
	rows    [][]any
	columns []string
}

// copy sends what was prepared, while more is being prepared.
func (l *loader) copy(ctx context.Context) error {
	if err := l.wait(); err != nil {
		return err
	}
	parts := []part{
		{pgx.Identifier{"record"}, l.records, []string{"org_id", "id", "kind", "rev", "data", "stamps", "buckets", "author",
			"owner", "parent", "parent_owner", "event_ms", "schema_version", "deleted"}},
		{pgx.Identifier{"head"}, l.heads, []string{"org_id", "bucket", "record_id", "kind", "seq", "present"}},
		{pgx.Identifier{"history"}, l.history, []string{"org_id", "record_id", "id", "rev", "op", "source", "event_ms", "received_at"}},
		{pgx.Identifier{"ledger_source"}, l.ledger, []string{"org_id", "source", "key", "verdict", "seq", "at"}},
		{pgx.Identifier{"bucket_name"}, l.names, []string{"org_id", "stem", "month", "num"}},
	}
	if len(l.floor) > 0 {
		parts = append(parts, part{pgx.Identifier{"bench_floor", "visit"}, l.floor, []string{"id", "owner", "team", "seq", "event_ms", "data"}})
	}
	l.records, l.heads, l.history, l.ledger, l.names, l.floor = nil, nil, nil, nil, nil, nil
	sent := make(chan error, 1)
	go func() { sent <- send(ctx, l.pool, parts) }()
	l.sent = sent
	return nil
}

func send(ctx context.Context, pool *pgxpool.Pool, parts []part) error {
	for _, p := range parts {
		if _, err := pool.CopyFrom(ctx, p.table, p.columns, pgx.CopyFromRows(p.rows)); err != nil {
			return fmt.Errorf("dataset: COPY %v: %w", p.table, err)
		}
	}
	return nil
}

// wait waits for the COPY that runs.
func (l *loader) wait() error {
	if l.sent == nil {
		return nil
	}
	err := <-l.sent
	l.sent = nil
	return err
}

// finish writes the counts and the clock, and the floor's indexes.
func (l *loader) finish(ctx context.Context, floor bool) error {
	keys := slices.SortedFunc(maps.Keys(l.counts), func(a, b bucketKind) int { return int(a.num - b.num) })
	for part := range slices.Chunk(keys, 10_000) {
		var nums, last, n, sums []int64
		var kinds []string
		for _, k := range part {
			c := l.counts[k]
			nums, kinds, last, n, sums = append(nums, k.num), append(kinds, k.kind), append(last, c.last), append(n, c.n), append(sums, c.sum)
		}
		if _, err := l.pool.Exec(ctx, sqlAddBuckets, l.org, nums, kinds, last, n, sums); err != nil {
			return err
		}
	}
	if _, err := l.pool.Exec(ctx, sqlFinishClock, l.org, l.seq, l.buckets); err != nil || !floor {
		return err
	}
	_, err := l.pool.Exec(ctx, sqlFloorIndexes, pgx.QueryExecModeSimpleProtocol)
	return err
}
