package satchelclient_test

import (
	"context"
	"errors"
	"fmt"
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

func TestNothingOfAPageIsShownBeforeTheCheckpoint(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.pageRows = 2
	c := client(t, f)
	ids := make([]satchel.ID, 5)
	for i := range ids {
		ids[i] = satchel.NewID()
		f.put("account", ids[i], map[string]any{"n": i})
	}
	for calls := 1; ; calls++ {
		r, err := c.SyncOnce(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		list, err := c.List(t.Context(), "account")
		if err != nil {
			t.Fatal(err)
		}
		if !r.Checkpoint {
			if len(list) != 0 || !r.More {
				t.Fatalf("after %d calls %d records are shown", calls, len(list))
			}
			if calls == 1 { // changed again while it is staged
				f.put("account", ids[0], map[string]any{"n": 100})
			}
			continue
		}
		if len(list) != 5 || calls != 3 {
			t.Errorf("after %d calls %d records are shown", calls, len(list))
		}
		break
	}
	wantShown(t, c, "account", ids[0], `{"n":100}`)
}

// scripted makes a client whose server gives exactly the answers, and then none.
func scripted(t *testing.T, answers ...*satchelv1.SyncResponse) (*fake, *satchelclient.Client) {
	t.Helper()
	f := newFake(t)
	f.script = func(*satchelv1.SyncRequest) (*satchelv1.SyncResponse, error) {
		if len(answers) == 0 {
			return &satchelv1.SyncResponse{ServerTimeMs: serverTime}, nil
		}
		next := answers[0]
		answers = answers[1:]
		return next, nil
	}
	return f, client(t, f)
}

func once(t *testing.T, c *satchelclient.Client) {
	t.Helper()
	if _, err := c.SyncOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func change(id satchel.ID, rev uint64, fields string, entered ...uint64) *satchelv1.Change {
	return &satchelv1.Change{RecordId: id.String(), Kind: "account", Rev: rev, Fields: fields, Entered: entered}
}

func page(cursor string, checkpoint bool, seq uint64, changes ...*satchelv1.Change) *satchelv1.Page {
	return &satchelv1.Page{Cursor: []byte(cursor), Changes: changes, Checkpoint: checkpoint, More: !checkpoint, Seq: seq}
}

func answer(p *satchelv1.Page, verdicts ...*satchelv1.Verdict) *satchelv1.SyncResponse {
	return &satchelv1.SyncResponse{Page: p, Verdicts: verdicts, ServerTimeMs: serverTime}
}

func TestARecordGoesWhenItsLastBucketDoes(t *testing.T) {
	t.Parallel()
	id := satchel.NewID()
	leave := func(rev uint64, left ...uint64) *satchelv1.Change {
		return &satchelv1.Change{RecordId: id.String(), Kind: "account", Rev: rev, Left: left}
	}
	_, c := scripted(t,
		answer(page("1", true, 1, change(id, 1, `{"a":1}`, 1, 2))),
		answer(page("2", true, 2, leave(1, 1))),
		answer(page("3", false, 0, leave(2, 2))),
		answer(page("4", true, 4)),
	)
	once(t, c)
	once(t, c)
	wantShown(t, c, "account", id, `{"a":1}`)
	once(t, c) // staged
	wantShown(t, c, "account", id, `{"a":1}`)
	once(t, c)
	wantShown(t, c, "account", id, "none")
}

func TestADroppedBucketGoesAtOnceShownAndStaged(t *testing.T) {
	t.Parallel()
	only, both, staged, visit := satchel.NewID(), satchel.NewID(), satchel.NewID(), satchel.NewID()
	visitRow := &satchelv1.Change{RecordId: visit.String(), Kind: "visit", Rev: 1, Fields: `{}`, Entered: []uint64{2}}
	drop := page("3", false, 0, change(satchel.NewID(), 1, `{}`, 2))
	drop.DroppedBuckets = []uint64{1}
	drop.DroppedKinds = []*satchelv1.DroppedKind{{Bucket: 2, Kind: "visit"}}
	_, c := scripted(t,
		answer(page("1", true, 1, change(only, 1, `{"a":1}`, 1), change(both, 1, `{"b":1}`, 1, 2), visitRow)),
		answer(page("2", false, 0, change(staged, 1, `{"c":1}`, 1), change(only, 2, `{"a":2}`))),
		answer(drop),
		answer(page("4", true, 4)),
	)
	once(t, c)
	once(t, c)
	wantShown(t, c, "account", only, `{"a":1}`)
	once(t, c)
	wantShown(t, c, "account", only, "none") // at once, no checkpoint yet
	wantShown(t, c, "visit", visit, "none")
	wantShown(t, c, "account", both, `{"b":1}`)
	once(t, c)
	wantShown(t, c, "account", only, "none")
	wantShown(t, c, "account", staged, "none")
	wantShown(t, c, "account", both, `{"b":1}`)
}

func TestABucketDroppedAndGivenOnTheSamePageStays(t *testing.T) {
	t.Parallel()
	id := satchel.NewID()
	p := page("2", true, 2, change(id, 1, `{"a":1}`, 7))
	p.DroppedBuckets = []uint64{1}
	_, c := scripted(t, answer(page("1", true, 1, change(id, 1, `{"a":1}`, 1))), answer(p))
	once(t, c)
	once(t, c)
	wantShown(t, c, "account", id, `{"a":1}`)
}

func TestANarrowedFieldGoesAtOnceShownAndStaged(t *testing.T) {
	t.Parallel()
	a, b := satchel.NewID(), satchel.NewID()
	p := page("3", false, 0)
	p.Narrowed = []*satchelv1.Narrowed{{Kind: "account", Fields: []string{"phone"}}}
	_, c := scripted(t,
		answer(page("1", true, 1, change(a, 1, `{"name":"x","phone":"1"}`, 1))),
		answer(page("2", false, 0, change(b, 1, `{"name":"y","phone":"2"}`, 1))),
		answer(p),
		answer(page("4", true, 4)),
	)
	once(t, c)
	once(t, c)
	once(t, c)
	wantShown(t, c, "account", a, `{"name":"x"}`)
	wantShown(t, c, "account", b, "none")
	once(t, c)
	wantShown(t, c, "account", b, `{"name":"y"}`)
}

func TestATombstoneDeletesAndARevivalBeginsAnew(t *testing.T) {
	t.Parallel()
	id := satchel.NewID()
	dead := &satchelv1.Change{RecordId: id.String(), Kind: "account", Rev: 2, Deleted: true}
	_, c := scripted(t,
		answer(page("1", true, 1, change(id, 1, `{"a":1}`, 1, 2))),
		answer(page("2", false, 0, dead)),
		answer(page("3", true, 3, change(id, 3, `{"a":3}`, 2))),
		answer(page("4", true, 4, &satchelv1.Change{RecordId: id.String(), Kind: "account", Rev: 3, Left: []uint64{2}})),
		answer(page("5", true, 5, change(id, 4, `{}`, 1))),
		answer(page("6", true, 6, dead)),
	)
	once(t, c)
	once(t, c)
	once(t, c)
	wantShown(t, c, "account", id, `{"a":3}`)
	once(t, c)
	wantShown(t, c, "account", id, "none") // the buckets from before its death do not count
	once(t, c)
	once(t, c)
	wantShown(t, c, "account", id, "none")
}

func TestMyOwnWriteIsShownUntilAFullCheckpointAtOrPastItsSeq(t *testing.T) {
	t.Parallel()
	id := satchel.NewID()
	hot := page("3", true, 10, change(id, 2, `{"a":"theirs"}`))
	hot.SettledPriority = 1
	_, c := scripted(t,
		answer(page("1", true, 5, change(id, 1, `{"a":"old"}`, 1))),
		answer(page("2", true, 9), &satchelv1.Verdict{Number: 1, Status: satchelv1.Status_STATUS_APPLIED, Seq: 10}),
		answer(hot),
		answer(page("4", false, 0, change(id, 3, `{"a":"server's"}`))),
		answer(page("5", true, 10)),
	)
	once(t, c)
	if err := c.Patch(t.Context(), "account", id, satchelclient.Fields{"a": "mine"}); err != nil {
		t.Fatal(err)
	}
	for call := 2; call <= 4; call++ {
		once(t, c)
		wantShown(t, c, "account", id, `{"a":"mine"}`)
	}
	once(t, c)
	wantShown(t, c, "account", id, `{"a":"server's"}`)
}

func TestAnAnswerWithoutAPageAtACheckpointEndsTheOverlayToo(t *testing.T) {
	t.Parallel()
	_, c := scripted(t,
		answer(page("1", true, 5)),
		answer(nil, &satchelv1.Verdict{Number: 1, Status: satchelv1.Status_STATUS_APPLIED, Seq: 6}),
	)
	once(t, c)
	id := mustCreate(t, c, "account", satchelclient.Fields{"a": 1})
	wantShown(t, c, "account", id, `{"a":1}`)
	once(t, c) // it is in no bucket of this person's
	wantShown(t, c, "account", id, "none")
	if all, err := c.Settled(t.Context(), 0, 10); err != nil || len(all) != 1 {
		t.Errorf("the log has %v, %v", all, err)
	}
}

func TestWhatWasRefusedIsNoLongerShownAndIsKeptWithItsVerdict(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := client(t, f)
	f.bend(func(f *fake) {
		f.refuse = func(m *satchelv1.Mutation) (satchelv1.Status, satchelv1.Reason) {
			if strings.Contains(m.Ops[0].GetPatch().GetFields(), "forbidden") {
				return satchelv1.Status_STATUS_REJECTED, satchelv1.Reason_REASON_FIELD_FORBIDDEN
			}
			return 0, 0
		}
	})
	id := mustCreate(t, c, "visit", satchelclient.Fields{"note": "a"})
	for _, note := range []string{"forbidden", "b"} {
		if err := c.Patch(t.Context(), "visit", id, satchelclient.Fields{"note": note, note: 1}); err != nil {
			t.Fatal(err)
		}
	}
	wantShown(t, c, "visit", id, `{"b":1,"forbidden":1,"note":"b"}`)
	mustSync(t, c)
	wantShown(t, c, "visit", id, `{"b":1,"note":"b"}`)
	all, err := c.Settled(t.Context(), 1, 10)
	if err != nil || len(all) != 2 {
		t.Fatalf("after the first the log has %d, %v", len(all), err)
	}
	if v := all[0]; v.Verdict.Status != satchelv1.Status_STATUS_REJECTED || v.Verdict.Number != 2 || v.Device != f.device ||
		!strings.Contains(v.Mutation.Ops[0].GetPatch().Fields, "forbidden") {
		t.Errorf("the log says %v", v)
	}
}

func TestSetsCountersClearsAndDeletesAreShownOnTop(t *testing.T) {
	t.Parallel()
	id := satchel.NewID()
	_, c := scripted(t, answer(page("1", true, 1, change(id, 1, `{"tags":["a","b"],"n":9007199254740993,"x":1,"name":"z"}`, 1))))
	once(t, c)
	b := new(satchelclient.Batch)
	b.Patch("account", id, satchelclient.Fields{"x": nil}, satchelclient.AddTo("tags", "c", "a"), satchelclient.RemoveFrom("tags", "b"), satchelclient.Increment("n", 2))
	b.Patch("account", id, nil, satchelclient.AddTo("fresh", "1"), satchelclient.Increment("zero", -1), satchelclient.AddTo("name", "no set"))
	child := b.Create("task", satchelclient.Fields{"of": id})
	if _, err := c.Record(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	wantShown(t, c, "account", id, `{"fresh":["1"],"n":9007199254740995,"name":"z","tags":["a","c"],"zero":-1}`)
	wantShown(t, c, "task", child, fmt.Sprintf(`{"of":%q}`, id))
	if err := c.Command(t.Context(), "account", id, "account.claim", nil); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), "account", id); err != nil {
		t.Fatal(err)
	}
	wantShown(t, c, "account", id, "none")
	if list, err := c.List(t.Context(), "account"); err != nil || len(list) != 0 {
		t.Errorf("the list has %v, %v", list, err)
	}
	if err := c.Patch(t.Context(), "account", satchel.NewID(), satchelclient.Fields{"a": 1}); err != nil {
		t.Fatal(err)
	}
	if list, err := c.List(t.Context(), "account"); err != nil || len(list) != 0 {
		t.Errorf("an edit of what is not here shows %v, %v", list, err)
	}
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

func TestAGapThatTheDeviceCannotFillIsSaidAndLosesNothing(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := client(t, f)
	mustCreate(t, c, "visit", nil)
	mustSync(t, c)
	f.bend(func(f *fake) { clear(f.lanes); clear(f.ids) }) // the server's database was restored
	mustCreate(t, c, "visit", nil)
	if _, err := c.Sync(t.Context()); !errors.Is(err, satchelclient.ErrNumberGap) {
		t.Errorf("got %v", err)
	}
	wantPending(t, c, 1)
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

func TestARefusalEndsTheOverlayBeforeAnyCheckpoint(t *testing.T) {
	t.Parallel()
	_, c := scripted(t, answer(page("1", false, 0),
		&satchelv1.Verdict{Number: 1, Status: satchelv1.Status_STATUS_APPLIED, Seq: 9},
		&satchelv1.Verdict{Number: 2, Status: satchelv1.Status_STATUS_STALE, Seq: 9}))
	id := mustCreate(t, c, "visit", satchelclient.Fields{"a": 1})
	if err := c.Patch(t.Context(), "visit", id, satchelclient.Fields{"a": 2}); err != nil {
		t.Fatal(err)
	}
	wantShown(t, c, "visit", id, `{"a":2}`)
	once(t, c)
	wantShown(t, c, "visit", id, `{"a":1}`)
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
