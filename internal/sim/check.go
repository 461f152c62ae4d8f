package sim

import (
	"encoding/json"
	"errors"
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
}

// office is what the database holds at a moment.
type office struct {
	schema *schema.Schema
	dir    *access.Directory
	all    map[satchel.ID]stored
	names  map[int64]access.Bucket
	nums   map[access.Bucket]int64
}

// checkOwn proves S14 and what Get promises: own work is shown until a checkpoint shows it.
func (w *world) checkOwn(p *phone) {
	for id, o := range p.mine {
		if o.deleted {
			continue
		}
		r, err := p.client.Get(w.ctx, o.kind, id)
		_, created := o.marks[""]
		switch {
		case errors.Is(err, satchelclient.ErrNotFound) && !created:
			continue // it has left the phone, or was never on it
		case err != nil:
			w.fail("S14", "%s does not show its own %s %s: %v", p.name, o.kind, id, err)
			continue
		}
		for field, mk := range o.marks {
			if field != "" && r.Text(field) != mk.value {
				w.fail("S14", "%s shows %s of its own %s %s as %q, it wrote %q", p.name, field, o.kind, id, r.Text(field), mk.value)
			}
		}
	}
}

// checkPairs proves S4 and S12 on a phone: what changes together is shown together.
func (w *world) checkPairs(p *phone) {
	pairs := map[string][]string{}
	for _, t := range w.shown(p, "task") {
		if mark := t.Text("title"); strings.HasPrefix(mark, pairMark) {
			pairs[mark] = append(pairs[mark], t.Text("remark"))
		}
	}
	for mark, remarks := range pairs {
		if len(remarks) != 2 || remarks[0] != remarks[1] {
			w.fail("S4 S12", "%s shows half of what was done at once: %s %q", p.name, mark, remarks)
		}
	}
}

// checkHeld proves S13 on a phone that is at a checkpoint of this moment.
func (w *world) checkHeld(p *phone) {
	o, err := w.office()
	if err != nil {
		w.fail("S13", "the office cannot be read: %v", err)
		return
	}
	w.compare(p, p.client, o)
}

// office reads the database, by connections that nothing breaks.
func (w *world) office() (o *office, err error) {
	if w.reader == nil {
		queue, err := jobs.New(w.db, jobs.Config{Now: w.now})
		if err != nil {
			return nil, err
		}
		if w.reader, err = syncengine.New(syncengine.Config{Pool: w.db, Jobs: queue, Now: w.now}); err != nil {
			return nil, err
		}
	}
	o = &office{all: map[satchel.ID]stored{}, names: map[int64]access.Bucket{}, nums: map[access.Bucket]int64{}}
	if o.schema, o.dir, err = w.reader.Org(w.ctx, w.org); err != nil {
		return nil, err
	}
	rows, err := w.db.Query(w.ctx, `SELECT id, kind, rev, data, author, event_ms, deleted, buckets FROM record WHERE org_id = $1`, w.org)
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		st := stored{rec: &schema.Record{}}
		r := st.rec
		var data []byte
		if err := rows.Scan(&r.ID, &r.Kind, &r.Rev, &data, &r.Author, &r.EventMS, &r.Deleted, &st.buckets); err != nil {
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
	if rows, err = w.db.Query(w.ctx, `SELECT stem, month, num FROM bucket_name WHERE org_id = $1`, w.org); err != nil {
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

// kindsHeld are those that phones are compared by.
var kindsHeld = []string{"account", "contact", "visit", "photo", "task", "quote", "approval", "notice", "attention", "person", "team"}

// compare tells where a phone at a checkpoint holds other than its person may see, or less.
func (w *world) compare(p *phone, c *satchelclient.Client, o *office) {
	person := w.people[p.login]
	who, _ := o.dir.Person(person)
	g := access.NewGrants(o.schema, who.Roles)
	follow := access.Follow(g, o.dir, person)
	overlaid := map[satchel.ID]bool{} // own work on top: what stands below it does not show
	err := p.store.View(w.ctx, func(tx satchelclient.ReadTx) error {
		return tx.Scan(satchelclient.TableOverlay, nil, nil, func(key, _ []byte) error {
			overlaid[satchel.ID(key[:16])] = true
			return nil
		})
	})
	if err != nil {
		w.fail("S13", "%s: the overlay cannot be read: %v", p.name, err)
	}
	shown := map[satchel.ID]satchelclient.Record{}
	for _, kind := range kindsHeld {
		for _, r := range w.shown(p, kind) {
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
			places = append(places, o.names[num])
		}
		r, has := shown[id]
		delete(shown, id)
		sees := !st.rec.Deleted && access.Sees(follow, st.rec.Kind, places)
		switch {
		case sees != has && sees:
			w.fail("S13", "%s lacks the %s %s at rev %d", p.name, st.rec.Kind, id, st.rec.Rev)
		case sees != has:
			w.fail("S13", "%s shows the %s %s, which is not for %s (deleted %v)", p.name, st.rec.Kind, id, p.login, st.rec.Deleted)
		case has && r.Rev != st.rec.Rev:
			w.fail("S13", "%s has the %s %s at rev %d, it is at %d", p.name, st.rec.Kind, id, r.Rev, st.rec.Rev)
		case has && st.rec.Kind != "attention":
			if got, want := canonical(r.Fields), masked(g, st.rec); got != want {
				w.fail("S13", "%s shows the %s %s as %s, for %s it is %s", p.name, st.rec.Kind, id, got, p.login, want)
			}
		}
	}
	for id, r := range shown {
		if !overlaid[id] {
			w.fail("S13", "%s shows the %s %s, which the office does not have", p.name, r.Kind, id)
		}
	}
}

func canonical(raw json.RawMessage) string {
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
	m := g.Mask(r.Kind)
	for name, v := range r.Data {
		s, isText := v.(string)
		switch {
		case slices.Contains(m.Hidden, name):
			continue
		case slices.Contains(m.Partial, name) && isText && len([]rune(s)) >= 8:
			runes := []rune(s)
			v = string(runes[:3]) + "****" + string(runes[len(runes)-4:])
		case slices.Contains(m.Partial, name):
			v = "****"
		}
		out[name] = v
	}
	return text(out)
}

// checkAll is the last word, when everything has come to rest.
func (w *world) checkAll() error {
	o, err := w.office()
	if err != nil {
		return err
	}
	if err := w.checkLedger(o); err != nil {
		return err
	}
	if err := w.checkPlaces(o); err != nil {
		return err
	}
	before, err := w.seq()
	if err != nil {
		return err
	}
	fresh := map[string]*phone{}
	for _, p := range w.phones {
		w.checkPairs(p)
		w.compare(p, p.client, o)
		twin := fresh[p.login]
		if twin == nil {
			if twin, err = w.newPhone(p.login); err != nil {
				return err
			}
			if err := w.signIn(twin); err != nil {
				return fmt.Errorf("sim: a fresh phone of %s cannot sign in: %w", p.login, err)
			}
			if _, err := twin.client.Sync(w.ctx); err != nil {
				w.fail("S20", "a fresh phone of %s cannot sync: %v", p.login, err)
			}
			fresh[p.login] = twin
			w.compare(twin, twin.client, o)
		}
		if got, want := w.all(p), w.all(twin); got != want {
			w.fail("S13", "%s does not hold what a fresh phone of %s holds: %s", p.name, p.login, difference(got, want))
		}
		r, err := p.client.SyncOnce(w.ctx)
		if errors.Is(err, satchelclient.ErrSignInAgain) && w.signIn(p) == nil { // its clone has taken the session
			r, err = p.client.SyncOnce(w.ctx)
		}
		switch {
		case err != nil:
			w.fail("S20", "%s at rest cannot sync: %v", p.name, err)
		case r.Changes+r.Sent > 0 || r.More:
			w.fail("S15", "%s at rest sent %d and got %d", p.name, r.Sent, r.Changes)
		}
	}
	after, err := w.seq()
	if err == nil && after != before {
		w.fail("S15", "idle syncs moved the clock from %d to %d", before, after)
	}
	return err
}

func (w *world) seq() (seq int64, err error) {
	return seq, w.db.QueryRow(w.ctx, `SELECT seq FROM org_clock WHERE org_id = $1`, w.org).Scan(&seq)
}

// all is everything that a phone shows, as text.
func (w *world) all(p *phone) string {
	var b strings.Builder
	for _, kind := range kindsHeld {
		for _, r := range w.shown(p, kind) {
			fmt.Fprintf(&b, "%s %s %d %v %s %d %s\n", kind, r.ID, r.Rev, r.Pending, r.Author, r.EventMs, canonical(r.Fields))
		}
	}
	return b.String()
}

// difference gives the first line that only one of two texts has.
func difference(got, want string) string {
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

// checkPlaces compares where records lie with where the directory puts them, and heads and buckets with both.
func (w *world) checkPlaces(o *office) error {
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
		var nums []int64
		for _, b := range access.Place(o.schema.Kind(st.rec.Kind), st.rec, o.topOwner(st.rec), o.dir, zone) {
			nums = append(nums, o.nums[b])
		}
		slices.Sort(nums)
		if !slices.Equal(nums, st.buckets) {
			w.fail("S13", "the %s %s lies in %v, it belongs in %v", st.rec.Kind, id, st.buckets, nums)
			if up, ok := o.all[st.rec.Ref("account")]; ok {
				w.tracef("it hangs under %+v %v", up.rec, up.buckets)
			}
		}
		for _, num := range st.buckets {
			want[in{num, id}] = true
		}
	}
	rows, err := w.db.Query(w.ctx, `SELECT bucket, record_id FROM head WHERE org_id = $1 AND present`, w.org)
	if err != nil {
		return err
	}
	var h in
	if _, err := pgx.ForEachRow(rows, []any{&h.num, &h.id}, func() error {
		if !want[h] {
			w.fail("S13", "%s has a head in bucket %d, where it does not lie", h.id, h.num)
		}
		delete(want, h)
		return nil
	}); err != nil {
		return err
	}
	for h := range want {
		w.fail("S10", "%s has no head in bucket %d, where it lies", h.id, h.num)
	}
	return nil
}

// topOwner is the owner of the topmost record that a record hangs under.
func (o *office) topOwner(r *schema.Record) (owner satchel.ID) {
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
