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
	syncPatience = 15 * time.Second
	longestPause = 30 * time.Second
)

// admission lets a bounded number in, in order.
type admission struct {
	slots   chan struct{}
	waiting atomic.Int64
	most    int64        // that wait
	pace    atomic.Int64 // nanoseconds that one was in, lately
}

func newAdmission(slots int, most int64) *admission {
	return &admission{slots: make(chan struct{}, slots), most: most}
}

// enter waits for a slot and gives what leaves it. The error says when to come back.
func (a *admission) enter(ctx context.Context) (leave func(), err error) {
	select {
	case a.slots <- struct{}{}:
		return a.entered(), nil
	default:
	}
	if a.waiting.Add(1) > a.most {
		a.waiting.Add(-1)
		return nil, a.full()
	}
	defer a.waiting.Add(-1)
	timer := time.NewTimer(syncPatience)
	defer timer.Stop()
	select {
	case a.slots <- struct{}{}:
		return a.entered(), nil
	case <-timer.C:
		return nil, a.full()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (a *admission) entered() func() {
	began := time.Now()
	return func() {
		<-a.slots
		old := a.pace.Load()
		a.pace.Store(old + (int64(time.Since(began))-old)/16) // a lost update of two does no harm
	}
}

// full says when those who wait now will have been served, at the pace of late, spread so that not all come back at once.
func (a *admission) full() error {
	pause := time.Duration(a.pace.Load() * a.waiting.Load() / int64(cap(a.slots)))
	pause = min(max(pause, time.Second), longestPause)
	return &satchel.Error{Kind: satchel.Exhausted, Reason: satchel.ReasonBusy, RetryAfter: pause/2 + rand.N(pause),
		Detail: "too many devices sync at this moment; everything is kept, come back later"}
}
