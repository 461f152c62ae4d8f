package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/bench/dataset"
	"github.com/satchel-sync/satchel/internal/pg"
)

// Mode is how much is measured on how much.
type Mode struct {
	Name         string        `json:"name"`
	Scale        dataset.Scale `json:"scale"` // of the organisation that most is measured on
	Small        dataset.Scale `json:"small"` // delta_growth goes from here …
	Grown        dataset.Scale `json:"grown"` // … to there
	Orgs         dataset.Scale `json:"orgs"`  // of each of the eight
	Slow         dataset.Scale `json:"slow"`  // of the organisation on the slow disk
	Storm        dataset.Scale `json:"storm"` // all its reps take part
	Waiters      int           `json:"waiters"`
	Pairs        int           `json:"pairs"`       // turns of ours and the floor for each figure, at least 1
	Batches      int           `json:"batches"`     // of 50, each device in a turn of a push
	FewBatches   int           `json:"few_batches"` // the same, where there is no floor to be beside
	FloorBatches int           `json:"floor_batches"`
	Rounds       int           `json:"rounds"` // of changes and pulls in a turn of the delta
	Wakes        int           `json:"wakes"`  // of all waiters in a turn of the fan-out
	Calls        int           `json:"calls"`  // in a turn of the idle sync
}

// The modes. A full run takes some minutes, and the first one some more, to load the data.
var (
	FullMode = Mode{Name: "full", Scale: dataset.Full, Orgs: dataset.Scale{Teams: 2, RepsPerTeam: 4, VisitsPerRep: 200, AccountsPerRep: 5},
		Small:   dataset.Scale{Teams: 10, RepsPerTeam: 100, VisitsPerRep: 20, AccountsPerRep: 5},
		Grown:   dataset.Scale{Teams: 10, RepsPerTeam: 100, VisitsPerRep: 2000, AccountsPerRep: 5},
		Slow:    dataset.Quick,
		Storm:   dataset.Scale{Teams: 100, RepsPerTeam: 100, VisitsPerRep: 10, AccountsPerRep: 1},
		Waiters: 1000, Pairs: 7, Batches: 60, FewBatches: 30, FloorBatches: 100, Rounds: 20, Wakes: 4, Calls: 500}
	QuickMode = Mode{Name: "quick", Scale: dataset.Quick, Orgs: dataset.Scale{Teams: 2, RepsPerTeam: 4, VisitsPerRep: 100, AccountsPerRep: 5},
		Small:   dataset.Scale{Teams: 10, RepsPerTeam: 10, VisitsPerRep: 20, AccountsPerRep: 5},
		Grown:   dataset.Scale{Teams: 10, RepsPerTeam: 10, VisitsPerRep: 2000, AccountsPerRep: 5},
		Slow:    dataset.Quick,
		Storm:   dataset.Scale{Teams: 10, RepsPerTeam: 100, VisitsPerRep: 10, AccountsPerRep: 1},
		Waiters: 200, Pairs: 2, Batches: 10, FewBatches: 10, FloorBatches: 30, Rounds: 5, Wakes: 2, Calls: 100}
	TinyMode = Mode{Name: "tiny", Scale: dataset.Tiny, Orgs: dataset.Tiny,
		Small:   dataset.Scale{Teams: 2, RepsPerTeam: 4, VisitsPerRep: 10, AccountsPerRep: 2},
		Grown:   dataset.Scale{Teams: 2, RepsPerTeam: 4, VisitsPerRep: 40, AccountsPerRep: 2},
		Slow:    dataset.Tiny,
		Storm:   dataset.Scale{Teams: 2, RepsPerTeam: 10, VisitsPerRep: 10, AccountsPerRep: 1},
		Waiters: 20, Pairs: 1, Batches: 2, FewBatches: 2, FloorBatches: 2, Rounds: 2, Wakes: 1, Calls: 5}
)

// limit ends a run that hangs. Making data ready does not count; what has to be loaded has as long again for each set.
const limit = 20 * time.Minute

// budget ends a run when its time is used up.
type budget struct {
	timer *time.Timer
	left  time.Duration
	since time.Time
	ready time.Duration // spent on making data ready
}

func newBudget(end func()) *budget {
	return &budget{timer: time.AfterFunc(limit, end), left: limit, since: time.Now()}
}

// free runs fn without its time being counted.
func (b *budget) free(ctx context.Context, fn func(context.Context) error) error {
	b.timer.Stop()
	begin := time.Now()
	b.left -= begin.Sub(b.since)
	defer func() {
		b.since = time.Now()
		b.ready += b.since.Sub(begin)
		b.timer.Reset(max(b.left, 0))
	}()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return fn(ctx)
}

// Config says what to measure and where.
type Config struct {
	// DatabaseURL is a superuser's address of a Postgres on which nothing else works meanwhile. The bench makes and
	// drops databases named satchel_bench_*.
	DatabaseURL string
	// SlowDisk starts a second Postgres, whose every flush takes 2 ms longer, and gives its address and what stops it.
	// The error says why that cannot be, and becomes [Report.NotTaken]. nil = there is none.
	SlowDisk func(ctx context.Context) (address string, stop func(), err error)
	// Keep leaves the loaded data for the next run.
	Keep bool
	Mode Mode
	// Only names the works to do, or figures, whose works are done; none = all. See [CheckWorks].
	Only []string
	// Servers gives the command of a process that calls [Serve] with its standard input and output.
	Servers func(ctx context.Context) *exec.Cmd
	// Profile is a folder for CPU profiles of the servers, one a work; "" = none. Statements are reported too where
	// Postgres has loaded pg_stat_statements. Both slow what is measured a little.
	Profile string
	// Log is told what is going on; nil = nobody.
	Log io.Writer
}

// lab is one run, or a part of it that has a database of its own.
type lab struct {
	cfg    Config
	mode   Mode
	dir    string // for files that go with the run
	server *dataset.Server
	report *Report
	admin  *pgx.Conn // to the address that was given: settings and statements
	work   string    // that is being done
	budget *budget

	// What [lab.on] opens.
	worlds     []*dataset.World
	w          *dataset.World // the first of them
	org        satchel.ID     // its id
	rng        *rand.Rand
	conn       *pgx.Conn     // for questions, beside the load
	pool       *pgxpool.Pool // the floor's clients
	address    string
	product    *child // Satchel alone
	floor      *child // what it is compared with; nil = not started
	postmaster int
	managers   map[string]*device // that overtake pushers
	stormBegan time.Time
	stormSeed  uint64
}

// work is a group of figures that are taken together.
type work struct {
	name    string
	figures []string // that have a bar
	own     bool     // it opens its own data
	run     func(*lab, context.Context) error
}

// works are in this order: what reads comes before what makes the data grow.
func works() []work {
	return []work{
		{"initial", []string{"initial_vs_floor"}, false, (*lab).initial},
		{"initial_gzip", []string{"initial_gzip_vs_floor"}, false, (*lab).initialGzip},
		{"initial_rep", nil, false, (*lab).initialRep},
		{"rss", []string{"rss_mib"}, false, (*lab).rss},
		{"delta", []string{"delta_vs_floor"}, false, (*lab).delta},
		{"idle", []string{"idle_body_bytes", "idle_vs_echo"}, false, (*lab).idle},
		{"bytes", []string{"wire_bytes_per_visit"}, false, (*lab).visitBytes},
		{"waiter", []string{"waiter_kib"}, false, (*lab).waiterMemory},
		{"fanout", []string{"fanout_p50_vs_floor", "fanout_p99_vs_floor"}, false, (*lab).fanout},
		{"push", []string{"push_vs_floor"}, false, func(l *lab, ctx context.Context) error { return l.push(ctx, "push", devices, l.mix) }},
		{"push_create", nil, false, func(l *lab, ctx context.Context) error { return l.push(ctx, "push_create", devices, l.creates) }},
		{"push_one", nil, false, func(l *lab, ctx context.Context) error { return l.push(ctx, "push_one", 1, l.creates) }},
		{"one_org", []string{"one_org_vs_eight"}, false, (*lab).oneOrg},
		{"slow_disk", []string{"push_slow_disk"}, true, (*lab).slowDisk},
		{"growth", []string{"delta_growth"}, true, (*lab).deltaGrowth},
		{"storm", []string{"morning_storm"}, true, (*lab).storm},
	}
}

// Works lists the works, each with the figures of it that have a bar.
func Works() []string {
	var names []string
	for _, w := range works() {
		if len(w.figures) > 0 {
			w.name += " (" + strings.Join(w.figures, ", ") + ")"
		}
		names = append(names, w.name)
	}
	return names
}

// named tells whether one of the names is the work's, or a figure's of it.
func (w work) named(names []string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return n == w.name || slices.Contains(w.figures, n) })
}

// CheckWorks refuses names that are neither of a work nor of a figure with a bar.
func CheckWorks(names []string) error {
	for _, name := range names {
		if !slices.ContainsFunc(works(), func(w work) bool { return w.named([]string{name}) }) {
			return fmt.Errorf("bench: there is no work or figure %q; there are %s", name, strings.Join(Works(), ", "))
		}
	}
	return nil
}

// Run measures. It ends by itself, in 20 minutes at most, not counting the loading of data that no earlier run has kept. A
// work that fails is noted in [Report.Failed], and the next one is done; the error is for a run that measured nothing.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	if err := CheckWorks(cfg.Only); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = io.Discard
	}
	if cfg.Servers == nil || cfg.Mode.Pairs < 1 {
		return nil, errors.New("bench: Config needs Servers and a Mode")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	begin := time.Now()
	base := &lab{cfg: cfg, mode: cfg.Mode, budget: newBudget(cancel)}
	defer base.budget.timer.Stop()
	var err error
	if base.dir, err = os.MkdirTemp("", "satchel-bench-"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(base.dir)
	if base.server, err = dataset.Connect(ctx, cfg.DatabaseURL, cfg.Keep, cfg.Log); err != nil {
		return nil, err
	}
	defer base.server.Close()
	if err := base.begin(ctx); err != nil {
		return nil, err
	}
	defer base.admin.Close(context.WithoutCancel(ctx))
	var shared *lab
	for _, w := range works() {
		if len(cfg.Only) > 0 && !w.named(cfg.Only) {
			continue
		}
		fmt.Fprintf(cfg.Log, "%s …\n", w.name)
		l := base
		if !w.own {
			if shared == nil {
				if shared, err = base.on(ctx, base.server, base.mainSet(), true); err != nil {
					return nil, err
				}
				defer shared.close()
			}
			l = shared
		}
		if err := l.profiled(ctx, w); err != nil {
			base.report.Failed[w.name] = err.Error()
		}
	}
	base.report.TookS = (time.Since(begin) - base.budget.ready).Seconds()
	base.report.ReadyS = base.budget.ready.Seconds()
	return base.report, nil
}

// begin notes what it is measured on.
func (l *lab) begin(ctx context.Context) (err error) {
	l.report = &Report{At: time.Now().UTC().Format(time.RFC3339), Revision: revision(ctx), Mode: l.mode, Machine: machine(), NotTaken: map[string]string{}, Failed: map[string]string{}}
	if l.admin, err = pgx.Connect(ctx, l.cfg.DatabaseURL); err != nil {
		return err
	}
	if l.report.Postgres, err = settings(ctx, l.admin); err != nil {
		return err
	}
	if l.report.FlushUS, err = flushMicros(l.dir); err != nil {
		return err
	}
	if strings.Contains(l.report.Postgres["shared_preload_libraries"], "pg_stat_statements") {
		if _, err := l.admin.Exec(ctx, `CREATE EXTENSION IF NOT EXISTS pg_stat_statements`); err != nil {
			return err
		}
		l.report.Statements = map[string][]Statement{}
	}
	return nil
}

// The organisations of the main set, in this order: the large one, eight small ones, and one whose managers wait.
const (
	orgSlug = "bench"
	eight   = 8
)

func (l *lab) mainSet() dataset.Set {
	set := dataset.Set{Name: l.mode.Name, Orgs: []dataset.Org{{Slug: orgSlug, Scale: l.mode.Scale, Seed: 7, Floor: true}}}
	for i := range eight {
		set.Orgs = append(set.Orgs, dataset.Org{Slug: fmt.Sprintf("bench-%d", i+1), Scale: l.mode.Orgs, Seed: uint64(100 + i)})
	}
	hall := dataset.Scale{Teams: 1, RepsPerTeam: 4, VisitsPerRep: 10, AccountsPerRep: 2, ManagersPerTeam: l.mode.Waiters}
	set.Orgs = append(set.Orgs, dataset.Org{Slug: "hall", Scale: hall, Seed: 200, Unmirrored: true})
	return set
}

// on opens a set on a Postgres, with servers for it.
func (l *lab) on(ctx context.Context, server *dataset.Server, set dataset.Set, withFloor bool) (_ *lab, err error) {
	in := &lab{cfg: l.cfg, mode: l.mode, dir: l.dir, server: server, report: l.report, admin: l.admin, work: l.work, budget: l.budget, rng: rand.New(rand.NewPCG(11, 1)),
		managers: map[string]*device{}}
	defer func() {
		if err != nil {
			in.close()
		}
	}()
	if err := l.budget.free(ctx, func(ctx context.Context) (err error) {
		in.address, in.worlds, err = server.Open(ctx, set)
		return err
	}); err != nil {
		return nil, err
	}
	in.w = in.worlds[0]
	if in.conn, err = pgx.Connect(ctx, in.address); err != nil {
		return nil, err
	}
	if in.org, err = in.orgOf(ctx, in.w); err != nil {
		return nil, err
	}
	in.postmaster = postmasterOf(ctx, in.conn)
	if in.pool, err = pg.Open(ctx, in.address, pg.Options{AppName: "floor push", MaxConns: devices}); err != nil {
		return nil, err
	}
	if in.product, err = in.serve(ctx, product); err != nil {
		return nil, err
	}
	if withFloor {
		in.floor, err = in.serve(ctx, floor)
	}
	return in, err
}

// serve starts servers on the database; stop them.
func (l *lab) serve(ctx context.Context, what string) (*child, error) {
	return l.serveBy(ctx, l.cfg.Servers(ctx), what)
}

func (l *lab) serveBy(ctx context.Context, cmd *exec.Cmd, what string) (*child, error) {
	return startChild(ctx, cmd, orders{Serve: what, DatabaseURL: l.address, Blobs: l.dir})
}

// orgOf gives the id of a world's organisation.
func (l *lab) orgOf(ctx context.Context, w *dataset.World) (org satchel.ID, err error) {
	err = l.conn.QueryRow(ctx, sqlOrg, w.Slug).Scan((*[16]byte)(&org))
	return org, err
}

func (l *lab) close() {
	for _, d := range l.managers {
		d.close()
	}
	for _, c := range []*child{l.product, l.floor} {
		if c != nil {
			c.stop()
		}
	}
	if l.pool != nil {
		l.pool.Close()
	}
	if l.conn != nil {
		_ = l.conn.Close(context.Background())
	}
}

// profiled runs a work, with the profiles that were asked for.
func (l *lab) profiled(ctx context.Context, w work) error {
	l.work = w.name
	if l.report.Statements != nil {
		if _, err := l.admin.Exec(ctx, sqlResetStatements); err != nil {
			return err
		}
	}
	run := func() error { return w.run(l, ctx) }
	if w.own { // it says itself where the load begins
		if err := run(); err != nil {
			return err
		}
	} else if err := l.profile(ctx, run); err != nil {
		return err
	}
	return l.statements(ctx, w.name)
}

// profile runs fn with a profile of the product's process, where one was asked for.
func (l *lab) profile(ctx context.Context, fn func() error) error {
	if l.cfg.Profile == "" {
		return fn()
	}
	if err := os.MkdirAll(l.cfg.Profile, 0o755); err != nil {
		return err
	}
	if err := l.product.order(ctx, "profile "+filepath.Join(l.cfg.Profile, l.work+".pprof")); err != nil {
		return err
	}
	if err := fn(); err != nil {
		return err
	}
	return l.product.order(ctx, "profile-end")
}

// statements notes what Postgres spent its time on.
func (l *lab) statements(ctx context.Context, work string) error {
	if l.report.Statements == nil {
		return nil
	}
	rows, err := l.admin.Query(ctx, sqlStatements, 25)
	if err != nil {
		return err
	}
	l.report.Statements[work], err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (s Statement, err error) {
		err = r.Scan(&s.Name, &s.Calls, &s.TotalMS, &s.Rows, &s.WALMB)
		return s, err
	})
	return err
}

// pairs runs ours and the floor in turns, each first as often as the other.
func (l *lab) pairs(ctx context.Context, ours, floor func(context.Context) error) error {
	for i := range l.mode.Pairs {
		first, second := floor, ours
		if i%2 == 1 {
			first, second = ours, floor
		}
		for _, run := range []func(context.Context) error{first, second} {
			if err := run(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// meterOf adds up what the processes spent on a work.
type meterOf struct {
	l                              *lab
	units                          float64
	wall, client, server, postgres time.Duration
}

// spend runs fn and adds what it cost for so many units of work.
func (m *meterOf) spend(ctx context.Context, units int, fn func() error) (time.Duration, error) {
	before, err := m.l.serversCPU(ctx)
	if err != nil {
		return 0, err
	}
	postgres := postgresCPU(m.l.postmaster) // not inside the client's own time, for it is slow
	client := usageOfSelf().CPU
	begin := time.Now()
	if err := fn(); err != nil {
		return 0, err
	}
	took := time.Since(begin)
	m.client += usageOfSelf().CPU - client
	m.postgres += postgresCPU(m.l.postmaster) - postgres
	after, err := m.l.serversCPU(ctx)
	if err != nil {
		return 0, err
	}
	m.server += after - before
	m.wall += took
	m.units += float64(units)
	return took, nil
}

// serversCPU is what the servers' processes have used so far.
func (l *lab) serversCPU(ctx context.Context) (sum time.Duration, err error) {
	for _, c := range []*child{l.product, l.floor} {
		if c == nil {
			continue
		}
		var u usage
		if err := c.ask(ctx, "usage", &u); err != nil {
			return 0, err
		}
		sum += u.CPU
	}
	return sum, nil
}

// note puts the split into the report, per so many units.
func (m *meterOf) note(work, per string, n float64) {
	if m.units == 0 {
		return
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 * n / m.units }
	m.l.report.Split = append(m.l.report.Split, Split{Work: work, Per: per, Wall: ms(m.wall), Client: ms(m.client),
		Server: ms(m.server), Postgres: ms(m.postgres)})
}

// ratios divides pair by pair.
func ratios(a, b []float64) []float64 {
	out := make([]float64, min(len(a), len(b)))
	for i := range out {
		out[i] = a[i] / b[i]
	}
	return out
}
