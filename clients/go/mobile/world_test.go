package mobile_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/clients/go/mobile"
	"github.com/satchel-sync/satchel/identity"
	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/internal/pgtest"
)

const password = "open sesame 42"

// office is the whole product, with a line to it that can be cut.
type office struct {
	url  string
	down atomic.Bool
}

// newOffice starts the product with Acme, where Ann and Ben are reps and Mei is their manager.
func newOffice(t *testing.T) *office {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	a, err := app.New(ctx, app.Config{
		Pool: pgtest.New(t), BlobURL: "file://" + filepath.Join(t.TempDir(), "blobs"), Secret: make([]byte, 32),
		Identity: app.Identity{Hashing: identity.Argon2{MemoryKiB: 64, Passes: 1, Lanes: 1}, AddressPerSecond: -1},
	})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	o := &office{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if o.down.Load() {
			panic(http.ErrAbortHandler)
		}
		a.Server.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		cancel()
		s.CloseClientConnections()
		s.Close()
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			t.Error("the server does not end")
		}
	})
	o.url = s.URL
	org, err := a.Identity.CreateOrg(ctx, identity.NewOrg{Slug: "acme", Name: "Acme", TimeZone: "Asia/Shanghai"})
	if err != nil {
		t.Fatal(err)
	}
	admin, err := a.Identity.AddUser(ctx, "acme", identity.NewPerson{Login: "admin", Roles: []string{"admin"}, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	north, err := a.Identity.CreateTeam(ctx, &satchel.Principal{Org: org, Person: admin.ID, Roles: admin.Roles}, "North", satchel.ID{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range [][2]string{{"ann", "rep"}, {"ben", "rep"}, {"mei", "manager"}} {
		if _, err := a.Identity.AddUser(ctx, "acme", identity.NewPerson{Login: p[0], DisplayName: p[0], Team: north.ID, Roles: []string{p[1]}, Password: password}); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// phone is an app: a client, and what its listeners heard.
type phone struct {
	*mobile.Client
	t    *testing.T
	path string
	*ear
}

// quick keeps the pauses after failures short.
const quick = `{"language": "en", "appVersion": "1.0", "retryMinMs": 5, "retryMaxMs": 20}`

func (o *office) phone(t *testing.T, login string) *phone {
	t.Helper()
	p := &phone{t: t, path: filepath.Join(t.TempDir(), "satchel.db"), ear: newEar()}
	p.reopen(o.url)
	t.Cleanup(func() { ok(t, p.Close()) })
	ok(t, p.SignIn("acme", login, password, login+"'s phone"))
	return p
}

func (p *phone) reopen(url string) {
	p.t.Helper()
	c, err := mobile.Open(p.path, url, quick, clock{})
	ok(p.t, err)
	p.Client = c
}

// clock is a phone's.
type clock struct{}

func (clock) Boot() string         { return "boot-1" }
func (clock) ElapsedMillis() int64 { return 1_000 }

// ear keeps what listeners heard.
type ear struct {
	mu       sync.Mutex
	kinds    map[string]int
	statuses []string
	failures []string
	ends     []string
	news     chan struct{} // closed and replaced at each call
}

func newEar() *ear { return &ear{kinds: map[string]int{}, news: make(chan struct{})} }

func (e *ear) hear(fn func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fn()
	close(e.news)
	e.news = make(chan struct{})
}

func (e *ear) OnChange(kind string)   { e.hear(func() { e.kinds[kind]++ }) }
func (e *ear) OnStatus(status string) { e.hear(func() { e.statuses = append(e.statuses, status) }) }
func (e *ear) OnPause(failure string, ms int64) {
	e.hear(func() { e.failures = append(e.failures, failure) })
}
func (e *ear) OnEnd(failure string) { e.hear(func() { e.ends = append(e.ends, failure) }) }

// heard reads what was heard while nothing is heard.
func heard[T any](e *ear, read func() T) T {
	e.mu.Lock()
	defer e.mu.Unlock()
	return read()
}

// until waits until the condition, which is asked with the ear locked, holds.
func (e *ear) until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		e.mu.Lock()
		done, news := holds(), e.news
		e.mu.Unlock()
		if done {
			return
		}
		select {
		case <-news:
		case <-limit:
			t.Fatalf("it never came: %s", what)
		}
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantCode wants an error of that code.
func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s", code)
	}
	if got := mobile.ParseError(err.Error()); got.Code != code || got.Message == "" {
		t.Errorf("the error is %q, want the code %s", err, code)
	}
}

// object is JSON that came.
type object = map[string]any

// parsed reads JSON that a call gave.
func parsed[T any](t *testing.T, text string, err error) T {
	t.Helper()
	ok(t, err)
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return v
}

func one(t *testing.T, text string, err error) object {
	t.Helper()
	return parsed[object](t, text, err)
}

func many(t *testing.T, text string, err error) []object {
	t.Helper()
	return parsed[[]object](t, text, err)
}

// written gives JSON.
func written(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	ok(t, err)
	return string(b)
}

func (p *phone) account(name string) string {
	p.t.Helper()
	id, err := p.Create("account", written(p.t, object{"name": name}))
	ok(p.t, err)
	return id
}

func (p *phone) sync() object {
	p.t.Helper()
	text, err := p.Sync()
	return one(p.t, text, err)
}

// fields gives the fields of a record as the phone shows it.
func (p *phone) fields(kind, id string) object {
	p.t.Helper()
	text, err := p.Get(kind, id)
	f, isObject := one(p.t, text, err)["fields"].(object)
	if !isObject {
		p.t.Fatalf("no fields: %s", text)
	}
	return f
}
