package nemesis

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// replica is one server's process, started again and again. start, kill, pause and resume are for one goroutine.
type replica struct {
	number int
	cmd    func(ctx context.Context) *exec.Cmd // makes the command that runs [Serve]
	orders orders
	log    *tail

	mu      sync.Mutex // guards what follows
	address string     // "" = it does not run
	proc    *exec.Cmd
	in      io.Closer     // held open: the process ends when it closes
	ended   chan struct{} // closed when proc has ended
	wanted  bool          // its end is no surprise
	broken  string        // how it ended by itself, after it had been ready
}

const replicaStart = 30 * time.Second // to answer, restarts of Postgres included

// at gives the address; "" = it does not run.
func (r *replica) at() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.address
}

// start starts the process until one is ready: one that meets a Postgres that is down for long ends, and who runs it starts
// it again.
func (r *replica) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, replicaStart)
	defer cancel()
	for {
		err := r.once(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("nemesis: replica %d does not start: %w", r.number, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (r *replica) once(ctx context.Context) error {
	cmd := r.cmd(context.WithoutCancel(ctx))
	dieWithParent(cmd)
	cmd.Stderr = r.log
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	words := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(io.LimitReader(out, 1<<10)).ReadString('\n') // "" tells that it ended
		words <- line
	}()
	raw, err := json.Marshal(r.orders)
	if err == nil {
		_, err = in.Write(append(raw, '\n'))
	}
	var line string
	select {
	case line = <-words:
	case <-ctx.Done():
		err = ctx.Err()
	}
	address, ready := strings.CutPrefix(strings.TrimSpace(line), readyWord)
	if err != nil || !ready {
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return errors.Join(err, fmt.Errorf("it said: %s", r.log))
	}
	ended := make(chan struct{})
	r.mu.Lock()
	r.proc, r.in, r.address, r.ended, r.wanted = cmd, in, address, ended, false
	r.mu.Unlock()
	go func() {
		_ = cmd.Wait() // how it ended is in its state
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.proc == cmd {
			r.address = ""
		}
		if !r.wanted { // no server that is ready ends by itself, whatever becomes of Postgres
			r.broken = fmt.Sprintf("replica %d ended by itself: %s\n%s", r.number, cmd.ProcessState, r.log)
		}
		close(ended)
	}()
	return nil
}

// kill is kill -9. A process that is stopped dies too.
func (r *replica) kill() {
	r.mu.Lock()
	r.address, r.wanted = "", true
	proc, ended := r.proc, r.ended
	r.mu.Unlock()
	if proc == nil {
		return
	}
	_ = proc.Process.Kill() // an error: it has ended
	<-ended
}

// signal stops (SIGSTOP) or goes on (SIGCONT).
func (r *replica) signal(s syscall.Signal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.proc != nil && r.address != "" {
		_ = r.proc.Process.Signal(s) // an error: it has ended
	}
}

// runs starts it again if it does not run, and waits until it answers with its database behind it.
func (r *replica) runs(ctx context.Context) error {
	if r.at() == "" {
		if err := r.start(ctx); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, replicaStart)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.at()+"/readyz", nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(res.Status)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("nemesis: replica %d is not ready: %w", r.number, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// trouble tells, once, how the process ended by itself; "" = it did not.
func (r *replica) trouble() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := r.broken
	r.broken = ""
	return text
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailBytes = 1 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if over := len(t.text) - tailBytes; over > 0 {
		t.text = append([]byte(nil), t.text[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}
