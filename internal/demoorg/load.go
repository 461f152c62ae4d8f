package demoorg

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/identity"
	"github.com/satchel-sync/satchel/internal/demodata"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/syncengine"
)

// How one gets in. The password is no secret: it is printed, and the company is loaded into development servers only.
const (
	Slug     = "demo"
	Password = "satchel-demo"
)

// source names the import in the engine.
const source = "demo"

// Present is the company's today: fixed, so that every run makes the same company.
func Present() time.Time { return time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC) }

// seed is that of the company's random source.
const seed = 20261101

// Login is somebody to sign in as.
type Login struct {
	Role  string // what he is in the company, in English
	Login string
}

// Logins are those worth trying, from the lowest to the highest. All have [Password].
func Logins() []Login {
	return []Login{{"rep", "rep01"}, {"manager", "manager1"}, {"director", "director"}, {"admin", "admin"}}
}

// welcomeID is the record that is imported last; where it is, the company is complete.
var welcomeID = satchel.MustParseID("019a3c5e-0000-7000-8000-5a7c4e100001")

// Config says where to load, and how much.
type Config struct {
	Pool     *pgxpool.Pool
	Identity *identity.Service
	Engine   *syncengine.Engine
	// Small loads a company of the same people with few records, for tests.
	Small bool
	// Progress is told how many of the records are in; nil = nobody. It is called on the caller's goroutine.
	Progress func(done, total int)
}

// Load brings the company in where the database has no organisation yet, or completes it. It gives false, and does
// nothing, where the company is complete or the database belongs to somebody else.
func Load(ctx context.Context, cfg Config) (loaded bool, err error) {
	org, err := cfg.Identity.OrgBySlug(ctx, Slug)
	switch {
	case err == nil:
		if done, err := Complete(ctx, cfg.Engine, org); err != nil || done {
			return false, err
		}
	case satchel.KindOf(err) == satchel.NotFound:
		// The set-up code that this makes is never shown: the organisation below makes it useless.
		_, empty, err := cfg.Identity.EnsureSetupCode(ctx)
		if err != nil || !empty {
			return false, err
		}
	default:
		return false, err
	}
	company, err := generate(cfg.Small)
	if err != nil {
		return false, err
	}
	if org.IsZero() {
		org, err = cfg.Identity.CreateOrg(ctx, identity.NewOrg{Slug: Slug, Name: company.Name, TimeZone: "Asia/Shanghai"})
		if err != nil {
			return false, fmt.Errorf("demoorg: the organisation: %w", err)
		}
	}
	if err := importPeople(ctx, cfg, org, company); err != nil {
		return false, fmt.Errorf("demoorg: the people: %w", err)
	}
	if err := importRecords(ctx, cfg, org, company); err != nil {
		return false, fmt.Errorf("demoorg: the records: %w", err)
	}
	return true, nil
}

// Complete tells whether the organisation holds the whole company.
func Complete(ctx context.Context, e *syncengine.Engine, org satchel.ID) (bool, error) {
	r, err := e.Record(ctx, org, welcomeID)
	return r != nil, err
}

func generate(small bool) (*demodata.Company, error) {
	cfg := demodata.Config{Seed: seed, Now: Present()}
	if small {
		cfg.Accounts, cfg.Visits, cfg.Tasks, cfg.Quotes = 80, 240, 40, 10
	}
	return demodata.Generate(cfg)
}

// importPeople brings teams and people in, in one transaction: all of them are there, or none.
func importPeople(ctx context.Context, cfg Config, org satchel.ID, c *demodata.Company) error {
	_, dir, err := cfg.Engine.Org(ctx, org)
	if err != nil {
		return err
	}
	if _, there := dir.Person(c.People[0].ID); there {
		return nil
	}
	teams := make([]identity.Team, len(c.Teams))
	for i, t := range c.Teams {
		teams[i] = identity.Team{ID: t.ID, Parent: t.Parent, Name: t.Name}
	}
	people := make([]identity.Person, len(c.People))
	for i, p := range c.People {
		people[i] = identity.Person{ID: p.ID, Login: p.Login, DisplayName: p.Name, Team: p.Team, Roles: p.Roles}
	}
	return pg.InTx(ctx, cfg.Pool, func(ctx context.Context, tx pgx.Tx) error {
		if err := cfg.Identity.ImportTeams(ctx, tx, org, teams); err != nil {
			return err
		}
		return cfg.Identity.ImportPeople(ctx, tx, org, Password, people)
	})
}

func importRecords(ctx context.Context, cfg Config, org satchel.ID, c *demodata.Company) error {
	records := make([]syncengine.ImportRecord, 0, len(c.Records)+1)
	for _, r := range c.Records {
		records = append(records, syncengine.ImportRecord{ID: r.ID, Kind: r.Kind, Author: r.Author, EventMS: r.EventMS, Fields: r.Fields})
	}
	welcome, err := welcome(c)
	if err != nil {
		return err
	}
	records = append(records, welcome)
	for from := 0; from < len(records); from += syncengine.MaxImport {
		if cfg.Progress != nil {
			cfg.Progress(from, len(records))
		}
		to := min(from+syncengine.MaxImport, len(records))
		if err := cfg.Engine.Import(ctx, org, source, fmt.Sprintf("%d of %d", from, len(records)), records[from:to]); err != nil {
			return err
		}
	}
	if cfg.Progress != nil {
		cfg.Progress(len(records), len(records))
	}
	return nil
}

// welcome is a first task for the rep whose login is printed.
func welcome(c *demodata.Company) (syncengine.ImportRecord, error) {
	rep, ok := person(c, Logins()[0].Login)
	if !ok {
		return syncengine.ImportRecord{}, errors.New("the company has no such rep")
	}
	return syncengine.ImportRecord{
		ID: welcomeID, Kind: "task", Author: rep.ID, EventMS: Present().UnixMilli(),
		Fields: map[string]any{"assignee": rep.ID.String(), "title": "欢迎使用 Satchel · Welcome to Satchel", "priority": "high"},
	}, nil
}

func person(c *demodata.Company, login string) (demodata.Person, bool) {
	for _, p := range c.People {
		if p.Login == login {
			return p, true
		}
	}
	return demodata.Person{}, false
}

// RepAccount gives an account that the first of [Logins] owns, for examples; small as in [Config].
func RepAccount(small bool) (satchel.ID, error) {
	c, err := generate(small)
	if err != nil {
		return satchel.ID{}, err
	}
	rep, _ := person(c, Logins()[0].Login)
	for _, r := range c.Records {
		if r.Kind == "account" && r.Owner == rep.ID {
			return r.ID, nil
		}
	}
	return satchel.ID{}, errors.New("demoorg: the rep has no account")
}
