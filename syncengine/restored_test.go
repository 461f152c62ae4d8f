package syncengine_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/syncengine"
)

// reopen opens an epoch as after a restore, at the world's hour.
func (w *world) reopen() {
	w.t.Helper()
	if err := w.engine.OpenEpoch(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	w.exec(`UPDATE org_clock SET cuts = jsonb_set(cuts, '{-1,at}', to_jsonb($2::bigint)) WHERE org_id = $1`, w.org, w.clock.Load())
}

// fates tells what became of a phone's kept mutations, the newest first.
func (p *phone) fates() (out string) {
	p.w.t.Helper()
	for _, k := range p.w.kept(syncengine.KeptFilter{Device: p.who.Device}) {
		out += fmt.Sprint(k.Number, " ", k.State, " ", k.Tries, "; ")
	}
	return out
}

func (w *world) waitingJobs() int {
	w.t.Helper()
	return w.count(`SELECT count(*) FROM river_job WHERE kind = 'engine.restored' AND state IN ('available', 'scheduled', 'retryable')`)
}

func TestS18WhatNamedARecordThatAnotherPhoneBroughtBackLaterIsAppliedByItself(t *testing.T) {
	w := newWorld(t)
	first, second := w.phone("Ann"), w.phone("Ann")
	first.account("before")
	second.account("before, too")
	restore := w.backup()
	acc, visit := satchel.NewID(), satchel.NewID()
	made := first.mutation(create("account", acc, map[string]any{"name": "A", "owner": w.people["Ann"].String()}))
	count := syncengine.Op{Action: syncengine.Patch, Record: acc, Kind: "account", Increments: increment("visit_count", 1)}
	later := []syncengine.Mutation{
		second.mutation(patch("account", acc, 1, map[string]any{"remark": "r"})),  // 2
		second.mutation(create("visit", visit, visitFields(acc, "V"))),            // 3
		second.mutation(patch("visit", visit, 1, map[string]any{"subject": "W"})), // 4: of what itself is not there
		second.mutation(count), // 5
	}
	for _, v := range append(first.send(made), second.send(later...)...) {
		if v.Status != syncengine.Applied {
			t.Fatalf("before the backup was restored: %+v", v)
		}
	}
	restore()
	w.reopen()

	// The second phone is back first.
	vs := second.send(later...)
	for i, why := range []satchel.Reason{satchel.ReasonRecordUnknown, satchel.ReasonRecordUnknown, satchel.ReasonDependsOn, satchel.ReasonRecordUnknown} {
		if len(vs) != 4 || vs[i].Status != syncengine.Rejected || vs[i].Reason != why || vs[i].Attention.IsZero() {
			t.Fatalf("%d: %+v", i, vs)
		}
	}
	w.step()
	if got := second.fates(); got != "5 open 0; 4 open 0; 3 open 0; 2 open 0; " {
		t.Errorf("it was tried at once: %s", got)
	}
	if vs := first.send(made); vs[0].Status != syncengine.Applied {
		t.Fatalf("%+v", vs)
	}
	second.pull()
	second.mustDo(patch("account", acc, second.records[acc].rev, map[string]any{"level": "b"})) // 6
	w.pass(time.Minute)
	w.step()
	if got := second.fates(); got != "5 applied 1; 4 applied 1; 3 applied 1; 2 applied 1; " {
		t.Errorf("%s", got)
	}
	second.pull()
	if second.field(acc, "visit_count") != 1.0 || second.field(acc, "remark") != "r" || second.field(acc, "level") != "b" || second.field(visit, "subject") != "W" {
		t.Errorf("%s", w.show(second))
	}
	for _, v := range vs {
		if second.field(v.Attention, "open") != false {
			t.Errorf("the attention of %d is still open: %v", v.Number, second.records[v.Attention].fields)
		}
	}
	if n := w.waitingJobs(); n != 0 {
		t.Errorf("%d jobs wait although nothing is left to try", n)
	}
}

func TestS18WhatTwoPhonesWaitForOfEachOtherComesInOneRun(t *testing.T) {
	w := newWorld(t)
	a, b, c := w.phone("Ann"), w.phone("Ann"), w.phone("Ann")
	w.reopen()
	acc, visit, gone := satchel.NewID(), satchel.NewID(), satchel.NewID()
	onAccount := b.do(create("visit", visit, visitFields(acc, "V")))
	w.pass(time.Second)
	onVisit := a.do(patch("visit", visit, 1, map[string]any{"subject": "W"}))
	stays := b.do(patch("account", gone, 1, map[string]any{"remark": "nobody ever brings this back"}))
	for _, v := range []syncengine.Verdict{onVisit, onAccount, stays} {
		if v.Reason != satchel.ReasonRecordUnknown && v.Reason != satchel.ReasonDependsOn {
			t.Fatalf("%+v", v)
		}
	}
	c.mustDo(create("account", acc, map[string]any{"name": "A", "owner": w.people["Ann"].String()}))
	w.pass(time.Minute)
	w.step()
	// The first phone's was tried before that of the second, and again behind it. What stays as it is costs no further try.
	if got := a.fates() + "of the second: " + b.fates(); got != "1 applied 2; of the second: 2 open 1; 1 applied 1; " {
		t.Errorf("%s", got)
	}
	a.pull()
	if a.field(visit, "subject") != "W" {
		t.Errorf("%s", w.show(a))
	}
}

func TestS18WhatNeverComesBackIsTriedInGrowingPausesForAWeekAndThenLeftToTheOffice(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	w.reopen()
	v := ann.do(patch("account", satchel.NewID(), 1, map[string]any{"remark": "r"}))
	began, seq := w.now(), w.seq()
	var at []time.Duration
	for w.waitingJobs() > 0 && len(at) < 20 {
		w.clock.Store(int64(w.count(`SELECT ceil(extract(epoch FROM min(scheduled_at)) * 1000)::bigint FROM river_job
			WHERE kind = 'engine.restored' AND state IN ('available', 'scheduled', 'retryable')`)))
		w.step()
		at = append(at, w.now().Sub(began))
	}
	if len(at) != 14 || at[0] != time.Minute || at[1] != 2*time.Minute || at[13] != 8192*time.Minute {
		t.Errorf("it was tried after %v", at)
	}
	if k := ann.kept(); k.State != syncengine.KeptOpen || k.Tries != 14 || k.Verdict.Attention != v.Attention {
		t.Errorf("%+v", k)
	}
	if n := w.count(`SELECT jsonb_array_length(data -> 'items') FROM record WHERE org_id = $1 AND id = $2`, w.org, v.Attention); n != 1 {
		t.Errorf("the attention holds %d values of 1", n)
	}
	if n := w.seq() - seq; n > 14 {
		t.Errorf("%d commits for 14 tries", n)
	}
	// The author is disabled: nothing is done in his name, and nobody looks each minute.
	ann.do(patch("account", satchel.NewID(), 1, map[string]any{"remark": "s"}))
	w.changeRights(`UPDATE person SET disabled_at = now() WHERE org_id = $1 AND id = $2`, w.org, w.people["Ann"])
	w.pass(time.Minute)
	w.step()
	if n := w.count(`SELECT count(*) FROM river_job WHERE kind = 'engine.restored' AND state = 'scheduled' AND scheduled_at > $1`, w.now().Add(time.Hour)); n != 1 {
		t.Errorf("%d jobs look again later than in an hour", n)
	}
}

func TestS18WithoutARestoreNothingIsTriedAgainByItself(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	refused := func() {
		t.Helper()
		if v := ann.do(patch("account", satchel.NewID(), 1, map[string]any{"remark": "r"})); v.Reason != satchel.ReasonRecordUnknown {
			t.Fatalf("%+v", v)
		}
	}
	refused()
	if n := w.waitingJobs(); n != 0 {
		t.Errorf("%d jobs before any restore", n)
	}
	w.pass(10 * time.Minute)
	w.reopen()
	refused()
	w.pass(time.Minute)
	w.step()
	if got := ann.fates(); got != "2 open 1; 1 open 0; " {
		t.Errorf("what was refused before the restore has nothing to do with it: %s", got)
	}
	w.pass(36 * 24 * time.Hour)
	w.step()
	refused()
	if n := w.waitingJobs(); n != 0 {
		t.Errorf("%d jobs when no device offers anything again", n)
	}
}
