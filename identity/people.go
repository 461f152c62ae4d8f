package identity

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/pg"
)

// Person is somebody who can sign in.
type Person struct {
	ID          satchel.ID
	Login       string     // as entered; unique in the organisation whatever its case and width
	DisplayName string     // 1 to 200 characters
	Team        satchel.ID // zero = none
	Roles       []string   // sorted
	Disabled    bool       // may not sign in
}

// NewPerson describes a person to add.
type NewPerson struct {
	Login       string // 1 to 254 characters
	DisplayName string // 1 to 200 characters; "" = the login
	Team        satchel.ID
	Roles       []string // of the organisation's schema, at most 16
	Password    string   // at least 10 characters; "" = nobody signs in before a reset
}

// PersonPatch says what to change; nil leaves a thing as it is.
type PersonPatch struct {
	Person      satchel.ID
	DisplayName *string
	Team        *satchel.ID // the zero ID = no team
	Roles       *[]string
	Disabled    *bool // true also ends the person's sessions and what binds them to a WeChat user
}

// querier is what a pool and a transaction have in common.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func scanPerson(r pgx.CollectableRow) (p Person, err error) {
	err = r.Scan(&p.ID, &p.Login, &p.DisplayName, &p.Team, &p.Roles, &p.Disabled)
	return p, err
}

func readPerson(ctx context.Context, q querier, org, person satchel.ID) (Person, error) {
	rows, err := q.Query(ctx, sqlReadPerson, org, person)
	if err != nil {
		return Person{}, fmt.Errorf("identity: read a person: %w", err)
	}
	p, err := pgx.CollectExactlyOneRow(rows, scanPerson)
	if errors.Is(err, pgx.ErrNoRows) {
		return p, notFound("person")
	}
	if err != nil {
		return p, fmt.Errorf("identity: read a person: %w", err)
	}
	return p, nil
}

// ListPeople gives a page of the organisation's people in the order of their login, and the token of the next page (""
// at the end). size 0 means 100; more than 500 means 500. Logins, which may be phone numbers, are shown only with the
// right directory.manage, and one's own; the others are empty.
func (s *Service) ListPeople(ctx context.Context, p *satchel.Principal, size int, token string) ([]Person, string, error) {
	var after satchel.ID
	if token != "" {
		var err error
		if after, err = satchel.ParseID(token); err != nil {
			return nil, "", satchel.E(satchel.Invalid, satchel.ReasonMalformed, "The page token is not one that this server gave. Begin without one.")
		}
	}
	if size <= 0 {
		size = 100
	}
	size = min(size, 500)
	all, err := s.cfg.MayManage(ctx, p)
	if err != nil {
		return nil, "", err
	}
	rows, err := s.pool.Query(ctx, sqlListPeople, p.Org, after, size+1)
	if err != nil {
		return nil, "", pg.ToError(fmt.Errorf("identity: list people: %w", err))
	}
	people, err := pgx.CollectRows(rows, scanPerson)
	if err != nil {
		return nil, "", pg.ToError(fmt.Errorf("identity: list people: %w", err))
	}
	next := ""
	if len(people) > size {
		people = people[:size]
		next = people[size-1].ID.String()
	}
	for i := range people {
		if !all && people[i].ID != p.Person {
			people[i].Login = ""
		}
	}
	return people, next, nil
}

// CreatePerson adds a person. Needs directory.manage. Errors: TAKEN for a login in use, NOT_FOUND for a team that the
// organisation does not have, MALFORMED.
func (s *Service) CreatePerson(ctx context.Context, p *satchel.Principal, n NewPerson) (Person, error) {
	if err := s.mayManage(ctx, p); err != nil {
		return Person{}, err
	}
	return s.addPerson(ctx, p.Org, p, n)
}

func (s *Service) addPerson(ctx context.Context, org satchel.ID, actor *satchel.Principal, n NewPerson) (out Person, err error) {
	if n.Roles, err = s.knownRoles(ctx, org, n.Roles); err != nil {
		return out, err
	}
	row, err := s.preparePerson(ctx, n)
	if err != nil {
		return out, err
	}
	err = s.changeDirectory(ctx, org, actor, func(ctx context.Context, tx pgx.Tx) (change, error) {
		if err := s.insertPerson(ctx, tx, org, row); err != nil {
			return change{}, err
		}
		out, err = readPerson(ctx, tx, org, row.ID)
		return change{rights: true, persons: []satchel.ID{row.ID}}, err
	})
	return out, err
}

// personRow is a checked person with the hash of their password, ready to be written.
type personRow struct {
	Person
	fold string
	hash *string
}

// preparePerson checks everything but team and roles, and hashes the password, outside any transaction.
func (s *Service) preparePerson(ctx context.Context, n NewPerson) (row personRow, err error) {
	row.ID = satchel.NewID()
	row.Team, row.Roles = n.Team, n.Roles
	if row.Login, err = cleanText("login", n.Login, 254); err != nil {
		return row, err
	}
	if n.DisplayName == "" {
		n.DisplayName = row.Login
	}
	if row.DisplayName, err = cleanText("display name", n.DisplayName, 200); err != nil {
		return row, err
	}
	if row.fold = foldLogin(row.Login); row.fold == "" {
		return row, satchel.E(satchel.Invalid, satchel.ReasonMalformed, "The login has no visible character.")
	}
	if n.Password != "" {
		hash, err := s.newHash(ctx, n.Password)
		if err != nil {
			return row, err
		}
		row.hash = &hash
	}
	return row, nil
}

func (s *Service) insertPerson(ctx context.Context, tx pgx.Tx, org satchel.ID, r personRow) error {
	if err := teamExists(ctx, tx, org, r.Team); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, sqlInsertPerson, org, r.ID, r.Login, r.fold, r.DisplayName, pg.NullID(r.Team), r.Roles, r.hash, s.now())
	if err != nil {
		return fmt.Errorf("identity: insert a person: %w", loginTaken(err))
	}
	return nil
}

func loginTaken(err error) error {
	return taken(err, "person_org_id_login_fold_key", "Somebody in this organisation has this login already.")
}

// UpdatePerson changes what the patch names; it holds at the next request of each of the person's devices. Needs
// directory.manage. Errors: NOT_FOUND, MALFORMED, and NOT_ALLOWED (of kind Precondition) when the organisation would be
// left without an administrator who can sign in.
func (s *Service) UpdatePerson(ctx context.Context, p *satchel.Principal, patch PersonPatch) (out Person, err error) {
	if err := s.mayManage(ctx, p); err != nil {
		return out, err
	}
	if patch.DisplayName != nil {
		name, err := cleanText("display name", *patch.DisplayName, 200)
		if err != nil {
			return out, err
		}
		patch.DisplayName = &name
	}
	if patch.Roles != nil {
		roles, err := s.knownRoles(ctx, p.Org, *patch.Roles)
		if err != nil {
			return out, err
		}
		patch.Roles = &roles
	}
	err = s.changeDirectory(ctx, p.Org, p, func(ctx context.Context, tx pgx.Tx) (change, error) {
		old, err := readPerson(ctx, tx, p.Org, patch.Person)
		if err != nil {
			return change{}, err
		}
		out = patch.apply(old)
		rights := out.Team != old.Team || !slices.Equal(out.Roles, old.Roles) || out.Disabled != old.Disabled
		if !rights && out.DisplayName == old.DisplayName {
			return change{}, nil
		}
		if out.Team != old.Team {
			if err := teamExists(ctx, tx, p.Org, out.Team); err != nil {
				return change{}, err
			}
		}
		if err := s.keepAdmin(ctx, tx, p.Org, old, out); err != nil {
			return change{}, err
		}
		return change{rights: rights, persons: []satchel.ID{out.ID}}, s.writePerson(ctx, tx, p.Org, out)
	})
	if err != nil {
		return Person{}, err
	}
	return out, nil
}

func (patch PersonPatch) apply(p Person) Person {
	if patch.DisplayName != nil {
		p.DisplayName = *patch.DisplayName
	}
	if patch.Team != nil {
		p.Team = *patch.Team
	}
	if patch.Roles != nil {
		p.Roles = *patch.Roles
	}
	if patch.Disabled != nil {
		p.Disabled = *patch.Disabled
	}
	return p
}

func (s *Service) writePerson(ctx context.Context, tx pgx.Tx, org satchel.ID, p Person) error {
	now := s.now()
	b := &pgx.Batch{}
	b.Queue(sqlUpdatePerson, org, p.ID, p.DisplayName, pg.NullID(p.Team), p.Roles, p.Disabled, now)
	if p.Disabled {
		b.Queue(sqlEndSessions, org, p.ID, now, "disabled", satchel.ID{})
		b.Queue(sqlUnbindWeChat, org, p.ID)
	}
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("identity: update a person: %w", err)
	}
	return nil
}

// keepAdmin refuses a change that takes the last administrator away. It counts under the directory lock, so two
// administrators cannot remove each other at once.
func (s *Service) keepAdmin(ctx context.Context, tx pgx.Tx, org satchel.ID, old, next Person) error {
	is := func(p Person) bool { return !p.Disabled && slices.Contains(p.Roles, s.cfg.AdminRole) }
	if !is(old) || is(next) {
		return nil
	}
	var others bool
	if err := tx.QueryRow(ctx, sqlOtherAdmin, org, old.ID, s.cfg.AdminRole).Scan(&others); err != nil {
		return fmt.Errorf("identity: look for another administrator: %w", err)
	}
	if !others {
		return satchel.E(satchel.Precondition, satchel.ReasonNotAllowed, "This is the last administrator who can sign in. Make somebody else administrator first.")
	}
	return nil
}

// ResetPassword sets a person's password and ends all their sessions. Needs directory.manage.
func (s *Service) ResetPassword(ctx context.Context, p *satchel.Principal, person satchel.ID, password string) error {
	if err := s.mayManage(ctx, p); err != nil {
		return err
	}
	return s.resetPassword(ctx, p.Org, p, person, password)
}

func (s *Service) resetPassword(ctx context.Context, org satchel.ID, actor *satchel.Principal, person satchel.ID, password string) error {
	hash, err := s.newHash(ctx, password)
	if err != nil {
		return err
	}
	return s.changeDirectory(ctx, org, actor, func(ctx context.Context, tx pgx.Tx) (change, error) {
		old, err := readPerson(ctx, tx, org, person)
		if err != nil {
			return change{}, err
		}
		b := &pgx.Batch{}
		b.Queue(sqlResetPassword, org, person, hash)
		b.Queue(sqlEndSessions, org, person, s.now(), "password", satchel.ID{})
		b.Queue(sqlClearThrottle, org, throttleSubject("login", foldLogin(old.Login)))
		b.Queue(sqlClearThrottle, org, throttleSubject("person", person.String()))
		if err := tx.SendBatch(ctx, b).Close(); err != nil {
			return change{}, fmt.Errorf("identity: reset a password: %w", err)
		}
		return change{}, nil
	})
}

// ImportPeople adds many people in the caller's transaction, all with the same password, which is hashed once. An ID
// that is zero is minted. Roles are taken as they are; teams must exist or be imported before (ImportTeams). It is for
// demo data and tests, and holds the directory lock until the transaction ends.
func (s *Service) ImportPeople(ctx context.Context, tx pgx.Tx, org satchel.ID, password string, people []Person) error {
	if len(people) == 0 {
		return nil
	}
	first, err := s.preparePerson(ctx, NewPerson{Login: people[0].Login, Password: password})
	if err != nil {
		return err
	}
	if err := s.lockDirectory(ctx, tx, org, nil); err != nil {
		return err
	}
	c := change{rights: true}
	b := &pgx.Batch{}
	for _, p := range people {
		row, err := s.preparePerson(ctx, NewPerson{Login: p.Login, DisplayName: p.DisplayName})
		if err != nil {
			return err
		}
		if p.ID.IsZero() {
			p.ID = row.ID
		}
		roles := slices.Compact(slices.Sorted(slices.Values(p.Roles)))
		if roles == nil {
			roles = []string{}
		}
		b.Queue(sqlInsertPerson, org, p.ID, row.Login, row.fold, row.DisplayName, pg.NullID(p.Team), roles, first.hash, s.now())
		c.persons = append(c.persons, p.ID)
	}
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("identity: import people: %w", loginTaken(err))
	}
	return s.tellEngine(ctx, tx, org, c)
}
