package mobile_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/satchel-sync/satchel/clients/go/mobile"
)

// repository is the root of the checkout, seen from here.
const repository = "../../.."

// bound is what gobind makes of the package.
type bound struct {
	java   map[string]string // class → source
	header string            // Objective-C
	all    map[string]string // every generated file
}

var binding = sync.OnceValues(bind)

// bind runs gobind in a small module of an app, as docs/mobile-ios.md and docs/mobile-android.md tell to make one.
func bind() (bound, error) {
	b := bound{java: map[string]string{}, all: map[string]string{}}
	dir, err := os.MkdirTemp("", "satchelkit")
	if err != nil {
		return b, err
	}
	defer os.RemoveAll(dir)
	root, err := filepath.Abs(repository)
	if err != nil {
		return b, err
	}
	run := func(env []string, dir, name string, args ...string) error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s %v: %w\n%s", name, args, err, out)
		}
		return nil
	}
	gobind := filepath.Join(dir, "gobind")
	if err := run(nil, filepath.Join(root, "tools", "gomobile"), "go", "build", "-o", gobind, "golang.org/x/mobile/cmd/gobind"); err != nil {
		return b, err
	}
	if err := kit(root, dir); err != nil {
		return b, err
	}
	out := filepath.Join(dir, "out")
	if err := run([]string{"GOFLAGS=-mod=mod"}, dir, gobind, "-lang=go,java,objc", "-javapkg=sync.satchel", "-prefix=Satchel", "-outdir="+out,
		"github.com/satchel-sync/satchel/clients/go/mobile"); err != nil {
		return b, err
	}
	err = filepath.WalkDir(out, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name := d.Name()
		b.all[name] = string(text)
		if class, isJava := strings.CutSuffix(name, ".java"); isJava && strings.HasSuffix(filepath.ToSlash(filepath.Dir(path)), "sync/satchel/mobile") {
			b.java[class] = string(text)
		}
		if name == "SatchelMobile.objc.h" {
			b.header = string(text)
		}
		return nil
	})
	return b, err
}

// kit writes the module: what this checkout requires, this checkout, and gomobile at the version of tools/gomobile.
func kit(root, dir string) error {
	var mod, sums strings.Builder
	for _, part := range []string{"", "tools/gomobile"} {
		text, err := os.ReadFile(filepath.Join(root, part, "go.mod"))
		if err != nil {
			return err
		}
		if part == "" {
			mod.WriteString(regexp.MustCompile(`(?m)^module .*$`).ReplaceAllString(string(text), "module example.com/app/satchelkit"))
		} else {
			mod.WriteString("\n" + regexp.MustCompile(`(?m)^require golang\.org/x/mobile v.*$`).FindString(string(text)) + "\n")
		}
		if text, err = os.ReadFile(filepath.Join(root, part, "go.sum")); err != nil {
			return err
		}
		sums.Write(text)
	}
	mod.WriteString("\nrequire github.com/satchel-sync/satchel v0.0.0\nreplace github.com/satchel-sync/satchel => " + root + "\n")
	for name, text := range map[string]string{"go.mod": mod.String(), "go.sum": sums.String(),
		"kit.go": "package satchelkit\n\nimport (\n\t_ \"github.com/satchel-sync/satchel/clients/go/mobile\"\n\t_ \"golang.org/x/mobile/bind\"\n)\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func bindings(t *testing.T) bound {
	t.Helper()
	b, err := binding()
	ok(t, err)
	return b
}

// lower makes a Go name one of Java or Objective-C.
func lower(name string) string {
	r := []rune(name)
	r[0] = unicode.ToLower(r[0])
	return string(r)
}

// javaMethods gives the names of a class's or interface's methods.
func javaMethods(source string) map[string]bool {
	names := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\s*public (?:static |final )*(?:native |abstract )*[\w.\[\]]+ (\w+)\(`).FindAllStringSubmatch(source, -1) {
		names[m[1]] = true
	}
	return names
}

var objcMethod = regexp.MustCompile(`(?m)^- \([^)]*\)([^;]+);`)

// selectors gives the selectors of a class or protocol of the header.
func selectors(header, of string) map[string]bool {
	found := map[string]bool{}
	_, body, _ := strings.Cut(header, of)
	body, _, _ = strings.Cut(body, "\n@end")
	for _, m := range objcMethod.FindAllStringSubmatch(body, -1) {
		sel := regexp.MustCompile(`:\([^)]*\)\w+ ?`).ReplaceAllString(m[1], ":")
		found[sel] = true
	}
	for _, m := range regexp.MustCompile(`(?m)^@property[^;]*?(\w+);`).FindAllStringSubmatch(body, -1) {
		found[m[1]] = true
	}
	return found
}

// startsWith tells whether one of the selectors is the name, or begins with it.
func startsWith(selectors map[string]bool, name string) bool {
	for s := range selectors {
		if s == name || strings.HasPrefix(s, name+":") {
			return true
		}
	}
	return false
}

func TestTheBindingsLeaveNothingOut(t *testing.T) {
	t.Parallel()
	b := bindings(t)
	if len(b.java) < 8 || b.header == "" {
		t.Fatalf("gobind made %d Java classes and %d bytes of a header", len(b.java), len(b.header))
	}
	for name, text := range b.all {
		for line := range strings.Lines(text) {
			if strings.Contains(line, "// skipped") {
				t.Errorf("%s: %s", name, strings.TrimSpace(line))
			}
		}
	}
	parts := 0
	for _, v := range []reflect.Type{reflect.TypeFor[*mobile.Client](), reflect.TypeFor[*mobile.Batch](), reflect.TypeFor[*mobile.Watch](),
		reflect.TypeFor[mobile.Clock](), reflect.TypeFor[mobile.ChangeListener](), reflect.TypeFor[mobile.StatusListener](), reflect.TypeFor[mobile.RunListener]()} {
		class, kind := v.Name(), "@protocol "
		if v.Kind() == reflect.Pointer {
			class, kind = v.Elem().Name(), "@interface "
		}
		java, objc := javaMethods(b.java[class]), selectors(b.header, kind+"SatchelMobile"+class+" ")
		for i := range v.NumMethod() {
			parts++
			name := lower(v.Method(i).Name)
			if !java[name] {
				t.Errorf("the Java class %s has no %s", class, name)
			}
			if !startsWith(objc, name) {
				t.Errorf("the Objective-C class %s has no %s; it has %v", class, name, objc)
			}
		}
	}
	for _, method := range []string{"open", "newBatch", "parseError"} {
		if !javaMethods(b.java["Mobile"])[method] {
			t.Errorf("the Java class Mobile has no %s", method)
		}
		function := "SatchelMobile" + strings.ToUpper(method[:1]) + method[1:]
		if !strings.Contains(b.header, function+"(") {
			t.Errorf("there is no Objective-C function %s", function)
		}
	}
	if parts < 40 {
		t.Errorf("only %d methods were looked at", parts)
	}
}

// snippets gives the code blocks of a page in the language.
func snippets(t *testing.T, page, language string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, "docs", page))
	ok(t, err)
	code := ""
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)\n```").FindAllStringSubmatch(string(text), -1) {
		code += m[1] + "\n"
	}
	if code == "" {
		t.Fatalf("%s has no block of %s", page, language)
	}
	return code
}

// variables are what the pages call objects of these classes.
var variables = map[string]string{"client": "Client", "Office.client": "Client", "batch": "Batch", "watch": "Watch", "failure": "Failure", "Mobile": "Mobile"}

func TestThePageOnAndroidCallsOnlyWhatTheBindingsHave(t *testing.T) {
	t.Parallel()
	b, code := bindings(t), snippets(t, "mobile-android.md", "kotlin")
	calls := 0
	for _, m := range regexp.MustCompile(`\b(client|batch|watch|failure|Mobile)\.(\w+)(\()?`).FindAllStringSubmatch(code, -1) {
		class, name := variables[m[1]], m[2]
		if class == "Mobile" && name == "mobile" {
			continue
		}
		calls++
		source := b.java[class]
		constant := class == "Mobile" && strings.Contains(source, "public static final String "+name+" =")
		property := m[3] == "" && javaMethods(source)["get"+strings.ToUpper(name[:1])+name[1:]]
		if !javaMethods(source)[name] && !constant && !property {
			t.Errorf("the page calls %s, which the Java class %s does not have", m[0], class)
		}
		if m[3] != "" && class != "Failure" {
			want, got := argumentsOfJava(source, name), arguments(code, m[0])
			if want != got {
				t.Errorf("the page calls %s with %d arguments, and it takes %d", m[0], got, want)
			}
		}
	}
	overrides := 0
	for _, m := range regexp.MustCompile(`override fun (\w+)\(`).FindAllStringSubmatch(code, -1) {
		name := m[1]
		if name == "doWork" || name == "onStopped" { // Android's
			continue
		}
		overrides++
		if !javaMethods(b.java["Clock"])[name] && !javaMethods(b.java["ChangeListener"])[name] && !javaMethods(b.java["RunListener"])[name] {
			t.Errorf("the page overrides %s, which no listener has", name)
		}
	}
	if calls < 25 || overrides < 5 {
		t.Errorf("only %d calls and %d listeners' methods were looked at", calls, overrides)
	}
}

// argumentsOfJava counts the parameters of a method.
func argumentsOfJava(source, name string) int {
	m := regexp.MustCompile(`\b` + name + `\(([^)]*)\)`).FindStringSubmatch(source)
	if m == nil || m[1] == "" {
		return 0
	}
	return strings.Count(m[1], ",") + 1
}

// within gives what stands between the bracket with which the call ends and the one that closes it.
func within(code, call string) string {
	_, rest, _ := strings.Cut(code, call)
	depth := 1
	for i, r := range rest {
		switch r {
		case '(', '{', '[':
			depth++
		case ')', '}', ']':
			if depth--; depth == 0 {
				return rest[:i]
			}
		}
	}
	return rest
}

// split gives the arguments of a call: what commas part that stand in no bracket and no text.
func split(list string) []string {
	var out []string
	depth, quoted, from := 0, false, 0
	for i, r := range list {
		switch {
		case r == '"':
			quoted = !quoted
		case quoted:
		case strings.ContainsRune("([{", r):
			depth++
		case strings.ContainsRune(")]}", r):
			depth--
		case r == ',' && depth == 0:
			out, from = append(out, list[from:i]), i+1
		}
	}
	if strings.TrimSpace(list) != "" {
		out = append(out, list[from:])
	}
	return out
}

// texts are literals of Swift and Kotlin with quotes inside.
var texts = regexp.MustCompile(`(?s)""".*?"""|#".*?"#`)

// arguments counts those of the first such call.
func arguments(code, call string) int {
	return len(split(within(texts.ReplaceAllString(code, `""`), call)))
}

func TestThePageOnIOSCallsOnlyWhatTheBindingsHave(t *testing.T) {
	t.Parallel()
	b, code := bindings(t), texts.ReplaceAllString(snippets(t, "mobile-ios.md", "swift"), `""`)
	calls := 0
	for _, at := range regexp.MustCompile(`\b(client|batch|watch)\.(\w+)\(`).FindAllStringSubmatchIndex(code, -1) {
		calls++
		class, name := variables[code[at[2]:at[3]]], code[at[4]:at[5]]
		selector := name
		for i, argument := range split(within(code[at[0]:], code[at[0]:at[1]])) {
			label, _, labelled := strings.Cut(strings.TrimSpace(argument), ": ")
			if i > 0 && labelled {
				selector += label
			}
			selector += ":"
		}
		has := selectors(b.header, "@interface SatchelMobile"+class+" ")
		throwing := selector + "error:" // Swift makes these throw
		if selector == name {
			throwing = name + ":"
		}
		if !has[selector] && !has[throwing] {
			t.Errorf("the page calls %s, and the Objective-C class %s has %v", selector, class, has)
		}
	}
	for _, name := range regexp.MustCompile(`SatchelMobile\w+`).FindAllString(code, -1) {
		calls++
		found := regexp.MustCompile(`\b` + strings.TrimSuffix(name, "Protocol") + `\b`).MatchString(b.header)
		if protocol, is := strings.CutSuffix(name, "Protocol"); is {
			found = strings.Contains(b.header, "@protocol "+protocol+" <") && strings.Contains(b.header, "@interface "+protocol+" ") // of the same name: Swift adds Protocol
		}
		if !found {
			t.Errorf("the page names %s, which the header does not have", name)
		}
	}
	listeners := 0
	for _, m := range regexp.MustCompile(`func (boot|elapsedMillis|on[A-Z]\w*)\(`).FindAllStringSubmatch(code, -1) {
		listeners++
		found := false
		for _, protocol := range []string{"Clock", "ChangeListener", "RunListener"} {
			found = found || startsWith(selectors(b.header, "@protocol SatchelMobile"+protocol+" "), m[1])
		}
		if !found {
			t.Errorf("the page implements %s, which no listener has", m[1])
		}
	}
	if calls < 30 || listeners < 5 {
		t.Errorf("only %d names and %d listeners' methods were looked at", calls, listeners)
	}
}
