package media_test

import (
	"bytes"
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/media"
	"github.com/satchel-sync/satchel/media/mediatest"
)

func openStore(t *testing.T, url string) media.Store {
	t.Helper()
	s, err := media.OpenStore(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	if f, ok := s.(*media.Folder); ok {
		t.Cleanup(func() { _ = f.Close() })
	}
	return s
}

func TestTheFolderKeepsTheContract(t *testing.T) {
	t.Parallel()
	s := openStore(t, "file://"+t.TempDir())
	mediatest.Exercise(t, func(*testing.T) media.Store { return s })
}

func TestARealS3ServerKeepsTheContract(t *testing.T) {
	t.Parallel()
	s := openStore(t, mediatest.StartS3(t).URL)
	mediatest.Exercise(t, func(*testing.T) media.Store { return s })
}

func TestAnS3ServerThatIsDownIsToldByItsReasonAndKeepsWhatItHad(t *testing.T) {
	t.Parallel()
	srv := mediatest.StartS3(t)
	s := openStore(t, srv.URL)
	b := mediatest.Bytes(1000)
	if err := s.Put(t.Context(), "a/b", sha256.Sum256(b), 1000, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	srv.Stop()
	_, serr := s.Stat(t.Context(), "a/b")
	_, _, oerr := s.Open(t.Context(), "a/b", 0, -1)
	perr := s.Put(t.Context(), "a/c", sha256.Sum256(b), 1000, bytes.NewReader(b))
	derr := s.Delete(t.Context(), "a/b")
	var lerr error
	for _, lerr = range s.List(t.Context(), "a/") {
	}
	for _, err := range []error{serr, oerr, perr, derr, lerr, s.Check(t.Context())} {
		if satchel.KindOf(err) != satchel.Unavailable || satchel.ReasonOf(err) != satchel.ReasonBlobStoreDown {
			t.Errorf("got %v, want BLOB_STORE_DOWN", err)
		}
	}
	if _, err := media.OpenStore(t.Context(), srv.URL); err == nil || strings.Contains(err.Error(), "signs") {
		t.Errorf("opening a dead store gave %v; it must fail and not show the secret", err)
	}
	srv.Start(t)
	r, _, err := s.Open(t.Context(), "a/b", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close() //nolint:errcheck // only read
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, b) {
		t.Errorf("after the restart %d bytes came back, %v", len(got), err)
	}
}

func TestWhatAKilledWriterLeftInTheFolderIsNeverShownAndSweptLater(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	openStore(t, "file://"+dir)
	dead, running := filepath.Join(dir, "tmp", "dead"), filepath.Join(dir, "tmp", "running")
	for _, name := range []string{dead, running} {
		if err := os.WriteFile(name, []byte("half a pho"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	yesterday := time.Now().Add(-24 * time.Hour)
	if err := os.Chtimes(dead, yesterday, yesterday); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, "file://"+dir)
	for key, err := range s.List(t.Context(), "blob/") {
		t.Errorf("the list shows %q, %v", key, err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil || len(entries) != 1 || entries[0].Name() != "running" {
		t.Errorf("tmp holds %v, %v; want only what another process may still be writing", entries, err)
	}
}

func TestFoldersThatFillAndEmptyAtOnceLoseNothing(t *testing.T) {
	t.Parallel()
	s := openStore(t, "file://"+t.TempDir())
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b", "c"} {
		wg.Go(func() {
			b := mediatest.Bytes(100)
			for range 50 {
				if err := s.Put(t.Context(), "x/y/"+name, sha256.Sum256(b), 100, bytes.NewReader(b)); err != nil {
					t.Errorf("put: %v", err)
				}
				if _, err := s.Stat(t.Context(), "x/y/"+name); err != nil {
					t.Errorf("stat after a put: %v", err)
				}
				if err := s.Delete(t.Context(), "x/y/"+name); err != nil {
					t.Errorf("delete: %v", err)
				}
			}
		})
	}
	wg.Wait()
	for key, err := range s.List(t.Context(), "x/") {
		t.Errorf("left over: %q, %v", key, err)
	}
}

func TestTheFolderDoesNotFollowALinkThatLeadsOutside(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, "file://"+dir)
	if err := os.Symlink(outside, filepath.Join(dir, "objects", "out")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Open(t.Context(), "out/secret", 0, -1); err == nil {
		t.Error("a file outside the folder was opened")
	}
	if err := s.Put(t.Context(), "out/new", sha256.Sum256([]byte("x")), 1, strings.NewReader("x")); err == nil {
		t.Error("a file outside the folder was written")
	}
}

func TestAFullOrBrokenDiskIsAStoreThatIsDown(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, "file://"+dir)
	if err := os.RemoveAll(filepath.Join(dir, "tmp")); err != nil {
		t.Fatal(err)
	}
	perr := s.Put(t.Context(), "a", sha256.Sum256([]byte("x")), 1, strings.NewReader("x"))
	for _, err := range []error{perr, s.Check(t.Context())} {
		if satchel.ReasonOf(err) != satchel.ReasonBlobStoreDown {
			t.Errorf("got %v, want BLOB_STORE_DOWN", err)
		}
	}
}

func TestAWrongBlobURLIsRefusedWithoutShowingTheSecret(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"", "/var/blobs", "file://relative/path", "file:///a?b=c", "ftp://a/b", "s3://host/bucket", "s3://k:hush@host",
		"s3://k:hush@host/bucket/more", "s3://k:hush@host/b?insecure=yes", "s3://k:hush@host/b?speed=1", "s3://k:hush/hush@host/b", "s3://k:hush@ho st/b",
		"s3://k:hush@host/b?insecure=1&insecure=0"} {
		if _, err := media.OpenStore(t.Context(), url); err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%q gave %v", url, err)
		}
	}
}
