package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	satchel "github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/gen/satchel/v1/satchelv1connect"
	"github.com/satchel-sync/satchel/internal/bench/dataset"
	"github.com/satchel-sync/satchel/internal/bench/rawhttp"
)

const (
	settleTime = 20 * time.Second // until waiters wait and nothing works any more; a Wait lasts 25 s
	settlePoll = 30 * time.Millisecond
	signInOf   = 8 // at once
)

// phone is a device on a connection of its own whose requests are written by hand. It belongs to one goroutine at a
// time.
type phone struct {
	conn          *rawhttp.Conn
	token, cursor string
}

// signInRaw opens a session on a connection.
func signInRaw(conn *rawhttp.Conn, org, login string) (*phone, error) {
	in := &satchelv1.SignInRequest{Org: org, Login: login, Password: dataset.Password,
		Device: &satchelv1.DeviceInfo{Installation: satchel.NewID().String(), Name: "bench", Platform: "bench", AppVersion: "1"}}
	out := &satchelv1.SignInResponse{}
	if err := conn.Call(satchelv1connect.AuthServiceSignInProcedure, "", in, out); err != nil {
		return nil, fmt.Errorf("bench: %s cannot sign in: %w", login, err)
	}
	return &phone{conn: conn, token: out.Tokens.AccessToken}, nil
}

// pull calls until the phone is at a checkpoint.
func (p *phone) pull() error {
	for range maxCalls {
		out := &satchelv1.SyncResponse{}
		if err := p.conn.Call(satchelv1connect.SyncServiceSyncProcedure, p.token, &satchelv1.SyncRequest{Cursor: []byte(p.cursor), MaxBytes: pageBytes}, out); err != nil {
			return err
		}
		if out.Page != nil && len(out.Page.Cursor) > 0 {
			p.cursor = string(out.Page.Cursor)
		}
		if out.Page == nil || !out.Page.More {
			return nil
		}
	}
	return errors.New("bench: a pull does not end")
}

// sendWait asks to be woken; the answer comes later.
func (p *phone) sendWait() error {
	body, err := proto.Marshal(&satchelv1.WaitRequest{Cursor: []byte(p.cursor)})
	if err != nil {
		return err
	}
	return p.conn.Send(satchelv1connect.SyncServiceWaitProcedure, p.token, body)
}

// hall is many managers of one team whose phones wait, each on a connection of its own, and a rep of the team.
type hall struct {
	l      *lab
	w      *dataset.World
	org    satchel.ID
	server *child
	phones []*phone
	rep    *device
}

// hall signs everybody in on the server and brings them to a checkpoint.
func (l *lab) hall(ctx context.Context, server *child) (_ *hall, err error) {
	h := &hall{l: l, w: l.worlds[1+eight], server: server, phones: make([]*phone, l.mode.Waiters)}
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	if h.org, err = l.orgOf(ctx, h.w); err != nil {
		return nil, err
	}
	if h.rep, err = signIn(ctx, server.HTTP, h.w.Slug, dataset.RepLogin(0), false); err != nil {
		return nil, err
	}
	err = h.each(ctx, signInOf, func(i int) error {
		conn, err := rawhttp.Dial(ctx, server.HTTP)
		if err != nil {
			return err
		}
		if h.phones[i], err = signInRaw(conn, h.w.Slug, dataset.ManagerLogin(i)); err != nil {
			conn.Close()
			return err
		}
		return h.phones[i].pull()
	})
	return h, err
}

// each runs fn for every phone, so many at once.
func (h *hall) each(ctx context.Context, atOnce int, fn func(i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for i := range h.phones {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return fn(i)
		})
	}
	return g.Wait()
}

func (h *hall) close() {
	for _, p := range h.phones {
		if p != nil {
			p.conn.Close()
		}
	}
	if h.rep != nil {
		h.rep.close()
	}
}

// wait sends every phone's Wait and returns when the server has all of them and is still again.
func (h *hall) wait(ctx context.Context) error {
	if err := h.each(ctx, len(h.phones), func(i int) error { return h.phones[i].sendWait() }); err != nil {
		return err
	}
	if err := poll(ctx, "all phones wait", func() (bool, error) {
		n, err := waiting(ctx, h.server.HTTP)
		return n == len(h.phones), err
	}); err != nil {
		return err
	}
	return h.server.still(ctx)
}

// still returns when the process has nothing to do.
func (c *child) still(ctx context.Context) error {
	var before usage
	if err := c.ask(ctx, "usage", &before); err != nil {
		return err
	}
	return poll(ctx, "the server is still", func() (bool, error) {
		var now usage
		err := c.ask(ctx, "usage", &now)
		used := now.CPU - before.CPU
		before = now
		return used < settlePoll/10, err
	})
}

// poll asks until it is so.
func poll(ctx context.Context, what string, so func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	tick := time.NewTicker(settlePoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("bench: it did not come to pass that %s: %w", what, ctx.Err())
		case <-tick.C:
		}
		if ok, err := so(); err != nil || ok {
			return err
		}
	}
}

// waiting is how many devices the server says that it lets wait.
func waiting(ctx context.Context, base string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(text), "\nsatchel_waiting_devices ")
	number, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.Atoi(number)
	if !ok || err != nil {
		return 0, errors.New("bench: the server's metrics do not say how many devices wait")
	}
	return n, nil
}

// waiterMemory is what an idle waiter costs a server, in a process that serves Satchel alone.
func (l *lab) waiterMemory(ctx context.Context) error {
	var settled, asIs []float64
	for range min(l.mode.Pairs, 3) {
		s, a, err := l.waiterKiB(ctx)
		if err != nil {
			return err
		}
		settled, asIs = append(settled, s), append(asIs, a)
	}
	l.report.add("waiter_kib", "KiB, what is alive", lower, settled)
	l.report.add("waiter_as_is_kib", "KiB, garbage and all", lower, asIs)
	return nil
}

func (l *lab) waiterKiB(ctx context.Context) (settled, asIs float64, err error) {
	server, err := l.serve(ctx, product)
	if err != nil {
		return 0, 0, err
	}
	defer server.stop()
	h, err := l.hall(ctx, server)
	if err != nil {
		return 0, 0, err
	}
	defer h.close()
	for _, p := range h.phones { // they come back for the measured wait, as new connections
		p.conn.Close()
	}
	if err := server.still(ctx); err != nil {
		return 0, 0, err
	}
	var before, waits, after usage
	if err := server.ask(ctx, "settle", &before); err != nil {
		return 0, 0, err
	}
	if err := h.each(ctx, len(h.phones), func(i int) (err error) {
		h.phones[i].conn, err = rawhttp.Dial(ctx, server.HTTP)
		return err
	}); err != nil {
		return 0, 0, err
	}
	if err := h.wait(ctx); err != nil {
		return 0, 0, err
	}
	if err := server.ask(ctx, "usage", &waits); err != nil {
		return 0, 0, err
	}
	if err := server.ask(ctx, "settle", &after); err != nil {
		return 0, 0, err
	}
	n := float64(len(h.phones))
	return float64(after.RSSKiB-before.RSSKiB) / n, float64(waits.RSSKiB-before.RSSKiB) / n, nil
}

// fanout is from a commit to the phones that it wakes, beside a bare stream of Connect to as many connections.
func (l *lab) fanout(ctx context.Context) error {
	if l.report.Postgres["track_commit_timestamp"] != "on" {
		why := "Postgres' track_commit_timestamp is off, which tells the moment of a commit"
		l.report.NotTaken["fanout_p50_vs_floor"], l.report.NotTaken["fanout_p99_vs_floor"] = why, why
		return nil
	}
	h, err := l.hall(ctx, l.product)
	if err != nil {
		return err
	}
	defer h.close()
	streams, err := l.streams(ctx)
	defer func() {
		for _, c := range streams {
			if c != nil {
				c.Close()
			}
		}
	}()
	if err != nil {
		return err
	}
	calls, err := l.calls(ctx)
	defer func() {
		for _, c := range calls {
			c.Close()
		}
	}()
	if err != nil {
		return err
	}
	var p50, p99, floor50, floor99, call50, call99, all []float64
	turn := func(wake func(context.Context) ([]float64, error), mid, tail *[]float64, every *[]float64) func(context.Context) error {
		return func(ctx context.Context) error {
			var took []float64
			for range l.mode.Wakes {
				one, err := wake(ctx)
				if err != nil {
					return err
				}
				took = append(took, one...)
			}
			*mid, *tail = append(*mid, quantile(took, 0.5)), append(*tail, quantile(took, 0.99))
			*every = append(*every, took...)
			return nil
		}
	}
	var unused []float64
	ours := turn(h.wake, &p50, &p99, &all)
	theirs := turn(func(ctx context.Context) ([]float64, error) { return l.publish(ctx, streams) }, &floor50, &floor99, &unused)
	bare := turn(func(ctx context.Context) ([]float64, error) { return l.answer(ctx, calls) }, &call50, &call99, &unused)
	if _, err := h.wake(ctx); err != nil { // each once before
		return err
	}
	if _, err := l.publish(ctx, streams); err != nil {
		return err
	}
	if _, err := l.answer(ctx, calls); err != nil {
		return err
	}
	if err := l.pairs(ctx, ours, theirs); err != nil {
		return err
	}
	for range l.mode.Pairs {
		if err := bare(ctx); err != nil {
			return err
		}
	}
	l.report.add("fanout_p50_vs_floor", "our time / floor's", lower, ratios(p50, floor50))
	l.report.add("fanout_p99_vs_floor", "our time / floor's", lower, ratios(p99, floor99))
	l.report.add("fanout_p50_ms", "ms, commit to wake", lower, p50)
	l.report.add("fanout_p99_ms", "ms, commit to wake", lower, p99)
	l.report.add("fanout_first_ms", "ms, the first of all", lower, []float64{quantile(all, 0)})
	l.report.add("fanout_max_ms", "ms, the last of all", lower, []float64{quantile(all, 1)})
	l.report.add("fanout_floor_p50_ms", "ms", lower, floor50)
	l.report.add("fanout_floor_p99_ms", "ms", lower, floor99)
	l.report.add("fanout_call_p50_ms", "ms, a bare Connect call that waits", lower, call50)
	l.report.add("fanout_call_p99_ms", "ms, a bare Connect call that waits", lower, call99)
	return nil
}

// wake brings all phones to a checkpoint and lets them wait; then the rep logs a visit.
func (h *hall) wake(ctx context.Context) ([]float64, error) {
	if err := h.each(ctx, signInOf, func(i int) error { return h.phones[i].pull() }); err != nil {
		return nil, err
	}
	if err := h.wait(ctx); err != nil {
		return nil, err
	}
	id := satchel.NewID()
	conns := make([]*rawhttp.Conn, len(h.phones))
	for i, p := range h.phones {
		conns[i] = p.conn
	}
	return arrivals(conns, func() (time.Time, error) {
		in := &satchelv1.SyncRequest{NoPage: true, Confirmed: h.rep.next - 1,
			Mutations: []*satchelv1.Mutation{h.l.visitMutation(h.rep, h.w, 0, id, time.Now())}}
		out, err := h.rep.call(ctx, in)
		if err != nil {
			return time.Time{}, err
		}
		if err := settledAs(out, in, satchelv1.Status_STATUS_APPLIED); err != nil {
			return time.Time{}, err
		}
		var committed time.Time
		err = h.l.conn.QueryRow(ctx, sqlCommittedAt, [16]byte(h.org), [16]byte(id)).Scan(&committed)
		return committed, err
	}, woken)
}

// streams opens the floor's streams, as many as phones wait.
func (l *lab) streams(ctx context.Context) (streams []*rawhttp.Conn, err error) {
	for range l.mode.Waiters {
		c, err := rawhttp.Dial(ctx, l.floor.HTTP)
		if err != nil {
			return streams, err
		}
		streams = append(streams, c)
		if err := c.Subscribe(fanoutPath, &satchelv1.WaitRequest{Cursor: []byte("x")}); err != nil {
			return streams, err
		}
		if err := c.Next(&satchelv1.WaitResponse{}); err != nil {
			return streams, err
		}
	}
	return streams, nil
}

// publish sends one message to all streams.
func (l *lab) publish(ctx context.Context, streams []*rawhttp.Conn) ([]float64, error) {
	if err := l.floor.still(ctx); err != nil {
		return nil, err
	}
	return arrivals(streams, func() (time.Time, error) {
		var ns int64
		err := l.floor.ask(ctx, "publish", &ns)
		return time.Unix(0, ns), err
	}, func(c *rawhttp.Conn) error {
		out := &satchelv1.WaitResponse{}
		if err := c.Next(out); err != nil {
			return err
		}
		if !out.Wake {
			return errors.New("bench: a stream brought something else")
		}
		return nil
	})
}

// woken reads the answer of a call that waited.
func woken(c *rawhttp.Conn) error {
	body, err := c.Answer()
	if err != nil {
		return err
	}
	out := &satchelv1.WaitResponse{}
	if err := proto.Unmarshal(body, out); err != nil {
		return err
	}
	if !out.Wake {
		return errors.New("bench: a phone was sent away, not woken")
	}
	return nil
}

// arrivals lets one goroutine for each connection stand ready, does what makes the server send, and gives the ms from
// the moment that happen names until the first byte is there. Only when all have theirs are the answers read, so that
// reading delays nobody.
func arrivals(conns []*rawhttp.Conn, happen func() (time.Time, error), read func(*rawhttp.Conn) error) ([]float64, error) {
	at := make([]time.Time, len(conns))
	for _, c := range conns {
		if err := c.Deadline(time.Now().Add(settleTime)); err != nil {
			return nil, err
		}
	}
	var ready sync.WaitGroup
	ready.Add(len(conns))
	var g errgroup.Group
	for i, c := range conns {
		g.Go(func() (err error) {
			ready.Done()
			at[i], err = c.Arrived()
			return err
		})
	}
	ready.Wait()
	begin, err := happen()
	if waitErr := g.Wait(); err == nil {
		err = waitErr
	}
	took := make([]float64, len(conns))
	for i, c := range conns {
		if err == nil {
			err = read(c)
		}
		took[i] = ms(at[i].Sub(begin))
	}
	return took, err
}
