package syncengine_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/syncengine"
)

func TestS10NoChangeIsEverSkipped(t *testing.T) {
	w := newWorld(t)
	mei := w.phone("Mei")
	mei.pull()
	const writers, each = 6, 25
	var wg sync.WaitGroup
	ids := make(chan satchel.ID, writers*each)
	for i := range writers {
		p := w.phone([]string{"Ann", "Ben"}[i%2])
		engine := w.newEngine() // each writer is another replica
		wg.Go(func() {
			p.engine = engine
			for j := range each {
				id := satchel.NewID()
				m := p.mutation(create("account", id, map[string]any{"name": fmt.Sprint(i, "-", j)}))
				for len(p.send(m)) == 0 { // the deadline or a lock: still pending
				}
				ids <- id
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		mei.pull()
	}
	mei.pull()
	close(ids)
	for id := range ids {
		if !mei.has(id) {
			t.Errorf("account %s was skipped", id)
		}
	}
	if n := w.count(`SELECT seq FROM org_clock WHERE org_id = $1`, w.org); n != writers*each {
		t.Errorf("%d commits have numbers up to %d: not dense", writers*each, n)
	}
}

func TestS11PagesGoForwardAndEndAtACheckpoint(t *testing.T) {
	w := newWorld(t)
	ann, mei := w.phone("Ann"), w.phone("Mei")
	acc := ann.account("x")
	var ms []syncengine.Mutation
	for i := range 120 {
		ms = append(ms, ann.mutation(create("visit", satchel.NewID(), visitFields(acc, fmt.Sprint("visit ", i)))))
	}
	ann.send(ms...)
	mei.bytes = 1 // one row a page is the least
	for mei.page() {
		if mei.kinds()["visit"] != 0 {
			t.Fatal("staged rows are shown before the checkpoint of their priority")
		}
		// A record that changes meanwhile shows up again later in the same run.
		if mei.pages == 40 {
			ann.mustDo(patch("account", acc, 1, map[string]any{"remark": "changed meanwhile"}))
		}
	}
	if got := mei.kinds(); got["visit"] != 120 || mei.field(acc, "remark") != "changed meanwhile" {
		t.Errorf("%v", got)
	}
	if mei.pages < 120 {
		t.Errorf("%d pages of one row for 121 rows", mei.pages)
	}
}

func TestS12ATransactionIsSeenWholeAtOneCheckpoint(t *testing.T) {
	w := newWorld(t)
	ann, mei := w.phone("Ann"), w.phone("Mei")
	acc := ann.account("x")
	mei.pull()
	visit, task := satchel.NewID(), satchel.NewID()
	ann.mustDo(create("visit", visit, visitFields(acc, "v")), create("task", task, map[string]any{"title": "t"}))
	mei.bytes = 1
	for more := true; more; {
		more = mei.page()
		if mei.has(visit) != mei.has(task) {
			t.Fatal("half of a transaction is shown")
		}
	}
	if !mei.has(visit) {
		t.Error("nothing arrived")
	}
}

func TestS13ADeviceHoldsExactlyWhatIsItsPersons(t *testing.T) {
	w := newWorld(t)
	dina, mei, ann, cem := w.phone("Dina"), w.phone("Mei"), w.phone("Ann"), w.phone("Cem")
	a, c := ann.account("north's"), cem.account("south's")
	va, vc := satchel.NewID(), satchel.NewID()
	ann.mustDo(create("visit", va, visitFields(a, "a")))
	cem.mustDo(create("visit", vc, visitFields(c, "c")))
	for _, p := range []*phone{dina, mei, ann, cem} {
		p.pull()
	}
	if !dina.has(va) || !dina.has(vc) || mei.has(vc) || mei.has(c) || !mei.has(va) {
		t.Fatal("before the move")
	}
	// Cem moves to the north: his records follow him, in pieces, after the commit that moved him.
	w.changeRights(`UPDATE person SET team_id = $3 WHERE org_id = $1 AND id = $2`, w.org, w.people["Cem"], w.teams["north"])
	w.step()
	for _, p := range []*phone{dina, mei, ann, cem} {
		p.pull()
	}
	if !mei.has(vc) || !mei.has(c) || !cem.has(vc) || !dina.has(vc) || ann.has(c) {
		t.Errorf("after the move: Mei %v, Cem %v", w.show(mei), w.show(cem))
	}
	// Mei loses her role: what was her team's goes at once, before any checkpoint.
	w.changeRights(`UPDATE person SET roles = ARRAY['rep'] WHERE org_id = $1 AND id = $2`, w.org, w.people["Mei"])
	mei.bytes = 1
	mei.page()
	if mei.has(va) || mei.has(vc) || mei.has(a) {
		t.Errorf("the first page leaves %v", w.show(mei))
	}
	mei.bytes = 0
	mei.pull()
	for _, p := range []*phone{mei, ann, cem, dina} {
		fresh := w.phone(p.name)
		fresh.pull()
		if got, want := fmt.Sprint(p.kinds()), fmt.Sprint(fresh.kinds()); got != want {
			t.Errorf("%s holds %s, a new phone of hers %s", p.name, got, want)
		}
	}
}

func TestS13ANewWriteDuringATeamMoveIsPlacedByTheRightsOfItsCommit(t *testing.T) {
	w := newWorld(t)
	cem, mei := w.phone("Cem"), w.phone("Mei")
	cem.account("before")
	mei.pull()
	w.changeRights(`UPDATE person SET team_id = $3 WHERE org_id = $1 AND id = $2`, w.org, w.people["Cem"], w.teams["north"])
	during := cem.account("between the change and its job")
	w.step()
	mei.pull()
	if !mei.has(during) || mei.kinds()["account"] != 2 {
		t.Errorf("%v", w.show(mei))
	}
}

func TestS13FieldsThatMayNotBeReadAreNotSent(t *testing.T) {
	w := newWorld(t)
	mei, ann := w.phone("Mei"), w.phone("Ann")
	acc, contact := satchel.NewID(), satchel.NewID()
	mei.mustDo(create("account", acc, map[string]any{"name": "x", "owner": w.people["Ann"].String(), "credit_limit": 5000}))
	ann.mustDo(create("contact", contact, map[string]any{"name": "Li", "account": acc.String(), "mobile": "13800138000"}))
	ann.pull()
	mei.pull()
	if ann.field(acc, "credit_limit") != nil || mei.field(acc, "credit_limit") == nil {
		t.Errorf("Ann sees %v, Mei %v", ann.field(acc, "credit_limit"), mei.field(acc, "credit_limit"))
	}
	// Mei becomes an assistant: hidden fields go at once, the mobile is masked from the next checkpoint on.
	w.changeRights(`UPDATE person SET roles = ARRAY['assistant'] WHERE org_id = $1 AND id = $2`, w.org, w.people["Mei"])
	mei.bytes = 1
	mei.page()
	if mei.field(acc, "credit_limit") != nil || mei.field(contact, "mobile") == "13800138000" {
		t.Errorf("after the first page: %v, %v", mei.field(acc, "credit_limit"), mei.field(contact, "mobile"))
	}
	mei.bytes = 0
	mei.pull()
	if got := mei.field(contact, "mobile"); got != "138****8000" {
		t.Errorf("the mobile is shown as %v", got)
	}
}

func TestTextOfAnyKindComesBackAsItWasSent(t *testing.T) {
	w := newWorld(t)
	ann, mei := w.phone("Ann"), w.phone("Mei")
	acc := ann.account("x")
	for _, text := range []string{"two\nlines\r\n\ttab", `she said "yes"`, `C:\visits\new`, `\x41 \\ \' \101`, "客户\u2028🚀</script>", "'); --"} {
		id := satchel.NewID()
		ann.mustDo(create("visit", id, visitFields(acc, "x")))
		ann.mustDo(patch("visit", id, 1, map[string]any{"summary": text}))
		mei.pull()
		if got := mei.field(id, "summary"); got != text {
			t.Errorf("%q came back as %q", text, got)
		}
	}
}

func TestS14APageSaysWhenTheOverlayCanGo(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	ann.pull()
	// A write that leaves nothing in Ann's buckets still gets a checkpoint at or past its seq.
	other := satchel.NewID()
	v := ann.do(patch("account", other, 1, map[string]any{"remark": "no such account"}))
	pg, err := w.engine.Pull(context.Background(), ann.who, syncengine.PullRequest{Cursor: ann.cursor, After: v.Seq})
	if err != nil || pg == nil || !pg.Checkpoint || pg.Seq < v.Seq {
		t.Fatalf("%+v %v", pg, err)
	}
}

func TestS15AnIdlePullGivesNothing(t *testing.T) {
	w := newWorld(t)
	ann, cem := w.phone("Ann"), w.phone("Cem")
	ann.account("x")
	ann.pull()
	ann.pull()
	before := w.count(`SELECT pg_current_wal_lsn() - '0/0'::pg_lsn`)
	pg, err := w.engine.Pull(context.Background(), ann.who, syncengine.PullRequest{Cursor: ann.cursor})
	if err != nil || pg != nil {
		t.Fatalf("%+v %v", pg, err)
	}
	if after := w.count(`SELECT pg_current_wal_lsn() - '0/0'::pg_lsn`); after != before {
		t.Logf("%d bytes of WAL, by other tests or by us", after-before)
	}
	cem.account("of another team") // moves the clock, nothing of Ann's
	if pg, err := w.engine.Pull(context.Background(), ann.who, syncengine.PullRequest{Cursor: ann.cursor}); err != nil || pg != nil {
		t.Fatalf("%+v %v", pg, err)
	}
}

func TestS21CopiesAreShownUnderTheRightsOfNow(t *testing.T) {
	w := newWorld(t)
	mei, dina := w.phone("Mei"), w.phone("Dina")
	acc := satchel.NewID()
	mei.mustDo(create("account", acc, map[string]any{"name": "x"}))
	mei.pull()
	dina.pull()
	offline := mei.mutation(patch("account", acc, mei.records[acc].rev, map[string]any{"credit_limit": 111}))
	w.pass(time.Hour)
	dina.mustDo(patch("account", acc, dina.records[acc].rev, map[string]any{"credit_limit": 222}))
	v := mei.send(offline)[0]
	mei.pull()
	if !keptIn(mei, v.Attention, "credit_limit", 111.0) {
		t.Fatalf("%+v: the losing value is not shown: %v", v, mei.field(v.Attention, "items"))
	}
	w.changeRights(`UPDATE person SET roles = ARRAY['rep'] WHERE org_id = $1 AND id = $2`, w.org, w.people["Mei"])
	mei.pull()
	if !mei.has(v.Attention) || keptIn(mei, v.Attention, "credit_limit", 111.0) {
		t.Errorf("after the right was taken: %v", mei.field(v.Attention, "items"))
	}
}

func TestADeleteReachesEveryPhone(t *testing.T) {
	w := newWorld(t)
	ann, mei := w.phone("Ann"), w.phone("Mei")
	acc := ann.account("x")
	task := satchel.NewID()
	ann.mustDo(create("task", task, map[string]any{"title": "t"}))
	ann.pull()
	mei.pull()
	ann.mustDo(syncengine.Op{Action: syncengine.Delete, Record: task, Kind: "task", BaseRev: ann.records[task].rev})
	mei.pull()
	ann.pull()
	if mei.has(task) || ann.has(task) || !mei.has(acc) {
		t.Errorf("Mei %v, Ann %v", w.show(mei), w.show(ann))
	}
	fresh := w.phone("Mei")
	fresh.pull()
	if fresh.has(task) {
		t.Error("a new phone gets the deleted task")
	}
	// An edit that had not seen the delete revives it (edit_wins).
	mei.mustDo(patch("task", task, 1, map[string]any{"title": "revived"}))
	ann.pull()
	if ann.field(task, "title") != "revived" {
		t.Errorf("Ann has %v", ann.records[task])
	}
}

func TestACursorOfSomebodyElseIsMalformed(t *testing.T) {
	w := newWorld(t)
	ann, cem := w.phone("Ann"), w.phone("Cem")
	ann.account("x")
	ann.pull()
	for name, cursor := range map[string][]byte{
		"another person's": ann.cursor, "cut": ann.cursor[:len(ann.cursor)-1], "changed": append([]byte{ann.cursor[0] ^ 1}, ann.cursor[1:]...),
		"noise": []byte("not a cursor at all, but long enough to be one"), "a token": ann.token,
	} {
		if _, err := w.engine.Pull(context.Background(), cem.who, syncengine.PullRequest{Cursor: cursor}); satchel.ReasonOf(err) != satchel.ReasonMalformedCursor {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWaitWakes(t *testing.T) {
	w := newWorld(t)
	ann, mei := w.phone("Ann"), w.phone("Mei")
	ann.account("x")
	mei.pull()
	here, other := w.engine, w.newEngine()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	go other.Run(ctx)
	for name, engine := range map[string]*syncengine.Engine{"on the replica that commits": here, "on another replica": other} {
		woken := make(chan bool, 1)
		started := make(chan struct{})
		go func() {
			close(started)
			ok, err := engine.Wait(ctx, mei.who, mei.cursor, nil)
			woken <- ok && err == nil
		}()
		<-started
		ann.account("news")
		select {
		case ok := <-woken:
			if !ok {
				t.Errorf("%s: not woken", name)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("%s: still asleep", name)
		}
		mei.pull()
	}
}
