package satchelclient_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/clients/go/memstore"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

func applied(number, seq uint64) *satchelv1.Verdict {
	return &satchelv1.Verdict{Number: number, Status: satchelv1.Status_STATUS_APPLIED, Seq: seq}
}

func wantAtOffice(t *testing.T, c *satchelclient.Client, want ...satchel.ID) {
	t.Helper()
	list, err := c.AtOffice(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []satchel.ID
	for _, r := range list {
		got = append(got, r.ID)
		if r.Kind != "photo" || r.When.UnixMilli() != serverTime {
			t.Errorf("listed %+v", r)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("at the office: %v, want %v", got, want)
	}
}

func TestAnOwnCreationThatTheDeviceDoesNotFollowIsListedAsKeptAtTheOffice(t *testing.T) {
	t.Parallel()
	now := serverTime
	var answers []*satchelv1.SyncResponse
	f, c := scripted(t)
	f.script = func(*satchelv1.SyncRequest) (*satchelv1.SyncResponse, error) {
		if len(answers) == 0 {
			return &satchelv1.SyncResponse{ServerTimeMs: now}, nil
		}
		next := answers[0]
		answers = answers[1:]
		next.ServerTimeMs = now
		return next, nil
	}
	a := mustCreate(t, c, "photo", nil)
	refused, deleted := mustCreate(t, c, "photo", nil), mustCreate(t, c, "photo", nil)
	if err := c.Delete(t.Context(), "photo", deleted); err != nil {
		t.Fatal(err)
	}
	dead := mustCreate(t, c, "photo", nil)
	tombstone := &satchelv1.Change{RecordId: dead.String(), Kind: "photo", Rev: 2, Deleted: true}
	no := &satchelv1.Verdict{Number: 2, Status: satchelv1.Status_STATUS_REJECTED, Seq: 5}
	answers = []*satchelv1.SyncResponse{
		answer(page("1", false, 0, tombstone), applied(1, 5), no, applied(3, 5), applied(4, 5), applied(5, 5)),
		answer(page("2", true, 4)),
		answer(page("3", true, 5)),
	}
	once(t, c)
	once(t, c)
	wantShown(t, c, "photo", a, `{}`) // before its seq
	wantAtOffice(t, c)
	once(t, c)
	wantShown(t, c, "photo", a, "none")
	wantShown(t, c, "photo", refused, "none")
	wantAtOffice(t, c, a)

	row := &satchelv1.Change{RecordId: a.String(), Kind: "photo", Rev: 1, Fields: `{}`, Entered: []uint64{1}}
	answers = []*satchelv1.SyncResponse{answer(page("4", true, 6, row))} // handed back
	once(t, c)
	wantAtOffice(t, c)
	wantShown(t, c, "photo", a, `{}`)

	b := mustCreate(t, c, "photo", nil)
	answers = []*satchelv1.SyncResponse{answer(nil, applied(6, 7))}
	once(t, c)
	wantAtOffice(t, c, b)
	now += 36 * 24 * time.Hour.Milliseconds()
	d := mustCreate(t, c, "photo", nil)
	answers = []*satchelv1.SyncResponse{answer(nil, applied(7, 8))}
	once(t, c)
	list, err := c.AtOffice(t.Context())
	if err != nil || len(list) != 1 || list[0].ID != d {
		t.Errorf("after 36 days: %v, %v", list, err)
	}
}

func TestAMergedRecordLeadsToTheOneThatItBecame(t *testing.T) {
	t.Parallel()
	loser, root, last := satchel.NewID(), satchel.NewID(), satchel.NewID()
	merged := func(id, into satchel.ID) *satchelv1.Change {
		return &satchelv1.Change{RecordId: id.String(), Kind: "account", Rev: 2, Deleted: true, MergedInto: into.String()}
	}
	f, c := scripted(t,
		answer(page("1", true, 1, change(loser, 1, `{"name":"a"}`, 1), change(root, 1, `{"name":"b"}`, 1))),
		answer(page("2", true, 2, merged(loser, root))),
		answer(page("3", true, 3, merged(root, last), change(last, 1, `{"name":"c"}`, 1))),
		answer(page("4", true, 4, change(loser, 3, `{"name":"alone again"}`, 1))),
	)
	once(t, c)
	b := new(satchelclient.Batch)
	b.Patch("account", loser, satchelclient.Fields{"phone": "1"})
	b.Delete("account", loser)
	if _, err := c.Record(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	once(t, c)
	if m := f.last(t).Mutations[0]; m.Ops[0].RecordId != loser.String() {
		t.Errorf("sent %v", m)
	}
	r, err := c.Get(t.Context(), "account", loser)
	if err != nil || r.ID != root || string(r.Fields) != `{"name":"b","phone":"1"}` || !r.Pending {
		t.Errorf("got %+v, %v", r, err)
	}
	wantShown(t, c, "account", root, `{"name":"b","phone":"1"}`)
	if list, err := c.List(t.Context(), "account"); err != nil || len(list) != 1 || string(list[0].Fields) != `{"name":"b","phone":"1"}` {
		t.Errorf("listed %+v, %v", list, err)
	}
	once(t, c)
	wantShown(t, c, "account", loser, `{"name":"c","phone":"1"}`)
	once(t, c)
	wantShown(t, c, "account", root, `{"name":"c"}`)
	wantShown(t, c, "account", loser, "none") // its own ops stand again, and delete it
}

func TestACreationThatStandsAsItWasSentComesWithoutItsFields(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.digests = true
	var asSent, lose bool
	f.answer = func(req *satchelv1.SyncRequest, res *satchelv1.SyncResponse) error {
		for _, ch := range res.Page.GetChanges() {
			for _, m := range req.Mutations {
				if req.CompletesRows && !lose && m.Ops[0].RecordId == ch.RecordId || lose && ch.Kind == "visit" {
					asSent = true
					ch.AsSent, ch.Fields = true, `{"owner":"li","draft":null}`
				}
			}
		}
		return nil
	}
	store := memstore.New()
	c := signedIn(t, config(f, store))
	f.bend(func(f *fake) {
		f.refuse = func(m *satchelv1.Mutation) (satchelv1.Status, satchelv1.Reason) {
			f.apply(m) // as it will stand
			r := f.rows[m.Ops[0].RecordId]
			r.fields["owner"] = "li"
			delete(r.fields, "draft")
			r.change.Rev = 0
			f.touch(r)
			return satchelv1.Status_STATUS_APPLIED, 0
		}
	})
	visit := mustCreate(t, c, "visit", satchelclient.Fields{"n": 1, "draft": true})
	if r := mustSync(t, c); !asSent || r.Repaired != 0 {
		t.Errorf("as sent: %v, %+v", asSent, r)
	}
	wantShown(t, c, "visit", visit, `{"n":1,"owner":"li"}`)
	wantSame(t, f, c, "visit")

	// What must not happen: the creation is not here. Then the row is brought.
	other := satchel.NewID()
	f.put("visit", other, map[string]any{"other": 1})
	mustCreate(t, c, "task", nil)
	f.bend(func(f *fake) { lose = true })
	if r := mustSync(t, c); r.Repaired != 1 {
		t.Errorf("not as sent: %+v", r)
	}
	wantSame(t, f, c, "visit")
}

func TestNarrowedTakesCopiesInAttentionsToo(t *testing.T) {
	t.Parallel()
	id := satchel.NewID()
	items := `[{"kind":"account","field":"phone","value":"1"},{"kind":"account","field":"name","value":"x"},` +
		`{"kind":"account","field":"tags/key","value":true},{"kind":"account","field":"","value":"all"},{"kind":"visit","field":"phone","value":12345678901234567890}]`
	attention := &satchelv1.Change{RecordId: id.String(), Kind: "attention", Rev: 1, Fields: `{"items":` + items + `,"open":true}`, Entered: []uint64{1}}
	p := page("2", false, 0)
	p.Narrowed = []*satchelv1.Narrowed{{Kind: "account", Fields: []string{"phone", "tags"}}}
	_, c := scripted(t, answer(page("1", true, 1, attention)), answer(p))
	once(t, c)
	once(t, c)
	wantShown(t, c, "attention", id, `{"items":[{"field":"phone","kind":"account","withheld":true},{"field":"name","kind":"account","value":"x"},`+
		`{"field":"tags/key","kind":"account","withheld":true},{"field":"","kind":"account","withheld":true},{"field":"phone","kind":"visit","value":12345678901234567890}],"open":true}`)
}

func TestAFirstSyncKilledBetweenPrioritiesGoesOnAndShowsWhatWasSettled(t *testing.T) {
	t.Parallel()
	hot, cold, own := satchel.NewID(), satchel.NewID(), satchel.NewID()
	partial := page("1", true, 7, change(hot, 1, `{"hot":1}`, 1))
	partial.SettledPriority, partial.More, partial.Token = 1, true, nil
	full := page("3", true, 7)
	full.FollowedMonths, full.Token = 2, []byte("proof")
	var cursors []string
	f := newFake(t)
	kill := false
	f.script = func(req *satchelv1.SyncRequest) (*satchelv1.SyncResponse, error) {
		cursors = append(cursors, string(req.Cursor))
		switch string(req.Cursor) {
		case "":
			return answer(partial, applied(1, 6)), nil
		case "1":
			if !kill {
				kill = true
				return nil, errors.New("killed")
			}
			return answer(page("2", false, 0, change(cold, 1, `{"cold":1}`, 2))), nil
		case "2":
			return answer(full), nil
		}
		return &satchelv1.SyncResponse{ServerTimeMs: serverTime}, nil
	}
	store := memstore.New()
	c := signedIn(t, config(f, store))
	b := new(satchelclient.Batch)
	b.CreateAs("account", own, satchelclient.Fields{"own": 1})
	if _, err := c.Record(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Sync(t.Context()); err == nil {
		t.Fatal("it was not killed")
	}
	c = reopened(t, f, store, c)
	wantShown(t, c, "account", hot, `{"hot":1}`)
	wantShown(t, c, "account", own, `{"own":1}`) // only all priorities end the overlay
	if s, err := c.Status(t.Context()); err != nil || s.Complete || s.SettledPriority != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	r := mustSync(t, c)
	wantShown(t, c, "account", cold, `{"cold":1}`)
	wantShown(t, c, "account", own, "none")
	if s, err := c.Status(t.Context()); err != nil || !s.Complete || s.SettledPriority != 0 || s.FollowedMonths != 2 || s.Seq != 7 || r.SettledPriority != 0 {
		t.Errorf("%+v, %v", s, err)
	}
	if !slices.Equal(cursors, []string{"", "1", "1", "2"}) {
		t.Errorf("asked from %q", cursors)
	}
}

func TestARequestSaysWhatTheServerNeedsToKnow(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	cfg := config(f, memstore.New())
	cfg.Profile, cfg.AppVersion = "phone", "7.1"
	c := signedIn(t, cfg)
	mustSync(t, c)
	mustCreate(t, c, "visit", nil)
	mustSync(t, c)
	seen := f.seq
	f.bend(func(f *fake) {
		f.answer = func(_ *satchelv1.SyncRequest, res *satchelv1.SyncResponse) error {
			res.Directives = append(res.Directives, new(satchelv1.Directive)) // of a server of tomorrow
			return nil
		}
	})
	mustSync(t, c)
	if req := f.last(t); req.Profile != "phone" || req.AppVersion != "7.1" || req.SeenSeq != seen || !req.CompletesRows || req.NoPage {
		t.Errorf("the request is %v", req)
	}
	order(f, false)
	mustSync(t, c)
	if p := f.repairs[0].Profile; p != "phone" {
		t.Errorf("the repair is of the profile %q", p)
	}
}

func TestAStoreIsOneClientsUntilItIsClosed(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	store := memstore.New()
	c := signedIn(t, config(f, store))
	if _, err := satchelclient.New(config(f, store)); !errors.Is(err, satchelclient.ErrStoreInUse) {
		t.Errorf("a second client: %v", err)
	}
	if err := errors.Join(c.Close(), c.Close()); err != nil {
		t.Error(err)
	}
	second, err := satchelclient.New(config(f, store))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Create(t.Context(), "visit", nil); !errors.Is(err, satchelclient.ErrClosed) {
		t.Errorf("the first one still writes: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := satchelclient.New(config(f, store)); !errors.Is(err, satchelclient.ErrStoreInUse) {
		t.Errorf("closing the first again freed the second's: %v", err)
	}
	mustCreate(t, second, "visit", nil)
}

// The log of merged records is bounded.
func TestMergedRecordsAreForgottenInTime(t *testing.T) {
	t.Parallel()
	now, n := serverTime, 0
	f := newFake(t)
	f.script = func(*satchelv1.SyncRequest) (*satchelv1.SyncResponse, error) {
		n++
		tombstone := &satchelv1.Change{RecordId: satchel.NewID().String(), Kind: "account", Rev: 2, Deleted: true, MergedInto: satchel.NewID().String()}
		res := proto.CloneOf(answer(page(fmt.Sprint(n), true, uint64(n), tombstone)))
		res.ServerTimeMs = now
		return res, nil
	}
	store := memstore.New()
	c := signedIn(t, config(f, store))
	count := func() (rows int) {
		damage(t, store, func(tx satchelclient.Tx) error {
			return tx.Scan(satchelclient.TableMerged, nil, nil, func(_, _ []byte) error { rows++; return nil })
		})
		return rows
	}
	for range 3 {
		once(t, c)
	}
	if got := count(); got != 3 {
		t.Errorf("%d are kept", got)
	}
	now += 36 * 24 * time.Hour.Milliseconds()
	once(t, c)
	if got := count(); got != 1 {
		t.Errorf("%d are kept after 36 days", got)
	}
}
