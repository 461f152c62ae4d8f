// Package tests_test looks at Satchel from outside: the documentation, executed, and clients that are not ours.
package tests_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
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
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/identity"
	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/internal/devpg"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/internal/pgtest"
	"github.com/satchel-sync/satchel/migrations"
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
	return serveWith(t, hire)
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
	return serveRunning(t, cfg, load, func(ctx context.Context, a *app.App) error { return a.Run(ctx) })
}

// serveRunning is serveConfig with the loops that run says.
func serveRunning(t *testing.T, cfg app.Config, load func(*testing.T, *app.App, *pgxpool.Pool), run func(context.Context, *app.App) error) *product {
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
	go func() { ended <- run(ctx, a) }()
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

// hire makes Acme, whose team North has the reps Ann and Ben and their manager Mei. The product itself writes it.
func hire(t *testing.T, a *app.App, _ *pgxpool.Pool) {
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

// ownPostgres starts a server that the test alone has, with these settings, and migrates its database.
func ownPostgres(ctx context.Context, t *testing.T, settings map[string]string) (db *devpg.Server, pool *pgxpool.Pool) {
	t.Helper()
	db, err := devpg.StartEphemeral(ctx, settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Stop(context.Background()) }) // its watchdog does it otherwise
	if pool, err = pg.Open(ctx, db.URL(), pg.Options{AppName: "test", MaxConns: 8}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if err := migrations.Up(ctx, pool); err != nil {
		t.Fatal(err)
	}
	return db, pool
}

// roaming signs in a phone whose way leads to p, until it is told otherwise.
func roaming(t *testing.T, p *product, login string) (*satchelclient.Client, *detour) {
	t.Helper()
	way := &detour{}
	way.to(p)
	return phone(t, p.url, login, way), way
}

// recordVisit lets somebody record a customer and a visit.
func recordVisit(t *testing.T, c *satchelclient.Client) (visit satchel.ID) {
	t.Helper()
	account, err := c.Create(t.Context(), "account", satchelclient.Fields{"name": "Orient"})
	if err != nil {
		t.Fatal(err)
	}
	if visit, err = c.Create(t.Context(), "visit", satchelclient.Fields{"account": account, "subject": "Shelves"}); err != nil {
		t.Fatal(err)
	}
	return visit
}

// attachPhoto lets somebody hang a photo under a visit.
func attachPhoto(t *testing.T, c *satchelclient.Client, visit satchel.ID, jpeg []byte) (photo satchel.ID) {
	t.Helper()
	photo, err := c.AttachBytes(t.Context(), "photo", jpeg, "image/jpeg", satchelclient.Fields{"visit": visit})
	if err != nil {
		t.Fatal(err)
	}
	return photo
}

// comesBack wants the bytes of a photo from the server, or from where the phone has them.
func comesBack(t *testing.T, c *satchelclient.Client, photo satchel.ID, want []byte) {
	t.Helper()
	body, _, err := c.Open(t.Context(), photo)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, want) {
		t.Errorf("a photo comes back with %d bytes of %d, %v", len(got), len(want), err)
	}
}

// numbered lists the names of n records: "of/0" and so on.
func numbered(of any, n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("%v/%d", of, i)
	}
	return names
}

// onceEach wants a phone to show one record of the kind for each name, or subject. There may be others.
func onceEach(t *testing.T, c *satchelclient.Client, kind string, names []string) {
	t.Helper()
	all, err := c.List(t.Context(), kind)
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, r := range all {
		count[r.Text("name")+r.Text("subject")]++
	}
	for _, name := range names {
		if count[name] != 1 {
			t.Errorf("the %s %s is there %d times", kind, name, count[name])
		}
	}
}
