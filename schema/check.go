package schema

import (
	"fmt"
	"slices"
	"strings"

	satchel "github.com/satchel-sync/satchel"
)

// Problem is why fields or a record cannot be taken: the reason of a verdict. A nil Problem means that all is well.
type Problem struct {
	Reason satchel.Reason
	Paths  []string // the fields, sorted; never more than 20
	Detail string   // an English sentence for developers, without values
}

// maxPaths bounds the fields that a Problem names.
const maxPaths = 20

// CheckFields checks the values of a create or patch against the fields of the kind and replaces each by its canonical
// form (see [Canonical]), in the map that it is given. A null clears a field and stays null. It tells of an unknown
// field ([satchel.ReasonUnknownField]), else of wrong values ([satchel.ReasonBadValue]), else nil. It says nothing of
// who may write what, nor of what is missing; for that see access and [Kind.Invalid].
func (k *Kind) CheckFields(fields map[string]any) *Problem {
	var unknown, wrong, why []string
	for name, given := range fields {
		f := k.fields[name]
		if f == nil {
			unknown = append(unknown, name)
			continue
		}
		if given == nil {
			continue
		}
		v, err := Canonical(f, given)
		if err != nil {
			wrong = append(wrong, name)
			why = append(why, name+": "+err.Error())
			continue
		}
		if !same(v, given) {
			fields[name] = v
		}
	}
	slices.Sort(unknown)
	slices.Sort(wrong)
	slices.Sort(why)
	if len(unknown) > 0 {
		return &Problem{Reason: satchel.ReasonUnknownField, Paths: few(unknown),
			Detail: fmt.Sprintf("%s has no such field; ask for the schema again", k.Name)}
	}
	if len(wrong) > 0 {
		return &Problem{Reason: satchel.ReasonBadValue, Paths: few(wrong), Detail: strings.Join(few(why), "; ")}
	}
	return nil
}

// same tells, of the values that Canonical gives back as they are, that this is one: those need not be stored again.
func same(v, given any) bool {
	switch v := v.(type) {
	case string:
		s, ok := given.(string)
		return ok && s == v
	case bool:
		return true
	}
	return false
}

// Invalid looks at the record as a whole: required fields have a value, and every check of the kind holds. It tells of
// the fields that are missing or that the broken checks are about ([satchel.ReasonInvalid]), or nil. A condition that
// cannot be evaluated counts as broken. Values must be canonical.
func (k *Kind) Invalid(data map[string]any) *Problem {
	var missing []string
	for _, f := range k.ordered {
		if f.Required && empty(data[f.Name]) {
			missing = append(missing, f.Name)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return &Problem{Reason: satchel.ReasonInvalid, Paths: few(missing), Detail: "required and without a value: " + strings.Join(few(missing), ", ")}
	}
	for _, c := range k.Checks {
		ok, err := c.Condition.True(map[string]map[string]any{"new": data})
		if err == nil && ok {
			continue
		}
		paths := slices.Clone(c.Fields)
		slices.Sort(paths)
		return &Problem{Reason: satchel.ReasonInvalid, Paths: few(paths), Detail: "the record must satisfy " + c.Condition.Source()}
	}
	return nil
}

// Defaults gives the values that a create gets for the fields that it does not name. The map is new.
func (k *Kind) Defaults() map[string]any {
	out := map[string]any{}
	for _, f := range k.ordered {
		if f.Default != nil {
			out[f.Name] = f.Default
		}
	}
	return out
}

// empty tells whether a required field would still be missing: null, white space, or a set without elements.
func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return strings.TrimSpace(v) == ""
	case []any:
		return len(v) == 0
	}
	return false
}

// few cuts a list to what a Problem may hold; names that do not come from the schema are cut in length too.
func few(names []string) []string {
	out := slices.Clone(names[:min(len(names), maxPaths)])
	for i, name := range out {
		if r := []rune(name); len(r) > 200 {
			out[i] = string(r[:200])
		}
	}
	return out
}
