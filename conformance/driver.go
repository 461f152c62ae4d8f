package conformance

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"time"
)

// maxLine is the longest line of a driver, in bytes.
const maxLine = 64 << 20

// errDriverGone: the driver has ended or closed its output.
var errDriverGone = errors.New("conformance: the driver has ended")

// lines speaks with a driver by lines. It is safe for concurrent use.
type lines struct {
	mu      sync.Mutex
	w       io.Writer
	next    int
	waiting map[int]chan map[string]any
	gone    chan struct{} // closed when nothing more comes
}

func newLines(r io.Reader, w io.Writer) *lines {
	l := &lines{w: w, waiting: map[int]chan map[string]any{}, gone: make(chan struct{})}
	go l.read(r)
	return l
}

func (l *lines) read(r io.Reader) {
	defer close(l.gone)
	in := bufio.NewScanner(r)
	in.Buffer(make([]byte, 64<<10), maxLine)
	for in.Scan() {
		var answer map[string]any
		if decode(in.Bytes(), &answer) != nil {
			continue // a word of the program beside its answers
		}
		n, _ := answer["id"].(json.Number)
		id, err := n.Int64()
		if err != nil {
			continue
		}
		l.mu.Lock()
		ch := l.waiting[int(id)]
		delete(l.waiting, int(id))
		l.mu.Unlock()
		if ch != nil {
			ch <- answer // has room
		}
	}
}

// send writes a command and gives the channel on which its answer comes.
func (l *lines) send(command map[string]any) (<-chan map[string]any, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next++
	line := map[string]any{"id": l.next}
	for k, v := range command {
		line[k] = v
	}
	b, err := json.Marshal(line)
	if err != nil {
		return nil, err
	}
	ch := make(chan map[string]any, 1)
	l.waiting[l.next] = ch
	if _, err := l.w.Write(append(b, '\n')); err != nil {
		return nil, errors.Join(errDriverGone, err)
	}
	return ch, nil
}

// await waits for an answer within the time.
func (l *lines) await(ch <-chan map[string]any, within time.Duration) (map[string]any, error) {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case answer := <-ch:
		return answer, nil
	case <-l.gone:
		select {
		case answer := <-ch:
			return answer, nil
		default:
			return nil, errDriverGone
		}
	case <-timer.C:
		return nil, fmt.Errorf("no answer within %v", within)
	}
}

// process is a driver that runs as a child.
type process struct {
	*lines
	cmd   *exec.Cmd
	input io.Closer
}

func startProcess(ctx context.Context, command []string, stderr io.Writer) (*process, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Cancel = func() error { return killGroup(cmd) }
	cmd.Stderr = stderr
	cmd.WaitDelay = 2 * time.Second
	ownGroup(cmd)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("conformance: the driver does not start: %w", err)
	}
	return &process{lines: newLines(out, in), cmd: cmd, input: in}, nil
}

// kill ends the process at once, without a word, and those that it started: `go run` and the like start the driver itself.
func (p *process) kill() error {
	err := killGroup(p.cmd)
	<-p.gone
	p.cmd.Wait() //nolint:errcheck // it was killed
	return err
}

// stop ends its input and gives it two seconds.
func (p *process) stop() {
	p.input.Close() //nolint:errcheck // it may be gone
	timer := time.NewTimer(2 * time.Second)
	defer timer.Stop()
	select {
	case <-p.gone:
	case <-timer.C:
		killGroup(p.cmd) //nolint:errcheck // it may be gone
		<-p.gone
	}
	p.cmd.Wait() //nolint:errcheck // its status says nothing about the transcripts
}
