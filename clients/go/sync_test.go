package satchelclient_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/clients/go/memstore"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

func TestWhatIsRecordedIsShownSentOnceAndConfirmed(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := client(t, f)
	id := mustCreate(t, c, "visit", satchelclient.Fields{"note": "met"})
	wantShown(t, c, "visit", id, `{"note":"met"}`)
	wantPending(t, c, 1)

	r := mustSync(t, c)
	if r.Sent != 1 || len(r.Settled) != 1 || !r.Checkpoint || r.Pending != 0 {
		t.Errorf("the result is %+v", r)
	}
	first := f.last(t)
	if first.Confirmed != 0 || first.Outbox.Count != 1 || first.Outbox.OldestMs != serverTime+5 || first.Cursor != nil {
		t.Errorf("the first request is %v", first)
	}
	got, err := c.Get(t.Context(), "visit", id)
	if err != nil || got.Pending || got.Rev != 1 || got.Author != f.person {
		t.Errorf("after the checkpoint: %+v, %v", got, err)
	}

	if err := c.Patch(t.Context(), "visit", id, satchelclient.Fields{"note": "met twice"}); err != nil {
		t.Fatal(err)
	}
	mustSync(t, c)
	second := f.last(t)
	op := second.Mutations[0].Ops[0]
	if second.Confirmed != 1 || second.Mutations[0].Number != 2 || op.BaseRev != 1 || second.Cursor == nil {
		t.Errorf("the second request is %v", second)
	}
	if m := second.Mutations[0]; !strings.HasPrefix(string(m.CheckpointToken), "token-") || m.Recorded.Boot != "boot-1" || m.Recorded.MonotonicMs != 77 || m.SchemaVersion != 3 {
		t.Errorf("the mutation carries %v", m)
	}
	if p := second.ClockPairs; len(p) != 1 || p[0].Boot != "boot-1" || p[0].ServerMs != serverTime {
		t.Errorf("the clock pairs are %v", p)
	}
	wantShown(t, c, "visit", id, `{"note":"met twice"}`)
	if mustSync(t, c); len(f.last(t).Mutations) != 0 || f.last(t).Confirmed != 2 {
		t.Errorf("an idle request is %v", f.last(t))
	}
}

func TestALostAnswerIsAskedForAgainWithTheSameNumbersAndIDs(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := client(t, f)
	id := mustCreate(t, c, "visit", satchelclient.Fields{"n": 0})
	if err := c.Patch(t.Context(), "visit", id, nil, satchelclient.Increment("n", 3)); err != nil {
		t.Fatal(err)
	}
	f.bend(func(f *fake) {
		f.answer = func(*satchelv1.SyncRequest, *satchelv1.SyncResponse) error {
			f.answer = nil
			return connect.NewError(connect.CodeUnavailable, errors.New("the signal went"))
		}
	})
	if _, err := c.Sync(t.Context()); !errors.Is(err, satchelclient.ErrUnavailable) {
		t.Fatalf("got %v", err)
	}
	wantPending(t, c, 2)
	wantShown(t, c, "visit", id, `{"n":3}`)
	mustCreate(t, c, "visit", nil) // what is recorded meanwhile comes behind
	sent := f.last(t).Mutations
	mustSync(t, c)
	again := f.last(t).Mutations
	if len(again) != 3 || again[0].Id != sent[0].Id || again[1].Id != sent[1].Id || !slices.Equal(numbers(f.last(t)), []uint64{1, 2, 3}) {
		t.Errorf("first %v, then %v", sent, again)
	}
	if again[1].Ops[0].BaseRev != 0 {
		t.Errorf("the base moved to %d", again[1].Ops[0].BaseRev)
	}
	wantShown(t, c, "visit", id, `{"n":3}`)
	wantPending(t, c, 0)
}

func TestAMutationWithoutAVerdictStaysPendingAndIsSentAgain(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := client(t, f)
	for range 3 {
		mustCreate(t, c, "visit", nil)
	}
	f.bend(func(f *fake) {
		f.answer = func(_ *satchelv1.SyncRequest, res *satchelv1.SyncResponse) error {
			f.answer = nil
			res.Verdicts = res.Verdicts[:1] // the deadline came
			return nil
		}
	})
	r, err := c.SyncOnce(t.Context())
	if err != nil || len(r.Settled) != 1 || r.Pending != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	if mustSync(t, c); !slices.Equal(numbers(f.last(t)), []uint64{2, 3}) || f.last(t).Confirmed != 1 {
		t.Errorf("then: %v", f.last(t))
	}
	wantPending(t, c, 0)
}

func TestManyMutationsGoInCallsOfTwoHundredAndOneMiB(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := client(t, f)
	for range 205 {
		mustCreate(t, c, "visit", nil)
	}
	for range 6 {
		mustCreate(t, c, "visit", satchelclient.Fields{"note": strings.Repeat("x", 200<<10)})
	}
	mustSync(t, c)
	wantPending(t, c, 0)
	var sizes []int
	for _, r := range f.requests {
		sizes = append(sizes, len(r.Mutations))
	}
	if !slices.Equal(sizes, []int{200, 10, 1}) {
		t.Errorf("the calls had %v mutations", sizes)
	}
}

func TestATimeOutHalvesTheBatch(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := client(t, f)
	for range 200 {
		mustCreate(t, c, "visit", nil)
	}
	var sizes []int
	var budgets []uint32
	f.bend(func(f *fake) {
		f.script = func(req *satchelv1.SyncRequest) (*satchelv1.SyncResponse, error) {
			sizes, budgets = append(sizes, len(req.Mutations)), append(budgets, req.MaxBytes)
			if len(req.Mutations) > 50 {
				return nil, connect.NewError(connect.CodeDeadlineExceeded, errors.New("slow"))
			}
			return nil, nil
		}
	})
	mustSync(t, c)
	if !slices.Equal(sizes[:4], []int{200, 100, 50, 100}) || budgets[0] != 0 || budgets[1] != 128<<10 || budgets[2] != 64<<10 {
		t.Errorf("the calls had %v mutations and budgets %v", sizes, budgets)
	}
	wantPending(t, c, 0)
}

func TestAMutationThatIsTooLargeIsRefusedWhenItIsRecorded(t *testing.T) {
	t.Parallel()
	c := client(t, newFake(t))
	b := new(satchelclient.Batch)
	id := b.Create("visit", satchelclient.Fields{"note": strings.Repeat("x", 256<<10)})
	if _, err := c.Record(t.Context(), b); !errors.Is(err, satchelclient.ErrTooLarge) || !strings.Contains(err.Error(), "262144 bytes") {
		t.Errorf("got %v", err)
	}
	wantShown(t, c, "visit", id, "none")
	b = new(satchelclient.Batch)
	for range 101 {
		b.Create("visit", nil)
	}
	if _, err := c.Record(t.Context(), b); !errors.Is(err, satchelclient.ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	if _, err := c.Create(t.Context(), "visit", satchelclient.Fields{"f": func() {}}); err == nil {
		t.Error("a function was recorded")
	}
	if _, err := c.Record(t.Context(), new(satchelclient.Batch)); err == nil {
		t.Error("an empty mutation was recorded")
	}
	wantPending(t, c, 0)
}

func TestAStoreRolledBackIsForkedAndLosesNothing(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	store := memstore.New()
	c := signedIn(t, config(f, store))
	mustCreate(t, c, "visit", satchelclient.Fields{"note": "monday"})
	mustSync(t, c)
	monday := store.Clone()
	mustCreate(t, c, "visit", satchelclient.Fields{"note": "tuesday"})
	mustSync(t, c)
	before := f.device

	restored, err := satchelclient.New(config(f, monday))
	if err != nil {
		t.Fatal(err)
	}
	for _, note := range []string{"wednesday", "thursday"} {
		mustCreate(t, restored, "visit", satchelclient.Fields{"note": note})
	}
	r := mustSync(t, restored)
	if r.Forked != 1 || restored.Identity().Device == before || restored.Identity().Device != f.device {
		t.Errorf("the result is %+v, the device %v", r, restored.Identity().Device)
	}
	wantPending(t, restored, 0)
	if !slices.Equal(numbers(f.last(t)), []uint64{1, 2}) || f.last(t).Confirmed != 0 {
		t.Errorf("after the fork: %v", f.last(t))
	}
	list, err := restored.List(t.Context(), "visit")
	if err != nil || len(list) != 4 {
		t.Errorf("%d visits are shown, %v", len(list), err)
	}
	if err := restored.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := satchelclient.New(config(f, monday))
	if err != nil || again.Identity().Device != f.device || !again.Identity().SignedIn {
		t.Errorf("opened again: %+v, %v", again.Identity(), err)
	}
}

func TestACursorThatTheServerDoesNotKnowIsGivenUpAndTheDeviceFilledAnew(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := client(t, f)
	gone, stays := satchel.NewID(), satchel.NewID()
	f.put("account", gone, map[string]any{"a": 1})
	f.put("account", stays, map[string]any{"b": 1})
	mustSync(t, c)
	f.bend(func(f *fake) {
		delete(f.rows, gone.String())
		f.script = func(req *satchelv1.SyncRequest) (*satchelv1.SyncResponse, error) {
			if req.Cursor != nil {
				return nil, fail(connect.CodeInvalidArgument, satchelv1.Reason_REASON_MALFORMED_CURSOR, 0)
			}
			f.script = nil
			return nil, nil
		}
	})
	own := mustCreate(t, c, "account", satchelclient.Fields{"c": 1})
	mustSync(t, c)
	wantShown(t, c, "account", gone, "none")
	wantShown(t, c, "account", stays, `{"b":1}`)
	wantShown(t, c, "account", own, `{"c":1}`)
}

func TestAWipeDeletesWhatTheServerHasAndKeepsWhatItHasNot(t *testing.T) {
	t.Parallel()
	id := satchel.NewID()
	order := func(salvaged uint64) *satchelv1.SyncResponse {
		return &satchelv1.SyncResponse{Directives: []*satchelv1.Directive{{Order: &satchelv1.Directive_Wipe{Wipe: &satchelv1.Wipe{SalvagedNumber: salvaged}}}}}
	}
	_, c := scripted(t, answer(page("1", true, 1, change(id, 1, `{"a":1}`, 1))), order(1), order(2))
	once(t, c)
	mustCreate(t, c, "visit", nil)
	mustCreate(t, c, "visit", nil)
	if _, err := c.Sync(t.Context()); !errors.Is(err, satchelclient.ErrWiped) {
		t.Fatalf("got %v", err)
	}
	wantShown(t, c, "account", id, "none")
	wantPending(t, c, 1)
	if _, err := c.Sync(t.Context()); !errors.Is(err, satchelclient.ErrWiped) {
		t.Fatalf("got %v", err)
	}
	wantPending(t, c, 0)
	if c.Identity() != (satchelclient.Identity{}) {
		t.Errorf("the identity is still %+v", c.Identity())
	}
}

func TestAServerWhoseCursorDoesNotMoveDoesNotHoldTheDeviceInALoop(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.script = func(*satchelv1.SyncRequest) (*satchelv1.SyncResponse, error) {
		return answer(page("same", false, 0)), nil
	}
	c := client(t, f)
	if _, err := c.Sync(t.Context()); err == nil || len(f.requests) > 3 {
		t.Errorf("%d calls, %v", len(f.requests), err)
	}
}

func TestTheJSONCodecCarriesTheSame(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	cfg := config(f, memstore.New())
	cfg.Codec = satchelclient.JSON
	c := signedIn(t, cfg)
	id := mustCreate(t, c, "visit", satchelclient.Fields{"note": "<&>\"会"})
	mustSync(t, c)
	r, err := c.Get(t.Context(), "visit", id)
	if err != nil || r.Text("note") != "<&>\"会" || r.Pending {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestRunSendsWhatIsRecordedAndPullsWhenItIsWoken(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := client(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	settled := make(chan int, 100)
	f.bend(func(f *fake) {
		f.answer = func(req *satchelv1.SyncRequest, res *satchelv1.SyncResponse) error {
			settled <- len(res.Verdicts) + 10*len(res.Page.Changes)
			return nil
		}
	})
	go func() { ended <- c.Run(ctx) }()
	if n := <-settled; n != 0 {
		t.Errorf("the first sync brought %d", n)
	}
	id := mustCreate(t, c, "visit", nil)
	for n := <-settled; n != 11; n = <-settled { // one verdict, one change
	}
	other := satchel.NewID()
	f.put("visit", other, map[string]any{"a": 1})
	f.bend(func(f *fake) { close(f.waits); f.waits = make(chan struct{}) })
	for n := <-settled; n != 10; n = <-settled {
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Run ended with %v", err)
	}
	wantShown(t, c, "visit", id, `{}`)
}

func TestTheClockPairOfAnEarlierBootIsSentWithWhatWasRecordedInIt(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	cfg := config(f, memstore.New())
	boot := "monday"
	cfg.Monotonic = func() (string, uint64) { return boot, 5 }
	c := signedIn(t, cfg)
	mustSync(t, c)
	mustCreate(t, c, "visit", nil)
	boot = "tuesday" // never met the server
	mustCreate(t, c, "visit", nil)
	boot = "wednesday"
	mustSync(t, c)
	if p := f.last(t).ClockPairs; len(p) != 1 || p[0].Boot != "monday" || p[0].MonotonicMs != 5 {
		t.Errorf("sent %v", p)
	}
	boot = "thursday"
	mustCreate(t, c, "visit", nil)
	mustSync(t, c)
	mustCreate(t, c, "visit", nil)
	mustSync(t, c)
	if p := f.last(t).ClockPairs; len(p) != 1 || p[0].Boot != "thursday" {
		t.Errorf("sent %v", p)
	}
}

func TestTheVerdictLogForgetsAfterThirtyFiveDaysOfTheServersClock(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := client(t, f)
	now := serverTime
	f.bend(func(f *fake) {
		f.answer = func(_ *satchelv1.SyncRequest, res *satchelv1.SyncResponse) error { res.ServerTimeMs = now; return nil }
	})
	const day = 24 * 3600 * 1000
	for _, later := range []int64{0, 34 * day, 2 * day} {
		now += later
		mustCreate(t, c, "visit", nil)
		mustSync(t, c)
	}
	if all, err := c.Settled(t.Context(), 0, 10); err != nil || len(all) != 2 || all[0].Order != 2 {
		t.Errorf("the log has %v, %v", all, err)
	}
}
