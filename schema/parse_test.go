package schema_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/satchel-sync/satchel/schema"
)

// small is a pack with one of everything; tests replace a part of it.
const small = `version: 3
kinds:
  - name: person
    label: {zh: 人员, en: Person}
    buckets: [org]
    fields:
      - {name: name, type: text, label: {zh: 姓名, en: Name}}
  - name: deal
    label: {zh: 商机, en: Deal}
    owner: owner
    parent: above
    delete: delete_wins
    buckets: [owner, team, parent_owner, "field:boss"]
    fields:
      - {name: owner, type: reference, target: person, label: {zh: 负责人, en: Owner}}
      - {name: boss, type: reference, target: person, label: {zh: 上级, en: Boss}}
      - {name: above, type: reference, target: deal, label: {zh: 上级商机, en: Above}}
      - {name: amount, type: decimal, group: money, default: 12.5, label: {zh: 金额, en: Amount}}
      - {name: currency, type: choice, choices: [CNY, USD], group: money, default: CNY, label: {zh: 币种, en: Currency}}
      - {name: visits, type: integer, merge: counter, default: 0, label: {zh: 次数, en: Visits}}
      - {name: tags, type: set, default: [b, a], label: {zh: 标签, en: Tags}}
      - {name: due_at, type: datetime, label: {zh: 到期, en: Due}}
      - {name: state, type: choice, choices: [draft, waiting, approved, rejected], merge: server_only, label: {zh: 状态, en: State}}
    checks:
      - {condition: "!has(new.amount) || new.amount >= 0", fields: [amount]}
roles:
  - name: rep
    rights: [directory.manage]
    kinds:
      deal: {read: team, create: true, update: own, fields: {amount: hidden}}
profiles:
  small: {kinds: [person, deal], months: 3}
  whole: {}
rules:
  - {name: due, kind: deal, anchor: due_at, offset: "-1d12h", notify: boss, when: "has(new.amount)", template: due}
flows:
  - {name: big, kind: deal, amount_field: amount, limit: "1e5", node: manager, approver: manager, role: rep, form_fields: [amount, currency], state_field: state}
templates:
  due: {zh: 到期了, en: It is due}
`

func TestASmallPackIsReadInFull(t *testing.T) {
	t.Parallel()
	s, err := schema.Parse([]byte(small))
	if err != nil {
		t.Fatal(err)
	}
	deal := s.Kind("deal")
	if s.Version != 3 || deal.Delete != schema.DeleteWins || s.Kind("person").Delete != schema.EditWins {
		t.Errorf("version %d, delete %q", s.Version, deal.Delete)
	}
	if got := deal.Field("tags").Merge; got != schema.SetMerge {
		t.Errorf("a set without policy merges by %s", got)
	}
	want := map[string]any{"amount": num("12.5"), "currency": "CNY", "visits": num("0"), "tags": []any{"a", "b"}}
	if got := map[string]any(deal.Defaults()); !schema.Equal(got, want) {
		t.Errorf("defaults %v, want %v", got, want)
	}
	if got := s.Rules[0].OffsetMS; got != -36*3_600_000 {
		t.Errorf("-1d12h is %d ms", got)
	}
	if p := s.Profile("small"); p == nil || p.Months != 3 || !slices.Equal(p.Kinds, []string{"deal", "person"}) {
		t.Errorf("the profile small is %+v", p)
	}
	for _, name := range []string{"", schema.FullProfile, "whole"} {
		if p := s.Profile(name); p == nil || p.Months != 0 || p.Kinds != nil {
			t.Errorf("the profile %q is %+v", name, p)
		}
	}
	if want := []string{"full", "small", "whole"}; s.Profile("tiny") != nil || !slices.Equal(s.Profiles(), want) {
		t.Errorf("profiles %v, want %v", s.Profiles(), want)
	}
	if got := s.Flows[0].Limit; got != "100000" {
		t.Errorf("limit 1e5 is kept as %q", got)
	}
}

func TestWhatIsWrongInAPackIsNamedWithItsPlace(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, old, new, place, says string }{
		{"an unknown key", "version: 3", "version: 3\ncolour: red", "[2:1]", `unknown field "colour"`},
		{"an unknown key inside a field", "type: text,", "type: text, lenght: 3,", "[7:", `unknown field "lenght"`},
		{"no YAML", "version: 3", "version: [", "", "not YAML"},
		{"a key twice", "version: 3", "version: 3\nversion: 4", "[2:1]", "already defined"},
		{"an alias", "buckets: [org]", "buckets: &b [org]", "line 5", "anchors"},
		{"a tag", "version: 3", "version: !!int 3", "line 1", "tags are not read"},
		{"a tag in a wrong place, on which the library panics", "      - {condition", "      ! {condition", "line 25", "tags are not read"},
		{"bytes that are not UTF-8", "人员", "\xe4\xba", "", "not UTF-8"},
		{"two documents", "templates:", "---\ntemplates:", "", "one YAML document"},
		{"no version", "version: 3", "version: 0", "version", "from 1 on"},
		{"an unknown type", "type: text,", "type: string,", "kinds.person.fields.name", `unknown type "string"`},
		{"an unknown policy", "merge: counter", "merge: newest", "kinds.deal.fields.visits", `unknown merge policy "newest"`},
		{"a counter that is no integer", "{name: amount, type: decimal, group: money, default: 12.5,", "{name: amount, type: decimal, merge: counter,", "kinds.deal.fields.amount", "only an integer can be a counter"},
		{"a set policy on a text", "type: text,", "type: text, merge: set,", "kinds.person.fields.name", "only a set is merged by element"},
		{"a set that is not merged by element", "type: set,", "type: set, merge: ask,", "kinds.deal.fields.tags", "its policy is set or server_only"},
		{"a minimum of texts", "type: text,", "type: text, merge: min,", "kinds.person.fields.name", "needs values with an order"},
		{"a group of one", "choices: [CNY, USD], group: money", "choices: [CNY, USD]", "kinds.deal.fields.amount", "no other member"},
		{"a group that is settled in two ways", "choices: [CNY, USD], group", "choices: [CNY, USD], merge: ask, group", "kinds.deal.fields.currency", "give all the same"},
		{"a group with the name of a field", "group: money", "group: tags", "kinds.deal.fields.amount", "has the name of a field"},
		{"a counter in a group", "merge: counter", "merge: counter, group: money", "kinds.deal.fields.visits", "take it out of group"},
		{"a choice without choices", "choices: [CNY, USD], ", "", "kinds.deal.fields.currency", "at least one"},
		{"a choice twice", "[CNY, USD]", "[CNY, CNY]", "kinds.deal.fields.currency", "stands twice"},
		{"a reference to nothing", "target: deal", "target: lead", "kinds.deal.fields.above", `the target "lead" is no kind`},
		{"a reference without target", "type: reference, target: deal", "type: reference", "kinds.deal.fields.above", "it needs one"},
		{"a default that does not fit", "default: 0", "default: many", "kinds.deal.fields.visits", "the default does not fit"},
		{"a length that is too long", "type: text,", "type: text, max_length: 501,", "kinds.person.fields.name", "max_length"},
		{"an owner that is no person", "owner: owner", "owner: above", "kinds.deal", "target person"},
		{"an owner that is no field", "owner: owner", "owner: seller", "kinds.deal", `owner names "seller"`},
		{"a parent that is no reference", "parent: above", "parent: tags", "kinds.deal", "must name a reference field"},
		{"a parent's owner without parent", "    parent: above\n", "", "kinds.deal", "parent_owner needs parent"},
		{"an unknown bucket", "[org]", "[everybody]", "kinds.person", `unknown bucket "everybody"`},
		{"a bucket of no person", `"field:boss"`, `"field:tags"`, "kinds.deal", "target person"},
		{"no bucket", "[org]", "[]", "kinds.person", "1 to 8 buckets"},
		{"a bucket twice", "[org]", "[org, org]", "kinds.person", "stands twice"},
		{"copies without items", "    buckets: [org]", "    copies: true\n    buckets: [org]", "kinds.person", "json field named items"},
		{"an unknown delete policy", "delete_wins", "latest", "kinds.deal", "edit_wins or delete_wins"},
		{"a name with a capital", "name: deal\n", "name: Deal\n", "kinds[1]", `the name "Deal"`},
		{"a field twice", "{name: boss,", "{name: owner,", "kinds.deal.fields.owner", "stands twice"},
		{"no label", "{zh: 姓名, en: Name}", "{zh: 姓名}", "kinds.person.fields.name", "needs label"},
		{"a condition that is no CEL", "new.amount >= 0", "new.amount >=", "kinds.deal.checks", "Syntax error"},
		{"a condition that gives no answer", "!has(new.amount) || new.amount >= 0", "1 + 1", "kinds.deal.checks", "true or false"},
		{"a condition about another record", "new.amount >= 0", "old.amount >= 0", "kinds.deal.checks", "undeclared reference"},
		{"a condition about no field", "new.amount >= 0", "new.price >= 0", "kinds.deal.checks", `selects "price"`},
		{"a check about no field", "fields: [amount]}", "fields: [price]}", "kinds.deal.checks", `"price"`},
		{"a role over no kind", "      deal: {read", "      lead: {read", "roles.rep.kinds.lead", "no such kind"},
		{"a role over no field", "{amount: hidden}", "{price: hidden}", "roles.rep.kinds.deal.fields.price", "no such field"},
		{"an unknown field right", "{amount: hidden}", "{amount: secret}", "roles.rep.kinds.deal.fields.amount", `unknown right "secret"`},
		{"a masked number", "{amount: hidden}", "{amount: masked}", "roles.rep.kinds.deal.fields.amount", "only text can be masked"},
		{"a right to write what the server writes", "{amount: hidden}", "{state: write}", "roles.rep.kinds.deal.fields.state", "no device writes"},
		{"an unknown scope", "read: team", "read: galaxy", "roles.rep.kinds.deal", `unknown scope "galaxy"`},
		{"an update beyond what is read", "update: own", "update: all", "roles.rep.kinds.deal", "further than read"},
		{"a right of a wrong form", "[directory.manage]", "[everything]", "roles.rep", "must look like"},
		{"a profile of an unknown kind", "kinds: [person, deal]", "kinds: [person, lead]", "profiles.small.kinds", `the kind "lead"`},
		{"a profile with a kind twice", "kinds: [person, deal]", "kinds: [person, person]", "profiles.small.kinds", "stands twice"},
		{"a profile without kinds", "kinds: [person, deal]", "kinds: []", "profiles.small.kinds", "names no kind"},
		{"a profile of no months", "months: 3", "months: 0", "profiles.small", "1 to 1200"},
		{"a profile of too many months", "months: 3", "months: 1201", "profiles.small", "1 to 1200"},
		{"a profile with the name of the full one", "whole: {}", "full: {}", "profiles.full", "every pack has this profile"},
		{"a profile with a capital", "whole: {}", "Whole: {}", "profiles", `the name "Whole"`},
		{"a profile without what was refused", "{name: name, type: text, label: {zh: 姓名, en: Name}}\n", "{name: items, type: json, label: {zh: 姓名, en: Name}}\n    copies: true\n", "profiles.small.kinds", "must hold person"},
		{"a rule over no kind", "name: due, kind: deal", "name: due, kind: lead", "rules.due", `the kind "lead"`},
		{"an anchor that is no time", "anchor: due_at", "anchor: amount", "rules.due", "datetime or date"},
		{"an offset of a wrong form", `"-1d12h"`, `"soon"`, "rules.due", `"-1h"`},
		{"a notice to no person", "notify: boss", "notify: tags", "rules.due", "target person"},
		{"a template that is missing", "template: due", "template: late", "rules.due", `the template "late"`},
		{"a template in one language", "{zh: 到期了, en: It is due}", "{zh: 到期了}", "templates.due", "needs zh and en"},
		{"a limit that is no number", `"1e5"`, `"much"`, "flows.big", "must be a decimal"},
		{"an amount that is no number", "amount_field: amount", "amount_field: tags", "flows.big", "decimal or integer"},
		{"a form without the amount", "[amount, currency]", "[currency]", "flows.big", "must hold the amount"},
		{"a form with an unknown field", "[amount, currency]", "[amount, price]", "flows.big", `"price"`},
		{"an approver of an unknown sort", "approver: manager", "approver: anybody", "flows.big", "unknown approver"},
		{"a role that is missing", "role: rep", "role: boss", "flows.big", `the role "boss"`},
		{"a state that devices write", "merge: server_only, ", "", "flows.big", "server_only choice"},
		{"a state without a step", "[draft, waiting, approved, rejected]", "[draft, waiting, approved]", "flows.big", "must hold rejected"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			in := strings.Replace(small, c.old, c.new, 1)
			if c.name == "a group with the name of a field" {
				in = strings.ReplaceAll(small, c.old, c.new)
			}
			if c.name == "a profile without what was refused" {
				in = strings.Replace(in, "kinds: [person, deal]", "kinds: [deal]", 1)
			}
			if in == small {
				t.Fatalf("the pack does not hold %q", c.old)
			}
			_, err := schema.Parse([]byte(in))
			if err == nil {
				t.Fatal("taken")
			}
			if !strings.Contains(err.Error(), c.place) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %q, want the place %q and %q", err, c.place, c.says)
			}
		})
	}
}

func TestAPackThatIsTooLargeIsNotRead(t *testing.T) {
	t.Parallel()
	if _, err := schema.Parse([]byte(strings.Repeat("# \n", 200_000))); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("got %v", err)
	}
}

func TestAllProblemsOfAPackAreToldAtOnceUpToTwenty(t *testing.T) {
	t.Parallel()
	_, err := schema.Parse([]byte(strings.ReplaceAll(small, "target: person", "target: nobody")))
	if err == nil || strings.Count(err.Error(), `"nobody"`) != 2 || !strings.Contains(err.Error(), "target person") {
		t.Errorf("got %v", err)
	}
	var b strings.Builder
	b.WriteString("version: 1\nkinds:\n")
	for range 30 {
		b.WriteString("  - {name: X}\n")
	}
	_, err = schema.Parse([]byte(b.String()))
	if err == nil || strings.Count(err.Error(), "\n") != 20 || !strings.Contains(err.Error(), "and more") {
		t.Errorf("got %v", err)
	}
}

// Parse gives a schema or an error for any bytes: an administrator's file never takes the server down. Run it with -fuzzminimizetime 1x: conditions
// keep caches, so that their coverage differs from run to run and minimizing would take all the time.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{small, "", "version: 1", "a: &a [*a]", "version: 1\nkinds: [{name: x}]", "- - - -", "? {", "--- !!binary x", "<<: *x"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, pack []byte) {
		if s, err := schema.Parse(pack); (s == nil) == (err == nil) {
			t.Fatalf("%v, %v", s, err)
		}
	})
}
