package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/satchel-sync/satchel"
)

// Limits and defaults.
const (
	MaxArgs            = 64 << 10 // bytes of a job's arguments as JSON
	DefaultMaxAttempts = 10       // the last one comes about 4 hours after the first
)

// Job is one piece of work for one organisation.
type Job struct {
	// Kind names the handler, such as "rules.fire". Required.
	Kind string
	// Org is the organisation whose data it touches. Required.
	Org satchel.ID
	// Args is what the handler gets, as JSON of at most MaxArgs bytes; nil is null. No secrets: it lies in the database.
	Args any
	// RunAt is when it is due; zero means at once.
	RunAt time.Time
	// Key makes the job unique among those of its kind and organisation that wait: enqueuing it again adds none, but
	// may make the waiting one, which keeps its arguments, due earlier. Once a job has begun its key is free, so what
	// is enqueued while it runs runs after it. "" means not unique. Transactions that enqueue the same key at once wait
	// for each other; give keys only where it matters.
	Key string
	// MaxAttempts is after how many failures the job is given up; 0 means DefaultMaxAttempts.
	MaxAttempts int
}

// Handler does the work of one kind. ctx ends with the time limit and at shutdown. An error means that it is tried
// again later, with growing pauses (about attempt⁴ seconds); see [Snooze] and [Discard] for the other ways out.
type Handler func(ctx context.Context, org satchel.ID, args json.RawMessage) error

// Config says how jobs are worked. The zero value is right for production.
type Config struct {
	// Now is the clock by which jobs become due. nil means the machine's, and for Run on several replicas the
	// database's; a clock that is given rules everything.
	Now func() time.Time
	// Workers bounds how many jobs run at once in this process; 0 means 8.
	Workers int
	// Timeout bounds one run of a handler; 0 means a minute. A job whose process died is tried again a minute after
	// this limit.
	Timeout time.Duration
	// Poll is how often Run looks for due jobs; 0 means half a second. What was enqueued for later is up to 5 s late.
	Poll time.Duration
	// Logger gets failures, without arguments; nil means silence.
	Logger *slog.Logger
	// Observe is told of each run: its kind, its outcome (done, failed, snoozed, discarded) and how long it took. It
	// may be called from many goroutines; nil means nobody.
	Observe func(kind, outcome string, took time.Duration)
}

// Jobs enqueues and works jobs. Enqueue and Queue are safe for concurrent use.
type Jobs struct {
	pool     *pgxpool.Pool
	cfg      Config
	mu       sync.Mutex
	handlers map[string]Handler
	sealed   bool // Run or Step was called: no more handlers
}

// New makes the two ends of the queue; nothing runs before Run or Step.
func New(pool *pgxpool.Pool, cfg Config) (*Jobs, error) {
	if pool == nil {
		return nil, errors.New("jobs: a pool is required")
	}
	if cfg.Workers == 0 {
		cfg.Workers = 8
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Minute
	}
	if cfg.Poll == 0 {
		cfg.Poll = 500 * time.Millisecond
	}
	if cfg.Workers < 0 || cfg.Workers > 1000 || cfg.Timeout < 0 || cfg.Poll < 10*time.Millisecond {
		return nil, errors.New("jobs: Workers are 1 to 1000, Timeout is positive, Poll is 10 ms or more")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Observe == nil {
		cfg.Observe = func(string, string, time.Duration) {}
	}
	return &Jobs{pool: pool, cfg: cfg, handlers: map[string]Handler{}}, nil
}

// Handle names the handler of a kind. All are named before Run or Step; a second one for a kind, or one that comes
// late, is a fault of the program and panics. Jobs of kinds that this process has no handler for are left to others.
func (j *Jobs) Handle(kind string, h Handler) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, twice := j.handlers[kind]; twice || j.sealed || kind == "" || h == nil {
		panic(fmt.Sprintf("jobs: the handler of %q is nil, comes twice, or comes after Run", kind))
	}
	j.handlers[kind] = h
}

// kinds ends the time of naming handlers and gives their kinds, sorted.
func (j *Jobs) kinds() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.sealed = true
	return slices.Sorted(maps.Keys(j.handlers))
}

func (j *Jobs) now() time.Time {
	if j.cfg.Now != nil {
		return j.cfg.Now()
	}
	return time.Now()
}

// Enqueue adds jobs in the caller's transaction, all in one round trip. They exist when it commits.
func (j *Jobs) Enqueue(ctx context.Context, tx pgx.Tx, jobs ...Job) error {
	if len(jobs) == 0 {
		return nil
	}
	args, err := j.insertArgs(jobs)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, insertJobs, args...)
	return err
}

// Queue is Enqueue as one more statement of a batch, at no round trip of its own.
func (j *Jobs) Queue(b *pgx.Batch, jobs ...Job) error {
	if len(jobs) == 0 {
		return nil
	}
	args, err := j.insertArgs(jobs)
	if err != nil {
		return err
	}
	b.Queue(insertJobs, args...)
	return nil
}

// Snooze is what a handler returns to be run again after d, without its counting as a failure.
func Snooze(d time.Duration) error { return &snooze{max(d, 0)} }

// Discard is what a handler returns when trying again is pointless. The job stays visible, with err, for a month.
func Discard(err error) error { return &discard{err} }

type snooze struct{ d time.Duration }

func (s *snooze) Error() string { return "the job asks to be run again after " + s.d.String() }

type discard struct{ err error }

func (d *discard) Error() string {
	if d.err == nil {
		return "the job is given up"
	}
	return d.err.Error()
}
func (d *discard) Unwrap() error { return d.err }
