package model

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/access"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/internal/jobs"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine"
)

// stored is a record as the table has it.
type stored struct {
	rec     *schema.Record
	buckets []int64
	root    satchel.ID // that it was merged into
}

// Office is what the database holds at a moment.
type Office struct {
	schema *schema.Schema
	dir    *access.Directory
	all    map[satchel.ID]stored
	names  map[int64]access.Bucket
	nums   map[access.Bucket]int64
	purged map[satchel.ID]satchel.ID // records that only history has, with their roots
}

// Office reads the database.
func (m *Model) Office(ctx context.Context) (o *Office, err error) {
	if m.reader == nil {
		queue, err := jobs.New(m.DB, jobs.Config{Now: m.Now})
		if err != nil {
			return nil, err
		}
		if m.reader, err = syncengine.New(syncengine.Config{Pool: m.DB, Jobs: queue, Now: m.Now}); err != nil {
			return nil, err
		}
	}
	o = &Office{all: map[satchel.ID]stored{}, names: map[int64]access.Bucket{}, nums: map[access.Bucket]int64{},
		purged: map[satchel.ID]satchel.ID{}}
	if o.schema, o.dir, err = m.reader.Org(ctx, m.Org); err != nil {
		return nil, err
	}
	rows, err := m.DB.Query(ctx, `SELECT id, kind, rev, data, author, event_ms, deleted, buckets, root FROM record WHERE org_id = $1`, m.Org)
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		st := stored{rec: &schema.Record{}}
		r := st.rec
		var data []byte
		if err := rows.Scan(&r.ID, &r.Kind, &r.Rev, &data, &r.Author, &r.EventMS, &r.Deleted, &st.buckets, &st.root); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(data, &r.Data); err != nil {
			return nil, err
		}
		o.all[r.ID] = st
	}
	if rows.Err() != nil {
		return nil, rows.Err()
	}
	if rows, err = m.DB.Query(ctx, `SELECT DISTINCT ON (record_id) record_id, coalesce(before ->> 'root', '') FROM history
		WHERE org_id = $1 AND op = 'purge' ORDER BY record_id, id DESC`, m.Org); err != nil {
		return nil, err
	}
	var id satchel.ID
	var root string
	if _, err := pgx.ForEachRow(rows, []any{&id, &root}, func() error {
		o.purged[id], _ = satchel.ParseID(root) // none = it was not merged
		return nil
	}); err != nil {
		return nil, err
	}
	if rows, err = m.DB.Query(ctx, `SELECT stem, month, num FROM bucket_name WHERE org_id = $1`, m.Org); err != nil {
		return nil, err
	}
	var b access.Bucket
	var num int64
	_, err = pgx.ForEachRow(rows, []any{&b.Stem, &b.Month, &num}, func() error {
		o.names[num], o.nums[b] = b, num
		return nil
	})
	return o, err
}

// has tells whether there is, or was, a record of that id.
func (o *Office) has(id satchel.ID) bool {
	_, here := o.all[id]
	_, purged := o.purged[id]
	return here || purged
}

// rootOf gives the record in which the work on a record goes on.
func (o *Office) rootOf(id satchel.ID) satchel.ID {
	for range 32 {
		next := o.all[id].root
		if _, here := o.all[id]; !here {
			next = o.purged[id]
		}
		if next.IsZero() {
			break
		}
		id = next
	}
	return id
}

// kindsHeld are those that phones are compared by.
var kindsHeld = []string{"account", "contact", "visit", "photo", "task", "quote", "approval", "notice", "attention", "person", "team", "memo"}

// Compare tells where a phone at a checkpoint of the office's moment holds other than its person may see, or less (S13).
func (m *Model) Compare(ctx context.Context, p Holder, o *Office) {
	person := p.Person
	who, _ := o.dir.Person(person)
	g := access.NewGrants(o.schema, who.Roles)
	follow, first := access.Follow(g, o.dir, person), ""
	if profile := o.schema.Profile(p.Profile); p.Profile != "" && profile != nil {
		zone, err := time.LoadLocation(timeZone)
		if err != nil {
			m.Fail("S13", "the time zone: %v", err)
			return
		}
		follow, first = access.Only(follow, profile.Kinds), access.FirstMonth(m.Now(), zone, profile.Months)
	}
	overlaid := map[satchel.ID]bool{} // own work on top: what stands below it does not show
	err := p.Store.View(ctx, func(tx satchelclient.ReadTx) error {
		return tx.Scan(satchelclient.TableOverlay, nil, nil, func(key, _ []byte) error {
			overlaid[satchel.ID(key[:16])] = true
			overlaid[o.rootOf(satchel.ID(key[:16]))] = true
			return nil
		})
	})
	if err != nil {
		m.Fail("S13", "%s: the overlay cannot be read: %v", p.Name, err)
	}
	shown := map[satchel.ID]satchelclient.Record{}
	for _, kind := range kindsHeld {
		for _, r := range m.Shown(ctx, p, kind) {
			shown[r.ID] = r
		}
	}
	for id, st := range o.all {
		if overlaid[id] {
			delete(shown, id)
			continue
		}
		places := make([]access.Bucket, 0, len(st.buckets))
		for _, num := range st.buckets {
			if b := o.names[num]; b.Month == "" || b.Month >= first {
				places = append(places, b)
			}
		}
		r, has := shown[id]
		delete(shown, id)
		sees := !st.rec.Deleted && access.Sees(follow, st.rec.Kind, places)
		switch {
		case sees != has && sees:
			m.Fail("S13", "%s lacks the %s %s at rev %d", p.Name, st.rec.Kind, id, st.rec.Rev)
			m.traceHeads(ctx, id)
		case sees != has:
			m.Fail("S13", "%s shows the %s %s, which is not for %s (deleted %v)", p.Name, st.rec.Kind, id, p.Login, st.rec.Deleted)
			m.traceHeads(ctx, id)
		case has && r.Rev != st.rec.Rev:
			m.Fail("S13", "%s has the %s %s at rev %d, it is at %d", p.Name, st.rec.Kind, id, r.Rev, st.rec.Rev)
			m.traceHeads(ctx, id)
		case has && st.rec.Kind != "attention":
			if got, want := Canonical(r.Fields), masked(g, st.rec); got != want {
				m.Fail("S13", "%s shows the %s %s as %s, for %s it is %s", p.Name, st.rec.Kind, id, got, p.Login, want)
			}
		}
	}
	for id, r := range shown {
		if !overlaid[id] {
			m.Fail("S13", "%s shows the %s %s, which the office does not have", p.Name, r.Kind, id)
		}
	}
}

// traceHeads tells where a record lies and lay.
func (m *Model) traceHeads(ctx context.Context, id satchel.ID) {
	var heads, clock string
	if err := m.DB.QueryRow(ctx, `SELECT coalesce(string_agg(format('%s at %s present=%s, digest moved at %s', n.stem || ' ' || n.month, h.seq, h.present,
		(SELECT max(last_seq) FROM bucket b WHERE b.org_id = $1 AND b.num = h.bucket)), '; '), '') FROM head h
		LEFT JOIN bucket_name n ON n.org_id = $1 AND n.num = h.bucket WHERE h.org_id = $1 AND h.record_id = $2`, m.Org, id).Scan(&heads); err != nil {
		heads = err.Error()
	}
	if err := m.DB.QueryRow(ctx, `SELECT format('%s, horizon %s', seq, horizon) FROM org_clock WHERE org_id = $1`, m.Org).Scan(&clock); err != nil {
		clock = err.Error()
	}
	m.tracef("  the clock is at %s; its heads: %s", clock, heads)
}

// Canonical is a JSON object with its keys in order.
func Canonical(raw json.RawMessage) string {
	var v map[string]any
	if err := json.Unmarshal(raw, &v); err != nil {
		return err.Error()
	}
	return text(v)
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// masked gives the fields as somebody with these grants may see them.
func masked(g *access.Grants, r *schema.Record) string {
	out := map[string]any{}
	mask := g.Mask(r.Kind)
	for name, v := range r.Data {
		s, isText := v.(string)
		switch {
		case slices.Contains(mask.Hidden, name):
			continue
		case slices.Contains(mask.Partial, name) && isText && len([]rune(s)) >= 8:
			runes := []rune(s)
			v = string(runes[:3]) + "****" + string(runes[len(runes)-4:])
		case slices.Contains(mask.Partial, name):
			v = "****"
		}
		out[name] = v
	}
	return text(out)
}

// All is everything that a phone shows, as text.
func (m *Model) All(ctx context.Context, p Holder) string {
	var b strings.Builder
	for _, kind := range kindsHeld {
		for _, r := range m.Shown(ctx, p, kind) {
			fmt.Fprintf(&b, "%s %s %d %v %s %d %s\n", kind, r.ID, r.Rev, r.Pending, r.Author, r.EventMs, Canonical(r.Fields))
		}
	}
	return b.String()
}

// Difference gives the first line that only one of two texts has.
func Difference(got, want string) string {
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	for _, line := range a {
		if !slices.Contains(b, line) {
			return "it alone has " + line
		}
	}
	for _, line := range b {
		if !slices.Contains(a, line) {
			return "it lacks " + line
		}
	}
	return "the order differs"
}

// CheckPlaces compares where records lie with where the directory puts them, and heads and buckets with both.
func (m *Model) CheckPlaces(ctx context.Context, o *Office) error {
	zone, err := time.LoadLocation(timeZone)
	if err != nil {
		return err
	}
	type in struct {
		num int64
		id  satchel.ID
	}
	want := map[in]bool{}
	for id, st := range o.all {
		if o.orphan(st.rec) { // it stays where it was
			for _, num := range st.buckets {
				want[in{num, id}] = true
			}
			continue
		}
		var nums []int64
		for _, b := range access.Place(o.schema.Kind(st.rec.Kind), st.rec, o.topOwner(st.rec), o.dir, zone) {
			nums = append(nums, o.nums[b])
		}
		slices.Sort(nums)
		if !slices.Equal(nums, st.buckets) {
			m.Fail("S13", "the %s %s lies in %v, it belongs in %v", st.rec.Kind, id, st.buckets, nums)
			if up, ok := o.all[st.rec.Ref("account")]; ok {
				m.tracef("it hangs under %+v %v", up.rec, up.buckets)
			}
		}
		for _, num := range st.buckets {
			want[in{num, id}] = true
		}
	}
	rows, err := m.DB.Query(ctx, `SELECT bucket, record_id FROM head WHERE org_id = $1 AND present`, m.Org)
	if err != nil {
		return err
	}
	var h in
	if _, err := pgx.ForEachRow(rows, []any{&h.num, &h.id}, func() error {
		if !want[h] {
			m.Fail("S13", "%s has a head in bucket %d, where it does not lie", h.id, h.num)
		}
		delete(want, h)
		return nil
	}); err != nil {
		return err
	}
	for h := range want {
		m.Fail("S10", "%s has no head in bucket %d, where it lies", h.id, h.num)
	}
	return nil
}

// orphan tells whether a record hangs under one that was purged.
func (o *Office) orphan(r *schema.Record) bool {
	for range 10 {
		k := o.schema.Kind(r.Kind)
		if k.Parent == "" || r.Ref(k.Parent).IsZero() {
			return false
		}
		up, ok := o.all[r.Ref(k.Parent)]
		if !ok {
			return true
		}
		r = up.rec
	}
	return false
}

// topOwner is the owner of the topmost record that a record hangs under.
func (o *Office) topOwner(r *schema.Record) (owner satchel.ID) {
	for range 10 {
		k := o.schema.Kind(r.Kind)
		if k.Parent == "" {
			break
		}
		up, ok := o.all[r.Ref(k.Parent)]
		if !ok {
			break
		}
		r = up.rec
		if id := r.OwnerID(o.schema.Kind(r.Kind)); !id.IsZero() || o.schema.Kind(r.Kind).Parent == "" {
			owner = id
		}
	}
	return owner
}
