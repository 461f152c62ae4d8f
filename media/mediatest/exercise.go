package mediatest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/media"
)

// Exercise proves that the stores which open gives keep the contract of [media.Store]. Each part works under keys of
// its own, so open may give the same store each time.
func Exercise(t *testing.T, open func(t *testing.T) media.Store) {
	for _, part := range []struct {
		name string
		do   func(t *testing.T, s media.Store, at string)
	}{
		{"what was put is read back, whole and in ranges", ranges},
		{"a missing key is told apart and deleting it is no error", missing},
		{"a wrong hash, a short body and a long body leave nothing", lies},
		{"a body that breaks off leaves nothing and gives its own error", interrupted},
		{"a failed put leaves what was there before", failedReplace},
		{"the same bytes may be put many times at once", together},
		{"a put replaces", replaces},
		{"17 MiB pass through a reader that cannot seek", big},
		{"a list gives what is under a prefix and nothing else", lists},
		{"keys of a wrong form are refused everywhere", keys},
		{"a call whose caller gave up gives the caller's error", givenUp},
	} {
		t.Run(part.name, func(t *testing.T) {
			t.Parallel()
			part.do(t, open(t), "exercise/"+satchel.NewID().String())
		})
	}
}

// Bytes makes n bytes that look random and are the same for the same n.
func Bytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)}).Read(b) // never fails
	return b
}

func put(t *testing.T, s media.Store, key string, b []byte) {
	t.Helper()
	if err := s.Put(t.Context(), key, sha256.Sum256(b), int64(len(b)), bytes.NewReader(b)); err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

func read(t *testing.T, s media.Store, key string, offset, length int64) ([]byte, int64) {
	t.Helper()
	r, size, err := s.Open(t.Context(), key, offset, length)
	if err != nil {
		t.Fatalf("open %s at %d, %d bytes: %v", key, offset, length, err)
	}
	defer r.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("read %s: %v", key, err)
	}
	return b, size
}

func absent(t *testing.T, s media.Store, key string) {
	t.Helper()
	if _, err := s.Stat(t.Context(), key); !errors.Is(err, media.ErrNotStored) {
		t.Errorf("stat gave %v, want ErrNotStored", err)
	}
	if _, _, err := s.Open(t.Context(), key, 0, -1); !errors.Is(err, media.ErrNotStored) {
		t.Errorf("open gave %v, want ErrNotStored", err)
	}
	for key, err := range s.List(t.Context(), key[:strings.LastIndex(key, "/")+1]) {
		t.Errorf("the list shows %q, %v", key, err)
	}
}

func ranges(t *testing.T, s media.Store, at string) {
	want := Bytes(10_000)
	put(t, s, at+"/a", want)
	if size, err := s.Stat(t.Context(), at+"/a"); err != nil || size != 10_000 {
		t.Errorf("stat gave %d, %v", size, err)
	}
	for _, c := range []struct{ offset, length, from, to int64 }{
		{0, -1, 0, 10_000}, {0, 1, 0, 1}, {0, 2, 0, 2}, {1, 1, 1, 2}, {9_999, 1, 9_999, 10_000}, {9_999, -1, 9_999, 10_000},
		{5_000, 10_000, 5_000, 10_000}, {0, 10_000, 0, 10_000},
	} {
		got, size := read(t, s, at+"/a", c.offset, c.length)
		if !bytes.Equal(got, want[c.from:c.to]) || size != 10_000 {
			t.Errorf("from %d, %d bytes: got %d bytes of %d", c.offset, c.length, len(got), size)
		}
	}
	for _, c := range [][2]int64{{10_000, -1}, {10_001, 1}, {-1, 1}, {0, 0}} {
		if _, _, err := s.Open(t.Context(), at+"/a", c[0], c[1]); !errors.Is(err, media.ErrBadRange) {
			t.Errorf("from %d, %d bytes: %v, want ErrBadRange", c[0], c[1], err)
		}
	}
}

func missing(t *testing.T, s media.Store, at string) {
	absent(t, s, at+"/a")
	if err := s.Delete(t.Context(), at+"/a"); err != nil {
		t.Errorf("delete of nothing: %v", err)
	}
	put(t, s, at+"/a", Bytes(10))
	for range 2 {
		if err := s.Delete(t.Context(), at+"/a"); err != nil {
			t.Errorf("delete: %v", err)
		}
		absent(t, s, at+"/a")
	}
	put(t, s, at+"/dir/b", Bytes(10))
	if _, err := s.Stat(t.Context(), at+"/dir"); !errors.Is(err, media.ErrNotStored) {
		t.Errorf("the beginning of a key is no key: %v", err)
	}
}

func lies(t *testing.T, s media.Store, at string) {
	b := Bytes(300_000)
	sum := sha256.Sum256(b)
	for name, c := range map[string]struct {
		sum  [32]byte
		size int64
	}{"wrong hash": {sha256.Sum256([]byte("x")), 300_000}, "fewer bytes than announced": {sum, 300_001}, "more bytes than announced": {sum, 299_999}} {
		for _, r := range []io.Reader{bytes.NewReader(b), iotest.OneByteReader(bytes.NewReader(b)), iotest.DataErrReader(bytes.NewReader(b))} {
			err := s.Put(t.Context(), at+"/a", c.sum, c.size, r)
			if satchel.ReasonOf(err) != satchel.ReasonHashMismatch {
				t.Errorf("%s: %v, want HASH_MISMATCH", name, err)
			}
			absent(t, s, at+"/a")
		}
	}
	if err := s.Put(t.Context(), at+"/a", sha256.Sum256(nil), 0, strings.NewReader("")); err == nil {
		t.Error("0 bytes were accepted")
	}
	absent(t, s, at+"/a")
}

func interrupted(t *testing.T, s media.Store, at string) {
	gone := errors.New("the phone is gone")
	b := Bytes(2_000_000)
	err := s.Put(t.Context(), at+"/a", sha256.Sum256(b), int64(len(b)), io.MultiReader(bytes.NewReader(b[:1_500_000]), iotest.ErrReader(gone)))
	if !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
	absent(t, s, at+"/a")
}

func failedReplace(t *testing.T, s media.Store, at string) {
	old, b := Bytes(1000), Bytes(2000)
	put(t, s, at+"/a", old)
	if err := s.Put(t.Context(), at+"/a", sha256.Sum256(old), 2000, bytes.NewReader(b)); err == nil {
		t.Fatal("a wrong hash was accepted")
	}
	if got, _ := read(t, s, at+"/a", 0, -1); !bytes.Equal(got, old) {
		t.Error("the bytes that stood there are gone")
	}
}

func together(t *testing.T, s media.Store, at string) {
	b := Bytes(700_000)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := s.Put(t.Context(), at+"/a", sha256.Sum256(b), int64(len(b)), bytes.NewReader(b)); err != nil {
				t.Errorf("put: %v", err)
			}
			r, _, err := s.Open(t.Context(), at+"/a", 0, -1)
			if err != nil {
				t.Errorf("open after a put: %v", err)
				return
			}
			defer r.Close() //nolint:errcheck // only read
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, b) {
				t.Errorf("read %d bytes, %v", len(got), err)
			}
		})
	}
	wg.Wait()
}

func replaces(t *testing.T, s media.Store, at string) {
	put(t, s, at+"/a", Bytes(5000))
	put(t, s, at+"/a", Bytes(40))
	if got, size := read(t, s, at+"/a", 0, -1); !bytes.Equal(got, Bytes(40)) || size != 40 {
		t.Errorf("got %d bytes", len(got))
	}
}

func big(t *testing.T, s media.Store, at string) {
	b := Bytes(17 << 20)
	if err := s.Put(t.Context(), at+"/a", sha256.Sum256(b), int64(len(b)), io.MultiReader(bytes.NewReader(b))); err != nil {
		t.Fatal(err)
	}
	if got, _ := read(t, s, at+"/a", 0, -1); !bytes.Equal(got, b) {
		t.Error("other bytes came back")
	}
	if got, _ := read(t, s, at+"/a", 16<<20, 100); !bytes.Equal(got, b[16<<20:16<<20+100]) {
		t.Error("another range came back")
	}
}

func lists(t *testing.T, s media.Store, at string) {
	keys := []string{at + "/x/a", at + "/x/b/c", at + "/x/b/d"}
	for _, k := range keys {
		put(t, s, k, Bytes(3))
	}
	put(t, s, at+"/xy/a", Bytes(3))
	got := listed(t, s, at+"/x/")
	if !slices.Equal(got, keys) {
		t.Errorf("got %v, want %v", got, keys)
	}
	n := 0
	for _, err := range s.List(t.Context(), at+"/x/") {
		if err != nil {
			t.Error(err)
		}
		n++
		break
	}
	if n != 1 {
		t.Errorf("a list that is left early gave %d", n)
	}
	if got := listed(t, s, at+"/nothing/"); len(got) != 0 {
		t.Errorf("got %v", got)
	}
}

func listed(t *testing.T, s media.Store, prefix string) (keys []string) {
	t.Helper()
	for key, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

func keys(t *testing.T, s media.Store, _ string) {
	for _, key := range []string{"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../../b", "a/./b", "A", "a b", "a\\b", "a\x00b", "ä",
		strings.Repeat("a/", 300) + "a", strings.Repeat("a", 201)} {
		_, serr := s.Stat(t.Context(), key)
		_, _, oerr := s.Open(t.Context(), key, 0, -1)
		perr := s.Put(t.Context(), key, sha256.Sum256([]byte("x")), 1, strings.NewReader("x"))
		derr := s.Delete(t.Context(), key)
		for _, err := range []error{serr, oerr, perr, derr} {
			if !errors.Is(err, media.ErrBadKey) {
				t.Errorf("key %q: %v, want ErrBadKey", key, err)
			}
		}
	}
	for _, prefix := range []string{"", "/", "a", "../", "a//"} {
		for _, err := range s.List(t.Context(), prefix) {
			if !errors.Is(err, media.ErrBadKey) {
				t.Errorf("prefix %q: %v, want ErrBadKey", prefix, err)
			}
		}
	}
}

func givenUp(t *testing.T, s media.Store, at string) {
	put(t, s, at+"/a", Bytes(10))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Stat(ctx, at+"/a")
	_, _, oerr := s.Open(ctx, at+"/a", 0, -1)
	perr := s.Put(ctx, at+"/b", sha256.Sum256(Bytes(10)), 10, bytes.NewReader(Bytes(10)))
	for _, err := range []error{err, oerr, perr} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}
	if _, err := s.Stat(t.Context(), at+"/b"); !errors.Is(err, media.ErrNotStored) {
		t.Errorf("stat gave %v", err)
	}
}
