package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/pg"
)

// Rights is what identity needs of the engine, inside the transaction that changes the directory.
type Rights interface {
	// OrgCreated makes the clock row of a new organisation.
	OrgCreated(ctx context.Context, tx pgx.Tx, org satchel.ID) error
	// RightsChanged adds one to the organisation's count of rights changes. Identity calls it last in its
	// transactions, because the row that it locks is the one that every commit of the organisation needs.
	RightsChanged(ctx context.Context, tx pgx.Tx, org satchel.ID) error
	// DirectoryChanged enqueues what brings the named people and teams to the records that mirror them, and moves
	// what now belongs elsewhere. Both lists may be empty, not both at once.
	DirectoryChanged(ctx context.Context, tx pgx.Tx, org satchel.ID, persons, teams []satchel.ID) error
}

// Config is what a Service needs. Pool, Rights, Roles and MayManage are required; every other zero value is good.
type Config struct {
	// Pool reaches the database; it must come from internal/pg.
	Pool *pgxpool.Pool
	// Rights is the engine.
	Rights Rights
	// Roles names the roles of an organisation's schema. It is called outside transactions.
	Roles func(ctx context.Context, org satchel.ID) ([]string, error)
	// MayManage tells whether a person holds the right directory.manage. It is called outside transactions.
	MayManage func(ctx context.Context, p *satchel.Principal) (bool, error)
	// DeviceGone runs first in the transaction that revokes a device or signs it out, so it may lock the device's lane;
	// nil = nothing.
	DeviceGone func(ctx context.Context, tx pgx.Tx, org, device satchel.ID) error
	// WeChat is the mini-program whose users may sign in by it; nil = none.
	WeChat WeChat
	// AdminRole is the role that an organisation is never without; "" = "admin".
	AdminRole string

	AccessLife   time.Duration // of an access token; 0 = 15 minutes
	RefreshLife  time.Duration // of a refresh token; 0 = 30 days
	SessionLife  time.Duration // from sign-in, however often refreshed; 0 = 90 days
	RefreshGrace time.Duration // how long a used refresh token may be sent again; 0 = 60 seconds

	// AddressPerSecond and AddressBurst bound the attempts to sign in from one address (IPv6: one /64) at this replica.
	// Offices and carriers put many phones behind one address, so this is no fine sieve. 0 = 1 and 60; a negative rate
	// = no limit.
	AddressPerSecond float64
	AddressBurst     int

	// Hashing are the argon2id parameters of new passwords; the zero value is 19 MiB, 2 passes, 1 lane. Passwords
	// hashed with others stay valid and are hashed anew at their next sign-in.
	Hashing Argon2
	// HashSlots bounds how many passwords are hashed at once, and with Hashing the memory for it; 0 = 2.
	HashSlots int

	Now    func() time.Time // nil = time.Now
	Logger *slog.Logger     // nil = nothing is logged
}

// Service is the door to people, teams, devices and sessions. It is safe for concurrent use and holds no state that
// another replica would need, except the limit by address.
type Service struct {
	cfg       Config
	pool      *pgxpool.Pool
	rights    Rights
	now       func() time.Time
	log       *slog.Logger
	hash      *hasher
	addresses *addressLimit
}

// New makes a Service. It fails when a required part of cfg is missing or a limit makes no sense.
func New(cfg Config) (*Service, error) {
	if cfg.Pool == nil || cfg.Rights == nil || cfg.Roles == nil || cfg.MayManage == nil {
		return nil, errors.New("identity: Config needs Pool, Rights, Roles and MayManage")
	}
	setDefault(&cfg.AdminRole, "admin")
	setDefault(&cfg.AccessLife, 15*time.Minute)
	setDefault(&cfg.RefreshLife, 30*24*time.Hour)
	setDefault(&cfg.SessionLife, 90*24*time.Hour)
	setDefault(&cfg.RefreshGrace, time.Minute)
	setDefault(&cfg.AddressPerSecond, 1)
	setDefault(&cfg.AddressBurst, 60)
	setDefault(&cfg.Hashing, Argon2{MemoryKiB: 19 * 1024, Passes: 2, Lanes: 1})
	setDefault(&cfg.HashSlots, 2)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if min(cfg.AccessLife, cfg.RefreshLife, cfg.SessionLife, cfg.RefreshGrace) < 0 || cfg.AddressBurst < 0 || cfg.HashSlots < 0 {
		return nil, errors.New("identity: a life, a burst or a number of slots in Config is negative")
	}
	h, err := newHasher(cfg.Hashing, cfg.HashSlots)
	if err != nil {
		return nil, err
	}
	return &Service{cfg: cfg, pool: cfg.Pool, rights: cfg.Rights, now: cfg.Now, log: cfg.Logger, hash: h,
		addresses: newAddressLimit(cfg.AddressPerSecond, cfg.AddressBurst)}, nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// foldLogin gives the form by which a login is found: width, composition and case do not matter, nor do spaces around.
func foldLogin(login string) string {
	return strings.TrimSpace(cases.Fold().String(norm.NFKC.String(login)))
}

// cleanText trims s and checks that it has between 1 and most characters, none of them a control character.
func cleanText(what, s string, most int) (string, error) {
	s = strings.TrimSpace(s)
	switch n := utf8.RuneCountInString(s); {
	case !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl):
		return "", satchel.E(satchel.Invalid, satchel.ReasonMalformed, "The %s contains control characters or is not UTF-8.", what)
	case n == 0 || n > most:
		return "", satchel.E(satchel.Invalid, satchel.ReasonMalformed, "The %s must have 1 to %d characters.", what, most)
	}
	return s, nil
}

// clip shortens what a device says about itself, which nothing depends on.
func clip(s string, most int) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "")
	if utf8.RuneCountInString(s) > most {
		return string([]rune(s)[:most])
	}
	return s
}

// knownRoles sorts roles and checks that the organisation's schema has each of them.
func (s *Service) knownRoles(ctx context.Context, org satchel.ID, roles []string) ([]string, error) {
	roles = slices.Compact(slices.Sorted(slices.Values(roles)))
	if len(roles) > 16 {
		return nil, satchel.E(satchel.Invalid, satchel.ReasonMalformed, "A person has at most 16 roles.")
	}
	if len(roles) == 0 {
		return []string{}, nil
	}
	known, err := s.cfg.Roles(ctx, org)
	if err != nil {
		return nil, err
	}
	for _, r := range roles {
		if !slices.Contains(known, r) {
			return nil, satchel.E(satchel.Invalid, satchel.ReasonMalformed, "The schema has no such role; use one of: %s.", strings.Join(known, ", "))
		}
	}
	return roles, nil
}

func notFound(what string) error {
	return satchel.E(satchel.NotFound, satchel.ReasonNotFound, "There is no such %s.", what)
}

// taken turns a violation of the named constraint into TAKEN.
func taken(err error, constraint, detail string) error {
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok && pe.Code == "23505" && pe.ConstraintName == constraint {
		return satchel.E(satchel.Precondition, satchel.ReasonTaken, "%s", detail)
	}
	return err
}

// change says what a directory transaction did.
type change struct {
	rights         bool // somebody may now see or do something else
	persons, teams []satchel.ID
}

// changeDirectory runs fn under the organisation's directory lock and commits what it did together with the count of
// rights and the job that follows. actor is who asked, and must still have the roles with which the right was checked;
// nil means the operator.
func (s *Service) changeDirectory(ctx context.Context, org satchel.ID, actor *satchel.Principal, fn func(ctx context.Context, tx pgx.Tx) (change, error)) error {
	return pg.InTx(ctx, s.pool, func(ctx context.Context, tx pgx.Tx) error {
		if err := s.lockDirectory(ctx, tx, org, actor); err != nil {
			return err
		}
		c, err := fn(ctx, tx)
		if err != nil {
			return err
		}
		return s.tellEngine(ctx, tx, org, c)
	})
}

func (s *Service) lockDirectory(ctx context.Context, tx pgx.Tx, org satchel.ID, actor *satchel.Principal) error {
	var one int
	if err := tx.QueryRow(ctx, sqlLockDirectory, org).Scan(&one); errors.Is(err, pgx.ErrNoRows) {
		return notFound("organisation")
	} else if err != nil {
		return fmt.Errorf("identity: lock the directory: %w", err)
	}
	if actor == nil {
		return nil
	}
	var roles []string
	err := tx.QueryRow(ctx, sqlActiveRoles, org, actor.Person).Scan(&roles)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("identity: read the actor's roles: %w", err)
	}
	if err != nil || !slices.Equal(roles, actor.Roles) {
		return satchel.E(satchel.Denied, satchel.ReasonNotAllowed, "Your own roles changed while this was asked. Ask again.")
	}
	return nil
}

func (s *Service) tellEngine(ctx context.Context, tx pgx.Tx, org satchel.ID, c change) error {
	if len(c.persons)+len(c.teams) > 0 {
		if err := s.rights.DirectoryChanged(ctx, tx, org, c.persons, c.teams); err != nil {
			return fmt.Errorf("identity: announce a directory change: %w", err)
		}
	}
	if c.rights {
		if err := s.rights.RightsChanged(ctx, tx, org); err != nil {
			return fmt.Errorf("identity: count a change of rights: %w", err)
		}
	}
	return nil
}

// mayManage refuses whoever does not hold the right directory.manage.
func (s *Service) mayManage(ctx context.Context, p *satchel.Principal) error {
	ok, err := s.cfg.MayManage(ctx, p)
	if err != nil {
		return err
	}
	if !ok {
		return satchel.E(satchel.Denied, satchel.ReasonNotAllowed, "This needs the right directory.manage.")
	}
	return nil
}
