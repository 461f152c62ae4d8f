package conformance

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
)

// scope is what names are bound to in a transcript.
type scope map[string]any

const idHead = "019a9f00-0000-7000-8000-000000000000"

// fixedID gives the id that "@a1" stands for.
func fixedID(digits string) (string, bool) {
	if len(digits) == 0 || len(digits) > 12 || strings.Trim(digits, "0123456789abcdef") != "" {
		return "", false
	}
	return idHead[:len(idHead)-len(digits)] + digits, true
}

// fill puts values in the place of names.
func (s scope) fill(v any) (any, error) {
	switch v := v.(type) {
	case string:
		if name, ok := strings.CutPrefix(v, "$"); ok && name != "" {
			value, bound := s[name]
			if !bound {
				return nil, fmt.Errorf("%s is not bound yet", v)
			}
			return value, nil
		}
		if digits, ok := strings.CutPrefix(v, "@"); ok {
			if id, ok := fixedID(digits); ok {
				return id, nil
			}
		}
		return v, nil
	case []any:
		out := make([]any, len(v))
		for i := range v {
			var err error
			if out[i], err = s.fill(v[i]); err != nil {
				return nil, err
			}
		}
		return out, nil
	case map[string]any:
		if _, ok := v["repeat"]; ok {
			return repeated(v)
		}
		out := map[string]any{}
		for k, e := range v {
			var err error
			if out[k], err = s.fill(e); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return v, nil
}

// matcher compares what came with a pattern, and binds names. It is used for one comparison.
type matcher struct {
	names  scope
	before int // length of the list of the same call before, for fewer; -1 = there was none
	diffs  []string
}

// fits tells whether got fits the pattern, and binds names if it does; else it gives the differences.
func (s scope) fits(pattern, got any, before int) []string {
	m := &matcher{names: maps.Clone(s), before: before}
	m.match("", pattern, got, false)
	if len(m.diffs) == 0 {
		maps.Copy(s, m.names)
	}
	return m.diffs
}

func (m *matcher) differ(path string, pattern, got any) {
	m.diffs = append(m.diffs, fmt.Sprintf("%s: came %s, want %s", strings.TrimPrefix(path, "."), text(got), text(pattern)))
}

// match compares. exact: within the fields of a record, where all members count and a number is no text.
func (m *matcher) match(path string, pattern, got any, exact bool) {
	switch p := pattern.(type) {
	case nil:
		if !empty(got) {
			m.differ(path, "nothing", got)
		}
	case string:
		m.matchText(path, p, got, exact)
	case map[string]any:
		m.matchObject(path, p, got, exact)
	case []any:
		list, ok := got.([]any)
		if !ok && len(p) > 0 || len(list) != len(p) {
			m.differ(path, pattern, got)
			return
		}
		for i := range p {
			m.match(fmt.Sprintf("%s[%d]", path, i), p[i], list[i], exact)
		}
	default:
		if !same(pattern, got, exact) {
			m.differ(path, pattern, got)
		}
	}
}

func (m *matcher) matchText(path, p string, got any, exact bool) {
	if p == "*" {
		return
	}
	if name, ok := strings.CutPrefix(p, "$"); ok && name != "" {
		want, bound := m.names[name]
		switch {
		case !bound && empty(got):
			m.differ(path, "something for "+p, got)
		case !bound:
			m.names[name] = got
		case !same(want, got, exact):
			m.diffs = append(m.diffs, fmt.Sprintf("%s: came %s, want %s, which is %s", strings.TrimPrefix(path, "."), text(got), p, text(want)))
		}
		return
	}
	if digits, ok := strings.CutPrefix(p, "@"); ok {
		if id, ok := fixedID(digits); ok {
			p = id
		}
	}
	if !same(p, got, exact) {
		m.differ(path, p, got)
	}
}

func (m *matcher) matchObject(path string, p map[string]any, got any, exact bool) {
	if !exact && len(p) == 1 {
		list, isList := got.([]any)
		for word, arg := range p {
			switch word {
			case "any_order":
				m.matchAnyOrder(path, arg, list)
				return
			case "first":
				want, ok := arg.([]any)
				if !ok || !isList || len(list) == 0 || len(list) > len(want) {
					m.differ(path, p, got)
					return
				}
				m.match(path, want[:len(list)], got, exact)
				return
			case "fewer":
				if !isList || len(list) == 0 || len(list) >= m.before {
					m.differ(path, fmt.Sprintf("a list shorter than %d", m.before), fmt.Sprintf("%d", len(list)))
				}
				return
			case "at_least":
				n, ok := number(got)
				least, ok2 := number(arg)
				if !ok || !ok2 || n.Cmp(least) < 0 {
					m.differ(path, p, got)
				}
				return
			}
		}
	}
	object, ok := got.(map[string]any)
	if !ok {
		m.differ(path, p, got)
		return
	}
	for _, k := range slices.Sorted(maps.Keys(p)) {
		m.match(path+"."+k, p[k], object[k], exact || k == "fields" || k == "args")
	}
	if !exact {
		return
	}
	for _, k := range slices.Sorted(maps.Keys(object)) {
		if _, ok := p[k]; !ok {
			m.differ(path+"."+k, "nothing", object[k])
		}
	}
}

// matchAnyOrder pairs each pattern with the first element that fits it and that no other has.
func (m *matcher) matchAnyOrder(path string, arg any, list []any) {
	want, _ := arg.([]any)
	if len(want) != len(list) {
		m.differ(path, map[string]any{"any_order": want}, list)
		return
	}
	rest := slices.Clone(list)
	for _, p := range want {
		found := false
		for i, e := range rest {
			try := &matcher{names: maps.Clone(m.names), before: -1}
			try.match("", p, e, false)
			if len(try.diffs) == 0 {
				m.names, rest, found = try.names, slices.Delete(rest, i, i+1), true
				break
			}
		}
		if !found {
			m.differ(path, p, rest)
		}
	}
}

// empty tells whether a value is absent, or as good as.
func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == "" || v == "0"
	case bool:
		return !v
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	n, ok := number(v)
	return ok && n.Sign() == 0
}

func same(want, got any, exact bool) bool {
	if empty(want) && empty(got) && !exact {
		return true
	}
	a, aIsText := want.(string)
	b, bIsText := got.(string)
	if aIsText && bIsText {
		return a == b
	}
	if exact && aIsText != bIsText {
		return false
	}
	if x, ok := number(want); ok {
		y, ok := number(got)
		return ok && x.Cmp(y) == 0
	}
	return text(want) == text(got)
}

func number(v any) (*big.Rat, bool) {
	var s string
	switch v := v.(type) {
	case json.Number:
		s = v.String()
	case string:
		s = v
	case int:
		return big.NewRat(int64(v), 1), true
	default:
		return nil, false
	}
	if s == "" || strings.Trim(s, "0123456789.-+eE") != "" {
		return nil, false
	}
	return new(big.Rat).SetString(s)
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}
