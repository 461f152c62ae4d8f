package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/satchel-sync/satchel/internal/pgtest"
)

// goodSecret is random, and of no use to anybody.
const goodSecret = "8f1b6c0e9a3d57f24c86e1b07d92a5f33e40c7d8b1695f2ae07c4d183b6f9a52"

// binary is the program under test, built once: what a person runs is what is tested.
var binary string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "satchel-cmd")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "satchel")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", binary, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// environment is this process's, without what would configure satchel, and with the given settings.
func environment(settings []string) []string {
	var out []string
	for _, e := range os.Environ() {
		name, _, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, "SATCHEL_") && name != "DATABASE_URL" && name != "BLOB_URL" && !strings.HasPrefix(name, "OTEL_") {
			out = append(out, e)
		}
	}
	return append(out, settings...)
}

// invoke runs the program to its end and gives what it printed and its exit status.
func invoke(t *testing.T, env []string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = environment(env)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// running is a server that answers.
type running struct {
	t    *testing.T
	cmd  *exec.Cmd
	base string
	took time.Duration // from its start until it answered

	mu     sync.Mutex
	stdout strings.Builder
	stderr bytes.Buffer
	ended  chan struct{}
}

// serve starts `satchel serve` on a free port and waits until it is ready. It ends with the test.
func serve(t *testing.T, env []string, args ...string) *running {
	t.Helper()
	r := &running{t: t, ended: make(chan struct{})}
	args = append([]string{"serve", "--listen=127.0.0.1:0"}, args...)
	r.cmd = exec.Command(binary, args...)
	r.cmd.Env = environment(env)
	r.cmd.Stderr = &r.stderr
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	addr := make(chan string, 1)
	go r.read(out, addr)
	t.Cleanup(func() { r.end(syscall.SIGTERM) }) // in good order, for a private Postgres ends with it
	select {
	case r.base = <-addr:
	case <-r.ended:
		t.Fatalf("serve ended before it served:\n%s", r.stderr.String())
	case <-time.After(time.Minute):
		t.Fatal("serve does not say where it serves")
	}
	r.ready(began)
	return r
}

// read collects what is printed; the first line that names the server's address is its address.
func (r *running) read(out io.Reader, addr chan<- string) {
	in := bufio.NewScanner(out)
	for in.Scan() {
		line := in.Text()
		r.mu.Lock()
		r.stdout.WriteString(line + "\n")
		r.mu.Unlock()
		if _, rest, ok := strings.Cut(line, "http://127.0.0.1:"); ok {
			port, _, _ := strings.Cut(rest, "/")
			select {
			case addr <- "http://127.0.0.1:" + port:
			default:
			}
		}
	}
	_ = r.cmd.Wait()
	close(r.ended)
}

// ready polls /readyz.
func (r *running) ready(began time.Time) {
	r.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		resp, err := http.Get(r.base + "/readyz")
		if err != nil {
			continue
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			r.took = time.Since(began)
			return
		}
	}
	r.t.Fatalf("the server at %s does not become ready", r.base)
}

// printing waits until the standard output holds the text, for a server is ready before its last line was read here. It
// gives all that came.
func (r *running) printing(text string) string {
	r.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if out := r.printed(); strings.Contains(out, text) {
			return out
		}
	}
	r.t.Fatalf("%q does not come on the standard output:\n%s", text, r.printed())
	return ""
}

// printed is what came on the standard output so far.
func (r *running) printed() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stdout.String()
}

// end sends a signal and gives the exit status (-1 after a kill).
func (r *running) end(sig syscall.Signal) int {
	_ = r.cmd.Process.Signal(sig)
	select {
	case <-r.ended:
	case <-time.After(40 * time.Second):
		r.t.Error("the server does not end")
		_ = r.cmd.Process.Kill()
		<-r.ended
	}
	return r.cmd.ProcessState.ExitCode()
}

// dataDir gives a folder for --data-dir that the user whom Postgres runs as can reach, also when the tests run as root.
func dataDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "satchel-data")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // the server that used it has ended: cleanups run backwards
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// production is the least that a production server takes.
func production(t *testing.T, database string) []string {
	return []string{"DATABASE_URL=" + database, "BLOB_URL=file://" + t.TempDir(), "SATCHEL_SECRET=" + goodSecret}
}

// must runs the program and wants it to succeed.
func must(t *testing.T, env []string, args ...string) string {
	t.Helper()
	out, errs, status := invoke(t, env, args...)
	if status != 0 {
		t.Fatalf("satchel %s: exit status %d\n%s%s", strings.Join(args, " "), status, out, errs)
	}
	return out
}

func TestEveryCommandHasHelp(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"", "serve", "migrate", "org", "org create", "user", "user add", "user reset", "demo", "doctor", "restored", "media", "media check", "types", "version"} {
		out := must(t, nil, append(strings.Fields(args), "--help")...)
		if !strings.HasPrefix(out, "Usage: satchel") {
			t.Errorf("satchel %s --help prints %q", args, out)
		}
	}
}

func TestACallThatMakesNoSenseSaysSoAndExitsWithTwo(t *testing.T) {
	t.Parallel()
	db := "DATABASE_URL=" + pgtest.URL(t)
	blobs := "BLOB_URL=file://" + t.TempDir()
	secret := "SATCHEL_SECRET=" + goodSecret
	for _, c := range []struct {
		name string
		env  []string
		args string
		want string
	}{
		{"an unknown command", nil, "sing", "unexpected argument sing"},
		{"no database", []string{secret, blobs}, "serve", "DATABASE_URL"},
		{"no database to migrate", nil, "migrate", "DATABASE_URL"},
		{"no blob store", []string{db, secret}, "serve", "BLOB_URL"},
		{"no secret", []string{db, blobs}, "serve", "openssl rand -hex 32"},
		{"the development secret", []string{db, blobs, "SATCHEL_SECRET=" + devSecret}, "serve", "everybody knows"},
		{"a short secret", []string{db, blobs, "SATCHEL_SECRET=deadbeefdeadbeef"}, "serve", "too short"},
		{"half a certificate", []string{db, blobs, secret}, "serve --tls-cert=x.pem", "come together"},
		{"a proxy that is no network", []string{db, blobs, secret}, "serve --trust-proxy=proxy", "--trust-proxy"},
		{"an address that is none", []string{db, blobs, secret}, "serve --listen=nonsense", "host:port"},
		{"a service account that is none", []string{db, blobs, secret}, "serve --fcm-credentials=main.go", "no JSON"},
		{"a mini-program without its secret", []string{db, blobs, secret}, "serve --wechat-app-id=wx1", "come together"},
		{"a collector that is none", []string{db, blobs, secret}, "serve --listen=127.0.0.1:0 --otlp-endpoint=somewhere", "--otlp-endpoint"},
		{"a person without a role", []string{db}, "user add acme li", "--role"},
		{"a person without a name", []string{db}, "user reset acme", "Try: satchel user reset --help"},
		{"an unknown flag", nil, "serve --sing", "Try: satchel serve --help"},
		{"a team that is none", []string{db}, "user add acme li --role=rep --team=north", "Try: satchel user add --help"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, errs, status := invoke(t, c.env, strings.Fields(c.args)...)
			if status != 2 || !strings.Contains(errs, c.want) {
				t.Fatalf("exit status %d and %q, want 2 and something with %q", status, errs, c.want)
			}
		})
	}
}

func TestTheStoryIsToldByTheProgramItself(t *testing.T) {
	t.Parallel()
	if out := must(t, nil, "demo"); !strings.Contains(out, "The story is as told") {
		t.Fatal(out)
	}
}
