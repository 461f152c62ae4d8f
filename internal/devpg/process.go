package devpg

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a postmaster: one that this process started, or one that it found.
type process struct {
	pid     int
	exited  chan struct{} // closed when our child ended; nil for one that we found
	data    string        // of one that we found: proves who it is
	port    int
	sockets string
}

func (p *process) gone() bool {
	if p.exited != nil {
		select {
		case <-p.exited:
			return true
		default:
			return false
		}
	}
	return !isPostmaster(p.pid, p.data)
}

// stop shuts down fast (SIGINT), and after d at once (SIGQUIT), which the next start recovers from.
func (p *process) stop(d time.Duration) error {
	for _, step := range []struct {
		sig syscall.Signal
		d   time.Duration
	}{{syscall.SIGINT, d}, {syscall.SIGQUIT, 5 * time.Second}, {syscall.SIGKILL, 5 * time.Second}} {
		if p.gone() {
			return nil
		}
		_ = syscall.Kill(p.pid, step.sig) // an error means that it is gone, which wait sees
		if p.wait(step.d) {
			return nil
		}
	}
	return fmt.Errorf("devpg: the postmaster, pid %d, does not stop", p.pid)
}

func (p *process) kill() error {
	if !p.gone() {
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
	}
	if !p.wait(5 * time.Second) {
		return fmt.Errorf("devpg: the postmaster, pid %d, survives SIGKILL", p.pid)
	}
	return nil
}

func (p *process) wait(d time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	for !p.gone() {
		if pause(ctx) != nil {
			return p.gone()
		}
	}
	return true
}

// leftBehind gives the postmaster that runs on data by its own account (postmaster.pid), or nil. A file that names a
// process which is no postmaster of these data is stale; where that process number lives on in another program, the
// file is removed, since Postgres itself would refuse to start beside it.
func leftBehind(data string) *process {
	name := filepath.Join(data, "postmaster.pid")
	b, err := os.ReadFile(name)
	if err != nil {
		return nil
	}
	// pid, data directory, start time, port, socket directory, …
	lines := strings.Split(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || pid <= 1 {
		return nil
	}
	if !isPostmaster(pid, data) {
		if alive(pid) {
			_ = os.Remove(name) // if it cannot be removed, the start fails and says so
		}
		return nil
	}
	p := &process{pid: pid, data: data}
	if len(lines) >= 5 {
		p.port, _ = strconv.Atoi(strings.TrimSpace(lines[3]))
		p.sockets = strings.TrimSpace(lines[4])
	}
	return p
}

func alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

// isPostmaster tells whether pid is a postmaster of these data: its command line says `-D data`.
func isPostmaster(pid int, data string) bool {
	if !alive(pid) {
		return false
	}
	var args []string
	if runtime.GOOS == "linux" {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
		if err != nil {
			return false
		}
		args = strings.Split(string(b), "\x00")
	} else {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		out, err := exec.CommandContext(ctx, "ps", "-o", "args=", "-p", strconv.Itoa(pid)).Output()
		if err != nil {
			return false
		}
		// ps gives one line; a path with spaces is still found in it.
		return strings.Contains(string(out), "postgres -D "+data+" ")
	}
	i := slices.Index(args, "-D")
	return i > 0 && i+1 < len(args) && args[i+1] == data && strings.HasPrefix(filepath.Base(args[0]), "postgres")
}

// Ports for servers lie below those that systems give to outgoing connections (from 32768 on Linux, 49152 elsewhere), one
// of which could take the port of a server while it is restarted.
const (
	firstPort = 18000
	lastPort  = 31999
)

// freePort gives prefer if nothing listens there, else a port that is free just now.
func freePort(prefer int) (int, error) {
	var tries []int
	if prefer != 0 {
		tries = append(tries, prefer)
	}
	for range 20 {
		tries = append(tries, firstPort+rand.IntN(lastPort-firstPort+1))
	}
	for _, port := range append(tries, 0) {
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			continue
		}
		port = l.Addr().(*net.TCPAddr).Port
		return port, l.Close()
	}
	return 0, errors.New("devpg: no free port on the loopback")
}
