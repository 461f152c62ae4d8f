package syncengine

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/access"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/syncengine/cursor"
	"github.com/satchel-sync/satchel/syncengine/waiters"
)

// Bounds of a page's rows, in bytes.
const (
	DefaultPageBytes = 256 << 10
	MaxPageBytes     = 4 << 20
)

// rowOverhead is what a change costs beside its fields, in bytes, for the budget of a page.
const rowOverhead = 64

// PullRequest says where a device stands and what it follows.
type PullRequest struct {
	// Cursor is that of the last page that the device has stored; empty = it has nothing.
	Cursor []byte
	// MaxBytes bounds the page's rows, roughly; 0 = DefaultPageBytes, at most MaxPageBytes; at least one row.
	MaxBytes int
	// After is a commit that the device was told of: it needs a checkpoint at or past it, even if nothing is new for it.
	After uint64
	// Profile names the schema's profile by which the device follows fewer kinds and months; "" = everything.
	Profile string
	// Sent are the creations that the device sent in this very call and can complete rows from, by record.
	Sent map[satchel.ID]Sent
}

// Sent is how a creation that a device has just sent stands.
type Sent struct {
	Rev   uint64
	Names []string // of the fields that were sent or stand
	Extra []byte   // JSON object: what differs from what was sent, null = without the field; nil = nothing
}

// Page is a part of what changed for a person; see the proto.
type Page struct {
	Cursor        []byte // nil = unchanged
	Changes       []RowChange
	Dropped       []int64
	DroppedKinds  []DroppedKind
	Narrowed      map[string][]string // by kind: fields that must go
	Checkpoint    bool
	More          bool
	Seq           uint64
	Token         []byte
	SchemaVersion int
	// Repair, when set, is all that the page holds: the cursor cannot be continued.
	Repair *RepairOrder
	// Digest is what the device must hold; only at a checkpoint with all priorities settled.
	Digest *Digest
	// Forms is how rows look; nil = as the last page said, empty = every kind is shown whole.
	Forms []Form
	// FollowedMonths is, at a checkpoint, how many months of facts the device follows, this one included; 0 = all.
	FollowedMonths int
	// SettledPriority is, at a checkpoint, how many priorities are settled; 0 = all.
	SettledPriority int
}

// RepairOrder sends a device to repair. Salvage: what it holds and the server does not is to be sent up first.
type RepairOrder struct{ Salvage bool }

// Digest is the count and the sum of H(record, rev), modulo 2^64, of what lies in buckets; see the proto.
type Digest struct{ Count, Sum uint64 }

// Form is how rows of a kind look for a person, as a hash; kinds that are shown whole have none.
type Form = cursor.Form

// DroppedKind is a kind that no longer comes by a bucket.
type DroppedKind = cursor.DroppedKind

// RowChange is a record as it stands now for this person.
type RowChange struct {
	Record  satchel.ID
	Kind    string
	Rev     uint64
	Entered []int64
	Left    []int64
	Fields  []byte // JSON as Postgres made it, masked; nil when deleted or left
	Deleted bool
	Author  satchel.ID
	EventMS int64
	// MergedInto is, of a tombstone, the record that it was merged into; zero = none.
	MergedInto satchel.ID
	// AsSent: the row is the creation that the device sent in this call, with Fields (nil = nothing) over it.
	AsSent bool
}

// Pull gives the next page after a cursor (empty = the device has nothing), in one snapshot. A page brings what changed
// in the complete buckets after the live place, then goes on filling the first incomplete bucket; where a priority is
// complete and others are not, it may end at a checkpoint of what is settled. nil = nothing is newer than the cursor and
// After. A cursor that this server did not give to this person is MALFORMED_CURSOR; one that cannot be continued (its
// commits or its view are gone) gets a page that only says repair; a profile that the schema does not have is MALFORMED.
func (e *Engine) Pull(ctx context.Context, p *satchel.Principal, r PullRequest) (*Page, error) {
	if r.MaxBytes <= 0 {
		r.MaxBytes = DefaultPageBytes
	}
	r.MaxBytes = min(r.MaxBytes, MaxPageBytes)
	at, err := e.open(ctx, p, r.Cursor)
	if err != nil {
		return nil, pg.ToError(err)
	}
	idle, err := e.nothingNew(ctx, p, r, at)
	if err != nil || idle {
		return nil, pg.ToError(err)
	}
	if page, err := e.glance(ctx, p, r, at); err != nil || page != nil {
		return page, pg.ToError(err)
	}
	var b *pageBuilder
	err = pg.Snapshot(ctx, e.cfg.Pool, func(ctx context.Context, tx pgx.Tx) error {
		b = &pageBuilder{e: e, tx: tx, p: p, in: r, budget: r.MaxBytes, page: &Page{}}
		return b.build(ctx)
	})
	if err != nil {
		return nil, pg.ToError(err)
	}
	if b.page.Repair != nil {
		return b.page, nil
	}
	if err := b.seal(ctx); err != nil {
		return nil, pg.ToError(err)
	}
	return b.page, nil
}

// opened is a cursor with its view, and the organisation as this replica knew it then: who answers by it compares that
// with the clock. Without a view, as in the zero value, nothing can be answered by it.
type opened struct {
	org    *org
	cursor cursor.Cursor
	view   *cursor.View
}

// open opens a cursor by what this replica remembers of the organisation. There is no view where it remembers nothing, or
// the cursor is empty, not this person's, or of a view that is gone: build says what is wrong.
func (e *Engine) open(ctx context.Context, p *satchel.Principal, sealed []byte) (at opened, err error) {
	e.mu.Lock()
	at.org = e.orgs[p.Org]
	e.mu.Unlock()
	if at.org == nil || len(sealed) == 0 {
		return opened{}, nil
	}
	var ok bool
	if at.cursor, ok = cursor.Open(at.org.key, p.Person, sealed); !ok {
		return opened{}, nil
	}
	at.view, err = e.view(ctx, e.cfg.Pool, p.Org, at.cursor.View)
	return at, err
}

// nothingNew answers the usual question of an idle device with one statement. Of the request it reads After and Profile,
// the cursor is at.
func (e *Engine) nothingNew(ctx context.Context, p *satchel.Principal, r PullRequest, at opened) (bool, error) {
	o, c, v := at.org, at.cursor, at.view
	if v == nil || r.After > c.Live || c.Done < len(v.Entries) || c.LiveRec != cursor.LastRecord || c.Staged {
		return false, nil
	}
	nums := make([]int64, 0, len(v.Entries))
	for _, entry := range v.Entries {
		nums = append(nums, entry.Bucket)
	}
	var k clock
	var newer bool
	if err := e.cfg.Pool.QueryRow(ctx, sqlAnythingNew, p.Org, nums, int64(c.Live)).
		Scan(&k.Seq, &k.Rights, &k.Buckets, &k.Horizon, &k.SchemaVersion, &newer); err != nil {
		return false, err
	}
	e.notice(p.Org, k)
	if newer || k.Rights != o.rights || k.SchemaVersion != o.schema.Version {
		return false, nil
	}
	if k.epoch() != c.Live>>epochShift || c.Live > k.Seq || c.Since() < k.Horizon {
		return false, nil // of another line, or too old: build looks closer
	}
	profile, err := o.profile(r.Profile)
	if err != nil {
		return false, err
	}
	target, _, err := e.target(ctx, e.cfg.Pool, o, k, p.Person, profile)
	if err != nil || !v.Same(target) {
		return false, err
	}
	return true, e.viewInUse(ctx, p.Org, c.View)
}

const sqlAnythingNew = `-- syncengine.AnythingNew
SELECT c.seq, c.rights, c.buckets, c.horizon, c.schema_version,
  EXISTS (SELECT 1 FROM bucket b WHERE b.org_id = $1 AND b.num = ANY($2) AND b.last_seq > $3)
FROM org_clock c WHERE c.org_id = $1`

// glance builds the usual page, of what changed in a view that is complete and still the person's, in one round trip:
// clock, changes, digest and COMMIT travel together. nil = it is not the usual page, and has to be built.
func (e *Engine) glance(ctx context.Context, p *satchel.Principal, r PullRequest, at opened) (*Page, error) {
	if at.view == nil || at.cursor.Done == 0 || at.cursor.Done != len(at.view.Entries) {
		return nil, nil
	}
	tx, err := pg.Begin(ctx, e.cfg.Pool, pg.OneSnapshot)
	if err != nil {
		return nil, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	b := &pageBuilder{e: e, tx: tx, p: p, in: r, org: at.org, old: at.view, turn: cursor.Turn{View: at.view, Cursor: at.cursor},
		budget: r.MaxBytes, page: &Page{}}
	done, err := b.glance(ctx, tx)
	if err != nil || !done {
		return nil, err
	}
	return b.page, b.seal(ctx)
}

// glance sends and reads what [Engine.glance] says; false = it was not the usual page.
func (b *pageBuilder) glance(ctx context.Context, tx *pg.Tx) (done bool, err error) {
	nums, wanted := b.complete()
	limit := b.chunk() + access.MaxBucketsPerRecord
	m := b.mask(liveParams)
	var q pgx.Batch
	q.Queue(sqlClock, b.p.Org)
	q.Queue("-- syncengine.Live\n"+liveSQL(m),
		append([]any{b.p.Org, nums, int64(b.turn.Cursor.Live), b.turn.Cursor.LiveRec, limit}, m.Args...)...)
	digests := queueDigest(&q, b.p.Org, b.turn.View)
	res := tx.SendBatchCommit(ctx, &q)
	defer func() {
		if closeErr := res.Close(); err == nil {
			err = closeErr
		}
	}()
	if err := b.clock.scan(res.QueryRow()); err != nil {
		return false, err
	}
	profile, err := b.org.profile(b.in.Profile)
	if err != nil || b.clock.Rights != b.org.rights || b.clock.SchemaVersion != b.org.schema.Version ||
		!b.clock.reaches(b.turn.Cursor.Live) || b.turn.Cursor.Since() < b.clock.Horizon {
		return false, nil // build says what is wrong
	}
	target, follow, err := b.e.target(ctx, cachedOnly{}, b.org, b.clock, b.p.Person, profile)
	if err != nil || !b.turn.View.Same(target) {
		return false, nil
	}
	b.first = follow.first
	n, err := b.readLive(res, limit, digests, wanted)
	if err != nil || n >= limit && !b.full {
		return false, err
	}
	if b.page.More = b.full; !b.full {
		b.turn.Cursor.Live, b.turn.Cursor.LiveRec = b.clock.Seq, cursor.LastRecord
		b.checkpoint()
	}
	return true, nil
}

// cachedOnly stands in for the database where a second connection must not be asked for: who waits for one while he
// holds one may wait for ever.
type cachedOnly struct{}

var errNotCached = errors.New("syncengine: not cached")

func (cachedOnly) Query(context.Context, string, ...any) (pgx.Rows, error) { return nil, errNotCached }
func (cachedOnly) QueryRow(context.Context, string, ...any) pgx.Row        { return notCached{} }

type notCached struct{}

func (notCached) Scan(...any) error { return errNotCached }

// WaitFor is how long Wait waits at most.
const WaitFor = 25 * time.Second

// Wait returns true as soon as there is something to pull behind the cursor, or false after WaitFor. It registers,
// then looks, then sleeps: a commit between the last pull and the registration is seen by the look. A cursor that cannot
// be continued is answered at once: Pull says what to do. When until is closed, it ends as after WaitFor; nil = never.
func (e *Engine) Wait(ctx context.Context, p *satchel.Principal, sealed []byte, until <-chan struct{}) (bool, error) {
	w, wake, err := e.beginWait(ctx, p, sealed)
	if w == nil {
		return wake, err
	}
	defer e.waiters.Forget(w)
	timer := time.NewTimer(WaitFor)
	defer timer.Stop()
	select {
	case <-w.Woken():
		return true, nil
	case <-timer.C:
	case <-until:
	case <-ctx.Done():
	}
	return false, nil
}

// beginWaitTime bounds what a Wait asks the database before it waits. The wait itself carries no deadline of a context:
// thousands wait, and each is to cost little when they wake.
const beginWaitTime = 10 * time.Second

// beginWait gives a registered waiter, or nil and the answer.
func (e *Engine) beginWait(ctx context.Context, p *satchel.Principal, sealed []byte) (w *waiters.Waiter, wake bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, beginWaitTime)
	defer cancel()
	o, c, err := e.orgNow(ctx, e.cfg.Pool, p.Org)
	if err != nil {
		return nil, false, pg.ToError(err)
	}
	cur, ok := cursor.Open(o.key, p.Person, sealed)
	if !ok {
		return nil, false, satchel.E(satchel.Invalid, satchel.ReasonMalformedCursor, "the cursor is not one that this server gave to this person")
	}
	v, err := e.view(ctx, e.cfg.Pool, p.Org, cur.View)
	if err != nil || v == nil {
		return nil, err == nil, pg.ToError(err)
	}
	profile := o.schema.Profile(v.Profile)
	if profile == nil {
		return nil, true, nil
	}
	f, err := e.follows(ctx, e.cfg.Pool, o, c, p.Person, o.roles(p.Person), profile)
	if err != nil {
		return nil, false, pg.ToError(err)
	}
	registered := e.waiters.Register(p.Org, f.nums(), f.names(), c.seen())
	defer func() {
		if w == nil {
			e.waiters.Forget(registered)
		}
	}()
	idle, err := e.nothingNew(ctx, p, PullRequest{Profile: v.Profile}, opened{o, cur, v})
	if err != nil || !idle {
		return nil, err == nil, pg.ToError(err)
	}
	return registered, false, nil
}

const sqlMovedBuckets = `-- syncengine.MovedBuckets
SELECT DISTINCT num FROM bucket WHERE org_id = $1 AND num = ANY($2) AND last_seq > $3`

const sqlNewStems = `-- syncengine.NewStems
SELECT DISTINCT stem FROM bucket_name WHERE org_id = $1 AND num > $2`

// pollOthers asks, for each organisation that has waiters here, what was committed since the last look.
func (e *Engine) pollOthers(ctx context.Context) error {
	for id, seen := range e.waiters.Snapshot() {
		now, err := readClock(ctx, e.cfg.Pool, id)
		if err != nil {
			return err
		}
		if now.Rights != seen.Rights {
			e.waiters.WakeOrg(id)
		}
		if now.Buckets != seen.Buckets {
			stems, err := collect[string](ctx, e, sqlNewStems, id, int64(seen.Buckets))
			if err != nil {
				return err
			}
			e.waiters.WakeStems(id, stems)
		}
		if now.Seq != seen.Seq {
			nums, err := collect[int64](ctx, e, sqlMovedBuckets, id, e.waiters.Nums(id), int64(seen.Seq))
			if err != nil {
				return err
			}
			e.waiters.Wake(id, nums)
		}
		e.waiters.Advance(id, now.seen())
	}
	return nil
}

func collect[T any](ctx context.Context, e *Engine, sql string, args ...any) ([]T, error) {
	rows, err := e.cfg.Pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[T])
}
