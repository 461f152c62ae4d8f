package jobs_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/jobs"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/internal/pgtest"
)

// A transaction of one statement and its commit, with ten jobs and without: the price of a job on the hot path.
func BenchmarkEnqueueTen(b *testing.B) {
	pool := pgtest.New(b)
	js, err := jobs.New(pool, jobs.Config{})
	if err != nil {
		b.Fatal(err)
	}
	org := satchel.NewID()
	for name, n := range map[string]int{"none": 0, "ten": 10} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				err := pg.InTx(b.Context(), pool, func(ctx context.Context, tx pgx.Tx) error {
					batch := &pgx.Batch{}
					batch.Queue("select $1::int", 1)
					ten := make([]jobs.Job, n)
					for i := range ten {
						ten[i] = jobs.Job{Kind: "note", Org: org, Args: map[string]any{"record": org, "rev": 7, "i": i}}
					}
					if err := js.Queue(batch, ten...); err != nil {
						return err
					}
					return tx.(*pg.Tx).SendBatchCommit(ctx, batch).Close()
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
