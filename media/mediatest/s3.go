package mediatest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"
)

// S3 is a real S3 server (versitygw) of its own, with its objects in a folder of the test.
type S3 struct {
	// URL is what BLOB_URL would say, with the bucket "satchel".
	URL string

	bin, dir, addr string
	mu             sync.Mutex
	cmd            *exec.Cmd
	alive          io.Closer // the server ends when this is closed, hence also when the test process dies
}

const s3Key, s3Secret = "satchel-test", "a secret/with+signs"

// StartS3 starts a server; the test's end stops it. The first use on a machine builds versitygw, which takes about a
// minute.
func StartS3(t testing.TB) *S3 {
	t.Helper()
	bin, err := versitygw()
	if err != nil {
		t.Fatalf("cannot build versitygw: %v", err)
	}
	addr, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	s := &S3{bin: bin, dir: t.TempDir(), addr: addr,
		URL: fmt.Sprintf("s3://%s:%s@%s/satchel?insecure=1&path=1&region=us-east-1", s3Key, "a%20secret%2Fwith%2Bsigns", addr)}
	for _, d := range []string{"data", "meta"} {
		if err := os.Mkdir(filepath.Join(s.dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(s.Stop)
	s.Start(t)
	return s
}

// freeAddress gives one where nothing listens just now: the server takes it, and takes it again after a Stop. Its port lies
// below those that systems give to connections and to whoever asks for any port, which other tests would get meanwhile.
func freeAddress() (string, error) {
	const first, last = 10_000, 17_999
	var failed error
	for range 20 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(last-first+1)))
		if err == nil {
			return l.Addr().String(), l.Close()
		}
		failed = err
	}
	return "", failed
}

// Start starts a server that was stopped, with the objects that it had.
func (s *S3) Start(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	// The shell waits for its input to end, which happens whichever way this process ends, and then ends the server.
	s.cmd = exec.Command("sh", "-c", `"$@" </dev/null & p=$!; read -r _; kill -9 $p; wait $p`, "sh",
		s.bin, "--port", s.addr, "--access", s3Key, "--secret", s3Secret, "--quiet",
		"posix", "--sidecar", filepath.Join(s.dir, "meta"), filepath.Join(s.dir, "data"))
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close() //nolint:errcheck // the server has its own handle
	s.cmd.Stdout, s.cmd.Stderr = log, log
	alive, err := s.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.alive = alive
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		if c, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.addr); err == nil {
			_ = c.Close() // it only asked whether somebody listens
			return
		}
		select {
		case <-ctx.Done():
			said, _ := os.ReadFile(log.Name()) // the time-out is the failure
			t.Fatalf("the S3 server at %s does not listen: %s", s.addr, said)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop kills the server, as a crash would. A server that is stopped stays so until [S3.Start].
func (s *S3) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return
	}
	_ = s.alive.Close()
	_ = s.cmd.Wait() // it was killed, which is an error to Wait
	s.cmd = nil
}

// versitygw gives the path of the server, built once per version and machine.
func versitygw() (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	tool := filepath.Join(root, "tools", "versitygw")
	mod, err := os.ReadFile(filepath.Join(tool, "go.mod"))
	if err != nil {
		return "", err
	}
	m := regexp.MustCompile(`github\.com/versity/versitygw (v[0-9.]+)`).FindSubmatch(mod)
	if m == nil {
		return "", fmt.Errorf("%s/go.mod names no version of versitygw", tool)
	}
	bin := filepath.Join(root, "var", "bin", "versitygw-"+string(m[1]))
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	if err := os.MkdirAll(filepath.Dir(bin), 0o755); err != nil {
		return "", err
	}
	// Tests of this process and of others may build at once: each in a folder of its own, and the last rename stands.
	dir, err := os.MkdirTemp(filepath.Dir(bin), "build-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }() // what is left lies in var/
	tmp := filepath.Join(dir, "versitygw")
	cmd := exec.Command("go", "build", "-o", tmp, "github.com/versity/versitygw/cmd/versitygw")
	cmd.Dir = tool
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return bin, os.Rename(tmp, bin)
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for d := dir; ; d = filepath.Dir(d) {
		if mod, err := os.ReadFile(filepath.Join(d, "go.mod")); err == nil && bytes.HasPrefix(mod, []byte("module github.com/satchel-sync/satchel\n")) {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("%s is not inside Satchel's checkout", dir)
		}
	}
}
