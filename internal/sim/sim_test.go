package sim_test

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/satchel-sync/satchel/internal/pgtest"
	"github.com/satchel-sync/satchel/internal/sim"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// The seeds are some that broke promises when they were first run; `satchel-lab sim` runs as many as one likes.
func TestFleetsUnderFaultsKeepEveryPromise(t *testing.T) {
	t.Parallel()
	for _, seed := range []uint64{10, 24, 39, 45} {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			r, err := sim.Run(t.Context(), sim.Config{URL: pgtest.URL(t), Seed: seed})
			if err != nil {
				t.Fatal(err)
			}
			if r.Activity.Mutations < 100 || r.Activity.Faults() < 3 || r.Activity.RightsChanged == 0 {
				t.Errorf("too little happened: %s", r.Activity)
			}
			for _, f := range r.Failures {
				t.Error(f)
			}
			t.Logf("again: go run ./cmd/satchel-lab sim --seed %d --trace", seed)
		})
	}
}

func TestASeedDoesTheSameEachTime(t *testing.T) {
	t.Parallel()
	random := regexp.MustCompile(`\(request [^)]*\)`)
	run := func() []string {
		var trace bytes.Buffer
		if _, err := sim.Run(t.Context(), sim.Config{URL: pgtest.URL(t), Seed: 7, Steps: 60, Trace: &trace}); err != nil {
			t.Fatal(err)
		}
		return strings.Split(random.ReplaceAllString(trace.String(), ""), "\n")
	}
	first, second := run(), run()
	for i, line := range first {
		if i >= len(second) || second[i] != line {
			t.Fatalf("line %d: %q, then %q", i, line, append(second, "the end")[min(i, len(second))])
		}
	}
	if len(first) < 100 {
		t.Errorf("the trace has %d lines", len(first))
	}
}
