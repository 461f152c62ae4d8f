package nemesis

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/satchel-sync/satchel/identity"
	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/syncengine"
)

// orders is the one line that a server's process reads. It comes by a pipe, for the address has a password.
type orders struct {
	DatabaseURL string `json:"database_url"`
	Blobs       string `json:"blobs"`
	Replica     int    `json:"replica"`
}

// secret signs links.
var secret = []byte("the simulator's servers listen on loopback and live minutes")

// readyWord begins the one line that a server's process writes, before its address.
const readyWord = "ready "

// appName is how Postgres knows a replica's sessions.
func appName(replica int) string { return fmt.Sprintf("satchel sim %d", replica) }

// Serve is a server's process: the product as it is served elsewhere, but for cheap sign-ins. It takes its orders from
// in, tells its address on out, logs what is wrong to errs, and ends when in does.
func Serve(ctx context.Context, in io.Reader, out, errs io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lines := bufio.NewReader(io.LimitReader(in, 1<<16))
	line, err := lines.ReadBytes('\n')
	var o orders
	if err == nil {
		err = json.Unmarshal(line, &o)
	}
	if err != nil {
		return errors.New("nemesis: no orders came; `satchel-lab sim --real` starts this process")
	}
	pool, err := pg.Open(ctx, o.DatabaseURL, pg.Options{AppName: appName(o.Replica), OnConnect: syncengine.CheckLine})
	if err != nil {
		return err
	}
	defer pool.Close()
	a, err := newApp(ctx, pool, o.Blobs, nil, slog.New(slog.NewTextHandler(errs, &slog.HandlerOptions{Level: slog.LevelWarn})))
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.Run(ctx) })
	g.Go(func() error { return a.Server.Serve(ctx, l) })
	go func() { // it ends with the process
		_, _ = io.Copy(io.Discard, lines)
		cancel()
	}()
	fmt.Fprintln(out, readyWord+l.Addr().String())
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// newApp wires the product. now nil = the machine's clock.
func newApp(ctx context.Context, pool *pgxpool.Pool, blobs string, now func() time.Time, log *slog.Logger) (*app.App, error) {
	return app.New(ctx, app.Config{
		Pool: pool, BlobURL: (&url.URL{Scheme: "file", Path: blobs}).String(), Secret: secret, Now: now, Logger: log,
		Identity: app.Identity{Hashing: identity.Argon2{MemoryKiB: 64, Passes: 1, Lanes: 1}, AddressPerSecond: -1},
	})
}
