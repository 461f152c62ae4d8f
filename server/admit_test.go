package server

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	satchel "github.com/satchel-sync/satchel"
)

func TestSyncsAreLetInInTheirOrderAndTheQueueIsBounded(t *testing.T) {
	t.Parallel()
	a := newAdmission(1, 2)
	leave, err := a.enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	in := make(chan int, 2)
	gone, give := make(chan func(), 2), make(chan struct{})
	wait := func(i int) {
		go func() {
			leave, err := a.enter(context.Background())
			if err != nil {
				t.Errorf("%d: %v", i, err)
				return
			}
			in <- i
			<-give
			gone <- leave
		}()
		for a.waiting.Load() != int64(i) {
			runtime.Gosched()
		}
	}
	wait(1)
	wait(2)
	_, err = a.enter(t.Context())
	full, ok := errors.AsType[*satchel.Error](err)
	if !ok || full.Kind != satchel.Exhausted || full.Reason != satchel.ReasonBusy || full.RetryAfter < 500*time.Millisecond {
		t.Fatalf("the third that waits: %v", err)
	}
	leave()
	for want := 1; want <= 2; want++ {
		if got := <-in; got != want {
			t.Errorf("%d came in before %d", got, want)
		}
		give <- struct{}{}
		(<-gone)()
	}
	ended, cancel := context.WithCancel(t.Context())
	leave, err = a.enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := a.enter(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("who hangs up: %v", err)
	}
	leave()
	if a.waiting.Load() != 0 || len(a.slots) != 0 {
		t.Errorf("%d wait, %d are in", a.waiting.Load(), len(a.slots))
	}
}

func TestWhoIsSentAwayIsToldToComeWhenTheQueueIsServed(t *testing.T) {
	t.Parallel()
	a := newAdmission(10, 4000)
	a.waiting.Store(4000)
	a.pace.Store(int64(20 * time.Millisecond))
	for range 100 {
		e, _ := errors.AsType[*satchel.Error](a.full())
		if e.RetryAfter < 4*time.Second || e.RetryAfter > 12*time.Second { // 4,000 of 20 ms, 10 at a time: 8 s, give or take a half
			t.Fatal(e.RetryAfter)
		}
	}
}
