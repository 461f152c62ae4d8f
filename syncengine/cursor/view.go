package cursor

import (
	"crypto/sha256"
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
}

// Entry is a bucket and what comes by it.
type Entry struct {
	Bucket int64    `json:"b"`
	Kinds  []string `json:"k"` // sorted
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
	next := &View{Masks: target.Masks, Schema: target.Schema}
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
			next.Entries = append(next.Entries, Entry{entry.Bucket, have})
		}
		if len(lack) > 0 {
			rest = append(rest, Entry{entry.Bucket, lack})
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
	if !keepPlace {
		t.Cursor.FillSeq, t.Cursor.FillRec = 0, satchel.ID{}
	}
	if c.FillSince == 0 && c.Live > 0 {
		// What was complete is told up to the live place; of its last seq perhaps only a part.
		t.Cursor.FillSince = max(c.Live-1, 1)
	}
	if next.Entries = append(next.Entries, rest...); len(rest) == 0 {
		t.Cursor.FillSince = 0
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
	if v.Schema != target.Schema || len(v.Masks) != len(target.Masks) {
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
