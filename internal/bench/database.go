package bench

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net/url"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/identity"
	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/migrations"
)

// What everything in the laboratory is called. The password guards made-up data on loopback.
const (
	orgSlug  = "bench"
	password = "bench-on-loopback"
	timeZone = "Asia/Shanghai"
	runName  = "satchel_bench_run"
	// loaderVersion changes when data that were kept must be loaded anew.
	loaderVersion = "4"
	benchLock     = int64(0x7361746262656e)
)

// secret signs links, which the bench never makes.
var secret = []byte("the bench's server lives for minutes on loopback only")

// database is a fresh copy of the loaded data.
type database struct {
	admin *pgx.Conn // holds the lock; without the limits that the product's connections have
	url   string    // of the copy
	keep  string    // name of the loaded data; "" = dropped at the end
}

// openDatabase loads the data, or takes those that an earlier run kept, and copies them.
func openDatabase(ctx context.Context, address string, w *world, keep bool, log io.Writer) (_ *database, err error) {
	admin, err := pgx.Connect(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("bench: the database does not answer: %w", err)
	}
	db := &database{admin: admin}
	defer func() {
		if err != nil {
			db.close()
		}
	}()
	var free bool
	if err := admin.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, benchLock).Scan(&free); err != nil {
		return nil, err
	}
	if !free {
		return nil, errors.New("bench: another bench runs on this Postgres; wait for it, or give another --database-url or --data-dir")
	}
	print, err := migrations.Fingerprint()
	if err != nil {
		return nil, err
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %+v %s", print, w.scale, loaderVersion)
	data := fmt.Sprintf("satchel_bench_data_%016x", h.Sum64())
	if keep {
		db.keep = data
	}
	var there bool
	if err := admin.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1 AND datistemplate)`, data).Scan(&there); err != nil {
		return nil, err
	}
	if !there {
		if err := db.make(ctx, address, data, w, log); err != nil {
			return nil, err
		}
	}
	if err := db.exec(ctx, "DROP DATABASE IF EXISTS "+runName+" WITH (FORCE)", "CREATE DATABASE "+runName+" TEMPLATE "+data+" STRATEGY file_copy"); err != nil {
		return nil, err
	}
	db.url, err = withDatabase(address, runName)
	if err != nil || keep {
		return db, err
	}
	return db, db.exec(ctx, "ALTER DATABASE "+data+" IS_TEMPLATE false", "DROP DATABASE "+data)
}

// make loads the data into a database that counts as whole once it is marked as a template; older ones go.
func (db *database) make(ctx context.Context, address, name string, w *world, log io.Writer) error {
	begin := time.Now()
	fmt.Fprintf(log, "loading %d visits of %d reps by COPY\n", w.scale.visits(), w.scale.reps())
	rows, err := db.admin.Query(ctx, `SELECT datname FROM pg_database WHERE datname LIKE 'satchel\_bench\_%'`)
	if err != nil {
		return err
	}
	old, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, o := range old {
		if err := db.exec(ctx, "ALTER DATABASE "+o+" IS_TEMPLATE false", "DROP DATABASE "+o+" WITH (FORCE)"); err != nil {
			return err
		}
	}
	if err := db.exec(ctx, "CREATE DATABASE "+name+" TEMPLATE template0"); err != nil {
		return err
	}
	u, err := withDatabase(address, name)
	if err != nil {
		return err
	}
	if err := fill(ctx, u, w); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, u)
	if err != nil {
		return err
	}
	// Not the empty tables: Postgres would remember them as empty, and plan to read them whole when they have grown.
	_, err = conn.Exec(ctx, "VACUUM (ANALYZE) record, head, history, bucket, bucket_name, ledger_source, person, team, bench_floor.visit")
	if closeErr := conn.Close(ctx); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(log, "loaded in %.1f s\n", time.Since(begin).Seconds())
	return db.exec(ctx, "ALTER DATABASE "+name+" IS_TEMPLATE true")
}

// fill migrates, makes the organisation through the product's own doors, and loads the records.
func fill(ctx context.Context, u string, w *world) error {
	pool, err := pg.Open(ctx, u, pg.Options{AppName: "satchel-lab load"})
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := migrations.Up(ctx, pool); err != nil {
		return err
	}
	blobs, err := os.MkdirTemp("", "satchel-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(blobs)
	a, err := newApp(ctx, pool, blobs)
	if err != nil {
		return err
	}
	org, err := makeOrg(ctx, pool, a, w)
	if err != nil {
		return err
	}
	return load(ctx, pool, a.Engine, org, w, present)
}

// newApp wires the product as it is served, but for cheap sign-ins without a limit.
func newApp(ctx context.Context, pool *pgxpool.Pool, blobs string) (*app.App, error) {
	return app.New(ctx, app.Config{
		Pool: pool, BlobURL: (&url.URL{Scheme: "file", Path: blobs}).String(), Secret: secret,
		Identity: app.Identity{Hashing: identity.Argon2{MemoryKiB: 64, Passes: 1, Lanes: 1}, AddressPerSecond: -1},
	})
}

// makeOrg creates the organisation and its people, and works the jobs that mirror them into records.
func makeOrg(ctx context.Context, pool *pgxpool.Pool, a *app.App, w *world) (org satchel.ID, err error) {
	if org, err = a.Identity.CreateOrg(ctx, identity.NewOrg{Slug: orgSlug, Name: orgSlug, TimeZone: timeZone}); err != nil {
		return org, err
	}
	teams, people := w.people()
	if err := pg.InTx(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
		if err := a.Identity.ImportTeams(ctx, tx, org, teams); err != nil {
			return err
		}
		return a.Identity.ImportPeople(ctx, tx, org, password, people)
	}); err != nil {
		return org, err
	}
	_, err = a.Jobs.Step(ctx)
	return org, err
}

func (db *database) exec(ctx context.Context, statements ...string) error {
	for _, sql := range statements {
		if _, err := db.admin.Exec(ctx, sql); err != nil {
			return fmt.Errorf("bench: %s: %w", sql, err)
		}
	}
	return nil
}

// close drops the copy.
func (db *database) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if db.url != "" {
		_ = db.exec(ctx, "DROP DATABASE IF EXISTS "+runName+" WITH (FORCE)") // the next run drops it otherwise
	}
	_ = db.admin.Close(ctx)
}

func withDatabase(address, name string) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", errors.New("bench: the database URL does not parse")
	}
	u.Path = "/" + name
	return u.String(), nil
}
