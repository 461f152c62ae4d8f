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
	"github.com/satchel-sync/satchel/internal/pg"
)

// Mode is how much is measured on how much.
type Mode struct {
	Name         string
	Scale        Scale
	Pairs        int // turns of ours and the floor for each figure, at least 1
	Batches      int // of 50, each device in a turn of a push
	FloorBatches int
	Rounds       int // of changes and pulls in a turn of the delta
	Calls        int // in a turn of the idle sync
}

// The modes. A full run takes some minutes.
var (
	FullMode  = Mode{Name: "full", Scale: Full, Pairs: 7, Batches: 60, FloorBatches: 100, Rounds: 20, Calls: 500}
	QuickMode = Mode{Name: "quick", Scale: Quick, Pairs: 2, Batches: 10, FloorBatches: 30, Rounds: 5, Calls: 100}
	TinyMode  = Mode{Name: "tiny", Scale: Tiny, Pairs: 1, Batches: 2, FloorBatches: 2, Rounds: 2, Calls: 5}
)

// limit ends a run that hangs.
const limit = 20 * time.Minute

// Config says what to measure and where.
type Config struct {
	// DatabaseURL is a superuser's address of a Postgres on which nothing else works meanwhile. The bench makes and
	// drops databases named satchel_bench_*.
	DatabaseURL string
	// Keep leaves the loaded data for the next run.
	Keep bool
	Mode Mode
	// Only names the works to do, of [Works]; none = all.
	Only []string
	// Servers gives the command of a process that calls [Serve] with its standard input and output.
	Servers func(ctx context.Context) *exec.Cmd
	// Profile is a folder for CPU profiles of the servers, one a work; "" = none. Statements are reported too where
	// Postgres has loaded pg_stat_statements. Both slow what is measured a little.
	Profile string
	// Log is told what is going on; nil = nobody.
	Log io.Writer
}

// lab is one run.
type lab struct {
	cfg    Config
	mode   Mode
	w      *world
	rng    *rand.Rand
	org    satchel.ID
	conn   *pgx.Conn     // for questions, beside the load
	pool   *pgxpool.Pool // the floor's clients
	child  *child
	report *Report

	postmaster int
}

// work is a group of figures that are taken together.
type work struct {
	name string
	run  func(*lab, context.Context) error
}

// works are in this order: what reads comes before what makes the data grow.
func works() []work {
	return []work{
		{"initial", (*lab).initial},
		{"initial_gzip", (*lab).initialGzip},
		{"initial_rep", (*lab).initialRep},
		{"delta", (*lab).delta},
		{"idle", (*lab).idle},
		{"bytes", (*lab).visitBytes},
		{"push", func(l *lab, ctx context.Context) error { return l.push(ctx, "push", devices, l.creates) }},
		{"push_one", func(l *lab, ctx context.Context) error { return l.push(ctx, "push_one", 1, l.creates) }},
		{"push_mix", func(l *lab, ctx context.Context) error { return l.push(ctx, "push_mix", devices, l.mix) }},
	}
}

// Works lists what [Config.Only] may name.
func Works() []string {
	var names []string
	for _, w := range works() {
		names = append(names, w.name)
	}
	return names
}

// CheckWorks refuses names that are not of [Works].
func CheckWorks(names []string) error {
	for _, name := range names {
		if !slices.Contains(Works(), name) {
			return fmt.Errorf("bench: there is no work %q; there are %s", name, strings.Join(Works(), ", "))
		}
	}
	return nil
}

// Run measures. It ends by itself, in 20 minutes at most.
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
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	begin := time.Now()
	w, err := newWorld(cfg.Mode.Scale)
	if err != nil {
		return nil, err
	}
	db, err := openDatabase(ctx, cfg.DatabaseURL, w, cfg.Keep, cfg.Log)
	if err != nil {
		return nil, err
	}
	defer db.close()
	dir, err := os.MkdirTemp("", "satchel-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	l := &lab{cfg: cfg, mode: cfg.Mode, w: w, rng: rand.New(rand.NewPCG(11, 1))}
	if err := l.open(ctx, db.url, dir); err != nil {
		return nil, err
	}
	defer l.close()
	for _, w := range works() {
		if len(cfg.Only) > 0 && !slices.Contains(cfg.Only, w.name) {
			continue
		}
		fmt.Fprintf(cfg.Log, "%s …\n", w.name)
		if err := l.profiled(ctx, w); err != nil {
			return nil, fmt.Errorf("%s: %w", w.name, err)
		}
	}
	l.report.TookS = time.Since(begin).Seconds()
	return l.report, nil
}

// open connects everything and notes what it is measured on.
func (l *lab) open(ctx context.Context, address, dir string) (err error) {
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	l.report = &Report{At: time.Now().UTC().Format(time.RFC3339), Revision: revision(ctx), Mode: l.mode.Name, Scale: l.mode.Scale, Machine: machine()}
	if l.conn, err = pgx.Connect(ctx, address); err != nil {
		return err
	}
	if l.report.Postgres, err = settings(ctx, l.conn); err != nil {
		return err
	}
	if l.report.FlushUS, err = flushMicros(dir); err != nil {
		return err
	}
	if err := l.conn.QueryRow(ctx, sqlOrg, orgSlug).Scan((*[16]byte)(&l.org)); err != nil {
		return err
	}
	l.postmaster = postmasterOf(ctx, l.conn)
	if l.pool, err = pg.Open(ctx, address, pg.Options{AppName: "floor push", MaxConns: devices}); err != nil {
		return err
	}
	if strings.Contains(l.report.Postgres["shared_preload_libraries"], "pg_stat_statements") {
		if _, err := l.conn.Exec(ctx, `CREATE EXTENSION IF NOT EXISTS pg_stat_statements`); err != nil {
			return err
		}
		l.report.Statements = map[string][]Statement{}
	}
	l.child, err = startChild(ctx, l.cfg.Servers(ctx), orders{DatabaseURL: address, Blobs: dir})
	return err
}

func (l *lab) close() {
	if l.child != nil {
		l.child.stop()
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
	if l.report.Statements != nil {
		if _, err := l.conn.Exec(ctx, sqlResetStatements); err != nil {
			return err
		}
	}
	if l.cfg.Profile != "" {
		if err := os.MkdirAll(l.cfg.Profile, 0o755); err != nil {
			return err
		}
		if err := l.child.order(ctx, "profile "+filepath.Join(l.cfg.Profile, w.name+".pprof")); err != nil {
			return err
		}
	}
	if err := w.run(l, ctx); err != nil {
		return err
	}
	if l.cfg.Profile != "" {
		if err := l.child.order(ctx, "profile-end"); err != nil {
			return err
		}
	}
	return l.statements(ctx, w.name)
}

// statements notes what Postgres spent its time on.
func (l *lab) statements(ctx context.Context, work string) error {
	if l.report.Statements == nil {
		return nil
	}
	rows, err := l.conn.Query(ctx, sqlStatements, 25)
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
	var before, after usage
	if err := m.l.child.ask(ctx, "usage", &before); err != nil {
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
	if err := m.l.child.ask(ctx, "usage", &after); err != nil {
		return 0, err
	}
	m.server += after.CPU - before.CPU
	m.wall += took
	m.units += float64(units)
	return took, nil
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
