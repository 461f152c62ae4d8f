package syncengine_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/syncengine"
)

func (w *world) salvaged() []syncengine.Salvaged {
	w.t.Helper()
	var all []syncengine.Salvaged
	for after := ""; ; {
		list, next, err := w.engine.Salvaged(context.Background(), w.org, 2, after)
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, list...)
		if after = next; next == "" {
			return all
		}
	}
}

func TestS18RowsThatOnlyDevicesHoldAreSalvagedAndBroughtBack(t *testing.T) {
	w := newWorld(t)
	ann, mei := w.phone("Ann"), w.phone("Mei")
	ctx := context.Background()
	acc := ann.account("stands")
	ann.pull()
	lost, older, system := satchel.NewID(), satchel.NewID(), satchel.NewID()
	ann.mustDo(create("account", older, map[string]any{"name": "of the backup"}))
	if err := w.engine.OpenEpoch(ctx); err != nil { // as a restore does
		t.Fatal(err)
	}
	event := w.clock.Load() - 5000
	row := func(id satchel.ID, rev uint64, author satchel.ID, fields map[string]any) syncengine.SalvagedRow {
		return syncengine.SalvagedRow{Record: id, Kind: "account", Rev: rev, Author: author, EventMS: event, Fields: raw(fields)}
	}
	owner := w.people["Ann"].String()
	rows := []syncengine.SalvagedRow{
		row(lost, 2, w.people["Ann"], map[string]any{"name": "first", "owner": owner}),
		row(lost, 3, w.people["Ann"], map[string]any{"name": "made after the backup", "owner": owner, "credit_limit": 7}),
		row(older, 2, w.people["Ann"], map[string]any{"name": "changed after the backup"}),
		row(system, 1, satchel.NewID(), map[string]any{"name": "by nobody known", "owner": owner}),
		row(acc, 1, w.people["Ann"], map[string]any{"name": "stands"}),
		row(satchel.NewID(), 1, satchel.ID{}, nil),
	}
	rows[5].Kind = "no such kind"
	for range 2 {
		if err := w.engine.Salvage(ctx, ann.who, rows); err != nil {
			t.Fatal(err)
		}
	}
	// What another device holds replaces it only if it is newer.
	if err := w.engine.Salvage(ctx, mei.who, []syncengine.SalvagedRow{row(lost, 2, satchel.ID{}, map[string]any{"name": "old"}),
		row(older, 3, w.people["Ann"], map[string]any{"name": "newest"})}); err != nil {
		t.Fatal(err)
	}
	got := map[satchel.ID]syncengine.Salvaged{}
	for _, s := range w.salvaged() {
		got[s.Record] = s
	}
	if len(got) != 3 || got[lost].Rev != 3 || got[lost].StandingRev != 0 || got[lost].Person != w.people["Ann"] || got[lost].Device != ann.who.Device ||
		got[older].StandingRev != 1 || got[older].Rev != 3 || got[older].Person != w.people["Mei"] {
		t.Fatalf("%+v", got)
	}
	dina := w.principal("Dina", satchel.ID{})
	for _, id := range []satchel.ID{lost, older, system} {
		if v, err := w.engine.ResolveSalvage(ctx, dina, id, true); err != nil || v.Status != syncengine.Applied || v.Seq == 0 {
			t.Errorf("%+v %v", v, err)
		}
		if _, err := w.engine.ResolveSalvage(ctx, dina, id, true); satchel.KindOf(err) != satchel.NotFound {
			t.Errorf("twice: %v", err)
		}
	}
	ann.pull()
	if ann.field(lost, "name") != "made after the backup" || ann.field(older, "name") != "newest" || !ann.has(system) {
		t.Errorf("%v %v %v", ann.field(lost, "name"), ann.field(older, "name"), ann.has(system))
	}
	for id, author := range map[satchel.ID]any{lost: w.people["Ann"], system: nil} {
		if n := w.count(`SELECT count(*) FROM record WHERE org_id = $1 AND id = $2 AND author IS NOT DISTINCT FROM $3 AND event_ms = $4`, w.org, id, author, event); n != 1 {
			t.Errorf("%s is not as it was", id)
		}
	}
	if n := len(w.salvaged()); n != 0 {
		t.Errorf("%d rows are left", n)
	}
}

func TestS18ASalvageIsBoundedAndKeepsNoMaskedValue(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	ann := w.phone("Ann")
	w.changeRights(`UPDATE person SET roles = ARRAY['assistant'] WHERE org_id = $1 AND id = $2`, w.org, w.people["Ben"])
	ben := w.principal("Ben", satchel.NewID())
	if err := w.engine.OpenEpoch(ctx); err != nil {
		t.Fatal(err)
	}
	contact := satchel.NewID()
	if err := w.engine.Salvage(ctx, ben, []syncengine.SalvagedRow{{Record: contact, Kind: "contact", Rev: 4,
		Fields: raw(map[string]any{"name": "Li", "mobile": "138****0000", "wechat": "w"})}}); err != nil {
		t.Fatal(err)
	}
	if got := w.salvaged(); len(got) != 1 || string(got[0].Fields) != `{"name": "Li"}` {
		t.Fatalf("%+v", got)
	}
	// It breaks a rule of its kind: nothing happens, and it stays to be discarded.
	bad := satchel.NewID()
	if err := w.engine.Salvage(ctx, ben, []syncengine.SalvagedRow{{Record: bad, Kind: "account", Rev: 4, Fields: raw(map[string]any{"remark": "no name"})}}); err != nil {
		t.Fatal(err)
	}
	if v, err := w.engine.ResolveSalvage(ctx, ben, bad, true); err != nil || v.Status != syncengine.Rejected {
		t.Errorf("%+v %v", v, err)
	}
	if n := len(w.salvaged()); n != 2 {
		t.Errorf("%d rows", n)
	}
	for _, id := range []satchel.ID{bad, contact} {
		if _, err := w.engine.ResolveSalvage(ctx, ben, id, false); err != nil {
			t.Error(err)
		}
	}
	if _, err := w.engine.ResolveSalvage(ctx, ben, bad, false); satchel.KindOf(err) != satchel.NotFound {
		t.Errorf("%v", err)
	}
	if err := w.engine.Salvage(ctx, ann.who, make([]syncengine.SalvagedRow, syncengine.MaxSalvage+1)); satchel.ReasonOf(err) != satchel.ReasonTooLarge {
		t.Errorf("%v", err)
	}
	many := func() (rows []syncengine.SalvagedRow) {
		for i := range syncengine.MaxSalvage {
			rows = append(rows, syncengine.SalvagedRow{Record: satchel.NewID(), Kind: "account", Rev: 1, Fields: raw(map[string]any{"name": fmt.Sprint(i)})})
		}
		return rows
	}
	for range syncengine.MaxSalvageDay / syncengine.MaxSalvage {
		if err := w.engine.Salvage(ctx, ann.who, many()); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.engine.Salvage(ctx, ann.who, many()); satchel.ReasonOf(err) != satchel.ReasonRateLimited {
		t.Errorf("%v", err)
	}
	w.pass(25 * time.Hour)
	if err := w.engine.Salvage(ctx, ann.who, many()); err != nil {
		t.Errorf("the day after: %v", err)
	}
}

func TestS18NobodySalvagesWhatNoRestoreCanHaveLost(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	ann := w.phone("Ann")
	acc := ann.account("as it is")
	row := func(rev uint64) syncengine.SalvagedRow {
		return syncengine.SalvagedRow{Record: acc, Kind: "account", Rev: rev, EventMS: 1 << 62, Fields: raw(map[string]any{"name": "forged", "credit_limit": 1_000_000})}
	}
	// Of a database that was never restored, and of the running epoch of one that was: forged.
	for range 2 {
		rev := uint64(w.count(`SELECT seq FROM org_clock WHERE org_id = $1`, w.org))>>40<<40 + 7
		if err := w.engine.Salvage(ctx, ann.who, []syncengine.SalvagedRow{row(rev), row(rev + 1<<61)}); err != nil {
			t.Fatal(err)
		}
		if got := w.salvaged(); len(got) != 0 {
			t.Fatalf("rev %d is kept: %+v", rev, got)
		}
		if err := w.engine.OpenEpoch(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.engine.Salvage(ctx, ann.who, []syncengine.SalvagedRow{row(2)}); err != nil {
		t.Fatal(err)
	}
	if got := w.salvaged(); len(got) != 1 || got[0].EventMS > w.clock.Load() {
		t.Errorf("what a restore may have lost: %+v", got)
	}
}

func TestS18NobodyRestoresAValueThatHeMayNotRead(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	ann := w.phone("Ann")
	w.changeRights(`UPDATE person SET roles = ARRAY['assistant'] WHERE org_id = $1 AND id = $2`, w.org, w.people["Ben"])
	parent, contact := ann.account("Orient"), satchel.NewID()
	if err := w.engine.OpenEpoch(ctx); err != nil {
		t.Fatal(err)
	}
	if err := w.engine.Salvage(ctx, ann.who, []syncengine.SalvagedRow{{Record: contact, Kind: "contact", Rev: 3, Author: w.people["Ann"],
		Fields: raw(map[string]any{"name": "Li", "account": parent.String(), "wechat": "wx_li"})}}); err != nil {
		t.Fatal(err)
	}
	ben, dina := w.principal("Ben", satchel.ID{}), w.principal("Dina", satchel.ID{})
	if v, err := w.engine.ResolveSalvage(ctx, ben, contact, true); err != nil || v.Status != syncengine.Rejected || v.Reason != satchel.ReasonFieldForbidden {
		t.Errorf("an assistant, who reads no wechat: %+v %v", v, err)
	}
	if len(w.salvaged()) != 1 || w.count(`SELECT count(*) FROM record WHERE org_id = $1 AND id = $2`, w.org, contact) != 0 {
		t.Error("the row did not stay")
	}
	if v, err := w.engine.ResolveSalvage(ctx, dina, contact, true); err != nil || v.Status != syncengine.Applied {
		t.Errorf("%+v %v", v, err)
	}
	if n := w.count(`SELECT count(*) FROM history WHERE org_id = $1 AND record_id = $2 AND actor = $3`, w.org, contact, dina.Person); n != 1 {
		t.Error("history does not name who brought it back")
	}
}
