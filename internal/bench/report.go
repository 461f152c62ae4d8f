package bench

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"text/tabwriter"
)

// Report is what a run found. As JSON it is what docs/performance.md quotes.
type Report struct {
	At       string            `json:"at"`
	Revision string            `json:"revision"` // git's; "+" = with changes, "" = unknown
	Mode     Mode              `json:"mode"`
	Machine  Machine           `json:"machine"`
	Postgres map[string]string `json:"postgres"`
	FlushUS  float64           `json:"flush_us"` // median fdatasync of 8 KiB
	TookS    float64           `json:"took_s"`
	ReadyS   float64           `json:"ready_s"` // beside took_s: loading and copying data
	Figures  []Figure          `json:"figures"`
	Split    []Split           `json:"split"`
	// NotTaken says of figures with a bar why they could not be taken here. They count as neither met nor missed.
	NotTaken map[string]string `json:"not_taken,omitempty"`
	// Failed says of works why they ended early: what they measured until then is worth nothing.
	Failed map[string]string `json:"failed,omitempty"`
	// Statements are Postgres' own account of each work; only where a profile was asked for.
	Statements map[string][]Statement `json:"statements,omitempty"`
}

// Figure is one number with what it was made of.
type Figure struct {
	Name   string  `json:"name"`
	Unit   string  `json:"unit"`
	Better string  `json:"better"` // "higher" or "lower"
	Value  float64 `json:"value"`  // the median
	Q1     float64 `json:"q1"`
	Q3     float64 `json:"q3"`
	// Samples are one value a pair; a ratio's are ours over the floor's of the same pair.
	Samples []float64 `json:"samples"`
	// Must and Hoped are the bars; nil = there is none.
	Must  *float64 `json:"must,omitempty"`
	Hoped *float64 `json:"hoped,omitempty"`
	// Counts are of what happened, by name; nil where there is nothing to count.
	Counts map[string]int `json:"counts,omitempty"`
	// Fault says what was not as it must be, whatever the value; the bar counts as missed then. "" = nothing.
	Fault string `json:"fault,omitempty"`
}

// Met tells whether the figure is where it must be; without a bar it is.
func (f Figure) Met() bool {
	switch {
	case f.Fault != "":
		return false
	case f.Must == nil:
		return true
	case f.Better == higher:
		return f.Value >= *f.Must
	default:
		return f.Value <= *f.Must
	}
}

const (
	higher = "higher"
	lower  = "lower"
)

// Split tells which processes used the processor for a work, in milliseconds of one core for each unit of it. What the
// wall clock has beyond their sum over the cores is waiting: for the disk, for locks, for each other.
type Split struct {
	Work     string  `json:"work"` // such as "push"; "floor" is in the name of the floor's
	Per      string  `json:"per"`  // the unit
	Wall     float64 `json:"wall_ms"`
	Client   float64 `json:"client_ms"`
	Server   float64 `json:"server_ms"`   // 0 for a floor that needs none
	Postgres float64 `json:"postgres_ms"` // 0 = unknown on this system
}

// Statement is one of pg_stat_statements.
type Statement struct {
	Name    string  `json:"name"`
	Calls   int64   `json:"calls"`
	TotalMS float64 `json:"total_ms"`
	Rows    int64   `json:"rows"`
	WALMB   float64 `json:"wal_mb"`
}

// add puts a figure in, with the median and quartiles of its samples. What it gives is good until the next one.
func (r *Report) add(name, unit, better string, samples []float64) *Figure {
	f := Figure{Name: name, Unit: unit, Better: better, Samples: samples,
		Value: quantile(samples, 0.5), Q1: quantile(samples, 0.25), Q3: quantile(samples, 0.75)}
	if bar, ok := bars[name]; ok {
		f.Must, f.Hoped = &bar[0], &bar[1]
	}
	r.Figures = append(r.Figures, f)
	return &r.Figures[len(r.Figures)-1]
}

// bars are what figures must reach and what is hoped for, by name, as the issue has them. A figure that misses its bar
// makes `satchel-lab bench` fail.
var bars = map[string][2]float64{
	"push_vs_floor":         {0.2, 0.3},
	"one_org_vs_eight":      {0.65, 0.9},
	"push_slow_disk":        {3000, 8000},
	"initial_vs_floor":      {0.5, 0.8},
	"initial_gzip_vs_floor": {0.27, 0.4},
	"delta_vs_floor":        {3, 2},
	"delta_growth":          {1.3, 1.05},
	"idle_body_bytes":       {150, 100},
	"idle_vs_echo":          {5, 3},
	"fanout_p50_vs_floor":   {1.5, 1},
	"fanout_p99_vs_floor":   {2.5, 1},
	"waiter_kib":            {40, 20},
	"rss_mib":               {80, 50},
	"morning_storm":         {60, 20},
	"wire_bytes_per_visit":  {1500, 900},
}

// Missed lists the figures that are not where they must be, and the works that failed.
func (r *Report) Missed() []string {
	out := slices.Sorted(maps.Keys(r.Failed))
	for _, f := range r.Figures {
		if !f.Met() {
			out = append(out, f.Name)
		}
	}
	return out
}

// Figure gives a figure by its name; nil = it was not taken.
func (r *Report) Figure(name string) *Figure {
	i := slices.IndexFunc(r.Figures, func(f Figure) bool { return f.Name == name })
	if i < 0 {
		return nil
	}
	return &r.Figures[i]
}

// Print writes the report for people.
func (r *Report) Print(out io.Writer) error {
	fmt.Fprintf(out, "%s, %d cores, %d MiB; %s; Postgres %s, fsync %s, shared_buffers %s; a flush takes %.0f µs\n",
		r.Machine.CPU, r.Machine.Cores, r.Machine.MemMiB, r.Machine.Go, r.Postgres["server_version"], r.Postgres["fsync"],
		r.Postgres["shared_buffers"], r.FlushUS)
	fmt.Fprintf(out, "%s: %d visits, %d reps, managers of %d; revision %s; %.0f s, and %.0f s for the data\n\n", r.Mode.Name, r.Mode.Scale.Visits(), r.Mode.Scale.Reps(),
		r.Mode.Scale.RepsPerTeam, r.Revision, r.TookS, r.ReadyS)
	t := tabwriter.NewWriter(out, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "figure\tmedian\tquartiles\tunit\tn\tmust be\thoped for\t\t")
	for _, f := range r.Figures {
		must, hoped, mark := "", "", ""
		if f.Must != nil {
			sign := "≤ "
			if f.Better == higher {
				sign = "≥ "
			}
			must, hoped, mark = sign+bar(*f.Must), bar(*f.Hoped), "ok"
		}
		if !f.Met() {
			mark = "MISSED"
		}
		fmt.Fprintf(t, "%s\t%s\t%s – %s\t%s\t%d\t%s\t%s\t%s\t\n", f.Name, short(f.Value), short(f.Q1), short(f.Q3), f.Unit, len(f.Samples), must, hoped, mark)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, f := range r.Figures {
		for _, name := range slices.Sorted(maps.Keys(f.Counts)) {
			fmt.Fprintf(out, "%s: %d %s\n", f.Name, f.Counts[name], name)
		}
		if f.Fault != "" {
			fmt.Fprintf(out, "%s: %s\n", f.Name, f.Fault)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Failed)) {
		fmt.Fprintf(out, "%s failed: %s\n", name, r.Failed[name])
	}
	for _, name := range slices.Sorted(maps.Keys(r.NotTaken)) {
		fmt.Fprintf(out, "%s was not taken: %s\n", name, r.NotTaken[name])
	}
	fmt.Fprintln(out, "\nwhere the processor's time goes (ms of one core)")
	t = tabwriter.NewWriter(out, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "work\tper\twall\tclient\tserver\tpostgres\t")
	for _, s := range r.Split {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t\n", s.Work, s.Per, short(s.Wall), short(s.Client), short(s.Server), short(s.Postgres))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, work := range slices.Sorted(maps.Keys(r.Statements)) {
		fmt.Fprintf(out, "\nstatements of %s (the floor's too)\n", work)
		t = tabwriter.NewWriter(out, 0, 8, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(t, "statement\tcalls\tms\tms a call\trows\tWAL MB\t")
		for _, s := range r.Statements[work] {
			fmt.Fprintf(t, "%s\t%d\t%s\t%.3f\t%d\t%s\t\n", s.Name, s.Calls, short(s.TotalMS), s.TotalMS/float64(max(s.Calls, 1)), s.Rows, short(s.WALMB))
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// bar spells a bar as it was agreed.
func bar(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// short spells a number with three digits that matter.
func short(v float64) string {
	switch {
	case v >= 100 || v <= -100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}
