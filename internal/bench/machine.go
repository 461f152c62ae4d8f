package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Machine is what the figures were taken on.
type Machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	MemMiB int    `json:"mem_mib"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
}

func machine() Machine {
	m := Machine{Cores: runtime.NumCPU(), Go: runtime.Version(), CPU: runtime.GOARCH, Kernel: runtime.GOOS}
	if v := field("/proc/cpuinfo", "model name"); v != "" {
		m.CPU = v
	}
	if kib, err := strconv.Atoi(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB")); err == nil {
		m.MemMiB = kib / 1024
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel += " " + strings.TrimSpace(string(b))
	}
	return m
}

// field gives the first "name: value" of a file of /proc; "" where there is none.
func field(file, name string) string {
	b, _ := os.ReadFile(file)
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// revision is what git was at when this was built, or where that is not in the binary (go run) what it is at now in the
// working directory; "+" = with changes; "" = unknown.
func revision(ctx context.Context) string {
	info, _ := debug.ReadBuildInfo()
	rev := ""
	if info == nil {
		info = &debug.BuildInfo{}
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			rev = s.Value[:min(12, len(s.Value))] + rev
		case s.Key == "vcs.modified" && s.Value == "true":
			rev += "+"
		}
	}
	if rev != "" {
		return rev
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// flushMicros is the median time of fdatasync behind a write of one WAL page, in microseconds.
func flushMicros(dir string) (float64, error) {
	f, err := os.Create(filepath.Join(dir, "flush"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	page := make([]byte, 8<<10)
	rng := rand.NewChaCha8([32]byte{1}) // a disk may be quick with zeros
	took := make([]float64, 0, 300)
	end := time.Now().Add(2 * time.Second)
	for i := 0; i < cap(took) && time.Now().Before(end); i++ {
		_, _ = rng.Read(page) // never fails
		begin := time.Now()
		if _, err := f.WriteAt(page, int64(i%64)*int64(len(page))); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		took = append(took, float64(time.Since(begin).Microseconds()))
	}
	return quantile(took, 0.5), nil
}

// usage is what a process has used.
type usage struct {
	CPU    time.Duration `json:"cpu"`
	RSSKiB int64         `json:"rss_kib"` // now; 0 = unknown
}

func usageOfSelf() usage {
	var u usage
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) == nil {
		u.CPU = time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	u.RSSKiB, _ = strconv.ParseInt(strings.TrimSuffix(field("/proc/self/status", "VmRSS"), " kB"), 10, 64)
	return u
}

// postgresCPU is what a postmaster's processes have used so far, those that ended too; 0 = unknown on this system.
func postgresCPU(postmaster int) time.Duration {
	const tick = 10 * time.Millisecond // USER_HZ is 100 wherever Go runs
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	var ticks int64
	for _, name := range stats {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // it ended
		}
		_, rest, ok := strings.Cut(string(b), ") ")
		f := strings.Fields(rest)
		if !ok || len(f) < 15 {
			continue
		}
		number := func(i int) int64 { n, _ := strconv.ParseInt(f[i], 10, 64); return n }
		switch {
		case number(1) == int64(postmaster):
			ticks += number(11) + number(12)
		case filepath.Base(filepath.Dir(name)) == strconv.Itoa(postmaster):
			ticks += number(11) + number(12) + number(13) + number(14)
		}
	}
	return time.Duration(ticks) * tick
}

// postmasterOf finds the parent of a connection's backend; 0 = it is not on this machine, or not Linux.
func postmasterOf(ctx context.Context, conn *pgx.Conn) int {
	var pid int
	if conn.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&pid) != nil {
		return 0
	}
	name := field(fmt.Sprintf("/proc/%d/status", pid), "Name")
	parent, _ := strconv.Atoi(field(fmt.Sprintf("/proc/%d/status", pid), "PPid"))
	if !strings.HasPrefix(name, "postgres") {
		return 0
	}
	return parent
}

// settingNames are what of Postgres' settings decides the figures.
var settingNames = []string{"server_version", "shared_buffers", "wal_level", "fsync", "synchronous_commit", "full_page_writes",
	"jit", "max_wal_size", "checkpoint_timeout", "autovacuum", "wal_compression", "shared_preload_libraries", "data_checksums",
	"wal_sync_method", "commit_delay", "max_connections", "track_commit_timestamp"}

func settings(ctx context.Context, conn *pgx.Conn) (map[string]string, error) {
	rows, err := conn.Query(ctx, sqlSettings, settingNames)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	var name, value string
	_, err = pgx.ForEachRow(rows, []any{&name, &value}, func() error {
		out[name] = value
		return nil
	})
	return out, err
}

// quantile gives the q-th of values, between 0 and 1, by interpolation; 0 of none.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	at := q * float64(len(s)-1)
	low := int(at)
	high := min(low+1, len(s)-1)
	return s[low] + (s[high]-s[low])*(at-float64(low))
}
