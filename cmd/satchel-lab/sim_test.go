package main

import (
	"strings"
	"testing"
)

func TestEventsAreKeptOfOneSeedOnly(t *testing.T) {
	t.Parallel()
	if status, _, errs := lab("sim", "--real", "--keep", "3,9"); status != 1 || !strings.Contains(errs, "--seed") {
		t.Errorf("status %d: %s", status, errs)
	}
}

func TestAServersProcessOfSimSaysWhoStartsIt(t *testing.T) {
	t.Parallel()
	if status, _, errs := lab("serve"); status != 1 || !strings.Contains(errs, "satchel-lab sim --real") {
		t.Errorf("status %d: %s", status, errs)
	}
}

func TestOnlyTheFastModeIsRunTwice(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"--real", "--mutants"} {
		if status, _, errs := lab("sim", "--twice", mode); status != 1 || !strings.Contains(errs, "fast mode") {
			t.Errorf("%s: status %d: %s", mode, status, errs)
		}
	}
}
