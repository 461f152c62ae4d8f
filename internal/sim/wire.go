package sim

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
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
}

// plan is one fault of a wire. It happens at most once.
type plan struct {
	commit bool // at the next COMMIT; else in the nth transaction from now on, then writes behind its begin or at its end
	nth    int
	then   int
	conn   *wireConn     // that of the nth transaction, once it has begun
	after  bool          // once Postgres has answered it, instead of before it was sent
	all    bool          // all connections break: the process died
	held   chan struct{} // not nil: hold the write instead, close held, and go on when release is closed
	let    chan struct{}
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

func (w *wire) dial(ctx context.Context, network, addr string) (net.Conn, error) {
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
	was, w.plan = w.plan, p
	return was
}

// died tells, once, whether all connections broke.
func (w *wire) died() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.plan == nil || !w.plan.fired || !w.plan.all {
		return false
	}
	w.plan = nil
	return true
}

// look tells which fault strikes this write.
//
// Only what belongs to transactions counts: what the server notes beside its answers has no place in the order of a run.
// So a transaction is struck at its end at the latest, also where that leaves together with its begin.
func (w *wire) look(c *wireConn, p []byte) *plan {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.plan
	if f == nil || f.fired {
		return nil
	}
	switch {
	case f.commit:
		if !isCommit(p) {
			return nil
		}
	case f.conn == nil:
		if !isBegin(p) {
			return nil
		}
		if f.nth--; f.nth > 0 {
			return nil
		}
		f.conn = c
		if f.then > 0 && !isEnd(p) {
			return nil
		}
	case f.conn != c:
		return nil
	default:
		if f.then--; f.then > 0 && !isEnd(p) {
			return nil
		}
	}
	f.fired = true
	return f
}

// cutAll breaks every connection, as the end of the process would.
func (w *wire) cutAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		_ = c.Conn.Close()
	}
	clear(w.conns)
}

type wireConn struct {
	net.Conn
	wire *wire
	read sync.Mutex
}

func (c *wireConn) Read(p []byte) (int, error) {
	c.read.Lock()
	defer c.read.Unlock()
	return c.Conn.Read(p)
}

func (c *wireConn) Close() error {
	c.wire.mu.Lock()
	delete(c.wire.conns, c)
	c.wire.mu.Unlock()
	return c.Conn.Close()
}

func (c *wireConn) Write(p []byte) (int, error) {
	f := c.wire.look(c, p)
	switch {
	case f == nil:
		return c.Conn.Write(p)
	case f.held != nil:
		close(f.held)
		<-f.let
		return c.Conn.Write(p)
	case f.after:
		if n, err := c.Conn.Write(p); err != nil {
			return n, err
		}
		c.swallow()
	}
	_ = c.Conn.Close()
	if f.all {
		c.wire.cutAll()
	}
	return 0, errCut
}

// swallow reads Postgres' answer, which nobody will see, so that its work is done before the next step.
func (c *wireConn) swallow() {
	if !c.read.TryLock() {
		return
	}
	defer c.read.Unlock()
	_ = c.Conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	var head [5]byte
	for {
		if _, err := io.ReadFull(c.Conn, head[:]); err != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, c.Conn, int64(binary.BigEndian.Uint32(head[1:]))-4); err != nil || head[0] == 'Z' {
			return
		}
	}
}
