package satchelclient

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

// Fields are a record's values by field name, as encoding/json writes them. In a patch, nil clears a field.
type Fields map[string]any

// Batch collects ops that take effect together or not at all: one mutation. The zero value is empty. Its methods add
// to it in order; what is wrong with an op is said by [Client.Record]. It is not safe for concurrent use.
type Batch struct {
	ops []*satchelv1.Op
	err error
}

// Create adds the creation of a record and gives its id, minted here.
func (b *Batch) Create(kind string, fields Fields) satchel.ID {
	id := satchel.NewID()
	b.CreateAs(kind, id, fields)
	return id
}

// CreateAs adds the creation of a record whose id the app minted; nothing else may ever have had it.
func (b *Batch) CreateAs(kind string, id satchel.ID, fields Fields) {
	if fields == nil {
		fields = Fields{}
	}
	b.add(kind, id, &satchelv1.Op{Action: &satchelv1.Op_Create{Create: &satchelv1.Create{Fields: b.json(fields)}}})
}

// Patch adds a change of the named fields, sets and counters.
func (b *Batch) Patch(kind string, id satchel.ID, fields Fields, edits ...Edit) {
	p := new(satchelv1.Patch)
	if len(fields) > 0 {
		p.Fields = b.json(fields)
	}
	for _, e := range edits {
		e(p)
	}
	b.add(kind, id, &satchelv1.Op{Action: &satchelv1.Op_Patch{Patch: p}})
}

// Delete adds the deletion of a record for all.
func (b *Batch) Delete(kind string, id satchel.ID) {
	b.add(kind, id, &satchelv1.Op{Action: &satchelv1.Op_Delete{Delete: new(satchelv1.Delete)}})
}

// Command adds a command about a record, such as "lead.claim". What it does is shown when the server has done it.
func (b *Batch) Command(kind string, id satchel.ID, name string, args Fields) {
	cmd := &satchelv1.Command{Name: name}
	if len(args) > 0 {
		cmd.Args = b.json(args)
	}
	b.add(kind, id, &satchelv1.Op{Action: &satchelv1.Op_Command{Command: cmd}})
}

func (b *Batch) add(kind string, id satchel.ID, op *satchelv1.Op) {
	if b.err == nil && (kind == "" || len(kind) > 64 || strings.ContainsRune(kind, 0)) {
		b.err = errors.New("satchelclient: a kind has 1 to 64 bytes and no zero byte")
	}
	if b.err == nil && id.IsZero() {
		b.err = errors.New("satchelclient: an op needs the id of its record")
	}
	op.Kind, op.RecordId = kind, id.String()
	b.ops = append(b.ops, op)
}

func (b *Batch) json(fields Fields) string {
	text, err := json.Marshal(fields)
	if err != nil && b.err == nil {
		b.err = fmt.Errorf("satchelclient: the fields cannot be written as JSON: %w", err)
	}
	return string(text)
}

// Edit changes one set or counter field of a patch.
type Edit func(*satchelv1.Patch)

// AddTo adds elements to a set field.
func AddTo(field string, elements ...string) Edit {
	return func(p *satchelv1.Patch) { s := setEdit(p, field); s.Add = append(s.Add, elements...) }
}

// RemoveFrom removes elements from a set field.
func RemoveFrom(field string, elements ...string) Edit {
	return func(p *satchelv1.Patch) { s := setEdit(p, field); s.Remove = append(s.Remove, elements...) }
}

// Increment adds to a counter field.
func Increment(field string, by int64) Edit {
	return func(p *satchelv1.Patch) {
		p.Increments = append(p.Increments, &satchelv1.Increment{Field: field, By: by})
	}
}

func setEdit(p *satchelv1.Patch, field string) *satchelv1.SetEdit {
	for _, s := range p.Sets {
		if s.Field == field {
			return s
		}
	}
	s := &satchelv1.SetEdit{Field: field}
	p.Sets = append(p.Sets, s)
	return s
}

// Create records the creation of one record and gives its id.
func (c *Client) Create(ctx context.Context, kind string, fields Fields) (satchel.ID, error) {
	b := new(Batch)
	id := b.Create(kind, fields)
	_, err := c.Record(ctx, b)
	return id, err
}

// Patch records a change of one record.
func (c *Client) Patch(ctx context.Context, kind string, id satchel.ID, fields Fields, edits ...Edit) error {
	b := new(Batch)
	b.Patch(kind, id, fields, edits...)
	_, err := c.Record(ctx, b)
	return err
}

// Delete records the deletion of one record for all.
func (c *Client) Delete(ctx context.Context, kind string, id satchel.ID) error {
	b := new(Batch)
	b.Delete(kind, id)
	_, err := c.Record(ctx, b)
	return err
}

// Command records a command about one record.
func (c *Client) Command(ctx context.Context, kind string, id satchel.ID, name string, args Fields) error {
	b := new(Batch)
	b.Command(kind, id, name, args)
	_, err := c.Record(ctx, b)
	return err
}

// Record records the batch as one mutation and gives the mutation's random id, by which [Client.Settled] tells what
// became of it. It makes no call: when it returns, the mutation is durable and shown. A mutation of more than 100 ops
// or 256 KiB is refused with [ErrTooLarge].
func (c *Client) Record(ctx context.Context, b *Batch) (satchel.ID, error) {
	var id satchel.ID
	err := c.update(ctx, "record", func(tx Tx) (err error) {
		id, err = c.recordIn(tx, b)
		return err
	})
	if err == nil {
		nudge(c.recorded)
	}
	return id, err
}

// recordIn puts the batch into the outbox. Base revs are those of what is shown at this moment.
func (c *Client) recordIn(tx Tx, b *Batch) (satchel.ID, error) {
	switch {
	case b.err != nil:
		return satchel.ID{}, b.err
	case len(b.ops) == 0:
		return satchel.ID{}, errors.New("satchelclient: a mutation needs an op")
	case len(b.ops) > maxOps:
		return satchel.ID{}, fmt.Errorf("%w: a mutation has at most %d ops, not %d; record several", ErrTooLarge, maxOps, len(b.ops))
	}
	at, err := getMeta[place](tx, metaPlace)
	if err != nil {
		return satchel.ID{}, err
	}
	n, err := getNumbers(tx)
	if err != nil {
		return satchel.ID{}, err
	}
	boot, ms := c.cfg.Monotonic()
	m := &satchelv1.Mutation{
		Id:              c.cfg.NewID().String(),
		CheckpointToken: at.Token,
		SchemaVersion:   cmp.Or(c.cfg.SchemaVersion, at.Schema), // what the person saw, however much later it is sent
		Recorded:        &satchelv1.ClockReading{Boot: boot, MonotonicMs: ms, WallMs: c.cfg.Now().UnixMilli()},
	}
	for i, op := range b.ops {
		op := proto.CloneOf(op)
		id, err := satchel.ParseID(op.RecordId)
		if err != nil {
			return satchel.ID{}, err
		}
		if op.GetCreate() == nil {
			shown, err := getChange(tx, TableRecord, recordKey(op.Kind, id))
			if err != nil {
				return satchel.ID{}, err
			}
			op.BaseRev = shown.GetRev()
		}
		if err := putProto(tx, TableOverlay, overlayKey(id, n.Order, i), op); err != nil {
			return satchel.ID{}, err
		}
		m.Ops = append(m.Ops, op)
	}
	// The number is not in it yet; it takes at most 11 bytes.
	if size := proto.Size(m) + 11; size > maxMutationBytes {
		return satchel.ID{}, fmt.Errorf("%w: a mutation has at most %d bytes, not %d; record several, and attach files as media", ErrTooLarge, maxMutationBytes, size)
	}
	if err := putProto(tx, TableOutbox, uintKey(n.Order), m); err != nil {
		return satchel.ID{}, err
	}
	n.Order++
	if err := putMeta(tx, metaNumbers, n); err != nil {
		return satchel.ID{}, err
	}
	return satchel.ParseID(m.Id)
}
