package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	satchel "github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/internal/bench/dataset"
)

const (
	devices   = 8  // that push at once
	batchSize = 50 // mutations in a Sync, rows in a transaction of the floor
)

// pusher is a rep's phone that pushes.
type pusher struct {
	device *device
	w      *dataset.World
	rep    int
	fresh  []satchel.ID // visits of the rep that stand as they were created
	edits  int          // patches so far
}

// pushing is what a group of pushers did, turn by turn.
type pushing struct {
	pushers []*pusher
	rates   []float64 // mutations a second
	calls   []float64 // ms of every call
	cost    meterOf
}

// batch is a Sync to send, with the verdicts that it must get, in turn.
type batch struct {
	in   *satchelv1.SyncRequest
	want []satchelv1.Status
}

// pusherReps chooses reps from as many teams as there are, those last whose managers' reads are measured.
func pusherReps(w *dataset.World, n int) []int {
	var reps []int
	for k := w.Scale.RepsPerTeam - 1; k >= 0; k-- {
		for t := w.Scale.Teams - 1; t >= 0 && len(reps) < n; t-- {
			reps = append(reps, t*w.Scale.RepsPerTeam+k)
		}
	}
	return reps
}

// pushing signs n reps of each world in. Close it.
func (l *lab) pushing(ctx context.Context, n int, worlds ...*dataset.World) (p *pushing, err error) {
	p = &pushing{cost: meterOf{l: l}}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	for _, w := range worlds {
		org, err := l.orgOf(ctx, w)
		if err != nil {
			return nil, err
		}
		for _, rep := range pusherReps(w, n) {
			d, err := signIn(ctx, l.product.HTTP, w.Slug, dataset.RepLogin(rep), false)
			if err != nil {
				return nil, err
			}
			one := &pusher{device: d, w: w, rep: rep}
			p.pushers = append(p.pushers, one)
			if one.fresh, err = l.ids(ctx, sqlVisitsOf, org, w.Reps[rep], 200); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

func (p *pushing) close() {
	for _, one := range p.pushers {
		one.device.close()
	}
}

// builder builds a turn's batches, for each pusher some.
type builder func(context.Context, []*pusher) ([][]batch, error)

// turn sends from all pushers at once.
func (p *pushing) turn(ctx context.Context, build builder) error {
	all, err := build(ctx, p.pushers)
	if err != nil {
		return err
	}
	// Autovacuum does this within a minute, in which a turn has grown the table a thousand times faster than reps do.
	if _, err := p.cost.l.conn.Exec(ctx, "ANALYZE refused"); err != nil {
		return err
	}
	units := 0
	for _, batches := range all {
		units += len(batches) * batchSize
	}
	var mu sync.Mutex
	took, err := p.cost.spend(ctx, units, func() error {
		g, ctx := errgroup.WithContext(ctx)
		for i, one := range p.pushers {
			g.Go(func() error {
				times, err := one.send(ctx, all[i])
				mu.Lock()
				p.calls = append(p.calls, times...)
				mu.Unlock()
				return err
			})
		}
		return g.Wait()
	})
	p.rates = append(p.rates, float64(units)/took.Seconds())
	return err
}

// push sends batches from n devices at once, beside the floor's batches on as many connections.
func (l *lab) push(ctx context.Context, name string, n int, build builder) error {
	p, err := l.pushing(ctx, n, l.w)
	if err != nil {
		return err
	}
	defer p.close()
	floorCost := meterOf{l: l}
	var floor []float64
	err = l.pairs(ctx, func(ctx context.Context) error { return p.turn(ctx, build) }, func(ctx context.Context) error {
		rows := l.floorRows(n)
		units := n * len(rows[0]) * batchSize
		took, err := floorCost.spend(ctx, units, func() error {
			g, ctx := errgroup.WithContext(ctx)
			for _, mine := range rows {
				g.Go(func() error {
					for _, r := range mine {
						if _, err := l.pool.Exec(ctx, sqlFloorPush, r.ids, r.owners, r.teams, r.events, r.data); err != nil {
							return err
						}
					}
					return nil
				})
			}
			return g.Wait()
		})
		floor = append(floor, float64(units)/took.Seconds())
		return err
	})
	if err != nil {
		return err
	}
	l.report.add(name+"_vs_floor", "mutations/s over the floor's rows/s", higher, ratios(p.rates, floor))
	l.report.add(name+"_mutations_per_s", "1/s", higher, p.rates)
	l.report.add(name+"_floor_rows_per_s", "1/s", higher, floor)
	l.report.add(name+"_batch_p50_ms", "ms", lower, p.calls)
	l.report.add(name+"_batch_p99_ms", "ms", lower, []float64{quantile(p.calls, 0.99)})
	p.cost.note(name, "1,000 mutations", 1000)
	floorCost.note(name+" floor", "1,000 rows", 1000)
	return nil
}

// oneOrg is the mix of eight phones of one organisation, beside eight of as many organisations of the same size.
func (l *lab) oneOrg(ctx context.Context) error {
	worlds := l.worlds[1 : 1+eight]
	one, err := l.pushing(ctx, eight, worlds[0])
	if err != nil {
		return err
	}
	defer one.close()
	each, err := l.pushing(ctx, 1, worlds...)
	if err != nil {
		return err
	}
	defer each.close()
	err = l.pairs(ctx, func(ctx context.Context) error { return one.turn(ctx, l.lessMix) }, func(ctx context.Context) error { return each.turn(ctx, l.lessMix) })
	if err != nil {
		return err
	}
	l.report.add("one_org_vs_eight", "mutations/s in one organisation over eight", higher, ratios(one.rates, each.rates))
	l.report.add("one_org_mutations_per_s", "1/s", higher, one.rates)
	l.report.add("eight_orgs_mutations_per_s", "1/s", higher, each.rates)
	one.cost.note("one organisation", "1,000 mutations", 1000)
	each.cost.note("eight organisations", "1,000 mutations", 1000)
	return nil
}

// slowest is what the slow disk adds to a flush, and so the least that a commit takes there.
const slowest = 2 * time.Millisecond

// slowDisk is the mix on a Postgres whose every flush takes 2 ms longer.
func (l *lab) slowDisk(ctx context.Context) error {
	if l.cfg.SlowDisk == nil {
		l.report.NotTaken["push_slow_disk"] = "there is no second Postgres, for an address was given"
		return nil
	}
	address, stop, err := l.cfg.SlowDisk(ctx)
	if err != nil {
		l.report.NotTaken["push_slow_disk"] = err.Error()
		return nil
	}
	defer stop()
	server, err := dataset.Connect(ctx, address, l.cfg.Keep, l.cfg.Log)
	if err != nil {
		return err
	}
	defer server.Close()
	in, err := l.on(ctx, server, dataset.Set{Name: l.mode.Name + "_slow", Orgs: []dataset.Org{{Slug: orgSlug, Scale: l.mode.Slow, Seed: 400}}}, false)
	if err != nil {
		return err
	}
	defer in.close()
	commits, err := in.commitTimes(ctx)
	if err != nil {
		return err
	}
	if quantile(commits, 0.5) < ms(slowest) {
		return fmt.Errorf("a commit on the slow disk takes %.2f ms: nothing slows its flushes", quantile(commits, 0.5))
	}
	p, err := in.pushing(ctx, devices, in.w)
	if err != nil {
		return err
	}
	defer p.close()
	if err := in.profile(ctx, func() error {
		for range l.mode.Pairs {
			if err := p.turn(ctx, in.lessMix); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	l.report.add("push_slow_disk", "mutations/s, 2 ms added to each flush", higher, p.rates)
	l.report.add("push_slow_disk_batch_p50_ms", "ms", lower, p.calls)
	l.report.add("push_slow_disk_batch_p99_ms", "ms", lower, []float64{quantile(p.calls, 0.99)})
	l.report.add("slow_disk_commit_ms", "ms, the smallest transaction", lower, commits)
	p.cost.note("push, slow disk", "1,000 mutations", 1000)
	return nil
}

// commitTimes are those of transactions that write one row, in ms.
func (l *lab) commitTimes(ctx context.Context) (took []float64, err error) {
	if _, err := l.conn.Exec(ctx, sqlCommitTable); err != nil {
		return nil, err
	}
	for range 30 {
		begin := time.Now()
		if _, err := l.conn.Exec(ctx, sqlCommit); err != nil {
			return nil, err
		}
		took = append(took, ms(time.Since(begin)))
	}
	return took, nil
}

// send sends batches one after the other and checks each answer.
func (p *pusher) send(ctx context.Context, batches []batch) (times []float64, err error) {
	for _, b := range batches {
		begin := time.Now()
		out, err := p.device.call(ctx, b.in)
		if err != nil {
			return times, err
		}
		times = append(times, ms(time.Since(begin)))
		if err := settledAs(out, b.in, b.want...); err != nil {
			return times, err
		}
	}
	return times, nil
}

// visitMutation numbers a create of a visit.
func (l *lab) visitMutation(d *device, w *dataset.World, rep int, id satchel.ID, at time.Time) *satchelv1.Mutation {
	return number(d, create("visit", id, w.Visit(l.rng, rep, at)))
}

func number(d *device, ops ...*satchelv1.Op) *satchelv1.Mutation {
	m := &satchelv1.Mutation{Number: d.next, Id: satchel.NewID().String(), Ops: ops}
	d.next++
	return m
}

func create(kind string, id satchel.ID, fields map[string]any) *satchelv1.Op {
	return &satchelv1.Op{RecordId: id.String(), Kind: kind, Action: &satchelv1.Op_Create{Create: &satchelv1.Create{Fields: string(dataset.Encode(fields))}}}
}

func patch(kind string, id satchel.ID, fields map[string]any) *satchelv1.Op {
	return &satchelv1.Op{RecordId: id.String(), Kind: kind, BaseRev: 1, Action: &satchelv1.Op_Patch{Patch: &satchelv1.Patch{Fields: string(dataset.Encode(fields))}}}
}

// creates builds batches of visits.
func (l *lab) creates(_ context.Context, pushers []*pusher) ([][]batch, error) {
	out := make([][]batch, len(pushers))
	for i, p := range pushers {
		for range l.mode.Batches {
			in := &satchelv1.SyncRequest{NoPage: true, Confirmed: p.device.next - 1}
			for range batchSize {
				in.Mutations = append(in.Mutations, l.visitMutation(p.device, p.w, p.rep, satchel.NewID(), time.Now()))
			}
			out[i] = append(out[i], batch{in, []satchelv1.Status{satchelv1.Status_STATUS_APPLIED}})
		}
	}
	return out, nil
}

// The mix, ten mutations after each other: six creates of a visit, two patches, a visit with a task, one that is
// refused. A quarter of the patches meet a change of the manager's that the phone has not seen.
const (
	mixCreates = 6
	mixPatches = 2
	mixOf      = 10
)

func (l *lab) mix(ctx context.Context, pushers []*pusher) ([][]batch, error) {
	return l.mixes(ctx, pushers, l.mode.Batches)
}

// lessMix is the mix in fewer batches.
func (l *lab) lessMix(ctx context.Context, pushers []*pusher) ([][]batch, error) {
	return l.mixes(ctx, pushers, l.mode.FewBatches)
}

func (l *lab) mixes(ctx context.Context, pushers []*pusher, n int) ([][]batch, error) {
	out := make([][]batch, len(pushers))
	for i, p := range pushers {
		patches := n * batchSize * mixPatches / mixOf
		contested := patches/4 + 1
		if len(p.fresh) < contested+batchSize*mixPatches/mixOf { // the next batches patch what the first creates
			return nil, errors.New("too few visits for the patches: fewer batches, or more visits a rep")
		}
		met := p.fresh[:contested]
		p.fresh = p.fresh[contested:]
		if err := l.overtake(ctx, p.w, p.w.Team(p.rep), met); err != nil {
			return nil, err
		}
		for range n {
			out[i] = append(out[i], l.mixed(p, &met))
		}
	}
	return out, nil
}

// overtake lets the manager change the visits first.
func (l *lab) overtake(ctx context.Context, w *dataset.World, team int, visits []satchel.ID) error {
	who := w.Slug + " " + dataset.ManagerLogin(team)
	d := l.managers[who]
	if d == nil {
		var err error
		if d, err = signIn(ctx, l.product.HTTP, w.Slug, dataset.ManagerLogin(team), false); err != nil {
			return err
		}
		l.managers[who] = d
	}
	for len(visits) > 0 {
		n := min(len(visits), batchSize)
		in := &satchelv1.SyncRequest{NoPage: true}
		for _, id := range visits[:n] {
			in.Mutations = append(in.Mutations, number(d, patch("visit", id, map[string]any{"subject": "as the manager has it"})))
		}
		out, err := d.call(ctx, in)
		if err != nil {
			return err
		}
		if err := settledAs(out, in, satchelv1.Status_STATUS_APPLIED); err != nil {
			return fmt.Errorf("the manager's change: %w", err)
		}
		visits = visits[n:]
	}
	return nil
}

// mixed builds one batch of the mix.
func (l *lab) mixed(p *pusher, met *[]satchel.ID) batch {
	b := batch{in: &satchelv1.SyncRequest{NoPage: true, Confirmed: p.device.next - 1}}
	var made []satchel.ID
	for i := range batchSize {
		now, want := time.Now(), satchelv1.Status_STATUS_APPLIED
		id := satchel.NewID()
		visit := p.w.Visit(l.rng, p.rep, now)
		var m *satchelv1.Mutation
		switch k := i % mixOf; {
		case k < mixCreates:
			m = number(p.device, create("visit", id, visit))
			made = append(made, id)
		case k < mixCreates+mixPatches:
			target := &p.fresh
			if p.edits%4 == 3 && len(*met) > 0 {
				target = met
			}
			p.edits++
			m = number(p.device, patch("visit", (*target)[0], map[string]any{"subject": fmt.Sprintf("edit %d", p.edits), "outcome": "won"}))
			*target = (*target)[1:]
		case k == mixCreates+mixPatches:
			task := map[string]any{"assignee": p.w.Reps[p.rep].String(), "title": "Send the offer", "account": visit["account"], "visit": id.String()}
			m = number(p.device, create("visit", id, visit), create("task", satchel.NewID(), task))
			made = append(made, id)
		default:
			visit["satisfaction"] = 9 // of 5
			m, want = number(p.device, create("visit", id, visit)), satchelv1.Status_STATUS_REJECTED
		}
		b.in.Mutations, b.want = append(b.in.Mutations, m), append(b.want, want)
	}
	p.fresh = append(p.fresh, made...) // the next batch may patch them
	return b
}

// floorBatch is one transaction of the floor, column by column.
type floorBatch struct {
	ids, owners, teams []satchel.ID
	events             []int64
	data               []string
}

// floorRows builds the same visits for n connections.
func (l *lab) floorRows(n int) [][]floorBatch {
	reps := pusherReps(l.w, n)
	out := make([][]floorBatch, n)
	for i, rep := range reps {
		for range l.mode.FloorBatches {
			var b floorBatch
			for range batchSize {
				now := time.Now()
				b.ids, b.owners = append(b.ids, satchel.NewID()), append(b.owners, l.w.Reps[rep])
				b.teams, b.events = append(b.teams, l.w.Teams[l.w.Team(rep)]), append(b.events, now.UnixMilli())
				b.data = append(b.data, string(dataset.Encode(l.w.Visit(l.rng, rep, now))))
			}
			out[i] = append(out[i], b)
		}
	}
	return out
}
