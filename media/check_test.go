package media_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/media"
)

func (w *world) checks(org satchel.ID, sum string, claims ...media.Claim) []media.Condition {
	w.t.Helper()
	got, err := media.NewChecker(w.pool, w.store, w.cfg.Jobs, w.clock).Check(w.t.Context(), org, sum, claims)
	if err != nil {
		w.t.Fatal(err)
	}
	return got
}

func (w *world) check(org satchel.ID, sum string, c media.Claim) media.Condition {
	w.t.Helper()
	return w.checks(org, sum, c)[0]
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
	claim := media.Claim{Author: ann.Person}
	if got := w.check(ann.Org, sum, claim); got != media.Found {
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
	if got := w.check(ann.Org, sum, claim); got != media.Sound {
		t.Errorf("afterwards they are %v", got)
	}
}

func TestWhatIsStoredAndKnownIsSoundAndARecordThatDidNotHearHears(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ann := person(satchel.NewID())
	sum := w.mustSend(ann, photo(t, 4), "image/jpeg")
	if got := w.check(ann.Org, sum, media.Claim{Author: ann.Person, Stored: true}); got != media.Sound {
		t.Errorf("as it should be: %v", got)
	}
	w.exec(`delete from river_job`)
	if got := w.check(ann.Org, sum, media.Claim{Author: ann.Person}); got != media.Found {
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
	if got := w.check(ann.Org, sum, media.Claim{Author: satchel.NewID()}); got != media.Awaited {
		t.Errorf("the bytes of somebody else are %v", got)
	}
	if got := w.check(satchel.NewID(), sum, media.Claim{Author: ann.Person}); got != media.Awaited {
		t.Errorf("in another organisation they are %v", got)
	}
	if w.work(); len(w.heard) != 0 {
		t.Errorf("told: %+v", w.heard)
	}
}

func TestBytesThatTheDatabaseForgotAndThatSeveralNameAreNobodys(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ann, ben := person(satchel.NewID()), satchel.NewID()
	sum := w.mustSend(ann, photo(t, 9), "image/jpeg")
	w.work()
	w.restore()
	w.heard = nil
	for _, got := range w.checks(ann.Org, sum, media.Claim{Author: ben}, media.Claim{Author: ann.Person}) {
		if got != media.Unclear {
			t.Errorf("named by two they are %v", got)
		}
	}
	if w.work(); len(w.heard) != 0 || w.count(`select count(*) from blob_owner`) != 0 {
		t.Errorf("told: %+v", w.heard)
	}
	for _, got := range w.checks(ann.Org, sum, media.Claim{Author: ann.Person}, media.Claim{Author: ann.Person}) {
		if got != media.Found {
			t.Errorf("named by two records of hers they are %v", got)
		}
	}
}

func TestAnEmptyFileInTheStoreIsMissing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ann := person(satchel.NewID())
	sum := w.mustSend(ann, photo(t, 10), "image/jpeg")
	w.restore()
	w.store = emptyStore{w.store}
	if got := w.check(ann.Org, sum, media.Claim{Author: ann.Person}); got != media.Missing {
		t.Errorf("it is %v", got)
	}
}

// emptyStore is one whose files a full disk has cut to nothing.
type emptyStore struct{ media.Store }

func (emptyStore) Stat(context.Context, string) (int64, error) { return 0, nil }

func TestWhatTheStoreLostIsMissingAndNothingIsDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ann := person(satchel.NewID())
	sum := w.mustSend(ann, photo(t, 6), "image/jpeg")
	claim := media.Claim{Author: ann.Person, Stored: true}
	key := w.stored("blob/")[0]
	if err := w.store.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if got := w.check(ann.Org, sum, claim); got != media.Missing {
		t.Errorf("stored and not there: %v", got)
	}
	claim.Stored = false
	if got := w.check(ann.Org, sum, claim); got != media.Missing {
		t.Errorf("sent, not told, and not there: %v", got)
	}
	if n := w.count(`select count(*) from blob`); n != 1 {
		t.Errorf("%d rows of blobs", n)
	}
	if got := w.check(ann.Org, sumOf([]byte("on its way")), media.Claim{Author: ann.Person}); got != media.Awaited {
		t.Errorf("never sent: %v", got)
	}
	if got := w.check(ann.Org, "no hash", media.Claim{Author: ann.Person}); got != media.Awaited {
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
	claim := media.Claim{Author: ann.Person, Stored: true}
	if got := w.check(ann.Org, sum, claim); got != media.Missing {
		t.Errorf("of another size: %v", got)
	}
	w.restore()
	if got := w.check(ann.Org, sum, claim); got != media.Missing {
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
		Check(t.Context(), ann.Org, sum, []media.Claim{{Author: ann.Person, Stored: true}})
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
