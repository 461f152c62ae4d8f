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
)

const (
	devices   = 8  // that push at once
	batchSize = 50 // mutations in a Sync, rows in a transaction of the floor
)

// pusher is a rep's phone that pushes.
type pusher struct {
	device *device
	rep    int
	fresh  []satchel.ID // visits of the rep that stand as they were created
	edits  int          // patches so far
}

// batch is a Sync to send, with the verdicts that it must get, in turn.
type batch struct {
	in   *satchelv1.SyncRequest
	want []satchelv1.Status
}

// pusherReps chooses reps from as many teams as there are, those last whose managers' reads are measured.
func (l *lab) pusherReps(n int) []int {
	var reps []int
	for k := l.w.scale.RepsPerTeam - 1; k >= 0; k-- {
		for t := l.w.scale.Teams - 1; t >= 0 && len(reps) < n; t-- {
			reps = append(reps, t*l.w.scale.RepsPerTeam+k)
		}
	}
	return reps
}

// push sends batches from n devices at once, beside the floor's batches on as many connections.
func (l *lab) push(ctx context.Context, name string, n int, build func(context.Context, []*pusher) ([][]batch, error)) error {
	var pushers []*pusher
	for _, rep := range l.pusherReps(n) {
		d, err := signIn(ctx, l.child.Product, repLogin(rep), false)
		if err != nil {
			return err
		}
		defer d.close()
		p := &pusher{device: d, rep: rep}
		if p.fresh, err = l.ids(ctx, sqlVisitsOf, l.org, l.w.reps[rep], 200); err != nil {
			return err
		}
		pushers = append(pushers, p)
	}
	oursCost, floorCost := meterOf{l: l}, meterOf{l: l}
	var ours, floor, calls []float64
	err := l.pairs(ctx, func(ctx context.Context) error {
		all, err := build(ctx, pushers)
		if err != nil {
			return err
		}
		// Autovacuum does this within a minute, in which a turn has grown the table a thousand times faster than reps do.
		if _, err := l.conn.Exec(ctx, "ANALYZE refused"); err != nil {
			return err
		}
		units := 0
		for _, batches := range all {
			units += len(batches) * batchSize
		}
		var mu sync.Mutex
		took, err := oursCost.spend(ctx, units, func() error {
			g, ctx := errgroup.WithContext(ctx)
			for i, p := range pushers {
				g.Go(func() error {
					times, err := p.send(ctx, all[i])
					mu.Lock()
					calls = append(calls, times...)
					mu.Unlock()
					return err
				})
			}
			return g.Wait()
		})
		ours = append(ours, float64(units)/took.Seconds())
		return err
	}, func(ctx context.Context) error {
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
	l.report.add(name+"_vs_floor", "mutations/s over the floor's rows/s", higher, ratios(ours, floor))
	l.report.add(name+"_mutations_per_s", "1/s", higher, ours)
	l.report.add(name+"_floor_rows_per_s", "1/s", higher, floor)
	l.report.add(name+"_batch_p50_ms", "ms", lower, calls)
	l.report.add(name+"_batch_p99_ms", "ms", lower, []float64{quantile(calls, 0.99)})
	oursCost.note(name, "1,000 mutations", 1000)
	floorCost.note(name+" floor", "1,000 rows", 1000)
	return nil
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
func (l *lab) visitMutation(d *device, rep int, id satchel.ID, at time.Time) *satchelv1.Mutation {
	return number(d, create("visit", id, l.w.visit(l.rng, rep, at)))
}

func number(d *device, ops ...*satchelv1.Op) *satchelv1.Mutation {
	m := &satchelv1.Mutation{Number: d.next, Id: satchel.NewID().String(), Ops: ops}
	d.next++
	return m
}

func create(kind string, id satchel.ID, fields map[string]any) *satchelv1.Op {
	return &satchelv1.Op{RecordId: id.String(), Kind: kind, Action: &satchelv1.Op_Create{Create: &satchelv1.Create{Fields: string(encode(fields))}}}
}

func patch(kind string, id satchel.ID, fields map[string]any) *satchelv1.Op {
	return &satchelv1.Op{RecordId: id.String(), Kind: kind, BaseRev: 1, Action: &satchelv1.Op_Patch{Patch: &satchelv1.Patch{Fields: string(encode(fields))}}}
}

// creates builds batches of visits.
func (l *lab) creates(_ context.Context, pushers []*pusher) ([][]batch, error) {
	out := make([][]batch, len(pushers))
	for i, p := range pushers {
		for range l.mode.Batches {
			in := &satchelv1.SyncRequest{NoPage: true, Confirmed: p.device.next - 1}
			for range batchSize {
				in.Mutations = append(in.Mutations, l.visitMutation(p.device, p.rep, satchel.NewID(), time.Now()))
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
	out := make([][]batch, len(pushers))
	for i, p := range pushers {
		patches := l.mode.Batches * batchSize * mixPatches / mixOf
		contested := patches/4 + 1
		if len(p.fresh) < contested {
			return nil, errors.New("too few visits for the patches: fewer batches, or more visits a rep")
		}
		met := p.fresh[:contested]
		p.fresh = p.fresh[contested:]
		if err := l.overtake(ctx, l.w.team(p.rep), met); err != nil {
			return nil, err
		}
		for range l.mode.Batches {
			out[i] = append(out[i], l.mixed(p, &met))
		}
	}
	return out, nil
}

// overtake lets the manager change the visits first.
func (l *lab) overtake(ctx context.Context, team int, visits []satchel.ID) error {
	d, err := signIn(ctx, l.child.Product, managerLogin(team), false)
	if err != nil {
		return err
	}
	defer d.close()
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
		visit := l.w.visit(l.rng, p.rep, now)
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
			task := map[string]any{"assignee": l.w.reps[p.rep].String(), "title": "Send the offer", "account": visit["account"], "visit": id.String()}
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
	reps := l.pusherReps(n)
	out := make([][]floorBatch, n)
	for i, rep := range reps {
		for range l.mode.FloorBatches {
			var b floorBatch
			for range batchSize {
				now := time.Now()
				b.ids, b.owners = append(b.ids, satchel.NewID()), append(b.owners, l.w.reps[rep])
				b.teams, b.events = append(b.teams, l.w.teams[l.w.team(rep)]), append(b.events, now.UnixMilli())
				b.data = append(b.data, string(encode(l.w.visit(l.rng, rep, now))))
			}
			out[i] = append(out[i], b)
		}
	}
	return out
}
