package satchelclient

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"
)

// Run keeps the device in step until ctx ends: it syncs when the server says that there is something to pull and when
// something was recorded, and uploads media beside that. After a failure it pauses, with jitter, longer each time. It
// returns ctx's error, or one that only the app can mend: [ErrSignInAgain], [ErrDeviceRevoked], [ErrUpgradeApp],
// [ErrWiped], [ErrClosed].
func (c *Client) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.runSync(ctx) })
	group.Go(func() error { return c.runUpload(ctx) })
	return group.Wait()
}

func (c *Client) runSync(ctx context.Context) error {
	for failures := 0; ; {
		r, err := c.Sync(ctx)
		if err == nil {
			nudge(c.attached) // media that failed before may get through now, and new ones have their record
			if r.Pending > 0 {
				err = errNoVerdict
			} else if r.Changes > 0 || len(r.Settled) > 0 || failures == 0 {
				failures = 0
				err = c.waitOrRecorded(ctx)
				if err == nil && r.Changes == 0 && len(r.Settled) == 0 {
					failures = 1 // woken after a sync that brought nothing: if the next does so too, pause
				}
			} else {
				err = errIdleWake
			}
		}
		if err == nil {
			continue
		}
		failures++
		if err := c.pause(ctx, "sync", failures, err); err != nil {
			return err
		}
		if errors.Is(err, errIdleWake) {
			failures = 0
		}
	}
}

// Why Run pauses although no call failed.
var (
	errNoVerdict = errors.New("satchelclient: mutations were sent and have no verdict yet")
	errIdleWake  = errors.New("satchelclient: the server woke the device for nothing")
)

func (c *Client) runUpload(ctx context.Context) error {
	for failures := 0; ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.attached:
		}
		for {
			_, err := c.Upload(ctx)
			if err == nil {
				failures = 0
				break
			}
			failures++
			if err := c.pause(ctx, "upload", failures, err); err != nil {
				return err
			}
		}
	}
}

// waitOrRecorded returns when there is something to pull or to send.
func (c *Client) waitOrRecorded(ctx context.Context) error {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	woken := make(chan error, 1)
	go func() {
		for {
			asked := time.Now()
			wake, err := c.Wait(waiting)
			if err == nil && !wake && time.Since(asked) < c.cfg.RetryMin {
				err = errIdleWake // it should have taken 25 seconds: never spin
			}
			if wake || err != nil {
				woken <- err
				return
			}
		}
	}()
	select {
	case err := <-woken:
		return err
	case <-c.recorded:
		cancel()
		<-woken //nolint:errcheck // it only waits: the goroutine is not left behind
		return ctx.Err()
	}
}

// pause waits before the next try, or returns the error when trying again is of no use.
func (c *Client) pause(ctx context.Context, what string, failures int, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, final := range []error{ErrSignInAgain, ErrDeviceRevoked, ErrUpgradeApp, ErrWiped, ErrClosed} {
		if errors.Is(err, final) {
			return err
		}
	}
	limit := c.cfg.RetryMax
	if failures < 16 {
		limit = min(limit, c.cfg.RetryMin<<(failures-1))
	}
	wait := limit/2 + rand.N(limit/2+1)
	if e, ok := errors.AsType[*Error](err); ok {
		wait = max(wait, e.RetryAfter)
	}
	c.cfg.Logger.Info("satchel client pauses", "what", what, "failures", failures, "wait", wait, "error", err)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
