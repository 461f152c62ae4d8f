package syncengine_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/jobs"
	"github.com/satchel-sync/satchel/internal/pgtest"
	"github.com/satchel-sync/satchel/syncengine"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// world is an organisation with two teams below a head office, on a database of its own:
//
//	head office: Dina (director)
//	├── north: Mei (manager), Ann and Ben (reps)
//	└── south: Sam (manager), Cem (rep)
type world struct {
	t      testing.TB
	pool   *pgxpool.Pool
	engine *syncengine.Engine
	jobs   *jobs.Jobs
	org    satchel.ID
	people map[string]satchel.ID
	teams  map[string]satchel.ID
	clock  atomic.Int64 // milliseconds
}

func newWorld(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	return newQuietWorld(t)
}

// newQuietWorld is newWorld for what does not run beside other tests: a fuzz target.
func newQuietWorld(t testing.TB) *world {
	t.Helper()
	return newWorldOn(t, pgtest.New(t))
}

// newWorldOn makes a world on a database that is migrated.
func newWorldOn(t testing.TB, pool *pgxpool.Pool) *world {
	t.Helper()
	w := &world{t: t, pool: pool, org: satchel.NewID(), people: map[string]satchel.ID{}, teams: map[string]satchel.ID{}}
	w.clock.Store(time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC).UnixMilli())
	var err error
	if w.jobs, err = jobs.New(w.pool, jobs.Config{Now: w.now}); err != nil {
		t.Fatal(err)
	}
	w.engine = w.newEngine()
	for kind, h := range w.engine.Handlers() {
		w.jobs.Handle(kind, h)
	}
	w.exec(`INSERT INTO org (org_id, slug, name, time_zone, created_at) VALUES ($1, 'acme', 'Acme', 'Asia/Shanghai', now())`, w.org)
	w.tx(func(ctx context.Context, tx pgx.Tx) error { return w.engine.OrgCreated(ctx, tx, w.org) })
	for _, team := range [][2]string{{"head", ""}, {"north", "head"}, {"south", "head"}} {
		w.teams[team[0]] = satchel.NewID()
		var parent any
		if team[1] != "" {
			parent = w.teams[team[1]]
		}
		w.exec(`INSERT INTO team (org_id, id, parent_id, name, created_at) VALUES ($1, $2, $3, $4, now())`, w.org, w.teams[team[0]], parent, team[0])
	}
	for _, p := range [][3]string{{"Dina", "head", "director"}, {"Mei", "north", "manager"}, {"Ann", "north", "rep"},
		{"Ben", "north", "rep"}, {"Sam", "south", "manager"}, {"Cem", "south", "rep"}} {
		w.people[p[0]] = satchel.NewID()
		w.exec(`INSERT INTO person (org_id, id, login, login_fold, display_name, team_id, roles, created_at)
			VALUES ($1, $2, $3, lower($3), $3, $4, ARRAY[$5], now())`, w.org, w.people[p[0]], p[0], w.teams[p[1]], p[2])
	}
	return w
}

// newEngine gives one more replica. Its deadline is of no concern to a test that is not about it, on however slow a machine.
func (w *world) newEngine() *syncengine.Engine {
	e, err := syncengine.New(syncengine.Config{Pool: w.pool, Jobs: w.jobs, Now: w.now, Deadline: 30 * time.Second})
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

func (w *world) now() time.Time       { return time.UnixMilli(w.clock.Load()).UTC() }
func (w *world) pass(d time.Duration) { w.clock.Add(d.Milliseconds()) }
func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.pool.Exec(context.Background(), sql, args...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) tx(fn func(ctx context.Context, tx pgx.Tx) error) {
	w.t.Helper()
	if err := pgx.BeginFunc(context.Background(), w.pool, func(tx pgx.Tx) error { return fn(context.Background(), tx) }); err != nil {
		w.t.Fatal(err)
	}
}

// count gives the one number that a query gives.
func (w *world) count(sql string, args ...any) int {
	w.t.Helper()
	var n int
	if err := w.pool.QueryRow(context.Background(), sql, args...).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// roles reads a person's roles as they are now, as authentication does.
func (w *world) principal(name string, device satchel.ID) *satchel.Principal {
	p := &satchel.Principal{Org: w.org, Person: w.people[name], Device: device}
	if err := w.pool.QueryRow(context.Background(), `SELECT roles FROM person WHERE org_id = $1 AND id = $2`, w.org, p.Person).Scan(&p.Roles); err != nil {
		w.t.Fatal(err)
	}
	return p
}

// changeRights does what identity does: the change, rights + 1 and the job in one transaction.
func (w *world) changeRights(sql string, args ...any) {
	w.t.Helper()
	w.tx(func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, sql, args...); err != nil {
			return err
		}
		if err := w.engine.RightsChanged(ctx, tx, w.org); err != nil {
			return err
		}
		return w.engine.DirectoryChanged(ctx, tx, w.org, slices.Collect(maps.Values(w.people)), slices.Collect(maps.Values(w.teams)))
	})
}

func (w *world) step() {
	w.t.Helper()
	if _, err := w.jobs.Step(context.Background()); err != nil {
		w.t.Fatal(err)
	}
}

// phone is a device that keeps what the protocol says a device keeps.
type phone struct {
	w       *world
	engine  *syncengine.Engine
	who     *satchel.Principal
	name    string
	next    uint64
	cursor  []byte
	token   []byte
	staged  map[satchel.ID]*held
	records map[satchel.ID]*held // as of the last checkpoint
	seq     uint64
	pages   int
	bytes   int // budget of a page; 0 = the default
	profile string
	last    *syncengine.Page
	forms   map[string]uint64
}

type held struct {
	kind    string
	rev     uint64
	fields  map[string]any
	buckets map[int64]bool
	deleted bool
}

func (w *world) phone(name string) *phone {
	return &phone{w: w, engine: w.engine, who: w.principal(name, satchel.NewID()), name: name, next: 1,
		staged: map[satchel.ID]*held{}, records: map[satchel.ID]*held{}}
}

// mutation numbers a mutation of this phone.
func (p *phone) mutation(ops ...syncengine.Op) syncengine.Mutation {
	m := syncengine.Mutation{Number: p.next, ID: satchel.NewID(), Ops: ops, Token: p.token,
		Recorded: syncengine.ClockReading{WallMS: p.w.clock.Load()}}
	p.next++
	return m
}

// send applies mutations and gives their verdicts.
func (p *phone) send(ms ...syncengine.Mutation) []syncengine.Verdict {
	p.w.t.Helper()
	out, err := p.engine.Apply(context.Background(), p.w.principal(p.name, p.who.Device), syncengine.Batch{Mutations: ms})
	if err != nil {
		p.w.t.Fatal(err)
	}
	return out.Verdicts
}

// do records and sends one mutation.
func (p *phone) do(ops ...syncengine.Op) syncengine.Verdict {
	p.w.t.Helper()
	v := p.send(p.mutation(ops...))
	if len(v) != 1 {
		p.w.t.Fatalf("one mutation got %d verdicts", len(v))
	}
	return v[0]
}

// mustDo is do that must be applied as sent.
func (p *phone) mustDo(ops ...syncengine.Op) syncengine.Verdict {
	p.w.t.Helper()
	v := p.do(ops...)
	if v.Status != syncengine.Applied {
		p.w.t.Fatalf("%s: verdict %s %s %v %s", p.name, v.Status, v.Reason, v.Paths, v.Detail)
	}
	return v
}

// page pulls one page and stages it; false = there is no more.
func (p *phone) page() bool {
	p.w.t.Helper()
	pg, err := p.engine.Pull(context.Background(), p.w.principal(p.name, p.who.Device),
		syncengine.PullRequest{Cursor: p.cursor, MaxBytes: p.bytes, After: p.seq, Profile: p.profile})
	if err != nil {
		p.w.t.Fatal(err)
	}
	if pg == nil {
		return false
	}
	if pg.Repair != nil {
		p.repair(pg.Repair)
		return true
	}
	p.stage(pg)
	return pg.More
}

func (p *phone) stage(pg *syncengine.Page) {
	p.w.t.Helper()
	p.pages++
	forget := func(match func(id satchel.ID, h *held, bucket int64) bool) {
		for i, m := range []map[satchel.ID]*held{p.records, p.staged} {
			for id, h := range m {
				if h == nil {
					continue
				}
				for b := range h.buckets {
					if match(id, h, b) {
						delete(h.buckets, b)
					}
				}
				if len(h.buckets) == 0 && i == 0 { // a staged one stays: it may have brought that the record left others
					delete(m, id)
				}
			}
		}
	}
	for _, d := range pg.Dropped {
		forget(func(_ satchel.ID, _ *held, b int64) bool { return b == d })
	}
	for _, d := range pg.DroppedKinds {
		forget(func(_ satchel.ID, h *held, b int64) bool { return b == d.Bucket && h.kind == d.Kind })
	}
	for kind, fields := range pg.Narrowed {
		for _, m := range []map[satchel.ID]*held{p.records, p.staged} {
			for _, h := range m {
				if h != nil && h.kind == kind {
					for _, f := range fields {
						delete(h.fields, f)
					}
				}
			}
		}
	}
	for _, c := range pg.Changes {
		h := p.staged[c.Record]
		if h == nil {
			h = &held{buckets: map[int64]bool{}}
			if old := p.records[c.Record]; old != nil {
				h.buckets = maps.Clone(old.buckets)
				h.fields = old.fields
			}
			p.staged[c.Record] = h
		}
		h.kind, h.rev, h.deleted = c.Kind, c.Rev, c.Deleted
		for _, b := range c.Entered {
			h.buckets[b] = true
		}
		for _, b := range c.Left {
			delete(h.buckets, b)
		}
		if c.Fields != nil {
			h.fields = map[string]any{}
			if err := json.Unmarshal(c.Fields, &h.fields); err != nil {
				p.w.t.Fatal(err)
			}
		}
	}
	p.cursor, p.last = pg.Cursor, pg
	if pg.Forms != nil {
		p.forms = map[string]uint64{}
		for _, f := range pg.Forms {
			p.forms[f.Kind] = f.Form
		}
	}
	if pg.Checkpoint {
		for id, h := range p.staged {
			if len(h.buckets) == 0 || h.deleted {
				delete(p.records, id)
			} else {
				p.records[id] = h
			}
		}
		clear(p.staged)
		p.seq, p.token = pg.Seq, pg.Token
		if d := p.digest(); pg.SettledPriority == 0 && (pg.Digest == nil || *pg.Digest != d) {
			p.w.t.Errorf("%s holds %+v at a checkpoint, the server says %+v", p.name, d, pg.Digest)
		}
	}
}

// digest counts and sums what the phone shows, by the words of the proto.
func (p *phone) digest() (d syncengine.Digest) {
	for id, h := range p.records {
		for range h.buckets {
			d.Count, d.Sum = d.Count+1, d.Sum+hashOf(id, h.rev)
		}
	}
	return d
}

// hashOf is the 32-bit FNV-1a hash of the id's bytes and the rev in decimal digits, mixed.
func hashOf(id satchel.ID, rev uint64) uint64 {
	h := uint32(2166136261)
	for _, b := range append(id[:], fmt.Sprint(rev)...) {
		h = (h ^ uint32(b)) * 16777619
	}
	return uint64(mix(h))
}

// mix is the last step of H in docs/protocol.md.
func mix(h uint32) uint32 {
	h ^= h >> 16
	h *= 0x85ebca6b
	h ^= h >> 13
	h *= 0xc2b2ae35
	return h ^ h>>16
}

// pull brings the phone to a checkpoint.
func (p *phone) pull() {
	p.w.t.Helper()
	for range 10_000 {
		if !p.page() {
			return
		}
	}
	p.w.t.Fatal("the pull does not end")
}

func (p *phone) has(id satchel.ID) bool { return p.records[id] != nil }

func (p *phone) field(id satchel.ID, name string) any {
	if h := p.records[id]; h != nil {
		return h.fields[name]
	}
	return nil
}

// kinds counts the records held, by kind.
func (p *phone) kinds() map[string]int {
	out := map[string]int{}
	for _, h := range p.records {
		out[h.kind]++
	}
	return out
}

func create(kind string, id satchel.ID, fields map[string]any) syncengine.Op {
	return syncengine.Op{Action: syncengine.Create, Record: id, Kind: kind, Fields: raw(fields)}
}

func patch(kind string, id satchel.ID, base uint64, fields map[string]any) syncengine.Op {
	return syncengine.Op{Action: syncengine.Patch, Record: id, Kind: kind, BaseRev: base, Fields: raw(fields)}
}

func raw(fields map[string]any) json.RawMessage {
	b, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	return b
}

// account makes an account of the person.
func (p *phone) account(name string) satchel.ID {
	p.w.t.Helper()
	id := satchel.NewID()
	p.mustDo(create("account", id, map[string]any{"name": name}))
	return id
}

func visitFields(account satchel.ID, subject string) map[string]any {
	return map[string]any{"account": account.String(), "subject": subject}
}

func (w *world) show(p *phone) string {
	return fmt.Sprint(p.kinds())
}
