package syncengine_test

import (
	"context"
	"testing"
	"time"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/syncengine"
)

// device makes the row that identity makes at a sign-in.
func (w *world) device(id, person, was satchel.ID) {
	w.t.Helper()
	var before any
	if !was.IsZero() {
		before = was
	}
	w.exec(`INSERT INTO device (org_id, id, person_id, installation, name, platform, app_version, created_at, last_sign_in, was)
		VALUES ($1, $2, $3, 'i', 'n', 'p', 'v', now(), now(), $4)`, w.org, id, person, before)
}

// fork lets the phone send something that does not fit, and go on under the id that it is given.
func (p *phone) fork() {
	p.w.t.Helper()
	if out := p.apply(syncengine.Mutation{Number: 1, ID: satchel.NewID(), Ops: []syncengine.Op{create("account", satchel.NewID(), map[string]any{"name": "stray"})}}); !out.Fork {
		p.w.t.Fatalf("%+v", out)
	}
	if _, err := p.engine.ForkDevice(context.Background(), p.who); err != nil {
		p.w.t.Fatal(err)
	}
	p.next = 1
}

// again gives mutations new numbers from the phone's next on.
func (p *phone) again(ms ...syncengine.Mutation) []syncengine.Mutation {
	out := make([]syncengine.Mutation, len(ms))
	for i, m := range ms {
		m.Number = p.next
		p.next++
		out[i] = m
	}
	return out
}

func visits(acc satchel.ID, n int64) syncengine.Op {
	return syncengine.Op{Action: syncengine.Patch, Record: acc, Kind: "account", Increments: increment("visit_count", n)}
}

func TestS2ARevokedDevicesWorkIsKnownByItsRandomIDUnderTheNewOne(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	w.device(ann.who.Device, w.people["Ann"], satchel.ID{})
	acc := ann.account("x") // 1
	first := ann.mutation(visits(acc, 1))
	ann.send(first)
	ann.fork()
	second := ann.mutation(visits(acc, 1))
	at := ann.apply(second).Verdicts[0].Seq
	w.exec(`UPDATE device SET revoked_at = now() WHERE org_id = $1 AND id = $2`, w.org, ann.who.Device)
	// The answers were lost: the phone signs in anew, and sends all that it does not know to be taken.
	old := ann.who.Device
	ann.who.Device, ann.next = satchel.NewID(), 1
	w.device(ann.who.Device, w.people["Ann"], old)
	third := ann.mutation(visits(acc, 1))
	ann.next = 1
	ms := ann.again(first, second, third)
	out := ann.apply(ms...)
	if len(out.Verdicts) != 3 || out.Expected != 4 {
		t.Fatalf("%+v", out)
	}
	for _, v := range out.Verdicts {
		if v.Status != syncengine.Applied {
			t.Errorf("%+v", v)
		}
	}
	if out.Verdicts[1].Seq != at || out.Verdicts[2].Seq <= at || out.Verdicts[1].Number != 2 {
		t.Errorf("what was applied at %d: %+v", at, out.Verdicts)
	}
	if again := ann.apply(ms...); len(again.Verdicts) != 3 || again.Fork {
		t.Errorf("a replay: %+v", again)
	}
	ann.pull()
	if ann.field(acc, "visit_count") != 3.0 {
		t.Errorf("counted %v times of 3", ann.field(acc, "visit_count"))
	}
	// Another person's device is nobody's past.
	ben := w.phone("Ben")
	w.device(ben.who.Device, w.people["Ben"], old)
	if vs := ben.send(ben.again(first)...); vs[0].Status == syncengine.Applied {
		t.Errorf("%+v", vs)
	}
}

func TestS2AfterARestoreARandomIDIsKnownUnderEveryNumber(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc := ann.account("x")
	known := ann.mutation(visits(acc, 1))
	seq := ann.apply(known).Verdicts[0].Seq
	if err := w.engine.OpenEpoch(context.Background()); err != nil {
		t.Fatal(err)
	}
	ann.next++ // something else comes first
	lost := ann.again(known)[0]
	ann.next = lost.Number - 1
	out := ann.apply(ann.mutation(visits(acc, 1)), lost)
	if len(out.Verdicts) != 2 || out.Verdicts[1].Status != syncengine.Applied || out.Verdicts[1].Seq != seq || out.Verdicts[0].Seq <= seq {
		t.Fatalf("%+v", out)
	}
	if n := w.count(`SELECT (data ->> 'visit_count')::int FROM record WHERE org_id = $1 AND id = $2`, w.org, acc); n != 2 {
		t.Errorf("counted %d times of 2", n)
	}
}

func TestS3ACounterOlderThanWhatIsKnownOfTheDeviceIsLookedAtByAPerson(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc := ann.account("x")               // 1
	taken := ann.mutation(visits(acc, 1)) // 2: taken, and forgotten 35 days after
	ann.send(taken)
	w.pass(40 * 24 * time.Hour)
	ann.mustDo(patch("account", acc, 1, map[string]any{"remark": "newer"})) // 3: the oldest run kept
	w.exec(`DELETE FROM ledger WHERE org_id = $1 AND device_id = $2 AND first < 3`, w.org, ann.who.Device)
	ann.fork()
	w.pass(time.Hour)
	fresh := ann.mutation(visits(acc, 1))
	ann.next = 1
	taken.Recorded.Boot = ""
	vs := ann.send(ann.again(taken, fresh)...)
	if len(vs) != 2 || vs[0].Status != syncengine.Rejected || vs[0].Reason != satchel.ReasonConcurrent || vs[0].Attention.IsZero() || vs[1].Status != syncengine.Applied {
		t.Fatalf("%+v", vs)
	}
	ann.pull()
	if ann.field(acc, "visit_count") != 2.0 {
		t.Errorf("counted %v times of 2", ann.field(acc, "visit_count"))
	}
	// The office knows that it was not taken: then it counts.
	k := w.kept(syncengine.KeptFilter{Device: ann.who.Device})
	if len(k) != 1 {
		t.Fatalf("%+v", k)
	}
	if v, state, err := w.engine.RetryKept(context.Background(), w.principal("Mei", satchel.ID{}), k[0].Device, k[0].Number); err != nil || state != syncengine.KeptApplied {
		t.Errorf("%+v %s %v", v, state, err)
	}
}

func TestWhereNothingIsForgottenAnOldCounterIsApplied(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	offline := ann.mutation()
	w.pass(40 * 24 * time.Hour)
	ann.next = 1
	acc := ann.account("x")
	ann.fork()
	offline.Ops = []syncengine.Op{visits(acc, 1)}
	if vs := ann.send(ann.again(offline)...); len(vs) != 1 || vs[0].Status != syncengine.Applied {
		t.Errorf("%+v", vs)
	}
}

func TestTheOfficeSeesHowFarEachPhoneIs(t *testing.T) {
	w := newWorld(t)
	ann, ben, cem := w.phone("Ann"), w.phone("Ben"), w.phone("Cem")
	ctx := context.Background()
	for _, p := range []*phone{ann, ben, cem} {
		w.device(p.who.Device, w.people[p.name], satchel.ID{})
	}
	acc := ann.account("x")
	ann.do(patch("account", acc, 1, map[string]any{"credit_limit": 5}))
	ann.fork()
	ann.do(patch("account", acc, 1, map[string]any{"credit_limit": 6}))
	ben.account("y")
	ben.pull()
	ann.pull()
	at := w.now()
	if err := w.engine.Contact(ctx, ann.who, syncengine.ContactNote{Confirmed: 1, Cursor: ann.cursor, AppVersion: "7.1\x00", Profile: "phone", SchemaVersion: 1, Protocol: 1,
		Outbox: syncengine.Outbox{Count: 3, OldestMS: at.UnixMilli(), MediaBytes: 9}}); err != nil {
		t.Fatal(err)
	}
	// Ben is told nothing of Ann's: he stands where he stood, and lacks nothing.
	if err := w.engine.Contact(ctx, ben.who, syncengine.ContactNote{Cursor: ben.cursor}); err != nil {
		t.Fatal(err)
	}
	states := func() map[satchel.ID]syncengine.LaneState {
		out := map[satchel.ID]syncengine.LaneState{}
		for after := ""; ; {
			list, next, err := w.engine.SyncStates(ctx, w.org, syncengine.LaneFilter{Limit: 2, After: after})
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range list {
				out[l.Device] = l
			}
			if after = next; next == "" {
				return out
			}
		}
	}
	got := states()
	a, b, c := got[ann.who.Device], got[ben.who.Device], got[cem.who.Device]
	if len(got) != 3 {
		t.Fatalf("%d devices", len(got))
	}
	if !a.Forked() || a.Person != w.people["Ann"] || a.Next != 2 || a.Confirmed != 1 || !a.LastContact.Equal(at) || a.OutboxCount != 3 || !a.OutboxOldest.Equal(at) ||
		a.MediaBytes != 9 || a.AppVersion != "7.1?" || a.Profile != "phone" || a.AppSchema != 1 || a.Kept != 2 || a.Lag != 0 || a.Revoked {
		t.Errorf("%+v", a)
	}
	if b.Forked() || b.Lag != 0 || b.Shown != a.Shown || b.Kept != 0 || b.Next != 2 {
		t.Errorf("%+v", b)
	}
	if !c.LastContact.IsZero() || c.Next != 0 || c.Shown != 0 || c.Lag != 0 || c.Lane != c.Device {
		t.Errorf("%+v", c)
	}
	ann.mustDo(patch("account", acc, 1, map[string]any{"remark": "r"}))
	if err := w.engine.OpenEpoch(ctx); err != nil {
		t.Fatal(err)
	}
	ann.mustDo(patch("account", acc, 2, map[string]any{"remark": "s"}))
	if a := states()[ann.who.Device]; a.Lag != 2 {
		t.Errorf("two commits since, lag %d", a.Lag)
	}
	only, _, err := w.engine.SyncStates(ctx, w.org, syncengine.LaneFilter{Persons: []satchel.ID{w.people["Ben"]}})
	if err != nil || len(only) != 1 || only[0].Device != ben.who.Device {
		t.Errorf("%+v %v", only, err)
	}
	if _, _, err := w.engine.SyncStates(ctx, w.org, syncengine.LaneFilter{After: "x"}); satchel.ReasonOf(err) != satchel.ReasonMalformed {
		t.Errorf("%v", err)
	}
}
