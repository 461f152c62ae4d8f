package satchelclient

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Store is the device's durable memory: a few ordered tables of bytes with transactions. The client puts all meaning
// into keys and values, so that a store is small and every store behaves alike; storetest.Exercise is its
// specification. A store belongs to one process, which is the store's to see to: opening one that another process has open
// fails with [ErrStoreInUse], until that process closes it or dies. In it, it belongs to one [Client], by Claim. Its methods
// are safe for concurrent use.
type Store interface {
	// Claim makes the store one client's until release is called, once or more often; [ErrStoreInUse] while it is
	// another's.
	Claim() (release func(), err error)
	// View runs fn on one consistent state. Do not call the store again inside fn. The error of fn is returned as is.
	View(ctx context.Context, fn func(ReadTx) error) error
	// Update runs fn alone. All its writes become durable together when it returns nil; when it returns an error or
	// panics, or the process dies, none of them happened. Do not call the store again inside fn. The error of fn is
	// returned as is.
	Update(ctx context.Context, fn func(Tx) error) error
	// Close releases the store. Calls after it fail.
	Close() error
}

// Claims gives a store to one client at a time: a [Store] answers Claim with its Take. The zero value is a store that is
// nobody's. It is safe for concurrent use.
type Claims struct {
	mu     sync.Mutex
	holder *byte // a byte of the claim that holds; nil = none does
}

// Take claims the store until release is called, once or more often; [ErrStoreInUse], with the store's name, while it is
// claimed.
func (c *Claims) Take(store string) (release func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.holder != nil {
		return nil, fmt.Errorf("%w: %s", ErrStoreInUse, store)
	}
	mine := new(byte)
	c.holder = mine
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.holder == mine { // else it was released before, and another may hold now
			c.holder = nil
		}
	}, nil
}

// ReadTx reads within a transaction. It must not be used after the function that it was given to has returned. Bytes
// that it hands out must not be changed and hold until then.
type ReadTx interface {
	// Get gives the value of key, or nil when there is none. A value that exists is never nil, but may be empty.
	Get(t Table, key []byte) ([]byte, error)
	// Scan calls fn for the keys that begin with prefix (nil = all) and are greater than after (nil = from the first),
	// in ascending order of their bytes, until fn returns an error. [ErrStop] ends the scan without an error. In an
	// Update, fn may write to the same table: whether the scan meets keys written behind its place is not said.
	Scan(t Table, prefix, after []byte, fn func(key, value []byte) error) error
}

// Tx reads and writes within a transaction; it sees its own writes. The bytes that it is given are copied.
type Tx interface {
	ReadTx
	// Put sets the value of key; nil is stored as an empty value.
	Put(t Table, key, value []byte) error
	// Delete removes key, if it is there.
	Delete(t Table, key []byte) error
	// Clear removes all keys of the table.
	Clear(t Table) error
}

// ErrStop is returned by the function given to Scan to end it early. Scan then returns nil.
var ErrStop = errors.New("satchelclient: stop the scan")

// Table names one of the store's tables. The names are identifiers in every SQL dialect.
type Table string

// The tables. Numbers in keys are 8 bytes, big end first; ids are their 16 bytes.
const (
	TableMeta    Table = "meta"    // "identity", "place", "numbers", "repair" → JSON
	TableOutbox  Table = "outbox"  // order (a skip: a key before that of what follows) → satchel.v1.Mutation; number 0 = never sent
	TableSettled Table = "settled" // order → seq and satchel.v1.Mutation whose ops are still shown
	TableOverlay Table = "overlay" // record id, order, place in the mutation → satchel.v1.Op
	TableRecord  Table = "record"  // kind, 0, record id → satchel.v1.Change as shown; entered = all its buckets
	TableStaging Table = "staging" // kind, 0, record id → satchel.v1.Change as it will be shown at the checkpoint
	TableVerdict Table = "verdict" // order → JSON of verdict and mutation
	TableKept    Table = "kept"    // order → bytes that could not be sent; 0, record id → a row that could not be sent
	TableRepair  Table = "repair"  // what a repair still has to do: a letter, then see repair.go
	TableMerged  Table = "merged"  // record id → JSON of the record that it was merged into
	TableOffice  Table = "office"  // record id → JSON of an own creation that is not on the device
	TableClock   Table = "clock"   // boot → satchel.v1.ClockPair
	TableMedia   Table = "media"   // record id → JSON of what is to be uploaded
	TableBytes   Table = "bytes"   // record id, piece → up to 256 KiB
)

// Tables lists all tables, for stores that create them.
func Tables() []Table {
	return []Table{TableMeta, TableOutbox, TableSettled, TableOverlay, TableRecord, TableStaging, TableVerdict,
		TableKept, TableRepair, TableMerged, TableOffice, TableClock, TableMedia, TableBytes}
}
