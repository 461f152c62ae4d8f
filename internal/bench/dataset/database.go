package dataset

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
	"github.com/satchel-sync/satchel/syncengine"
)

// Password is everybody's. It guards made-up data on loopback.
const Password = "bench-on-loopback"

const (
	timeZone = "Asia/Shanghai"
	prefix   = "satchel_bench_"
	// loaderVersion changes when data that were kept must be loaded anew.
	loaderVersion = "6"
	benchLock     = int64(0x7361746262656e)
)

// secret signs links, which the bench never makes.
var secret = []byte("the bench's server lives for minutes on loopback only")

// Set is what lies in one database.
type Set struct {
	Name string // of the database, behind satchel_bench_; lower case
	Orgs []Org
	// InPlace works on the loaded data themselves, for a set that is too large to be copied: what earlier runs did to
	// it is still there. Otherwise each run has a fresh copy, which goes at its end.
	InPlace bool
}

// Server is a Postgres on which one bench works.
type Server struct {
	admin   *pgx.Conn // holds the lock; without the limits that the product's connections have
	address string
	keep    bool
	log     io.Writer
	drop    []string // databases to drop at the end
}

// Connect takes the Postgres at address, a superuser's, for this process alone. keep leaves loaded data for the next
// run; log is told what takes long.
func Connect(ctx context.Context, address string, keep bool, log io.Writer) (*Server, error) {
	admin, err := pgx.Connect(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("bench: the database does not answer: %w", err)
	}
	s := &Server{admin: admin, address: address, keep: keep, log: log}
	var free bool
	err = admin.QueryRow(ctx, sqlTryLock, benchLock).Scan(&free)
	if err == nil && !free {
		err = errors.New("bench: another bench runs on this Postgres; wait for it, or give another --database-url or --data-dir")
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Open loads the set, or takes what an earlier run kept, and gives the address of its database and its worlds.
func (s *Server) Open(ctx context.Context, set Set) (address string, worlds []*World, err error) {
	for _, o := range set.Orgs {
		w, err := NewWorld(o)
		if err != nil {
			return "", nil, err
		}
		worlds = append(worlds, w)
	}
	print, err := migrations.Fingerprint()
	if err != nil {
		return "", nil, err
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %+v %s", print, set.Orgs, loaderVersion)
	name := prefix + set.Name
	data := fmt.Sprintf("%s_data_%016x", name, h.Sum64())
	var whole bool
	if err := s.admin.QueryRow(ctx, sqlWhole, data).Scan(&whole); err != nil {
		return "", nil, err
	}
	if !whole {
		if err := s.make(ctx, set.Name, data, worlds); err != nil {
			return "", nil, err
		}
	}
	if !s.keep {
		s.drop = append(s.drop, data)
	}
	use := data
	if !set.InPlace {
		use = name + "_run"
		if err := s.exec(ctx, "DROP DATABASE IF EXISTS "+use+" WITH (FORCE)", "CREATE DATABASE "+use+" TEMPLATE "+data+" STRATEGY file_copy"); err != nil {
			return "", nil, err
		}
		s.drop = append(s.drop, use)
	}
	address, err = withDatabase(s.address, use)
	return address, worlds, err
}

// make loads the data into a database that counts as whole once it is marked as a template; older ones go.
func (s *Server) make(ctx context.Context, set, name string, worlds []*World) error {
	begin := time.Now()
	visits := 0
	for _, w := range worlds {
		visits += w.Scale.Visits()
	}
	fmt.Fprintf(s.log, "loading %s: %d visits by COPY\n", set, visits)
	rows, err := s.admin.Query(ctx, sqlOutdated, prefix+set+"_data_", prefix+"run")
	if err != nil {
		return err
	}
	old, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, o := range old {
		if err := s.dropDatabase(ctx, o); err != nil {
			return err
		}
	}
	if err := s.exec(ctx, "CREATE DATABASE "+name+" TEMPLATE template0"); err != nil {
		return err
	}
	u, err := withDatabase(s.address, name)
	if err != nil {
		return err
	}
	if err := fill(ctx, u, worlds); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, u)
	if err != nil {
		return err
	}
	// Not the empty tables: Postgres would remember them as empty, and plan to read them whole when they have grown.
	tables := "record, head, history, bucket, bucket_name, ledger_source, person, team"
	for _, w := range worlds {
		if w.Floor {
			tables += ", bench_floor.visit"
		}
	}
	_, err = conn.Exec(ctx, "VACUUM (ANALYZE) "+tables)
	if closeErr := conn.Close(ctx); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(s.log, "loaded in %.1f s\n", time.Since(begin).Seconds())
	return s.exec(ctx, "ALTER DATABASE "+name+" IS_TEMPLATE true")
}

// fill migrates, makes the organisations through the product's own doors, and loads the records.
func fill(ctx context.Context, u string, worlds []*World) error {
	pool, err := pg.Open(ctx, u, pg.Options{AppName: "satchel-lab load", OnConnect: syncengine.CheckLine})
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
	a, err := NewApp(ctx, pool, blobs)
	if err != nil {
		return err
	}
	for _, w := range worlds {
		org, err := makeOrg(ctx, pool, a, w)
		if err != nil {
			return err
		}
		if err := load(ctx, pool, a.Engine, org, w, Present); err != nil {
			return err
		}
	}
	return nil
}

// NewApp wires the product as it is served, but for cheap sign-ins without a limit.
func NewApp(ctx context.Context, pool *pgxpool.Pool, blobs string) (*app.App, error) {
	return app.New(ctx, app.Config{
		Pool: pool, BlobURL: (&url.URL{Scheme: "file", Path: blobs}).String(), Secret: secret,
		Identity: app.Identity{Hashing: identity.Argon2{MemoryKiB: 64, Passes: 1, Lanes: 1}, AddressPerSecond: -1},
	})
}

// makeOrg creates the organisation and its people, and works the jobs that mirror them into records, or drops them.
func makeOrg(ctx context.Context, pool *pgxpool.Pool, a *app.App, w *World) (org satchel.ID, err error) {
	if org, err = a.Identity.CreateOrg(ctx, identity.NewOrg{Slug: w.Slug, Name: w.Slug, TimeZone: timeZone}); err != nil {
		return org, err
	}
	teams, people := w.people()
	if err := pg.InTx(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
		if err := a.Identity.ImportTeams(ctx, tx, org, teams); err != nil {
			return err
		}
		return a.Identity.ImportPeople(ctx, tx, org, Password, people)
	}); err != nil {
		return org, err
	}
	if w.Unmirrored {
		_, err = pool.Exec(ctx, sqlForgetMirror, syncengine.JobDirectory)
		return org, err
	}
	for { // Step works only so many at once
		n, err := a.Jobs.Step(ctx)
		if err != nil || n == 0 {
			return org, err
		}
	}
}

func (s *Server) exec(ctx context.Context, statements ...string) error {
	for _, sql := range statements {
		if _, err := s.admin.Exec(ctx, sql); err != nil {
			return fmt.Errorf("bench: %s: %w", sql, err)
		}
	}
	return nil
}

func (s *Server) dropDatabase(ctx context.Context, name string) error {
	return s.exec(ctx, "ALTER DATABASE "+name+" IS_TEMPLATE false", "DROP DATABASE "+name+" WITH (FORCE)")
}

// Close drops the copies, and what is not to be kept.
func (s *Server) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	for _, name := range s.drop {
		_ = s.dropDatabase(ctx, name) // the next run drops it otherwise
	}
	_ = s.admin.Close(ctx)
}

func withDatabase(address, name string) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", errors.New("bench: the database URL does not parse")
	}
	u.Path = "/" + name
	return u.String(), nil
}
