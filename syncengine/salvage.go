package syncengine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/schema"
)

// Limits of salvage.
const (
	MaxSalvage      = 200       // rows in one call
	MaxSalvageBytes = 256 << 10 // of one row's fields
	MaxSalvageDay   = 10_000    // rows of a device in 24 hours
)

// SalvagedRow is a row as a device held it.
type SalvagedRow struct {
	Record  satchel.ID
	Kind    string
	Rev     uint64
	Fields  json.RawMessage // a JSON object
	Author  satchel.ID      // zero = the system
	EventMS int64
}

// Salvaged is a row that a device still held and the restored database did not, or only an older one (S18).
type Salvaged struct {
	SalvagedRow
	Device      satchel.ID
	Person      satchel.ID
	At          time.Time
	StandingRev uint64 // of the record as it is now; 0 = it does not exist, or is deleted
}

const sqlSalvagedToday = `-- syncengine.SalvagedToday
SELECT count(*) FROM salvage WHERE org_id = $1 AND at > $2 AND device_id = $3`

// Of what several devices held, the newest; of the same, the first.
const sqlSalvage = `-- syncengine.Salvage
INSERT INTO salvage (org_id, record_id, kind, rev, data, author, event_ms, device_id, person_id, at)
SELECT c.org_id, u.record, u.kind, u.rev, u.data::jsonb, u.author, u.event_ms, $2, $3, $4
FROM org_clock c, unnest($5::uuid[], $6::text[], $7::bigint[], $8::text[], $9::uuid[], $10::bigint[])
  AS u(record, kind, rev, data, author, event_ms)
WHERE c.org_id = $1
ON CONFLICT (org_id, record_id) DO UPDATE SET kind = excluded.kind, rev = excluded.rev, data = excluded.data,
  author = excluded.author, event_ms = excluded.event_ms, device_id = excluded.device_id, person_id = excluded.person_id, at = excluded.at
WHERE excluded.rev > salvage.rev`

// Salvage keeps rows that a device holds and a restored database may have lost, for the office to look at: at most
// MaxSalvage a call, MaxSalvageDay a device and day (then RATE_LIMITED). Left out is what needs no saving: what stands
// in the database as it is here or newer on the same line of the log; rows of the running epoch, of which no restore can
// have lost anything, so that where none ever was nobody has anything to salvage; kinds that the schema does not have;
// what is not JSON of at most MaxSalvageBytes; and fields of which this person may see only a part. Sent again, it
// changes nothing.
func (e *Engine) Salvage(ctx context.Context, p *satchel.Principal, rows []SalvagedRow) error {
	if len(rows) > MaxSalvage {
		return satchel.E(satchel.Invalid, satchel.ReasonTooLarge, "a call salvages at most %d rows", MaxSalvage)
	}
	o, c, err := e.orgNow(ctx, e.cfg.Pool, p.Org)
	if err != nil {
		return pg.ToError(err)
	}
	now := e.cfg.Now()
	var today int
	if err := e.cfg.Pool.QueryRow(ctx, sqlSalvagedToday, p.Org, now.Add(-24*time.Hour), p.Device).Scan(&today); err != nil {
		return pg.ToError(err)
	}
	if today+len(rows) > MaxSalvageDay {
		return &satchel.Error{Kind: satchel.Exhausted, Reason: satchel.ReasonRateLimited, RetryAfter: time.Hour,
			Detail: "this device has salvaged enough for a day; go on tomorrow, and keep the rows until then"}
	}
	standing, err := e.standing(ctx, p.Org, rows)
	if err != nil {
		return pg.ToError(err)
	}
	g := e.grantsOf(o, o.roles(p.Person))
	newest := map[satchel.ID]int{}
	var keep []SalvagedRow
	for _, r := range rows {
		if o.schema.Kind(r.Kind) == nil || r.Record.IsZero() || len(r.Fields) > MaxSalvageBytes || r.Rev>>epochShift >= c.epoch() {
			continue
		}
		r.EventMS = min(max(r.EventMS, 0), now.UnixMilli()) // which places facts; nothing took place later
		fields, err := schema.DecodeFields(r.Fields)
		if err != nil {
			continue
		}
		m := g.Mask(r.Kind)
		for _, name := range slices.Concat(m.Hidden, m.Partial) {
			delete(fields, name)
		}
		if stands(standing[r.Record], r, fields) {
			continue
		}
		text, err := encodeJSON(fields)
		if err != nil {
			return err
		}
		r.Fields = json.RawMessage(text)
		if at, twice := newest[r.Record]; !twice {
			newest[r.Record] = len(keep)
			keep = append(keep, r)
		} else if keep[at].Rev < r.Rev {
			keep[at] = r
		}
	}
	if len(keep) == 0 {
		return nil
	}
	n := len(keep)
	records, kinds, data := make([]satchel.ID, n), make([]string, n), make([]string, n)
	revs, events, authors := make([]int64, n), make([]int64, n), make([]any, n)
	for i, r := range keep {
		records[i], kinds[i], data[i], revs[i], events[i] = r.Record, r.Kind, string(r.Fields), int64(r.Rev), r.EventMS
		authors[i] = pg.NullID(r.Author)
	}
	_, err = e.cfg.Pool.Exec(ctx, sqlSalvage, p.Org, p.Device, p.Person, now, records, kinds, revs, data, authors, events)
	return pg.ToError(err)
}

// standing reads the records that rows are of, as they are now.
func (e *Engine) standing(ctx context.Context, org satchel.ID, rows []SalvagedRow) (map[satchel.ID]*schema.Record, error) {
	ids := make([]satchel.ID, len(rows))
	for i, r := range rows {
		ids[i] = r.Record
	}
	found, err := e.cfg.Pool.Query(ctx, sqlReadRecords, org, ids)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	out := map[satchel.ID]*schema.Record{}
	for found.Next() {
		r, err := scanRecord(found)
		if err != nil {
			return nil, err
		}
		out[r.rec.ID] = r.rec
	}
	return out, found.Err()
}

// stands tells whether nothing of a row would be lost. A record of the same epoch and rev, or a later one, came after
// what the device holds; one of a later epoch may have grown on an older row, so its values decide.
func stands(rec *schema.Record, r SalvagedRow, fields map[string]any) bool {
	if rec == nil {
		return false
	}
	if rec.Kind != r.Kind || rec.Rev>>epochShift == r.Rev>>epochShift && rec.Rev >= r.Rev {
		return true
	}
	for name, v := range fields {
		if !schema.Equal(rec.Data[name], v) {
			return false
		}
	}
	return !rec.Deleted
}

const sqlListSalvage = `-- syncengine.ListSalvage
SELECT s.record_id, s.kind, s.rev, s.data, s.author, s.event_ms, s.device_id, s.person_id, s.at,
  coalesce((SELECT r.rev FROM record r WHERE r.org_id = $1 AND r.id = s.record_id AND NOT r.deleted), 0)
FROM salvage s WHERE s.org_id = $1 AND (s.at, s.record_id) < ($2, $3) ORDER BY s.at DESC, s.record_id DESC LIMIT $4`

// Salvaged lists salvaged rows, the newest first, with every field: who shows them withholds what the reader may not
// read. limit 0 = 50, at most 200; next is "" at the end.
func (e *Engine) Salvaged(ctx context.Context, org satchel.ID, limit int, after string) (list []Salvaged, next string, err error) {
	if limit = min(limit, 200); limit <= 0 {
		limit = 50
	}
	at, record := time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), satchel.ID{}
	if after != "" {
		micros, id, _ := strings.Cut(after, "@")
		us, err := strconv.ParseInt(micros, 10, 64)
		if err != nil {
			return nil, "", badPage()
		}
		if record, err = satchel.ParseID(id); err != nil {
			return nil, "", badPage()
		}
		at = time.UnixMicro(us)
	}
	rows, err := e.cfg.Pool.Query(ctx, sqlListSalvage, org, at, record, limit+1)
	if err != nil {
		return nil, "", pg.ToError(err)
	}
	list, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (s Salvaged, err error) {
		err = r.Scan(&s.Record, &s.Kind, &s.Rev, (*[]byte)(&s.Fields), &s.Author, &s.EventMS, &s.Device, &s.Person, &s.At, &s.StandingRev)
		return s, err
	})
	if err != nil {
		return nil, "", pg.ToError(err)
	}
	if len(list) > limit {
		list = list[:limit]
		next = fmt.Sprintf("%d@%s", list[limit-1].At.UnixMicro(), list[limit-1].Record)
	}
	return list, next, nil
}

const sqlLockSalvage = `-- syncengine.LockSalvage
SELECT kind, rev, data, author, event_ms FROM salvage WHERE org_id = $1 AND record_id = $2 FOR UPDATE`

const sqlDropSalvage = `-- syncengine.DropSalvage
DELETE FROM salvage WHERE org_id = $1 AND record_id = $2`

// ResolveSalvage settles a salvaged row: restore makes the record again, by its author of then if he is known, or brings
// back the fields that differ from the record as it stands, the office's decision also about fields that no device may
// write. Otherwise the row is discarded. A restore that breaks a rule of the kind is REJECTED and the row stays; so is one
// that holds a value that p may not read (FIELD_FORBIDDEN): a device offered it, and nobody restores what he has not seen.
// History names p. Who comes second finds no row: NOT_FOUND.
func (e *Engine) ResolveSalvage(ctx context.Context, p *satchel.Principal, record satchel.ID, restore bool) (Verdict, error) {
	if !restore {
		tag, err := e.cfg.Pool.Exec(ctx, sqlDropSalvage, p.Org, record)
		if err == nil && tag.RowsAffected() == 0 {
			err = noSalvage()
		}
		return Verdict{}, pg.ToError(err)
	}
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Deadline)
	defer cancel()
	var v Verdict
	err := e.retry(ctx, func() (err error) {
		v, err = e.restoreSalvage(ctx, p, record)
		return err
	})
	return v, pg.ToError(err)
}

func noSalvage() error {
	return satchel.E(satchel.NotFound, satchel.ReasonNotFound, "no such salvaged row; somebody may have settled it")
}

// restoreSalvage is one try, in one transaction.
func (e *Engine) restoreSalvage(ctx context.Context, p *satchel.Principal, record satchel.ID) (Verdict, error) {
	tx, err := pg.Begin(ctx, e.cfg.Pool, pg.ReadCommitted)
	if err != nil {
		return Verdict{}, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	s := SalvagedRow{Record: record}
	err = tx.QueryRow(ctx, sqlLockSalvage, p.Org, record).Scan(&s.Kind, &s.Rev, (*[]byte)(&s.Fields), &s.Author, &s.EventMS)
	if errors.Is(err, pgx.ErrNoRows) {
		return Verdict{}, noSalvage()
	}
	if err != nil {
		return Verdict{}, err
	}
	op := Op{Action: Patch, Record: record, Kind: s.Kind, Fields: s.Fields}
	// A record may be salvaged again after a second restore: the key names the moment too.
	b := e.newSystemBatch(tx, SystemMutation{Org: p.Org, Source: "salvage", Key: record.String() + "/" + satchel.NewID().String(), Ops: []Op{op},
		Cause: "a device still held it after the database was restored; the office brought it back"})
	if err := b.load(ctx); err != nil {
		return Verdict{}, err
	}
	b.person = p.Person // who answers for it; what he may do is not asked
	a := &attempt{b: b, m: b.in.Mutations[0], rows: map[satchel.ID]*row{}, at: b.now.UnixMilli(), system: true, verdict: Verdict{Status: Applied}}
	if err := b.shielded("salvage", func() error { return a.bringBack(ctx, s, op) }); err != nil {
		if r, ok := errors.AsType[*Refusal](err); ok {
			return Verdict{Status: r.Status, Reason: r.Reason, Detail: r.Detail, Paths: []Path{{Record: record, Path: r.Path}}}, nil
		}
		return Verdict{}, err
	}
	b.accept(a)
	if err := b.finish(ctx); err != nil {
		return Verdict{}, err
	}
	if err := b.react(ctx); err != nil {
		return Verdict{}, err
	}
	if _, err := tx.Exec(ctx, sqlDropSalvage, p.Org, record); err != nil {
		return Verdict{}, err
	}
	seq, err := b.commit(ctx)
	if err != nil {
		return Verdict{}, err
	}
	b.wake()
	return b.outcome(seq).Verdicts[0], nil
}

// bringBack makes the salvaged record, or the fields that differ, stand.
func (a *attempt) bringBack(ctx context.Context, s SalvagedRow, op Op) error {
	k := a.b.org.schema.Kind(s.Kind)
	if k == nil {
		return refuse(satchel.ReasonUnknownKind, "", "the schema has no such kind any more")
	}
	r, err := a.row(ctx, s.Record)
	if err != nil {
		return err
	}
	fields, err := a.fields(k, s.Fields)
	if err != nil {
		return err
	}
	g := a.b.e.grantsOf(a.b.org, a.b.org.roles(a.b.person))
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if right := g.Field(k.Name, name); right != schema.Read && right != schema.Write {
			return refuse(satchel.ReasonFieldForbidden, name, "the row has a value that you may not read; somebody who may must restore it")
		}
	}
	if r == nil {
		author := s.Author
		if _, known := a.b.org.dir.Person(author); !known {
			author = satchel.ID{}
		}
		rec, p := schema.New(k, s.Record, author, a.firstRev(), schema.Edit{At: s.EventMS, Fields: fields})
		if p != nil {
			return problem(p)
		}
		a.set(&row{rec: rec, changed: true})
		a.history = append(a.history, entry{record: rec.ID, rev: rec.Rev, op: Create, at: s.EventMS})
		return a.place(ctx)
	}
	if r.rec.Kind != s.Kind {
		return refuse(satchel.ReasonRecordExists, "", "a record of another kind has this id now")
	}
	for name, v := range fields {
		if schema.Equal(r.rec.Data[name], v) && !r.rec.Deleted {
			delete(fields, name)
		}
	}
	if len(fields) == 0 {
		return nil
	}
	text, err := encodeJSON(fields)
	if err != nil {
		return err
	}
	op.Fields, op.BaseRev = json.RawMessage(text), r.rec.Rev
	if err := a.op(ctx, op); err != nil {
		return err
	}
	return a.place(ctx)
}
