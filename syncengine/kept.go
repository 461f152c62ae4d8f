package syncengine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/pg"
)

// The states of a kept mutation.
const (
	KeptOpen      = "open"      // nobody has settled it yet
	KeptApplied   = "applied"   // it was applied after all, as it was or edited
	KeptDiscarded = "discarded" // it was given up, by the office or by its author, who closed the attention
)

// Kept is a mutation that did not take effect as it was sent: refused, conflicting, not understood, or waiting for a
// record whose creation was refused. Device (the lane's, so after a fork the newer id) and Number name it.
type Kept struct {
	Device    satchel.ID
	Number    uint64
	ID        satchel.ID // its random id
	Person    satchel.ID // the author
	Mutation  *Mutation  // nil = it is no mutation that could be read: see Bytes
	Bytes     []byte     // as it came, where it could not be stored as JSON; nil also for an envelope, whose bytes are on the device
	Verdict   Verdict    // of the last try; without Seq
	WaitsFor  satchel.ID // the record whose refused creation it waits for; zero = none
	EventMS   int64      // when it took place (S7), milliseconds since 1970
	At        time.Time  // when it came
	State     string     // KeptOpen, KeptApplied, KeptDiscarded
	SettledBy satchel.ID // zero = nobody yet, or the server itself
	SettledAt time.Time
	Tries     int // how often it was tried again
}

// KeptFilter says which kept mutations; zero fields do not restrict.
type KeptFilter struct {
	Device satchel.ID // of the sign-in, or of one of its forks
	Person satchel.ID
	State  string
	Limit  int    // 0 = 50, at most 200
	After  string // next of the page before; "" = from the newest
}

// keptRow is a mutation of the batch that is to be kept.
type keptRow struct {
	m        Mutation
	v        Verdict
	at       int64      // event time, which the clock pairs of its call gave
	waitsFor satchel.ID // the record whose refused creation it waits for
	bytes    bool       // Postgres refuses its data: it cannot be stored as JSON
}

// retain keeps a mutation of a device that did not take effect as sent. One that was kept already stays where it is.
func (b *batch) retain(a *attempt, v Verdict, waitsFor satchel.ID) {
	if b.source != nil {
		if b.source.kept != nil {
			b.source.kept.waitsFor = waitsFor
		}
		return
	}
	m := a.m
	m.SchemaVersion = max(m.SchemaVersion, b.in.SchemaVersion)
	m.Recorded = ClockReading{WallMS: a.at} // the boot means nothing without its clock pairs
	b.keeps = append(b.keeps, keptRow{m: m, v: v, at: a.at, waitsFor: waitsFor, bytes: b.in.culprit})
}

// refuse keeps a refused mutation: its number is used up, its values go to an attention (S5). What depends on a refused
// creation is kept under the attention of that one, and waits for it.
func (b *batch) refuse(ctx context.Context, a *attempt, r *Refusal) error {
	v := Verdict{Number: a.m.Number, Status: r.Status, Reason: r.Reason, Detail: r.Detail, Notes: a.verdict.Notes}
	if len(a.m.Ops) > 0 {
		v.Paths = []Path{{Record: a.m.Ops[0].Record, Path: r.Path}}
	}
	if b.ofADevice() && !(r.Routine && len(a.m.Ops) == 1) && !a.m.empty() {
		att := attention{person: b.person, record: a.m.ID, cause: "refused", reason: r.Reason, items: a.m.remains()}
		var root satchel.ID
		if len(a.m.Ops) > 0 { // else it names no record that could be trusted: the mutation's own id stands in for one
			att.record, att.kind, att.items = a.m.Ops[0].Record, clean(a.m.Ops[0].Kind), nil
			for _, op := range a.m.Ops[:min(len(a.m.Ops), MaxOps)] {
				att.items = append(att.items, itemsOf(op, b.culpritPayload(a))...)
			}
			var id satchel.ID
			if root, id = b.waitsFor(a.m, r); !id.IsZero() {
				att.id, att.record = id, root
			}
		}
		att.items = b.keyed(att.items, a.m.Number)
		v.Attention = att.key()
		b.pendAtt = append(b.pendAtt, att)
		b.retain(a, v, root)
		if err := b.refuseCreations(ctx, a.m.Ops, v.Attention); err != nil {
			return err
		}
	}
	b.settled = append(b.settled, settledMutation{a.m, v})
	return nil
}

// refuseCreations remembers which records do not exist because their creation was refused to this person: what he does
// to them waits.
func (b *batch) refuseCreations(ctx context.Context, ops []Op, attention satchel.ID) error {
	for _, op := range ops[:min(len(ops), MaxOps)] {
		if op.Action != Create || !b.refused[op.Record].IsZero() {
			continue
		}
		existing, err := b.get(ctx, op.Record)
		if err != nil {
			return err
		}
		if existing == nil {
			b.refused[op.Record] = attention
			b.newRef = append(b.newRef, refusedRow{op.Record, attention, b.person})
		}
	}
	return nil
}

// skip uses up the numbers that a device lost, and tells the person (S3).
func (b *batch) skip(a *attempt) {
	att := attention{person: b.person, record: a.m.ID, cause: "refused", reason: satchel.ReasonSkipped, items: a.m.remains()}
	b.pendAtt = append(b.pendAtt, att)
	a.verdict.Attention = att.key()
	b.settled = append(b.settled, settledMutation{a.m, a.verdict})
}

// ofADevice tells whether a person's device made the batch, now or before it was parked: what is refused of it is kept.
func (b *batch) ofADevice() bool { return b.source == nil || !b.source.device.IsZero() }

// waitsFor finds the refused creation that a refused mutation waits for, and the attention of that one; zero = none.
// A mutation that cannot be stored to be done again does not wait.
func (b *batch) waitsFor(m Mutation, r *Refusal) (root, attention satchel.ID) {
	if r.Reason != satchel.ReasonDependsOn || !storable(m) {
		return root, attention
	}
	for _, op := range m.Ops {
		for _, id := range append([]satchel.ID{op.Record}, referenced(op.Fields)...) {
			if att, waits := b.refused[id]; waits {
				return id, att
			}
		}
	}
	return root, attention
}

// keptKey names a kept mutation in the items of an attention.
func keptKey(device satchel.ID, number uint64) string {
	return device.String() + "/" + strconv.FormatUint(number, 10)
}

// keyed writes into an attention's items which kept mutation they are of.
func (b *batch) keyed(items []any, number uint64) []any {
	for _, it := range items {
		it.(map[string]any)["mutation"] = keptKey(b.device, number)
	}
	return items
}

// keyOf reads which kept mutation an item of an attention is of; "" = none.
func keyOf(item any) string {
	m, _ := item.(map[string]any)
	key, _ := m["mutation"].(string)
	return key
}

const sqlKeep = `-- syncengine.Keep
INSERT INTO kept (org_id, device_id, number, id, person_id, mutation, bytes, verdict, status, waits_for, event_ms, at)
SELECT c.org_id, $2, u.number, u.id, $3, u.mutation::jsonb, u.bytes, u.verdict::jsonb, u.status, u.waits_for, u.event_ms, $4
FROM org_clock c, unnest($5::bigint[], $6::uuid[], $7::text[], $8::bytea[], $9::text[], $10::text[], $11::uuid[], $12::bigint[])
  AS u(number, id, mutation, bytes, verdict, status, waits_for, event_ms)
WHERE c.org_id = $1 ON CONFLICT DO NOTHING`

const sqlNewRefused = `-- syncengine.NewRefused
INSERT INTO refused (org_id, record_id, attention_id, person_id)
SELECT c.org_id, u.record, u.attention, $2 FROM org_clock c, unnest($3::uuid[], $4::uuid[]) AS u(record, attention)
WHERE c.org_id = $1 ON CONFLICT DO NOTHING`

const sqlDropRefused = `-- syncengine.DropRefused
DELETE FROM refused WHERE org_id = $1 AND record_id = ANY($2) AND person_id = $3`

// What the author has looked at is settled for the office too; what waits, and what a later version of the server will
// understand, goes on waiting.
const sqlLooked = `-- syncengine.Looked
UPDATE kept k SET state = 'discarded', settled_by = $2, settled_at = $3
FROM unnest($4::uuid[], $5::bigint[]) AS u(device, number)
WHERE k.org_id = $1 AND k.device_id = u.device AND k.number = u.number AND k.person_id = $2
  AND k.state = 'open' AND k.waits_for IS NULL AND k.status <> 'UNSUPPORTED'`

// queueKept queues refused creations, what did not take effect as it was sent, and what became of a kept mutation.
func (b *batch) queueKept(q *pgx.Batch) error {
	if n := len(b.newRef); n > 0 {
		records, attentions := make([]satchel.ID, n), make([]satchel.ID, n)
		for i, r := range b.newRef {
			records[i], attentions[i] = r.record, r.attention
		}
		q.Queue(sqlNewRefused, b.orgID, b.person, records, attentions)
	}
	if n := len(b.keeps); n > 0 {
		numbers, events := make([]int64, n), make([]int64, n)
		ids := make([]satchel.ID, n)
		mutations, raws, verdicts := make([]any, n), make([][]byte, n), make([]string, n)
		statuses, waits := make([]string, n), make([]any, n)
		for i, k := range b.keeps {
			numbers[i], ids[i], events[i] = int64(k.m.Number), k.m.ID, k.at
			statuses[i], waits[i] = string(k.v.Status), pg.NullID(k.waitsFor)
			verdict, err := json.Marshal(k.v)
			if err != nil {
				return err
			}
			verdicts[i] = string(verdict)
			if text, ok := k.json(); ok {
				mutations[i] = text
			} else {
				raws[i] = k.raw()
			}
		}
		q.Queue(sqlKeep, b.orgID, b.device, b.person, b.now, numbers, ids, mutations, raws, verdicts, statuses, waits, events)
	}
	if len(b.undoRef) > 0 {
		q.Queue(sqlDropRefused, b.orgID, b.undoRef, b.author())
	}
	if len(b.looked) > 0 {
		var devices []satchel.ID
		var numbers []int64
		for _, key := range b.looked {
			if device, number, ok := readKey(key); ok {
				devices, numbers = append(devices, device), append(numbers, number)
			}
		}
		q.Queue(sqlLooked, b.orgID, b.person, b.now, devices, numbers)
	}
	return b.queueTry(q)
}

// json spells the mutation as JSON that Postgres can store; false = it cannot be.
func (k keptRow) json() (string, bool) {
	if k.bytes || len(k.m.Ops) == 0 && k.m.Envelope != nil || len(k.m.Malformed) > 0 || !storable(k.m) {
		return "", false
	}
	raw, err := json.Marshal(k.m)
	return string(raw), err == nil
}

// raw gives the bytes of what cannot be stored as JSON; nil = there are none here.
func (k keptRow) raw() []byte {
	switch {
	case len(k.m.Ops) == 0 && k.m.Envelope != nil:
		return nil
	case len(k.m.Malformed) > 0:
		return k.m.Malformed
	}
	if raw, err := json.Marshal(k.m); err == nil {
		return raw
	}
	return rawOps(k.m.Ops)
}

func readKey(key string) (device satchel.ID, number int64, ok bool) {
	id, text, found := strings.Cut(key, "/")
	if !found {
		return device, 0, false
	}
	device, err := satchel.ParseID(id)
	if err != nil {
		return device, 0, false
	}
	number, err = strconv.ParseInt(text, 10, 64)
	return device, number, err == nil
}

const keptColumns = `device_id, number, id, person_id, mutation, bytes, verdict, waits_for, event_ms, at, state, settled_by, settled_at, tries`

const sqlListKept = `-- syncengine.ListKept
SELECT ` + keptColumns + ` FROM kept
WHERE org_id = $1 AND ($2::uuid[] IS NULL OR device_id = ANY($2)) AND ($3::uuid IS NULL OR person_id = $3) AND ($4 = '' OR state = $4)
  AND (at, device_id, number) < ($5, $6, $7)
ORDER BY at DESC, device_id DESC, number DESC LIMIT $8`

const sqlOneKept = `-- syncengine.OneKept
SELECT ` + keptColumns + ` FROM kept WHERE org_id = $1 AND device_id = $2 AND number = $3`

// The lanes of a device: that of its sign-in, and those that took its place. Asked for one of the latter, that one.
const sqlLanesOf = `-- syncengine.LanesOf
WITH RECURSIVE own (device_id) AS (
	SELECT coalesce((SELECT successor FROM lane WHERE org_id = $1 AND device_id = $2), $2)
	UNION
	SELECT l.was FROM own o JOIN lane l ON l.org_id = $1 AND l.device_id = o.device_id
	WHERE l.was IS NOT NULL AND o.device_id <> $2)
SELECT device_id FROM own`

// Kept lists kept mutations, the newest first, with what they hold as it came: who shows them withholds what the reader
// may not read (S21). next is "" at the end.
func (e *Engine) Kept(ctx context.Context, org satchel.ID, f KeptFilter) (list []Kept, next string, err error) {
	limit := min(f.Limit, 200)
	if limit <= 0 {
		limit = 50
	}
	at, device, number := time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), satchel.ID{}, int64(0)
	if f.After != "" {
		micros, key, found := strings.Cut(f.After, "@")
		us, err := strconv.ParseInt(micros, 10, 64)
		var ok bool
		if device, number, ok = readKey(key); !found || !ok || err != nil {
			return nil, "", badPage()
		}
		at = time.UnixMicro(us)
	}
	var lanes []satchel.ID
	if !f.Device.IsZero() {
		if lanes, err = collect[satchel.ID](ctx, e, sqlLanesOf, org, f.Device); err != nil {
			return nil, "", pg.ToError(err)
		}
	}
	rows, err := e.cfg.Pool.Query(ctx, sqlListKept, org, lanes, pg.NullID(f.Person), f.State, at, device, number, limit+1)
	if err != nil {
		return nil, "", pg.ToError(err)
	}
	if list, err = pgx.CollectRows(rows, scanKept); err != nil {
		return nil, "", pg.ToError(err)
	}
	if len(list) > limit {
		list = list[:limit]
		last := list[limit-1]
		next = fmt.Sprintf("%d@%s", last.At.UnixMicro(), keptKey(last.Device, last.Number))
	}
	return list, next, nil
}

func badPage() error {
	return satchel.E(satchel.Invalid, satchel.ReasonMalformed, "the page token is not one that this server gave; begin without one")
}

func scanKept(r pgx.CollectableRow) (k Kept, err error) {
	var mutation, verdict []byte
	var settledAt *time.Time
	if err = r.Scan(&k.Device, &k.Number, &k.ID, &k.Person, &mutation, &k.Bytes, &verdict, &k.WaitsFor, &k.EventMS, &k.At,
		&k.State, &k.SettledBy, &settledAt, &k.Tries); err != nil {
		return k, err
	}
	k.SettledAt = timeOf(settledAt)
	if err = json.Unmarshal(verdict, &k.Verdict); err != nil {
		return k, err
	}
	k.Verdict.Number = k.Number
	if mutation != nil {
		k.Mutation = &Mutation{}
		return k, json.Unmarshal(mutation, k.Mutation)
	}
	var m Mutation // what Postgres refused may be readable all the same
	if len(k.Bytes) > 0 && json.Unmarshal(k.Bytes, &m) == nil && len(m.Ops) > 0 {
		k.Mutation = &m
	}
	return k, nil
}

// oneKept reads a kept mutation.
func (e *Engine) oneKept(ctx context.Context, org, device satchel.ID, number uint64) (Kept, error) {
	rows, err := e.cfg.Pool.Query(ctx, sqlOneKept, org, device, int64(number))
	if err != nil {
		return Kept{}, pg.ToError(err)
	}
	k, err := pgx.CollectExactlyOneRow(rows, scanKept)
	if errors.Is(err, pgx.ErrNoRows) {
		return k, satchel.E(satchel.NotFound, satchel.ReasonNotFound, "no such kept mutation; closed ones are forgotten after 35 days")
	}
	return k, pg.ToError(err)
}
