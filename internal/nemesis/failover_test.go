package nemesis

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
)

func TestAfterAFailoverEveryAcknowledgedMutationIsThereOnce(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("a standby, a failover and a fleet: 15 seconds")
	}
	s, err := raise(t.Context(), server, aStandby, durable)
	if err != nil {
		t.Fatal(err)
	}
	defer s.strike()
	was := s.db
	r := runOn(t.Context(), s, 1, []event{
		{number: 1, at: 1200 * time.Millisecond, what: failOver},
		{number: 2, at: 1700 * time.Millisecond, what: changeRights, choice: 3},
		{number: 3, at: 1800 * time.Millisecond, what: killReplica, last: 200 * time.Millisecond},
		{number: 4, at: 2500 * time.Millisecond, what: partition, target: 2, last: 500 * time.Millisecond, up: stall, down: drop},
	}, false, verbose())
	t.Log(r.act)
	if r.err != nil {
		t.Error(r.err)
	}
	for _, f := range r.failures {
		t.Error(f)
	}
	var recovering bool
	if err := s.pool.QueryRow(t.Context(), "SELECT pg_is_in_recovery()").Scan(&recovering); err != nil || recovering || s.db == was {
		t.Errorf("the standby is not the primary: %v", err)
	}
}

// S18, with servers that stay up: what was acknowledged after the backup comes from the phones again, and takes effect once.
func TestAfterABackupIsRestoredPhonesBringBackWhatItDoesNotHave(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("a backup, a restore and a fleet: 10 seconds")
	}
	s, err := raise(t.Context(), server, aFrontman, durable)
	if err != nil {
		t.Fatal(err)
	}
	defer s.strike()
	r := runOn(t.Context(), s, 1, []event{
		{number: 1, at: 700 * time.Millisecond, what: restoreOld, last: 1300 * time.Millisecond},
		{number: 2, at: 1500 * time.Millisecond, what: partition, target: 3, last: 3 * time.Second, up: drop, down: drop},
	}, false, verbose())
	t.Log(r.act)
	if r.err != nil || !s.restored {
		t.Error(s.restored, r.err)
	}
	for _, f := range r.failures {
		t.Error(f)
	}
}

// S1: a commit of which nobody knows whether the standby has it is no verdict, however its wait was cut short.
func TestACommitWhoseWaitForAStandbyWasCutShortIsNoVerdict(t *testing.T) {
	t.Parallel()
	s, err := raise(t.Context(), server, nothing, durable)
	if err != nil {
		t.Fatal(err)
	}
	defer s.strike()
	w, err := newWorld(t.Context(), s, 1, verbose())
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	p := w.phones[3]
	account, err := p.client.Create(t.Context(), "account", satchelclient.Fields{"name": "Orient Machinery", "owner": w.People["ann"]})
	if err == nil {
		_, err = p.client.Sync(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	for i, cut := range []string{"pg_cancel_backend", "pg_terminate_backend"} {
		waitForNobody(t, s)
		if err := p.client.Patch(t.Context(), "account", account, nil, satchelclient.Increment("visit_count", 1)); err != nil {
			t.Fatal(err)
		}
		limited, cancel := context.WithTimeout(t.Context(), time.Minute)
		r, err := syncCutShort(limited, s, p, cut)
		cancel()
		if !errors.Is(err, satchelclient.ErrUnavailable) || len(r.Settled) > 0 {
			t.Errorf("%s: the phone heard %v and %+v", cut, err, r)
		}
		if n, err := p.client.Pending(t.Context()); n != 1 || err != nil {
			t.Errorf("%s: %d pending, %v", cut, n, err)
		}
		// It was committed here, and the phone does not know: that is what the test is about.
		if n := counted(t, s, account); n != i+1 {
			t.Errorf("%s: the account counts %d before the phone was told, not %d", cut, n, i+1)
		}
		if err := s.system(t.Context(), "synchronous_standby_names", ""); err != nil {
			t.Fatal(err)
		}
		if r, err := p.client.Sync(t.Context()); err != nil || len(r.Settled) != 1 || r.Pending != 0 {
			t.Errorf("%s: then %+v, %v", cut, r, err)
		}
		if n := counted(t, s, account); n != i+1 {
			t.Errorf("%s: the account counts %d in the end, not %d", cut, n, i+1)
		}
	}
}

// waitForNobody lets commits wait for a standby that does not exist, and returns when they do: a reload takes its time.
func waitForNobody(t *testing.T, s *stage) {
	t.Helper()
	if err := s.system(t.Context(), "synchronous_standby_names", "nobody"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for {
		done := make(chan error, 1)
		go func() {
			_, err := conn.Exec(ctx, `CREATE TABLE probe (n int); DROP TABLE probe`)
			done <- err
		}()
		for waits := false; ; {
			select {
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
			case <-time.After(5 * time.Millisecond):
				if err := s.pool.QueryRow(ctx, `SELECT count(*) > 0 FROM (SELECT pg_cancel_backend(pid) FROM pg_stat_activity
					WHERE wait_event = 'SyncRep' AND pid = $1) x`, conn.PgConn().PID()).Scan(&waits); err != nil {
					t.Fatal(err)
				}
				if !waits {
					continue
				}
				if err := <-done; err != nil { // it was cancelled, which is a warning only
					t.Fatal(err)
				}
				return
			}
			break
		}
	}
}

// syncCutShort makes a round trip while every wait of a server for the standby is cut short.
func syncCutShort(ctx context.Context, s *stage, p *phone, cut string) (r satchelclient.Result, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		r, err = p.client.SyncOnce(ctx)
	}()
	for {
		if _, err := s.pool.Exec(ctx, `SELECT `+cut+`(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name LIKE 'satchel sim %'`); err != nil {
			return r, err
		}
		select {
		case <-done:
			return r, err
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func counted(t *testing.T, s *stage, account satchel.ID) (n int) {
	t.Helper()
	if err := s.pool.QueryRow(t.Context(), `SELECT coalesce((data ->> 'visit_count')::int, 0) FROM record WHERE id = $1`, account).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// The simulator itself: what is broken behind the product's back is seen.
func TestWhatIsMissingOrDoubledIsFound(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("a fleet: 8 seconds")
	}
	s, err := raise(t.Context(), server, nothing, durable)
	if err != nil {
		t.Fatal(err)
	}
	defer s.strike()
	w, err := newWorld(t.Context(), s, 1, verbose())
	if err == nil {
		defer w.close()
		err = errors.Join(w.run(nil), w.heal())
	}
	if err != nil || len(w.failed) > 0 {
		t.Fatal(err, w.failed)
	}
	for _, sql := range []string{
		`UPDATE record SET data = jsonb_set(data, '{visit_count}', '999') WHERE id = (SELECT id FROM record WHERE kind = 'account' ORDER BY id LIMIT 1)`,
		`DELETE FROM record WHERE id = (SELECT id FROM record WHERE kind = 'visit' ORDER BY id DESC LIMIT 1)`,
		`DELETE FROM ledger WHERE ctid = (SELECT ctid FROM ledger WHERE first > 1 ORDER BY seq LIMIT 1)`,
	} {
		if tag, err := s.pool.Exec(t.Context(), sql); err != nil || tag.RowsAffected() == 0 {
			t.Fatal(sql, tag, err)
		}
	}
	if err := w.check(); err != nil {
		t.Fatal(err)
	}
	all := strings.Join(w.failed, "\n")
	for _, promise := range []string{"S1: ", "S2: ", "S3: ", "S4: "} {
		if !strings.Contains(all, promise) {
			t.Errorf("%s was broken, and nothing said so:\n%s", promise, all)
		}
	}
}
