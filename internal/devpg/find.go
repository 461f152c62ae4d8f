package devpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"time"
)

// minMajor is the oldest Postgres that Satchel runs on.
const minMajor = 15

// ErrNotInstalled says that no usable Postgres was found, and what to install.
var ErrNotInstalled = errors.New("devpg: no Postgres 15 or newer was found; install it with " +
	"`apt-get install postgresql` (Debian, Ubuntu) or `brew install postgresql@17` (macOS), or point Satchel at a server that runs")

// Find gives the directory of the newest Postgres (15 or later) on this machine: packages of Debian and Ubuntu, then
// Homebrew, then what the pg_config in PATH names. The error is ErrNotInstalled.
func Find() (bin string, err error) { return find(0) }

// find is Find, for one major version only unless major is 0.
func find(major int) (string, error) {
	type found struct {
		major int
		bin   string
	}
	var all []found
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin",
		"/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin",
	} {
		dirs, _ := filepath.Glob(pattern) // the only error is a malformed pattern
		for _, dir := range dirs {
			v := filepath.Base(filepath.Dir(dir))
			v = v[strings.LastIndexAny(v, "@-")+1:]
			if n, err := strconv.Atoi(v); err == nil && usable(dir) {
				all = append(all, found{n, dir})
			}
		}
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].major > all[j].major })
	if dir := fromPgConfig(); dir != "" && usable(dir) {
		if n := majorOf(dir); n > 0 {
			all = append(all, found{n, dir})
		}
	}
	for _, f := range all {
		if f.major >= minMajor && (major == 0 || f.major == major) {
			return f.bin, nil
		}
	}
	if major != 0 {
		return "", fmt.Errorf("devpg: the data were made by Postgres %d, which is not installed; install it, or remove the data directory", major)
	}
	return "", ErrNotInstalled
}

func usable(dir string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode()&0o111 == 0 {
			return false
		}
	}
	return true
}

func fromPgConfig() string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// majorOf asks the binary: "postgres (PostgreSQL) 17.2 (…)".
func majorOf(bin string) int {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(bin, "postgres"), "--version").Output()
	if err != nil {
		return 0
	}
	_, v, _ := strings.Cut(string(out), ") ")
	end := strings.IndexFunc(v, func(r rune) bool { return r < '0' || r > '9' })
	n, _ := strconv.Atoi(v[:max(end, 0)]) // what is no number is no version: 0
	return n
}

// locale is UTF-8 ordered by code point; macOS has no C.UTF-8, and its C does the same for an UTF8 database.
func locale() string {
	if runtime.GOOS == "darwin" {
		return "C"
	}
	return "C.UTF-8"
}
