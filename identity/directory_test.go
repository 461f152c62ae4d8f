package identity

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/satchel-sync/satchel"
)

// holdDirectory locks all that a directory transaction may meet first: the organisation's row, or the row of its clock.
const holdDirectory = "select from org o join org_clock c using (org_id) where o.org_id = $1 for update"

func ptr[T any](v T) *T { return &v }

func TestAChangeOfRightsCommitsWithItsCountAndItsJob(t *testing.T) {
	t.Parallel()
	w, org, li := withLi(t)
	ctx := t.Context()
	root := w.as("acme", "root")
	team, err := w.CreateTeam(ctx, root, "East", satchel.ID{})
	must(t, err)
	s := w.signIn("acme", "li")
	for _, c := range []struct {
		name      string
		patch     PersonPatch
		rights    int
		announced int
	}{
		{"roles", PersonPatch{Roles: &[]string{"rep", "rep"}}, 1, 1},
		{"a team", PersonPatch{Team: &team.ID}, 1, 1},
		{"the same again", PersonPatch{Team: &team.ID, Roles: &[]string{"rep"}}, 0, 0},
		{"a name", PersonPatch{DisplayName: ptr("李娜")}, 0, 1},
		{"no team", PersonPatch{Team: &satchel.ID{}}, 1, 1},
	} {
		rights := w.rightsOf(org)
		_, _, before := w.announced(org)
		c.patch.Person = li.ID
		got, err := w.UpdatePerson(ctx, root, c.patch)
		must(t, err)
		persons, _, after := w.announced(org)
		if w.rightsOf(org)-rights != c.rights || after-before != c.announced || c.announced == 1 && !slices.Equal(persons, []satchel.ID{li.ID}) {
			t.Errorf("%s: rights +%d, %d announcements of %v", c.name, w.rightsOf(org)-rights, after-before, persons)
		}
		p, err := w.Authenticate(ctx, s.Tokens.Access) // holds at the next request
		must(t, err)
		if !slices.Equal(p.Roles, got.Roles) || p.Rights != uint64(w.rightsOf(org)) {
			t.Errorf("%s: the principal is %+v", c.name, p)
		}
	}
}

func TestWithoutTheEngineNothingChanges(t *testing.T) {
	t.Parallel()
	w, org, li := withLi(t)
	ctx := t.Context()
	root := w.as("acme", "root")
	w.cfg.Rights = engine{fail: errors.New("the engine says no")}
	broken := w.replica()
	_, err := broken.UpdatePerson(ctx, root, PersonPatch{Person: li.ID, Disabled: ptr(true)})
	if err == nil || satchel.KindOf(err) != satchel.Internal {
		t.Fatalf("got %v", err)
	}
	_, _, n := w.announced(org)
	p, err := readPerson(ctx, w.pool, org, li.ID)
	must(t, err)
	if p.Disabled || n != 2 { // root's and li's creation
		t.Errorf("the change stands without its count: %+v, %d announcements", p, n)
	}
}

func TestADisabledPersonIsOutAtTheNextRequest(t *testing.T) {
	t.Parallel()
	w, _, li := withLi(t)
	ctx := t.Context()
	root := w.as("acme", "root")
	s := w.signIn("acme", "li")
	got, err := w.UpdatePerson(ctx, root, PersonPatch{Person: li.ID, Disabled: ptr(true)})
	must(t, err)
	if !got.Disabled {
		t.Error("the answer says enabled")
	}
	_, err = w.replica().Authenticate(ctx, s.Tokens.Access)
	refused(t, err, satchel.ReasonSessionEnded)
	_, err = w.Refresh(ctx, s.Tokens.Refresh)
	refused(t, err, satchel.ReasonSessionEnded)
	_, err = w.SignIn(ctx, SignIn{Org: "acme", Login: "li", Password: goodPassword})
	refused(t, err, satchel.ReasonBadCredentials)
	_, err = w.UpdatePerson(ctx, root, PersonPatch{Person: li.ID, Disabled: ptr(false)})
	must(t, err)
	_, err = w.Authenticate(ctx, s.Tokens.Access) // the old session stays ended
	refused(t, err, satchel.ReasonSessionEnded)
	w.signIn("acme", "li")
}

func TestAResetPasswordEndsAllSessions(t *testing.T) {
	t.Parallel()
	w, _, li := withLi(t)
	ctx := t.Context()
	root := w.as("acme", "root")
	s := w.signIn("acme", "li")
	for range freeAttempts {
		_, err := w.SignIn(ctx, SignIn{Org: "acme", Login: "li", Password: "wrong but long"})
		refused(t, err, satchel.ReasonBadCredentials)
	}
	const fresh = "what the admin chose"
	refused(t, w.ResetPassword(ctx, root, li.ID, "short"), satchel.ReasonMalformed)
	must(t, w.ResetPassword(ctx, root, li.ID, fresh))
	_, err := w.Authenticate(ctx, s.Tokens.Access)
	refused(t, err, satchel.ReasonSessionEnded)
	_, err = w.SignIn(ctx, SignIn{Org: "acme", Login: "li", Password: fresh}) // nor does it wait for old failures
	must(t, err)
}

func TestTheDirectoryIsForThoseWhoMayManageIt(t *testing.T) {
	t.Parallel()
	w, _, li := withLi(t)
	ctx := t.Context()
	p := w.as("acme", "li")
	root := w.as("acme", "root")
	for name, err := range map[string]error{
		"CreatePerson":  second(w.CreatePerson(ctx, p, NewPerson{Login: "x"})),
		"UpdatePerson":  second(w.UpdatePerson(ctx, p, PersonPatch{Person: li.ID, Roles: &[]string{"admin"}})),
		"ResetPassword": w.ResetPassword(ctx, p, root.Person, goodPassword),
		"CreateTeam":    second(w.CreateTeam(ctx, p, "x", satchel.ID{})),
		"UpdateTeam":    second(w.UpdateTeam(ctx, p, TeamPatch{})),
		"ListDevices":   second(w.ListDevices(ctx, p, root.Person)),
	} {
		if satchel.ReasonOf(err) != satchel.ReasonNotAllowed || satchel.KindOf(err) != satchel.Denied {
			t.Errorf("%s by a rep gave %v", name, err)
		}
	}
	refused(t, w.RevokeDevice(ctx, p, root.Device), satchel.ReasonNotFound)
}

func second[T any](_ T, err error) error { return err }

func TestIdsOfAnotherOrganisationAreNotFound(t *testing.T) {
	t.Parallel()
	w, _, _ := withLi(t)
	ctx := t.Context()
	root := w.as("acme", "root")
	w.org("beta")
	w.person("beta", "eve", "admin")
	eve := w.as("beta", "eve")
	theirs, err := w.CreateTeam(ctx, eve, "Theirs", satchel.ID{})
	must(t, err)
	ours, err := w.CreateTeam(ctx, root, "Ours", satchel.ID{})
	must(t, err)
	for name, err := range map[string]error{
		"UpdatePerson":         second(w.UpdatePerson(ctx, root, PersonPatch{Person: eve.Person, Disabled: ptr(true)})),
		"UpdatePerson's team":  second(w.UpdatePerson(ctx, root, PersonPatch{Person: root.Person, Team: &theirs.ID})),
		"CreatePerson's team":  second(w.CreatePerson(ctx, root, NewPerson{Login: "x", Team: theirs.ID})),
		"ResetPassword":        w.ResetPassword(ctx, root, eve.Person, goodPassword),
		"CreateTeam's parent":  second(w.CreateTeam(ctx, root, "x", theirs.ID)),
		"UpdateTeam":           second(w.UpdateTeam(ctx, root, TeamPatch{Team: theirs.ID, Name: ptr("Mine")})),
		"UpdateTeam's parent":  second(w.UpdateTeam(ctx, root, TeamPatch{Team: ours.ID, Parent: &theirs.ID})),
		"ListDevices":          second(w.ListDevices(ctx, root, eve.Person)),
		"RevokeDevice":         w.RevokeDevice(ctx, root, eve.Device),
		"RevokeDevice, no one": w.RevokeDevice(ctx, root, satchel.NewID()),
	} {
		if satchel.KindOf(err) != satchel.NotFound {
			t.Errorf("%s gave %v", name, err)
		}
	}
	people, _, err := w.ListPeople(ctx, root, 0, "")
	must(t, err)
	teams, err := w.ListTeams(ctx, root)
	must(t, err)
	if len(people) != 2 || len(teams) != 1 {
		t.Errorf("acme sees %v and %v", people, teams)
	}
	_, err = w.Authenticate(ctx, w.signIn("beta", "eve").Tokens.Access)
	must(t, err)
}

func TestALoginIsUniqueWhateverItsCaseAndWidth(t *testing.T) {
	t.Parallel()
	w, _, _ := withLi(t)
	ctx := t.Context()
	root := w.as("acme", "root")
	p, err := w.CreatePerson(ctx, root, NewPerson{Login: " Wang@Example.com ", DisplayName: "王", Roles: []string{"rep"}})
	must(t, err)
	if p.Login != "Wang@Example.com" {
		t.Errorf("the login is %q", p.Login)
	}
	_, err = w.CreatePerson(ctx, root, NewPerson{Login: "ｗANG@example.COM"})
	refused(t, err, satchel.ReasonTaken)
	for _, bad := range []NewPerson{{Login: "  "}, {Login: "a\x00b"}, {Login: strings.Repeat("x", 255)}, {Login: "ok", DisplayName: strings.Repeat("名", 201)},
		{Login: "ok", Roles: []string{"emperor"}}, {Login: "ok", Password: "short"}, {Login: "ok", DisplayName: "\xff"}} {
		_, err := w.CreatePerson(ctx, root, bad)
		refused(t, err, satchel.ReasonMalformed)
	}
}

func TestPeopleComeInPagesAndLoginsAreForManagers(t *testing.T) {
	t.Parallel()
	w, _, _ := withLi(t)
	ctx := t.Context()
	for i := range 5 {
		w.person("acme", fmt.Sprintf("Rep%d", i))
	}
	root, li := w.as("acme", "root"), w.as("acme", "li")
	var logins []string
	token, pages := "", 0
	for {
		page, next, err := w.ListPeople(ctx, root, 3, token)
		must(t, err)
		for _, p := range page {
			logins = append(logins, p.Login)
		}
		if pages++; next == "" {
			break
		}
		token = next
	}
	if want := []string{"li", "Rep0", "Rep1", "Rep2", "Rep3", "Rep4", "root"}; !slices.Equal(logins, want) || pages != 3 {
		t.Errorf("%d pages with %v", pages, logins)
	}
	seen, _, err := w.ListPeople(ctx, li, 0, "")
	must(t, err)
	for _, p := range seen {
		if (p.Login != "") != (p.ID == li.Person) {
			t.Errorf("a rep sees the login %q", p.Login)
		}
	}
	_, _, err = w.ListPeople(ctx, li, 0, "no token")
	refused(t, err, satchel.ReasonMalformed)
}

func TestTheLastAdministratorStays(t *testing.T) {
	t.Parallel()
	w, org, li := withLi(t)
	ctx := t.Context()
	root := w.as("acme", "root")
	// Somebody who has no password yet is no way back in.
	_, err := w.CreatePerson(ctx, root, NewPerson{Login: "later", Roles: []string{"admin"}})
	must(t, err)
	for _, patch := range []PersonPatch{{Disabled: ptr(true)}, {Roles: &[]string{"rep"}}} {
		patch.Person = root.Person
		_, err := w.UpdatePerson(ctx, root, patch)
		refused(t, err, satchel.ReasonNotAllowed)
	}
	_, err = w.UpdatePerson(ctx, root, PersonPatch{Person: li.ID, Roles: &[]string{"admin"}})
	must(t, err)
	second := w.as("acme", "li")

	// Two administrators who remove each other at once: one stays.
	errs := make([]error, 2)
	w.behind(holdDirectory, []any{org}, func() {
		_, errs[0] = w.UpdatePerson(ctx, root, PersonPatch{Person: second.Person, Roles: &[]string{}})
	}, func() {
		_, errs[1] = w.UpdatePerson(ctx, second, PersonPatch{Person: root.Person, Disabled: ptr(true)})
	})
	if (errs[0] == nil) == (errs[1] == nil) {
		t.Fatalf("the outcomes are %v", errs)
	}
	refused(t, errors.Join(errs...), satchel.ReasonNotAllowed)
	var n int
	must(t, w.pool.QueryRow(ctx, `select count(*) from person where org_id = $1 and 'admin' = any (roles)
		and disabled_at is null and password_hash is not null`, org).Scan(&n))
	if n != 1 {
		t.Errorf("%d administrators are left", n)
	}
}

func TestWhoLostTheRightMeanwhileChangesNothing(t *testing.T) {
	t.Parallel()
	w, _, li := withLi(t)
	ctx := t.Context()
	w.person("acme", "boss", "admin")
	root, boss := w.as("acme", "root"), w.as("acme", "boss")
	_, err := w.UpdatePerson(ctx, root, PersonPatch{Person: boss.Person, Roles: &[]string{"rep"}})
	must(t, err)
	_, err = w.UpdatePerson(ctx, boss, PersonPatch{Person: li.ID, Disabled: ptr(true)}) // authenticated before
	refused(t, err, satchel.ReasonNotAllowed)
}

func TestATeamTreeHasNoCycleAndSixteenLevels(t *testing.T) {
	t.Parallel()
	w, org, _ := withLi(t)
	ctx := t.Context()
	root := w.as("acme", "root")
	var chain []Team
	parent := satchel.ID{}
	for i := range mostDepth {
		team, err := w.CreateTeam(ctx, root, fmt.Sprintf("%02d", mostDepth-i), parent)
		must(t, err)
		chain = append(chain, team)
		parent = team.ID
	}
	_, err := w.CreateTeam(ctx, root, "too deep", parent)
	refused(t, err, satchel.ReasonTooLarge)
	_, err = w.UpdateTeam(ctx, root, TeamPatch{Team: chain[0].ID, Parent: &chain[9].ID})
	refused(t, err, satchel.ReasonMalformed)
	_, err = w.UpdateTeam(ctx, root, TeamPatch{Team: chain[3].ID, Parent: &chain[3].ID})
	refused(t, err, satchel.ReasonMalformed)
	other, err := w.CreateTeam(ctx, root, "other", satchel.ID{})
	must(t, err)
	_, err = w.UpdateTeam(ctx, root, TeamPatch{Team: chain[0].ID, Parent: &other.ID}) // all below it would be at 17
	refused(t, err, satchel.ReasonTooLarge)

	rights := w.rightsOf(org)
	_, err = w.UpdateTeam(ctx, root, TeamPatch{Team: chain[8].ID, Name: ptr("South"), Parent: &satchel.ID{}})
	must(t, err)
	_, ids, _ := w.announced(org)
	if w.rightsOf(org) != rights+1 || !slices.Equal(ids, []satchel.ID{chain[8].ID}) {
		t.Errorf("a moved team: rights +%d, announced %v", w.rightsOf(org)-rights, ids)
	}
	_, err = w.UpdateTeam(ctx, root, TeamPatch{Team: chain[8].ID, Name: ptr("Far south")})
	must(t, err)
	if w.rightsOf(org) != rights+1 {
		t.Error("a new name changed rights")
	}
	teams, err := w.ListTeams(ctx, w.as("acme", "li"))
	must(t, err)
	at := map[satchel.ID]int{}
	for i, team := range teams {
		at[team.ID] = i + 1
		if !team.Parent.IsZero() && at[team.Parent] == 0 {
			t.Errorf("%s comes before its parent", team.Name)
		}
	}
	if len(teams) != mostDepth+1 {
		t.Errorf("%d teams", len(teams))
	}
}

func TestTwoMovesAtOnceMakeNoCycle(t *testing.T) {
	t.Parallel()
	w, org, _ := withLi(t)
	ctx := t.Context()
	root := w.as("acme", "root")
	a, err := w.CreateTeam(ctx, root, "a", satchel.ID{})
	must(t, err)
	b, err := w.CreateTeam(ctx, root, "b", satchel.ID{})
	must(t, err)
	errs := make([]error, 2)
	w.behind(holdDirectory, []any{org},
		func() { _, errs[0] = w.UpdateTeam(ctx, root, TeamPatch{Team: a.ID, Parent: &b.ID}) },
		func() { _, errs[1] = w.UpdateTeam(ctx, root, TeamPatch{Team: b.ID, Parent: &a.ID}) })
	if (errs[0] == nil) == (errs[1] == nil) {
		t.Fatalf("the outcomes are %v", errs)
	}
	teams, err := w.ListTeams(ctx, root)
	must(t, err)
	if len(teams) != 2 {
		t.Error("a cycle cut the tree off")
	}
}

func TestOthersReadTheDirectoryThroughItsViews(t *testing.T) {
	t.Parallel()
	w, org, li := withLi(t)
	ctx := t.Context()
	root := w.as("acme", "root")
	team, err := w.CreateTeam(ctx, root, "East", satchel.ID{})
	must(t, err)
	_, err = w.UpdatePerson(ctx, root, PersonPatch{Person: li.ID, Team: &team.ID, Disabled: ptr(true)})
	must(t, err)
	var name, teamName, zone string
	var roles []string
	var disabled bool
	must(t, w.pool.QueryRow(ctx, `select p.display_name, p.roles, p.disabled, t.name, o.time_zone
		from directory_person p join directory_team t on t.org_id = p.org_id and t.id = p.team_id join directory_org o on o.org_id = p.org_id
		where p.org_id = $1 and p.id = $2`, org, li.ID).Scan(&name, &roles, &disabled, &teamName, &zone))
	if name != "The li" || !slices.Equal(roles, []string{"manager", "rep"}) || !disabled || teamName != "East" || zone != "Asia/Shanghai" {
		t.Error(name, roles, disabled, teamName, zone)
	}
}
