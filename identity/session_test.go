package identity

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/satchel-sync/satchel"
)

// withLi is a world with an organisation acme, an administrator root and a rep li.
func withLi(t *testing.T, adjust ...func(*Config)) (w *world, org satchel.ID, li Person) {
	t.Helper()
	w = newWorld(t, adjust...)
	org = w.org("acme")
	w.person("acme", "root", "admin")
	return w, org, w.person("acme", "li", "rep", "manager")
}

func TestASignInTellsWhoSpeaks(t *testing.T) {
	t.Parallel()
	w, org, li := withLi(t)
	s := w.signIn("acme", "li")
	p, err := w.Authenticate(t.Context(), s.Tokens.Access)
	must(t, err)
	if p.Org != org || p.Person != li.ID || p.Device != s.Device || !slices.Equal(p.Roles, []string{"manager", "rep"}) || p.Rights != uint64(w.rightsOf(org)) {
		t.Fatalf("the token speaks for %+v", p)
	}
	if s.Org != org || s.Person != li.ID || s.DisplayName != "The li" {
		t.Fatalf("the sign-in gave %+v", s)
	}
	for _, noise := range []string{"", "sat_", "Bearer x", s.Tokens.Refresh, s.Tokens.Access + "A", s.Tokens.Access[:len(s.Tokens.Access)-4] + "AAAA", strings.Repeat("x", 5000)} {
		_, err := w.Authenticate(t.Context(), noise)
		refused(t, err, satchel.ReasonTokenExpired)
	}
}

func TestALostAnswerToARefreshSignsNobodyOut(t *testing.T) {
	t.Parallel()
	w, _, _ := withLi(t)
	ctx := t.Context()
	first := w.signIn("acme", "li").Tokens
	lost, err := w.Refresh(ctx, first.Refresh)
	must(t, err)
	w.wait(59 * time.Second)
	again, err := w.replica().Refresh(ctx, first.Refresh)
	must(t, err)
	if again.Access != lost.Access || again.Refresh != lost.Refresh || !again.RefreshExpires.Equal(lost.RefreshExpires) {
		t.Fatal("asking again must give the same pair, or the phone that got the first answer late has a dead one")
	}
	_, err = w.Authenticate(ctx, again.Access)
	must(t, err)
	_, err = w.Refresh(ctx, again.Refresh)
	must(t, err)
}

func TestManyRefreshesAtOnceGiveOnePair(t *testing.T) {
	t.Parallel()
	w, _, _ := withLi(t)
	ctx := t.Context()
	first := w.signIn("acme", "li").Tokens
	replicas := []*Service{w.Service, w.replica()}
	got := make([]Tokens, 4)
	errs := make([]error, 4)
	var calls []func()
	for i := range got {
		calls = append(calls, func() { got[i], errs[i] = replicas[i%2].Refresh(ctx, first.Refresh) })
	}
	w.behind("select from session for update", nil, calls...)
	must(t, errors.Join(errs...))
	for _, g := range got[1:] {
		if g.Access != got[0].Access || g.Refresh != got[0].Refresh {
			t.Fatal("two refreshes at once gave two pairs, of which one is dead")
		}
	}
	_, err := w.Authenticate(ctx, got[0].Access)
	must(t, err)
}

func TestASpentRefreshTokenThatComesBackEndsTheSession(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		spend func(w *world, next Tokens) // what happened since the first refresh
	}{
		{"after the new pair was used", func(w *world, next Tokens) {
			_, err := w.Authenticate(w.t.Context(), next.Access)
			must(w.t, err)
		}},
		{"after ten minutes, unused", func(w *world, next Tokens) { w.wait(10 * time.Minute) }},
		{"after two generations", func(w *world, next Tokens) {
			_, err := w.Refresh(w.t.Context(), next.Refresh)
			must(w.t, err)
		}},
		{"after ten generations", func(w *world, next Tokens) {
			for range 10 {
				var err error
				next, err = w.Refresh(w.t.Context(), next.Refresh)
				must(w.t, err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w, _, _ := withLi(t)
			w.t = t
			ctx := t.Context()
			s := w.signIn("acme", "li")
			other := w.signIn("acme", "li")
			next, err := w.Refresh(ctx, s.Tokens.Refresh)
			must(t, err)
			c.spend(w, next)
			_, err = w.Refresh(ctx, s.Tokens.Refresh)
			refused(t, err, satchel.ReasonSessionEnded)
			_, err = w.Authenticate(ctx, next.Access)
			if r := satchel.ReasonOf(err); r != satchel.ReasonSessionEnded && r != satchel.ReasonTokenExpired {
				t.Fatalf("the newest access token still gives %v", err)
			}
			_, err = w.Refresh(ctx, next.Refresh)
			refused(t, err, satchel.ReasonSessionEnded)
			if !strings.Contains(w.log.String(), `"device":"`+s.Device.String()) {
				t.Error("nobody was told")
			}
			_, err = w.Refresh(ctx, other.Tokens.Refresh)
			must(t, err) // the person's other device goes on
		})
	}
}

func TestOnlyTheNewestPairIsValid(t *testing.T) {
	t.Parallel()
	w, _, _ := withLi(t)
	first := w.signIn("acme", "li").Tokens
	_, err := w.Authenticate(t.Context(), first.Access)
	must(t, err)
	_, err = w.Refresh(t.Context(), first.Refresh)
	must(t, err)
	_, err = w.Authenticate(t.Context(), first.Access)
	refused(t, err, satchel.ReasonTokenExpired)
}

func TestNoiseWithTheRightIdsEndsNoSession(t *testing.T) {
	t.Parallel()
	w, org, _ := withLi(t)
	s := w.signIn("acme", "li")
	_, err := w.Refresh(t.Context(), makeToken(refreshPrefix, org, s.Device, random(familySize), random(secretSize)))
	refused(t, err, satchel.ReasonSessionEnded)
	_, err = w.Authenticate(t.Context(), s.Tokens.Access)
	must(t, err)
}

func TestTokensExpireByTheServersClock(t *testing.T) {
	t.Parallel()
	w, _, _ := withLi(t)
	ctx := t.Context()
	start := w.now()
	tok := w.signIn("acme", "li").Tokens
	w.wait(15*time.Minute - time.Second)
	_, err := w.Authenticate(ctx, tok.Access)
	must(t, err)
	w.wait(time.Second)
	_, err = w.Authenticate(ctx, tok.Access)
	refused(t, err, satchel.ReasonTokenExpired)

	for range 3 { // 29 days without a signal, three times: each refresh gives 30 more, up to 90 in all
		w.wait(29 * 24 * time.Hour)
		tok, err = w.Refresh(ctx, tok.Refresh)
		must(t, err)
	}
	if end := start.Add(90 * 24 * time.Hour); !tok.RefreshExpires.Equal(end) {
		t.Fatalf("the refresh token lives until %v, the session ends at %v", tok.RefreshExpires, end)
	}
	w.wait(tok.RefreshExpires.Sub(w.now()))
	_, err = w.Refresh(ctx, tok.Refresh)
	refused(t, err, satchel.ReasonSessionEnded)
}

func TestARevokedDeviceIsRefusedAtItsNextRequestOnEveryReplica(t *testing.T) {
	t.Parallel()
	var hooked []satchel.ID
	w, _, li := withLi(t, func(c *Config) {
		c.DeviceGone = func(_ context.Context, _ pgx.Tx, _, device satchel.ID) error {
			hooked = append(hooked, device)
			return nil
		}
	})
	ctx := t.Context()
	s, spare := w.signIn("acme", "li"), w.signIn("acme", "li")
	other := w.replica()
	_, err := other.Authenticate(ctx, s.Tokens.Access)
	must(t, err)
	root := w.as("acme", "root")
	must(t, w.RevokeDevice(ctx, root, s.Device))
	must(t, w.RevokeDevice(ctx, root, s.Device))
	_, err = other.Authenticate(ctx, s.Tokens.Access)
	refused(t, err, satchel.ReasonDeviceRevoked)
	_, err = other.Refresh(ctx, s.Tokens.Refresh)
	refused(t, err, satchel.ReasonDeviceRevoked)
	if !slices.Equal(hooked, []satchel.ID{s.Device, s.Device}) {
		t.Errorf("the engine was told of %v", hooked)
	}
	// Without the token nobody learns that the device was revoked.
	_, err = other.Authenticate(ctx, makeToken(accessPrefix, s.Org, s.Device, nil, random(secretSize)))
	refused(t, err, satchel.ReasonTokenExpired)

	again, err := w.SignIn(ctx, SignIn{Org: "acme", Login: "li", Password: goodPassword, Device: DeviceInfo{ID: s.Device}})
	must(t, err)
	if again.Device == s.Device {
		t.Error("a revoked device came back")
	}
	p, err := w.Authenticate(ctx, spare.Tokens.Access)
	must(t, err)
	must(t, w.RevokeDevice(ctx, p, again.Device)) // one's own
	devices, err := w.ListDevices(ctx, root, li.ID)
	must(t, err)
	if len(devices) != 3 || devices[0].ID != again.Device || devices[0].Revoked.IsZero() || !devices[1].Revoked.IsZero() {
		t.Errorf("the devices are %+v", devices)
	}
}

func TestSignOutEndsThisDevicesSessionOnly(t *testing.T) {
	t.Parallel()
	var gone []satchel.ID
	w, _, _ := withLi(t, func(c *Config) {
		c.DeviceGone = func(_ context.Context, _ pgx.Tx, _, device satchel.ID) error {
			gone = append(gone, device)
			return nil
		}
	})
	ctx := t.Context()
	s, other := w.signIn("acme", "li"), w.signIn("acme", "li")
	p, err := w.Authenticate(ctx, s.Tokens.Access)
	must(t, err)
	must(t, w.SignOut(ctx, p))
	must(t, w.SignOut(ctx, p))
	if !slices.Equal(gone, []satchel.ID{s.Device, s.Device}) {
		t.Errorf("that a phone is gone was told of %v", gone)
	}
	_, err = w.Authenticate(ctx, s.Tokens.Access)
	refused(t, err, satchel.ReasonSessionEnded)
	_, err = w.Refresh(ctx, s.Tokens.Refresh)
	refused(t, err, satchel.ReasonSessionEnded)
	_, err = w.Authenticate(ctx, other.Tokens.Access)
	must(t, err)
}

func TestAChangedPasswordEndsTheSessionsOnOtherDevices(t *testing.T) {
	t.Parallel()
	w, _, _ := withLi(t)
	ctx := t.Context()
	mine, other := w.signIn("acme", "li"), w.signIn("acme", "li")
	p, err := w.Authenticate(ctx, mine.Tokens.Access)
	must(t, err)
	const fresh = "ａ much nicer password"
	refused(t, w.ChangePassword(ctx, p, "wrong but long", fresh), satchel.ReasonBadCredentials)
	refused(t, w.ChangePassword(ctx, p, goodPassword, "short"), satchel.ReasonMalformed)
	must(t, w.ChangePassword(ctx, p, goodPassword, fresh))
	_, err = w.Authenticate(ctx, mine.Tokens.Access)
	must(t, err)
	_, err = w.Authenticate(ctx, other.Tokens.Access)
	refused(t, err, satchel.ReasonSessionEnded)
	_, err = w.SignIn(ctx, SignIn{Org: "acme", Login: "li", Password: goodPassword})
	refused(t, err, satchel.ReasonBadCredentials)
	_, err = w.SignIn(ctx, SignIn{Org: "acme", Login: "li", Password: "a much nicer password"}) // typed half-width
	must(t, err)

	var last error
	for range freeAttempts + 1 {
		last = w.ChangePassword(ctx, p, "wrong but long", fresh)
	}
	refused(t, last, satchel.ReasonRateLimited)
}
