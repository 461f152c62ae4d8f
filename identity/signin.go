package identity

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/time/rate"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/pg"
)

// DeviceInfo describes an installation of the app, as the app tells it. Texts that are too long are cut.
type DeviceInfo struct {
	ID           satchel.ID // from an earlier sign-in of the same person; zero = give a new one
	Installation string     // random id of the installation, at most 64 characters; "" = unknown
	Name         string     // at most 128 characters
	Platform     string     // at most 32 characters
	AppVersion   string     // at most 32 characters
}

// SignIn asks for a session.
type SignIn struct {
	Org      string // slug; "" = the only organisation of this server
	Login    string
	Password string
	Device   DeviceInfo
	Address  netip.Addr // of the caller, for the limit; the zero Addr is not limited
}

// MarshalText tells nothing of the password; JSON and slog ask it.
func (SignIn) MarshalText() ([]byte, error) { return []byte("(sign-in)"), nil }

// String tells nothing of the password.
func (SignIn) String() string { return "(sign-in)" }

// GoString tells nothing of the password.
func (SignIn) GoString() string { return "(sign-in)" }

// Session is a session that was opened.
type Session struct {
	Tokens      Tokens
	Org         satchel.ID
	Person      satchel.ID
	Device      satchel.ID
	DisplayName string
}

// badCredentials never says which part was wrong.
func badCredentials() error {
	return satchel.E(satchel.Unauthenticated, satchel.ReasonBadCredentials,
		"The organisation, the login or the password is wrong. Where a server has several organisations, name one.")
}

// SignIn opens a session for a person on a device and ends the one that the device had. A device id that is unknown,
// revoked or another person's gives a new device; of one that was revoked, the same installation's new device keeps the id,
// so that what was applied under it is known (S2). Errors: BAD_CREDENTIALS for every wrong part alike and at the same
// cost, RATE_LIMITED with RetryAfter after too many attempts (by address, and by login or, for a device that the person
// has used before, by device, so that strangers cannot lock a person out of their own phone), NOT_SET_UP on an empty
// server.
func (s *Service) SignIn(ctx context.Context, in SignIn) (*Session, error) {
	now := s.now()
	if wait := s.addresses.wait(in.Address, now); wait > 0 {
		return nil, rateLimited(wait)
	}
	if len(in.Org) > 64 || len(in.Login) > 1024 || len(in.Password) > 1024 {
		return nil, badCredentials()
	}
	who, outdated, err := s.proveLogin(ctx, in, now)
	if err != nil {
		return nil, pg.ToError(err)
	}
	session, err := s.openSession(ctx, who, in.Device, now, nil)
	if err != nil {
		return nil, err
	}
	if outdated {
		s.hashAnew(ctx, who, in.Password)
	}
	return session, nil
}

// login is a person whose password is being looked at.
type login struct {
	org, person satchel.ID
	displayName string
	hash        string
	version     int64
	disabled    bool
	device      satchel.ID // the device that was named, if the person has it
	was         satchel.ID // the device that was named, if it was the person's, of this installation, and revoked
	subject     []byte     // what the attempt was counted on; nil = no password was looked at
}

// proveLogin counts the attempt, then looks at the password. The slot for hashing is taken first, so that nobody is
// charged for an attempt that was never made. Each path runs the same statements and argon2id once.
func (s *Service) proveLogin(ctx context.Context, in SignIn, now time.Time) (who login, outdated bool, err error) {
	release, err := s.hash.acquire(ctx)
	if err != nil {
		return who, false, err
	}
	defer release()
	slug := strings.ToLower(strings.TrimSpace(clip(in.Org, 64)))
	if who.org, err = s.findOrg(ctx, slug); err != nil {
		return who, false, err
	}
	fold := foldLogin(clip(in.Login, 254))
	err = s.pool.QueryRow(ctx, sqlFindLogin, who.org, fold, in.Device.ID, clip(in.Device.Installation, 64)).
		Scan(&who.person, &who.displayName, &who.hash, &who.version, &who.disabled, &who.device, &who.was)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return who, false, fmt.Errorf("identity: find a login: %w", err)
	}
	switch {
	case who.org == noOrg():
		who.subject = throttleSubject("unknown", slug, fold)
	case who.device.IsZero():
		who.subject = throttleSubject("login", fold)
	default:
		who.subject = throttleSubject("device", who.device.String())
	}
	if err := s.charge(ctx, who.org, who.subject, now); err != nil {
		return who, false, err
	}
	ok, outdated, err := s.hash.check(who.hash, in.Password)
	if err != nil {
		return who, false, err
	}
	if !ok || who.disabled {
		return who, false, badCredentials()
	}
	return who, outdated, nil
}

// findOrg gives an organisation by its slug, or the only one for "". For a slug that nobody has it gives an id that
// nobody has, so that what follows is the same.
func (s *Service) findOrg(ctx context.Context, slug string) (satchel.ID, error) {
	rows, err := s.pool.Query(ctx, sqlFindOrg, slug)
	if err != nil {
		return satchel.ID{}, fmt.Errorf("identity: find an organisation: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[satchel.ID])
	if err != nil {
		return satchel.ID{}, fmt.Errorf("identity: find an organisation: %w", err)
	}
	if len(ids) == 1 {
		return ids[0], nil
	}
	if len(ids) == 0 {
		var some bool
		if err := s.pool.QueryRow(ctx, sqlAnyOrg).Scan(&some); err != nil {
			return satchel.ID{}, fmt.Errorf("identity: look for organisations: %w", err)
		}
		if !some {
			return satchel.ID{}, satchel.E(satchel.Precondition, satchel.ReasonNotSetUp, "This server has no organisation yet. Open the set-up link that it printed, or run `satchel org create`.")
		}
	}
	return noOrg(), nil
}

// noOrg is the id under which attempts at organisations that do not exist are counted.
func noOrg() satchel.ID { return satchel.DerivedID(satchel.ID{}, "identity: no organisation") }

// openSession makes or updates the device and gives it a new session. The person is locked and looked at again: whoever
// was disabled or got a new password meanwhile stays out. also, where not nil, runs before anything is written, under the
// person's lock; its error opens nothing.
func (s *Service) openSession(ctx context.Context, who login, info DeviceInfo, now time.Time, also func(context.Context, pgx.Tx) error) (*Session, error) {
	device := who.device
	if device.IsZero() {
		device = satchel.NewID()
	}
	t, family := firstPair(who.org, device)
	t.RefreshExpires = now.Add(min(s.cfg.RefreshLife, s.cfg.SessionLife))
	t.AccessExpires = now.Add(min(s.cfg.AccessLife, s.cfg.SessionLife))
	err := pg.InTx(ctx, s.pool, func(ctx context.Context, tx pgx.Tx) error {
		var one int
		err := tx.QueryRow(ctx, sqlHoldPerson, who.org, who.person, who.version).Scan(&one)
		if errors.Is(err, pgx.ErrNoRows) {
			return badCredentials()
		} else if err != nil {
			return fmt.Errorf("identity: hold a person: %w", err)
		}
		if also != nil {
			if err := also(ctx, tx); err != nil {
				return err
			}
		}
		b := &pgx.Batch{}
		b.Queue(sqlSaveDevice, who.org, device, who.person, clip(info.Installation, 64), clip(info.Name, 128),
			clip(info.Platform, 32), clip(info.AppVersion, 32), now, pg.NullID(who.was))
		b.Queue(sqlSaveSession, who.org, device, who.person, hashBytes(family), hashOf(t.Access), t.AccessExpires,
			hashOf(t.Refresh), t.RefreshExpires, now)
		if who.subject != nil {
			b.Queue(sqlClearThrottle, who.org, who.subject)
		}
		if err := tx.SendBatch(ctx, b).Close(); err != nil {
			return fmt.Errorf("identity: open a session: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &Session{Tokens: t, Org: who.org, Person: who.person, Device: device, DisplayName: who.displayName}, nil
}

// hashAnew moves a password to the parameters of now. When it fails the old hash stays good, and the next sign-in tries
// again.
func (s *Service) hashAnew(ctx context.Context, who login, password string) {
	release, err := s.hash.acquire(ctx)
	if err == nil {
		hash := s.hash.make(password)
		release()
		_, err = s.pool.Exec(ctx, sqlRehash, who.org, who.person, who.version, hash)
	}
	if err != nil {
		s.log.WarnContext(ctx, "a password could not be hashed with the newer parameters", "org", who.org, "person", who.person, "error", err)
	}
}

// Attempts on one login or device: the first ten cost nothing, then each makes the next wait, one minute at first, twice
// as long each time, at most a quarter of an hour. An hour without attempts forgets them.
const (
	freeAttempts  = 10
	attemptMemory = time.Hour
)

// charge counts an attempt before its outcome is known, so that a hundred at once are ten too.
func (s *Service) charge(ctx context.Context, org satchel.ID, subject []byte, now time.Time) error {
	var until time.Time
	var blocked bool
	err := s.pool.QueryRow(ctx, sqlCharge, org, subject, now, now.Add(-attemptMemory), freeAttempts).Scan(&blocked)
	if errors.Is(err, pgx.ErrNoRows) {
		err = s.pool.QueryRow(ctx, sqlBlockedUntil, org, subject).Scan(&until)
		if err == nil || errors.Is(err, pgx.ErrNoRows) { // no row: a sign-in succeeded just now, so try again at once
			return rateLimited(max(until.Sub(now), time.Second))
		}
	}
	if err != nil {
		return fmt.Errorf("identity: count an attempt: %w", err)
	}
	if blocked { // rare by nature, so old rows go here
		if _, err := s.pool.Exec(ctx, sqlForgetAttempts, org, now.Add(-attemptMemory)); err != nil {
			return fmt.Errorf("identity: forget old attempts: %w", err)
		}
	}
	return nil
}

func throttleSubject(parts ...string) []byte {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p) // lengths, so that no two lists run together
	}
	return h.Sum(nil)
}

func rateLimited(wait time.Duration) error {
	return &satchel.Error{Kind: satchel.Exhausted, Reason: satchel.ReasonRateLimited,
		Detail: "Too many attempts. Wait as long as the answer says, then try again.", RetryAfter: wait}
}

// addressLimit is a token bucket per address, for the newest few thousand addresses.
type addressLimit struct {
	perSecond rate.Limit
	burst     int
	mu        sync.Mutex
	seen      map[netip.Prefix]*rate.Limiter
}

const mostAddresses = 10_000

func newAddressLimit(perSecond float64, burst int) *addressLimit {
	return &addressLimit{perSecond: rate.Limit(perSecond), burst: burst, seen: make(map[netip.Prefix]*rate.Limiter)}
}

// wait takes a token and gives 0, or gives how long until there is one.
func (l *addressLimit) wait(a netip.Addr, now time.Time) time.Duration {
	if !a.IsValid() || l.perSecond < 0 {
		return 0
	}
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64 // one subscriber has a whole /64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.seen[p]
	if b == nil {
		if len(l.seen) >= mostAddresses {
			l.shed(now)
		}
		b = rate.NewLimiter(l.perSecond, l.burst)
		l.seen[p] = b
	}
	r := b.ReserveN(now, 1)
	if d := r.DelayFrom(now); d > 0 {
		r.CancelAt(now)
		return d
	}
	return 0
}

// shed makes room: it forgets the addresses whose bucket is full again, or, if there are too few, any.
func (l *addressLimit) shed(now time.Time) {
	for p, b := range l.seen {
		if b.TokensAt(now) >= float64(l.burst) {
			delete(l.seen, p)
		}
	}
	for p := range l.seen {
		if len(l.seen) < mostAddresses*9/10 {
			return
		}
		delete(l.seen, p)
	}
}
