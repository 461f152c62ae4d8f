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
	byNum  map[int64]*group
	byStem map[string]*group
	all    group
}

// group is those who wait for one thing. Who is in it knows where, so that a thousand leave their groups without a
// search: they run meanwhile.
type group struct {
	seats  []seat
	vacate func() // forgets the group, which is empty
}

// seat is a waiter in a group; at is the place in the waiter's own list.
type seat struct {
	w  *Waiter
	at int
}

// place is where a waiter sits.
type place struct {
	group *group
	seat  int
}

// Waiter is one device that waits.
type Waiter struct {
	places []place
	ch     chan struct{}
	woken  bool // ch is closed, or will be in a moment
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
	w := &Waiter{places: make([]place, 0, len(nums)+len(stems)+1), ch: make(chan struct{})}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	o := ws.orgs[org]
	if o == nil {
		o = &orgWaiters{seen: now, byNum: map[int64]*group{}, byStem: map[string]*group{}}
		o.all.vacate = func() { delete(ws.orgs, org) }
		ws.orgs[org] = o
	}
	o.all.add(w)
	for _, n := range nums {
		of(o.byNum, n).add(w)
	}
	for _, s := range stems {
		of(o.byStem, s).add(w)
	}
	return w
}

// of gives the group of k, which may be new.
func of[K comparable](m map[K]*group, k K) *group {
	g := m[k]
	if g == nil {
		g = &group{vacate: func() { delete(m, k) }}
		m[k] = g
	}
	return g
}

func (g *group) add(w *Waiter) {
	w.places = append(w.places, place{g, len(g.seats)})
	g.seats = append(g.seats, seat{w, len(w.places) - 1})
}

// remove gives a seat to the last of the group.
func (g *group) remove(i int) {
	last := len(g.seats) - 1
	moved := g.seats[last]
	g.seats[i], moved.w.places[moved.at].seat = moved, i
	g.seats[last] = seat{}
	if g.seats = g.seats[:last]; last == 0 {
		g.vacate()
	}
}

// Forget takes a waiter out; one that was woken goes by itself.
func (ws *Waiters) Forget(w *Waiter) {
	select {
	case <-w.ch:
		return
	default:
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w.leave()
}

// leave takes a waiter out of all its groups, once; the caller holds the lock.
func (w *Waiter) leave() {
	for _, p := range w.places {
		p.group.remove(p.seat)
	}
	w.places = nil
}

// wake wakes those whom pick names, and takes them out of their groups when all are told: a thousand that wake run at
// once, and the first should not wait for that.
func (ws *Waiters) wake(org satchel.ID, pick func(o *orgWaiters, take func(*group))) {
	var woken []*Waiter
	ws.mu.Lock()
	if o := ws.orgs[org]; o != nil {
		pick(o, func(g *group) {
			if g == nil {
				return
			}
			for _, s := range g.seats {
				if !s.w.woken {
					s.w.woken = true
					woken = append(woken, s.w)
				}
			}
		})
	}
	ws.mu.Unlock()
	if len(woken) == 0 {
		return
	}
	for _, w := range woken {
		close(w.ch)
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, w := range woken {
		w.leave()
	}
}

// Wake wakes who follows one of the buckets.
func (ws *Waiters) Wake(org satchel.ID, nums []int64) {
	ws.wake(org, func(o *orgWaiters, take func(*group)) {
		for _, n := range nums {
			take(o.byNum[n])
		}
	})
}

// WakeStems wakes who follows buckets that have just come to be.
func (ws *Waiters) WakeStems(org satchel.ID, stems []string) {
	ws.wake(org, func(o *orgWaiters, take func(*group)) {
		for _, s := range stems {
			take(o.byStem[s])
		}
	})
}

// WakeOrg wakes everybody of an organisation: rights or the schema have changed.
func (ws *Waiters) WakeOrg(org satchel.ID) {
	ws.wake(org, func(o *orgWaiters, take func(*group)) { take(&o.all) })
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
