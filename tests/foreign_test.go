package tests_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// prepareTime bounds what is done once: building buf, fetching npm packages.
const prepareTime = 8 * time.Minute

// TestAClientOfConnectESWorksOverEachProtocol runs tests/connectes/client.mjs, on Node with code that Connect-ES
// generates from our proto files, over each protocol that the port speaks.
func TestAClientOfConnectESWorksOverEachProtocol(t *testing.T) {
	t.Parallel()
	dir := connectES(t)
	p := serve(t)
	for _, transport := range []string{"connect-json", "connect-binary", "grpc", "grpc-web"} {
		t.Run(transport, func(t *testing.T) {
			out := command(t, time.Minute, dir, nil, "node", "client.mjs", p.url, transport)
			var said struct{ Visit, Status, Seq string }
			if err := json.Unmarshal(out, &said); err != nil || said.Status != "APPLIED" || said.Visit == "" || said.Seq == "" {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// TestBufCurlSignsInAndSyncs drives calls by a tool that knows nothing but the proto files.
func TestBufCurlSignsInAndSyncs(t *testing.T) {
	t.Parallel()
	p := serve(t)
	call := func(protocol, method, token, body string, answer any) {
		t.Helper()
		args := []string{"curl", "--schema", "proto", "--protocol", protocol, "--http2-prior-knowledge", "-d", body}
		if token != "" {
			args = append(args, "-H", "Authorization: Bearer "+token)
		}
		out := buf(t, append(args, p.url+"/satchel.v1."+method)...)
		if err := json.Unmarshal(out, answer); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for _, protocol := range []string{"connect", "grpc", "grpcweb"} {
		var in struct {
			Tokens   struct{ AccessToken string }
			DeviceID string
		}
		call(protocol, "AuthService/SignIn", "", `{"org": "acme", "login": "ben", "password": "`+password+`"}`, &in)
		if in.Tokens.AccessToken == "" || in.DeviceID == "" {
			t.Fatalf("%s: no session: %+v", protocol, in)
		}
		var got struct {
			Page struct {
				Checkpoint bool
				Changes    []struct{ Kind string }
			}
		}
		call(protocol, "SyncService/Sync", in.Tokens.AccessToken, `{}`, &got)
		if !got.Page.Checkpoint || len(got.Page.Changes) == 0 {
			t.Errorf("%s: %+v", protocol, got)
		}
	}
}

// connectES gives a folder with the client, its packages and its generated code. It is made once, in var/connectes, and
// again when what it is made of changes.
func connectES(t *testing.T) string {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("this test needs %s: install Node.js 20 or newer with npm (`make test` does, or: apt-get install nodejs npm)", program)
		}
	}
	own := map[string][]byte{}
	for _, name := range []string{"package.json", "package-lock.json", "client.mjs"} {
		b, err := os.ReadFile(filepath.Join("connectes", name))
		if err != nil {
			t.Fatal(err)
		}
		own[name] = b
	}
	cache := filepath.Join(root, "var", "connectes")
	dir := filepath.Join(cache, hashOf(t, own["package.json"], own["package-lock.json"], own["client.mjs"]))
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	// Made aside and renamed, so that what a killed run left is never taken for whole.
	making, err := os.MkdirTemp(cache, "making-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(making) })
	for name, b := range own {
		if err := os.WriteFile(filepath.Join(making, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	command(t, prepareTime, making, nil, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	where, err := filepath.Abs(making)
	if err != nil {
		t.Fatal(err)
	}
	buf(t, "generate", "-o", where, "--template", `{"version": "v2", "inputs": [{"directory": ".", "paths": ["proto/satchel"]}],
		"plugins": [{"local": "`+filepath.Join(where, "node_modules", ".bin", "protoc-gen-es")+`", "out": "gen", "include_imports": true,
			"opt": ["target=js", "import_extension=js"]}]}`)
	old, err := filepath.Glob(filepath.Join(cache, strings.Repeat("[0-9a-f]", 16))) // not what another run is making
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range old {
		_ = os.RemoveAll(o) // it only takes room
	}
	if err := os.Rename(making, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		if _, there := os.Stat(dir); there != nil { // another run was faster
			t.Fatal(err)
		}
	}
	return dir
}

// hashOf names what the folder is made of: these files and our proto files.
func hashOf(t *testing.T, parts ...[]byte) string {
	t.Helper()
	h := sha256.New()
	protos, err := filepath.Glob(filepath.Join(root, "proto", "satchel", "v1", "*.proto"))
	if err != nil || len(protos) == 0 {
		t.Fatalf("no proto files: %v", err)
	}
	for _, name := range protos {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, b)
	}
	for _, p := range parts {
		fmt.Fprintf(h, "%d:", len(p))
		h.Write(p)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// protoDeps writes the proto files that ours import, once in a process; see scripts/proto.
var protoDeps sync.Once

// buf runs buf at the repository's root.
func buf(t *testing.T, args ...string) []byte {
	t.Helper()
	protoDeps.Do(func() {
		if _, err := os.Stat(filepath.Join(root, "var", "proto", "buf", "validate", "validate.proto")); err != nil {
			command(t, prepareTime, root, nil, "go", "run", "-C", "tools/protodeps", ".", "../../var/proto")
		}
	})
	env := []string{}
	if os.Getenv("BUF_CACHE_DIR") == "" {
		cache, err := filepath.Abs(filepath.Join(root, "var", "buf"))
		if err != nil {
			t.Fatal(err)
		}
		env = append(env, "BUF_CACHE_DIR="+cache)
	}
	return command(t, prepareTime, root, env, "go", append([]string{"tool", "-modfile=tools/buf/go.mod", "buf"}, args...)...)
}

// command runs a program and gives what it printed; one that fails fails the test.
func command(t *testing.T, limit time.Duration, dir string, env []string, name string, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.WaitDelay = 5 * time.Second
	if env != nil {
		cmd.Env = append(os.Environ(), env...)
	}
	var failed strings.Builder
	cmd.Stderr = &failed
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args[:min(len(args), 2)], " "), err, failed.String(), out)
	}
	return out
}
