package media_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/media"
)

func (w *world) check(org satchel.ID, c media.Claim) media.Condition {
	w.t.Helper()
	got, err := media.NewChecker(w.pool, w.store, w.cfg.Jobs, w.clock).Check(w.t.Context(), org, c)
	if err != nil {
		w.t.Fatal(err)
	}
	return got
}

// restore puts the database back to a moment before any bytes came; the store keeps them.
func (w *world) restore() {
	w.exec(`delete from blob_owner`)
	w.exec(`delete from blob`)
	w.exec(`delete from upload_piece`)
	w.exec(`delete from upload`)
	w.exec(`delete from river_job`)
}

func TestBytesThatARestoredDatabaseDoesNotKnowAreFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ann := person(satchel.NewID())
	sum := w.mustSend(ann, photo(t, 3), "image/jpeg")
	w.work()
	w.restore()
	w.heard = nil
	claim := media.Claim{Author: ann.Person, SHA256: sum}
	if got := w.check(ann.Org, claim); got != media.Found {
		t.Fatalf("the bytes are %v, not found", got)
	}
	w.work()
	if len(w.heard) != 1 || w.heard[0].SHA256 != sum || w.heard[0].Person != ann.Person || w.heard[0].ContentType != "image/jpeg" {
		t.Fatalf("the records hear %+v", w.heard)
	}
	if up := w.begin(ann, photo(t, 3), "image/jpeg"); !up.Stored {
		t.Error("her phone must send them again")
	}
	claim.Stored = true
	if got := w.check(ann.Org, claim); got != media.Sound {
		t.Errorf("afterwards they are %v", got)
	}
}

func TestWhatIsStoredAndKnownIsSoundAndARecordThatDidNotHearHears(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ann := person(satchel.NewID())
	sum := w.mustSend(ann, photo(t, 4), "image/jpeg")
	if got := w.check(ann.Org, media.Claim{Author: ann.Person, SHA256: sum, Stored: true}); got != media.Sound {
		t.Errorf("as it should be: %v", got)
	}
	w.exec(`delete from river_job`)
	if got := w.check(ann.Org, media.Claim{Author: ann.Person, SHA256: sum}); got != media.Found {
		t.Errorf("a record that did not hear: %v", got)
	}
	if w.work(); len(w.heard) != 1 {
		t.Errorf("it hears %d times", len(w.heard))
	}
}

func TestNamingABlobOfSomebodyElseGivesNoWayToIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ann := person(satchel.NewID())
	sum := w.mustSend(ann, photo(t, 5), "image/jpeg")
	w.work()
	w.heard = nil
	if got := w.check(ann.Org, media.Claim{Author: satchel.NewID(), SHA256: sum}); got != media.Awaited {
		t.Errorf("the bytes of somebody else are %v", got)
	}
	if got := w.check(satchel.NewID(), media.Claim{Author: ann.Person, SHA256: sum}); got != media.Awaited {
		t.Errorf("in another organisation they are %v", got)
	}
	if w.work(); len(w.heard) != 0 {
		t.Errorf("told: %+v", w.heard)
	}
}

func TestWhatTheStoreLostIsMissingAndNothingIsDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ann := person(satchel.NewID())
	claim := media.Claim{Author: ann.Person, SHA256: w.mustSend(ann, photo(t, 6), "image/jpeg"), Stored: true}
	key := w.stored("blob/")[0]
	if err := w.store.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if got := w.check(ann.Org, claim); got != media.Missing {
		t.Errorf("stored and not there: %v", got)
	}
	claim.Stored = false
	if got := w.check(ann.Org, claim); got != media.Missing {
		t.Errorf("sent, not told, and not there: %v", got)
	}
	if n := w.count(`select count(*) from blob`); n != 1 {
		t.Errorf("%d rows of blobs", n)
	}
	if got := w.check(ann.Org, media.Claim{Author: ann.Person, SHA256: sumOf([]byte("on its way"))}); got != media.Awaited {
		t.Errorf("never sent: %v", got)
	}
	if got := w.check(ann.Org, media.Claim{Author: ann.Person, SHA256: "no hash"}); got != media.Awaited {
		t.Errorf("no name: %v", got)
	}
}

func TestBytesThatAreOthersAreNotFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ann := person(satchel.NewID())
	sum := w.mustSend(ann, photo(t, 7), "image/jpeg")
	key := w.stored("blob/")[0]
	other := bytes.Repeat([]byte("x"), 100)
	if err := w.store.Put(t.Context(), key, mustSum(t, sumOf(other)), int64(len(other)), bytes.NewReader(other)); err != nil {
		t.Fatal(err)
	}
	claim := media.Claim{Author: ann.Person, SHA256: sum, Stored: true}
	if got := w.check(ann.Org, claim); got != media.Missing {
		t.Errorf("of another size: %v", got)
	}
	w.restore()
	if got := w.check(ann.Org, claim); got != media.Missing {
		t.Errorf("not known, and not what the name says: %v", got)
	}
}

func TestAStoreThatDoesNotAnswerIsNoVerdict(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ann := person(satchel.NewID())
	sum := w.mustSend(ann, photo(t, 8), "image/jpeg")
	down := errors.New("down")
	_, err := media.NewChecker(w.pool, brokenStore{w.store, down}, w.cfg.Jobs, w.clock).
		Check(t.Context(), ann.Org, media.Claim{Author: ann.Person, SHA256: sum, Stored: true})
	if !errors.Is(err, down) {
		t.Errorf("a store that is down: %v", err)
	}
}

// brokenStore tells no size.
type brokenStore struct {
	media.Store
	err error
}

func (b brokenStore) Stat(context.Context, string) (int64, error) { return 0, b.err }

func mustSum(t *testing.T, s string) media.Sum {
	t.Helper()
	sum, err := media.ParseSum(s)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}
