package pg_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestAnIDIsAUUIDInBothDirections(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	id, other := satchel.NewID(), satchel.NewID()
	var one, none satchel.ID
	var many []satchel.ID
	var ptr *satchel.ID
	var text string
	err := pool.QueryRow(t.Context(), "select $1::uuid, null::uuid, $2::uuid[], $3::uuid, $1::uuid::text",
		id, []satchel.ID{id, other}, (*satchel.ID)(nil)).Scan(&one, &none, &many, &ptr, &text)
	if err != nil {
		t.Fatal(err)
	}
	if one != id || !none.IsZero() || len(many) != 2 || many[0] != id || many[1] != other || ptr != nil || text != id.String() {
		t.Errorf("got %v %v %v %v %s", one, none, many, ptr, text)
	}
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeCacheDescribe} {
		var found satchel.ID
		var nulls []*satchel.ID
		err := pool.QueryRow(t.Context(), "select u, array[u, null] from unnest($1::uuid[]) u where u = $2::uuid",
			mode, []satchel.ID{other, id}, id).Scan(&found, &nulls)
		if err != nil || found != id || len(nulls) != 2 || *nulls[0] != id || nulls[1] != nil {
			t.Errorf("mode %v: %v %v %v", mode, found, nulls, err)
		}
	}
}

func TestTheZeroIDIsTheUUIDOfZerosAndNullOnlyWhenAsked(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	var zero string
	var null, nullToo bool
	var empty []satchel.ID
	err := pool.QueryRow(t.Context(), "select $1::uuid::text, $2::uuid is null, $3::uuid is null, $4::uuid[]",
		satchel.ID{}, pg.NullID(satchel.ID{}), pg.NullID(satchel.NewID()), []satchel.ID{}).Scan(&zero, &null, &nullToo, &empty)
	if err != nil || zero != "00000000-0000-0000-0000-000000000000" || !null || nullToo || empty == nil || len(empty) != 0 {
		t.Errorf("got %s %v %v %v %v", zero, null, nullToo, empty, err)
	}
}

func TestEveryConnectionHasItsLimits(t *testing.T) {
	t.Parallel()
	const show = `select current_setting('lock_timeout') || ' ' || current_setting('statement_timeout') || ' ' ||
		current_setting('idle_in_transaction_session_timeout')`
	url := pgtest.URL(t)
	for _, bouncer := range []bool{false, true} {
		pool, err := pg.Open(t.Context(), url, pg.Options{AppName: "limits", PgBouncer: bouncer})
		if err != nil {
			t.Fatal(err)
		}
		for _, begin := range []func(pgx.Tx) (string, error){
			func(tx pgx.Tx) (got string, err error) { // BEGIN with a query
				err = tx.QueryRow(t.Context(), show+" where $1::int = 1", 1).Scan(&got)
				return
			},
			func(tx pgx.Tx) (got string, err error) { // BEGIN in the simple protocol
				if _, err = tx.Exec(t.Context(), "select 1; select 2"); err == nil {
					err = tx.QueryRow(t.Context(), show).Scan(&got)
				}
				return
			},
		} {
			err := pg.InTx(t.Context(), pool, func(_ context.Context, tx pgx.Tx) error {
				got, err := begin(tx)
				if got != "2s 10s 5s" {
					t.Errorf("behind PgBouncer %v: the limits are %q", bouncer, got)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		}
		var name string
		if err := pool.QueryRow(t.Context(), "show application_name").Scan(&name); err != nil || name != "limits" {
			t.Errorf("application_name is %q, %v", name, err)
		}
		var named int
		if err := pool.QueryRow(t.Context(), "select count(*) from pg_prepared_statements").Scan(&named); err != nil || (named > 0) == bouncer {
			t.Errorf("behind PgBouncer %v: %d statements are prepared by name, %v", bouncer, named, err)
		}
		pool.Close()
	}
}

// counted is a pool of one connection that counts its writes to the network.
func counted(t *testing.T, o pg.Options) (*pgxpool.Pool, *atomic.Int64) {
	t.Helper()
	var writes atomic.Int64
	o.MaxConns = 1
	o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, network, address)
		return countingConn{c, &writes}, err
	}
	cfg, err := pg.Config(pgtest.URL(t), o)
	if err != nil {
		t.Fatal(err)
	}
	cfg.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if _, err := pool.Exec(t.Context(), "create table t (n int primary key)"); err != nil {
		t.Fatal(err)
	}
	return pool, &writes
}

type countingConn struct {
	net.Conn
	writes *atomic.Int64
}

func (c countingConn) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

func TestBeginTravelsWithTheFirstStatementsAndCommitWithTheLast(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]pg.Options{"directly": {}, "through PgBouncer": {PgBouncer: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, writes := counted(t, o)
			insert := func(n int) {
				tx, err := pg.Begin(t.Context(), pool, pg.ReadCommitted)
				if err != nil {
					t.Fatal(err)
				}
				defer tx.Rollback(t.Context())
				before := writes.Load()
				first := &pgx.Batch{}
				for i := range 3 {
					first.Queue("insert into t values ($1)", n+i)
				}
				if err := tx.SendBatch(t.Context(), first).Close(); err != nil {
					t.Fatal(err)
				}
				beginning := writes.Load() - before
				last := &pgx.Batch{}
				count := -1
				last.Queue("insert into t values ($1)", n+3)
				last.Queue("select count(*) from t where n >= $1", n).QueryRow(func(row pgx.Row) error { return row.Scan(&count) })
				if err := tx.SendBatchCommit(t.Context(), last).Close(); err != nil {
					t.Fatal(err)
				}
				ending := writes.Load() - before - beginning
				if count != 4 || !tx.Committed() {
					t.Errorf("saw %d rows, committed %v", count, tx.Committed())
				}
				// The first time, statements are still unknown to the connection and are described first.
				if n > 0 && (beginning != 1 || ending != 1) {
					t.Errorf("begin and 3 statements took %d writes, 2 statements and commit took %d", beginning, ending)
				}
			}
			insert(0)
			insert(10)
			insert(20)

			one := func() int64 {
				tx, err := pg.Begin(t.Context(), pool, "")
				if err != nil {
					t.Fatal(err)
				}
				defer tx.Rollback(t.Context())
				before := writes.Load()
				var n int
				if err := tx.QueryRow(t.Context(), "select count(*) from t where n > $1", -1).Scan(&n); err != nil || n != 12 {
					t.Errorf("t has %d rows, %v", n, err)
				}
				return writes.Load() - before
			}
			one()
			if w := one(); w != 1 {
				t.Errorf("begin and one query took %d writes", w)
			}
			before := writes.Load()
			tx, err := pg.Begin(t.Context(), pool, "")
			if err != nil {
				t.Fatal(err)
			}
			if err := tx.Commit(t.Context()); err != nil || writes.Load() != before {
				t.Errorf("an empty transaction took %d writes, %v", writes.Load()-before, err)
			}
		})
	}
}

func TestAFailedStatementBeforeCommitCommitsNothingAndSurfaces(t *testing.T) {
	t.Parallel()
	pool, _ := counted(t, pg.Options{})
	for _, warm := range []bool{false, true} {
		tx, err := pg.Begin(t.Context(), pool, pg.ReadCommitted)
		if err != nil {
			t.Fatal(err)
		}
		b := &pgx.Batch{}
		b.Queue("insert into t values ($1)", 1)
		b.Queue("insert into t values ($1)", 1)
		b.Queue("insert into t values ($1)", 2)
		err = tx.SendBatchCommit(t.Context(), b).Close()
		if pg.Classify(err) != pg.BadData || tx.Committed() {
			t.Errorf("warm %v: %v, committed %v", warm, err, tx.Committed())
		}
		if _, err := tx.Exec(t.Context(), "select 1"); err == nil {
			t.Error("a failed transaction takes further statements")
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Errorf("rollback: %v", err)
		}
		if err := tx.Rollback(t.Context()); !errors.Is(err, pgx.ErrTxClosed) {
			t.Errorf("the second rollback: %v", err)
		}
		var n int // on the same connection, for the pool has one
		if err := pool.QueryRow(t.Context(), "select count(*) from t").Scan(&n); err != nil || n != 0 {
			t.Errorf("t has %d rows, %v", n, err)
		}
	}
}

func TestAFirstStatementThatDoesNotParseLeavesNothingRunningOutsideATransaction(t *testing.T) {
	t.Parallel()
	pool, _ := counted(t, pg.Options{})
	for _, first := range []func(*pg.Tx) error{
		func(tx *pg.Tx) error { _, err := tx.Exec(t.Context(), "selec"); return err },
		func(tx *pg.Tx) error { _, err := tx.Exec(t.Context(), "selec $1", 1); return err },
		func(tx *pg.Tx) error { return tx.QueryRow(t.Context(), "select from nowhere").Scan() },
	} {
		tx, err := pg.Begin(t.Context(), pool, "")
		if err != nil {
			t.Fatal(err)
		}
		if first(tx) == nil {
			t.Error("nonsense is accepted")
		}
		if _, err := tx.Exec(t.Context(), "insert into t values (1)"); err == nil {
			t.Error("a statement runs although the transaction never began")
		}
		b := &pgx.Batch{}
		b.Queue("insert into t values ($1)", 1)
		if err := tx.SendBatchCommit(t.Context(), b).Close(); err == nil {
			t.Error("a batch runs although the transaction never began")
		}
		if err := tx.Commit(t.Context()); err == nil || tx.Committed() {
			t.Error("what never began is committed")
		}
		var n int
		if err := pool.QueryRow(t.Context(), "select count(*) from t").Scan(&n); err != nil || n != 0 {
			t.Errorf("t has %d rows, %v", n, err)
		}
	}
}

func TestACallbackThatFailsAfterCommitSaysThatItIsCommitted(t *testing.T) {
	t.Parallel()
	pool, _ := counted(t, pg.Options{})
	mine := errors.New("mine")
	calls := 0
	err := pg.InTx(t.Context(), pool, func(ctx context.Context, tx pgx.Tx) error {
		calls++
		b := &pgx.Batch{}
		b.Queue("insert into t values ($1)", 1).Exec(func(pgconn.CommandTag) error { return mine })
		b.Queue("insert into t values ($1)", 2)
		return tx.(*pg.Tx).SendBatchCommit(ctx, b).Close()
	})
	if !errors.Is(err, pg.ErrCommitted) || !errors.Is(err, mine) || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
	var n int
	if err := pool.QueryRow(t.Context(), "select count(*) from t").Scan(&n); err != nil || n != 2 {
		t.Errorf("t has %d rows, %v", n, err)
	}
}

func TestCommittingAFailedTransactionIsNoSuccess(t *testing.T) {
	t.Parallel()
	pool, _ := counted(t, pg.Options{})
	tx, err := pg.Begin(t.Context(), pool, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "select 1/0"); err == nil {
		t.Fatal("1/0 is fine")
	}
	if err := tx.Commit(t.Context()); !errors.Is(err, pg.ErrUnknownCommit) || tx.Committed() {
		t.Errorf("commit: %v", err)
	}
}

func TestSavepointsUndoTheirPartOnly(t *testing.T) {
	t.Parallel()
	pool, _ := counted(t, pg.Options{})
	err := pg.InTx(t.Context(), pool, func(ctx context.Context, tx pgx.Tx) error {
		for n, keep := range []bool{true, false, true} {
			sp, err := tx.Begin(ctx)
			if err != nil {
				return err
			}
			if _, err := sp.Exec(ctx, "insert into t values ($1)", n); err != nil {
				return err
			}
			if keep {
				err = sp.Commit(ctx)
			} else {
				_, _ = sp.Exec(ctx, "select 1/0")
				err = sp.Rollback(ctx)
			}
			if err != nil {
				return err
			}
		}
		_, err := tx.CopyFrom(ctx, pgx.Identifier{"t"}, []string{"n"}, pgx.CopyFromRows([][]any{{7}, {8}}))
		return err
	})
	var sum int
	if err2 := pool.QueryRow(t.Context(), "select sum(n) from t").Scan(&sum); err != nil || err2 != nil || sum != 17 {
		t.Errorf("sum %d, %v, %v", sum, err, err2)
	}
}
