package tests_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/satchel-sync/satchel/internal/pg"
)

// TestNothingDependsOnNotifications has Postgres write down every statement of two replicas that wake each other's
// phones and share jobs: none listens, and none notifies, so there is no connection whose death could silence a replica.
func TestNothingDependsOnNotifications(t *testing.T) {
	t.Parallel()
	db, pool := ownPostgres(t.Context(), t, map[string]string{"log_statement": "all", "log_parameter_max_length": "0"})
	var triggers int
	if err := pool.QueryRow(t.Context(), `select count(*) from pg_trigger t join pg_proc p on p.oid = t.tgfoid where p.prosrc ilike '%notify%'`).Scan(&triggers); err != nil || triggers > 0 {
		t.Errorf("%d triggers notify, %v", triggers, err)
	}
	if _, err := pool.Exec(t.Context(), "select 'here the replicas start'"); err != nil {
		t.Fatal(err)
	}
	a, b := replicas(t, db.URL(), pg.Options{})
	fleet(t, a, b, 2)
	jobsAreDone(t, a, b)
	ann, mei := signIn(t, a.url, "acme", "ann"), signIn(t, b.url, "acme", "mei")
	mei.pull()
	woken := make(chan answer, 1)
	go func() { woken <- mei.call("SyncService/Wait", map[string]any{"cursor": mei.cursor}) }()
	b.waiting(t, 1)
	ann.create("account", map[string]any{"name": "Quay"})
	if got := <-woken; got.body["wake"] != true {
		t.Errorf("a phone at the other replica gets %s", got.raw)
	}
	text, err := os.ReadFile(filepath.Join(db.Home(), "postgres.log"))
	if err != nil {
		t.Fatal(err)
	}
	_, said, _ := strings.Cut(string(text), "here the replicas start")
	for _, statement := range []string{"-- syncengine.", "-- jobs.", "-- identity.", "commit", "river_leader"} {
		if !strings.Contains(said, statement) {
			t.Errorf("Postgres did not write down what the replicas do: there is no %q", statement)
		}
	}
	heard := regexp.MustCompile(`(?i)\b(un)?listen\b|\bnotify\b|pg_notify`)
	for line := range strings.Lines(said) {
		if heard.MatchString(line) {
			t.Errorf("a statement of notifications: %s", line)
		}
	}
}
