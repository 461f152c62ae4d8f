package access_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/access"
	"github.com/satchel-sync/satchel/schema"
)

const pack = `
version: 1
kinds:
  - name: person
    label: {zh: 人, en: Person}
    buckets: [org]
    fields: [{name: name, type: text, label: {zh: 名, en: Name}}]
  - name: account
    label: {zh: 客, en: Account}
    owner: owner
    buckets: [owner, team]
    fields:
      - {name: owner, type: reference, target: person, label: {zh: 主, en: Owner}}
      - {name: phone, type: text, label: {zh: 话, en: Phone}}
      - {name: limit, type: integer, label: {zh: 额, en: Limit}}
      - {name: state, type: text, merge: server_only, label: {zh: 态, en: State}}
  - name: visit
    label: {zh: 访, en: Visit}
    fact: true
    parent: account
    buckets: [owner, team, parent_owner, "field:guest"]
    fields:
      - {name: account, type: reference, target: account, label: {zh: 客, en: Account}}
      - {name: guest, type: reference, target: person, label: {zh: 宾, en: Guest}}
roles:
  - {name: own, kinds: {account: {read: own, create: true, update: own, fields: {phone: masked, limit: hidden}}, visit: {read: own}, person: {read: own}}}
  - {name: team, kinds: {account: {read: team, update: team, fields: {phone: hidden, limit: read}}, visit: {read: team}}}
  - {name: all, kinds: {account: {read: all, update: all, delete: all}, visit: {read: all}, person: {read: all}}}
  - {name: writer, kinds: {account: {create: true}}}
`

func parse(t interface{ Fatal(...any) }) *schema.Schema {
	s, err := schema.Parse([]byte(pack))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func id(class byte, n int) satchel.ID { return satchel.ID{0: class, 15: byte(n + 1)} }

func team(n int) satchel.ID   { return id(1, n) }
func person(n int) satchel.ID { return id(2, n) }

// anyDirectory draws up to 6 teams, whose parents may be unknown or make a cycle, and 8 people, some without a team.
func anyDirectory(t *rapid.T) (*access.Directory, map[satchel.ID]satchel.ID, []access.Person) {
	n := rapid.IntRange(0, 6).Draw(t, "teams")
	parents := map[satchel.ID]satchel.ID{}
	for i := range n {
		parent := satchel.ID{}
		if p := rapid.IntRange(-1, 7).Draw(t, "parent"); p >= 0 {
			parent = team(p)
		}
		parents[team(i)] = parent
	}
	var people []access.Person
	for i := range 8 {
		p := access.Person{ID: person(i)}
		if k := rapid.IntRange(-1, n).Draw(t, "team"); k >= 0 {
			p.Team = team(k) // n: a team that the directory does not know
		}
		p.Roles = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"own", "team", "all", "writer", "unknown"}), 0, 3, rapid.ID[string]).Draw(t, "roles")
		people = append(people, p)
	}
	return access.NewDirectory(1, people, parents), parents, people
}

// below is the definition: a team is below another where going up from it comes by the other.
func below(parents map[satchel.ID]satchel.ID, top, t satchel.ID) bool {
	if _, known := parents[top]; !known {
		return false
	}
	for range len(parents) + 1 {
		if t == top {
			return true
		}
		up, known := parents[t]
		if !known || up.IsZero() {
			return false
		}
		t = up
	}
	return false
}

// Whoever the rules say sees a record follows a stem of its placement, and nobody else does.
func TestPlaceAndFollowAgreeWithWhoMaySee(t *testing.T) {
	t.Parallel()
	s := parse(t)
	rapid.Check(t, func(t *rapid.T) {
		d, parents, people := anyDirectory(t)
		anybody := func(name string) satchel.ID {
			if n := rapid.IntRange(-1, 7).Draw(t, name); n >= 0 {
				return person(n)
			}
			return satchel.ID{}
		}
		owner, guest, parentOwner := anybody("owner"), anybody("guest"), anybody("parent owner")
		for _, kind := range []string{"person", "account", "visit"} {
			k := s.Kind(kind)
			r := &schema.Record{ID: satchel.NewID(), Kind: kind, Rev: 1, Author: owner, EventMS: 1, Data: map[string]any{}}
			if !owner.IsZero() {
				r.Data["owner"] = owner.String()
			}
			if !guest.IsZero() {
				r.Data["guest"] = guest.String()
			}
			place := access.Place(k, r, parentOwner, d, time.UTC)
			if place == nil || len(place) > access.MaxBucketsPerRecord || !slices.IsSortedFunc(place, func(a, b access.Bucket) int { return strings.Compare(a.Stem, b.Stem) }) {
				t.Fatalf("placement %v", place)
			}
			for _, p := range people {
				g := access.NewGrants(s, p.Roles)
				read := g.Kind(kind).Read
				teamOf := d.TeamOf(owner)
				var want bool
				switch kind {
				case "person":
					want = read != schema.None
				case "visit":
					want = read != schema.None && (p.ID == parentOwner || p.ID == guest)
					fallthrough
				case "account":
					want = want || read != schema.None && p.ID == owner && !owner.IsZero() ||
						!owner.IsZero() && read.Reaches(schema.Team) && below(parents, p.Team, teamOf) ||
						!owner.IsZero() && read == schema.All && (teamOf.IsZero() || slices.Contains(d.Teams(), teamOf))
				}
				if got := access.Sees(access.Follow(g, d, p.ID), kind, place); got != want {
					t.Fatalf("%s with %v and the team %v: sees the %s of %s (%v) is %v", p.ID, p.Roles, p.Team, kind, owner, place, got)
				}
			}
		}
	})
}

func TestScopesReachWhatTheySay(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d, parents, people := anyDirectory(t)
		for _, p := range people {
			for _, o := range people {
				mine := p.ID == o.ID
				within := below(parents, p.Team, o.Team)
				for scope, want := range map[schema.Scope]bool{schema.None: false, schema.Own: mine, schema.Team: mine || within, schema.All: true} {
					if got := d.Within(scope, p.ID, o.ID, satchel.ID{}); got != want {
						t.Fatalf("%q from %s (%s) to %s (%s): %v", scope, p.ID, p.Team, o.ID, o.Team, got)
					}
				}
			}
		}
		if d.Within(schema.Own, person(0), satchel.ID{}, satchel.ID{}) {
			t.Fatal("a record of nobody is somebody's own")
		}
	})
}

func TestTheTeamTreeIsWalkedWithinBounds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d, parents, _ := anyDirectory(t)
		for _, top := range append(slices.Clone(d.Teams()), team(7), satchel.ID{}) {
			var want []satchel.ID
			for _, other := range d.Teams() {
				if below(parents, top, other) {
					want = append(want, other)
				}
			}
			if got := d.Below(top); !slices.Equal(got, want) {
				t.Fatalf("below %s: %v, want %v, of %v", top, got, want, parents)
			}
			above := d.Above(top)
			if len(above) > access.MaxDepth || len(above) > len(parents) {
				t.Fatalf("above %s: %v", top, above)
			}
			for _, a := range above {
				if !below(parents, a, top) {
					t.Fatalf("%s is not above %s", a, top)
				}
			}
		}
	})
}

func TestMoreRolesNeverGrantLess(t *testing.T) {
	t.Parallel()
	s := parse(t)
	all := []string{"own", "team", "all", "writer", "unknown"}
	fields := []string{"owner", "phone", "limit", "state"}
	order := []schema.FieldRight{schema.Hidden, schema.Masked, schema.Read, schema.Write}
	rapid.Check(t, func(t *rapid.T) {
		roles := rapid.SliceOfNDistinct(rapid.SampledFrom(all), 0, 4, rapid.ID[string]).Draw(t, "roles")
		more := append(slices.Clone(roles), rapid.SampledFrom(all).Draw(t, "one more"))
		a, b := access.NewGrants(s, roles), access.NewGrants(s, more)
		for _, kind := range s.Kinds() {
			x, y := a.Kind(kind), b.Kind(kind)
			if !y.Read.Reaches(x.Read) || !y.Update.Reaches(x.Update) || !y.Delete.Reaches(x.Delete) || x.Create && !y.Create {
				t.Fatalf("%s: %+v with %v, %+v with %v", kind, x, roles, y, more)
			}
			for _, f := range fields {
				if slices.Index(order, b.Field(kind, f)) < slices.Index(order, a.Field(kind, f)) {
					t.Fatalf("%s.%s: %s with %v, %s with %v", kind, f, a.Field(kind, f), roles, b.Field(kind, f), more)
				}
			}
		}
		shuffled := rapid.Permutation(more).Draw(t, "order")
		if got, want := fmt.Sprint(access.NewGrants(s, shuffled).Mask("account")), fmt.Sprint(b.Mask("account")); got != want {
			t.Fatalf("the order of roles matters: %s and %s", got, want)
		}
	})
}

func TestFieldRightsAndMasks(t *testing.T) {
	t.Parallel()
	s := parse(t)
	account := s.Kind("account")
	for _, c := range []struct {
		roles           []string
		phone, limit    schema.FieldRight
		hidden, partial string
		writesPhone     bool
	}{
		{nil, schema.Hidden, schema.Hidden, "[]", "[]", false},
		{[]string{"writer"}, schema.Hidden, schema.Hidden, "[]", "[]", false},
		{[]string{"own"}, schema.Masked, schema.Hidden, "[limit]", "[phone]", false},
		{[]string{"team"}, schema.Hidden, schema.Read, "[phone]", "[]", false},
		{[]string{"own", "team"}, schema.Masked, schema.Read, "[]", "[phone]", false},
		{[]string{"own", "all"}, schema.Write, schema.Write, "[]", "[]", true},
		{[]string{"own", "writer"}, schema.Masked, schema.Hidden, "[limit]", "[phone]", false},
	} {
		g := access.NewGrants(s, c.roles)
		m := g.Mask("account")
		if g.Field("account", "phone") != c.phone || g.Field("account", "limit") != c.limit ||
			fmt.Sprint(m.Hidden) != c.hidden || fmt.Sprint(m.Partial) != c.partial {
			t.Errorf("%v: phone %s, limit %s, mask %v", c.roles, g.Field("account", "phone"), g.Field("account", "limit"), m)
		}
		if g.MayWrite(account, account.Field("phone")) != c.writesPhone || g.MayWrite(account, account.Field("state")) {
			t.Errorf("%v: writes what it may not, or not what it may", c.roles)
		}
	}
}

func TestFactsLieInTheMonthOfTheOrganisationsZone(t *testing.T) {
	t.Parallel()
	s := parse(t)
	zone := time.FixedZone("east", 8*3600)
	r := &schema.Record{Kind: "visit", Author: person(0), Data: map[string]any{}, EventMS: time.Date(2026, 11, 30, 20, 0, 0, 0, time.UTC).UnixMilli()}
	place := access.Place(s.Kind("visit"), r, satchel.ID{}, access.NewDirectory(1, nil, nil), zone)
	if len(place) != 2 || place[0] != (access.Bucket{Stem: access.OwnStem(person(0)), Month: "2026-12"}) || place[1].Class() != "team" {
		t.Errorf("%v", place)
	}
}

func TestAKindCannotNameMoreBucketsThanARecordMayLieIn(t *testing.T) {
	t.Parallel()
	var fields, buckets strings.Builder
	for i := range access.MaxBucketsPerRecord + 1 {
		fmt.Fprintf(&fields, "      - {name: p%d, type: reference, target: thing, label: {zh: 人, en: P}}\n", i)
		fmt.Fprintf(&buckets, `"field:p%d", `, i)
	}
	_, err := schema.Parse([]byte("version: 1\nkinds:\n  - name: person\n    label: {zh: 人, en: P}\n    buckets: [" + strings.TrimSuffix(buckets.String(), ", ") +
		"]\n    fields:\n" + strings.ReplaceAll(fields.String(), "thing", "person")))
	if err == nil || !strings.Contains(err.Error(), "1 to 8 buckets") {
		t.Errorf("%v", err)
	}
}

func TestTheNearestHolderOfARoleDecides(t *testing.T) {
	t.Parallel()
	d := access.NewDirectory(1, []access.Person{
		{ID: person(0), Team: team(1), Roles: []string{"rep"}},
		{ID: person(1), Team: team(1), Roles: []string{"manager"}, Disabled: true},
		{ID: person(3), Team: team(0), Roles: []string{"manager"}}, {ID: person(2), Team: team(0), Roles: []string{"manager"}},
	}, map[satchel.ID]satchel.ID{team(0): {}, team(1): team(0)})
	if p, ok := d.Holder("manager", person(0)); !ok || p.ID != person(2) {
		t.Errorf("%v %v", p.ID, ok)
	}
	if p, ok := d.Holder("manager", person(2)); !ok || p.ID != person(3) {
		t.Errorf("his own manager: %v %v", p.ID, ok)
	}
	if _, ok := d.Holder("director", person(0)); ok {
		t.Error("somebody holds a role that nobody has")
	}
}
