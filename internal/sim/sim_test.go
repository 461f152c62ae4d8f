package sim_test

import (
	"bytes"
	"fmt"
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

// The seeds are some that once did not; `satchel-lab sim --twice` runs as many as one likes.
func TestASeedDoesTheSameEachTime(t *testing.T) {
	t.Parallel()
	for _, seed := range []uint64{5, 15} {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			run := func() string {
				var trace bytes.Buffer
				if _, err := sim.Run(t.Context(), sim.Config{URL: pgtest.URL(t), Seed: seed, Trace: &trace}); err != nil {
					t.Fatal(err)
				}
				return trace.String()
			}
			first := run()
			if d := sim.Difference(first, run()); d != "" {
				t.Error(d)
			}
			if n := strings.Count(first, "\n"); n < 300 {
				t.Errorf("the trace has %d lines", n)
			}
		})
	}
}

func TestTracesAreComparedByWhichIdIsWhich(t *testing.T) {
	t.Parallel()
	const a, b, c = "0192d3a0-0000-7000-8000-000000000001", "0192d3a0-0000-7000-8000-000000000002", "0192d3a0-0000-7000-8000-000000000003"
	trace := func(first, second, third string) string {
		return first + " and " + second + "\n" + third + " (request " + third + ")"
	}
	if d := sim.Difference(trace(a, b, a), trace(b, c, b)); d != "" {
		t.Errorf("other ids in the same places differ: %s", d)
	}
	if d := sim.Difference(trace(a, b, a), trace(a, b, b)); !strings.HasPrefix(d, "line 2: ") {
		t.Errorf("the other one of two ids in the second line: %q", d)
	}
	if d := sim.Difference("1\n2", "1"); d != `line 2: "2", then "the end"` {
		t.Errorf("a line less: %q", d)
	}
}
