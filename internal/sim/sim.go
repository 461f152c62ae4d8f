package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Config says what to run.
type Config struct {
	// URL is the address of a migrated database that holds nothing; the run is alone on it.
	URL string
	// Seed is what every choice follows from.
	Seed uint64
	// Steps bounds the run before it heals; 0 = 260.
	Steps int
	// Trace, when set, is told every step.
	Trace io.Writer
}

// Activity counts what happened in a run.
type Activity struct {
	Mutations, Verdicts, Conflicts, Refused int
	Kills, Lost, Late, Doubled, Partitions  int
	Restores, Clones, Forks, Reboots        int
	Broken, Paused                          int
	RightsChanged                           int
}

// Add sums up.
func (a *Activity) Add(b Activity) {
	a.Mutations, a.Verdicts, a.Conflicts, a.Refused = a.Mutations+b.Mutations, a.Verdicts+b.Verdicts, a.Conflicts+b.Conflicts, a.Refused+b.Refused
	a.Kills, a.Lost, a.Late, a.Doubled, a.Partitions = a.Kills+b.Kills, a.Lost+b.Lost, a.Late+b.Late, a.Doubled+b.Doubled, a.Partitions+b.Partitions
	a.Restores, a.Clones, a.Forks, a.Reboots = a.Restores+b.Restores, a.Clones+b.Clones, a.Forks+b.Forks, a.Reboots+b.Reboots
	a.Broken, a.Paused, a.RightsChanged = a.Broken+b.Broken, a.Paused+b.Paused, a.RightsChanged+b.RightsChanged
}

// Faults counts those that a run must have some of.
func (a Activity) Faults() int {
	return a.Kills + a.Lost + a.Late + a.Doubled + a.Partitions + a.Restores + a.Clones + a.Broken + a.Paused
}

// String is the line for people.
func (a Activity) String() string {
	return fmt.Sprintf("%d mutations, %d verdicts heard, %d conflicts, %d refused; %d kills, %d partitions, %d messages lost, %d late, %d doubled; "+
		"%d forks, %d stores restored, %d cloned, %d reboots; %d database connections broken, %d transactions paused; %d changes of rights",
		a.Mutations, a.Verdicts, a.Conflicts, a.Refused, a.Kills, a.Partitions, a.Lost, a.Late, a.Doubled, a.Forks, a.Restores, a.Clones, a.Reboots,
		a.Broken, a.Paused, a.RightsChanged)
}

// Result is what a run came to.
type Result struct {
	Seed     uint64
	Activity Activity
	Failures []string // broken promises, the first ones; none = passed
}

// What a run must have seen to count.
const (
	minMutations = 100
	minFaults    = 3
	maxTime      = 3 * time.Minute // of one run; most take 3 seconds
)

// Run runs one seed. An error means that the run itself could not be done; broken promises are in the Result.
func Run(ctx context.Context, cfg Config) (Result, error) {
	if cfg.URL == "" {
		return Result{}, errors.New("sim: Config.URL is required")
	}
	if cfg.Steps == 0 {
		cfg.Steps = 260
	}
	ctx, cancel := context.WithTimeout(ctx, maxTime)
	defer cancel()
	w, err := newWorld(ctx, cfg)
	if err != nil {
		return Result{Seed: cfg.Seed}, fmt.Errorf("sim: seed %d: %w", cfg.Seed, err)
	}
	defer w.close()
	w.faults, w.bad = true, w.rnd.IntN(60)
	for i := 0; i < cfg.Steps || w.act.Mutations < minMutations && i < 4*cfg.Steps; i++ {
		if err := w.step(); err != nil {
			return Result{Seed: cfg.Seed}, fmt.Errorf("sim: seed %d, step %d: %w", cfg.Seed, w.at, err)
		}
	}
	err = w.heal()
	if err == nil {
		err = w.checkAll()
	}
	if err == nil && cfg.Steps >= 200 && (w.act.Mutations < minMutations || w.act.Faults() < minFaults) {
		err = fmt.Errorf("too little happened: %s", w.act)
	}
	if err != nil {
		err = fmt.Errorf("sim: seed %d: %w", cfg.Seed, err)
	}
	return Result{Seed: cfg.Seed, Activity: w.act, Failures: w.failed}, err
}
