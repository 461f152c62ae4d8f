package tests_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/identity"
	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/internal/pgtest"
)

// mortalEnv makes this test binary a replica that can be told to kill itself; its value is a mortalConfig in JSON.
const mortalEnv = "SATCHEL_TESTS_MORTAL"

// mortalName is what Postgres knows the sessions of such a replica by.
const mortalName = "mortal"

func TestMain(m *testing.M) {
	if cfg := os.Getenv(mortalEnv); cfg != "" {
		if err := beMortal(cfg, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	pgtest.Main(m)
}

type mortalConfig struct {
	Database, Blobs string
	Ahead           time.Duration // of the machine's clock
}

// fuse counts what is sent to Postgres and kills this process at one of the sends: kill -9, nothing is flushed, nothing
// is told to anybody. Before the send, all that was answered so far is what holds; behind it, Postgres goes on with
// what it got, and nobody hears of it.
type fuse struct {
	left   atomic.Int64 // sends until the fatal one; below 0 = not lit
	behind atomic.Bool
}

func (f *fuse) burn(send func() (int, error)) (int, error) {
	fatal := f.left.Load() >= 0 && f.left.Add(-1) == 0
	if fatal && !f.behind.Load() {
		die()
	}
	n, err := send()
	if fatal {
		die()
	}
	return n, err
}

func die() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the signal is on its way
}

type fusedConn struct {
	net.Conn
	fuse *fuse
}

// Write is net.Conn's.
func (c fusedConn) Write(b []byte) (int, error) {
	return c.fuse.burn(func() (int, error) { return c.Conn.Write(b) })
}

// beMortal serves until in ends. "before N" and "behind N" light the fuse, "step" works the jobs that are due, "limit N"
// lets no file grow beyond N bytes.
func beMortal(text string, in io.Reader, out io.Writer) error {
	var cfg mortalConfig
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	f := &fuse{}
	f.left.Store(-1)
	pool, err := pg.Open(ctx, cfg.Database, pg.Options{AppName: mortalName, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		return fusedConn{c, f}, err
	}})
	if err != nil {
		return err
	}
	defer pool.Close()
	now := func() time.Time { return time.Now().Add(cfg.Ahead) }
	a, err := app.New(ctx, app.Config{Pool: pool, BlobURL: cfg.Blobs, Secret: make([]byte, 32), Now: now,
		Identity: app.Identity{Hashing: identity.Argon2{MemoryKiB: 64, Passes: 1, Lanes: 1}, AddressPerSecond: -1}})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- a.Server.Serve(ctx, l) }()
	fmt.Fprintln(out, "http://"+l.Addr().String())
	for lines := bufio.NewScanner(in); lines.Scan(); {
		word, arg, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case "before", "behind":
			var n int64
			if _, err := fmt.Sscan(arg, &n); err != nil {
				return err
			}
			f.behind.Store(word == "behind")
			f.left.Store(n)
		case "limit":
			if err := limitFiles(arg); err != nil {
				return err
			}
		case "step":
			if _, err := a.Jobs.Step(ctx); err != nil {
				return err
			}
		}
		fmt.Fprintln(out, "done")
	}
	cancel()
	return <-ended
}

// mortal is such a replica, seen from the test.
type mortal struct {
	url    string
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	errors *bytes.Buffer
}

func bear(t *testing.T, cfg *mortalConfig) *mortal {
	t.Helper()
	text, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	m := &mortal{cmd: exec.Command(os.Args[0]), errors: &bytes.Buffer{}}
	m.cmd.Env = append(os.Environ(), mortalEnv+"="+string(text))
	m.cmd.Stderr = m.errors
	m.in, err = m.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	m.out = bufio.NewReader(out)
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := m.out.ReadString('\n')
	if err != nil {
		_ = m.cmd.Wait()
		t.Fatalf("the replica does not start: %s", m.errors)
	}
	m.url = strings.TrimSpace(line)
	return m
}

// tell gives an order; false = the replica died over it.
func (m *mortal) tell(t *testing.T, order string) bool {
	t.Helper()
	if _, err := fmt.Fprintln(m.in, order); err != nil {
		return false
	}
	_, err := m.out.ReadString('\n')
	return err == nil
}

// died ends the replica in good order if it lives, and tells whether it had been killed.
func (m *mortal) died(t *testing.T) bool {
	t.Helper()
	_ = m.in.Close()
	_ = m.cmd.Wait()
	status, ok := m.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() && status.ExitStatus() != 0 {
		t.Fatalf("a replica ended otherwise: %s", m.errors)
	}
	return status.Signaled()
}

// deaths kills one replica after the other at each point of what act does with it: before and behind everything that is
// sent to Postgres. Each time, heal does with the standing replica what the one that died left. It ends when a replica
// has survived both, and fails if there were fewer points than least.
func deaths(t *testing.T, cfg *mortalConfig, least int, act func(m *mortal), heal func(where string)) {
	t.Helper()
	points := 0
	for n := 1; ; n++ {
		killed := 0
		for _, when := range []string{"before", "behind"} {
			m := bear(t, cfg)
			if !m.tell(t, fmt.Sprint(when, " ", n)) {
				t.Fatal("the fuse cannot be lit")
			}
			act(m)
			if m.died(t) {
				killed++
			}
			heal(fmt.Sprintf("%s send %d", when, n))
			if t.Failed() {
				return
			}
		}
		if points += killed; killed == 0 {
			break
		}
		if n > 200 {
			t.Fatal("it never comes to its end")
		}
	}
	if points < least {
		t.Errorf("only %d points were found", points)
	}
	t.Logf("killed at %d points", points)
}

// sessionsEnd waits until Postgres has done the last that mortals sent it, and has seen that they are gone.
func sessionsEnd(t *testing.T, cfg *mortalConfig) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), cfg.Database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		var left int
		if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1`,
			mortalName).Scan(&left); err != nil {
			t.Fatal(err)
		}
		if left == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d sessions of the dead go on", left)
		}
	}
}

// survivor is a replica in this process whose clock, and that of the mortals born after, can be moved on. Nobody works
// jobs but who is told to.
func survivor(t *testing.T) (p *product, cfg *mortalConfig, later func(time.Duration)) {
	t.Helper()
	cfg = &mortalConfig{Database: pgtest.URL(t), Blobs: "file://" + t.TempDir()}
	pool, err := pg.Open(t.Context(), cfg.Database, pg.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	var offset atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
	p = serveRunning(t, app.Config{Pool: pool, BlobURL: cfg.Blobs, Now: now}, hire, func(ctx context.Context, a *app.App) error {
		return a.Engine.Run(ctx)
	})
	return p, cfg, func(d time.Duration) { cfg.Ahead = time.Duration(offset.Add(int64(d))) }
}

// TestAServerKilledAtAnyStepOfABatchLosesNothingAndDoublesNothing sends each batch to a replica that is killed at the
// next step, and again to one that stands.
func TestAServerKilledAtAnyStepOfABatchLosesNothingAndDoublesNothing(t *testing.T) {
	t.Parallel()
	p, cfg, _ := survivor(t)
	c, way := roaming(t, p, "ann")
	shared, err := c.Create(t.Context(), "account", satchelclient.Fields{"name": "Shared"})
	if err != nil {
		t.Fatal(err)
	}
	syncNow(t, c)
	rounds := 0
	deaths(t, cfg, 8, func(m *mortal) {
		var b satchelclient.Batch
		account := b.Create("account", satchelclient.Fields{"name": fmt.Sprint("account/", rounds)})
		b.Create("visit", satchelclient.Fields{"account": account.String(), "subject": fmt.Sprint("visit/", rounds)})
		if _, err := c.Record(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
		if err := c.Patch(t.Context(), "account", shared, nil, satchelclient.Increment("visit_count", 1)); err != nil {
			t.Fatal(err)
		}
		rounds++
		way.toURL(m.url)
		if _, err := c.Sync(t.Context()); err != nil && !errors.Is(err, satchelclient.ErrUnavailable) {
			t.Errorf("a server that dies is an error of another kind: %v", err)
		}
	}, func(where string) {
		way.to(p)
		if r := syncNow(t, c); r.Pending != 0 {
			t.Errorf("killed %s: %d mutations wait", where, r.Pending)
		}
	})
	fresh := phone(t, p.url, "mei", nil)
	syncNow(t, fresh)
	for _, kind := range []string{"account", "visit"} {
		onceEach(t, fresh, kind, numbered(kind, rounds))
	}
	got, err := fresh.Get(t.Context(), "account", shared)
	if want := fmt.Sprintf(`"visit_count": %d`, rounds); err != nil || !strings.Contains(string(got.Fields), want) {
		t.Errorf("after %d rounds the counter is in %s, %v", rounds, got.Fields, err)
	}
}

// TestAServerKilledAtAnyStepOfAnUploadKeepsTheBytes sends photos to such replicas.
func TestAServerKilledAtAnyStepOfAnUploadKeepsTheBytes(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts a hundred servers")
	}
	t.Parallel()
	p, cfg, _ := survivor(t)
	c, way := roaming(t, p, "ann")
	visit := recordVisit(t, c)
	bytesOf := map[satchel.ID][]byte{}
	round := 0
	deaths(t, cfg, 8, func(m *mortal) {
		round++
		jpeg := append(picture(t), fmt.Sprint(round)...) // other bytes each time; what follows the end marker is not looked at
		bytesOf[attachPhoto(t, c, visit, jpeg)] = jpeg
		syncNow(t, c)
		way.toURL(m.url)
		if _, err := c.Upload(t.Context()); err != nil && !errors.Is(err, satchelclient.ErrUnavailable) {
			t.Errorf("a server that dies is an error of another kind: %v", err)
		}
	}, func(where string) {
		way.to(p)
		if r, err := c.Upload(t.Context()); err != nil || len(r.Refused) != 0 {
			t.Errorf("killed %s, the upload goes on: %+v, %v", where, r, err)
		}
		if _, err := p.Jobs.Step(t.Context()); err != nil { // so that the phone need not ask for it in all rounds to come
			t.Fatal(err)
		}
		syncNow(t, c)
	})
	for photo := range bytesOf {
		isStored(t, c, photo)
	}
	if _, err := c.Upload(t.Context()); err != nil { // lets go of what is stored
		t.Fatal(err)
	}
	if left, err := c.Media(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("the phone keeps %d files, %v", len(left), err)
	}
	for photo, want := range bytesOf {
		comesBack(t, c, photo, want)
	}
}

// TestAServerKilledAtAnyStepOfAJobLeavesItToAnother moves Ben between two teams, by a job that dies and is done again
// when it counts as lost.
func TestAServerKilledAtAnyStepOfAJobLeavesItToAnother(t *testing.T) {
	t.Parallel()
	p, cfg, later := survivor(t)
	admin, ben := signIn(t, p.url, "acme", "admin"), signIn(t, p.url, "acme", "ben")
	me := ben.must("AuthService/WhoAmI", `{}`)
	north, _ := me["teamId"].(string)
	south, _ := admin.must("DirectoryService/CreateTeam", map[string]any{"name": "South"})["team"].(map[string]any)["id"].(string)
	if north == "" || south == "" {
		t.Fatalf("teams %q and %q of %v", north, south, me)
	}
	account := ben.create("account", map[string]any{"name": "His"})
	mei := phone(t, p.url, "mei", nil)
	syncNow(t, mei)
	away := false
	deaths(t, cfg, 8, func(m *mortal) {
		away = !away
		team := north
		if away {
			team = south
		}
		admin = signIn(t, p.url, "acme", "admin") // the clock has moved on
		admin.must("DirectoryService/UpdatePerson", map[string]any{"personId": ben.person, "teamId": team})
		m.tell(t, "step")
	}, func(where string) {
		sessionsEnd(t, cfg)     // which at that time they have long done
		later(10 * time.Minute) // the job counts as lost
		if _, err := p.Jobs.Step(t.Context()); err != nil {
			t.Fatal(err)
		}
		syncNow(t, mei)
		_, err := mei.Get(t.Context(), "account", satchel.MustParseID(account))
		if away != errors.Is(err, satchelclient.ErrNotFound) || !away && err != nil {
			t.Errorf("killed %s: Ben is away: %t, and his account: %v", where, away, err)
		}
	})
}

// TestAServerKilledAtAnyStepOfARefreshKeepsTheSession refreshes at such replicas, and with the same token elsewhere.
func TestAServerKilledAtAnyStepOfARefreshKeepsTheSession(t *testing.T) {
	t.Parallel()
	p, cfg, _ := survivor(t)
	c, way := roaming(t, p, "ann")
	deaths(t, cfg, 2, func(m *mortal) {
		way.toURL(m.url)
		if err := c.Refresh(t.Context()); err != nil && !errors.Is(err, satchelclient.ErrUnavailable) {
			t.Errorf("a server that dies is an error of another kind: %v", err)
		}
	}, func(where string) {
		way.to(p)
		if err := c.Refresh(t.Context()); err != nil {
			t.Errorf("killed %s: %v", where, err)
		}
		syncNow(t, c)
	})
}
