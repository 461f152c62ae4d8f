package access

import (
	"maps"
	"slices"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/schema"
)

// Grants is what a set of roles may do, all taken together: the widest scope and the best field right count. It is
// immutable and safe for concurrent use; the engine keeps one per set of roles and schema.
type Grants struct {
	schema *schema.Schema
	kinds  map[string]schema.KindGrant
	rights []string
}

// NewGrants merges the roles. Roles that the schema does not know grant nothing.
func NewGrants(s *schema.Schema, roles []string) *Grants {
	g := &Grants{schema: s, kinds: map[string]schema.KindGrant{}}
	for _, name := range roles {
		role := s.Role(name)
		if role == nil {
			continue
		}
		g.rights = append(g.rights, role.Rights...)
		for kind, grant := range role.Kinds {
			have, known := g.kinds[kind]
			g.kinds[kind] = union(have, grant, known)
		}
	}
	return g
}

// union takes the wider of each right. A field that one role restricts and the other does not is unrestricted, but
// only by a role that reads the kind at all.
func union(a, b schema.KindGrant, known bool) schema.KindGrant {
	if !known || a.Read == schema.None {
		b.Fields = maps.Clone(b.Fields)
		if known {
			b.Create = b.Create || a.Create
		}
		return b
	}
	if b.Read == schema.None {
		a.Create = a.Create || b.Create
		return a
	}
	out := schema.KindGrant{
		Read: a.Read.Wider(b.Read), Create: a.Create || b.Create,
		Update: a.Update.Wider(b.Update), Delete: a.Delete.Wider(b.Delete),
		Fields: map[string]schema.FieldRight{},
	}
	for f, r := range a.Fields {
		if s, ok := b.Fields[f]; ok {
			out.Fields[f] = better(r, s)
		}
	}
	return out
}

func better(a, b schema.FieldRight) schema.FieldRight {
	order := []schema.FieldRight{schema.Hidden, schema.Masked, schema.Read, schema.Write}
	return order[max(slices.Index(order, a), slices.Index(order, b), 0)]
}

// Has tells whether a role grants a right such as "directory.manage".
func (g *Grants) Has(right string) bool { return slices.Contains(g.rights, right) }

// Kind gives what may be done with a kind; the zero value is nothing.
func (g *Grants) Kind(name string) schema.KindGrant { return g.kinds[name] }

// Field gives the right to a field of a kind: Hidden where the kind cannot be read.
func (g *Grants) Field(kind, field string) schema.FieldRight {
	grant := g.kinds[kind]
	if grant.Read == schema.None {
		return schema.Hidden
	}
	if r, ok := grant.Fields[field]; ok {
		return r
	}
	return schema.Write
}

// MayWrite tells whether a device of this person may write the field: it is not the server's, and no role's
// restriction stands in the way.
func (g *Grants) MayWrite(k *schema.Kind, f *schema.Field) bool {
	return f.Merge != schema.ServerOnly && g.Field(k.Name, f.Name) == schema.Write
}

// Mask is what is taken out of a kind's rows for a set of roles: fields that are not sent at all and fields that are
// sent in part, both sorted.
type Mask struct {
	Hidden  []string
	Partial []string
}

// Mask gives the kind's mask.
func (g *Grants) Mask(kind string) Mask {
	var m Mask
	for f, r := range g.kinds[kind].Fields {
		switch r {
		case schema.Hidden:
			m.Hidden = append(m.Hidden, f)
		case schema.Masked:
			m.Partial = append(m.Partial, f)
		}
	}
	slices.Sort(m.Hidden)
	slices.Sort(m.Partial)
	return m
}

// Within tells whether a scope reaches a record of this owner (for a fact: or author) from a person.
func (d *Directory) Within(scope schema.Scope, person, owner, author satchel.ID) bool {
	switch scope {
	case schema.All:
		return true
	case schema.Team:
		if owner == person || author == person {
			return true
		}
		return slices.Contains(d.Below(d.TeamOf(person)), d.TeamOf(owner))
	case schema.Own:
		return owner == person || author == person
	}
	return false
}
