package main

import (
	"context"
	"errors"
	"os"
	"os/exec"

	"github.com/satchel-sync/satchel/internal/nemesis"
)

// serveCmd is what sim --real starts.
type serveCmd struct{}

// Run serves until its input ends.
func (serveCmd) Run(std streams) error {
	// Ctrl-C is for sim, which ends this process in order.
	return nemesis.Serve(context.Background(), std.in, std.out, std.err)
}

// real runs seeds in real mode.
func (c *simCmd) real(ctx context.Context, std streams) error {
	if c.Keep != nil && c.Seed == nil {
		return errors.New("--keep names events of one seed's schedule; give --seed too")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	m := nemesis.Many{From: c.From, Seeds: c.Seeds, Parallel: c.Parallel, Keep: c.Keep, Trace: c.Trace, First: c.First, Out: std.out,
		Replay: "satchel-lab sim --real",
		Server: func(ctx context.Context) *exec.Cmd { return exec.CommandContext(ctx, self, "serve") }}
	if c.Seed != nil {
		m.From, m.Seeds, m.Parallel = *c.Seed, 1, 1
	}
	total, err := nemesis.RunMany(ctx, m)
	if err != nil {
		return err
	}
	if total.Failed > 0 {
		return errBroken
	}
	return nil
}
