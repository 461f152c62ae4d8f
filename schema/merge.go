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
	At     int64      // event time, milliseconds since 1970
	Device satchel.ID // zero = a system source
	Number uint64     // the device's number of the mutation
	// Was is the device that Device was before it forked; its changes below WasBelow count as Device's own.
	Was      satchel.ID
	WasBelow uint64

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
	Overwritten []Value  // values of others, unseen by the editor, that lost to this edit
	Lost        []Value  // offered values that do not stand
	Conflicted  bool     // a person must choose
	Revived     bool     // the record was deleted and lives again
}

// Merge settles an edit against the record as it stands: pure, and the same whatever order the paths come in. A path
// conflicts if it was changed by others since the editor's base, and to another value; its policy settles it. Where
// the merged record breaks a check of its kind, the paths that met a concurrent change fall back to the standing
// values; where it still does, the edit is refused with the problem and nothing of it stands.
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
	if len(m.out.Changed) == 0 && !m.out.Revived {
		m.out.Record = standing
	}
	return m.out, nil
}

// MergeDelete settles a delete. With EditWins, a record that others changed since the base stays and a person must
// choose (Conflicted).
func MergeDelete(k *Kind, standing *Record, e Edit) Merged {
	if standing.Deleted {
		return Merged{Record: standing}
	}
	m := newMerge(k, standing, e, false)
	if k.Delete != DeleteWins {
		unseen := !m.seen(created)
		for path := range standing.Stamps {
			unseen = unseen || !m.seen(path)
		}
		if unseen {
			return Merged{Record: standing, Conflicted: true}
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
	kind     *Kind
	old      *Record
	edit     Edit
	yield    bool // concurrent paths fall back to the standing value, whatever their policy
	fellBack bool
	out      Merged
}

func newMerge(k *Kind, standing *Record, e Edit, yield bool) *merge {
	next := standing.Clone()
	next.Rev++
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
			m.setEdit(f, diffSet(m.old.Data[f.Name], offered))
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
		m.setEdit(m.kind.Field(s.Field), s)
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
	concurrent := false
	for _, f := range unit {
		if !m.seen(f.Name) {
			s := m.stamp(f.Name)
			if !concurrent || later(s, rival) {
				rival = s
			}
			concurrent = true
		}
	}
	mine := m.myStamp()
	wins := true
	switch {
	case policy == Immutable:
		wins = m.old.Data[offered[0].Name] == nil
	case !concurrent:
	case m.yield:
		wins, m.fellBack = false, true
	case policy == ServerWins:
		wins = false
	case policy == Ask:
		wins, m.out.Conflicted = false, true
	case policy == Min:
		wins = compare(m.edit.Fields[offered[0].Name], m.old.Data[offered[0].Name]) < 0
	case policy == Max:
		wins = compare(m.edit.Fields[offered[0].Name], m.old.Data[offered[0].Name]) > 0
	default:
		wins = later(mine, rival)
	}
	for _, f := range offered {
		if !wins {
			m.out.Lost = append(m.out.Lost, Value{Path: f.Name, Value: m.edit.Fields[f.Name], Policy: policy, By: mine})
			continue
		}
		if !m.seen(f.Name) && m.old.Data[f.Name] != nil {
			m.out.Overwritten = append(m.out.Overwritten,
				Value{Path: f.Name, Value: m.old.Data[f.Name], Policy: policy, By: m.stamp(f.Name)})
		}
		m.put(f.Name, m.edit.Fields[f.Name])
	}
}

// put lets a value stand. An edit that saw the value that it replaces is later than it, whatever the clocks say (S7).
func (m *merge) put(path string, v any) {
	m.out.Changed = append(m.out.Changed, Change{Path: path, Before: m.out.Record.Data[path]})
	if v == nil {
		delete(m.out.Record.Data, path)
	} else {
		m.out.Record.Data[path] = v
	}
	s := m.myStamp()
	if m.seen(path) {
		s.At = max(s.At, m.stamp(path).At+1)
	}
	m.out.Record.Stamps[path] = s
}

// setEdit adds and removes elements; an add wins over a remove that had not seen it.
func (m *merge) setEdit(f *Field, e SetEdit) {
	before := m.out.Record.Data[f.Name]
	elements := elementsOf(before)
	changed := false
	for _, el := range e.Remove {
		at, present := slices.BinarySearch(elements, el)
		if !present || slices.Contains(e.Add, el) {
			continue
		}
		path := f.Name + "/" + el
		if !m.seen(path) {
			m.out.Lost = append(m.out.Lost, Value{Path: path, Policy: SetMerge, By: m.myStamp()})
			continue
		}
		elements = slices.Delete(elements, at, at+1)
		delete(m.out.Record.Stamps, path)
		changed = true
	}
	for _, el := range e.Add {
		at, present := slices.BinarySearch(elements, el)
		if !present {
			elements = slices.Insert(elements, at, el)
			changed = true
		}
		// Also when it is there already: a remove that has not seen this add must lose to it.
		m.out.Record.Stamps[f.Name+"/"+el] = m.myStamp()
		changed = true
	}
	if !changed {
		return
	}
	m.out.Changed = append(m.out.Changed, Change{Path: f.Name, Before: before})
	if len(elements) == 0 {
		delete(m.out.Record.Data, f.Name)
		return
	}
	list := make([]any, len(elements))
	for i, el := range elements {
		list[i] = el
	}
	m.out.Record.Data[f.Name] = list
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
	m.out.Changed = append(m.out.Changed, Change{Path: f.Name, Before: before})
	m.out.Record.Data[f.Name] = json.Number(strconv.FormatInt(sum+by, 10))
	m.out.Record.Stamps[f.Name] = m.myStamp()
	return nil
}

func (m *merge) myStamp() Stamp {
	return Stamp{Rev: m.out.Record.Rev, At: m.edit.At, Device: m.edit.Device, Number: m.edit.Number}
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

// diffSet turns a whole new set into what was added to and removed from the standing one.
func diffSet(standing, offered any) SetEdit {
	old, next := elementsOf(standing), elementsOf(offered)
	var e SetEdit
	for _, el := range next {
		if _, ok := slices.BinarySearch(old, el); !ok {
			e.Add = append(e.Add, el)
		}
	}
	for _, el := range old {
		if !slices.Contains(next, el) {
			e.Remove = append(e.Remove, el)
		}
	}
	return e
}

// elementsOf gives a set's elements, sorted.
func elementsOf(v any) []string {
	list, _ := v.([]any)
	out := make([]string, 0, len(list))
	for _, el := range list {
		if s, ok := el.(string); ok {
			out = append(out, s)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// compare orders two values of an ordered type; an absent value is below every other.
func compare(a, b any) int {
	if a == nil || b == nil {
		switch {
		case a == nil && b == nil:
			return 0
		case a == nil:
			return -1
		}
		return 1
	}
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
