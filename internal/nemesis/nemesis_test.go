package nemesis

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets a test start this binary again as a server's process.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "serve" {
		if err := Serve(context.Background(), os.Stdin, os.Stdout, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) == 2 && os.Args[1] == "raise" { // a stage whose first server is stopped, until it is killed
		s, err := raise(context.Background(), server, nothing, durable)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		for _, r := range s.replicas {
			fmt.Println(r.proc.Process.Pid)
		}
		s.replicas[0].signal(syscall.SIGSTOP)
		fmt.Println(s.db.Home(), s.dir)
		select {}
	}
	os.Exit(m.Run())
}

// verbose is where a run is traced.
func verbose() io.Writer {
	if testing.Verbose() {
		return os.Stdout
	}
	return nil
}

func server(ctx context.Context) *exec.Cmd { return exec.CommandContext(ctx, os.Args[0], "serve") }

func TestProcessesThatDieLoseNothing(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	total, err := RunMany(t.Context(), Many{From: 1, Seeds: 1, Trace: testing.Verbose(), Out: &out, Replay: "go run ./cmd/satchel-lab sim --real", Server: server})
	t.Log(out.String())
	if err != nil {
		t.Fatal(err)
	}
	if total.Failed > 0 || total.Passed != 1 || total.Activity.Kills == 0 || total.Activity.RightsChanged == 0 {
		t.Errorf("%d passed, %d failed: %s", total.Passed, total.Failed, total.Activity)
	}
}

func TestEverythingEndsWithASimulatorThatIsKilled(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(os.Args[0], "raise")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var pids [replicas]int
	var home, dir string
	if _, err := fmt.Fscan(out, &pids[0], &pids[1], &home, &dir); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir) // files of phones stay in the temporary folder
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	gone := func() bool {
		for _, pid := range pids {
			if syscall.Kill(pid, 0) == nil {
				return false
			}
		}
		_, err := os.Stat(home)
		return os.IsNotExist(err)
	}
	for deadline := time.Now().Add(20 * time.Second); !gone(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("processes %v or the folder %s are still there", pids, home)
		}
	}
}

func TestASeedHasTheSameScheduleEachTimeAndAtLeastADeathAndAChangeOfRights(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for seed := range uint64(50) {
		once, twice := fmt.Sprint(draw(seed, 8)), fmt.Sprint(draw(seed, 8))
		if once != twice {
			t.Fatalf("seed %d: %s, then %s", seed, once, twice)
		}
		if seen[once] || !strings.Contains(once, string(killReplica)) || !strings.Contains(once, string(changeRights)) {
			t.Errorf("seed %d: %s", seed, once)
		}
		seen[once] = true
	}
}

func TestEventsThatAreKeptAreThoseThatWereDrawn(t *testing.T) {
	t.Parallel()
	all := draw(7, 8)
	some := only(all, []int{2, 5})
	if len(some) != 2 || some[0] != all[1] || some[1] != all[4] {
		t.Errorf("%v of %v", some, all)
	}
	if n := len(only(all, []int{})); n != 0 {
		t.Errorf("%d events of none", n)
	}
	if got := replay("sim", 7, []int{}); got != "sim --seed 7 --keep 0" {
		t.Error(got)
	}
	if got := replay("sim", 7, []int{3, 9}); got != "sim --seed 7 --keep 3,9" {
		t.Error(got)
	}
}
