package pg_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/puddle/v2"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/devpg"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/internal/pgtest"
)

func TestEverySQLStateHasItsClass(t *testing.T) {
	t.Parallel()
	state := func(code string) error { return fmt.Errorf("deep: %w", &pgconn.PgError{Code: code}) }
	for _, c := range []struct {
		err  error
		want pg.Class
	}{
		{nil, pg.Other},
		{errors.New("ours"), pg.Other},
		{pgx.ErrNoRows, pg.Other},
		{state("40001"), pg.Retry}, {state("40P01"), pg.Retry}, {state("55P03"), pg.Retry},
		{state("40003"), pg.Unavailable},
		{state("22P02"), pg.BadData}, {state("23505"), pg.BadData}, {state("54000"), pg.BadData},
		{state("57014"), pg.Timeout},
		{state("57P01"), pg.Unavailable}, {state("57P03"), pg.Unavailable}, {state("08006"), pg.Unavailable},
		{state("25006"), pg.Unavailable}, {state("25P03"), pg.Unavailable}, {state("53300"), pg.Unavailable},
		{state("58030"), pg.Unavailable}, {state("XX000"), pg.Unavailable},
		{state("42601"), pg.Other}, {state("42P01"), pg.Other}, {state("0A000"), pg.Other}, {state(""), pg.Other},
		{&pgconn.PgError{Code: "0A000", Routine: "RevalidateCachedQuery"}, pg.Retry},
		{fmt.Errorf("%w: %w", pg.ErrUnknownCommit, context.Canceled), pg.Unavailable},
		{fmt.Errorf("%w: %w", pg.ErrCommitted, state("40001")), pg.Other},
		{fmt.Errorf("x: %w", context.Canceled), pg.Canceled}, {context.DeadlineExceeded, pg.Canceled},
		{fmt.Errorf("x: %w", io.ErrUnexpectedEOF), pg.Unavailable}, {io.EOF, pg.Unavailable},
		{&net.OpError{Op: "read", Err: errors.New("reset")}, pg.Unavailable},
		{puddle.ErrClosedPool, pg.Unavailable}, {pgx.ErrTxCommitRollback, pg.Unavailable},
	} {
		if got := pg.Classify(c.err); got != c.want {
			t.Errorf("%v is %v, not %v", c.err, got, c.want)
		}
		var kind satchel.Kind
		var reason satchel.Reason
		switch c.want {
		case pg.Unavailable:
			kind, reason = satchel.Unavailable, satchel.ReasonDatabaseDown
		case pg.Retry:
			kind, reason = satchel.Contention, satchel.ReasonBusy
		}
		if got := pg.ToError(c.err); satchel.KindOf(got) != kind || satchel.ReasonOf(got) != reason || pg.Classify(got) != c.want {
			t.Errorf("%v becomes %v", c.err, got)
		}
	}
	own := fmt.Errorf("x: %w", satchel.E(satchel.NotFound, satchel.ReasonNotFound, "gone"))
	if pg.ToError(own) != own { //nolint:errorlint // the very same error, not one like it
		t.Error("an error of ours is changed")
	}
}

func TestALostRaceIsRunAgainAndAnEndlessOneIsBusy(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	calls := 0
	lose := func(times int) error {
		calls = 0
		return pg.InTx(t.Context(), pool, func(ctx context.Context, tx pgx.Tx) error {
			if calls++; calls <= times {
				_, err := tx.Exec(ctx, "do $$ begin raise exception 'lost' using errcode = '40001'; end $$")
				return err
			}
			return nil
		})
	}
	if err := lose(2); err != nil || calls != 3 {
		t.Errorf("after two losses: %v, %d calls", err, calls)
	}
	if err := lose(100); satchel.ReasonOf(err) != satchel.ReasonBusy || calls != 4 {
		t.Errorf("after endless losses: %v, %d calls", err, calls)
	}
	calls = 0
	err := pg.InTx(t.Context(), pool, func(ctx context.Context, tx pgx.Tx) error {
		calls++
		_, err := tx.Exec(ctx, "select 1/0")
		return err
	})
	if pg.Classify(err) != pg.BadData || calls != 1 {
		t.Errorf("bad data: %v, %d calls", err, calls)
	}
}

func TestASnapshotSeesOneMomentAndWritesNothing(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	if _, err := pool.Exec(t.Context(), "create table t (n int)"); err != nil {
		t.Fatal(err)
	}
	err := pg.Snapshot(t.Context(), pool, func(ctx context.Context, tx pgx.Tx) error {
		var before, after int
		if err := tx.QueryRow(ctx, "select count(*) from t").Scan(&before); err != nil {
			return err
		}
		if _, err := pool.Exec(ctx, "insert into t values (1)"); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, "select count(*) from t").Scan(&after); err != nil || before != 0 || after != 0 {
			t.Errorf("saw %d, then %d; %v", before, after, err)
		}
		_, err := tx.Exec(ctx, "insert into t values (2)")
		return err
	})
	if pe, ok := errors.AsType[*pgconn.PgError](err); !ok || pe.Code != "25006" {
		t.Errorf("writing in a snapshot: %v", err)
	}
}

func TestATransactionLeftWithOpenRowsIsNotGivenToTheNextOne(t *testing.T) {
	t.Parallel()
	pool, _ := counted(t, pg.Options{})
	tx, err := pg.Begin(t.Context(), pool, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "insert into t values (1)"); err != nil {
		t.Fatal(err)
	}
	rows, err := tx.Query(t.Context(), "select generate_series(1, $1::int)", 100000)
	if err != nil || !rows.Next() {
		t.Fatal(err)
	}
	_ = tx.Rollback(t.Context())
	var n int
	if err := pool.QueryRow(t.Context(), "select count(*) from t").Scan(&n); err != nil || n != 0 {
		t.Errorf("t has %d rows, %v", n, err)
	}
}

func TestACancelledCallerStillRollsBack(t *testing.T) {
	t.Parallel()
	pool, _ := counted(t, pg.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	err := pg.InTx(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "insert into t values (1)"); err != nil {
			return err
		}
		cancel()
		return nil
	})
	if pg.Classify(err) != pg.Canceled {
		t.Errorf("commit with a cancelled context: %v", err)
	}
	var n int
	if err := pool.QueryRow(t.Context(), "select count(*) from t").Scan(&n); err != nil || n != 0 {
		t.Errorf("t has %d rows, %v", n, err)
	}
}

func TestOnlyWhatMayPassInAMomentIsAway(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		url  string
		want bool
	}{
		{"postgres://u:p@127.0.0.1:1/db", true}, // nothing listens
		{"postgres://u:p@/db?host=/nowhere/at/all", true},
		{"postgres://u:p@no-such-host.invalid/db", false},
		{"postgres://nobody:wrong@" + strings.SplitN(pgtest.URL(t), "@", 2)[1], false},
	} {
		pool, err := pg.Open(t.Context(), c.url, pg.Options{})
		if err == nil {
			pool.Close()
		}
		if pg.Away(err) != c.want || err == nil {
			t.Errorf("%v is away: %v", err, !c.want)
		}
	}
	for code, want := range map[string]bool{"57P03": true, "57P01": true, "53300": true, "08006": true, "08P01": false, "25006": false, "3D000": false, "42P01": false} {
		if got := pg.Away(fmt.Errorf("deep: %w", &pgconn.PgError{Code: code})); got != want {
			t.Errorf("%s is away: %v", code, got)
		}
	}
	if pg.Away(nil) || pg.Away(context.Canceled) {
		t.Error("nothing is away")
	}
}

func TestADatabaseThatIsGoneIsUnavailableAndComesBack(t *testing.T) {
	t.Parallel()
	s := own(t)
	pool, err := pg.Open(t.Context(), s.URL(), pg.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	work := func() error {
		return pg.InTx(t.Context(), pool, func(ctx context.Context, tx pgx.Tx) error {
			var n int
			return tx.QueryRow(ctx, "select $1::int", 1).Scan(&n)
		})
	}
	if err := work(); err != nil {
		t.Fatal(err)
	}
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := work(); satchel.ReasonOf(err) != satchel.ReasonDatabaseDown {
			t.Errorf("while it is gone: %v", err)
		}
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	pool.Reset()
	if err := work(); err != nil {
		t.Errorf("after it came back: %v", err)
	}
	pool.Close()
	if err := work(); pg.Classify(err) != pg.Unavailable {
		t.Errorf("on a closed pool: %v", err)
	}
}

func own(t *testing.T) *devpg.Server {
	t.Helper()
	s, err := devpg.StartEphemeral(t.Context(), map[string]string{"wal_level": "replica", "max_wal_senders": "2", "synchronous_commit": "on"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop(context.Background()) })
	return s
}

// A commit that waits for a standby which never answers, and whose wait somebody cuts short (S1).
func TestACommitWhoseStandbyDidNotConfirmIsUnknown(t *testing.T) {
	t.Parallel()
	s := own(t)
	pool, err := pg.Open(t.Context(), s.URL(), pg.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	for _, sql := range []string{"create table t (n int)", "alter system set synchronous_standby_names = 'nobody'", "select pg_reload_conf()"} {
		if _, err := pool.Exec(t.Context(), "set synchronous_commit = local; "+sql); err != nil {
			if _, err = pool.Exec(t.Context(), sql); err != nil { // ALTER SYSTEM stands alone
				t.Fatal(err)
			}
		}
	}
	side, err := pgx.Connect(t.Context(), s.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer side.Close(t.Context())
	if err := s.CommitsWait(t.Context()); err != nil {
		t.Fatal(err)
	}

	for name, commit := range map[string]func(context.Context, *pg.Tx) error{
		"alone": func(ctx context.Context, tx *pg.Tx) error {
			if _, err := tx.Exec(ctx, "set local synchronous_commit = on; insert into t values (1)"); err != nil {
				return err
			}
			return tx.Commit(ctx)
		},
		"with a batch": func(ctx context.Context, tx *pg.Tx) error {
			b := &pgx.Batch{}
			b.Queue("set local synchronous_commit = on")
			b.Queue("insert into t values ($1)", 1)
			return tx.SendBatchCommit(ctx, b).Close()
		},
	} {
		for how, cut := range map[string]string{"cancelled": "pg_cancel_backend", "terminated": "pg_terminate_backend"} {
			var before, after int
			count := func(n *int) {
				if err := side.QueryRow(t.Context(), "select count(*) from t").Scan(n); err != nil {
					t.Fatal(err)
				}
			}
			count(&before)
			done := make(chan error, 1)
			go func() {
				tx, err := pg.Begin(t.Context(), pool, "")
				if err == nil {
					defer tx.Rollback(t.Context())
					err = commit(t.Context(), tx)
				}
				done <- err
			}()
			deadline := time.After(20 * time.Second)
			tick := time.NewTicker(10 * time.Millisecond)
			var got error
		wait:
			for {
				select {
				case got = <-done:
					break wait
				case <-tick.C:
					_, err := side.Exec(t.Context(), "select "+cut+"(pid) from pg_stat_activity where wait_event = 'SyncRep'")
					if err != nil {
						t.Fatal(err)
					}
				case <-deadline:
					t.Fatal("the commit still waits")
				}
			}
			tick.Stop()
			if !errors.Is(got, pg.ErrUnknownCommit) || satchel.ReasonOf(pg.ToError(got)) != satchel.ReasonDatabaseDown {
				t.Errorf("a commit %s, %s: %v", name, how, got)
			}
			if count(&after); after != before+1 {
				t.Errorf("a commit %s, %s: there are %d rows after %d", name, how, after, before)
			}
		}
	}
}

// The same, and nobody cuts the wait short: no limit of Postgres' own bounds it.
func TestACommitWaitsForAStandbyNoLongerThanItsLimit(t *testing.T) {
	t.Parallel()
	s := own(t)
	hook, hooked := "", make(chan error, 1)
	pool, err := pg.Open(t.Context(), s.URL(), pg.Options{CommitTimeout: 200 * time.Millisecond, OnConnect: func(ctx context.Context, conn *pgx.Conn) error {
		if hook == "" {
			return nil
		}
		_, err := conn.Exec(ctx, hook)
		hooked <- err
		return err
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	for _, sql := range []string{"create table t (n int)", "alter system set synchronous_standby_names = 'nobody'", "select pg_reload_conf()"} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	for { // a reload takes its time: until then commits are confirmed
		err := pg.InTx(context.WithoutCancel(t.Context()), pool, func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "insert into t values (1)")
			return err
		})
		if err == nil {
			continue
		}
		if !errors.Is(err, pg.ErrUnknownCommit) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		break
	}
	tx, err := pg.Begin(t.Context(), pool, "")
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	b := &pgx.Batch{}
	b.Queue("insert into t values ($1)", 2)
	if err := tx.SendBatchCommit(context.WithoutCancel(t.Context()), b).Close(); !errors.Is(err, pg.ErrUnknownCommit) {
		t.Errorf("with a batch: %v", err)
	}
	// What runs on a new connection is bounded too, whatever the caller who waits for it gave.
	pool.Reset()
	hook = "insert into t values (3)"
	began := time.Now()
	if _, err := pool.Exec(context.WithoutCancel(t.Context()), "select"); err == nil || time.Since(began) > 20*time.Second {
		t.Errorf("a hook that waits for ever: %v after %v", err, time.Since(began))
	}
	if err := <-hooked; err == nil {
		t.Error("the hook was confirmed")
	}
}

// The connection breaks after COMMIT was sent and before its answer came.
func TestACommitWhoseAnswerWasLostIsUnknown(t *testing.T) {
	t.Parallel()
	cfg, err := pg.Config(pgtest.URL(t), pg.Options{MaxConns: 1})
	if err != nil {
		t.Fatal(err)
	}
	dial := cfg.ConnConfig.DialFunc
	var last *deafConn
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		last = &deafConn{Conn: c}
		return last, err
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.Exec(t.Context(), "create table t (n int)"); err != nil {
		t.Fatal(err)
	}
	for _, commit := range []func(*pg.Tx) error{
		func(tx *pg.Tx) error { return tx.Commit(t.Context()) },
		func(tx *pg.Tx) error { return tx.SendBatchCommit(t.Context(), &pgx.Batch{}).Close() },
	} {
		tx, err := pg.Begin(t.Context(), pool, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), "insert into t values (1)"); err != nil {
			t.Fatal(err)
		}
		last.deaf = true
		if err := commit(tx); !errors.Is(err, pg.ErrUnknownCommit) {
			t.Errorf("an answer that was lost: %v", err)
		}
		if err := tx.Rollback(t.Context()); !errors.Is(err, pgx.ErrTxClosed) {
			t.Errorf("rollback: %v", err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := pool.Exec(ctx, "select 1"); err != nil {
		t.Errorf("the pool's only connection is still held: %v", err)
	}
}

// deafConn sends and, once deaf, hears nothing but the end.
type deafConn struct {
	net.Conn
	deaf bool
}

func (c *deafConn) Read(b []byte) (int, error) {
	if c.deaf {
		return 0, io.EOF
	}
	return c.Conn.Read(b)
}
