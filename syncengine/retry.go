package syncengine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/jobs"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/schema"
)

// keptTry is what a system mutation does to a kept one. Its row is locked first and written with the commit, so that of
// two who settle it at once exactly one does.
type keptTry struct {
	device  satchel.ID
	number  uint64
	tries   int        // as the caller read it
	author  satchel.ID // of the kept mutation
	by      satchel.ID // who settles it; zero = the server
	discard bool       // it is closed without being applied
	quiet   bool       // where it is still not understood, nothing happens
	patient bool       // where it is still refused, nothing happens
	edit    bool       // other ops than its own are tried: where they are refused, nothing happens
	seen    bool       // the ops have seen what stands: a person has chosen what was offered
	// keeps is the attention that keeps it.
	keeps satchel.ID
	// waitsFor is, after the try, the record whose refused creation it waits for.
	waitsFor satchel.ID
}

// keptMoved says that a kept mutation is not as the caller read it: somebody else was faster.
type keptMoved struct{ state string }

func (k *keptMoved) Error() string { return "syncengine: the kept mutation is " + k.state }

const sqlLockKept = `-- syncengine.LockKept
SELECT state, tries FROM kept WHERE org_id = $1 AND device_id = $2 AND number = $3 FOR UPDATE`

const sqlSettleKept = `-- syncengine.SettleKept
UPDATE kept SET state = $4, settled_by = $5, settled_at = $6, tries = tries + 1, waits_for = NULL
WHERE org_id = $1 AND device_id = $2 AND number = $3`

const sqlTriedKept = `-- syncengine.TriedKept
UPDATE kept SET verdict = $4::jsonb, status = $5, waits_for = $6, tries = tries + 1
WHERE org_id = $1 AND device_id = $2 AND number = $3`

// scan reads what sqlLockKept gives; an error says that the row is not as the caller read it.
func (k *keptTry) scan(r pgx.Row) error {
	var state string
	var tries int
	err := r.Scan(&state, &tries)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return satchel.E(satchel.NotFound, satchel.ReasonNotFound, "no such kept mutation")
	case err == nil && (state != KeptOpen || tries != k.tries):
		return &keptMoved{state}
	}
	return err
}

// author is whose refused creations the batch resolves: a kept mutation's author, whoever edits it.
func (b *batch) author() satchel.ID {
	if b.source != nil && b.source.kept != nil {
		return b.source.kept.author
	}
	return b.person
}

// closing tells whether the batch settles a kept mutation for good.
func (b *batch) closing() bool {
	if b.source == nil || b.source.kept == nil {
		return false
	}
	s := b.settled[0].v.Status
	return b.source.kept.discard || s == Applied || s == Merged
}

// fruitless tells whether a try leaves everything as it is, so that nothing is written.
func (b *batch) fruitless() bool {
	if b.source.kept == nil || b.closing() {
		return false
	}
	k, status := b.source.kept, b.settled[0].v.Status
	return k.edit || k.quiet && status == Unsupported || k.patient && status == Rejected
}

// queueTry queues what became of a kept mutation.
func (b *batch) queueTry(q *pgx.Batch) error {
	if b.source == nil || b.source.kept == nil {
		return nil
	}
	k := b.source.kept
	if b.closing() {
		state := KeptApplied
		if k.discard {
			state = KeptDiscarded
		}
		q.Queue(sqlSettleKept, b.orgID, k.device, int64(k.number), state, pg.NullID(k.by), b.now)
		return nil
	}
	v := b.settled[0].v
	if v.Attention.IsZero() {
		v.Attention = k.keeps
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	q.Queue(sqlTriedKept, b.orgID, k.device, int64(k.number), string(raw), string(v.Status), pg.NullID(k.waitsFor))
	return nil
}

const sqlStillOpen = `-- syncengine.StillOpen
SELECT EXISTS (SELECT 1 FROM kept k JOIN unnest($2::uuid[], $3::bigint[]) AS u(device, number)
  ON k.device_id = u.device AND k.number = u.number WHERE k.org_id = $1 AND k.state = 'open')`

// closeAttention closes the attention that kept what is settled now, unless it holds something else.
func (a *attempt) closeAttention(ctx context.Context, try *keptTry) error {
	if try.keeps.IsZero() {
		return nil
	}
	r, err := a.row(ctx, try.keeps)
	if err != nil || r == nil || r.rec.Kind != attentionKind || r.rec.Deleted || r.rec.Data["open"] != true {
		return err
	}
	own := keptKey(try.device, try.number)
	var devices []satchel.ID
	var numbers []int64
	items, _ := r.rec.Data["items"].([]any)
	for _, it := range items {
		key := keyOf(it)
		if key == own {
			continue
		}
		device, number, ok := readKey(key)
		if !ok {
			return nil
		}
		devices, numbers = append(devices, device), append(numbers, number)
	}
	if len(devices) > 0 {
		var open bool
		if err := a.b.tx.QueryRow(ctx, sqlStillOpen, a.b.orgID, devices, numbers).Scan(&open); err != nil || open {
			return err
		}
	}
	k := a.b.org.schema.Kind(attentionKind)
	got, p := schema.Merge(k, r.rec, schema.Edit{Base: r.rec.Rev, At: a.at, Fields: map[string]any{"open": false}})
	if p != nil {
		return fmt.Errorf("syncengine: attention: %s %v", p.Reason, p.Paths)
	}
	a.change(r, got.Record, entry{op: Patch, before: got.Changed})
	return nil
}

// RetryKept applies a kept mutation again, in its author's name and under his rights of now, as his device's word of
// then; of a conflicting one, what did not stand, over what stands. p is the person who does it. The state is KeptApplied
// when it took effect (APPLIED, MERGED), else still KeptOpen with the verdict of this try. Where somebody else was
// faster, the verdict is STALE SUPERSEDED and the state tells what he did.
func (e *Engine) RetryKept(ctx context.Context, p *satchel.Principal, device satchel.ID, number uint64) (Verdict, string, error) {
	k, err := e.oneKept(ctx, p.Org, device, number)
	if err != nil {
		return Verdict{}, "", err
	}
	if k.State != KeptOpen {
		return superseded(), k.State, nil
	}
	m, ok := k.again("desk", p.Org)
	if !ok {
		return Verdict{}, k.State, satchel.E(satchel.Precondition, satchel.ReasonMalformed,
			"there is nothing that could be applied again: its bytes are no mutation, or stayed on the device; edit it or discard it")
	}
	m.kept.by, m.Cause = p.Person, "the office tried it again"
	return e.try(ctx, m)
}

// EditKept applies other ops in place of a kept mutation's, in the name and under the rights of p, and closes it when
// they take effect; see [Engine.RetryKept] for what it gives.
func (e *Engine) EditKept(ctx context.Context, p *satchel.Principal, device satchel.ID, number uint64, ops []Op) (Verdict, string, error) {
	k, err := e.oneKept(ctx, p.Org, device, number)
	if err != nil {
		return Verdict{}, "", err
	}
	if k.State != KeptOpen {
		return superseded(), k.State, nil
	}
	m := k.system("desk", p.Org)
	m.Actor, m.Ops, m.Cause = &satchel.Principal{Org: p.Org, Person: p.Person}, ops, "the office edited what was refused"
	m.kept.by, m.kept.edit = p.Person, true
	return e.try(ctx, m)
}

// DiscardKept closes a kept mutation without applying it.
func (e *Engine) DiscardKept(ctx context.Context, p *satchel.Principal, device satchel.ID, number uint64) (state string, err error) {
	k, err := e.oneKept(ctx, p.Org, device, number)
	if err != nil || k.State != KeptOpen {
		return k.State, err
	}
	m := k.system("desk", p.Org)
	m.kept.by, m.kept.discard = p.Person, true
	_, state, err = e.try(ctx, m)
	return state, err
}

func superseded() Verdict {
	return Verdict{Status: Stale, Reason: satchel.ReasonSuperseded, Detail: "somebody else was faster"}
}

// system makes a system mutation about a kept one, still without ops.
func (k Kept) system(source string, org satchel.ID) SystemMutation {
	return SystemMutation{Org: org, Source: source, Key: fmt.Sprintf("%s#%d", keptKey(k.Device, k.Number), k.Tries),
		kept: &keptTry{device: k.Device, number: k.Number, tries: k.Tries, author: k.Person, keeps: k.Verdict.Attention}}
}

// again makes the system mutation that tries a kept one again; false = it holds nothing to try.
func (k Kept) again(source string, org satchel.ID) (SystemMutation, bool) {
	m := k.system(source, org)
	if k.Mutation == nil || len(k.Mutation.Ops) == 0 {
		return m, false
	}
	m.Actor = &satchel.Principal{Org: org, Person: k.Person}
	m.Ops, m.At = k.Mutation.Ops, time.UnixMilli(k.EventMS)
	m.device, m.number, m.token, m.schemaVersion = k.Device, k.Number, k.Mutation.Token, k.Mutation.SchemaVersion
	if k.Verdict.Status == Conflicted {
		m.Ops, m.kept.seen = unsettled(k.Mutation.Ops, k.Verdict.Paths), true
	}
	return m, len(m.Ops) > 0
}

// unsettled gives what of a mutation's ops did not stand: the rest took effect when it came.
func unsettled(ops []Op, lost []Path) (out []Op) {
	named, is := map[satchel.ID]bool{}, map[Path]bool{}
	for _, op := range ops {
		named[op.Record] = true
	}
	for _, p := range lost {
		if !named[p.Record] { // a merged record's root, which the op reached through an alias
			p.Record = satchel.ID{}
		}
		is[p] = true
	}
	for _, op := range ops {
		stood := func(path string) bool {
			return !is[Path{Record: op.Record, Path: path}] && !is[Path{Path: path}]
		}
		if op.Action == Delete && !stood("") {
			out = append(out, op)
		}
		if op.Action != Create && op.Action != Patch {
			continue
		}
		fields, err := schema.DecodeFields(op.Fields)
		if err != nil {
			continue
		}
		maps.DeleteFunc(fields, func(name string, _ any) bool { return stood(name) })
		again := Op{Action: Patch, Record: op.Record, Kind: op.Kind}
		for _, s := range op.Sets {
			gone := func(el string) bool { return stood(s.Field + "/" + el) }
			s.Add, s.Remove = slices.DeleteFunc(slices.Clone(s.Add), gone), slices.DeleteFunc(slices.Clone(s.Remove), gone)
			if len(s.Add)+len(s.Remove) > 0 {
				again.Sets = append(again.Sets, s)
			}
		}
		for _, inc := range op.Increments {
			if !stood(inc.Field) {
				again.Increments = append(again.Increments, inc)
			}
		}
		if text, err := encodeJSON(fields); err == nil && len(fields) > 0 {
			again.Fields = json.RawMessage(text)
		}
		if len(again.Fields)+len(again.Sets)+len(again.Increments) > 0 {
			out = append(out, again)
		}
	}
	return out
}

// try submits what is done to a kept mutation. What Postgres refuses is refused, like a device's (S5).
func (e *Engine) try(ctx context.Context, m SystemMutation) (Verdict, string, error) {
	out, err := e.submit(ctx, m)
	if !m.culprit && byData(err) {
		m.culprit = true
		out, err = e.submit(ctx, m)
	}
	if moved, ok := errors.AsType[*keptMoved](err); ok {
		return superseded(), moved.state, nil
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return Verdict{}, KeptOpen, &satchel.Error{Kind: satchel.Contention, Reason: satchel.ReasonDeadline,
			Detail: "it took too long and nothing of it happened; try again", Err: err}
	}
	if err != nil {
		return Verdict{}, KeptOpen, pg.ToError(err)
	}
	v := out.Verdicts[0]
	switch {
	case m.kept.discard:
		return v, KeptDiscarded, nil
	case v.Status == Applied || v.Status == Merged:
		return v, KeptApplied, nil
	}
	return v, KeptOpen, nil
}

const sqlWaiting = `-- syncengine.Waiting
SELECT ` + keptColumns + ` FROM kept
WHERE org_id = $1 AND waits_for = $2 AND state = 'open' AND (device_id, number) > ($3, $4) ORDER BY device_id, number LIMIT 1`

// Those of a protocol that is spoken no more are for the office: no upgrade of the server brings its meaning back.
const sqlUnsupported = `-- syncengine.Unsupported
SELECT ` + keptColumns + ` FROM kept
WHERE org_id = $1 AND status = 'UNSUPPORTED' AND state = 'open' AND (device_id, number) > ($2, $3)
  AND verdict ->> 'why' IS DISTINCT FROM 'CLIENT_TOO_OLD'
ORDER BY device_id, number LIMIT 1`

// jobParked applies, in order and in their author's name, the mutations that waited for a creation that is now resolved
// (S5).
func (e *Engine) jobParked(ctx context.Context, org satchel.ID, raw json.RawMessage) error {
	var args recordArgs
	if err := json.Unmarshal(raw, &args); err != nil {
		return jobs.Discard(err)
	}
	_, _, err := e.tryAll(ctx, org, 0, func(device satchel.ID, number int64) (pgx.Rows, error) {
		return e.cfg.Pool.Query(ctx, sqlWaiting, org, args.Record, device, number)
	}, func(m *SystemMutation) { m.Cause = "it had waited for a record whose creation was refused" })
	return err
}

// jobUpgraded applies, in order and in their author's name, what this server could not understand before its schema or
// itself was upgraded (S5). What it still does not understand stays as it is.
func (e *Engine) jobUpgraded(ctx context.Context, org satchel.ID, _ json.RawMessage) error {
	_, _, err := e.tryAll(ctx, org, 0, func(device satchel.ID, number int64) (pgx.Rows, error) {
		return e.cfg.Pool.Query(ctx, sqlUnsupported, org, device, number)
	}, func(m *SystemMutation) {
		m.kept.quiet, m.Cause = true, "this server had been too old for it"
	})
	return err
}

// tryAll tries kept mutations one after another, each found behind the one before, and tells how many it tried and how
// many of them took effect; at most most of them, where that is not 0. One that comes to no end (it takes too long, others
// are in its way) lets only those of its own device wait for the job to be done again.
func (e *Engine) tryAll(ctx context.Context, org satchel.ID, most int, find func(device satchel.ID, number int64) (pgx.Rows, error),
	mark func(*SystemMutation)) (tried, applied int, err error) {
	var device satchel.ID
	var number int64
	var failed error
	for most == 0 || tried < most {
		rows, err := find(device, number)
		if err != nil {
			return tried, applied, err
		}
		k, err := pgx.CollectExactlyOneRow(rows, scanKept)
		if errors.Is(err, pgx.ErrNoRows) {
			break
		}
		if err != nil {
			return tried, applied, err
		}
		device, number = k.Device, int64(k.Number)
		_, dir, err := e.Org(ctx, org)
		if err != nil {
			return tried, applied, err
		}
		if who, known := dir.Person(k.Person); !known || who.Disabled {
			continue // nothing is done in his name any more; it stays where it is kept
		}
		m, ok := k.again("kept", org)
		if !ok {
			continue
		}
		mark(&m)
		_, state, err := e.try(ctx, m)
		if satchel.KindOf(err) == satchel.Contention && ctx.Err() == nil {
			failed, number = err, math.MaxInt64
		} else if err != nil {
			return tried, applied, err
		}
		tried++
		if state == KeptApplied {
			applied++
		}
	}
	return tried, applied, failed
}

const sqlOrgsUnsupported = `-- syncengine.OrgsUnsupported
SELECT DISTINCT org_id FROM kept WHERE status = 'UNSUPPORTED' AND state = 'open' LIMIT 10000`

// upgraded enqueues, when a server has started, the job that tries again what servers before it did not understand.
func (e *Engine) upgraded(ctx context.Context) error {
	return e.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, sqlOrgsUnsupported)
		if err != nil {
			return err
		}
		orgs, err := pgx.CollectRows(rows, pgx.RowTo[satchel.ID])
		if err != nil || len(orgs) == 0 {
			return err
		}
		js := make([]jobs.Job, len(orgs))
		for i, org := range orgs {
			js[i] = upgradedJob(org)
		}
		return e.cfg.Jobs.Enqueue(ctx, tx, js...)
	})
}

func upgradedJob(org satchel.ID) jobs.Job {
	return jobs.Job{Kind: JobUpgraded, Org: org, Key: "upgraded"}
}
