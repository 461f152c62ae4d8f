package tests_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/clients/go/memstore"
)

// line is a bad line between phones and a server: it cuts connections at any byte, and lets nothing through in one of
// the directions while it is told so.
type line struct {
	l    net.Listener
	to   string
	down [2]atomic.Bool // nothing comes through: up, down
	bad  atomic.Bool    // connections are cut
	cuts atomic.Int64
	mu   sync.Mutex
	open map[net.Conn]bool
	work sync.WaitGroup
}

// up and back are the directions of a line.
const (
	up = iota
	back
)

func newLine(t *testing.T, p *product) *line {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &line{l: l, to: strings.TrimPrefix(p.url, "http://"), open: map[net.Conn]bool{}}
	n.work.Go(n.accept)
	t.Cleanup(func() {
		_ = l.Close()
		n.hangUp()
		n.work.Wait()
	})
	return n
}

func (n *line) url() string { return "http://" + n.l.Addr().String() }

func (n *line) accept() {
	for {
		phone, err := n.l.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", n.to)
		if err != nil {
			_ = phone.Close()
			continue
		}
		n.mu.Lock()
		n.open[phone], n.open[server] = true, true
		n.mu.Unlock()
		left := &atomic.Int64{} // bytes until the cut, both ways together
		left.Store(int64(rand.N(6000)))
		n.work.Go(func() { n.carry(server, phone, up, left) })
		n.work.Go(func() { n.carry(phone, server, back, left) })
	}
}

// carry copies one direction, until an end hangs up or the line does.
func (n *line) carry(to, from net.Conn, direction int, left *atomic.Int64) {
	defer func() {
		_ = to.Close()
		_ = from.Close()
		n.mu.Lock()
		delete(n.open, to)
		delete(n.open, from)
		n.mu.Unlock()
	}()
	buf := make([]byte, 4096)
	for {
		got, err := from.Read(buf)
		if n.down[direction].Load() {
			if err != nil {
				return
			}
			continue // it is gone, and the sender does not know
		}
		send := got
		if rest := left.Add(-int64(got)); n.bad.Load() && rest < 0 {
			send = max(0, got+int(rest))
		}
		if _, werr := to.Write(buf[:send]); werr != nil || err != nil {
			return
		}
		if send < got {
			n.cuts.Add(1)
			return
		}
	}
}

// hangUp cuts all connections.
func (n *line) hangUp() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.open {
		_ = c.Close()
	}
}

// impatient gives calls up early while its line is bad, so that a test need not wait for what never comes. On a line that
// is not, a slow machine has the client's own time.
type impatient struct {
	line *line
	way  http.RoundTripper
}

// RoundTrip is http.RoundTripper's.
func (i impatient) RoundTrip(r *http.Request) (*http.Response, error) {
	if !i.line.bad.Load() && !i.line.down[up].Load() && !i.line.down[back].Load() {
		return i.way.RoundTrip(r)
	}
	ctx, cancel := context.WithTimeout(r.Context(), 300*time.Millisecond)
	res, err := i.way.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	res.Body = ending{res.Body, cancel}
	return res, nil
}

// ending lets go of a call's time when its answer is read.
type ending struct {
	io.ReadCloser
	cancel context.CancelFunc
}

// Close is io.Closer's.
func (e ending) Close() error {
	defer e.cancel()
	return e.ReadCloser.Close()
}

// TestPhonesOnABadLineConvergeSoonAfterItHeals lets phones work over a line that cuts at any byte, then loses only what
// goes up, then only what comes back, and then heals. Packets themselves, lost, doubled or in another order, are TCP's;
// requests that are, are the simulator's.
func TestPhonesOnABadLineConvergeSoonAfterItHeals(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	const soon, each = 20 * time.Second, 25
	p := serve(t)
	n := newLine(t, p)
	var phones []*satchelclient.Client
	for _, login := range []string{"ann", "ann", "ben", "mei"} {
		transport := &http.Transport{}
		t.Cleanup(transport.CloseIdleConnections)
		c, err := satchelclient.New(satchelclient.Config{BaseURL: n.url(), Store: memstore.New(),
			HTTPClient: &http.Client{Transport: impatient{n, transport}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SignIn(ctx, satchelclient.Credentials{Org: "acme", Login: login, Password: password, Platform: "go"}); err != nil {
			t.Fatal(err)
		}
		phones = append(phones, c)
	}
	var failures atomic.Int64
	work := func(part string) {
		var g errgroup.Group
		for i, c := range phones {
			g.Go(func() error {
				for k := range each {
					if _, err := c.Create(ctx, "account", satchelclient.Fields{"name": fmt.Sprintf("%s %d/%d", part, i, k)}); err != nil {
						return err
					}
					if k%5 != 4 {
						continue
					}
					if _, err := c.Sync(ctx); err != nil {
						failures.Add(1)
						if !errors.Is(err, satchelclient.ErrUnavailable) {
							return err
						}
					}
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(part, ": ", err)
		}
	}
	parts := []string{"cut", "nothing up", "nothing back"}
	n.bad.Store(true)
	work(parts[0])
	n.bad.Store(false)
	for direction, part := range parts[1:] {
		n.down[direction].Store(true)
		work(part)
		n.down[direction].Store(false)
	}
	if n.cuts.Load() == 0 || failures.Load() < 20 {
		t.Errorf("the line was not bad: %d cuts, %d calls that failed", n.cuts.Load(), failures.Load())
	}
	n.hangUp() // the phone finds another cell
	healed := time.Now()
	var g errgroup.Group
	for _, c := range phones {
		g.Go(func() error {
			_, err := syncUntilSettled(ctx, c)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, c := range phones {
		if _, err := c.Sync(ctx); err != nil { // what the others sent meanwhile
			t.Fatal(err)
		}
	}
	if took := time.Since(healed); took > soon {
		t.Errorf("it took %s until every queue was empty", took)
	}
	for _, part := range parts {
		for i := range phones {
			onceEach(t, phones[3], "account", numbered(fmt.Sprint(part, " ", i), each)) // the manager's
		}
	}
	if one, err := phones[0].List(ctx, "account"); err != nil {
		t.Error(err)
	} else if two, err := phones[1].List(ctx, "account"); err != nil || len(one) != 2*each*len(parts) || len(two) != len(one) {
		t.Errorf("Ann's phones show %d and %d accounts, %v", len(one), len(two), err)
	}
}
