package devpg

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// StartEphemeral gives an empty Postgres for tests: in a temporary directory, without waiting for the disk, removed by
// Stop, and also when this process dies in any way. settings go over the defaults; for tests of durability give
// {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}.
func StartEphemeral(ctx context.Context, settings map[string]string) (*Server, error) {
	all := map[string]string{"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off",
		"wal_level": "minimal", "max_wal_senders": "0", "max_connections": "300", "max_wal_size": "4GB",
		"autovacuum_naptime": "10min"}
	for k, v := range settings {
		all[k] = v
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	s, err := newEphemeral(ctx, all)
	if err != nil {
		return nil, err
	}
	if err := s.open(ctx); err != nil {
		s.discard()
		return nil, err
	}
	return s, nil
}

// newEphemeral makes the home and the watchdog of a server that is not started yet.
func newEphemeral(ctx context.Context, settings map[string]string) (*Server, error) {
	bin, err := Find()
	if err != nil {
		return nil, err
	}
	who, err := accountForPostgres(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "satchel-pg-")
	if err != nil {
		return nil, err
	}
	home, err := who.home(ctx, dir, filepath.Join("/tmp", filepath.Base(dir)))
	if home != dir {
		_ = os.Remove(dir) // TMPDIR is a place that only root reaches
	}
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: Config{Dir: home, Settings: settings, Log: io.Discard}, bin: bin, home: home, who: who}
	if s.ephemeral, err = watch(home); err != nil {
		_ = os.RemoveAll(home)
		return nil, err
	}
	return s, nil
}

// discard removes an ephemeral server that does not run.
func (s *Server) discard() {
	s.ephemeral.end()
	_ = os.RemoveAll(s.home)
}

// watchdog is a shell that reads a pipe from this process. However this process ends, the pipe closes, and the shell
// stops the postmaster and removes its home.
type watchdog struct {
	cmd  *exec.Cmd
	pipe io.Closer
}

const watchdogScript = `read -r _
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
if [ -n "$pid" ]; then
	kill -QUIT "$pid" 2>/dev/null
	n=0
	while kill -0 "$pid" 2>/dev/null && [ $n -lt 50 ]; do sleep 0.1; n=$((n+1)); done
fi
rm -rf "$1"`

func watch(home string) (*watchdog, error) {
	cmd := exec.Command("/bin/sh", "-c", watchdogScript, "sh", home)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("devpg: %w", err)
	}
	return &watchdog{cmd: cmd, pipe: pipe}, nil
}

// end dismisses the watchdog without its doing anything.
func (w *watchdog) end() {
	_ = w.cmd.Process.Kill()
	_ = w.cmd.Wait() // killed is how it should end
	_ = w.pipe.Close()
}
