package satchelclient

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

// Bounds of one Sync.
const (
	maxRounds = 20_000 // calls; a first sync of a very full device takes some thousands
	maxForks  = 3      // new device ids; more means that the server does not keep its word
)

// Result is what one Sync did. Counts of several calls are added up.
type Result struct {
	Calls       int       // round trips that were answered
	Sent        int       // mutations in them; one that was sent again counts again
	Settled     []Settled // mutations that got their verdict, in order
	Pending     int       // mutations that still have none
	Changes     int       // changes of records that came
	Checkpoint  bool      // what is shown was brought up to date
	More        bool      // there is more to pull (of SyncOnce)
	Forked      int       // times that the device got a new id
	MinProtocol uint32    // not 0: the server asks for a newer app, that speaks at least this protocol

	advanced bool // the cursor moved
}

func (r *Result) add(next Result) {
	r.Calls += next.Calls
	r.Sent += next.Sent
	r.Settled = append(r.Settled, next.Settled...)
	r.Pending = next.Pending
	r.Changes += next.Changes
	r.Checkpoint = r.Checkpoint || next.Checkpoint
	r.More = next.More
	r.Forked += next.Forked
	r.MinProtocol = max(r.MinProtocol, next.MinProtocol)
}

// Sync sends what is pending and brings what changed, in as many calls as it takes, until the device is at a
// checkpoint and nothing more can be sent. A call that runs out of time is tried with half as much. On an error
// everything is kept, what calls before it did stays done, and the Result says what that was.
func (c *Client) Sync(ctx context.Context) (Result, error) {
	if err := c.syncing.enter(ctx); err != nil {
		return Result{}, err
	}
	defer c.syncing.leave()
	var total Result
	refilled := false
	for range maxRounds {
		r, err := c.syncOnce(ctx)
		total.add(r)
		var e *Error
		switch {
		case err == nil:
			c.sendMore()
		case errors.As(err, &e) && (e.timedOut() || e.Reason == satchel.ReasonTooLarge || e.Code == connect.CodeResourceExhausted && e.RetryAfter == 0) && c.sendLess():
			continue
		case e != nil && e.Reason == satchel.ReasonMalformedCursor && !refilled:
			refilled = true
			if err := c.update(ctx, "refill", refill); err != nil {
				return total, err
			}
			continue
		default:
			return total, err
		}
		progress := len(r.Settled) > 0 || r.advanced || r.Forked > 0
		switch {
		case total.Forked > maxForks:
			return total, errors.New("satchelclient: the server gave this device one new id after another; everything is kept")
		case !r.More && (r.Pending == 0 || !progress):
			return total, nil
		case !progress:
			return total, errors.New("satchelclient: the server says that there is more, and its cursor does not move")
		}
	}
	return total, fmt.Errorf("satchelclient: not in step after %d calls; sync again", maxRounds)
}

// SyncOnce makes exactly one call of Sync (and a Refresh, when it must): Sync's step, for tests and simulators.
func (c *Client) SyncOnce(ctx context.Context) (Result, error) {
	if err := c.syncing.enter(ctx); err != nil {
		return Result{}, err
	}
	defer c.syncing.leave()
	return c.syncOnce(ctx)
}

// syncOnce is the round trip. Each of its steps is one local transaction, after which it may be killed: numbers are
// durable before they are sent, verdicts before the page that they belong to, and the cursor moves with the page.
func (c *Client) syncOnce(ctx context.Context) (Result, error) {
	batch, budget := c.limits()
	s, err := c.number(ctx, batch, budget)
	if err != nil {
		return Result{}, err
	}
	r := Result{Pending: s.pending}
	c.cfg.Step("call")
	res, err := call(ctx, c, c.cfg.Timeout, c.sync.Sync, s.request)
	if err != nil {
		return r, err
	}
	boot, ms := c.cfg.Monotonic()
	c.cfg.Step("answer")
	r.Calls, r.Sent = 1, len(s.mutations)

	// What is known only once the transaction has committed is kept aside until then.
	done, wiped := r, false
	err = c.update(ctx, "verdicts", func(tx Tx) error {
		done, wiped = r, false
		return c.takeAnswer(tx, s, res, boot, ms, &done, &wiped)
	})
	if err != nil {
		return r, err
	}
	r = done
	if wiped || r.Forked > 0 {
		if err := c.reload(ctx); err != nil {
			return r, err
		}
	}
	if wiped {
		return r, ErrWiped
	}
	if err := c.takePage(ctx, s, res.Page, &r); err != nil {
		return r, err
	}
	if first := firstNumber(s.mutations); r.Forked == 0 && res.ExpectedNumber > 0 && res.ExpectedNumber < first {
		return r, fmt.Errorf("%w: it expects %d, the first pending is %d", ErrNumberGap, res.ExpectedNumber, first)
	}
	return r, nil
}

// takeAnswer stores all of an answer but its page.
func (c *Client) takeAnswer(tx Tx, s sending, res *satchelv1.SyncResponse, boot string, ms uint64, r *Result, wiped *bool) error {
	for _, v := range res.Verdicts {
		order, ok := s.orders[v.Number]
		if !ok || v.Status == satchelv1.Status_STATUS_UNSPECIFIED {
			continue // not one that this call asked about
		}
		delete(s.orders, v.Number)
		settled, err := c.settle(tx, order, uint64(res.ServerTimeMs), v)
		if err != nil {
			return err
		}
		r.Settled = append(r.Settled, settled)
		r.Pending--
	}
	if len(r.Settled) > 0 {
		if err := trimLog(tx, res.ServerTimeMs); err != nil {
			return err
		}
	}
	if err := noteClock(tx, boot, ms, res.ServerTimeMs); err != nil {
		return err
	}
	for _, d := range res.Directives {
		switch order := d.Order.(type) {
		case *satchelv1.Directive_Fork:
			device, err := satchel.ParseID(order.Fork.DeviceId)
			if err != nil {
				return fmt.Errorf("satchelclient: the new device id cannot be read: %w", err)
			}
			id, err := getMeta[identity](tx, metaIdentity)
			if err != nil {
				return err
			}
			if id.Device == device {
				continue // taken already
			}
			id.Session, id.Device = id.session(), device
			if err := putMeta(tx, metaIdentity, id); err != nil {
				return err
			}
			if err := renumber(tx); err != nil {
				return err
			}
			r.Forked++
		case *satchelv1.Directive_Wipe:
			id, err := getMeta[identity](tx, metaIdentity)
			if err != nil {
				return err
			}
			all, err := wipe(tx, order.Wipe.SalvagedNumber)
			if err != nil {
				return err
			}
			*wiped = true
			if all {
				return putMeta(tx, metaIdentity, identity{Installation: id.Installation})
			}
		case *satchelv1.Directive_Upgrade:
			r.MinProtocol = order.Upgrade.MinProtocol
		}
	}
	return nil
}

// takePage stores the page. An answer without one says that nothing changed since the cursor: at a full checkpoint,
// that makes this moment one too, and own mutations that the server has settled can go from the overlay.
func (c *Client) takePage(ctx context.Context, s sending, p *satchelv1.Page, r *Result) error {
	if p == nil {
		return c.update(ctx, "no-page", func(tx Tx) error {
			at, err := getMeta[place](tx, metaPlace)
			if err != nil || !at.Complete {
				return err
			}
			return hideSettled(tx, ^uint64(0))
		})
	}
	if err := c.update(ctx, "page", func(tx Tx) error { return applyPage(tx, p) }); err != nil {
		return err
	}
	r.Changes, r.Checkpoint, r.More = len(p.Changes), p.Checkpoint, p.More
	r.advanced = p.Cursor != nil && string(p.Cursor) != string(s.request.Cursor)
	if !p.Checkpoint {
		return nil
	}
	_, err := c.release(ctx)
	return err
}

// reload reads the identity that a directive changed.
func (c *Client) reload(ctx context.Context) error {
	return c.store.View(ctx, func(tx ReadTx) error {
		id, err := getMeta[identity](tx, metaIdentity)
		if err == nil {
			c.adopt(func(now *identity) {
				now.Session, now.Device = id.Session, id.Device // tokens are another's to change
				if id.Device.IsZero() {
					*now = id // wiped
				}
			})
		}
		return err
	})
}

func firstNumber(ms []*satchelv1.Mutation) uint64 {
	if len(ms) == 0 {
		return 0
	}
	return ms[0].Number
}

func (c *Client) limits() (int, uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.batch, c.budget
}

// sendLess halves what a call carries, and tells whether that was possible.
func (c *Client) sendLess() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	budget := c.budget
	if budget == 0 {
		budget = defaultPageBytes
	}
	if c.batch == 1 && budget <= minPageBytes {
		return false
	}
	c.batch = max(1, c.batch/2)
	c.budget = max(min(minPageBytes, budget), budget/2)
	return true
}

// sendMore doubles it again, up to the limits.
func (c *Client) sendMore() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.batch = min(maxBatch, c.batch*2)
	if c.budget == c.cfg.MaxBytes {
		return
	}
	c.budget *= 2
	if limit := c.cfg.MaxBytes; limit == 0 && c.budget >= defaultPageBytes || limit > 0 && c.budget >= limit {
		c.budget = limit
	}
}

// Wait returns true as soon as there is something to pull, false when the server's time ran out: wait again. It sends
// nothing but the cursor. A device that has no cursor yet has something to pull.
func (c *Client) Wait(ctx context.Context) (bool, error) {
	var at place
	err := c.store.View(ctx, func(tx ReadTx) (err error) {
		at, err = getMeta[place](tx, metaPlace)
		return err
	})
	if err != nil || len(at.Cursor) == 0 {
		return err == nil, err
	}
	res, err := call(ctx, c, max(c.cfg.Timeout, 25*time.Second)+10*time.Second, c.sync.Wait, &satchelv1.WaitRequest{Cursor: at.Cursor})
	return res.GetWake(), err
}
