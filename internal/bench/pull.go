package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	satchel "github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

const (
	pageBytes = 1 << 20 // what a first sync asks for on a good line
	changed   = 100     // in a round of the delta; half of them are the manager's
)

// initial is the first sync of the manager of the first team, as a new phone makes it.
func (l *lab) initial(ctx context.Context) error { return l.first(ctx, "initial", false) }

// initialGzip asks for compressed answers; the floor does not.
func (l *lab) initialGzip(ctx context.Context) error { return l.first(ctx, "initial_gzip", true) }

func (l *lab) first(ctx context.Context, name string, zip bool) error {
	d, err := signIn(ctx, l.child.Product, managerLogin(0), zip)
	if err != nil {
		return err
	}
	defer d.close()
	f, err := dialFloor(ctx, l.child.Floor)
	if err != nil {
		return err
	}
	defer f.close()
	want := l.w.scale.RepsPerTeam * l.w.scale.VisitsPerRep
	var ours, floor, wire, rows, rss []float64
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
		var u usage
		if err := l.child.ask(ctx, "usage", &u); err != nil {
			return err
		}
		ours = append(ours, ms(took))
		wire = append(wire, float64(d.meter.received.Load()-before)/1e6)
		rows = append(rows, float64(p.rows))
		rss = append(rss, float64(u.RSSKiB)/1024)
		return nil
	}
	runFloor := func(ctx context.Context) error {
		var p pulled
		took, err := floorCost.spend(ctx, want, func() (err error) {
			p, err = f.read(l.w.teams[0], 0)
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
	first := rss[0]
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
	l.report.add(name+"_wire_mb", "MB", lower, wire)
	if !zip {
		l.report.add("rss_mib", "MiB of the servers' process, after the first", lower, []float64{first})
	}
	oursCost.note(name, "20,000 visits", 20_000)
	floorCost.note(name+" floor", "20,000 visits", 20_000)
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// initialRep is the first sync of a rep.
func (l *lab) initialRep(ctx context.Context) error {
	d, err := signIn(ctx, l.child.Product, repLogin(0), false)
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
		if p.visits != l.w.scale.VisitsPerRep {
			return fmt.Errorf("the rep got %d visits, not %d", p.visits, l.w.scale.VisitsPerRep)
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
}

func (l *lab) editor(ctx context.Context, rep int) (*editor, error) {
	d, err := signIn(ctx, l.child.Product, repLogin(rep), false)
	if err != nil {
		return nil, err
	}
	e := &editor{device: d}
	e.visits, err = l.ids(ctx, sqlFloorVisitsOf, l.w.reps[rep], min(changed/2, l.w.scale.VisitsPerRep))
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
	for _, id := range e.visits {
		in.Mutations = append(in.Mutations, &satchelv1.Mutation{Number: e.device.next, Id: satchel.NewID().String(), Ops: []*satchelv1.Op{{
			RecordId: id.String(), Kind: "visit", BaseRev: 1, Action: &satchelv1.Op_Patch{Patch: &satchelv1.Patch{Fields: string(fields)}}}}})
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

// delta is the pull of the manager of the first team after 100 visits changed, of which half are his.
func (l *lab) delta(ctx context.Context) error {
	d, err := signIn(ctx, l.child.Product, managerLogin(0), false)
	if err != nil {
		return err
	}
	defer d.close()
	f, err := dialFloor(ctx, l.child.Floor)
	if err != nil {
		return err
	}
	defer f.close()
	var editors []*editor
	for _, rep := range []int{0, l.w.scale.RepsPerTeam} { // of the first and the second team
		e, err := l.editor(ctx, rep)
		if err != nil {
			return err
		}
		defer e.device.close()
		editors = append(editors, e)
	}
	if _, err := d.pull(ctx, pageBytes); err != nil {
		return err
	}
	want := len(editors[0].visits)
	round := 0
	oursCost, floorCost := meterOf{l: l}, meterOf{l: l}
	var ours, floor, allOurs, allFloor []float64
	turn := func(to, all *[]float64, cost *meterOf, change func(subject string) error, pull func() (pulled, error)) error {
		var took []float64
		for range l.mode.Rounds {
			round++
			if err := change(fmt.Sprintf("round %d", round)); err != nil {
				return err
			}
			var p pulled
			one, err := cost.spend(ctx, 1, func() (err error) {
				p, err = pull()
				return err
			})
			if err != nil {
				return err
			}
			if p.visits != want || p.rows != want {
				return fmt.Errorf("a delta brought %d rows, %d of them visits, not %d", p.rows, p.visits, want)
			}
			took = append(took, ms(one))
		}
		*to = append(*to, quantile(took, 0.5))
		*all = append(*all, took...)
		return nil
	}
	runOurs := func(ctx context.Context) error {
		return turn(&ours, &allOurs, &oursCost, func(subject string) error {
			for _, e := range editors {
				if err := e.edit(ctx, subject); err != nil {
					return err
				}
			}
			return nil
		}, func() (pulled, error) { return d.pull(ctx, 0) })
	}
	var last int64
	runFloor := func(ctx context.Context) error {
		return turn(&floor, &allFloor, &floorCost, func(subject string) error {
			if err := l.conn.QueryRow(ctx, sqlFloorLast).Scan(&last); err != nil {
				return err
			}
			for _, e := range editors {
				ids := make([][16]byte, len(e.visits))
				for i, id := range e.visits {
					ids[i] = id
				}
				if _, err := l.conn.Exec(ctx, sqlFloorTouch, ids, subject); err != nil {
					return err
				}
			}
			return nil
		}, func() (pulled, error) { return f.read(l.w.teams[0], last) })
	}
	if err := l.pairs(ctx, runOurs, runFloor); err != nil {
		return err
	}
	l.report.add("delta_vs_floor", "our time / floor's", lower, ratios(ours, floor))
	l.report.add("delta_p50_ms", "ms", lower, allOurs)
	l.report.add("delta_p95_ms", "ms", lower, []float64{quantile(allOurs, 0.95)})
	l.report.add("delta_floor_p50_ms", "ms", lower, allFloor)
	l.report.add("delta_floor_p95_ms", "ms", lower, []float64{quantile(allFloor, 0.95)})
	oursCost.note("delta", "pull", 1)
	floorCost.note("delta floor", "pull", 1)
	return nil
}

// sizeOf is what a message has on the wire, without compression and headers.
func sizeOf(m proto.Message) float64 { return float64(proto.Size(m)) }
