package jobs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/jobs"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// bench is a queue whose clock stands still until the test moves it.
type bench struct {
	t    *testing.T
	pool *pgxpool.Pool
	jobs *jobs.Jobs
	org  satchel.ID
	log  *bytes.Buffer

	mu       sync.Mutex
	now      time.Time
	ran      []string
	outcomes []string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, pool: pgtest.New(t), org: satchel.NewID(), log: &bytes.Buffer{},
		now: time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)}
	var err error
	b.jobs, err = jobs.New(b.pool, jobs.Config{Now: b.clock, Logger: slog.New(slog.NewTextHandler(b.log, nil)),
		Observe: func(kind, outcome string, _ time.Duration) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.outcomes = append(b.outcomes, kind+" "+outcome)
		}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) clock() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

func (b *bench) advance(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = b.now.Add(d)
}

// note is a handler that writes down its argument.
func (b *bench) note(_ context.Context, org satchel.ID, args json.RawMessage) error {
	if org != b.org {
		b.t.Errorf("a job of %s runs for %s", b.org, org)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ran = append(b.ran, string(args))
	return nil
}

func (b *bench) add(js ...jobs.Job) {
	b.t.Helper()
	for i := range js {
		js[i].Org = b.org
	}
	err := pg.InTx(b.t.Context(), b.pool, func(ctx context.Context, tx pgx.Tx) error { return b.jobs.Enqueue(ctx, tx, js...) })
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) step(want int) {
	b.t.Helper()
	n, err := b.jobs.Step(b.t.Context())
	if err != nil || n != want {
		b.t.Fatalf("a step ran %d jobs instead of %d, %v", n, want, err)
	}
}

func (b *bench) expect(ran ...string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Equal(b.ran, ran) {
		b.t.Fatalf("what ran is %q instead of %q", b.ran, ran)
	}
}

func TestJobsRunWhenTheirTimeHasComeByTheGivenClockAndInItsOrder(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.jobs.Handle("note", b.note)
	b.add(
		jobs.Job{Kind: "note", Args: "later", RunAt: b.clock().Add(time.Hour)},
		jobs.Job{Kind: "note", Args: "second"},
		jobs.Job{Kind: "note", Args: "first", RunAt: b.clock().Add(-time.Minute)},
		jobs.Job{Kind: "unknown here", Args: "never"},
	)
	b.step(2)
	b.expect(`"first"`, `"second"`)
	due, waits, err := b.jobs.Next(t.Context())
	if err != nil || !waits || !due.Equal(b.clock().Add(time.Hour)) {
		t.Errorf("the next is due at %v, %v, %v", due, waits, err)
	}
	b.advance(time.Hour - time.Second)
	b.step(0)
	b.advance(time.Second)
	b.step(1)
	b.expect(`"first"`, `"second"`, `"later"`)
	if _, waits, err := b.jobs.Next(t.Context()); err != nil || waits {
		t.Errorf("something still waits: %v, %v", waits, err)
	}
}

func TestAJobExistsOnlyIfItsTransactionCommitted(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.jobs.Handle("note", b.note)
	changed := errors.New("changed my mind")
	err := pg.InTx(t.Context(), b.pool, func(ctx context.Context, tx pgx.Tx) error {
		if err := b.jobs.Enqueue(ctx, tx, jobs.Job{Kind: "note", Org: b.org}); err != nil {
			return err
		}
		return changed
	})
	if !errors.Is(err, changed) {
		t.Fatal(err)
	}
	b.step(0)
	err = pg.InTx(t.Context(), b.pool, func(ctx context.Context, tx pgx.Tx) error {
		batch := &pgx.Batch{}
		if err := b.jobs.Queue(batch, jobs.Job{Kind: "note", Org: b.org, Args: 1}); err != nil {
			return err
		}
		return tx.(*pg.Tx).SendBatchCommit(ctx, batch).Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	b.step(1)
	b.expect("1")
}

func TestWhatAJobEnqueuesRunsInTheSameStep(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.jobs.Handle("note", b.note)
	b.jobs.Handle("parent", func(ctx context.Context, org satchel.ID, _ json.RawMessage) error {
		return pg.InTx(ctx, b.pool, func(ctx context.Context, tx pgx.Tx) error {
			return b.jobs.Enqueue(ctx, tx, jobs.Job{Kind: "note", Org: org, Args: "child"})
		})
	})
	b.add(jobs.Job{Kind: "parent"})
	b.step(2)
	b.expect(`"child"`)
}

func TestAFailureIsTriedAgainWithGrowingPausesUntilItIsGivenUp(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	runs := 0
	b.jobs.Handle("fails", func(context.Context, satchel.ID, json.RawMessage) error { runs++; return errors.New("broken") })
	b.add(jobs.Job{Kind: "fails", MaxAttempts: 3})
	b.step(1)
	var before time.Duration
	for range 2 {
		due, waits, err := b.jobs.Next(t.Context())
		if err != nil || !waits {
			t.Fatal("it is given up too early", err)
		}
		d := due.Sub(b.clock())
		if d <= before*4 {
			t.Errorf("the pause is %v after one of %v", d, before)
		}
		before = d
		b.advance(d - time.Millisecond)
		b.step(0)
		b.advance(time.Millisecond)
		b.step(1)
	}
	if _, waits, err := b.jobs.Next(t.Context()); err != nil || waits || runs != 3 {
		t.Errorf("after %d runs it still waits: %v, %v", runs, waits, err)
	}
	var state, errs string
	if err := b.pool.QueryRow(t.Context(), "select state::text, errors::text from river_job").Scan(&state, &errs); err != nil ||
		state != "discarded" || strings.Count(errs, "broken") != 3 {
		t.Errorf("the job is %s with %s, %v", state, errs, err)
	}
	if log := b.log.String(); strings.Count(log, "level=WARN") != 2 || strings.Count(log, "level=ERROR") != 1 {
		t.Errorf("the log is %s", log)
	}
}

func TestAPanicIsAFailureOfThatJobOnly(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.jobs.Handle("panics", func(context.Context, satchel.ID, json.RawMessage) error { panic("oh") })
	b.jobs.Handle("note", b.note)
	b.add(jobs.Job{Kind: "panics"}, jobs.Job{Kind: "note", Args: 1})
	b.step(2)
	b.expect("1")
	if !slices.Equal(b.outcomes, []string{"panics failed", "note done"}) {
		t.Errorf("the outcomes are %q", b.outcomes)
	}
}

func TestAHandlerMaySnoozeOrGiveUp(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	left := 20 // more often than it has attempts
	b.jobs.Handle("waits", func(context.Context, satchel.ID, json.RawMessage) error {
		if left--; left > 0 {
			return fmt.Errorf("not yet: %w", jobs.Snooze(time.Minute))
		}
		return nil
	})
	b.jobs.Handle("pointless", func(context.Context, satchel.ID, json.RawMessage) error {
		return jobs.Discard(errors.New("no such thing"))
	})
	b.add(jobs.Job{Kind: "waits", MaxAttempts: 2}, jobs.Job{Kind: "pointless"})
	b.step(2)
	for range 19 {
		b.advance(time.Minute)
		b.step(1)
	}
	b.advance(time.Hour)
	b.step(0)
	if left != 0 || b.outcomes[1] != "pointless discarded" || b.outcomes[len(b.outcomes)-1] != "waits done" {
		t.Errorf("%d left, the outcomes are %q", left, b.outcomes)
	}
}

func TestAKeyThatWaitsIsNotAddedTwiceButMayBecomeDueEarlier(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.jobs.Handle("note", b.note)
	at := func(d time.Duration, args string) jobs.Job {
		return jobs.Job{Kind: "note", Key: "k", Args: args, RunAt: b.clock().Add(d)}
	}
	b.add(at(time.Hour, "a"), at(2*time.Hour, "b"))
	b.add(at(3*time.Hour, "c"))
	other := at(time.Hour, "other key")
	other.Key = "l"
	b.add(other)
	b.add(at(time.Minute, "d"))
	b.step(0)
	b.advance(time.Minute)
	b.step(1)
	b.expect(`"a"`)
	b.add(at(0, "e"))
	b.add(at(time.Hour, "f"), at(0, "g"))
	b.step(1)
	b.expect(`"a"`, `"e"`)
	b.advance(24 * time.Hour)
	b.step(1)
	b.expect(`"a"`, `"e"`, `"other key"`)
}

func TestWhatIsEnqueuedWhileItsKeyRunsRunsAfterIt(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	runs := 0
	b.jobs.Handle("again", func(context.Context, satchel.ID, json.RawMessage) error {
		if runs++; runs == 1 {
			b.add(jobs.Job{Kind: "again", Key: "k"}, jobs.Job{Kind: "again", Key: "k"})
			b.add(jobs.Job{Kind: "again", Key: "k"})
		}
		return nil
	})
	b.add(jobs.Job{Kind: "again", Key: "k"})
	b.step(2)
	if runs != 2 {
		t.Errorf("it ran %d times", runs)
	}
}

func TestASnoozedKeyAndOneEnqueuedMeanwhileBecomeOne(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	runs := 0
	b.jobs.Handle("poll", func(context.Context, satchel.ID, json.RawMessage) error {
		if runs++; runs == 1 {
			b.add(jobs.Job{Kind: "poll", Key: "k", RunAt: b.clock().Add(time.Hour)})
			return jobs.Snooze(time.Minute)
		}
		return nil
	})
	b.add(jobs.Job{Kind: "poll", Key: "k"})
	b.step(1)
	b.advance(time.Minute)
	b.step(1)
	b.advance(24 * time.Hour)
	b.step(0)
}

func TestAFailedKeyIsTriedAgainBesideOneEnqueuedMeanwhile(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	runs := 0
	b.jobs.Handle("flaky", func(context.Context, satchel.ID, json.RawMessage) error {
		if runs++; runs == 1 {
			b.add(jobs.Job{Kind: "flaky", Key: "k", RunAt: b.clock().Add(time.Second)})
			return errors.New("broken")
		}
		return nil
	})
	b.add(jobs.Job{Kind: "flaky", Key: "k"})
	b.step(1)
	b.advance(time.Hour) // both are due in the same look
	b.step(2)
}

func TestAJobWhoseProcessDiedIsTakenUpAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.jobs.Handle("note", b.note)
	b.add(jobs.Job{Kind: "note", Args: 1})
	if _, err := b.pool.Exec(t.Context(), "update river_job set state = 'running', attempt = 1, attempted_at = $1", b.clock()); err != nil {
		t.Fatal(err)
	}
	b.step(0)
	b.advance(3 * time.Minute)
	b.step(1)
	b.expect("1")
}

func TestAnUnusableJobIsRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for name, job := range map[string]jobs.Job{
		"no organisation":   {Kind: "note"},
		"no kind":           {Org: b.org},
		"arguments too big": {Kind: "note", Org: b.org, Args: strings.Repeat("x", jobs.MaxArgs)},
		"not JSON":          {Kind: "note", Org: b.org, Args: func() {}},
		"attempts":          {Kind: "note", Org: b.org, MaxAttempts: 101},
	} {
		if err := b.jobs.Queue(&pgx.Batch{}, jobs.Job{Kind: "note", Org: b.org}, job); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestEnqueuingNotifiesNobody(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ears, err := b.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer ears.Release()
	for _, channel := range []string{`"public.river_insert"`, `"river_insert"`, "probe"} {
		if _, err := ears.Exec(t.Context(), "listen "+channel); err != nil {
			t.Fatal(err)
		}
	}
	b.add(jobs.Job{Kind: "note"}, jobs.Job{Kind: "note", Key: "k"})
	if _, err := b.pool.Exec(t.Context(), "notify probe"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if n, err := ears.Conn().WaitForNotification(ctx); err != nil || n.Channel != "probe" {
		t.Errorf("the first notification is %v, %v", n, err)
	}
}

func TestReplicasShareTheWorkAndFinishWhatTheyBeganBeforeTheyStop(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	org := satchel.NewID()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	const all = 200
	var mu sync.Mutex
	runs := map[string]int{}
	allRan, slowBegan := make(chan struct{}), make(chan struct{})
	var flaky, slowEnded bool
	var replicas sync.WaitGroup
	var js *jobs.Jobs
	for range 2 {
		j, err := jobs.New(pool, jobs.Config{Poll: 20 * time.Millisecond, Workers: 4})
		if err != nil {
			t.Fatal(err)
		}
		j.Handle("count", func(_ context.Context, got satchel.ID, args json.RawMessage) error {
			mu.Lock()
			defer mu.Unlock()
			if got != org {
				t.Errorf("the organisation is %v", got)
			}
			if !flaky {
				flaky = true
				return errors.New("once")
			}
			if runs[string(args)]++; len(runs) == all {
				close(allRan)
			}
			return nil
		})
		j.Handle("slow", func(ctx context.Context, _ satchel.ID, _ json.RawMessage) error {
			close(slowBegan)
			<-time.After(100 * time.Millisecond) // the work that shutdown must wait for
			mu.Lock()
			defer mu.Unlock()
			slowEnded = ctx.Err() == nil
			return nil
		})
		replicas.Go(func() {
			if err := j.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		js = j
	}
	add := func(more ...jobs.Job) {
		err := pg.InTx(ctx, pool, func(ctx context.Context, tx pgx.Tx) error { return js.Enqueue(ctx, tx, more...) })
		if err != nil {
			t.Fatal(err)
		}
	}
	var batch []jobs.Job
	for i := range all {
		job := jobs.Job{Kind: "count", Org: org, Args: i}
		if i%2 == 0 {
			job.Key = fmt.Sprint(i)
		}
		batch = append(batch, job)
	}
	add(batch...)
	wait(t, allRan)
	add(jobs.Job{Kind: "slow", Org: org})
	wait(t, slowBegan)
	stop()
	replicas.Wait()
	if !slowEnded {
		t.Error("a running job was cut off")
	}
	for args, n := range runs {
		if n != 1 {
			t.Errorf("job %s ran %d times", args, n)
		}
	}
	var left int
	err := pool.QueryRow(t.Context(), "select count(*) from river_job where state <> 'completed'").Scan(&left)
	if err != nil || left != 0 {
		t.Errorf("%d jobs are not completed, %v", left, err)
	}
}

func wait(t *testing.T, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(30 * time.Second):
		t.Fatal("it does not happen")
	}
}
