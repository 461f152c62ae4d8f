package schema

import (
	"slices"

	satchel "github.com/satchel-sync/satchel"
)

// setEdit adds and removes elements; an add wins over a remove that had not seen it. Beside the elements, the set as a
// whole has a stamp: an element that is gone has none, and its removal must not pass unseen.
func (m *merge) setEdit(f *Field, e SetEdit) *Problem {
	before := m.out.Record.Data[f.Name]
	elements := elementsOf(before)
	if m.yield && !m.seen(f.Name) {
		m.fellBack = true
		for _, el := range slices.Concat(e.Add, e.Remove) {
			m.out.Lost = append(m.out.Lost, Value{Path: f.Name + "/" + el, Value: added(e, el), Policy: SetMerge, By: m.myStamp(), Over: m.stamp(f.Name)})
		}
		return nil
	}
	changed := false
	for _, el := range e.Remove {
		at, present := slices.BinarySearch(elements, el)
		if !present || slices.Contains(e.Add, el) {
			continue
		}
		path := f.Name + "/" + el
		if s, ok := m.out.Record.Stamps[path]; !m.seen(path) && (!ok || !m.isMine(s)) {
			m.out.Lost = append(m.out.Lost, Value{Path: path, Policy: SetMerge, By: m.myStamp(), Over: m.stamp(path)})
			continue
		}
		elements = slices.Delete(elements, at, at+1)
		delete(m.out.Record.Stamps, path)
		changed = true
	}
	for _, el := range e.Add {
		path := f.Name + "/" + el
		at, present := slices.BinarySearch(elements, el)
		if present {
			// Nothing changes, but a remove that has not seen this add must lose to it: the stamp moves, and with it
			// the rev, unless the editor is a system source, which saw the record as it stands.
			if s := m.out.Record.Stamps[path]; !m.isMine(s) && !(m.edit.Device.IsZero() && m.seen(path)) {
				m.out.Record.Stamps[path], m.restamped = m.stampOver(path), true
			}
			continue
		}
		elements = slices.Insert(elements, at, el)
		m.out.Record.Stamps[path] = m.stampOver(path)
		changed = true
	}
	if !changed {
		return nil
	}
	if len(elements) > maxSet {
		return &Problem{Reason: satchel.ReasonBadValue, Paths: []string{f.Name}, Detail: "the set would have more than 500 elements"}
	}
	list := make([]any, len(elements))
	for i, el := range elements {
		list[i] = el
	}
	m.put(f.Name, list, m.stampOver(f.Name))
	if len(elements) == 0 {
		delete(m.out.Record.Data, f.Name)
	}
	return nil
}

// added gives the element as the value of an add, nil as that of a remove.
func added(e SetEdit, el string) any {
	if slices.Contains(e.Add, el) {
		return el
	}
	return nil
}

// diffSet turns a whole new set into what was added to and removed from the standing one. Elements that the editor had
// not seen are not removed: leaving them out says nothing of them.
func (m *merge) diffSet(f *Field, offered any) SetEdit {
	old, next := elementsOf(m.old.Data[f.Name]), elementsOf(offered)
	var e SetEdit
	for _, el := range next {
		if _, ok := slices.BinarySearch(old, el); !ok {
			e.Add = append(e.Add, el)
		}
	}
	for _, el := range old {
		if _, ok := slices.BinarySearch(next, el); !ok && m.seen(f.Name+"/"+el) {
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
