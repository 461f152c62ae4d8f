// Command satchel-lab is the laboratory: it measures the product, proves it under faults, and is not part of it.
// `satchel-lab bench` is what docs/performance.md describes; `satchel-lab sim` checks what docs/protocol.md promises.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // organisations have time zones, and slim images no table of them

	"github.com/alecthomas/kong"

	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/internal/bench"
)

// cli is the whole command line.
type cli struct {
	Bench   benchCmd   `cmd:"" help:"Measure sync beside the floor of the same Postgres."`
	Sim     simCmd     `cmd:"" help:"Prove the promises of sync on seeded fleets under faults."`
	Servers serversCmd `cmd:"" hidden:"" help:"The servers' process of bench."`
	Serve   serveCmd   `cmd:"" hidden:"" help:"A server's process of sim --real."`
}

// streams are where a command reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// serversCmd is what bench starts.
type serversCmd struct{}

// Run serves until its input ends.
func (serversCmd) Run(std streams) error {
	// Ctrl-C reaches the whole group; bench ends this process in order by closing its input.
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go app.Breathe(ctx, os.Getenv("GOGC")) // as satchel serve does
	return bench.Serve(ctx, std.in, std.out)
}

var errMissed = errors.New("figures that are not where they must be")

func main() {
	os.Exit(run(os.Args[1:], streams{in: os.Stdin, out: os.Stdout, err: os.Stderr}))
}

// run gives the exit status: 0, 1 for an error or a figure that misses its bar, 2 for a wrong command line.
func run(args []string, std streams) int {
	parser, err := kong.New(&cli{}, kong.Name("satchel-lab"), kong.Writers(std.out, std.err),
		kong.Description("The laboratory of Satchel: measures it beside what Postgres itself can do, and proves it under faults."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}))
	if err != nil {
		fmt.Fprintln(std.err, "satchel-lab:", err)
		return 1
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(std.err, "satchel-lab: %v\nTry: satchel-lab --help\n", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the second signal does not ask
	parsed.BindTo(ctx, (*context.Context)(nil))
	parsed.Bind(std)
	if err := parsed.Run(); err != nil {
		fmt.Fprintln(std.err, "satchel-lab:", err)
		return 1
	}
	return 0
}
