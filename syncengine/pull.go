package syncengine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/access"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine/cursor"
)

// Bounds of a page's rows, in bytes.
const (
	DefaultPageBytes = 256 << 10
	MaxPageBytes     = 4 << 20
)

// rowOverhead is what a change costs beside its fields, in bytes, for the budget of a page.
const rowOverhead = 64

// PullRequest says where a device stands and what it follows.
type PullRequest struct {
	// Cursor is that of the last page that the device has stored; empty = it has nothing.
	Cursor []byte
	// MaxBytes bounds the page's rows, roughly; 0 = DefaultPageBytes, at most MaxPageBytes; at least one row.
	MaxBytes int
	// After is a commit that the device was told of: it needs a checkpoint at or past it, even if nothing is new for it.
	After uint64
	// Profile names the schema's profile by which the device follows fewer kinds and months; "" = everything.
	Profile string
	// Sent are the creations that the device sent in this very call and can complete rows from, by record.
	Sent map[satchel.ID]Sent
}

// Sent is how a creation that a device has just sent stands.
type Sent struct {
	Rev   uint64
	Extra []byte // JSON object: what differs from what was sent, null = without the field; nil = nothing
}

// Page is a part of what changed for a person; see the proto.
type Page struct {
	Cursor        []byte // nil = unchanged
	Changes       []RowChange
	Dropped       []int64
	DroppedKinds  []DroppedKind
	Narrowed      map[string][]string // by kind: fields that must go
	Checkpoint    bool
	More          bool
	Seq           uint64
	Token         []byte
	SchemaVersion int
	// Repair, when set, is all that the page holds: the cursor cannot be continued.
	Repair *RepairOrder
	// Digest is what the device must hold; only at a checkpoint with all priorities settled.
	Digest *Digest
	// Forms is how rows look; nil = as the last page said, empty = every kind is shown whole.
	Forms []Form
	// FollowedMonths is, at a checkpoint, how many months of facts the device follows, this one included; 0 = all.
	FollowedMonths int
	// SettledPriority is, at a checkpoint, how many priorities are settled; 0 = all.
	SettledPriority int
}

// RepairOrder sends a device to repair. Salvage: what it holds and the server does not is to be sent up first.
type RepairOrder struct{ Salvage bool }

// Digest is the count and the sum of H(record, rev), modulo 2^64, of what lies in buckets; see the proto.
type Digest struct{ Count, Sum uint64 }

// Form is how rows of a kind look for a person, as a hash; kinds that are shown whole have none.
type Form struct {
	Kind string
	Form uint64
}

// DroppedKind is a kind that no longer comes by a bucket.
type DroppedKind = cursor.DroppedKind

// RowChange is a record as it stands now for this person.
type RowChange struct {
	Record  satchel.ID
	Kind    string
	Rev     uint64
	Entered []int64
	Left    []int64
	Fields  []byte // JSON as Postgres made it, masked; nil when deleted or left
	Deleted bool
	Author  satchel.ID
	EventMS int64
	// MergedInto is, of a tombstone, the record that it was merged into; zero = none.
	MergedInto satchel.ID
	// AsSent: the row is the creation that the device sent in this call, with Fields (nil = nothing) over it.
	AsSent bool
}

// Pull gives the next page after a cursor (empty = the device has nothing), in one snapshot. A page brings what changed
// in the complete buckets after the live place, then goes on filling the first incomplete bucket. Its rows take about
// maxBytes (0 = DefaultPageBytes), at least one row. nil = nothing is newer than the cursor and after. A cursor that
// this server did not give to this person is MALFORMED_CURSOR.
func (e *Engine) Pull(ctx context.Context, p *satchel.Principal, r PullRequest) (*Page, error) {
	sealed, maxBytes, after := r.Cursor, r.MaxBytes, r.After
	if maxBytes <= 0 {
		maxBytes = DefaultPageBytes
	}
	maxBytes = min(maxBytes, MaxPageBytes)
	idle, err := e.nothingNew(ctx, p, sealed, after)
	if err != nil || idle {
		return nil, pg.ToError(err)
	}
	var b *pageBuilder
	err = pg.Snapshot(ctx, e.cfg.Pool, func(ctx context.Context, tx pgx.Tx) error {
		b = &pageBuilder{e: e, tx: tx, p: p, budget: maxBytes, page: &Page{}}
		return b.build(ctx, sealed)
	})
	if err != nil {
		return nil, pg.ToError(err)
	}
	if b.turn.Changed {
		if b.turn.Cursor.View, err = e.keepView(ctx, p.Org, b.turn.View); err != nil {
			return nil, pg.ToError(err)
		}
	}
	b.page.Cursor = b.turn.Cursor.Seal(b.clock.Key, p.Person)
	if b.page.Checkpoint {
		b.page.Token = cursor.Token{View: b.turn.Cursor.View, Seq: b.page.Seq, TimeMS: e.cfg.Now().UnixMilli()}.Seal(b.clock.Key, p.Person)
	}
	return b.page, nil
}

// nothingNew answers the usual question of an idle device with one statement.
func (e *Engine) nothingNew(ctx context.Context, p *satchel.Principal, sealed []byte, after uint64) (bool, error) {
	e.mu.Lock()
	o := e.orgs[p.Org]
	e.mu.Unlock()
	if o == nil || len(sealed) == 0 {
		return false, nil
	}
	c, ok := cursor.Open(o.key, p.Person, sealed)
	if !ok || after > c.Live {
		return false, nil
	}
	v, err := e.view(ctx, e.cfg.Pool, p.Org, c.View)
	if err != nil || v == nil || c.Done < len(v.Entries) || c.LiveRec != cursor.LastRecord {
		return false, err
	}
	nums := make([]int64, 0, len(v.Entries))
	for _, entry := range v.Entries {
		nums = append(nums, entry.Bucket)
	}
	var k clock
	var newer bool
	if err := e.cfg.Pool.QueryRow(ctx, sqlAnythingNew, p.Org, nums, int64(c.Live)).
		Scan(&k.Rights, &k.Buckets, &k.SchemaVersion, &newer); err != nil {
		return false, err
	}
	if newer || k.Rights != o.rights || k.SchemaVersion != o.schema.Version {
		return false, nil
	}
	f, err := e.followed(ctx, e.cfg.Pool, o, k, p.Person, o.roles(p.Person))
	return err == nil && v.Same(targetView(o, e.grantsOf(o, o.roles(p.Person)), f)), err
}

const sqlAnythingNew = `-- syncengine.AnythingNew
SELECT c.rights, c.buckets, c.schema_version,
  EXISTS (SELECT 1 FROM bucket b WHERE b.org_id = $1 AND b.num = ANY($2) AND b.last_seq > $3)
FROM org_clock c WHERE c.org_id = $1`

// pageBuilder builds one page in one snapshot.
type pageBuilder struct {
	e      *Engine
	tx     pgx.Tx
	p      *satchel.Principal
	org    *org
	clock  clock
	turn   cursor.Turn
	budget int // bytes left
	used   int // bytes of the page's changes
	page   *Page
	full   bool // the budget is used up
}

func (b *pageBuilder) build(ctx context.Context, sealed []byte) error {
	var err error
	if b.org, b.clock, err = b.e.orgNow(ctx, b.tx, b.p.Org); err != nil {
		return err
	}
	follow, err := b.e.followed(ctx, b.tx, b.org, b.clock, b.p.Person, b.org.roles(b.p.Person))
	if err != nil {
		return err
	}
	target := targetView(b.org, b.e.grantsOf(b.org, b.org.roles(b.p.Person)), follow)
	if err := b.begin(ctx, sealed, target); err != nil {
		return err
	}
	if err := b.live(ctx); err != nil {
		return err
	}
	for !b.full && b.turn.Cursor.Done < len(b.turn.View.Entries) {
		if err := b.fill(ctx); err != nil {
			return err
		}
	}
	b.page.More = b.full
	if !b.full {
		b.page.Checkpoint, b.page.Seq, b.page.SchemaVersion = true, b.clock.Seq, b.org.schema.Version
	}
	return nil
}

// begin opens the cursor and turns it to what the person follows now.
func (b *pageBuilder) begin(ctx context.Context, sealed []byte, target *cursor.View) error {
	if len(sealed) == 0 {
		b.turn = cursor.Turn{View: target, Changed: true, Cursor: cursor.Cursor{Live: b.clock.Seq, LiveRec: cursor.LastRecord}}
		return nil
	}
	malformed := satchel.E(satchel.Invalid, satchel.ReasonMalformedCursor,
		"the cursor is not one that this server gave to this person; drop the pulled records, keep the pending mutations, and pull with no cursor")
	c, ok := cursor.Open(b.clock.Key, b.p.Person, sealed)
	if !ok || c.Live > b.clock.Seq {
		return malformed
	}
	old, err := b.e.view(ctx, b.tx, b.p.Org, c.View)
	if err != nil {
		return err
	}
	if old == nil || c.Done > len(old.Entries) {
		return malformed
	}
	if old.Same(target) {
		b.turn = cursor.Turn{View: old, Cursor: c}
		return nil
	}
	var copies []string
	for _, kind := range b.org.schema.Kinds() {
		if b.org.schema.Kind(kind).Copies {
			copies = append(copies, kind)
		}
	}
	b.turn = cursor.TurnTo(old, c, target, copies)
	b.page.Dropped, b.page.DroppedKinds, b.page.Narrowed = b.turn.Dropped, b.turn.DroppedKinds, b.turn.Narrowed
	return nil
}

// live brings what changed in the complete buckets after the live place, in (seq, record) order.
func (b *pageBuilder) live(ctx context.Context) error {
	c := &b.turn.Cursor
	kinds := map[int64][]string{}
	var nums []int64
	for _, entry := range b.turn.View.Entries[:c.Done] {
		if kinds[entry.Bucket] == nil {
			nums = append(nums, entry.Bucket)
		}
		kinds[entry.Bucket] = append(kinds[entry.Bucket], entry.Kinds...)
	}
	if len(nums) == 0 {
		c.Live, c.LiveRec = b.clock.Seq, cursor.LastRecord
		return nil
	}
	m := newMask(b.turn.View, b.org.schema, liveParams)
	for !b.full {
		limit := b.chunk() + access.MaxBucketsPerRecord
		rows, err := b.tx.Query(ctx, "-- syncengine.Live\n"+liveSQL(m),
			append([]any{b.p.Org, nums, int64(c.Live), c.LiveRec, limit}, m.args...)...)
		if err != nil {
			return err
		}
		n, err := b.take(rows, limit, func(bucket int64, kind string) bool { return slices.Contains(kinds[bucket], kind) },
			func(seq uint64, record satchel.ID) { c.Live, c.LiveRec = seq, record })
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

// fill goes on with the first incomplete bucket.
func (b *pageBuilder) fill(ctx context.Context) error {
	c := &b.turn.Cursor
	entry := b.turn.View.Entries[c.Done]
	if c.FillSince == 0 {
		c.FillSince = b.clock.Seq
	}
	m := newMask(b.turn.View, b.org.schema, fillParams)
	for !b.full {
		limit := b.chunk() + 1
		after := c.FillRec
		rows, err := b.tx.Query(ctx, "-- syncengine.Fill\n"+fillSQL(m),
			append([]any{b.p.Org, entry.Bucket, int64(c.FillSeq), after, limit, entry.Kinds, int64(c.FillSince)}, m.args...)...)
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
				c.FillSince = 0
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
		if err := rows.Scan(&bucket, &r.Record, &seq, &present, &r.Kind, &r.Rev, &r.Fields, &r.Deleted, &r.Author, &r.EventMS); err != nil {
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

// maskSQL is a view's field mask as one SQL expression over record r, so that the usual pull neither decodes nor
// encodes rows. Names travel as parameters.
type maskSQL struct {
	fields string
	args   []any
	first  int // number of the first parameter
}

// The first parameter of the mask in each statement, behind those of the statement itself.
const (
	liveParams = 6
	fillParams = 8
)

// newMask compiles the masks of a view. Values copied into a kind that keeps copies are shown under the field rights
// of the kind that they came from (S21); what is partly masked there is not shown at all in a copy.
func newMask(v *cursor.View, s *schema.Schema, first int) maskSQL {
	m := maskSQL{first: first}
	var whens strings.Builder
	readable := map[string]bool{}
	for _, entry := range v.Entries {
		for _, kind := range entry.Kinds {
			readable[kind] = true
		}
	}
	var hidden, restricted []string
	for _, kind := range slices.Sorted(maps.Keys(v.Masks)) {
		mask := v.Masks[kind]
		expr := "r.data"
		if len(mask.Hidden) > 0 {
			expr += " - " + m.param(mask.Hidden) + "::text[]"
		}
		for _, f := range mask.Partial {
			name := m.param(f)
			expr += fmt.Sprintf(" || CASE WHEN r.data ? %[1]s::text THEN jsonb_build_object(%[1]s::text, satchel_mask(r.data -> %[1]s::text)) ELSE '{}' END", name)
		}
		fmt.Fprintf(&whens, " WHEN %s::text THEN (%s)", m.param(kind), expr)
		for _, f := range slices.Concat(mask.Hidden, mask.Partial) {
			hidden = append(hidden, kind+"/"+f)
		}
		restricted = append(restricted, kind)
	}
	for _, kind := range s.Kinds() {
		if !s.Kind(kind).Copies || !readable[kind] {
			continue
		}
		fmt.Fprintf(&whens, ` WHEN %s::text THEN jsonb_set(r.data, '{items}', coalesce((SELECT jsonb_agg(
  CASE WHEN NOT (i ->> 'kind' = ANY(%s::text[])) OR (i ->> 'kind') || '/' || split_part(i ->> 'field', '/', 1) = ANY(%s::text[])
         OR (i ->> 'field' = '' AND i ->> 'kind' = ANY(%s::text[]))
       THEN (i - 'value') || '{"withheld":true}' ELSE i END) FROM jsonb_array_elements(r.data -> 'items') i), '[]'))`,
			m.param(kind), m.param(slices.Sorted(maps.Keys(readable))), m.param(nonNil(hidden)), m.param(nonNil(restricted)))
	}
	m.fields = "r.data"
	if whens.Len() > 0 {
		m.fields = "CASE r.kind" + whens.String() + " ELSE r.data END"
	}
	return m
}

func (m *maskSQL) param(v any) string {
	m.args = append(m.args, v)
	return fmt.Sprintf("$%d", m.first+len(m.args)-1)
}

func nonNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// headColumns are what a page needs of a head and its record; a tombstone and a head that left carry no fields.
func headColumns(m maskSQL) string {
	return `h.bucket, h.record_id, h.seq, h.present, r.kind, r.rev,
  CASE WHEN h.present AND NOT r.deleted THEN (` + m.fields + `)::text END, r.deleted, r.author, r.event_ms`
}

// liveSQL probes only buckets in which something is newer than the live place. The page's heads are found before their
// records are read: joined at once, 30 buckets that are all far behind read 6,000 records for a page of 200 (seen in
// the plan, 17 ms instead of 5).
// Parameters: org, buckets, live seq, live record, limit, mask.
func liveSQL(m maskSQL) string {
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
func fillSQL(m maskSQL) string {
	return `SELECT ` + headColumns(m) + `
FROM head h JOIN record r ON r.org_id = $1 AND r.id = h.record_id
WHERE h.org_id = $1 AND h.bucket = $2 AND (h.seq, h.record_id) > ($3, $4) AND h.kind = ANY($6)
  AND (h.present AND NOT r.deleted OR h.seq > $7)
ORDER BY h.seq, h.record_id LIMIT $5`
}
