package expr_test

import (
	"encoding/json"
	"testing"

	"github.com/satchel-sync/satchel/internal/expr"
)

func TestAConditionMayUseAVariableAsAWhole(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]bool{
		`size(new) == 3`:                                     true,
		`"b" in new`:                                         true,
		`new.all(k, k in ["a", "b", "list"])`:                true,
		`new["a"] == 1 && new.b == "x"`:                      true,
		`new.list.exists(e, e == new.b)`:                     true,
		`has(new.missing) || new.a == 1`:                     true,
		`[1, 2].exists(new, new == 2)`:                       true,
		`has(new.a) && !has(new.missing) && new.list[0] > 3`: false,
	} {
		c, err := expr.Compile(source, "new")
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		got, err := c.True(map[string]map[string]any{"new": {"a": json.Number("1"), "b": "x", "list": []any{"x", "y"}}})
		if err == nil && got != want {
			t.Errorf("%s is %v", source, got)
		}
		if err != nil && want {
			t.Errorf("%s: %v", source, err)
		}
	}
}
