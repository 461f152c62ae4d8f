package syncengine

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/mutant"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine/cursor"
)

// attempt is one mutation while it is checked and merged: its rows lie over those of the batch, so that a refusal
// leaves nothing behind (S4).
type attempt struct {
	b        *batch
	m        Mutation
	at       int64 // event time, milliseconds
	rows     map[satchel.ID]*row
	order    []satchel.ID // rows in the order of their first change
	history  []entry
	lost     []lostValue
	verdict  Verdict
	system   bool // the ops of a command or of the system: every field may be written
	resolved []satchel.ID
	moves    []satchel.ID
	merged   []merged
	heads    int
	sent     map[satchel.ID]Sent
	again    map[satchel.ID]bool // rows that place looked at before what they hang under had moved
}

// settledMutation is a mutation with its verdict.
type settledMutation struct {
	m Mutation
	v Verdict
}

// mutate checks and merges one mutation and keeps its verdict. The error undoes the whole batch; a refusal is a verdict.
func (b *batch) mutate(ctx context.Context, m Mutation) error {
	a := &attempt{b: b, m: m, rows: map[satchel.ID]*row{}, verdict: Verdict{Number: m.Number, Status: Applied}}
	if v, done := b.before[m.ID]; done { // it was applied under the number that it had before; v.Seq says when
		v.Number = m.Number
		b.settled = append(b.settled, settledMutation{m, v})
		return nil
	}
	before := b.lane.lastEvent
	a.clockIn()
	if m.skips() {
		b.skip(a)
		return nil
	}
	err := b.shielded("mutation", func() error { return a.run(ctx) })
	if errors.Is(err, errFull) {
		b.lane.lastEvent = before
		return err
	}
	if r, ok := errors.AsType[*Refusal](err); ok {
		return b.refuse(ctx, a, r)
	}
	if err != nil {
		return err
	}
	b.accept(a)
	return nil
}

// clockIn finds the event time.
func (a *attempt) clockIn() {
	received := a.b.now.UnixMilli()
	if s := a.b.source; s != nil {
		a.system = s.Actor == nil
		if a.at = received; !s.At.IsZero() {
			a.at = s.At.UnixMilli()
		}
		return
	}
	var checkpoint int64
	if t, ok := cursor.OpenToken(a.b.clock.Key, a.b.person, a.m.Token); ok {
		checkpoint = t.TimeMS
	}
	var off bool
	a.at, off = eventTime(a.m.Recorded, a.b.in.Pairs, checkpoint, received, a.b.lane.lastEvent)
	a.b.lane.lastEvent = a.at
	if off {
		a.verdict.Notes = append(a.verdict.Notes, ClockOff)
	}
}

func (a *attempt) run(ctx context.Context) error {
	if a.b.in.culprit {
		return &Refusal{Status: Rejected, Reason: satchel.ReasonUnexpectedInternal, Detail: "the database refused the data of this mutation"}
	}
	if r := a.unfit(); r != nil {
		return r
	}
	if s := a.b.source; s != nil && s.Guard != 0 {
		r, err := a.row(ctx, a.m.Ops[0].Record)
		if err != nil {
			return err
		}
		if r == nil || r.rec.Rev != s.Guard {
			return &Refusal{Status: Stale, Reason: satchel.ReasonGuard, Detail: "the record has moved on", Routine: true}
		}
	}
	for _, op := range a.m.Ops {
		if err := a.op(ctx, op); err != nil {
			return err
		}
	}
	if err := a.place(ctx); err != nil {
		return err
	}
	// Its attentions, and those of what came before, move a head each.
	if len(a.b.settled) > 0 && a.b.heads+a.heads+len(a.b.pendAtt)+len(a.lost) > MaxHeads {
		return errFull
	}
	if a.heads > MaxHeads {
		return refuse(satchel.ReasonTooLarge, "", "the mutation would move too many records at once")
	}
	return nil
}

func (a *attempt) op(ctx context.Context, op Op) error {
	if op.Record.IsZero() {
		return refuse(satchel.ReasonMalformed, "", "an op names its record")
	}
	k := a.b.org.schema.Kind(op.Kind)
	if k == nil {
		return a.unknown(satchel.ReasonUnknownKind, op.Record, "", "the schema has no such kind")
	}
	r, err := a.row(ctx, op.Record)
	if r == nil && err == nil && op.Action != Create {
		r, err = a.purged(ctx, op.Record)
	}
	if err != nil {
		return err
	}
	if r != nil && !r.root.IsZero() && !mutant.On(mutant.AliasIgnored) {
		if r, err = a.throughAlias(ctx, r, &op); err != nil {
			return err
		}
	}
	if r != nil && r.rec.Kind != op.Kind {
		return refuse(satchel.ReasonRecordUnknown, "", "no such record")
	}
	switch op.Action {
	case Command:
		return a.command(ctx, k, r, op)
	case Create:
		return a.create(ctx, k, r, op)
	case Patch:
		return a.patch(ctx, k, r, op)
	case Delete:
		return a.delete(k, r, op)
	}
	return refuse(satchel.ReasonMalformed, "", "an op creates, patches, deletes or commands")
}

// unknown refuses what the schema lacks; of a newer app it is kept until the server knows it.
func (a *attempt) unknown(reason satchel.Reason, record satchel.ID, path, detail string) error {
	status := Rejected
	if v := max(a.m.SchemaVersion, a.b.in.SchemaVersion); v > a.b.org.schema.Version {
		status = Unsupported
	}
	return &Refusal{Status: status, Reason: reason, Path: path, Detail: detail}
}

func refuse(reason satchel.Reason, path, detail string) error {
	return &Refusal{Status: Rejected, Reason: reason, Path: path, Detail: detail}
}

func problem(p *schema.Problem) error {
	path := ""
	if len(p.Paths) > 0 {
		path = p.Paths[0]
	}
	return refuse(p.Reason, path, p.Detail)
}

// create makes a record. Where its author had made it already (a restored phone sends it again) it is an edit.
func (a *attempt) create(ctx context.Context, k *schema.Kind, r *row, op Op) error {
	fields, err := a.fields(k, op.Fields)
	if err != nil {
		return err
	}
	if r != nil {
		first := r.rec
		if op.via != nil {
			first = op.via.rec
		}
		if first.Author != a.b.person || a.b.person.IsZero() && !a.system {
			return refuse(satchel.ReasonRecordExists, "", "somebody else created a record with this id")
		}
		for name, v := range fields {
			if schema.Equal(first.Data[name], v) {
				delete(fields, name)
			}
		}
		if len(fields) == 0 {
			return nil
		}
		if op.via != nil { // what the merged record had, its merge has dealt with
			text, err := encodeJSON(fields)
			if err != nil {
				return err
			}
			op.Fields = json.RawMessage(text)
		}
		return a.patch(ctx, k, r, op) // under the rights of an edit
	}
	hung, err := a.rewire(ctx, k, fields)
	if err != nil {
		return err
	}
	if !a.system && !a.b.grants.Kind(k.Name).Create {
		return refuse(satchel.ReasonForbidden, "", "no right to create records of this kind")
	}
	if k.Owner != "" && fields[k.Owner] == nil && !a.b.person.IsZero() {
		fields[k.Owner] = a.b.person.String()
	}
	rec, p := schema.New(k, op.Record, a.b.person, a.firstRev(), a.editOf(nil, op, fields))
	if p != nil {
		return problem(p)
	}
	if !a.system {
		if owner := rec.OwnerID(k); owner != a.b.person && !a.b.org.dir.Within(a.b.grants.Kind(k.Name).Update, a.b.person, owner, satchel.ID{}) {
			return refuse(satchel.ReasonForbidden, k.Owner, "no right to create records for this owner")
		}
		if err := a.mayHang(ctx, k, rec, hung); err != nil {
			return err
		}
	}
	a.set(&row{rec: rec, changed: true})
	a.noteSent(op, rec)
	a.history = append(a.history, entry{record: rec.ID, rev: rec.Rev, op: Create, at: a.at, number: a.m.Number})
	if _, was := a.b.refused[rec.ID]; was {
		a.resolved = append(a.resolved, rec.ID)
	}
	return nil
}

// firstRev is 1, with the epoch in the high bits.
func (a *attempt) firstRev() uint64 { return a.b.clock.Seq>>epochShift<<epochShift + 1 }

// mayHang checks what a new record hangs under: the parent is visible now; or, since work that took place is never
// refused, a fact's parent is its author's, or was on the device at the checkpoint on which it was recorded (S6). named,
// where not zero, is the merged record that the device knew as the parent.
func (a *attempt) mayHang(ctx context.Context, k *schema.Kind, rec *schema.Record, named satchel.ID) error {
	if k.Parent == "" {
		return nil
	}
	id := rec.Ref(k.Parent)
	if id.IsZero() {
		return nil
	}
	parent, err := a.rowOrPurged(ctx, id)
	if err != nil {
		return err
	}
	if parent == nil {
		return a.missing(id, k.Parent)
	}
	if a.sees(parent) {
		return nil
	}
	if k.Fact {
		if !named.IsZero() { // whatever the record is that it goes on in
			id = named
			if parent, err = a.row(ctx, id); err != nil {
				return err
			}
		}
		if parent.rec.Author == a.b.person {
			a.note(ParentMoved)
			return nil
		}
		had, err := a.hadAtCheckpoint(ctx, id)
		if err != nil {
			return err
		}
		if had {
			a.note(ParentMoved)
			return nil
		}
	}
	return refuse(satchel.ReasonRecordUnknown, k.Parent, "no such record")
}

// missing refuses what names a record that does not exist: where its creation was refused, it waits for that.
func (a *attempt) missing(id satchel.ID, path string) error {
	if _, ok := a.b.refused[id]; ok {
		return &dependsOn{record: id, Refusal: Refusal{Status: Rejected, Reason: satchel.ReasonDependsOn, Path: path,
			Detail: "the creation of that record was refused; this is kept until it is resolved"}}
	}
	return refuse(satchel.ReasonRecordUnknown, path, "no such record")
}

// dependsOn is a refusal that waits for a refused creation.
type dependsOn struct {
	Refusal
	record satchel.ID
}

// As lets a dependsOn be found as the Refusal that it is.
func (d *dependsOn) As(target any) bool {
	if r, ok := target.(**Refusal); ok {
		*r = &d.Refusal
		return true
	}
	return false
}

func (a *attempt) note(n Note) {
	if !slices.Contains(a.verdict.Notes, n) {
		a.verdict.Notes = append(a.verdict.Notes, n)
	}
}

func (a *attempt) patch(ctx context.Context, k *schema.Kind, r *row, op Op) error {
	if r == nil {
		return a.missing(op.Record, "")
	}
	if !a.system && !a.sees(r) {
		return refuse(satchel.ReasonRecordUnknown, "", "no such record")
	}
	fields, err := a.fields(k, op.Fields)
	if err != nil {
		return err
	}
	for _, s := range op.Sets {
		if err := a.field(k, s.Field, schema.Set); err != nil {
			return err
		}
		// Elements have the form of a set's; of the two lists only the added ones are stored.
		if p := k.CheckFields(map[string]any{s.Field: texts(s.Add)}); p != nil {
			return problem(p)
		}
	}
	for _, inc := range op.Increments {
		if err := a.field(k, inc.Field, schema.Integer); err != nil {
			return err
		}
	}
	hung, err := a.rewire(ctx, k, fields)
	if err != nil {
		return err
	}
	if !a.system {
		if err := a.mayUpdate(k, r, fields); err != nil {
			return err
		}
		if k.Parent != "" && fields[k.Parent] != nil && fields[k.Parent] != r.rec.Data[k.Parent] {
			if err := a.mayHang(ctx, k, &schema.Record{Data: fields}, hung); err != nil {
				return err
			}
		}
	}
	return a.edit(k, r, op, fields, op.Sets, op.Increments)
}

func (a *attempt) mayUpdate(k *schema.Kind, r *row, fields map[string]any) error {
	scope := a.b.grants.Kind(k.Name).Update
	if !a.b.org.dir.Within(scope, a.b.person, r.rec.OwnerID(k), r.rec.Author) {
		return refuse(satchel.ReasonForbidden, "", "no right to change this record")
	}
	if k.Owner == "" || fields[k.Owner] == nil {
		return nil
	}
	to := (&schema.Record{Data: fields}).Ref(k.Owner)
	if _, known := a.b.org.dir.Person(to); !known || !a.b.org.dir.Within(scope, a.b.person, to, satchel.ID{}) {
		return refuse(satchel.ReasonForbidden, k.Owner, "no right to give the record to this person")
	}
	return nil
}

// fields decodes and checks the fields of a create or patch.
func (a *attempt) fields(k *schema.Kind, raw json.RawMessage) (map[string]any, error) {
	if len(raw) == 0 {
		return map[string]any{}, nil
	}
	fields, err := schema.DecodeFields(raw)
	if err != nil {
		return nil, refuse(satchel.ReasonBadValue, "", err.Error())
	}
	wrong := ""
	for name := range fields {
		if f := k.Field(name); (f == nil || !a.system && !a.b.grants.MayWrite(k, f)) && (wrong == "" || name < wrong) {
			wrong = name
		}
	}
	switch {
	case wrong == "":
	case k.Field(wrong) == nil:
		return nil, a.unknown(satchel.ReasonUnknownField, satchel.ID{}, wrong, "the kind has no such field")
	default:
		return nil, refuse(satchel.ReasonFieldForbidden, wrong, "no right to write this field")
	}
	if p := k.CheckFields(fields); p != nil {
		return nil, problem(p)
	}
	return fields, nil
}

// field checks the field of a set edit or an increment.
func (a *attempt) field(k *schema.Kind, name string, want schema.Type) error {
	f := k.Field(name)
	switch {
	case f == nil:
		return a.unknown(satchel.ReasonUnknownField, satchel.ID{}, name, "the kind has no such field")
	case !a.system && !a.b.grants.MayWrite(k, f):
		return refuse(satchel.ReasonFieldForbidden, name, "no right to write this field")
	case f.Type != want || want == schema.Integer && f.Merge != schema.Counter:
		return refuse(satchel.ReasonBadValue, name, "the field is not of the type that this edit is for")
	}
	return nil
}

func (a *attempt) delete(k *schema.Kind, r *row, op Op) error {
	if r == nil {
		return a.missing(op.Record, "")
	}
	if !a.system {
		if !a.sees(r) {
			return refuse(satchel.ReasonRecordUnknown, "", "no such record")
		}
		if !a.b.org.dir.Within(a.b.grants.Kind(k.Name).Delete, a.b.person, r.rec.OwnerID(k), r.rec.Author) {
			return refuse(satchel.ReasonForbidden, "", "no right to delete this record")
		}
	}
	if err := a.guarded(k, r.rec, nil); err != nil {
		return err
	}
	got := schema.MergeDelete(k, r.rec, a.editOf(r, op, nil))
	if got.Conflicted {
		a.worst(Conflicted, satchel.ReasonConcurrent)
		a.lost = append(a.lost, lostValue{to: a.b.person, record: r.rec.ID, kind: k.Name, action: Delete, over: got.Lost[0].Over.Device})
		a.verdict.Paths = append(a.verdict.Paths, Path{Record: r.rec.ID})
		return nil
	}
	a.overruled(r, k, got.Overwritten)
	if got.Record != r.rec {
		a.change(r, got.Record, entry{op: Delete})
	}
	return nil
}

// guarded asks the guards; the system passes.
func (a *attempt) guarded(k *schema.Kind, rec *schema.Record, fields []string) error {
	if a.system {
		return nil
	}
	for _, fn := range a.b.e.guards {
		if err := fn(a.b.org.schema, k, rec, fields); err != nil {
			return faultOf("guard", err)
		}
	}
	return nil
}

// command lets a feature turn the command into ops, and does them.
func (a *attempt) command(ctx context.Context, k *schema.Kind, r *row, op Op) error {
	if op.Name == MergeCommand {
		return a.mergeRecords(ctx, k, r, op)
	}
	fn := a.b.e.commands[op.Name]
	if fn == nil {
		return a.unknown(satchel.ReasonUnknownCommand, op.Record, "", "this server has no such command")
	}
	if a.system && !a.b.person.IsZero() {
		return refuse(satchel.ReasonMalformed, "", "a command's ops cannot be commands")
	}
	v := &View{a: a}
	ops, err := fn(ctx, v, Call{Record: op.Record, Kind: op.Kind, BaseRev: op.BaseRev, Args: op.Args})
	if err != nil {
		return faultOf("command", err)
	}
	was := a.system
	a.system = true
	defer func() { a.system = was }()
	for _, o := range ops {
		if o.Action == Command {
			return &fault{"command", errors.New(op.Name + " gave a command")}
		}
		r, err := a.row(ctx, o.Record)
		if err != nil {
			return err
		}
		if r != nil {
			o.BaseRev = r.rec.Rev // it has read the record under the lock
		}
		if err := a.op(ctx, o); err != nil {
			return err
		}
	}
	return nil
}
