package satchel_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/satchel-sync/satchel"

// floors lists the packages from the ground up. Imports go down only, and packages of one floor do not import each
// other, but for the exceptions in below.
var floors = [][]string{
	{"", "schema", "calendar", "internal/expr", "internal/pg", "internal/devpg", "internal/mutant", "migrations", "gen", "web"},
	{"access", "internal/jobs", "internal/wechat"},
	{"syncengine"},
	{"identity", "sales", "rules", "approval", "media", "push", "query", "desk"},
	{"server"},
	{"internal/app"},
	{"cmd/satchel"},
}

// below are the imports inside one floor that the design allows.
var below = map[string][]string{
	"schema":         {"internal/expr"},
	"internal/pg":    {},
	"internal/devpg": {},
	"migrations":     {},
}

// vendors says which packages may import a vendor's module: one, but for drivers that a second needs.
var vendors = map[string][]string{
	"github.com/google/cel-go":           {"internal/expr"},
	"github.com/goccy/go-yaml":           {"schema"},
	"github.com/riverqueue/river":        {"internal/jobs", "migrations"},
	"github.com/minio/minio-go":          {"media"},
	"firebase.google.com/go":             {"push"},
	"connectrpc.com/":                    {"server", "gen", "clients/go", "internal/bench", "cmd/satchel-lab", "conformance"},
	"github.com/alecthomas/kong":         {"cmd/satchel", "cmd/satchel-lab"},
	"modernc.org/sqlite":                 {"clients/go"},
	"github.com/prometheus":              {"server"},
	"github.com/bep/imagemeta":           {"media"},
	"github.com/gabriel-vasile/mimetype": {"media"},
	"golang.org/x/crypto":                {"identity"},
	"github.com/pressly/goose":           {"migrations"},
}

// laboratory lists what no package that serve reaches may import: fakes, test kits, generators.
var laboratory = []string{"internal/pgtest", "internal/fakes", "internal/sim", "internal/nemesis", "internal/bench", "clients/go", "internal/story", "conformance",
	"internal/demodata", "internal/demoorg"}

// larger are packages of more than 15 files, each with its reason in docs/decisions.
var larger = map[string]int{
	"syncengine": 24, // 0011: one transaction, one door
}

// source is one package's own source, tests left out.
type source struct {
	dir     string // slash path below the root; "" is the root package
	files   []string
	imports map[string]string // import path → a file that has it
	hasDoc  bool
	main    bool
}

func sources(t *testing.T) map[string]*source {
	t.Helper()
	out := map[string]*source{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			name := d.Name()
			if path != "." && (strings.HasPrefix(name, ".") || slices.Contains([]string{"var", "bin", "node_modules", "testdata", "tools"}, name)) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		dir := filepath.ToSlash(filepath.Dir(path))
		if dir == "." {
			dir = ""
		}
		s := out[dir]
		if s == nil {
			s = &source{dir: dir, imports: map[string]string{}}
			out[dir] = s
		}
		s.files = append(s.files, path)
		s.hasDoc = s.hasDoc || f.Doc != nil
		s.main = s.main || f.Name.Name == "main"
		for _, imp := range f.Imports {
			s.imports[strings.Trim(imp.Path.Value, `"`)] = path
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// inFolder tells whether a package lies in one of the folders.
func inFolder(dir string, folders []string) bool {
	for _, f := range folders {
		if dir == f || f != "" && strings.HasPrefix(dir, f+"/") {
			return true
		}
	}
	return false
}

func floorOf(dir string) int {
	for i, floor := range floors {
		if inFolder(dir, floor) {
			return i
		}
	}
	return -1
}

func TestImportsGoDownOnly(t *testing.T) {
	for dir, s := range sources(t) {
		from := floorOf(dir)
		if from < 0 || inFolder(dir, laboratory) {
			continue
		}
		for imp, file := range s.imports {
			to, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			to = strings.TrimPrefix(to, "/")
			if to == "" || inFolder(to, []string{"gen"}) && from >= 4 {
				continue // anybody may import the words; the edge speaks the contract
			}
			if inFolder(to, laboratory) && !inFolder(dir, []string{"cmd/satchel"}) {
				t.Errorf("%s imports %s, which the product does not hold", file, to)
				continue
			}
			family := strings.HasPrefix(to, dir+"/") || strings.HasPrefix(dir, to+"/") || inFolder(dir, []string{"gen"})
			if f := floorOf(to); f >= from && !family && !slices.Contains(below[dir], to) {
				t.Errorf("%s (floor %d) imports %s (floor %d)", file, from, to, f)
			}
		}
	}
}

func TestOneVendorHasOneImportingPackage(t *testing.T) {
	for dir, s := range sources(t) {
		for imp, file := range s.imports {
			for vendor, allowed := range vendors {
				if strings.HasPrefix(imp, vendor) && !inFolder(dir, allowed) {
					t.Errorf("%s imports %s, which only %v may", file, imp, allowed)
				}
			}
		}
	}
}

func TestTheProductLinksNoSQLite(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "./cmd/satchel").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, pkg := range strings.Fields(string(out)) {
		if strings.HasPrefix(pkg, "modernc.org/sqlite") || strings.HasSuffix(pkg, "internal/pgtest") {
			t.Errorf("cmd/satchel links %s", pkg)
		}
	}
}

func TestTheRootPackageHoldsWordsOnly(t *testing.T) {
	for imp, file := range sources(t)[""].imports {
		if strings.Contains(imp, ".") && imp != "github.com/google/uuid" {
			t.Errorf("%s imports %s", file, imp)
		}
	}
}

func TestEnvironmentIsReadInCmdOnly(t *testing.T) {
	for dir, s := range sources(t) {
		if inFolder(dir, []string{"cmd", "internal/pgtest"}) {
			continue
		}
		for _, file := range s.files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, call := range []string{"os.Getenv(", "os.LookupEnv(", "os.Environ("} {
				if strings.Contains(string(b), call) && dir != "internal/devpg" {
					t.Errorf("%s calls %s…)", file, call)
				}
			}
		}
	}
}

func TestPackagesSayWhatTheyAreFor(t *testing.T) {
	for dir, s := range sources(t) {
		if strings.HasPrefix(dir, "gen/") {
			continue
		}
		if !s.hasDoc {
			t.Errorf("%s has no package comment", dir)
		}
		if s.main || strings.HasPrefix(dir, "clients/go/") || strings.Contains(dir, "test") {
			continue
		}
		name := filepath.Join(filepath.FromSlash(dir), "doc.go")
		b, err := os.ReadFile(name)
		if err != nil {
			t.Errorf("%s: %v", dir, err)
			continue
		}
		for _, word := range []string{"owns:", "promises:", "may import:", "start reading at:"} {
			if !strings.Contains(string(b), word) {
				t.Errorf("%s does not say %q", name, word)
			}
		}
	}
}

func TestSizesAreBounded(t *testing.T) {
	for dir, s := range sources(t) {
		if strings.HasPrefix(dir, "gen/") {
			continue
		}
		most := 15
		if n, ok := larger[dir]; ok {
			most = n
		}
		if len(s.files) > most {
			t.Errorf("%s has %d files, at most %d", dir, len(s.files), most)
		}
		for _, file := range s.files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(b), "\n"); n > 500 {
				t.Errorf("%s has %d lines, at most 500", file, n)
			}
		}
	}
}
