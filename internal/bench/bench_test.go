package bench

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/satchel-sync/satchel/internal/bench/dataset"
	"github.com/satchel-sync/satchel/internal/devpg"
)

// TestMain lets this binary be the servers' process too.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "servers" {
		if err := Serve(context.Background(), os.Stdin, os.Stdout); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func servers(ctx context.Context) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], "servers")
	cmd.Stderr = os.Stderr
	return cmd
}

// postgres starts one with settings of its own.
func postgres(t *testing.T, settings map[string]string) string {
	t.Helper()
	all := map[string]string{"track_commit_timestamp": "on"}
	maps.Copy(all, settings)
	pg, err := devpg.StartEphemeral(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pg.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return pg.URL()
}

func TestARunTakesEveryFigureAndEndsByItself(t *testing.T) {
	t.Parallel()
	report, err := Run(t.Context(), Config{DatabaseURL: postgres(t, nil), Mode: TinyMode, Servers: servers, Profile: t.TempDir(),
		SlowDisk: func(context.Context) (string, func(), error) {
			// It stands for a slow disk here: a commit waits that long, though it is not the flush that takes it.
			return postgres(t, map[string]string{"fsync": "on", "synchronous_commit": "on", "commit_delay": "2500", "commit_siblings": "0"}), func() {}, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	beside := []string{"initial_wire_mb", "initial_rep_p50_ms", "delta_p50_ms", "push_mutations_per_s", "push_create_vs_floor",
		"push_one_vs_floor", "fanout_p99_ms", "storm_p50_s"}
	for _, name := range append(slices.Collect(maps.Keys(bars)), beside...) {
		f := report.Figure(name)
		if f == nil || f.Value <= 0 || f.Q1 > f.Value || f.Q3 < f.Value || len(f.Samples) == 0 {
			t.Errorf("%s: %+v", name, f)
		}
	}
	storm, reps := report.Figure("morning_storm"), TinyMode.Storm.Reps()
	if storm.Fault != "" || storm.Counts["verdicts APPLIED"] != reps*batchSize || storm.Counts["calls"] < reps {
		t.Errorf("the storm of %d reps: %+v", reps, storm)
	}
	if len(report.NotTaken)+len(report.Failed) > 0 {
		t.Errorf("not taken: %v; failed: %v", report.NotTaken, report.Failed)
	}
	if plain, zip := report.Figure("initial_plain_wire_mb"), report.Figure("initial_wire_mb"); zip.Value > plain.Value*0.7 {
		t.Errorf("compressed, a first sync takes %.3f MB, and %.3f without", zip.Value, plain.Value)
	}
	raw, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), dataset.Password) {
		t.Error("the report holds a password")
	}
	var text strings.Builder
	if err := report.Print(&text); err != nil || !strings.Contains(text.String(), "one_org_mutations_per_s") {
		t.Errorf("printed: %v\n%s", err, text.String())
	}
}

func TestAnUnknownWorkIsRefusedBeforeAnythingIsDone(t *testing.T) {
	t.Parallel()
	_, err := Run(t.Context(), Config{Mode: TinyMode, Servers: servers, Only: []string{"pish"}})
	if err == nil || !strings.Contains(err.Error(), "one_org_vs_eight") {
		t.Fatalf("the error names what there is: %v", err)
	}
}

func TestAStormFailsByARepThatIsNotDoneAndByAChangeThatIsNotApplied(t *testing.T) {
	t.Parallel()
	for want, one := range map[string]*tally{
		"":                    {done: 2, counts: map[string]int{"verdicts APPLIED": 2 * batchSize}},
		"1 of 2 reps":         {done: 1, counts: map[string]int{"verdicts APPLIED": 2 * batchSize}},
		"1 of 100 changes":    {done: 2, counts: map[string]int{"verdicts APPLIED": 2*batchSize - 1, "verdicts REJECTED": 1}},
		"100 of 100 changes ": {done: 2},
	} {
		if got := one.fault(2); !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("%q, not %q", got, want)
		}
	}
}

func TestAFigureWithABarIsAWorkToo(t *testing.T) {
	t.Parallel()
	for name := range bars {
		if err := CheckWorks([]string{name}); err != nil {
			t.Error(err)
		}
	}
	for _, w := range works() {
		for _, f := range w.figures {
			if _, ok := bars[f]; !ok {
				t.Errorf("%s names %s, which has no bar", w.name, f)
			}
		}
	}
}

func TestAFigureThatMissesItsBarIsNamed(t *testing.T) {
	t.Parallel()
	low, high := 0.2, 3.0
	r := Report{Failed: map[string]string{"idle": "there was something to pull"}, Figures: []Figure{
		{Name: "a", Better: higher, Value: 0.19, Must: &low}, {Name: "b", Better: higher, Value: 0.2, Must: &low},
		{Name: "c", Better: lower, Value: 3.1, Must: &high}, {Name: "d", Better: lower, Value: 3, Must: &high}, {Name: "e", Better: lower, Value: 9},
		{Name: "f", Better: lower, Value: 1, Must: &high, Fault: "3 of 10 were not done"},
	}}
	if got := r.Missed(); !slices.Equal(got, []string{"idle", "a", "c", "f"}) {
		t.Fatalf("missed: %v", got)
	}
}

func TestQuantilesLieBetweenTheValues(t *testing.T) {
	t.Parallel()
	values := []float64{4, 1, 3, 2, 5}
	for q, want := range map[float64]float64{0: 1, 0.25: 2, 0.5: 3, 0.9: 4.6, 1: 5} {
		if got := quantile(values, q); got < want-1e-9 || got > want+1e-9 {
			t.Errorf("quantile %v: %v, not %v", q, got, want)
		}
	}
	if quantile(nil, 0.5) != 0 {
		t.Error("of none it is 0")
	}
}
