package identity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/pg"
)

func errTokenExpired() error {
	return satchel.E(satchel.Unauthenticated, satchel.ReasonTokenExpired, "The access token is unknown or has expired. Call Refresh, then try again.")
}

func errSessionEnded() error {
	return satchel.E(satchel.Unauthenticated, satchel.ReasonSessionEnded, "The session has ended. Sign in again; what waits on the device stays.")
}

func errDeviceRevoked() error {
	return satchel.E(satchel.Denied, satchel.ReasonDeviceRevoked, "This device was revoked. Sign in again to use it as a new one.")
}

// Authenticate tells who an access token speaks for, from one statement and with nothing remembered: what was revoked or
// changed a moment ago, on any replica, holds. Errors: TOKEN_EXPIRED (also for noise), SESSION_ENDED (signed out,
// disabled, organisation closing), DEVICE_REVOKED.
func (s *Service) Authenticate(ctx context.Context, token string) (*satchel.Principal, error) {
	t, ok := parseToken(accessPrefix, 0, token)
	if !ok {
		return nil, errTokenExpired()
	}
	p := &satchel.Principal{Org: t.org, Device: t.device}
	var (
		rights               int64
		expires              time.Time
		used, ended, revoked bool
	)
	err := s.pool.QueryRow(ctx, sqlAuthenticate, t.org, t.device, t.hash).
		Scan(&p.Person, &p.Roles, &rights, &expires, &used, &ended, &revoked)
	p.Rights = uint64(rights)
	now := s.now()
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, errTokenExpired()
	case err != nil:
		return nil, pg.ToError(fmt.Errorf("identity: authenticate: %w", err))
	case revoked:
		return nil, errDeviceRevoked()
	case ended:
		return nil, errSessionEnded()
	case !now.Before(expires):
		return nil, errTokenExpired()
	}
	if !used { // once per pair: from now on the refresh token that gave it is spent
		tag, err := s.pool.Exec(ctx, sqlMarkUsed, t.org, t.device, t.hash, now)
		if err != nil {
			return nil, pg.ToError(fmt.Errorf("identity: mark a pair as used: %w", err))
		}
		if tag.RowsAffected() == 0 { // replaced or ended since the statement above
			return nil, errTokenExpired()
		}
	}
	return p, nil
}

// storedSession is a session's row as Refresh needs it.
type storedSession struct {
	person         satchel.ID
	family         []byte
	refresh, prev  []byte
	accessExpires  time.Time
	refreshExpires time.Time
	signedIn       time.Time
	rotated        time.Time
	salt           []byte
	used           bool
	ended, revoked bool
}

// Refresh gives the next pair of tokens for a refresh token. The newest pair is the only valid one. The token that gave
// it gives the very same pair again for a minute, as long as that pair was not used: so a lost answer, or two refreshes
// at once, sign nobody out. Any other refresh token of the session that comes back means that two parties have it: the
// session ends and the log says so. Errors: SESSION_ENDED, DEVICE_REVOKED.
func (s *Service) Refresh(ctx context.Context, refresh string) (Tokens, error) {
	t, ok := parseToken(refreshPrefix, familySize, refresh)
	if !ok {
		return Tokens{}, errSessionEnded()
	}
	now := s.now()
	var out Tokens
	var refused error // an outcome that is committed all the same
	err := pg.InTx(ctx, s.pool, func(ctx context.Context, tx pgx.Tx) (err error) {
		out, refused, err = s.rotate(ctx, tx, t, refresh, now)
		return err
	})
	if err == nil {
		err = refused
	}
	if err != nil {
		return Tokens{}, err
	}
	return out, nil
}

func (s *Service) rotate(ctx context.Context, tx pgx.Tx, t parsedToken, refresh string, now time.Time) (out Tokens, refused, err error) {
	var c storedSession
	err = tx.QueryRow(ctx, sqlLockSession, t.org, t.device).Scan(&c.person, &c.family, &c.refresh, &c.prev, &c.accessExpires,
		&c.refreshExpires, &c.signedIn, &c.rotated, &c.salt, &c.used, &c.ended, &c.revoked)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return out, errSessionEnded(), nil
	case err != nil:
		return out, nil, fmt.Errorf("identity: read a session: %w", err)
	case !bytes.Equal(hashBytes(t.family), c.family): // of an earlier sign-in, or made up
		return out, errSessionEnded(), nil
	case c.revoked:
		return out, errDeviceRevoked(), nil
	case c.ended:
		return out, errSessionEnded(), nil
	case bytes.Equal(t.hash, c.refresh):
		if !now.Before(c.refreshExpires) {
			return out, errSessionEnded(), nil
		}
		salt := random(secretSize)
		out = nextPair(refresh, t, salt)
		end := c.signedIn.Add(s.cfg.SessionLife)
		out.AccessExpires = earlier(now.Add(s.cfg.AccessLife), end)
		out.RefreshExpires = earlier(now.Add(s.cfg.RefreshLife), end)
		if _, err := tx.Exec(ctx, sqlRotate, t.org, t.device, hashOf(out.Access), out.AccessExpires, hashOf(out.Refresh),
			out.RefreshExpires, salt, now); err != nil {
			return out, nil, fmt.Errorf("identity: rotate a session: %w", err)
		}
		return out, nil, nil
	case bytes.Equal(t.hash, c.prev) && !c.used && now.Sub(c.rotated) <= s.cfg.RefreshGrace:
		out = nextPair(refresh, t, c.salt)
		out.AccessExpires, out.RefreshExpires = c.accessExpires, c.refreshExpires
		return out, nil, nil
	}
	s.log.WarnContext(ctx, "a spent refresh token came back; the session has ended", "org", t.org, "person", c.person, "device", t.device)
	if _, err := tx.Exec(ctx, sqlEndSession, t.org, t.device, now, "replay"); err != nil {
		return out, nil, fmt.Errorf("identity: end a session: %w", err)
	}
	return out, errSessionEnded(), nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func hashBytes(b []byte) []byte {
	h := sha256.Sum256(b)
	return h[:]
}

// SignOut ends the session of the principal's device, and nothing knocks there any more; it holds at once. Signing out
// twice is no error.
func (s *Service) SignOut(ctx context.Context, p *satchel.Principal) error {
	return pg.InTx(ctx, s.pool, func(ctx context.Context, tx pgx.Tx) error {
		if err := s.deviceGone(ctx, tx, p.Org, p.Device); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, sqlEndSession, p.Org, p.Device, s.now(), "signed_out"); err != nil {
			return fmt.Errorf("identity: sign out: %w", err)
		}
		return nil
	})
}

func (s *Service) deviceGone(ctx context.Context, tx pgx.Tx, org, device satchel.ID) error {
	if s.cfg.DeviceGone == nil {
		return nil
	}
	if err := s.cfg.DeviceGone(ctx, tx, org, device); err != nil {
		return fmt.Errorf("identity: tell others of a device that is gone: %w", err)
	}
	return nil
}

// Me is what a principal may know about itself.
type Me struct {
	Person      satchel.ID
	DisplayName string
	Org         satchel.ID
	OrgName     string
	TimeZone    string // of the organisation, an IANA name
	Device      satchel.ID
	Roles       []string
	Team        satchel.ID // zero = none
}

// WhoAmI describes the principal.
func (s *Service) WhoAmI(ctx context.Context, p *satchel.Principal) (*Me, error) {
	me := &Me{Person: p.Person, Org: p.Org, Device: p.Device, Roles: p.Roles}
	err := s.pool.QueryRow(ctx, sqlWhoAmI, p.Org, p.Person).Scan(&me.DisplayName, &me.Team, &me.OrgName, &me.TimeZone)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, errSessionEnded()
	}
	if err != nil {
		return nil, pg.ToError(fmt.Errorf("identity: who am I: %w", err))
	}
	return me, nil
}

// ChangePassword sets the principal's own password and ends their sessions on other devices. Errors: BAD_CREDENTIALS (of
// kind Denied: the session itself is good), RATE_LIMITED, MALFORMED for a new password that breaks the policy.
func (s *Service) ChangePassword(ctx context.Context, p *satchel.Principal, oldPassword, newPassword string) error {
	wrong := satchel.E(satchel.Denied, satchel.ReasonBadCredentials, "The old password is wrong.")
	if len(oldPassword) > 1024 {
		return wrong
	}
	if err := checkPassword(newPassword); err != nil {
		return err
	}
	now := s.now()
	who := login{org: p.Org, person: p.Person, subject: throttleSubject("person", p.Person.String())}
	if err := s.provePerson(ctx, &who, oldPassword, now, wrong); err != nil {
		return pg.ToError(err)
	}
	hash, err := s.newHash(ctx, newPassword)
	if err != nil {
		return err
	}
	return pg.InTx(ctx, s.pool, func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, sqlChangePassword, p.Org, p.Person, hash, who.version)
		if err != nil {
			return fmt.Errorf("identity: change a password: %w", err)
		}
		if tag.RowsAffected() == 0 { // somebody else changed it meanwhile
			return wrong
		}
		b := &pgx.Batch{}
		b.Queue(sqlEndSessions, p.Org, p.Person, now, "password", p.Device)
		b.Queue(sqlClearThrottle, p.Org, who.subject)
		if err := tx.SendBatch(ctx, b).Close(); err != nil {
			return fmt.Errorf("identity: end other sessions: %w", err)
		}
		return nil
	})
}

func (s *Service) provePerson(ctx context.Context, who *login, password string, now time.Time, wrong error) error {
	release, err := s.hash.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := s.charge(ctx, who.org, who.subject, now); err != nil {
		return err
	}
	if err := s.pool.QueryRow(ctx, sqlPasswordOf, who.org, who.person).Scan(&who.hash, &who.version); err != nil {
		return fmt.Errorf("identity: read a password hash: %w", err)
	}
	ok, _, err := s.hash.check(who.hash, password)
	if err == nil && !ok {
		err = wrong
	}
	return err
}

// Device is an installation of the app on which a person signed in.
type Device struct {
	ID           satchel.ID
	Person       satchel.ID
	Installation string
	Name         string
	Platform     string
	AppVersion   string // at the last sign-in
	Created      time.Time
	LastSignIn   time.Time
	Revoked      time.Time // zero = it is not
}

// ListDevices gives the devices of a person, newest first, at most 100; the zero person is the principal. Other people's
// need the right directory.manage. A person of another organisation is NOT_FOUND.
func (s *Service) ListDevices(ctx context.Context, p *satchel.Principal, person satchel.ID) ([]Device, error) {
	if person.IsZero() {
		person = p.Person
	}
	if person != p.Person {
		if err := s.mayManage(ctx, p); err != nil {
			return nil, err
		}
		if _, err := readPerson(ctx, s.pool, p.Org, person); err != nil {
			return nil, pg.ToError(err)
		}
	}
	rows, err := s.pool.Query(ctx, sqlListDevices, p.Org, person)
	if err != nil {
		return nil, pg.ToError(fmt.Errorf("identity: list devices: %w", err))
	}
	return collectDevices(rows)
}

// DevicesOf gives devices of an organisation in the order of their ids, behind one (zero = from the first), at most
// limit; only a person's, unless that is zero. It asks for no right: that is for the caller, or for an operator.
func (s *Service) DevicesOf(ctx context.Context, org, person, after satchel.ID, limit int) ([]Device, error) {
	rows, err := s.pool.Query(ctx, sqlDevicesOf, org, after, limit, pg.NullID(person))
	if err != nil {
		return nil, pg.ToError(fmt.Errorf("identity: devices of an organisation: %w", err))
	}
	return collectDevices(rows)
}

func collectDevices(rows pgx.Rows) ([]Device, error) {
	devices, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (d Device, err error) {
		var revoked *time.Time
		err = r.Scan(&d.ID, &d.Person, &d.Installation, &d.Name, &d.Platform, &d.AppVersion, &d.Created, &d.LastSignIn, &revoked)
		if revoked != nil {
			d.Revoked = *revoked
		}
		return d, err
	})
	if err != nil {
		return nil, pg.ToError(fmt.Errorf("identity: list devices: %w", err))
	}
	return devices, nil
}

// RevokeDevice ends a device for ever: its next request is refused with DEVICE_REVOKED, on every replica. One's own
// devices, or any with the right directory.manage; all others are NOT_FOUND. Revoking twice is no error.
func (s *Service) RevokeDevice(ctx context.Context, p *satchel.Principal, device satchel.ID) error {
	var owner satchel.ID
	err := s.pool.QueryRow(ctx, sqlDeviceOwner, p.Org, device).Scan(&owner)
	if errors.Is(err, pgx.ErrNoRows) {
		return notFound("device")
	}
	if err != nil {
		return pg.ToError(fmt.Errorf("identity: find a device: %w", err))
	}
	if owner != p.Person {
		ok, err := s.cfg.MayManage(ctx, p)
		if err != nil {
			return err
		}
		if !ok {
			return notFound("device")
		}
	}
	return pg.InTx(ctx, s.pool, func(ctx context.Context, tx pgx.Tx) error {
		if err := s.deviceGone(ctx, tx, p.Org, device); err != nil {
			return err
		}
		now := s.now()
		b := &pgx.Batch{}
		b.Queue(sqlRevokeDevice, p.Org, device, now)
		b.Queue(sqlEndSession, p.Org, device, now, "revoked")
		if err := tx.SendBatch(ctx, b).Close(); err != nil {
			return fmt.Errorf("identity: revoke a device: %w", err)
		}
		return nil
	})
}
