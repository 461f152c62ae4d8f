package server

import (
	"context"
	"strings"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/desk"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/syncengine"
)

type deskService struct{ *Server }

// ListSyncState gives devices, those with troubles first.
func (s deskService) ListSyncState(ctx context.Context, in *satchelv1.ListSyncStateRequest) (*satchelv1.ListSyncStateResponse, error) {
	person, err := optionalID("person_id", in.PersonId)
	if err != nil {
		return nil, err
	}
	states, next, err := s.cfg.Desk.States(ctx, principal(ctx), desk.StateFilter{
		Person: person, Troubled: in.Troubled, Limit: int(in.Limit), After: in.After})
	if err != nil {
		return nil, err
	}
	out := &satchelv1.ListSyncStateResponse{Next: next, Devices: make([]*satchelv1.SyncState, 0, len(states))}
	for _, st := range states {
		one := &satchelv1.SyncState{
			DeviceId: text(st.Device), PersonId: text(st.Person), PersonName: st.PersonName, DeviceName: st.Name, Platform: st.Platform,
			AppVersion: st.AppVersion, SchemaVersion: uint32(st.SchemaVersion), Profile: st.Profile, LastContactMs: millis(st.Contact),
			OutboxCount: st.Outbox, OutboxOldestMs: millis(st.Oldest), MediaBytes: st.MediaBytes, Lag: st.Lag, Kept: uint32(st.Kept),
			RevokedMs: millis(st.Revoked),
		}
		for _, tr := range st.Troubles {
			w := words{tr.ZH, tr.EN}
			one.Troubles = append(one.Troubles, &satchelv1.Trouble{Text: w.in(ctx),
				Kind: satchelv1.TroubleKind(satchelv1.TroubleKind_value["TROUBLE_KIND_"+string(tr.Kind)])})
		}
		out.Devices = append(out.Devices, one)
	}
	return out, nil
}

// ListKept gives mutations that wait for somebody to settle them.
func (s deskService) ListKept(ctx context.Context, in *satchelv1.ListKeptRequest) (*satchelv1.ListKeptResponse, error) {
	device, err := optionalID("device_id", in.DeviceId)
	if err != nil {
		return nil, err
	}
	person, err := optionalID("person_id", in.PersonId)
	if err != nil {
		return nil, err
	}
	list, next, err := s.cfg.Desk.Kept(ctx, principal(ctx), syncengine.KeptFilter{
		Device: device, Person: person, State: stateOf(in.State), Limit: int(in.Limit), After: in.After})
	if err != nil {
		return nil, err
	}
	out := &satchelv1.ListKeptResponse{Next: next}
	for _, k := range list {
		one := &satchelv1.Kept{
			DeviceId: text(k.Device), Number: k.Number, Id: text(k.ID), PersonId: text(k.Person), EventMs: k.EventMS, ReceivedMs: millis(k.At),
			Verdict: wireVerdict(k.Verdict), Withheld: k.Withheld, Malformed: k.Malformed, WaitsFor: text(k.WaitsFor),
			State: wireState(k.State), SettledBy: text(k.SettledBy),
		}
		for _, op := range k.Ops {
			one.Ops = append(one.Ops, wireOp(op))
		}
		out.Kept = append(out.Kept, one)
	}
	return out, nil
}

// RetryKept applies a kept mutation again.
func (s deskService) RetryKept(ctx context.Context, in *satchelv1.RetryKeptRequest) (*satchelv1.RetryKeptResponse, error) {
	device, err := parseID("device_id", in.DeviceId)
	if err != nil {
		return nil, err
	}
	out, err := settled(s.cfg.Desk.Retry(ctx, principal(ctx), device, in.Number))
	if err != nil {
		return nil, err
	}
	return &satchelv1.RetryKeptResponse{Outcome: out}, nil
}

// EditKept applies other ops in its place.
func (s deskService) EditKept(ctx context.Context, in *satchelv1.EditKeptRequest) (*satchelv1.EditKeptResponse, error) {
	device, err := parseID("device_id", in.DeviceId)
	if err != nil {
		return nil, err
	}
	ops := make([]syncengine.Op, 0, len(in.Ops))
	for _, op := range in.Ops {
		ops = append(ops, opOf(op))
	}
	out, err := settled(s.cfg.Desk.Edit(ctx, principal(ctx), device, in.Number, ops))
	if err != nil {
		return nil, err
	}
	return &satchelv1.EditKeptResponse{Outcome: out}, nil
}

// settled tells what became of a new try; the verdict is of nobody's queue.
func settled(v syncengine.Verdict, state string, err error) (*satchelv1.KeptOutcome, error) {
	if err != nil {
		return nil, err
	}
	v.Number = 0
	out := &satchelv1.KeptOutcome{Verdict: wireVerdict(v), State: wireState(state)}
	if v.Status == syncengine.Stale && v.Reason == satchel.ReasonSuperseded && state != syncengine.KeptOpen {
		out.Verdict, out.Reason = nil, satchelv1.Reason_REASON_SUPERSEDED // somebody else was faster, and nothing was tried
	}
	return out, nil
}

// DiscardKept closes one.
func (s deskService) DiscardKept(ctx context.Context, in *satchelv1.DiscardKeptRequest) (*satchelv1.DiscardKeptResponse, error) {
	device, err := parseID("device_id", in.DeviceId)
	if err != nil {
		return nil, err
	}
	state, err := s.cfg.Desk.Discard(ctx, principal(ctx), device, in.Number)
	if err != nil {
		return nil, err
	}
	out := &satchelv1.KeptOutcome{State: wireState(state)}
	if state != syncengine.KeptDiscarded {
		out.Reason = satchelv1.Reason_REASON_SUPERSEDED
	}
	return &satchelv1.DiscardKeptResponse{Outcome: out}, nil
}

// ListSalvage gives rows that devices still held after a restore.
func (s deskService) ListSalvage(ctx context.Context, in *satchelv1.ListSalvageRequest) (*satchelv1.ListSalvageResponse, error) {
	rows, next, err := s.cfg.Desk.Salvaged(ctx, principal(ctx), int(in.Limit), in.After)
	if err != nil {
		return nil, err
	}
	out := &satchelv1.ListSalvageResponse{Next: next}
	for _, r := range rows {
		out.Rows = append(out.Rows, &satchelv1.Salvaged{
			Row:      &satchelv1.Change{RecordId: text(r.Record), Kind: r.Kind, Rev: r.Rev, Fields: utf8Text(r.Fields), AuthorId: text(r.Author), EventMs: r.EventMS},
			DeviceId: text(r.Device), PersonId: text(r.Person), ReceivedMs: millis(r.At), StandingRev: r.StandingRev,
		})
	}
	return out, nil
}

// ResolveSalvage brings a row back, or discards it.
func (s deskService) ResolveSalvage(ctx context.Context, in *satchelv1.ResolveSalvageRequest) (*satchelv1.ResolveSalvageResponse, error) {
	record, err := parseID("record_id", in.RecordId)
	if err != nil {
		return nil, err
	}
	v, err := s.cfg.Desk.Resolve(ctx, principal(ctx), record, in.Restore)
	if err != nil {
		return nil, err
	}
	out := &satchelv1.ResolveSalvageResponse{}
	if in.Restore {
		out.Verdict = wireVerdict(v)
	}
	return out, nil
}

// stateOf gives a state as the engine spells it; "" = any.
func stateOf(s satchelv1.KeptState) string {
	if s == satchelv1.KeptState_KEPT_STATE_UNSPECIFIED {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(s.String(), "KEPT_STATE_"))
}

func wireState(s string) satchelv1.KeptState {
	return satchelv1.KeptState(satchelv1.KeptState_value["KEPT_STATE_"+strings.ToUpper(s)])
}

// wireOp spells an op as it came.
func wireOp(op syncengine.Op) *satchelv1.Op {
	out := &satchelv1.Op{RecordId: text(op.Record), Kind: utf8Text(op.Kind), BaseRev: op.BaseRev}
	switch op.Action {
	case syncengine.Create:
		out.Action = &satchelv1.Op_Create{Create: &satchelv1.Create{Fields: utf8Text(op.Fields)}}
	case syncengine.Patch:
		patch := &satchelv1.Patch{Fields: utf8Text(op.Fields)}
		for _, e := range op.Sets {
			patch.Sets = append(patch.Sets, &satchelv1.SetEdit{Field: e.Field, Add: e.Add, Remove: e.Remove})
		}
		for _, i := range op.Increments {
			patch.Increments = append(patch.Increments, &satchelv1.Increment{Field: i.Field, By: i.By})
		}
		out.Action = &satchelv1.Op_Patch{Patch: patch}
	case syncengine.Delete:
		out.Action = &satchelv1.Op_Delete{Delete: &satchelv1.Delete{}}
	case syncengine.Command:
		out.Action = &satchelv1.Op_Command{Command: &satchelv1.Command{Name: utf8Text(op.Name), Args: utf8Text(op.Args)}}
	}
	return out
}

// utf8Text gives a text that the wire can hold.
func utf8Text[T string | ~[]byte](s T) string {
	return strings.ToValidUTF8(string(s), "\uFFFD")
}
