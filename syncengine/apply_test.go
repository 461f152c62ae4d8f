package syncengine_test

import (
	"context"
	"strings"
	"testing"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/syncengine"
)

func TestAVisitReachesTheManager(t *testing.T) {
	w := newWorld(t)
	ann, mei, cem := w.phone("Ann"), w.phone("Mei"), w.phone("Cem")
	acc := ann.account("Blue Harbour")
	visit := satchel.NewID()
	ann.mustDo(create("visit", visit, visitFields(acc, "first visit")))
	for _, p := range []*phone{ann, mei, cem} {
		p.pull()
	}
	if !ann.has(visit) || !mei.has(visit) || mei.field(visit, "subject") != "first visit" {
		t.Errorf("ann %v mei %v", w.show(ann), w.show(mei))
	}
	if cem.has(visit) || cem.has(acc) {
		t.Errorf("Cem of another team has %v", w.show(cem))
	}
}

func TestS1VerdictsAreOfTheCommit(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc := satchel.NewID()
	v := ann.mustDo(create("account", acc, map[string]any{"name": "x"}))
	if v.Seq == 0 {
		t.Error("the verdict carries no seq")
	}
	// Another connection sees all of it as soon as the verdict is there.
	if n := w.count(`SELECT count(*) FROM record WHERE org_id = $1 AND id = $2`, w.org, acc); n != 1 {
		t.Errorf("%d rows", n)
	}
	if n := w.count(`SELECT count(*) FROM ledger WHERE org_id = $1 AND seq = $2`, w.org, int64(v.Seq)); n != 1 {
		t.Errorf("%d ledger runs", n)
	}
}

func TestS2AReplayTakesEffectOnceAndGetsItsVerdict(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc := ann.account("x")
	m := ann.mutation(syncengine.Op{Action: syncengine.Patch, Record: acc, Kind: "account",
		Increments: increment("visit_count", 3)})
	bad := ann.mutation(create("visit", satchel.NewID(), map[string]any{"subject": 7}))
	first := ann.send(m, bad)
	for range 3 {
		again := ann.send(m, bad)
		if len(again) != 2 || again[0].Seq != first[0].Seq || again[0].Status != first[0].Status ||
			again[1].Status != syncengine.Rejected || again[1].Reason != first[1].Reason {
			t.Fatalf("first %+v, again %+v", first, again)
		}
	}
	ann.pull()
	if got := ann.field(acc, "visit_count"); got != 3.0 {
		t.Errorf("the counter is %v", got)
	}
}

func TestS2ADelayedDuplicateAfterConfirmationDoesNothing(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc := ann.account("x")
	m := ann.mutation(syncengine.Op{Action: syncengine.Patch, Record: acc, Kind: "account", Increments: increment("visit_count", 1)})
	ann.send(m)
	for range 3 {
		ann.mustDo(patch("account", acc, 0, map[string]any{"remark": "r"}))
	}
	// The run is trimmed, as it will be 35 days after confirmation; then a proxy delivers the old request again.
	w.exec(`DELETE FROM ledger WHERE org_id = $1 AND first <= $2`, w.org, m.Number)
	out, err := w.engine.Apply(context.Background(), ann.who, syncengine.Batch{Mutations: []syncengine.Mutation{m}})
	if err != nil || !out.Fork || len(out.Verdicts) != 0 {
		t.Fatalf("%+v %v: a number below next of which no run is kept must fork", out, err)
	}
	ann.pull()
	if got := ann.field(acc, "visit_count"); got != 1.0 {
		t.Errorf("the counter is %v", got)
	}
}

func TestS3AGapIsRefusedNamingTheNumberExpected(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	ann.account("x")
	ann.next = 5
	out, err := w.engine.Apply(context.Background(), ann.who, syncengine.Batch{Mutations: []syncengine.Mutation{
		ann.mutation(create("account", satchel.NewID(), map[string]any{"name": "y"}))}})
	if err != nil || len(out.Verdicts) != 0 || out.Expected != 2 {
		t.Fatalf("%+v %v", out, err)
	}
	// A gap inside a batch: what is before it is settled, what is behind it is not.
	ann.next = 2
	a, b := ann.mutation(create("account", satchel.NewID(), map[string]any{"name": "a"})), ann.mutation(create("account", satchel.NewID(), map[string]any{"name": "b"}))
	b.Number = 9
	out, err = w.engine.Apply(context.Background(), ann.who, syncengine.Batch{Mutations: []syncengine.Mutation{a, b}})
	if err != nil || len(out.Verdicts) != 1 || out.Expected != 3 {
		t.Fatalf("%+v %v", out, err)
	}
}

func TestS3AKnownNumberWithAnotherIDForks(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	ann.account("x")
	ann.next = 1
	m := ann.mutation(create("account", satchel.NewID(), map[string]any{"name": "of a restored phone"}))
	out, err := w.engine.Apply(context.Background(), ann.who, syncengine.Batch{Mutations: []syncengine.Mutation{m}})
	if err != nil || !out.Fork || len(out.Verdicts) != 0 {
		t.Fatalf("%+v %v", out, err)
	}
}

func TestS4AMutationIsAllOrNothing(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc := ann.account("x")
	visit := satchel.NewID()
	v := ann.do(create("visit", visit, visitFields(acc, "stands or falls")),
		create("task", satchel.NewID(), map[string]any{"title": 42}))
	if v.Status != syncengine.Rejected || v.Reason != satchel.ReasonBadValue {
		t.Fatalf("%+v", v)
	}
	ann.pull()
	if ann.has(visit) {
		t.Error("half of the mutation took effect")
	}
}

func TestS4WhatHangsTogetherIsMadeByOneMutation(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc, visit := satchel.NewID(), satchel.NewID()
	v := ann.do(create("account", acc, map[string]any{"name": "new"}),
		create("contact", satchel.NewID(), map[string]any{"account": acc.String(), "name": "Ms Li"}),
		create("visit", visit, visitFields(acc, "first")),
		create("photo", satchel.NewID(), map[string]any{"visit": visit.String(), "blob": strings.Repeat("a", 64)}))
	if v.Status != syncengine.Applied || len(v.Notes) != 0 {
		t.Fatalf("%+v", v)
	}
}

func TestS5ABadMutationBlocksNothingAndIsKept(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc := ann.account("x")
	bad := satchel.NewID()
	vs := ann.send(
		ann.mutation(create("visit", satchel.NewID(), visitFields(acc, "one"))),
		ann.mutation(create("visit", bad, map[string]any{"account": acc.String(), "subject": "kept", "nonsense": 1})),
		ann.mutation(create("visit", satchel.NewID(), visitFields(acc, "three"))))
	if vs[0].Status != syncengine.Applied || vs[1].Status != syncengine.Rejected || vs[2].Status != syncengine.Applied {
		t.Fatalf("%+v", vs)
	}
	ann.pull()
	if got := ann.kinds(); got["visit"] != 2 || got["attention"] != 1 {
		t.Fatalf("%v", got)
	}
	if !keptIn(ann, vs[1].Attention, "subject", "kept") {
		t.Error("the attention does not keep the payload")
	}
}

func TestS5WhatPostgresRefusesIsRefusedAloneWithItsBytesKept(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	// A fault that only Postgres sees: SQLSTATE 22, 23 and 54 alike.
	w.exec(`CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.data ->> 'subject' LIKE 'poison %' THEN RAISE EXCEPTION 'no' USING ERRCODE = substr(NEW.data ->> 'subject', 8, 5); END IF;
		RETURN NEW; END $$`)
	w.exec(`CREATE TRIGGER poison BEFORE INSERT ON record FOR EACH ROW EXECUTE FUNCTION poison()`)
	acc := ann.account("x")
	for _, code := range []string{"22003", "23514", "54000"} {
		good1, bad, good2 := satchel.NewID(), satchel.NewID(), satchel.NewID()
		vs := ann.send(ann.mutation(create("visit", good1, visitFields(acc, "before"))),
			ann.mutation(create("visit", bad, visitFields(acc, "poison "+code))),
			ann.mutation(create("visit", good2, visitFields(acc, "after"))))
		if len(vs) != 3 || vs[0].Status != syncengine.Applied || vs[1].Status != syncengine.Rejected ||
			vs[1].Reason != satchel.ReasonUnexpectedInternal || vs[2].Status != syncengine.Applied {
			t.Fatalf("%s: %+v", code, vs)
		}
		ann.pull()
		if !ann.has(good1) || ann.has(bad) || !ann.has(good2) || !ann.has(vs[1].Attention) {
			t.Errorf("%s: %v", code, w.show(ann))
		}
	}
}

func TestS5WhatDependsOnARefusedCreationWaitsForIt(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc, visit := satchel.NewID(), satchel.NewID()
	vs := ann.send(
		ann.mutation(create("account", acc, map[string]any{})), // has no name
		ann.mutation(create("visit", visit, visitFields(acc, "waits"))),
		ann.mutation(patch("visit", visit, 0, map[string]any{"summary": "also waits"})))
	if vs[0].Status != syncengine.Rejected || vs[1].Reason != satchel.ReasonDependsOn || vs[2].Reason != satchel.ReasonDependsOn {
		t.Fatalf("%+v", vs)
	}
	if vs[1].Attention != vs[0].Attention || vs[2].Attention != vs[0].Attention {
		t.Error("they do not hang under the attention of the refused creation")
	}
	ann.mustDo(create("account", acc, map[string]any{"name": "now with a name"}))
	w.step()
	ann.pull()
	if ann.field(visit, "subject") != "waits" || ann.field(visit, "summary") != "also waits" {
		t.Errorf("%v", ann.records[visit])
	}
	w.step()
	if n := w.count(`SELECT count(*) FROM kept WHERE waits_for IS NOT NULL AND state = 'open' AND org_id = $1`, w.org); n != 0 {
		t.Errorf("%d still wait", n)
	}
}

func TestS6RightsOfNowDecide(t *testing.T) {
	w := newWorld(t)
	ann, cem := w.phone("Ann"), w.phone("Cem")
	acc := ann.account("x")
	if v := cem.do(patch("account", acc, 1, map[string]any{"remark": "mine now"})); v.Reason != satchel.ReasonRecordUnknown {
		t.Errorf("another team's rep: %+v", v)
	}
	if v := ann.do(patch("account", acc, 1, map[string]any{"owner": w.people["Ben"].String()})); v.Reason != satchel.ReasonForbidden {
		t.Errorf("a rep gives an account away: %+v", v)
	}
	w.changeRights(`UPDATE person SET roles = ARRAY['viewer'] WHERE org_id = $1 AND id = $2`, w.org, w.people["Ann"])
	if v := ann.do(patch("account", acc, 1, map[string]any{"remark": "too late"})); v.Status != syncengine.Rejected {
		t.Errorf("after the right was taken: %+v", v)
	}
}

func TestS6AVisitToAnAccountReassignedMeanwhileStands(t *testing.T) {
	w := newWorld(t)
	ann, ben, mei := w.phone("Ann"), w.phone("Ben"), w.phone("Mei")
	acc := satchel.NewID()
	mei.mustDo(create("account", acc, map[string]any{"name": "moves on", "owner": w.people["Ann"].String()}))
	ann.pull()
	visit, other := satchel.NewID(), satchel.NewID()
	offline := ann.mutation(create("visit", visit, visitFields(acc, "took place")))
	mei.pull()
	mei.mustDo(patch("account", acc, mei.records[acc].rev, map[string]any{"owner": w.people["Ben"].String()}))
	v := ann.send(offline)[0]
	if v.Status != syncengine.Applied || len(v.Notes) != 1 || v.Notes[0] != syncengine.ParentMoved {
		t.Fatalf("%+v", v)
	}
	ann.pull()
	ben.pull()
	mei.pull()
	if !ann.has(visit) || ann.has(acc) {
		t.Errorf("Ann has visit %v, account %v", ann.has(visit), ann.has(acc))
	}
	if !ben.has(visit) || !ben.has(acc) || !mei.has(visit) {
		t.Errorf("Ben has visit %v, account %v; Mei visit %v", ben.has(visit), ben.has(acc), mei.has(visit))
	}
	// Without the proof, and for what is no fact, the rights of now hold.
	late := ann.mutation(create("visit", other, visitFields(acc, "never had it")))
	late.Token = nil
	if v := ann.send(late)[0]; v.Reason != satchel.ReasonRecordUnknown {
		t.Errorf("without a token: %+v", v)
	}
	if v := ann.do(patch("account", acc, 1, map[string]any{"remark": "no"})); v.Reason != satchel.ReasonRecordUnknown {
		t.Errorf("an edit of the account: %+v", v)
	}
}

func TestS6ATokenOfSomebodyElseProvesNothing(t *testing.T) {
	w := newWorld(t)
	ann, cem := w.phone("Ann"), w.phone("Cem")
	acc := ann.account("x")
	ann.pull()
	m := cem.mutation(create("visit", satchel.NewID(), visitFields(acc, "forged")))
	m.Token = ann.token
	if v := cem.send(m)[0]; v.Reason != satchel.ReasonRecordUnknown {
		t.Errorf("%+v", v)
	}
}

func TestS8NothingOverwrittenIsGone(t *testing.T) {
	w := newWorld(t)
	ann, mei := w.phone("Ann"), w.phone("Mei")
	acc := ann.account("x")
	ann.pull()
	mei.pull()
	rev := ann.records[acc].rev
	early := ann.mutation(patch("account", acc, rev, map[string]any{"remark": "Ann's", "address": "1 Quay"}))
	w.pass(60_000_000_000)
	mei.mustDo(patch("account", acc, rev, map[string]any{"remark": "Mei's"}))
	v := ann.send(early)[0]
	if v.Status != syncengine.Merged || len(v.Paths) != 1 || v.Paths[0].Path != "remark" || v.Attention.IsZero() {
		t.Fatalf("%+v", v)
	}
	ann.pull()
	if ann.field(acc, "remark") != "Mei's" || ann.field(acc, "address") != "1 Quay" {
		t.Errorf("%v", ann.records[acc].fields)
	}
	if !keptIn(ann, v.Attention, "remark", "Ann's") {
		t.Error("Ann's value is not shown to her")
	}
	if n := w.count(`SELECT count(*) FROM history WHERE org_id = $1 AND record_id = $2 AND lost -> 'remark' ->> 'value' = 'Ann''s'`, w.org, acc); n != 1 {
		t.Errorf("history has it %d times", n)
	}
	// Restoring is one ordinary mutation.
	ann.mustDo(patch("account", acc, ann.records[acc].rev, map[string]any{"remark": "Ann's"}))
}

func TestS8WhoWasOverwrittenUnseenIsTold(t *testing.T) {
	w := newWorld(t)
	ann, mei := w.phone("Ann"), w.phone("Mei")
	acc := ann.account("x")
	ann.pull()
	mei.pull()
	rev := ann.records[acc].rev
	ann.mustDo(patch("account", acc, rev, map[string]any{"remark": "Ann's"}))
	w.pass(60_000_000_000)
	if v := mei.do(patch("account", acc, rev, map[string]any{"remark": "Mei's"})); v.Status != syncengine.Applied {
		t.Fatalf("%+v", v)
	}
	ann.pull()
	mei.pull()
	if ann.kinds()["attention"] != 1 || mei.kinds()["attention"] != 0 {
		t.Errorf("Ann %v, Mei %v", w.show(ann), w.show(mei))
	}
}

func TestF7ADeviceNeverConflictsWithItself(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc := ann.account("x")
	ann.pull()
	rev := ann.records[acc].rev
	vs := ann.send(ann.mutation(patch("account", acc, rev, map[string]any{"remark": "first"})),
		ann.mutation(patch("account", acc, rev, map[string]any{"remark": "second"})))
	v := ann.do(patch("account", acc, rev, map[string]any{"remark": "third"}))
	if vs[0].Status != syncengine.Applied || vs[1].Status != syncengine.Applied || v.Status != syncengine.Applied {
		t.Fatalf("%+v %+v", vs, v)
	}
	ann.pull()
	if ann.field(acc, "remark") != "third" || ann.kinds()["attention"] != 0 {
		t.Errorf("%v", ann.records[acc].fields)
	}
}

func TestSystemMutationsTakeEffectOncePerKey(t *testing.T) {
	w := newWorld(t)
	acc := satchel.NewID()
	m := syncengine.SystemMutation{Org: w.org, Source: "test", Key: "k", Ops: []syncengine.Op{
		create("account", acc, map[string]any{"name": "x", "owner": w.people["Ann"].String()})}}
	a, err := w.engine.Submit(context.Background(), m)
	if err != nil || a.Status != syncengine.Applied {
		t.Fatalf("%+v %v", a, err)
	}
	b, err := w.engine.Submit(context.Background(), m)
	if err != nil || b.Status != syncengine.Applied || b.Seq != a.Seq {
		t.Fatalf("%+v %v", b, err)
	}
	g := syncengine.SystemMutation{Org: w.org, Source: "test", Key: "g", Guard: 7, Ops: []syncengine.Op{
		patch("account", acc, 1, map[string]any{"remark": "stale"})}}
	if v, err := w.engine.Submit(context.Background(), g); err != nil || v.Status != syncengine.Stale {
		t.Fatalf("%+v %v", v, err)
	}
}

func TestS5ARefusedCreationIsItsPersonsAlone(t *testing.T) {
	w := newWorld(t)
	ann, cem := w.phone("Ann"), w.phone("Cem")
	acc := satchel.NewID()
	refused := ann.do(create("account", acc, map[string]any{})) // has no name
	v := cem.do(create("visit", satchel.NewID(), visitFields(acc, "by a stranger")))
	if v.Reason != satchel.ReasonRecordUnknown || v.Attention == refused.Attention {
		t.Errorf("a stranger learns of the refused creation: %+v", v)
	}
	if v := cem.do(create("account", acc, map[string]any{})); v.Attention == refused.Attention {
		t.Errorf("%+v", v)
	}
	if v := ann.do(create("visit", satchel.NewID(), visitFields(acc, "waits"))); v.Reason != satchel.ReasonDependsOn || v.Attention != refused.Attention {
		t.Errorf("her own visit: %+v", v)
	}
}
