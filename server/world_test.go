package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/proto"

	satchel "github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/gen/satchel/v1/satchelv1connect"
	"github.com/satchel-sync/satchel/identity"
	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const password = "a long enough password"

// world is the product on a database of its own behind a real port, with a clock that only the test moves.
type world struct {
	t     *testing.T
	app   *app.App
	pool  *pgxpool.Pool
	url   string
	log   *lockedBuffer
	clock atomic.Int64  // milliseconds
	stop  func()        // tells the server to end
	ended chan struct{} // closed when it has ended
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newWorld(t *testing.T, adjust ...func(*app.Config)) *world {
	t.Helper()
	t.Parallel()
	return newWorldNow(t, adjust...)
}

// newWorldNow is newWorld for a test that is parallel already.
func newWorldNow(t *testing.T, adjust ...func(*app.Config)) *world {
	t.Helper()
	w := &world{t: t, pool: pgtest.New(t), log: &lockedBuffer{}}
	w.clock.Store(time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC).UnixMilli())
	cfg := app.Config{
		Pool: w.pool, BlobURL: "file://" + t.TempDir(), Secret: bytes.Repeat([]byte("k"), 32),
		Identity: app.Identity{Hashing: identity.Argon2{MemoryKiB: 8, Passes: 1, Lanes: 1}, AddressPerSecond: -1},
		Now:      func() time.Time { return time.UnixMilli(w.clock.Load()).UTC() },
		Logger:   slog.New(slog.NewJSONHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, f := range adjust {
		f(&cfg)
	}
	var err error
	if w.app, err = app.New(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := w.app.Identity.CreateOrg(t.Context(), identity.NewOrg{Slug: "acme", Name: "Acme"}); err != nil {
		t.Fatal(err)
	}
	for login, role := range map[string]string{"ann": "rep", "ben": "rep", "ada": "admin"} {
		if _, err := w.app.Identity.AddUser(t.Context(), "acme", identity.NewPerson{Login: login, DisplayName: login, Roles: []string{role}, Password: password}); err != nil {
			t.Fatal(err)
		}
	}
	if cfg.TLSCert == "" {
		w.url = "http://" + w.serve()
	}
	return w
}

// serve runs the server on a port until w.stop or the end of the test, and gives its address.
func (w *world) serve() string {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	w.stop, w.ended = stop, make(chan struct{})
	go func() {
		defer close(w.ended)
		if err := w.app.Server.Serve(ctx, l); err != nil {
			w.t.Error(err)
		}
	}()
	w.t.Cleanup(func() {
		stop()
		<-w.ended
	})
	return l.Addr().String()
}

func (w *world) pass(d time.Duration) { w.clock.Add(d.Milliseconds()) }

// h2c is a client that speaks HTTP/2 without TLS.
func h2c(t *testing.T) *http.Client {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: p}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// device is a person's phone.
type device struct {
	w       *world
	tokens  *satchelv1.Tokens
	id      satchel.ID
	person  string
	sync    satchelv1connect.SyncServiceClient
	auth    satchelv1connect.AuthServiceClient
	devices satchelv1connect.DeviceServiceClient
	desk    satchelv1connect.DeskServiceClient
	next    uint64
	cursor  []byte
}

// as sends the device's token with each call.
func (d *device) as() connect.Interceptor {
	return connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
			if d.tokens != nil {
				r.Header().Set("Authorization", "Bearer "+d.tokens.AccessToken)
			}
			return next(ctx, r)
		}
	})
}

// phone gives a device that is not signed in.
func (w *world) phone(client *http.Client, options ...connect.ClientOption) *device {
	d := &device{w: w}
	options = append(options, connect.WithInterceptors(d.as()))
	d.sync = satchelv1connect.NewSyncServiceClient(client, w.url, options...)
	d.auth = satchelv1connect.NewAuthServiceClient(client, w.url, options...)
	d.devices = satchelv1connect.NewDeviceServiceClient(client, w.url, options...)
	d.desk = satchelv1connect.NewDeskServiceClient(client, w.url, options...)
	return d
}

// signIn gives a device on which the person is signed in.
func (w *world) signIn(login string, options ...connect.ClientOption) *device {
	w.t.Helper()
	d := w.phone(http.DefaultClient, options...)
	d.signIn(login)
	return d
}

func (d *device) signIn(login string) {
	d.w.t.Helper()
	res, err := d.auth.SignIn(d.w.t.Context(), &satchelv1.SignInRequest{Org: "acme", Login: login, Password: password})
	if err != nil {
		d.w.t.Fatal(err)
	}
	d.tokens, d.id, d.person = res.Tokens, satchel.MustParseID(res.DeviceId), res.PersonId
}

// mutation gives the next mutation with these ops.
func (d *device) mutation(ops ...*satchelv1.Op) *satchelv1.Mutation {
	d.next++
	return &satchelv1.Mutation{Number: d.next, Id: satchel.NewID().String(), Ops: ops}
}

// create gives an op that creates a record.
func create(kind string, fields map[string]any) *satchelv1.Op {
	raw, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	return &satchelv1.Op{RecordId: satchel.NewID().String(), Kind: kind,
		Action: &satchelv1.Op_Create{Create: &satchelv1.Create{Fields: string(raw)}}}
}

func (d *device) account(name string) *satchelv1.Op {
	return create("account", map[string]any{"owner": d.person, "name": name})
}

// send syncs mutations and gives the answer.
func (d *device) send(ms ...*satchelv1.Mutation) *satchelv1.SyncResponse {
	d.w.t.Helper()
	res, err := d.sync.Sync(d.w.t.Context(), &satchelv1.SyncRequest{Mutations: ms, Cursor: d.cursor})
	if err != nil {
		d.w.t.Fatal(err)
	}
	if c := res.GetPage().GetCursor(); c != nil {
		d.cursor = c
	}
	return res
}

// settle syncs until the device is complete.
func (d *device) settle() {
	d.w.t.Helper()
	for range 20 {
		if p := d.send().Page; p == nil || p.Checkpoint && !p.More {
			return
		}
	}
	d.w.t.Fatal("the device does not become complete")
}

// detail gives the typed detail of a failed call, and its code.
func detail(t *testing.T, err error) (connect.Code, *satchelv1.ErrorDetail) {
	t.Helper()
	if err == nil {
		t.Fatal("the call succeeded")
	}
	ce := new(connect.Error)
	if !asConnect(err, &ce) {
		t.Fatalf("no Connect error: %v", err)
	}
	for _, d := range ce.Details() {
		v, err := d.Value()
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := v.(*satchelv1.ErrorDetail); ok {
			return ce.Code(), e
		}
	}
	t.Fatalf("%v has no ErrorDetail", err)
	return 0, nil
}

// post sends bytes as a Connect JSON call and gives the answer.
func (w *world) post(path, token string, body io.Reader, headers ...string) (*http.Response, []byte) {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.url+path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return res, raw
}

// failure reads the error of a Connect JSON answer: its code, reason and detail.
func failure(t *testing.T, raw []byte) (code string, e *satchelv1.ErrorDetail) {
	t.Helper()
	var wire struct {
		Code    string
		Details []struct{ Type, Value string }
	}
	if err := json.Unmarshal(raw, &wire); err != nil {
		t.Fatalf("%v in %q", err, raw)
	}
	e = &satchelv1.ErrorDetail{}
	for _, d := range wire.Details {
		if d.Type != "satchel.v1.ErrorDetail" {
			continue
		}
		b, err := base64Raw.DecodeString(d.Value)
		if err != nil {
			t.Fatal(err)
		}
		if err := proto.Unmarshal(b, e); err != nil {
			t.Fatal(err)
		}
		return wire.Code, e
	}
	t.Fatalf("no ErrorDetail in %s", raw)
	return "", nil
}

// eventually waits until ok gives true.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			w.t.Fatal("in vain: " + what)
		}
	}
}

// get answers a GET of the handler without a network.
func (w *world) get(path, remote string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(w.t.Context(), http.MethodGet, path, nil)
	if remote != "" {
		r.RemoteAddr = remote
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	w.app.Server.Handler().ServeHTTP(rec, r)
	return rec
}
