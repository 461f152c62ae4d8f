package memstore_test

import (
	"context"
	"testing"

	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/clients/go/memstore"
	"github.com/satchel-sync/satchel/clients/go/storetest"
)

func TestMemoryIsAStore(t *testing.T) {
	t.Parallel()
	storetest.Exercise(t, func(t *testing.T) satchelclient.Store {
		s := memstore.New()
		t.Cleanup(func() { s.Close() })
		return s
	})
}

func TestAChangeAfterACloneIsNotInTheClone(t *testing.T) {
	t.Parallel()
	s := memstore.New()
	set := func(s *memstore.Store, value string) {
		t.Helper()
		if err := s.Update(context.Background(), func(tx satchelclient.Tx) error {
			return tx.Put(satchelclient.TableMeta, []byte("k"), []byte(value))
		}); err != nil {
			t.Fatal(err)
		}
	}
	get := func(s *memstore.Store) (value string) {
		t.Helper()
		if err := s.View(context.Background(), func(tx satchelclient.ReadTx) error {
			v, err := tx.Get(satchelclient.TableMeta, []byte("k"))
			value = string(v)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return value
	}
	set(s, "monday")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Claim(); err != nil {
		t.Fatal(err)
	}
	a := s.Clone()
	if _, err := a.Claim(); err != nil {
		t.Errorf("a clone belongs to the client of its original: %v", err)
	}
	b := a.Clone()
	set(a, "tuesday")
	if get(a) != "tuesday" || get(b) != "monday" {
		t.Errorf("got %q and %q", get(a), get(b))
	}
}
