// Command withpg runs a command with a fresh Postgres for tests: `go run ./internal/pgtest/withpg go test ./...`.
// The command finds its address in SATCHEL_TEST_DATABASE_URL; if that is set already, withpg just runs the command.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/satchel-sync/satchel/internal/devpg"
	"github.com/satchel-sync/satchel/internal/pgtest"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: withpg COMMAND [ARGUMENT ...]")
		os.Exit(2)
	}
	code, err := run(os.Args[1], os.Args[2:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "withpg:", err)
	}
	os.Exit(code)
}

// run gives the command's own exit code, or 1 with an error.
func run(name string, args []string) (int, error) {
	// Interrupts reach the command too; it ends, and then Postgres does.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = os.Environ()
	if os.Getenv(pgtest.EnvURL) == "" {
		s, err := devpg.StartEphemeral(ctx, nil)
		if err != nil {
			return 1, err
		}
		defer func() { _ = s.Stop(context.Background()) }() // its watchdog does it otherwise
		cmd.Env = append(cmd.Env, pgtest.EnvURL+"="+s.URL())
	}
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return max(cmd.ProcessState.ExitCode(), 1), nil
	}
	if err != nil {
		return 1, err
	}
	return 0, nil
}
