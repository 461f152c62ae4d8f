// Package tests_test looks at Satchel from outside: the documentation, executed, and clients that are not ours.
package tests_test

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/identity"
	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// password is that of everybody at Acme.
const password = "open sesame 42"

// root is the repository's folder, seen from here.
const root = ".."

// product is the whole product on a database of its own, listening on this machine.
type product struct {
	*app.App
	url string
}

// serve starts the product with the organisation of docs/protocol.md.
func serve(t *testing.T) *product {
	t.Helper()
	return serveWith(t, func(t *testing.T, a *app.App, _ *pgxpool.Pool) { hire(t, a) })
}

// serveWith starts the product with what load brings into its database.
func serveWith(t *testing.T, load func(*testing.T, *app.App, *pgxpool.Pool)) *product {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	pool := pgtest.New(t)
	a, err := app.New(ctx, app.Config{
		Pool: pool, BlobURL: "file://" + filepath.Join(t.TempDir(), "blobs"), Secret: make([]byte, 32),
		Identity: app.Identity{Hashing: identity.Argon2{MemoryKiB: 64, Passes: 1, Lanes: 1}, AddressPerSecond: -1},
	})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	load(t, a, pool)
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
	})
	return &product{App: a, url: "http://" + l.Addr().String()}
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
