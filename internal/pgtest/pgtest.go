package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/devpg"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/migrations"
)

// EnvURL names a superuser's address of a Postgres that all test processes share; `go run ./internal/pgtest/withpg go
// test ./...` starts one and sets it. Without it each test process starts its own.
const EnvURL = "SATCHEL_TEST_DATABASE_URL"

// templateLock is the advisory lock under which one process makes the template.
const templateLock int64 = 0x7361746368656d

// server is the one piece of state that a test process shares: its Postgres. The watchdog of devpg ends it when the
// process ends, in whatever way.
type server struct {
	once     sync.Once
	own      *devpg.Server
	url      string
	template string
	err      error
}

var shared server

// New gives a pool on a database of its own with all migrations; both go with the test.
func New(t testing.TB) *pgxpool.Pool {
	t.Helper()
	return open(t, URL(t))
}

// URL makes a database of its own with all migrations and gives its address, for tests that open several pools (as
// several replicas do). It goes with the test, whoever is still connected.
func URL(t testing.TB) string {
	t.Helper()
	u, template := start(t)
	return create(t, u, "template "+template+" strategy file_copy")
}

// Empty is [URL] without migrations.
func Empty(t testing.TB) string {
	t.Helper()
	u, _ := start(t)
	return create(t, u, "template template0 strategy file_copy")
}

// Main runs the tests and stops Postgres in good order: func TestMain(m *testing.M) { pgtest.Main(m) }. A package
// without it loses nothing but tidiness.
func Main(m *testing.M) {
	code := m.Run()
	if shared.own != nil {
		_ = shared.own.Stop(context.Background()) // the watchdog does it otherwise
	}
	os.Exit(code)
}

func start(t testing.TB) (address, template string) {
	t.Helper()
	shared.once.Do(func() { shared.err = shared.start() })
	if shared.err != nil {
		t.Fatalf("no Postgres for tests: %v", shared.err)
	}
	return shared.url, shared.template
}

func (s *server) start() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if s.url = os.Getenv(EnvURL); s.url == "" {
		own, err := devpg.StartEphemeral(ctx, nil)
		if err != nil {
			return err
		}
		s.own, s.url = own, own.URL()
	}
	print, err := migrations.Fingerprint()
	if err != nil {
		return err
	}
	s.template = "satchel_template_" + print
	return makeTemplate(ctx, s.url, s.template)
}

// makeTemplate makes the migrated database that all others are copied from, unless another process has. It counts as
// made once it is marked as a template, so one that was left half-done is made anew.
func makeTemplate(ctx context.Context, address, name string) error {
	admin, err := pgx.Connect(ctx, address)
	if err != nil {
		return err
	}
	defer admin.Close(context.WithoutCancel(ctx)) // the lock goes with the session
	if _, err := admin.Exec(ctx, "select pg_advisory_lock($1)", templateLock); err != nil {
		return err
	}
	var made bool
	err = admin.QueryRow(ctx, "select exists (select from pg_database where datname = $1 and datistemplate)", name).Scan(&made)
	if err != nil || made {
		return err
	}
	if _, err := admin.Exec(ctx, "drop database if exists "+name+" with (force)"); err != nil {
		return err
	}
	if _, err := admin.Exec(ctx, "create database "+name+" template template0 strategy file_copy"); err != nil {
		return err
	}
	pool, err := pg.Open(ctx, withDatabase(address, name), pg.Options{AppName: "pgtest", MaxConns: 2})
	if err != nil {
		return err
	}
	err = migrations.Up(ctx, pool)
	pool.Close()
	if err != nil {
		return err
	}
	_, err = admin.Exec(ctx, "alter database "+name+" with is_template true allow_connections false")
	return err
}

func create(t testing.TB, address, from string) string {
	t.Helper()
	name := "satchel_test_" + strings.ReplaceAll(satchel.NewID().String(), "-", "")
	if err := admin(address, "create database "+name+" "+from); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := admin(address, "drop database "+name+" with (force)"); err != nil {
			t.Errorf("the test's database stays: %v", err)
		}
	})
	return withDatabase(address, name)
}

func admin(address, sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql)
	return errors.Join(err, conn.Close(ctx))
}

func open(t testing.TB, address string) *pgxpool.Pool {
	t.Helper()
	pool, err := pg.Open(context.Background(), address, pg.Options{AppName: "test", MaxConns: 16})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func withDatabase(address, name string) string {
	u, err := url.Parse(address)
	if err != nil {
		panic(fmt.Sprintf("pgtest: %s is not a URL", EnvURL)) // Connect has parsed it before
	}
	u.Path = "/" + name
	return u.String()
}
