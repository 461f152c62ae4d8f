package pgtest

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Bouncer starts a PgBouncer of its own in transaction mode before the database at address, with that many connections
// to Postgres, and gives the address through it, over a Unix socket. more are lines of its settings, such as
// "ignore_startup_parameters = lock_timeout". It ends with the test, and also when this process dies in any way.
func Bouncer(t testing.TB, address string, poolSize int, more ...string) string {
	t.Helper()
	program := bouncerProgram()
	if program == "" {
		t.Fatal("no pgbouncer here: `sh scripts/need test` installs it, or apt-get install pgbouncer, brew install pgbouncer")
	}
	behind, err := pgx.ParseConfig(address)
	if err != nil {
		t.Fatal("the database's address does not parse") // the error could tell the password
	}
	// Not below t.TempDir, which only this process's user reaches.
	dir, err := os.MkdirTemp("/tmp", "satchel-pgbouncer-")
	if err != nil {
		t.Fatal(err)
	}
	owner := bouncerUser(t, behind.Host)
	for name, text := range map[string]string{"ini": bouncerSettings(dir, behind, poolSize, more),
		"users": fmt.Sprintf("%q %q\n", behind.User, behind.Password)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if owner != nil {
			err = os.Chown(filepath.Join(dir, name), int(owner.Uid), int(owner.Gid))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if owner != nil {
		if err := os.Chown(dir, int(owner.Uid), int(owner.Gid)); err != nil {
			t.Fatal(err)
		}
	}

	// The shell holds a pipe from this process: however this process ends, the pipe closes.
	cmd := exec.Command("/bin/sh", "-c", `"$1" "$2/ini" & read -r _; kill "$!"; wait "$!"; rm -rf "$2"`, "sh", program, dir)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: owner}
	said := &bytes.Buffer{} // read only when the command has ended
	cmd.Stdout, cmd.Stderr = said, said
	pipe, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end := func() {
		_ = pipe.Close()
		_ = cmd.Wait() // it is killed, or has ended, which its log tells
	}
	t.Cleanup(end)

	u := url.URL{Scheme: "postgres", User: url.UserPassword(behind.User, behind.Password), Path: "/" + behind.Database,
		RawQuery: url.Values{"host": {dir}, "port": {bouncerPort}, "sslmode": {"disable"}}.Encode()}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if err = ping(u.String()); err == nil {
			return u.String()
		}
		if time.Now().After(deadline) {
			end()
			t.Fatalf("PgBouncer does not answer: %v\n%s", err, said)
		}
	}
}

// bouncerPort names the socket only: PgBouncer listens on no port, so none can be taken.
const bouncerPort = "6432"

func bouncerProgram() string {
	for _, name := range []string{"pgbouncer", "/usr/sbin/pgbouncer"} { // Debian's users do not have sbin in PATH
		if program, err := exec.LookPath(name); err == nil {
			return program
		}
	}
	return ""
}

// bouncerUser gives the account that PgBouncer runs as, for it refuses to be root: whoever owns the folder of Postgres'
// socket, or nobody. nil = this process's own.
func bouncerUser(t testing.TB, host string) *syscall.Credential {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	if strings.HasPrefix(host, "/") {
		if st, err := os.Stat(host); err == nil {
			if own, ok := st.Sys().(*syscall.Stat_t); ok && own.Uid != 0 {
				return &syscall.Credential{Uid: own.Uid, Gid: own.Gid}
			}
		}
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, err1 := strconv.ParseUint(nobody.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(nobody.Gid, 10, 32)
	if err1 != nil || err2 != nil {
		t.Fatalf("the user nobody is %v", nobody)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

func bouncerSettings(dir string, behind *pgx.ConnConfig, poolSize int, more []string) string {
	return fmt.Sprintf(`[databases]
%s = host=%s port=%d dbname=%s
[pgbouncer]
unix_socket_dir = %s
listen_port = %s
auth_type = scram-sha-256
auth_file = %s/users
pool_mode = transaction
default_pool_size = %d
max_client_conn = 500
server_tls_sslmode = disable
%s
`, behind.Database, behind.Host, behind.Port, behind.Database, dir, bouncerPort, dir, poolSize, strings.Join(more, "\n"))
}

func ping(address string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}
