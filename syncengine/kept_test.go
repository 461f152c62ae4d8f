package syncengine_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine"
)

func (p *phone) apply(ms ...syncengine.Mutation) syncengine.Outcome {
	p.w.t.Helper()
	out, err := p.engine.Apply(context.Background(), p.w.principal(p.name, p.who.Device), syncengine.Batch{Mutations: ms})
	if err != nil {
		p.w.t.Fatal(err)
	}
	return out
}

func (w *world) kept(f syncengine.KeptFilter) []syncengine.Kept {
	w.t.Helper()
	list, _, err := w.engine.Kept(context.Background(), w.org, f)
	if err != nil {
		w.t.Fatal(err)
	}
	return list
}

// one gives the only kept mutation of a phone.
func (p *phone) kept() syncengine.Kept {
	p.w.t.Helper()
	list := p.w.kept(syncengine.KeptFilter{Device: p.who.Device})
	if len(list) != 1 {
		p.w.t.Fatalf("%d kept mutations", len(list))
	}
	return list[0]
}

func TestS3ASkipClosesAGapAndNothingInItIsEverApplied(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc := ann.account("x") // 1
	count := func(number uint64) syncengine.Mutation {
		return syncengine.Mutation{Number: number, ID: satchel.NewID(), Ops: []syncengine.Op{
			{Action: syncengine.Patch, Record: acc, Kind: "account", Increments: increment("visit_count", 1)}}}
	}
	skip := syncengine.Mutation{Number: 3, ID: satchel.NewID(), Skip: &syncengine.Skip{To: 7, Why: "store dam\x00aged"}}
	two, eight := count(2), count(8)
	// A batch ends before a skip, and a skip is a batch of its own.
	if out := ann.apply(two, skip, count(4)); len(out.Verdicts) != 1 || out.Expected != 3 {
		t.Fatalf("%+v", out)
	}
	out := ann.apply(skip, count(4))
	if len(out.Verdicts) != 1 || out.Verdicts[0].Status != syncengine.Applied || out.Verdicts[0].Attention.IsZero() || out.Expected != 8 {
		t.Fatalf("%+v", out)
	}
	for range 2 {
		if again := ann.apply(skip); len(again.Verdicts) != 1 || again.Verdicts[0].Attention != out.Verdicts[0].Attention || again.Expected != 8 || again.Fork {
			t.Fatalf("a replay: %+v", again)
		}
	}
	if out := ann.apply(eight); len(out.Verdicts) != 1 || out.Verdicts[0].Status != syncengine.Applied || out.Expected != 9 {
		t.Fatalf("behind the gap: %+v", out)
	}
	for _, number := range []uint64{3, 4, 7} {
		if out := ann.apply(count(number)); !out.Fork || len(out.Verdicts) != 0 {
			t.Errorf("number %d of the gap: %+v", number, out)
		}
	}
	ann.pull()
	if ann.field(acc, "visit_count") != 2.0 {
		t.Errorf("%v were counted", ann.field(acc, "visit_count"))
	}
	att := ann.records[out.Verdicts[0].Attention]
	items, _ := att.fields["items"].([]any)
	if att.fields["reason"] != "SKIPPED" || att.fields["record"] != skip.ID.String() || len(items) != 1 {
		t.Fatalf("%v", att.fields)
	}
	if it := items[0].(map[string]any); it["from"] != 3.0 || it["to"] != 7.0 || it["why"] != "store dam?aged" {
		t.Errorf("%v", it)
	}
}

func TestS3ASkipWithoutFormUsesUpOneNumber(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc := ann.account("x")
	for i, s := range []syncengine.Mutation{
		{Skip: &syncengine.Skip{To: 1}},
		{Skip: &syncengine.Skip{To: 1 + 10_000_000}},
		{Skip: &syncengine.Skip{To: ^uint64(0)}},
		{Skip: &syncengine.Skip{To: 90}, Ops: []syncengine.Op{patch("account", acc, 1, map[string]any{"remark": "no"})}},
	} {
		s.Number, s.ID = uint64(2+i), satchel.NewID()
		out := ann.apply(s)
		if len(out.Verdicts) != 1 || out.Verdicts[0].Reason != satchel.ReasonMalformed || out.Verdicts[0].Attention.IsZero() || out.Expected != s.Number+1 {
			t.Errorf("%d: %+v", i, out)
		}
	}
	if out := ann.apply(syncengine.Mutation{Number: 6, ID: satchel.NewID(), Skip: &syncengine.Skip{To: 6}}); out.Expected != 7 || out.Verdicts[0].Status != syncengine.Applied {
		t.Errorf("a skip of one number: %+v", out)
	}
}

func TestS3ASkipInALaneThatTookAnothersPlace(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc := ann.account("x")
	ann.next = 1
	if out := ann.apply(ann.mutation(patch("account", acc, 1, map[string]any{"remark": "r"}))); !out.Fork {
		t.Fatalf("%+v", out)
	}
	if _, err := w.engine.ForkDevice(context.Background(), ann.who); err != nil {
		t.Fatal(err)
	}
	skip := syncengine.Mutation{Number: 1, ID: satchel.NewID(), Skip: &syncengine.Skip{To: 4}}
	if out := ann.apply(skip); out.Fork || out.Expected != 5 {
		t.Fatalf("%+v", out)
	}
	if out := ann.apply(skip); out.Fork || len(out.Verdicts) != 1 || out.Expected != 5 {
		t.Fatalf("a replay: %+v", out)
	}
	ann.next = 5
	ann.mustDo(patch("account", acc, 1, map[string]any{"remark": "behind"}))
}

func TestS5AnEnvelopeIsRefusedAndBlocksNothing(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc := ann.account("x")
	big := syncengine.Mutation{Number: 2, ID: satchel.NewID(), Envelope: &syncengine.Envelope{Size: 300 << 10, SHA256: []byte{0xab, 0xcd}}}
	torn := syncengine.Mutation{Number: 3, ID: satchel.NewID(), Envelope: &syncengine.Envelope{Size: 12, SHA256: bytes.Repeat([]byte{1}, 32)}}
	ann.next = 4
	out := ann.apply(big, torn, ann.mutation(patch("account", acc, 1, map[string]any{"remark": "after"})))
	if len(out.Verdicts) != 3 || out.Verdicts[0].Reason != satchel.ReasonTooLarge || out.Verdicts[1].Reason != satchel.ReasonMalformed ||
		out.Verdicts[0].Status != syncengine.Rejected || out.Verdicts[2].Status != syncengine.Applied {
		t.Fatalf("%+v", out.Verdicts)
	}
	ann.pull()
	items, _ := ann.field(out.Verdicts[0].Attention, "items").([]any)
	if len(items) != 1 || items[0].(map[string]any)["sha256"] != "abcd" || items[0].(map[string]any)["size"] != float64(300<<10) {
		t.Errorf("%v", items)
	}
	list := w.kept(syncengine.KeptFilter{Device: ann.who.Device})
	if len(list) != 2 || list[0].Mutation != nil || list[0].Bytes != nil {
		t.Fatalf("%+v", list)
	}
	if _, _, err := w.engine.RetryKept(context.Background(), w.principal("Dina", satchel.ID{}), ann.who.Device, 2); satchel.KindOf(err) != satchel.Precondition {
		t.Errorf("bytes that are not here are tried again: %v", err)
	}
}

func TestS5WhatDoesNotTakeEffectAsSentIsKeptWhole(t *testing.T) {
	w := newWorld(t)
	ann, mei := w.phone("Ann"), w.phone("Mei")
	acc := ann.account("x")
	ann.pull()
	base := ann.records[acc].rev
	mei.mustDo(patch("account", acc, base, map[string]any{"level": "a"}))
	vs := ann.send(
		ann.mutation(patch("account", acc, base, map[string]any{"credit_limit": 5})),                                                 // 2: refused
		ann.mutation(patch("account", acc, base, map[string]any{"level": "b"})),                                                      // 3: conflicting
		ann.mutation(patch("account", acc, base, map[string]any{"remark": "fine"})),                                                  // 4: applied
		ann.mutation(syncengine.Op{Action: syncengine.Patch, Record: acc, Kind: "account", Fields: json.RawMessage("nonsense\x00")}), // 5: no JSON
		syncengine.Mutation{Number: ann.next, ID: satchel.NewID(), Malformed: []byte{0, 0xff}},                                       // 6: no form
		syncengine.Mutation{Number: ann.next + 1, ID: satchel.NewID(), SchemaVersion: 99, Ops: []syncengine.Op{ // 7: of tomorrow
			{Action: syncengine.Command, Record: acc, Kind: "account", Name: "tomorrow", Args: json.RawMessage(`{"a":1}`)}}},
		syncengine.Mutation{Number: ann.next + 2, ID: satchel.NewID(), TooOld: true, Ops: []syncengine.Op{patch("account", acc, 1, map[string]any{"remark": "old"})}}) // 8
	want := map[uint64]syncengine.Status{2: "REJECTED", 3: "CONFLICTED", 5: "REJECTED", 6: "REJECTED", 7: "UNSUPPORTED", 8: "UNSUPPORTED"}
	if len(vs) != 7 {
		t.Fatalf("%+v", vs)
	}
	if v := vs[6]; v.Status != syncengine.Unsupported || v.Reason != satchel.ReasonClientTooOld || v.Attention.IsZero() {
		t.Errorf("%+v", v)
	}
	list := w.kept(syncengine.KeptFilter{Person: w.people["Ann"], State: syncengine.KeptOpen})
	if len(list) != len(want) {
		t.Fatalf("%d are kept: %+v", len(list), list)
	}
	for _, k := range list {
		switch {
		case k.Verdict.Status != want[k.Number] || k.ID.IsZero() || k.Person != w.people["Ann"] || k.State != syncengine.KeptOpen:
			t.Errorf("%+v", k)
		case k.Number == 5:
			if k.Mutation != nil || !bytes.Contains(k.Bytes, []byte("nonsense\x00")) {
				t.Errorf("%+v", k)
			}
		case k.Number == 6:
			if k.Mutation != nil || !bytes.Equal(k.Bytes, []byte{0, 0xff}) {
				t.Errorf("%+v", k)
			}
		case k.Mutation == nil || len(k.Mutation.Ops) != 1:
			t.Errorf("%+v", k)
		}
	}
	var page []uint64
	for after := ""; ; {
		one, next, err := w.engine.Kept(context.Background(), w.org, syncengine.KeptFilter{Limit: 2, After: after})
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range one {
			page = append(page, k.Number)
		}
		if after = next; next == "" {
			break
		}
	}
	if fmt.Sprint(page) != "[8 7 6 5 3 2]" {
		t.Errorf("in pages: %v", page)
	}
}

func TestS5TheOfficeTriesAgainWhatWasRefusedInItsAuthorsName(t *testing.T) {
	w := newWorld(t)
	ann, dina := w.phone("Ann"), w.principal("Dina", satchel.ID{})
	ctx := context.Background()
	visit := satchel.NewID()
	recorded := w.clock.Load()
	v := ann.do(create("visit", visit, map[string]any{"account": satchel.NewID().String(), "subject": "no account"}))
	if v.Status != syncengine.Rejected {
		t.Fatalf("%+v", v)
	}
	k := ann.kept()
	// Still refused, it stays open, and its attention does not grow.
	again, state, err := w.engine.RetryKept(ctx, dina, k.Device, k.Number)
	if err != nil || state != syncengine.KeptOpen || again.Status != syncengine.Rejected || again.Attention != v.Attention {
		t.Fatalf("%+v %s %v", again, state, err)
	}
	if n := w.count(`SELECT jsonb_array_length(data -> 'items') FROM record WHERE org_id = $1 AND id = $2`, w.org, v.Attention); n != 2 {
		t.Errorf("the attention holds %d values of 2", n)
	}
	// An administrator makes the account that it names.
	account := referenceIn(t, k, "account")
	if _, err := w.engine.Submit(ctx, syncengine.SystemMutation{Org: w.org, Source: "import", Key: "1", Ops: []syncengine.Op{
		create("account", account, map[string]any{"name": "x", "owner": w.people["Ann"].String()})}}); err != nil {
		t.Fatal(err)
	}
	w.pass(48 * time.Hour)
	again, state, err = w.engine.RetryKept(ctx, dina, k.Device, k.Number)
	if err != nil || state != syncengine.KeptApplied || again.Status != syncengine.Applied {
		t.Fatalf("%+v %s %v", again, state, err)
	}
	ann.pull()
	if n := w.count(`SELECT event_ms FROM record WHERE org_id = $1 AND id = $2 AND author = $3`, w.org, visit, w.people["Ann"]); int64(n) != recorded {
		t.Errorf("it took place at %d, not %d", recorded, n)
	}
	if ann.field(v.Attention, "open") != false {
		t.Error("its attention is still open")
	}
	if k := ann.kept(); k.State != syncengine.KeptApplied || k.SettledBy != dina.Person || k.Tries != 2 {
		t.Errorf("%+v", k)
	}
	again, state, err = w.engine.RetryKept(ctx, dina, k.Device, k.Number)
	if err != nil || state != syncengine.KeptApplied || again.Reason != satchel.ReasonSuperseded {
		t.Errorf("once more: %+v %s %v", again, state, err)
	}
}

func TestS5OfAConflictOnlyWhatDidNotStandIsTriedAgain(t *testing.T) {
	w := newWorld(t)
	ann, mei := w.phone("Ann"), w.phone("Mei")
	acc := ann.account("x")
	ann.pull()
	base := ann.records[acc].rev
	mei.mustDo(patch("account", acc, base, map[string]any{"level": "a"}))
	op := patch("account", acc, base, map[string]any{"level": "b", "remark": "stands"})
	op.Increments = increment("visit_count", 1)
	v := ann.do(op)
	if v.Status != syncengine.Conflicted {
		t.Fatalf("%+v", v)
	}
	mei.pull()
	mei.mustDo(patch("account", acc, mei.records[acc].rev, map[string]any{"remark": "newer"}))
	got, state, err := w.engine.RetryKept(context.Background(), w.principal("Dina", satchel.ID{}), ann.who.Device, 2)
	if err != nil || state != syncengine.KeptApplied || got.Status != syncengine.Applied {
		t.Fatalf("%+v %s %v", got, state, err)
	}
	ann.pull()
	if ann.field(acc, "level") != "b" || ann.field(acc, "remark") != "newer" || ann.field(acc, "visit_count") != 1.0 {
		t.Errorf("%v", ann.records[acc].fields)
	}
}

func TestS5TheOfficeEditsAndDiscardsUnderItsOwnRights(t *testing.T) {
	w := newWorld(t)
	ann, ctx := w.phone("Ann"), context.Background()
	acc := ann.account("x")
	first := ann.do(patch("account", acc, 1, map[string]any{"credit_limit": 5}))
	second := ann.do(patch("account", acc, 1, map[string]any{"credit_limit": 6}))
	if first.Attention != second.Attention || first.Status != syncengine.Rejected {
		t.Fatalf("%+v %+v", first, second)
	}
	ben := w.principal("Ben", satchel.ID{})
	v, state, err := w.engine.EditKept(ctx, ben, ann.who.Device, 2, []syncengine.Op{patch("account", acc, 1, map[string]any{"remark": "by Ben"})})
	if err != nil || state != syncengine.KeptOpen || v.Status != syncengine.Rejected {
		t.Errorf("Ben has no right to the account: %+v %s %v", v, state, err)
	}
	mei := w.principal("Mei", satchel.ID{})
	v, state, err = w.engine.EditKept(ctx, mei, ann.who.Device, 2, []syncengine.Op{patch("account", acc, 1, map[string]any{"remark": "by Mei"})})
	if err != nil || state != syncengine.KeptApplied || v.Status != syncengine.Applied {
		t.Fatalf("%+v %s %v", v, state, err)
	}
	ann.pull()
	if ann.field(acc, "remark") != "by Mei" || ann.field(first.Attention, "open") != true {
		t.Errorf("%v, %v", ann.field(acc, "remark"), ann.field(first.Attention, "open"))
	}
	if state, err = w.engine.DiscardKept(ctx, mei, ann.who.Device, 3); err != nil || state != syncengine.KeptDiscarded {
		t.Fatalf("%s %v", state, err)
	}
	if state, err = w.engine.DiscardKept(ctx, mei, ann.who.Device, 2); err != nil || state != syncengine.KeptApplied {
		t.Errorf("what was applied is %s, %v", state, err)
	}
	ann.pull()
	if ann.field(first.Attention, "open") != false {
		t.Error("the attention of what is settled is still open")
	}
	if _, err = w.engine.DiscardKept(ctx, mei, ann.who.Device, 99); satchel.KindOf(err) != satchel.NotFound {
		t.Errorf("%v", err)
	}
}

func TestS5OfTwoManagersAtOnceExactlyOneSettles(t *testing.T) {
	w := newWorld(t)
	ann, ctx := w.phone("Ann"), context.Background()
	acc := satchel.NewID()
	for range 8 { // a counter that would show it twice
		ann.do(create("account", satchel.NewID(), map[string]any{}))
	}
	ann.do(syncengine.Op{Action: syncengine.Patch, Record: acc, Kind: "account", Increments: increment("visit_count", 1)})
	if _, err := w.engine.Submit(ctx, syncengine.SystemMutation{Org: w.org, Source: "import", Key: "1", Ops: []syncengine.Op{
		create("account", acc, map[string]any{"name": "x", "owner": w.people["Ann"].String()})}}); err != nil {
		t.Fatal(err)
	}
	for number := uint64(1); number <= 9; number++ {
		var wg sync.WaitGroup
		var mu sync.Mutex
		won := 0
		for i := range 4 {
			who := w.principal([]string{"Mei", "Dina"}[i%2], satchel.ID{})
			engine := w.newEngine()
			wg.Go(func() {
				var v syncengine.Verdict
				var err error
				state := ""
				if number == 9 {
					v, state, err = engine.RetryKept(ctx, who, ann.who.Device, number)
				} else {
					v, state, err = engine.EditKept(ctx, who, ann.who.Device, number, []syncengine.Op{
						create("account", satchel.NewID(), map[string]any{"name": fmt.Sprint(number)})})
				}
				if err != nil || state != syncengine.KeptApplied {
					t.Errorf("%d: %+v %s %v", number, v, state, err)
				}
				mu.Lock()
				defer mu.Unlock()
				if v.Status == syncengine.Applied {
					won++
				} else if v.Reason != satchel.ReasonSuperseded {
					t.Errorf("%d: %+v", number, v)
				}
			})
		}
		wg.Wait()
		if won != 1 {
			t.Errorf("%d settled number %d", won, number)
		}
	}
	if n := w.count(`SELECT count(*) FROM record WHERE org_id = $1 AND kind = 'account'`, w.org); n != 9 {
		t.Errorf("%d accounts of 9", n)
	}
	if n := w.count(`SELECT (data ->> 'visit_count')::int FROM record WHERE org_id = $1 AND id = $2`, w.org, acc); n != 1 {
		t.Errorf("counted %d times", n)
	}
}

func TestS5AnAuthorWhoClosesTheAttentionSettlesIt(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc, lost := ann.account("x"), satchel.NewID()
	refused := ann.do(patch("account", acc, 1, map[string]any{"credit_limit": 5}))
	root := ann.do(create("account", lost, map[string]any{}))
	ann.do(create("visit", satchel.NewID(), visitFields(lost, "waits")))
	for _, att := range []satchel.ID{refused.Attention, root.Attention} {
		ann.pull()
		ann.mustDo(patch("attention", att, ann.records[att].rev, map[string]any{"open": false}))
	}
	got := ""
	for _, k := range w.kept(syncengine.KeptFilter{Device: ann.who.Device}) {
		got += fmt.Sprintf("%d %s by him %v; ", k.Number, k.State, k.SettledBy == w.people["Ann"])
	}
	if got != "4 open by him false; 3 discarded by him true; 2 discarded by him true; " {
		t.Error(got)
	}
	ann.mustDo(create("account", lost, map[string]any{"name": "after all"}))
	w.step()
	ann.pull()
	if ann.kinds()["visit"] != 1 {
		t.Errorf("what waited is not there: %s", w.show(ann))
	}
}

func TestS5WhatWasNotUnderstoodIsAppliedAfterAnUpgrade(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc, badge := ann.account("x"), satchel.NewID()
	of := func(version int, ops ...syncengine.Op) syncengine.Mutation {
		m := ann.mutation(ops...)
		m.SchemaVersion = version
		return m
	}
	vs := ann.send(of(2, patch("account", acc, 1, map[string]any{"nickname": "Tomorrow"})), // 2
		of(3, create("badge", badge, map[string]any{"text": "b"})), // 3: of a version after that
		of(2, syncengine.Op{Action: syncengine.Patch, Record: acc, Kind: "account", Fields: raw(map[string]any{"nickname": "Later"}), Increments: increment("visit_count", 1)})) // 4
	for _, v := range vs {
		if v.Status != syncengine.Unsupported {
			t.Fatalf("%+v", vs)
		}
	}
	old := ann.mutation(patch("account", acc, 1, map[string]any{"remark": "in an old protocol"}))
	old.TooOld = true
	ann.send(old)
	publish := func(from, to string, pack []byte) []byte {
		t.Helper()
		next := bytes.Replace(pack, []byte(from), []byte(to), 1)
		if bytes.Equal(next, pack) {
			t.Fatal("the pack is another")
		}
		if _, err := w.engine.PublishSchema(context.Background(), w.org, next); err != nil {
			t.Fatal(err)
		}
		return next
	}
	name := "      - {name: phone, type: text, max_length: 40, label: {zh: 电话, en: Phone}}\n"
	publish(name, name+"      - {name: nickname, type: text, max_length: 40, label: {zh: 昵称, en: Nickname}}\n", schema.DefaultPack())
	before := w.count(`SELECT seq FROM org_clock WHERE org_id = $1`, w.org)
	w.step()
	ann.pull()
	if ann.field(acc, "nickname") != "Later" || ann.field(acc, "visit_count") != 1.0 {
		t.Errorf("%v", ann.records[acc].fields)
	}
	states := func() (out string) {
		for _, k := range w.kept(syncengine.KeptFilter{Device: ann.who.Device}) {
			out += fmt.Sprint(k.Number, " ", k.State, " ", k.Tries, "; ")
		}
		return out
	}
	if got := states(); got != "5 open 0; 4 applied 1; 3 open 0; 2 applied 1; " {
		t.Error(got)
	}
	if after := w.count(`SELECT seq FROM org_clock WHERE org_id = $1`, w.org); after != before+2 {
		t.Errorf("%d commits for two mutations", after-before)
	}
	// A server that starts looks once, and finds nothing to do for what is still unknown.
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.newEngine().Run(ctx) }()
	deadline := time.Now().Add(30 * time.Second)
	for w.count(`SELECT count(*) FROM river_job WHERE args::text LIKE '%engine.upgraded%' OR kind LIKE '%engine.upgraded%'`) < 2 {
		if time.Now().After(deadline) {
			t.Fatal("a server that starts does not look for what was not understood")
		}
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	w.step()
	if got := states(); !strings.Contains(got, "3 open 0") {
		t.Error(got)
	}
}

// referenceIn gives the record that a field of a kept creation names.
func referenceIn(t *testing.T, k syncengine.Kept, field string) satchel.ID {
	t.Helper()
	var fields map[string]any
	if err := json.Unmarshal(k.Mutation.Ops[0].Fields, &fields); err != nil {
		t.Fatal(err)
	}
	id, err := satchel.ParseID(fields[field].(string))
	if err != nil {
		t.Fatal(err)
	}
	return id
}
