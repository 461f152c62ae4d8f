package pg_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/internal/pgtest"
	"github.com/satchel-sync/satchel/migrations"
)

// Two connections to Postgres serve many clients here, so that whatever a client left behind would meet another one.
func TestThroughPgBouncerNothingOfOneClientMeetsAnother(t *testing.T) {
	t.Parallel()
	address := pgtest.Bouncer(t, pgtest.URL(t), 2)
	const limits = `select current_setting('lock_timeout') || ' ' || current_setting('statement_timeout') || ' ' ||
		current_setting('idle_in_transaction_session_timeout') || ' ' || $1::text`
	setup, err := pg.Open(t.Context(), address, pg.Options{PgBouncer: true})
	if err != nil {
		t.Fatal(err)
	}
	defer setup.Close()
	if _, err := setup.Exec(t.Context(), "create table t (id uuid primary key, n int)"); err != nil {
		t.Fatal(err)
	}
	const clients, rounds = 6, 40
	var g errgroup.Group
	for client := range clients {
		pool, err := pg.Open(t.Context(), address, pg.Options{PgBouncer: true, MaxConns: 2})
		if err != nil {
			t.Fatal(err)
		}
		defer pool.Close()
		g.Go(func() error {
			ctx := t.Context()
			for round := range rounds {
				id := satchel.NewID()
				// What a transaction of the product is made of: BEGIN with the first statement, a batch, COMMIT with the last.
				err := pg.InTx(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
					var got string
					if err := tx.QueryRow(ctx, limits, "x").Scan(&got); err != nil {
						return err
					}
					if got != "2s 10s 5s x" {
						return fmt.Errorf("inside a transaction the limits are %q", got)
					}
					if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock($1)", int64(round)); err != nil {
						return err
					}
					b := &pgx.Batch{}
					b.Queue("insert into t (id, n) values ($1, $2)", id, client)
					b.Queue(fmt.Sprintf("select $1::int + %d", round), client) // a text that no other round has
					own, ok := tx.(*pg.Tx)
					if !ok {
						return errors.New("this is no transaction of ours")
					}
					return own.SendBatchCommit(ctx, b).Close()
				})
				if err != nil {
					return err
				}
				var found satchel.ID
				if err := pg.Snapshot(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
					return tx.QueryRow(ctx, "select id from t where id = any($1)", []satchel.ID{id}).Scan(&found)
				}); err != nil || found != id {
					return fmt.Errorf("found %v, %w", found, err)
				}
				// Outside a transaction: nobody's limits, locks or statements are left on the connection.
				var got string
				if err := pool.QueryRow(ctx, limits, "x").Scan(&got); err != nil || got != "0 0 0 x" {
					return fmt.Errorf("outside a transaction the limits are %q, %w", got, err)
				}
				var named int
				if err := pool.QueryRow(ctx, "select count(*) from pg_prepared_statements").Scan(&named); err != nil || named != 0 {
					return fmt.Errorf("%d statements are prepared by name, %w", named, err)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	var rows, locks int
	if err := setup.QueryRow(t.Context(), `select (select count(*) from t), (select count(*) from pg_locks
		where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database()))`).Scan(&rows, &locks); err != nil {
		t.Fatal(err)
	}
	if rows != clients*rounds || locks != 0 {
		t.Errorf("there are %d rows of %d, and %d locks", rows, clients*rounds, locks)
	}
}

// A transaction that was left in the middle, or whose client is gone, gives the connection back clean.
func TestThroughPgBouncerATransactionThatIsLeftIsUndone(t *testing.T) {
	t.Parallel()
	address := pgtest.Bouncer(t, pgtest.URL(t), 1)
	pool, err := pg.Open(t.Context(), address, pg.Options{PgBouncer: true})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.Exec(t.Context(), "create table t (n int)"); err != nil {
		t.Fatal(err)
	}
	for name, leave := range map[string]func(*pg.Tx) error{
		"by a roll-back": func(tx *pg.Tx) error { return tx.Rollback(t.Context()) },
		"by a cut":       func(tx *pg.Tx) error { return tx.Conn().PgConn().Conn().Close() },
		"by a fault": func(tx *pg.Tx) error {
			if _, err := tx.Exec(t.Context(), "select 1/$1::int", 0); pg.Classify(err) != pg.BadData {
				return err
			}
			return tx.Rollback(t.Context())
		},
	} {
		tx, err := pg.Begin(t.Context(), pool, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), "insert into t values ($1)", 1); err != nil {
			t.Fatal(err)
		}
		if err := leave(tx); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		_ = tx.Rollback(t.Context()) // after a cut it gives the connection back
		var n int
		if err := pool.QueryRow(t.Context(), "select count(*) from t").Scan(&n); err != nil || n != 0 {
			t.Errorf("%s: %d rows, %v", name, n, err)
		}
	}
}

func TestAPoolerThatIsNotSpokenOfIsNamed(t *testing.T) {
	t.Parallel()
	direct := pgtest.URL(t)
	for name, more := range map[string]string{
		"as it is installed":     "",
		"that swallows settings": "ignore_startup_parameters = lock_timeout, statement_timeout, idle_in_transaction_session_timeout, tcp_keepalives_idle, tcp_keepalives_interval, tcp_keepalives_count",
	} {
		pool, err := pg.Open(t.Context(), pgtest.Bouncer(t, direct, 2, more), pg.Options{})
		if err == nil {
			pool.Close()
		}
		if !errors.Is(err, pg.ErrPooled) {
			t.Errorf("a PgBouncer %s: %v", name, err)
		}
	}
}

// Migrations keep a lock by their session, so they go around PgBouncer; both ways lead to one database.
func TestMigrationsGoAroundPgBouncer(t *testing.T) {
	t.Parallel()
	direct := pgtest.Empty(t)
	sessions, err := pg.Open(t.Context(), direct, pg.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer sessions.Close()
	pooled, err := pg.Open(t.Context(), pgtest.Bouncer(t, direct, 2), pg.Options{PgBouncer: true})
	if err != nil {
		t.Fatal(err)
	}
	defer pooled.Close()
	if pending, err := migrations.Pending(t.Context(), pooled); err != nil || len(pending) == 0 {
		t.Fatalf("before: %v, %v", pending, err)
	}
	if err := migrations.Up(t.Context(), sessions); err != nil {
		t.Fatal(err)
	}
	if pending, err := migrations.Pending(t.Context(), pooled); err != nil || len(pending) != 0 {
		t.Errorf("afterwards: %v, %v", pending, err)
	}
}
