package server

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"

	satchel "github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/gen/satchel/v1/satchelv1connect"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine"
)

type syncService struct {
	satchelv1connect.UnimplementedSyncServiceHandler
	*Server
	validator protovalidate.Validator
}

// Sync applies, then pulls. Once something is known of a mutation, no later failure takes that answer away.
func (s syncService) Sync(ctx context.Context, in *satchelv1.SyncRequest) (*satchelv1.SyncResponse, error) {
	p := principal(ctx)
	if p.Device.IsZero() {
		return nil, satchel.E(satchel.Denied, satchel.ReasonNotAllowed, "only a device syncs; sign in on one")
	}
	out := &satchelv1.SyncResponse{ServerTimeMs: s.cfg.Now().UnixMilli()}
	if order, err := s.restored(ctx, p, in); err != nil || order != nil {
		out.Directives = order
		return out, err
	}
	pull := syncengine.PullRequest{Cursor: in.Cursor, MaxBytes: int(min(in.MaxBytes, syncengine.MaxPageBytes)), Profile: in.Profile}
	if len(in.Mutations) > 0 {
		batch, err := s.batchOf(p, in)
		if err != nil {
			return nil, err
		}
		for i := range batch.Mutations {
			batch.Mutations[i].TooOld = s.tooOld(ctx)
		}
		outcome, err := s.cfg.Engine.Apply(ctx, p, batch)
		if err != nil {
			return nil, err
		}
		pull.After, pull.Sent = s.answer(ctx, p, outcome, out), outcome.Sent
	}
	if s.tooOld(ctx) {
		out.Page = &satchelv1.Page{} // without one, it would take what it has for all that there is
		out.Directives = append(out.Directives, &satchelv1.Directive{Order: &satchelv1.Directive_Upgrade{
			Upgrade: &satchelv1.Upgrade{MinProtocol: s.cfg.MinProtocol}}})
	} else if !in.NoPage {
		if err := s.page(ctx, p, pull, out); err != nil {
			return nil, err
		}
		// What this replica knew of the database's line may have been of before a restore; by now it has looked. A device
		// that took a page or a repair of the new line first would never be told what it must offer again.
		if len(out.Directives) == 0 || out.Directives[0].GetRepair() != nil {
			order, err := s.restored(ctx, p, in)
			switch {
			case err == nil && order != nil:
				out.Page, out.Directives = nil, order
			case err != nil && len(out.Verdicts) == 0:
				return nil, err
			case err != nil:
				out.Page, out.Directives = &satchelv1.Page{More: true}, nil
			}
		}
	}
	s.contacts.note(ctx, p, contactOf(ctx, in, out))
	return out, nil
}

// restored gives the order to offer again what the database has lost of what the device was told; nil = nothing.
func (s syncService) restored(ctx context.Context, p *satchel.Principal, in *satchelv1.SyncRequest) ([]*satchelv1.Directive, error) {
	lost, err := s.cfg.Engine.Restored(ctx, p, in.SeenSeq, in.Cursor)
	if err != nil || lost == nil {
		return nil, err
	}
	return []*satchelv1.Directive{{Order: &satchelv1.Directive_Restored{
		Restored: &satchelv1.Restored{AfterSeq: lost.AfterSeq, ExpectedNumber: lost.Expected, Seq: lost.Seq}}}}, nil
}

// page adds what changed, or the order to repair.
func (s syncService) page(ctx context.Context, p *satchel.Principal, r syncengine.PullRequest, out *satchelv1.SyncResponse) error {
	page, err := s.cfg.Engine.Pull(ctx, p, r)
	switch {
	case err == nil && page != nil && page.Repair != nil:
		out.Directives = append(out.Directives, &satchelv1.Directive{Order: &satchelv1.Directive_Repair{
			Repair: &satchelv1.RepairOrder{Salvage: page.Repair.Salvage}}})
	case err == nil:
		out.Page = wirePage(page)
	case len(out.Verdicts)+len(out.Directives) == 0 && out.ExpectedNumber == 0:
		return err
	default: // the verdicts are worth more than the page; the next call asks for it again
		out.Page = &satchelv1.Page{More: true}
		s.log.WarnContext(ctx, "a page failed behind verdicts", "request", callOf(ctx).id, "error", causeText(err))
	}
	return nil
}

// answer writes what became of the batch, and gives the commit after which the page must look.
func (s syncService) answer(ctx context.Context, p *satchel.Principal, o syncengine.Outcome, out *satchelv1.SyncResponse) (after uint64) {
	for _, v := range o.Verdicts {
		out.Verdicts = append(out.Verdicts, wireVerdict(v))
		s.metrics.mutation(v.Status)
		after = max(after, v.Seq)
	}
	if o.Undone != "" {
		s.metrics.undone(o.Undone)
	}
	if o.Fork {
		if s.cfg.Forker == nil {
			out.ExpectedNumber = o.Expected
			return after
		}
		id, err := s.cfg.Forker.ForkDevice(ctx, p)
		if err != nil { // no verdict, no order: the device sends the same again
			s.log.ErrorContext(ctx, "a device could not be forked", "request", callOf(ctx).id, "error", causeText(err))
			out.ExpectedNumber = o.Expected
			return after
		}
		out.Directives = append(out.Directives, &satchelv1.Directive{
			Order: &satchelv1.Directive_Fork{Fork: &satchelv1.Fork{DeviceId: id.String()}}})
		return after
	}
	if n := len(o.Verdicts); n == 0 || o.Expected != o.Verdicts[n-1].Number+1 {
		out.ExpectedNumber = o.Expected
	}
	return after
}

// Wait tells when to pull. A server that ends sends its waiting devices away, to another replica.
func (s syncService) Wait(ctx context.Context, in *satchelv1.WaitRequest) (*satchelv1.WaitResponse, error) {
	if s.draining.Load() {
		return nil, &satchel.Error{Kind: satchel.Unavailable, Reason: satchel.ReasonDraining,
			Detail: "this replica is shutting down: call again, another answers", RetryAfter: time.Second}
	}
	p := principal(ctx)
	if !s.waits.enter(p.Device) {
		return nil, &satchel.Error{Kind: satchel.Exhausted, Reason: satchel.ReasonRateLimited, RetryAfter: waitsPause,
			Detail: "this device waits already, more often than a phone that loses its connections does"}
	}
	defer s.waits.leave(p.Device)
	s.metrics.waiting.Inc()
	defer s.metrics.waiting.Dec()
	wake, err := s.cfg.Engine.Wait(ctx, p, in.Cursor, s.drain.Done())
	if err != nil {
		return nil, err
	}
	return &satchelv1.WaitResponse{Wake: wake}, nil
}

// mostWaits is how many calls of Wait a device has at once: one, and those that the server does not know to be dead yet.
const (
	mostWaits  = 8
	waitsPause = 5 * time.Second
)

// waits counts the calls of Wait by device.
type waits struct {
	mu sync.Mutex
	n  map[satchel.ID]int
}

func (w *waits) enter(device satchel.ID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.n[device] >= mostWaits {
		return false
	}
	w.n[device]++
	return true
}

func (w *waits) leave(device satchel.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.n[device]--; w.n[device] <= 0 {
		delete(w.n, device)
	}
}

// batchOf reads the mutations. One that does not have the documented form goes on as its bytes: the engine refuses it
// with a verdict and keeps them, so it blocks nothing behind it (S5). A number is the exception: without it there is
// no place in the queue to refuse.
func (s syncService) batchOf(p *satchel.Principal, in *satchelv1.SyncRequest) (syncengine.Batch, error) {
	b := syncengine.Batch{
		Confirmed: in.Confirmed, Outbox: outboxBehind(in.Outbox, len(in.Mutations)), SchemaVersion: int(in.SchemaVersion),
		Completes: in.CompletesRows && !in.NoPage,
		Mutations: make([]syncengine.Mutation, 0, len(in.Mutations)),
	}
	for _, c := range in.ClockPairs {
		b.Pairs = append(b.Pairs, syncengine.ClockPair{Boot: c.Boot, MonotonicMS: c.MonotonicMs, ServerMS: c.ServerMs})
	}
	for i, m := range in.Mutations {
		if m.Number == 0 {
			return b, satchel.E(satchel.Invalid, satchel.ReasonMalformed, "mutations[%d].number begins at 1", i)
		}
		one, ok := s.mutationOf(m)
		if !ok {
			raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
			if err != nil {
				return b, err
			}
			if one.ID.IsZero() { // a replay must be known again, so the id follows from what was sent as one
				one.ID = satchel.DerivedID(p.Device, "malformed:"+m.Id)
			}
			one = syncengine.Mutation{Number: m.Number, ID: one.ID, Malformed: raw}
		}
		b.Mutations = append(b.Mutations, one)
	}
	return b, nil
}

// mutationOf reads one mutation; false = it does not have the documented form.
func (s syncService) mutationOf(m *satchelv1.Mutation) (syncengine.Mutation, bool) {
	out := syncengine.Mutation{Number: m.Number, Token: m.CheckpointToken, SchemaVersion: int(m.SchemaVersion)}
	var err error
	if out.ID, err = satchel.ParseID(m.Id); err != nil {
		return out, false
	}
	look := m
	if len(m.Ops) > syncengine.MaxOps { // the engine says TOO_LARGE, which tells more than MALFORMED
		look = proto.CloneOf(m)
		look.Ops = look.Ops[:syncengine.MaxOps]
		m.Ops = m.Ops[:syncengine.MaxOps+1]
	}
	if s.validator.Validate(look) != nil {
		return out, false
	}
	if r := m.Recorded; r != nil {
		out.Recorded = syncengine.ClockReading{Boot: r.Boot, MonotonicMS: r.MonotonicMs, WallMS: r.WallMs}
	}
	for _, op := range m.Ops {
		out.Ops = append(out.Ops, opOf(op))
	}
	if m.Skip != nil {
		out.Skip = &syncengine.Skip{To: m.Skip.To, Why: m.Skip.Why}
	}
	if m.Envelope != nil {
		out.Envelope = &syncengine.Envelope{Size: m.Envelope.Size, SHA256: m.Envelope.Sha256}
	}
	alone := 0
	for _, has := range []bool{len(m.Ops) > 0, m.Skip != nil, m.Envelope != nil} {
		if has {
			alone++
		}
	}
	return out, alone <= 1
}

// opOf reads an op that was checked; of one behind the limit an id that is none stays zero.
func opOf(in *satchelv1.Op) syncengine.Op {
	op := syncengine.Op{Kind: in.Kind, BaseRev: in.BaseRev}
	op.Record, _ = satchel.ParseID(in.RecordId)
	switch a := in.Action.(type) {
	case *satchelv1.Op_Create:
		op.Action, op.Fields = syncengine.Create, object(a.Create.GetFields())
	case *satchelv1.Op_Patch:
		op.Action, op.Fields = syncengine.Patch, object(a.Patch.GetFields())
		for _, e := range a.Patch.GetSets() {
			op.Sets = append(op.Sets, schema.SetEdit{Field: e.Field, Add: e.Add, Remove: e.Remove})
		}
		for _, inc := range a.Patch.GetIncrements() {
			op.Increments = append(op.Increments, schema.Increment{Field: inc.Field, By: inc.By})
		}
	case *satchelv1.Op_Delete:
		op.Action = syncengine.Delete
	case *satchelv1.Op_Command:
		op.Action, op.Name, op.Args = syncengine.Command, a.Command.GetName(), object(a.Command.GetArgs())
	}
	return op
}

// object gives JSON that a client wrote; empty = none. The engine looks into it.
func object(s string) json.RawMessage {
	if s == "" {
		return nil
	}
	return json.RawMessage(s)
}

// outboxBehind gives what waits on a device behind the mutations of this call, which are on their way.
func outboxBehind(o *satchelv1.Outbox, sent int) syncengine.Outbox {
	out := syncengine.Outbox{Count: o.GetCount(), OldestMS: o.GetOldestMs(), MediaBytes: o.GetMediaBytes()}
	if out.Count -= min(out.Count, uint32(sent)); out.Count == 0 {
		out.OldestMS = 0
	}
	return out
}

// contactOf gives what the office is told of a call.
func contactOf(ctx context.Context, in *satchelv1.SyncRequest, out *satchelv1.SyncResponse) syncengine.ContactNote {
	n := syncengine.ContactNote{
		Confirmed: in.Confirmed, Outbox: outboxBehind(in.Outbox, len(out.Verdicts)), Cursor: in.Cursor, AppVersion: in.AppVersion,
		Profile: in.Profile, SchemaVersion: int(in.SchemaVersion), Protocol: int(callOf(ctx).protocol), Behind: out.Page.GetMore(),
	}
	if next := out.Page.GetCursor(); next != nil {
		n.Cursor = next
	}
	for _, d := range out.Directives {
		switch d.Order.(type) {
		case *satchelv1.Directive_Repair, *satchelv1.Directive_Restored:
			n.Behind = true
		}
	}
	return n
}

func wireVerdict(v syncengine.Verdict) *satchelv1.Verdict {
	out := &satchelv1.Verdict{
		Number: v.Number, Status: satchelv1.Status(satchelv1.Status_value["STATUS_"+string(v.Status)]),
		Seq: v.Seq, AttentionId: text(v.Attention), Detail: v.Detail,
	}
	if v.Reason != "" {
		out.Reason = protoReason(v.Reason)
	}
	for _, p := range v.Paths {
		out.Paths = append(out.Paths, &satchelv1.Path{RecordId: text(p.Record), Path: p.Path})
	}
	for _, n := range v.Notes {
		out.Notes = append(out.Notes, satchelv1.Note(satchelv1.Note_value["NOTE_"+string(n)]))
	}
	return out
}

func wirePage(p *syncengine.Page) *satchelv1.Page {
	if p == nil {
		return nil
	}
	out := &satchelv1.Page{
		Cursor: p.Cursor, DroppedBuckets: numbers(p.Dropped), Checkpoint: p.Checkpoint, More: p.More, Seq: p.Seq,
		Token: p.Token, SchemaVersion: uint32(p.SchemaVersion), Digest: wireDigest(p.Digest),
		SettledPriority: uint32(p.SettledPriority), FollowedMonths: uint32(p.FollowedMonths),
	}
	for _, d := range p.DroppedKinds {
		out.DroppedKinds = append(out.DroppedKinds, &satchelv1.DroppedKind{Bucket: uint64(d.Bucket), Kind: d.Kind})
	}
	out.Narrowed, out.Changes = wireNarrowed(p.Narrowed), wireChanges(p.Changes)
	if p.Forms != nil {
		out.Forms = wireForms(p.Forms)
	}
	return out
}

// wireNarrowed gives fields by kind, sorted.
func wireNarrowed(in map[string][]string) (out []*satchelv1.Narrowed) {
	for _, kind := range slices.Sorted(maps.Keys(in)) {
		out = append(out, &satchelv1.Narrowed{Kind: kind, Fields: in[kind]})
	}
	return out
}

func wireChanges(in []syncengine.RowChange) []*satchelv1.Change {
	out := make([]*satchelv1.Change, 0, len(in))
	for _, c := range in {
		out = append(out, &satchelv1.Change{
			RecordId: c.Record.String(), Kind: c.Kind, Rev: c.Rev, Entered: numbers(c.Entered), Left: numbers(c.Left),
			Fields: string(c.Fields), Deleted: c.Deleted, AuthorId: text(c.Author), EventMs: c.EventMS,
			MergedInto: text(c.MergedInto), AsSent: c.AsSent,
		})
	}
	return out
}

func numbers(in []int64) []uint64 {
	if len(in) == 0 {
		return nil
	}
	out := make([]uint64, len(in))
	for i, n := range in {
		out[i] = uint64(n)
	}
	return out
}

// contacts notes the last contact of devices, beside their answers: at most once a minute for each, but for the call by
// which one that was told behind has caught up, and never more than a few at a time. What is left out for want of room
// is noted a call later.
type contacts struct {
	engine Engine
	now    func() time.Time
	log    *slog.Logger
	slots  chan struct{}
	work   sync.WaitGroup

	mu   sync.Mutex
	last map[satchel.ID]contact // by device
}

// contact is what was noted last of a device.
type contact struct {
	at     time.Time
	behind bool
}

// contactSlots and contactDevices bound the work and the memory of contacts.
const (
	contactSlots   = 4
	contactDevices = 20_000
	contactTime    = 5 * time.Second
)

func newContacts(e Engine, now func() time.Time, log *slog.Logger) *contacts {
	return &contacts{engine: e, now: now, log: log, slots: make(chan struct{}, contactSlots), last: map[satchel.ID]contact{}}
}

func (c *contacts) note(ctx context.Context, p *satchel.Principal, n syncengine.ContactNote) {
	now := c.now()
	c.mu.Lock()
	last, known := c.last[p.Device]
	c.mu.Unlock()
	if known && now.Sub(last.at) < contactEvery && (n.Behind || !last.behind) {
		return
	}
	select {
	case c.slots <- struct{}{}:
	default:
		return
	}
	c.mu.Lock()
	if len(c.last) >= contactDevices {
		clear(c.last)
	}
	c.last[p.Device] = contact{now, n.Behind}
	c.mu.Unlock()
	who := *p
	c.work.Go(func() {
		defer func() { <-c.slots }()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), contactTime)
		defer cancel()
		if err := c.engine.Contact(ctx, &who, n); err != nil {
			c.log.WarnContext(ctx, "a contact could not be noted", "device", who.Device, "error", causeText(err))
		}
	})
}

// wait ends when nothing is being noted any more.
func (c *contacts) wait() { c.work.Wait() }
