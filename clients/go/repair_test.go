package satchelclient_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/clients/go/memstore"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

// filled gives a device in step with a server that has n accounts and states digests.
func filled(t *testing.T, n int) (*fake, *memstore.Store, *satchelclient.Client, []satchel.ID) {
	t.Helper()
	f := newFake(t)
	f.digests = true
	ids := make([]satchel.ID, n)
	for i := range ids {
		ids[i] = satchel.NewID()
		f.put("account", ids[i], map[string]any{"n": i})
	}
	store := memstore.New()
	c := signedIn(t, config(f, store))
	if r := mustSync(t, c); r.Repaired != 0 || !r.Checkpoint {
		t.Fatalf("the first sync: %+v", r)
	}
	return f, store, c, ids
}

// reopened is the app started again, so that it counts what it holds.
func reopened(t *testing.T, f *fake, store *memstore.Store, c *satchelclient.Client) *satchelclient.Client {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := satchelclient.New(config(f, store))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// damage does what a damaged disk may do.
func damage(t *testing.T, store satchelclient.Store, fn func(satchelclient.Tx) error) {
	t.Helper()
	if err := store.Update(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

func accountKey(id satchel.ID) []byte { return append([]byte("account\x00"), id[:]...) }

// wantSame compares what the device shows with what the server has.
func wantSame(t *testing.T, f *fake, c *satchelclient.Client, kinds ...string) {
	t.Helper()
	for _, kind := range kinds {
		list, err := c.List(t.Context(), kind)
		if err != nil {
			t.Fatal(err)
		}
		there := 0
		f.mu.Lock()
		for _, r := range f.rows {
			if r.change.Kind == kind && len(r.change.Entered) > 0 {
				there++
			}
		}
		for _, r := range list {
			row := f.rows[r.ID.String()]
			if row == nil || row.change.Fields != string(r.Fields) || row.change.Rev != r.Rev {
				t.Errorf("%s %v: shown %s at %d, the server has %v", kind, r.ID, r.Fields, r.Rev, row)
			}
		}
		f.mu.Unlock()
		if len(list) != there {
			t.Errorf("%d of kind %s are shown, the server has %d", len(list), kind, there)
		}
	}
}

func TestAStoreThatLostRowsIsRepairedAndOnlyWhatDiffersTravels(t *testing.T) {
	t.Parallel()
	f, store, c, ids := filled(t, 20)
	damage(t, store, func(tx satchelclient.Tx) error {
		if err := tx.Delete(satchelclient.TableRecord, accountKey(ids[3])); err != nil {
			return err
		}
		stale := &satchelv1.Change{RecordId: ids[7].String(), Kind: "account", Rev: 0, Entered: []uint64{1}, Fields: `{"n":"of yesterday"}`}
		text, err := proto.Marshal(stale)
		if err != nil {
			return err
		}
		return tx.Put(satchelclient.TableRecord, accountKey(ids[7]), text)
	})
	lost := ids[12]
	f.bend(func(f *fake) { delete(f.rows, lost.String()) }) // the device has what the server has not
	pending := mustCreate(t, c, "account", satchelclient.Fields{"mine": 1})
	c = reopened(t, f, store, c)
	f.put("account", ids[5], map[string]any{"n": "new"}) // any change gives a checkpoint
	r := mustSync(t, c)
	if r.Repaired != 1 || len(r.Settled) != 1 {
		t.Errorf("the result is %+v", r)
	}
	wantSame(t, f, c, "account")
	wantShown(t, c, "account", lost, "none")
	wantShown(t, c, "account", pending, `{"mine":1}`)
	got := f.travelled()
	if len(got) > 3 || !slices.Contains(got, ids[3]) || !slices.Contains(got, ids[7]) { // perhaps that which was pending
		t.Errorf("%d rows travelled: %v", len(got), got)
	}
	if r := mustSync(t, c); r.Repaired != 0 {
		t.Errorf("then: %+v", r)
	}
}

func TestTheDigestIsTheDevicesOwnThroughAllThatChangesRows(t *testing.T) {
	t.Parallel()
	f, store, c, ids := filled(t, 10)
	for i := range 12 {
		f.bend(func(f *fake) { f.pageRows = 1 + i%3 })
		f.put("account", ids[i%10], map[string]any{"i": i})
		if i%4 == 0 {
			f.bend(func(f *fake) { f.rows[ids[i%10].String()].change.Entered = []uint64{1, 2} })
		}
		id := mustCreate(t, c, "visit", satchelclient.Fields{"i": i})
		mustSync(t, c)
		if i%3 == 0 {
			if err := c.Delete(t.Context(), "visit", id); err != nil {
				t.Fatal(err)
			}
		}
		if i == 6 {
			c = reopened(t, f, store, c)
		}
		if r := mustSync(t, c); r.Repaired != 0 {
			t.Fatalf("round %d: %+v", i, r)
		}
	}
	f.bend(func(f *fake) {
		once := true
		f.script = func(*satchelv1.SyncRequest) (*satchelv1.SyncResponse, error) {
			if once {
				once = false
				return nil, fail(connect.CodeInvalidArgument, satchelv1.Reason_REASON_MALFORMED_CURSOR, 0)
			}
			return nil, nil
		}
	})
	if r := mustSync(t, c); r.Repaired != 0 || !r.Checkpoint {
		t.Errorf("filled anew: %+v", r)
	}
	f.mu.Lock()
	n := len(f.repairs)
	f.mu.Unlock()
	if n != 0 {
		t.Errorf("%d calls of Repair", n)
	}
	wantSame(t, f, c, "account", "visit")
}

func TestADigestThatIsNeverRightEndsInOneRepairAndOneFillAndNoLoop(t *testing.T) {
	t.Parallel()
	f, _, c, ids := filled(t, 3)
	f.bend(func(f *fake) {
		f.answer = func(_ *satchelv1.SyncRequest, res *satchelv1.SyncResponse) error {
			if res.Page.GetDigest() != nil {
				res.Page.Digest.Sum++
			}
			return nil
		}
	})
	f.put("account", ids[0], map[string]any{"n": 9})
	r := mustSync(t, c)
	if r.Repaired != 1 {
		t.Errorf("the result is %+v", r)
	}
	before := len(f.requests) + len(f.repairs)
	for i := range 3 {
		f.put("account", ids[1], map[string]any{"n": 10 + i})
		if r := mustSync(t, c); r.Repaired != 0 || r.Calls != 1 {
			t.Errorf("then: %+v", r)
		}
	}
	if n := len(f.requests) + len(f.repairs); n != before+3 {
		t.Errorf("%d more calls", n-before)
	}
	wantSame(t, f, c, "account")
	f.bend(func(f *fake) { f.answer = nil }) // right again, and then wrong again: that is another doubt
	f.put("account", ids[1], map[string]any{"n": "right"})
	mustSync(t, c)
	f.bend(func(f *fake) { delete(f.rows, ids[2].String()) })
	f.put("account", ids[1], map[string]any{"n": "wrong"})
	if r := mustSync(t, c); r.Repaired != 1 {
		t.Errorf("after a right one: %+v", r)
	}
	wantSame(t, f, c, "account")
}

// order makes the server ask for a repair with its next answer.
func order(f *fake, salvage bool) {
	f.bend(func(f *fake) {
		f.script = func(req *satchelv1.SyncRequest) (*satchelv1.SyncResponse, error) {
			f.script = nil
			return &satchelv1.SyncResponse{ServerTimeMs: serverTime, Directives: []*satchelv1.Directive{
				{Order: &satchelv1.Directive_Repair{Repair: &satchelv1.RepairOrder{Salvage: salvage}}}}}, nil
		}
	})
}

func TestARepairTakesAwayAtOnceWhatIsNoLongerThePersonsAndAsksForStaleKinds(t *testing.T) {
	t.Parallel()
	f, _, c, ids := filled(t, 6)
	secret := satchel.NewID()
	f.put("plan", secret, map[string]any{"a": 1})
	mustSync(t, c)
	f.bend(func(f *fake) {
		for _, r := range f.rows {
			if r.change.Kind == "account" {
				r.fields["m"] = r.fields["n"]
				delete(r.fields, "n")
				r.change.Rev-- // the rev stays
				f.touch(r)
			}
		}
		delete(f.rows, secret.String())
		f.plan = func(p *satchelv1.RepairPlan) {
			p.StaleKinds = []string{"account"}
			p.Narrowed = []*satchelv1.Narrowed{{Kind: "account", Fields: []string{"n"}}}
			p.Forms = &satchelv1.Forms{Forms: []*satchelv1.Form{{Kind: "account", Form: 7}}}
		}
	})
	order(f, false)
	once(t, c) // the order
	once(t, c) // the plan
	wantShown(t, c, "plan", secret, "none")
	wantShown(t, c, "account", ids[0], `{}`)
	if s, err := c.Status(t.Context()); err != nil || !s.Repairing {
		t.Errorf("%+v, %v", s, err)
	}
	once(t, c) // rows: staged
	wantShown(t, c, "account", ids[0], `{}`)
	mustSync(t, c)
	wantShown(t, c, "account", ids[0], `{"m":0}`)
	wantSame(t, f, c, "account")
	if got := f.travelled(); len(got) != 6 {
		t.Errorf("%d rows travelled", len(got))
	}
	order(f, false)
	mustSync(t, c)
	f.mu.Lock()
	defer f.mu.Unlock()
	if forms := f.repairs[0].GetStart().GetForms().GetForms(); len(forms) != 1 || forms[0].Form != 7 {
		t.Errorf("the next repair starts with the forms %v", forms)
	}
}

func TestSalvageIsSentBeforeAnythingIsRemoved(t *testing.T) {
	t.Parallel()
	f, store, c, ids := filled(t, 6)
	gone, older, dropped := ids[1], ids[2], satchel.NewID()
	f.put("account", older, map[string]any{"n": "newer"})
	f.put("plan", dropped, map[string]any{"p": 1})
	mustSync(t, c)
	f.bend(func(f *fake) {
		delete(f.rows, gone.String())
		delete(f.rows, dropped.String())
		f.rows[older.String()].change.Rev = 1
		f.rows[older.String()].change.Fields = `{"n":2}`
		f.onRepair = func(req *satchelv1.RepairRequest) error {
			if req.GetSalvage() != nil {
				if _, err := c.Get(t.Context(), "account", gone); err != nil {
					t.Error("the row was removed before its salvage")
				}
				f.onRepair = nil
				return connect.NewError(connect.CodeUnavailable, fmt.Errorf("the signal went"))
			}
			return nil
		}
	})
	order(f, true)
	if _, err := c.Sync(t.Context()); err == nil {
		t.Fatal("the signal did not go")
	}
	c = reopened(t, f, store, c)
	mustSync(t, c)
	wantSame(t, f, c, "account", "plan")
	if len(f.salvaged) != 3 || f.salvaged[gone.String()].Fields != `{"n":1}` || f.salvaged[older.String()].Rev != 2 ||
		f.salvaged[dropped.String()].Kind != "plan" {
		t.Errorf("salvaged %v", f.salvaged)
	}
}

func TestARowThatTheServerDoesNotTakeAsSalvageStaysOnTheDevice(t *testing.T) {
	t.Parallel()
	f, _, c, ids := filled(t, 4)
	f.bend(func(f *fake) {
		delete(f.rows, ids[0].String())
		delete(f.rows, ids[1].String())
		f.onRepair = func(req *satchelv1.RepairRequest) error {
			for _, ch := range req.GetSalvage().GetRows() {
				if ch.RecordId == ids[0].String() {
					return fail(connect.CodeInvalidArgument, satchelv1.Reason_REASON_INVALID, 0)
				}
			}
			return nil
		}
	})
	order(f, true)
	for range 5 {
		if _, err := c.Sync(t.Context()); err == nil {
			break
		}
	}
	wantSame(t, f, c, "account")
	kept, err := c.KeptBytes(t.Context())
	if err != nil || len(kept) != 1 || kept[0].Record != ids[0] || !strings.Contains(string(kept[0].Bytes), `{"n":0}`) || len(f.salvaged) != 1 {
		t.Errorf("kept %v, salvaged %v, %v", kept, f.salvaged, err)
	}
}

func TestARepairThatFailsDoesNotHoldUpTheOutboxNorTheOutboxTheRepair(t *testing.T) {
	t.Parallel()
	f, _, c, ids := filled(t, 4)
	f.bend(func(f *fake) {
		delete(f.rows, ids[0].String())
		f.onRepair = func(*satchelv1.RepairRequest) error {
			return connect.NewError(connect.CodeUnavailable, fmt.Errorf("not now"))
		}
	})
	order(f, false)
	once(t, c)
	mustCreate(t, c, "visit", nil)
	for range 2 {
		_, _ = c.Sync(t.Context()) // fails in the repair, which may come first
	}
	wantPending(t, c, 0)
	mustCreate(t, c, "visit", nil)
	f.bend(func(f *fake) {
		f.onRepair = nil
		f.script = func(req *satchelv1.SyncRequest) (*satchelv1.SyncResponse, error) {
			if len(req.Mutations) > 0 {
				return nil, connect.NewError(connect.CodeUnavailable, fmt.Errorf("not now"))
			}
			return nil, nil
		}
	})
	for range 6 {
		_, _ = c.Sync(t.Context()) // fails in what goes up
	}
	if s, err := c.Status(t.Context()); err != nil || s.Repairing {
		t.Errorf("%+v, %v", s, err)
	}
	f.bend(func(f *fake) { f.script = nil })
	mustSync(t, c)
	wantPending(t, c, 0)
	wantSame(t, f, c, "account", "visit")
}

func TestAServerThatCannotRepairIsPulledFromAnew(t *testing.T) {
	t.Parallel()
	f, _, c, ids := filled(t, 4)
	f.bend(func(f *fake) {
		delete(f.rows, ids[0].String())
		f.onRepair = func(*satchelv1.RepairRequest) error {
			return fail(connect.CodeUnimplemented, 0, 0)
		}
	})
	order(f, false)
	for range 5 {
		if _, err := c.Sync(t.Context()); err == nil {
			break
		}
	}
	mustSync(t, c)
	wantSame(t, f, c, "account")
}

// The last word about a repair's rows is the page behind its cursor; when there is none, nothing changed since.
func TestWhatARepairBroughtIsShownAlsoWhenNothingChangedSince(t *testing.T) {
	t.Parallel()
	f, _, c, ids := filled(t, 4)
	f.bend(func(f *fake) {
		f.rows[ids[0].String()].fields["n"] = "other"
		f.touch(f.rows[ids[0].String()])
		f.answer = func(_ *satchelv1.SyncRequest, res *satchelv1.SyncResponse) error {
			if len(res.Page.GetChanges()) == 0 {
				res.Page = nil
			}
			return nil
		}
	})
	order(f, false)
	mustSync(t, c)
	wantSame(t, f, c, "account")
	if s, err := c.Status(t.Context()); err != nil || !s.Complete || s.Repairing {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestWhatCannotBeReadInTheStoreIsBroughtAgainAndHoldsNothingUp(t *testing.T) {
	t.Parallel()
	bad := []byte{0x0a, 0xff, 0xff}
	for name, spoil := range map[string]func(tx satchelclient.Tx, id satchel.ID) error{
		"a record": func(tx satchelclient.Tx, id satchel.ID) error {
			return tx.Put(satchelclient.TableRecord, accountKey(id), bad)
		},
		"a record's fields": func(tx satchelclient.Tx, id satchel.ID) error {
			text, err := proto.Marshal(&satchelv1.Change{RecordId: id.String(), Kind: "account", Rev: 99, Entered: []uint64{1}, Fields: `{"items":`})
			if err != nil {
				return err
			}
			return tx.Put(satchelclient.TableRecord, accountKey(id), text)
		},
		"what is staged": func(tx satchelclient.Tx, id satchel.ID) error {
			return tx.Put(satchelclient.TableStaging, accountKey(id), bad)
		},
		"the verdict log": func(tx satchelclient.Tx, _ satchel.ID) error {
			return tx.Put(satchelclient.TableVerdict, binary.BigEndian.AppendUint64(nil, 0), bad)
		},
		"a clock": func(tx satchelclient.Tx, _ satchel.ID) error {
			return tx.Scan(satchelclient.TableClock, nil, nil, func(key, _ []byte) error { return tx.Put(satchelclient.TableClock, key, bad) })
		},
		"what is shown of own work": func(tx satchelclient.Tx, id satchel.ID) error {
			return tx.Put(satchelclient.TableOverlay, append(id[:len(id):len(id)], 0, 0, 0, 0, 0, 0, 0, 1, 0, 0), bad)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, store, c, ids := filled(t, 5)
			mine := mustCreate(t, c, "account", satchelclient.Fields{"mine": 1})
			damage(t, store, func(tx satchelclient.Tx) error { return spoil(tx, ids[2]) })
			c = reopened(t, f, store, c)
			f.put("account", ids[4], map[string]any{"n": "new"})
			if r := mustSync(t, c); len(r.Settled) != 1 {
				t.Errorf("what was pending is not settled: %+v", r)
			}
			wantSame(t, f, c, "account")
			wantShown(t, c, "account", mine, `{"mine":1}`)
			if r := mustSync(t, c); r.Repaired != 0 {
				t.Errorf("then: %+v", r)
			}
		})
	}
}
