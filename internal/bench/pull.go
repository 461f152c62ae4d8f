package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	satchel "github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/internal/bench/dataset"
)

const (
	pageBytes = 1 << 20 // what a first sync asks for on a good line
	changed   = 100     // in a round of the delta; half of them are the manager's
	fewVisits = 10      // of these come from one rep where reps have few
)

// initial is the first sync of the manager of the first team, as a new phone makes it.
func (l *lab) initial(ctx context.Context) error { return l.first(ctx, "initial", false) }

// initialGzip asks for compressed answers; the floor does not.
func (l *lab) initialGzip(ctx context.Context) error { return l.first(ctx, "initial_gzip", true) }

func (l *lab) first(ctx context.Context, name string, zip bool) error {
	d, err := signIn(ctx, l.product.HTTP, l.w.Slug, dataset.ManagerLogin(0), zip)
	if err != nil {
		return err
	}
	defer d.close()
	f, err := dialFloor(ctx, l.floor.Reads)
	if err != nil {
		return err
	}
	defer f.close()
	want := l.w.Scale.RepsPerTeam * l.w.Scale.VisitsPerRep
	var ours, floor, wire, rows []float64
	oursCost, floorCost := meterOf{l: l}, meterOf{l: l}
	runOurs := func(ctx context.Context) error {
		d.cursor = nil
		before := d.meter.received.Load()
		var p pulled
		took, err := oursCost.spend(ctx, want, func() (err error) {
			p, err = d.pull(ctx, pageBytes)
			return err
		})
		if err != nil {
			return err
		}
		if p.visits != want {
			return fmt.Errorf("the manager got %d visits, not %d", p.visits, want)
		}
		ours = append(ours, ms(took))
		wire = append(wire, float64(d.meter.received.Load()-before)/1e6)
		rows = append(rows, float64(p.rows))
		return nil
	}
	runFloor := func(ctx context.Context) error {
		var p pulled
		took, err := floorCost.spend(ctx, want, func() (err error) {
			p, err = f.read(l.w.Teams[0], 0)
			return err
		})
		if err == nil && p.visits != want {
			err = fmt.Errorf("the floor gave %d visits, not %d", p.visits, want)
		}
		floor = append(floor, ms(took))
		return err
	}
	if err := runFloor(ctx); err != nil { // both once, so that no turn reads from the disk
		return err
	}
	if err := runOurs(ctx); err != nil {
		return err
	}
	ours, floor, wire, rows = nil, nil, nil, nil
	oursCost, floorCost = meterOf{l: l}, meterOf{l: l}
	runtime.GC()
	if err := l.pairs(ctx, runOurs, runFloor); err != nil {
		return err
	}
	l.report.add(name+"_vs_floor", "floor's time / ours", higher, ratios(floor, ours))
	l.report.add(name+"_ms", "ms", lower, ours)
	l.report.add(name+"_floor_ms", "ms", lower, floor)
	l.report.add(name+"_rows", "rows", higher, rows)
	if zip {
		l.report.add("initial_wire_mb", "MB, headers and all", lower, wire)
	} else {
		l.report.add("initial_plain_wire_mb", "MB, headers and all", lower, wire)
	}
	oursCost.note(name, "20,000 visits", 20_000)
	floorCost.note(name+" floor", "20,000 visits", 20_000)
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// rss is what a process that serves Satchel alone has in memory when it has answered one first sync since its start. The
// program is a copy, as an installed one is: of a file that the linker has just written, the kernel maps up to 14 MiB
// more than was asked for, for it lies in the page cache in large pieces.
func (l *lab) rss(ctx context.Context) error {
	cmd := l.cfg.Servers(ctx)
	installed, err := install(cmd.Path)
	if err != nil {
		return err
	}
	defer os.Remove(installed) //nolint:errcheck // it lies among temporary files
	var fresh, after []float64
	for range min(l.mode.Pairs, 5) {
		cmd := l.cfg.Servers(ctx)
		cmd.Path = installed
		one, err := l.serveBy(ctx, cmd, product)
		if err != nil {
			return err
		}
		before, then, err := l.firstSyncOf(ctx, one)
		one.stop()
		if err != nil {
			return err
		}
		fresh, after = append(fresh, before), append(after, then)
	}
	l.report.add("rss_mib", "MiB, a process of Satchel alone", lower, after)
	l.report.add("rss_fresh_mib", "MiB before", lower, fresh)
	return nil
}

// install copies a program.
func install(program string) (name string, err error) {
	from, err := os.Open(program)
	if err != nil {
		return "", err
	}
	defer from.Close() //nolint:errcheck // only read
	to, err := os.CreateTemp("", "satchel-installed-")
	if err != nil {
		return "", err
	}
	_, err = io.Copy(to, from)
	if err = errors.Join(err, to.Chmod(0o755), to.Close()); err != nil {
		return "", errors.Join(err, os.Remove(to.Name()))
	}
	return to.Name(), nil
}

// firstSyncOf gives the memory before and after, in MiB.
func (l *lab) firstSyncOf(ctx context.Context, c *child) (before, after float64, err error) {
	var u usage
	if err := c.ask(ctx, "usage", &u); err != nil {
		return 0, 0, err
	}
	before = float64(u.RSSKiB) / 1024
	d, err := signIn(ctx, c.HTTP, l.w.Slug, dataset.ManagerLogin(0), false)
	if err != nil {
		return 0, 0, err
	}
	defer d.close()
	p, err := d.pull(ctx, pageBytes)
	if err != nil {
		return 0, 0, err
	}
	if want := l.w.Scale.RepsPerTeam * l.w.Scale.VisitsPerRep; p.visits != want {
		return 0, 0, fmt.Errorf("the manager got %d visits, not %d", p.visits, want)
	}
	if err := c.ask(ctx, "usage", &u); err != nil {
		return 0, 0, err
	}
	return before, float64(u.RSSKiB) / 1024, nil
}

// initialRep is the first sync of a rep.
func (l *lab) initialRep(ctx context.Context) error {
	d, err := signIn(ctx, l.product.HTTP, l.w.Slug, dataset.RepLogin(0), false)
	if err != nil {
		return err
	}
	defer d.close()
	var took []float64
	for range l.mode.Pairs * l.mode.Rounds / 2 {
		d.cursor = nil
		begin := time.Now()
		p, err := d.pull(ctx, 0)
		if err != nil {
			return err
		}
		if p.visits != l.w.Scale.VisitsPerRep {
			return fmt.Errorf("the rep got %d visits, not %d", p.visits, l.w.Scale.VisitsPerRep)
		}
		took = append(took, ms(time.Since(begin)))
	}
	l.report.add("initial_rep_p50_ms", "ms", lower, took)
	l.report.add("initial_rep_p95_ms", "ms", lower, []float64{quantile(took, 0.95)})
	return nil
}

// editor changes visits of one rep over and over, through Sync, and the floor's rows likewise.
type editor struct {
	device *device
	visits []satchel.ID
	revs   []uint64 // that they had when it began; what it did since is its own
}

// editor edits some visits of a rep: the oldest, or as many from all of the rep's time.
func (l *lab) editor(ctx context.Context, rep, visits int, allTime bool) (*editor, error) {
	d, err := signIn(ctx, l.product.HTTP, l.w.Slug, dataset.RepLogin(rep), false)
	if err != nil {
		return nil, err
	}
	e := &editor{device: d}
	every := 1
	if allTime {
		every = max(l.w.Scale.VisitsPerRep/visits, 1)
	}
	rows, err := l.conn.Query(ctx, sqlVisitRevs, [16]byte(l.org), [16]byte(l.w.Reps[rep]), every, visits)
	if err != nil {
		return nil, err
	}
	var id [16]byte
	var rev int64
	_, err = pgx.ForEachRow(rows, []any{&id, &rev}, func() error {
		e.visits, e.revs = append(e.visits, id), append(e.revs, uint64(rev))
		return nil
	})
	return e, err
}

// ids reads ids on the lab's own connection, which does not know the product's type.
func (l *lab) ids(ctx context.Context, sql string, args ...any) ([]satchel.ID, error) {
	for i, a := range args {
		if id, ok := a.(satchel.ID); ok {
			args[i] = [16]byte(id)
		}
	}
	rows, err := l.conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	raw, err := pgx.CollectRows(rows, pgx.RowTo[[16]byte])
	ids := make([]satchel.ID, len(raw))
	for i := range raw {
		ids[i] = satchel.ID(raw[i])
	}
	return ids, err
}

// edit gives every visit a new subject in one batch.
func (e *editor) edit(ctx context.Context, subject string) error {
	in := &satchelv1.SyncRequest{NoPage: true}
	fields, err := json.Marshal(map[string]string{"subject": subject})
	if err != nil {
		return err
	}
	for i, id := range e.visits {
		in.Mutations = append(in.Mutations, &satchelv1.Mutation{Number: e.device.next, Id: satchel.NewID().String(), Ops: []*satchelv1.Op{{
			RecordId: id.String(), Kind: "visit", BaseRev: e.revs[i], Action: &satchelv1.Op_Patch{Patch: &satchelv1.Patch{Fields: string(fields)}}}}})
		e.device.next++
	}
	out, err := e.device.call(ctx, in)
	if err != nil {
		return err
	}
	return settledAs(out, in, satchelv1.Status_STATUS_APPLIED)
}

// settledAs checks that each mutation has the verdict.
func settledAs(out *satchelv1.SyncResponse, in *satchelv1.SyncRequest, want ...satchelv1.Status) error {
	if len(out.Verdicts) != len(in.Mutations) {
		return fmt.Errorf("%d mutations got %d verdicts", len(in.Mutations), len(out.Verdicts))
	}
	for i, v := range out.Verdicts {
		if w := want[i%len(want)]; v.Status != w {
			return fmt.Errorf("mutation %d: %s, not %s: %s %s", v.Number, v.Status, w, v.Reason, v.Detail)
		}
	}
	return nil
}

// follower is a manager's device that pulls after reps changed their visits, half of them his.
type follower struct {
	l       *lab
	device  *device
	editors []*editor
	brings  int // visits in a pull
	cost    meterOf
	rounds  int       // so far
	all     []float64 // ms of every pull
}

// follower has some reps of each of the first two teams edit some visits each in a round.
func (l *lab) follower(ctx context.Context, reps, visits int, allTime bool) (f *follower, err error) {
	f = &follower{l: l, cost: meterOf{l: l}}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	if f.device, err = signIn(ctx, l.product.HTTP, l.w.Slug, dataset.ManagerLogin(0), false); err != nil {
		return nil, err
	}
	f.brings = reps * visits
	for n := range 2 * reps {
		e, err := l.editor(ctx, n%2*l.w.Scale.RepsPerTeam+n/2, visits, allTime)
		if err != nil {
			return nil, err
		}
		f.editors = append(f.editors, e)
	}
	_, err = f.device.pull(ctx, 4*pageBytes)
	return f, err
}

func (f *follower) close() {
	if f.device != nil {
		f.device.close()
	}
	for _, e := range f.editors {
		e.device.close()
	}
}

// turn changes and pulls some rounds, and gives the median time of a pull in ms.
func (f *follower) turn(ctx context.Context) (float64, error) {
	return f.deltas(ctx, &f.all, &f.cost, func() error {
		for _, e := range f.editors {
			if err := e.edit(ctx, fmt.Sprintf("round %d of %d", f.rounds, time.Now().UnixNano())); err != nil {
				return err
			}
		}
		return nil
	}, func() (pulled, error) { return f.device.pull(ctx, 0) })
}

func (f *follower) deltas(ctx context.Context, all *[]float64, cost *meterOf, change func() error, pull func() (pulled, error)) (float64, error) {
	var took []float64
	want := f.brings
	for range f.l.mode.Rounds {
		f.rounds++
		if err := change(); err != nil {
			return 0, err
		}
		var p pulled
		one, err := cost.spend(ctx, 1, func() (err error) {
			p, err = pull()
			return err
		})
		if err != nil {
			return 0, err
		}
		if p.visits != want || p.rows != want {
			return 0, fmt.Errorf("a delta brought %d rows, %d of them visits, not %d", p.rows, p.visits, want)
		}
		took = append(took, ms(one))
	}
	*all = append(*all, took...)
	return quantile(took, 0.5), nil
}

// delta is the follower's pull beside an indexed SELECT of the same rows.
func (l *lab) delta(ctx context.Context) error {
	f, err := l.follower(ctx, 1, min(changed/2, l.w.Scale.VisitsPerRep), false)
	if err != nil {
		return err
	}
	defer f.close()
	r, err := dialFloor(ctx, l.floor.Reads)
	if err != nil {
		return err
	}
	defer r.close()
	var last int64
	var ours, floor, allFloor []float64
	floorCost := meterOf{l: l}
	err = l.pairs(ctx, func(ctx context.Context) error {
		p50, err := f.turn(ctx)
		ours = append(ours, p50)
		return err
	}, func(ctx context.Context) error {
		p50, err := f.deltas(ctx, &allFloor, &floorCost, func() error {
			if err := l.conn.QueryRow(ctx, sqlFloorLast).Scan(&last); err != nil {
				return err
			}
			for _, e := range f.editors {
				ids := make([][16]byte, len(e.visits))
				for i, id := range e.visits {
					ids[i] = id
				}
				if _, err := l.conn.Exec(ctx, sqlFloorTouch, ids, fmt.Sprintf("round %d", f.rounds)); err != nil {
					return err
				}
			}
			return nil
		}, func() (pulled, error) { return r.read(l.w.Teams[0], last) })
		floor = append(floor, p50)
		return err
	})
	if err != nil {
		return err
	}
	l.report.add("delta_vs_floor", "our time / floor's", lower, ratios(ours, floor))
	l.report.add("delta_p50_ms", "ms", lower, f.all)
	l.report.add("delta_p95_ms", "ms", lower, []float64{quantile(f.all, 0.95)})
	l.report.add("delta_floor_p50_ms", "ms", lower, allFloor)
	l.report.add("delta_floor_p95_ms", "ms", lower, []float64{quantile(allFloor, 0.95)})
	f.cost.note("delta", "pull", 1)
	floorCost.note("delta floor", "pull", 1)
	return nil
}

// deltaGrowth is the same pull where there are a hundred times the records, of the same people. The visits that change
// are as many and from as many months in both. The large data are not copied for a run: they are what earlier runs
// left, some thousand edits on.
func (l *lab) deltaGrowth(ctx context.Context) error {
	var followers []*follower
	for _, set := range []dataset.Set{
		{Name: l.mode.Name + "_small", Orgs: []dataset.Org{{Slug: orgSlug, Scale: l.mode.Small, Seed: 300}}},
		{Name: l.mode.Name + "_grown", Orgs: []dataset.Org{{Slug: orgSlug, Scale: l.mode.Grown, Seed: 301}}, InPlace: true},
	} {
		in, err := l.on(ctx, l.server, set, false)
		if err != nil {
			return err
		}
		defer in.close()
		f, err := in.follower(ctx, min(changed/2/fewVisits, in.w.Scale.RepsPerTeam), fewVisits, true)
		if err != nil {
			return err
		}
		defer f.close()
		if _, err := f.turn(ctx); err != nil { // once, so that no turn reads from the disk
			return err
		}
		f.all, f.cost = nil, meterOf{l: in}
		followers = append(followers, f)
	}
	small, grown := followers[0], followers[1]
	var few, many []float64
	turn := func(f *follower, to *[]float64) func(context.Context) error {
		return func(ctx context.Context) error {
			p50, err := f.turn(ctx)
			*to = append(*to, p50)
			return err
		}
	}
	if err := l.pairs(ctx, turn(grown, &many), turn(small, &few)); err != nil {
		return err
	}
	l.report.add("delta_growth", "time with many records / with few", lower, ratios(many, few))
	l.report.add("delta_grown_p50_ms", fmt.Sprintf("ms, %d visits", l.mode.Grown.Visits()), lower, grown.all)
	l.report.add("delta_small_p50_ms", fmt.Sprintf("ms, %d visits", l.mode.Small.Visits()), lower, small.all)
	small.cost.note("delta, few records", "pull", 1)
	grown.cost.note("delta, many records", "pull", 1)
	return nil
}

// sizeOf is what a message has on the wire, without compression and headers.
func sizeOf(m proto.Message) float64 { return float64(proto.Size(m)) }
