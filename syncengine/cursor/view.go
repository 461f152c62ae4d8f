package cursor

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"maps"
	"slices"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/access"
)

// View is what a cursor stands for: buckets in fill order with the kinds that come by each, and the masks. A bucket may
// stand twice, first with the kinds that are complete, later with those that are still to fill. Immutable.
type View struct {
	Entries []Entry                `json:"e"`
	Masks   map[string]access.Mask `json:"m,omitempty"` // by kind; only those that take something out
	Schema  int                    `json:"v"`
	Profile string                 `json:"p,omitempty"` // by which the device follows less; "" = everything
}

// Entry is a bucket and what comes by it.
type Entry struct {
	Bucket int64    `json:"b"`
	Kinds  []string `json:"k"`           // sorted
	Class  int      `json:"c,omitempty"` // its priority: lower ones are filled, and shown, first
}

// Encode spells a view, and names it by its hash.
func (v *View) Encode() ([]byte, Hash) {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings and numbers
	}
	sum := sha256.Sum256(raw)
	return raw, Hash(sum[:16])
}

// Turn is what a change of view means for a device.
type Turn struct {
	View         *View
	Cursor       Cursor // with the new done and fill place; view hash not yet set
	Changed      bool   // the view is another than the cursor's
	Dropped      []int64
	DroppedKinds []DroppedKind
	Narrowed     map[string][]string // by kind: fields that must go
}

// DroppedKind is a kind that no longer comes by a bucket.
type DroppedKind struct {
	Bucket int64
	Kind   string
}

// TurnTo brings a cursor of an old view to the target: what is complete stays complete and is listed first, what is
// lost is dropped, what is new or newly shown is filled. copies are the kinds that keep values of others. Pure.
func TurnTo(old *View, c Cursor, target *View, copies []string) Turn {
	t := Turn{Cursor: c, Narrowed: map[string][]string{}}
	refill := map[string]bool{} // kinds whose rows look otherwise now
	for _, kind := range slices.Sorted(maps.Keys(union(old.Masks, target.Masks))) {
		was, is := old.Masks[kind], target.Masks[kind]
		if slices.Equal(was.Hidden, is.Hidden) && slices.Equal(was.Partial, is.Partial) {
			continue
		}
		var gone []string
		for _, f := range is.Hidden {
			if !slices.Contains(was.Hidden, f) {
				gone = append(gone, f)
			}
		}
		for _, f := range is.Partial {
			if !slices.Contains(was.Hidden, f) && !slices.Contains(was.Partial, f) {
				gone = append(gone, f)
			}
		}
		if len(gone) > 0 {
			slices.Sort(gone)
			t.Narrowed[kind] = gone
		}
		for _, f := range slices.Concat(was.Hidden, was.Partial, is.Partial) {
			if !slices.Contains(is.Hidden, f) && (slices.Contains(was.Hidden, f) || slices.Contains(was.Partial, f) != slices.Contains(is.Partial, f)) {
				refill[kind] = true // something is shown that was not, or is shown otherwise
			}
		}
	}
	// Copies of fields in other kinds (attentions) look otherwise too, also where a kind is read no longer, or anew.
	if len(refill) > 0 || len(t.Narrowed) > 0 || !maps.Equal(old.Kinds(), target.Kinds()) {
		for _, kind := range copies {
			refill[kind] = true
		}
	}

	// The device may hold rows of every entry, also of one that is yet to fill: it may have been complete under an
	// earlier view, or half filled. A drop of what it does not hold does nothing.
	complete := map[int64][]string{}
	held := map[int64][]string{}
	for i, entry := range old.Entries {
		if i < c.Done {
			complete[entry.Bucket] = append(complete[entry.Bucket], entry.Kinds...)
		}
		held[entry.Bucket] = append(held[entry.Bucket], entry.Kinds...)
	}
	wanted := map[int64][]string{}
	for _, entry := range target.Entries {
		wanted[entry.Bucket] = append(wanted[entry.Bucket], entry.Kinds...)
	}
	for _, bucket := range slices.Sorted(maps.Keys(held)) {
		kinds, still := wanted[bucket]
		if !still {
			t.Dropped = append(t.Dropped, bucket)
			continue
		}
		for _, kind := range held[bucket] {
			if !slices.Contains(kinds, kind) {
				t.DroppedKinds = append(t.DroppedKinds, DroppedKind{bucket, kind})
			}
		}
	}
	next := &View{Masks: target.Masks, Schema: target.Schema, Profile: target.Profile}
	var rest []Entry
	for _, entry := range target.Entries {
		var have, lack []string
		for _, kind := range entry.Kinds {
			if slices.Contains(complete[entry.Bucket], kind) && !refill[kind] {
				have = append(have, kind)
			} else {
				lack = append(lack, kind)
			}
		}
		if len(have) > 0 {
			next.Entries = append(next.Entries, Entry{entry.Bucket, have, entry.Class})
		}
		if len(lack) > 0 {
			rest = append(rest, Entry{entry.Bucket, lack, entry.Class})
		}
	}
	t.Cursor.Done = len(next.Entries)
	keepPlace := false
	if c.FillSeq > 0 && c.Done < len(old.Entries) && len(refill) == 0 {
		filling := old.Entries[c.Done]
		for i, entry := range rest {
			if entry.Bucket == filling.Bucket && slices.Equal(entry.Kinds, filling.Kinds) {
				rest = append([]Entry{entry}, slices.Delete(rest, i, i+1)...)
				keepPlace = true
				break
			}
		}
	}
	if c.Staged && (len(refill) > 0 || c.FillSeq > 0 && !keepPlace) {
		t.Cursor.Whole = true
	}
	if !keepPlace {
		t.Cursor.FillSeq, t.Cursor.FillRec = 0, satchel.ID{}
	}
	if c.FillSince == 0 && c.Live > 0 {
		// What was complete is told up to the live place; of its last seq perhaps only a part. Where it is told whole, that
		// counts: a device that was repaired at the horizon is not behind it.
		t.Cursor.FillSince = max(c.Since(), 1)
	}
	if next.Entries = append(next.Entries, rest...); len(rest) == 0 {
		t.Cursor.FillSince, t.Cursor.Whole = 0, false
	}
	t.View, t.Changed = next, true
	return t
}

// Kinds gives the kinds that come by some bucket.
func (v *View) Kinds() map[string]bool {
	out := map[string]bool{}
	for _, entry := range v.Entries {
		for _, kind := range entry.Kinds {
			out[kind] = true
		}
	}
	return out
}

// Same tells whether a view, with whatever is complete of it, is the target already.
func (v *View) Same(target *View) bool {
	if v.Schema != target.Schema || v.Profile != target.Profile || len(v.Masks) != len(target.Masks) {
		return false
	}
	for kind, m := range target.Masks {
		w := v.Masks[kind]
		if !slices.Equal(m.Hidden, w.Hidden) || !slices.Equal(m.Partial, w.Partial) {
			return false
		}
	}
	have := map[int64][]string{}
	for _, entry := range v.Entries {
		have[entry.Bucket] = append(have[entry.Bucket], entry.Kinds...)
	}
	if len(have) != len(target.Entries) {
		return false
	}
	for _, entry := range target.Entries {
		kinds := slices.Clone(have[entry.Bucket])
		slices.Sort(kinds)
		if !slices.Equal(kinds, entry.Kinds) {
			return false
		}
	}
	return true
}

// Complete gives the view of the first entries alone, n of them.
func (v *View) Complete(n int) *View {
	return &View{Entries: v.Entries[:n], Masks: v.Masks, Schema: v.Schema, Profile: v.Profile}
}

// Settled counts the classes of which every entry is among the first done ones; 0 = all, or none.
func (v *View) Settled(done int) int {
	least := 0
	for i, entry := range v.Entries[done:] {
		if i == 0 || entry.Class < least {
			least = entry.Class
		}
	}
	return least
}

// Form says how rows of a kind look, as a hash.
type Form struct {
	Kind string
	Form uint64
}

// Forms says how rows look in this view: one for each kind of which a mask takes something out, and for each that keeps
// copies of others (copies), whose look depends on all masks and on which kinds can be read. Sorted, never nil.
func (v *View) Forms(copies []string) []Form {
	out := []Form{}
	kinds := v.Kinds()
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		var looks any
		if slices.Contains(copies, kind) {
			looks = []any{v.Masks, slices.Sorted(maps.Keys(kinds))}
		} else if m, masked := v.Masks[kind]; masked {
			looks = m
		} else {
			continue
		}
		raw, err := json.Marshal(looks)
		if err != nil {
			panic(err) // strings
		}
		sum := sha256.Sum256(raw)
		out = append(out, Form{kind, binary.BigEndian.Uint64(sum[:])})
	}
	return out
}

func union[V any](a, b map[string]V) map[string]bool {
	out := map[string]bool{}
	for k := range a {
		out[k] = true
	}
	for k := range b {
		out[k] = true
	}
	return out
}

// Stale gives the kinds of the view whose rows look otherwise than a device knows by the forms that it has (those that
// it lacks are of kinds shown whole), sorted, and the fields of them that it must not hold. is are the view's forms.
func (v *View) Stale(has, is []Form) (kinds []string, narrowed map[string][]string) {
	was, now := map[string]uint64{}, map[string]uint64{}
	for _, f := range has {
		was[f.Kind] = f.Form
	}
	for _, f := range is {
		now[f.Kind] = f.Form
	}
	narrowed = map[string][]string{}
	for _, kind := range slices.Sorted(maps.Keys(v.Kinds())) {
		if was[kind] == now[kind] {
			continue
		}
		kinds = append(kinds, kind)
		if fields := slices.Concat(v.Masks[kind].Hidden, v.Masks[kind].Partial); len(fields) > 0 {
			slices.Sort(fields)
			narrowed[kind] = fields
		}
	}
	return kinds, narrowed
}

// Gives tells whether the kind comes by the bucket.
func (v *View) Gives(bucket int64, kind string) bool {
	for _, entry := range v.Entries {
		if entry.Bucket == bucket && slices.Contains(entry.Kinds, kind) {
			return true
		}
	}
	return false
}
