package syncengine_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/syncengine"
)

type place struct {
	bucket int64
	kind   string
}

// repair does what the proto says a device does; it gives how many rows travelled.
func (p *phone) repair(order *syncengine.RepairOrder) (travelled int) {
	p.w.t.Helper()
	ctx, who := context.Background(), p.w.principal(p.name, p.who.Device)
	must := func(err error) {
		if err != nil {
			p.w.t.Helper()
			p.w.t.Fatal(err)
		}
	}
	var forms []syncengine.Form
	for kind, form := range p.forms {
		forms = append(forms, syncengine.Form{Kind: kind, Form: form})
	}
	plan, err := p.engine.RepairStart(ctx, who, p.profile, forms)
	must(err)
	clear(p.staged)
	listed := map[place]syncengine.Digest{}
	for _, b := range plan.Buckets {
		listed[place{b.Bucket, b.Kind}] = b.Digest
	}
	lies := map[place][]satchel.ID{}
	for id, h := range p.records {
		for b := range h.buckets {
			if _, ok := listed[place{b, h.kind}]; !ok {
				delete(h.buckets, b)
				continue
			}
			lies[place{b, h.kind}] = append(lies[place{b, h.kind}], id)
		}
		for _, f := range plan.Narrowed[h.kind] {
			delete(h.fields, f)
		}
		if len(h.buckets) == 0 {
			delete(p.records, id)
		}
	}
	want := map[satchel.ID]bool{}
	for id, h := range p.records {
		want[id] = slices.Contains(plan.StaleKinds, h.kind)
	}
	for at, d := range listed {
		var own syncengine.Digest
		for _, id := range lies[at] {
			own.Count, own.Sum = own.Count+1, own.Sum+hashOf(id, p.records[id].rev)
		}
		if own == d {
			continue
		}
		there := map[satchel.ID]uint64{}
		for after, more := (satchel.ID{}), true; more; {
			revs, err := p.engine.RepairRevs(ctx, who, p.profile, at.bucket, at.kind, after)
			must(err)
			for i, id := range revs.Records {
				there[id] = revs.Revs[i]
				after = id
			}
			more = revs.More
		}
		for id, rev := range there {
			if h := p.records[id]; h == nil || h.rev != rev || !h.buckets[at.bucket] {
				want[id] = true
			}
		}
		for _, id := range lies[at] {
			if _, ok := there[id]; !ok {
				want[id] = true
			}
		}
	}
	var ids []satchel.ID
	for id, fetch := range want {
		if fetch {
			ids = append(ids, id)
		}
	}
	for len(ids) > 0 {
		chunk := ids[:min(len(ids), syncengine.MaxRepairRows)]
		rows, answered, err := p.engine.RepairRows(ctx, who, p.profile, chunk)
		must(err)
		if answered == 0 {
			p.w.t.Fatal("no record is answered")
		}
		for _, id := range chunk[:answered] {
			p.staged[id] = &held{} // not in the answer: gone
		}
		for _, c := range rows {
			travelled++
			h := &held{kind: c.Kind, rev: c.Rev, buckets: map[int64]bool{}, fields: map[string]any{}}
			for _, b := range c.Entered {
				h.buckets[b] = true
			}
			must(json.Unmarshal(c.Fields, &h.fields))
			p.staged[c.Record] = h
		}
		ids = ids[answered:]
	}
	p.cursor = plan.Cursor
	p.forms = map[string]uint64{}
	for _, f := range plan.Forms {
		p.forms[f.Kind] = f.Form
	}
	return travelled
}

// sameAsNew compares the phone with a new one of the same person and profile, row by row.
func (p *phone) sameAsNew() {
	p.w.t.Helper()
	fresh := p.w.phone(p.name)
	fresh.profile = p.profile
	fresh.pull()
	for id, h := range fresh.records {
		got := p.records[id]
		if got == nil || got.rev != h.rev || !maps.Equal(got.buckets, h.buckets) || fmt.Sprint(got.fields) != fmt.Sprint(h.fields) {
			p.w.t.Errorf("%s holds %+v, a new phone %+v", p.name, got, h)
		}
	}
	for id, h := range p.records {
		if fresh.records[id] == nil {
			p.w.t.Errorf("%s holds %+v, a new phone does not", p.name, h)
		}
	}
}

func TestS17ARepairBringsOnlyWhatDiffers(t *testing.T) {
	w := newWorld(t)
	w.changeRights(`UPDATE person SET display_name = display_name WHERE org_id = $1`, w.org)
	w.step() // people and teams are records
	ann, mei := w.phone("Ann"), w.phone("Mei")
	acc := ann.account("x")
	var ids []satchel.ID
	for i := range 40 {
		id := satchel.NewID()
		ann.mustDo(create("visit", id, visitFields(acc, fmt.Sprint(i))))
		ids = append(ids, id)
	}
	mei.pull()
	mei.sameAsNew()
	if n := mei.repair(nil); n != 0 {
		t.Errorf("%d rows travel to a phone that misses nothing", n)
	}
	mei.pull()
	if pg := mei.last; !pg.Checkpoint || pg.Digest == nil {
		t.Errorf("behind a repair comes %+v, not a checkpoint", pg)
	}

	// A flipped rev, a row that is lost, one that never was, and a bucket number too few.
	mei.records[ids[0]].rev += 3
	delete(mei.records, ids[1])
	stray := satchel.NewID()
	mei.records[stray] = &held{kind: "visit", rev: 1, buckets: maps.Clone(mei.records[ids[2]].buckets), fields: map[string]any{}}
	if n := mei.repair(nil); n != 2 {
		t.Errorf("%d rows travel, 2 differ", n)
	}
	if mei.has(ids[1]) {
		t.Error("what is fetched is shown before the checkpoint")
	}
	ann.mustDo(patch("visit", ids[3], 1, map[string]any{"summary": "while it is repaired"}))
	mei.pull()
	mei.sameAsNew()
	if mei.has(stray) {
		t.Error("what is not there stays")
	}
	if w.count(`SELECT count(*) FROM lane WHERE org_id = $1 AND repaired_at IS NOT NULL`, w.org) != 0 {
		t.Error("a device without a lane has one")
	}
	mei.account("now she has a lane")
	mei.repair(nil)
	if w.count(`SELECT count(*) FROM lane WHERE org_id = $1 AND device_id = $2 AND repaired_at = $3`, w.org, mei.who.Device, w.now()) != 1 {
		t.Error("that a device was repaired is not noted")
	}
}

func TestS17RightsThatWereTakenMeanwhileTakeEffectAtOnceInARepair(t *testing.T) {
	w := newWorld(t)
	mei, ann := w.phone("Mei"), w.phone("Ann")
	acc, contact := satchel.NewID(), satchel.NewID()
	mei.mustDo(create("account", acc, map[string]any{"name": "x", "credit_limit": 5000}))
	annAcc := ann.account("y")
	ann.mustDo(create("contact", contact, map[string]any{"name": "Li", "account": annAcc.String(), "mobile": "13800138000"}))
	mei.pull()
	before := mei.forms
	w.changeRights(`UPDATE person SET roles = ARRAY['assistant'] WHERE org_id = $1 AND id = $2`, w.org, w.people["Mei"])
	n := mei.repair(nil)
	if mei.field(acc, "credit_limit") != nil || mei.field(contact, "mobile") != nil {
		t.Errorf("hidden fields are still there: %v, %v", mei.records[acc].fields, mei.records[contact].fields)
	}
	if maps.Equal(before, mei.forms) || n != 3 { // both accounts, the contact
		t.Errorf("%d rows travel, forms %v, were %v", n, mei.forms, before)
	}
	mei.pull()
	mei.sameAsNew()
	if got := mei.field(contact, "mobile"); got != "138****8000" {
		t.Errorf("the mobile is shown as %v", got)
	}
	// Rows that are not hers are not given, whatever is asked.
	cem := w.phone("Cem")
	his := cem.account("z")
	rows, answered, err := w.engine.RepairRows(context.Background(), mei.who, "", []satchel.ID{his, satchel.NewID(), acc})
	if err != nil || answered != 3 || len(rows) != 1 || rows[0].Record != acc {
		t.Errorf("%v %d %v", rows, answered, err)
	}
	south := w.count(`SELECT min(b) FROM record, unnest(buckets) b WHERE org_id = $1 AND id = $2`, w.org, his)
	revs, err := w.engine.RepairRevs(context.Background(), mei.who, "", int64(south), "account", satchel.ID{})
	if err != nil || len(revs.Records) != 0 {
		t.Errorf("%v %v", revs, err)
	}
}

func TestS17APhoneBackAfterTheHorizonIsRepaired(t *testing.T) {
	w := newWorld(t)
	ann, mei := w.phone("Ann"), w.phone("Mei")
	acc := ann.account("x")
	task, kept := satchel.NewID(), satchel.NewID()
	ann.mustDo(create("task", task, map[string]any{"title": "t"}), create("task", kept, map[string]any{"title": "k"}))
	mei.pull()
	ann.mustDo(syncengine.Op{Action: syncengine.Delete, Record: task, Kind: "task", BaseRev: 1})
	ann.mustDo(patch("account", acc, 1, map[string]any{"remark": "x"}))
	// 180 days later the tombstone is gone.
	w.exec(`DELETE FROM head WHERE org_id = $1 AND record_id = $2`, w.org, task)
	w.exec(`DELETE FROM record WHERE org_id = $1 AND id = $2`, w.org, task)
	w.exec(`UPDATE org_clock SET horizon = seq WHERE org_id = $1`, w.org)
	pg, err := w.engine.Pull(context.Background(), mei.who, syncengine.PullRequest{Cursor: mei.cursor})
	if err != nil || pg.Repair == nil || pg.Repair.Salvage || pg.Cursor != nil || len(pg.Changes) != 0 {
		t.Fatalf("%+v %v", pg, err)
	}
	if woken, _ := waits(t, w.engine, mei); !woken {
		t.Error("a phone that must be repaired sleeps")
	}
	if n := mei.repair(pg.Repair); n != 1 {
		t.Errorf("%d rows travel, one has changed", n)
	}
	mei.pull()
	mei.sameAsNew()
	ann.pull()
	ann.account("on")
	ann.pull() // at the horizon itself nothing is missing
	if ann.last.Repair != nil {
		t.Error("who has pulled everything is sent to repair")
	}
}

func TestS17AViewThatIsForgottenLeadsToRepair(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	ann.account("x")
	ann.pull()
	w.exec(`DELETE FROM view WHERE org_id = $1`, w.org)
	ann.engine = w.newEngine()
	pg, err := ann.engine.Pull(context.Background(), ann.who, syncengine.PullRequest{Cursor: ann.cursor})
	if err != nil || pg.Repair == nil || pg.Repair.Salvage {
		t.Fatalf("%+v %v", pg, err)
	}
	if woken, _ := waits(t, ann.engine, ann); !woken {
		t.Error("a phone that must be repaired sleeps")
	}
	if n := ann.repair(pg.Repair); n != 0 {
		t.Errorf("%d rows travel", n)
	}
	ann.pull()
	ann.sameAsNew()
}

func TestAViewInUseIsNotForgotten(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	ann.account("x")
	ann.pull()
	for range 7 {
		w.pass(31 * 24 * time.Hour)
		ann.pull() // idle
	}
	if n := w.count(`SELECT count(*) FROM view WHERE org_id = $1 AND used_on >= $2::date`, w.org, w.now().AddDate(0, 0, -40)); n == 0 {
		t.Error("the view that Ann's phone goes on with counts as unused")
	}
}

func TestS18ACursorOfALineThatIsGoneIsSentToRepairWithSalvage(t *testing.T) {
	w := newWorld(t)
	ann, mei := w.phone("Ann"), w.phone("Mei")
	acc := ann.account("before the backup")
	ann.pull()
	mei.pull()
	lost := ann.account("after it")
	mei.pull()
	// The database is restored as it was before the second account.
	w.exec(`DELETE FROM head WHERE org_id = $1 AND record_id = $2`, w.org, lost)
	w.exec(`DELETE FROM record WHERE org_id = $1 AND id = $2`, w.org, lost)
	w.exec(`UPDATE bucket SET count = 1, sum = (SELECT sum(x) FROM (SELECT $2::bigint AS x) y) WHERE org_id = $1 AND count = 2`,
		w.org, int64(hashOf(acc, 1)))
	w.exec(`UPDATE org_clock SET seq = seq - 1 WHERE org_id = $1`, w.org)
	w.exec(`SELECT satchel_open_epoch()`)
	engine := w.newEngine()
	ann.engine, mei.engine = engine, engine
	ann.pull() // at the cut: goes on as if nothing had been
	ann.sameAsNew()
	pg, err := engine.Pull(context.Background(), mei.who, syncengine.PullRequest{Cursor: mei.cursor})
	if err != nil || pg.Repair == nil || !pg.Repair.Salvage {
		t.Fatalf("%+v %v", pg, err)
	}
	if woken, _ := waits(t, engine, mei); !woken {
		t.Error("a phone of another line sleeps")
	}
	mei.repair(pg.Repair)
	mei.pull()
	mei.sameAsNew()
	if mei.has(lost) {
		t.Error("what the database lost stays without salvage")
	}
	// A cursor above the clock in the same epoch is of a line that nobody noticed yet.
	w.exec(`UPDATE org_clock SET seq = seq - 1 WHERE org_id = $1`, w.org)
	ahead := w.phone("Mei")
	ahead.cursor = mei.cursor
	if pg, err := w.newEngine().Pull(context.Background(), ahead.who, syncengine.PullRequest{Cursor: ahead.cursor}); err != nil || pg.Repair == nil || !pg.Repair.Salvage {
		t.Errorf("%+v %v", pg, err)
	}
}

func TestS17ManyRecordsAreComparedInPages(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc := ann.account("x")
	// 5,100 tasks, stored as the engine does.
	w.exec(`INSERT INTO record (org_id, id, kind, rev, data, stamps, buckets, author, event_ms, schema_version)
		SELECT r.org_id, gen_random_uuid(), 'task', 1, '{"title":"t"}', '{}', r.buckets, r.author, r.event_ms, 1
		FROM record r, generate_series(1, 5100) WHERE r.org_id = $1 AND r.id = $2`, w.org, acc)
	w.exec(`INSERT INTO head (org_id, bucket, record_id, kind, seq, present)
		SELECT r.org_id, b, r.id, r.kind, 1, true FROM record r, unnest(r.buckets) b WHERE r.org_id = $1 AND r.kind = 'task'`, w.org)
	buckets := w.count(`SELECT num FROM bucket_name WHERE org_id = $1 AND stem = 'own:' || $2 AND month = ''`, w.org, w.people["Ann"].String())
	first, err := w.engine.RepairRevs(context.Background(), ann.who, "", int64(buckets), "task", satchel.ID{})
	if err != nil || len(first.Records) != syncengine.MaxRepairRevs || !first.More {
		t.Fatalf("%d %v %v", len(first.Records), first.More, err)
	}
	rest, err := w.engine.RepairRevs(context.Background(), ann.who, "", int64(buckets), "task", first.Records[len(first.Records)-1])
	if err != nil || len(rest.Records) != 100 || rest.More {
		t.Fatalf("%d %v %v", len(rest.Records), rest.More, err)
	}
	// Rows stop at the budget: 500 of 20 KB are more than 4 MiB.
	w.exec(`UPDATE record SET data = jsonb_build_object('title', repeat('x', 20000)) WHERE org_id = $1 AND kind = 'task'`, w.org)
	ids := first.Records[:syncengine.MaxRepairRows]
	rows, answered, err := w.engine.RepairRows(context.Background(), ann.who, "", ids)
	if err != nil || answered >= len(ids) || answered < 200 || len(rows) != answered {
		t.Fatalf("%d rows, %d answered, %v", len(rows), answered, err)
	}
	if _, _, err := w.engine.RepairRows(context.Background(), ann.who, "", append(slices.Clone(ids), acc)); satchel.ReasonOf(err) != satchel.ReasonMalformed {
		t.Errorf("501 records are asked for: %v", err)
	}
}
