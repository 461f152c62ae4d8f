package main

import (
	"context"
	"errors"

	"github.com/satchel-sync/satchel/internal/sim"
)

// simCmd is `satchel-lab sim`.
type simCmd struct {
	Seeds    int     `default:"100" help:"How many seeds to run."`
	From     uint64  `default:"1" help:"The first of them."`
	Seed     *uint64 `placeholder:"N" help:"Run this one only."`
	Steps    int     `default:"260" help:"Steps of each run before everything is healed and checked."`
	Parallel int     `placeholder:"N" help:"Runs at once; 2, with --real 1."`
	First    bool    `help:"Stop at the first seed that fails."`
	Trace    bool    `help:"Print every step; best with --seed."`

	Real bool  `help:"Real mode: processes, sockets and Postgres restarts, on a schedule drawn from the seed."`
	Keep []int `placeholder:"N,..." help:"With --real --seed: only these events of the schedule; 0 = none."`
}

// Help tells more.
func (*simCmd) Help() string {
	return "Fleets of phones on the reference client meet two servers on one Postgres, over a network that loses, doubles and delays. " +
		"Phones are killed, rolled back and cloned, database connections break, transactions pause, rights change; then all is healed and checked " +
		"against a model. What happens follows from the seed. " +
		"With --real there are two server processes and many phones at work at once, while processes are killed and stopped, Postgres is restarted, and " +
		"ways are cut; the seed draws the schedule and each phone's work, the system when they meet, so a failure may need several tries to come again; " +
		"--parallel counts whole sets of servers. Exit status 1: a promise of docs/protocol.md was broken, or a run could not be done."
}

var errBroken = errors.New("promises were broken")

// Run runs the seeds, on a Postgres that lives as long.
func (c *simCmd) Run(ctx context.Context, std streams) error {
	if c.Real {
		return c.real(ctx, std)
	}
	m := sim.Many{From: c.From, Seeds: c.Seeds, Parallel: c.Parallel, Steps: c.Steps, Trace: c.Trace, First: c.First, Out: std.out, Replay: "satchel-lab sim --seed"}
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
