package bench

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/satchel-sync/satchel/internal/pgtest"
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
	pgtest.Main(m)
}

func servers(ctx context.Context) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], "servers")
	cmd.Stderr = os.Stderr
	return cmd
}

func TestARunTakesEveryFigureAndEndsByItself(t *testing.T) {
	t.Parallel()
	url := pgtest.Empty(t)
	report, err := Run(t.Context(), Config{DatabaseURL: url, Mode: TinyMode, Servers: servers, Profile: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"initial_vs_floor", "initial_gzip_vs_floor", "initial_wire_mb", "initial_rep_p50_ms", "rss_mib",
		"delta_vs_floor", "delta_p50_ms", "idle_vs_echo", "idle_body_bytes", "wire_bytes_per_visit",
		"push_vs_floor", "push_mutations_per_s", "push_one_vs_floor", "push_mix_vs_floor"} {
		f := report.Figure(name)
		if f == nil || f.Value <= 0 || f.Q1 > f.Value || f.Q3 < f.Value || len(f.Samples) == 0 {
			t.Errorf("%s: %+v", name, f)
		}
	}
	if plain, zip := report.Figure("initial_wire_mb"), report.Figure("initial_gzip_wire_mb"); zip.Value > plain.Value*0.7 {
		t.Errorf("compressed, a first sync takes %.3f MB, and %.3f without", zip.Value, plain.Value)
	}
	raw, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), password) {
		t.Error("the report holds a password")
	}
	var text strings.Builder
	if err := report.Print(&text); err != nil || !strings.Contains(text.String(), "push_mix_mutations_per_s") {
		t.Errorf("printed: %v\n%s", err, text.String())
	}
}

func TestAnUnknownWorkIsRefusedBeforeAnythingIsDone(t *testing.T) {
	t.Parallel()
	_, err := Run(t.Context(), Config{Mode: TinyMode, Servers: servers, Only: []string{"pish"}})
	if err == nil || !strings.Contains(err.Error(), "push_mix") {
		t.Fatalf("the error names what there is: %v", err)
	}
}

func TestAFigureThatMissesItsBarIsNamed(t *testing.T) {
	t.Parallel()
	low, high := 0.2, 3.0
	r := Report{Figures: []Figure{
		{Name: "a", Better: higher, Value: 0.19, Must: &low}, {Name: "b", Better: higher, Value: 0.2, Must: &low},
		{Name: "c", Better: lower, Value: 3.1, Must: &high}, {Name: "d", Better: lower, Value: 3, Must: &high}, {Name: "e", Better: lower, Value: 9},
	}}
	if got := r.Missed(); !slices.Equal(got, []string{"a", "c"}) {
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
