package schema

import (
	"encoding/json"
	"maps"
)

// UnitedAway is the policy that a [Value] names which did not come to stand because its record was merged into another.
// No field has it.
const UnitedAway Policy = "merged"

// Unite lets a record take over what another one of its kind has, which is merged into it (S9): what it has no value of,
// the elements of sets, what was counted, and of fields of the policies min and max the smaller and the larger. All other
// values that differ stay as they are, and Lost names those of the other record, with the policy [UnitedAway], so that
// none is gone. Fields of a group are taken together or not at all. What the edit itself sets comes first. Where the
// record would break a check of its kind, nothing is taken and all is in Lost: uniting is never refused.
//
// The editor has seen both records. The edit names only who he is, when he did it, and Fields.
func Unite(k *Kind, into, from *Record, e Edit) Merged {
	e.Base = into.Rev
	given := e.Fields
	e.Fields = maps.Clone(given)
	if e.Fields == nil {
		e.Fields = map[string]any{}
	}
	var lost []Value
	for _, f := range k.ordered {
		v := from.Data[f.Name]
		counts := f.Merge == Counter && f.Type == Integer // also as many: both were counted
		if _, set := given[f.Name]; set || v == nil || !counts && Equal(v, into.Data[f.Name]) {
			continue
		}
		old := into.Data[f.Name]
		switch {
		case f.Type == Set && f.Group == "":
			e.Sets = append(e.Sets, SetEdit{Field: f.Name, Add: elementsOf(v)})
		case counts:
			n, _ := v.(json.Number)
			if by, err := n.Int64(); err == nil && by != 0 {
				e.Increments = append(e.Increments, Increment{Field: f.Name, By: by})
			}
		case old == nil && !k.grouped(into, f), old != nil && f.Group == "" && f.Merge == Min && compare(v, old) < 0,
			old != nil && f.Group == "" && f.Merge == Max && compare(v, old) > 0:
			e.Fields[f.Name] = v
		default:
			lost = append(lost, Value{Path: f.Name, Value: v, Policy: UnitedAway, By: from.stampOf(f.Name)})
		}
	}
	got, p := Merge(k, into, e)
	if p == nil {
		got.Lost = append(got.Lost, lost...)
		return got
	}
	got, p = Merge(k, into, Edit{Base: into.Rev, MinRev: e.MinRev, At: e.At, Device: e.Device, Number: e.Number, Fields: given})
	if p != nil {
		got = Merged{Record: into}
	}
	for _, f := range k.ordered {
		if v := from.Data[f.Name]; v != nil && (f.Merge == Counter || !Equal(v, into.Data[f.Name])) {
			got.Lost = append(got.Lost, Value{Path: f.Name, Value: v, Policy: UnitedAway, By: from.stampOf(f.Name)})
		}
	}
	return got
}

// grouped tells whether a field's group has a value in a record.
func (k *Kind) grouped(r *Record, f *Field) bool {
	for _, other := range k.ordered {
		if f.Group != "" && other.Group == f.Group && r.Data[other.Name] != nil {
			return true
		}
	}
	return false
}

// stampOf gives the stamp of a path, or of the creation.
func (r *Record) stampOf(path string) Stamp {
	if s, ok := r.Stamps[path]; ok {
		return s
	}
	return r.Stamps[created]
}

// Rehang gives the record as it stands when it hangs under another one than before, because that was merged: whatever it
// looks like otherwise, also where it is deleted.
func Rehang(k *Kind, r *Record, under string, e Edit) *Record {
	next := r.Clone()
	next.Rev = max(next.Rev+1, e.MinRev)
	next.Data[k.Parent] = under
	next.Stamps[k.Parent] = Stamp{Rev: next.Rev, At: max(e.At, r.stampOf(k.Parent).At+1), Device: e.Device, Number: e.Number}
	return next
}
