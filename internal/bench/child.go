package bench

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

// child is the process of the servers, seen from the clients'.
type child struct {
	addresses
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner

	mu sync.Mutex // one order at a time
}

const (
	childStart = 30 * time.Second
	childEnd   = 30 * time.Second
)

// startChild starts cmd, which must call [Serve]. It ends when this process does, in whatever way: its input closes.
func startChild(ctx context.Context, cmd *exec.Cmd, o orders) (*child, error) {
	c := &child{cmd: cmd}
	var err error
	if c.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewScanner(out)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	line, err := json.Marshal(o)
	if err == nil {
		err = c.ask(ctx, string(line), &c.addresses)
	}
	if err != nil {
		c.stop()
		return nil, fmt.Errorf("bench: the servers did not start: %w", err)
	}
	return c, nil
}

// ask gives an order and reads its answer.
func (c *child) ask(ctx context.Context, order string, answer any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, childStart)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = c.cmd.Process.Kill() })() // so that the read below ends
	if _, err := fmt.Fprintln(c.in, order); err != nil {
		return err
	}
	if !c.out.Scan() {
		return errors.Join(c.out.Err(), ctx.Err(), errors.New("bench: the servers' process ended; its errors stand above"))
	}
	return json.Unmarshal(c.out.Bytes(), answer)
}

func (c *child) order(ctx context.Context, order string) error {
	var ok string
	return c.ask(ctx, order, &ok)
}

// stop ends the process, by force when it does not go.
func (c *child) stop() {
	_ = c.in.Close()
	timer := time.AfterFunc(childEnd, func() { _ = c.cmd.Process.Kill() })
	defer timer.Stop()
	_ = c.cmd.Wait() // what it had to say stands on its standard error
}
