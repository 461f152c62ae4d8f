package schema

import (
	"cmp"
	"encoding/json"
	"math"
	"math/big"
	"slices"
	"strconv"

	satchel "github.com/satchel-sync/satchel"
)

// created is the path of the stamp of a record's creation: it stands in for every path that has none of its own.
const created = ""

// Edit is a patch as a device or a system source offers it.
type Edit struct {
	Base   uint64     // rev of the record that the device showed; 0 = never seen
	MinRev uint64     // the rev of a changed record is at least this: the first of the running epoch (S18)
	At     int64      // event time, milliseconds since 1970
	Device satchel.ID // zero = a system source
	Number uint64     // the device's number of the mutation
	// Was is the device that Device was before it forked; its changes below WasBelow count as Device's own.
	Was      satchel.ID
	WasBelow uint64
	// Blind says that the edit was made to a record that was merged into this one (S9): it has seen nothing of it, whatever
	// the base says, not even what the same device did to it before.
	Blind bool

	Fields     map[string]any // new values; nil clears
	Sets       []SetEdit
	Increments []Increment
}

// SetEdit adds and removes elements of a set.
type SetEdit struct {
	Field       string
	Add, Remove []string
}

// Increment adds to a counter.
type Increment struct {
	Field string
	By    int64
}

// Value is a value of a path that did not come to stand, or no longer does.
type Value struct {
	Path   string
	Value  any
	Policy Policy
	By     Stamp // who had offered it
	Over   Stamp // of a lost one: whose change it lost against; of others zero
}

// Change is a path that an edit changed.
type Change struct {
	Path   string
	Before any // nil = absent
}

// Merged is what became of an edit. It names every value that was given up, so that none is lost (S8).
type Merged struct {
	Record      *Record  // the record as it stands now; the one given when nothing changed
	Changed     []Change // what took effect
	Overwritten []Value  // values of others (nil = cleared), unseen by the editor, that lost to this edit or delete
	Lost        []Value  // offered values that do not stand; of a deletion one without path and value
	Conflicted  bool     // a person must choose
	Revived     bool     // the record was deleted and lives again
}

// Merge settles an edit against the record as it stands: pure, and the same whatever order the paths come in. A path
// conflicts if it was changed by others since the editor's base, and to another value; its policy settles it. Where
// the merged record breaks a check of its kind, the paths that met a concurrent change fall back to the standing
// values; where it still does, the edit is refused with the problem and nothing of it stands. The fields must have
// passed CheckFields, and Sets and Increments name fields of their types.
func Merge(k *Kind, standing *Record, e Edit) (Merged, *Problem) {
	if standing.Deleted && k.Delete == DeleteWins {
		return Merged{Record: standing}, &Problem{Reason: satchel.ReasonRecordDeleted, Detail: "the record was deleted; records of this kind stay deleted"}
	}
	m := newMerge(k, standing, e, false)
	if p := m.run(); p != nil {
		return Merged{Record: standing}, p
	}
	if p := k.Invalid(m.out.Record.Data); p != nil {
		m = newMerge(k, standing, e, true)
		if q := m.run(); q != nil {
			return Merged{Record: standing}, q
		}
		if !m.fellBack || k.Invalid(m.out.Record.Data) != nil {
			return Merged{Record: standing}, p
		}
		m.out.Conflicted = true
	}
	if len(m.out.Changed) == 0 && !m.out.Revived && !m.restamped {
		m.out.Record = standing
	}
	return m.out, nil
}

// MergeDelete settles a delete. With EditWins, a record that others changed since the base stays and a person must
// choose (Conflicted). With DeleteWins it goes, and Overwritten names what others had written unseen.
func MergeDelete(k *Kind, standing *Record, e Edit) Merged {
	if standing.Deleted {
		return Merged{Record: standing}
	}
	m := newMerge(k, standing, e, false)
	unseen := m.unseen()
	if k.Delete != DeleteWins && len(unseen) > 0 {
		over := m.stamp(unseen[0])
		for _, path := range unseen[1:] {
			if s := m.stamp(path); s.Rev > over.Rev {
				over = s
			}
		}
		return Merged{Record: standing, Conflicted: true, Lost: []Value{{By: m.myStamp(), Over: over}}}
	}
	for _, path := range unseen {
		if f := k.fields[path]; f != nil {
			m.out.Overwritten = append(m.out.Overwritten,
				Value{Path: path, Value: standing.Data[path], Policy: f.Merge, By: m.stamp(path)})
		}
	}
	m.out.Record.Deleted = true
	return m.out
}

// New makes a record from a create; rev is its first. The fields must have passed CheckFields.
func New(k *Kind, id satchel.ID, author satchel.ID, rev uint64, e Edit) (*Record, *Problem) {
	data := make(map[string]any, len(e.Fields))
	for _, f := range k.ordered {
		v, given := e.Fields[f.Name]
		if !given && f.Default != nil {
			v = f.Default
		}
		if v != nil {
			data[f.Name] = v
		}
	}
	if p := k.Invalid(data); p != nil {
		return nil, p
	}
	return &Record{
		ID: id, Kind: k.Name, Rev: rev, Data: data, Author: author, EventMS: e.At,
		Stamps: map[string]Stamp{created: {Rev: rev, At: e.At, Device: e.Device, Number: e.Number}},
	}, nil
}

// merge is one run of Merge.
type merge struct {
	kind      *Kind
	old       *Record
	edit      Edit
	yield     bool // concurrent paths fall back to the standing value, whatever their policy
	fellBack  bool
	restamped bool // a stamp moved although no value did
	out       Merged
}

func newMerge(k *Kind, standing *Record, e Edit, yield bool) *merge {
	next := standing.Clone()
	next.Rev = max(next.Rev+1, e.MinRev)
	return &merge{kind: k, old: standing, edit: e, yield: yield, out: Merged{Record: next}}
}

func (m *merge) run() *Problem {
	if m.old.Deleted {
		m.out.Record.Deleted = false
		m.out.Revived = true
	}
	groups := map[string][]*Field{}
	for _, f := range m.kind.ordered {
		offered, given := m.edit.Fields[f.Name]
		switch {
		case !given:
		case f.Type == Set:
			if p := m.setEdit(f, m.diffSet(f, offered)); p != nil {
				return p
			}
		case f.Group != "":
			groups[f.Group] = append(groups[f.Group], f)
		case !Equal(m.old.Data[f.Name], offered):
			m.settle(f.Merge, []*Field{f}, []*Field{f})
		}
	}
	names := make([]string, 0, len(groups))
	for name := range groups {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		m.group(name, groups[name])
	}
	for _, s := range m.edit.Sets {
		if p := m.setEdit(m.kind.Field(s.Field), s); p != nil {
			return p
		}
	}
	for _, inc := range m.edit.Increments {
		if p := m.increment(m.kind.Field(inc.Field), inc.By); p != nil {
			return p
		}
	}
	return nil
}

// group settles the fields of one group as one: a concurrent change of any of them is a conflict of all.
func (m *merge) group(name string, offered []*Field) {
	var all, differ []*Field
	for _, f := range m.kind.ordered {
		if f.Group == name {
			all = append(all, f)
		}
	}
	for _, f := range offered {
		if !Equal(m.old.Data[f.Name], m.edit.Fields[f.Name]) {
			differ = append(differ, f)
		}
	}
	if len(differ) > 0 {
		m.settle(all[0].Merge, differ, all)
	}
}

// settle lets the offered fields stand or fall together; unit has the fields whose stamps decide.
func (m *merge) settle(policy Policy, offered, unit []*Field) {
	var rival Stamp // the latest change that the editor had not seen
	mine := m.myStamp()
	concurrent, torn := false, false
	for _, f := range unit {
		if m.seen(f.Name) {
			// What saw a value is later than it, whatever the clocks say (S7).
			mine.At = max(mine.At, m.stamp(f.Name).At+1)
			continue
		}
		s := m.stamp(f.Name)
		if !concurrent || later(s, rival) {
			rival = s
		}
		concurrent = true
		// Others changed a member of the group that the edit leaves alone: both together would be a record that
		// nobody wrote, and what the editor saw there is not known here.
		if _, given := m.edit.Fields[f.Name]; !given {
			torn = true
		}
	}
	if !m.winsOver(policy, concurrent, torn, mine, rival, offered) {
		for _, f := range offered {
			over := rival
			if !concurrent {
				over = m.stamp(f.Name)
			}
			m.out.Lost = append(m.out.Lost, Value{Path: f.Name, Value: m.edit.Fields[f.Name], Policy: policy, By: mine, Over: over})
		}
		return
	}
	for _, f := range offered {
		if _, changed := m.old.Stamps[f.Name]; !m.seen(f.Name) && (changed || m.old.Data[f.Name] != nil) {
			m.out.Overwritten = append(m.out.Overwritten,
				Value{Path: f.Name, Value: m.old.Data[f.Name], Policy: policy, By: m.stamp(f.Name)})
		}
		m.put(f.Name, m.edit.Fields[f.Name], mine)
	}
}

// winsOver tells whether the offered values come to stand.
func (m *merge) winsOver(policy Policy, concurrent, torn bool, mine, rival Stamp, offered []*Field) bool {
	first := offered[0].Name
	switch {
	case concurrent && m.yield:
		m.fellBack = true
		return false
	case policy == Immutable:
		for _, f := range offered {
			if m.old.Data[f.Name] != nil {
				return false
			}
		}
		return true
	case !concurrent:
		return true
	case policy == ServerWins, policy == Counter:
		return false // of a counter: whoever sets it has not seen what was added meanwhile
	case policy == Ask:
		m.out.Conflicted = true
		return false
	case policy == Min, policy == Max:
		// No value is beyond every value: it neither wins nor stands against one.
		v, old := m.edit.Fields[first], m.old.Data[first]
		if v == nil || old == nil {
			return old == nil
		}
		return (compare(v, old) < 0) == (policy == Min)
	case !later(mine, rival):
		return false
	case torn:
		m.out.Conflicted = true
		return false
	}
	return true
}

// put lets a value stand.
func (m *merge) put(path string, v any, by Stamp) {
	m.out.Changed = append(m.out.Changed, Change{Path: path, Before: m.out.Record.Data[path]})
	if v == nil {
		delete(m.out.Record.Data, path)
	} else {
		m.out.Record.Data[path] = v
	}
	m.out.Record.Stamps[path] = by
}

// increment adds to a counter; deltas never conflict.
func (m *merge) increment(f *Field, by int64) *Problem {
	before := m.out.Record.Data[f.Name]
	var sum int64
	if n, ok := before.(json.Number); ok {
		sum, _ = n.Int64()
	}
	if (by > 0 && sum > math.MaxInt64-by) || (by < 0 && sum < math.MinInt64-by) {
		return &Problem{Reason: satchel.ReasonBadValue, Paths: []string{f.Name}, Detail: "the counter would overflow 64 bits"}
	}
	if by == 0 {
		return nil
	}
	if m.yield && !m.seen(f.Name) {
		m.fellBack = true
		m.out.Lost = append(m.out.Lost, Value{Path: f.Name, Value: map[string]any{"by": json.Number(strconv.FormatInt(by, 10))},
			Policy: Counter, By: m.myStamp(), Over: m.stamp(f.Name)})
		return nil
	}
	m.put(f.Name, json.Number(strconv.FormatInt(sum+by, 10)), m.stampOver(f.Name))
	return nil
}

// myStamp is the editor's stamp: later than the creation, where he had seen the record.
func (m *merge) myStamp() Stamp {
	s := Stamp{Rev: m.out.Record.Rev, At: m.edit.At, Device: m.edit.Device, Number: m.edit.Number}
	if c, ok := m.old.Stamps[created]; ok && m.seen(created) {
		s.At = max(s.At, c.At+1)
	}
	return s
}

// isMine tells whether a stamp is of this very edit, sent again or in an earlier op of its mutation.
func (m *merge) isMine(s Stamp) bool {
	return !s.Device.IsZero() && s.Device == m.edit.Device && s.Number == m.edit.Number
}

// stampOver is the editor's stamp on a path: later than what was seen there, whatever the clocks say (S7).
func (m *merge) stampOver(path string) Stamp {
	s := m.myStamp()
	if m.seen(path) {
		s.At = max(s.At, m.stamp(path).At+1)
	}
	return s
}

// unseen lists, sorted, the paths that others changed since the editor's base.
func (m *merge) unseen() []string {
	var out []string
	if !m.seen(created) {
		out = append(out, created)
	}
	for path := range m.old.Stamps {
		if path != created && !m.seen(path) {
			out = append(out, path)
		}
	}
	slices.Sort(out)
	return out
}

// stamp gives the stamp of a path as the record stood before the edit.
func (m *merge) stamp(path string) Stamp {
	if s, ok := m.old.Stamps[path]; ok {
		return s
	}
	if s, ok := m.old.Stamps[created]; ok {
		return s
	}
	return Stamp{Rev: 1}
}

// seen tells whether the editor knew the path's standing value: it is no newer than the base, or the editor's own
// earlier word (a device never conflicts with itself).
func (m *merge) seen(path string) bool {
	s := m.stamp(path)
	if m.edit.Blind {
		return m.isMine(s)
	}
	if s.Rev <= m.edit.Base {
		return true
	}
	if s.Device.IsZero() {
		return false
	}
	return (s.Device == m.edit.Device && s.Number <= m.edit.Number) ||
		(s.Device == m.edit.Was && s.Number < m.edit.WasBelow)
}

// later orders changes by event time; ties go to the higher device id, so that every server decides alike.
func later(a, b Stamp) bool {
	if a.At != b.At {
		return a.At > b.At
	}
	return slices.Compare(a.Device[:], b.Device[:]) > 0
}

// compare orders two values of an ordered type.
func compare(a, b any) int {
	if x, ok := a.(json.Number); ok {
		if y, ok := b.(json.Number); ok {
			return compareNumbers(x, y)
		}
	}
	x, _ := a.(string)
	y, _ := b.(string)
	return cmp.Compare(x, y)
}

// compareNumbers orders two checked numbers exactly.
func compareNumbers(x, y json.Number) int {
	a, okA := new(big.Rat).SetString(x.String())
	b, okB := new(big.Rat).SetString(y.String())
	if !okA || !okB {
		return cmp.Compare(x.String(), y.String())
	}
	return a.Cmp(b)
}
