package syncengine_test

import (
	"context"
	"testing"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/syncengine"
)

func TestF4APhoneRestoredFromItsBackupLosesNothingAndDoublesNothing(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc := ann.account("x") // 1
	count := func() syncengine.Mutation {
		return ann.mutation(syncengine.Op{Action: syncengine.Patch, Record: acc, Kind: "account", Increments: increment("visit_count", 1)})
	}
	backedUp := count() // 2: pending when the backup was made, then sent
	ann.send(backedUp)
	ann.send(count(), count()) // 3, 4: after the backup
	// The phone is restored: its next number is 3, and 2 is still in its outbox.
	ann.next = 3
	visit := satchel.NewID()
	new3 := ann.mutation(create("visit", visit, visitFields(acc, "after the restore")))
	apply := func(ms ...syncengine.Mutation) syncengine.Outcome {
		t.Helper()
		out, err := w.engine.Apply(context.Background(), ann.who, syncengine.Batch{Mutations: ms})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if out := apply(backedUp, new3); !out.Fork || len(out.Verdicts) != 0 {
		t.Fatalf("%+v", out)
	}
	id, err := w.engine.ForkDevice(context.Background(), ann.who)
	if err != nil {
		t.Fatal(err)
	}
	// The answer is lost: the phone sends the same again, and is told the same id.
	if out := apply(backedUp, new3); !out.Fork {
		t.Fatalf("%+v", out)
	}
	if again, err := w.engine.ForkDevice(context.Background(), ann.who); err != nil || again != id {
		t.Fatalf("%v then %v, %v", id, again, err)
	}
	// All pending mutations get new numbers; the random ids stay.
	backedUp.Number, new3.Number = 1, 2
	out := apply(backedUp, new3)
	if out.Fork || len(out.Verdicts) != 2 || out.Verdicts[0].Status != syncengine.Applied || out.Verdicts[1].Status != syncengine.Applied || out.Expected != 3 {
		t.Fatalf("%+v", out)
	}
	if out := apply(backedUp, new3); out.Fork || len(out.Verdicts) != 2 {
		t.Fatalf("a replay after the fork: %+v", out)
	}
	ann.pull()
	if ann.field(acc, "visit_count") != 3.0 || !ann.has(visit) {
		t.Errorf("the counter is %v, the visit %v", ann.field(acc, "visit_count"), ann.has(visit))
	}
	// A second fork of the same phone.
	stray := new3
	stray.ID = satchel.NewID()
	if out := apply(stray); !out.Fork {
		t.Fatalf("%+v", out)
	}
	second, err := w.engine.ForkDevice(context.Background(), ann.who)
	if err != nil || second == id {
		t.Fatalf("%v, %v", second, err)
	}
	stray.Number = 1
	stray.Ops = []syncengine.Op{patch("account", acc, 1, map[string]any{"remark": "r"})}
	if out := apply(stray); len(out.Verdicts) != 1 || out.Verdicts[0].Status != syncengine.Applied {
		t.Fatalf("%+v", out)
	}
}
