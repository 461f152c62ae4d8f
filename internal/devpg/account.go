package devpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// account is the user that Postgres runs as. Postgres refuses to run as root.
type account struct {
	name string
	uid  int
	gid  int
	drop bool // this process is root and must drop its rights for Postgres
}

func accountForPostgres(ctx context.Context) (*account, error) {
	if os.Geteuid() != 0 {
		return &account{name: strconv.Itoa(os.Geteuid()), uid: os.Geteuid(), gid: os.Getegid()}, nil
	}
	for _, name := range []string{"postgres", "satchel"} {
		if a := lookup(name); a != nil {
			return a, nil
		}
	}
	// Neither exists: an unprivileged system user, by the tool that this system has.
	var failed []error
	for _, line := range []string{
		"useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin satchel",
		"adduser -S -D -H satchel",
	} {
		words := strings.Fields(line)
		if err := exec.CommandContext(ctx, words[0], words[1:]...).Run(); err != nil {
			failed = append(failed, err)
			continue
		}
		if a := lookup("satchel"); a != nil {
			return a, nil
		}
	}
	return nil, fmt.Errorf("devpg: Postgres does not run as root, and no user `satchel` could be added: %w", errors.Join(failed...))
}

func lookup(name string) *account {
	u, err := user.Lookup(name)
	if err != nil {
		return nil
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err1 != nil || err2 != nil || uid == 0 {
		return nil
	}
	return &account{name: name, uid: uid, gid: gid, drop: true}
}

// command runs as the account, with an environment of its own: PG* variables of the caller would mislead Postgres.
func (a *account) command(ctx context.Context, dir, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if a.drop {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
	return cmd
}

// home gives dir, made if missing, or fallback where the account cannot work in dir.
func (a *account) home(ctx context.Context, dir, fallback string) (string, error) {
	var failed error
	for _, d := range []string{dir, fallback} {
		existed := exists(d)
		err := a.mkdir(d)
		if err == nil {
			// Only the account itself can tell whether it gets there: parents, mounts, access lists.
			err = a.command(ctx, "/", "/bin/sh", "-c", `cd "$1" && : >.probe && rm .probe`, "sh", d).Run()
		}
		if err == nil {
			return d, nil
		}
		if !existed {
			_ = os.Remove(d) // leaves nothing empty behind; failing is harmless
		}
		failed = errors.Join(failed, fmt.Errorf("%s: %w", d, err))
		if !a.drop {
			break
		}
	}
	return "", fmt.Errorf("devpg: user %s cannot use the directory: %w", a.name, failed)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// mkdir makes dir and gives it to the account alone.
func (a *account) mkdir(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	st, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	if a.drop {
		if err := os.Lchown(dir, a.uid, a.gid); err != nil {
			return err
		}
	}
	return os.Chmod(dir, 0o700)
}

// write makes a file that only the account reads.
func (a *account) write(name, text string) error {
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		return err
	}
	if a.drop {
		return os.Lchown(name, a.uid, a.gid)
	}
	return nil
}
