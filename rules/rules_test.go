package rules_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/enginetest"
	"github.com/satchel-sync/satchel/internal/jobs"
	"github.com/satchel-sync/satchel/internal/pgtest"
	"github.com/satchel-sync/satchel/rules"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func register(t *testing.T, w *enginetest.World, r enginetest.Replica) {
	t.Helper()
	rs, err := rules.New(rules.Config{Pool: w.Pool, Engine: r.Engine, Jobs: r.Jobs, Now: w.Now})
	if err != nil {
		t.Fatal(err)
	}
	rs.Register()
}

func world(t *testing.T) *enginetest.World {
	t.Helper()
	t.Parallel()
	w := enginetest.New(t)
	register(t, w, w.Replica)
	return w
}

func visit(p *enginetest.Phone, fields map[string]any) satchel.ID {
	fields["account"], fields["subject"] = p.Account(), "First call"
	id := satchel.NewID()
	p.MustDo(enginetest.Create("visit", id, fields))
	return id
}

func in(w *enginetest.World, d time.Duration) string { return w.Now().Add(d).Format(time.RFC3339) }

func state(w *enginetest.World, id satchel.ID) string {
	return w.Text(`SELECT state FROM timer WHERE org_id = $1 AND record_id = $2`, w.Org, id)
}

func notices(t *testing.T, w *enginetest.World, want int) []*schema.Record {
	t.Helper()
	w.Step()
	got := w.Records("notice")
	if len(got) != want {
		t.Fatalf("there are %d notices, not %d", len(got), want)
	}
	return got
}

func TestAFollowUpThatIsDueTellsTheVisitsOwnerOnceAndRepeatsNothing(t *testing.T) {
	w := world(t)
	ann := w.Phone("Ann")
	id := visit(ann, map[string]any{"follow_up_at": in(w, time.Hour), "summary": "a secret of the customer"})
	w.Pass(time.Hour - time.Millisecond)
	notices(t, w, 0)
	w.Pass(time.Millisecond)
	n := notices(t, w, 1)[0]
	want := map[string]any{"person": w.People["Ann"].String(), "template": "follow_up_due", "record": id.String(),
		"record_kind": "visit", "rule": "follow_up_due", "at": "2026-11-21T09:00:00.000Z", "read": false}
	if !schema.Equal(n.Data, want) {
		t.Errorf("the notice is %v", n.Data)
	}
	w.Pass(24 * time.Hour)
	notices(t, w, 1)
	if s := state(w, id); s != "fired" {
		t.Errorf("the timer is %s", s)
	}
}

func TestADateInThePastAtCreationTellsAtOnceAndSaysHowLate(t *testing.T) {
	w := world(t)
	id := visit(w.Phone("Ann"), map[string]any{"follow_up_at": in(w, -3*time.Hour)})
	notices(t, w, 1)
	if late := w.Text(`SELECT late_ms::text FROM timer WHERE org_id = $1 AND record_id = $2`, w.Org, id); late != "10800000" {
		t.Errorf("late by %s ms, not 3 h", late)
	}
	w.Pass(time.Hour)
	notices(t, w, 1)
}

func TestAMovedDateTellsAtTheNewTimeOnly(t *testing.T) {
	w := world(t)
	ann := w.Phone("Ann")
	id := visit(ann, map[string]any{"follow_up_at": in(w, time.Hour)})
	ann.MustDo(enginetest.Patch("visit", id, 1, map[string]any{"follow_up_at": in(w, 3*time.Hour)}))
	w.Pass(2 * time.Hour)
	notices(t, w, 0)
	w.Pass(time.Hour)
	notices(t, w, 1)
}

func TestMovingToALaterDateAfterItFiredTellsAgainAndMovingBackDoesNot(t *testing.T) {
	w := world(t)
	ann := w.Phone("Ann")
	first := in(w, time.Hour)
	id := visit(ann, map[string]any{"follow_up_at": first})
	w.Pass(time.Hour)
	notices(t, w, 1)
	ann.MustDo(enginetest.Patch("visit", id, 1, map[string]any{"follow_up_at": in(w, time.Hour)}))
	w.Pass(time.Hour)
	notices(t, w, 2)
	ann.MustDo(enginetest.Patch("visit", id, 2, map[string]any{"follow_up_at": first}))
	notices(t, w, 2)
}

func TestADateThatGoesAwayAndComesBackBeforeItIsDueStillTells(t *testing.T) {
	w := world(t)
	ann := w.Phone("Ann")
	at := in(w, time.Hour)
	id := visit(ann, map[string]any{"follow_up_at": at})
	ann.MustDo(enginetest.Patch("visit", id, 1, map[string]any{"follow_up_at": nil}))
	if s := state(w, id); s != "cancelled" {
		t.Errorf("without a date the timer is %s", s)
	}
	ann.MustDo(enginetest.Patch("visit", id, 2, map[string]any{"follow_up_at": at}))
	w.Pass(time.Hour)
	notices(t, w, 1)
}

func TestNothingElseOfARecordTouchesItsTimer(t *testing.T) {
	w := world(t)
	ann := w.Phone("Ann")
	id := visit(ann, map[string]any{"follow_up_at": in(w, time.Hour)})
	token := func() string { return w.Text(`SELECT token::text FROM timer WHERE record_id = $1`, id) }
	was := token()
	ann.MustDo(enginetest.Patch("visit", id, 1, map[string]any{"summary": "longer", "follow_up_at": in(w, time.Hour)}))
	if token() != was {
		t.Error("the timer was set again although the date is the same")
	}
	if n := w.Text(`SELECT count(*)::text FROM river_job WHERE kind = $1`, rules.Job); n != "1" {
		t.Errorf("%s jobs wait for one date", n)
	}
}

func TestADeletedOrLostOrDoneThingTellsNobody(t *testing.T) {
	w := world(t)
	ann := w.Phone("Ann")
	account := ann.Account()
	deleted, done, open := satchel.NewID(), satchel.NewID(), satchel.NewID()
	for _, id := range []satchel.ID{deleted, done, open} {
		ann.MustDo(enginetest.Create("task", id, map[string]any{"assignee": w.People["Ann"], "account": account, "title": "Call", "due_at": in(w, 2*time.Hour)}))
	}
	lost := visit(ann, map[string]any{"follow_up_at": in(w, time.Hour), "outcome": "lost"})
	ann.MustDo(enginetest.Delete("task", deleted, 1))
	ann.MustDo(enginetest.Patch("task", done, 1, map[string]any{"done": true}))
	w.Pass(time.Hour) // tasks tell an hour before they are due
	if n := notices(t, w, 1)[0]; n.Text("record") != open.String() || n.Text("template") != "task_due" {
		t.Errorf("the notice is about %v", n.Data)
	}
	for id, want := range map[satchel.ID]string{deleted: "cancelled", done: "skipped", lost: "skipped", open: "fired"} {
		if s := state(w, id); s != want {
			t.Errorf("a timer is %s, not %s", s, want)
		}
	}
}

func TestTheOwnerOfTheMomentIsTold(t *testing.T) {
	w := world(t)
	mei := w.Phone("Mei")
	account, id := mei.Account(), satchel.NewID()
	mei.MustDo(enginetest.Create("task", id, map[string]any{"assignee": w.People["Ann"], "account": account, "title": "Call", "due_at": in(w, 2*time.Hour)}))
	mei.MustDo(enginetest.Patch("task", id, 1, map[string]any{"assignee": w.People["Ben"]}))
	w.Pass(2 * time.Hour)
	if n := notices(t, w, 1)[0]; n.Ref("person") != w.People["Ben"] {
		t.Error("not the new assignee was told")
	}
}

func TestAJobThatRunsAgainAfterACrashAndOnAllReplicasAtOnceMakesOneNotice(t *testing.T) {
	w := world(t)
	id := visit(w.Phone("Ann"), map[string]any{"follow_up_at": in(w, time.Hour)})
	w.Pass(time.Hour)
	// The job's own words, as a process that died before it could acknowledge leaves them to others.
	var args json.RawMessage
	if err := w.Pool.QueryRow(t.Context(), `SELECT args -> 'args' FROM river_job WHERE kind = $1`, rules.Job).Scan(&args); err != nil {
		t.Fatal(err)
	}
	var again []jobs.Job
	for range 6 {
		again = append(again, jobs.Job{Kind: rules.Job, Org: w.Org, Args: args})
	}
	tx, err := w.Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Jobs.Enqueue(t.Context(), tx, again...); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	var g errgroup.Group
	for range 3 {
		r := w.NewReplica()
		register(t, w, r)
		g.Go(func() error {
			_, err := r.Jobs.Step(context.Background())
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	notices(t, w, 1)
	if failed := w.Text(`SELECT errors::text FROM river_job WHERE state <> 'completed'`); failed != "" {
		t.Errorf("a job failed: %s", failed)
	}
	if s := state(w, id); s != "fired" {
		t.Errorf("the timer is %s", s)
	}
}

func TestOneBatchOfManyChangesLeavesTheLastDateOnly(t *testing.T) {
	w := world(t)
	ann := w.Phone("Ann")
	account, id := ann.Account(), satchel.NewID()
	ms := []syncengine.Mutation{ann.Mutation(enginetest.Create("visit", id, map[string]any{"account": account, "subject": "x", "follow_up_at": in(w, time.Hour)}))}
	for i := range 5 {
		ms = append(ms, ann.Mutation(enginetest.Patch("visit", id, uint64(i+1), map[string]any{"follow_up_at": in(w, time.Duration(i+2)*time.Hour)})))
	}
	ann.Send(ms...)
	if n := w.Text(`SELECT count(*)::text FROM river_job WHERE kind = $1`, rules.Job); n != "1" {
		t.Errorf("%s jobs wait", n)
	}
	w.Pass(5 * time.Hour)
	notices(t, w, 0)
	w.Pass(time.Hour)
	notices(t, w, 1)
}

func TestSomebodyWhoLeftIsNotTold(t *testing.T) {
	w := world(t)
	id := visit(w.Phone("Ann"), map[string]any{"follow_up_at": in(w, time.Hour)})
	w.ChangeRights(`UPDATE person SET disabled_at = now() WHERE id = $1`, w.People["Ann"])
	w.Pass(time.Hour)
	notices(t, w, 0)
	if s := state(w, id); s != "skipped" {
		t.Errorf("the timer is %s", s)
	}
}

func TestARuleThatIsNoLongerPublishedDoesNotFire(t *testing.T) {
	w := world(t)
	id := visit(w.Phone("Ann"), map[string]any{"follow_up_at": in(w, time.Hour)})
	pack := strings.Replace(string(schema.DefaultPack()), "name: follow_up_due", "name: follow_up_soon", 1)
	if _, err := w.Engine.PublishSchema(t.Context(), w.Org, []byte(pack)); err != nil {
		t.Fatal(err)
	}
	w.Pass(time.Hour)
	notices(t, w, 0)
	if s := state(w, id); s != "cancelled" {
		t.Errorf("the timer is %s", s)
	}
}

func TestADateStandsForNineInTheMorningOfTheOrganisation(t *testing.T) {
	w := world(t)
	rule := "rules:\n  - {name: next_contact, kind: account, anchor: next_contact_on, offset: \"0\", when: \"true\", template: task_due}\n"
	pack := strings.Replace(string(schema.DefaultPack()), "rules:\n", rule, 1)
	if _, err := w.Engine.PublishSchema(t.Context(), w.Org, []byte(pack)); err != nil {
		t.Fatal(err)
	}
	w.Phone("Ann").MustDo(enginetest.Create("account", satchel.NewID(), map[string]any{"name": "A", "next_contact_on": "2026-11-23"}))
	got := w.Text(`SELECT to_char(due_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') FROM timer WHERE rule = 'next_contact'`)
	if got != "2026-11-23 01:00" { // 09:00 in Shanghai
		t.Errorf("due at %s UTC", got)
	}
}

func TestPeopleCannotRunTheSystemsCommand(t *testing.T) {
	w := world(t)
	ann := w.Phone("Ann")
	id := visit(ann, map[string]any{"follow_up_at": in(w, time.Hour)})
	token := w.Text(`SELECT token::text FROM timer WHERE record_id = $1`, id)
	v := ann.Do(enginetest.Command(rules.Job, "visit", id, map[string]any{"rule": "follow_up_due", "record": id, "kind": "visit", "token": token}))
	if v.Status != syncengine.Rejected || v.Reason != satchel.ReasonUnknownCommand {
		t.Errorf("the verdict is %s %s", v.Status, v.Reason)
	}
	notices(t, w, 0)
}

func TestAnIDThatSomebodyTookDoesNotSilenceTheRule(t *testing.T) {
	w := world(t)
	ann := w.Phone("Ann")
	at := in(w, time.Hour)
	id := visit(ann, map[string]any{"follow_up_at": at})
	anchor := w.Text(`SELECT anchor FROM timer WHERE record_id = $1`, id)
	taken := satchel.DerivedID(id, "rule:follow_up_due/"+anchor)
	w.Phone("Ben").MustDo(enginetest.Create("account", taken, map[string]any{"name": "In the way"}))
	w.Pass(time.Hour)
	if n := notices(t, w, 1)[0]; n.Ref("person") != w.People["Ann"] {
		t.Error("somebody else was told")
	}
}

func TestAnImportOfThePastTellsNobodyAndOneOfTheFutureDoes(t *testing.T) {
	w := world(t)
	account := w.Phone("Ann").Account()
	var records []syncengine.ImportRecord
	for i, d := range []time.Duration{-time.Hour, time.Hour} {
		records = append(records, syncengine.ImportRecord{ID: satchel.NewID(), Kind: "visit", Author: w.People["Ann"],
			Fields: map[string]any{"account": account.String(), "subject": fmt.Sprint(i), "follow_up_at": in(w, d)}})
	}
	if err := w.Engine.Import(t.Context(), w.Org, "old", "1", records); err != nil {
		t.Fatal(err)
	}
	notices(t, w, 0)
	w.Pass(time.Hour)
	notices(t, w, 1)
}
