package tests_test

import (
	"testing"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/internal/pgtest"
	"github.com/satchel-sync/satchel/media"
)

// Phones let go of bytes that are stored. A database that is put back to before they came waits for them in vain, until
// `satchel media check` has looked.
func TestS18PhotosThatARestoredDatabaseForgotAreFoundInTheBlobStore(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	p := serveConfig(t, app.Config{Pool: pool}, hire)
	ann := phone(t, p.url, "ann", nil)
	visit := recordVisit(t, ann)
	before, during := picture(t), append(picture(t), "another"...)
	photos := map[satchel.ID][]byte{attachPhoto(t, ann, visit, before): before}
	syncNow(t, ann)
	restore := backup(t, pool)
	photos[attachPhoto(t, ann, visit, during)] = during // the restored database does not know its record either
	syncNow(t, ann)
	if _, err := ann.Upload(t.Context()); err != nil {
		t.Fatal(err)
	}
	for photo := range photos {
		isStored(t, ann, photo)
	}
	if _, err := ann.Upload(t.Context()); err != nil { // lets go of what is stored
		t.Fatal(err)
	}
	if left, err := ann.Media(t.Context()); err != nil || len(left) != 0 {
		t.Fatalf("the phone still has %v, %v", left, err)
	}

	restore()
	if err := p.Engine.OpenEpoch(t.Context()); err != nil {
		t.Fatal(err)
	}
	syncNow(t, ann)
	for photo := range photos {
		if r, err := ann.Get(t.Context(), "photo", photo); err != nil || r.Text("blob_state") == "stored" {
			t.Fatalf("after the restore the photo is %s, %v", r.Fields, err)
		}
	}
	tools, err := app.Operator(pool)
	if err != nil {
		t.Fatal(err)
	}
	org, err := tools.Identity.OrgBySlug(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	check := func(want media.Condition) {
		t.Helper()
		seen := 0
		err := tools.CheckMedia(t.Context(), p.Store, org, func(f app.MediaFinding) error {
			if seen++; photos[f.Record] == nil || f.Condition != want {
				t.Errorf("record %s is %v, not %v", f.Record, f.Condition, want)
			}
			return nil
		})
		if err != nil || seen != len(photos) {
			t.Fatalf("%d were looked at, %v", seen, err)
		}
	}
	check(media.Found)
	for photo, want := range photos {
		isStored(t, ann, photo)
		comesBack(t, ann, photo, want)
	}
	check(media.Sound)
}
