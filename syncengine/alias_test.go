package syncengine_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine"
)

func mergeInto(kind string, loser, into satchel.ID) syncengine.Op {
	return syncengine.Op{Action: syncengine.Command, Name: syncengine.MergeCommand, Record: loser, Kind: kind,
		Args: raw(map[string]any{"into": into.String()})}
}

// record gives a record as it stands.
func (w *world) record(id satchel.ID) *schema.Record {
	w.t.Helper()
	rec, err := w.engine.Record(context.Background(), w.org, id)
	if err != nil || rec == nil {
		w.t.Fatalf("record %s: %v, %v", id, rec, err)
	}
	return rec
}

func (w *world) root(id satchel.ID) satchel.ID {
	w.t.Helper()
	var root satchel.ID
	if err := w.pool.QueryRow(context.Background(), `SELECT root FROM record WHERE org_id = $1 AND id = $2`, w.org, id).Scan(&root); err != nil {
		w.t.Fatal(err)
	}
	return root
}

func TestS9AMergeTakesOverWhatTheOtherLacksAndLosesNothing(t *testing.T) {
	w := newWorld(t)
	ann, mei, ben := w.phone("Ann"), w.phone("Mei"), w.phone("Ben")
	a, b := satchel.NewID(), satchel.NewID()
	ann.mustDo(create("account", a, map[string]any{"name": "A", "phone": "1", "address": "A street", "tags": []string{"x", "y"},
		"stage": "won", "deal_amount": 5, "first_contact_on": "2026-01-01", "visit_count": 3}))
	ben.mustDo(create("account", b, map[string]any{"name": "B", "phone": "2", "tags": []string{"y", "z"},
		"stage": "proposal", "first_contact_on": "2026-02-01", "visit_count": 4}))
	contact, visit := satchel.NewID(), satchel.NewID()
	ann.mustDo(create("contact", contact, map[string]any{"account": a.String(), "name": "Li"}))
	ann.mustDo(create("visit", visit, visitFields(a, "v")))
	ann.pull()
	w.pass(time.Minute)

	mei.mustDo(mergeInto("account", a, b))
	w.step()
	got := w.record(b).Data
	for field, want := range map[string]any{"name": "B", "phone": "2", "address": "A street", "tags": []any{"x", "y", "z"},
		"stage": "proposal", "deal_amount": nil, "first_contact_on": "2026-01-01", "visit_count": json.Number("7")} {
		if !schema.Equal(got[field], want) {
			t.Errorf("%s is %v, not %v", field, got[field], want)
		}
	}
	for field, want := range map[string]string{"name": `"A"`, "phone": `"1"`, "stage": `"won"`, "deal_amount": "5"} {
		if w.count(`SELECT count(*) FROM history WHERE org_id = $1 AND record_id = $2 AND lost -> $3 ->> 'policy' = 'merged'
			AND lost -> $3 -> 'value' = $4::jsonb`, w.org, b, field, want) != 1 {
			t.Errorf("history does not keep the %s of the one that went", field)
		}
	}
	if rec := w.record(a); !rec.Deleted || w.root(a) != b {
		t.Errorf("A is deleted: %v, and leads to %v", rec.Deleted, w.root(a))
	}
	for _, id := range []satchel.ID{contact, visit} {
		if got := w.record(id).Text("account"); got != b.String() {
			t.Errorf("%s hangs under %s", id, got)
		}
	}
	ann.pull()
	ben.pull()
	if ann.has(a) || !ann.has(contact) || !ben.has(contact) || !ben.has(visit) {
		t.Errorf("Ann has A: %v, her contact: %v; Ben has the contact: %v, the visit: %v", ann.has(a), ann.has(contact), ben.has(contact), ben.has(visit))
	}
}

func TestS9TwoMergesThatCrossLeaveOneRecordAndNoCycle(t *testing.T) {
	f := newFleet(t, "Dina", "Dina")
	for range 8 {
		a, b := f.phones[0].account("A"), f.phones[1].account("B")
		verdicts := make([]syncengine.Verdict, 2)
		var wg sync.WaitGroup
		for i, ids := range [][2]satchel.ID{{a, b}, {b, a}} {
			p := f.phones[i]
			p.engine = f.engines[i]
			m := p.mutation(mergeInto("account", ids[0], ids[1]))
			wg.Go(func() { verdicts[i] = p.until(m) })
		}
		wg.Wait()
		if verdicts[0].Status != syncengine.Applied {
			slices.Reverse(verdicts)
		}
		if verdicts[0].Status != syncengine.Applied || verdicts[1].Reason != satchel.ReasonSameRecord {
			t.Fatalf("verdicts: %+v", verdicts)
		}
		if (f.root(a) == b) == (f.root(b) == a) || !f.root(a).IsZero() && !f.root(b).IsZero() {
			t.Fatalf("A leads to %v, B to %v", f.root(a), f.root(b))
		}
	}
}

func TestS9ChainsHaveLengthOneAndAnEditOfTheFirstReachesTheLast(t *testing.T) {
	w := newWorld(t)
	mei, ann := w.phone("Mei"), w.phone("Mei")
	a, b, c := mei.account("A"), mei.account("B"), mei.account("C")
	mei.mustDo(mergeInto("account", a, b))
	mei.mustDo(mergeInto("account", b, c))
	if w.root(a) != c || w.root(b) != c {
		t.Fatalf("A leads to %v, B to %v, not to C", w.root(a), w.root(b))
	}
	if v := mei.do(mergeInto("account", a, b)); v.Reason != satchel.ReasonSameRecord {
		t.Errorf("both are C: %+v", v)
	}
	// In one batch too, where no table has the first merge yet.
	d, e, f := mei.account("D"), mei.account("E"), mei.account("F")
	for _, v := range mei.send(mei.mutation(mergeInto("account", d, e)), mei.mutation(mergeInto("account", e, f))) {
		if v.Status != syncengine.Applied {
			t.Fatalf("%+v", v)
		}
	}
	if w.root(d) != f || w.root(e) != f {
		t.Errorf("D leads to %v, E to %v, not to F", w.root(d), w.root(e))
	}
	// C is deleted: its own delete policy decides, and an edit revives it.
	mei.mustDo(syncengine.Op{Action: syncengine.Delete, Record: c, Kind: "account", BaseRev: w.record(c).Rev})
	w.pass(time.Minute)
	v := ann.do(patch("account", a, 1, map[string]any{"phone": "7"}))
	if rec := w.record(c); v.Status != syncengine.Applied || rec.Deleted || rec.Text("phone") != "7" || !w.record(a).Deleted {
		t.Errorf("%+v; C: deleted %v, phone %q", v, rec.Deleted, rec.Text("phone"))
	}
}

func TestS9AnOpThroughAnAliasHasSeenNothingOfTheSurvivor(t *testing.T) {
	w := newWorld(t)
	ann, mei := w.phone("Ann"), w.phone("Mei")
	a, b := ann.account("A"), ann.account("B")
	ann.mustDo(patch("account", b, 1, map[string]any{"level": "a"})) // Ann's own word does not count as seen either
	for i := range 5 {
		ann.mustDo(patch("account", a, uint64(i+1), map[string]any{"remark": fmt.Sprint(i)}))
	}
	mei.mustDo(mergeInto("account", a, b))
	w.pass(time.Minute)

	v := ann.do(patch("account", a, 6, map[string]any{"level": "b", "phone": "1"}))
	rec := w.record(b)
	if v.Status != syncengine.Conflicted || rec.Text("level") != "a" || rec.Text("phone") != "1" {
		t.Errorf("%+v: level %q, phone %q", v, rec.Text("level"), rec.Text("phone"))
	}
	if len(v.Paths) != 1 || v.Paths[0].Record != b || v.Paths[0].Path != "level" {
		t.Errorf("the verdict names %+v, not the level of the root", v.Paths)
	}
	ann.pull()
	if v.Attention.IsZero() || !keptIn(ann, v.Attention, "level", "b") {
		t.Error("nothing keeps the level that Ann gave")
	}
	// A delete that has seen nothing does not delete.
	v = mei.do(syncengine.Op{Action: syncengine.Delete, Record: a, Kind: "account", BaseRev: 6})
	if v.Status != syncengine.Conflicted || w.record(b).Deleted {
		t.Errorf("%+v; B deleted: %v", v, w.record(b).Deleted)
	}
	// Two ops of one mutation have seen each other.
	w.pass(time.Minute)
	ann.mustDo(patch("account", a, 6, map[string]any{"address": "1"}), patch("account", a, 6, map[string]any{"address": "2"}))
	if got := w.record(b).Text("address"); got != "2" {
		t.Errorf("the address is %q", got)
	}
}

func TestS9ACreateSentAgainUnderAnAliasIsAnEditOfTheRoot(t *testing.T) {
	w := newWorld(t)
	ann, mei := w.phone("Ann"), w.phone("Mei")
	a := ann.account("A")
	w.pass(time.Minute)
	b := ann.account("B")
	mei.mustDo(mergeInto("account", a, b))
	w.pass(time.Minute)
	ann.mustDo(create("account", a, map[string]any{"name": "A", "phone": "5"}))
	if rec := w.record(b); rec.Text("name") != "B" || rec.Text("phone") != "5" {
		t.Errorf("name %q, phone %q", rec.Text("name"), rec.Text("phone"))
	}
	if v := mei.do(create("account", a, map[string]any{"name": "mine"})); v.Reason != satchel.ReasonRecordExists {
		t.Errorf("somebody else's: %+v", v)
	}
}

func TestS9WhatHangsUnderAnAliasHangsUnderTheRoot(t *testing.T) {
	w := newWorld(t)
	ann, cem, dina := w.phone("Ann"), w.phone("Cem"), w.phone("Dina")
	a, b := ann.account("A"), cem.account("B")
	ann.pull()
	visit, contact := satchel.NewID(), satchel.NewID()
	offline := ann.mutation(create("visit", visit, visitFields(a, "v")))
	other := ann.mutation(create("contact", contact, map[string]any{"account": a.String(), "name": "Li"}))
	dina.mustDo(mergeInto("account", a, b))
	w.pass(time.Minute)

	// A visit took place; Ann sees A no more, and never saw B.
	v := ann.send(offline)[0]
	if v.Status != syncengine.Applied || !slices.Contains(v.Notes, syncengine.ParentMoved) || w.record(visit).Text("account") != b.String() {
		t.Fatalf("%+v", v)
	}
	// All else needs the right of now to the root, and is kept.
	v = ann.send(other)[0]
	if v.Reason != satchel.ReasonRecordUnknown || v.Attention.IsZero() {
		t.Errorf("a contact under a root that Ann may not see: %+v", v)
	}
	v = ann.do(patch("account", a, 1, map[string]any{"phone": "9"}))
	if v.Status != syncengine.Rejected || v.Attention.IsZero() || w.record(b).Text("phone") != "" {
		t.Errorf("an edit through A by who may not see B: %+v", v)
	}
	ann.pull()
	if !keptIn(ann, v.Attention, "phone", "9") {
		t.Error("nothing keeps what Ann wrote")
	}
	cem.pull()
	if !cem.has(visit) {
		t.Error("B's owner does not see the visit")
	}
	// A reference that is no parent is led there too.
	task := satchel.NewID()
	x, y, z := cem.account("X"), satchel.NewID(), satchel.NewID()
	cem.mustDo(create("visit", y, visitFields(x, "y")), create("visit", z, visitFields(x, "z")))
	dina.mustDo(mergeInto("visit", y, z))
	cem.mustDo(create("task", task, map[string]any{"assignee": w.people["Cem"].String(), "title": "s", "visit": y.String()}))
	if got := w.record(task).Text("visit"); got != z.String() {
		t.Errorf("the task names %s, not the root %s", got, z)
	}
}

func TestS9AMergeNeedsTheRightsToBothAndTheGuards(t *testing.T) {
	w := newWorld(t)
	ann, mei, cem := w.phone("Ann"), w.phone("Mei"), w.phone("Cem")
	a, b, c := ann.account("A"), ann.account("B"), cem.account("C")
	contact := satchel.NewID()
	ann.mustDo(create("contact", contact, map[string]any{"account": a.String(), "name": "Li"}))
	for what, tc := range map[string]struct {
		p      *phone
		op     syncengine.Op
		reason satchel.Reason
	}{
		"a rep may not delete accounts": {ann, mergeInto("account", a, b), satchel.ReasonForbidden},
		"Mei does not see C":            {mei, mergeInto("account", a, c), satchel.ReasonRecordUnknown},
		"Mei does not see C that goes":  {mei, mergeInto("account", c, a), satchel.ReasonRecordUnknown},
		"another kind":                  {mei, mergeInto("contact", contact, a), satchel.ReasonRecordUnknown},
		"itself":                        {mei, mergeInto("account", a, a), satchel.ReasonSameRecord},
		"nothing said":                  {mei, syncengine.Op{Action: syncengine.Command, Name: syncengine.MergeCommand, Record: a, Kind: "account"}, satchel.ReasonBadValue},
		"unknown":                       {mei, mergeInto("account", satchel.NewID(), a), satchel.ReasonRecordUnknown},
	} {
		if v := tc.p.do(tc.op); v.Status != syncengine.Rejected || v.Reason != tc.reason {
			t.Errorf("%s: %+v", what, v)
		}
	}
	var asked []satchel.ID
	w.engine.Guard(func(_ *schema.Schema, _ *schema.Kind, rec *schema.Record, fields []string) error {
		asked = append(asked, rec.ID)
		if rec.ID == b && fields != nil {
			return &syncengine.Refusal{Status: syncengine.Rejected, Reason: satchel.ReasonAlreadyRunning}
		}
		return nil
	})
	if v := mei.do(mergeInto("account", a, b)); v.Reason != satchel.ReasonAlreadyRunning || !slices.Contains(asked, a) || w.record(a).Deleted {
		t.Errorf("the guard of B was not heard: %+v, asked for %v", v, asked)
	}
}

func TestS9WhatOneCommitCannotLeadToTheRootAJobDoes(t *testing.T) {
	w := newWorld(t)
	mei, ben := w.phone("Mei"), w.phone("Ben")
	a, b := mei.account("A"), ben.account("B")
	const n = 450 // of which each moves up to 6 heads
	var records []syncengine.ImportRecord
	for i := range n {
		records = append(records, syncengine.ImportRecord{ID: satchel.NewID(), Kind: "contact", Author: w.people["Ann"],
			Fields: map[string]any{"account": a.String(), "name": fmt.Sprint(i)}})
	}
	if err := w.engine.Import(context.Background(), w.org, "test", "1", records); err != nil {
		t.Fatal(err)
	}
	mei.mustDo(mergeInto("account", a, b))
	hanging := func(id satchel.ID) int {
		return w.count(`SELECT count(*) FROM record WHERE org_id = $1 AND parent = $2 AND data ->> 'account' = $2::text`, w.org, id)
	}
	first := hanging(b)
	if first == 0 || first == n {
		t.Errorf("%d of %d were led in the commit of the merge; the test wants some", first, n)
	}
	w.step()
	if hanging(b) != n || hanging(a) != 0 {
		t.Errorf("%d hang under B, %d under A", hanging(b), hanging(a))
	}
	ben.pull()
	if got := ben.kinds()["contact"]; got != n {
		t.Errorf("B's owner has %d of the contacts", got)
	}
}

func TestS9WhatTheServerAloneWritesIsNotMovedByAPersonsMerge(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc, approved, dear := ann.account("Orient"), satchel.NewID(), satchel.NewID()
	ann.mustDo(create("quote", approved, map[string]any{"account": acc.String(), "title": "small", "amount": 1}))
	ann.mustDo(create("quote", dear, map[string]any{"account": acc.String(), "title": "dear", "amount": 1_000_000}))
	for id, fields := range map[satchel.ID]map[string]any{
		approved: {"approval_state": "approved", "approved_by": w.people["Mei"].String()}, dear: {"approval_state": nil}} {
		if v, err := w.engine.Submit(context.Background(), syncengine.SystemMutation{Org: w.org, Source: "approval", Key: id.String(),
			Ops: []syncengine.Op{patch("quote", id, 1, fields)}}); err != nil || v.Status != syncengine.Applied {
			t.Fatalf("%+v %v", v, err)
		}
	}
	ann.mustDo(mergeInto("quote", approved, dear))
	got := w.record(dear)
	if got.Data["approval_state"] != nil || got.Data["approved_by"] != nil {
		t.Errorf("the dear one is approved by what a person merged into it: %v", got.Data)
	}
	if w.count(`SELECT count(*) FROM history WHERE org_id = $1 AND record_id = $2 AND lost -> 'approval_state' ->> 'value' = 'approved'
		AND lost -> 'approved_by' ->> 'value' = $3`, w.org, dear, w.people["Mei"].String()) != 1 {
		t.Error("history does not keep what stayed behind")
	}
}

func TestS9ARecordThatIsMadeAndMergedInOneBatchIsAnAlias(t *testing.T) {
	w := newWorld(t)
	mei := w.phone("Mei")
	a, b := satchel.NewID(), satchel.NewID()
	for _, v := range mei.send(mei.mutation(create("account", a, map[string]any{"name": "A"})),
		mei.mutation(create("account", b, map[string]any{"name": "B"})), mei.mutation(mergeInto("account", a, b))) {
		if v.Status != syncengine.Applied {
			t.Fatalf("%+v", v)
		}
	}
	if got := w.root(a); got != b {
		t.Errorf("it leads to %s", got)
	}
}
