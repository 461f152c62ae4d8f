package tests_test

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/errors.md anew")

const errorsHead = `# Reasons

Each failed call has one as a detail of its error, and each verdict that is not APPLIED has one. Clients branch on it. The texts are for people;
a call brings its text in the language of the Accept-Language header, for a verdict the app brings it along. [protocol.md](protocol.md) says what
the codes are and what to do.

Written by ` + "`go test ./tests -run ErrorsPage -update`" + ` from proto/satchel/v1/errors.proto and server/texts.go; the test fails where this page is not
what they give.
`

// firstOfVerdicts is the number from which on reasons are those of verdicts.
const firstOfVerdicts = 40

func TestTheErrorsPageIsWhatTheSourcesGive(t *testing.T) {
	t.Parallel()
	want := errorsPage(t)
	name := filepath.Join(root, "docs", "errors.md")
	if *update {
		if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/errors.md is not what the sources give; run: go test ./tests -run ErrorsPage -update")
	}
}

func errorsPage(t *testing.T) string {
	t.Helper()
	texts := reasonTexts(t)
	var b strings.Builder
	b.WriteString(errorsHead)
	const columns = "| reason | no. | meaning | zh-CN | en |\n|---|---|---|---|---|\n"
	b.WriteString("\n## Calls that failed\n\n" + columns)
	verdicts := false
	for _, r := range protoReasons(t) {
		if r.number == 0 {
			continue
		}
		if r.number >= firstOfVerdicts && !verdicts {
			verdicts = true
			b.WriteString("\n## Verdicts\n\nA verdict may also have MALFORMED, TOO_LARGE or INTERNAL from above.\n\n" + columns)
		}
		text, ok := texts[r.name]
		if !ok {
			t.Fatalf("server/texts.go has no texts of %s", r.name)
		}
		delete(texts, r.name)
		fmt.Fprintf(&b, "| `%s` | %d | %s | %s | %s |\n", r.name, r.number, r.meaning, text[0], text[1])
	}
	for name := range texts {
		t.Errorf("errors.proto has no reason %s", name)
	}
	return b.String()
}

type reason struct {
	name    string
	number  int
	meaning string
}

var reasonLine = regexp.MustCompile(`^  REASON_(\w+) = (\d+);$`)

// protoReasons reads the enum Reason with its comments.
func protoReasons(t *testing.T) []reason {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "proto", "satchel", "v1", "errors.proto"))
	if err != nil {
		t.Fatal(err)
	}
	var out []reason
	var comment []string
	for _, line := range strings.Split(string(text), "\n") {
		if words, ok := strings.CutPrefix(line, "  // "); ok {
			comment = append(comment, words)
			continue
		}
		if m := reasonLine.FindStringSubmatch(line); m != nil {
			n, err := strconv.Atoi(m[2])
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, reason{m[1], n, strings.Join(comment, " ")})
		}
		comment = nil
	}
	if len(out) < 40 {
		t.Fatalf("only %d reasons were found in errors.proto", len(out))
	}
	return out
}

// reasonTexts reads the table of server/texts.go: zh-CN and en by the reason as it is spelt on the wire.
func reasonTexts(t *testing.T) map[string][2]string {
	t.Helper()
	spelt := map[string]string{} // constant → value
	ast.Inspect(parse(t, "reason.go"), func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok && len(v.Values) == 1 {
			spelt[v.Names[0].Name] = literal(v.Values[0])
		}
		return true
	})
	out := map[string][2]string{}
	ast.Inspect(parse(t, "server", "texts.go"), func(n ast.Node) bool {
		c, ok := n.(*ast.CaseClause)
		if !ok || len(c.List) != 1 || len(c.Body) != 1 {
			return true
		}
		name, isReason := c.List[0].(*ast.SelectorExpr)
		ret, returns := c.Body[0].(*ast.ReturnStmt)
		if !isReason || !returns || len(ret.Results) != 1 {
			return true
		}
		if pair, ok := ret.Results[0].(*ast.CompositeLit); ok && len(pair.Elts) == 2 {
			out[spelt[name.Sel.Name]] = [2]string{literal(pair.Elts[0]), literal(pair.Elts[1])}
		}
		return true
	})
	return out
}

func parse(t *testing.T, path ...string) *ast.File {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(append([]string{root}, path...)...), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// literal gives the value of a string literal; "" = it is none.
func literal(e ast.Expr) string {
	l, ok := e.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return ""
	}
	s, err := strconv.Unquote(l.Value)
	if err != nil {
		return ""
	}
	return s
}
