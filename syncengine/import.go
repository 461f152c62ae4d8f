package syncengine

import (
	"context"
	"encoding/json"
	"fmt"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/schema"
)

// MaxImport is how many records one call of Import takes.
const MaxImport = 500

// ImportRecord is a record from elsewhere, with the author and the event time that it had there.
type ImportRecord struct {
	ID      satchel.ID
	Kind    string
	Author  satchel.ID // zero = the system
	EventMS int64      // milliseconds since 1970; 0 = now
	Fields  map[string]any
}

// Import creates records in one transaction, known by (source, key): done again, it does nothing. Records that exist
// already stay as they are. Parents come in the same call, before what hangs under them, or in an earlier one. One
// record that breaks its kind's rules fails the call, and the error names it.
func (e *Engine) Import(ctx context.Context, org satchel.ID, source, key string, records []ImportRecord) error {
	if len(records) > MaxImport {
		return satchel.E(satchel.Invalid, satchel.ReasonTooLarge, "one import takes at most %d records", MaxImport)
	}
	m := SystemMutation{Org: org, Source: "import:" + source, Key: key}
	for _, r := range records {
		text, err := encodeJSON(r.Fields)
		if err != nil {
			return err
		}
		m.Ops = append(m.Ops, Op{Action: Create, Record: r.ID, Kind: r.Kind, Fields: json.RawMessage(text)})
	}
	err := e.retry(ctx, func() error {
		tx, err := pg.Begin(ctx, e.cfg.Pool, pg.ReadCommitted)
		if err != nil {
			return err
		}
		defer tx.Rollback(context.WithoutCancel(ctx))
		b := e.newSystemBatch(tx, m)
		if err := b.load(ctx); err != nil || b.known != nil {
			return err
		}
		var parents []satchel.ID
		for _, r := range records {
			if k := b.org.schema.Kind(r.Kind); k != nil && k.Parent != "" {
				parents = append(parents, (&schema.Record{Data: r.Fields}).Ref(k.Parent))
			}
		}
		if err := b.shareMissing(ctx, parents); err != nil {
			return err
		}
		a := &attempt{b: b, rows: map[satchel.ID]*row{}, system: true, verdict: Verdict{Status: Applied}}
		for i, r := range records {
			if err := a.importOne(r, m.Ops[i]); err != nil {
				return fmt.Errorf("record %s (%s): %w", r.ID, r.Kind, err)
			}
		}
		if err := a.place(ctx); err != nil {
			return err
		}
		a.m = b.in.Mutations[0]
		b.accept(a)
		if err := b.react(ctx); err != nil {
			return err
		}
		if _, err = b.commit(ctx); err != nil {
			return err
		}
		b.wake()
		return nil
	})
	return pg.ToError(err)
}

// importOne makes one record of an import.
func (a *attempt) importOne(r ImportRecord, op Op) error {
	k := a.b.org.schema.Kind(r.Kind)
	if k == nil {
		return satchel.E(satchel.Invalid, satchel.ReasonUnknownKind, "the schema has no kind %q", r.Kind)
	}
	if a.b.rows[r.ID] != nil {
		return nil
	}
	fields, err := a.fields(k, op.Fields)
	if err != nil {
		return err
	}
	e := schema.Edit{At: r.EventMS, Fields: fields}
	if e.At == 0 {
		e.At = a.b.now.UnixMilli()
	}
	rec, p := schema.New(k, r.ID, r.Author, a.firstRev(), e)
	if p != nil {
		return satchel.E(satchel.Invalid, p.Reason, "%s %v", p.Detail, p.Paths)
	}
	a.set(&row{rec: rec, changed: true})
	a.history = append(a.history, entry{record: rec.ID, rev: rec.Rev, op: Create, at: e.At})
	return nil
}

// shareMissing loads records that the batch does not have, locked against change.
func (b *batch) shareMissing(ctx context.Context, ids []satchel.ID) error {
	var missing []satchel.ID
	for _, id := range ids {
		if _, known := b.rows[id]; !known && !id.IsZero() {
			missing = append(missing, id)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	rows, err := b.tx.Query(ctx, sqlShareRecords, b.orgID, missing)
	if err != nil {
		return err
	}
	return b.keep(rows)
}
