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
	maxRounds  = 20_000 // calls; a first sync of a very full device takes some thousands
	maxForks   = 3      // new device ids; more means that the server does not keep its word
	maxRepairs = 3      // in one Sync
	maxOrders  = 20     // answers that were only orders
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
	Repaired    int       // repairs that came to their end: only what differed was brought
	Restored    int       // mutations that the server had lost, being restored, and that are offered again
	Skipped     uint64    // numbers given up that the device could not fill
	MinProtocol uint32    // not 0: the server asks for a newer app, that speaks at least this protocol
	// SettledPriority is how many priorities are shown completely, at the last checkpoint; 0 = all, or none yet.
	SettledPriority uint32

	advanced bool // the cursor or the repair moved
	ordered  int  // answers that were only orders
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
	r.Repaired += next.Repaired
	r.Restored += next.Restored
	r.Skipped += next.Skipped
	r.ordered += next.ordered
	if next.Checkpoint {
		r.SettledPriority = next.SettledPriority
	}
	r.MinProtocol = max(r.MinProtocol, next.MinProtocol)
}

// Sync sends what is pending and brings what changed, in as many calls as it takes, until the device is at a
// checkpoint and nothing more can be sent. A call that runs out of time is tried with half as much. On an error
// everything is kept, what calls before it did stays done, and the Result says what that was. When what the device holds
// is not what it should hold, it is repaired on the way; mutations go up beside that.
func (c *Client) Sync(ctx context.Context) (Result, error) {
	if err := c.syncing.enter(ctx); err != nil {
		return Result{}, err
	}
	defer c.syncing.leave()
	var total Result
	refilled := false
	for range maxRounds {
		r, err := c.step(ctx)
		total.add(r)
		var e *Error
		switch {
		case err == nil:
			c.sendMore()
		case errors.As(err, &e) && (e.timedOut() || e.Reason == satchel.ReasonTooLarge || e.Code == connect.CodeResourceExhausted && e.RetryAfter == 0) && c.sendLess():
			continue
		case e != nil && e.Reason == satchel.ReasonMalformedCursor && !refilled:
			refilled = true
			if err := c.giveUpCursor(ctx); err != nil {
				return total, err
			}
			continue
		default:
			return total, err
		}
		progress := len(r.Settled) > 0 || r.advanced || r.Forked > 0 || r.Restored > 0 || r.Skipped > 0
		switch {
		case total.Forked > maxForks:
			return total, errors.New("satchelclient: the server gave this device one new id after another; everything is kept")
		case total.Repaired > maxRepairs || total.ordered > maxOrders:
			return total, errors.New("satchelclient: repaired several times, and the server asks for more; everything is kept, sync again later")
		case !r.More && (r.Pending == 0 || !progress):
			return total, nil
		case !progress:
			return total, errors.New("satchelclient: the server says that there is more, and its cursor does not move")
		}
	}
	return total, fmt.Errorf("satchelclient: not in step after %d calls; sync again", maxRounds)
}

// giveUpCursor has the device filled anew.
func (c *Client) giveUpCursor(ctx context.Context) error {
	return c.update(ctx, "refill", func(tx Tx) error {
		at, err := getMeta[place](tx, metaPlace)
		if err != nil {
			return err
		}
		if err := refill(tx, &at); err != nil {
			return err
		}
		return putMeta(tx, metaPlace, at)
	})
}

// SyncOnce makes exactly one call (and a Refresh, when it must): of Sync, or of Repair while a repair is under way. It is
// Sync's step, for tests and simulators.
func (c *Client) SyncOnce(ctx context.Context) (Result, error) {
	if err := c.syncing.enter(ctx); err != nil {
		return Result{}, err
	}
	defer c.syncing.leave()
	return c.step(ctx)
}

// step makes the next call. During a repair, calls that send mutations and steps of the repair take turns, so that
// neither waits for the other when it fails.
func (c *Client) step(ctx context.Context) (r Result, err error) {
	repairing, err := c.repairing(ctx)
	if err != nil {
		return r, err
	}
	if !repairing {
		return c.syncOnce(ctx, false)
	}
	pending, err := c.Pending(ctx)
	if err != nil {
		return r, err
	}
	if c.uploaded = !c.uploaded && pending > 0; c.uploaded {
		r, err = c.syncOnce(ctx, true)
		r.More, r.advanced = true, true // the repair goes on
		return r, err
	}
	r, err = c.repairStep(ctx)
	r.Pending = pending
	return r, err
}

func (c *Client) repairing(ctx context.Context) (bool, error) {
	var st *repairState
	err := c.store.View(ctx, func(tx ReadTx) (err error) {
		st, err = getRepair(tx)
		return err
	})
	return st != nil, err
}

// syncOnce is the round trip. Each of its steps is one local transaction, after which it may be killed: numbers are
// durable before they are sent, verdicts before the page that they belong to, and the cursor moves with the page.
func (c *Client) syncOnce(ctx context.Context, noPage bool) (Result, error) {
	batch, budget := c.limits()
	s, err := c.number(ctx, batch, budget, noPage)
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
	done, orders := r, ordered{}
	err = c.update(ctx, "verdicts", func(tx Tx) error {
		done, orders = r, ordered{}
		return c.takeAnswer(tx, s, res, boot, ms, &done, &orders)
	})
	if err != nil {
		return r, err
	}
	r = done
	if orders.wiped || r.Forked > 0 {
		if err := c.reload(ctx); err != nil {
			return r, err
		}
	}
	if orders.wiped {
		return r, ErrWiped
	}
	switch {
	case orders.instead:
		r.More, r.advanced, r.ordered = true, true, 1
	case !noPage:
		if err := c.takePage(ctx, s, res, &r); err != nil {
			return r, err
		}
	}
	if first := firstNumber(s.mutations); r.Forked == 0 && !orders.instead && res.ExpectedNumber > 0 && res.ExpectedNumber < first {
		r.Skipped, err = c.fillGap(ctx, res.ExpectedNumber)
		r.advanced = true
	}
	return r, err
}

// ordered is what directives did.
type ordered struct {
	wiped   bool
	instead bool // of a page: its absence does not say that nothing changed
}

// takeAnswer stores all of an answer but its page.
func (c *Client) takeAnswer(tx Tx, s sending, res *satchelv1.SyncResponse, boot string, ms uint64, r *Result, orders *ordered) error {
	seen := uint64(0)
	for _, v := range res.Verdicts {
		key, ok := s.keys[v.Number]
		if !ok || v.Status == satchelv1.Status_STATUS_UNSPECIFIED {
			continue // not one that this call asked about
		}
		delete(s.keys, v.Number)
		seen = max(seen, v.Seq)
		settled, err := c.settle(tx, key, res.ServerTimeMs, v)
		if err != nil {
			return err
		}
		r.Settled = append(r.Settled, settled)
		r.Pending--
	}
	if seen > 0 {
		at, err := getMeta[place](tx, metaPlace)
		if err != nil {
			return err
		}
		if at.Seen < seen {
			at.Seen = seen
			if err := putMeta(tx, metaPlace, at); err != nil {
				return err
			}
		}
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
			// The same id again: nothing was taken under it yet, and what was sent does not begin at 1, for rows before it were
			// lost. It begins anew.
			if id.Device != device {
				id.Session, id.Device = id.session(), device
				if err := putMeta(tx, metaIdentity, id); err != nil {
					return err
				}
			}
			if err := renumber(tx, 1); err != nil {
				return err
			}
			r.Forked++
			orders.instead = true
		case *satchelv1.Directive_Wipe:
			id, err := getMeta[identity](tx, metaIdentity)
			if err != nil {
				return err
			}
			all, err := wipe(tx, order.Wipe.SalvagedNumber)
			if err != nil {
				return err
			}
			orders.wiped = true
			if all {
				return putMeta(tx, metaIdentity, identity{Installation: id.Installation})
			}
		case *satchelv1.Directive_Upgrade:
			r.MinProtocol = order.Upgrade.MinProtocol
		case *satchelv1.Directive_Restored:
			again, err := takeRestored(tx, order.Restored)
			if err != nil {
				return err
			}
			r.Restored += again
			r.Pending += again
			orders.instead = true
		case *satchelv1.Directive_Repair:
			if err := beginRepair(tx, order.Repair.Salvage); err != nil {
				return err
			}
			orders.instead = true
		} // others are of a newer server, which does without them
	}
	return nil
}

// takePage stores the page, or what its absence says.
func (c *Client) takePage(ctx context.Context, s sending, res *satchelv1.SyncResponse, r *Result) error {
	p := res.Page
	t := pageTaker{nowMs: res.ServerTimeMs, recount: !c.counted}
	if p == nil {
		t := t
		return c.update(ctx, "no-page", func(tx Tx) error { t.tx = tx; return t.nothingNew() })
	}
	var taken pageTaker
	err := c.update(ctx, "page", func(tx Tx) error {
		taken = t
		taken.tx = tx
		return taken.take(p)
	})
	if err != nil {
		return err
	}
	c.counted = c.counted || taken.counted
	r.Changes, r.Checkpoint, r.More, r.SettledPriority = len(p.Changes), p.Checkpoint, p.More, p.SettledPriority
	r.advanced = p.Cursor != nil && string(p.Cursor) != string(s.request.Cursor)
	if taken.differs != "" {
		c.cfg.Logger.Warn("satchel client holds something else than the server states", "then", taken.differs)
	}
	if taken.differs == "repair" || taken.differs == "refill" {
		r.More, r.advanced = true, true
	}
	if !p.Checkpoint || taken.broken {
		r.Checkpoint = r.Checkpoint && !taken.broken
		return nil
	}
	_, err = c.release(ctx)
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
