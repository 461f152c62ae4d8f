package conformance_test

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/satchel-sync/satchel/conformance"
	"github.com/satchel-sync/satchel/conformance/godriver"
)

// inProcess gives a driver of the Go client in this process.
func inProcess(t *testing.T, o godriver.Options) conformance.Config {
	t.Helper()
	commands, toDriver := io.Pipe()
	fromDriver, answers := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := godriver.Serve(context.Background(), commands, answers, o)
		answers.Close()
		done <- err
	}()
	t.Cleanup(func() {
		toDriver.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return conformance.Config{Connect: func() (io.Reader, io.Writer) { return fromDriver, toDriver }}
}

// play plays the transcripts of these names, or all of them, and gives the names of those that failed, each with its failure.
func play(t *testing.T, cfg conformance.Config, names ...string) map[string]string {
	t.Helper()
	all, err := conformance.Transcripts()
	if err != nil {
		t.Fatal(err)
	}
	r, err := conformance.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	failed := map[string]string{}
	for _, tr := range all {
		if len(names) > 0 && !slices.Contains(names, tr.Name) {
			continue
		}
		switch res := r.Play(tr); {
		case res.NotAsked:
			failed[tr.Name] = "was not asked"
		case res.Failure != "":
			failed[tr.Name] = res.Failure
		}
	}
	return failed
}

func wantAllPass(t *testing.T, cfg conformance.Config) {
	t.Helper()
	for name, why := range play(t, cfg) {
		t.Errorf("%s: %s", name, why)
	}
}

func TestTheGoClientPassesInMemory(t *testing.T) {
	t.Parallel()
	wantAllPass(t, inProcess(t, godriver.Options{Stores: godriver.Memory()}))
}

func TestTheGoClientPassesOnSQLiteSpeakingJSON(t *testing.T) {
	t.Parallel()
	wantAllPass(t, inProcess(t, godriver.Options{Stores: godriver.SQLite(t.TempDir()), JSON: true}))
}

func TestTheGoClientPassesAsAProcessThatIsKilled(t *testing.T) {
	t.Parallel()
	driver := filepath.Join(t.TempDir(), "driver")
	if out, err := exec.Command("go", "build", "-o", driver, "./drivers/go").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	wantAllPass(t, conformance.Config{Command: []string{driver, "-store", "sqlite", "-folder", t.TempDir()}, Sigkill: true})
}

func TestATranscriptSaysWhatItIsAbout(t *testing.T) {
	t.Parallel()
	all, err := conformance.Transcripts()
	if err != nil {
		t.Fatal(err)
	}
	protocol, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 40 {
		t.Errorf("there are %d transcripts", len(all))
	}
	var titles []string
	for _, tr := range all {
		if slices.Contains(titles, tr.Title) {
			t.Errorf("%s: another transcript has the title %q", tr.Name, tr.Title)
		}
		titles = append(titles, tr.Title)
		if len(tr.Text) == 0 {
			t.Errorf("%s does not say why", tr.Name)
		}
		for _, s := range tr.States {
			if !strings.Contains(string(protocol), "| "+s+" |") && s != "S16" && s != "S19" {
				t.Errorf("%s names %s, which docs/protocol.md does not", tr.Name, s)
			}
		}
	}
}
