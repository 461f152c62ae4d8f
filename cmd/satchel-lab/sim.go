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
	Parallel int     `default:"2" help:"Runs at once."`
	First    bool    `help:"Stop at the first seed that fails."`
	Trace    bool    `help:"Print every step; best with --seed."`
}

// Help tells more.
func (*simCmd) Help() string {
	return "Fleets of phones on the reference client meet two servers on one Postgres, over a network that loses, doubles and delays. " +
		"Phones are killed, rolled back and cloned, database connections break, transactions pause, rights change; then all is healed and checked " +
		"against a model. What happens follows from the seed. Exit status 1: a promise of docs/protocol.md was broken, or a run could not be done."
}

var errBroken = errors.New("promises were broken")

// Run runs the seeds, on a Postgres that lives as long.
func (c *simCmd) Run(ctx context.Context, std streams) error {
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
