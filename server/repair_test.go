package server_test

import (
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"

	satchel "github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/syncengine"
)

// hashOf is H of the protocol, written from its description.
func hashOf(id string, rev uint64) uint64 {
	h := fnv.New32a()
	raw := satchel.MustParseID(id)
	h.Write(raw[:])
	h.Write([]byte(strconv.FormatUint(rev, 10)))
	mixed := h.Sum32()
	mixed ^= mixed >> 16
	mixed *= 0x85ebca6b
	mixed ^= mixed >> 13
	mixed *= 0xc2b2ae35
	return uint64(mixed ^ mixed>>16)
}

func TestARepairTellsByBucketWhatAPhoneMustHold(t *testing.T) {
	w := newWorld(t)
	d := w.signIn("ann")
	first := d.account("Orient")
	d.send(d.mutation(first), d.mutation(d.account("Shelves")))
	res, err := d.sync.Sync(t.Context(), &satchelv1.SyncRequest{})
	if err != nil || res.Page.GetDigest() == nil || res.Page.Forms == nil {
		t.Fatalf("the first page is %v, %v", res, err)
	}
	var sum, count uint64
	for _, c := range res.Page.Changes {
		sum += uint64(len(c.Entered)) * hashOf(c.RecordId, c.Rev)
		count += uint64(len(c.Entered))
	}
	if res.Page.Digest.Sum != sum || res.Page.Digest.Count != count || count < 2 {
		t.Errorf("the digest is %v, and the phone holds %d with the sum %d", res.Page.Digest, count, sum)
	}

	repair := func(step *satchelv1.RepairRequest) *satchelv1.RepairResponse {
		t.Helper()
		got, err := d.sync.Repair(t.Context(), step)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	plan := repair(&satchelv1.RepairRequest{Step: &satchelv1.RepairRequest_Start{Start: &satchelv1.RepairStart{Forms: res.Page.Forms}}}).Plan
	if plan.GetForms() == nil || len(plan.StaleKinds) > 0 || len(plan.Narrowed) > 0 || plan.Seq != res.Page.Seq {
		t.Errorf("the plan is %v", plan)
	}
	var all uint64
	var own *satchelv1.BucketDigest
	for _, b := range plan.Buckets {
		all += b.Digest.GetSum()
		if b.Kind == "account" && b.Digest.GetCount() == 2 {
			own = b
		}
	}
	if all != sum || own == nil {
		t.Fatalf("the buckets sum up to %d, not %d: %v", all, sum, plan.Buckets)
	}
	revs := repair(&satchelv1.RepairRequest{Step: &satchelv1.RepairRequest_Revs{Revs: &satchelv1.RepairRevs{Bucket: own.Bucket, Kind: "account"}}}).Revs
	if len(revs.GetRecords()) != 32 || !slices.Equal(revs.Revs, []uint64{1, 1}) || revs.More {
		t.Errorf("the records are %v", revs)
	}
	rest := repair(&satchelv1.RepairRequest{Step: &satchelv1.RepairRequest_Revs{Revs: &satchelv1.RepairRevs{Bucket: own.Bucket, Kind: "account", After: revs.Records[:16]}}}).Revs
	if len(rest.GetRecords()) != 16 || string(rest.Records) != string(revs.Records[16:]) {
		t.Errorf("behind the first are %v", rest)
	}
	unknown := satchel.NewID()
	id := satchel.MustParseID(first.RecordId)
	rows := repair(&satchelv1.RepairRequest{Step: &satchelv1.RepairRequest_Rows{Rows: &satchelv1.RepairRows{Records: append(unknown[:], id[:]...)}}})
	if rows.Answered != 2 || len(rows.Changes) != 1 || rows.Changes[0].RecordId != first.RecordId || !strings.Contains(rows.Changes[0].Fields, "Orient") ||
		!slices.Contains(rows.Changes[0].Entered, own.Bucket) {
		t.Errorf("the rows are %v", rows)
	}
	d.cursor = plan.Cursor
	if next := d.send().Page; !next.GetCheckpoint() || len(next.Changes) > 0 || next.More || next.Digest.GetSum() != sum {
		t.Errorf("behind the plan there is %v", next)
	}

	stale := repair(&satchelv1.RepairRequest{Step: &satchelv1.RepairRequest_Start{Start: &satchelv1.RepairStart{}}}).Plan
	if !slices.Contains(stale.StaleKinds, "account") || len(stale.Narrowed) == 0 {
		t.Errorf("for a phone that knows of no form the plan has %v, %v", stale.StaleKinds, stale.Narrowed)
	}
}

func TestStepsOfARepairThatAreNoneAreRefused(t *testing.T) {
	w := newWorld(t)
	d := w.signIn("ann")
	for name, step := range map[string]*satchelv1.RepairRequest{
		"no step":         {},
		"half an id":      {Step: &satchelv1.RepairRequest_Rows{Rows: &satchelv1.RepairRows{Records: make([]byte, 15)}}},
		"no id":           {Step: &satchelv1.RepairRequest_Rows{Rows: &satchelv1.RepairRows{}}},
		"half an after":   {Step: &satchelv1.RepairRequest_Revs{Revs: &satchelv1.RepairRevs{Bucket: 1, Kind: "account", After: make([]byte, 8)}}},
		"no kind":         {Step: &satchelv1.RepairRequest_Revs{Revs: &satchelv1.RepairRevs{Bucket: 1}}},
		"another profile": {Profile: "tractor", Step: &satchelv1.RepairRequest_Start{Start: &satchelv1.RepairStart{}}},
		"a row of nobody": {Step: &satchelv1.RepairRequest_Salvage{Salvage: &satchelv1.RepairSalvage{Rows: []*satchelv1.Change{{Kind: "account", Rev: 1, Fields: "{}"}}}}},
	} {
		_, err := d.sync.Repair(t.Context(), step)
		if code, e := detail(t, err); code != connect.CodeInvalidArgument || e.Reason != satchelv1.Reason_REASON_MALFORMED {
			t.Errorf("%s gives %v %v", name, code, e)
		}
	}
	big := &satchelv1.Change{RecordId: satchel.NewID().String(), Kind: "account", Rev: 1, Fields: `{"remark": "` + strings.Repeat("x", 600<<10) + `"}`}
	_, err := d.sync.Repair(t.Context(), &satchelv1.RepairRequest{Step: &satchelv1.RepairRequest_Salvage{Salvage: &satchelv1.RepairSalvage{Rows: []*satchelv1.Change{big, big}}}})
	if code, e := detail(t, err); code != connect.CodeResourceExhausted || e.Reason != satchelv1.Reason_REASON_TOO_LARGE {
		t.Errorf("too many bytes of rows give %v %v", code, e)
	}
}

// TestOneStepOfARepairRunsAtATimeForADevice sends many at once: those that are sent away are told when to come back, and
// get their answer then.
func TestOneStepOfARepairRunsAtATimeForADevice(t *testing.T) {
	w := newWorld(t)
	d := w.signIn("ann")
	d.settle()
	var mu sync.Mutex
	answered, away := 0, 0
	var work sync.WaitGroup
	for range 12 {
		work.Go(func() {
			_, err := d.sync.Repair(t.Context(), &satchelv1.RepairRequest{Step: &satchelv1.RepairRequest_Start{Start: &satchelv1.RepairStart{}}})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				answered++
				return
			}
			code, e := detail(t, err)
			if code != connect.CodeResourceExhausted || e.Reason != satchelv1.Reason_REASON_RATE_LIMITED || e.RetryAfterMs < 1000 || e.RetryAfterMs > 4000 {
				t.Errorf("sent away with %v %v", code, e)
			}
			away++
		})
	}
	work.Wait()
	if answered == 0 || answered+away != 12 {
		t.Errorf("%d are answered, %d sent away", answered, away)
	}
	if _, err := d.sync.Repair(t.Context(), &satchelv1.RepairRequest{Step: &satchelv1.RepairRequest_Start{Start: &satchelv1.RepairStart{}}}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestSkipsAndEnvelopesUseUpTheirNumbers(t *testing.T) {
	w := newWorld(t)
	d := w.signIn("ann")
	one := func(number uint64, m *satchelv1.Mutation) *satchelv1.SyncResponse {
		m.Number, m.Id = number, satchel.NewID().String()
		return d.send(m)
	}
	skipped := one(1, &satchelv1.Mutation{Skip: &satchelv1.Skip{To: 3, Why: "store damaged"}})
	if len(skipped.Verdicts) != 1 || skipped.Verdicts[0].Status != satchelv1.Status_STATUS_APPLIED || skipped.ExpectedNumber != 4 {
		t.Errorf("a skip gives %v", skipped)
	}
	large := one(4, &satchelv1.Mutation{Envelope: &satchelv1.Envelope{Size: syncengine.MaxMutationBytes + 1}}).Verdicts
	if len(large) != 1 || large[0].Status != satchelv1.Status_STATUS_REJECTED || large[0].Reason != satchelv1.Reason_REASON_TOO_LARGE {
		t.Errorf("an envelope of too much gives %v", large)
	}
	for i, m := range []*satchelv1.Mutation{
		{Envelope: &satchelv1.Envelope{Size: 7}},
		{Skip: &satchelv1.Skip{To: 2, Why: "backwards"}},
		{Skip: &satchelv1.Skip{To: 9_000_000}},
		{Skip: &satchelv1.Skip{To: 8}, Ops: []*satchelv1.Op{d.account("x")}},
		{Envelope: &satchelv1.Envelope{Size: 7}, Ops: []*satchelv1.Op{d.account("x")}},
		{Envelope: &satchelv1.Envelope{Size: 7}, Skip: &satchelv1.Skip{To: 10}},
	} {
		res := one(uint64(5+i), m)
		if len(res.Verdicts) != 1 || res.Verdicts[0].Status != satchelv1.Status_STATUS_REJECTED || res.Verdicts[0].Reason != satchelv1.Reason_REASON_MALFORMED ||
			res.ExpectedNumber != 0 {
			t.Errorf("%v gives %v", m, res)
		}
	}
}

func TestAPhoneThatKnowsMoreThanTheDatabaseIsAskedToOfferItAgain(t *testing.T) {
	w := newWorld(t)
	d := w.signIn("ann")
	res := d.send(d.mutation(d.account("Orient")))
	seq := res.Verdicts[0].Seq
	if err := w.app.Engine.OpenEpoch(t.Context()); err != nil {
		t.Fatal(err)
	}
	ask := func(seen uint64, m ...*satchelv1.Mutation) *satchelv1.SyncResponse {
		t.Helper()
		res, err := d.sync.Sync(t.Context(), &satchelv1.SyncRequest{SeenSeq: seen, Cursor: d.cursor, Mutations: m})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	if res := ask(seq); len(res.Directives) > 0 {
		t.Errorf("all that it knows is there, and it is told %v", res.Directives)
	}
	lost := ask(seq+5, d.mutation(d.account("Shelves")))
	if len(lost.Directives) != 1 || lost.Directives[0].GetRestored() == nil || len(lost.Verdicts) > 0 || lost.Page != nil {
		t.Fatalf("it is answered with %v", lost)
	}
	r := lost.Directives[0].GetRestored()
	if r.AfterSeq != seq || r.ExpectedNumber != 2 || r.Seq>>40 == 0 {
		t.Errorf("it is told %v", r)
	}
	if res := ask(r.Seq); len(res.Directives) > 0 {
		t.Errorf("afterwards it is told %v", res.Directives)
	}
}
