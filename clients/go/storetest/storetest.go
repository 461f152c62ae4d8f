package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	satchelclient "github.com/satchel-sync/satchel/clients/go"
)

const table = satchelclient.TableRecord

// Exercise runs the specification. open gives a new empty store each time and closes it at the end of the test.
func Exercise(t *testing.T, open func(t *testing.T) satchelclient.Store) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, satchelclient.Store){
		"a value that was put is there, in the transaction and after it": putGet,
		"a key that is not there gives nil, an empty value does not":     absentAndEmpty,
		"a put replaces, a delete removes, a clear removes all":          replaceDeleteClear,
		"tables do not see each other, and an unknown one is an error":   tablesApart,
		"an error undoes everything, and is returned as it is":           errorUndoes,
		"a panic undoes everything, and the store goes on":               panicUndoes,
		"a context that has ended stops a transaction before its commit": cancelled,
		"a scan goes in the order of bytes, within its prefix":           scanOrder,
		"a scan goes on after a key, and ends at ErrStop or an error":    scanAfterAndStop,
		"a scan survives that its rows are deleted and rewritten":        scanWhileWriting,
		"a scan of many rows meets each once":                            scanMany,
		"the store keeps copies of what it was given":                    copies,
		"many at once lose nothing":                                      concurrent,
		"a closed store refuses":                                         closed,
		"a store is one client's at a time":                              claimed,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

func update(t *testing.T, s satchelclient.Store, fn func(satchelclient.Tx) error) {
	t.Helper()
	if err := s.Update(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

func view(t *testing.T, s satchelclient.Store, fn func(satchelclient.ReadTx) error) {
	t.Helper()
	if err := s.View(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, s satchelclient.Store, pairs ...string) {
	t.Helper()
	update(t, s, func(tx satchelclient.Tx) error {
		for i := 0; i < len(pairs); i += 2 {
			if err := tx.Put(table, []byte(pairs[i]), []byte(pairs[i+1])); err != nil {
				return err
			}
		}
		return nil
	})
}

func wantAll(t *testing.T, s satchelclient.Store, want ...string) {
	t.Helper()
	view(t, s, func(tx satchelclient.ReadTx) error {
		if got := scan(t, tx, nil, nil); !slices.Equal(got, want) {
			t.Errorf("the table holds %q, want %q", got, want)
		}
		return nil
	})
}

func scan(t *testing.T, tx satchelclient.ReadTx, prefix, after []byte) []string {
	t.Helper()
	var got []string
	err := tx.Scan(table, prefix, after, func(k, v []byte) error {
		got = append(got, string(k)+"="+string(v))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func putGet(t *testing.T, s satchelclient.Store) {
	update(t, s, func(tx satchelclient.Tx) error {
		if err := tx.Put(table, []byte("a"), []byte("1")); err != nil {
			return err
		}
		if v, err := tx.Get(table, []byte("a")); err != nil || string(v) != "1" {
			t.Errorf("inside: %q, %v", v, err)
		}
		if got := scan(t, tx, nil, nil); !slices.Equal(got, []string{"a=1"}) {
			t.Errorf("scanned inside: %q", got)
		}
		return nil
	})
	wantAll(t, s, "a=1")
}

func absentAndEmpty(t *testing.T, s satchelclient.Store) {
	update(t, s, func(tx satchelclient.Tx) error { return tx.Put(table, []byte("empty"), nil) })
	view(t, s, func(tx satchelclient.ReadTx) error {
		if v, err := tx.Get(table, []byte("none")); v != nil || err != nil {
			t.Errorf("absent: %v, %v", v, err)
		}
		if v, err := tx.Get(table, []byte("empty")); v == nil || len(v) != 0 || err != nil {
			t.Errorf("empty: %v, %v", v, err)
		}
		return nil
	})
}

func replaceDeleteClear(t *testing.T, s satchelclient.Store) {
	put(t, s, "a", "1", "b", "2", "c", "3")
	put(t, s, "a", "9")
	update(t, s, func(tx satchelclient.Tx) error {
		return errors.Join(tx.Delete(table, []byte("b")), tx.Delete(table, []byte("never there")))
	})
	wantAll(t, s, "a=9", "c=3")
	update(t, s, func(tx satchelclient.Tx) error {
		if err := tx.Clear(table); err != nil {
			return err
		}
		return tx.Put(table, []byte("d"), []byte("4"))
	})
	wantAll(t, s, "d=4")
}

func tablesApart(t *testing.T, s satchelclient.Store) {
	update(t, s, func(tx satchelclient.Tx) error {
		for i, name := range satchelclient.Tables() {
			if err := tx.Put(name, []byte("k"), []byte{byte(i)}); err != nil {
				return err
			}
		}
		return nil
	})
	view(t, s, func(tx satchelclient.ReadTx) error {
		for i, name := range satchelclient.Tables() {
			if v, err := tx.Get(name, []byte("k")); err != nil || len(v) != 1 || v[0] != byte(i) {
				t.Errorf("%s: %v, %v", name, v, err)
			}
		}
		if _, err := tx.Get("unknown", []byte("k")); err == nil {
			t.Error("an unknown table gave no error")
		}
		return nil
	})
}

// change does one of everything to a=1 b=2.
func change(tx satchelclient.Tx) error {
	return errors.Join(
		tx.Put(table, []byte("a"), []byte("changed")), tx.Put(table, []byte("new"), []byte("3")), tx.Delete(table, []byte("b")),
		tx.Clear(table), tx.Put(table, []byte("b"), []byte("again")), tx.Delete(table, []byte("new")))
}

func errorUndoes(t *testing.T, s satchelclient.Store) {
	put(t, s, "a", "1", "b", "2")
	sentinel := errors.New("no")
	err := s.Update(context.Background(), func(tx satchelclient.Tx) error { return errors.Join(change(tx), sentinel) })
	if !errors.Is(err, sentinel) {
		t.Errorf("got %v", err)
	}
	wantAll(t, s, "a=1", "b=2")
	if err := s.View(context.Background(), func(satchelclient.ReadTx) error { return sentinel }); err != sentinel {
		t.Errorf("a view gave %v", err)
	}
}

func panicUndoes(t *testing.T, s satchelclient.Store) {
	put(t, s, "a", "1", "b", "2")
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic did not come through")
			}
		}()
		err := s.Update(context.Background(), func(tx satchelclient.Tx) error {
			if err := change(tx); err != nil {
				t.Error(err)
			}
			panic("killed")
		})
		t.Errorf("Update returned %v", err)
	}()
	wantAll(t, s, "a=1", "b=2")
	put(t, s, "c", "3")
	wantAll(t, s, "a=1", "b=2", "c=3")
}

func cancelled(t *testing.T, s satchelclient.Store) {
	ctx, cancel := context.WithCancel(context.Background())
	err := s.Update(ctx, func(tx satchelclient.Tx) error {
		cancel()
		return tx.Put(table, []byte("a"), []byte("1"))
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	wantAll(t, s)
	if err := s.View(ctx, func(satchelclient.ReadTx) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("a view gave %v", err)
	}
}

func scanOrder(t *testing.T, s satchelclient.Store) {
	put(t, s, "b", "1", "a\xff\xffz", "2", "a\xff", "3", "a", "4", "a\x00", "5", "\xff\xffx", "6", "ab", "7", "", "8")
	view(t, s, func(tx satchelclient.ReadTx) error {
		for prefix, want := range map[string][]string{
			"":         {"=8", "a=4", "a\x00=5", "ab=7", "a\xff=3", "a\xff\xffz=2", "b=1", "\xff\xffx=6"},
			"a":        {"a=4", "a\x00=5", "ab=7", "a\xff=3", "a\xff\xffz=2"},
			"a\xff":    {"a\xff=3", "a\xff\xffz=2"},
			"\xff\xff": {"\xff\xffx=6"},
			"c":        nil,
		} {
			if got := scan(t, tx, []byte(prefix), nil); !slices.Equal(got, want) {
				t.Errorf("prefix %q: %q, want %q", prefix, got, want)
			}
		}
		return nil
	})
}

func scanAfterAndStop(t *testing.T, s satchelclient.Store) {
	put(t, s, "", "0", "a1", "1", "a2", "2", "a3", "3", "b", "4")
	view(t, s, func(tx satchelclient.ReadTx) error {
		for _, c := range []struct {
			prefix, after string
			want          []string
		}{
			{"a", "a1", []string{"a2=2", "a3=3"}},
			{"a", "a1x", []string{"a2=2", "a3=3"}},
			{"a", "Z", []string{"a1=1", "a2=2", "a3=3"}},
			{"a", "b", nil},
			{"", "", []string{"a1=1", "a2=2", "a3=3", "b=4"}},
		} {
			if got := scan(t, tx, []byte(c.prefix), []byte(c.after)); !slices.Equal(got, c.want) {
				t.Errorf("prefix %q after %q: %q, want %q", c.prefix, c.after, got, c.want)
			}
		}
		var met []string
		err := tx.Scan(table, nil, nil, func(k, _ []byte) error {
			met = append(met, string(k))
			if string(k) == "a2" {
				return satchelclient.ErrStop
			}
			return nil
		})
		if err != nil || !slices.Equal(met, []string{"", "a1", "a2"}) {
			t.Errorf("stopped: %q, %v", met, err)
		}
		sentinel := errors.New("no")
		if err := tx.Scan(table, nil, nil, func(_, _ []byte) error { return sentinel }); err != sentinel {
			t.Errorf("got %v", err)
		}
		return nil
	})
}

func scanWhileWriting(t *testing.T, s satchelclient.Store) {
	const n = 1000 // more than a store is likely to read at once
	fill(t, s, n)
	met := 0
	update(t, s, func(tx satchelclient.Tx) error {
		return tx.Scan(table, nil, nil, func(k, v []byte) error {
			met++
			if v2, err := tx.Get(table, k); err != nil || string(v2) != string(v) {
				t.Errorf("get inside a scan: %q, %v", v2, err)
			}
			if met%2 == 0 {
				return tx.Delete(table, k)
			}
			return tx.Put(table, k, []byte("seen"))
		})
	})
	if met != n {
		t.Errorf("met %d rows, want %d", met, n)
	}
	view(t, s, func(tx satchelclient.ReadTx) error {
		got := scan(t, tx, nil, nil)
		if len(got) != n/2 || slices.ContainsFunc(got, func(r string) bool { return !strings.HasSuffix(r, "=seen") }) {
			t.Errorf("%d rows are left", len(got))
		}
		return nil
	})
}

func fill(t *testing.T, s satchelclient.Store, n int) {
	t.Helper()
	update(t, s, func(tx satchelclient.Tx) error {
		for i := range n {
			k := fmt.Appendf(nil, "%06d", (i*7919)%n) // each once, out of order
			if err := tx.Put(table, k, k); err != nil {
				return err
			}
		}
		return nil
	})
}

func scanMany(t *testing.T, s satchelclient.Store) {
	fill(t, s, 3000)
	view(t, s, func(tx satchelclient.ReadTx) error {
		got := scan(t, tx, nil, nil)
		if len(got) != 3000 || !slices.IsSorted(got) || len(slices.Compact(got)) != 3000 {
			t.Errorf("met %d rows", len(got))
		}
		return nil
	})
}

func copies(t *testing.T, s satchelclient.Store) {
	key, value := []byte("key"), []byte("value")
	update(t, s, func(tx satchelclient.Tx) error { return tx.Put(table, key, value) })
	key[0], value[0] = 'X', 'X'
	wantAll(t, s, "key=value")
}

func concurrent(t *testing.T, s satchelclient.Store) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 25 {
				err := s.Update(context.Background(), func(tx satchelclient.Tx) error {
					v, err := tx.Get(table, []byte("count"))
					if err != nil {
						return err
					}
					return tx.Put(table, []byte("count"), append([]byte("x"), v...))
				})
				if err != nil {
					t.Error(err)
				}
				if err := s.View(context.Background(), func(tx satchelclient.ReadTx) error { _, err := tx.Get(table, []byte("count")); return err }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	wantAll(t, s, "count="+strings.Repeat("x", 200))
}

func closed(t *testing.T, s satchelclient.Store) {
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.View(context.Background(), func(satchelclient.ReadTx) error { return nil }); err == nil {
		t.Error("a closed store gave a view")
	}
	if err := s.Update(context.Background(), func(satchelclient.Tx) error { return nil }); err == nil {
		t.Error("a closed store took an update")
	}
}

func claimed(t *testing.T, s satchelclient.Store) {
	release, err := s.Claim()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Claim(); !errors.Is(err, satchelclient.ErrStoreInUse) {
		t.Errorf("claimed twice: %v", err)
	}
	release()
	release()
	again, err := s.Claim()
	if err != nil {
		t.Fatal(err)
	}
	release() // of a claim that has ended: not this one's
	if _, err := s.Claim(); !errors.Is(err, satchelclient.ErrStoreInUse) {
		t.Errorf("an old claim ended a new one: %v", err)
	}
	again()
}
