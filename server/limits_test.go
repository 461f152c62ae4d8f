package server

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/syncengine"
)

// nobody has none of the parts that a call needs: what reaches one panics.
func nobody(t *testing.T, adjust func(*Config)) *Server {
	t.Helper()
	cfg := Config{Engine: struct{ Engine }{}, Identity: struct{ Identity }{}, Ready: func(context.Context) error { return nil }}
	if adjust != nil {
		adjust(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestWithoutItsPartsNoServerIsMade(t *testing.T) {
	t.Parallel()
	good := Config{Engine: struct{ Engine }{}, Identity: struct{ Identity }{}, Ready: func(context.Context) error { return nil }}
	for name, spoil := range map[string]func(*Config){
		"no engine":           func(c *Config) { c.Engine = nil },
		"half a certificate":  func(c *Config) { c.TLSCert = "x" },
		"no such certificate": func(c *Config) { c.TLSCert, c.TLSKey = "/none", "/none" },
		"an origin with path": func(c *Config) { c.Origins = []string{"https://x.example/app"} },
		"a pattern as origin": func(c *Config) { c.Origins = []string{"https://*.example"} },
	} {
		cfg := good
		spoil(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestAPanicIsAnInternalErrorAndNotTheEnd(t *testing.T) {
	t.Parallel()
	s := nobody(t, nil)
	for name, path := range map[string]string{"in the gate": "/satchel.v1.SyncService/Sync", "in a method": "/satchel.v1.AuthService/Refresh"} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader(`{"refreshToken":"x"}`))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer x")
		rec := httptest.NewRecorder()
		s.Handler().ServeHTTP(rec, r)
		if rec.Code != http.StatusInternalServerError || !strings.Contains(rec.Body.String(), `"code":"internal"`) || strings.Contains(rec.Body.String(), "nil pointer") {
			t.Errorf("%s: %d %s", name, rec.Code, rec.Body)
		}
	}
}

func TestABodyThatDripsIsEndedByTimeOut(t *testing.T) {
	t.Parallel()
	s := nobody(t, nil)
	s.grace = 50 * time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	t.Cleanup(func() { stop(); <-ended })
	for path, want := range map[string]string{
		"/satchel.v1.AuthService/Refresh": "REASON_DEADLINE",
		"/satchel.v1.SyncService/Sync":    "REASON_TOKEN_EXPIRED", // nobody reads this body
		"/nothing":                        "unimplemented",
	} {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{", path)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		defer res.Body.Close()
		raw, err := io.ReadAll(res.Body)
		if err != nil || !strings.Contains(string(raw), want) {
			t.Errorf("%s: got %s %v", path, raw, err)
		}
	}
}

func TestHeadersConnectionsAndAnswersHaveTheirTimeOuts(t *testing.T) {
	t.Parallel()
	h := nobody(t, nil).httpServer()
	if h.ReadHeaderTimeout != 10*time.Second || h.IdleTimeout != 120*time.Second || h.WriteTimeout == 0 || h.MaxHeaderBytes != 64<<10 || h.HTTP2.MaxConcurrentStreams == 0 {
		t.Errorf("got %+v", h)
	}
}

func TestAForwardedAddressIsBelievedFromATrustedProxyOnly(t *testing.T) {
	t.Parallel()
	s := nobody(t, func(c *Config) { c.TrustProxy = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} })
	for _, c := range []struct{ name, peer, forwarded, want string }{
		{"no proxy", "203.0.113.9:1", "", "203.0.113.9"},
		{"a stranger who lies", "203.0.113.9:1", "198.51.100.1", "203.0.113.9"},
		{"the proxy", "10.1.1.1:1", "198.51.100.1", "198.51.100.1"},
		{"two proxies", "10.1.1.1:1", "198.51.100.1, 10.2.2.2", "198.51.100.1"},
		{"a lie before the proxy", "10.1.1.1:1", "1.1.1.1, 198.51.100.1", "198.51.100.1"},
		{"noise", "10.1.1.1:1", "noise", "10.1.1.1"},
		{"no address", "@", "", "invalid IP"},
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.RemoteAddr = c.peer
		if c.forwarded != "" {
			r.Header.Set("X-Forwarded-For", c.forwarded)
		}
		if got := s.clientAddress(r).String(); got != c.want {
			t.Errorf("%s: %s, not %s", c.name, got, c.want)
		}
	}
}

// forker gives one id.
type forker struct{ id satchel.ID }

func (f forker) ForkDevice(context.Context, *satchel.Principal) (satchel.ID, error) { return f.id, nil }

// cloned is an engine that does not know the numbering of any device.
type cloned struct{ Engine }

func (cloned) Apply(context.Context, *satchel.Principal, syncengine.Batch) (syncengine.Outcome, error) {
	return syncengine.Outcome{Fork: true, Expected: 7}, nil
}

func (cloned) Pull(context.Context, *satchel.Principal, syncengine.PullRequest) (*syncengine.Page, error) {
	return nil, nil
}

func (cloned) Restored(context.Context, *satchel.Principal, uint64, []byte) (*syncengine.Lost, error) {
	return nil, nil
}

func (cloned) Contact(context.Context, *satchel.Principal, syncengine.ContactNote) error { return nil }

// anybody lets everybody in.
type anybody struct{ Identity }

func (anybody) Authenticate(context.Context, string) (*satchel.Principal, error) {
	return &satchel.Principal{Org: satchel.NewID(), Person: satchel.NewID(), Device: satchel.NewID()}, nil
}

func TestAClonedDeviceIsOrderedToFork(t *testing.T) {
	t.Parallel()
	id := satchel.NewID()
	for name, c := range map[string]struct {
		forker Forker
		want   string
	}{"with somebody who forks": {forker{id}, `"fork":{"deviceId":"` + id.String()}, "with nobody": {nil, `"expectedNumber":"7"`}} {
		s := nobody(t, func(cfg *Config) { cfg.Engine, cfg.Identity, cfg.Forker = cloned{}, anybody{}, c.forker })
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/satchel.v1.SyncService/Sync", strings.NewReader(`{"mutations":[{"number":1}]}`))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer x")
		rec := httptest.NewRecorder()
		s.Handler().ServeHTTP(rec, r)
		if got := strings.ReplaceAll(rec.Body.String(), " ", ""); !strings.Contains(got, c.want) || strings.Contains(got, "verdicts") {
			t.Errorf("%s: %s", name, got)
		}
	}
}
