package schema

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	"github.com/satchel-sync/satchel/internal/expr"
)

var (
	allTypes    = []Type{Text, LongText, Integer, Decimal, Boolean, Date, DateTime, Choice, Set, Reference, Geo, JSON}
	allPolicies = []Policy{LastWrite, ServerWins, Min, Max, Counter, SetMerge, Immutable, Ask, ServerOnly}
	allRights   = []FieldRight{Hidden, Masked, Read, Write}
	ordered     = []Type{Integer, Decimal, Date, DateTime}
)

// kind reads a kind and its fields, as far as that needs no other kind.
func (b *builder) kind(p *packKind) *Kind {
	place := "kinds." + p.Name
	b.label(place, p.Label)
	k := &Kind{Name: p.Name, LabelZH: p.Label.ZH, LabelEN: p.Label.EN, Fact: p.Fact, Delete: p.Delete, Owner: p.Owner,
		Parent: p.Parent, Buckets: p.Buckets, Copies: p.Copies, fields: map[string]*Field{}}
	if k.Delete == "" {
		k.Delete = EditWins
	}
	if k.Delete != EditWins && k.Delete != DeleteWins {
		b.bad(place, "delete is %q, it must be edit_wins or delete_wins", k.Delete)
	}
	if len(p.Fields) == 0 || len(p.Fields) > maxFields {
		b.bad(place, "a kind has 1 to %d fields, this one has %d", maxFields, len(p.Fields))
	}
	for i := range p.Fields {
		if b.named(place+".fields", p.Fields[i].Name, i, k.fields[p.Fields[i].Name] != nil) {
			f := b.field(place+".fields."+p.Fields[i].Name, &p.Fields[i])
			k.fields[f.Name] = f
			k.ordered = append(k.ordered, f)
		}
	}
	return k
}

// field reads a field, as far as that needs no other field.
func (b *builder) field(place string, p *packField) *Field {
	b.label(place, p.Label)
	f := &Field{Name: p.Name, Type: p.Type, LabelZH: p.Label.ZH, LabelEN: p.Label.EN, Merge: p.Merge, Group: p.Group,
		Required: p.Required, Choices: p.Choices, Target: p.Target, MaxLength: p.MaxLength}
	if !slices.Contains(allTypes, f.Type) {
		b.bad(place, "unknown type %q; the types are %s", f.Type, list(allTypes))
		return f
	}
	if f.Merge == "" {
		f.Merge = LastWrite
		if f.Type == Set {
			f.Merge = SetMerge
		}
	}
	switch {
	case !slices.Contains(allPolicies, f.Merge):
		b.bad(place, "unknown merge policy %q; the policies are %s", f.Merge, list(allPolicies))
	case f.Merge == Counter && f.Type != Integer:
		b.bad(place, "only an integer can be a counter, not a %s", f.Type)
	case f.Merge == SetMerge && f.Type != Set:
		b.bad(place, "only a set is merged by element, not a %s", f.Type)
	case (f.Merge == Min || f.Merge == Max) && !slices.Contains(ordered, f.Type):
		b.bad(place, "%s needs values with an order: %s, not %s", f.Merge, list(ordered), f.Type)
	case f.Type == Set && f.Merge != SetMerge && f.Merge != ServerOnly:
		b.bad(place, "a set is merged by element; its policy is set or server_only, not %s", f.Merge)
	case f.Group != "" && f.Type == Set:
		b.bad(place, "a set is merged by element; take it out of group %q", f.Group)
	case f.Group != "" && slices.Contains([]Policy{Counter, Min, Max}, f.Merge):
		b.bad(place, "%s settles a field by itself; take it out of group %q or choose another policy", f.Merge, f.Group)
	}
	if f.Group != "" && !nameForm.MatchString(f.Group) {
		b.bad(place, "the group %q must be 1 to 63 of a-z, 0-9 and _, and begin with a letter", f.Group)
	}
	if (f.Type == Choice) != (len(f.Choices) > 0) {
		b.bad(place, "choices belong to the type choice, and it needs at least one")
	}
	for i, c := range f.Choices {
		if c == "" || len([]rune(c)) > 100 || slices.Contains(f.Choices[:i], c) {
			b.bad(place, "choice %d is empty, longer than 100 characters or stands twice", i+1)
		}
	}
	if (f.Type == Reference) != (f.Target != "") {
		b.bad(place, "target belongs to the type reference, and it needs one")
	}
	if limit := textLimit(f.Type); f.MaxLength < 0 || f.MaxLength > limit {
		b.bad(place, "max_length is for text (to %d) and long_text (to %d)", maxText, maxLongText)
	}
	if p.Default != nil {
		v, err := Canonical(f, jsonValue(p.Default))
		if err != nil {
			b.bad(place, "the default does not fit: %v", err)
		}
		f.Default = v
	}
	return f
}

// links checks what a kind says about other kinds.
func (b *builder) links(k *Kind) {
	place := "kinds." + k.Name
	for _, f := range k.ordered {
		if f.Target != "" && b.schema.kinds[f.Target] == nil {
			b.bad(place+".fields."+f.Name, "the target %q is no kind of this pack", f.Target)
		}
	}
	if k.Owner != "" && !k.refersTo(k.Owner, "person") {
		b.bad(place, "owner names %q, it must name a reference field with target person", k.Owner)
	}
	if f := k.fields[k.Parent]; k.Parent != "" && (f == nil || f.Type != Reference) {
		b.bad(place, "parent names %q, it must name a reference field", k.Parent)
	}
	if f := k.fields["items"]; k.Copies && (f == nil || f.Type != JSON) {
		b.bad(place, "a kind with copies needs a json field named items, which holds them")
	}
	if len(k.Buckets) == 0 || len(k.Buckets) > maxBuckets {
		b.bad(place, "needs 1 to %d buckets; without one nobody sees its records", maxBuckets)
	}
	for i, bucket := range k.Buckets {
		field, named := strings.CutPrefix(bucket, "field:")
		switch {
		case slices.Contains(k.Buckets[:i], bucket):
			b.bad(place, "the bucket %q stands twice", bucket)
		case named && !k.refersTo(field, "person"):
			b.bad(place, "the bucket %q must name a reference field with target person", bucket)
		case bucket == "parent_owner" && k.Parent == "":
			b.bad(place, "the bucket parent_owner needs parent")
		case bucket == "team" && !slices.Contains(k.Buckets, "owner"):
			b.bad(place, "the bucket team needs owner: by it the records of who changes teams are found")
		case !named && !slices.Contains([]string{"owner", "team", "org", "parent_owner"}, bucket):
			b.bad(place, "unknown bucket %q; the buckets are owner, team, org, parent_owner and field:NAME", bucket)
		}
	}
}

// refersTo tells whether the field is a reference to that kind.
func (k *Kind) refersTo(field, target string) bool {
	f := k.fields[field]
	return f != nil && f.Type == Reference && f.Target == target
}

// groups checks that the members of each group can be settled as one.
func (b *builder) groups(k *Kind) {
	first := map[string]*Field{}
	members := map[string]int{}
	for _, f := range k.ordered {
		if f.Group == "" {
			continue
		}
		place := "kinds." + k.Name + ".fields." + f.Name
		members[f.Group]++
		if k.fields[f.Group] != nil {
			b.bad(place, "the group %q has the name of a field; name it otherwise", f.Group)
		}
		if g := first[f.Group]; g == nil {
			first[f.Group] = f
		} else if g.Merge != f.Merge {
			b.bad(place, "its merge policy is %s, that of %s is %s; a group is settled as one, so give all the same", f.Merge, g.Name, g.Merge)
		}
	}
	for group, n := range members {
		if n < 2 {
			b.bad("kinds."+k.Name+".fields."+first[group].Name, "the group %q has no other member", group)
		}
	}
}

func (b *builder) checks(k *Kind, checks []packCheck) {
	for _, p := range checks {
		place := "kinds." + k.Name + ".checks"
		c := b.condition(place, k, p.Condition)
		if len(p.Fields) == 0 {
			b.bad(place, "the check %q must name the fields that it is about", p.Condition)
		}
		for _, f := range p.Fields {
			if k.fields[f] == nil {
				b.bad(place, "the check %q names %q, which is no field of %s", p.Condition, f, k.Name)
			}
		}
		k.Checks = append(k.Checks, Check{Condition: c, Fields: p.Fields})
	}
}

var (
	quoted   = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'`)
	selected = regexp.MustCompile(`\bnew\s*\.\s*(\w+)`)
)

// condition compiles a condition over `new`, a record of that kind, and looks whether the fields that it selects are
// there: CEL itself would find out only at run time, as a condition that is never true.
func (b *builder) condition(place string, k *Kind, source string) *expr.Condition {
	c, err := expr.Compile(source, "new")
	if err != nil {
		b.bad(place, "%v", err)
		return nil
	}
	for _, m := range selected.FindAllStringSubmatch(quoted.ReplaceAllString(source, `""`), -1) {
		if k.fields[m[1]] == nil {
			b.bad(place, "the condition %q selects %q, which is no field of %s", source, m[1], k.Name)
		}
	}
	return c
}

var rightForm = regexp.MustCompile(`^[a-z_]+\.[a-z_]+$`)

func (b *builder) role(p *packRole) {
	place := "roles." + p.Name
	r := &Role{Name: p.Name, Rights: p.Rights, Kinds: map[string]KindGrant{}}
	b.schema.roles[r.Name] = r
	for _, right := range p.Rights {
		if !rightForm.MatchString(right) {
			b.bad(place, "the right %q must look like directory.manage", right)
		}
	}
	for name, g := range p.Kinds {
		at := place + ".kinds." + name
		k := b.schema.kinds[name]
		if k == nil {
			b.bad(at, "this pack has no such kind")
			continue
		}
		for _, s := range []Scope{g.Read, g.Update, g.Delete} {
			if !slices.Contains(scopes, s) {
				b.bad(at, "unknown scope %q; the scopes are own, team and all; leave the line out for none", s)
			}
		}
		if !g.Read.Reaches(g.Update) || !g.Read.Reaches(g.Delete) {
			b.bad(at, "update and delete cannot reach further than read")
		}
		for field, right := range g.Fields {
			switch f := k.fields[field]; {
			case f == nil:
				b.bad(at+".fields."+field, "%s has no such field", name)
			case !slices.Contains(allRights, right):
				b.bad(at+".fields."+field, "unknown right %q; the rights are %s", right, list(allRights))
			case right == Write && f.Merge == ServerOnly:
				b.bad(at+".fields."+field, "no device writes a server_only field; grant read")
			case right == Masked && f.Type != Text && f.Type != LongText:
				b.bad(at+".fields."+field, "only text can be masked, not %s; hide it instead", f.Type)
			}
		}
		r.Kinds[name] = KindGrant(g)
	}
}

func (b *builder) profile(name string, p packProfile) {
	place := "profiles." + name
	switch {
	case !nameForm.MatchString(name):
		b.bad("profiles", "the name %q must be 1 to 63 of a-z, 0-9 and _, and begin with a letter", name)
		return
	case name == FullProfile:
		b.bad(place, "every pack has this profile, with all kinds and months; give yours another name")
		return
	}
	f := &Profile{Name: name}
	b.schema.profiles[name] = f
	if p.Months != nil {
		if f.Months = *p.Months; f.Months < 1 || f.Months > maxMonths {
			b.bad(place, "months must be 1 to %d, this one included; leave the line out for all", maxMonths)
		}
	}
	if p.Kinds == nil {
		return
	}
	f.Kinds = []string{}
	for _, kind := range *p.Kinds {
		switch {
		case b.schema.kinds[kind] == nil:
			b.bad(place+".kinds", "the kind %q is no kind of this pack", kind)
		case slices.Contains(f.Kinds, kind):
			b.bad(place+".kinds", "the kind %q stands twice; take one out", kind)
		}
		f.Kinds = append(f.Kinds, kind)
	}
	slices.Sort(f.Kinds)
	if len(f.Kinds) == 0 {
		b.bad(place+".kinds", "names no kind; leave the line out for all")
	}
	for _, kind := range b.schema.names {
		if b.schema.kinds[kind].Copies && !slices.Contains(f.Kinds, kind) {
			b.bad(place+".kinds", "must hold %s: there a person finds what was refused and what lost", kind)
		}
	}
}

func (b *builder) rule(p *packRule) {
	place := "rules." + p.Name
	r := &Rule{Name: p.Name, Kind: p.Kind, Anchor: p.Anchor, Notify: p.Notify, Template: p.Template}
	b.schema.Rules = append(b.schema.Rules, r)
	offset, err := parseOffset(p.Offset)
	if err != nil {
		b.bad(place, "offset %v", err)
	}
	r.OffsetMS = offset.Milliseconds()
	if _, ok := b.schema.Templates[p.Template]; !ok {
		b.bad(place, "the template %q is not among templates", p.Template)
	}
	k := b.schema.kinds[p.Kind]
	if k == nil {
		b.bad(place, "the kind %q is no kind of this pack", p.Kind)
		return
	}
	if f := k.fields[p.Anchor]; f == nil || (f.Type != DateTime && f.Type != Date) {
		b.bad(place, "anchor names %q, it must name a datetime or date field of %s", p.Anchor, k.Name)
	}
	if p.Notify != "" && !k.refersTo(p.Notify, "person") {
		b.bad(place, "notify names %q, it must name a reference field with target person; leave it out for the owner", p.Notify)
	}
	if p.When != "" {
		r.When = b.condition(place, k, p.When)
	}
}

func (b *builder) flow(p *packFlow) {
	place := "flows." + p.Name
	f := Flow(*p)
	b.schema.Flows = append(b.schema.Flows, &f)
	limit, err := Canonical(&Field{Type: Decimal}, json.Number(p.Limit))
	if err != nil {
		b.bad(place, "limit %q must be a decimal such as \"100000\"", p.Limit)
	} else {
		f.Limit = string(limit.(json.Number))
	}
	if !nameForm.MatchString(p.Node) {
		b.bad(place, "node names the step that decides, such as manager")
	}
	if p.Approver != "manager" {
		b.bad(place, "unknown approver %q; it must be manager: the nearest person with the role in the team or above", p.Approver)
	}
	if b.schema.roles[p.Role] == nil {
		b.bad(place, "the role %q is no role of this pack", p.Role)
	}
	k := b.schema.kinds[p.Kind]
	if k == nil {
		b.bad(place, "the kind %q is no kind of this pack", p.Kind)
		return
	}
	if a := k.fields[p.AmountField]; a == nil || (a.Type != Decimal && a.Type != Integer) {
		b.bad(place, "amount_field names %q, it must name a decimal or integer field of %s", p.AmountField, k.Name)
	}
	if len(p.FormFields) == 0 {
		b.bad(place, "form_fields must name what the approver sees")
	}
	for i, name := range p.FormFields {
		if k.fields[name] == nil || slices.Contains(p.FormFields[:i], name) {
			b.bad(place, "form_fields names %q, which is no field of %s or stands twice", name, k.Name)
		}
	}
	if !slices.Contains(p.FormFields, p.AmountField) {
		b.bad(place, "form_fields must hold the amount: nobody decides about what he does not see")
	}
	s := k.fields[p.StateField]
	if s == nil || s.Type != Choice || s.Merge != ServerOnly {
		b.bad(place, "state_field names %q, it must name a server_only choice of %s", p.StateField, k.Name)
		return
	}
	for _, state := range []string{"draft", "waiting", "approved", "rejected"} {
		if !slices.Contains(s.Choices, state) {
			b.bad(place, "the choices of %s must hold %s", s.Name, state)
		}
	}
}

// list spells names for a message.
func list[T ~string](names []T) string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = string(n)
	}
	return strings.Join(out, ", ")
}
