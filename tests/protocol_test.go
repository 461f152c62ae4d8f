package tests_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// whatever stands in an example for a value that must be there and differs each time.
const whatever = "…"

// example is a call as docs/protocol.md shows it.
type example struct {
	line    int // in the document, of its first line
	method  string
	path    string
	headers map[string]string
	body    string
	status  int
	most    int    // bytes of the answer; 0 = no bound
	answer  string // JSON; "" = not looked at
}

// TestTheExamplesOfTheProtocolHold executes every example of docs/protocol.md, and those of docs/media.md behind them, in
// order against the product. What an answer shows must be there and equal; {{name}} keeps a value at its first place and
// must equal it at the next.
func TestTheExamplesOfTheProtocolHold(t *testing.T) {
	t.Parallel()
	p := serve(t)
	kept := map[string]string{}
	for file, least := range [...]int{20, 8} {
		name := filepath.Join(root, "docs", [...]string{"protocol.md", "media.md"}[file])
		examples := readExamples(t, name)
		if len(examples) < least {
			t.Fatalf("%s has %d examples; the parser or the document lost some", name, len(examples))
		}
		for _, e := range examples {
			if err := e.run(p.url, kept); err != nil {
				t.Fatalf("%s:%d: %v", name, e.line, err)
			}
		}
	}
}

// TestAnExampleThatDoesNotHoldIsFound proves the comparison itself.
func TestAnExampleThatDoesNotHoldIsFound(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		shown, got string
		holds      bool
	}{
		"equal":                         {`{"a":1}`, `{"a":1}`, true},
		"what is not shown is passed":   {`{"a":1}`, `{"a":1,"b":2}`, true},
		"another value":                 {`{"a":1}`, `{"a":2}`, false},
		"absent":                        {`{"a":1}`, `{}`, false},
		"volatile":                      {`{"a":"…"}`, `{"a":2}`, true},
		"volatile and absent":           {`{"a":"…"}`, `{}`, false},
		"must be absent":                {`{"a":null}`, `{"b":1}`, true},
		"must be absent and is there":   {`{"a":null}`, `{"a":1}`, false},
		"a list is whole":               {`{"a":[1]}`, `{"a":[1,2]}`, false},
		"a list with more":              {`{"a":[2,"…"]}`, `{"a":[1,2,3]}`, true},
		"a list with more, any order":   {`{"a":[2,1,"…"]}`, `{"a":[1,2,3]}`, true},
		"a list in another order":       {`{"a":[2,1]}`, `{"a":[1,2]}`, false},
		"a list with an element less":   {`{"a":[1,1,"…"]}`, `{"a":[1,2,3]}`, false},
		"kept once":                     {`{"a":"{{x}}","b":"{{x}}"}`, `{"a":"1","b":"1"}`, true},
		"kept and another":              {`{"a":"{{x}}","b":"{{x}}"}`, `{"a":"1","b":"2"}`, false},
		"an object in a text":           {`{"a":"{\"b\": 1}"}`, `{"a":"{\"c\":2, \"b\":1}"}`, true},
		"another object in a text":      {`{"a":"{\"b\": 1}"}`, `{"a":"{\"b\":2}"}`, false},
		"a text that only looks like 1": {`{"a":"1"}`, `{"a":1}`, false},
	} {
		err := compareJSON([]byte(c.shown), []byte(c.got), map[string]string{})
		if (err == nil) != c.holds {
			t.Errorf("%s: %s against %s: %v", name, c.shown, c.got, err)
		}
	}
}

var startLine = regexp.MustCompile(`^(GET|POST|PUT) \S+$`)

var statusLine = regexp.MustCompile(`^HTTP (\d{3})(?: \(at most (\d+) bytes\))?$`)

// readExamples finds the fenced blocks tagged http. Each has one call or more.
func readExamples(t *testing.T, name string) []example {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var out []example
	var lines []string
	inside := false
	end := func(at int) {
		if len(lines) == 0 {
			return
		}
		e, err := parseExample(lines)
		e.line = at - len(lines)
		if err != nil {
			t.Fatalf("%s:%d: %v", name, e.line, err)
		}
		out, lines = append(out, e), nil
	}
	for i, line := range strings.Split(string(text), "\n") {
		switch {
		case !inside:
			inside = line == "```http"
		case line == "```":
			end(i + 1)
			inside = false
		default:
			if startLine.MatchString(line) {
				end(i + 1)
			}
			lines = append(lines, line)
		}
	}
	if inside {
		t.Fatalf("%s: the last block does not end", name)
	}
	return out
}

// parseExample reads the line METHOD PATH, headers, a body that begins with {, the line HTTP STATUS, and the answer.
func parseExample(lines []string) (example, error) {
	e := example{headers: map[string]string{}}
	var ok bool
	if e.method, e.path, ok = strings.Cut(lines[0], " "); !ok {
		return e, fmt.Errorf("the first line is METHOD PATH")
	}
	at := 1
	for ; at < len(lines) && lines[at] != "" && lines[at][0] != '{'; at++ {
		key, value, ok := strings.Cut(lines[at], ": ")
		if !ok {
			return e, fmt.Errorf("%q is no header", lines[at])
		}
		e.headers[key] = value
	}
	for ; at < len(lines); at++ {
		if m := statusLine.FindStringSubmatch(lines[at]); m != nil {
			e.status, _ = strconv.Atoi(m[1])
			e.most, _ = strconv.Atoi(m[2]) // "" gives 0
			e.answer = strings.TrimSpace(strings.Join(lines[at+1:], "\n"))
			e.body = strings.TrimSpace(e.body)
			return e, nil
		}
		e.body += lines[at] + "\n"
	}
	return e, fmt.Errorf("an example has a line HTTP and the status")
}

var placeholder = regexp.MustCompile(`\{\{(\w+)\}\}`)

// fill puts what earlier answers gave in its places.
func fill(s string, kept map[string]string) (string, error) {
	var missing error
	s = placeholder.ReplaceAllStringFunc(s, func(p string) string {
		v, ok := kept[strings.Trim(p, "{}")]
		if !ok {
			missing = fmt.Errorf("no earlier answer gave %s", p)
		}
		return v
	})
	return s, missing
}

func (e example) run(url string, kept map[string]string) error {
	path, err := fill(e.path, kept)
	if err != nil {
		return err
	}
	body, err := fill(e.body, kept)
	if err != nil {
		return err
	}
	if body != "" && !json.Valid([]byte(body)) {
		return fmt.Errorf("the request's body is no JSON: %s", body)
	}
	req, err := http.NewRequest(e.method, url+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for key, value := range e.headers {
		if value, err = fill(value, kept); err != nil {
			return err
		}
		req.Header.Set(key, value)
	}
	res, err := (&http.Client{Timeout: 40 * time.Second}).Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	switch {
	case res.StatusCode != e.status:
		return fmt.Errorf("the status is %d: %s", res.StatusCode, got)
	case e.most > 0 && len(got) > e.most:
		return fmt.Errorf("the answer has %d bytes: %s", len(got), got)
	case e.answer == "":
		return nil
	}
	if err := compareJSON([]byte(e.answer), got, kept); err != nil {
		return fmt.Errorf("%w\nthe whole answer: %s", err, got)
	}
	return nil
}

func compareJSON(shown, got []byte, kept map[string]string) error {
	want, err := decode(shown)
	if err != nil {
		return fmt.Errorf("the example's answer is no JSON: %w", err)
	}
	have, err := decode(got)
	if err != nil {
		return fmt.Errorf("the answer is no JSON: %w", err)
	}
	return compare("", want, have, kept)
}

// decode reads one JSON value and keeps numbers as they are written.
func decode(b []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	err = d.Decode(&v)
	return v, err
}

func compare(at string, want, have any, kept map[string]string) error {
	switch w := want.(type) {
	case map[string]any:
		h, ok := have.(map[string]any)
		if !ok {
			return fmt.Errorf("%s is %v and not an object", at, have)
		}
		for key, value := range w {
			if err := compareMember(at+"."+key, value, h, key, kept); err != nil {
				return err
			}
		}
		return nil
	case []any:
		return compareList(at, w, have, kept)
	case string:
		return compareText(at, w, have, kept)
	}
	if fmt.Sprint(want) != fmt.Sprint(have) || fmt.Sprintf("%T", want) != fmt.Sprintf("%T", have) {
		return fmt.Errorf("%s is %v, the example shows %v", at, have, want)
	}
	return nil
}

// compareMember looks at one member; one that the example shows as null is absent.
func compareMember(at string, want any, have map[string]any, key string, kept map[string]string) error {
	value, there := have[key]
	switch {
	case want == nil && there:
		return fmt.Errorf("%s is %v and should be absent", at, value)
	case want == nil:
		return nil
	case !there:
		return fmt.Errorf("%s is absent", at)
	}
	return compare(at, want, value, kept)
}

// compareList looks at a list: whole and in order, or, where the example ends in …, at elements that are among others.
func compareList(at string, want []any, have any, kept map[string]string) error {
	h, ok := have.([]any)
	if !ok {
		return fmt.Errorf("%s is %v and not a list", at, have)
	}
	if n := len(want); n == 0 || want[n-1] != whatever {
		if len(h) != n {
			return fmt.Errorf("%s has %d elements, the example shows %d", at, len(h), n)
		}
		for i := range want {
			if err := compare(fmt.Sprintf("%s[%d]", at, i), want[i], h[i], kept); err != nil {
				return err
			}
		}
		return nil
	}
	used := make([]bool, len(h))
	for i, w := range want[:len(want)-1] {
		found := false
		for j := 0; j < len(h) && !found; j++ {
			trial := maps.Clone(kept)
			if found = !used[j] && compare(fmt.Sprintf("%s[%d]", at, j), w, h[j], trial) == nil; found {
				used[j] = true
				maps.Copy(kept, trial)
			}
		}
		if !found {
			return fmt.Errorf("%s has no element like the example's %d", at, i)
		}
	}
	return nil
}

// compareText looks at a text: … is anything, {{name}} keeps it, an object inside is compared as one.
func compareText(at, want string, have any, kept map[string]string) error {
	if want == whatever {
		return nil
	}
	h, ok := have.(string)
	if !ok {
		return fmt.Errorf("%s is %v, the example shows %q", at, have, want)
	}
	if m := placeholder.FindStringSubmatch(want); m != nil && m[0] == want {
		if was, known := kept[m[1]]; known && was != h {
			return fmt.Errorf("%s is %q, and %s was %q", at, h, want, was)
		}
		kept[m[1]] = h
		return nil
	}
	if strings.HasPrefix(want, "{") {
		return compareJSON([]byte(want), []byte(h), kept)
	}
	want, err := fill(want, kept)
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	if want != h {
		return fmt.Errorf("%s is %q, the example shows %q", at, h, want)
	}
	return nil
}

var testName = regexp.MustCompile("`(Test\\w+)`")

func TestTheProtocolNamesTestsThatExist(t *testing.T) {
	t.Parallel()
	namesTests(t, "protocol.md", 40, "syncengine", "clients/go", "server", "tests")
}

func TestTheFaultsNameTestsThatExist(t *testing.T) {
	t.Parallel()
	namesTests(t, "faults.md", 70, "*", "internal/*", "clients/go", "cmd/*")
	text, err := os.ReadFile(filepath.Join(root, "docs", "faults.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := map[int]bool{}
	for _, row := range regexp.MustCompile(`(?m)^\| (\d+) \|(.*)$`).FindAllStringSubmatch(string(text), -1) {
		n, err := strconv.Atoi(row[1])
		if err != nil {
			t.Fatal(err)
		}
		if rows[n] = true; !testName.MatchString(row[2]) {
			t.Errorf("row %d has no test", n)
		}
	}
	for _, n := range faultRows() {
		if !rows[n] {
			t.Errorf("there is no row %d", n)
		}
	}
}

// faultRows are the faults that this version must stand.
func faultRows() []int {
	rows := []int{27, 28, 30, 32, 33, 36, 37, 38, 39, 40}
	for n := 1; n <= 26; n++ {
		rows = append(rows, n)
	}
	return rows
}

// namesTests proves that a page names at least so many tests, and that each stands in one of the folders.
func namesTests(t *testing.T, page string, least int, folders ...string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs", page))
	if err != nil {
		t.Fatal(err)
	}
	named := testName.FindAllStringSubmatch(string(text), -1)
	if len(named) < least {
		t.Fatalf("only %d tests are named", len(named))
	}
	var sources strings.Builder
	for _, dir := range folders {
		files, err := filepath.Glob(filepath.Join(root, dir, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			sources.Write(b)
		}
	}
	for _, m := range named {
		if !strings.Contains(sources.String(), "func "+m[1]+"(") {
			t.Errorf("there is no test %s", m[1])
		}
	}
}
