package waiters

import (
	"sync"

	satchel "github.com/satchel-sync/satchel"
)

// Waiters are the devices of this replica that wait, by what they wait for. They are safe for concurrent use.
type Waiters struct {
	mu   sync.Mutex
	orgs map[satchel.ID]*orgWaiters
}

type orgWaiters struct {
	seen   Seen
	byNum  map[int64]map[*Waiter]struct{}
	byStem map[string]map[*Waiter]struct{}
	all    map[*Waiter]struct{}
}

// Waiter is one device that waits.
type Waiter struct {
	org   satchel.ID
	nums  []int64
	stems []string
	ch    chan struct{}
}

// Seen is what of an organisation's clock a replica has woken for.
type Seen struct{ Seq, Rights, Buckets uint64 }

// Woken is closed when there is something to pull.
func (w *Waiter) Woken() <-chan struct{} { return w.ch }

// New gives an empty set.
func New() *Waiters { return &Waiters{orgs: map[satchel.ID]*orgWaiters{}} }

// Register adds a device that follows these buckets and stems of an organisation, whose clock the caller has just read.
// Who registers forgets.
func (ws *Waiters) Register(org satchel.ID, nums []int64, stems []string, now Seen) *Waiter {
	w := &Waiter{org: org, nums: nums, stems: stems, ch: make(chan struct{})}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	o := ws.orgs[org]
	if o == nil {
		o = &orgWaiters{seen: now, byNum: map[int64]map[*Waiter]struct{}{}, byStem: map[string]map[*Waiter]struct{}{},
			all: map[*Waiter]struct{}{}}
		ws.orgs[org] = o
	}
	o.all[w] = struct{}{}
	for _, n := range nums {
		join(o.byNum, n, w)
	}
	for _, s := range stems {
		join(o.byStem, s, w)
	}
	return w
}

func join[K comparable](m map[K]map[*Waiter]struct{}, k K, w *Waiter) {
	if m[k] == nil {
		m[k] = map[*Waiter]struct{}{}
	}
	m[k][w] = struct{}{}
}

// Forget takes a waiter out; one that was woken is out already.
func (ws *Waiters) Forget(w *Waiter) {
	select {
	case <-w.ch:
		return
	default:
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if o := ws.orgs[w.org]; o != nil {
		ws.remove(o, w)
	}
}

// remove takes a waiter out; the caller holds the lock.
func (ws *Waiters) remove(o *orgWaiters, w *Waiter) {
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
	if len(o.all) == 0 && ws.orgs[w.org] == o {
		delete(ws.orgs, w.org)
	}
}

// wake takes out those whom pick names, and wakes them when the lock is free again: a thousand that wake run at once.
func (ws *Waiters) wake(org satchel.ID, pick func(o *orgWaiters, take func(map[*Waiter]struct{}))) {
	var woken []*Waiter
	ws.mu.Lock()
	if o := ws.orgs[org]; o != nil {
		pick(o, func(some map[*Waiter]struct{}) {
			from := len(woken)
			for w := range some {
				woken = append(woken, w)
			}
			for _, w := range woken[from:] {
				ws.remove(o, w)
			}
		})
	}
	ws.mu.Unlock()
	for _, w := range woken {
		close(w.ch)
	}
}

// Wake wakes who follows one of the buckets.
func (ws *Waiters) Wake(org satchel.ID, nums []int64) {
	ws.wake(org, func(o *orgWaiters, take func(map[*Waiter]struct{})) {
		for _, n := range nums {
			take(o.byNum[n])
		}
	})
}

// WakeStems wakes who follows buckets that have just come to be.
func (ws *Waiters) WakeStems(org satchel.ID, stems []string) {
	ws.wake(org, func(o *orgWaiters, take func(map[*Waiter]struct{})) {
		for _, s := range stems {
			take(o.byStem[s])
		}
	})
}

// WakeOrg wakes everybody of an organisation: rights or the schema have changed.
func (ws *Waiters) WakeOrg(org satchel.ID) {
	ws.wake(org, func(o *orgWaiters, take func(map[*Waiter]struct{})) { take(o.all) })
}

// Snapshot lists the organisations that have waiters and what this replica has woken for.
func (ws *Waiters) Snapshot() map[satchel.ID]Seen {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	out := make(map[satchel.ID]Seen, len(ws.orgs))
	for id, o := range ws.orgs {
		out[id] = o.seen
	}
	return out
}

// Advance notes what this replica has woken for.
func (ws *Waiters) Advance(org satchel.ID, now Seen) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if o := ws.orgs[org]; o != nil {
		o.seen = now
	}
}

// Nums gives the buckets that somebody of the organisation waits for.
func (ws *Waiters) Nums(org satchel.ID) []int64 {
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
