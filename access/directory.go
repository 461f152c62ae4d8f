package access

import (
	"slices"

	satchel "github.com/satchel-sync/satchel"
)

// MaxDepth bounds the team tree.
const MaxDepth = 16

// Person is what placement and rights need to know of somebody.
type Person struct {
	ID       satchel.ID
	Name     string
	Team     satchel.ID // zero = none
	Roles    []string
	Disabled bool
}

// Directory is an organisation's people and team tree at one count of rights changes. It is immutable.
type Directory struct {
	Rights uint64

	people   map[satchel.ID]Person
	parents  map[satchel.ID]satchel.ID
	children map[satchel.ID][]satchel.ID
	teams    []satchel.ID
}

// NewDirectory builds the tree. parents maps each team to the one above (zero = a root); a team whose parent is
// unknown counts as a root.
func NewDirectory(rights uint64, people []Person, parents map[satchel.ID]satchel.ID) *Directory {
	d := &Directory{Rights: rights, people: make(map[satchel.ID]Person, len(people)), parents: parents,
		children: make(map[satchel.ID][]satchel.ID, len(parents))}
	for _, p := range people {
		d.people[p.ID] = p
	}
	for team, parent := range parents {
		d.teams = append(d.teams, team)
		if !parent.IsZero() {
			d.children[parent] = append(d.children[parent], team)
		}
	}
	sortIDs(d.teams)
	for _, c := range d.children {
		sortIDs(c)
	}
	return d
}

// Person gives a person.
func (d *Directory) Person(id satchel.ID) (Person, bool) {
	p, ok := d.people[id]
	return p, ok
}

// TeamOf gives a person's team, or zero.
func (d *Directory) TeamOf(id satchel.ID) satchel.ID { return d.people[id].Team }

// Teams gives all teams, sorted by id. The slice must not be changed.
func (d *Directory) Teams() []satchel.ID { return d.teams }

// Below gives a team and all teams below it, sorted by id.
func (d *Directory) Below(team satchel.ID) []satchel.ID {
	if _, known := d.parents[team]; !known {
		return nil
	}
	seen := map[satchel.ID]bool{team: true} // a tree that is none, with a cycle, is walked once
	out := []satchel.ID{team}
	for i := 0; i < len(out); i++ {
		for _, child := range d.children[out[i]] {
			if !seen[child] {
				seen[child] = true
				out = append(out, child)
			}
		}
	}
	sortIDs(out)
	return out
}

// Above gives a team and the teams above it, nearest first, at most MaxDepth.
func (d *Directory) Above(team satchel.ID) []satchel.ID {
	var out []satchel.ID
	for range MaxDepth {
		if _, known := d.parents[team]; !known || slices.Contains(out, team) {
			break
		}
		out = append(out, team)
		team = d.parents[team]
	}
	return out
}

// Holder finds who holds a role nearest to a person: in the person's own team, then in each team above; never the
// person, nobody disabled. Where several do, the one with the lowest id. It gives false when there is none.
func (d *Directory) Holder(role string, person satchel.ID) (Person, bool) {
	for _, team := range d.Above(d.TeamOf(person)) {
		var best Person
		for _, p := range d.people {
			if p.Team == team && p.ID != person && !p.Disabled && slices.Contains(p.Roles, role) &&
				(best.ID.IsZero() || slices.Compare(p.ID[:], best.ID[:]) < 0) {
				best = p
			}
		}
		if !best.ID.IsZero() {
			return best, true
		}
	}
	return Person{}, false
}

// Anywhere finds who holds a role in whatever team, except these people, nobody disabled. Where several do, the one with
// the lowest id. It gives false when there is none.
func (d *Directory) Anywhere(role string, except ...satchel.ID) (Person, bool) {
	var best Person
	for _, p := range d.people {
		if !p.Disabled && slices.Contains(p.Roles, role) && !slices.Contains(except, p.ID) &&
			(best.ID.IsZero() || slices.Compare(p.ID[:], best.ID[:]) < 0) {
			best = p
		}
	}
	return best, !best.ID.IsZero()
}

func sortIDs(ids []satchel.ID) {
	slices.SortFunc(ids, func(a, b satchel.ID) int { return slices.Compare(a[:], b[:]) })
}
