// Package js_test runs the tests of the JavaScript: each workspace of package.json is type checked and built, with its
// limits of size, and each test of its vitest is a test here, so that one command runs and counts all there are.
package js_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	// root is the repository's folder, seen from here.
	root = "../.."
	// installTime bounds fetching what package-lock.json names.
	installTime = 15 * time.Minute
	// runTime bounds a type check or a build.
	runTime = 10 * time.Minute
	// suiteTime bounds the tests of one workspace.
	suiteTime = 25 * time.Minute
)

// inBrowsers are the tests that start Chromium: all but -short runs them.
var inBrowsers = []string{"**/*.browser.test.ts", "**/e2e/**"}

// workspace is one of package.json's.
type workspace struct {
	dir     string
	Name    string            `json:"name"`
	Scripts map[string]string `json:"scripts"`
}

// TestEachWorkspaceIsSoundTypeScriptOfItsSize type checks and builds: a build fails when what it made is too large.
func TestEachWorkspaceIsSoundTypeScriptOfItsSize(t *testing.T) {
	for _, w := range workspaces(t) {
		t.Run(w.dir, func(t *testing.T) {
			if w.Scripts["check"] != "" {
				t.Run("check", func(t *testing.T) { script(t, "run", "npm", "run", "--silent", "check", "-w", w.Name) })
			}
			switch {
			case w.dir == "web": // embedded by packages that may be compiled just now: built only when it is stale
				t.Run("build", func(t *testing.T) { t.Log(script(t, "web")) })
			case w.Scripts["build"] != "":
				t.Run("build", func(t *testing.T) { t.Log(script(t, "run", "npm", "run", "--silent", "build", "-w", w.Name)) })
			}
		})
	}
}

// TestEachTestOfVitestPasses makes a test of each of vitest's: workspace, file, name.
func TestEachTestOfVitestPasses(t *testing.T) {
	all := 0
	ws := workspaces(t)
	bin, err := filepath.Abs(filepath.Join(t.TempDir(), "satchel"))
	if err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", bin, "./cmd/satchel")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("the server that they speak to: %v\n%s", err, out)
	}
	t.Setenv("SATCHEL_BIN", bin)
	for _, w := range ws {
		if w.Scripts["test"] == "" {
			continue
		}
		t.Run(w.dir, func(t *testing.T) { all += suite(t, w) })
	}
	if all == 0 {
		t.Error("no test ran")
	}
}

// report is what vitest's JSON reporter writes, as far as it is read here.
type report struct {
	Success     bool
	TestResults []struct {
		Name             string // the file
		Status           string
		Message          string
		AssertionResults []struct {
			AncestorTitles  []string
			Title           string
			Status          string
			FailureMessages []string
		}
	}
}

// suite runs a workspace's tests and gives their number.
func suite(t *testing.T, w workspace) int {
	t.Helper()
	file := filepath.Join(t.TempDir(), "report.json")
	args := []string{"run", "vitest", "run", "--root", filepath.FromSlash(w.dir), "--reporter=json", "--reporter=dot", "--outputFile.json=" + file}
	if testing.Short() {
		for _, glob := range inBrowsers {
			args = append(args, "--exclude", glob)
		}
	}
	out, failed := attempt(suiteTime, args...)
	var r report
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		t.Fatalf("vitest gave no report: %v\n%v\n%s", err, failed, out)
	}
	n := 0
	dir, err := filepath.Abs(filepath.Join(root, w.dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.TestResults {
		name, err := filepath.Rel(dir, f.Name)
		if err != nil {
			name = f.Name
		}
		t.Run(filepath.ToSlash(name), func(t *testing.T) {
			if f.Status != "passed" && f.Message != "" {
				t.Error(f.Message) // it could not be loaded, or a hook failed
			}
			for _, a := range f.AssertionResults {
				n++
				t.Run(strings.Join(append(a.AncestorTitles, a.Title), " "), func(t *testing.T) {
					if a.Status != "passed" {
						t.Errorf("%s\n%s", a.Status, strings.Join(a.FailureMessages, "\n"))
					}
				})
			}
		})
	}
	if failed != nil && !t.Failed() { // such as an error that no test owns
		t.Errorf("vitest: %v\n%s", failed, out)
	}
	if n == 0 {
		t.Error("no test ran")
	}
	return n
}

// workspaces reads package.json's list, with what each is called and can do. The first call installs node_modules.
func workspaces(t *testing.T) []workspace {
	t.Helper()
	uncached(t)
	if out, err := attempt(installTime, "deps"); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	var all struct{ Workspaces []string }
	readJSON(t, filepath.Join(root, "package.json"), &all)
	var ws []workspace
	for _, dir := range all.Workspaces {
		w := workspace{dir: dir}
		readJSON(t, filepath.Join(root, dir, "package.json"), &w)
		ws = append(ws, w)
	}
	if len(ws) == 0 {
		t.Fatal("package.json names no workspaces")
	}
	return ws
}

// uncached keeps `go test` from giving yesterday's result: it knows which files a test itself opens, and not those that
// Node does. A file that was just written is none that it goes by.
func uncached(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		name := filepath.Join(root, "var", "js.tested")
		err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, nil, 0o644))
		if _, readErr := os.ReadFile(name); err != nil || readErr != nil {
			t.Error(err, readErr)
		}
	})
}

func readJSON(t *testing.T, name string, into any) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// script runs scripts/js, which must succeed, and gives what it said.
func script(t *testing.T, args ...string) string {
	t.Helper()
	out, err := attempt(runTime, args...)
	if err != nil {
		t.Fatalf("scripts/js %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// attempt runs scripts/js and gives what it said on both outputs.
func attempt(limit time.Duration, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join("scripts", "js"), args...)
	cmd.Dir = root
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // so that what it started ends, too
	cmd.WaitDelay = 10 * time.Second
	cmd.Env = append(os.Environ(), "CI=1", "NO_COLOR=1")
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = fmt.Errorf("not done within %v: %w", limit, err)
	}
	return string(out), err
}
