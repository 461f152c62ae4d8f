package demodata_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/demodata"
	"github.com/satchel-sync/satchel/schema"
)

var now = time.Date(2026, 11, 21, 9, 30, 0, 0, time.UTC)

func small(t *testing.T, seed uint64) *demodata.Company {
	t.Helper()
	return made(t, demodata.Config{Seed: seed, Now: now, Reps: 16, Accounts: 200, Visits: 1_000})
}

func made(t *testing.T, cfg demodata.Config) *demodata.Company {
	t.Helper()
	c, err := demodata.Generate(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTheSameSeedGivesTheSameCompanyAndAnotherSeedAnother(t *testing.T) {
	t.Parallel()
	one, err := json.Marshal(small(t, 7))
	if err != nil {
		t.Fatal(err)
	}
	again, _ := json.Marshal(small(t, 7))
	if string(one) != string(again) {
		t.Error("two runs differ")
	}
	if other, _ := json.Marshal(small(t, 8)); string(one) == string(other) {
		t.Error("two seeds give the same")
	}
}

func TestTheDemoHasTheSizeThatIsSaid(t *testing.T) {
	t.Parallel()
	c := made(t, demodata.Config{Now: now})
	count := map[string]int{}
	for _, r := range c.Records {
		count[r.Kind]++
	}
	if count["account"] != 3_000 || count["visit"] != 20_000 || count["contact"] < 3_000 || count["task"] != 240 || count["quote"] != 375 {
		t.Errorf("records %v", count)
	}
	roles := map[string]int{}
	for _, p := range c.People {
		for _, r := range p.Roles {
			roles[r]++
		}
	}
	if want := map[string]int{"rep": 40, "manager": 13, "director": 5, "admin": 1, "assistant": 1, "viewer": 1}; !maps.Equal(roles, want) {
		t.Errorf("roles %v, want %v", roles, want)
	}
}

func TestEveryRecordPassesTheChecksOfThePackInItsCanonicalForm(t *testing.T) {
	t.Parallel()
	s, err := schema.Default()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range small(t, 1).Records {
		k := s.Kind(r.Kind)
		fields := maps.Clone(r.Fields)
		if p := k.CheckFields(fields); p != nil {
			t.Fatalf("%s: %+v", r.Kind, p)
		}
		was, _ := json.Marshal(r.Fields)
		is, _ := json.Marshal(fields)
		if string(was) != string(is) {
			t.Fatalf("%s is not canonical: %s, want %s", r.Kind, was, is)
		}
		if p := k.Invalid(fields); p != nil {
			t.Fatalf("%s: %+v", r.Kind, p)
		}
		raw, err := schema.DecodeFields(was)
		if err != nil || !schema.Equal(raw, map[string]any(fields)) {
			t.Fatalf("%s does not decode: %v", r.Kind, err)
		}
	}
}

func TestEveryAuthorMayMakeWhatHeMade(t *testing.T) {
	t.Parallel()
	s, err := schema.Default()
	if err != nil {
		t.Fatal(err)
	}
	c := small(t, 2)
	roles := map[satchel.ID][]string{}
	for _, p := range c.People {
		roles[p.ID] = p.Roles
		for _, r := range p.Roles {
			if s.Role(r) == nil {
				t.Fatalf("%s has the role %s, which the pack does not have", p.Login, r)
			}
		}
	}
	for _, r := range c.Records {
		may := slices.ContainsFunc(roles[r.Author], func(role string) bool {
			g := s.Role(role).Kinds[r.Kind]
			for name := range r.Fields {
				if right, named := g.Fields[name]; (named && right != schema.Write) || s.Kind(r.Kind).Field(name).Merge == schema.ServerOnly {
					return false
				}
			}
			return g.Create
		})
		if !may {
			t.Fatalf("no role of %v may create %s with %v", roles[r.Author], r.Kind, slices.Sorted(maps.Keys(r.Fields)))
		}
	}
}

func TestNothingPointsToWhatComesLaterOrLiesInTheFuture(t *testing.T) {
	t.Parallel()
	s, err := schema.Default()
	if err != nil {
		t.Fatal(err)
	}
	c := small(t, 3)
	seen := map[string]string{}
	for _, p := range c.People {
		seen[p.ID.String()] = "person"
	}
	last := map[string]int64{}
	for _, r := range c.Records {
		for _, f := range s.Kind(r.Kind).Fields() {
			if target, ok := r.Fields[f.Name].(string); ok && f.Type == schema.Reference && seen[target] != f.Target {
				t.Fatalf("%s.%s names a %q that is not there yet", r.Kind, f.Name, f.Target)
			}
		}
		if _, twice := seen[r.ID.String()]; twice {
			t.Fatalf("the id %s stands twice", r.ID)
		}
		seen[r.ID.String()] = r.Kind
		if r.EventMS > now.UnixMilli() || r.EventMS < last[r.Kind] {
			t.Fatalf("%s at %d: after the present, or before the one before", r.Kind, r.EventMS)
		}
		last[r.Kind] = r.EventMS
		if r.ID[6]>>4 != 7 || r.ID[8]>>6 != 2 {
			t.Fatalf("%s has not the form of a UUIDv7", r.ID)
		}
		for _, field := range []string{"visited_at", "left_at", "done_at", "last_contact_at"} {
			if at, ok := r.Fields[field].(string); ok && at > now.Format("2006-01-02T15:04:05.000Z") {
				t.Fatalf("%s.%s is %s", r.Kind, field, at)
			}
		}
	}
}

func TestTheTeamsFormATreeOfThreeLevelsAndEveryRepHasAManagerBelowTheDirector(t *testing.T) {
	t.Parallel()
	c := small(t, 4)
	parent := map[satchel.ID]satchel.ID{}
	depth := map[satchel.ID]int{}
	for _, team := range c.Teams {
		if _, known := depth[team.Parent]; !known && !team.Parent.IsZero() {
			t.Fatalf("%s comes before its parent", team.Name)
		}
		parent[team.ID] = team.Parent
		depth[team.ID] = depth[team.Parent] + 1
	}
	if deepest := slices.Max(slices.Collect(maps.Values(depth))); deepest != 3 || len(c.Teams) != 13 {
		t.Errorf("%d teams in %d levels", len(c.Teams), deepest)
	}
	holders := map[satchel.ID][]string{}
	logins := map[string]bool{}
	for _, p := range c.People {
		holders[p.Team] = append(holders[p.Team], p.Roles...)
		if logins[p.Login] {
			t.Errorf("the login %s stands twice", p.Login)
		}
		logins[p.Login] = true
	}
	for _, p := range c.People {
		if slices.Contains(p.Roles, "rep") && (depth[p.Team] != 3 || !slices.Contains(holders[p.Team], "manager") ||
			!slices.Contains(holders[parent[parent[p.Team]]], "director")) {
			t.Errorf("%s has no manager or no director", p.Login)
		}
	}
}

func TestTheDataIsInTwoLanguagesWithoutDoublesAmongAccountNamesAndHasAQuoteOfExactlyTheLimit(t *testing.T) {
	t.Parallel()
	han, latin, limit := 0, 0, 0
	names := map[string]bool{}
	for _, r := range small(t, 5).Records {
		switch r.Kind {
		case "account":
			name := r.Fields["name"].(string)
			if names[name] {
				t.Errorf("%s stands twice", name)
			}
			names[name] = true
			if strings.ContainsFunc(name, func(r rune) bool { return unicode.Is(unicode.Han, r) }) {
				han++
			} else {
				latin++
			}
		case "quote":
			if r.Fields["amount"] == json.Number("100000") {
				limit++
			}
		}
	}
	if han < 100 || latin < 5 || limit == 0 {
		t.Errorf("%d names in Chinese, %d in English, %d quotes of 100,000", han, latin, limit)
	}
}

func TestCreditCodesCarryTheirCheckCharacter(t *testing.T) {
	t.Parallel()
	const digits = "0123456789ABCDEFGHJKLMNPQRTUWXY"
	for _, r := range small(t, 6).Records {
		if r.Kind != "account" {
			continue
		}
		code := r.Fields["uscc"].(string)
		sum, weight := 0, 1
		for i := range 17 {
			sum += strings.IndexByte(digits, code[i]) * weight
			weight = weight * 3 % 31
		}
		if len(code) != 18 || (sum+strings.IndexByte(digits, code[17]))%31 != 0 {
			t.Fatalf("%s has a wrong check character", code)
		}
	}
}

func TestACompanyWithoutAPresentOrWithANegativeSizeIsRefused(t *testing.T) {
	t.Parallel()
	for _, cfg := range []demodata.Config{{}, {Now: now, Visits: -1}, {Now: now, Reps: -1}} {
		if _, err := demodata.Generate(cfg); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
}
