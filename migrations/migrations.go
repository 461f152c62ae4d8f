package migrations

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

//go:embed *.sql
var files embed.FS

// lockKey is the advisory lock that one migrating replica holds: "satchel" in ASCII.
const lockKey int64 = 0x7361746368656c

// trim drops what serves River's own lists by argument, which nobody asks for here, and costs a third of each insert.
const trim = `-- migrations.trim
drop index if exists river_job_args_index, river_job_metadata_index`

// Up applies every migration that is missing: Satchel's, then River's. It waits for another replica that is at it, as
// long as ctx lets it, and does nothing on a database that is up to date. It opens two connections of its own with the
// pool's address, without the pool's statement limit and with a longer lock limit. It needs sessions: behind PgBouncer
// give it a pool that goes to Postgres directly. Each migration is a transaction (unless its file says `+goose NO
// TRANSACTION`), so a failed one leaves the database at the one before.
func Up(ctx context.Context, pool *pgxpool.Pool) error {
	own, err := ownPool(ctx, pool)
	if err != nil {
		return err
	}
	defer own.Close()
	unlock, err := lock(ctx, own)
	if err != nil {
		return err
	}
	defer unlock()

	db := stdlib.OpenDBFromPool(own)
	defer db.Close()
	p, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithSlog(slog.New(slog.DiscardHandler)), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("migrations: the files cannot be read: %w", err)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrations: %w", err)
	}
	river, err := riverMigrator(own)
	if err != nil {
		return err
	}
	if _, err := river.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return fmt.Errorf("migrations: River's tables: %w", err)
	}
	if _, err := own.Exec(ctx, trim); err != nil {
		return fmt.Errorf("migrations: River's tables: %w", err)
	}
	return nil
}

// Version gives the number of the last of Satchel's migrations that the database has; 0 means none.
func Version(ctx context.Context, pool *pgxpool.Pool) (int64, error) {
	const known = `-- migrations.Version known
select to_regclass('goose_db_version') is not null`
	const version = `-- migrations.Version
select coalesce(max(version_id), 0) from goose_db_version where is_applied`
	var exists bool
	if err := pool.QueryRow(ctx, known).Scan(&exists); err != nil || !exists {
		return 0, err
	}
	var v int64
	err := pool.QueryRow(ctx, version).Scan(&v)
	return v, err
}

// Pending lists by name what [Up] would apply, in order. It changes nothing.
func Pending(ctx context.Context, pool *pgxpool.Pool) ([]string, error) {
	have, err := Version(ctx, pool)
	if err != nil {
		return nil, err
	}
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return nil, err
	}
	var pending []string
	for _, name := range names { // Glob sorts
		v, err := goose.NumericComponent(name)
		if err != nil {
			return nil, fmt.Errorf("migrations: %s: %w", name, err)
		}
		if v > have {
			pending = append(pending, name)
		}
	}
	river, err := riverMigrator(pool)
	if err != nil {
		return nil, err
	}
	state, err := river.Validate(ctx, nil)
	if err != nil {
		return nil, err
	}
	if !state.OK {
		pending = append(pending, "river")
	}
	return pending, nil
}

// Fingerprint names the shape that [Up] leads to: it changes whenever a migration, or River's last one, does.
func Fingerprint() (string, error) {
	h := sha256.New()
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return "", err
	}
	for _, name := range names {
		b, err := files.ReadFile(name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %d\n", name, len(b))
		h.Write(b)
	}
	river, err := riverMigrator(nil)
	if err != nil {
		return "", err
	}
	for _, m := range river.AllVersions() {
		_, _ = io.WriteString(h, m.SQLUp) // a hash never fails
	}
	_, _ = io.WriteString(h, trim)
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}

func riverMigrator(pool *pgxpool.Pool) (*rivermigrate.Migrator[pgx.Tx], error) {
	return rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
}

func ownPool(ctx context.Context, pool *pgxpool.Pool) (*pgxpool.Pool, error) {
	cfg := pool.Config()
	cfg.MinConns, cfg.MaxConns = 0, 4
	cfg.ConnConfig.RuntimeParams["statement_timeout"] = "0"
	cfg.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = "0"
	cfg.ConnConfig.RuntimeParams["lock_timeout"] = "30s" // a migration behind a long report gives up rather than block all
	return pgxpool.NewWithConfig(ctx, cfg)
}

// lock waits for its turn. It asks again and again rather than wait inside Postgres: a waiting session holds a snapshot,
// for which CREATE INDEX CONCURRENTLY in the other replica would wait in turn, for ever.
func lock(ctx context.Context, pool *pgxpool.Pool) (unlock func(), err error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("migrations: %w", err)
	}
	const try = `-- migrations.lock
select pg_try_advisory_lock($1)`
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		var mine bool
		if err := conn.QueryRow(ctx, try, lockKey).Scan(&mine); err != nil {
			conn.Release()
			return nil, fmt.Errorf("migrations: %w", err)
		}
		if mine {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			conn.Release()
			return nil, errors.Join(errors.New("migrations: another replica is migrating and did not finish in time"), ctx.Err())
		}
	}
	return func() {
		c := conn.Hijack() // the lock goes with its session
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = c.Close(ctx) // closing ends the session even when it reports an error
	}, nil
}
