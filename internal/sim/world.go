package sim

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/identity"
	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/internal/sim/model"
	"github.com/satchel-sync/satchel/syncengine"
)

var secret = []byte("the simulator's servers have no listener and live seconds")

// replica is one server: the product on connections of its own.
type replica struct {
	app  *app.App
	pool *pgxpool.Pool
	wire *wire
}

// world is one run. It belongs to one goroutine, but for what the product itself does beside it.
type world struct {
	model.Company
	ctx       context.Context
	cfg       Config
	rnd       *rand.Rand    // of the step
	db        *pgxpool.Pool // the model's own connections: no fault strikes them
	replicas  []*replica
	blobs     string
	phones    []*phone
	founders  int          // of phones
	clock     atomic.Int64 // milliseconds
	at        int          // the step
	faults    bool         // the network loses, phones are killed
	bad       int          // per thousand, of each kind of loss
	late      []letter
	minted    uint64        // ids of this step
	texts     int           // unique values written in this step
	events    map[int]event // by step, in place of what it would draw
	copied    *copied       // an older state of the database; nil = none
	newer     bool          // a schema with more was published
	publishes bool          // it will be, sooner or later
	model     *model.Model
	act       Activity
	failed    []string
}

func newWorld(ctx context.Context, cfg Config) (w *world, err error) {
	w = &world{ctx: ctx, cfg: cfg}
	w.enter(0)
	// Facts lie in months: the run crosses their edge. The year is far ahead: the server's ids are of the machine's day, and
	// sort before those of the run on any day.
	w.clock.Store(time.Date(2037, 11, 30, 1, 0, 0, 0, time.UTC).UnixMilli())
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.blobs, err = os.MkdirTemp("", "satchel-sim-"); err != nil {
		return w, err
	}
	if w.db, err = pg.Open(ctx, cfg.URL, pg.Options{AppName: "sim model", MaxConns: 3}); err != nil {
		return w, err
	}
	for i := range 2 {
		r := &replica{wire: newWire()}
		w.replicas = append(w.replicas, r)
		if r.pool, err = openReplica(ctx, cfg.URL, i, r.wire); err != nil {
			return w, err
		}
		if err = w.serve(r); err != nil {
			return w, err
		}
	}
	return w, w.found()
}

// openReplica opens a replica's connections. Nothing about them goes by real time: no connection is tried before it is used
// because it was idle for a second, and the limits of Postgres are far away.
func openReplica(ctx context.Context, address string, i int, way *wire) (*pgxpool.Pool, error) {
	cfg, err := pg.Config(address, pg.Options{AppName: fmt.Sprint("sim replica ", i), MaxConns: 6, Dial: way.dial, OnConnect: syncengine.CheckLine})
	if err != nil {
		return nil, err
	}
	cfg.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	for _, limit := range []string{"lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"} {
		cfg.ConnConfig.RuntimeParams[limit] = "60s"
	}
	return pgxpool.NewWithConfig(ctx, cfg)
}

// serve starts a replica's product anew, which knows nothing of before.
func (w *world) serve(r *replica) (err error) {
	r.app, err = app.New(w.ctx, app.Config{Pool: r.pool, BlobURL: (&url.URL{Scheme: "file", Path: w.blobs}).String(), Secret: secret,
		Identity: app.Identity{Hashing: identity.Argon2{MemoryKiB: 64, Passes: 1, Lanes: 1}, AddressPerSecond: -1}, Now: w.now})
	return err
}

// enter begins a step. What it draws follows from the seed and its number alone, whatever other steps there are.
func (w *world) enter(step int) {
	w.at, w.minted, w.texts = step, 0, 0
	w.rnd = rand.New(rand.NewPCG(w.cfg.Seed, 0x5a7c4e1+uint64(step)))
}

// found makes the company, and one phone or two for each of its people.
func (w *world) found() (err error) {
	if w.Company, err = model.Found(w.ctx, w.replicas[0].app, w.db, "sim", w.id); err != nil {
		return err
	}
	w.model = &model.Model{DB: w.db, Org: w.Org, Now: w.now, Muts: map[satchel.ID]*model.Mutation{}, Fail: w.fail, Trace: w.tracef}
	for _, name := range []string{"dina", "mei", "ann", "ann", "ben", "ass", "sam", "cem"} {
		p, err := w.newPhone(name, "")
		if err != nil {
			return err
		}
		w.phones = append(w.phones, p)
		if err := w.signIn(p); err != nil {
			return fmt.Errorf("sim: %s cannot sign in: %w", p.name, err)
		}
		p.backup, p.backupDisk = p.store.Clone(), p.disk.clone()
	}
	w.founders = len(w.phones)
	return w.foresee()
}

func (w *world) close() {
	if w.db != nil {
		w.db.Close()
	}
	for _, r := range w.replicas {
		if r.pool != nil {
			r.pool.Close()
		}
	}
	if w.copied != nil {
		_ = w.forgetCopy() // the whole server ends soon
	}
	_ = os.RemoveAll(w.blobs) // in the temporary folder
}

func (w *world) now() time.Time { return time.UnixMilli(w.clock.Load()).UTC() }

func (w *world) pass(d time.Duration) { w.clock.Add(d.Milliseconds()) }

func (w *world) pick(names ...string) string { return names[w.rnd.IntN(len(names))] }

// id mints a UUIDv7 from the seed, so that what is sorted by ids is sorted the same way in each run.
func (w *world) id() (id satchel.ID) {
	w.minted++
	binary.BigEndian.PutUint64(id[8:], w.cfg.Seed<<40|uint64(w.at&0xffff)<<16|w.minted)
	binary.BigEndian.PutUint64(id[:8], uint64(w.clock.Load())<<16|w.minted&0xfff)
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return id
}

// one in n.
func (w *world) one(n int) bool { return w.rnd.IntN(n) == 0 }

// text is a value that nobody wrote before, so that it can be found again.
func (w *world) text() string {
	w.texts++
	return fmt.Sprintf("<%d.%d>", w.at, w.texts)
}

func (w *world) tracef(format string, args ...any) {
	if w.cfg.Trace != nil {
		fmt.Fprintf(w.cfg.Trace, "%4d "+format+"\n", append([]any{w.at}, args...)...)
	}
}

// fail notes a broken promise. The first few tell; a run that went wrong goes wrong in many places.
func (w *world) fail(promise, format string, args ...any) {
	text := fmt.Sprintf("%s, step %d: ", promise, w.at) + fmt.Sprintf(format, args...)
	w.tracef("FAILED %s", text)
	if len(w.failed) < 20 {
		w.failed = append(w.failed, text)
	}
}

// changeRights moves people and teams about, as an administrator does, on some replica.
func (w *world) changeRights(a *app.App) error {
	w.act.RightsChanged++
	w.act.Revoked++ // of somebody, nearly always
	told, change := w.DrawChange(w.rnd, w.AnyLogin(w.rnd))
	w.tracef("rights: %s", told)
	return change(w.ctx, a.Identity)
}

// breakDatabase sets a fault on a replica's way to Postgres.
func (w *world) breakDatabase() {
	f := &plan{commit: w.one(2), nth: 1 + w.rnd.IntN(4), then: w.rnd.IntN(5), after: w.one(2), all: w.one(3)}
	i := w.rnd.IntN(len(w.replicas))
	w.tracef("replica %d will break: commit=%v nth=%d+%d after=%v all=%v", i, f.commit, f.nth, f.then, f.after, f.all)
	if was := w.replicas[i].wire.arm(f); was != nil && was.fired {
		w.act.Broken++
	}
}

// restart lets replicas whose process died begin with fresh connections.
func (w *world) restart() {
	for _, r := range w.replicas {
		if r.wire.revive() {
			w.act.Broken++
			r.pool.Reset()
		}
	}
}

// disarm takes back all faults of the ways to Postgres.
func (w *world) disarm() {
	w.restart()
	for _, r := range w.replicas {
		if f := r.wire.arm(nil); f != nil && f.fired {
			w.act.Broken++
		}
	}
}

// meanwhile pauses one phone's transaction, mostly just before its COMMIT, while something else goes on, on the other
// replica. Both end before it returns. They take turns: the one that is held goes on, by one write at a time, when the
// other has ended or waits for a lock of it. So which of them is first is not for the machine to say.
func (w *world) meanwhile() {
	was := w.faults
	w.faults = false
	defer func() { w.faults = was }()
	w.disarm()
	p, q := w.phone(), w.phone()
	if p == q || p.noUp || q.noUp || p.noDown || q.noDown {
		return
	}
	p.replica, q.replica = 0, 1
	w.record(p)
	other := w.rnd.IntN(4)
	if other == 0 {
		w.record(q)
	}
	choice := w.rnd.Uint64()
	ended := make(chan struct{})
	until := time.Now().Add(patience)
	hold := &plan{commit: true, nth: 1, held: make(chan struct{}), turn: func() { w.endedOrBlocked(ended, until) }}
	if w.one(3) {
		hold.commit, hold.then = false, 1+w.rnd.IntN(3)
	}
	w.tracef("meanwhile: %s is held, other=%d (%s)", p.name, other, q.name)
	w.replicas[0].wire.arm(hold)
	var one, two outcome
	first := make(chan struct{})
	go func() {
		defer close(first)
		one = p.syncOnce(w.ctx)
	}()
	select {
	case <-hold.held:
		w.act.Paused++
	case <-first:
	}
	go func() {
		defer close(ended)
		switch other {
		case 0, 1:
			two = q.syncOnce(w.ctx)
		default:
			rnd := rand.New(rand.NewPCG(choice, 1)) // its own: this goroutine runs beside others
			own, login := rnd.IntN(2) == 0, p.login // of the very one who is at work
			if !own {
				login = w.AnyLogin(rnd)
			}
			_, change := w.DrawChange(rnd, login)
			err := change(w.ctx, w.replicas[1].app.Identity)
			if err == nil && (own || rnd.IntN(2) == 0) { // and all that follows from it, as far as it can be seen yet
				_, err = w.replicas[1].app.Jobs.Step(w.ctx)
			}
			two = outcome{err: err, rights: true}
		}
	}()
	<-first
	<-ended
	w.disarm()
	w.after(p, one)
	if !two.rights {
		w.after(q, two)
		return
	}
	w.act.RightsChanged++
	w.act.Revoked++
	w.settledPlaces()
}

// settledPlaces looks, when all that follows from a change of rights is done, whether every record lies where it belongs:
// the next change of the same person would put right what this one left wrong.
func (w *world) settledPlaces() {
	for range 3 {
		if n, err := w.replicas[1].app.Jobs.Step(w.ctx); err != nil || n == 0 {
			break
		}
	}
	if o, err := w.model.Office(w.ctx); err == nil {
		if err := w.model.CheckPlaces(w.ctx, o); err != nil {
			w.tracef("places: %v", err)
		}
	}
}

// patience bounds all turns of one meanwhile. It is less than what Postgres lets a transaction wait.
const patience = 30 * time.Second

// endedOrBlocked waits until what goes on on the second replica has ended or waits for a lock of the first one.
func (w *world) endedOrBlocked(ended <-chan struct{}, until time.Time) {
	for time.Now().Before(until) && w.ctx.Err() == nil {
		select {
		case <-ended:
			return
		case <-time.After(2 * time.Millisecond):
		}
		var waits bool
		if err := w.db.QueryRow(w.ctx, `SELECT EXISTS (SELECT FROM pg_stat_activity b, unnest(pg_blocking_pids(b.pid)) AS by JOIN pg_stat_activity h
			ON h.pid = by AND h.application_name = 'sim replica 0'
			WHERE b.datname = current_database() AND b.application_name = 'sim replica 1' AND b.wait_event_type = 'Lock')`).Scan(&waits); err == nil && waits {
			return
		}
	}
}
