package satchelclient_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

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
