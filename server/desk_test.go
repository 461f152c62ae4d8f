package server_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

// states gives what the desk knows of the devices, by name of the person.
func states(t *testing.T, d *device, req *satchelv1.ListSyncStateRequest) map[string]*satchelv1.SyncState {
	t.Helper()
	res, err := d.desk.ListSyncState(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*satchelv1.SyncState{}
	for _, s := range res.Devices {
		out[s.PersonName] = s
	}
	return out
}

func kinds(s *satchelv1.SyncState) []string {
	var out []string
	for _, tr := range s.GetTroubles() {
		out = append(out, strings.TrimPrefix(tr.Kind.String(), "TROUBLE_KIND_"))
	}
	return out
}

func TestTheDeskTellsWhyAPhoneIsNotInSync(t *testing.T) {
	w := newWorld(t)
	ann, ada := w.signIn("ann"), w.signIn("ada")
	w.signIn("ben")
	ada.settle()
	from := w.clock.Load()
	if _, err := ann.sync.Sync(t.Context(), &satchelv1.SyncRequest{AppVersion: "2.1", SchemaVersion: 1, Profile: "phone",
		Outbox: &satchelv1.Outbox{Count: 3, OldestMs: from - 2*3600_000, MediaBytes: 5 << 20}}); err != nil {
		t.Fatal(err)
	}
	var got map[string]*satchelv1.SyncState
	w.eventually("what the phone told is noted", func() bool {
		got = states(t, ada, &satchelv1.ListSyncStateRequest{})
		return got["ann"].LastContactMs == from && got["ada"].LastContactMs == from
	})
	s := got["ann"]
	if s.AppVersion != "2.1" || s.Profile != "phone" || s.SchemaVersion != 1 || s.OutboxCount != 3 || s.MediaBytes != 5<<20 || s.OutboxOldestMs != from-2*3600_000 {
		t.Errorf("got %v", s)
	}
	if k := kinds(s); !slices.Equal(k, []string{"STUCK", "MEDIA_WAITING"}) {
		t.Errorf("the troubles are %v", s.Troubles)
	}
	if k := kinds(got["ben"]); !slices.Equal(k, []string{"NEVER_SYNCED"}) {
		t.Errorf("a phone that never synced: %v", k)
	}
	if k := kinds(got["ada"]); len(k) > 0 || got["ada"].Lag != 0 {
		t.Errorf("a phone that has all: %v", got["ada"])
	}
	if got := states(t, ada, &satchelv1.ListSyncStateRequest{Troubled: true, PersonId: ada.person}); len(got) != 0 {
		t.Errorf("a person without troubles: %v", got)
	}

	w.pass(25 * time.Hour)
	ada.signIn("ada") // on another phone
	list, err := ada.desk.ListSyncState(t.Context(), &satchelv1.ListSyncStateRequest{Limit: 2})
	if err != nil || len(list.Devices) != 2 || list.Next == "" {
		t.Fatalf("a page of two: %v, %v", list, err)
	}
	if first := list.Devices[0]; first.PersonName != "ann" || !slices.Equal(kinds(first), []string{"STUCK", "SILENT", "MEDIA_WAITING"}) ||
		!strings.Contains(first.Troubles[1].Text, "25 hours") {
		t.Errorf("the first is %v", first)
	}
	rest, err := ada.desk.ListSyncState(t.Context(), &satchelv1.ListSyncStateRequest{After: list.Next})
	if err != nil || len(rest.Devices) != 2 || rest.Next != "" || rest.Devices[0].DeviceId == list.Devices[1].DeviceId {
		t.Errorf("the rest is %v, %v", rest, err)
	}
	_, err = ada.desk.ListSyncState(t.Context(), &satchelv1.ListSyncStateRequest{After: "nonsense"})
	if code, e := detail(t, err); code != connect.CodeInvalidArgument || e.Reason != satchelv1.Reason_REASON_MALFORMED {
		t.Errorf("a page token that is none: %v %v", code, e)
	}
	_, raw := w.post("/satchel.v1.DeskService/ListSyncState", ada.tokens.AccessToken, strings.NewReader(`{}`), "Accept-Language", "zh-CN")
	if !strings.Contains(string(raw), "没有联系") {
		t.Errorf("in Chinese: %s", raw)
	}
}

func TestAPhoneThatHasMoreToPullIsBehindUntilItHasCaughtUp(t *testing.T) {
	w := newWorld(t)
	ann, ada := w.signIn("ann"), w.signIn("ada")
	for range 3 {
		ann.send(ann.mutation(ann.account("x")))
	}
	again := w.signIn("ann")
	one := &satchelv1.SyncRequest{MaxBytes: 1}
	res, err := again.sync.Sync(t.Context(), one)
	if err != nil || !res.Page.GetMore() {
		t.Fatalf("the first page says %v, %v", res, err)
	}
	of := func() *satchelv1.SyncState {
		list, err := ada.desk.ListSyncState(t.Context(), &satchelv1.ListSyncStateRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range list.Devices {
			if s.DeviceId == again.id.String() {
				return s
			}
		}
		t.Fatal("the desk does not know the phone")
		return nil
	}
	w.eventually("it is behind", func() bool { return slices.Equal(kinds(of()), []string{"BEHIND"}) })
	again.cursor = res.Page.Cursor
	again.settle() // within the minute
	w.eventually("it has caught up", func() bool { s := of(); return len(s.Troubles) == 0 && s.Lag == 0 })
}

func TestWhatWasRefusedIsTriedAgainEditedOrDiscardedAtTheDesk(t *testing.T) {
	w := newWorld(t)
	ann, ada := w.signIn("ann"), w.signIn("ada")
	account := ann.account("Orient")
	refuse := func(fields map[string]any) *satchelv1.Mutation {
		t.Helper()
		raw, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		m := ann.mutation(&satchelv1.Op{RecordId: account.RecordId, Kind: "account", BaseRev: 1, Action: &satchelv1.Op_Patch{Patch: &satchelv1.Patch{Fields: string(raw)}}})
		res := ann.send(m)
		if len(res.Verdicts) != 1 || res.Verdicts[0].Status != satchelv1.Status_STATUS_REJECTED {
			t.Fatalf("%v gives %v", fields, res.Verdicts)
		}
		return m
	}
	ann.send(ann.mutation(account))
	for i := range 3 {
		refuse(map[string]any{"level": fmt.Sprintf("z%d", i)})
	}
	open := &satchelv1.ListKeptRequest{DeviceId: ann.id.String(), State: satchelv1.KeptState_KEPT_STATE_OPEN}
	list, err := ada.desk.ListKept(t.Context(), open)
	if err != nil || len(list.Kept) != 3 {
		t.Fatalf("kept are %v, %v", list, err)
	}
	for i, k := range list.Kept { // the newest first
		if k.Number != uint64(4-i) || k.PersonId != ann.person || !strings.Contains(k.Ops[0].GetPatch().GetFields(), fmt.Sprintf("z%d", 2-i)) ||
			k.Verdict.GetStatus() != satchelv1.Status_STATUS_REJECTED || len(k.Withheld) > 0 {
			t.Errorf("kept is %v", k)
		}
	}
	if got := states(t, ada, &satchelv1.ListSyncStateRequest{PersonId: ann.person})["ann"]; got.Kept != 3 || !slices.Contains(kinds(got), "KEPT") {
		t.Errorf("the phone is %v", got)
	}

	retried, err := ada.desk.RetryKept(t.Context(), &satchelv1.RetryKeptRequest{DeviceId: ann.id.String(), Number: 2})
	if err != nil || retried.GetOutcome().GetState() != satchelv1.KeptState_KEPT_STATE_OPEN || retried.GetOutcome().GetVerdict().GetStatus() != satchelv1.Status_STATUS_REJECTED || retried.GetOutcome().GetVerdict().GetNumber() != 0 {
		t.Errorf("tried again as it is: %v, %v", retried, err)
	}
	edited, err := ada.desk.EditKept(t.Context(), &satchelv1.EditKeptRequest{DeviceId: ann.id.String(), Number: 2, Ops: []*satchelv1.Op{
		{RecordId: account.RecordId, Kind: "account", BaseRev: 1, Action: &satchelv1.Op_Patch{Patch: &satchelv1.Patch{Fields: `{"level": "a"}`}}}}})
	if err != nil || edited.GetOutcome().GetState() != satchelv1.KeptState_KEPT_STATE_APPLIED || edited.GetOutcome().GetVerdict().GetStatus() != satchelv1.Status_STATUS_APPLIED {
		t.Errorf("edited: %v, %v", edited, err)
	}
	gone, err := ada.desk.DiscardKept(t.Context(), &satchelv1.DiscardKeptRequest{DeviceId: ann.id.String(), Number: 3})
	if err != nil || gone.GetOutcome().GetState() != satchelv1.KeptState_KEPT_STATE_DISCARDED || gone.GetOutcome().GetVerdict() != nil {
		t.Errorf("discarded: %v, %v", gone, err)
	}
	late, err := ada.desk.RetryKept(t.Context(), &satchelv1.RetryKeptRequest{DeviceId: ann.id.String(), Number: 3})
	if err != nil || late.GetOutcome().GetState() != satchelv1.KeptState_KEPT_STATE_DISCARDED || late.GetOutcome().GetVerdict() != nil || late.GetOutcome().GetReason() != satchelv1.Reason_REASON_SUPERSEDED {
		t.Errorf("behind somebody who was faster: %v, %v", late, err)
	}
	if list, err = ada.desk.ListKept(t.Context(), open); err != nil || len(list.Kept) != 1 || list.Kept[0].Number != 4 {
		t.Errorf("left are %v, %v", list, err)
	}
	_, err = ada.desk.DiscardKept(t.Context(), &satchelv1.DiscardKeptRequest{DeviceId: ann.id.String(), Number: 99})
	if code, e := detail(t, err); code != connect.CodeNotFound || e.Reason != satchelv1.Reason_REASON_NOT_FOUND {
		t.Errorf("of an unknown number: %v %v", code, e)
	}
}

func TestBytesThatAreNoMutationAreShownToWhoMayReadEverything(t *testing.T) {
	w := newWorld(t)
	ann, ada := w.signIn("ann"), w.signIn("ada")
	ann.next++
	ann.send(&satchelv1.Mutation{Number: 1, Id: "no id", Ops: []*satchelv1.Op{ann.account("Secret Orient")}})
	list, err := ada.desk.ListKept(t.Context(), &satchelv1.ListKeptRequest{PersonId: ann.person})
	if err != nil || len(list.Kept) != 1 || !strings.Contains(string(list.Kept[0].Malformed), "Secret Orient") || len(list.Kept[0].Ops) > 0 {
		t.Errorf("got %v, %v", list, err)
	}
}
