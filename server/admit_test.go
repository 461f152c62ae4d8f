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
	a := newAdmission(1, 2, readPatience)
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

func TestWhoIsSentAwayIsToldToComeALittleBeforeTheTurn(t *testing.T) {
	t.Parallel()
	a := newAdmission(10, 4000, readPatience)
	a.waiting.Store(4000)
	a.pace.Store(int64(20 * time.Millisecond))
	now := time.Unix(1e9, 0)
	pause := func() time.Duration {
		e, _ := errors.AsType[*satchel.Error](a.full(now))
		return e.RetryAfter
	}
	for n := range 3000 { // 4,000 of 20 ms, 10 at a time, take 8 s; each that was sent away before takes 2 ms more
		turn := 8*time.Second + time.Duration(n+1)*2*time.Millisecond
		if got, want := pause(), turn-syncEarly; got < want || got > want+want/16 {
			t.Fatalf("the %dth comes back after %v, not %v", n, got, want)
		}
	}
	now = now.Add(10 * time.Second)
	if got, want := pause(), 8*time.Second+2*time.Millisecond-syncEarly; got < want || got > want+want/16 { // 4 s are still booked, and 8 s wait
		t.Errorf("when most of the earlier ones had their turn: %v", got)
	}
	a.pace.Store(int64(10 * time.Second)) // a queue of more than an hour
	seen := map[time.Duration]bool{}
	for range 100 {
		got := pause()
		if got < longestPause/2 || got > longestPause+longestPause/16 {
			t.Fatalf("the longest pause: %v", got)
		}
		seen[got.Round(time.Second)] = true
	}
	if len(seen) < 10 {
		t.Errorf("a hundred come back in %d seconds", len(seen))
	}
}

func TestNobodyWaitsWhoWouldWaitInVain(t *testing.T) {
	t.Parallel()
	a := newAdmission(1, 4000, readPatience)
	leave, err := a.enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a.pace.Store(int64(readPatience + time.Second))
	if _, err := a.enter(t.Context()); err == nil || a.waiting.Load() != 0 {
		t.Errorf("whose turn comes after the patience: %v", err)
	}
	leave()
	leave, err = a.enter(t.Context())
	if err != nil {
		t.Fatalf("a free slot is given however slow it was: %v", err)
	}
	leave()
}

func TestAMomentThatWasSlowIsForgottenWhenNobodyWaits(t *testing.T) {
	t.Parallel()
	a := newAdmission(1, 4000, readPatience)
	a.pace.Store(int64(7 * time.Second))
	for range 90 {
		_ = a.full(time.Now())
	}
	leave, err := a.enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	leave()
	a.pace.Store(int64(20 * time.Millisecond))
	if e, _ := errors.AsType[*satchel.Error](a.full(time.Now())); e.RetryAfter > 2*time.Second {
		t.Errorf("an idle server says %v", e.RetryAfter)
	}
}
