package desk

import (
	"context"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/syncengine"
)

// KeptMutation is a kept mutation as a reader may see it: its ops without the values that he may not read.
type KeptMutation struct {
	syncengine.Kept // its Mutation and Bytes are nil: see Ops and Malformed
	Ops             []syncengine.Op
	Withheld        []string // fields left out, as "kind.field"
	Malformed       []byte   // as it came, where it is no mutation; only for who may read every field
}

// Kept lists mutations that were refused, conflicting or not understood, the newest first, and where the next page
// begins ("" = there is none). Needs the right [Right].
func (d *Desk) Kept(ctx context.Context, p *satchel.Principal, f syncengine.KeptFilter) ([]KeptMutation, string, error) {
	r, err := d.may(ctx, p)
	if err != nil {
		return nil, "", err
	}
	list, next, err := d.cfg.Engine.Kept(ctx, p.Org, f)
	if err != nil {
		return nil, "", err
	}
	out := make([]KeptMutation, 0, len(list))
	for _, k := range list {
		out = append(out, r.kept(k))
	}
	return out, next, nil
}

func (r reader) kept(k syncengine.Kept) KeptMutation {
	out := KeptMutation{Kept: k}
	out.Mutation, out.Bytes = nil, nil
	switch {
	case k.Mutation != nil:
		out.Ops, out.Withheld = Withhold(r.schema, r.grants, k.Mutation.Ops)
	case r.readsAll():
		out.Malformed = k.Bytes
	}
	return out
}

// Retry applies a kept mutation again, in its author's name and under his rights of now; the string is its state after
// that. Needs the right [Right].
func (d *Desk) Retry(ctx context.Context, p *satchel.Principal, device satchel.ID, number uint64) (syncengine.Verdict, string, error) {
	if _, err := d.may(ctx, p); err != nil {
		return syncengine.Verdict{}, "", err
	}
	return d.cfg.Engine.RetryKept(ctx, p, device, number)
}

// Edit applies other ops in place of a kept mutation's, in the name and under the rights of the caller. Needs the right
// [Right].
func (d *Desk) Edit(ctx context.Context, p *satchel.Principal, device satchel.ID, number uint64, ops []syncengine.Op) (syncengine.Verdict, string, error) {
	if _, err := d.may(ctx, p); err != nil {
		return syncengine.Verdict{}, "", err
	}
	return d.cfg.Engine.EditKept(ctx, p, device, number, ops)
}

// Discard closes a kept mutation without applying it. Needs the right [Right].
func (d *Desk) Discard(ctx context.Context, p *satchel.Principal, device satchel.ID, number uint64) (string, error) {
	if _, err := d.may(ctx, p); err != nil {
		return "", err
	}
	return d.cfg.Engine.DiscardKept(ctx, p, device, number)
}

// Salvaged lists rows that devices still held and a restored database did not (S18), the newest first, without the
// values that the caller may not read, and where the next page begins ("" = there is none). Needs the right [Right].
func (d *Desk) Salvaged(ctx context.Context, p *satchel.Principal, limit int, after string) ([]syncengine.Salvaged, string, error) {
	r, err := d.may(ctx, p)
	if err != nil {
		return nil, "", err
	}
	list, next, err := d.cfg.Engine.Salvaged(ctx, p.Org, limit, after)
	if err != nil {
		return nil, "", err
	}
	for i := range list {
		list[i].Fields = r.object(list[i].Kind, list[i].Fields, map[string]bool{})
	}
	return list, next, nil
}

// Resolve brings a salvaged row back, which only who may read every value of it may do (else REJECTED FIELD_FORBIDDEN),
// or discards it. Needs the right [Right].
func (d *Desk) Resolve(ctx context.Context, p *satchel.Principal, record satchel.ID, restore bool) (syncengine.Verdict, error) {
	if _, err := d.may(ctx, p); err != nil {
		return syncengine.Verdict{}, err
	}
	return d.cfg.Engine.ResolveSalvage(ctx, p, record, restore)
}
