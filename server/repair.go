package server

import (
	"context"
	"slices"
	"sync"
	"time"

	satchel "github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/syncengine"
)

// The limits of repairs. A step reads up to 5,000 records, and after a restore every phone repairs at once.
const (
	mostRepairs  = 4                       // steps at once on this replica
	repairWait   = 2 * time.Second         // for one of them
	repairPause  = time.Second             // before a device that was sent away comes back, and up to
	repairSpread = 3000                    // milliseconds more, by its id, so that they do not come together
	maxRepairIDs = 500                     // records whose rows are asked for at once
	maxSalvage   = 1 << 20                 // bytes of the fields of salvaged rows in a call
	idSize       = len(satchel.ID{})       // bytes
	maxIDBytes   = maxRepairIDs * idSize   // of RepairRows.records
	_            = uint(8000 - maxIDBytes) // the proto's bound
)

// Repair answers one step of a repair (S17).
func (s syncService) Repair(ctx context.Context, in *satchelv1.RepairRequest) (*satchelv1.RepairResponse, error) {
	p := principal(ctx)
	if p.Device.IsZero() {
		return nil, satchel.E(satchel.Denied, satchel.ReasonNotAllowed, "only a device repairs; sign in on one")
	}
	if s.cfg.Repairer == nil {
		return nil, absent()
	}
	if err := s.repairs.enter(ctx, p.Device); err != nil {
		return nil, err
	}
	defer s.repairs.leave(p.Device)
	out := &satchelv1.RepairResponse{}
	switch step := in.Step.(type) {
	case *satchelv1.RepairRequest_Start:
		plan, err := s.cfg.Repairer.RepairStart(ctx, p, in.Profile, formsOf(step.Start.GetForms()))
		if err != nil {
			return nil, err
		}
		out.Plan = wirePlan(plan)
	case *satchelv1.RepairRequest_Revs:
		after, err := oneID(step.Revs.GetAfter())
		if err != nil {
			return nil, err
		}
		revs, err := s.cfg.Repairer.RepairRevs(ctx, p, in.Profile, int64(step.Revs.GetBucket()), step.Revs.GetKind(), after)
		if err != nil {
			return nil, err
		}
		out.Revs = &satchelv1.RecordRevs{Records: idBytes(revs.Records), Revs: revs.Revs, More: revs.More}
	case *satchelv1.RepairRequest_Rows:
		ids, err := idsOf(step.Rows.GetRecords())
		if err != nil {
			return nil, err
		}
		rows, answered, err := s.cfg.Repairer.RepairRows(ctx, p, in.Profile, ids)
		if err != nil {
			return nil, err
		}
		out.Changes, out.Answered = wireChanges(rows), uint32(answered)
	case *satchelv1.RepairRequest_Salvage:
		rows, err := salvagedOf(step.Salvage.GetRows())
		if err != nil {
			return nil, err
		}
		if err := s.cfg.Repairer.Salvage(ctx, p, rows); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// formsOf gives what the device has stored; nil = nothing.
func formsOf(in *satchelv1.Forms) []syncengine.Form {
	if in == nil {
		return nil
	}
	out := make([]syncengine.Form, 0, len(in.Forms))
	for _, f := range in.Forms {
		out = append(out, syncengine.Form{Kind: f.Kind, Form: f.Form})
	}
	return out
}

func wireForms(in []syncengine.Form) *satchelv1.Forms {
	out := &satchelv1.Forms{}
	for _, f := range in {
		out.Forms = append(out.Forms, &satchelv1.Form{Kind: f.Kind, Form: f.Form})
	}
	return out
}

func wireDigest(d *syncengine.Digest) *satchelv1.Digest {
	if d == nil {
		return nil
	}
	return &satchelv1.Digest{Count: d.Count, Sum: d.Sum}
}

func wirePlan(in *syncengine.RepairPlan) *satchelv1.RepairPlan {
	out := &satchelv1.RepairPlan{Cursor: in.Cursor, StaleKinds: in.StaleKinds, Narrowed: wireNarrowed(in.Narrowed),
		Forms: wireForms(in.Forms), Seq: in.Seq, Buckets: make([]*satchelv1.BucketDigest, 0, len(in.Buckets))}
	for _, b := range in.Buckets {
		one := &satchelv1.BucketDigest{Bucket: uint64(b.Bucket), Kind: b.Kind}
		if b.Digest.Count > 0 {
			one.Digest = wireDigest(&b.Digest)
		}
		out.Buckets = append(out.Buckets, one)
	}
	return out
}

// oneID reads the last id of the answer before; empty = none.
func oneID(raw []byte) (id satchel.ID, err error) {
	if len(raw) == 0 {
		return id, nil
	}
	if len(raw) != idSize {
		return id, satchel.E(satchel.Invalid, satchel.ReasonMalformed, "after is the 16 bytes of a record's id, or absent")
	}
	copy(id[:], raw)
	return id, nil
}

func idsOf(raw []byte) ([]satchel.ID, error) {
	if len(raw) == 0 || len(raw)%idSize != 0 || len(raw) > maxIDBytes {
		return nil, satchel.E(satchel.Invalid, satchel.ReasonMalformed, "records are 1 to %d ids of 16 bytes each, one after another", maxRepairIDs)
	}
	out := make([]satchel.ID, 0, len(raw)/idSize)
	for one := range slices.Chunk(raw, idSize) {
		out = append(out, satchel.ID(one))
	}
	return out, nil
}

func idBytes(ids []satchel.ID) []byte {
	out := make([]byte, 0, len(ids)*idSize)
	for _, id := range ids {
		out = append(out, id[:]...)
	}
	return out
}

// salvagedOf reads rows as the device holds them.
func salvagedOf(in []*satchelv1.Change) ([]syncengine.SalvagedRow, error) {
	out := make([]syncengine.SalvagedRow, 0, len(in))
	size := 0
	for i, c := range in {
		id, err := satchel.ParseID(c.RecordId)
		if err != nil || c.Kind == "" || len(c.Kind) > 63 || c.Rev == 0 || c.Fields == "" {
			return nil, satchel.E(satchel.Invalid, satchel.ReasonMalformed, "rows[%d] has the id, kind, rev and fields of a record as the device holds it", i)
		}
		author, err := optionalID("author_id", c.AuthorId)
		if err != nil {
			return nil, err
		}
		if size += len(c.Fields); size > maxSalvage {
			return nil, satchel.E(satchel.Exhausted, satchel.ReasonTooLarge, "the rows of a call have at most %d bytes of fields; send less at once", maxSalvage)
		}
		out = append(out, syncengine.SalvagedRow{Record: id, Kind: c.Kind, Rev: c.Rev, Fields: object(c.Fields), Author: author, EventMS: c.EventMs})
	}
	return out, nil
}

// repairs bounds the steps of repairs: one at once for a device, few on a replica.
type repairs struct {
	slots chan struct{}
	mu    sync.Mutex
	busy  map[satchel.ID]bool
}

func newRepairs() *repairs {
	return &repairs{slots: make(chan struct{}, mostRepairs), busy: map[satchel.ID]bool{}}
}

// enter waits a little for a slot; the error says when to come back.
func (r *repairs) enter(ctx context.Context, device satchel.ID) error {
	r.mu.Lock()
	busy := r.busy[device]
	r.busy[device] = true
	r.mu.Unlock()
	if busy {
		return later(device, "a step of this device's repair is running: wait for its answer")
	}
	timer := time.NewTimer(repairWait)
	defer timer.Stop()
	select {
	case r.slots <- struct{}{}:
		return nil
	case <-timer.C:
		r.forget(device)
		return later(device, "other devices repair just now: come back")
	case <-ctx.Done():
		r.forget(device)
		return ctx.Err()
	}
}

func (r *repairs) leave(device satchel.ID) {
	<-r.slots
	r.forget(device)
}

func (r *repairs) forget(device satchel.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.busy, device)
}

// later sends a device away for a while of its own.
func later(device satchel.ID, detail string) error {
	spread := time.Duration((int(device[idSize-2])<<8|int(device[idSize-1]))%repairSpread) * time.Millisecond
	return &satchel.Error{Kind: satchel.Exhausted, Reason: satchel.ReasonRateLimited, Detail: detail, RetryAfter: repairPause + spread}
}
