package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	_ "time/tzdata" // organisations have time zones, and slim images no table of them

	"github.com/alecthomas/kong"
)

// cli is the whole command line.
type cli struct {
	Serve    serveCmd    `cmd:"" help:"Serve phones, browsers and the office."`
	Migrate  migrateCmd  `cmd:"" help:"Bring the database to the shape that this version needs."`
	Org      orgCmd      `cmd:"" help:"Manage organisations."`
	User     userCmd     `cmd:"" help:"Manage people when nobody can sign in."`
	Demo     demoCmd     `cmd:"" help:"Tell the story of three phones, each step checked."`
	Doctor   doctorCmd   `cmd:"" help:"Check the database, the blob store, the clock, the disk, the secrets and the phones."`
	Restored restoredCmd `cmd:"" help:"Tell phones that the database was put back from a snapshot of its disk."`
	Media    mediaCmd    `cmd:"" help:"Compare photos and voice notes with the blob store."`
	Types    typesCmd    `cmd:"" help:"Print typed models of a schema for an app's code."`
	Version  versionCmd  `cmd:"" help:"Tell what this is."`

	StoryServer storyServerCmd `cmd:"" hidden:""`
}

// streams are where a command reads and writes.
type streams struct {
	in       *os.File
	out, err io.Writer
}

// usageError is an error of the caller: a flag is missing or makes no sense. The exit status is 2.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return usageError{fmt.Sprintf(format, args...)} }

func main() {
	os.Exit(run(os.Args[1:], streams{in: os.Stdin, out: os.Stdout, err: os.Stderr}))
}

// run gives the exit status.
func run(args []string, std streams) int {
	parser, err := kong.New(&cli{},
		kong.Name("satchel"),
		kong.Description("Satchel: the backend that a sales rep's phone syncs with."),
		kong.Writers(std.out, std.err),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
	if err != nil {
		fmt.Fprintln(std.err, "satchel:", err)
		return 1
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		help := ""
		if wrong, ok := errors.AsType[*kong.ParseError](err); ok && wrong.Context != nil {
			help = words(wrong.Context.Command())
		}
		fmt.Fprintf(std.err, "satchel: %v\nTry: satchel %s--help\n", err, help)
		return 2
	}
	// The first signal asks for a good end, the second one does not ask.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	parsed.BindTo(ctx, (*context.Context)(nil))
	parsed.Bind(std)
	err = parsed.Run()
	if err == nil {
		return 0
	}
	if _, usage := errors.AsType[usageError](err); usage {
		fmt.Fprintf(std.err, "satchel: %v\nTry: satchel %s--help\n", err, words(parsed.Command()))
		return 2
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(std.err, "satchel:", text)
	}
	return 1
}

// words gives the words of a command without its arguments, with a space behind each.
func words(command string) string {
	var b strings.Builder
	for w := range strings.FieldsSeq(command) {
		if !strings.HasPrefix(w, "<") {
			b.WriteString(w + " ")
		}
	}
	return b.String()
}
