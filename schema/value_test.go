package schema_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/schema"
)

func num(s string) json.Number { return json.Number(s) }

// decoded reads a JSON value as DecodeFields does.
func decoded(t *testing.T, text string) any {
	t.Helper()
	m, err := schema.DecodeFields([]byte(`{"v":` + text + `}`))
	if err != nil {
		t.Fatal(err)
	}
	return m["v"]
}

func TestEachTypeTakesItsValuesInOneForm(t *testing.T) {
	t.Parallel()
	choice := schema.Field{Type: schema.Choice, Choices: []string{"a", "b"}}
	for _, c := range []struct {
		field     schema.Field
		in, wants string
	}{
		{schema.Field{Type: schema.Text}, `""`, `""`},
		{schema.Field{Type: schema.Text}, `"华东 ☂ 🙂"`, `"华东 ☂ 🙂"`},
		{schema.Field{Type: schema.Text}, `"` + strings.Repeat("字", 500) + `"`, `"` + strings.Repeat("字", 500) + `"`},
		{schema.Field{Type: schema.LongText}, `"a\nb\tc"`, `"a\nb\tc"`},
		{schema.Field{Type: schema.Integer}, `0`, `0`},
		{schema.Field{Type: schema.Integer}, `-0`, `0`},
		{schema.Field{Type: schema.Integer}, `1.0`, `1`},
		{schema.Field{Type: schema.Integer}, `12e2`, `1200`},
		{schema.Field{Type: schema.Integer}, `-9223372036854775808`, `-9223372036854775808`},
		{schema.Field{Type: schema.Integer}, `9223372036854775807`, `9223372036854775807`},
		{schema.Field{Type: schema.Decimal}, `100.00`, `100`},
		{schema.Field{Type: schema.Decimal}, `1.50e2`, `150`},
		{schema.Field{Type: schema.Decimal}, `-0.000001`, `-0.000001`},
		{schema.Field{Type: schema.Decimal}, `0.0`, `0`},
		{schema.Field{Type: schema.Decimal}, `999999999999999999.999999`, `999999999999999999.999999`},
		{schema.Field{Type: schema.Boolean}, `true`, `true`},
		{schema.Field{Type: schema.Boolean}, `false`, `false`},
		{schema.Field{Type: schema.Date}, `"2024-02-29"`, `"2024-02-29"`},
		{schema.Field{Type: schema.DateTime}, `"2026-11-21T08:00:00Z"`, `"2026-11-21T08:00:00.000Z"`},
		{schema.Field{Type: schema.DateTime}, `"2026-11-21T08:00:00.123999+08:00"`, `"2026-11-21T00:00:00.123Z"`},
		{choice, `"b"`, `"b"`},
		{schema.Field{Type: schema.Set}, `[]`, `[]`},
		{schema.Field{Type: schema.Set}, `["b","a","b"]`, `["a","b"]`},
		{schema.Field{Type: schema.Reference}, `"01939F2C-0000-7000-8000-00000000ABCD"`, `"01939f2c-0000-7000-8000-00000000abcd"`},
		{schema.Field{Type: schema.Geo}, `{"lat":31.23,"lng":121.47,"datum":"gcj02"}`, `{"lat":31.23,"lng":121.47,"datum":"gcj02"}`},
		{schema.Field{Type: schema.Geo}, `{"lat":-90,"lng":180,"datum":"wgs84","accuracy_m":0}`, `{"lat":-90,"lng":180,"datum":"wgs84","accuracy_m":0}`},
		{schema.Field{Type: schema.JSON}, `{"a":[1,null,{"b":false}]}`, `{"a":[1,null,{"b":false}]}`},
	} {
		got, err := schema.Canonical(&c.field, decoded(t, c.in))
		if err != nil {
			t.Errorf("%s %.40s: %v", c.field.Type, c.in, err)
			continue
		}
		if text, err := json.Marshal(got); err != nil || !sameText(t, string(text), c.wants) {
			t.Errorf("%s %.40s became %.60s, want %.60s", c.field.Type, c.in, text, c.wants)
		}
		again, err := schema.Canonical(&c.field, got)
		if err != nil || !schema.Equal(again, got) {
			t.Errorf("%s %.40s: the canonical form is not its own canonical form", c.field.Type, c.in)
		}
	}
}

// sameText compares spellings, but for the order of keys.
func sameText(t *testing.T, a, b string) bool {
	t.Helper()
	if strings.HasPrefix(a, "{") {
		return schema.Equal(decoded(t, a), decoded(t, b))
	}
	return a == b
}

func TestEachTypeRefusesWhatItIsNot(t *testing.T) {
	t.Parallel()
	elements := make([]string, 501)
	for i := range elements {
		elements[i] = fmt.Sprintf("%q", fmt.Sprint(i))
	}
	for typ, values := range map[schema.Type][]string{
		schema.Text:      {`1`, `true`, `[]`, `{}`, `"two\nlines"`, `"a\u0007b"`, `"` + strings.Repeat("x", 501) + `"`},
		schema.LongText:  {`7`, `"` + strings.Repeat("x", 20_001) + `"`},
		schema.Integer:   {`"1"`, `1.5`, `9223372036854775808`, `-9223372036854775809`, `1e30`, `true`},
		schema.Decimal:   {`"1.5"`, `0.0000001`, `1000000000000000000`, `1e50`, `[1]`},
		schema.Boolean:   {`"true"`, `0`, `1`},
		schema.Date:      {`"2026-02-30"`, `"2026-1-1"`, `"21.11.2026"`, `"2026-11-21T00:00:00Z"`, `"0000-01-01"`, `20261121`},
		schema.DateTime:  {`"2026-11-21"`, `"2026-11-21T08:00:00"`, `"2026-11-21 08:00:00Z"`, `"2026-13-01T00:00:00Z"`, `1700000000`},
		schema.Choice:    {`"c"`, `""`, `1`, `["a"]`},
		schema.Set:       {`"a"`, `[1]`, `[""]`, `[null]`, `["` + strings.Repeat("x", 201) + `"]`, `[` + strings.Join(elements, ",") + `]`},
		schema.Reference: {`""`, `"7"`, `"{01939f2c-0000-7000-8000-00000000abcd}"`, `"00000000-0000-0000-0000-000000000000"`, `1`},
		schema.Geo: {`"31,121"`, `{}`, `{"lat":91,"lng":0,"datum":"wgs84"}`, `{"lat":0,"lng":181,"datum":"wgs84"}`,
			`{"lat":0,"lng":0}`, `{"lat":0,"lng":0,"datum":"moon"}`, `{"lat":"0","lng":0,"datum":"wgs84"}`,
			`{"lat":0,"lng":0,"datum":"wgs84","accuracy_m":-1}`, `{"lat":0,"lng":0,"datum":"wgs84","accuracy_m":null}`,
			`{"lat":0,"lng":0,"datum":"wgs84","height":3}`},
		schema.JSON: {`"` + strings.Repeat("x", 65_536) + `"`, `[` + strings.Repeat("1,", 40_000) + `1]`},
	} {
		for _, text := range values {
			f := schema.Field{Type: typ}
			if typ == schema.Choice {
				f.Choices = []string{"a", "b"}
			}
			if got, err := schema.Canonical(&f, decoded(t, text)); err == nil {
				t.Errorf("%s takes %.60s as %.60v", typ, text, got)
			}
		}
	}
}

func TestAValueOfNoJSONTypeIsRefusedEverywhere(t *testing.T) {
	t.Parallel()
	for _, typ := range []schema.Type{schema.Text, schema.Integer, schema.Decimal, schema.Boolean, schema.Date, schema.DateTime,
		schema.Choice, schema.Set, schema.Reference, schema.Geo, schema.JSON} {
		if _, err := schema.Canonical(&schema.Field{Type: typ}, struct{}{}); err == nil {
			t.Errorf("%s takes a struct", typ)
		}
	}
	for _, v := range []any{"a\x00b", "a\xffb", map[string]any{"a\x00": true}, num("1e99999"), num("x")} {
		if _, err := schema.Canonical(&schema.Field{Type: schema.JSON}, v); err == nil {
			t.Errorf("json takes %q", v)
		}
	}
}

func TestAMaximalLengthCountsCharactersNotBytes(t *testing.T) {
	t.Parallel()
	f := schema.Field{Type: schema.Text, MaxLength: 3}
	if _, err := schema.Canonical(&f, "客户名"); err != nil {
		t.Error(err)
	}
	if _, err := schema.Canonical(&f, "客户名称"); err == nil {
		t.Error("four characters were taken")
	}
}

func TestCheckingFieldsPutsThemInTheirCanonicalForm(t *testing.T) {
	t.Parallel()
	account := pack(t).Kind("account")
	fields := map[string]any{"tags": []any{"b", "a"}, "credit_limit": num("1.50"), "remark": nil}
	if p := account.CheckFields(fields); p != nil {
		t.Fatalf("%+v", p)
	}
	if !schema.Equal(fields["tags"], []any{"a", "b"}) || fields["credit_limit"] != num("1.5") {
		t.Errorf("got %v", fields)
	}
	if v, ok := fields["remark"]; !ok || v != nil {
		t.Errorf("the null that clears a field became %v, %v", v, ok)
	}
}

func TestUnknownFieldsAndWrongValuesAreNamed(t *testing.T) {
	t.Parallel()
	account := pack(t).Kind("account")
	p := account.CheckFields(map[string]any{"zebra": true, "apple": true, "level": "z"})
	if p == nil || p.Reason != satchel.ReasonUnknownField || !slices.Equal(p.Paths, []string{"apple", "zebra"}) {
		t.Errorf("got %+v", p)
	}
	p = account.CheckFields(map[string]any{"level": "secret-value", "tags": "t", "name": "ok"})
	if p == nil || p.Reason != satchel.ReasonBadValue || !slices.Equal(p.Paths, []string{"level", "tags"}) || strings.Contains(p.Detail, "secret-value") {
		t.Errorf("got %+v", p)
	}
	many := map[string]any{}
	for i := range 100 {
		many[strings.Repeat("长", 300)+fmt.Sprint(i)] = true
	}
	if p = account.CheckFields(many); len(p.Paths) != 20 || len([]rune(p.Paths[0])) != 200 {
		t.Errorf("%d paths, the first of %d characters", len(p.Paths), len([]rune(p.Paths[0])))
	}
}

func TestARecordWithoutARequiredValueIsInvalid(t *testing.T) {
	t.Parallel()
	account := pack(t).Kind("account")
	owner := satchel.NewID().String()
	for name, data := range map[string]map[string]any{
		"absent": {"owner": owner}, "null": {"owner": owner, "name": nil}, "white space": {"owner": owner, "name": " \t"},
	} {
		p := account.Invalid(data)
		if p == nil || p.Reason != satchel.ReasonInvalid || !slices.Equal(p.Paths, []string{"name"}) {
			t.Errorf("%s: %+v", name, p)
		}
	}
	if p := account.Invalid(map[string]any{"owner": owner, "name": "Acme"}); p != nil {
		t.Errorf("a valid record: %+v", p)
	}
}

func TestARecordThatBreaksACheckIsInvalid(t *testing.T) {
	t.Parallel()
	visit := pack(t).Kind("visit")
	data := map[string]any{"account": satchel.NewID().String(), "subject": "s"}
	for value, valid := range map[string]bool{"0": false, "1": true, "5": true, "6": false} {
		data["satisfaction"] = num(value)
		if p := visit.Invalid(data); (p == nil) != valid || (p != nil && !slices.Equal(p.Paths, []string{"satisfaction"})) {
			t.Errorf("satisfaction %s: %+v", value, p)
		}
	}
	photo := pack(t).Kind("photo")
	for blob, valid := range map[string]bool{strings.Repeat("ab", 32): true, strings.Repeat("AB", 32): false, "ab": false} {
		if p := photo.Invalid(map[string]any{"visit": satchel.NewID().String(), "blob": blob}); (p == nil) != valid {
			t.Errorf("blob %s: %+v", blob, p)
		}
	}
}

func TestDefaultsAreANewMapEachTime(t *testing.T) {
	t.Parallel()
	quote := pack(t).Kind("quote")
	quote.Defaults()["currency"] = "USD"
	if got := quote.Defaults(); got["currency"] != "CNY" || got["approval_state"] != "draft" || len(got) != 2 {
		t.Errorf("got %v", got)
	}
}
