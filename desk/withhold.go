package desk

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/satchel-sync/satchel/access"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine"
)

// reader shows values under one person's field rights of now.
type reader struct {
	schema *schema.Schema
	grants *access.Grants
}

// shows tells whether the reader may read a field whole. What is shown to him in part elsewhere is not shown here: a
// copy stands apart from the row that it came from. A field or kind that the schema does not know is shown to nobody
// whom anything is withheld from.
func (r reader) shows(kind, field string) bool {
	k := r.schema.Kind(kind)
	if k == nil {
		return r.readsAll()
	}
	field, _, _ = strings.Cut(field, "/") // an element of a set is its field's
	f := k.Field(field)
	if f == nil || k.Copies && f.Type == schema.JSON {
		return r.readsAll() // who knows what stands there
	}
	right := r.grants.Field(kind, field)
	return right == schema.Read || right == schema.Write
}

// readsKind tells whether the reader may read every field of a kind.
func (r reader) readsKind(kind string) bool {
	if r.schema.Kind(kind) == nil {
		return r.readsAll()
	}
	m := r.grants.Mask(kind)
	return r.grants.Kind(kind).Read != schema.None && len(m.Hidden)+len(m.Partial) == 0
}

// readsAll tells whether the reader may read every field of every kind.
func (r reader) readsAll() bool {
	return !slices.ContainsFunc(r.schema.Kinds(), func(kind string) bool {
		m := r.grants.Mask(kind)
		return r.grants.Kind(kind).Read == schema.None || len(m.Hidden)+len(m.Partial) > 0
	})
}

// Withhold gives ops without the values that a person may not read (S21), and names the fields left out as "kind.field",
// sorted, each once. The ops given are not changed.
func Withhold(s *schema.Schema, g *access.Grants, ops []syncengine.Op) (shown []syncengine.Op, withheld []string) {
	r := reader{s, g}
	left := map[string]bool{}
	for _, op := range ops {
		op.Fields = r.object(op.Kind, op.Fields, left)
		op.Sets = keep(op.Sets, func(e schema.SetEdit) bool { return r.field(op.Kind, e.Field, left) })
		op.Increments = keep(op.Increments, func(i schema.Increment) bool { return r.field(op.Kind, i.Field, left) })
		if len(op.Args) > 0 && !r.readsKind(op.Kind) { // which field an argument goes into is the feature's to know
			op.Args = nil
			left[op.Kind+"."+op.Name] = true
		}
		shown = append(shown, op)
	}
	return shown, slices.Sorted(maps.Keys(left))
}

func (r reader) field(kind, field string, left map[string]bool) bool {
	if r.shows(kind, field) {
		return true
	}
	left[kind+"."+field] = true
	return false
}

// object takes fields out of a JSON object. One that cannot be read holds who knows what.
func (r reader) object(kind string, raw json.RawMessage, left map[string]bool) json.RawMessage {
	if len(raw) == 0 || r.readsAll() {
		return raw
	}
	fields, err := schema.DecodeFields(raw)
	if err != nil {
		left[kind+"."] = true
		return nil
	}
	before := len(fields)
	maps.DeleteFunc(fields, func(name string, _ any) bool { return !r.field(kind, name, left) })
	if len(fields) == before {
		return raw
	}
	out, err := json.Marshal(fields)
	if err != nil { // what was decoded is encoded again
		return nil
	}
	return out
}

func keep[T any](in []T, ok func(T) bool) []T {
	var out []T
	for _, v := range in {
		if ok(v) {
			out = append(out, v)
		}
	}
	return out
}
