package story

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/satchel-sync/satchel/identity"
	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/syncengine"
)

// ChildConfig is how the storyteller starts the server's process.
type ChildConfig struct {
	DatabaseURL string
	BlobURL     string
	FCMURL      string
	Listen      string        // such as 127.0.0.1:0
	Offset      time.Duration // of the injected clock from the machine's
}

// secret signs the story's links: the story's server listens on loopback, for minutes.
var secret = []byte("the story's server lives for minutes on loopback only")

// Child runs the server of the story until in ends. It takes orders from in, a line each, and answers with a line on
// out: "advance DURATION" moves the clock; "step" works all jobs that are due; "kill-in-batch" lets the process kill
// itself (kill -9) inside the transaction of the next batch, before the commit; "kill-before-answer" after the next
// commit, before a byte of the answer.
func Child(ctx context.Context, cfg ChildConfig, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var offset atomic.Int64
	offset.Store(int64(cfg.Offset))
	now := func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }

	pool, err := pg.Open(ctx, cfg.DatabaseURL, pg.Options{AppName: "satchel demo", OnConnect: syncengine.CheckLine})
	if err != nil {
		return err
	}
	defer pool.Close()
	var killInBatch, killBeforeAnswer atomic.Bool
	a, err := app.New(ctx, appConfig(app.Config{Pool: pool, BlobURL: cfg.BlobURL, Now: now}, cfg.FCMURL))
	if err != nil {
		return err
	}
	a.Engine.Observe(func(context.Context, pgx.Tx, []syncengine.Change) error {
		if killInBatch.Load() {
			kill()
		}
		return nil
	})
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if killBeforeAnswer.Load() && strings.HasSuffix(r.URL.Path, "SyncService/Sync") {
			w = deadly{w}
		}
		a.Server.Handler().ServeHTTP(w, r)
	})
	l, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	var done sync.WaitGroup
	done.Go(func() { _ = srv.Serve(l) })
	done.Go(func() { _ = a.Engine.Run(ctx) })
	defer done.Wait()
	defer srv.Close()
	defer cancel()

	fmt.Fprintln(out, "ready http://"+l.Addr().String())
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		order, arg, _ := strings.Cut(lines.Text(), " ")
		answer := "ok"
		switch order {
		case "advance":
			d, err := time.ParseDuration(arg)
			if err != nil {
				return err
			}
			offset.Add(int64(d))
		case "step":
			n, err := a.Jobs.Step(ctx)
			if err != nil {
				return err
			}
			answer = fmt.Sprint("ok ", n)
		case "kill-in-batch":
			killInBatch.Store(true)
		case "kill-before-answer":
			killBeforeAnswer.Store(true)
		default:
			return errors.New("story: unknown order " + order)
		}
		fmt.Fprintln(out, answer)
	}
	return lines.Err()
}

// appConfig makes sign-in cheap: the story is not about passwords.
func appConfig(c app.Config, fcmURL string) app.Config {
	c.Secret = secret
	c.FCM = app.FCM{Endpoint: fcmURL, Project: "story"}
	c.Identity = app.Identity{Hashing: identity.Argon2{MemoryKiB: 64, Passes: 1, Lanes: 1}, AddressPerSecond: -1}
	return c
}

// deadly kills the process at the first byte of an answer.
type deadly struct{ http.ResponseWriter }

func (deadly) WriteHeader(int)           { kill() }
func (deadly) Write([]byte) (int, error) { kill(); return 0, nil }

// kill is kill -9 of this process: nothing is flushed, nothing is told to anybody.
func kill() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the signal is on its way
}
