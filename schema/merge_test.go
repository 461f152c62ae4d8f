package schema_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/schema"
)

const mergePack = `
version: 1
kinds:
  - name: thing
    label: {zh: 物, en: Thing}
    buckets: [org]
    fields:
      - {name: note, type: text, label: {zh: 记, en: Note}}
      - {name: fixed, type: text, merge: server, label: {zh: 定, en: Fixed}}
      - {name: low, type: integer, merge: min, label: {zh: 低, en: Low}}
      - {name: high, type: integer, merge: max, label: {zh: 高, en: High}}
      - {name: hits, type: integer, merge: counter, default: 0, label: {zh: 次, en: Hits}}
      - {name: code, type: text, merge: immutable, label: {zh: 码, en: Code}}
      - {name: level, type: text, merge: ask, label: {zh: 级, en: Level}}
      - {name: tags, type: set, label: {zh: 签, en: Tags}}
      - {name: stage, type: text, group: deal, label: {zh: 阶, en: Stage}}
      - {name: amount, type: integer, group: deal, label: {zh: 额, en: Amount}}
    checks:
      - {condition: "!(has(new.stage) && new.stage == \"lost\" && has(new.note) && new.note == \"won\")", fields: [stage, note]}
      - {condition: "!has(new.tags) || size(new.tags) <= 6", fields: [tags]}
      - {condition: "!has(new.hits) || new.hits <= 40", fields: [hits]}
  - name: brittle
    label: {zh: 脆, en: Brittle}
    delete: delete_wins
    buckets: [org]
    fields:
      - {name: note, type: text, label: {zh: 记, en: Note}}
`

// things gives the kinds of the merge pack: thing, whose edits win over deletes, and brittle, whose deletes win.
func things(t interface{ Fatal(...any) }) (thing, brittle *schema.Kind) {
	s, err := schema.Parse([]byte(mergePack))
	if err != nil {
		t.Fatal(err)
	}
	return s.Kind("thing"), s.Kind("brittle")
}

// device gives the device of that number; their order is that of the numbers, 0 is a system source.
func device(n int) satchel.ID {
	if n == 0 {
		return satchel.ID{}
	}
	return satchel.ID{0: byte(n)}
}

func whole(n int) json.Number { return json.Number(fmt.Sprint(n)) }

func list(els ...string) any {
	out := make([]any, len(els))
	for i, e := range els {
		out[i] = e
	}
	return out
}

// made is a record at rev 1, created by device 9 at time 0.
func made(t interface{ Fatal(...any) }, k *schema.Kind, fields map[string]any) *schema.Record {
	rec, p := schema.New(k, satchel.NewID(), satchel.NewID(), 1, schema.Edit{Device: device(9), Number: 1, Fields: fields})
	if p != nil {
		t.Fatal(p)
	}
	return rec
}

func show(r *schema.Record) string {
	raw, err := json.Marshal(r.Data)
	if err != nil {
		panic(err)
	}
	return string(raw)
}

func mustMerge(t interface{ Fatal(...any) }, k *schema.Kind, r *schema.Record, e schema.Edit) schema.Merged {
	got, p := schema.Merge(k, r, e)
	if p != nil {
		t.Fatal(p)
	}
	return got
}

// Two edits of one base by two devices: what stands after both, and what the second one lost.
func TestEachPolicySettlesTwoConcurrentEdits(t *testing.T) {
	t.Parallel()
	thing, _ := things(t)
	fields := func(name string, v any) schema.Edit { return schema.Edit{Fields: map[string]any{name: v}} }
	tags := func(add, remove []string) schema.Edit {
		return schema.Edit{Sets: []schema.SetEdit{{Field: "tags", Add: add, Remove: remove}}}
	}
	hits := func(by int64) schema.Edit {
		return schema.Edit{Increments: []schema.Increment{{Field: "hits", By: by}}}
	}
	base := map[string]any{"note": "n", "fixed": "f", "low": whole(5), "high": whole(5), "level": "l", "tags": list("a", "b"), "stage": "s", "amount": whole(1)}
	for _, c := range []struct {
		name          string
		first, second schema.Edit
		at1, at2      int64
		field         string
		want          any
		lost          bool
		conflicted    bool
	}{
		{"the later time wins", fields("note", "x"), fields("note", "y"), 10, 20, "note", "y", false, false},
		{"the earlier time loses", fields("note", "x"), fields("note", "y"), 20, 10, "note", "x", true, false},
		{"at the same time the higher device wins", fields("note", "x"), fields("note", "y"), 10, 10, "note", "y", false, false},
		{"equal values are no conflict", fields("note", "x"), fields("note", "x"), 20, 10, "note", "x", false, false},
		{"clearing is a value", fields("note", "x"), fields("note", nil), 10, 20, "note", nil, false, false},
		{"the server's value stands", fields("fixed", "x"), fields("fixed", "y"), 10, 20, "fixed", "x", true, false},
		{"the smaller stands", fields("low", whole(3)), fields("low", whole(4)), 10, 20, "low", whole(3), true, false},
		{"the smaller comes to stand", fields("low", whole(4)), fields("low", whole(3)), 20, 10, "low", whole(3), false, false},
		{"numbers are compared as numbers", fields("low", whole(10)), fields("low", whole(9)), 20, 10, "low", whole(9), false, false},
		{"a value stands against none", fields("low", whole(3)), fields("low", nil), 10, 20, "low", whole(3), true, false},
		{"a value wins over none", fields("low", nil), fields("low", whole(8)), 20, 10, "low", whole(8), false, false},
		{"the larger stands", fields("high", whole(9)), fields("high", whole(8)), 10, 20, "high", whole(9), true, false},
		{"the larger comes to stand", fields("high", whole(8)), fields("high", whole(9)), 20, 10, "high", whole(9), false, false},
		{"no value is not the largest", fields("high", nil), fields("high", whole(1)), 20, 10, "high", whole(1), false, false},
		{"deltas add up", hits(3), hits(-1), 20, 10, "hits", whole(2), false, false},
		{"who sets a counter does not undo what was added", hits(3), fields("hits", whole(1)), 10, 20, "hits", whole(3), true, false},
		{"what is set once stays", fields("code", "x"), fields("code", "y"), 10, 20, "code", "x", true, false},
		{"a person chooses", fields("level", "x"), fields("level", "y"), 10, 20, "level", "x", true, true},
		{"both elements come in", tags([]string{"c"}, nil), tags([]string{"d"}, nil), 20, 10, "tags", list("a", "b", "c", "d"), false, false},
		{"an add wins over a remove", tags([]string{"a"}, nil), tags(nil, []string{"a"}), 10, 20, "tags", list("a", "b"), true, false},
		{"an add after a remove brings it back", tags(nil, []string{"a"}), tags([]string{"a"}, nil), 20, 10, "tags", list("a", "b"), false, false},
		{"a whole set takes out only what it has seen", tags([]string{"c"}, nil), fields("tags", list("a")), 10, 20, "tags", list("a", "c"), false, false},
		{"what both remove is gone", tags(nil, []string{"a"}), tags(nil, []string{"a"}), 10, 20, "tags", list("b"), false, false},
	} {
		rec := made(t, thing, base)
		c.first.Base, c.first.Device, c.first.Number, c.first.At = 1, device(1), 1, c.at1
		c.second.Base, c.second.Device, c.second.Number, c.second.At = 1, device(2), 1, c.at2
		one := mustMerge(t, thing, rec, c.first)
		two := mustMerge(t, thing, one.Record, c.second)
		if got := two.Record.Data[c.field]; !schema.Equal(got, c.want) {
			t.Errorf("%s: %v stands, not %v", c.name, got, c.want)
		}
		if (len(two.Lost) > 0) != c.lost || two.Conflicted != c.conflicted {
			t.Errorf("%s: lost %v, conflicted %v", c.name, two.Lost, two.Conflicted)
		}
		if c.lost && two.Lost[0].Over.Device != device(1) {
			t.Errorf("%s: who wrote what stands is not told: %v", c.name, two.Lost)
		}
	}
}

func TestF13AGroupIsSettledAsOne(t *testing.T) {
	t.Parallel()
	thing, _ := things(t)
	rec := made(t, thing, map[string]any{"stage": "open", "amount": whole(1)})
	office := mustMerge(t, thing, rec, schema.Edit{Base: 1, At: 10, Device: device(1), Number: 1, Fields: map[string]any{"stage": "lost"}}).Record
	all := func(at int64) schema.Edit {
		return schema.Edit{Base: 1, At: at, Device: device(2), Number: 1, Fields: map[string]any{"stage": "won", "amount": whole(7)}}
	}
	if got := mustMerge(t, thing, office, all(20)); show(got.Record) != `{"amount":7,"hits":0,"stage":"won"}` || len(got.Overwritten) != 1 {
		t.Errorf("the later group: %s, overwritten %v", show(got.Record), got.Overwritten)
	}
	if got := mustMerge(t, thing, office, all(5)); show(got.Record) != `{"amount":1,"hits":0,"stage":"lost"}` || len(got.Lost) != 2 {
		t.Errorf("the earlier group: %s, lost %v", show(got.Record), got.Lost)
	}
	// A later edit of one member, made on sight of the old others, never makes a record that nobody wrote.
	part := schema.Edit{Base: 1, At: 20, Device: device(2), Number: 1, Fields: map[string]any{"amount": whole(7)}}
	if got := mustMerge(t, thing, office, part); show(got.Record) != `{"amount":1,"hits":0,"stage":"lost"}` || len(got.Lost) != 1 || !got.Conflicted || got.Lost[0].Over.Device != device(1) {
		t.Errorf("a part of the group: %s, lost %v, conflicted %v", show(got.Record), got.Lost, got.Conflicted)
	}
	// An edit that saw the stage of time 10 is later than it, also where only the amount meets a rival.
	seen := schema.Edit{Base: office.Rev, At: 3, Device: device(3), Number: 1, Fields: map[string]any{"amount": whole(5)}}
	after := mustMerge(t, thing, office, seen).Record
	if at := after.Stamps["amount"].At; at != 11 {
		t.Errorf("the amount's time is %d", at)
	}
}

func TestF13AMergedRecordThatBreaksACheckFallsBack(t *testing.T) {
	t.Parallel()
	thing, _ := things(t)
	rec := made(t, thing, map[string]any{"note": "n", "stage": "open", "tags": list("a", "b", "c", "d")})
	lost := mustMerge(t, thing, rec, schema.Edit{Base: 1, At: 1, Device: device(1), Number: 1, Fields: map[string]any{"stage": "lost"}}).Record
	// Valid alone, but not together with the office's stage; the path itself met no rival, so nothing can fall back.
	if _, p := schema.Merge(thing, lost, schema.Edit{Base: 1, At: 2, Device: device(2), Number: 1, Fields: map[string]any{"note": "won"}}); p == nil || p.Reason != satchel.ReasonInvalid {
		t.Errorf("%v", p)
	}
	noted := mustMerge(t, thing, lost, schema.Edit{Base: 2, At: 3, Device: device(1), Number: 2, Fields: map[string]any{"note": "m"}}).Record
	got := mustMerge(t, thing, noted, schema.Edit{Base: 2, At: 9, Device: device(2), Number: 1, Fields: map[string]any{"note": "won", "low": whole(1)}})
	if !got.Conflicted || got.Record.Data["note"] != "m" || got.Record.Data["low"] != whole(1) || len(got.Lost) != 1 {
		t.Errorf("%s, lost %v, conflicted %v", show(got.Record), got.Lost, got.Conflicted)
	}
	// Sets and counters fall back alike.
	three := mustMerge(t, thing, rec, schema.Edit{Base: 1, Device: device(1), Number: 1, Sets: []schema.SetEdit{{Field: "tags", Add: []string{"e", "f"}}},
		Increments: []schema.Increment{{Field: "hits", By: 30}}}).Record
	got = mustMerge(t, thing, three, schema.Edit{Base: 1, Device: device(2), Number: 1, Sets: []schema.SetEdit{{Field: "tags", Add: []string{"g"}}}})
	if !got.Conflicted || len(got.Lost) != 1 || got.Lost[0].Path != "tags/g" || got.Lost[0].Value != "g" || got.Record.Rev != three.Rev {
		t.Errorf("%s, lost %v", show(got.Record), got.Lost)
	}
	if got.Lost[0].Over.Device != device(1) {
		t.Errorf("who changed the set is not told: %v", got.Lost)
	}
	got = mustMerge(t, thing, three, schema.Edit{Base: 1, Device: device(2), Number: 1, Increments: []schema.Increment{{Field: "hits", By: 30}}})
	if !got.Conflicted || len(got.Lost) != 1 || got.Lost[0].Over.Device != device(1) || got.Record.Data["hits"] != whole(30) {
		t.Errorf("%s, lost %v", show(got.Record), got.Lost)
	}
}

func TestF8AnEditThatSawAValueIsLaterThanIt(t *testing.T) {
	t.Parallel()
	thing, _ := things(t)
	rec := made(t, thing, map[string]any{"note": "n"})
	fast := mustMerge(t, thing, rec, schema.Edit{Base: 1, At: 20, Device: device(1), Number: 1, Fields: map[string]any{"note": "by a fast clock"}}).Record
	saw := mustMerge(t, thing, fast, schema.Edit{Base: fast.Rev, At: 10, Device: device(2), Number: 1, Fields: map[string]any{"note": "saw it"}}).Record
	got := mustMerge(t, thing, saw, schema.Edit{Base: 1, At: 15, Device: device(3), Number: 1, Fields: map[string]any{"note": "saw nothing"}})
	if got.Record.Data["note"] != "saw it" || len(got.Lost) != 1 {
		t.Errorf("%s", show(got.Record))
	}
}

func TestF7ADeviceAndWhatItWasNeverConflictWithThemselves(t *testing.T) {
	t.Parallel()
	thing, _ := things(t)
	for _, field := range []string{"note", "fixed", "low", "high", "level", "stage"} {
		value := func(n int) any {
			if field == "low" || field == "high" {
				return whole(n)
			}
			return fmt.Sprint(n)
		}
		rec := made(t, thing, map[string]any{field: value(5)})
		for i, n := range []int{7, 3, 9} {
			got := mustMerge(t, thing, rec, schema.Edit{Base: 1, At: int64(10 - i), Device: device(1), Number: uint64(i + 1), Fields: map[string]any{field: value(n)}})
			if len(got.Lost)+len(got.Overwritten) > 0 || got.Conflicted || got.Record.Data[field] != value(n) {
				t.Errorf("%s, edit %d: %s lost %v", field, i, show(got.Record), got.Lost)
			}
			rec = got.Record
		}
		// The same phone under a new id: only what the old id wrote below the fork is its own.
		fork := schema.Edit{Base: 1, Device: device(2), Was: device(1), WasBelow: 4, Number: 1, Fields: map[string]any{field: value(6)}}
		if got := mustMerge(t, thing, rec, fork); len(got.Lost) > 0 || got.Record.Data[field] != value(6) {
			t.Errorf("%s, forked: %s", field, show(got.Record))
		}
		fork.WasBelow = 3
		if got := mustMerge(t, thing, rec, fork); len(got.Lost)+len(got.Overwritten) == 0 {
			t.Errorf("%s: what the other half of a clone wrote passes unseen", field)
		}
	}
}

func TestF36DeletesMeetEditsByTheKindsPolicy(t *testing.T) {
	t.Parallel()
	thing, brittle := things(t)
	edit := schema.Edit{Base: 1, At: 5, Device: device(1), Number: 1, Fields: map[string]any{"note": "edited"}}
	drop := schema.Edit{Base: 1, At: 9, Device: device(2), Number: 1}

	rec := made(t, thing, map[string]any{"note": "n", "tags": list("a")})
	gone := schema.MergeDelete(thing, rec, drop).Record
	if !gone.Deleted || gone.Rev != 2 {
		t.Fatalf("%+v", gone)
	}
	if got := mustMerge(t, thing, gone, edit); got.Record.Deleted || !got.Revived || got.Record.Data["note"] != "edited" {
		t.Error("the edit does not revive the record")
	}
	for name, first := range map[string]schema.Edit{"an edit": edit,
		"a removed element": {Base: 1, Device: device(1), Number: 1, Sets: []schema.SetEdit{{Field: "tags", Remove: []string{"a"}}}}} {
		edited := mustMerge(t, thing, rec, first).Record
		got := schema.MergeDelete(thing, edited, drop)
		if !got.Conflicted || got.Record.Deleted {
			t.Errorf("%s that was not seen is deleted with the record", name)
		}
		if len(got.Lost) != 1 || got.Lost[0].Over.Device != device(1) {
			t.Errorf("%s: who made it is not told: %v", name, got.Lost)
		}
	}
	own := mustMerge(t, thing, rec, edit).Record
	if got := schema.MergeDelete(thing, own, schema.Edit{Base: 1, Device: device(1), Number: 2}); !got.Record.Deleted {
		t.Error("a device's delete conflicts with its own edit")
	}

	rec = made(t, brittle, map[string]any{"note": "n"})
	if _, p := schema.Merge(brittle, schema.MergeDelete(brittle, rec, drop).Record, edit); p == nil || p.Reason != satchel.ReasonRecordDeleted {
		t.Errorf("%v", p)
	}
	got := schema.MergeDelete(brittle, mustMerge(t, brittle, rec, edit).Record, drop)
	if !got.Record.Deleted || len(got.Overwritten) != 1 || got.Overwritten[0].Value != "edited" || got.Overwritten[0].By.Device != device(1) {
		t.Errorf("%+v: who wrote what went unseen is not told", got)
	}
}

func TestASetHasABound(t *testing.T) {
	t.Parallel()
	k := mustKind(t)
	rec := made(t, k, map[string]any{"name": "x", "owner": satchel.NewID().String()})
	var els []string
	for i := range 501 {
		els = append(els, fmt.Sprint(i))
	}
	if _, p := schema.Merge(k, rec, schema.Edit{Base: 1, Sets: []schema.SetEdit{{Field: "tags", Add: els}}}); p == nil || p.Reason != satchel.ReasonBadValue {
		t.Errorf("%v", p)
	}
}

func mustKind(t interface{ Fatal(...any) }) *schema.Kind {
	s, err := schema.Default()
	if err != nil {
		t.Fatal(err)
	}
	return s.Kind("account")
}

// anyEdit draws an edit of a thing by one of four devices (0 = the system).
func anyEdit(t *rapid.T, maxBase, number uint64) schema.Edit {
	e := schema.Edit{Base: rapid.Uint64Range(0, maxBase).Draw(t, "base"), At: rapid.Int64Range(0, 30).Draw(t, "at"),
		Device: device(rapid.IntRange(0, 3).Draw(t, "device")), Number: number, Fields: map[string]any{}}
	if e.Device.IsZero() {
		e.Base, e.Number = maxBase, 0 // a system source has read the record under its lock
	}
	word := rapid.SampledFrom([]any{"a", "won", "lost", nil})
	for _, f := range []string{"note", "fixed", "code", "level", "stage"} {
		if rapid.Bool().Draw(t, f+"?") {
			e.Fields[f] = word.Draw(t, f)
		}
	}
	for _, f := range []string{"low", "high", "amount"} {
		if rapid.Bool().Draw(t, f+"?") {
			e.Fields[f] = rapid.SampledFrom([]any{whole(1), whole(2), whole(10), nil}).Draw(t, f)
		}
	}
	els := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g"}), 0, 3, rapid.ID[string])
	switch rapid.IntRange(0, 2).Draw(t, "set") {
	case 1:
		e.Sets = []schema.SetEdit{{Field: "tags", Add: els.Draw(t, "add"), Remove: els.Draw(t, "remove")}}
	case 2:
		v := els.Draw(t, "tags")
		slices.Sort(v)
		e.Fields["tags"] = list(v...)
	}
	if rapid.Bool().Draw(t, "hits?") {
		e.Increments = []schema.Increment{{Field: "hits", By: rapid.Int64Range(-20, 20).Draw(t, "hits")}}
	}
	return e
}

// history draws a record and some edits that were made of it.
func anyRecord(t *rapid.T, k *schema.Kind) *schema.Record {
	rec := made(t, k, map[string]any{"note": "n", "low": whole(5), "tags": list("a", "b"), "stage": "s"})
	for i := range rapid.IntRange(0, 5).Draw(t, "edits") {
		if got, p := schema.Merge(k, rec, anyEdit(t, rec.Rev, uint64(i+1))); p == nil {
			rec = got.Record
		}
	}
	return rec
}

// S8: every person's value, offered or standing, stands afterwards or is named in Changed, Overwritten or Lost.
func TestS8AMergeNamesEveryValueThatItGivesUp(t *testing.T) {
	t.Parallel()
	k, _ := things(t)
	rapid.Check(t, namesWhatIsGivenUp(k))
}

func namesWhatIsGivenUp(k *schema.Kind) func(*rapid.T) {
	return func(t *rapid.T) {
		rec := anyRecord(t, k)
		e := anyEdit(t, rec.Rev, 50)
		before, stamps := show(rec), len(rec.Stamps)
		got, p := schema.Merge(k, rec, e)
		if show(rec) != before || len(rec.Stamps) != stamps {
			t.Fatal("the record that was given is changed")
		}
		if p != nil {
			if got.Record != rec || len(got.Changed)+len(got.Lost)+len(got.Overwritten) > 0 {
				t.Fatalf("a refusal leaves something: %+v", got)
			}
			return
		}
		if q := k.Invalid(got.Record.Data); q != nil {
			t.Fatalf("what stands breaks a check: %v", q)
		}
		lost, changed := map[string]any{}, map[string]any{}
		for _, v := range got.Lost {
			lost[v.Path] = v.Value
		}
		for _, c := range got.Changed {
			if _, twice := changed[c.Path]; !twice {
				changed[c.Path] = c.Before
			}
		}
		for name, offered := range e.Fields {
			if name == "tags" {
				continue
			}
			now := got.Record.Data[name]
			if name == "hits" || schema.Equal(now, offered) {
				continue
			}
			if v, ok := lost[name]; !ok || !schema.Equal(v, offered) {
				t.Fatalf("%s: %v was offered, %v stands, lost %v", name, offered, now, got.Lost)
			}
		}
		for _, f := range k.Fields() {
			old, now := rec.Data[f.Name], got.Record.Data[f.Name]
			if schema.Equal(old, now) {
				continue
			}
			if v, ok := changed[f.Name]; !ok || !schema.Equal(v, old) {
				t.Fatalf("%s: %v stood, %v stands, changed %v", f.Name, old, now, got.Changed)
			}
			if got.Record.Rev != rec.Rev+1 {
				t.Fatal("a change has no rev")
			}
		}
		for _, s := range e.Sets {
			now, _ := got.Record.Data["tags"].([]any)
			for _, el := range s.Add {
				if _, isLost := lost["tags/"+el]; !slices.Contains(now, any(el)) && !isLost {
					t.Fatalf("the element %s was added and is nowhere: %v, lost %v", el, now, got.Lost)
				}
			}
			for _, el := range s.Remove {
				if _, isLost := lost["tags/"+el]; slices.Contains(now, any(el)) && !isLost && !slices.Contains(s.Add, el) {
					t.Fatalf("the element %s was removed, stands, and nobody is told", el)
				}
			}
		}
		for _, v := range got.Overwritten {
			if v.By.Device == e.Device && !e.Device.IsZero() {
				t.Fatalf("a device overwrites itself unseen: %+v", v)
			}
		}
	}
}

func TestAMergeDoesNotDependOnTheOrderOfPathsAndARepeatChangesNothing(t *testing.T) {
	t.Parallel()
	k, _ := things(t)
	rapid.Check(t, repeatsChangeNothing(k))
}

func repeatsChangeNothing(k *schema.Kind) func(*rapid.T) {
	return func(t *rapid.T) {
		rec := anyRecord(t, k)
		e := anyEdit(t, rec.Rev, 50)
		one, p := schema.Merge(k, rec, e)
		e.Fields = maps.Clone(e.Fields)
		two, q := schema.Merge(k, rec, e)
		if (p == nil) != (q == nil) || p == nil && (show(one.Record) != show(two.Record) || fmt.Sprint(one.Lost) != fmt.Sprint(two.Lost)) {
			t.Fatalf("%s and %s", show(one.Record), show(two.Record))
		}
		if p != nil {
			return
		}
		e.Increments = nil // the ledger, not the merge, keeps a delta from being added twice (S2)
		if len(one.Lost) > 0 || e.Device.IsZero() {
			return
		}
		again, p := schema.Merge(k, one.Record, e)
		if p != nil || again.Record != one.Record || len(again.Changed)+len(again.Lost)+len(again.Overwritten) > 0 {
			t.Fatalf("again: %v, changed %v, lost %v", p, again.Changed, again.Lost)
		}
	}
}

// Two edits of one base give the same record in either order, under every policy that promises it: last_write (a group
// is sent whole), min, max, counter, and sets whose adds and removes do not meet a third one.
func TestTwoConcurrentEditsConvergeInEitherOrder(t *testing.T) {
	t.Parallel()
	k, _ := things(t)
	rapid.Check(t, convergesInEitherOrder(k))
}

func convergesInEitherOrder(k *schema.Kind) func(*rapid.T) {
	return func(t *rapid.T) {
		rec := made(t, k, map[string]any{"note": "n", "low": whole(5), "high": whole(5), "tags": list("a", "b"), "stage": "s", "amount": whole(3)})
		draw := func(n int) schema.Edit {
			e := anyEdit(t, 1, 1)
			e.Base, e.Device, e.Number = 1, device(n), 1
			for _, f := range []string{"fixed", "code", "level", "tags"} {
				delete(e.Fields, f)
			}
			if e.Fields["stage"] == nil || e.Fields["amount"] == nil {
				delete(e.Fields, "stage")
				delete(e.Fields, "amount")
			}
			if e.Fields["note"] == "won" {
				e.Fields["note"] = "w"
			}
			for _, f := range []string{"low", "high"} {
				if v, given := e.Fields[f]; given && v == nil {
					delete(e.Fields, f)
				}
			}
			return e
		}
		a, b := draw(1), draw(2)
		then := func(x, y schema.Edit) schema.Merged { return mustMerge(t, k, mustMerge(t, k, rec, x).Record, y) }
		ab, ba := then(a, b), then(b, a)
		if ab.Conflicted && ba.Conflicted {
			return // together they break a check: whoever came first stands, and a person chooses
		}
		if show(ab.Record) != show(ba.Record) {
			t.Fatalf("a then b: %s, b then a: %s", show(ab.Record), show(ba.Record))
		}
	}
}

func TestS9ARecordTakesOverWhatItLacksAndNamesTheRest(t *testing.T) {
	t.Parallel()
	thing, _ := things(t)
	made := func(fields map[string]any) *schema.Record {
		r, p := schema.New(thing, satchel.NewID(), satchel.NewID(), 1, schema.Edit{At: 1, Device: device(1), Number: 1, Fields: fields})
		if p != nil {
			t.Fatal(p)
		}
		return r
	}
	number := func(n int) json.Number { return json.Number(fmt.Sprint(n)) }
	into := made(map[string]any{"note": "mine", "low": number(5), "high": number(5), "hits": number(2), "tags": []any{"a"}, "stage": "won"})
	from := made(map[string]any{"note": "other", "fixed": "f", "low": number(3), "high": number(4), "hits": number(30), "tags": []any{"b"},
		"stage": "lost", "amount": number(9), "level": "x"})
	got := schema.Unite(thing, into, from, schema.Edit{MinRev: 1 << 40, At: 9, Device: device(2), Number: 1})
	want := map[string]any{"note": "mine", "fixed": "f", "low": number(3), "high": number(5), "hits": number(32), "tags": []any{"a", "b"},
		"stage": "won", "level": "x"}
	if !schema.Equal(got.Record.Data, want) || got.Record.Rev != 1<<40 || got.Record.Stamps["level"].Rev != 1<<40 {
		t.Errorf("%v at rev %d", got.Record.Data, got.Record.Rev)
	}
	lost := map[string]any{}
	for _, v := range got.Lost {
		lost[v.Path] = v.Value
		if v.Policy != schema.UnitedAway {
			t.Errorf("%s went by the policy %s", v.Path, v.Policy)
		}
	}
	if !schema.Equal(lost, map[string]any{"note": "other", "high": number(4), "stage": "lost", "amount": number(9)}) {
		t.Errorf("lost: %v", lost)
	}
	// Together they would break a check (hits): nothing is taken, nothing is gone.
	from.Data["hits"] = number(39)
	got = schema.Unite(thing, into, from, schema.Edit{At: 9, Device: device(2), Number: 1})
	if got.Record != into || len(got.Lost) != len(from.Data) {
		t.Errorf("%v, lost %d of %d", got.Record.Data, len(got.Lost), len(from.Data))
	}
}

func TestS9WhatBothCountedAddsUpAlsoWhereItIsAsMany(t *testing.T) {
	t.Parallel()
	thing, _ := things(t)
	into, from := made(t, thing, map[string]any{"hits": whole(3)}), made(t, thing, map[string]any{"hits": whole(3)})
	got := schema.Unite(thing, into, from, schema.Edit{At: 9, Device: device(2), Number: 1})
	if got.Record.Data["hits"] != whole(6) {
		t.Errorf("%v", got.Record.Data)
	}
}

func TestS9ABlindEditHasSeenNothingNotEvenTheDevicesOwnWord(t *testing.T) {
	t.Parallel()
	thing, brittle := things(t)
	r, _ := schema.New(thing, satchel.NewID(), satchel.NewID(), 1, schema.Edit{At: 1, Device: device(1), Number: 1, Fields: map[string]any{"level": "a"}})
	e := schema.Edit{Base: 9, Blind: true, At: 5, Device: device(1), Number: 2, Fields: map[string]any{"level": "b"}}
	if got, p := schema.Merge(thing, r, e); p != nil || !got.Conflicted {
		t.Errorf("%+v %v", got, p)
	}
	if got := schema.MergeDelete(thing, r, schema.Edit{Base: 9, Blind: true, At: 5, Device: device(1), Number: 2}); !got.Conflicted {
		t.Errorf("%+v", got)
	}
	b, _ := schema.New(brittle, satchel.NewID(), satchel.NewID(), 1, schema.Edit{At: 1, Device: device(1), Number: 1, Fields: map[string]any{"note": "a"}})
	if got := schema.MergeDelete(brittle, b, schema.Edit{Blind: true, At: 5, Device: device(1), Number: 2}); !got.Record.Deleted {
		t.Errorf("%+v", got)
	}
}

func TestS18AChangeInANewEpochHasItsBitsInRevAndStamp(t *testing.T) {
	t.Parallel()
	thing, _ := things(t)
	r, _ := schema.New(thing, satchel.NewID(), satchel.NewID(), 1, schema.Edit{At: 1, Device: device(1), Number: 1, Fields: map[string]any{"note": "a"}})
	first := uint64(3)<<40 + 1
	got, _ := schema.Merge(thing, r, schema.Edit{Base: 1, MinRev: first, At: 5, Device: device(2), Number: 2, Fields: map[string]any{"note": "b"}})
	if got.Record.Rev != first || got.Record.Stamps["note"].Rev != first {
		t.Errorf("rev %d, stamp %d", got.Record.Rev, got.Record.Stamps["note"].Rev)
	}
	got, _ = schema.Merge(thing, got.Record, schema.Edit{Base: first, MinRev: first, At: 6, Device: device(2), Number: 3, Fields: map[string]any{"note": "c"}})
	if got.Record.Rev != first+1 {
		t.Errorf("rev %d", got.Record.Rev)
	}
}
