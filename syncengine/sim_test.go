package syncengine_test

import (
	"context"
	"strings"
	"testing"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/syncengine"
)

// What the simulator found, each as a scenario of its own.

func TestS13WhatABatchHangsUnderARecordMovesWithItInTheSameBatch(t *testing.T) {
	w := newWorld(t)
	ann, ben := w.phone("Ann"), w.phone("Ben")
	acc := ann.account("x")
	visit := satchel.NewID()
	mei := w.phone("Mei")
	verdicts := mei.send(
		mei.mutation(create("visit", visit, visitFields(acc, "v"))),
		mei.mutation(patch("account", acc, 1, map[string]any{"owner": w.people["Ben"].String()})),
	)
	for _, v := range verdicts {
		if v.Status != syncengine.Applied {
			t.Fatalf("%+v", v)
		}
	}
	w.step()
	ann.pull()
	ben.pull()
	if ann.has(visit) || !ben.has(visit) {
		t.Errorf("the visit is with the account's owner of before: %v, of now: %v", ann.has(visit), ben.has(visit))
	}
}

// The record itself is new in the batch, or goes back to where it was.
func TestS13WhatHangsUnderARecordFollowsItThroughABatch(t *testing.T) {
	w := newWorld(t)
	mei, ann, ben := w.phone("Mei"), w.phone("Ann"), w.phone("Ben")
	owner := func(acc satchel.ID, base uint64, name string) syncengine.Mutation {
		return mei.mutation(patch("account", acc, base, map[string]any{"owner": w.people[name].String()}))
	}
	fresh, freshVisit := satchel.NewID(), satchel.NewID()
	back, backVisit := ann.account("x"), satchel.NewID()
	mei.mustDo(create("visit", backVisit, visitFields(back, "v")))
	for _, v := range mei.send(
		mei.mutation(create("account", fresh, map[string]any{"name": "new"})),
		mei.mutation(create("visit", freshVisit, visitFields(fresh, "v"))),
		owner(fresh, 1, "Ben"),
		owner(back, 1, "Ben"), owner(back, 2, "Ann"),
	) {
		if v.Status != syncengine.Applied {
			t.Fatalf("%+v", v)
		}
	}
	w.step()
	ann.pull()
	ben.pull()
	if !ben.has(freshVisit) {
		t.Error("the new account went to Ben, its visit did not")
	}
	if !ann.has(backVisit) || ben.has(backVisit) {
		t.Errorf("the account is Ann's again; she has its visit: %v, Ben has it: %v", ann.has(backVisit), ben.has(backVisit))
	}
}

// One mutation hangs a photo under a visit that is there, then gives away the account above both.
func TestS13WhatAMutationHangsTwoLevelsBelowMovesToo(t *testing.T) {
	w := newWorld(t)
	mei, ann, ben := w.phone("Mei"), w.phone("Ann"), w.phone("Ben")
	acc, visit, photo := ann.account("x"), satchel.NewID(), satchel.NewID()
	mei.mustDo(create("visit", visit, visitFields(acc, "v")))
	mei.mustDo(
		create("photo", photo, map[string]any{"visit": visit.String(), "blob": strings.Repeat("a", 64)}),
		patch("account", acc, 1, map[string]any{"owner": w.people["Ben"].String()}),
	)
	w.step()
	ann.pull()
	ben.pull()
	if ann.has(photo) || !ben.has(photo) || !ben.has(visit) {
		t.Errorf("Ann, who had the account, has the photo: %v; Ben, who has it now: %v, and the visit: %v", ann.has(photo), ben.has(photo), ben.has(visit))
	}
}

// Two phones with one store, of which one was told to fork: the other goes on with the numbers of before.
func TestS3AClonedStoreThatDidNotForkIsToldTo(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc := ann.account("x") // 1
	count := func(number uint64) syncengine.Mutation {
		m := ann.mutation(syncengine.Op{Action: syncengine.Patch, Record: acc, Kind: "account", Increments: increment("visit_count", 1)})
		m.Number = number
		return m
	}
	apply := func(ms ...syncengine.Mutation) syncengine.Outcome {
		t.Helper()
		out, err := w.engine.Apply(context.Background(), ann.who, syncengine.Batch{Mutations: ms})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	fork := func() {
		t.Helper()
		if _, err := w.engine.ForkDevice(context.Background(), ann.who); err != nil {
			t.Fatal(err)
		}
	}
	first := []syncengine.Mutation{count(2), count(3), count(4)}
	apply(first...)
	if out := apply(count(2)); !out.Fork {
		t.Fatalf("%+v", out)
	}
	fork()
	apply(count(1), count(2)) // the clone, under its new id
	if out := apply(count(5)); !out.Fork || len(out.Verdicts) != 0 {
		t.Fatalf("a gap in a lane that took another's place: %+v", out)
	}
	// The number that is expected next, by chance, of a mutation that was taken long before.
	known := first[2]
	known.Number = 3
	if out := apply(known); out.Fork || len(out.Verdicts) != 1 {
		t.Fatalf("%+v", out)
	}
	// And one that the lane itself has taken under another number.
	again := count(4)
	apply(again)
	again.Number = 5
	apply(again)
	// It is known also after another fork.
	stray := count(2)
	if out := apply(stray); !out.Fork {
		t.Fatalf("%+v", out)
	}
	fork()
	for i := range first {
		first[i].Number = uint64(i + 1)
	}
	if out := apply(first...); len(out.Verdicts) != 3 {
		t.Fatalf("%+v", out)
	}
	ann.pull()
	if got := ann.field(acc, "visit_count"); got != 6.0 {
		t.Errorf("six increments were recorded and took effect, the counter is %v", got)
	}
}
