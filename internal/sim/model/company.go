package model

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	satchel "github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/identity"
	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/internal/pg"
)

// Of every company. The password guards made-up data in a database that goes.
const (
	password = "sim-on-loopback"
	timeZone = "Asia/Shanghai"
)

// staff are the people, with the team and role that each begins with.
var staff = [][3]string{
	{"adi", "head", "admin"}, {"dina", "head", "director"},
	{"mei", "north", "manager"}, {"ann", "north", "rep"}, {"ben", "north", "rep"}, {"ass", "north", "assistant"},
	{"sam", "south", "manager"}, {"cem", "south", "rep"},
}

// movable are those whom an administrator moves about; adi stays, for somebody has to.
var movable = []string{"dina", "mei", "ann", "ben", "ass", "sam", "cem"}

// Company is the organisation in which a run happens. It does not change once it is founded, whatever becomes of its
// people's rights, and is safe for concurrent use.
type Company struct {
	Slug   string
	Org    satchel.ID
	People map[string]satchel.ID // by login
	Teams  map[string]satchel.ID // by name: head, and north and south that begin below it
}

// Found makes a company. Its people's places are settled when it returns. newID mints first the teams, then the people.
func Found(ctx context.Context, a *app.App, db *pgxpool.Pool, slug string, newID func() satchel.ID) (c Company, err error) {
	c = Company{Slug: slug, People: map[string]satchel.ID{}, Teams: map[string]satchel.ID{}}
	if c.Org, err = a.Identity.CreateOrg(ctx, identity.NewOrg{Slug: slug, Name: slug, TimeZone: timeZone}); err != nil {
		return c, err
	}
	var teams []identity.Team
	var people []identity.Person
	for _, name := range []string{"head", "north", "south"} {
		c.Teams[name] = newID()
		one := identity.Team{ID: c.Teams[name], Name: name}
		if name != "head" {
			one.Parent = c.Teams["head"]
		}
		teams = append(teams, one)
	}
	for _, p := range staff {
		c.People[p[0]] = newID()
		people = append(people, identity.Person{ID: c.People[p[0]], Login: p[0], DisplayName: p[0], Team: c.Teams[p[1]], Roles: []string{p[2]}})
	}
	if err := pg.InTx(ctx, db, func(ctx context.Context, tx pgx.Tx) error {
		if err := a.Identity.ImportTeams(ctx, tx, c.Org, teams); err != nil {
			return err
		}
		return a.Identity.ImportPeople(ctx, tx, c.Org, password, people)
	}); err != nil {
		return c, err
	}
	_, err = a.Jobs.Step(ctx)
	return c, err
}

// Credentials sign a person in on a phone of that name.
func (c *Company) Credentials(login, phone string) satchelclient.Credentials {
	return satchelclient.Credentials{Org: c.Slug, Login: login, Password: password, DeviceName: phone, Platform: "sim"}
}

// Admin is who changes rights.
func (c *Company) Admin() *satchel.Principal {
	return &satchel.Principal{Org: c.Org, Person: c.People["adi"], Roles: []string{"admin"}}
}

// Others are all whose rights change, to whom things are given.
func (c *Company) Others() (ids []satchel.ID) {
	for _, login := range movable {
		ids = append(ids, c.People[login])
	}
	return ids
}

// AnyLogin draws somebody whose rights change.
func (c *Company) AnyLogin(rnd *rand.Rand) string { return movable[rnd.IntN(len(movable))] }

// DrawChange draws what an administrator changes of a person's rights; at times a whole team moves instead. change does
// it, once or more often; told says what it is.
func (c *Company) DrawChange(rnd *rand.Rand, login string) (told string, change func(context.Context, *identity.Service) error) {
	pick := func(names ...string) string { return names[rnd.IntN(len(names))] }
	patch := identity.PersonPatch{Person: c.People[login]}
	switch n := rnd.IntN(10); {
	case n < 4:
		name := pick("head", "north", "south")
		team := c.Teams[name]
		told, patch.Team = login+" moves to the team "+name, &team
	case n < 7:
		role := pick("rep", "rep", "manager", "director", "assistant", "viewer")
		told, patch.Roles = login+" becomes "+role, &[]string{role}
	case n < 9:
		disabled := rnd.IntN(2) == 0
		told, patch.Disabled = fmt.Sprintf("%s disabled=%t", login, disabled), &disabled
	default:
		name := pick("head", "north")
		to := c.Teams[name]
		return "the team south moves below " + name, func(ctx context.Context, people *identity.Service) error {
			_, err := people.UpdateTeam(ctx, c.Admin(), identity.TeamPatch{Team: c.Teams["south"], Parent: &to})
			return err
		}
	}
	return told, func(ctx context.Context, people *identity.Service) error {
		_, err := people.UpdatePerson(ctx, c.Admin(), patch)
		return err
	}
}

// EnableAll lets everybody sign in again.
func (c *Company) EnableAll(ctx context.Context, people *identity.Service) error {
	no := false
	var all error
	for _, login := range movable {
		_, err := people.UpdatePerson(ctx, c.Admin(), identity.PersonPatch{Person: c.People[login], Disabled: &no})
		all = errors.Join(all, err)
	}
	return all
}
