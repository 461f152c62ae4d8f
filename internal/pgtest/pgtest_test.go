package pgtest_test

import (
	"testing"

	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/internal/pgtest"
	"github.com/satchel-sync/satchel/migrations"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestEachTestHasAMigratedDatabaseOfItsOwn(t *testing.T) {
	t.Parallel()
	a, b := pgtest.New(t), pgtest.New(t)
	if pending, err := migrations.Pending(t.Context(), a); err != nil || len(pending) > 0 {
		t.Errorf("pending: %v, %v", pending, err)
	}
	if _, err := a.Exec(t.Context(), "create table only_here ()"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Exec(t.Context(), "select from only_here"); err == nil {
		t.Error("a table of one test is seen by another")
	}
}

func TestTheDatabaseGoesWithItsTest(t *testing.T) {
	t.Parallel()
	var url string
	t.Run("inner", func(t *testing.T) {
		url = pgtest.URL(t)
		pool, err := pg.Open(t.Context(), url, pg.Options{})
		if err != nil {
			t.Fatal(err)
		}
		pool.Close()
	})
	if pool, err := pg.Open(t.Context(), url, pg.Options{}); err == nil {
		pool.Close()
		t.Error("the database outlives its test")
	}
}

func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		pgtest.Empty(b) // the first starts the server
		b.StartTimer()
		pgtest.URL(b)
	}
}
