// Package tests_test looks at Satchel from outside: the documentation, executed, and clients that are not ours.
package tests_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/identity"
	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/internal/pgtest"
)

// password is that of everybody at Acme.
const password = "open sesame 42"

// root is the repository's folder, seen from here.
const root = ".."

// product is the whole product on a database of its own, listening on this machine.
type product struct {
	*app.App
	url string
	log *journal
}

// journal is all that a product logs, from debug on.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write adds lines.
func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

// String gives what was logged so far.
func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

// secrets are what no line may hold: passwords, tokens, signatures of links, and what customers of these tests are
// called and say. Ids are no secrets.
var secrets = regexp.MustCompile(regexp.QuoteMeta(password) + `|sa[tr]_[A-Za-z0-9_-]{20}|[?&]s=|wrong password|long enough|` +
	`Orient|Shelves|Spying|0571 \d|satchel-demo|/etc/passwd|drop table|X-Injected|JFIF|Mei|Office`)

// serve starts the product with the organisation of docs/protocol.md.
func serve(t *testing.T) *product {
	t.Helper()
	return serveWith(t, func(t *testing.T, a *app.App, _ *pgxpool.Pool) { hire(t, a) })
}

// serveWith starts the product with what load brings into its database.
func serveWith(t *testing.T, load func(*testing.T, *app.App, *pgxpool.Pool)) *product {
	t.Helper()
	return serveConfig(t, app.Config{Pool: pgtest.New(t)}, load)
}

// serveConfig is serveWith for a product of which something is not as usual; what cfg does not say is. At the end the
// log is searched for what it may not hold.
func serveConfig(t *testing.T, cfg app.Config, load func(*testing.T, *app.App, *pgxpool.Pool)) *product {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	log := &journal{}
	if cfg.BlobURL == "" {
		cfg.BlobURL = "file://" + filepath.Join(t.TempDir(), "blobs")
	}
	cfg.Secret = make([]byte, 32)
	cfg.Identity = app.Identity{Hashing: identity.Argon2{MemoryKiB: 64, Passes: 1, Lanes: 1}, AddressPerSecond: -1}
	cfg.Logger = slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	a, err := app.New(ctx, cfg)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	load(t, a, cfg.Pool)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	ended := make(chan error, 2)
	go func() { ended <- a.Server.Serve(ctx, l) }()
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			select {
			case <-ended:
			case <-time.After(30 * time.Second):
				t.Error("the server does not end")
			}
		}
		for line := range strings.Lines(log.String()) {
			if found := secrets.FindString(line); found != "" {
				t.Errorf("the log holds %q: %s", found, line)
			}
		}
	})
	return &product{App: a, url: "http://" + l.Addr().String(), log: log}
}

// hire makes Acme, whose team North has the reps Ann and Ben and their manager Mei.
func hire(t *testing.T, a *app.App) {
	t.Helper()
	ctx := context.Background()
	org, err := a.Identity.CreateOrg(ctx, identity.NewOrg{Slug: "acme", Name: "Acme", TimeZone: "Asia/Shanghai"})
	if err != nil {
		t.Fatal(err)
	}
	admin, err := a.Identity.AddUser(ctx, "acme", identity.NewPerson{Login: "admin", DisplayName: "Office", Roles: []string{"admin"}, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	north, err := a.Identity.CreateTeam(ctx, &satchel.Principal{Org: org, Person: admin.ID, Roles: admin.Roles}, "North", satchel.ID{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range [][3]string{{"ann", "Ann", "rep"}, {"ben", "Ben", "rep"}, {"mei", "Mei", "manager"}} {
		if _, err := a.Identity.AddUser(ctx, "acme", identity.NewPerson{Login: p[0], DisplayName: p[1], Team: north.ID,
			Roles: []string{p[2]}, Password: password}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.Jobs.Step(ctx); err != nil {
		t.Fatal(err)
	}
}
