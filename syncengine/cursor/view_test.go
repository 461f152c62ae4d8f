package cursor

import (
	"reflect"
	"testing"

	"github.com/satchel-sync/satchel/access"
)

func view(masks map[string]access.Mask, entries ...Entry) *View {
	return &View{Entries: entries, Masks: masks, Schema: 1}
}

var (
	own   = Entry{1, []string{"account", "visit"}, 0}
	month = Entry{2, []string{"visit"}, 2}
	team  = Entry{3, []string{"account"}, 3}
	later = Entry{4, []string{"account"}, 3}
)

// What is staged may be shown at the checkpoint of a priority only if all of it belongs to entries that are complete.
func TestS12AViewThatTurnsInMidFillShowsNothingBeforeAllIsComplete(t *testing.T) {
	t.Parallel()
	hidden := map[string]access.Mask{"account": {Hidden: []string{"credit_limit"}}}
	for name, c := range map[string]struct {
		old, target *View
		at          Cursor
		whole       bool
	}{
		"at rest, a kind to fill anew":                  {view(hidden, own, team), view(nil, own, team), Cursor{Live: 9, Done: 2}, false},
		"mid-fill, a kind to fill anew":                 {view(hidden, own, team), view(nil, own, team), Cursor{Live: 9, Done: 1, Staged: true}, true},
		"changes staged, a kind to fill anew":           {view(hidden, own, team), view(nil, own, team), Cursor{Live: 9, Done: 2, Staged: true}, true},
		"mid-fill, the bucket being filled goes on":     {view(nil, own, team), view(nil, own, month, team), Cursor{Live: 9, Done: 1, FillSeq: 3, Staged: true}, false},
		"mid-fill, the bucket being filled begins anew": {view(nil, own, month), view(nil, own, Entry{2, []string{"task", "visit"}, 2}), Cursor{Live: 9, Done: 1, FillSeq: 3, Staged: true}, true},
		"between two buckets":                           {view(nil, own, team), view(nil, own, month, team), Cursor{Live: 9, Done: 1, Staged: true}, false},
		"once held back, always until the end":          {view(nil, own, team), view(nil, own, team, later), Cursor{Live: 9, Done: 1, Whole: true}, true},
		"nothing left to fill":                          {view(nil, own, team), view(nil, own), Cursor{Live: 9, Done: 1, Staged: true, Whole: true}, false},
	} {
		if got := TurnTo(c.old, c.at, c.target, nil).Cursor.Whole; got != c.whole {
			t.Errorf("%s: held back %v, want %v", name, got, c.whole)
		}
	}
}

func TestAPriorityIsSettledWhenEveryEntryOfItIsComplete(t *testing.T) {
	t.Parallel()
	v := view(nil, own, team, month, later)
	for done, want := range []int{0, 2, 2, 3, 0} {
		if got := v.Settled(done); got != want {
			t.Errorf("with %d entries complete %d priorities are settled, want %d", done, got, want)
		}
	}
}

func TestS17FormsTellWhichRowsLookOtherwise(t *testing.T) {
	t.Parallel()
	hidden := access.Mask{Hidden: []string{"credit_limit"}}
	attention := Entry{1, []string{"account", "attention", "contact"}, 0}
	a := view(nil, attention)
	b := view(map[string]access.Mask{"account": hidden, "visit": hidden}, attention)
	c := view(nil, Entry{1, []string{"attention", "contact"}, 0})
	copies := []string{"attention"}
	if f := a.Forms(nil); f == nil || len(f) != 0 {
		t.Errorf("a view that shows everything whole has the forms %v", f)
	}
	for name, x := range map[string]struct {
		was, is  *View
		kinds    []string
		narrowed map[string][]string
	}{
		"the same":            {b, b, nil, map[string][]string{}},
		"a field is hidden":   {a, b, []string{"account", "attention"}, map[string][]string{"account": {"credit_limit"}}},
		"a field is shown":    {b, a, []string{"account", "attention"}, map[string][]string{}},
		"a kind is read anew": {c, a, []string{"attention"}, map[string][]string{}},
	} {
		kinds, narrowed := x.is.Stale(x.was.Forms(copies), x.is.Forms(copies))
		if !reflect.DeepEqual(kinds, x.kinds) || !reflect.DeepEqual(narrowed, x.narrowed) {
			t.Errorf("%s: %v %v, want %v %v", name, kinds, narrowed, x.kinds, x.narrowed)
		}
	}
	if kinds, _ := b.Stale(nil, b.Forms(copies)); len(kinds) != 2 {
		t.Errorf("to a device without forms %v look otherwise", kinds)
	}
}
