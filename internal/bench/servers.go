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
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/proto"

	satchel "github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/internal/pg"
)

// orders is the first line that a child reads: what to serve. It comes by a pipe, for the address has a password.
type orders struct {
	DatabaseURL string `json:"database_url"`
	Blobs       string `json:"blobs"`
}

// addresses is the first line that it writes.
type addresses struct {
	Product string `json:"product"` // http://…
	Echo    string `json:"echo"`    // http://…
	Floor   string `json:"floor"`   // host:port
}

const echoPath = "/bench.v1.Echo/Echo"

// floorFrame is how many changes the floor sends in one frame.
const floorFrame = 200

// Serve is the process of the servers: the product as it is served elsewhere, a bare Connect echo, and the floor's
// reads over TCP. It takes orders from in, a line each, answers each with a line on out, and ends when in does.
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
	pool, err := pg.Open(ctx, o.DatabaseURL, pg.Options{AppName: "satchel"}) // as many connections as `satchel serve`
	if err != nil {
		return err
	}
	defer pool.Close()
	floor, err := pg.Open(ctx, o.DatabaseURL, pg.Options{AppName: "floor"})
	if err != nil {
		return err
	}
	defer floor.Close()
	a, err := newApp(ctx, pool, o.Blobs)
	if err != nil {
		return err
	}
	var listeners [3]net.Listener
	for i := range listeners {
		if listeners[i], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return err
		}
		defer listeners[i].Close()
	}
	echo := &http.Server{Handler: echoHandler(), ReadHeaderTimeout: 10 * time.Second}
	var loops sync.WaitGroup
	defer loops.Wait()
	defer echo.Close()
	defer cancel()
	loops.Go(func() { _ = a.Server.Serve(ctx, listeners[0]) })
	loops.Go(func() { _ = echo.Serve(listeners[1]) })
	loops.Go(func() { serveFloor(ctx, floor, listeners[2]) })
	loops.Go(func() { _ = a.Run(ctx) })

	first, err := json.Marshal(addresses{
		Product: "http://" + listeners[0].Addr().String(), Echo: "http://" + listeners[1].Addr().String(), Floor: listeners[2].Addr().String(),
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s\n", first)
	var profile *os.File
	for lines.Scan() {
		order, arg, _ := strings.Cut(lines.Text(), " ")
		answer := any("ok")
		switch order {
		case "usage":
			answer = usageOfSelf()
		case "gc":
			runtime.GC()
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

// echoHandler is the least that Connect can do: it decodes a request and encodes an answer.
func echoHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(echoPath, connect.NewUnaryHandler(echoPath, func(_ context.Context, in *connect.Request[satchelv1.SyncRequest]) (*connect.Response[satchelv1.SyncResponse], error) {
		return connect.NewResponse(&satchelv1.SyncResponse{ServerTimeMs: int64(in.Msg.Confirmed)}), nil
	}))
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
