package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

func TestTheOperatorsPageHasEveryFlagWithItsVariableAndNoOther(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	parser, err := kong.New(&cli{})
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]string{} // variable → flag
	for _, leaf := range parser.Model.Leaves(false) {
		for _, group := range leaf.AllFlags(false) {
			for _, f := range group {
				if len(f.Envs) > 0 {
					known[f.Envs[0]] = f.Name
				}
			}
		}
	}
	if len(known) < 20 {
		t.Fatalf("only %d flags have a variable", len(known))
	}
	rows := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\| `--([a-z-]+)`").FindAllStringSubmatch(string(page), -1) {
		if strings.Contains(m[1], "_") {
			rows[m[1]] = m[2]
		}
	}
	for env, flag := range known {
		if rows[env] != flag {
			t.Errorf("docs/operations.md says that %s is --%s, and it is --%s", env, rows[env], flag)
		}
		delete(rows, env)
	}
	for env := range rows {
		t.Errorf("docs/operations.md has %s, which no flag reads", env)
	}
}
