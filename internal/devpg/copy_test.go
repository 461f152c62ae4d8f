package devpg_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/satchel-sync/satchel/internal/devpg"
)

// replicating gives a server that can be copied, with one row in table t.
func replicating(t *testing.T) *devpg.Server {
	t.Helper()
	s, err := devpg.StartEphemeral(t.Context(), map[string]string{"wal_level": "replica", "max_wal_senders": "4"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop(context.Background()) })
	execute(t, s.URL(), "create table t (n int); insert into t values (1)")
	return s
}

func execute(t *testing.T, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func count(t *testing.T, url string) (n int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := conn.QueryRow(t.Context(), "select count(*) from t").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func timeline(t *testing.T, url string) (n int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := conn.QueryRow(t.Context(), "select ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestABackupHoldsWhatWasThereWhenItWasTaken(t *testing.T) {
	t.Parallel()
	s := replicating(t)
	b, err := s.Backup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Remove()
	execute(t, s.URL(), "insert into t values (2)")
	old, err := b.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = old.Stop(context.Background()) }()
	if was, is := timeline(t, s.URL()), timeline(t, old.URL()); is <= was {
		t.Errorf("the restored database is on timeline %d, the one that was copied on %d", is, was)
	}
	if now, then := count(t, s.URL()), count(t, old.URL()); now != 2 || then != 1 {
		t.Errorf("now there are %d, the backup has %d", now, then)
	}
	if _, err := b.Start(t.Context()); err == nil {
		t.Error("a backup starts twice")
	}
}

func TestAStandbyThatIsWaitedForHasEverythingWhenThePrimaryIsKilled(t *testing.T) {
	t.Parallel()
	s := replicating(t)
	other, err := s.Standby(t.Context(), "second")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Stop(context.Background()) }()
	execute(t, s.URL(), "alter system set synchronous_standby_names = 'nobody'")
	execute(t, s.URL(), "select pg_reload_conf()")
	if err := s.CommitsWait(t.Context()); err != nil {
		t.Fatal(err)
	}
	execute(t, s.URL(), "alter system set synchronous_standby_names = 'second'")
	execute(t, s.URL(), "select pg_reload_conf()")
	execute(t, s.URL(), "set synchronous_commit = on; insert into t values (2)")
	either := devpg.ReadWriteURL(s, other)
	execute(t, either, "set synchronous_commit = on; insert into t values (3)")
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := other.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	execute(t, either, "insert into t values (4)")
	if n := count(t, other.URL()); n != 4 {
		t.Errorf("it has %d of 4", n)
	}
}

func TestAHaltedServerRecovers(t *testing.T) {
	t.Parallel()
	s := replicating(t)
	execute(t, s.URL(), "set synchronous_commit = on; insert into t values (2)")
	if err := s.Halt(); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := count(t, s.URL()); n != 2 {
		t.Errorf("it has %d of 2", n)
	}
}
