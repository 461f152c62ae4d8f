package media_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"image"
	"image/jpeg"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/jobs"
	"github.com/satchel-sync/satchel/internal/pgtest"
	"github.com/satchel-sync/satchel/media"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// world is a Service on a real database and a real store, with what stands for the engine around it.
type world struct {
	*media.Service
	t     *testing.T
	pool  *pgxpool.Pool
	store media.Store
	cfg   media.Config
	mu    sync.Mutex
	now   time.Time
	book  map[satchel.ID]entry // what the engine would know of records
	gone  map[satchel.ID]bool  // people who are disabled
	heard []media.Stored
	deaf  bool
}

type entry struct {
	sees   satchel.ID
	sha256 string
	stored bool
}

func newWorld(t *testing.T) *world { return newWorldOn(t, openStore(t, "file://"+t.TempDir())) }

func newWorldOn(t *testing.T, store media.Store) *world {
	t.Helper()
	w := &world{t: t, pool: pgtest.New(t), store: store, now: time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC),
		book: map[satchel.ID]entry{}, gone: map[satchel.ID]bool{}}
	w.cfg = media.Config{Pool: w.pool, Store: store, Records: w, Submit: w, Key: bytes.Repeat([]byte{7}, 32), Now: w.clock,
		PersonActive: func(_ context.Context, _, person satchel.ID) (bool, error) { return !w.gone[person], nil },
		Authenticate: func(r *http.Request) (*satchel.Principal, error) {
			if p, ok := r.Context().Value(whoKey{}).(*satchel.Principal); ok {
				return p, nil
			}
			return nil, satchel.E(satchel.Unauthenticated, satchel.ReasonSessionEnded, "Sign in.")
		},
		WriteError: func(rw http.ResponseWriter, _ *http.Request, err error) {
			status := map[satchel.Kind]int{satchel.Invalid: 400, satchel.Unauthenticated: 401, satchel.Denied: 403, satchel.NotFound: 404,
				satchel.Precondition: 409, satchel.Exhausted: 429, satchel.Unavailable: 503}[satchel.KindOf(err)]
			http.Error(rw, string(satchel.ReasonOf(err)), max(status, 400))
		}}
	w.Service = w.replica()
	return w
}

type whoKey struct{}

// replica gives another Service on the same database and store, as another process would be.
func (w *world) replica() *media.Service {
	w.t.Helper()
	var err error
	if w.cfg.Jobs, err = jobs.New(w.pool, jobs.Config{Now: w.clock}); err != nil {
		w.t.Fatal(err)
	}
	s, err := media.New(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) clock() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now }

func (w *world) pass(d time.Duration) { w.mu.Lock(); defer w.mu.Unlock(); w.now = w.now.Add(d) }

func (w *world) BlobOf(_ context.Context, p *satchel.Principal, record satchel.ID) (string, bool, error) {
	e, ok := w.book[record]
	if !ok || e.sees != p.Person {
		return "", false, satchel.E(satchel.NotFound, satchel.ReasonNotFound, "There is no such record.")
	}
	return e.sha256, e.stored, nil
}

func (w *world) BlobStored(_ context.Context, s media.Stored) error {
	if w.deaf {
		return errors.New("the engine is busy")
	}
	w.heard = append(w.heard, s)
	return nil
}

// work runs the jobs that are due, and tells how many there were.
func (w *world) work() int {
	w.t.Helper()
	n, err := w.cfg.Jobs.Step(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func person(org satchel.ID) *satchel.Principal {
	return &satchel.Principal{Org: org, Person: satchel.NewID(), Device: satchel.NewID()}
}

func sumOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func (w *world) begin(p *satchel.Principal, b []byte, contentType string) media.Upload {
	w.t.Helper()
	up, err := w.Begin(w.t.Context(), p, sumOf(b), int64(len(b)), contentType)
	if err != nil {
		w.t.Fatalf("begin: %v", err)
	}
	return up
}

func (w *world) chunk(p *satchel.Principal, up media.Upload, offset int64, b []byte) int64 {
	w.t.Helper()
	at, err := w.PutChunk(w.t.Context(), p, up.ID, offset, b)
	if err != nil {
		w.t.Fatalf("piece at %d: %v", offset, err)
	}
	return at
}

// send sends b in two pieces and completes.
func (w *world) send(p *satchel.Principal, b []byte, contentType string) (string, error) {
	w.t.Helper()
	up := w.begin(p, b, contentType)
	half := int64(len(b) / 2)
	w.chunk(p, up, 0, b[:half])
	w.chunk(p, up, half, b[half:])
	return w.Complete(w.t.Context(), p, up.ID)
}

func (w *world) mustSend(p *satchel.Principal, b []byte, contentType string) string {
	w.t.Helper()
	sum, err := w.send(p, b, contentType)
	if err != nil {
		w.t.Fatalf("send: %v", err)
	}
	return sum
}

func (w *world) stored(prefix string) (keys []string) {
	w.t.Helper()
	for key, err := range w.store.List(w.t.Context(), prefix) {
		if err != nil {
			w.t.Fatal(err)
		}
		keys = append(keys, key)
	}
	return keys
}

func (w *world) exec(sql string) {
	w.t.Helper()
	if _, err := w.pool.Exec(w.t.Context(), sql); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) count(sql string, args ...any) (n int) {
	w.t.Helper()
	if err := w.pool.QueryRow(w.t.Context(), sql, args...).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

func wantReason(t *testing.T, err error, kind satchel.Kind, reason satchel.Reason) {
	t.Helper()
	if satchel.KindOf(err) != kind || satchel.ReasonOf(err) != reason {
		t.Errorf("got %v (kind %d), want %s (kind %d)", err, satchel.KindOf(err), reason, kind)
	}
}

func wantOffset(t *testing.T, err error, expected int64) {
	t.Helper()
	wantReason(t, err, satchel.Precondition, satchel.ReasonUnexpectedOffset)
	off, ok := errors.AsType[*media.OffsetError](err)
	if !ok || off.Expected() != expected {
		t.Errorf("got %v, want the expected offset %d", err, expected)
	}
}

// photo makes a JPEG; the same seed gives the same bytes.
func photo(t *testing.T, seed uint8) []byte {
	t.Helper()
	img := image.NewGray(image.Rect(0, 0, 64, 48))
	for i := range img.Pix {
		img.Pix[i] = uint8(i*i)*seed + seed
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, img, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
