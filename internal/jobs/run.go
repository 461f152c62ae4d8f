package jobs

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"github.com/satchel-sync/satchel/internal/pg"
)

const (
	drainTime   = 20 * time.Second // for running jobs at shutdown; then their contexts end
	maxPerStep  = 100_000          // jobs in one Step; more means that jobs enqueue each other without end
	keepDone    = time.Hour
	keepGivenUp = 31 * 24 * time.Hour

	minRest  = 100 * time.Millisecond // while the database is away at the start
	maxRest  = 10 * time.Second
	pingTime = 5 * time.Second
)

func (j *Jobs) rescueAfter() time.Duration { return j.cfg.Timeout + time.Minute }

// Run works due jobs until ctx ends, then lets running ones finish for 20 s. Any number of replicas may run; each job
// is given to one of them. It polls, and neither sends nor needs notifications. While the database is away at the start,
// it tries again with growing pauses; its error is that it cannot start for another reason.
func (j *Jobs) Run(ctx context.Context) error {
	workers := river.NewWorkers()
	kinds := j.kinds()
	for _, kind := range kinds {
		river.AddWorkerArgs(workers, envelope{kind: kind}, &worker{jobs: j})
	}
	if len(kinds) == 0 {
		<-ctx.Done()
		return nil
	}
	cfg := &river.Config{
		Queues:                      map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: j.cfg.Workers}},
		Workers:                     workers,
		PollOnly:                    true,
		FetchPollInterval:           j.cfg.Poll,
		FetchCooldown:               min(j.cfg.Poll, 100*time.Millisecond),
		FetchOnlyKnownKinds:         true,
		JobTimeout:                  j.cfg.Timeout,
		RescueStuckJobsAfter:        j.rescueAfter(),
		RetryPolicy:                 retryPolicy{j},
		CompletedJobRetentionPeriod: keepDone,
		CancelledJobRetentionPeriod: keepGivenUp,
		DiscardedJobRetentionPeriod: keepGivenUp,
		ReindexerIndexNames:         []string{}, // the pool's limits would cut a reindex short and leave its debris
		SoftStopTimeout:             drainTime,
		Logger:                      j.cfg.Logger,
	}
	if j.cfg.Now != nil {
		cfg.Test.Time = clock{j.cfg.Now}
	}
	client, err := j.start(ctx, cfg)
	if err != nil || client == nil {
		return err
	}
	<-ctx.Done()
	<-client.Stopped()
	return nil
}

// start starts a client, as soon as the database is there; nil = ctx has ended before. A client whose start failed is
// left: it has stopped what it had begun.
func (j *Jobs) start(ctx context.Context, cfg *river.Config) (*river.Client[pgx.Tx], error) {
	rest := minRest
	for try := 1; ; try++ {
		client, err := river.NewClient(riverpgxv5.New(j.pool), cfg)
		if err != nil {
			return nil, fmt.Errorf("jobs: %w", err)
		}
		if err = j.ping(ctx); err == nil {
			err = client.Start(ctx)
		}
		if err == nil {
			return client, nil
		}
		if ctx.Err() != nil {
			return nil, nil
		}
		if class := pg.Classify(err); class != pg.Unavailable && class != pg.Timeout && class != pg.Canceled {
			return nil, fmt.Errorf("jobs: %w", err)
		}
		if try&(try-1) == 0 { // the first, and ever fewer
			j.cfg.Logger.Warn("jobs: the database is away; no job is worked until it is back", "try", try, "err", err)
		}
		pause := time.NewTimer(rest)
		select {
		case <-ctx.Done():
			pause.Stop()
			return nil, nil
		case <-pause.C:
		}
		rest = min(2*rest, maxRest)
	}
}

// ping asks whether the database answers, in bounded time: River's own question has no limit.
func (j *Jobs) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	return j.pool.Ping(ctx)
}

type worker struct {
	river.WorkerDefaults[envelope]
	jobs *Jobs
}

func (w *worker) Work(ctx context.Context, job *river.Job[envelope]) error {
	switch o, after, err := w.jobs.work(ctx, job.JobRow); o {
	case done:
		return nil
	case snoozed:
		return river.JobSnooze(after)
	case discarded:
		return river.JobCancel(err)
	default:
		return err
	}
}

type retryPolicy struct{ jobs *Jobs }

func (r retryPolicy) NextRetry(row *rivertype.JobRow) time.Time { return r.jobs.now().Add(pause(row)) }

// clock is Config.Now for River.
type clock struct{ now func() time.Time }

func (c clock) Now() time.Time { return c.now() }
func (c clock) NowOrNil() *time.Time {
	t := c.now()
	return &t
}

// Step works everything that is due now by Config.Now, and what becomes due by it, one job after the other in the
// order of their times, on the caller's goroutine, and tells how many runs that were. A job that fails waits for its
// time like any other. It is for tests, the demo and the simulator; it may run beside Run.
func (j *Jobs) Step(ctx context.Context) (ran int, err error) {
	kinds := j.kinds()
	exec := riverpgxv5.New(j.pool).GetExecutor()
	if _, err := j.pool.Exec(ctx, rescue, j.now(), j.now().Add(-j.rescueAfter()), kinds); err != nil {
		return 0, err
	}
	for ; ran < maxPerStep; ran++ {
		row, err := j.next(ctx, exec, kinds)
		if err != nil || row == nil {
			return ran, err
		}
		if err := j.step(ctx, exec, row); err != nil {
			return ran, err
		}
	}
	return ran, fmt.Errorf("jobs: more than %d jobs in one step: they enqueue each other without end", maxPerStep)
}

// next takes the job that has been due the longest, or nil.
func (j *Jobs) next(ctx context.Context, exec riverdriver.Executor, kinds []string) (*rivertype.JobRow, error) {
	now := j.now()
	for {
		moved, err := exec.JobSchedule(ctx, &riverdriver.JobScheduleParams{Max: 1000, Now: &now})
		if err != nil {
			return nil, err
		}
		if len(moved) < 1000 {
			break
		}
	}
	got, err := exec.JobGetAvailable(ctx, &riverdriver.JobGetAvailableParams{ClientID: "step", Kind: kinds,
		MaxAttemptedBy: 10, MaxToLock: 1, Now: &now, Queue: river.QueueDefault})
	if err != nil || len(got.Jobs) == 0 {
		return nil, err
	}
	return got.Jobs[0], nil
}

// step runs one job and writes down what became of it, even if ctx ends meanwhile.
func (j *Jobs) step(ctx context.Context, exec riverdriver.Executor, row *rivertype.JobRow) error {
	run, cancel := context.WithTimeout(ctx, j.cfg.Timeout)
	o, after, err := j.work(run, row)
	cancel()
	now := j.now()
	var p *riverdriver.JobSetStateIfRunningParams
	switch o {
	case done:
		p = riverdriver.JobSetStateCompleted(row.ID, now, nil)
	case snoozed:
		p = riverdriver.JobSetStateSnoozed(row.ID, now.Add(after), row.Attempt-1, nil)
	default:
		text, merr := json.Marshal(rivertype.AttemptError{At: now, Attempt: row.Attempt, Error: err.Error()})
		switch {
		case merr != nil:
			return merr
		case o == discarded:
			p = riverdriver.JobSetStateCancelled(row.ID, now, text, nil)
		case row.Attempt >= row.MaxAttempts:
			p = riverdriver.JobSetStateDiscarded(row.ID, now, text, nil)
		default:
			p = riverdriver.JobSetStateErrorRetryable(row.ID, now.Add(pause(row)), text, nil)
		}
	}
	ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_, err = exec.JobSetStateIfRunningMany(ctx, &riverdriver.JobSetStateIfRunningManyParams{
		ID: []int64{p.ID}, Attempt: []*int{p.Attempt}, ErrData: [][]byte{p.ErrData}, FinalizedAt: []*time.Time{p.FinalizedAt},
		MetadataDoMerge: []bool{false}, MetadataUpdates: [][]byte{nil}, Now: &now,
		ScheduledAt: []*time.Time{p.ScheduledAt}, State: []rivertype.JobState{p.State}})
	return err
}

// Next tells when the earliest waiting job of this process's kinds is due; false means that none waits.
func (j *Jobs) Next(ctx context.Context) (time.Time, bool, error) {
	var due *time.Time
	err := j.pool.QueryRow(ctx, nextDue, j.kinds()).Scan(&due)
	if err != nil || due == nil {
		return time.Time{}, false, err
	}
	return *due, true, nil
}

var _ river.Worker[envelope] = (*worker)(nil)
