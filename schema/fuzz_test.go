package schema_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/schema"
)

// FuzzMerge lets the fuzzer choose what the properties of a merge draw: a record with a history, and edits of it by
// devices that saw more or less of it. No merge panics or leaves a record that breaks a check; every value that does
// not come to stand, or no longer stands, is named (S8); the order of paths decides nothing and a repeat changes
// nothing; two edits of one base give the same record in either order wherever the policy promises it.
func FuzzMerge(f *testing.F) {
	k, _ := things(f)
	properties := []func(*rapid.T){namesWhatIsGivenUp(k), repeatsChangeNothing(k), convergesInEitherOrder(k)}
	for n := range properties { // rapid reads its draws from the bytes, eight for each
		f.Add(append([]byte{byte(n)}, make([]byte, 1<<10)...))
		f.Add(append([]byte{byte(n)}, slices.Repeat([]byte{0x5a, 0xff, 0x01, 0x80, 0x33, 0x07, 0xc4, 0x11}, 1<<8)...))
	}
	fuzzed := make([]func(*testing.T, []byte), len(properties))
	for n := range properties {
		fuzzed[n] = rapid.MakeFuzz(properties[n])
	}
	f.Fuzz(func(t *testing.T, draws []byte) {
		if len(draws) > 0 {
			fuzzed[int(draws[0])%len(fuzzed)](t, draws[1:])
		}
	})
}

// FuzzMergeOfText merges what phones could send, of an account of field sales.
func FuzzMergeOfText(f *testing.F) {
	f.Add([]byte(`{"name":"x","level":"a","credit_limit":1}`), []byte(`{"remark":"y","tags":["a"]}`), uint64(1), int64(5), "a", int64(3))
	f.Add([]byte(`{"name":"x","tags":["a","b"]}`), []byte(`{"tags":[],"credit_limit":-1}`), uint64(0), int64(-5), "", int64(-9223372036854775808))
	f.Add([]byte(`{"name":"x","visit_count":9223372036854775807}`), []byte(`{"visit_count":1e3,"name":null}`), uint64(0), int64(1)<<62, "\u202e", int64(1))
	k := mustKind(f)
	f.Fuzz(func(t *testing.T, create, patch []byte, base uint64, at int64, element string, by int64) {
		fields, err := schema.DecodeFields(create)
		if err != nil || k.CheckFields(fields) != nil {
			return
		}
		rec, p := schema.New(k, satchel.NewID(), satchel.NewID(), 1, schema.Edit{Device: device(1), Number: 1, Fields: fields})
		if p != nil {
			return
		}
		offered, err := schema.DecodeFields(patch)
		if err != nil || k.CheckFields(offered) != nil || k.CheckFields(map[string]any{"tags": []any{element}}) != nil {
			return
		}
		e := schema.Edit{Base: base, At: at, Device: device(2), Number: 1, Fields: offered,
			Sets:       []schema.SetEdit{{Field: "tags", Add: []string{element}, Remove: []string{"a"}}},
			Increments: []schema.Increment{{Field: "visit_count", By: by}}}
		stood := show(rec)
		got, p := schema.Merge(k, rec, e)
		switch {
		case show(rec) != stood:
			t.Fatal("the record that was given is changed")
		case p != nil && got.Record != rec:
			t.Fatal("a refusal leaves something")
		case p != nil:
			return
		}
		if q := k.Invalid(got.Record.Data); q != nil {
			t.Fatalf("what stands breaks a check: %s, %v", show(got.Record), q)
		}
		for name, v := range offered {
			if f := k.Field(name); f.Type == schema.Set || f.Merge == schema.Counter || schema.Equal(got.Record.Data[name], v) {
				continue
			}
			if !slices.ContainsFunc(got.Lost, func(l schema.Value) bool { return l.Path == name && schema.Equal(l.Value, v) }) {
				t.Fatalf("%s: %v was offered, %v stands, lost %v", name, v, got.Record.Data[name], got.Lost)
			}
		}
		for _, f := range k.Fields() {
			before, now := rec.Data[f.Name], got.Record.Data[f.Name]
			if schema.Equal(before, now) {
				continue
			}
			if !slices.ContainsFunc(got.Changed, func(c schema.Change) bool { return c.Path == f.Name && schema.Equal(c.Before, before) }) {
				t.Fatalf("%s: %v stood, %v stands, changed %v", f.Name, before, now, got.Changed)
			}
			unseen := rec.Rev > base && before != nil
			if unseen && f.Type != schema.Set && f.Merge != schema.Counter &&
				!slices.ContainsFunc(got.Overwritten, func(o schema.Value) bool { return o.Path == f.Name && schema.Equal(o.Value, before) }) {
				t.Fatalf("%s: %v stood unseen and is gone; overwritten %v", f.Name, before, got.Overwritten)
			}
		}
	})
}
