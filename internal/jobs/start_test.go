package jobs_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/devpg"
	"github.com/satchel-sync/satchel/internal/jobs"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/migrations"
)

// lines counts log lines and tells of the first.
type lines struct {
	mu    sync.Mutex
	n     int
	first chan struct{}
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n++; l.n == 1 {
		close(l.first)
	}
	return len(p), nil
}

func TestRunWaitsForADatabaseThatIsAwayAtItsStart(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	db, err := devpg.StartEphemeral(ctx, map[string]string{"synchronous_commit": "on"}) // the job must outlive the halt
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Stop(context.Background()) }()
	pool, err := pg.Open(ctx, db.URL(), pg.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if err := migrations.Up(ctx, pool); err != nil {
		t.Fatal(err)
	}
	ran := make(chan struct{})
	replica := func(log *lines) *jobs.Jobs {
		j, err := jobs.New(pool, jobs.Config{Poll: 20 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn}))})
		if err != nil {
			t.Fatal(err)
		}
		j.Handle("once", func(context.Context, satchel.ID, json.RawMessage) error { close(ran); return nil })
		return j
	}
	stays, leaves := &lines{first: make(chan struct{})}, &lines{first: make(chan struct{})}
	j := replica(stays)
	if err := pg.InTx(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
		return j.Enqueue(ctx, tx, jobs.Job{Kind: "once", Org: satchel.NewID()})
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Halt(); err != nil {
		t.Fatal(err)
	}
	// One that is told to end while the database is away ends in good order.
	early, end := context.WithCancel(ctx)
	ended := make(chan error, 2)
	go func() { ended <- replica(leaves).Run(early) }()
	wait(t, leaves.first)
	end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	late, stop := context.WithCancel(ctx)
	go func() { ended <- j.Run(late) }()
	wait(t, stays.first)
	if err := db.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	wait(t, ran)
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if stays.n > 10 {
		t.Errorf("it said so %d times", stays.n)
	}
}

func TestRunFailsAtOnceWhereWaitingDoesNotHelp(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.jobs.Handle("note", b.note)
	if _, err := b.pool.Exec(t.Context(), "drop table river_queue cascade"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := b.jobs.Run(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("without its tables: %v", err)
	}
}
