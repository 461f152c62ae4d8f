package identity

import (
	"context"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/pg"
)

// NewOrg describes an organisation to create.
type NewOrg struct {
	Slug     string // what people type when they sign in: lower-case letters, digits, hyphens, at most 63
	Name     string // 1 to 200 characters
	TimeZone string // IANA name; "" = Asia/Shanghai
}

var slugForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

func (n *NewOrg) check() (err error) {
	if !slugForm.MatchString(n.Slug) {
		return satchel.E(satchel.Invalid, satchel.ReasonMalformed, "The organisation's short name must be lower-case letters, digits and hyphens, at most 63.")
	}
	if n.Name, err = cleanText("organisation's name", n.Name, 200); err != nil {
		return err
	}
	if n.TimeZone == "" {
		n.TimeZone = "Asia/Shanghai"
	}
	if _, err := time.LoadLocation(n.TimeZone); err != nil || n.TimeZone == "Local" {
		return satchel.E(satchel.Invalid, satchel.ReasonMalformed, "The time zone must be an IANA name such as Asia/Shanghai.")
	}
	return nil
}

// CreateOrg creates an organisation without people; it is the operator's. Errors: MALFORMED, TAKEN.
func (s *Service) CreateOrg(ctx context.Context, n NewOrg) (org satchel.ID, err error) {
	if err := n.check(); err != nil {
		return org, err
	}
	err = pg.InTx(ctx, s.pool, func(ctx context.Context, tx pgx.Tx) error {
		org, err = s.insertOrg(ctx, tx, n)
		return err
	})
	return org, err
}

func (s *Service) insertOrg(ctx context.Context, tx pgx.Tx, n NewOrg) (satchel.ID, error) {
	org := satchel.NewID()
	if _, err := tx.Exec(ctx, sqlInsertOrg, org, n.Slug, n.Name, n.TimeZone, s.now()); err != nil {
		return org, fmt.Errorf("identity: insert an organisation: %w",
			taken(err, "org_slug_key", "Another organisation of this server has this short name."))
	}
	if err := s.rights.OrgCreated(ctx, tx, org); err != nil {
		return org, fmt.Errorf("identity: announce an organisation: %w", err)
	}
	return org, nil
}

// CloseOrg shuts an organisation's doors: from the next request on nobody signs in and no token is accepted. Its data
// stay. Closing twice is no error; an unknown slug is NOT_FOUND. It is the operator's.
func (s *Service) CloseOrg(ctx context.Context, slug string) error {
	tag, err := s.pool.Exec(ctx, sqlCloseOrg, slug, s.now())
	if err != nil {
		return pg.ToError(fmt.Errorf("identity: close an organisation: %w", err))
	}
	if tag.RowsAffected() == 0 {
		return notFound("organisation")
	}
	return nil
}

// Org is an organisation.
type Org struct {
	ID         satchel.ID
	Slug, Name string
}

// Orgs gives organisations by their short names, also those that are closing, behind one ("" = from the first), at most
// limit. It is the operator's.
func (s *Service) Orgs(ctx context.Context, after string, limit int) ([]Org, error) {
	rows, err := s.pool.Query(ctx, sqlOrgs, after, limit)
	if err != nil {
		return nil, pg.ToError(fmt.Errorf("identity: list organisations: %w", err))
	}
	out, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (o Org, err error) {
		err = r.Scan(&o.ID, &o.Slug, &o.Name)
		return o, err
	})
	return out, pg.ToError(err)
}

// OrgBySlug gives an organisation's id, also of one that is closing. It is the operator's.
func (s *Service) OrgBySlug(ctx context.Context, slug string) (org satchel.ID, err error) {
	err = s.pool.QueryRow(ctx, sqlOrgBySlug, slug).Scan(&org)
	if errors.Is(err, pgx.ErrNoRows) {
		return org, notFound("organisation")
	}
	if err != nil {
		return org, pg.ToError(fmt.Errorf("identity: find an organisation: %w", err))
	}
	return org, nil
}

// AddUser is CreatePerson for the operator, who needs no right.
func (s *Service) AddUser(ctx context.Context, slug string, n NewPerson) (Person, error) {
	org, err := s.OrgBySlug(ctx, slug)
	if err != nil {
		return Person{}, err
	}
	return s.addPerson(ctx, org, nil, n)
}

// ResetUser is ResetPassword for the operator: by login, and it also enables a person who was disabled, which is the way
// back in for an organisation that shut itself out.
func (s *Service) ResetUser(ctx context.Context, slug, login, password string) error {
	org, err := s.OrgBySlug(ctx, slug)
	if err != nil {
		return err
	}
	var person satchel.ID
	err = s.pool.QueryRow(ctx, sqlPersonByLogin, org, foldLogin(clip(login, 254))).Scan(&person)
	if errors.Is(err, pgx.ErrNoRows) {
		return notFound("person")
	}
	if err != nil {
		return pg.ToError(fmt.Errorf("identity: find a person: %w", err))
	}
	if err := s.resetPassword(ctx, org, nil, person, password); err != nil {
		return err
	}
	return s.changeDirectory(ctx, org, nil, func(ctx context.Context, tx pgx.Tx) (change, error) {
		p, err := readPerson(ctx, tx, org, person)
		if err != nil || !p.Disabled {
			return change{}, err
		}
		p.Disabled = false
		return change{rights: true, persons: []satchel.ID{person}}, s.writePerson(ctx, tx, org, p)
	})
}

// EnsureSetupCode makes the one-time code for the first administrator of a database without organisations; needed is
// false when there is one. Each call makes a new code and the old one void: the code is stored only as a hash, so a new
// start cannot print the old one. The caller shows it to the operator, nowhere else.
func (s *Service) EnsureSetupCode(ctx context.Context) (code string, needed bool, err error) {
	// 160 bits, in letters that can be read aloud and typed.
	code = strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(random(20)))
	tag, err := s.pool.Exec(ctx, sqlSetupCode, hashOf(code), s.now())
	if err != nil {
		return "", false, pg.ToError(fmt.Errorf("identity: store the set-up code: %w", err))
	}
	if tag.RowsAffected() == 0 {
		return "", false, nil
	}
	return code, true, nil
}

// SetUp creates the first organisation and its administrator.
type SetUp struct {
	Code        string
	Org         NewOrg
	Login       string
	DisplayName string
	Password    string // at least 10 characters
}

// String tells nothing of the code and the password.
func (SetUp) String() string { return "(set-up)" }

// GoString tells nothing of the code and the password.
func (SetUp) GoString() string { return "(set-up)" }

// MarshalText tells nothing of the code and the password; JSON and slog ask it.
func (SetUp) MarshalText() ([]byte, error) { return []byte("(set-up)"), nil }

// SetUp uses the one-time code up. It works once, on a database without organisations; else NOT_ALLOWED. A wrong code is
// BAD_CREDENTIALS.
func (s *Service) SetUp(ctx context.Context, in SetUp) (org, person satchel.ID, err error) {
	in.Code = strings.ToLower(strings.TrimSpace(in.Code))
	if err := s.checkSetupCode(ctx, s.pool, sqlReadSetupCode, in.Code); err != nil { // before anything costly
		return org, person, pg.ToError(err)
	}
	if err := in.Org.check(); err != nil {
		return org, person, err
	}
	if err := checkPassword(in.Password); err != nil { // "" too: an administrator without one could never come in
		return org, person, err
	}
	row, err := s.preparePerson(ctx, NewPerson{Login: in.Login, DisplayName: in.DisplayName, Password: in.Password, Roles: []string{s.cfg.AdminRole}})
	if err != nil {
		return org, person, err
	}
	err = pg.InTx(ctx, s.pool, func(ctx context.Context, tx pgx.Tx) error {
		if err := s.checkSetupCode(ctx, tx, sqlLockSetupCode, in.Code); err != nil {
			return err
		}
		if org, err = s.insertOrg(ctx, tx, in.Org); err != nil {
			return err
		}
		if err := s.insertPerson(ctx, tx, org, row); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, sqlUseSetupCode, s.now()); err != nil {
			return fmt.Errorf("identity: use the set-up code: %w", err)
		}
		return s.tellEngine(ctx, tx, org, change{rights: true, persons: []satchel.ID{row.ID}})
	})
	if err != nil {
		return satchel.ID{}, satchel.ID{}, err
	}
	return org, row.ID, nil
}

func (s *Service) checkSetupCode(ctx context.Context, q querier, sql, code string) error {
	done := satchel.E(satchel.Denied, satchel.ReasonNotAllowed, "This server is set up already. Sign in, or run `satchel org create`.")
	var hash []byte
	var used bool
	err := q.QueryRow(ctx, sql).Scan(&hash, &used)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("identity: read the set-up code: %w", err)
	}
	var some bool
	if err := q.QueryRow(ctx, sqlAnyOrg).Scan(&some); err != nil {
		return fmt.Errorf("identity: look for organisations: %w", err)
	}
	if some || used {
		return done
	}
	if subtle.ConstantTimeCompare(hash, hashOf(code)) != 1 {
		return satchel.E(satchel.Unauthenticated, satchel.ReasonBadCredentials, "The set-up code is wrong. Each start of the server prints a new one and voids the old.")
	}
	return nil
}
