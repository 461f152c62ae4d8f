package sim

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/satchel-sync/satchel/internal/pg"
)

// wire is the way from one replica to Postgres. It breaks, or holds, where its plan says.
type wire struct {
	dialer net.Dialer
	mu     sync.Mutex
	plan   *plan
	conns  map[*wireConn]struct{}
	dead   bool   // the process died: nothing goes through until it was started again
	gate   func() // not nil: each write waits for it
}

// plan is one fault of a wire. It happens at most once.
type plan struct {
	commit bool // at the next COMMIT; else in the nth transaction from now on, then writes behind its begin or at its end
	nth    int
	then   int
	conn   *wireConn     // that of the nth transaction, once it has begun
	after  bool          // once Postgres has answered it, instead of before it was sent
	all    bool          // all connections break: the process died
	held   chan struct{} // not nil: close it instead; that write and all behind it wait for turn
	turn   func()
	fired  bool
}

var errCut = &net.OpError{Op: "write", Net: "sim", Err: syscall.ECONNRESET}

// marks are the bytes by which a statement without parameters leaves: bound by its name, or as a simple query.
func marks(sql string) [2][]byte {
	sum := sha256.Sum256([]byte(sql))
	simple := binary.BigEndian.AppendUint32([]byte("Q"), uint32(len(sql)+5))
	return [2][]byte{[]byte("\x00stmtcache_" + hex.EncodeToString(sum[:24]) + "\x00"), append(append(simple, sql...), 0)}
}

// sends tells whether one of the statements leaves with these bytes, to be executed.
func sends(p []byte, statements ...string) bool {
	for _, sql := range statements {
		m := marks(sql)
		// Where a statement is prepared, its text follows its name; nothing is executed then.
		if at := bytes.Index(p, m[0]); at >= 0 && !bytes.HasPrefix(p[at+len(m[0]):], []byte(sql)) || bytes.Contains(p, m[1]) {
			return true
		}
	}
	return false
}

func isCommit(p []byte) bool { return sends(p, "commit") }

func isEnd(p []byte) bool { return sends(p, "commit", "rollback") }

func isBegin(p []byte) bool { return sends(p, string(pg.ReadCommitted), string(pg.OneSnapshot)) }

func newWire() *wire { return &wire{conns: map[*wireConn]struct{}{}} }

// prepares tells whether nothing is executed by these bytes. Which statements a connection knows depends on what it was
// used for before, and which connection is used on the pool's housekeeping, which goes by real time.
func prepares(p []byte) bool {
	for len(p) >= 5 {
		switch p[0] {
		case 'P', 'D', 'C', 'H', 'S': // Parse, Describe, Close, Flush, Sync
		default:
			return false
		}
		size := 1 + int(binary.BigEndian.Uint32(p[1:]))
		if size < 5 || size > len(p) {
			return false
		}
		p = p[size:]
	}
	return len(p) == 0
}

func (w *wire) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	w.mu.Lock()
	dead := w.dead
	w.mu.Unlock()
	if dead {
		return nil, errCut
	}
	inner, err := w.dialer.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c := &wireConn{Conn: inner, wire: w}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns[c] = struct{}{}
	return c, nil
}

// arm sets the next fault; nil = none. It gives the one that was set.
func (w *wire) arm(p *plan) (was *plan) {
	w.mu.Lock()
	defer w.mu.Unlock()
	was, w.plan, w.gate = w.plan, p, nil
	return was
}

// revive starts a process that died again, and tells whether it had.
func (w *wire) revive() (had bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		w.plan = nil
	}
	had, w.dead = w.dead, false
	return had
}

// look tells which fault strikes this write, what it waits for, and whether it comes from a process that died.
//
// Only what belongs to transactions counts: what the server notes beside its answers has no place in the order of a run.
// So a transaction is struck at its end at the latest, also where that leaves together with its begin.
func (w *wire) look(c *wireConn, p []byte) (f *plan, gate func(), dead bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead || !w.strikes(c, p) {
		return nil, w.gate, w.dead
	}
	f = w.plan
	f.fired = true
	switch {
	case f.held != nil:
		w.gate = f.turn
	case f.all:
		w.dead = true
	}
	return f, w.gate, false
}

// strikes tells whether the plan's moment has come. Its caller holds the lock.
func (w *wire) strikes(c *wireConn, p []byte) bool {
	f := w.plan
	switch {
	case f == nil || f.fired || prepares(p):
		return false
	case f.commit:
		return isCommit(p)
	case f.conn == nil:
		if !isBegin(p) {
			return false
		}
		if f.nth--; f.nth > 0 {
			return false
		}
		f.conn = c
		return f.then <= 0 || isEnd(p)
	case f.conn != c:
		return false
	}
	f.then--
	return f.then <= 0 || isEnd(p)
}

// cutAll breaks every connection, as the end of the process would.
func (w *wire) cutAll() {
	w.mu.Lock()
	conns := slices.Collect(maps.Keys(w.conns))
	clear(w.conns)
	w.mu.Unlock()
	var all sync.WaitGroup
	for _, c := range conns {
		all.Go(c.cut)
	}
	all.Wait()
}

type wireConn struct {
	net.Conn
	wire *wire
}

func (c *wireConn) Close() error {
	c.wire.mu.Lock()
	delete(c.wire.conns, c)
	c.wire.mu.Unlock()
	return c.Conn.Close()
}

func (c *wireConn) Write(p []byte) (int, error) {
	f, gate, dead := c.wire.look(c, p)
	switch {
	case dead:
		return 0, errCut
	case f != nil && f.held != nil:
		close(f.held)
		fallthrough
	case f == nil:
		if gate != nil {
			gate()
		}
		return c.Conn.Write(p)
	case f.after:
		if n, err := c.Conn.Write(p); err != nil {
			return n, err
		}
	}
	c.cut()
	if f.all {
		c.wire.cutAll()
	}
	return 0, errCut
}

// cutTime bounds the wait for a server process that ends.
const cutTime = 20 * time.Second

// cut breaks the connection and waits until Postgres' process has ended: what it was sent is done, what it did not commit
// is undone, and its locks are free, before anything else happens. A process that ends closes its side last.
func (c *wireConn) cut() {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_ = c.Conn.SetReadDeadline(time.Now().Add(cutTime))
		_, _ = io.Copy(io.Discard, c.Conn) // nobody will see the answer
	}
	_ = c.Conn.Close()
}
