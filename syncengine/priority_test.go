package syncengine_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/mutant"
	"github.com/satchel-sync/satchel/syncengine"
)

// Ann, with 60 tasks of 2 KB and 60 visits of 2 KB; her phone has seen nothing.
func busyRep(w *world) (ann *phone, acc satchel.ID) {
	writer := w.phone("Ann")
	acc = writer.account("x")
	text := strings.Repeat("x", 2000)
	for range 6 {
		var ms []syncengine.Mutation
		for range 10 {
			visit := visitFields(acc, "v")
			visit["summary"] = text
			ms = append(ms, writer.mutation(create("task", satchel.NewID(), map[string]any{"title": "t", "remark": text}),
				create("visit", satchel.NewID(), visit)))
		}
		for _, v := range writer.send(ms...) {
			if v.Status != syncengine.Applied {
				w.t.Fatalf("%+v", v)
			}
		}
	}
	return w.phone("Ann"), acc
}

func TestS12OwnWorkIsShownBeforeOlderFactsHaveCome(t *testing.T) {
	w := newWorld(t)
	ann, acc := busyRep(w)
	ann.bytes = 20_000
	var settled []int
	for more := true; more; {
		shown := len(ann.records)
		more = ann.page()
		pg := ann.last
		if !pg.Checkpoint {
			if len(ann.records) != shown {
				t.Fatal("a page without a checkpoint shows something")
			}
			continue
		}
		settled = append(settled, pg.SettledPriority)
		if pg.SettledPriority > 0 && (!more || pg.Digest != nil || len(pg.Token) == 0 || pg.Seq == 0) {
			t.Errorf("a checkpoint of %d priorities: more %v, digest %v", pg.SettledPriority, more, pg.Digest)
		}
		if k := ann.kinds(); pg.SettledPriority == 2 && (k["task"] != 60 || k["account"] != 1 || k["visit"] != 0) {
			t.Errorf("own open work is settled with %v", k)
		}
	}
	if fmt.Sprint(settled) != "[2 0]" { // nothing of what all share is there, the rest are her months
		t.Errorf("checkpoints at %v", settled)
	}
	ann.sameAsNew()
	if !ann.has(acc) {
		t.Error("the account is missing")
	}
	// A little is not worth a checkpoint of its own.
	ben := w.phone("Ben")
	b := ben.account("small")
	ben.mustDo(create("visit", satchel.NewID(), visitFields(b, "v")))
	ben.pull()
	if ben.pages != 1 {
		t.Errorf("%d pages for two rows", ben.pages)
	}
}

func TestS12WhatChangesWhileTheRestIsFilledComesWithTheSettledPart(t *testing.T) {
	w := newWorld(t)
	ann, acc := busyRep(w)
	ann.bytes = 20_000
	for ann.page() && !ann.last.Checkpoint {
	}
	if ann.last.SettledPriority == 0 {
		t.Fatal("no checkpoint on the way")
	}
	other := w.phone("Ann")
	visit, task := satchel.NewID(), satchel.NewID()
	other.mustDo(create("visit", visit, visitFields(acc, "v")), create("task", task, map[string]any{"title": "t"}))
	for more := true; more; {
		more = ann.page()
		if ann.has(visit) && !ann.has(task) {
			t.Fatal("of one transaction the later priority is shown first")
		}
	}
	if !ann.has(visit) || !ann.has(task) {
		t.Error("it did not come")
	}
	ann.sameAsNew()
}

func TestS6TheTokenOfASettledPriorityProvesWhatIsShown(t *testing.T) {
	w := newWorld(t)
	ann, acc := busyRep(w)
	ann.bytes = 20_000
	for ann.page() && !ann.last.Checkpoint {
	}
	// Mei, a manager, has her own 60 tasks settled and nothing of her team's yet.
	mei := w.phone("Mei")
	text := strings.Repeat("x", 2000)
	for range 60 {
		mei.mustDo(create("task", satchel.NewID(), map[string]any{"title": "t", "remark": text}))
	}
	fresh := w.phone("Mei")
	fresh.bytes = 20_000
	for fresh.page() && !fresh.last.Checkpoint {
	}
	if fresh.last.SettledPriority == 0 || fresh.has(acc) || !ann.has(acc) {
		t.Fatalf("settled %d, Mei has it %v, Ann has it %v", fresh.last.SettledPriority, fresh.has(acc), ann.has(acc))
	}
	visit := ann.mutation(create("visit", satchel.NewID(), visitFields(acc, "on my way")))
	hers := fresh.mutation(create("visit", satchel.NewID(), visitFields(acc, "never saw it")))
	w.phone("Dina").mustDo(patch("account", acc, 0, map[string]any{"owner": w.people["Cem"].String()}))
	if v := ann.send(visit)[0]; v.Status != syncengine.Applied || len(v.Notes) != 1 {
		t.Errorf("the visit to an account that was shown: %+v", v)
	}
	if v := fresh.send(hers)[0]; v.Reason != satchel.ReasonRecordUnknown {
		t.Errorf("the visit to an account that was yet to come: %+v", v)
	}
}

func TestS17TheDigestIsRightAtEveryCheckpointWhileOthersWrite(t *testing.T) {
	w := newWorld(t)
	var wg sync.WaitGroup
	for _, name := range []string{"Ann", "Ben", "Cem"} {
		p := w.phone(name)
		p.engine = w.newEngine()
		wg.Go(func() {
			acc := p.account("x")
			for i := range 25 {
				task := satchel.NewID()
				p.do(create("task", task, map[string]any{"title": "t"}), create("visit", satchel.NewID(), visitFields(acc, "v")))
				p.do(patch("account", acc, 0, map[string]any{"remark": fmt.Sprint(i)}))
				p.do(patch("task", task, 1, map[string]any{"assignee": w.people[[]string{"Ann", "Ben", "Cem"}[i%3]].String()}))
				if i%3 == 0 {
					p.do(syncengine.Op{Action: syncengine.Delete, Record: task, Kind: "task", BaseRev: 9})
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	readers := []*phone{w.phone("Dina"), w.phone("Mei"), w.phone("Ann")}
	for running, i := true, 0; running; i++ {
		select {
		case <-done:
			running = false
		default:
		}
		p := readers[i%3]
		p.bytes = []int{0, 500, 4000}[i%3]
		p.pull() // each full checkpoint compares
	}
	for _, p := range readers {
		p.pull()
		p.sameAsNew()
	}
	w.recount()
}

// recount compares every bucket's digest with what lies there.
func (w *world) recount() {
	w.t.Helper()
	rows, err := w.pool.Query(context.Background(), `
		SELECT h.bucket, h.kind, r.id, r.rev FROM head h JOIN record r ON r.org_id = h.org_id AND r.id = h.record_id
		WHERE h.org_id = $1 AND h.present AND NOT r.deleted`, w.org)
	if err != nil {
		w.t.Fatal(err)
	}
	want := map[place]syncengine.Digest{}
	for rows.Next() {
		var at place
		var id satchel.ID
		var rev uint64
		if err := rows.Scan(&at.bucket, &at.kind, &id, &rev); err != nil {
			w.t.Fatal(err)
		}
		want[at] = syncengine.Digest{Count: want[at].Count + 1, Sum: want[at].Sum + hashOf(id, rev)}
	}
	rows, err = w.pool.Query(context.Background(), `SELECT num, kind, count, sum FROM bucket WHERE org_id = $1`, w.org)
	if err != nil {
		w.t.Fatal(err)
	}
	n := 0
	for rows.Next() {
		var at place
		var d syncengine.Digest
		if err := rows.Scan(&at.bucket, &at.kind, &d.Count, &d.Sum); err != nil {
			w.t.Fatal(err)
		}
		n++
		if d != want[at] {
			w.t.Errorf("bucket %v says %+v, there are %+v", at, d, want[at])
		}
		delete(want, at)
	}
	if n == 0 || len(want) != 0 {
		w.t.Errorf("%d buckets; without a digest: %v", n, want)
	}
}

func TestS13FormsComeWithTheFirstPageAndWhenTheyChange(t *testing.T) {
	w := newWorld(t)
	ann, mei := w.phone("Ann"), w.phone("Mei")
	acc := ann.account("x")
	mei.account("hers")
	ann.pull()
	mei.pull()
	if ann.last.Forms == nil || ann.forms["account"] == 0 || mei.last.Forms == nil || mei.forms["account"] != 0 {
		t.Errorf("Ann %v, Mei %v", ann.forms, mei.forms)
	}
	ann.mustDo(patch("account", acc, 1, map[string]any{"remark": "x"}))
	mei.pull()
	if mei.last.Forms != nil {
		t.Errorf("unchanged, and sent again: %v", mei.last.Forms)
	}
	w.changeRights(`UPDATE person SET roles = ARRAY['rep'] WHERE org_id = $1 AND id = $2`, w.org, w.people["Mei"])
	mei.page()
	if mei.forms["account"] != ann.forms["account"] {
		t.Errorf("Mei, a rep now, has the forms %v, Ann %v", mei.forms, ann.forms)
	}
}

func TestS15ARowThatStandsAsItWasSentTravelsAsItsRev(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	ann.pull()
	task, changed, acc := satchel.NewID(), satchel.NewID(), satchel.NewID()
	ann.mustDo(create("task", task, map[string]any{"title": "t"}), create("task", changed, map[string]any{"title": "u"}),
		create("account", acc, map[string]any{"name": "hidden fields"}))
	ann.mustDo(patch("task", changed, 1, map[string]any{"title": "v"}))
	pg, err := w.engine.Pull(context.Background(), ann.who, syncengine.PullRequest{Cursor: ann.cursor, Sent: map[satchel.ID]syncengine.Sent{
		task: {Rev: 1, Extra: []byte(`{"done":false}`)}, changed: {Rev: 1}, acc: {Rev: 1, Names: []string{"name", "credit_limit"}}}})
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, c := range pg.Changes {
		switch c.Record {
		case task:
			if !c.AsSent || string(c.Fields) != `{"done":false}` || c.Rev != 1 || len(c.Entered) == 0 {
				t.Errorf("the task travels as %+v", c)
			}
		case changed, acc: // it moved on; a field of it is hidden
			if c.AsSent || len(c.Fields) == 0 {
				t.Errorf("%s travels as %+v", c.Kind, c)
			}
		}
		seen++
	}
	if seen != 3 {
		t.Errorf("%d rows", seen)
	}
}

func TestATombstoneSaysWhereTheWorkGoesOn(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	loser, root := ann.account("x"), ann.account("y")
	ann.pull()
	w.phone("Mei").mustDo(syncengine.Op{Action: syncengine.Delete, Record: loser, Kind: "account", BaseRev: 1})
	w.exec(`UPDATE record SET root = $3 WHERE org_id = $1 AND id = $2`, w.org, loser, root)
	ann.page()
	if c := ann.last.Changes; len(c) != 1 || !c[0].Deleted || c[0].MergedInto != root {
		t.Errorf("%+v", c)
	}
}

// Without the build tag no fault is planted; with it the fleet and these tests must see each.
func TestNoFaultIsPlanted(t *testing.T) {
	for _, name := range mutant.Names() {
		if mutant.On(name) {
			t.Errorf("%s is planted", name)
		}
	}
}
