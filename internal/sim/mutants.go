package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/satchel-sync/satchel/internal/mutant"
)

// Mutants plants each known fault in turn and runs seeds until one fails, so that the simulator proves what it is worth.
type Mutants struct {
	Names    []string // of internal/mutant; nil = all
	Seeds    int      // at most, for each
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
		mutant.Plant(name)
		var out strings.Builder // of the seeds: what they broke is said in the table
		total, err := Many{From: 1, Seeds: m.Seeds, Parallel: m.Parallel, Steps: m.Steps, First: true, Whole: true, Out: &out}.run(ctx, address)
		if err != nil {
			return missed, fmt.Errorf("sim: with %s: %w", name, err)
		}
		if total.Failed == 0 {
			missed++
			fmt.Fprintf(m.Out, "%-18s MISSED in %3d seeds: %s\n", name, total.Passed, total.Activity)
			continue
		}
		fmt.Fprintf(m.Out, "%-18s caught after %3d seeds: %s\n", name, total.Passed+1, total.First)
	}
	fmt.Fprintf(m.Out, "%d caught, %d missed\n", len(names)-missed, missed)
	return missed, nil
}
