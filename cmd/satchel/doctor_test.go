package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/satchel-sync/satchel/internal/pgtest"
)

func TestTheDoctorIsContentWithADevelopmentServer(t *testing.T) {
	t.Parallel()
	args := []string{"--dev", "--data-dir=" + dataDir(t)}
	must(t, nil, append([]string{"migrate"}, args...)...)
	out, errs, status := invoke(t, nil, append([]string{"doctor"}, args...)...)
	if status != 0 || !strings.Contains(out, "write, read, delete") || !strings.Contains(out, "up to date") {
		t.Fatalf("exit status %d\n%s%s", status, out, errs)
	}
}

func TestTheDoctorNamesWhatIsWrongAndExitsWithOne(t *testing.T) {
	t.Parallel()
	env := []string{
		"DATABASE_URL=" + pgtest.Empty(t), // the tests' Postgres does not wait for the disk
		"BLOB_URL=file:///proc/satchel-cannot-write-here",
		"SATCHEL_SECRET=" + devSecret,
	}
	out, errs, status := invoke(t, env, "doctor", "--json")
	var r report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v in %q (%s)", err, out, errs)
	}
	state := map[string]string{}
	for _, c := range r.Checks {
		state[c.Name] = c.State
		if c.State != good && c.Advice == "" {
			t.Errorf("%s is %s, and no advice is given", c.Name, c.State)
		}
	}
	for _, name := range []string{"secret", "fsync", "migrations", "blob store"} {
		if state[name] != bad {
			t.Errorf("%s is %q, want %q", name, state[name], bad)
		}
	}
	if state["clock"] != good || state["encoding"] != good {
		t.Errorf("clock is %q and encoding %q", state["clock"], state["encoding"])
	}
	if status != 1 || r.OK {
		t.Errorf("exit status %d, ok %v", status, r.OK)
	}
}

func TestTheDoctorSaysThatADatabaseDoesNotAnswerWithoutItsPassword(t *testing.T) {
	t.Parallel()
	env := production(t, "postgres://satchel:hidden-word@127.0.0.1:1/satchel")
	out, errs, status := invoke(t, env, "doctor")
	if status != 1 || !strings.Contains(out, "does not answer") || strings.Contains(out+errs, "hidden-word") {
		t.Fatalf("exit status %d\n%s%s", status, out, errs)
	}
}

func TestSecretsThatAreKnownShortOrNotRandomAreRefused(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", devSecret, "secret", strings.Repeat("ab", 32), strings.Repeat("change-me", 4)} {
		if _, err := checkSecret(text, false); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
	if _, err := checkSecret(devSecret, true); err != nil {
		t.Errorf("development refuses its own secret: %v", err)
	}
	a, err := checkSecret(goodSecret, false)
	if err != nil || len(a) != 32 {
		t.Fatalf("a good secret gives %d bytes and %v", len(a), err)
	}
}
