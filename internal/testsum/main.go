package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: testsum ARGUMENTS-OF-GO-TEST [, MORE-ARGUMENTS] ...\n\n"+
			"A comma that stands alone divides several runs, which are summed up together:\n"+
			"  testsum ./... , -race ./schema , -C tools/protodeps ./...")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	s := newSum(os.Stdout)
	var err error
	for _, args := range split(os.Args[1:]) {
		err = errors.Join(err, run(ctx, s, args))
	}
	ok := s.finish()
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// split divides at commas that stand alone.
func split(args []string) [][]string {
	runs := [][]string{nil}
	for _, a := range args {
		if a == "," {
			runs = append(runs, nil)
			continue
		}
		runs[len(runs)-1] = append(runs[len(runs)-1], a)
	}
	return runs
}

// run adds one `go test` to the sum. What failed is in the sum; its error is that go could not be run at all, or that
// it failed without a word about why.
func run(ctx context.Context, s *sum, args []string) error {
	// -C must come first.
	line := []string{"test", "-json"}
	if len(args) > 1 && args[0] == "-C" {
		line = []string{"-C", args[1], "test", "-json"}
		args = args[2:]
	}
	cmd := exec.CommandContext(ctx, "go", append(line, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	before := s.bad()
	readErr := s.read(out)
	err = cmd.Wait()
	if _, exited := errors.AsType[*exec.ExitError](err); exited && s.bad() > before {
		err = nil // the sum has it
	}
	return errors.Join(readErr, err)
}

// event is a line of `go test -json` (`go doc test2json`).
type event struct {
	Action      string
	Package     string
	ImportPath  string // with build-output and build-fail
	Test        string
	Output      string
	Elapsed     float64 // seconds
	FailedBuild string
}

// limit bounds the output that is kept of one test.
const limit = 256 << 10

type key struct{ pkg, test string }

// sum is what is known of the tests so far.
type sum struct {
	w                       io.Writer
	output                  map[key]*strings.Builder // of what has not passed yet
	lines                   map[string][]string      // by package: a line for each finished test of the top level
	failures                []string                 // what failed, with its output, to be told again at the end
	passed, failed, skipped int
	broken                  int // packages that were not built, or failed outside their tests
}

func newSum(w io.Writer) *sum {
	return &sum{w: w, output: map[key]*strings.Builder{}, lines: map[string][]string{}}
}

func (s *sum) bad() int { return s.failed + s.broken }

// read takes in a whole stream of events.
func (s *sum) read(r io.Reader) error {
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) == nil && e.Action != "" {
				s.take(e)
			} else {
				fmt.Fprint(s.w, string(line)) // go itself speaks
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (s *sum) take(e event) {
	if e.Package == "" {
		e.Package = e.ImportPath
	}
	k := key{e.Package, e.Test}
	switch e.Action {
	case "output", "build-output":
		s.keep(k, e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			s.packageEnds(e)
		} else {
			s.testEnds(e)
		}
	}
}

// keep remembers output, also for the tests above it, whose failure it may explain.
func (s *sum) keep(k key, text string) {
	for {
		b := s.output[k]
		if b == nil {
			b = &strings.Builder{}
			s.output[k] = b
		}
		if b.Len() < limit {
			b.WriteString(text)
		}
		up := strings.LastIndexByte(k.test, '/')
		if up < 0 {
			return
		}
		k.test = k.test[:up]
	}
}

func (s *sum) testEnds(e event) {
	k := key{e.Package, e.Test}
	top := !strings.Contains(e.Test, "/")
	fate := strings.ToUpper(e.Action)
	line := fmt.Sprintf("--- %s: %s (%.2fs)", fate, e.Test, e.Elapsed)
	switch e.Action {
	case "pass":
		s.passed++
	case "skip":
		s.skipped++
	case "fail":
		s.failed++
		if top { // with the output of all below it
			s.failures = append(s.failures, e.Package+"\n"+s.text(k))
		}
	}
	if top {
		s.lines[e.Package] = append(s.lines[e.Package], line)
	}
	delete(s.output, k)
}

func (s *sum) text(k key) string {
	if b := s.output[k]; b != nil {
		return b.String()
	}
	return ""
}

func (s *sum) packageEnds(e event) {
	lines := s.lines[e.Package]
	delete(s.lines, e.Package)
	own := s.text(key{e.Package, ""})
	failedTests := false
	for _, l := range lines {
		fmt.Fprintln(s.w, l)
		failedTests = failedTests || strings.HasPrefix(l, "--- FAIL")
	}
	switch {
	case e.Action == "fail":
		fmt.Fprintf(s.w, "FAIL\t%s\t%.3fs\n", e.Package, e.Elapsed)
		if !failedTests { // it was not built, panicked, or ran out of time
			s.broken++
			var all strings.Builder
			all.WriteString(own)
			for k, b := range s.output {
				if k.test != "" && k.pkg == e.Package || e.FailedBuild != "" && k.pkg == e.FailedBuild {
					all.WriteString(b.String())
				}
			}
			s.failures = append(s.failures, e.Package+"\n"+all.String())
		}
	case len(lines) == 0:
		fmt.Fprintf(s.w, "?   \t%s\t[no tests ran]\n", e.Package)
	default:
		fmt.Fprintf(s.w, "ok  \t%s\t%.3fs\n", e.Package, e.Elapsed)
	}
	for k := range s.output {
		if k.pkg == e.Package {
			delete(s.output, k)
		}
	}
}

// finish tells what failed and the counts, and whether all is well.
func (s *sum) finish() bool {
	for _, f := range s.failures {
		fmt.Fprintf(s.w, "\n=== FAILED %s\n", strings.TrimRight(f, "\n"))
	}
	if s.broken > 0 {
		fmt.Fprintf(s.w, "\n%d packages failed outside their tests (not built, panicked, or out of time)\n", s.broken)
	}
	if s.skipped > 0 {
		fmt.Fprintf(s.w, "%d skipped\n", s.skipped)
	}
	fmt.Fprintf(s.w, "%d passed, %d failed\n", s.passed, s.failed+s.broken)
	return s.failed == 0 && s.broken == 0 && s.passed > 0
}
