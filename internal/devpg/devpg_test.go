package devpg_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/satchel-sync/satchel/internal/devpg"
)

// TestMain lets a test start this binary again as a process that it can kill: `startAndWait DIR`.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "startAndWait" {
		var s *devpg.Server
		var err error
		if os.Args[2] == "ephemeral" {
			s, err = devpg.StartEphemeral(context.Background(), nil)
		} else {
			s, err = devpg.Start(context.Background(), devpg.Config{Dir: os.Args[2]})
		}
		if err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
		fmt.Println("ready", s.URL(), s.Home())
		select {}
	}
	os.Exit(m.Run())
}

// tempDir is reachable by the unprivileged user, unlike t.TempDir's 0700 parents under root.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "satchel-devpg-test-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func start(t *testing.T, dir string) *devpg.Server {
	t.Helper()
	s, err := devpg.Start(t.Context(), devpg.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func query[T any](t *testing.T, url, sql string) T {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var v T
	if err := conn.QueryRow(t.Context(), sql).Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func exec1(t *testing.T, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

// child starts this binary as another process and waits until its Postgres answers.
func child(t *testing.T, dir string) (cmd *exec.Cmd, url, home string) {
	t.Helper()
	cmd = exec.Command(os.Args[0], "startAndWait", dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "ready ") {
		t.Fatalf("the other process said %q, %v", line, err)
	}
	f := strings.Fields(line)
	return cmd, f[1], f[2]
}

func postmaster(t *testing.T, home string) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(home, "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.SplitN(string(b), "\n", 2)[0])
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("still not so: " + what)
		}
		<-tick.C
	}
}

func TestAStoppedServerKeepsItsDataAndStartsAgainWithinAMoment(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempDir(t), "pg")
	s := start(t, dir)
	exec1(t, s.URL(), "create table t as select 42 as n")
	if got := query[string](t, s.TCPURL(), "select current_database() || ' ' || current_setting('server_encoding') || ' ' || datcollate from pg_database where datname = current_database()"); !strings.HasPrefix(got, "satchel UTF8 C") {
		t.Errorf("the database is %q", got)
	}
	best := time.Hour
	for try := 0; try < 3 && best > 3*time.Second; try++ { // the machine may be busy with other tests
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		s = start(t, dir)
		best = min(best, time.Since(began))
	}
	if t.Logf("the quickest further start took %v", best); best > 3*time.Second {
		t.Error("that is no moment")
	}
	if n := query[int](t, s.URL(), "select n from t"); n != 42 {
		t.Errorf("t holds %d", n)
	}
}

func TestWhatAKilledProcessLeftRunningIsAdopted(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempDir(t), "pg")
	cmd, url, home := child(t, dir)
	exec1(t, url, "create table t as select 42 as n")
	pid := postmaster(t, home)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()

	s := start(t, dir)
	if s.Shared() {
		t.Error("the owner is dead, yet the server counts as shared")
	}
	if got := postmaster(t, home); got != pid {
		t.Errorf("a new postmaster %d runs instead of %d", got, pid)
	}
	if n := query[int](t, s.URL(), "select n from t"); n != 42 {
		t.Errorf("t holds %d", n)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); err == nil {
		eventually(t, "the adopted postmaster is gone", func() bool { return syscall.Kill(pid, 0) != nil })
	}
}

func TestAServerWithOtherSettingsIsNotAdoptedButRestarted(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempDir(t), "pg")
	cmd, _, _ := child(t, dir)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	s, err := devpg.Start(t.Context(), devpg.Config{Dir: dir, Settings: map[string]string{"work_mem": "7MB"}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop(context.Background())
	if got := query[string](t, s.URL(), "show work_mem"); got != "7MB" {
		t.Errorf("work_mem is %s", got)
	}
}

func TestASecondProcessSharesTheServerAndLeavesItRunning(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempDir(t), "pg")
	owner := start(t, dir)
	_, url, _ := child(t, dir)
	exec1(t, url, "create table t as select 1 as n")
	second, err := devpg.Start(t.Context(), devpg.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if !second.Shared() || owner.Shared() {
		t.Error("who owns the server is unclear")
	}
	if err := second.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := query[int](t, owner.URL(), "select n from t"); n != 1 {
		t.Errorf("t holds %d", n)
	}
	if second.Kill() == nil || second.Restart(t.Context()) == nil {
		t.Error("a process that does not own the server may kill it")
	}
}

func TestAStalePidFileThatNamesAnotherProgramIsNoObstacleAndThatProgramLives(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempDir(t), "pg")
	s := start(t, dir)
	home := s.Home()
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(home, "data", "postmaster.pid")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "\n")
	other := exec.Command("/bin/sh", "-c", "read x")
	in, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(strconv.Itoa(other.Process.Pid)+"\n"+rest), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if query[int](t, s.URL(), "select 1") != 1 {
		t.Error("the server does not answer")
	}
	_ = in.Close()
	if err := other.Wait(); err == nil || other.ProcessState.ExitCode() < 0 {
		t.Errorf("the other program ended with %v, not by its own will", err)
	}
}

func TestAKilledServerComesBackAtTheSameAddressWithWhatWasCommitted(t *testing.T) {
	t.Parallel()
	s := start(t, filepath.Join(tempDir(t), "pg"))
	url := s.URL()
	exec1(t, url, "create table t as select 42 as n")
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := pgx.Connect(t.Context(), url); err == nil {
		t.Error("a killed server answers")
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.URL() != url {
		t.Errorf("the address changed from %s to %s", url, s.URL())
	}
	if n := query[int](t, url, "select n from t"); n != 42 {
		t.Errorf("t holds %d", n)
	}
}

func TestAHomeWithALongPathWorks(t *testing.T) {
	t.Parallel()
	s := start(t, filepath.Join(tempDir(t), strings.Repeat("long/", 30), "pg"))
	if query[int](t, s.URL(), "select 1") != 1 {
		t.Error("the server does not answer")
	}
}

func TestOnlyWhoHasThePasswordGetsIn(t *testing.T) {
	t.Parallel()
	s := start(t, filepath.Join(tempDir(t), "pg"))
	st, err := os.Stat(filepath.Join(s.Home(), "password"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the password file is %v, %v", st.Mode(), err)
	}
	for _, url := range []string{s.URL(), s.TCPURL()} {
		_, rest, _ := strings.Cut(url, "@")
		if _, err := pgx.Connect(t.Context(), "postgres://satchel:wrong@"+rest); err == nil {
			t.Errorf("a wrong password is good enough for %s", rest)
		}
	}
}

func TestAnEphemeralServerIsRemovedByStop(t *testing.T) {
	t.Parallel()
	s, err := devpg.StartEphemeral(t.Context(), map[string]string{"fsync": "on"})
	if err != nil {
		t.Fatal(err)
	}
	if got := query[string](t, s.URL(), "select current_setting('fsync') || current_setting('synchronous_commit')"); got != "onoff" {
		t.Errorf("fsync and synchronous_commit are %s", got)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.Home()); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", s.Home(), err)
	}
}

func TestAnEphemeralServerGoesWithItsProcess(t *testing.T) {
	t.Parallel()
	cmd, _, home := child(t, "ephemeral")
	pid := postmaster(t, home)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	eventually(t, "the server and its directory are gone", func() bool {
		_, err := os.Stat(home)
		return os.IsNotExist(err) && syscall.Kill(pid, 0) != nil
	})
}

func TestAsRootADirectoryThatOnlyRootReachesFallsBack(t *testing.T) {
	t.Parallel()
	parent, fallback := tempDir(t), tempDir(t)
	dir := filepath.Join(parent, "clone", "var", "pg")
	if err := os.Chmod(parent, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := devpg.Start(t.Context(), devpg.Config{Dir: dir, FallbackDir: fallback})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop(context.Background())
	want := dir
	if os.Geteuid() == 0 {
		want = fallback
	}
	if !strings.HasPrefix(s.Home(), want) {
		t.Errorf("the home is %s, not below %s", s.Home(), want)
	}
	if query[int](t, s.URL(), "select 1") != 1 {
		t.Error("the server does not answer")
	}
}
