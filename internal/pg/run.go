package pg

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// tries is how often a transaction is begun before its caller hears BUSY.
const tries = 4

// InTx runs fn in a READ COMMITTED transaction and commits when fn gives nil. When the transaction loses against
// another one ([Retry]) it is undone and fn runs again, four times at most with short random waits, so fn must not
// keep results of an earlier run. fn may end the transaction itself with tx.(*Tx).SendBatchCommit. The error is
// already what [ToError] makes of it; its cause stays inside.
func InTx(ctx context.Context, pool *pgxpool.Pool, fn func(ctx context.Context, tx pgx.Tx) error) error {
	return run(ctx, pool, ReadCommitted, fn)
}

// Snapshot is InTx for reading: all statements of fn see one moment of the database, and none may write.
func Snapshot(ctx context.Context, pool *pgxpool.Pool, fn func(ctx context.Context, tx pgx.Tx) error) error {
	return run(ctx, pool, OneSnapshot, fn)
}

func run(ctx context.Context, pool *pgxpool.Pool, begin BeginSQL, fn func(ctx context.Context, tx pgx.Tx) error) error {
	for try := 1; ; try++ {
		err := once(ctx, pool, begin, fn)
		if err == nil || try == tries || Classify(err) != Retry {
			return ToError(err)
		}
		wait := time.NewTimer(rand.N(10 * time.Millisecond << (2 * try))) // up to 40, 160, 640 ms
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return ToError(err)
		}
	}
}

func once(ctx context.Context, pool *pgxpool.Pool, begin BeginSQL, fn func(ctx context.Context, tx pgx.Tx) error) (err error) {
	tx, err := Begin(ctx, pool, begin)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }() // after a commit it is ErrTxClosed; otherwise err tells more
	if err := fn(ctx, tx); err != nil {
		if tx.Committed() && !errors.Is(err, ErrCommitted) {
			return errors.Join(ErrCommitted, err)
		}
		return err
	}
	if tx.done {
		if !tx.committed && !tx.rolledBack {
			return ErrUnknownCommit // fn ended it and kept the reason to itself
		}
		return nil
	}
	return tx.Commit(ctx)
}
