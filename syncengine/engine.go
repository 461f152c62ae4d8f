package syncengine

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/jobs"
)

// Queue takes jobs in a transaction; internal/jobs satisfies it.
type Queue interface {
	Enqueue(ctx context.Context, tx pgx.Tx, js ...jobs.Job) error
}

// Config is what an engine needs.
type Config struct {
	Pool *pgxpool.Pool
	Jobs Queue
	// Now is the clock by which mutations are received. Defaults to time.Now.
	Now func() time.Time
	// Logger defaults to slog.Default.
	Logger *slog.Logger
	// Deadline bounds the applying of one batch. Defaults to 3 s.
	Deadline time.Duration
	// PollEvery is how often a replica with waiters asks what other replicas committed. Defaults to 300 ms.
	PollEvery time.Duration
}

// Engine applies and hands out. It is safe for concurrent use; any number of replicas may share a database.
type Engine struct {
	cfg       Config
	commands  map[string]CommandFunc
	observers []Observer
	guards    []GuardFunc
	waiters   *waiters

	mu     sync.Mutex // guards what follows
	orgs   map[satchel.ID]*org
	grants map[string]*grantsEntry
	follow map[followKey][]followed
	views  map[viewKey]*view
	nums   map[bucketKey]int64 // committed numbers of buckets, which never change
}

// cacheLimit bounds each of the engine's caches, in entries; a full cache is emptied.
const cacheLimit = 20_000

// New makes an engine. Commands and observers are registered before the first call.
func New(cfg Config) (*Engine, error) {
	if cfg.Pool == nil || cfg.Jobs == nil {
		return nil, errors.New("syncengine.New: Pool and Jobs are needed")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Deadline == 0 {
		cfg.Deadline = 3 * time.Second
	}
	if cfg.PollEvery == 0 {
		cfg.PollEvery = 300 * time.Millisecond
	}
	return &Engine{
		cfg: cfg, commands: map[string]CommandFunc{}, waiters: newWaiters(),
		orgs: map[satchel.ID]*org{}, grants: map[string]*grantsEntry{},
		follow: map[followKey][]followed{}, views: map[viewKey]*view{}, nums: map[bucketKey]int64{},
	}, nil
}

// Command registers what runs for a command of that name; a second registration replaces the first. Not safe for
// concurrent use with Apply.
func (e *Engine) Command(name string, fn CommandFunc) { e.commands[name] = fn }

// Observe registers an observer. Not safe for concurrent use with Apply.
func (e *Engine) Observe(fn Observer) { e.observers = append(e.observers, fn) }

// Guard registers what may refuse edits and deletions; all are asked. Not safe for concurrent use with Apply.
func (e *Engine) Guard(fn GuardFunc) { e.guards = append(e.guards, fn) }

// Run wakes the waiters of this replica for what other replicas commit, until ctx ends.
func (e *Engine) Run(ctx context.Context) error {
	tick := time.NewTicker(e.cfg.PollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := e.pollOthers(ctx); err != nil && ctx.Err() == nil {
			// Waiters time out by themselves and pull; the next tick tries again.
			e.cfg.Logger.Warn("syncengine: could not ask for other replicas' commits", "error", err)
		}
	}
}

// put stores in a bounded cache.
func put[K comparable, V any](m map[K]V, k K, v V) {
	if len(m) >= cacheLimit {
		clear(m)
	}
	m[k] = v
}
