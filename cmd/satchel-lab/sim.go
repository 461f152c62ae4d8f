package main

import (
	"cmp"
	"context"
	"errors"

	"github.com/satchel-sync/satchel/internal/sim"
)

// simCmd is `satchel-lab sim`.
type simCmd struct {
	Seeds    int     `help:"How many seeds to run; 0 = 100."`
	From     uint64  `default:"1" help:"The first of them."`
	Seed     *uint64 `placeholder:"N" help:"Run this one only."`
	Steps    int     `help:"Steps of each run before everything is healed and checked; 0 = 180, more where too little happened."`
	Parallel int     `placeholder:"N" help:"Runs at once; 2, with --real 1."`
	First    bool    `help:"Stop at the first seed that fails."`
	Trace    bool    `help:"Print every step; best with --seed."`

	Real bool      `help:"Real mode: processes, sockets and Postgres restarts, on a schedule drawn from the seed."`
	Keep sim.Steps `placeholder:"3,9-12" help:"With --seed: only these steps, or with --real events of the schedule; 0 = none."`

	Twice    bool     `help:"Run each seed twice, and fail where it does not do the same again."`
	NoShrink bool     `help:"Do not look for the few steps that a failure needs."`
	Mutants  bool     `help:"Plant each known fault in turn, and run seeds until one finds it: at most --seeds, 200 where nothing is said. Needs a binary built with -tags mutants."`
	Mutant   []string `placeholder:"NAME" help:"With --mutants: only these."`
}

// Help tells more.
func (*simCmd) Help() string {
	return "Fleets of phones on the reference client meet two servers on one Postgres, over a network that loses, doubles and delays. " +
		"Phones are killed, damaged, rolled back and cloned, database connections break, transactions pause, the database is restored, rights change; then all is healed and checked " +
		"against a model. What happens follows from the seed; of a seed that fails, steps are left out as long as it still fails, and the command that runs the " +
		"rest is printed. " +
		"With --real there are two server processes and many phones at work at once, while processes are killed and stopped, Postgres is restarted, and " +
		"ways are cut; the seed draws the schedule and each phone's work, the system when they meet, so a failure may need several tries to come again; " +
		"--parallel counts whole sets of servers. Exit status 1: a promise of docs/protocol.md was broken, or a run could not be done."
}

var (
	errBroken = errors.New("promises were broken")
	errBlind  = errors.New("planted faults were not found")
)

// Run runs the seeds, on a Postgres that lives as long.
func (c *simCmd) Run(ctx context.Context, std streams) error {
	if c.Keep != nil && c.Seed == nil {
		return errors.New("--keep names steps of one seed; give --seed too")
	}
	if c.Twice && (c.Real || c.Mutants) {
		return errors.New("--twice is for the fast mode: neither real processes nor planted faults do the same again")
	}
	if c.Mutants {
		return c.mutants(ctx, std)
	}
	c.Seeds = cmp.Or(c.Seeds, 100)
	if c.Real {
		return c.real(ctx, std)
	}
	m := sim.Many{From: c.From, Seeds: c.Seeds, Parallel: c.Parallel, Steps: c.Steps, Keep: c.Keep, Whole: c.NoShrink, Trace: c.Trace, First: c.First, Twice: c.Twice,
		Out: std.out, Replay: "satchel-lab sim"}
	if c.Seed != nil {
		m.From, m.Seeds, m.Parallel = *c.Seed, 1, 1
	}
	total, err := sim.RunMany(ctx, m)
	if err != nil {
		return err
	}
	if total.Failed > 0 {
		return errBroken
	}
	return nil
}

// mutants proves that the simulator finds what is broken on purpose.
func (c *simCmd) mutants(ctx context.Context, std streams) error {
	missed, err := sim.RunMutants(ctx, sim.Mutants{Names: c.Mutant, Seeds: cmp.Or(c.Seeds, 200), From: c.From, Parallel: c.Parallel, Steps: c.Steps, Out: std.out})
	if err != nil {
		return err
	}
	if missed > 0 {
		return errBlind
	}
	return nil
}
