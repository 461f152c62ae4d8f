package godriver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"

	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/clients/go/memstore"
	"github.com/satchel-sync/satchel/clients/go/sqlitestore"
)

// Stores keeps a driver's stores by name. Its methods are not for concurrent use.
type Stores interface {
	// Open gives the store of that name, new if there is none.
	Open(ctx context.Context, name string) (satchelclient.Store, error)
	// Release takes it back. killed: what its client still does must not reach it.
	Release(name string, killed bool) error
	// Copy copies a store that is not open.
	Copy(ctx context.Context, from, to string) error
	// Reset forgets all.
	Reset() error
}

// Memory gives stores in memory.
func Memory() Stores { return memory{} }

type memory map[string]*memstore.Store

func (m memory) Open(_ context.Context, name string) (satchelclient.Store, error) {
	if m[name] == nil {
		m[name] = memstore.New()
	}
	return m[name], nil
}

func (m memory) Release(name string, killed bool) error {
	if killed && m[name] != nil {
		m[name] = m[name].Clone()
	}
	return nil
}

func (m memory) Copy(_ context.Context, from, to string) error {
	if m[from] == nil {
		return errors.New("there is no such store")
	}
	m[to] = m[from].Clone()
	return nil
}

func (m memory) Reset() error { clear(m); return nil }

// SQLite gives stores that are files in the folder, which holds nothing else.
func SQLite(folder string) Stores {
	return &files{folder: folder, open: map[string]satchelclient.Store{}}
}

type files struct {
	folder string
	open   map[string]satchelclient.Store
}

func (f *files) path(name string) string { return filepath.Join(f.folder, name+".db") }

func (f *files) Open(ctx context.Context, name string) (satchelclient.Store, error) {
	s, err := sqlitestore.Open(ctx, f.path(name))
	if err == nil {
		f.open[name] = s
	}
	return s, err
}

func (f *files) Release(name string, _ bool) error {
	s := f.open[name]
	delete(f.open, name)
	if s == nil {
		return nil
	}
	return s.Close()
}

// Copy copies row by row, so that it needs to know nothing of the files.
func (f *files) Copy(ctx context.Context, from, to string) error {
	if err := f.remove(to); err != nil {
		return err
	}
	source, err := sqlitestore.Open(ctx, f.path(from))
	if err != nil {
		return err
	}
	target, err := sqlitestore.Open(ctx, f.path(to))
	if err != nil {
		return errors.Join(err, source.Close())
	}
	err = source.View(ctx, func(in satchelclient.ReadTx) error {
		return target.Update(ctx, func(out satchelclient.Tx) error {
			for _, table := range satchelclient.Tables() {
				err := in.Scan(table, nil, nil, func(key, value []byte) error { return out.Put(table, slices.Clone(key), value) })
				if err != nil {
					return err
				}
			}
			return nil
		})
	})
	return errors.Join(err, source.Close(), target.Close())
}

func (f *files) remove(name string) error {
	all, err := filepath.Glob(f.path(name) + "*")
	for _, file := range all {
		err = errors.Join(err, os.Remove(file))
	}
	return err
}

func (f *files) Reset() error {
	for name := range f.open {
		if err := f.Release(name, false); err != nil {
			return err
		}
	}
	all, err := filepath.Glob(filepath.Join(f.folder, "*.db*"))
	for _, file := range all {
		err = errors.Join(err, os.Remove(file))
	}
	return err
}
