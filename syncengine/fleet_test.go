package syncengine_test

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/access"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine"
)

// A fleet of phones on several replicas does whatever comes to mind; people change teams and roles meanwhile. At the
// end each phone holds what a new phone of that person gets, and that is what the records, the directory and package
// access say that it should be (S13).
func TestS13AFleetHoldsWhatTheModelSays(t *testing.T) {
	for i := range 6 {
		seed := uint64(time.Now().UnixNano()) + uint64(i)
		if i < 3 {
			seed = uint64(i) // three that never change
		}
		t.Run(fmt.Sprint("seed ", i), func(t *testing.T) {
			f := &fleet{world: newWorld(t), rnd: rand.New(rand.NewPCG(seed, 1))}
			t.Logf("seed %d", seed)
			f.run(220)
			f.check()
		})
	}
}

type fleet struct {
	*world
	rnd      *rand.Rand
	engines  []*syncengine.Engine
	phones   []*phone
	accounts []satchel.ID
	visits   []satchel.ID
	known    []known // every record that was made
}

type known struct {
	id   satchel.ID
	kind string
}

func (f *fleet) pick(names ...string) string { return names[f.rnd.IntN(len(names))] }

func (f *fleet) run(steps int) {
	for range 3 {
		f.engines = append(f.engines, f.newEngine())
	}
	for _, name := range []string{"Dina", "Mei", "Ann", "Ann", "Ben", "Sam", "Cem"} {
		f.phones = append(f.phones, f.phone(name))
	}
	for range steps {
		f.pass(time.Duration(f.rnd.IntN(600)) * time.Second)
		p := f.phones[f.rnd.IntN(len(f.phones))]
		p.engine = f.engines[f.rnd.IntN(len(f.engines))]
		switch n := f.rnd.IntN(100); {
		case n < 55:
			var ms []syncengine.Mutation
			for range 1 + f.rnd.IntN(4) {
				ms = append(ms, p.mutation(f.ops(p)...))
			}
			if got := p.send(ms...); len(got) != len(ms) {
				f.t.Fatalf("%d mutations got %d verdicts", len(ms), len(got))
			}
		case n < 80:
			p.bytes = []int{0, 1, 300, 3000}[f.rnd.IntN(4)]
			for range 1 + f.rnd.IntN(6) {
				if !p.page() {
					break
				}
			}
		case n < 86:
			f.changeRights(`UPDATE person SET team_id = $3 WHERE org_id = $1 AND id = $2`, f.org,
				f.people[f.pick("Mei", "Ann", "Ben", "Sam", "Cem")], f.teams[f.pick("head", "north", "south")])
		case n < 92:
			f.changeRights(`UPDATE person SET roles = ARRAY[$3] WHERE org_id = $1 AND id = $2`, f.org,
				f.people[f.pick("Dina", "Mei", "Ann", "Ben", "Sam", "Cem")], f.pick("rep", "manager", "director", "assistant", "viewer"))
		case n < 94:
			f.changeRights(`UPDATE team SET parent_id = $3 WHERE org_id = $1 AND id = $2`, f.org, f.teams["south"], f.teams[f.pick("head", "north")])
		default:
			f.step()
		}
	}
}

// ops draws what a person does on what his phone shows, or on what it should not know of.
func (f *fleet) ops(p *phone) []syncengine.Op {
	one := func(ids []satchel.ID) satchel.ID {
		if len(ids) == 0 {
			return satchel.NewID()
		}
		return ids[f.rnd.IntN(len(ids))]
	}
	made := func(kind string, fields map[string]any) syncengine.Op {
		id := satchel.NewID()
		switch kind {
		case "account":
			f.accounts = append(f.accounts, id)
		case "visit":
			f.visits = append(f.visits, id)
		}
		f.known = append(f.known, known{id, kind})
		return create(kind, id, fields)
	}
	switch f.rnd.IntN(12) {
	case 0, 1:
		return []syncengine.Op{made("account", map[string]any{"name": "a", "tags": []any{"x"}})}
	case 2, 3:
		v := made("visit", map[string]any{"account": one(f.accounts).String(), "subject": "v", "satisfaction": f.rnd.IntN(7)})
		return []syncengine.Op{v, made("task", map[string]any{"title": "t"}), made("photo", map[string]any{"visit": v.Record.String(), "blob": fmt.Sprintf("%064x", f.rnd.Uint64())})}
	case 4:
		return []syncengine.Op{made("contact", map[string]any{"account": one(f.accounts).String(), "name": "c", "mobile": "13800138000", "wechat": "w"})}
	case 5:
		return []syncengine.Op{made("photo", map[string]any{"visit": one(f.visits).String(), "blob": fmt.Sprintf("%064x", f.rnd.Uint64())})}
	case 6, 7:
		return []syncengine.Op{patch("account", one(f.accounts), f.base(), map[string]any{
			"owner": f.people[f.pick("Dina", "Mei", "Ann", "Ben", "Sam", "Cem")].String()})}
	}
	k := known{satchel.NewID(), "task"}
	if len(f.known) > 0 {
		k = f.known[f.rnd.IntN(len(f.known))]
	}
	base := f.base()
	if h := p.records[k.id]; h != nil && f.rnd.IntN(4) > 0 {
		base = h.rev
	}
	switch {
	case f.rnd.IntN(6) == 0:
		return []syncengine.Op{{Action: syncengine.Delete, Record: k.id, Kind: k.kind, BaseRev: base}}
	case k.kind == "account":
		op := patch(k.kind, k.id, base, map[string]any{f.pick("remark", "level", "region", "stage", "credit_limit"): []any{"a", "lost", 7, nil}[f.rnd.IntN(4)]})
		op.Sets = []schema.SetEdit{{Field: "tags", Add: []string{f.pick("x", "y", "z")}, Remove: []string{f.pick("x", "y", "z")}}}
		op.Increments = increment("visit_count", f.rnd.Int64N(5))
		return []syncengine.Op{op}
	case k.kind == "visit":
		return []syncengine.Op{patch(k.kind, k.id, base, map[string]any{"account": one(f.accounts).String(), "summary": f.pick("s", "t")})}
	case k.kind == "contact":
		return []syncengine.Op{patch(k.kind, k.id, base, map[string]any{"mobile": f.pick("13900139000", "13700137000")})}
	}
	return []syncengine.Op{patch(k.kind, k.id, base, map[string]any{f.pick("remark", "caption"): f.pick("r", "s")})}
}

func (f *fleet) base() uint64 { return f.rnd.Uint64N(4) }

// stored is a record as the table has it.
type stored struct {
	rec     *schema.Record
	buckets []int64
}

// check brings everything to rest and compares.
func (f *fleet) check() {
	f.t.Helper()
	for range 3 {
		f.step()
	}
	ctx := context.Background()
	s, dir, err := f.engine.Org(ctx, f.org)
	if err != nil {
		f.t.Fatal(err)
	}
	all := f.table()
	names := f.names()
	zone, err := time.LoadLocation("Asia/Shanghai")
	if err != nil {
		f.t.Fatal(err)
	}
	places := map[satchel.ID][]access.Bucket{}
	for id, st := range all {
		k := s.Kind(st.rec.Kind)
		places[id] = access.Place(k, st.rec, topOwner(s, all, st.rec), dir, zone)
		var nums []int64
		for _, b := range places[id] {
			nums = append(nums, names[b])
		}
		slices.Sort(nums)
		if !slices.Equal(nums, st.buckets) {
			f.t.Errorf("%s %s lies in %v, not in %v", st.rec.Kind, id, st.buckets, nums)
		}
	}
	f.checkBuckets(all)
	for _, p := range f.phones {
		p.engine, p.bytes = f.engines[f.rnd.IntN(len(f.engines))], 0
		p.pull()
		fresh := f.phone(p.name)
		fresh.pull()
		g := access.NewGrants(s, f.principal(p.name, p.who.Device).Roles)
		follow := access.Follow(g, dir, f.people[p.name])
		want := map[satchel.ID]bool{}
		for id, st := range all {
			if st.rec.Deleted || !access.Sees(follow, st.rec.Kind, places[id]) {
				continue
			}
			want[id] = true
			h := p.records[id]
			if h == nil {
				f.t.Errorf("%s lacks the %s %s", p.name, st.rec.Kind, id)
				continue
			}
			if h.rev != st.rec.Rev {
				f.t.Errorf("%s has the %s %s at rev %d, it is at %d", p.name, st.rec.Kind, id, h.rev, st.rec.Rev)
			}
			if st.rec.Kind != "attention" {
				if got, want := asText(h.fields), asText(masked(g, st.rec)); got != want {
					f.t.Errorf("%s shows the %s %s as %s, it is %s", p.name, st.rec.Kind, id, got, want)
				}
			}
		}
		for id, h := range p.records {
			if !want[id] {
				f.t.Errorf("%s holds the %s %s, which is not hers", p.name, h.kind, id)
			}
			if n := fresh.records[id]; n == nil || asText(n.fields) != asText(h.fields) || !maps.Equal(n.buckets, h.buckets) {
				f.t.Errorf("%s holds the %s %s otherwise than a new phone: %+v and %+v", p.name, h.kind, id, h, n)
			}
		}
		if len(fresh.records) != len(p.records) {
			f.t.Errorf("%s holds %d records, a new phone %d", p.name, len(p.records), len(fresh.records))
		}
	}
}

// topOwner is the owner of the topmost record that a record hangs under.
func topOwner(s *schema.Schema, all map[satchel.ID]stored, r *schema.Record) satchel.ID {
	var owner satchel.ID
	for range 10 {
		k := s.Kind(r.Kind)
		if k.Parent == "" {
			break
		}
		up, ok := all[r.Ref(k.Parent)]
		if !ok {
			break
		}
		r = up.rec
		if o := r.OwnerID(s.Kind(r.Kind)); !o.IsZero() || s.Kind(r.Kind).Parent == "" {
			owner = o
		}
	}
	return owner
}

// masked gives the fields as somebody with these grants may see them.
func masked(g *access.Grants, r *schema.Record) map[string]any {
	out := maps.Clone(r.Data)
	m := g.Mask(r.Kind)
	for _, name := range m.Hidden {
		delete(out, name)
	}
	for _, name := range m.Partial {
		if s, ok := out[name].(string); ok && len(s) >= 8 {
			out[name] = s[:3] + "****" + s[len(s)-4:]
		} else if ok {
			out[name] = "****"
		}
	}
	return out
}

func asText(fields map[string]any) string {
	text, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	return string(text)
}

func (f *fleet) table() map[satchel.ID]stored {
	f.t.Helper()
	rows, err := f.pool.Query(context.Background(), `SELECT id, kind, rev, data, author, event_ms, deleted, buckets FROM record WHERE org_id = $1`, f.org)
	if err != nil {
		f.t.Fatal(err)
	}
	out := map[satchel.ID]stored{}
	for rows.Next() {
		st := stored{rec: &schema.Record{}}
		r := st.rec
		var data []byte
		if err := rows.Scan(&r.ID, &r.Kind, &r.Rev, &data, &r.Author, &r.EventMS, &r.Deleted, &st.buckets); err != nil {
			f.t.Fatal(err)
		}
		if err := json.Unmarshal(data, &r.Data); err != nil {
			f.t.Fatal(err)
		}
		out[r.ID] = st
	}
	if rows.Err() != nil {
		f.t.Fatal(rows.Err())
	}
	return out
}

func (w *world) names() map[access.Bucket]int64 {
	w.t.Helper()
	rows, err := w.pool.Query(context.Background(), `SELECT stem, month, num FROM bucket_name WHERE org_id = $1`, w.org)
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[access.Bucket]int64{}
	var b access.Bucket
	var num int64
	if _, err := pgx.ForEachRow(rows, []any{&b.Stem, &b.Month, &num}, func() error { out[b] = num; return nil }); err != nil {
		w.t.Fatal(err)
	}
	return out
}

// checkBuckets compares heads, counts and sums with what the records say, and the numbers with the clock.
func (w *world) checkBuckets(all map[satchel.ID]stored) {
	w.t.Helper()
	type key struct {
		num  int64
		kind string
	}
	type tally struct{ count, sum, last int64 }
	want, heads := map[key]tally{}, map[key]map[satchel.ID]bool{}
	for id, st := range all {
		for _, num := range st.buckets {
			k := key{num, st.rec.Kind}
			if heads[k] == nil {
				heads[k] = map[satchel.ID]bool{}
			}
			heads[k][id] = true
			if !st.rec.Deleted {
				h := fnv.New32a()
				h.Write(id[:])
				fmt.Fprint(h, st.rec.Rev)
				n := want[k]
				want[k] = tally{count: n.count + 1, sum: n.sum + int64(mix(h.Sum32()))}
			}
		}
	}
	ctx := context.Background()
	rows, err := w.pool.Query(ctx, `SELECT b.num, b.kind, b.count, b.sum, b.last_seq, (SELECT max(h.seq) FROM head h WHERE h.org_id = $1 AND h.bucket = b.num AND h.kind = b.kind)
		FROM bucket b WHERE b.org_id = $1`, w.org)
	if err != nil {
		w.t.Fatal(err)
	}
	var k key
	var n tally
	var last int64
	if _, err := pgx.ForEachRow(rows, []any{&k.num, &k.kind, &n.count, &n.sum, &n.last, &last}, func() error {
		if n.last != last {
			w.t.Errorf("bucket %d %s says its last seq is %d, its heads say %d", k.num, k.kind, n.last, last)
		}
		n.last = 0
		if n != want[k] {
			w.t.Errorf("bucket %d %s has %+v, its records make %+v", k.num, k.kind, n, want[k])
		}
		delete(want, k)
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	for k, n := range want {
		if n.count > 0 {
			w.t.Errorf("bucket %d %s has no row, its records make %+v", k.num, k.kind, n)
		}
	}
	if rows, err = w.pool.Query(ctx, `SELECT bucket, kind, record_id FROM head WHERE org_id = $1 AND present`, w.org); err != nil {
		w.t.Fatal(err)
	}
	var id satchel.ID
	if _, err := pgx.ForEachRow(rows, []any{&k.num, &k.kind, &id}, func() error {
		if !heads[k][id] {
			w.t.Errorf("%s has a head in bucket %d, where it does not lie", id, k.num)
		}
		delete(heads[k], id)
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	for k, ids := range heads {
		if len(ids) > 0 {
			w.t.Errorf("%d records of kind %s have no head in bucket %d", len(ids), k.kind, k.num)
		}
	}
}
