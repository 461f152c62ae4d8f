package syncengine_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/syncengine"
)

// newFleet is a fleet that does only what the test makes it do.
func newFleet(t *testing.T, names ...string) *fleet {
	t.Helper()
	f := &fleet{world: newWorld(t), rnd: rand.New(rand.NewPCG(1, 2))}
	for range 3 {
		f.engines = append(f.engines, f.newEngine())
	}
	for _, name := range names {
		f.phones = append(f.phones, f.phone(name))
	}
	return f
}

// until sends a mutation until it has its verdict.
func (p *phone) until(m syncengine.Mutation) syncengine.Verdict {
	for range 200 {
		if vs := p.send(m); len(vs) == 1 {
			return vs[0]
		}
	}
	p.w.t.Errorf("%s: no verdict after 200 tries", p.name)
	return syncengine.Verdict{}
}

func TestF6ATeamMoveThatRacesCreatesLeavesEverythingWhereItBelongs(t *testing.T) {
	f := newFleet(t, "Dina", "Mei", "Sam", "Cem")
	var wg sync.WaitGroup
	for i := range 3 {
		p := f.phone("Cem")
		p.engine = f.engines[i]
		wg.Go(func() {
			acc := satchel.NewID()
			p.until(p.mutation(create("account", acc, map[string]any{"name": "a"})))
			for j := range 25 {
				v := p.until(p.mutation(create("visit", satchel.NewID(), visitFields(acc, fmt.Sprint(j)))))
				if v.Status != syncengine.Applied {
					t.Errorf("%+v", v)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for i := 0; ; i++ {
		select {
		case <-done:
			f.check()
			return
		default:
		}
		f.changeRights(`UPDATE person SET team_id = $3 WHERE org_id = $1 AND id = $2`, f.org, f.people["Cem"], f.teams[[]string{"north", "south"}[i%2]])
		if i%3 == 0 {
			f.step()
		}
		f.phones[i%len(f.phones)].page()
	}
}

func TestF6AnOwnerChangeThatRacesChildrenTakesThemAllAlong(t *testing.T) {
	f := newFleet(t, "Dina", "Mei", "Ann", "Ben")
	dina := f.phones[0]
	acc := satchel.NewID()
	dina.mustDo(create("account", acc, map[string]any{"name": "wanders", "owner": f.people["Ann"].String()}))
	var wg sync.WaitGroup
	for i, name := range []string{"Mei", "Dina", "Mei"} {
		p := f.phone(name)
		p.engine = f.engines[i]
		wg.Go(func() {
			for j := range 25 {
				visit := satchel.NewID()
				ops := []syncengine.Op{create("visit", visit, visitFields(acc, fmt.Sprint(j)))}
				p.until(p.mutation(ops...))
				p.until(p.mutation(create("photo", satchel.NewID(), map[string]any{"visit": visit.String(), "blob": fmt.Sprintf("%064x", j)})))
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for i := 0; ; i++ {
		select {
		case <-done:
			f.check()
			return
		default:
		}
		v := dina.until(dina.mutation(patch("account", acc, uint64(i+1), map[string]any{"owner": f.people[[]string{"Ben", "Ann"}[i%2]].String()})))
		if v.Status == syncengine.Rejected {
			t.Errorf("%+v", v)
		}
		f.phones[i%len(f.phones)].page()
	}
}

func TestF22ABigMoveGoesInPiecesWhilePhonesPull(t *testing.T) {
	f := newFleet(t, "Dina", "Mei", "Ann", "Ben", "Cem")
	acc := satchel.NewID()
	records := []syncengine.ImportRecord{{ID: acc, Kind: "account", Fields: map[string]any{"name": "big", "owner": f.people["Ann"].String()}}}
	var visit satchel.ID
	for i := range 1500 {
		r := syncengine.ImportRecord{ID: satchel.NewID(), Kind: "visit", Author: f.people["Ann"], EventMS: f.clock.Load() - int64(i)*86_400_000/4,
			Fields: map[string]any{"account": acc.String(), "subject": fmt.Sprint(i)}}
		if i%10 == 9 {
			r.Kind, r.Fields = "photo", map[string]any{"visit": visit.String(), "blob": fmt.Sprintf("%064x", i)}
		} else {
			visit = r.ID
		}
		records = append(records, r)
	}
	for i := 0; i < len(records); i += 300 {
		if err := f.engine.Import(context.Background(), f.org, "test", fmt.Sprint(i), records[i:min(i+300, len(records))]); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range f.phones {
		p.pull()
	}
	dina := f.phones[0]
	dina.mustDo(patch("account", acc, 1, map[string]any{"owner": f.people["Cem"].String()}))
	moved := make(chan struct{})
	go func() {
		defer close(moved)
		if _, err := f.jobs.Step(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	for i, moving := 0, true; moving; i++ {
		select {
		case <-moved:
			moving = false
		default:
		}
		f.phones[i%len(f.phones)].page()
	}
	f.check()
	if n := f.count(`SELECT max(n) FROM (SELECT count(*) n FROM head WHERE org_id = $1 GROUP BY seq) s`, f.org); n > syncengine.MaxHeads {
		t.Errorf("one commit moved %d heads", n)
	}
	if !f.phones[4].has(visit) {
		t.Error("Cem has the account without its visits")
	}
}

func TestF22ABatchEndsWhereItsCommitIsFull(t *testing.T) {
	w := newWorld(t)
	mei := w.phone("Mei")
	var ms []syncengine.Mutation
	for range 8 {
		var ops []syncengine.Op
		acc := satchel.NewID()
		ops = append(ops, create("account", acc, map[string]any{"name": "a"}))
		for range 99 {
			ops = append(ops, create("contact", satchel.NewID(), map[string]any{"account": acc.String(), "name": "c"}))
		}
		ms = append(ms, mei.mutation(ops...))
	}
	out, err := w.engine.Apply(context.Background(), mei.who, syncengine.Batch{Mutations: ms})
	if err != nil || len(out.Verdicts) == 0 || len(out.Verdicts) == len(ms) || out.Undone != "" {
		t.Fatalf("%d verdicts, %+v %v", len(out.Verdicts), out.Undone, err)
	}
	for len(out.Verdicts) < len(ms) {
		ms = ms[len(out.Verdicts):]
		if out, err = w.engine.Apply(context.Background(), mei.who, syncengine.Batch{Mutations: ms}); err != nil || len(out.Verdicts) == 0 {
			t.Fatalf("%+v %v", out, err)
		}
	}
	if n := w.count(`SELECT max(n) FROM (SELECT count(*) n FROM head WHERE org_id = $1 GROUP BY seq) s`, w.org); n > syncengine.MaxHeads {
		t.Errorf("one commit moved %d heads", n)
	}
}

func TestF5GrantsThatComeAndGoBetweenPagesLeaveWhatANewPhoneHas(t *testing.T) {
	f := newFleet(t, "Mei")
	ann, sam, mei := f.phone("Ann"), f.phone("Sam"), f.phones[0]
	var tasks []satchel.ID
	for _, p := range []*phone{ann, sam} {
		acc := p.account("x")
		for i := range 20 {
			p.mustDo(create("visit", satchel.NewID(), visitFields(acc, fmt.Sprint(i))))
			id := satchel.NewID()
			p.mustDo(create("task", id, map[string]any{"title": "t"}))
			tasks = append(tasks, id)
		}
	}
	mei.bytes = 600 // a few rows a page
	change := func(roles, team string) {
		f.changeRights(`UPDATE person SET roles = ARRAY[$3], team_id = $4 WHERE org_id = $1 AND id = $2`, f.org, f.people["Mei"], roles, f.teams[team])
	}
	for i := range 10 {
		mei.page()
		change([]string{"rep", "manager", "director", "viewer", "assistant"}[i%5], []string{"north", "head", "south"}[i%3])
		mei.page()
		sam.do(patch("task", tasks[20+i], 0, map[string]any{"assignee": f.people[[]string{"Sam", "Cem"}[i%2]].String()}))
		ann.do(syncengine.Op{Action: syncengine.Delete, Record: tasks[i], Kind: "task"})
	}
	f.check()
}

func TestS13WhatWasYetToFillIsDroppedWithItsBucket(t *testing.T) {
	w := newWorld(t)
	ann, mei := w.phone("Ann"), w.phone("Mei")
	acc := ann.account("x")
	id := satchel.NewID()
	ann.mustDo(create("contact", id, map[string]any{"account": acc.String(), "name": "Li", "mobile": "13800138000", "wechat": "w"}))
	mei.pull()
	role := func(r string) {
		w.changeRights(`UPDATE person SET roles = ARRAY[$3] WHERE org_id = $1 AND id = $2`, w.org, w.people["Mei"], r)
	}
	role("assistant") // other masks: contacts are to be filled anew
	for range 40 {
		ann.mustDo(patch("account", acc, 0, map[string]any{"remark": satchel.NewID().String()}), create("account", satchel.NewID(), map[string]any{"name": "more"}))
	}
	mei.bytes = 1
	mei.page() // brings one changed account; of the contacts nothing yet
	if !mei.has(id) {
		t.Fatal("the contact is gone before its time")
	}
	role("rep")
	mei.page()
	if mei.has(id) || mei.has(acc) {
		t.Errorf("after the grant was taken, on the first page: %v", w.show(mei))
	}
}

func TestS13WhatLeftWhileItsKindIsFilledAnewIsTold(t *testing.T) {
	f := newFleet(t, "Mei")
	mei, dina, ann := f.phones[0], f.phone("Dina"), f.phone("Ann")
	acc := ann.account("x")
	id := satchel.NewID()
	ann.mustDo(create("task", id, map[string]any{"title": "t", "account": acc.String()}))
	mei.pull()
	// It leaves the north; then the schema is published anew with a task that Mei sees otherwise.
	dina.mustDo(patch("account", acc, 1, map[string]any{"owner": f.people["Cem"].String(), "credit_limit": 7}))
	dina.mustDo(patch("task", id, 1, map[string]any{"assignee": f.people["Cem"].String()}))
	f.changeRights(`UPDATE person SET roles = ARRAY['assistant'] WHERE org_id = $1 AND id = $2`, f.org, f.people["Mei"])
	f.changeRights(`UPDATE person SET roles = ARRAY['manager','assistant'] WHERE org_id = $1 AND id = $2`, f.org, f.people["Mei"])
	mei.pull()
	if mei.has(acc) || mei.has(id) {
		t.Errorf("%v", f.show(mei))
	}
	f.check()
}

func TestF21AReplicaPausedInsideATransactionHoldsNobodyForLong(t *testing.T) {
	w := newWorld(t)
	ann, ben := w.phone("Ann"), w.phone("Ben")
	acc := ann.account("x")
	// Everything before the number waits for at most the lock time-out; this one sleeps with rows, not with the clock.
	ctx := context.Background()
	conn, err := w.pool.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	tx, err := conn.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, `SELECT 1 FROM record WHERE org_id = $1 AND id = $2 FOR UPDATE`, w.org, acc); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, `SET LOCAL idle_in_transaction_session_timeout = '500ms'`); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	ben.mustDo(create("account", satchel.NewID(), map[string]any{"name": "not in the way"})) // others go on meanwhile
	if v := ann.until(ann.mutation(patch("account", acc, 1, map[string]any{"remark": "after"}))); v.Status != syncengine.Applied {
		t.Errorf("%+v", v)
	}
	if d := time.Since(start); d > 15*time.Second {
		t.Errorf("it took %s", d)
	}
	if err := tx.Commit(ctx); err == nil {
		t.Error("the paused one commits as if nothing had happened")
	}
}

func TestS6ARevocationHoldsForTheNextCommit(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	ann.account("before")
	w.exec(`INSERT INTO device (org_id, id, person_id, installation, name, platform, app_version, created_at, last_sign_in)
		VALUES ($1, $2, $3, '', '', '', '', now(), now())`, w.org, ann.who.Device, w.people["Ann"])
	// The revocation holds the lane while the batch, which has passed authentication, waits for it.
	ctx := t.Context()
	tx, err := w.pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(ctx)
	if err := w.engine.DeviceGone(ctx, tx, w.org, ann.who.Device); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, `UPDATE device SET revoked_at = now() WHERE org_id = $1 AND id = $2`, w.org, ann.who.Device); err != nil {
		t.Fatal(err)
	}
	late := satchel.NewID()
	m := ann.mutation(create("account", late, map[string]any{"name": "too late"}))
	answered := make(chan error, 1)
	go func() {
		_, err := w.engine.Apply(ctx, ann.who, syncengine.Batch{Mutations: []syncengine.Mutation{m}})
		answered <- err
	}()
	for w.count(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) == 0 {
		select {
		case err := <-answered:
			t.Fatalf("the batch did not wait: %v", err)
		default:
		}
	}
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; satchel.ReasonOf(err) != satchel.ReasonDeviceRevoked {
		t.Errorf("the batch got %v", err)
	}
	if n := w.count(`SELECT count(*) FROM record WHERE org_id = $1 AND id = $2`, w.org, late); n != 0 {
		t.Error("it took effect")
	}
}

// The rights change after they were asked and before the commit: an observer stands in for whoever is slow there.
func TestS6RightsThatAreTakenAwayBeforeTheCommitHold(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc := ann.account("A")
	taken := false
	w.engine.Observe(func(context.Context, pgx.Tx, []syncengine.Change) error {
		if !taken {
			taken = true
			w.changeRights(`UPDATE person SET roles = '{viewer}' WHERE org_id = $1 AND id = $2`, w.org, w.people["Ann"])
		}
		return nil
	})
	if v := ann.do(patch("account", acc, 1, map[string]any{"phone": "1"})); v.Reason != satchel.ReasonForbidden || w.record(acc).Text("phone") != "" || !taken {
		t.Errorf("%+v; the phone is %q", v, w.record(acc).Text("phone"))
	}
}
