package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/satchel-sync/satchel/internal/devpg"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/migrations"
	"github.com/satchel-sync/satchel/syncengine"
)

// databaseFlags say where the database is.
type databaseFlags struct {
	DatabaseURL string `env:"DATABASE_URL" group:"Database" placeholder:"URL" help:"Postgres 15 or newer: postgres://user:password@host/db?sslmode=verify-full. Required, but for --dev."`
	DirectURL   string `name:"direct-database-url" env:"SATCHEL_DIRECT_DATABASE_URL" group:"Database" placeholder:"URL" help:"The same database past PgBouncer, for migrations. Empty = --database-url."`
	PgBouncer   bool   `name:"pgbouncer" env:"SATCHEL_PGBOUNCER" group:"Database" help:"--database-url leads through PgBouncer in transaction mode."`
	DBConns     int32  `name:"db-conns" env:"SATCHEL_DB_CONNS" group:"Database" default:"10" help:"Connections to the database, at most."`
	Dev         bool   `env:"SATCHEL_DEV" group:"Development" help:"A development server: without --database-url it runs a Postgres of its own, known secrets are allowed, and the demo company is loaded."`
	DataDir     string `env:"SATCHEL_DATA_DIR" group:"Development" default:"var" type:"path" help:"With --dev: where the private Postgres and the uploads lie."`
}

// database is an open database, and in development the Postgres that was started for it.
type database struct {
	pool    *pgxpool.Pool
	private *devpg.Server // nil = somebody else's
	direct  string
	pooled  bool // through PgBouncer
}

// open opens the database. Its error says what to do.
func (f *databaseFlags) open(ctx context.Context, log io.Writer) (*database, error) {
	db := &database{direct: f.DirectURL, pooled: f.PgBouncer}
	url := f.DatabaseURL
	if url == "" {
		if !f.Dev {
			return nil, usagef("which database? Give --database-url or DATABASE_URL (postgres://user:password@host/db), or --dev for one of its own")
		}
		var err error
		if db.private, err = devpg.Start(ctx, devpg.Config{Dir: filepath.Join(f.DataDir, "pg"), Log: log}); err != nil {
			return nil, err
		}
		url = db.private.URL()
	}
	if f.DBConns < 2 {
		db.close()
		return nil, usagef("--db-conns: at least 2, got %d", f.DBConns)
	}
	var err error
	db.pool, err = pg.Open(ctx, url, pg.Options{MaxConns: f.DBConns, PgBouncer: f.PgBouncer, OnConnect: syncengine.CheckLine})
	if errors.Is(err, pg.ErrPooled) {
		db.close()
		return nil, usagef("DATABASE_URL leads through PgBouncer or another pooler: say so by --pgbouncer (SATCHEL_PGBOUNCER=true), " +
			"and give migrations a way around it by --direct-database-url (SATCHEL_DIRECT_DATABASE_URL)")
	}
	if err != nil {
		db.close()
		return nil, fmt.Errorf("no way to the database; check DATABASE_URL, and that Postgres runs and takes connections from here: %w", err)
	}
	return db, nil
}

// close gives the connections back and stops a private Postgres, unless another process owns it.
func (db *database) close() {
	if db.pool != nil {
		db.pool.Close()
	}
	if db.private != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_ = db.private.Stop(ctx) // the next start recovers what a hard stop left
	}
}

// sessions gives a pool that keeps its sessions, which migrations need: around PgBouncer, where there is one.
func (db *database) sessions(ctx context.Context) (pool *pgxpool.Pool, done func(), err error) {
	if db.direct == "" {
		if db.pooled {
			return nil, nil, usagef("migrations need sessions, which PgBouncer in transaction mode does not give: set --direct-database-url to Postgres itself")
		}
		return db.pool, func() {}, nil
	}
	pool, err = pg.Open(ctx, db.direct, pg.Options{MaxConns: 2})
	if err != nil {
		return nil, nil, fmt.Errorf("the database does not answer at --direct-database-url: %w", err)
	}
	return pool, pool.Close, nil
}

// migrate applies what is pending, and tells what that was.
func (db *database) migrate(ctx context.Context) ([]string, error) {
	pending, err := migrations.Pending(ctx, db.pool)
	if err != nil || len(pending) == 0 {
		return nil, err
	}
	pool, done, err := db.sessions(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := migrations.Up(ctx, pool); err != nil {
		return nil, fmt.Errorf("a migration failed; the database is as the last good one left it: %w", err)
	}
	return pending, nil
}

// migrateCmd is `satchel migrate`.
type migrateCmd struct {
	databaseFlags `embed:""`
	DryRun        bool `help:"Only list what would be applied."`
}

// Help tells more.
func (*migrateCmd) Help() string {
	return "Migrations go forward only, and the version before keeps working on the new shape: migrate first, then start the new version. " +
		"Any number may run at once; they wait for each other."
}

// Run migrates.
func (c *migrateCmd) Run(ctx context.Context, std streams) error {
	db, err := c.open(ctx, std.err)
	if err != nil {
		return err
	}
	defer db.close()
	if c.DryRun {
		pending, err := migrations.Pending(ctx, db.pool)
		if err != nil {
			return err
		}
		if len(pending) == 0 {
			fmt.Fprintln(std.out, "The database is up to date.")
			return nil
		}
		fmt.Fprintf(std.out, "Pending: %s\n", strings.Join(pending, ", "))
		return nil
	}
	applied, err := db.migrate(ctx)
	if err != nil {
		return err
	}
	if len(applied) == 0 {
		fmt.Fprintln(std.out, "The database is up to date.")
		return nil
	}
	fmt.Fprintf(std.out, "Applied: %s\n", strings.Join(applied, ", "))
	return nil
}
