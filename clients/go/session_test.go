package satchelclient_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"

	"github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/clients/go/memstore"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

func TestAWrongPasswordIsToldApartFromAnEndedSession(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c, err := satchelclient.New(config(f, memstore.New()))
	if err != nil {
		t.Fatal(err)
	}
	err = c.SignIn(t.Context(), satchelclient.Credentials{Login: "lina", Password: "wrong"})
	e, ok := errors.AsType[*satchelclient.Error](err)
	if !ok || e.Reason != satchel.ReasonBadCredentials || e.RequestID != "r1" || errors.Is(err, satchelclient.ErrSignInAgain) {
		t.Errorf("got %v", err)
	}
	mustCreate(t, c, "visit", nil) // works before anybody has signed in
	if _, err := c.Sync(t.Context()); !errors.Is(err, satchelclient.ErrSignInAgain) {
		t.Errorf("got %v", err)
	}
	wantPending(t, c, 1)
}

func TestManyCallsWithAnExpiredTokenRefreshOnce(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := client(t, f)
	mustSync(t, c) // a cursor, for Wait
	f.bend(func(f *fake) { f.access = "expired"; close(f.waits) })
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := c.Wait(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if f.refreshes != 1 {
		t.Errorf("the refresh token was used %d times", f.refreshes)
	}
}

func TestAnEndedSessionAsksForASignInAndKeepsTheOutbox(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	store := memstore.New()
	c := signedIn(t, config(f, store))
	id := mustCreate(t, c, "visit", nil)
	f.bend(func(f *fake) { f.access, f.refresh = "revoked", "revoked" })
	for range 2 {
		if _, err := c.Sync(t.Context()); !errors.Is(err, satchelclient.ErrSignInAgain) {
			t.Errorf("got %v", err)
		}
	}
	if f.refreshes != 1 || c.Identity().SignedIn {
		t.Errorf("%d refreshes; %+v", f.refreshes, c.Identity())
	}
	wantPending(t, c, 1)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	again := signedIn(t, config(f, store))
	mustSync(t, again)
	wantPending(t, again, 0)
	wantShown(t, again, "visit", id, `{}`)
}

func TestAPortalOnTheWayEndsNoSession(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"<h1>Log in to the hotel's network</h1>", "{}", `{"code":"unauthenticated"}`, `{"code":"permission_denied"}`} {
		f := newFake(t)
		cfg := config(f, memstore.New())
		way := new(portal)
		cfg.HTTPClient = &http.Client{Transport: way}
		c := signedIn(t, cfg)
		mustCreate(t, c, "visit", nil)
		f.bend(func(f *fake) { f.access = "expired" }) // the server's own answer, then the portal's to the renewal
		way.body = body
		if _, err := c.Sync(t.Context()); !errors.Is(err, satchelclient.ErrUnavailable) || errors.Is(err, satchelclient.ErrSignInAgain) {
			t.Errorf("behind %s: %v", body, err)
		}
		way.body = ""
		mustSync(t, c)
		wantPending(t, c, 0)
	}
}

// portal answers 401 in the server's place while it has a body, but for Sync.
type portal struct{ body string }

func (p *portal) RoundTrip(r *http.Request) (*http.Response, error) {
	if p.body == "" || strings.HasSuffix(r.URL.Path, "/Sync") {
		return http.DefaultTransport.RoundTrip(r)
	}
	_ = r.Body.Close()
	return &http.Response{StatusCode: http.StatusUnauthorized, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(p.body)), Request: r}, nil
}

func TestAnotherPersonIsRefusedAndTheirSessionEnded(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := client(t, f)
	before := c.Identity()
	mustCreate(t, c, "visit", nil)
	f.bend(func(f *fake) { f.person = satchel.NewID() })
	err := c.SignIn(t.Context(), satchelclient.Credentials{Login: "wang", Password: "right"})
	if !errors.Is(err, satchelclient.ErrOtherPerson) || c.Identity() != before || len(f.signOuts) != 1 {
		t.Errorf("%v; %+v; %v", err, c.Identity(), f.signOuts)
	}
	wantPending(t, c, 1)
}

func TestANewDeviceIDAtSignInNumbersAnew(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := client(t, f)
	mustCreate(t, c, "visit", nil)
	mustSync(t, c)
	mustCreate(t, c, "visit", nil)
	f.bend(func(f *fake) { f.device = satchel.NewID() })
	if err := c.SignIn(t.Context(), satchelclient.Credentials{Login: "lina", Password: "right"}); err != nil {
		t.Fatal(err)
	}
	mustSync(t, c)
	if got := numbers(f.last(t)); len(got) != 1 || got[0] != 1 {
		t.Errorf("sent %v", got)
	}
}

func TestSignOutWaitsForTheOutbox(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := client(t, f)
	id := mustCreate(t, c, "visit", nil)
	if err := c.SignOut(t.Context()); !errors.Is(err, satchelclient.ErrUnsent) {
		t.Errorf("got %v", err)
	}
	mustSync(t, c)
	if err := c.SignOut(t.Context()); err != nil || c.Identity().SignedIn || len(f.signOuts) != 1 {
		t.Errorf("%v; %+v", err, c.Identity())
	}
	wantShown(t, c, "visit", id, `{}`)
}

func TestErrorsAreOfTheClassesThatAnAppBranchesOn(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := client(t, f)
	for _, test := range []struct {
		code   connect.Code
		reason satchelv1.Reason
		want   error
	}{
		{connect.CodeUnavailable, satchelv1.Reason_REASON_DATABASE_DOWN, satchelclient.ErrUnavailable},
		{connect.CodeUnauthenticated, satchelv1.Reason_REASON_SESSION_ENDED, satchelclient.ErrSignInAgain},
		{connect.CodeUnauthenticated, satchelv1.Reason_REASON_DEVICE_REVOKED, satchelclient.ErrDeviceRevoked},
		{connect.CodeFailedPrecondition, satchelv1.Reason_REASON_CLIENT_TOO_OLD, satchelclient.ErrUpgradeApp},
	} {
		f.bend(func(f *fake) {
			f.script = func(*satchelv1.SyncRequest) (*satchelv1.SyncResponse, error) {
				return nil, fail(test.code, test.reason, 0)
			}
		})
		_, err := c.Sync(t.Context())
		for _, class := range []error{satchelclient.ErrUnavailable, satchelclient.ErrSignInAgain, satchelclient.ErrDeviceRevoked, satchelclient.ErrUpgradeApp} {
			if errors.Is(err, class) != (class == test.want) {
				t.Errorf("%v: is %v: %v", test.reason, class, errors.Is(err, class))
			}
		}
	}
	cfg := config(f, memstore.New())
	cfg.HTTPClient = &http.Client{Transport: noNetwork{}}
	c, err := satchelclient.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SignIn(t.Context(), satchelclient.Credentials{Password: "right"}); !errors.Is(err, satchelclient.ErrUnavailable) {
		t.Errorf("without a network: %v", err)
	}
}

type noNetwork struct{}

func (noNetwork) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("no route to host")
}
