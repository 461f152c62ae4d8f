package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/satchel-sync/satchel/internal/devpg"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/migrations"
)

// Many says which seeds to run.
type Many struct {
	From  uint64
	Seeds int // how many, from From on
	// Parallel runs so many at once; 0 = 2. What a seed does follows from it alone, also beside others.
	Parallel int
	Steps    int   // of each; see Config
	Keep     Steps // of each; see Config
	Whole    bool  // do not shrink what fails
	Trace    bool  // print every step
	// Twice runs each seed twice; one that does not do the same again has failed. Nothing is shrunk then.
	Twice bool
	First bool      // stop at the first failure
	Out   io.Writer // the report: a line for each seed that failed, then what happened, then `N passed, M failed`
	// Replay is the command that runs one seed again, such as "satchel-lab sim"; a failure is printed with it.
	Replay string
}

// Total is what many runs came to.
type Total struct {
	Passed, Failed int
	First          string // what the first seed that failed broke; "" = none did
	FirstSeed      uint64 // and which it was
	Broken         bool   // it broke a promise; false = it could not be run
	Activity       Activity
}

func firstOf(r Result, err error) string {
	if len(r.Failures) > 0 {
		return r.Failures[0]
	}
	return err.Error()
}

// Bounds of what failed seeds cost.
const (
	maxBroken = 20 // seeds, before the rest is given up
	maxShrunk = 3  // seeds that are shrunk; others are printed whole
)

// RunMany runs seeds on a Postgres of its own, which ends with it. An error means that it could not; failed seeds are
// counted in the Total.
func RunMany(ctx context.Context, m Many) (Total, error) {
	address, end, err := begin(ctx)
	if err != nil {
		return Total{}, err
	}
	defer end()
	return m.run(ctx, address)
}

// begin starts a Postgres with the template.
func begin(ctx context.Context) (address string, end func(), err error) {
	server, err := devpg.StartEphemeral(ctx, nil)
	if err != nil {
		return "", nil, err
	}
	end = func() { _ = server.Stop(context.WithoutCancel(ctx)) } // its watchdog ends it otherwise
	if err := makeTemplate(ctx, server.URL()); err != nil {
		end()
		return "", nil, fmt.Errorf("sim: the template: %w", err)
	}
	return server.URL(), end, nil
}

// run runs the seeds on a Postgres that has the template.
func (m Many) run(ctx context.Context, address string) (Total, error) {
	if m.Parallel <= 0 {
		m.Parallel = 2
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var total Total
	var failure error
	shrunk := 0
	var mu sync.Mutex // guards total, failure and Out
	seeds := make(chan uint64)
	var workers sync.WaitGroup
	for range m.Parallel {
		workers.Go(func() {
			for seed := range seeds {
				r, err := m.try(ctx, address, seed)
				keep := []int(m.Keep)
				mu.Lock()
				shrinks := err == nil && len(r.Failures) > 0 && !m.Whole && !m.Twice && keep == nil && shrunk < maxShrunk
				if shrinks {
					shrunk++
				}
				mu.Unlock()
				if shrinks {
					keep = m.shrink(ctx, address, r)
				}
				mu.Lock()
				switch {
				case ctx.Err() != nil:
					failure = errors.Join(failure, context.Cause(ctx))
				case err == nil && len(r.Failures) == 0:
					total.Passed++
				default:
					total.Failed++
					if total.First == "" {
						total.First, total.FirstSeed, total.Broken = firstOf(r, err), seed, err == nil
					}
					m.report(r, keep, err)
				}
				total.Activity.Add(r.Activity)
				if done := total.Passed + total.Failed; done%50 == 0 && done > 0 && done < m.Seeds {
					fmt.Fprintf(m.Out, "%d of %d seeds: %d passed, %d failed\n", done, m.Seeds, total.Passed, total.Failed)
				}
				full := total.Failed >= maxBroken || m.First && total.Failed > 0
				mu.Unlock()
				if full {
					return
				}
			}
		})
	}
	gone := make(chan struct{})
	go func() { workers.Wait(); close(gone) }()
give:
	for i := range m.Seeds {
		select {
		case seeds <- m.From + uint64(i):
		case <-gone:
			break give
		case <-ctx.Done():
			break give
		}
	}
	close(seeds)
	<-gone
	fmt.Fprintf(m.Out, "%s\n%d passed, %d failed\n", total.Activity, total.Passed, total.Failed)
	return total, errors.Join(failure, ctx.Err())
}

// try runs a seed as m says.
func (m Many) try(ctx context.Context, address string, seed uint64) (Result, error) {
	if !m.Twice {
		var trace io.Writer
		if m.Trace {
			trace = m.Out
		}
		return m.one(ctx, address, seed, m.Keep, trace)
	}
	var first, second bytes.Buffer
	r, err := m.one(ctx, address, seed, m.Keep, &first)
	if m.Trace {
		_, _ = m.Out.Write(first.Bytes()) // as a report is
	}
	if err != nil {
		return r, err
	}
	if _, err := m.one(ctx, address, seed, m.Keep, &second); err != nil {
		return r, fmt.Errorf("when it was run again: %w", err)
	}
	if d := Difference(first.String(), second.String()); d != "" {
		r.Failures = append([]string{"not the same again, " + d}, r.Failures...)
	}
	return r, nil
}

func (m Many) report(r Result, keep []int, err error) {
	again := fmt.Sprintf("%s --seed %d", m.Replay, r.Seed)
	if m.Twice {
		again += " --twice"
	}
	if m.Steps > 0 {
		again += fmt.Sprintf(" --steps %d", m.Steps)
	}
	if keep != nil {
		again += " --keep " + Steps(keep).String()
	}
	fmt.Fprintf(m.Out, "seed %d failed; again: %s --trace\n", r.Seed, again)
	if err != nil {
		fmt.Fprintf(m.Out, "  %v\n", err)
	}
	for _, f := range r.Failures {
		fmt.Fprintf(m.Out, "  %s\n", f)
	}
}

// shrink finds fewer steps of a seed that break the promise that it broke first.
func (m Many) shrink(ctx context.Context, address string, r Result) []int {
	var all []int
	for i := range r.Steps {
		all = append(all, i+1)
	}
	promise := promiseOf(r.Failures[0])
	return shrink(all, shrinkRuns, time.Now().Add(shrinkTime), func(keep []int) bool {
		again, err := m.one(ctx, address, r.Seed, keep, nil)
		return err == nil && slices.ContainsFunc(again.Failures, func(f string) bool { return promiseOf(f) == promise })
	})
}

// promiseOf names the promise that a failure is about, such as "S13".
func promiseOf(failure string) string {
	promise, _, _ := strings.Cut(failure, ",")
	return promise
}

const templateName = "satchel_sim_template"

// one runs a seed on a database of its own; trace, where not nil, is told every step.
func (m Many) one(ctx context.Context, address string, seed uint64, keep []int, trace io.Writer) (Result, error) {
	name := fmt.Sprintf("satchel_sim_%d", seed)
	if err := admin(ctx, address, "CREATE DATABASE "+name+" TEMPLATE "+templateName+" STRATEGY file_copy"); err != nil {
		return Result{Seed: seed}, err
	}
	u, err := database(address, name)
	if err != nil {
		return Result{Seed: seed}, err
	}
	cfg := Config{URL: u, Seed: seed, Steps: m.Steps, Keep: keep}
	if trace != nil {
		cfg.Trace = trace
	}
	r, err := Run(ctx, cfg)
	return r, errors.Join(err, admin(context.WithoutCancel(ctx), address, "DROP DATABASE "+name+" WITH (FORCE)"))
}

func makeTemplate(ctx context.Context, address string) error {
	if err := admin(ctx, address, "CREATE DATABASE "+templateName); err != nil {
		return err
	}
	u, err := database(address, templateName)
	if err != nil {
		return err
	}
	pool, err := pg.Open(ctx, u, pg.Options{AppName: "sim template", MaxConns: 2})
	if err != nil {
		return err
	}
	defer pool.Close()
	return migrations.Up(ctx, pool)
}

func admin(ctx context.Context, address, sql string) error {
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql)
	return errors.Join(err, conn.Close(ctx))
}

func database(address, name string) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", errors.New("sim: the database's address does not parse")
	}
	u.Path = "/" + name
	return u.String(), nil
}
