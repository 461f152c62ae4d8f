package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/riverqueue/river/rivertype"
)

// outcome is what became of one run.
type outcome uint8

const (
	done outcome = iota
	failed
	snoozed
	discarded
)

func (o outcome) String() string {
	return [...]string{"done", "failed", "snoozed", "discarded"}[o]
}

// work runs a job's handler and says what became of it; after is for snoozed. Both Run and Step come through here.
func (j *Jobs) work(ctx context.Context, row *rivertype.JobRow) (o outcome, after time.Duration, err error) {
	began := time.Now() // how long it took is measured, not simulated
	o, after, err = j.attempt(ctx, row)
	j.cfg.Observe(row.Kind, o.String(), time.Since(began))
	if o == failed || o == discarded {
		level := slog.LevelWarn
		if o == discarded || row.Attempt >= row.MaxAttempts {
			level = slog.LevelError
		}
		j.cfg.Logger.Log(ctx, level, "a job failed", "kind", row.Kind, "job", row.ID, "attempt", row.Attempt,
			"of", row.MaxAttempts, "outcome", o.String(), "err", err)
	}
	return o, after, err
}

func (j *Jobs) attempt(ctx context.Context, row *rivertype.JobRow) (outcome, time.Duration, error) {
	j.mu.Lock()
	handler := j.handlers[row.Kind]
	j.mu.Unlock()
	if handler == nil {
		return failed, 0, fmt.Errorf("jobs: there is no handler of %s", row.Kind)
	}
	var e envelope
	if err := json.Unmarshal(row.EncodedArgs, &e); err != nil {
		return discarded, 0, fmt.Errorf("jobs: the stored arguments do not decode: %w", err)
	}
	if e.Key != "" {
		if _, err := j.pool.Exec(ctx, freeKey, row.ID); err != nil {
			return failed, 0, err
		}
	}
	err := contain(ctx, handler, e)
	if err == nil {
		return done, 0, nil
	}
	if d, ok := errors.AsType[*discard](err); ok {
		return discarded, 0, d
	}
	s, ok := errors.AsType[*snooze](err)
	if !ok {
		return failed, 0, err
	}
	if e.Key == "" {
		return snoozed, s.d, nil
	}
	// Its key is free and perhaps taken again, so it takes its place among the waiting ones, and this one is over.
	args, err := j.insertArgs([]Job{{Kind: row.Kind, Org: e.Org, Args: e.Args, Key: e.Key,
		RunAt: j.now().Add(s.d), MaxAttempts: row.MaxAttempts}})
	if err == nil {
		_, err = j.pool.Exec(ctx, insertJobs, args...)
	}
	if err != nil {
		return failed, 0, err
	}
	return done, 0, nil
}

// contain turns a panic into an error, whose stack is for the log and the job's row.
func contain(ctx context.Context, h Handler, e envelope) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("jobs: the handler panicked: %v\n%s", p, debug.Stack())
		}
	}()
	return h(ctx, e.Org, e.Args)
}

// pause is how long a job that failed rests: attempt⁴ seconds, up to a tenth more by its number, so that jobs which
// failed together do not come back together, and a simulation can be repeated.
func pause(row *rivertype.JobRow) time.Duration {
	a := time.Duration(min(max(row.Attempt, 1), 30))
	d := a * a * a * a * time.Second
	return d + d/10*time.Duration(row.ID%16)/16
}
