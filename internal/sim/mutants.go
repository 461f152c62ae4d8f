package sim

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/satchel-sync/satchel/internal/mutant"
)

// Mutants plants each known fault in turn and runs seeds until one fails, so that the simulator proves what it is worth.
type Mutants struct {
	Names    []string // of internal/mutant; nil = all
	Seeds    int      // at most, for each
	From     uint64   // the first seed; 0 = 1
	Parallel int
	Steps    int
	Out      io.Writer // a table of what caught each, then `N caught, M missed`
}

// ErrNoMutants says that faults can be planted in no binary but one that is built for it.
var ErrNoMutants = errors.New("no faults can be planted in this binary; build one with: go build -tags mutants ./cmd/satchel-lab")

// RunMutants tells how many faults no seed found. It is for one caller at a time: a fault is planted in the process.
func RunMutants(ctx context.Context, m Mutants) (missed int, err error) {
	if !mutant.Built {
		return 0, ErrNoMutants
	}
	names := m.Names
	if names == nil {
		names = mutant.Names()
	}
	address, end, err := begin(ctx)
	if err != nil {
		return 0, err
	}
	defer end()
	defer mutant.Plant("")
	for _, name := range names {
		seeds, by, err := m.hunt(ctx, address, name)
		switch {
		case err != nil:
			return missed, fmt.Errorf("sim: with %s: %w", name, err)
		case by == "":
			missed++
			fmt.Fprintf(m.Out, "%-18s MISSED in %3d seeds\n", name, seeds)
		default:
			fmt.Fprintf(m.Out, "%-18s caught after %3d seeds: %s\n", name, seeds, by)
		}
	}
	fmt.Fprintf(m.Out, "%d caught, %d missed\n", len(names)-missed, missed)
	return missed, nil
}

// hunt runs seeds until one finds the fault: it fails, and does not without it. by is what it broke.
func (m Mutants) hunt(ctx context.Context, address, name string) (seeds int, by string, err error) {
	many := Many{From: max(m.From, 1), Seeds: m.Seeds, Parallel: m.Parallel, Steps: m.Steps, First: true, Whole: true, Out: io.Discard}
	for many.Seeds > 0 {
		mutant.Plant(name)
		total, err := many.run(ctx, address)
		if err != nil || total.Failed == 0 {
			return m.Seeds, "", err
		}
		many.From, many.Seeds = total.FirstSeed+1, m.Seeds-int(total.FirstSeed)
		if !total.Broken { // it could not be run
			continue
		}
		mutant.Plant("")
		again, err := many.one(ctx, address, total.FirstSeed, nil, nil)
		if ctx.Err() != nil {
			return m.Seeds, "", ctx.Err()
		}
		seeds = int(total.FirstSeed)
		if err == nil && len(again.Failures) == 0 {
			return seeds, total.First, nil
		}
	}
	return m.Seeds, "", nil
}
