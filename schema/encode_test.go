package schema_test

import (
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/satchel-sync/satchel/schema"
)

func TestAppendJSONSpellsWhatEncodingJSONReads(t *testing.T) {
	t.Parallel()
	text := rapid.String().Filter(func(s string) bool { return !strings.ContainsRune(s, 0) }) // which no jsonb holds
	var value func(depth int) *rapid.Generator[any]
	value = func(depth int) *rapid.Generator[any] {
		leaves := []*rapid.Generator[any]{
			rapid.Just[any](nil), rapid.Bool().AsAny(), text.AsAny(),
			rapid.Custom(func(t *rapid.T) json.Number {
				return json.Number(rapid.StringMatching(`-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,9})?(e-?[0-9]{1,2})?`).Draw(t, "number"))
			}).AsAny(),
		}
		if depth == 0 {
			return rapid.OneOf(leaves...)
		}
		return rapid.OneOf(append(leaves,
			rapid.SliceOfN(value(depth-1), 0, 4).AsAny(), rapid.MapOfN(text, value(depth-1), 0, 4).AsAny())...)
	}
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.MapOfN(text, value(3), 0, 8).Draw(t, "object")
		got, err := schema.AppendJSON(nil, in)
		if err != nil {
			t.Fatal(err)
		}
		want, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		var a, b any
		if err := json.Unmarshal(got, &a); err != nil {
			t.Fatalf("%s: %v", got, err)
		}
		if err := json.Unmarshal(want, &b); err != nil {
			t.Fatal(err)
		}
		if x, _ := json.Marshal(a); string(x) != string(must(json.Marshal(b))) {
			t.Fatalf("%s is not %s", got, want)
		}
		back, err := schema.DecodeStored(got)
		if err != nil {
			t.Fatalf("%s: %v", got, err)
		}
		if !schema.Equal(back, b) && !schema.Equal(back, map[string]any(in)) {
			t.Fatalf("%s comes back as %v", got, back)
		}
	})
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}
