package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Config says what to run.
type Config struct {
	// URL is the address of a migrated database that holds nothing; the run is alone on it, makes another one beside it
	// (so its user may create databases), and drops that.
	URL string
	// Seed is what every choice follows from.
	Seed uint64
	// Steps bounds the run before it heals; 0 = 180.
	Steps int
	// Keep are the steps that happen, from 1, of a run whose others are left out; nil = all.
	Keep []int
	// Trace, when set, is told every step.
	Trace io.Writer
}

// Activity counts what happened in a run.
type Activity struct {
	Mutations, Verdicts, Conflicts, Refused int
	Merged, Resolved, Published             int // records merged, kept mutations settled by the office, schemas published
	Kills, Lost, Late, Doubled, Partitions  int
	Rewound, Clones, Forks, Reboots         int // phones' stores rolled back and cloned
	Damaged, Skips, Envelopes, Repairs      int // phones' stores
	Restores, Reoffered, Salvaged           int // the database rolled back
	Away, Purged                            int // phones away for half a year, records whose tombstones went
	Profiles                                int
	Broken, Paused                          int
	RightsChanged, Revoked                  int // Revoked: grants that somebody lost, and devices
}

// line lists the counts in the order of the activity line.
func (a *Activity) line() []struct {
	n    *int
	what string
} {
	type one = struct {
		n    *int
		what string
	}
	return []one{
		{&a.Mutations, "mutations"}, {&a.Verdicts, "verdicts heard"}, {&a.Conflicts, "conflicts"}, {&a.Refused, "refused"},
		{&a.Resolved, "resolved by the office"}, {&a.Merged, "records merged"}, {&a.Kills, "kills"}, {&a.Partitions, "partitions"},
		{&a.Lost, "messages lost"}, {&a.Late, "late"}, {&a.Doubled, "doubled"}, {&a.Forks, "forks"}, {&a.Rewound, "stores restored"},
		{&a.Clones, "cloned"}, {&a.Damaged, "damaged"}, {&a.Skips, "skips"}, {&a.Envelopes, "envelopes"}, {&a.Repairs, "repairs"},
		{&a.Restores, "restores of the database"}, {&a.Reoffered, "mutations offered again"}, {&a.Salvaged, "rows salvaged"},
		{&a.Away, "absences of half a year"}, {&a.Purged, "records purged"}, {&a.Profiles, "profiles changed"}, {&a.Published, "schemas published"},
		{&a.Reboots, "reboots"}, {&a.Broken, "database connections broken"}, {&a.Paused, "transactions paused"},
		{&a.RightsChanged, "changes of rights"}, {&a.Revoked, "grants revoked"},
	}
}

// Add sums up.
func (a *Activity) Add(b Activity) {
	theirs := b.line()
	for i, c := range a.line() {
		*c.n += *theirs[i].n
	}
}

// Faults counts those that a run must have some of.
func (a Activity) Faults() int {
	return a.Kills + a.Lost + a.Late + a.Doubled + a.Partitions + a.Rewound + a.Clones + a.Damaged + a.Restores + a.Broken + a.Paused
}

// String is the line for people.
func (a Activity) String() string {
	var parts []string
	for _, c := range a.line() {
		parts = append(parts, fmt.Sprintf("%d %s", *c.n, c.what))
	}
	return strings.Join(parts, ", ")
}

// Result is what a run came to.
type Result struct {
	Seed     uint64
	Steps    int // the number of the last step before it healed
	Activity Activity
	Failures []string // broken promises, the first ones; none = passed
}

// What a run must have seen to count.
const (
	minMutations = 100
	minFaults    = 3
	usualSteps   = 180
	maxTime      = 3 * time.Minute // of one run; most take 2 seconds
)

// Run runs one seed. An error means that the run itself could not be done; broken promises are in the Result.
func Run(ctx context.Context, cfg Config) (Result, error) {
	if cfg.URL == "" {
		return Result{}, errors.New("sim: Config.URL is required")
	}
	if cfg.Steps == 0 {
		cfg.Steps = usualSteps
	}
	ctx, cancel := context.WithTimeout(ctx, maxTime)
	defer cancel()
	w, err := newWorld(ctx, cfg)
	if err != nil {
		return Result{Seed: cfg.Seed}, fmt.Errorf("sim: seed %d: %w", cfg.Seed, err)
	}
	defer w.close()
	w.faults = true
	last := 0
	for i := 1; w.goesOn(i); i++ {
		last = i
		w.enter(i)
		w.pass(time.Duration(w.rnd.IntN(300)) * time.Second) // also of a step that is left out
		if cfg.Keep != nil && !slices.Contains(cfg.Keep, i) {
			continue
		}
		if err := w.step(); err != nil {
			return Result{Seed: cfg.Seed}, fmt.Errorf("sim: seed %d, step %d: %w", cfg.Seed, w.at, err)
		}
	}
	w.enter(last + 1)
	err = w.heal()
	if err == nil {
		err = w.checkAll()
	}
	if err == nil && cfg.Steps >= usualSteps && cfg.Keep == nil && (w.act.Mutations < minMutations || w.act.Faults() < minFaults) {
		err = fmt.Errorf("too little happened: %s", w.act)
	}
	if err != nil {
		err = fmt.Errorf("sim: seed %d: %w", cfg.Seed, err)
	}
	return Result{Seed: cfg.Seed, Steps: last, Activity: w.act, Failures: w.failed}, err
}

// goesOn tells whether there is a step of that number.
func (w *world) goesOn(i int) bool {
	switch {
	case w.cfg.Keep != nil:
		return len(w.cfg.Keep) > 0 && i <= slices.Max(w.cfg.Keep)
	case i <= w.cfg.Steps:
		return true
	}
	return w.act.Mutations < minMutations && i <= 4*w.cfg.Steps
}
