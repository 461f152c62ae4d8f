package syncengine

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/mutant"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/syncengine/cursor"
)

// lane is a device's queue.
type lane struct {
	person          satchel.ID
	next, confirmed uint64
	was             satchel.ID
	wasBelow        uint64
	successor       satchel.ID // the lane that took its place
	lastEvent       int64
}

// run is a row of the ledger.
type run struct {
	first    uint64
	ids      []satchel.ID
	verdicts []Verdict // nil = all APPLIED without notes
	seq      uint64
}

// forked tells whether the device's numbering is not the one that the server knows: a known number with another
// random id, or a number below next of which no run is kept (S3). In a lane that took another's place so does a gap:
// the device did not hear that it must take this lane's id, or it is the other one of two with one store.
func (b *batch) forked() bool {
	if !b.lane.was.IsZero() && b.in.Mutations[0].Number > b.lane.next {
		return true
	}
	for i := range b.in.Mutations {
		m := &b.in.Mutations[i]
		if m.Number >= b.lane.next {
			return false
		}
		id, _, ok := b.stored(m.Number)
		if !ok && mutant.On(mutant.TrimmedReplayed) {
			continue
		}
		if !ok || id != m.ID {
			return true
		}
	}
	return false
}

// stored gives what the ledger knows of a number.
func (b *batch) stored(number uint64) (satchel.ID, Verdict, bool) {
	for _, r := range b.runs {
		if number < r.first || number >= r.first+uint64(len(r.ids)) {
			continue
		}
		i := int(number - r.first)
		v := r.verdict(i)
		v.Number, v.Seq = number, r.seq
		return r.ids[i], v, true
	}
	return satchel.ID{}, Verdict{}, false
}

// pending gives the mutations that are to be applied now: those that the ledger knows are left out, and nothing is
// when the first new one is not the number expected.
func (b *batch) pending() []Mutation {
	for i := range b.in.Mutations {
		number := b.in.Mutations[i].Number
		if number < b.lane.next {
			if _, _, ok := b.stored(number); !ok && mutant.On(mutant.TrimmedReplayed) {
				return b.in.Mutations[i:]
			}
			continue
		}
		if number != b.lane.next && !mutant.On(mutant.GapAccepted) {
			return nil
		}
		return b.in.Mutations[i:]
	}
	return nil
}

const sqlForkLane = `-- syncengine.ForkLane
INSERT INTO lane (org_id, device_id, person_id, was, was_below, last_event) VALUES ($1, $2, $3, $4, $5, $6)`

const sqlSucceed = `-- syncengine.Succeed
UPDATE lane SET successor = $3 WHERE org_id = $1 AND device_id = $2`

// What the person's devices did, by random id. Two phones with one store may go on in two lanes, one the other's before or
// neither (both were signed in anew after a revocation, or after a restore that lost their devices), and each may send what
// the other has sent. The lock makes them take turns.
const sqlHoldPerson = `-- syncengine.HoldPerson
SELECT pg_advisory_xact_lock(hashtextextended(org_id::text || $2::text, 0)) FROM org_clock WHERE org_id = $1`

const sqlRunsOfIDs = `-- syncengine.RunsOfIDs
SELECT first, ids, verdicts, seq FROM ledger
WHERE org_id = $1 AND device_id IN (SELECT l.device_id FROM lane l WHERE l.org_id = $1 AND l.person_id = $2) AND ids && $3`

// Of the person's lanes, those whose first runs are kept no more: until when something may have taken effect of which
// nothing is known. After a restore also this one: what is offered again comes under other numbers.
const sqlUnsure = `-- syncengine.Unsure
SELECT coalesce(max(coalesce((extract(epoch FROM r.at) * 1000)::bigint, 9223372036854775807)), 0)
FROM lane l
LEFT JOIN LATERAL (SELECT r.first, r.at FROM ledger r WHERE r.org_id = $1 AND r.device_id = l.device_id ORDER BY r.first LIMIT 1) r ON true
WHERE l.org_id = $1 AND l.person_id = $2 AND l.next > 1 AND coalesce(r.first, 2) > 1`

// The lane of a device that syncs for the first time. Where its person had revoked the device that it was, it goes on
// behind that one's last lane, or, where that one had sent nothing yet, beside the other phones with the same store.
const sqlNewLane = `-- syncengine.NewLane
INSERT INTO lane (org_id, device_id, person_id, was, was_below, last_event)
SELECT c.org_id, $2, $3, coalesce(w.device_id, d.was), w.next, coalesce(w.last_event, 0) FROM org_clock c
LEFT JOIN directory_device d ON d.org_id = $1 AND d.id = $2 AND d.person_id = $3
LEFT JOIN lane o ON o.org_id = $1 AND o.device_id = d.was AND o.person_id = $3
LEFT JOIN lane w ON w.org_id = $1 AND w.device_id = coalesce(o.successor, o.device_id)
WHERE c.org_id = $1 ON CONFLICT DO NOTHING`

// DeviceGone waits, in the transaction that revokes a device or signs it out, for the batch of it that is being applied:
// every later one finds the device revoked.
func (e *Engine) DeviceGone(ctx context.Context, tx pgx.Tx, org, device satchel.ID) error {
	_, err := tx.Exec(ctx, sqlHoldLane, org, device)
	return err
}

// fresh tells whether a fork's lane has taken nothing yet: the device may not have heard of it.
func (l lane) fresh() bool { return !l.was.IsZero() && l.next == 1 }

// ForkDevice gives a device whose numbering is not the server's (a phone restored from a backup, or cloned) a new id,
// under which it numbers its pending mutations anew (S3). Its session stays that of its sign-in. Asked again before
// the device used the id, it gives the same one.
func (e *Engine) ForkDevice(ctx context.Context, p *satchel.Principal) (id satchel.ID, err error) {
	err = e.inTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		lock := func(device satchel.ID) (lane, error) { return scanLane(tx.QueryRow(ctx, sqlLockLane, p.Org, device)) }
		root, err := lock(p.Device)
		if err != nil {
			return err
		}
		current, l := p.Device, root
		if !root.successor.IsZero() {
			current = root.successor
			if l, err = lock(current); err != nil {
				return err
			}
		}
		if l.fresh() {
			id = current
			return nil
		}
		id = satchel.NewID()
		if _, err := tx.Exec(ctx, sqlForkLane, p.Org, id, l.person, current, int64(l.next), l.lastEvent); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, sqlSucceed, p.Org, p.Device, id)
		return err
	})
	return id, pg.ToError(err)
}

// enterFork goes on in the lane that took the place of the device's first one.
func (b *batch) enterFork(ctx context.Context) error {
	b.device = b.lane.successor
	first, last := b.in.Mutations[0].Number, b.in.Mutations[len(b.in.Mutations)-1].Number
	var err error
	if b.lane, err = scanLane(b.tx.QueryRow(ctx, sqlLockLane, b.orgID, b.device)); err != nil {
		return err
	}
	rows, err := b.tx.Query(ctx, sqlRuns, b.orgID, b.device, int64(first)-MaxBatch, int64(first), int64(last))
	if err != nil {
		return err
	}
	b.runs, err = pgx.CollectRows(rows, scanRun)
	return err
}

// recall finds what the person had done under other numbers, in a lane that has another before it and after a restore:
// a random id that the kept runs know gets its verdict, and what adds up and may be older than they are is not applied.
func (b *batch) recall(ctx context.Context) error {
	var ids []satchel.ID
	additive := false
	for _, m := range b.pending() {
		ids = append(ids, m.ID)
		additive = additive || m.additive()
	}
	if len(ids) == 0 {
		return nil
	}
	var q pgx.Batch
	q.Queue(sqlHoldPerson, b.orgID, b.person)
	q.Queue(sqlRunsOfIDs, b.orgID, b.person, ids)
	var old []run
	res := b.tx.SendBatch(ctx, &q)
	_, err := res.Exec()
	if err == nil {
		var rows pgx.Rows
		if rows, err = res.Query(); err == nil {
			old, err = pgx.CollectRows(rows, scanRun)
		}
	}
	if closeErr := res.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	b.before = map[satchel.ID]Verdict{}
	for _, r := range old {
		for i, id := range r.ids {
			v := r.verdict(i)
			v.Seq = r.seq
			b.before[id] = v
		}
	}
	if !additive {
		return nil
	}
	return b.tx.QueryRow(ctx, sqlUnsure, b.orgID, b.person).Scan(&b.unsure)
}

// recorded is when the mutation was recorded as far as its own clock readings say, whatever the device sent before.
func (a *attempt) recorded() int64 {
	if a.b.source != nil {
		return a.at
	}
	var checkpoint int64
	if t, ok := cursor.OpenToken(a.b.clock.Key, a.b.person, a.m.Token); ok {
		checkpoint = t.TimeMS
	}
	at, _ := eventTime(a.m.Recorded, a.b.in.Pairs, checkpoint, a.b.now.UnixMilli(), 0)
	return at
}

// scanLane reads what sqlLockLane gives.
func scanLane(r pgx.Row) (l lane, err error) {
	err = r.Scan(&l.person, &l.next, &l.confirmed, &l.was, &l.wasBelow, &l.successor, &l.lastEvent)
	return l, err
}

func scanRun(r pgx.CollectableRow) (v run, err error) {
	var raw []byte
	if err = r.Scan(&v.first, &v.ids, &raw, &v.seq); err != nil || len(raw) == 0 {
		return v, err
	}
	if err = json.Unmarshal(raw, &v.verdicts); err == nil && len(v.verdicts) != len(v.ids) {
		err = errors.New("syncengine: a run has other verdicts than ids")
	}
	return v, err
}

// verdict gives that of the run's i-th mutation.
func (r run) verdict(i int) Verdict {
	if r.verdicts == nil {
		return Verdict{Status: Applied}
	}
	return r.verdicts[i]
}

// ContactNote is what a device tells of itself in a call.
type ContactNote struct {
	Confirmed     uint64
	Outbox        Outbox
	Cursor        []byte // after the answer: how far it has pulled; nil = not told
	Behind        bool   // the answer said that there is more to pull
	AppVersion    string // "" = as before
	Profile       string
	SchemaVersion int // 0 = as before
	Protocol      int
}

// What a device tells belongs to the lane that it goes on in.
const sqlContact = `-- syncengine.Contact
UPDATE lane SET confirmed = greatest(confirmed, least($3, next - 1)), last_contact = $4, outbox_count = $5, outbox_oldest = $6,
  media_bytes = $7, shown = CASE WHEN $8 = 0 THEN shown ELSE $8 END, app_version = coalesce(nullif($9, ''), app_version),
  profile = $10, app_schema = CASE WHEN $11 = 0 THEN app_schema ELSE $11 END, protocol = $12, behind = $13
WHERE org_id = $1 AND device_id = coalesce((SELECT r.successor FROM lane r WHERE r.org_id = $1 AND r.device_id = $2), $2)`

// Contact notes that a device was here, what waits on it and how far it has pulled; the server calls it at most once a
// minute and device, after the answer.
func (e *Engine) Contact(ctx context.Context, p *satchel.Principal, n ContactNote) error {
	shown, err := e.shownOf(ctx, p, n.Cursor, n.Profile)
	if err != nil {
		return pg.ToError(err)
	}
	for range 2 {
		tag, err := e.cfg.Pool.Exec(ctx, sqlContact, p.Org, p.Device, int64(n.Confirmed), e.cfg.Now(), n.Outbox.Count, oldest(n.Outbox),
			int64(n.Outbox.MediaBytes), int64(shown), cut(n.AppVersion, 64), cut(n.Profile, 64), n.SchemaVersion, max(n.Protocol, 1), n.Behind)
		if err != nil || tag.RowsAffected() > 0 {
			return pg.ToError(err)
		}
		if _, err := e.cfg.Pool.Exec(ctx, sqlNewLane, p.Org, p.Device, p.Person); err != nil { // it has only pulled so far
			return pg.ToError(err)
		}
	}
	return nil
}

// shownOf gives the commit up to which a device has pulled: the organisation's last one when there is nothing that it
// does not have. 0 = not known.
func (e *Engine) shownOf(ctx context.Context, p *satchel.Principal, sealed []byte, profile string) (uint64, error) {
	if len(sealed) == 0 {
		return 0, nil
	}
	o, c, err := e.orgNow(ctx, e.cfg.Pool, p.Org)
	if err != nil {
		return 0, err
	}
	place, ok := cursor.Open(o.key, p.Person, sealed)
	if !ok || !c.reaches(place.Live) {
		return 0, nil
	}
	v, err := e.view(ctx, e.cfg.Pool, p.Org, place.View)
	if err != nil {
		return place.Live, err
	}
	idle, err := e.nothingNew(ctx, p, PullRequest{Profile: profile}, opened{o, place, v})
	if idle {
		return c.Seq, err
	}
	return place.Live, err
}

// oldest gives the time of an outbox's oldest mutation, or NULL.
func oldest(o Outbox) any {
	if o.OldestMS == 0 {
		return nil
	}
	return time.UnixMilli(o.OldestMS)
}

// LaneFilter says which devices; zero fields do not restrict.
type LaneFilter struct {
	Persons []satchel.ID
	Limit   int    // 0 = 100, at most 500
	After   string // next of the page before; "" = from the first
}

// LaneState is what the engine knows of a device, by its last contact. One that never synced has a zero LastContact and
// Next 0.
type LaneState struct {
	Device       satchel.ID // of the sign-in
	Person       satchel.ID
	Revoked      bool
	Lane         satchel.ID // under which it goes on: another than Device after a fork
	Next         uint64     // the number expected next
	Confirmed    uint64
	LastContact  time.Time // zero = never
	OutboxCount  uint32
	OutboxOldest time.Time // by the phone's clock; zero = none
	MediaBytes   uint64
	Shown        uint64 // the commit up to which it had pulled; 0 = not known
	Seq          uint64 // the organisation's last commit now
	Lag          uint64 // commits since Shown; 0 also where Shown is not known
	Behind       bool   // at its last contact there was more to pull
	AppVersion   string
	AppSchema    int // 0 = not told
	Profile      string
	Protocol     int
	RepairedAt   time.Time // zero = never
	Kept         uint32    // mutations of it, its forks' too, that are kept and open
}

// Forked tells whether the device goes on under another id, since its store was restored or cloned.
func (l LaneState) Forked() bool { return l.Lane != l.Device }

// Devices with the lane in which each goes on, and what is kept of all the lanes that it had since its sign-in.
const sqlSyncStates = `-- syncengine.SyncStates
SELECT d.id, d.person_id, d.revoked, coalesce(l.device_id, d.id), coalesce(l.next, 0), coalesce(l.confirmed, 0), l.last_contact,
  coalesce(l.outbox_count, 0), l.outbox_oldest, coalesce(l.media_bytes, 0), coalesce(l.shown, 0), coalesce(l.app_version, ''),
  coalesce(l.app_schema, 0), coalesce(l.profile, ''), coalesce(l.protocol, 1), greatest(l.repaired_at, o.repaired_at), coalesce(l.behind, false), k.open
FROM directory_device d
LEFT JOIN lane o ON o.org_id = $1 AND o.device_id = d.id
LEFT JOIN lane l ON l.org_id = $1 AND l.device_id = coalesce(o.successor, o.device_id)
CROSS JOIN LATERAL (
	WITH RECURSIVE own (device_id) AS (
		SELECT coalesce(l.device_id, d.id)
		UNION
		SELECT w.was FROM own n JOIN lane w ON w.org_id = $1 AND w.device_id = n.device_id
		WHERE w.was IS NOT NULL AND n.device_id <> d.id)
	SELECT count(*) AS open FROM own n JOIN kept q ON q.org_id = $1 AND q.device_id = n.device_id AND q.state = 'open') k
WHERE d.org_id = $1 AND d.id > $2 AND ($3::uuid[] IS NULL OR d.person_id = ANY($3)) ORDER BY d.id LIMIT $4`

// SyncStates tells about the devices of an organisation, in the order of their ids. A fork is told under the device of
// its sign-in. next is "" at the end.
func (e *Engine) SyncStates(ctx context.Context, org satchel.ID, f LaneFilter) (list []LaneState, next string, err error) {
	limit := min(f.Limit, 500)
	if limit <= 0 {
		limit = 100
	}
	var after satchel.ID
	if f.After != "" {
		if after, err = satchel.ParseID(f.After); err != nil {
			return nil, "", badPage()
		}
	}
	c, err := readClock(ctx, e.cfg.Pool, org)
	if err != nil {
		return nil, "", pg.ToError(err)
	}
	rows, err := e.cfg.Pool.Query(ctx, sqlSyncStates, org, after, f.Persons, limit+1)
	if err != nil {
		return nil, "", pg.ToError(err)
	}
	list, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (l LaneState, err error) {
		var contact, outbox, repaired *time.Time
		err = r.Scan(&l.Device, &l.Person, &l.Revoked, &l.Lane, &l.Next, &l.Confirmed, &contact, &l.OutboxCount, &outbox, &l.MediaBytes,
			&l.Shown, &l.AppVersion, &l.AppSchema, &l.Profile, &l.Protocol, &repaired, &l.Behind, &l.Kept)
		l.LastContact, l.OutboxOldest, l.RepairedAt = timeOf(contact), timeOf(outbox), timeOf(repaired)
		l.Seq, l.Lag = c.Seq, c.since(l.Shown)
		return l, err
	})
	if err != nil {
		return nil, "", pg.ToError(err)
	}
	if len(list) > limit {
		list = list[:limit]
		next = list[limit-1].Device.String()
	}
	return list, next, nil
}

// since counts the commits of this line after one; 0 = not known.
func (c clock) since(seq uint64) (n uint64) {
	if seq == 0 {
		return 0
	}
	seq = min(seq, c.common(seq))
	for _, cut := range c.Cuts {
		if cut.Cut > seq {
			n += cut.Cut - max(seq, cut.Epoch<<epochShift)
		}
	}
	return n + c.Seq - max(seq, c.epoch()<<epochShift)
}

// timeOf gives a time that may be NULL; zero = it is.
func timeOf(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}
