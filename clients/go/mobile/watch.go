package mobile

import (
	"context"
	"encoding/json"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	satchelclient "github.com/satchel-sync/satchel/clients/go"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

// ChangeListener hears that records came to look otherwise. It is called on a thread that is not the main one, and must not
// throw.
type ChangeListener interface {
	// OnChange says that records of the kind changed, came or went, by the person or by a sync: list them again. "" = perhaps
	// of every kind.
	OnChange(kind string)
}

// StatusListener hears how far the device is. It is called on a thread that is not the main one, and must not throw.
type StatusListener interface {
	// OnStatus is given what Status gives.
	OnStatus(statusJSON string)
}

// Watch is a listener that hears until Stop.
type Watch struct {
	teller *teller
	kind   string // "" = all
	change ChangeListener
	status StatusListener
}

// Watch has the listener called now, and after each change of what is shown of the kind; "" = of any kind. Changes that come
// while it is being called are told in one call after it, for each kind. The watch goes on, and keeps its listener, until its
// Stop or the client's Close.
func (c *Client) Watch(kind string, listener ChangeListener) (*Watch, error) {
	if listener == nil {
		return nil, invalid("Watch needs a listener")
	}
	return c.watch(&Watch{kind: kind, change: listener}, func(d *due) { d.kinds[kind] = true })
}

// WatchStatus has the listener called now, and whenever Status has become another. It goes on like Watch.
func (c *Client) WatchStatus(listener StatusListener) (*Watch, error) {
	if listener == nil {
		return nil, invalid("WatchStatus needs a listener")
	}
	return c.watch(&Watch{status: listener}, func(d *due) { d.status = true })
}

func (c *Client) watch(w *Watch, first func(*due)) (*Watch, error) {
	if _, err := c.local(); err != nil {
		return nil, err
	}
	w.teller = c.teller
	c.teller.mu.Lock()
	defer c.teller.mu.Unlock()
	if c.teller.closed {
		return nil, errClosed
	}
	d := &due{kinds: map[string]bool{}}
	first(d)
	c.teller.watches[w] = d
	c.teller.nudge()
	return w, nil
}

// Stop ends the watch and lets go of the listener; a call that is under way comes to its end by itself. It waits for nothing;
// stopping twice is harmless.
func (w *Watch) Stop() {
	if w.teller == nil {
		return
	}
	w.teller.mu.Lock()
	defer w.teller.mu.Unlock()
	delete(w.teller.watches, w)
}

// due is what a watch has not been told yet.
type due struct {
	kinds  map[string]bool
	status bool
	last   string // the status told last
}

// teller calls the app's listeners, one after the other, on a thread of its own: who changes something never waits for them.
type teller struct {
	status func() (string, error)
	wake   chan struct{} // capacity 1

	mu      sync.Mutex // guards what follows
	watches map[*Watch]*due
	events  []func() // to be called in order: at most one pause, and one end for each Start
	pause   func()   // the last pause that was not told yet
	closed  bool
}

func newTeller() *teller {
	return &teller{wake: make(chan struct{}, 1), watches: map[*Watch]*due{}}
}

func (t *teller) nudge() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// close ends the watches. What must still be said is said.
func (t *teller) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	clear(t.watches)
	t.nudge()
}

// say has an event told, after those before it.
func (t *teller) say(event func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pause = nil // what ended does not pause
	t.events = append(t.events, event)
	t.nudge()
}

// sayPause has a pause told, unless a later one overtakes it.
func (t *teller) sayPause(event func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pause = event
	t.nudge()
}

// changed notes what a commit changed.
func (t *teller) changed(what touched) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for w, d := range t.watches {
		switch {
		case w.status != nil:
			d.status = d.status || what.status
		case what.all:
			d.kinds[w.kind] = true
		case w.kind == "":
			for kind := range what.kinds {
				d.kinds[kind] = true
			}
		case what.kinds[w.kind]:
			d.kinds[w.kind] = true
		}
	}
	t.nudge()
}

// loop calls the listeners until close.
func (t *teller) loop() {
	runtime.LockOSThread() // apps may keep things by thread; the thread goes with the loop
	for range t.wake {
		for {
			calls, closed := t.take()
			for _, call := range calls {
				call()
			}
			if len(calls) > 0 {
				continue
			}
			if closed {
				return
			}
			break
		}
	}
}

// take gives the calls that are due.
func (t *teller) take() (calls []func(), closed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	calls, t.events = t.events, nil
	if t.pause != nil {
		calls, t.pause = append(calls, t.pause), nil
	}
	for w, d := range t.watches {
		kinds := slices.Sorted(maps.Keys(d.kinds))
		clear(d.kinds)
		for _, kind := range kinds {
			calls = append(calls, func() {
				if t.has(w) {
					w.change.OnChange(kind)
				}
			})
		}
		if d.status {
			d.status = false
			calls = append(calls, func() { t.tellStatus(w, d) })
		}
	}
	return calls, t.closed
}

func (t *teller) has(w *Watch) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.watches[w] != nil
}

// tellStatus is called by the loop only, which is who reads and writes due.last.
func (t *teller) tellStatus(w *Watch, d *due) {
	now, err := t.status()
	if err != nil || now == d.last || !t.has(w) {
		return // of a client that is being closed, or a disk that fails: the app's own calls say so
	}
	d.last = now
	w.status.OnStatus(now)
}

// watched is a store that tells what each commit changed of what the app sees.
type watched struct {
	satchelclient.Store
	changed func(touched)
}

// touched is what a transaction changed.
type touched struct {
	kinds  map[string]bool // of records that may look otherwise
	all    bool            // any record may look otherwise
	status bool
}

// Update implements satchelclient.Store.
func (w *watched) Update(ctx context.Context, fn func(satchelclient.Tx) error) error {
	var what touched
	err := w.Store.Update(ctx, func(tx satchelclient.Tx) error {
		what = touched{kinds: map[string]bool{}}
		return fn(watchedTx{tx, &what})
	})
	if err == nil && (what.all || what.status || len(what.kinds) > 0) {
		w.changed(what)
	}
	return err
}

type watchedTx struct {
	satchelclient.Tx
	what *touched
}

// Put implements satchelclient.Tx.
func (t watchedTx) Put(table satchelclient.Table, key, value []byte) error {
	t.note(table, key, value)
	return t.Tx.Put(table, key, value)
}

// Delete implements satchelclient.Tx.
func (t watchedTx) Delete(table satchelclient.Table, key []byte) error {
	var was []byte
	if table == satchelclient.TableOverlay || table == satchelclient.TableMerged { // their keys do not tell the kind
		var err error
		if was, err = t.Get(table, key); err != nil {
			return err
		}
		if was == nil {
			return nil
		}
	}
	t.note(table, key, was)
	return t.Tx.Delete(table, key)
}

// Clear implements satchelclient.Tx.
func (t watchedTx) Clear(table satchelclient.Table) error {
	switch table {
	case satchelclient.TableRecord, satchelclient.TableOverlay, satchelclient.TableMerged:
		t.what.all = true
	}
	t.what.status = true
	return t.Tx.Clear(table)
}

func (t watchedTx) note(table satchelclient.Table, key, value []byte) {
	switch table {
	case satchelclient.TableRecord:
		kind, _, _ := strings.Cut(string(key), "\x00")
		t.what.kinds[kind] = true
	case satchelclient.TableOverlay:
		op := new(satchelv1.Op)
		if proto.Unmarshal(value, op) != nil {
			t.what.all = true
		} else {
			t.what.kinds[op.Kind] = true
		}
	case satchelclient.TableMerged:
		var row struct {
			Kind string `json:"kind"`
		}
		if json.Unmarshal(value, &row) != nil || row.Kind == "" {
			t.what.all = true
		} else {
			t.what.kinds[row.Kind] = true
		}
	case satchelclient.TableMeta, satchelclient.TableOutbox, satchelclient.TableMedia, satchelclient.TableRepair:
		t.what.status = true
	}
}
