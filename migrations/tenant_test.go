package migrations_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/satchel-sync/satchel/internal/pgtest"
)

// withoutTenant are the tables that belong to no organisation, each with its reason.
var withoutTenant = map[string]string{
	"setup_code":       "the one-time code of a server that has no organisation yet",
	"line":             "the line of the log that the whole database is on",
	"goose_db_version": "the migrations that were run",
}

func TestEveryTenantTablesKeyBeginsWithOrgID(t *testing.T) {
	t.Parallel()
	rows, err := pgtest.New(t).Query(t.Context(), `
		SELECT c.relname, coalesce((SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
		  WHERE i.indrelid = c.oid AND i.indisprimary), '')
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND c.relname NOT LIKE 'river\_%' ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	tables := 0
	var table, first string
	if _, err := pgx.ForEachRow(rows, []any{&table, &first}, func() error {
		tables++
		if _, ok := withoutTenant[table]; !ok && first != "org_id" {
			t.Errorf("the key of table %s begins with %q", table, first)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if tables < 20 {
		t.Errorf("only %d tables were looked at", tables)
	}
}

func TestIndexesOfTenantTablesBeginWithOrgID(t *testing.T) {
	t.Parallel()
	rows, err := pgtest.New(t).Query(t.Context(), `
		SELECT i.indexrelid::regclass::text, coalesce(a.attname, '') FROM pg_index i
		JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_attribute o ON o.attrelid = c.oid AND o.attname = 'org_id'
		LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
		WHERE n.nspname = 'public' AND c.relname NOT LIKE 'river\_%'`)
	if err != nil {
		t.Fatal(err)
	}
	var index, first string
	if _, err := pgx.ForEachRow(rows, []any{&index, &first}, func() error {
		if first != "org_id" && index != "org_slug_key" { // by which sign-in finds the organisation
			t.Errorf("index %s begins with %q", index, first)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// acrossTenants are the statements that may look past one organisation, each with its reason.
var acrossTenants = map[string]string{
	"identity":                   "sign-in finds an organisation by its slug before it knows its id; the set-up code belongs to none",
	"doctor":                     "the operator's command looks at the whole database",
	"jobs":                       "River's tables have no tenant; the organisation is in each job's arguments, and Enqueue demands it",
	"migrations":                 "the shape of the database",
	"pg":                         "the settings of a connection",
	"syncengine.CheckLine":       "the line of the log is the whole database's",
	"syncengine.WatchLine":       "the line of the log is the whole database's",
	"syncengine.OpenEpoch":       "a restored database is restored for all",
	"syncengine.OpenEpochSeen":   "a restored database is restored for all",
	"syncengine.OrgsUnsupported": "a server that starts looks whose work it may understand now",
	"syncengine.Orgs":            "every organisation is tidied",
}

// named matches a statement's name, such as "-- syncengine.Heads".
var named = regexp.MustCompile(`^-- ([a-z]+)\.([A-Za-z]+)\n`)

func TestEveryStatementFixesOneOrganisation(t *testing.T) {
	t.Parallel()
	statements := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains([]string{"var", "node_modules", "tools", "gen", ".git", "bench", "cmd"}, d.Name()) {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			expr, ok := n.(ast.Expr)
			if !ok {
				return true
			}
			sql, ok := text(expr)
			if !ok || !named.MatchString(sql) {
				return true
			}
			name := named.FindStringSubmatch(sql)
			if strings.TrimSpace(strings.TrimPrefix(sql, name[0])) == "" {
				return true // the head of a statement that is put together
			}
			statements++
			_, may := acrossTenants[name[1]]
			_, one := acrossTenants[name[1]+"."+name[2]]
			if !may && !one && !strings.Contains(sql, "org_id") && !strings.Contains(sql, "satchel_number($1") {
				t.Errorf("%s: statement %s.%s does not speak of org_id", path, name[1], name[2])
			}
			return false
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if statements < 60 {
		t.Errorf("only %d statements were looked at", statements)
	}
}

// text gives the literal parts of a string expression, put together.
func text(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		return s, err == nil && e.Kind == token.STRING
	case *ast.BinaryExpr:
		x, ok := text(e.X)
		y, _ := text(e.Y)
		return x + y, ok && e.Op == token.ADD
	}
	return "", false
}
