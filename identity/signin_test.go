package identity

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/satchel-sync/satchel"
)

func TestEveryWrongPartOfASignInCostsAndSaysTheSame(t *testing.T) {
	t.Parallel()
	w, _, _ := withLi(t)
	ctx := t.Context()
	root := w.as("acme", "root")
	yes := true
	_, err := w.UpdatePerson(ctx, root, PersonPatch{Person: w.person("acme", "gone").ID, Disabled: &yes})
	must(t, err)
	_, err = w.AddUser(ctx, "acme", NewPerson{Login: "bare"})
	must(t, err)
	texts := map[string]bool{}
	for _, in := range []SignIn{
		{Org: "acme", Login: "li", Password: "wrong but long"},
		{Org: "acme", Login: "nobody", Password: goodPassword},
		{Org: "acme", Login: "gone", Password: goodPassword},
		{Org: "acme", Login: "bare", Password: ""},
		{Org: "acme", Login: "bare", Password: goodPassword},
		{Org: "nowhere", Login: "li", Password: goodPassword},
		{Org: "\x00\xff", Login: "l\x00i", Password: "\xff\x00"},
	} {
		before := w.hash.runs.Load()
		_, err := w.SignIn(ctx, in)
		refused(t, err, satchel.ReasonBadCredentials)
		texts[err.Error()] = true
		if n := w.hash.runs.Load() - before; n != 1 {
			t.Errorf("argon2id ran %d times for %q at %q, so its time tells something", n, in.Login, in.Org)
		}
	}
	if len(texts) != 1 {
		t.Errorf("the answers differ: %v", texts)
	}
}

func TestASignInThatMeetsAResetOrADisablingOpensNothing(t *testing.T) {
	t.Parallel()
	for _, set := range []string{"password_version = password_version + 1", "disabled_at = created_at"} {
		w, org, li := withLi(t)
		var err error
		w.behind("update person set "+set+" where org_id = $1 and id = $2", []any{org, li.ID}, func() {
			_, err = w.SignIn(t.Context(), SignIn{Org: "acme", Login: "li", Password: goodPassword}) // right when it was looked at
		})
		refused(t, err, satchel.ReasonBadCredentials)
		var sessions int
		must(t, w.pool.QueryRow(t.Context(), "select count(*) from session").Scan(&sessions))
		if sessions != 0 {
			t.Errorf("after %q there are %d sessions", set, sessions)
		}
	}
}

func TestALoginWaitsAfterTenFailuresOnAllReplicas(t *testing.T) {
	t.Parallel()
	for _, login := range []string{"li", "nobody"} { // a login that does not exist waits just the same
		t.Run(login, func(t *testing.T) {
			t.Parallel()
			w, _, _ := withLi(t)
			ctx := t.Context()
			replicas := []*Service{w.Service, w.replica()}
			bad := SignIn{Org: "acme", Login: login, Password: "wrong but long"}
			for i := range freeAttempts {
				_, err := replicas[i%2].SignIn(ctx, bad)
				refused(t, err, satchel.ReasonBadCredentials)
			}
			for _, wait := range []time.Duration{1, 2, 4, 8, 15, 15} {
				_, err := replicas[0].SignIn(ctx, SignIn{Org: "acme", Login: login, Password: goodPassword})
				refused(t, err, satchel.ReasonRateLimited)
				e, _ := errors.AsType[*satchel.Error](err)
				if e.RetryAfter != wait*time.Minute {
					t.Fatalf("the wait is %v, want %v minutes", e.RetryAfter, int(wait))
				}
				w.wait(e.RetryAfter)
				_, err = replicas[1].SignIn(ctx, bad)
				refused(t, err, satchel.ReasonBadCredentials)
			}
			w.wait(time.Hour + 15*time.Minute)
			for range freeAttempts { // forgotten
				_, err := w.SignIn(ctx, bad)
				refused(t, err, satchel.ReasonBadCredentials)
			}
		})
	}
}

func TestOldFailuresAreForgotten(t *testing.T) {
	t.Parallel()
	w, org, _ := withLi(t)
	ctx := t.Context()
	fail := func(login string, times int) {
		for range times {
			_, err := w.SignIn(ctx, SignIn{Org: "acme", Login: login, Password: "wrong but long"})
			refused(t, err, satchel.ReasonBadCredentials)
		}
	}
	for i := range 20 {
		fail(fmt.Sprintf("guess%d", i), 1)
	}
	w.wait(2 * time.Hour)
	fail("li", freeAttempts)
	var n int
	must(t, w.pool.QueryRow(ctx, "select count(*) from sign_in_throttle where org_id = $1", org).Scan(&n))
	if n != 1 {
		t.Errorf("%d rows are left, want the one that counts", n)
	}
}

func TestAHundredGuessesAtOnceAreTenToo(t *testing.T) {
	t.Parallel()
	w, _, _ := withLi(t)
	var mu sync.Mutex
	looked := 0
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			_, err := w.SignIn(t.Context(), SignIn{Org: "acme", Login: "li", Password: "wrong but long"})
			if satchel.ReasonOf(err) == satchel.ReasonBadCredentials {
				mu.Lock()
				looked++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if looked != freeAttempts {
		t.Errorf("%d of 100 guesses were looked at", looked)
	}
}

func TestStrangersCannotLockAPersonOutOfTheirOwnPhone(t *testing.T) {
	t.Parallel()
	w, _, _ := withLi(t)
	ctx := t.Context()
	mine := w.signIn("acme", "li")
	for range freeAttempts {
		_, err := w.SignIn(ctx, SignIn{Org: "acme", Login: "li", Password: "wrong but long"})
		refused(t, err, satchel.ReasonBadCredentials)
	}
	_, err := w.SignIn(ctx, SignIn{Org: "acme", Login: "li", Password: goodPassword})
	refused(t, err, satchel.ReasonRateLimited)
	own := SignIn{Org: "acme", Login: "li", Password: goodPassword, Device: DeviceInfo{ID: mine.Device}}
	again, err := w.SignIn(ctx, own)
	must(t, err)
	if again.Device != mine.Device {
		t.Error("the phone became another device")
	}
	own.Password = "wrong but long"
	for range freeAttempts {
		_, err = w.SignIn(ctx, own)
		refused(t, err, satchel.ReasonBadCredentials)
	}
	_, err = w.SignIn(ctx, own)
	refused(t, err, satchel.ReasonRateLimited) // a device has its own count
}

func TestAnAddressHasItsOwnLimit(t *testing.T) {
	t.Parallel()
	w, _, _ := withLi(t, func(c *Config) { c.AddressPerSecond, c.AddressBurst = 0.5, 3 })
	try := func(addr string) error {
		_, err := w.SignIn(t.Context(), SignIn{Org: "acme", Login: "li", Password: goodPassword, Address: netip.MustParseAddr(addr)})
		return err
	}
	for _, a := range []string{"2001:db8::1", "2001:db8::2", "2001:db8::3"} {
		must(t, try(a))
	}
	err := try("2001:db8::4") // the same /64
	refused(t, err, satchel.ReasonRateLimited)
	if e, _ := errors.AsType[*satchel.Error](err); e.RetryAfter != 2*time.Second {
		t.Errorf("the wait is %v", e.RetryAfter)
	}
	must(t, try("2001:db8:0:1::1"))
	for _, a := range []string{"192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1"} {
		must(t, try(a))
	}
	refused(t, try("::ffff:192.0.2.1"), satchel.ReasonRateLimited)
	w.wait(2 * time.Second)
	must(t, try("192.0.2.1"))
}

func TestTheLimitByAddressStaysSmall(t *testing.T) {
	t.Parallel()
	l := newAddressLimit(1, 2)
	now := time.Unix(1_800_000_000, 0)
	for i := range 3 * mostAddresses {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		if l.wait(a, now) != 0 {
			t.Fatal("a new address had to wait")
		}
		if len(l.seen) > mostAddresses {
			t.Fatalf("%d addresses are remembered", len(l.seen))
		}
	}
}

func TestADeviceStaysWithItsPerson(t *testing.T) {
	t.Parallel()
	w, _, _ := withLi(t)
	w.person("acme", "wang", "rep")
	ctx := t.Context()
	li := w.signIn("acme", "li")
	in := SignIn{Org: "acme", Login: "li", Password: goodPassword, Device: DeviceInfo{ID: li.Device, Name: strings.Repeat("名", 500), Platform: "ios\x00"}}
	same, err := w.SignIn(ctx, in)
	must(t, err)
	if same.Device != li.Device {
		t.Error("the same person on the same device got another id")
	}
	_, err = w.Authenticate(ctx, li.Tokens.Access)
	refused(t, err, satchel.ReasonTokenExpired) // its former session is over
	_, err = w.Refresh(ctx, li.Tokens.Refresh)
	refused(t, err, satchel.ReasonSessionEnded)
	_, err = w.Authenticate(ctx, same.Tokens.Access)
	must(t, err) // and coming back with its tokens does not hurt the new one

	in.Login = "wang"
	other, err := w.SignIn(ctx, in)
	must(t, err)
	if other.Device == li.Device {
		t.Error("a device changed hands")
	}
	in.Device.ID = satchel.NewID()
	unknown, err := w.SignIn(ctx, in)
	must(t, err)
	if unknown.Device == in.Device.ID {
		t.Error("a phone chose its own device id")
	}
	_, err = w.Authenticate(ctx, same.Tokens.Access)
	must(t, err)
}

func TestAnOrganisationNeedNotBeNamedWhereThereIsOne(t *testing.T) {
	t.Parallel()
	w, _, _ := withLi(t)
	w.signIn("", "li")
	w.signIn(" ACME ", "ＬＩ") // as an IME types it
	w.org("beta")
	_, err := w.SignIn(t.Context(), SignIn{Login: "li", Password: goodPassword})
	refused(t, err, satchel.ReasonBadCredentials)
	if !strings.Contains(err.Error(), "name one") {
		t.Errorf("%v does not tell what to do", err)
	}
}

func TestManyPeopleSignInAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	org := w.org("acme")
	var people []Person
	for i := range 100 {
		people = append(people, Person{Login: fmt.Sprintf("rep%d", i), Roles: []string{"rep"}})
	}
	ctx := t.Context()
	must(t, pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error { return w.ImportPeople(ctx, tx, org, goodPassword, people) }))
	errs := make([]error, len(people))
	var wg sync.WaitGroup
	for i := range people {
		wg.Go(func() {
			s, err := w.SignIn(ctx, SignIn{Login: people[i].Login, Password: goodPassword})
			if err == nil {
				_, err = w.Authenticate(ctx, s.Tokens.Access)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	must(t, errors.Join(errs...))
}

func TestAQueueOfHashesIsBounded(t *testing.T) {
	t.Parallel()
	h, err := newHasher(Argon2{MemoryKiB: 8, Passes: 1, Lanes: 1}, 1)
	must(t, err)
	release, err := h.acquire(t.Context())
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	h.waiting.Store(hashWaiters)
	_, err = h.acquire(ctx)
	refused(t, err, satchel.ReasonRateLimited)
	h.waiting.Store(0)
	cancel()
	if _, err := h.acquire(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("a caller who left got %v", err)
	}
	release()
	release, err = h.acquire(t.Context())
	must(t, err)
	release()
}

func TestRaisedParametersReachAPasswordAtItsNextSignIn(t *testing.T) {
	t.Parallel()
	w, org, li := withLi(t)
	ctx := t.Context()
	stored := func() (h string) {
		must(t, w.pool.QueryRow(ctx, "select password_hash from person where org_id = $1 and id = $2", org, li.ID).Scan(&h))
		return h
	}
	if !strings.HasPrefix(stored(), "$argon2id$v=19$m=8,t=1,p=1$") {
		t.Fatal(stored())
	}
	w.cfg.Hashing = Argon2{}
	w.Service = w.replica()
	s := w.signIn("acme", "li")
	if !strings.HasPrefix(stored(), "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Fatalf("the hash is still %s", stored()[:30])
	}
	_, err := w.Authenticate(ctx, s.Tokens.Access)
	must(t, err)
	w.signIn("acme", "li")

	for _, bad := range []string{"$2a$10$abc", "$argon2id$v=19$m=99999999,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA", "$argon2id$v=19$m=8,t=1,p=1$$"} {
		if _, _, err := w.hash.check(bad, goodPassword); !errors.Is(err, errHashForm) {
			t.Errorf("%s gave %v", bad, err)
		}
	}
}

func TestTheNewDeviceOfARevokedInstallationKnowsWhatItWas(t *testing.T) {
	t.Parallel()
	w, org, _ := withLi(t)
	w.person("acme", "wang", "rep")
	ctx := t.Context()
	signIn := func(login string, device satchel.ID, installation string) satchel.ID {
		t.Helper()
		s, err := w.SignIn(ctx, SignIn{Org: "acme", Login: login, Password: goodPassword, Device: DeviceInfo{ID: device, Installation: installation}})
		must(t, err)
		return s.Device
	}
	was := func(device satchel.ID) (id satchel.ID) {
		t.Helper()
		must(t, w.pool.QueryRow(ctx, "select was from directory_device where org_id = $1 and id = $2", org, device).Scan(&id))
		return id
	}
	first := signIn("li", satchel.ID{}, "this phone")
	if again := signIn("li", first, "this phone"); again != first || !was(first).IsZero() {
		t.Fatalf("%v then %v, which was %v", first, again, was(first))
	}
	must(t, w.RevokeDevice(ctx, w.as("acme", "root"), first))
	if got := was(signIn("wang", first, "this phone")); !got.IsZero() {
		t.Error("another person's past was given away")
	}
	if got := was(signIn("li", first, "another phone")); !got.IsZero() {
		t.Error("another installation's past was given away")
	}
	if got := was(signIn("li", first, "")); !got.IsZero() {
		t.Error("an installation that nobody knows was taken for this one")
	}
	if got := was(signIn("li", first, "this phone")); got != first {
		t.Errorf("it was %v, not %v", got, first)
	}
}
