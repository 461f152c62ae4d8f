package syncengine_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine"
)

// faults makes inserting a visit with the subject "fault CODE N" fail with that SQLSTATE, N times altogether.
func (w *world) faults() {
	w.exec(`CREATE SEQUENCE faults`)
	w.exec(`CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.data ->> 'subject' LIKE 'fault %' AND nextval('faults') <= split_part(NEW.data ->> 'subject', ' ', 3)::int THEN
			RAISE EXCEPTION 'no' USING ERRCODE = split_part(NEW.data ->> 'subject', ' ', 2);
		END IF;
		RETURN NEW; END $$`)
	w.exec(`CREATE TRIGGER fault BEFORE INSERT ON record FOR EACH ROW EXECUTE FUNCTION fault()`)
}

func TestF9WhatTheDatabaseSaysDecidesTheFateOfABatch(t *testing.T) {
	w := newWorld(t)
	w.faults()
	ann := w.phone("Ann")
	acc := ann.account("x")
	for _, c := range []struct {
		code  string
		times int
		want  syncengine.Status
	}{
		{"40P01", 3, syncengine.Applied}, // a deadlock, a lock time-out, a serialisation failure are only lost races
		{"55P03", 3, syncengine.Applied},
		{"40001", 3, syncengine.Applied},
		{"57014", 1, syncengine.Applied}, // a statement that took too long once or twice
		{"57014", 2, syncengine.Applied},
		{"57014", 99, syncengine.Rejected}, // and for the third time
		{"22P05", 99, syncengine.Rejected},
		{"23503", 99, syncengine.Rejected},
	} {
		w.exec(`ALTER SEQUENCE faults RESTART`)
		vs := ann.send(ann.mutation(create("visit", satchel.NewID(), visitFields(acc, "before"))),
			ann.mutation(create("visit", satchel.NewID(), visitFields(acc, fmt.Sprint("fault ", c.code, " ", c.times)))),
			ann.mutation(create("visit", satchel.NewID(), visitFields(acc, "after"))))
		if len(vs) != 3 || vs[0].Status != syncengine.Applied || vs[1].Status != c.want || vs[2].Status != syncengine.Applied {
			t.Errorf("%s %d times: %+v", c.code, c.times, vs)
		}
	}
	// What is the database's own trouble gives no verdict, and the same mutation is taken later.
	for _, code := range []string{"53100", "57P01", "58030", "XX000"} {
		w.exec(`ALTER SEQUENCE faults RESTART`)
		m := ann.mutation(create("visit", satchel.NewID(), visitFields(acc, "fault "+code+" 1")))
		_, err := w.engine.Apply(context.Background(), ann.who, syncengine.Batch{Mutations: []syncengine.Mutation{m}})
		if satchel.KindOf(err) != satchel.Unavailable {
			t.Errorf("%s: %v", code, err)
		}
		if vs := ann.send(m); len(vs) != 1 || vs[0].Status != syncengine.Applied {
			t.Errorf("%s, again: %+v", code, vs)
		}
	}
}

func TestF9AnEndlesslyLostRaceIsBusyAndNothingOfItHappened(t *testing.T) {
	w := newWorld(t)
	w.faults()
	ann := w.phone("Ann")
	acc := ann.account("x")
	m := ann.mutation(create("visit", satchel.NewID(), visitFields(acc, "fault 40P01 9")))
	out, err := w.engine.Apply(context.Background(), ann.who, syncengine.Batch{Mutations: []syncengine.Mutation{m}})
	if err != nil || len(out.Verdicts) != 0 || out.Undone != satchel.ReasonBusy {
		t.Fatalf("%+v %v", out, err)
	}
	if n := w.count(`SELECT count(*) FROM record WHERE org_id = $1 AND kind = 'visit'`, w.org); n != 0 {
		t.Errorf("%d visits", n)
	}
	if vs := ann.send(m); len(vs) != 1 || vs[0].Status != syncengine.Applied { // the last three faults are used up by the retries
		t.Errorf("%+v", vs)
	}
}

func TestF9AMistakeOfAFeatureBlocksNobody(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc := ann.account("x")
	boom := func(ctx context.Context, v *syncengine.View, c syncengine.Call) ([]syncengine.Op, error) {
		switch string(c.Args) {
		case `{"how":"panic"}`:
			panic("a condition that nobody foresaw")
		case `{"how":"error"}`:
			return nil, errors.New("no refusal")
		case `{"how":"nested"}`:
			return []syncengine.Op{{Action: syncengine.Command, Record: acc, Kind: "account", Name: "boom"}}, nil
		}
		return nil, &syncengine.Refusal{Status: syncengine.Rejected, Reason: satchel.ReasonForbidden, Routine: true}
	}
	w.engine.Command("boom", boom)
	w.engine.Observe(func(ctx context.Context, tx pgx.Tx, changes []syncengine.Change) error {
		for _, c := range changes {
			if c.After.Text("subject") == "breaks the observer" {
				return errors.New("an observer without manners")
			}
		}
		return nil
	})
	command := func(args string) syncengine.Op {
		return syncengine.Op{Action: syncengine.Command, Record: acc, Kind: "account", Name: "boom", Args: json.RawMessage(args)}
	}
	for _, bad := range []syncengine.Op{command(`{"how":"panic"}`), command(`{"how":"error"}`), command(`{"how":"nested"}`),
		create("visit", satchel.NewID(), visitFields(acc, "breaks the observer"))} {
		vs := ann.send(ann.mutation(patch("account", acc, 0, map[string]any{"remark": "before"})), ann.mutation(bad),
			ann.mutation(patch("account", acc, 0, map[string]any{"remark": "after"})))
		if len(vs) != 3 || vs[0].Status != syncengine.Applied || vs[1].Status != syncengine.Rejected ||
			vs[1].Reason != satchel.ReasonUnexpectedInternal || vs[1].Attention.IsZero() || vs[2].Status != syncengine.Applied {
			t.Errorf("%s %s: %+v", bad.Name, bad.Args, vs)
		}
	}
	// A routine refusal is only a verdict (F26).
	before := w.count(`SELECT count(*) FROM record WHERE org_id = $1 AND kind = 'attention'`, w.org)
	if v := ann.do(command(`{}`)); v.Reason != satchel.ReasonForbidden || !v.Attention.IsZero() {
		t.Errorf("%+v", v)
	}
	if n := w.count(`SELECT count(*) FROM record WHERE org_id = $1 AND kind = 'attention'`, w.org); n != before {
		t.Error("a routine refusal leaves an attention")
	}
}

func TestF9WhatCannotBeStoredIsRefusedAndItsBytesAreKept(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc, lost := ann.account("x"), satchel.NewID()
	ann.do(create("account", lost, map[string]any{})) // refused: what names it waits
	long := strings.Repeat("k", 500)
	for name, op := range map[string]syncengine.Op{
		"NUL in a kind":            {Action: syncengine.Create, Record: satchel.NewID(), Kind: "vis\x00it"},
		"a kind without end":       {Action: syncengine.Create, Record: satchel.NewID(), Kind: long},
		"no UTF-8 in a kind":       {Action: syncengine.Patch, Record: acc, Kind: "acc\xff"},
		"NUL in a command":         {Action: syncengine.Command, Record: acc, Kind: "account", Name: "a\x00", Args: json.RawMessage(`{"x":"\u0000"}`)},
		"NUL in an element":        {Action: syncengine.Patch, Record: acc, Kind: "account", Sets: []schema.SetEdit{{Field: "tags", Add: []string{"a\x00"}}}},
		"an element without end":   {Action: syncengine.Patch, Record: acc, Kind: "account", Sets: []schema.SetEdit{{Field: "tags", Add: []string{long}}}},
		"NUL in a set's name":      {Action: syncengine.Patch, Record: acc, Kind: "account", Sets: []schema.SetEdit{{Field: "ta\x00gs"}}},
		"NUL in a counter's name":  {Action: syncengine.Patch, Record: acc, Kind: "account", Increments: []schema.Increment{{Field: "\x00", By: 1}}},
		"no JSON":                  {Action: syncengine.Patch, Record: acc, Kind: "account", Fields: json.RawMessage(`{"name":`)},
		"NUL in a value":           {Action: syncengine.Patch, Record: acc, Kind: "account", Fields: json.RawMessage(`{"name":"\u0000"}`)},
		"a number without end":     {Action: syncengine.Patch, Record: acc, Kind: "account", Fields: json.RawMessage(`{"credit_limit":1e999999}`)},
		"no JSON where it waits":   {Action: syncengine.Patch, Record: lost, Kind: "account", Fields: json.RawMessage(`nonsense`)},
		"NUL where it waits":       {Action: syncengine.Patch, Record: lost, Kind: "account", Fields: json.RawMessage(`{"name":"\u0000"}`)},
		"a half surrogate waiting": {Action: syncengine.Patch, Record: lost, Kind: "account", Fields: json.RawMessage(`{"name":"\ud800"}`)},
		"no action":                {Record: acc, Kind: "account"},
		"an action of tomorrow":    {Action: 9, Record: acc, Kind: "account"},
		"no record":                {Action: syncengine.Create, Kind: "account", Fields: json.RawMessage(`{"name":"x"}`)},
	} {
		vs := ann.send(ann.mutation(op), ann.mutation(patch("account", acc, 0, map[string]any{"remark": name})))
		if len(vs) != 2 || vs[0].Status != syncengine.Rejected || vs[0].Attention.IsZero() || vs[1].Status != syncengine.Applied {
			t.Errorf("%s: %+v", name, vs)
			continue
		}
		if n := w.count(`SELECT count(*) FROM record WHERE org_id = $1 AND id = $2 AND kind = 'attention'`, w.org, vs[0].Attention); n != 1 {
			t.Errorf("%s: its attention is not there", name)
		}
	}
	ann.pull()
}

func TestS5WhatWaitedAndIsRefusedAtLastIsKept(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc, first, second := satchel.NewID(), satchel.NewID(), satchel.NewID()
	ann.do(create("account", acc, map[string]any{}))
	recorded := w.clock.Load()
	vs := ann.send(ann.mutation(create("visit", first, visitFields(acc, "waits a week"))),
		ann.mutation(create("task", second, map[string]any{"title": "never allowed"}), patch("account", acc, 0, map[string]any{"credit_limit": 5})))
	if vs[0].Reason != satchel.ReasonDependsOn || vs[1].Reason != satchel.ReasonDependsOn {
		t.Fatalf("%+v", vs)
	}
	ann.pull()
	if !keptIn(ann, vs[0].Attention, "subject", "waits a week") || !keptIn(ann, vs[1].Attention, "title", "never allowed") {
		t.Error("what waits is not shown under the attention of the refused creation")
	}
	w.pass(7 * 24 * time.Hour)
	ann.mustDo(create("account", acc, map[string]any{"name": "named at last"}))
	w.step()
	ann.pull()
	if n := w.count(`SELECT event_ms FROM record WHERE org_id = $1 AND id = $2`, w.org, first); int64(n) != recorded {
		t.Errorf("the visit's time is %d, it took place at %d", n, recorded)
	}
	if ann.has(second) || ann.kinds()["attention"] != 2 {
		t.Errorf("%v", w.show(ann))
	}
	found := false
	for id, h := range ann.records {
		found = found || h.kind == "attention" && h.fields["record"] == second.String() && keptIn(ann, id, "title", "never allowed")
	}
	if !found {
		t.Error("what was refused after it had waited is gone")
	}
	if n := w.count(`SELECT count(*) FROM kept WHERE waits_for IS NOT NULL AND state = 'open' AND org_id = $1`, w.org); n != 0 {
		t.Errorf("%d still wait", n)
	}
}

func TestF33PastTheDeadlineNothingHappenedAndThePageComes(t *testing.T) {
	w := newWorld(t)
	ann, mei := w.phone("Ann"), w.phone("Mei")
	acc := ann.account("x")
	mei.pull()
	engine, err := syncengine.New(syncengine.Config{Pool: w.pool, Jobs: w.jobs, Now: w.now, Deadline: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	tx, err := w.pool.Begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(context.Background(), `SELECT 1 FROM record WHERE org_id = $1 AND id = $2 FOR UPDATE`, w.org, acc); err != nil {
		t.Fatal(err)
	}
	m := mei.mutation(patch("account", acc, 1, map[string]any{"remark": "later"}))
	out, err := engine.Apply(context.Background(), mei.who, syncengine.Batch{Mutations: []syncengine.Mutation{m}})
	if err != nil || out.Undone != satchel.ReasonDeadline || len(out.Verdicts) != 0 {
		t.Fatalf("%+v %v", out, err)
	}
	if _, err := engine.Pull(context.Background(), mei.who, syncengine.PullRequest{Cursor: mei.cursor}); err != nil {
		t.Errorf("the page: %v", err)
	}
	if err := tx.Rollback(context.Background()); err != nil {
		t.Fatal(err)
	}
	if vs := mei.send(m); len(vs) != 1 || vs[0].Status != syncengine.Applied {
		t.Errorf("%+v", vs)
	}
}

func TestADeviceBelongsToOnePerson(t *testing.T) {
	w := newWorld(t)
	ann, ben := w.phone("Ann"), w.phone("Ben")
	ann.account("x")
	ben.who.Device = ann.who.Device
	_, err := w.engine.Apply(context.Background(), ben.who, syncengine.Batch{Mutations: []syncengine.Mutation{
		{Number: 2, ID: satchel.NewID(), Ops: []syncengine.Op{create("account", satchel.NewID(), map[string]any{"name": "by Ben"})}}}})
	if satchel.KindOf(err) != satchel.Denied {
		t.Fatalf("%v", err)
	}
	if n := w.count(`SELECT next FROM lane WHERE org_id = $1 AND device_id = $2`, w.org, ann.who.Device); n != 2 {
		t.Errorf("the queue is at %d", n)
	}
}

func TestS6RolesAreThoseOfTheCommitNotOfTheCaller(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc := ann.account("x")
	old := w.principal("Ann", ann.who.Device) // authenticated before the right was taken
	w.changeRights(`UPDATE person SET roles = ARRAY['viewer'] WHERE org_id = $1 AND id = $2`, w.org, w.people["Ann"])
	out, err := w.engine.Apply(context.Background(), old, syncengine.Batch{Mutations: []syncengine.Mutation{
		ann.mutation(patch("account", acc, 1, map[string]any{"remark": "too late"}))}})
	if err != nil || len(out.Verdicts) != 1 || out.Verdicts[0].Status != syncengine.Rejected {
		t.Errorf("%+v %v", out, err)
	}
	w.changeRights(`UPDATE person SET disabled_at = now() WHERE org_id = $1 AND id = $2`, w.org, w.people["Ann"])
	pg, err := w.engine.Pull(context.Background(), old, syncengine.PullRequest{})
	if err != nil || len(pg.Changes) != 0 {
		t.Errorf("a disabled person gets %d records, %v", len(pg.Changes), err)
	}
}

func TestF29ManyWritersInEveryOrderAllEnd(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	var accs []satchel.ID
	for i := range 6 {
		accs = append(accs, ann.account(fmt.Sprint(i)))
	}
	var wg sync.WaitGroup
	for i := range 6 {
		p := w.phone([]string{"Ann", "Mei", "Dina"}[i%3])
		p.engine = w.newEngine()
		wg.Go(func() {
			for j := range 12 {
				var ops []syncengine.Op
				for k := range 3 {
					op := syncengine.Op{Action: syncengine.Patch, Record: accs[(i*5+j*(k+1)+k)%len(accs)], Kind: "account", Increments: increment("visit_count", 1)}
					ops = append(ops, op)
				}
				ops = append(ops, create("visit", satchel.NewID(), visitFields(accs[(i+j)%len(accs)], "v")))
				m := p.mutation(ops...)
				for try := 0; ; try++ {
					if vs := p.send(m); len(vs) == 1 {
						if vs[0].Status != syncengine.Applied {
							t.Errorf("%+v", vs[0])
						}
						break
					}
					if try > 50 {
						t.Error("a writer does not get through")
						return
					}
				}
			}
		})
	}
	wg.Wait()
	if n := w.count(`SELECT sum((data ->> 'visit_count')::int) FROM record WHERE org_id = $1 AND kind = 'account'`, w.org); n != 6*12*3 {
		t.Errorf("%d increments of %d", n, 6*12*3)
	}
}

func TestS5AKeptMutationThatTakesTooLongHoldsUpOnlyItsOwnDevice(t *testing.T) {
	w := newWorld(t)
	engine, err := syncengine.New(syncengine.Config{Pool: w.pool, Jobs: w.jobs, Now: w.now, Deadline: 2 * time.Second}) // enough for what is not slow
	if err != nil {
		t.Fatal(err)
	}
	engine.Command("slow", func(ctx context.Context, _ *syncengine.View, _ syncengine.Call) ([]syncengine.Op, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	ann, ben := w.phone("Ann"), w.phone("Ben") // in the order in which the job tries
	hers, his := ann.account("hers"), ben.account("his")
	quick := func(id satchel.ID) syncengine.Op { return patch("account", id, 1, map[string]any{"nickname": "n"}) }
	for _, m := range []struct {
		p  *phone
		op syncengine.Op
	}{{ann, syncengine.Op{Action: syncengine.Command, Record: hers, Kind: "account", Name: "slow"}}, {ann, quick(hers)}, {ben, quick(his)}} {
		one := m.p.mutation(m.op)
		one.SchemaVersion = 2
		if v := m.p.send(one); v[0].Status != syncengine.Unsupported {
			t.Fatalf("%+v", v)
		}
	}
	name := "      - {name: phone, type: text, max_length: 40, label: {zh: 电话, en: Phone}}\n"
	if _, err := engine.PublishSchema(context.Background(), w.org, bytes.Replace(schema.DefaultPack(), []byte(name),
		[]byte(name+"      - {name: nickname, type: text, max_length: 40, label: {zh: 昵称, en: Nickname}}\n"), 1)); err != nil {
		t.Fatal(err)
	}
	if err := engine.Handlers()[syncengine.JobUpgraded](context.Background(), w.org, nil); err == nil {
		t.Error("the job is done although one is left: it would not be tried again")
	}
	if got := w.record(his).Data["nickname"]; got != "n" {
		t.Errorf("behind another's slow one nothing is tried: %v", got)
	}
	if got := w.record(hers).Data["nickname"]; got != nil {
		t.Errorf("what is behind it in its own queue has overtaken it: %v", got)
	}
}
