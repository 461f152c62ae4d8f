package syncengine

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/syncengine/cursor"
)

// WaitFor is how long Wait waits at most.
const WaitFor = 25 * time.Second

// Wait returns true as soon as there is something to pull behind the cursor, or false after WaitFor. It registers,
// then looks, then sleeps: a commit between the last pull and the registration is seen by the look. A cursor that cannot
// be continued is answered at once: Pull says what to do.
func (e *Engine) Wait(ctx context.Context, p *satchel.Principal, sealed []byte) (bool, error) {
	o, c, err := e.orgNow(ctx, e.cfg.Pool, p.Org)
	if err != nil {
		return false, pg.ToError(err)
	}
	cur, ok := cursor.Open(o.key, p.Person, sealed)
	if !ok {
		return false, satchel.E(satchel.Invalid, satchel.ReasonMalformedCursor, "the cursor is not one that this server gave to this person")
	}
	v, err := e.view(ctx, e.cfg.Pool, p.Org, cur.View)
	if err != nil || v == nil {
		return err == nil, pg.ToError(err)
	}
	profile := o.schema.Profile(v.Profile)
	if profile == nil {
		return true, nil
	}
	f, err := e.follows(ctx, e.cfg.Pool, o, c, p.Person, o.roles(p.Person), profile)
	if err != nil {
		return false, pg.ToError(err)
	}
	w := e.waiters.register(p.Org, f, c)
	defer e.waiters.forget(w)
	idle, err := e.nothingNew(ctx, p, PullRequest{Cursor: sealed, After: cur.Live, Profile: v.Profile})
	if err != nil || !idle {
		return err == nil, pg.ToError(err)
	}
	timer := time.NewTimer(WaitFor)
	defer timer.Stop()
	select {
	case <-w.ch:
		return true, nil
	case <-timer.C:
		return false, nil
	case <-ctx.Done():
		return false, nil
	}
}

// waiters are the devices of this replica that wait, by what they wait for.
type waiters struct {
	mu   sync.Mutex
	orgs map[satchel.ID]*orgWaiters
}

type orgWaiters struct {
	seq, rights, buckets uint64 // what this replica has woken for
	byNum                map[int64]map[*waiter]struct{}
	byStem               map[string]map[*waiter]struct{}
	all                  map[*waiter]struct{}
}

type waiter struct {
	org   satchel.ID
	nums  []int64
	stems []string
	once  sync.Once
	ch    chan struct{}
}

func newWaiters() *waiters { return &waiters{orgs: map[satchel.ID]*orgWaiters{}} }

func (ws *waiters) register(org satchel.ID, f following, c clock) *waiter {
	w := &waiter{org: org, ch: make(chan struct{})}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	o := ws.orgs[org]
	if o == nil {
		o = &orgWaiters{seq: c.Seq, rights: c.Rights, buckets: c.Buckets, byNum: map[int64]map[*waiter]struct{}{},
			byStem: map[string]map[*waiter]struct{}{}, all: map[*waiter]struct{}{}}
		ws.orgs[org] = o
	}
	o.all[w] = struct{}{}
	for _, b := range f.buckets {
		w.nums = append(w.nums, b.Num)
		join(o.byNum, b.Num, w)
	}
	for _, s := range f.stems {
		w.stems = append(w.stems, s.Stem)
		join(o.byStem, s.Stem, w)
	}
	return w
}

func join[K comparable](m map[K]map[*waiter]struct{}, k K, w *waiter) {
	if m[k] == nil {
		m[k] = map[*waiter]struct{}{}
	}
	m[k][w] = struct{}{}
}

func (ws *waiters) forget(w *waiter) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	o := ws.orgs[w.org]
	if o == nil {
		return
	}
	delete(o.all, w)
	for _, n := range w.nums {
		if delete(o.byNum[n], w); len(o.byNum[n]) == 0 {
			delete(o.byNum, n)
		}
	}
	for _, s := range w.stems {
		if delete(o.byStem[s], w); len(o.byStem[s]) == 0 {
			delete(o.byStem, s)
		}
	}
	if len(o.all) == 0 {
		delete(ws.orgs, w.org)
	}
}

func (w *waiter) wake() { w.once.Do(func() { close(w.ch) }) }

// wake wakes who follows one of the buckets.
func (ws *waiters) wake(org satchel.ID, nums []int64) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	o := ws.orgs[org]
	if o == nil {
		return
	}
	for _, n := range nums {
		for w := range o.byNum[n] {
			w.wake()
		}
	}
}

// wakeStems wakes who follows buckets that have just come to be.
func (ws *waiters) wakeStems(org satchel.ID, stems []string) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	o := ws.orgs[org]
	if o == nil {
		return
	}
	for _, s := range stems {
		for w := range o.byStem[s] {
			w.wake()
		}
	}
}

// wakeOrg wakes everybody of an organisation: rights or the schema have changed.
func (ws *waiters) wakeOrg(org satchel.ID) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if o := ws.orgs[org]; o != nil {
		for w := range o.all {
			w.wake()
		}
	}
}

// snapshot lists the organisations that have waiters and what this replica has woken for.
func (ws *waiters) snapshot() map[satchel.ID]clock {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	out := make(map[satchel.ID]clock, len(ws.orgs))
	for id, o := range ws.orgs {
		out[id] = clock{Seq: o.seq, Rights: o.rights, Buckets: o.buckets}
	}
	return out
}

func (ws *waiters) advance(org satchel.ID, c clock) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if o := ws.orgs[org]; o != nil {
		o.seq, o.rights, o.buckets = c.Seq, c.Rights, c.Buckets
	}
}

const sqlMovedBuckets = `-- syncengine.MovedBuckets
SELECT DISTINCT num FROM bucket WHERE org_id = $1 AND num = ANY($2) AND last_seq > $3`

const sqlNewStems = `-- syncengine.NewStems
SELECT DISTINCT stem FROM bucket_name WHERE org_id = $1 AND num > $2`

// pollOthers asks, for each organisation that has waiters here, what was committed since the last look.
func (e *Engine) pollOthers(ctx context.Context) error {
	for id, seen := range e.waiters.snapshot() {
		now, err := readClock(ctx, e.cfg.Pool, id)
		if err != nil {
			return err
		}
		if now.Rights != seen.Rights {
			e.waiters.wakeOrg(id)
		}
		if now.Buckets != seen.Buckets {
			stems, err := collect[string](ctx, e, sqlNewStems, id, int64(seen.Buckets))
			if err != nil {
				return err
			}
			e.waiters.wakeStems(id, stems)
		}
		if now.Seq != seen.Seq {
			nums, err := collect[int64](ctx, e, sqlMovedBuckets, id, e.waiters.nums(id), int64(seen.Seq))
			if err != nil {
				return err
			}
			e.waiters.wake(id, nums)
		}
		e.waiters.advance(id, now)
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

// nums gives the buckets that somebody of the organisation waits for.
func (ws *waiters) nums(org satchel.ID) []int64 {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	var out []int64
	if o := ws.orgs[org]; o != nil {
		for n := range o.byNum {
			out = append(out, n)
		}
	}
	return out
}
