package nemesis

import (
	"net"
	"sync"
	"time"
)

// way is the TCP proxy of one phone: what its bytes meet between it and the servers.
type way struct {
	l      net.Listener
	target func() string // of the next connection
	loops  sync.WaitGroup

	mu       sync.Mutex // guards what follows
	up, down lane
	delay    time.Duration
	changed  chan struct{} // closed at each change
	conns    map[net.Conn]struct{}
	closed   bool
}

// Bounds of a way.
const (
	wayConns   = 64              // at once; more are refused
	wayPiece   = 32 << 10        // bytes that wait at most in one direction
	wayTimeout = 5 * time.Second // to connect to a server, or to write to one
	wayLate    = 300 * time.Millisecond
)

func newWay(target func() string) (*way, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &way{l: l, target: target, changed: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	w.loops.Go(w.accept)
	return w, nil
}

func (w *way) url() string { return "http://" + w.l.Addr().String() }

// set changes what bytes meet from now on, those that wait included.
func (w *way) set(up, down lane, delay time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.up, w.down, w.delay = up, down, delay
	close(w.changed)
	w.changed = make(chan struct{})
}

// cut breaks every connection of now.
func (w *way) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		_ = c.Close()
	}
}

func (w *way) close() {
	w.mu.Lock()
	w.closed = true
	close(w.changed)
	w.changed = make(chan struct{})
	w.mu.Unlock()
	_ = w.l.Close()
	w.cut()
	w.loops.Wait()
}

// keep notes a connection; false = there are too many, or the way is closed.
func (w *way) keep(c net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || len(w.conns) >= 2*wayConns {
		return false
	}
	w.conns[c] = struct{}{}
	return true
}

func (w *way) forget(c net.Conn) {
	_ = c.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, c)
}

func (w *way) accept() {
	for {
		near, err := w.l.Accept()
		if err != nil {
			return
		}
		if !w.keep(near) {
			_ = near.Close()
			continue
		}
		w.loops.Go(func() {
			defer w.forget(near)
			far, err := net.DialTimeout("tcp", w.target(), wayTimeout)
			if err != nil {
				return
			}
			if !w.keep(far) {
				_ = far.Close()
				return
			}
			defer w.forget(far)
			var both sync.WaitGroup
			both.Go(func() { w.pump(near, far, true) })
			both.Go(func() { w.pump(far, near, false) })
			both.Wait()
		})
	}
}

// pump carries one direction until it ends. It ends the other only as TCP would: by closing its half.
func (w *way) pump(from, to net.Conn, up bool) {
	buf := make([]byte, wayPiece)
	late := false // the last piece was
	for {
		n, err := from.Read(buf)
		if n > 0 {
			var pass bool
			if pass, late = w.pass(up); !pass {
				_, _ = from.Close(), to.Close()
				return
			}
			_ = to.SetWriteDeadline(time.Now().Add(wayTimeout))
			if _, err := to.Write(buf[:n]); err != nil {
				_, _ = from.Close(), to.Close()
				return
			}
		}
		if err != nil {
			if late { // the sender has given up, the network has not: what was late is still worked on
				w.wait(wayLate)
			}
			if tcp, ok := to.(*net.TCPConn); ok {
				_ = tcp.CloseWrite()
			}
			return
		}
	}
}

// pass waits until bytes of a direction may go on; false = they break the connection.
func (w *way) pass(up bool) (pass, late bool) {
	for {
		w.mu.Lock()
		now, delay, changed, closed := w.down, w.delay, w.changed, w.closed
		if up {
			now = w.up
		}
		w.mu.Unlock()
		switch {
		case closed || now == drop:
			return false, late
		case now == open:
			if delay > 0 {
				w.wait(delay)
			}
			return true, late
		}
		late = true
		<-changed
	}
}

// wait lets time pass, unless the way is closed.
func (w *way) wait(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	w.mu.Lock()
	closed, changed := w.closed, w.changed
	w.mu.Unlock()
	if closed {
		return
	}
	select {
	case <-timer.C:
	case <-changed: // sooner is as good
	}
}
