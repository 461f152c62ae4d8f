package memstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"sync"

	satchelclient "github.com/satchel-sync/satchel/clients/go"
)

// Store is a satchelclient.Store in memory.
type Store struct {
	mu     sync.Mutex
	tables map[satchelclient.Table]*table
	closed bool
	claims satchelclient.Claims
}

// table has its values in a map and its keys in order. New keys wait in fresh until somebody scans.
type table struct {
	values map[string][]byte
	keys   []string // ascending; may hold keys that were deleted since
	fresh  []string // not in keys yet
}

var errClosed = errors.New("memstore: the store is closed")

// New gives an empty store.
func New() *Store {
	s := &Store{tables: map[satchelclient.Table]*table{}}
	for _, t := range satchelclient.Tables() {
		s.tables[t] = &table{values: map[string][]byte{}}
	}
	return s
}

// Claim implements satchelclient.Store.
func (s *Store) Claim() (func(), error) { return s.claims.Take("a store in memory") }

// Clone gives an independent copy that is nobody's, also of a closed store: a phone's backup, or its disk after a kill.
func (s *Store) Clone() *Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &Store{tables: map[satchelclient.Table]*table{}}
	for name, t := range s.tables {
		// Values are never changed in place, so they can be shared.
		c.tables[name] = &table{values: maps.Clone(t.values), keys: slices.Clone(t.keys), fresh: slices.Clone(t.fresh)}
	}
	return c
}

// View implements satchelclient.Store.
func (s *Store) View(ctx context.Context, fn func(satchelclient.ReadTx) error) error {
	return s.run(ctx, func(t *tx) error { return fn(t) })
}

// Update implements satchelclient.Store.
func (s *Store) Update(ctx context.Context, fn func(satchelclient.Tx) error) error {
	return s.run(ctx, func(t *tx) error {
		committed := false
		defer func() {
			if !committed {
				t.rollBack()
			}
		}()
		if err := fn(t); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		committed = true
		return nil
	})
}

func (s *Store) run(ctx context.Context, fn func(*tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	return fn(&tx{store: s})
}

// Close implements satchelclient.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

// tx writes at once and remembers how to undo it.
type tx struct {
	store *Store
	undo  []func()
}

func (t *tx) rollBack() {
	for _, undo := range slices.Backward(t.undo) {
		undo()
	}
}

func (t *tx) table(name satchelclient.Table) (*table, error) {
	tb := t.store.tables[name]
	if tb == nil {
		return nil, fmt.Errorf("memstore: no table %q", name)
	}
	return tb, nil
}

func (t *tx) Get(name satchelclient.Table, key []byte) ([]byte, error) {
	tb, err := t.table(name)
	if err != nil {
		return nil, err
	}
	return tb.values[string(key)], nil
}

func (t *tx) Put(name satchelclient.Table, key, value []byte) error {
	tb, err := t.table(name)
	if err != nil {
		return err
	}
	k := string(key)
	was, existed := tb.values[k]
	if existed {
		t.undo = append(t.undo, func() { tb.values[k] = was })
	} else {
		tb.fresh = append(tb.fresh, k)
		t.undo = append(t.undo, func() { delete(tb.values, k) })
	}
	tb.values[k] = append([]byte{}, value...)
	return nil
}

func (t *tx) Delete(name satchelclient.Table, key []byte) error {
	tb, err := t.table(name)
	if err != nil {
		return err
	}
	k := string(key)
	if was, existed := tb.values[k]; existed {
		delete(tb.values, k)
		t.undo = append(t.undo, func() { tb.values[k] = was; tb.fresh = append(tb.fresh, k) })
	}
	return nil
}

func (t *tx) Clear(name satchelclient.Table) error {
	tb, err := t.table(name)
	if err != nil {
		return err
	}
	was := *tb
	t.undo = append(t.undo, func() { *tb = was })
	*tb = table{values: map[string][]byte{}}
	return nil
}

func (t *tx) Scan(name satchelclient.Table, prefix, after []byte, fn func(key, value []byte) error) error {
	tb, err := t.table(name)
	if err != nil {
		return err
	}
	from := string(prefix)
	if after != nil && bytes.Compare(after, prefix) >= 0 {
		from = string(after) + "\x00" // the smallest key greater than after
	}
	// fn may write: what was in order when the scan began is walked, and each key looked up.
	keys := tb.ordered()
	for _, k := range keys[sort.SearchStrings(keys, from):] {
		if !strings.HasPrefix(k, string(prefix)) {
			break
		}
		v, ok := tb.values[k]
		if !ok {
			continue
		}
		if err := fn([]byte(k), v); err != nil {
			if errors.Is(err, satchelclient.ErrStop) {
				return nil
			}
			return err
		}
	}
	return nil
}

// ordered merges fresh keys into keys, and drops those that were deleted. It makes a new slice, for a scan may be
// walking the old one.
func (tb *table) ordered() []string {
	if len(tb.fresh) == 0 && len(tb.keys) <= 2*len(tb.values)+16 {
		return tb.keys
	}
	keys := make([]string, 0, len(tb.values))
	for _, list := range [][]string{tb.keys, tb.fresh} {
		for _, k := range list {
			if _, ok := tb.values[k]; ok {
				keys = append(keys, k)
			}
		}
	}
	slices.Sort(keys)
	tb.keys, tb.fresh = slices.Compact(keys), nil
	return tb.keys
}
