package bench

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	satchel "github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/internal/bench/dataset"
)

// idle is a sync with nothing to say and nothing new, beside a bare Connect echo of the same request.
func (l *lab) idle(ctx context.Context) error {
	d, err := signIn(ctx, l.product.HTTP, l.w.Slug, dataset.ManagerLogin(0), false)
	if err != nil {
		return err
	}
	defer d.close()
	if _, err := d.pull(ctx, pageBytes); err != nil {
		return err
	}
	echo := connect.NewClient[satchelv1.SyncRequest, satchelv1.SyncResponse](d.http, l.floor.HTTP+echoPath, options(false)...)
	in := &satchelv1.SyncRequest{Cursor: d.cursor, Confirmed: 1}
	var body, wire, ours, floor, allOurs []float64
	turn := func(call func() (*satchelv1.SyncResponse, error)) (took []float64, out *satchelv1.SyncResponse, err error) {
		for range l.mode.Calls {
			begin := time.Now()
			if out, err = call(); err != nil {
				return nil, nil, err
			}
			took = append(took, ms(time.Since(begin)))
		}
		return took, out, nil
	}
	oursCost, floorCost := meterOf{l: l}, meterOf{l: l}
	err = l.pairs(ctx, func(ctx context.Context) error {
		before := d.meter.received.Load()
		var took []float64
		var out *satchelv1.SyncResponse
		if _, err := oursCost.spend(ctx, l.mode.Calls, func() (err error) {
			took, out, err = turn(func() (*satchelv1.SyncResponse, error) { return d.call(ctx, in) })
			return err
		}); err != nil {
			return err
		}
		if out.Page != nil {
			return errors.New("there was something to pull")
		}
		ours = append(ours, quantile(took, 0.5))
		allOurs = append(allOurs, took...)
		body = append(body, sizeOf(out))
		wire = append(wire, float64(d.meter.received.Load()-before)/float64(l.mode.Calls))
		return nil
	}, func(ctx context.Context) error {
		var took []float64
		if _, err := floorCost.spend(ctx, l.mode.Calls, func() (err error) {
			took, _, err = turn(func() (*satchelv1.SyncResponse, error) {
				out, err := echo.CallUnary(ctx, connect.NewRequest(in))
				if err != nil {
					return nil, err
				}
				return out.Msg, nil
			})
			return err
		}); err != nil {
			return err
		}
		floor = append(floor, quantile(took, 0.5))
		return nil
	})
	if err != nil {
		return err
	}
	l.report.add("idle_vs_echo", "our time / echo's", lower, ratios(ours, floor))
	l.report.add("idle_p50_ms", "ms", lower, allOurs)
	l.report.add("idle_echo_p50_ms", "ms", lower, floor)
	l.report.add("idle_body_bytes", "bytes", lower, body)
	l.report.add("idle_answer_bytes", "bytes, headers and all", lower, wire)
	oursCost.note("idle", "1,000 syncs", 1000)
	floorCost.note("idle echo", "1,000 echoes", 1000)
	return nil
}

// visitBytes is what one logged visit takes on the line, both ways, on a connection that stands: the mutation with the
// phone's cursor, the verdict and the page on which the visit comes back, as its rev and what the server added (S15).
func (l *lab) visitBytes(ctx context.Context) error {
	rep := pusherReps(l.w, 1)[0]
	d, err := signIn(ctx, l.product.HTTP, l.w.Slug, dataset.RepLogin(rep), true)
	if err != nil {
		return err
	}
	defer d.close()
	if _, err := d.pull(ctx, 0); err != nil {
		return err
	}
	var all, sent, received, packed, bodies []float64
	for range 10 * l.mode.Pairs {
		now := time.Now()
		in := &satchelv1.SyncRequest{Cursor: d.cursor, Confirmed: d.next - 1, CompletesRows: true, Outbox: &satchelv1.Outbox{Count: 1, OldestMs: now.UnixMilli()},
			Mutations: []*satchelv1.Mutation{l.visitMutation(d, l.w, rep, satchel.NewID(), now)}}
		up, down, body := d.meter.sent.Load(), d.meter.received.Load(), d.meter.bodies.Load()
		out, err := d.call(ctx, in)
		if err != nil {
			return err
		}
		if err := settledAs(out, in, satchelv1.Status_STATUS_APPLIED); err != nil {
			return err
		}
		if out.Page == nil || !out.Page.Checkpoint || len(out.Page.Changes) != 1 {
			return errors.New("the visit did not come back at a checkpoint")
		}
		d.cursor = out.Page.Cursor
		s, r := float64(d.meter.sent.Load()-up), float64(d.meter.received.Load()-down)
		all, sent, received = append(all, s+r), append(sent, s), append(received, r)
		packed = append(packed, float64(d.meter.bodies.Load()-body))
		bodies = append(bodies, sizeOf(in)+sizeOf(out))
	}
	l.report.add("wire_bytes_per_visit", "bytes of both bodies as they travel, gzip", lower, packed)
	l.report.add("wire_bytes_with_headers", "bytes, HTTP/1.1 headers and all", lower, all)
	l.report.add("wire_bytes_sent", "bytes", lower, sent)
	l.report.add("wire_bytes_received", "bytes", lower, received)
	l.report.add("visit_bodies_bytes", "bytes of both messages, not compressed", lower, bodies)
	return nil
}
