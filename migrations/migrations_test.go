package migrations_test

import (
	"context"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/internal/pgtest"
	"github.com/satchel-sync/satchel/migrations"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestReplicasThatStartAtOnceMigrateTogetherAndOnce(t *testing.T) {
	t.Parallel()
	url := pgtest.Empty(t)
	var g errgroup.Group
	for range 3 {
		g.Go(func() error {
			pool, err := pg.Open(context.Background(), url, pg.Options{MaxConns: 2})
			if err != nil {
				return err
			}
			defer pool.Close()
			return migrations.Up(context.Background(), pool)
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestPendingListsWhatUpWillDoAndThenNothing(t *testing.T) {
	t.Parallel()
	pool, err := pg.Open(t.Context(), pgtest.Empty(t), pg.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	before, err := migrations.Pending(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := migrations.Version(t.Context(), pool); err != nil || v != 0 {
		t.Errorf("an empty database has version %d, %v", v, err)
	}
	if n := len(before); n < 2 || before[n-1] != "river" {
		t.Errorf("an empty database lacks %v", before)
	}
	for range 2 { // the second time it does nothing
		if err := migrations.Up(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
	}
	after, err := migrations.Pending(t.Context(), pool)
	if err != nil || len(after) != 0 {
		t.Errorf("after Up still pending: %v, %v", after, err)
	}
	if v, err := migrations.Version(t.Context(), pool); err != nil || int(v) < len(before)-1 {
		t.Errorf("after Up the version is %d, %v", v, err)
	}
}

func TestUpLeavesThePoolsOwnLimitsAlone(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	var limit string
	if err := pool.QueryRow(t.Context(), "show statement_timeout").Scan(&limit); err != nil || limit != "10s" {
		t.Errorf("the server's own limit is %s, %v", limit, err)
	}
	if err := migrations.Up(t.Context(), pool); err != nil {
		t.Error(err)
	}
	if err := pool.QueryRow(t.Context(), "show statement_timeout").Scan(&limit); err != nil || limit != "10s" {
		t.Errorf("after Up the pool's limit is %s, %v", limit, err)
	}
}
