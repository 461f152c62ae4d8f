package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/proto"

	satchel "github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/internal/bench/dataset"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/syncengine"
)

// orders is the first line that a child reads: what to serve. It comes by a pipe, for the address has a password.
type orders struct {
	Serve       string `json:"serve"` // product or floor
	DatabaseURL string `json:"database_url"`
	Blobs       string `json:"blobs"`
}

// What a process serves.
const (
	product = "product"
	floor   = "floor"
)

// addresses is the first line that it writes.
type addresses struct {
	HTTP  string `json:"http"`            // http://…: the product, or the floor's echo and fan-out
	Reads string `json:"reads,omitempty"` // host:port of the floor's reads
}

const (
	echoPath   = "/bench.v1.Floor/Echo"
	fanoutPath = "/bench.v1.Floor/Subscribe"
	waitPath   = "/bench.v1.Floor/Wait"
)

// floorFrame is how many changes the floor sends in one frame.
const floorFrame = 200

// Serve is a process of servers: the product alone as it is served elsewhere, or what it is compared with (a bare
// Connect echo, a bare Connect fan-out, and the floor's reads over TCP). It takes orders from in, a line each, answers
// each with a line on out, and ends when in does.
func Serve(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lines := bufio.NewScanner(in)
	if !lines.Scan() {
		return errors.New("bench: no orders came; `satchel-lab bench` starts this process")
	}
	var o orders
	if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
		return err
	}
	// As `satchel serve` opens it.
	pool, err := pg.Open(ctx, o.DatabaseURL, pg.Options{AppName: o.Serve, OnConnect: syncengine.CheckLine})
	if err != nil {
		return err
	}
	defer pool.Close()
	var loops sync.WaitGroup
	defer loops.Wait()
	defer cancel()
	web, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer web.Close()
	a := addresses{HTTP: "http://" + web.Addr().String()}
	fan := &fan{subscribers: audience{}, waiters: audience{}}
	switch o.Serve {
	case product:
		p, err := dataset.NewApp(ctx, pool, o.Blobs)
		if err != nil {
			return err
		}
		loops.Go(func() { _ = p.Server.Serve(ctx, web) })
		loops.Go(func() { _ = p.Run(ctx) })
	case floor:
		reads, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer reads.Close()
		a.Reads = reads.Addr().String()
		srv := &http.Server{Handler: floorHandler(fan), ReadHeaderTimeout: 10 * time.Second}
		defer srv.Close()
		loops.Go(func() { _ = srv.Serve(web) })
		loops.Go(func() { serveFloor(ctx, pool, reads) })
	default:
		return fmt.Errorf("bench: there is nothing like %q to serve", o.Serve)
	}
	first, err := json.Marshal(a)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s\n", first)
	return obey(lines, out, fan)
}

// obey answers orders until there are no more.
func obey(lines *bufio.Scanner, out io.Writer, fan *fan) (err error) {
	var profile *os.File
	for lines.Scan() {
		order, arg, _ := strings.Cut(lines.Text(), " ")
		answer := any("ok")
		switch order {
		case "usage":
			answer = usageOfSelf()
		case "settle": // what is alive stays, the rest goes back to the system
			debug.FreeOSMemory()
			debug.FreeOSMemory() // finalizers of the first have run
			answer = usageOfSelf()
		case "publish":
			answer = fan.publish()
		case "wake":
			answer = fan.wake()
		case "waiting":
			answer = fan.waiting()
		case "profile":
			if profile, err = os.Create(arg); err != nil {
				return err
			}
			if err := pprof.StartCPUProfile(profile); err != nil {
				return err
			}
		case "profile-end":
			pprof.StopCPUProfile()
			if err := profile.Close(); err != nil {
				return err
			}
		default:
			return fmt.Errorf("bench: unknown order %q", order)
		}
		line, err := json.Marshal(answer)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s\n", line)
	}
	return lines.Err()
}

// fan tells all who subscribe, or all who wait in a call.
type fan struct {
	mu                   sync.Mutex
	subscribers, waiters audience
}

type audience map[chan int64]struct{}

// publish tells all who subscribe. It gives the moment before the first is told, in nanoseconds since 1970.
func (f *fan) publish() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return tell(f.subscribers)
}

// wake tells all who wait, and gives the same. They are out then, and none of them needs the lock.
func (f *fan) wake() int64 {
	f.mu.Lock()
	all := f.waiters
	f.waiters = audience{}
	f.mu.Unlock()
	return tell(all)
}

func tell(all audience) int64 {
	now := time.Now().UnixNano()
	for ch := range all {
		ch <- now
	}
	return now
}

func (f *fan) waiting() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.waiters)
}

// wait is the call of one who waits.
func (f *fan) wait(ctx context.Context, _ *connect.Request[satchelv1.WaitRequest]) (*connect.Response[satchelv1.WaitResponse], error) {
	ch := make(chan int64, 1)
	f.mu.Lock()
	f.waiters[ch] = struct{}{}
	f.mu.Unlock()
	select {
	case <-ch:
		return connect.NewResponse(&satchelv1.WaitResponse{Wake: true}), nil
	case <-ctx.Done():
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.waiters, ch)
		return nil, ctx.Err()
	}
}

// subscribe is the stream of one: an empty message when he is known, then one for each publication.
func (f *fan) subscribe(ctx context.Context, _ *connect.Request[satchelv1.WaitRequest], s *connect.ServerStream[satchelv1.WaitResponse]) error {
	ch := make(chan int64, 1) // the bench publishes when all have had the last
	f.mu.Lock()
	f.subscribers[ch] = struct{}{}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.subscribers, ch)
		f.mu.Unlock()
	}()
	if err := s.Send(&satchelv1.WaitResponse{}); err != nil {
		return err
	}
	for {
		select {
		case <-ch:
			if err := s.Send(&satchelv1.WaitResponse{Wake: true}); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// floorHandler is the least that Connect can do: an echo, which decodes a request and encodes an answer, a stream, and a
// call that waits.
func floorHandler(f *fan) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(echoPath, connect.NewUnaryHandler(echoPath, func(_ context.Context, in *connect.Request[satchelv1.SyncRequest]) (*connect.Response[satchelv1.SyncResponse], error) {
		return connect.NewResponse(&satchelv1.SyncResponse{ServerTimeMs: int64(in.Msg.Confirmed)}), nil
	}))
	mux.Handle(fanoutPath, connect.NewServerStreamHandler(fanoutPath, f.subscribe))
	mux.Handle(waitPath, connect.NewUnaryHandler(waitPath, f.wait))
	return mux
}

// serveFloor answers (team, after) with the team's rows behind after: frames of a length and a Page, then a zero.
func serveFloor(ctx context.Context, pool *pgxpool.Pool, l net.Listener) {
	var conns sync.WaitGroup
	defer conns.Wait()
	slots := make(chan struct{}, 16)
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		slots <- struct{}{}
		conns.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			r, w := bufio.NewReader(conn), bufio.NewWriterSize(conn, 64<<10)
			for {
				var ask [24]byte
				if _, err := io.ReadFull(r, ask[:]); err != nil {
					return
				}
				if floorAnswer(ctx, pool, w, satchel.ID(ask[:16]), int64(binary.BigEndian.Uint64(ask[16:]))) != nil {
					return // the client sees the connection break
				}
			}
		})
	}
}

func floorAnswer(ctx context.Context, pool *pgxpool.Pool, w *bufio.Writer, team satchel.ID, after int64) error {
	rows, err := pool.Query(ctx, sqlFloorPull, team, after)
	if err != nil {
		return err
	}
	defer rows.Close()
	page := &satchelv1.Page{}
	var buf []byte
	send := func() error {
		if len(page.Changes) == 0 {
			return nil
		}
		if buf, err = (proto.MarshalOptions{}).MarshalAppend(buf[:0], page); err != nil {
			return err
		}
		page.Changes = page.Changes[:0]
		return writeFrame(w, buf)
	}
	for rows.Next() {
		var id, owner satchel.ID
		var data []byte
		c := &satchelv1.Change{Kind: "visit"}
		if err := rows.Scan(&id, &owner, &c.Rev, &c.EventMs, &data); err != nil {
			return err
		}
		c.RecordId, c.AuthorId, c.Fields = id.String(), owner.String(), string(data)
		c.Entered = []uint64{1}
		if page.Changes = append(page.Changes, c); len(page.Changes) == floorFrame {
			if err := send(); err != nil {
				return err
			}
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if err := send(); err != nil {
		return err
	}
	if err := writeFrame(w, nil); err != nil {
		return err
	}
	return w.Flush()
}

func writeFrame(w *bufio.Writer, b []byte) error {
	var head [4]byte
	binary.BigEndian.PutUint32(head[:], uint32(len(b)))
	if _, err := w.Write(head[:]); err != nil {
		return err
	}
	_, err := w.Write(b)
	return err
}

// child is a process of servers, seen from the clients'.
type child struct {
	addresses
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner

	mu sync.Mutex // one order at a time
}

const (
	childStart = 30 * time.Second
	childEnd   = 30 * time.Second
)

// startChild starts cmd, which must call [Serve]. It ends when this process does, in whatever way: its input closes.
func startChild(ctx context.Context, cmd *exec.Cmd, o orders) (*child, error) {
	c := &child{cmd: cmd}
	var err error
	if c.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewScanner(out)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	line, err := json.Marshal(o)
	if err == nil {
		err = c.ask(ctx, string(line), &c.addresses)
	}
	if err != nil {
		c.stop()
		return nil, fmt.Errorf("bench: the servers did not start: %w", err)
	}
	return c, nil
}

// ask gives an order and reads its answer.
func (c *child) ask(ctx context.Context, order string, answer any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, childStart)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = c.cmd.Process.Kill() })() // so that the read below ends
	if _, err := fmt.Fprintln(c.in, order); err != nil {
		return err
	}
	if !c.out.Scan() {
		return errors.Join(c.out.Err(), ctx.Err(), errors.New("bench: the servers' process ended; its errors stand above"))
	}
	return json.Unmarshal(c.out.Bytes(), answer)
}

func (c *child) order(ctx context.Context, order string) error {
	var ok string
	return c.ask(ctx, order, &ok)
}

// stop ends the process, by force when it does not go.
func (c *child) stop() {
	_ = c.in.Close()
	timer := time.AfterFunc(childEnd, func() { _ = c.cmd.Process.Kill() })
	defer timer.Stop()
	_ = c.cmd.Wait() // what it had to say stands on its standard error
}
