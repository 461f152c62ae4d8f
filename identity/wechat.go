package identity

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/pg"
)

// WeChat is the mini-program that people sign in by.
type WeChat interface {
	// AppID is the mini-program's id: a WeChat user has another openid in each.
	AppID() string
	// Exchange tells who the user is that wx.login gave the code to. WeChat takes a code once. unionID may be "". Its
	// errors are *satchel.Error: WECHAT_CODE, WECHAT_BLOCKED, WECHAT_DOWN, WECHAT_OFF, RATE_LIMITED.
	Exchange(ctx context.Context, code string) (openID, unionID string, err error)
}

// codeMemory is how long a code is remembered: as long as WeChat lets it live.
const codeMemory = 5 * time.Minute

// SignInWeChat asks for a session by a code of wx.login.
type SignInWeChat struct {
	Code string
	Org  string // slug; "" = the only organisation of this server
	// Bind proves which person the WeChat user is; its Org, Device and Address are not looked at. nil = they are bound.
	Bind    *SignIn
	Device  DeviceInfo
	Address netip.Addr // of the caller, for the limit; the zero Addr is not limited
}

// MarshalText tells nothing of code and password; JSON and slog ask it.
func (SignInWeChat) MarshalText() ([]byte, error) { return []byte("(sign-in)"), nil }

// String tells nothing of code and password.
func (SignInWeChat) String() string { return "(sign-in)" }

// GoString tells nothing of code and password.
func (SignInWeChat) GoString() string { return "(sign-in)" }

// wechatUser is who WeChat says that somebody is.
type wechatUser struct {
	app, open, union string
}

// SignInWeChat opens a session as SignIn does, for the person whom the WeChat user is bound to; with Bind it proves the
// password first and binds the two, and the person's former WeChat user is bound to nobody. The same code of the same
// installation works again for 5 minutes. Errors: those of SignIn, those of [WeChat], WECHAT_OFF without a mini-program,
// WECHAT_NOT_BOUND (also where the person is disabled or has got another password since, and where there is no such
// organisation), TAKEN when the WeChat user is bound to another person, whom an administrator must unbind.
func (s *Service) SignInWeChat(ctx context.Context, in SignInWeChat) (*Session, error) {
	if s.cfg.WeChat == nil {
		return nil, satchel.E(satchel.Precondition, satchel.ReasonWeChatOff, "This server has no mini-program. Sign in with login and password.")
	}
	now := s.now()
	if wait := s.addresses.wait(in.Address, now); wait > 0 {
		return nil, rateLimited(wait)
	}
	if in.Code == "" || len(in.Code) > 256 {
		return nil, satchel.E(satchel.Invalid, satchel.ReasonMalformed, "The code is what wx.login gave: 1 to 256 bytes.")
	}
	org, err := s.findOrg(ctx, strings.ToLower(strings.TrimSpace(clip(in.Org, 64))))
	if err != nil {
		return nil, pg.ToError(err)
	}
	user, err := s.exchange(ctx, org, in, now)
	if err != nil {
		return nil, pg.ToError(err)
	}
	if in.Bind != nil {
		return s.bindWeChat(ctx, in, user, now)
	}
	who := login{org: org}
	err = s.pool.QueryRow(ctx, sqlFindWeChat, org, user.app, user.open, in.Device.ID, clip(in.Device.Installation, 64)).
		Scan(&who.person, &who.displayName, &who.version, &who.device, &who.was)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, notBound()
	}
	if err != nil {
		return nil, pg.ToError(fmt.Errorf("identity: find a WeChat user: %w", err))
	}
	return s.openSession(ctx, who, in.Device, now, func(ctx context.Context, tx pgx.Tx) error {
		var one int // unbound since?
		err := tx.QueryRow(ctx, sqlHoldWeChat, who.org, user.app, user.open, who.person, who.version).Scan(&one)
		if errors.Is(err, pgx.ErrNoRows) {
			return notBound()
		}
		return err
	})
}

func notBound() error {
	return satchel.E(satchel.Precondition, satchel.ReasonWeChatNotBound,
		"This WeChat user is bound to nobody. Ask for login and password and send them along, with a new code.")
}

// exchange tells who the user is, from what was remembered of the code or from WeChat.
func (s *Service) exchange(ctx context.Context, org satchel.ID, in SignInWeChat, now time.Time) (user wechatUser, err error) {
	// The installation counts too, so that a code that was overheard is of no more use than WeChat lets it be; and the
	// mini-program, so that none of another is taken for one of its users while replicas change over.
	user.app = s.cfg.WeChat.AppID()
	hash := throttleSubject("wechat code", user.app, in.Code, clip(in.Device.Installation, 64))
	known := func() (bool, error) {
		err := s.pool.QueryRow(ctx, sqlKnownCode, org, hash, now.Add(-codeMemory)).Scan(&user.open, &user.union)
		if errors.Is(err, pgx.ErrNoRows) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("identity: look for a code: %w", err)
		}
		return true, nil
	}
	if ok, err := known(); ok || err != nil {
		return user, err
	}
	user.open, user.union, err = s.cfg.WeChat.Exchange(ctx, in.Code)
	if satchel.ReasonOf(err) == satchel.ReasonWeChatCode {
		if ok, kerr := known(); ok || kerr != nil { // the same request, a moment earlier
			return user, kerr
		}
	}
	if err != nil {
		return user, err
	}
	// Who hangs up now asks again with the code that is used.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	b := &pgx.Batch{}
	b.Queue(sqlKeepCode, org, hash, user.open, user.union, now)
	b.Queue(sqlForgetCodes, org, now.Add(-codeMemory))
	if err := s.pool.SendBatch(ctx, b).Close(); err != nil {
		return user, fmt.Errorf("identity: remember a code: %w", err)
	}
	return user, nil
}

// bindWeChat proves the password as SignIn does, and binds in the transaction that opens the session.
func (s *Service) bindWeChat(ctx context.Context, in SignInWeChat, user wechatUser, now time.Time) (*Session, error) {
	proof := SignIn{Org: in.Org, Login: in.Bind.Login, Password: in.Bind.Password, Device: in.Device}
	who, outdated, err := s.proveLogin(ctx, proof, now)
	if err != nil {
		return nil, pg.ToError(err)
	}
	session, err := s.openSession(ctx, who, in.Device, now, func(ctx context.Context, tx pgx.Tx) error {
		b := &pgx.Batch{}
		b.Queue(sqlUnbindOthers, who.org, user.app, user.open, who.person)
		b.Queue(sqlBindWeChat, who.org, user.app, user.open, user.union, who.person, who.version, now)
		results := tx.SendBatch(ctx, b)
		_, err := results.Exec()
		var bound int64
		if err == nil {
			tag, berr := results.Exec()
			bound, err = tag.RowsAffected(), berr
		}
		if err = errors.Join(err, results.Close()); err != nil {
			if pe, ok := errors.AsType[*pgconn.PgError](err); ok && pe.Code == "23505" {
				return satchel.E(satchel.Contention, satchel.ReasonBusy, "The person is being bound to another WeChat user just now. Try again.")
			}
			return fmt.Errorf("identity: bind a WeChat user: %w", err)
		}
		if bound == 0 {
			return satchel.E(satchel.Precondition, satchel.ReasonTaken, "This WeChat user is bound to another person. An administrator can unbind them.")
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if outdated {
		s.hashAnew(ctx, who, proof.Password)
	}
	return session, nil
}

// UnbindWeChat ends what binds a person to a WeChat user, in every mini-program; the zero person is the principal. Other
// people's need the right directory.manage. Sessions that are open stay. That there is no binding is no error.
func (s *Service) UnbindWeChat(ctx context.Context, p *satchel.Principal, person satchel.ID) error {
	if person.IsZero() {
		person = p.Person
	}
	if person != p.Person {
		if err := s.mayManage(ctx, p); err != nil {
			return err
		}
		if _, err := readPerson(ctx, s.pool, p.Org, person); err != nil {
			return pg.ToError(err)
		}
	}
	if _, err := s.pool.Exec(ctx, sqlUnbindWeChat, p.Org, person); err != nil {
		return pg.ToError(fmt.Errorf("identity: unbind a WeChat user: %w", err))
	}
	return nil
}
