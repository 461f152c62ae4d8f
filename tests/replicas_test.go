package tests_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	satchel "github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/internal/pgtest"
)

// wakeWithin is how soon after a commit at one replica those who wait at another one are woken.
const wakeWithin = 500 * time.Millisecond

// replicas starts two servers on the database at address, each with connections of its own.
func replicas(t *testing.T, address string, o pg.Options) (a, b *product) {
	t.Helper()
	blobs := "file://" + t.TempDir() + "/blobs"
	start := func(load func(*testing.T, *app.App, *pgxpool.Pool)) *product {
		pool, err := pg.Open(t.Context(), address, o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		return serveConfig(t, app.Config{Pool: pool, BlobURL: blobs}, load)
	}
	a = start(hire)
	return a, start(func(*testing.T, *app.App, *pgxpool.Pool) {})
}

// at gives somebody the same session at another replica.
func (c *caller) at(p *product) *caller {
	other := *c
	other.url = p.url
	return &other
}

// waiting waits until so many calls wait at a replica.
func (p *product) waiting(t *testing.T, n int) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		res, err := http.Get(p.url + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		text := readAll(t, res)
		if strings.Contains(text, fmt.Sprintf("satchel_waiting_devices %d\n", n)) {
			return
		}
	}
	t.Fatalf("there are never %d calls that wait", n)
}

// stalls measures the longest time for which this machine let the process stand still, until the function it gives is
// called: what a test of fractions of a second may subtract on a machine that does other things.
func stalls() func() time.Duration {
	stop, longest := make(chan struct{}), make(chan time.Duration)
	go func() {
		const every = 5 * time.Millisecond
		tick := time.NewTicker(every)
		defer tick.Stop()
		last, worst := time.Now(), time.Duration(0)
		for {
			select {
			case <-tick.C:
				now := time.Now()
				worst = max(worst, now.Sub(last)-every)
				last = now
			case <-stop:
				longest <- worst
				return
			}
		}
	}()
	return func() time.Duration { close(stop); return <-longest }
}

// wakesAcross lets Mei wait at b, in several rounds, while Ann commits at a.
func wakesAcross(t *testing.T, a, b *product, rounds int) {
	t.Helper()
	ann, mei := signIn(t, a.url, "acme", "ann"), signIn(t, b.url, "acme", "mei")
	account := ann.create("account", map[string]any{"name": "Quay"})
	for round := range rounds {
		mei.pull()
		woken := make(chan answer, 1)
		var at time.Time
		go func() {
			a := mei.call("SyncService/Wait", map[string]any{"cursor": mei.cursor})
			at = time.Now()
			woken <- a
		}()
		b.waiting(t, 1)
		stalled := stalls()
		ann.mutate(op(account, "account", "patch", withFields(map[string]any{"remark": fmt.Sprint("round ", round)})))
		committed := time.Now()
		select {
		case got := <-woken:
			late := at.Sub(committed) - stalled()
			if got.body["wake"] != true || late > wakeWithin {
				t.Errorf("round %d: woken %s after the commit: %s", round, late, got.raw)
			}
		case <-time.After(patience):
			t.Fatal("nobody is woken")
		}
		b.waiting(t, 0)
		mei.pull()
		if got := mei.seen[account].fields["remark"]; got != fmt.Sprint("round ", round) {
			t.Errorf("round %d: the account says %v", round, got)
		}
	}
}

// sessionsHoldOnBoth makes sessions at each replica and uses, renews and ends them at the other.
func sessionsHoldOnBoth(t *testing.T, a, b *product) {
	t.Helper()
	for _, at := range [][2]*product{{a, b}, {b, a}} {
		here, there := at[0], at[1]
		ben, ann, admin := signIn(t, here.url, "acme", "ben"), signIn(t, here.url, "acme", "ann"), signIn(t, here.url, "acme", "admin")
		if me := ben.at(there).must("AuthService/WhoAmI", `{}`); me["displayName"] != "Ben" {
			t.Errorf("at the other replica Ben is %v", me)
		}
		// A refresh at the other one, with a token of this one; the new pair works at both.
		next, _ := ben.at(there).must("AuthService/Refresh", map[string]any{"refreshToken": ben.refresh})["tokens"].(map[string]any)
		ben.token, _ = next["accessToken"].(string)
		ben.must("AuthService/WhoAmI", `{}`)
		ben.at(there).must("AuthService/WhoAmI", `{}`)
		// Both are used at both just before, so that whatever a replica keeps, it has.
		ann.at(there).must("SyncService/Sync", `{}`)
		ann.must("SyncService/Sync", `{}`)
		admin.must("DeviceService/RevokeDevice", map[string]any{"deviceId": ann.device})
		for _, p := range []*product{there, here} {
			if got := ann.at(p).call("SyncService/Sync", `{}`); got.reason != "DEVICE_REVOKED" {
				t.Errorf("a revoked device gets %s", got.raw)
			}
		}
		if got := ann.at(there).call("AuthService/Refresh", map[string]any{"refreshToken": ann.refresh}); got.code != "unauthenticated" && got.code != "permission_denied" {
			t.Errorf("a revoked device refreshes: %s", got.raw)
		}
		if got := ben.at(there).must("AuthService/SignOut", `{}`); got == nil {
			t.Error("no answer")
		}
		if got := ben.call("AuthService/WhoAmI", `{}`); got.reason != "SESSION_ENDED" {
			t.Errorf("a session that ended at the other replica: %s", got.raw)
		}
	}
}

// fleet lets phones work at both replicas at once, changing the replica at each call, and counts what came of it.
func fleet(t *testing.T, a, b *product, each int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	first := phone(t, a.url, "ann", nil)
	shared, err := first.Create(ctx, "account", satchelclient.Fields{"name": "Shared"})
	if err != nil {
		t.Fatal(err)
	}
	syncNow(t, first)
	logins := []string{"ann", "ann", "ben", "ben", "mei", "mei"}
	var g errgroup.Group
	for i, login := range logins {
		c, way := roaming(t, a, login)
		counts := login != "ben" // who does not see Ann's account
		g.Go(func() error {
			for n := range each {
				way.to([]*product{a, b}[(i+n)%2])
				if _, err := c.Create(ctx, "account", satchelclient.Fields{"name": fmt.Sprintf("%d/%d", i, n)}); err != nil {
					return err
				}
				if counts {
					if err := c.Patch(ctx, "account", shared, nil, satchelclient.Increment("visit_count", 1)); err != nil {
						return err
					}
				}
				if _, err := syncUntilSettled(ctx, c); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	fresh := phone(t, b.url, "mei", nil)
	syncNow(t, fresh)
	for i := range logins {
		onceEach(t, fresh, "account", numbered(i, each))
	}
	got, err := fresh.Get(ctx, "account", shared)
	if want := fmt.Sprintf(`"visit_count": %d`, 4*each); err != nil || !strings.Contains(string(got.Fields), want) {
		t.Errorf("the counter: %s, %v; it should have %s", got.Fields, err, want)
	}
}

// jobsAreDone sends a photo at a; the job of one of the replicas marks its record, which the phone sees at b.
func jobsAreDone(t *testing.T, a, b *product) {
	t.Helper()
	c, way := roaming(t, a, "ben")
	photo := attachPhoto(t, c, recordVisit(t, c), picture(t))
	syncNow(t, c)
	if _, err := c.Upload(t.Context()); err != nil {
		t.Fatal(err)
	}
	way.to(b)
	isStored(t, c, photo)
}

// isStored waits until a record says that its bytes are stored.
func isStored(t *testing.T, c *satchelclient.Client, photo satchel.ID) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if _, err := c.Sync(t.Context()); err != nil && !errors.Is(err, satchelclient.ErrUnavailable) {
			t.Fatal(err)
		}
		if r, err := c.Get(t.Context(), "photo", photo); err == nil && r.Text("blob_state") == "stored" {
			return
		}
	}
	t.Fatal("the photo's record never says that the bytes are stored")
}

// Not parallel: it is about half seconds.
func TestAWaiterIsWokenAcrossReplicasWithinHalfASecond(t *testing.T) {
	a, b := replicas(t, pgtest.URL(t), pg.Options{})
	wakesAcross(t, a, b, 10)
	wakesAcross(t, b, a, 3)
}

func TestSessionsAndRevocationsHoldOnBothReplicas(t *testing.T) {
	t.Parallel()
	a, b := replicas(t, pgtest.URL(t), pg.Options{})
	sessionsHoldOnBoth(t, a, b)
}

func TestPhonesThatChangeTheReplicaAtEachCallLoseAndDoubleNothing(t *testing.T) {
	t.Parallel()
	a, b := replicas(t, pgtest.URL(t), pg.Options{})
	fleet(t, a, b, 15)
	jobsAreDone(t, a, b)
}

// TestTheProductWorksThroughPgBouncer runs two replicas through a PgBouncer in transaction mode that has fewer
// connections to Postgres than there are phones. Not parallel, for wakes across replicas are measured here too.
func TestTheProductWorksThroughPgBouncer(t *testing.T) {
	a, b := replicas(t, pgtest.Bouncer(t, pgtest.URL(t), 3), pg.Options{PgBouncer: true, MaxConns: 8})
	wakesAcross(t, a, b, 5)
	sessionsHoldOnBoth(t, a, b)
	fleet(t, a, b, 15)
	jobsAreDone(t, a, b)
}

// detour is a phone's way to the server, which can be changed under it.
type detour struct{ host atomic.Pointer[string] }

func (d *detour) to(p *product) { d.toURL(p.url) }

func (d *detour) toURL(url string) {
	_, host, _ := strings.Cut(url, "://")
	d.host.Store(&host)
}

// RoundTrip is http.RoundTripper's.
func (d *detour) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Host = *d.host.Load()
	return http.DefaultTransport.RoundTrip(r)
}

func readAll(t *testing.T, res *http.Response) string {
	t.Helper()
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
