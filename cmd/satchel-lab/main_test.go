package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// lab runs the command line as main does.
func lab(args ...string) (status int, out, errs string) {
	var o, e bytes.Buffer
	status = run(args, streams{in: strings.NewReader(""), out: &o, err: &e})
	return status, o.String(), e.String()
}

func TestAWrongFlagIsTheCallersError(t *testing.T) {
	t.Parallel()
	if status, _, errs := lab("bench", "--fast"); status != 2 || !strings.Contains(errs, "--help") {
		t.Errorf("status %d: %s", status, errs)
	}
}

func TestAnUnknownWorkIsRefusedBeforeAPostgresIsStarted(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	status, _, errs := lab("bench", "--only", "pish", "--data-dir", dir)
	if status != 1 || !strings.Contains(errs, "one_org_vs_eight") {
		t.Errorf("status %d: %s", status, errs)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the data directory was touched: %v", err)
	}
}

func TestTheServersProcessSaysWhoStartsIt(t *testing.T) {
	t.Parallel()
	if status, _, errs := lab("servers"); status != 1 || !strings.Contains(errs, "satchel-lab bench") {
		t.Errorf("status %d: %s", status, errs)
	}
}
