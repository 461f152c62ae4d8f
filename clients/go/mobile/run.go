package mobile

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"time"

	satchelclient "github.com/satchel-sync/satchel/clients/go"
)

// RunListener hears what a run that Start began does. It is called on a thread that is not the main one, and must not throw.
type RunListener interface {
	// OnPause says that something failed and will be tried again after so many milliseconds: mostly "unavailable", there is
	// no signal. failure is the text of the error, which ParseError takes apart.
	OnPause(failure string, waitMillis int64)
	// OnEnd is the last call. failure "" = Stop, Close or another Start ended the run. Else it is the text of what only the
	// app can mend: "sign_in_again", "device_revoked", "upgrade_app" or "wiped".
	OnEnd(failure string)
}

// running is a run that goes on.
type running struct {
	cancel   context.CancelFunc
	done     chan struct{}
	listener RunListener
}

// Start keeps the device in step on threads of its own until Stop: it syncs at once, when the server says that there is
// something and when something was recorded, uploads files beside that, and pauses after failures, longer each time. It
// returns at once. A run that goes on already is ended and replaced, so that Start also means "try again now": call it when the
// app comes to the front and when the platform says that there is a network. listener may be nil.
func (c *Client) Start(listener RunListener) error {
	if _, err := c.local(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errClosed
	}
	before := c.run
	if before != nil {
		before.cancel()
	}
	ctx, cancel := context.WithCancel(c.ctx)
	now := &running{cancel: cancel, done: make(chan struct{}), listener: listener}
	c.run = now
	go func() {
		defer close(now.done)
		defer cancel()
		if before != nil {
			<-before.done
		}
		err := c.inner.Run(ctx)
		c.ended(now, ctx, err)
	}()
	return nil
}

// ended notes the end of a run.
func (c *Client) ended(r *running, ctx context.Context, err error) {
	c.mu.Lock()
	if c.run == r {
		c.run = nil
	}
	closed := c.closed
	c.mu.Unlock()
	if r.listener == nil {
		return
	}
	failure := ""
	if err != nil && ctx.Err() == nil && !closed {
		failure = explain(err).Error()
	}
	c.teller.say(func() { r.listener.OnEnd(failure) })
}

// Stop ends the run and every call that waits for the network, such as Sync, Upload or SignIn: those fail with "canceled".
// Nothing that was recorded is lost. It returns at once, so it may be called where the platform says that the time in the
// background is over. The client can be used on, and started again.
func (c *Client) Stop() {
	if c.inner == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.cancel()
	c.ctx, c.cancel = context.WithCancel(context.Background())
}

// Sync sends what is pending and brings what changed, until the device is at a checkpoint and nothing more can be sent, and
// gives {"calls", "sent", "settled", "pending", "changes", "checkpoint", "minProtocol"}: calls made, mutations sent, what became
// of them (as Settled gives it), how many still have no verdict, changes of records that came, whether what is shown was
// brought up to date, and, not 0, the protocol that the server asks a newer app to speak. It waits for the network, with a
// first sync for minutes. When it fails, what it did so far stays done. A run does this by itself; Sync is for the
// background tasks of the platform.
func (c *Client) Sync() (string, error) {
	ctx, err := c.network()
	if err != nil {
		return "", err
	}
	r, err := c.inner.Sync(ctx)
	if err != nil {
		return "", c.fail(err)
	}
	return encode(struct {
		Calls       int       `json:"calls"`
		Sent        int       `json:"sent"`
		Settled     []settled `json:"settled"`
		Pending     int       `json:"pending"`
		Changes     int       `json:"changes"`
		Checkpoint  bool      `json:"checkpoint"`
		MinProtocol uint32    `json:"minProtocol"`
	}{r.Calls, r.Sent, settledOf(r.Settled), r.Pending, r.Changes, r.Checkpoint, r.MinProtocol})
}

// Status tells how far the device is: {"seq", "complete", "settledPriority", "followedMonths", "pending", "media", "mediaBytes",
// "refused", "repairing", "signedIn"}. It waits for the disk only.
//
// seq is the commit of the last full checkpoint, "0" = there was none. complete: what the last answer brought is shown, and
// that was all. settledPriority: how many priorities are shown completely, 0 = all, or none yet. followedMonths of facts, 0 =
// all. pending counts mutations without verdict; media and mediaBytes files that the device still keeps for the server,
// refused those that it will never take. repairing: the device brings only what differs.
func (c *Client) Status() (string, error) {
	if _, err := c.local(); err != nil {
		return "", err
	}
	return c.status()
}

func (c *Client) status() (string, error) {
	ctx, err := c.local()
	if err != nil {
		return "", err
	}
	s, err := c.inner.Status(ctx)
	if err != nil {
		return "", c.fail(err)
	}
	files, err := c.inner.Media(ctx)
	if err != nil {
		return "", c.fail(err)
	}
	waiting, refused, bytes := 0, 0, uint64(0)
	for _, m := range files {
		if m.Refused != "" {
			refused++
			continue
		}
		waiting++
		bytes += m.Size
	}
	return encode(struct {
		Seq             string `json:"seq"`
		Complete        bool   `json:"complete"`
		SettledPriority uint32 `json:"settledPriority"`
		FollowedMonths  uint32 `json:"followedMonths"`
		Pending         int    `json:"pending"`
		Media           int    `json:"media"`
		MediaBytes      uint64 `json:"mediaBytes"`
		Refused         int    `json:"refused"`
		Repairing       bool   `json:"repairing"`
		SignedIn        bool   `json:"signedIn"`
	}{strconv.FormatUint(s.Seq, 10), s.Complete, s.SettledPriority, s.FollowedMonths, s.Pending, waiting, bytes, refused,
		s.Repairing, c.inner.Identity().SignedIn})
}

// paused tells the listener of the run why it pauses.
func (c *Client) paused(err error, wait time.Duration) {
	c.mu.Lock()
	r := c.run
	c.mu.Unlock()
	if r == nil || r.listener == nil {
		return
	}
	failure := explain(err).Error()
	c.teller.sayPause(func() { r.listener.OnPause(failure, wait.Milliseconds()) })
}

// pauses hears from the client's log when its run pauses, which it says nowhere else: a line with "failures", "wait" and
// "error".
type pauses struct {
	tell func(err error, wait time.Duration)
}

// Enabled implements slog.Handler.
func (pauses) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

// Handle implements slog.Handler.
func (p pauses) Handle(_ context.Context, line slog.Record) error {
	var err error
	wait := time.Duration(-1)
	line.Attrs(func(a slog.Attr) bool {
		switch v := a.Value.Any().(type) {
		case time.Duration:
			if a.Key == "wait" {
				wait = v
			}
		case error:
			err = v
		}
		return true
	})
	if err != nil && wait >= 0 && !errors.Is(err, satchelclient.ErrClosed) {
		p.tell(err, wait)
	}
	return nil
}

// WithAttrs implements slog.Handler.
func (p pauses) WithAttrs([]slog.Attr) slog.Handler { return p }

// WithGroup implements slog.Handler.
func (p pauses) WithGroup(string) slog.Handler { return p }
