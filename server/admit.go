package server

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	satchel "github.com/satchel-sync/satchel"
)

// A morning on which ten thousand phones sync at once must not end in calls that all work a little and time out. So
// Syncs are let in in the order in which they came: a bounded number may send their bodies, fewer may work at once,
// and whom the queue would keep too long is told when to come back.
const (
	syncsRead    = 256 // calls whose bodies are read or wait for work, about 0.2 MiB each
	syncsWait    = 4000
	readPatience = 15 * time.Second
	workPatience = callTime / 2    // the rest is for the work
	syncEarly    = 5 * time.Second // that who comes back comes before his turn
	longestPause = time.Minute
)

// admission lets a bounded number in, in order.
type admission struct {
	slots   chan struct{}
	waiting atomic.Int64
	most    int64         // that wait
	patient time.Duration // how long one waits
	pace    atomic.Int64  // nanoseconds that one was in, lately
	booked  atomic.Int64  // nanoseconds since 1970, until which those have work for it who wait or will come back
}

func newAdmission(slots int, most int64, patient time.Duration) *admission {
	return &admission{slots: make(chan struct{}, slots), most: most, patient: patient}
}

// enter waits for a slot and gives what leaves it. The error says when to come back.
func (a *admission) enter(ctx context.Context) (leave func(), err error) {
	select {
	case a.slots <- struct{}{}:
		return a.entered(), nil
	default:
	}
	if n := a.waiting.Add(1); n > a.most || time.Duration(n)*a.turn() > a.patient {
		a.waiting.Add(-1)
		return nil, a.full(time.Now())
	}
	defer a.waiting.Add(-1)
	timer := time.NewTimer(a.patient)
	defer timer.Stop()
	select {
	case a.slots <- struct{}{}:
		return a.entered(), nil
	case <-timer.C:
		return nil, a.full(time.Now())
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (a *admission) entered() func() {
	began := time.Now()
	return func() {
		<-a.slots
		old := a.pace.Load()
		in := min(time.Since(began), 2*a.patient) // one slow line says little of the others
		a.pace.Store(old + (int64(in)-old)/16)    // a lost update of two does no harm
		if a.waiting.Load() == 0 {
			a.booked.Store(0) // nobody has to come late for those who may never come back
		}
	}
}

// turn is the time from one who is let in to the next, lately.
func (a *admission) turn() time.Duration { return time.Duration(a.pace.Load() / int64(cap(a.slots))) }

// full says when to come back: a little before all who wait, and all who were told so before, will have been served.
// Beyond the longest pause there are no turns left to give, and it is drawn.
func (a *admission) full(now time.Time) error {
	turn := a.turn()
	free := now.Add(time.Duration(a.waiting.Load()) * turn).UnixNano()
	last := now.Add(longestPause + syncEarly).UnixNano()
	var mine int64
	for {
		old := a.booked.Load()
		mine = min(max(old, free)+int64(turn), last)
		if a.booked.CompareAndSwap(old, mine) {
			break
		}
	}
	pause := time.Duration(mine-now.UnixNano()) - syncEarly
	if mine == last {
		pause = longestPause/2 + rand.N(longestPause/2)
	}
	pause = max(pause, time.Second)
	return &satchel.Error{Kind: satchel.Exhausted, Reason: satchel.ReasonBusy, RetryAfter: pause + rand.N(pause/16),
		Detail: "too many devices sync at this moment; everything is kept, come back later"}
}
