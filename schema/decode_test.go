package schema_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"unicode/utf8"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/schema"
	"pgregory.net/rapid"
)

func TestFieldsAreDecodedAsTheyAre(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]map[string]any{
		"":                              {},
		" {\n} ":                        {},
		`{"a":1.50}`:                    {"a": num("1.50")},
		`{"a":-0}`:                      {"a": num("-0")},
		`{"a":1E+2}`:                    {"a": num("1E+2")},
		`{"a":"x\"\\\/\b\f\n\r\t"}`:     {"a": "x\"\\/\b\f\n\r\t"},
		`{"a":"\u5BA2\ud83d\ude42"}`:    {"a": "客🙂"},
		`{"a":"\\u0000 \\ud800"}`:       {"a": `\u0000 \ud800`},
		`{"a":"�"}`:                     {"a": "\uFFFD"},
		`{"a":[true,false,null,[],{}]}`: {"a": []any{true, false, nil, []any{}, map[string]any{}}},
		`{"":{"":""}}`:                  {"": map[string]any{"": ""}},
		`{"a":` + strings.Repeat("[", 15) + strings.Repeat("]", 15) + `}`: {"a": nested(15)},
	} {
		got, err := schema.DecodeFields([]byte(in))
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", want) {
			t.Errorf("%s: got %#v, want %#v", in, got, want)
		}
	}
}

func nested(depth int) any {
	v := []any{}
	for range depth - 1 {
		v = []any{v}
	}
	return v
}

func TestFieldsThatAreNotQuiteJSONAreRefusedNotMended(t *testing.T) {
	t.Parallel()
	for name, in := range map[string]string{
		"a list": `[]`, "a text": `"a"`, "null": `null`, "white space only": "  ", "nothing after the bracket": `{`,
		"something after the object": `{} {}`, "a key twice": `{"a":1,"a":1}`, "a key twice, spelt differently": `{"a":1,"\u0061":1}`,
		"a key twice inside": `{"x":{"a":1,"a":2}}`, "no quotes": `{a:1}`, "single quotes": `{'a':1}`, "a comma too many": `{"a":1,}`,
		"a comma too many in a list": `{"a":[1,]}`, "no colon": `{"a" 1}`, "a comment": `{"a":1/*x*/}`, "NaN": `{"a":NaN}`, "Infinity": `{"a":-Infinity}`,
		"a leading zero": `{"a":01}`, "a leading plus": `{"a":+1}`, "no digit after the point": `{"a":1.}`, "no digit before the point": `{"a":.5}`,
		"an empty exponent": `{"a":1e}`, "two signs": `{"a":1e+-1}`, "only a minus": `{"a":-}`, "a huge number": `{"a":1e400}`, "a tiny number": `{"a":1e-400}`,
		"an exponent beyond all bounds": `{"a":1e99999999999999999999}`, "a very long number": `{"a":` + strings.Repeat("1", 61) + `}`,
		"NUL escaped": `{"a":"\u0000"}`, "NUL in a key": `{"\u0000":1}`, "NUL raw": "{\"a\":\"\x00\"}", "NUL after the object": "{}\x00",
		"half a pair, high": `{"a":"\ud800"}`, "half a pair, low": `{"a":"\udc00x"}`, "a pair the wrong way round": `{"a":"\udc00\ud800"}`,
		"a high half and a letter": `{"a":"\ud800\u0041"}`, "half a pair in a key": `{"\uD83D":1}`, "half a pair in upper case": `{"a":"\uDBFF "}`,
		"half a pair as raw bytes": "{\"a\":\"\xed\xa0\x80\"}", "bytes that are not UTF-8": "{\"a\":\"\xff\"}", "an overlong form": "{\"a\":\"\xc0\x80\"}",
		"an unknown escape": `{"a":"\x41"}`, "a short escape": `{"a":"\u12"}`, "a control character": "{\"a\":\"\n\"}", "a text without end": `{"a":"b`, "an escape at the end": `{"a":"\`,
		"a byte order mark": "\ufeff{}", "a word in capitals": `{"a":True}`, "sixteen lists inside": `{"a":` + strings.Repeat("[", 16) + strings.Repeat("]", 16) + `}`,
	} {
		got, err := schema.DecodeFields([]byte(in))
		if satchel.ReasonOf(err) != satchel.ReasonBadValue || satchel.KindOf(err) != satchel.Invalid {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestTooManyBytesAndTooManyFieldsAreTooLarge(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for i := range 201 {
		fmt.Fprintf(&b, `,"f%d":1`, i)
	}
	for name, in := range map[string]string{
		"bytes":  `{"a":"` + strings.Repeat("x", 256<<10) + `"}`,
		"fields": "{" + b.String()[1:] + "}",
	} {
		if _, err := schema.DecodeFields([]byte(in)); satchel.ReasonOf(err) != satchel.ReasonTooLarge {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNumbersAreEqualByValue(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b any
		want bool
	}{
		{num("1.0"), num("1"), true}, {num("10e-1"), num("1"), true}, {num("0.1e+1"), 1, true}, {num("-0"), num("0.00e5"), true},
		{num("1"), num("-1"), false}, {num("9007199254740993"), num("9007199254740992"), false}, {num("0.1"), 0.1, true},
		{num("1e999999999"), num("10e999999998"), true}, {num("1e999999999"), num("1e999999998"), false},
		{num("100000000000000000000000000000.5"), num("100000000000000000000000000000.50"), true},
		{num("1"), "1", false}, {"1", num("1"), false}, {nil, nil, true}, {nil, false, false}, {false, nil, false}, {"", nil, false},
		{[]any{}, []any{}, true}, {[]any{}, map[string]any{}, false}, {[]any{num("1"), "a"}, []any{num("1.0"), "a"}, true},
		{[]any{"a", "b"}, []any{"b", "a"}, false}, {[]any{"a"}, []any{"a", "a"}, false},
		{map[string]any{"a": nil}, map[string]any{}, false}, {map[string]any{"a": nil}, map[string]any{"b": nil}, false},
		{map[string]any{"a": num("1"), "b": "x"}, map[string]any{"b": "x", "a": num("1.0")}, true},
		{num("abc"), num("ABC"), false}, {struct{}{}, struct{}{}, false},
	} {
		if got := schema.Equal(c.a, c.b); got != c.want {
			t.Errorf("Equal(%#v, %#v) = %v", c.a, c.b, got)
		}
		if got := schema.Equal(c.b, c.a); got != c.want {
			t.Errorf("Equal(%#v, %#v) = %v", c.b, c.a, got)
		}
	}
}

// anyJSON draws decoded JSON of up to the given depth.
func anyJSON(depth int) *rapid.Generator[any] {
	leaves := []*rapid.Generator[any]{
		rapid.Just[any](nil), rapid.Bool().AsAny(), rapid.StringN(0, 6, -1).Filter(func(s string) bool {
			return utf8.ValidString(s) && !strings.ContainsRune(s, 0)
		}).AsAny(),
		rapid.Custom(func(t *rapid.T) any {
			return num(rapid.StringMatching(`-?(0|[1-9][0-9]{0,5})(\.[0-9]{1,4})?([eE][+-]?[0-9])?`).Draw(t, "number"))
		}),
	}
	if depth > 0 {
		inner := rapid.Deferred(func() *rapid.Generator[any] { return anyJSON(depth - 1) })
		leaves = append(leaves,
			rapid.Map(rapid.SliceOfN(inner, 0, 4), func(l []any) any { return append([]any{}, l...) }),
			rapid.Map(rapid.MapOfN(rapid.StringMatching(`[a-z]{0,3}`), inner, 0, 4), func(m map[string]any) any { return m }))
	}
	return rapid.OneOf(leaves...)
}

// respell gives the same value with every number spelt otherwise.
func respell(v any) any {
	switch v := v.(type) {
	case json.Number:
		mantissa, exp, hasExp := strings.Cut(strings.ToLower(string(v)), "e")
		if !strings.Contains(mantissa, ".") {
			mantissa += ".0"
		}
		if !hasExp {
			exp = "0"
		}
		return num(mantissa + "00E" + exp)
	case []any:
		out := []any{}
		for i := range v {
			out = append(out, respell(v[i]))
		}
		return out
	case map[string]any:
		out := map[string]any{}
		for key := range v {
			out[key] = respell(v[key])
		}
		return out
	}
	return v
}

func TestAValueEqualsItselfHoweverItsNumbersAreSpelt(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := anyJSON(3).Draw(t, "value")
		if w := respell(v); !schema.Equal(v, w) || !schema.Equal(w, v) {
			t.Fatalf("%#v and %#v", v, w)
		}
	})
}

func TestNumbersAreEqualExactlyWhenTheirFractionsAre(t *testing.T) {
	t.Parallel()
	number := rapid.StringMatching(`-?(0|[1-9][0-9]?)(\.[0-9]{1,2})?([eE][+-]?[0-2])?`)
	rapid.Check(t, func(t *rapid.T) {
		a, b := number.Draw(t, "a"), number.Draw(t, "b")
		x, _ := new(big.Rat).SetString(a)
		y, _ := new(big.Rat).SetString(b)
		if got, want := schema.Equal(num(a), num(b)), x.Cmp(y) == 0; got != want {
			t.Fatalf("Equal(%s, %s) = %v", a, b, got)
		}
	})
}

func TestWhatIsDecodedAndEncodedAgainIsTheSame(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := map[string]any{"v": anyJSON(4).Draw(t, "value")}
		raw, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := schema.DecodeFields(raw)
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		if !schema.Equal(got, want) {
			t.Fatalf("%s became %#v", raw, got)
		}
	})
}

// What DecodeFields takes, encoding/json takes too and reads the same, and no text was replaced.
func FuzzDecodeFields(f *testing.F) {
	for _, seed := range []string{``, `{}`, `{"a":1.50,"b":[true,null,"\ud83d\ude42"],"c":{"d":"\u0041"}}`, `{"a":"\ud800"}`, `{"a":1,"a":2}`,
		"{\"a\":\"\xff\"}", `{"a":1e400}`, `{"a":"\u0000"}`, `{"a":[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]}`, `{"a":-0.0e-5}`, `{"a":"\\\"\/"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := schema.DecodeFields(raw)
		if err != nil {
			if r := satchel.ReasonOf(err); r != satchel.ReasonBadValue && r != satchel.ReasonTooLarge {
				t.Fatalf("%q: reason %q", raw, r)
			}
			return
		}
		if len(raw) == 0 {
			return
		}
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		var want map[string]any
		if err := d.Decode(&want); err != nil {
			t.Fatalf("%q: taken, but encoding/json says %v", raw, err)
		}
		if !schema.Equal(got, want) {
			t.Fatalf("%q: %#v, encoding/json reads %#v", raw, got, want)
		}
		text := fmt.Sprint(got)
		if strings.Contains(text, "\x00") {
			t.Fatalf("%q: a NUL came through", raw)
		}
		if strings.Contains(text, "\uFFFD") && !bytes.Contains(raw, []byte("\uFFFD")) && !bytes.Contains(bytes.ToLower(raw), []byte(`\ufffd`)) {
			t.Fatalf("%q: a character was replaced", raw)
		}
	})
}
