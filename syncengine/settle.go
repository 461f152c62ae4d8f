package syncengine

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/access"
	"github.com/satchel-sync/satchel/internal/jobs"
	"github.com/satchel-sync/satchel/schema"
)

// entry is a row of history.
type entry struct {
	record satchel.ID
	rev    uint64
	op     Action
	before []schema.Change
	lost   []schema.Value
	at     int64
	number uint64 // the device's, of the mutation
}

// lostValue is a value that a person offered and that does not stand.
type lostValue struct {
	to        satchel.ID // the person; zero = whoever wrote with device
	device    satchel.ID
	record    satchel.ID
	kind      string
	field     string
	value     any
	policy    schema.Policy
	action    Action
	overruled bool       // it stood, and was replaced by somebody who had not seen it
	over      satchel.ID // the device that wrote what stands in place of an own value; zero = a system source
}

// attention is what a person must look at: one record per (person, record), whose items are values of fields, so that
// each is shown under the field rights of the record it came from (S21).
type attention struct {
	id     satchel.ID // zero = the one of the person and record
	person satchel.ID // zero = whoever wrote with device
	device satchel.ID
	record satchel.ID
	kind   string
	cause  string
	reason satchel.Reason
	items  []any
	by     satchel.ID // the device that wrote what the item lost against, where its person is still to be found
}

// maxItems and maxItemBytes bound an attention; older items stay in history, the newest stays in any case.
const (
	maxItems     = 200
	maxItemBytes = 256 << 10
)

type refusedRow struct{ record, attention, person satchel.ID }

// editOf makes the merge's edit of an op. What the device showed of a line of the log that is gone counts as never seen
// (S18): it is enough to ask whether the base is above the rev that stands. Where the record was changed since the
// restore, its rev has the bits of the running epoch, above every rev of the lost line; what is still below the base was
// there before the restore, and the device saw it or what came after it. Where it was not changed since, a base above the
// standing rev can only be of the lost line.
func (a *attempt) editOf(r *row, op Op, fields map[string]any) schema.Edit {
	if r != nil && op.BaseRev > r.rec.Rev {
		op.BaseRev = 0
	}
	if s := a.b.source; r != nil && s != nil && s.kept != nil && s.kept.seen {
		op.BaseRev = r.rec.Rev
	}
	return schema.Edit{Base: op.BaseRev, MinRev: a.firstRev(), Blind: op.via != nil, At: a.at, Device: a.b.device, Number: a.m.Number,
		Was: a.b.lane.was, WasBelow: a.b.lane.wasBelow, Fields: fields}
}

// edit merges a patch into a record (step 4).
func (a *attempt) edit(k *schema.Kind, r *row, op Op, fields map[string]any, sets []schema.SetEdit, incs []schema.Increment) error {
	if err := a.guarded(k, r.rec, touched(fields, sets, incs)); err != nil {
		return err
	}
	e := a.editOf(r, op, fields)
	e.Sets, e.Increments = sets, incs
	got, p := schema.Merge(k, r.rec, e)
	if p != nil {
		return problem(p)
	}
	for _, v := range got.Lost {
		a.verdict.Paths = append(a.verdict.Paths, Path{Record: r.rec.ID, Path: v.Path})
		a.lost = append(a.lost, lostValue{to: a.b.person, record: r.rec.ID, kind: k.Name, field: v.Path, value: v.Value,
			policy: v.Policy, action: Patch, over: v.Over.Device})
	}
	a.overruled(r, k, got.Overwritten)
	switch {
	case got.Conflicted:
		a.worst(Conflicted, satchel.ReasonConcurrent)
	case len(got.Lost) > 0 && got.Lost[0].Policy == schema.Immutable:
		a.worst(Merged, satchel.ReasonImmutable)
	case len(got.Lost) > 0:
		a.worst(Merged, satchel.ReasonConcurrent)
	}
	if got.Record != r.rec {
		a.change(r, got.Record, entry{op: Patch, before: got.Changed, lost: got.Lost})
	} else if len(got.Lost) > 0 {
		a.history = append(a.history, entry{record: r.rec.ID, rev: r.rec.Rev, op: Patch, lost: got.Lost, at: a.at, number: a.m.Number})
	}
	return nil
}

// overruled notes values that stood and were replaced by somebody who had not seen them.
func (a *attempt) overruled(r *row, k *schema.Kind, values []schema.Value) {
	for _, v := range values {
		a.lost = append(a.lost, lostValue{device: v.By.Device, record: r.rec.ID, kind: k.Name, field: v.Path, value: v.Value,
			policy: v.Policy, action: Patch, overruled: true})
	}
}

// worst makes the verdict at least this bad.
func (a *attempt) worst(s Status, why satchel.Reason) {
	order := []Status{Applied, Merged, Conflicted}
	if slices.Index(order, s) > slices.Index(order, a.verdict.Status) {
		a.verdict.Status, a.verdict.Reason = s, why
	}
}

// change lets a record stand as it is now.
func (a *attempt) change(r *row, rec *schema.Record, e entry) {
	next := *r
	next.rec, next.changed = rec, true
	rec.Rev = max(rec.Rev, a.firstRev()) // of a delete; what is merged has it already
	e.record, e.rev, e.at, e.number = rec.ID, rec.Rev, a.at, a.m.Number
	a.history = append(a.history, e)
	a.set(&next)
}

func (a *attempt) set(r *row) {
	if _, known := a.rows[r.rec.ID]; !known {
		a.order = append(a.order, r.rec.ID)
	}
	a.rows[r.rec.ID] = r
}

// place finds where the changed records must lie, and moves what hangs below a record whose owner changed.
func (a *attempt) place(ctx context.Context) error {
	for _, id := range a.order {
		a.heads += a.b.headsOf(a.rows[id])
	}
	for i := 0; i < len(a.order); i++ { // grows while children are found
		r := a.rows[a.order[i]]
		k := a.b.org.schema.Kind(r.rec.Kind)
		// Nothing hangs under what this very mutation made, but what it placed behind it.
		before, known := satchel.ID{}, a.b.rows[r.rec.ID]
		if known != nil {
			before = top(known.parentOwner, known.rec.OwnerID(k))
		}
		if k.Parent != "" {
			r.parent = r.rec.Ref(k.Parent)
			r.parentOwner = satchel.ID{}
			if !r.parent.IsZero() {
				p, err := a.row(ctx, r.parent)
				if err != nil {
					return err
				}
				if p != nil {
					if p, err = a.root(ctx, p); err != nil { // a job has not led it there yet
						return err
					}
				}
				if p != nil {
					r.parentOwner = top(p.parentOwner, p.rec.OwnerID(a.b.org.schema.Kind(p.rec.Kind)))
				}
			}
		}
		r.place = access.Place(k, r.rec, r.parentOwner, a.b.org.dir, a.b.org.zone)
		if after := top(r.parentOwner, r.rec.OwnerID(k)); known != nil && after != before {
			if err := a.pullChildren(ctx, r.rec.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// accept lets a mutation's work stand in the batch.
func (b *batch) accept(a *attempt) {
	for _, id := range a.order {
		r := a.rows[id]
		before := b.rows[id]
		if r.changed && (before == nil || before.rec != r.rec) {
			c := Change{Org: b.orgID, Schema: b.org.schema, Zone: b.org.zone, Kind: b.org.schema.Kind(r.rec.Kind), After: r.rec,
				Actor: b.person, EventMS: a.at, ReceivedAt: b.now}
			if before != nil {
				c.Before = before.rec
			}
			if b.source != nil {
				c.Source = b.source.Source
			}
			b.changes = append(b.changes, c)
			b.look(c)
		}
		b.rows[id] = r
	}
	for id, s := range a.sent {
		if b.sent == nil {
			b.sent = map[satchel.ID]Sent{}
		}
		b.sent[id] = s
	}
	b.heads += a.heads
	b.history = append(b.history, a.history...)
	b.moves = append(b.moves, a.moves...)
	b.merged = append(b.merged, a.merged...)
	b.undoRef = append(b.undoRef, a.resolved...)
	for _, id := range a.resolved {
		delete(b.refused, id)
	}
	keep := a.verdict.Status == Conflicted && b.ofADevice()
	for _, l := range a.lost {
		own := l.to == b.person && !l.overruled
		att := b.attend(l, keep && own, a.m.Number)
		if own && a.verdict.Attention.IsZero() {
			a.verdict.Attention = att
		}
	}
	if keep {
		b.retain(a, a.verdict, satchel.ID{})
	}
	b.settled = append(b.settled, settledMutation{a.m, a.verdict})
}

// look notes the kept mutations of an attention that its person closes.
func (b *batch) look(c Change) {
	if c.Kind.Name != attentionKind || c.Before == nil || c.Before.Data["open"] != true || c.After.Data["open"] != false ||
		b.person.IsZero() || c.After.Ref("person") != b.person || b.source != nil && b.source.kept != nil {
		return
	}
	items, _ := c.Before.Data["items"].([]any)
	for _, it := range items {
		if key := keyOf(it); key != "" {
			b.looked = append(b.looked, key)
		}
	}
}

// attentionID is the same for one person and record, so that there is at most one (F26).
func attentionID(person, record satchel.ID) satchel.ID {
	return satchel.DerivedID(person, "attention/"+record.String())
}

// attend notes a lost value for its person and gives the attention's id; zero where nobody is to look. Of a mutation that
// is kept the item says so.
func (b *batch) attend(l lostValue, kept bool, number uint64) satchel.ID {
	item := map[string]any{
		"record": l.record.String(), "kind": l.kind, "field": l.field, "action": l.action.String(), "value": l.value,
		"policy": string(l.policy), "at": json.Number(fmt.Sprint(b.now.UnixMilli())),
	}
	att := attention{person: l.to, device: l.device, record: l.record, kind: l.kind, cause: "conflict", items: []any{item}}
	switch {
	case l.overruled:
		item["overruled"], item["by"] = true, b.writer()
	case l.over.IsZero():
		item["by"] = ""
	case l.over == b.device:
		item["by"] = l.to.String()
	default:
		att.by = l.over
	}
	if kept {
		item["mutation"] = keptKey(b.device, number)
	}
	if l.to.IsZero() && l.device.IsZero() {
		return satchel.ID{} // the system's own value; history has it
	}
	b.pendAtt = append(b.pendAtt, att)
	return attentionID(l.to, l.record)
}

// finish turns what people must look at into records.
func (b *batch) finish(ctx context.Context) error {
	closing := b.closing()
	if len(b.pendAtt) == 0 && !closing {
		return nil
	}
	if err := b.loadAttentions(ctx); err != nil {
		return err
	}
	a := &attempt{b: b, rows: map[satchel.ID]*row{}, at: b.now.UnixMilli(), system: true}
	for _, p := range b.pendAtt {
		if p.person.IsZero() {
			continue
		}
		if err := a.keepAttention(ctx, p); err != nil {
			return err
		}
	}
	if closing {
		if err := a.closeAttention(ctx, b.source.kept); err != nil {
			return err
		}
	}
	if err := a.place(ctx); err != nil {
		return err
	}
	settled := b.settled
	b.accept(a)
	b.settled = settled
	return nil
}

// writer names in whose name the batch writes; "" = the system.
func (b *batch) writer() string {
	if b.person.IsZero() {
		return ""
	}
	return b.person.String()
}

// key is the id of the attention's record.
func (p attention) key() satchel.ID {
	if !p.id.IsZero() {
		return p.id
	}
	return attentionID(p.person, p.record)
}

// keepAttention opens the attention of a person and record, or adds to the open one.
func (a *attempt) keepAttention(ctx context.Context, p attention) error {
	k := a.b.org.schema.Kind(attentionKind)
	if k == nil {
		return nil // PublishSchema refuses such a schema
	}
	id := p.key()
	r, err := a.row(ctx, id)
	if err != nil {
		return err
	}
	if r != nil && r.rec.Kind != k.Name {
		// Somebody made a record of another kind with the id that his attention would have. It is his own doing, and
		// must not keep others from their work.
		a.b.e.cfg.Logger.Error("syncengine: an attention's id is taken by a record of another kind", "org", a.b.orgID, "record", id)
		return nil
	}
	fields := map[string]any{"person": p.person.String(), "record": p.record.String(), "record_kind": p.kind,
		"cause": p.cause, "open": true, "items": bounded(p.items), "reason": nil}
	if p.reason != "" {
		fields["reason"] = string(p.reason)
	}
	if r == nil {
		rec, problem := schema.New(k, id, satchel.ID{}, a.firstRev(), schema.Edit{At: a.at, Fields: fields})
		if problem != nil {
			return fmt.Errorf("syncengine: attention: %s %v", problem.Reason, problem.Paths)
		}
		a.set(&row{rec: rec, changed: true})
		return nil
	}
	cut := true
	if open, _ := r.rec.Data["open"].(bool); open && !r.rec.Deleted {
		old, _ := r.rec.Data["items"].([]any)
		if a.b.holds(r, p) {
			return nil
		}
		all := append(slices.Clone(old), p.items...)
		items := bounded(all)
		cut = len(items) < len(all)
		why := fields["reason"]
		fields = map[string]any{"items": items}
		if why != nil && p.id.IsZero() { // what only waits for another refusal explains nothing
			fields["reason"] = why
		}
	}
	rec := r.rec
	if rec.Deleted { // a kind whose deletes win would refuse the edit
		rec = rec.Clone()
		rec.Deleted, rec.Rev = false, rec.Rev+1
	}
	got, problem := schema.Merge(k, rec, schema.Edit{Base: rec.Rev, MinRev: a.firstRev(), At: a.at, Fields: fields})
	if problem != nil {
		return fmt.Errorf("syncengine: attention: %s %v", problem.Reason, problem.Paths)
	}
	if got.Record == r.rec {
		return nil
	}
	before := got.Changed
	if !cut { // what was only added to stands as it was: history need not repeat it
		before = slices.DeleteFunc(before, func(c schema.Change) bool { return c.Path == "items" })
	}
	a.change(r, got.Record, entry{op: Patch, before: before})
	return nil
}

// holds tells whether a kept mutation that is tried again in vain is in the attention already.
func (b *batch) holds(r *row, p attention) bool {
	if b.source == nil || b.source.kept == nil || r.stored == nil || len(p.items) == 0 {
		return false
	}
	key := keyOf(p.items[0])
	items, _ := r.stored.Data["items"].([]any)
	return key != "" && slices.ContainsFunc(items, func(it any) bool { return keyOf(it) == key })
}

// bounded cuts the oldest items of an attention that is too long.
func bounded(items []any) []any {
	size := 0
	for i := len(items) - 1; i >= 0; i-- {
		text, err := encodeJSON(items[i])
		if size += len(text); err != nil || i < len(items)-1 && size > maxItemBytes || len(items)-i > maxItems {
			return items[i+1:]
		}
	}
	return items
}

// attentionKind is the kind of what a person must look at.
const attentionKind = "attention"

// react lets the observers look at what changed (step 6) and enqueues the engine's own jobs.
func (b *batch) react(ctx context.Context) error {
	if len(b.changes) > 0 {
		for _, observe := range b.e.observers {
			if err := b.shielded("observer", func() error { return observe(ctx, b.tx, b.changes) }); err != nil {
				return faultOf("observer", err)
			}
		}
	}
	var js []jobs.Job
	for _, id := range b.moves {
		js = append(js, jobs.Job{Kind: JobChildren, Org: b.orgID, Args: recordArgs{Record: id}})
	}
	for _, id := range b.undoRef {
		js = append(js, jobs.Job{Kind: JobParked, Org: b.orgID, Args: recordArgs{Record: id}})
	}
	for _, m := range b.merged {
		js = append(js, jobs.Job{Kind: JobMerged, Org: b.orgID, Args: recordArgs{Record: m.loser}})
	}
	if b.awaits() {
		js = append(js, restoredJob(b.orgID, b.now.Add(firstTry)))
	}
	if len(js) == 0 {
		return nil
	}
	return b.e.cfg.Jobs.Enqueue(ctx, b.tx, js...)
}
