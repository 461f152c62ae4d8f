package syncengine_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/devpg"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/migrations"
	"github.com/satchel-sync/satchel/syncengine"
)

// backup copies the organisation's tables inside the database; what it gives puts them back.
func (w *world) backup() (restore func()) {
	w.t.Helper()
	each := func(what string) {
		w.exec(`DO $$ DECLARE t text; BEGIN
			FOR t IN SELECT c.table_name FROM information_schema.columns c JOIN information_schema.tables b USING (table_schema, table_name)
				WHERE c.table_schema = 'public' AND c.column_name = 'org_id' AND b.table_type = 'BASE TABLE'
			LOOP ` + what + ` END LOOP; END $$`)
	}
	w.exec(`CREATE SCHEMA IF NOT EXISTS backup`)
	each(`EXECUTE format('CREATE TABLE backup.%I AS TABLE public.%I', t, t);`)
	return func() {
		w.t.Helper()
		each(`EXECUTE format('TRUNCATE public.%I CASCADE', t);`)
		w.exec(`SET session_replication_role = replica; DO $$ DECLARE t text; c text; BEGIN
			FOR t, c IN SELECT table_name, string_agg(quote_ident(column_name), ', ') FROM information_schema.columns p
				WHERE table_schema = 'public' AND is_generated = 'NEVER'
				  AND EXISTS (SELECT 1 FROM information_schema.tables b WHERE b.table_schema = 'backup' AND b.table_name = p.table_name)
				GROUP BY table_name
			LOOP EXECUTE format('INSERT INTO public.%I (%s) SELECT %s FROM backup.%I', t, c, c, t); END LOOP; END $$;
			SET session_replication_role = DEFAULT`)
	}
}

// connect makes a new connection to the world's database as a server does.
func (w *world) connect() {
	w.t.Helper()
	conn, err := pgx.ConnectConfig(context.Background(), w.pool.Config().ConnConfig)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := syncengine.CheckLine(context.Background(), conn); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) seq() uint64 {
	w.t.Helper()
	return uint64(w.count(`SELECT seq FROM org_clock WHERE org_id = $1`, w.org))
}

func (w *world) epoch() uint64 { w.t.Helper(); return w.seq() >> 40 }

func (p *phone) restored(seen uint64, cursor []byte) *syncengine.Lost {
	p.w.t.Helper()
	lost, err := p.engine.Restored(context.Background(), p.w.principal(p.name, p.who.Device), seen, cursor)
	if err != nil {
		p.w.t.Fatal(err)
	}
	return lost
}

func TestS18ARestoredDatabaseBeginsAnEpochAndTellsDevicesWhatItLost(t *testing.T) {
	w := newWorld(t)
	ann, ben, mei := w.phone("Ann"), w.phone("Ben"), w.phone("Mei")
	acc := ann.account("A")
	ben.account("B")
	ann.pull()
	ben.pull()
	cut := w.seq()
	restore := w.backup()

	ann.mustDo(patch("account", acc, 1, map[string]any{"level": "b"}))
	for range 3 { // a bucket that the backup does not have, and whose number this server knows well
		ann.mustDo(create("visit", satchel.NewID(), visitFields(acc, "v")))
	}
	ann.pull()
	lost := w.seq()

	restore()
	w.exec(`UPDATE line SET system = system + 1`)
	w.connect()
	if w.epoch() == 0 || w.seq() != w.epoch()<<40 {
		t.Fatalf("the clock stands at %d of epoch %d", w.seq()&(1<<40-1), w.epoch())
	}
	// This server still knows the old clock, until it looks at the new one, at the latest a second later.
	page, err := w.engine.Pull(context.Background(), ann.who, syncengine.PullRequest{Cursor: ann.cursor, After: ann.seq})
	if err != nil || page == nil || page.Repair == nil || !page.Repair.Salvage {
		t.Errorf("a cursor of the lost line: %+v, %v", page, err)
	}
	if got := ann.restored(lost, ann.cursor); got == nil || *got != (syncengine.Lost{AfterSeq: cut, Expected: 2, Seq: w.seq()}) {
		t.Errorf("Ann is told %+v, not what came after %d", got, cut)
	}
	if got := ben.restored(cut, ben.cursor); got != nil {
		t.Errorf("Ben has lost nothing and is told %+v", got)
	}
	ben.pull() // goes on as if nothing had been

	// Ann showed rev 2 of the lost line. What Mei writes since has a rev above all of it: Ann has not seen it.
	mei.mustDo(patch("account", acc, 1, map[string]any{"level": "a"}))
	if w.seq() != w.epoch()<<40+1 || w.record(acc).Rev>>40 != w.epoch() || w.record(acc).Stamps["level"].Rev>>40 != w.epoch() {
		t.Errorf("seq %x, rev %x, stamp %x", w.seq(), w.record(acc).Rev, w.record(acc).Stamps["level"].Rev)
	}
	ann.next = 2
	w.pass(time.Minute)
	if v := ann.do(patch("account", acc, 2, map[string]any{"level": "c"})); v.Status != syncengine.Conflicted {
		t.Errorf("an edit by what the lost line showed: %+v", v)
	}
	ann.mustDo(create("visit", satchel.NewID(), visitFields(acc, "v")))
	if n := w.count(`SELECT count(*) FROM head h WHERE org_id = $1 AND NOT EXISTS (SELECT 1 FROM bucket_name n WHERE n.org_id = $1 AND n.num = h.bucket)`, w.org); n != 0 {
		t.Errorf("%d heads lie in buckets that are only on the lost line", n)
	}
	if got := ann.restored(w.seq(), nil); got != nil {
		t.Errorf("a commit of the new epoch is not lost: %+v", got)
	}
}

func TestS18ABaseOfTheLostLineCountsAsNeverSeen(t *testing.T) {
	w := newWorld(t)
	ann, mei := w.phone("Ann"), w.phone("Mei")
	acc := ann.account("A")
	mei.mustDo(patch("account", acc, 1, map[string]any{"level": "a"}))
	restore := w.backup()
	ann.mustDo(patch("account", acc, 2, map[string]any{"level": "b"}))
	ann.mustDo(patch("account", acc, 3, map[string]any{"level": "c"}))
	restore()
	if err := w.engine.OpenEpoch(context.Background()); err != nil {
		t.Fatal(err)
	}
	ann.next = 2
	if v := ann.do(patch("account", acc, 4, map[string]any{"level": "d"})); v.Status != syncengine.Conflicted {
		t.Errorf("%+v", v)
	}
}

func TestS18ARestoreThatNobodySpokeOfIsProvedByASignedCursorOnly(t *testing.T) {
	w := newWorld(t)
	ann, ben := w.phone("Ann"), w.phone("Ben")
	ann.account("A")
	ben.account("B")
	ben.pull()
	cut := w.seq()
	restore := w.backup()
	ann.account("lost")
	ann.pull()
	lost := w.seq()
	restore()
	if got := ben.restored(1<<39, ben.cursor); got == nil || got.AfterSeq != cut || w.epoch() != 0 {
		t.Errorf("a number that nothing proves: %+v, epoch %d", got, w.epoch())
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if got := ann.restored(lost, ann.cursor); got == nil || got.AfterSeq != cut || got.Seq>>40 == 0 {
				t.Errorf("Ann's cursor proves it: %+v", got)
			}
		})
	}
	wg.Wait()
	if n := w.count(`SELECT jsonb_array_length(cuts) FROM org_clock WHERE org_id = $1`, w.org); n != 1 {
		t.Errorf("%d epochs ended", n)
	}
}

func TestS18AnEpochThatThisLineDoesNotHaveIsLostFromItsCutOn(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	ann.account("A")
	cut := w.seq()
	restore := w.backup()
	ann.account("B")
	if err := w.engine.OpenEpoch(context.Background()); err != nil {
		t.Fatal(err)
	}
	ann.account("C")
	dead := w.seq()
	restore()
	if err := w.engine.OpenEpoch(context.Background()); err != nil { // within the same minutes: the same number, so not by it
		t.Fatal(err)
	}
	w.exec(`UPDATE org_clock SET seq = ((seq >> 40) + 5) << 40 WHERE org_id = $1`, w.org)
	if got := ann.restored(dead, nil); got == nil || got.AfterSeq != cut {
		t.Errorf("%+v, not what came after %d", got, cut)
	}
}

func TestS18EveryConnectionChecksTheLineAndOneEpochIsOpened(t *testing.T) {
	w := newWorld(t)
	w.phone("Ann").account("A")
	w.connect()
	if w.epoch() != 0 {
		t.Fatal("an epoch was opened on the line that is noted")
	}
	w.exec(`UPDATE line SET timeline = timeline + 1`)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(w.connect)
	}
	wg.Wait()
	if n := w.count(`SELECT jsonb_array_length(cuts) FROM org_clock WHERE org_id = $1`, w.org); n != 1 {
		t.Errorf("%d epochs ended", n)
	}
	// An ordinary role may do it.
	w.exec(`UPDATE line SET timeline = timeline + 1`)
	role := fmt.Sprintf("ordinary_%x", w.org[12:])
	w.exec(`CREATE ROLE ` + role + `; GRANT ALL ON ALL TABLES IN SCHEMA public TO ` + role)
	t.Cleanup(func() { w.exec(`DROP OWNED BY ` + role + `; DROP ROLE ` + role) })
	conn, err := w.pool.Acquire(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if _, err = conn.Exec(context.Background(), `SET ROLE `+role); err == nil {
		err = syncengine.CheckLine(context.Background(), conn.Conn())
	}
	if _, reset := conn.Exec(context.Background(), `RESET ROLE`); err != nil || reset != nil {
		t.Fatal(err, reset)
	}
	conn.Release()
	if n := w.count(`SELECT jsonb_array_length(cuts) FROM org_clock WHERE org_id = $1`, w.org); n != 2 {
		t.Errorf("%d epochs ended", n)
	}
	// A database that has not come so far has nothing to compare.
	w.exec(`DROP FUNCTION satchel_check_line`)
	w.connect()
}

func TestS18ARunningServerNoticesWithoutANewConnection(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	ann.account("A")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- w.engine.Run(ctx) }()
	w.exec(`UPDATE line SET timeline = timeline + 1`)
	for deadline := time.Now().Add(20 * time.Second); w.epoch() == 0; {
		if time.Now().After(deadline) {
			t.Fatal("nobody noticed")
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case err := <-done:
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	ann.account("B")
}

// The whole way: a standby that had not received the last commits takes the primary's place.
func TestS18APromotedStandbyThatLackedCommitsIsNoticedAtTheFirstConnection(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	primary, err := devpg.StartEphemeral(ctx, map[string]string{"wal_level": "replica", "max_wal_senders": "4"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = primary.Stop(context.Background()) }()
	open := func(s *devpg.Server) *pgxpool.Pool {
		pool, err := pg.Open(ctx, s.URL(), pg.Options{OnConnect: syncengine.CheckLine})
		if err != nil {
			t.Fatal(err)
		}
		return pool
	}
	pool := open(primary)
	defer pool.Close()
	if err := migrations.Up(ctx, pool); err != nil {
		t.Fatal(err)
	}
	w := newWorldOn(t, pool)
	ann := w.phone("Ann")
	ann.account("A")
	ann.pull()
	standby, err := primary.Standby(ctx, "second")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = standby.Stop(context.Background()) }()
	if err := standby.Halt(); err != nil {
		t.Fatal(err)
	}
	cut := w.seq()
	ann.account("lost")
	ann.pull()
	if err := primary.Halt(); err != nil {
		t.Fatal(err)
	}
	if err := standby.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	// A connection of now would outlive the promotion, and write with the numbers of the line that is gone.
	if early, err := pg.Open(ctx, standby.URL(), pg.Options{OnConnect: syncengine.CheckLine}); !pg.Away(err) {
		if err == nil {
			early.Close()
		}
		t.Errorf("a standby is taken for the database: %v", err)
	}
	if err := standby.Promote(ctx); err != nil {
		t.Fatal(err)
	}
	after := open(standby)
	defer after.Close()
	w.pool, w.jobs = after, nil
	if w.epoch() == 0 {
		t.Fatal("nobody noticed")
	}
	ann.engine = w.newEngine()
	if got := ann.restored(ann.seq, ann.cursor); got == nil || got.AfterSeq != cut || got.Expected != 2 {
		t.Errorf("Ann is told %+v, not what came after %d", got, cut)
	}
}
