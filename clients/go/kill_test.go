package satchelclient_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/clients/go/sqlitestore"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

// A day is what a rep does, written so that it can be begun again after a kill: each step looks first whether it was
// done. Its last state is checked on the device and on the server.
type day struct {
	f    *fake
	path string
	kill int // the step at which the process dies; 0 = none
	at   int
	name string
}

type killed struct{}

func (d *day) step(name string) {
	d.at++
	if d.at == d.kill {
		d.name = name
		panic(killed{})
	}
}

// live runs the day on the store's file until it is over or the process is killed.
func (d *day) live(t *testing.T) (over bool) {
	store, err := sqlitestore.Open(context.Background(), d.path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
		if r := recover(); r != nil && r != (killed{}) {
			panic(r)
		}
	}()
	cfg := config(d.f, store)
	cfg.Step = d.step
	c, err := satchelclient.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		if err != nil {
			t.Fatalf("killed at %d (%s): %v", d.kill, d.name, err)
		}
	}
	if !c.Identity().SignedIn {
		must(c.SignIn(t.Context(), satchelclient.Credentials{Login: "lina", Password: "right"}))
	}
	only := func(kind string) (satchelclient.Record, bool) {
		list, err := c.List(t.Context(), kind)
		must(err)
		if len(list) > 1 {
			t.Fatalf("killed at %d (%s): %d of kind %s are shown", d.kill, d.name, len(list), kind)
		}
		if len(list) == 0 {
			return satchelclient.Record{}, false
		}
		return list[0], true
	}
	sync := func() { _, err := c.Sync(t.Context()); must(err) }

	if _, ok := only("visit"); !ok {
		_, err := c.Create(t.Context(), "visit", satchelclient.Fields{"n": 0})
		must(err)
	}
	sync()
	visit, ok := only("visit")
	if !ok {
		t.Fatalf("killed at %d (%s): the visit vanished", d.kill, d.name)
	}
	var fields struct {
		N    int    `json:"n"`
		Note string `json:"note"`
	}
	must(visit.Decode(&fields))
	for ; fields.N < 2; fields.N++ {
		must(c.Patch(t.Context(), "visit", visit.ID, nil, satchelclient.Increment("n", 1)))
	}
	if _, ok := only("task"); ok != (fields.Note == "batch") {
		t.Fatalf("killed at %d (%s): half of a mutation is shown", d.kill, d.name)
	} else if !ok {
		b := new(satchelclient.Batch)
		b.Create("task", satchelclient.Fields{"of": visit.ID})
		b.Patch("visit", visit.ID, satchelclient.Fields{"note": "batch"})
		_, err := c.Record(t.Context(), b)
		must(err)
	}
	if _, ok := only("photo"); !ok {
		_, err := c.AttachBytes(t.Context(), "photo", someBytes(300_000), "image/jpeg", satchelclient.Fields{"visit": visit.ID})
		must(err)
	}
	sync()
	_, err = c.Upload(t.Context())
	must(err)
	sync()
	must(c.Refresh(t.Context()))

	// What must hold at its end.
	wantShown(t, c, "visit", visit.ID, `{"n":2,"note":"batch"}`)
	wantPending(t, c, 0)
	wantEmpty(t, store, satchelclient.TableOutbox, satchelclient.TableOverlay, satchelclient.TableSettled, satchelclient.TableStaging,
		satchelclient.TableMedia, satchelclient.TableBytes)
	if log, err := c.Settled(t.Context(), 0, 100); err != nil || len(log) != 5 {
		t.Errorf("killed at %d (%s): the log has %d lines, %v", d.kill, d.name, len(log), err)
	}
	return true
}

func TestAKillAtAnyStepLosesNothingAndDoublesNothing(t *testing.T) {
	t.Parallel()
	live := func(kill int) *day {
		f := newFake(t)
		f.pageRows = 2
		d := &day{f: f, path: filepath.Join(t.TempDir(), "store.db"), kill: kill}
		others := []satchel.ID{satchel.NewID(), satchel.NewID(), satchel.NewID()}
		for i, id := range others {
			f.put("account", id, map[string]any{"n": i})
		}
		if over := d.live(t); over != (kill == 0) {
			t.Fatalf("killed at %d, and the day was over: %v", kill, over)
		}
		if kill > 0 {
			d.kill = 0
			if !d.live(t) {
				t.Fatalf("the day did not end after a kill at %s", d.name)
			}
		}
		if len(f.applied) != 5 || len(f.rows) != 6 || len(f.lanes) != 1 {
			t.Errorf("killed at %d (%s): the server has %d mutations, %d records, %d devices", kill, d.name, len(f.applied), len(f.rows), len(f.lanes))
		}
		return d
	}
	steps := live(0).at
	if steps < 50 {
		t.Fatalf("the day has only %d steps", steps)
	}
	for kill := 1; kill <= steps; kill++ {
		live(kill)
	}
}

func TestTwentyThousandRecordsAreFilledAndListedQuickly(t *testing.T) {
	t.Parallel()
	const rows, perPage = 20_000, 1000
	store, err := sqlitestore.Open(t.Context(), filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	f := newFake(t)
	sent := 0
	f.script = func(*satchelv1.SyncRequest) (*satchelv1.SyncResponse, error) {
		p := page(fmt.Sprint(sent), sent+perPage == rows, 1)
		for range perPage {
			fields := fmt.Sprintf(`{"name":"Account %d","city":"上海","phone":"13800000000","note":"a line of text of the usual length, so that a row has a usual size"}`, sent)
			p.Changes = append(p.Changes, change(satchel.NewID(), 1, fields, 1, 2))
			sent++
		}
		return answer(p), nil
	}
	c := signedIn(t, config(f, store))
	began := time.Now()
	if r, err := c.Sync(t.Context()); err != nil || r.Changes != rows {
		t.Fatalf("%d changes, %v", r.Changes, err)
	}
	filled := time.Now()
	list, err := c.List(t.Context(), "account")
	if err != nil || len(list) != rows {
		t.Fatalf("%d are listed, %v", len(list), err)
	}
	listed := time.Now()
	if _, err := c.Get(t.Context(), "account", list[rows/2].ID); err != nil {
		t.Error(err)
	}
	t.Logf("filled in %v, listed in %v, one read in %v", filled.Sub(began), listed.Sub(filled), time.Since(listed))
	if d := filled.Sub(began); d > 30*time.Second { // some 2 seconds on a free machine; this only catches what is quadratic
		t.Errorf("the first sync took %v", d)
	}
	if err := errors.Join(c.Patch(t.Context(), "account", list[0].ID, satchelclient.Fields{"x": 1})); err != nil {
		t.Error(err)
	}
}
