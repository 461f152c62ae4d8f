package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/term"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/identity"
	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/migrations"
)

// orgCmd is `satchel org`.
type orgCmd struct {
	Create orgCreateCmd `cmd:"" help:"Create an organisation, and its administrator if --admin is given."`
}

// userCmd is `satchel user`.
type userCmd struct {
	Add   userAddCmd   `cmd:"" help:"Add a person to an organisation."`
	Reset userResetCmd `cmd:"" help:"Set a person's password, end their sessions, and let them in again."`
}

// orgCreateCmd is `satchel org create`.
type orgCreateCmd struct {
	databaseFlags `embed:""`
	passwordFlags `embed:""`
	Slug          string `arg:"" help:"Its short name, typed at sign-in: lower-case letters, digits, hyphens."`
	Name          string `help:"Its name. Empty = the short name."`
	TimeZone      string `env:"SATCHEL_TIME_ZONE" default:"Asia/Shanghai" help:"Its time zone, by which dates and deadlines count (IANA name)."`
	Admin         string `help:"Login of its first administrator."`
}

// Run creates it.
func (c *orgCreateCmd) Run(ctx context.Context, std streams) error {
	return c.operate(ctx, std, func(id *identity.Service) error {
		password, made := "", false
		if c.Admin != "" {
			var err error
			if password, made, err = c.choose(std); err != nil {
				return err
			}
		}
		name := c.Name
		if name == "" {
			name = c.Slug
		}
		if _, err := id.CreateOrg(ctx, identity.NewOrg{Slug: c.Slug, Name: name, TimeZone: c.TimeZone}); err != nil {
			return err
		}
		fmt.Fprintf(std.out, "Created the organisation %s.\n", c.Slug)
		if c.Admin == "" {
			fmt.Fprintf(std.out, "Next: satchel user add %s LOGIN --role=admin\n", c.Slug)
			return nil
		}
		return addUser(ctx, std, id, c.Slug, identity.NewPerson{Login: c.Admin, Roles: []string{"admin"}, Password: password}, made)
	})
}

// userAddCmd is `satchel user add`.
type userAddCmd struct {
	databaseFlags `embed:""`
	passwordFlags `embed:""`
	Org           string   `arg:"" help:"The organisation's short name."`
	Login         string   `arg:"" help:"Login name, e-mail or mobile number."`
	Name          string   `help:"Display name. Empty = the login."`
	Role          []string `help:"A role of the organisation's schema, such as rep, manager or admin; may be given several times." required:""`
	Team          string   `placeholder:"ID" help:"Id of the person's team (UUID). Empty = none."`
}

// Run adds the person.
func (c *userAddCmd) Run(ctx context.Context, std streams) error {
	n := identity.NewPerson{Login: c.Login, DisplayName: c.Name, Roles: c.Role}
	if c.Team != "" {
		var err error
		if n.Team, err = satchel.ParseID(c.Team); err != nil {
			return usagef("--team: %q is no id of a team (a UUID)", c.Team)
		}
	}
	return c.operate(ctx, std, func(id *identity.Service) error {
		password, made, err := c.choose(std)
		if err != nil {
			return err
		}
		n.Password = password
		return addUser(ctx, std, id, c.Org, n, made)
	})
}

func addUser(ctx context.Context, std streams, id *identity.Service, org string, n identity.NewPerson, made bool) error {
	if _, err := id.AddUser(ctx, org, n); err != nil {
		return err
	}
	fmt.Fprintf(std.out, "Added %s to %s.\n", n.Login, org)
	tell(std, n.Password, made)
	return nil
}

// userResetCmd is `satchel user reset`.
type userResetCmd struct {
	databaseFlags `embed:""`
	passwordFlags `embed:""`
	Org           string `arg:"" help:"The organisation's short name."`
	Login         string `arg:"" help:"The person's login."`
}

// Run sets the password.
func (c *userResetCmd) Run(ctx context.Context, std streams) error {
	return c.operate(ctx, std, func(id *identity.Service) error {
		password, made, err := c.choose(std)
		if err != nil {
			return err
		}
		if err := id.ResetUser(ctx, c.Org, c.Login, password); err != nil {
			return err
		}
		fmt.Fprintf(std.out, "%s may sign in again; all earlier sessions have ended.\n", c.Login)
		tell(std, password, made)
		return nil
	})
}

// operate gives fn the directory of a database that has the right shape.
func (f *databaseFlags) operate(ctx context.Context, std streams, fn func(*identity.Service) error) error {
	return f.operateAll(ctx, std, func(tools *app.Tools) error { return fn(tools.Identity) })
}

// operateAll is operate with all of an operator's tools.
func (f *databaseFlags) operateAll(ctx context.Context, std streams, fn func(*app.Tools) error) error {
	db, err := f.open(ctx, std.err)
	if err != nil {
		return err
	}
	defer db.close()
	pending, err := migrations.Pending(ctx, db.pool)
	if err != nil {
		return err
	}
	if len(pending) > 0 {
		return fmt.Errorf("the database is behind this version; run `satchel migrate` first")
	}
	tools, err := app.Operator(db.pool)
	if err != nil {
		return err
	}
	return explain(fn(tools))
}

// explain makes of a typed error a sentence for an operator: what it says to do, without the words for the log.
func explain(err error) error {
	e, typed := errors.AsType[*satchel.Error](err)
	if !typed || e.Detail == "" {
		return err
	}
	if e.Reason == satchel.ReasonNotFound {
		return errors.New(e.Detail + " `satchel org create` makes organisations, `satchel user add` people.")
	}
	return errors.New(e.Detail)
}

// passwordFlags say where a new password comes from.
type passwordFlags struct {
	PasswordStdin bool `help:"Read the password from the standard input (its first line). Otherwise it is asked for on a terminal; where there is none, one is made up and printed."`
}

// maxPassword bounds what is read as one, in bytes.
const maxPassword = 1024

// choose gives a password; made tells that it was made up here and must be shown.
func (f *passwordFlags) choose(std streams) (password string, made bool, err error) {
	if f.PasswordStdin {
		line, err := bufio.NewReader(io.LimitReader(std.in, maxPassword)).ReadString('\n')
		if err != nil && line == "" {
			return "", false, usagef("--password-stdin: the standard input is empty")
		}
		return strings.TrimRight(line, "\r\n"), false, nil
	}
	fd := int(std.in.Fd())
	if !term.IsTerminal(fd) {
		return rand.Text(), true, nil
	}
	for {
		first, err := ask(std.err, fd, "New password (empty = make one up): ")
		if err != nil {
			return "", false, err
		}
		if first == "" {
			return rand.Text(), true, nil
		}
		again, err := ask(std.err, fd, "Once more: ")
		if err != nil {
			return "", false, err
		}
		if first == again {
			return first, false, nil
		}
		fmt.Fprintln(std.err, "They differ.")
	}
}

func ask(w io.Writer, fd int, question string) (string, error) {
	fmt.Fprint(w, question)
	b, err := term.ReadPassword(fd)
	fmt.Fprintln(w)
	return string(b), err
}

// tell shows a password that was made up, which is the only time that anybody sees it.
func tell(std streams, password string, made bool) {
	if made {
		fmt.Fprintf(std.out, "Password, shown only now: %s\n", password)
	}
}
