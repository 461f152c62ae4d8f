package nemesis

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"time"
)

// Many says which seeds to run.
type Many struct {
	From  uint64
	Seeds int // how many, from From on
	// Parallel runs so many at once, each on servers of its own; 0 = 1.
	Parallel int
	// Keep names the events of the schedule that happen; nil = all. It is for one seed.
	Keep  []int
	Trace bool      // print the schedule and what phones do
	First bool      // stop at the first failure
	Out   io.Writer // the report: a line for each seed that failed, then what happened, then `N passed, M failed`
	// Replay is the command that runs one seed again, such as "satchel-lab sim --real"; a failure is printed with it.
	Replay string
	// Server makes the command that runs [Serve] in a process of its own.
	Server func(ctx context.Context) *exec.Cmd
}

// Total is what many runs came to.
type Total struct {
	Passed, Failed int
	Activity       Activity
}

// Activity counts what happened.
type Activity struct {
	Mutations, Verdicts, Conflicts, Refused int
	Kills, Stops, Restarts, Cut             int // of servers, of servers, of Postgres, of a server's sessions
	Partitions, Slow                        int
	PhoneKills, Forks, Restores, Clones     int
	RightsChanged                           int
}

// Add sums up.
func (a *Activity) Add(b Activity) {
	a.Mutations, a.Verdicts, a.Conflicts, a.Refused = a.Mutations+b.Mutations, a.Verdicts+b.Verdicts, a.Conflicts+b.Conflicts, a.Refused+b.Refused
	a.Kills, a.Stops, a.Restarts, a.Cut = a.Kills+b.Kills, a.Stops+b.Stops, a.Restarts+b.Restarts, a.Cut+b.Cut
	a.Partitions, a.Slow, a.PhoneKills, a.Forks = a.Partitions+b.Partitions, a.Slow+b.Slow, a.PhoneKills+b.PhoneKills, a.Forks+b.Forks
	a.Restores, a.Clones, a.RightsChanged = a.Restores+b.Restores, a.Clones+b.Clones, a.RightsChanged+b.RightsChanged
}

// Faults counts those that a run must have some of.
func (a Activity) Faults() int {
	return a.Kills + a.Stops + a.Restarts + a.Cut + a.Partitions + a.Slow + a.PhoneKills + a.Restores + a.Clones
}

// String is the line for people.
func (a Activity) String() string {
	return fmt.Sprintf("%d mutations, %d verdicts heard, %d conflicts, %d refused; %d servers killed, %d stopped, %d Postgres restarts, "+
		"%d times sessions cut; %d partitions, %d slow ways; %d phones killed, %d forks, %d stores restored, %d cloned; %d changes of rights",
		a.Mutations, a.Verdicts, a.Conflicts, a.Refused, a.Kills, a.Stops, a.Restarts, a.Cut, a.Partitions, a.Slow, a.PhoneKills, a.Forks,
		a.Restores, a.Clones, a.RightsChanged)
}

// Bounds of runs.
const (
	minMutations = 100
	minFaults    = 3
	seedTime     = 90 * time.Second // of one seed; most take 6
	maxBroken    = 10               // failed seeds, after which the rest is given up
	maxShrunk    = 3                // of them are shrunk
	shrinkTries  = 14
	shrinkTime   = 3 * time.Minute
)

// result is what a run of a seed came to.
type result struct {
	seed     uint64
	act      Activity
	failures []string
	err      error // the run could not be done
}

func (r result) bad() bool { return r.err != nil || len(r.failures) > 0 }

// RunMany runs seeds. An error means that it could not; failed seeds are counted in the Total.
func RunMany(ctx context.Context, m Many) (Total, error) {
	if m.Parallel <= 0 {
		m.Parallel = 1
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var total Total
	var failure error
	var mu sync.Mutex // guards total, failure, next and Out
	next := 0
	var workers sync.WaitGroup
	for range min(m.Parallel, m.Seeds) {
		workers.Go(func() {
			var s *stage
			defer func() {
				if s != nil {
					s.strike()
				}
			}()
			for {
				mu.Lock()
				i := next
				next++
				enough := i >= m.Seeds || ctx.Err() != nil || failure != nil || total.Failed >= maxBroken || m.First && total.Failed > 0
				mu.Unlock()
				if enough {
					return
				}
				seed := m.From + uint64(i)
				r, err := m.on(ctx, &s, seed, m.Keep)
				keep, shrunk := m.Keep, false
				mu.Lock()
				shrink := err == nil && r.bad() && ctx.Err() == nil && total.Failed < maxShrunk && !m.Trace
				mu.Unlock()
				if shrink {
					keep, shrunk = m.shrink(ctx, &s, seed), true
				}
				mu.Lock()
				switch {
				case err != nil:
					failure = errors.Join(failure, err)
				case ctx.Err() != nil:
				case r.bad():
					total.Failed++
					m.report(r, keep, shrunk)
				default:
					total.Passed++
				}
				total.Activity.Add(r.act)
				if done := total.Passed + total.Failed; done%10 == 0 && done > 0 && done < m.Seeds && err == nil {
					fmt.Fprintf(m.Out, "%d of %d seeds: %d passed, %d failed\n", done, m.Seeds, total.Passed, total.Failed)
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	fmt.Fprintf(m.Out, "%s\n%d passed, %d failed\n", total.Activity, total.Passed, total.Failed)
	return total, errors.Join(failure, ctx.Err())
}

func (m Many) report(r result, keep []int, shrunk bool) {
	fmt.Fprintf(m.Out, "seed %d failed\n", r.seed)
	if r.err != nil {
		fmt.Fprintf(m.Out, "  %v\n", r.err)
	}
	for _, f := range r.failures {
		fmt.Fprintf(m.Out, "  %s\n", f)
	}
	what := "again"
	if shrunk {
		what = "again, with the fewest events that failed"
	}
	fmt.Fprintf(m.Out, "  %s: %s --trace\n", what, replay(m.Replay, r.seed, keep))
}

// on runs a seed on the stage, and raises one where there is none or something is broken on it.
func (m Many) on(ctx context.Context, s **stage, seed uint64, keep []int) (result, error) {
	if *s != nil && (*s).dead {
		(*s).strike()
		*s = nil
	}
	if *s == nil {
		fresh, err := raise(ctx, m.Server, nothing, durable)
		if err != nil {
			return result{seed: seed}, fmt.Errorf("nemesis: the servers could not be started: %w", err)
		}
		*s = fresh
	}
	events := only(draw(seed, len(holders)), keep)
	var trace io.Writer
	if m.Trace {
		trace = m.Out
		for _, e := range events {
			fmt.Fprintln(m.Out, e)
		}
	}
	r := runOn(ctx, *s, seed, events, keep != nil, trace)
	(*s).dead = r.bad()
	return r, nil
}

// runOn runs a schedule on a stage. A part of a schedule need not do much.
func runOn(ctx context.Context, s *stage, seed uint64, events []event, part bool, trace io.Writer) result {
	ctx, cancel := context.WithTimeout(ctx, seedTime)
	defer cancel()
	r := result{seed: seed}
	w, err := newWorld(ctx, s, seed, trace)
	if err != nil {
		r.err = fmt.Errorf("nemesis: seed %d: %w", seed, err)
		return r
	}
	defer w.close()
	err = w.run(events)
	if err == nil {
		err = w.heal()
	}
	if err == nil {
		err = w.check()
	}
	if err == nil && !part && (w.act.Mutations < minMutations || w.act.Faults() < minFaults) {
		err = fmt.Errorf("too little happened: %s", w.act)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	r.act, r.failures = w.act, w.failed
	if err != nil {
		r.err = fmt.Errorf("nemesis: seed %d: %w", seed, err)
	}
	return r
}

// shrink drops events from the schedule of a seed while it still fails, halves first. Since the system decides what
// meets what, a failure that does not come again by chance keeps more events than it needs, never fewer.
func (m Many) shrink(ctx context.Context, s **stage, seed uint64) []int {
	ctx, cancel := context.WithTimeout(ctx, shrinkTime)
	defer cancel()
	keep := m.Keep
	if keep == nil {
		keep = numbers(draw(seed, len(holders)))
	}
	tries := shrinkTries
	for size := (len(keep) + 1) / 2; size > 0 && len(keep) > 0; size /= 2 {
		for at := 0; at < len(keep) && tries > 0 && ctx.Err() == nil; {
			less := append(append([]int{}, keep[:at]...), keep[min(len(keep), at+size):]...)
			tries--
			if r, err := m.on(ctx, s, seed, less); err == nil && r.bad() && ctx.Err() == nil {
				keep = less
			} else {
				at += size
			}
		}
	}
	return keep
}
