package syncengine_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine"
)

const day = 24 * time.Hour

// tidy lets the daily jobs of now be done.
func (w *world) tidy() {
	w.t.Helper()
	w.step()
	if n := w.count(`SELECT count(*) FROM river_job WHERE errors IS NOT NULL`); n != 0 {
		w.t.Fatalf("%d jobs failed", n)
	}
}

func deletion(kind string, id satchel.ID, base uint64) syncengine.Op {
	return syncengine.Op{Action: syncengine.Delete, Record: id, Kind: kind, BaseRev: base}
}

func TestS17TombstonesGoWhenTheHorizonPassesThemAndLiveDataStays(t *testing.T) {
	w := newWorld(t)
	ann, mei := w.phone("Ann"), w.phone("Mei")
	acc, given := ann.account("stays"), ann.account("given away")
	var contacts []satchel.ID
	for i := range 5 {
		id := satchel.NewID()
		ann.mustDo(create("contact", id, map[string]any{"account": acc.String(), "name": fmt.Sprint(i)}))
		contacts = append(contacts, id)
	}
	ann.pull()
	away := *ann // a phone that stays away
	for _, id := range contacts[:3] {
		ann.mustDo(deletion("contact", id, 1))
	}
	mei.mustDo(patch("account", given, 1, map[string]any{"owner": w.people["Ben"].String()}))
	w.pass(day)
	w.tidy() // notes a mark
	if w.count(`SELECT count(*) FROM mark WHERE org_id = $1`, w.org) != 1 {
		t.Fatal("no mark was noted")
	}
	ann.mustDo(deletion("contact", contacts[3], 1)) // behind the mark
	w.pass(179 * day)
	w.tidy()
	if n := w.count(`SELECT horizon FROM org_clock WHERE org_id = $1`, w.org); n != 0 {
		t.Errorf("after 179 days the horizon is at %d", n)
	}
	left := `SELECT count(*) FROM head WHERE org_id = $1 AND NOT present`
	if w.count(left, w.org) == 0 {
		t.Fatal("the account has left no bucket; the test shows nothing")
	}
	w.pass(2 * day)
	w.tidy()
	if n := w.count(`SELECT count(*) FROM record WHERE org_id = $1 AND deleted`, w.org); n != 1 {
		t.Errorf("%d deleted records are there, not the one behind the horizon", n)
	}
	if n := w.count(left, w.org); n != 0 {
		t.Errorf("%d heads that left are there", n)
	}
	if n := w.count(`SELECT count(*) FROM head h WHERE org_id = $1 AND NOT EXISTS (SELECT 1 FROM record r WHERE r.org_id = $1 AND r.id = h.record_id)`, w.org); n != 0 {
		t.Errorf("%d heads have no record", n)
	}
	horizon := w.count(`SELECT horizon FROM org_clock WHERE org_id = $1`, w.org)
	if mark := w.count(`SELECT min(seq) FROM mark WHERE org_id = $1`, w.org); horizon != mark || horizon == 0 || w.count(`SELECT swept FROM org_clock WHERE org_id = $1`, w.org) != horizon {
		t.Errorf("the horizon is %d, the mark %d", horizon, mark)
	}
	// Who was away longer repairs; who starts now gets what is live.
	page, err := w.engine.Pull(context.Background(), w.principal("Ann", away.who.Device), syncengine.PullRequest{Cursor: away.cursor, After: away.seq})
	if err != nil || page == nil || page.Repair == nil || page.Repair.Salvage {
		t.Errorf("a phone from before the horizon: %+v, %v", page, err)
	}
	fresh := w.phone("Ann")
	fresh.pull()
	if !fresh.has(acc) || !fresh.has(contacts[4]) || fresh.has(contacts[0]) || fresh.has(given) {
		t.Error("a new phone does not hold what is live")
	}
	if n := w.count(`SELECT count(*) FROM river_job WHERE kind = 'engine.tidy' AND finalized_at IS NULL`); n != 1 {
		t.Errorf("%d daily jobs wait", n)
	}
}

func TestF19AnEditRevivesWhatWasPurgedAndOnlyWhoMayDoesIt(t *testing.T) {
	w := newWorld(t)
	pack := strings.Replace(string(schema.DefaultPack()), "  - name: task\n", "  - name: task\n    delete: delete_wins\n", 1)
	if _, err := w.engine.PublishSchema(context.Background(), w.org, []byte(pack)); err != nil {
		t.Fatal(err)
	}
	ann, cem := w.phone("Ann"), w.phone("Cem")
	acc, contact, task, merged := ann.account("A"), satchel.NewID(), satchel.NewID(), satchel.NewID()
	ann.mustDo(create("contact", contact, map[string]any{"account": acc.String(), "name": "Li"}))
	ann.mustDo(create("task", task, map[string]any{"assignee": w.people["Ann"].String(), "title": "t"}))
	ann.mustDo(create("account", merged, map[string]any{"name": "M"}))
	ann.mustDo(patch("contact", contact, 1, map[string]any{"title": "boss"}))
	offline := ann.mutation(patch("contact", contact, 2, map[string]any{"mobile": "138"}))
	mei := w.phone("Mei")
	mei.mustDo(deletion("contact", contact, 2))
	mei.mustDo(deletion("task", task, 1))
	mei.mustDo(mergeInto("account", merged, acc))
	w.pass(day)
	w.tidy()
	w.pass(181 * day)
	w.tidy()
	if n := w.count(`SELECT count(*) FROM record WHERE org_id = $1 AND deleted`, w.org); n != 0 {
		t.Fatalf("%d deleted records were not purged", n)
	}
	if v := cem.do(patch("contact", contact, 2, map[string]any{"mobile": "1"})); v.Reason != satchel.ReasonRecordUnknown {
		t.Errorf("Cem never saw it: %+v", v)
	}
	v := ann.send(offline)[0]
	if v.Status != syncengine.Applied {
		t.Fatalf("the edit of a purged contact: %+v", v)
	}
	if rec := w.record(contact); rec.Deleted || rec.Rev <= 3 || rec.Text("mobile") != "138" || rec.Text("title") != "boss" || rec.Author != w.people["Ann"] {
		t.Errorf("it stands as %+v", rec)
	}
	ann.pull()
	if !ann.has(contact) {
		t.Error("Ann does not have what she revived")
	}
	if v := ann.do(patch("task", task, 1, map[string]any{"title": "u"})); v.Reason != satchel.ReasonRecordDeleted || v.Attention.IsZero() {
		t.Errorf("of a kind whose deletes win: %+v", v)
	}
	// The alias is purged too, and still leads to the root.
	ann.mustDo(patch("account", merged, 1, map[string]any{"phone": "4"}))
	late := satchel.NewID()
	ann.mustDo(create("visit", late, visitFields(merged, "late")))
	if w.record(acc).Text("phone") != "4" || w.record(late).Text("account") != acc.String() {
		t.Error("what was sent to the purged alias did not reach the root")
	}
	// It can go, and come, once more.
	mei.mustDo(deletion("contact", contact, w.record(contact).Rev))
	rev := w.record(contact).Rev
	w.pass(day)
	w.tidy()
	w.pass(181 * day)
	w.tidy()
	ann.mustDo(patch("contact", contact, rev, map[string]any{"mobile": "139"}))
	if rec := w.record(contact); rec.Rev <= rev || rec.Text("mobile") != "139" {
		t.Errorf("revived again: %+v", rec)
	}
}

func TestRunsOfTheLedgerGo35DaysAfterTheirConfirmationButTheNewest(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	send := func(confirmed uint64) {
		m := ann.mutation(create("account", satchel.NewID(), map[string]any{"name": "x"}))
		if _, err := w.engine.Apply(context.Background(), ann.who, syncengine.Batch{Mutations: []syncengine.Mutation{m}, Confirmed: confirmed}); err != nil {
			t.Fatal(err)
		}
	}
	runs := func() int { return w.count(`SELECT count(*) FROM ledger WHERE org_id = $1`, w.org) }
	for i := range 4 {
		send(uint64(i))
	}
	w.pass(100 * day) // without a word, nothing goes: up to 3 is confirmed since the 4th was sent
	w.tidy()
	if runs() != 4 {
		t.Fatalf("%d runs", runs())
	}
	w.pass(34 * day)
	w.tidy()
	if runs() != 4 {
		t.Errorf("34 days after what was confirmed was noted, %d runs are there", runs())
	}
	w.pass(2 * day)
	w.tidy()
	if runs() != 1 {
		t.Errorf("%d runs are there, not the one that is not confirmed", runs())
	}
	send(4)
	send(6)
	w.pass(day)
	w.tidy()
	w.pass(36 * day)
	w.tidy()
	w.pass(36 * day)
	w.tidy()
	if runs() != 1 || w.count(`SELECT first FROM ledger WHERE org_id = $1`, w.org) != 6 {
		t.Errorf("%d runs are there, not the newest alone", runs())
	}
}

func TestOldKeysViewsSettledWorkAndSalvageGo(t *testing.T) {
	w := newWorld(t)
	old := w.now()
	for _, source := range []string{"rule:x", "approval", "import:crm", "elsewhere"} {
		w.exec(`INSERT INTO ledger_source VALUES ($1, $2, 'k', '{}', 1, $3)`, w.org, source, old)
	}
	w.exec(`INSERT INTO view VALUES ($1, '\x01', '{}', $2)`, w.org, old)
	for i, state := range []string{"open", "applied", "discarded"} {
		w.exec(`INSERT INTO kept (org_id, device_id, number, id, person_id, verdict, status, event_ms, at, state, settled_at)
			VALUES ($1, $2, $3, $2, $2, '{}', 'REJECTED', 1, $4, $5, $4)`, w.org, satchel.NewID(), i, old, state)
	}
	w.exec(`INSERT INTO salvage (org_id, record_id, kind, rev, data, event_ms, device_id, person_id, at) VALUES ($1, $2, 'x', 1, '{}', 1, $2, $2, $3)`, w.org, satchel.NewID(), old)
	count := func() string {
		return fmt.Sprint(w.count(`SELECT count(*) FROM ledger_source WHERE org_id = $1`, w.org), w.count(`SELECT count(*) FROM view WHERE org_id = $1`, w.org),
			w.count(`SELECT count(*) FROM kept WHERE org_id = $1`, w.org), w.count(`SELECT count(*) FROM salvage WHERE org_id = $1`, w.org))
	}
	w.pass(34 * day)
	w.tidy()
	if got := count(); got != "4 1 3 1" {
		t.Errorf("after 34 days there are %s", got)
	}
	w.pass(2 * day)
	w.tidy()
	if got := count(); got != "2 1 1 1" {
		t.Errorf("after 36 days there are %s", got)
	}
	w.pass(165 * day)
	w.tidy()
	if got := count(); got != "2 0 1 0" {
		t.Errorf("after 201 days there are %s", got)
	}
}

func TestS17ARecordThatComesBackWhileASweepIsHalfDoneIsNotRefused(t *testing.T) {
	w := newWorld(t)
	ann, mei := w.phone("Ann"), w.phone("Mei")
	acc := ann.account("given away") // in Ann's bucket
	mei.mustDo(patch("account", acc, 1, map[string]any{"owner": w.people["Ben"].String()}))
	v := mei.do(deletion("account", acc, 2))
	if v.Status != syncengine.Applied {
		t.Fatalf("%+v", v)
	}
	// The sweep has purged the tombstone and not yet come to the bucket that the record left before.
	left := w.count(`SELECT bucket FROM head WHERE org_id = $1 AND record_id = $2 AND NOT present`, w.org, acc)
	w.pass(day)
	w.tidy()
	w.pass(181 * day)
	w.tidy()
	if w.count(`SELECT count(*) FROM record WHERE org_id = $1 AND id = $2`, w.org, acc) != 0 {
		t.Fatal("the record is not purged; the test shows nothing")
	}
	w.exec(`INSERT INTO head VALUES ($1, $2, $3, 'account', 2, false)`, w.org, left, acc)
	if v := mei.do(patch("account", acc, 2, map[string]any{"owner": w.people["Ann"].String(), "remark": "is back"})); v.Status != syncengine.Applied && v.Status != syncengine.Merged {
		t.Fatalf("the edit that revives it: %+v", v)
	}
	ann.pull()
	if ann.field(acc, "remark") != "is back" {
		t.Error("it did not come back")
	}
}
