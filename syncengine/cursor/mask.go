package cursor

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/satchel-sync/satchel/schema"
)

// Mask is a view's field mask as one SQL expression over record r, so that the usual pull neither decodes nor encodes
// rows. Names travel as parameters.
type Mask struct {
	Fields string // the expression
	Args   []any  // its parameters, from the first on
	first  int
}

// Mask compiles the masks of the view; first is the number of the expression's first parameter. Values copied into a kind that keeps copies are shown under the field rights
// of the kind that they came from (S21); what is partly masked there is not shown at all in a copy.
func (v *View) Mask(s *schema.Schema, first int) Mask {
	m := Mask{first: first}
	var whens strings.Builder
	readable := v.Kinds()
	var hidden, restricted []string
	for _, kind := range slices.Sorted(maps.Keys(v.Masks)) {
		mask := v.Masks[kind]
		expr := "r.data"
		if len(mask.Hidden) > 0 {
			expr += " - " + m.param(mask.Hidden) + "::text[]"
		}
		for _, f := range mask.Partial {
			name := m.param(f)
			expr += fmt.Sprintf(" || CASE WHEN r.data ? %[1]s::text THEN jsonb_build_object(%[1]s::text, satchel_mask(r.data -> %[1]s::text)) ELSE '{}' END", name)
		}
		fmt.Fprintf(&whens, " WHEN %s::text THEN (%s)", m.param(kind), expr)
		for _, f := range slices.Concat(mask.Hidden, mask.Partial) {
			hidden = append(hidden, kind+"/"+f)
		}
		restricted = append(restricted, kind)
	}
	for _, kind := range s.Kinds() {
		if !s.Kind(kind).Copies || !readable[kind] {
			continue
		}
		fmt.Fprintf(&whens, ` WHEN %s::text THEN jsonb_set(r.data, '{items}', coalesce((SELECT jsonb_agg(
  CASE WHEN NOT (i ->> 'kind' = ANY(%s::text[])) OR (i ->> 'kind') || '/' || split_part(i ->> 'field', '/', 1) = ANY(%s::text[])
         OR (i ->> 'field' = '' AND i ->> 'kind' = ANY(%s::text[]))
       THEN (i - 'value') || '{"withheld":true}' ELSE i END) FROM jsonb_array_elements(r.data -> 'items') i), '[]'))`,
			m.param(kind), m.param(slices.Sorted(maps.Keys(readable))), m.param(nonNil(hidden)), m.param(nonNil(restricted)))
	}
	m.Fields = "r.data"
	if whens.Len() > 0 {
		m.Fields = "CASE r.kind" + whens.String() + " ELSE r.data END"
	}
	return m
}

func (m *Mask) param(v any) string {
	m.Args = append(m.Args, v)
	return fmt.Sprintf("$%d", m.first+len(m.Args)-1)
}

func nonNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
