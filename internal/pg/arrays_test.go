package pg_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/pgtest"
)

func TestArraysArriveAsTheyWereGiven(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	a, b := satchel.NewID(), satchel.NewID()
	for name, c := range map[string]struct {
		cast string
		in   any
		want string
	}{
		"texts":         {"text[]", []string{"a", "", `q"u,{}\`, "äöü 中文"}, `["a", "", "q\"u,{}\\", "äöü 中文"]`},
		"no texts":      {"text[]", []string{}, `[]`},
		"nil":           {"text[]", []string(nil), ``},
		"numbers":       {"bigint[]", []int64{0, -1, 1 << 62}, `[0, -1, 4611686018427387904]`},
		"truths":        {"boolean[]", []bool{true, false}, `[true, false]`},
		"ids":           {"uuid[]", []satchel.ID{a, b}, `["` + a.String() + `", "` + b.String() + `"]`},
		"ids and nulls": {"uuid[]", []any{a, nil}, `["` + a.String() + `", null]`},
		"text and null": {"text[]", []any{nil, "x"}, `[null, "x"]`},
		"number, null":  {"bigint[]", []any{int64(7), nil}, `[7, null]`},
	} {
		var got *string
		if err := pool.QueryRow(t.Context(), `SELECT to_jsonb($1::`+c.cast+`)::text`, c.in).Scan(&got); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		text := ""
		if got != nil {
			text = *got
		}
		if d := cmp.Diff(c.want, text); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	if err := pool.QueryRow(t.Context(), `SELECT $1::uuid[]`, []any{7}).Scan(new(any)); err == nil {
		t.Error("a number passed for an id")
	}
}
