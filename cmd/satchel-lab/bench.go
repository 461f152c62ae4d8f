package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/satchel-sync/satchel/internal/bench"
	"github.com/satchel-sync/satchel/internal/devpg"
)

// benchCmd is `satchel-lab bench`.
type benchCmd struct {
	JSON    bool     `name:"json" help:"Write the report as JSON to the standard output; the table for people goes to the standard error."`
	Only    []string `placeholder:"NAME" help:"Do only these works, or those of these figures; --help of bench lists them."`
	Quick   bool     `help:"A tenth of the data and few turns: a minute, for a first look, not for comparisons."`
	Profile string   `type:"path" placeholder:"FOLDER" help:"Write a CPU profile of the servers' process for each work into the folder, and report Postgres' statements. What is measured becomes a little slower."`
	DataDir string   `env:"SATCHEL_LAB_DATA_DIR" default:"var/bench" type:"path" help:"Where the private Postgres lies; the loaded data stay there for the next run."`

	DatabaseURL string `env:"SATCHEL_LAB_DATABASE_URL" placeholder:"URL" help:"Measure on this Postgres instead (a superuser's address; databases named satchel_bench_* are made and dropped)."`
}

// Help tells more.
func (*benchCmd) Help() string {
	return "Works, with the figures of each that have a bar: " + strings.Join(bench.Works(), "; ") + ". Each runs in turns with the floor: the least that Postgres itself can do the same " +
		"work with. Clients are in this process, the servers in another, Postgres beside them; nothing else should run meanwhile. " +
		"docs/performance.md says what each figure means. Exit status 1: a figure misses its bar, or something was not as it must be."
}

// settings are Postgres', as other systems were measured with; all waiting for the disk is on.
func (c *benchCmd) settings() map[string]string {
	s := map[string]string{
		"shared_buffers": "2GB", "wal_level": "logical", "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on",
		"jit": "off", "max_wal_size": "4GB", "track_commit_timestamp": "on",
	}
	if c.Profile != "" {
		s["shared_preload_libraries"] = "pg_stat_statements"
	}
	return s
}

// start starts a private Postgres in a folder of the data directory.
func (c *benchCmd) start(ctx context.Context, std streams, folder string, env ...string) (url string, stop func(), err error) {
	pg, err := devpg.Start(ctx, devpg.Config{Dir: filepath.Join(c.DataDir, folder), Settings: c.settings(), Env: env, Log: std.err})
	if err != nil {
		return "", nil, err
	}
	return pg.URL(), func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		_ = pg.Stop(end) // the next start recovers what a hard stop left
	}, nil
}

// Run measures and reports.
func (c *benchCmd) Run(ctx context.Context, std streams) error {
	if err := bench.CheckWorks(c.Only); err != nil { // before a Postgres is started
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	url := c.DatabaseURL
	var slow func(context.Context) (string, func(), error)
	if url == "" {
		var stop func()
		if url, stop, err = c.start(ctx, std, "pg"); err != nil {
			return err
		}
		defer stop()
		slow = func(ctx context.Context) (string, func(), error) { return c.slowDisk(ctx, std) }
	}
	mode := bench.FullMode
	if c.Quick {
		mode = bench.QuickMode
	}
	report, err := bench.Run(ctx, bench.Config{
		DatabaseURL: url, Keep: true, Mode: mode, SlowDisk: slow, Only: c.Only, Profile: c.Profile, Log: std.err,
		Servers: func(ctx context.Context) *exec.Cmd {
			cmd := exec.CommandContext(ctx, self, "servers")
			cmd.Stderr = os.Stderr
			return cmd
		},
	})
	if err != nil {
		return err
	}
	people := std.out
	if c.JSON {
		people = std.err
	}
	if err := report.Print(people); err != nil {
		return err
	}
	if c.JSON {
		enc := json.NewEncoder(std.out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(report); err != nil {
			return err
		}
	}
	if missed := report.Missed(); len(missed) > 0 {
		return fmt.Errorf("%w: %s", errMissed, strings.Join(missed, ", "))
	}
	return nil
}
