package satchelclient_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"connectrpc.com/connect"

	"github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/clients/go/memstore"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

// someBytes are size bytes that differ from piece to piece.
func someBytes(size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i>>16) ^ byte(i>>8)*31 ^ byte(i)
	}
	return b
}

func attach(t *testing.T, c *satchelclient.Client, data []byte, contentType string) satchel.ID {
	t.Helper()
	id, err := c.AttachBytes(t.Context(), "photo", data, contentType, satchelclient.Fields{"taken_at": "2026-11-21T10:00:00Z"})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func readAll(t *testing.T, c *satchelclient.Client, id satchel.ID) ([]byte, string) {
	t.Helper()
	r, contentType, err := c.Open(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b, contentType
}

func TestARecordNeverWaitsForItsBytesAndTheCopyGoesWhenItSaysStored(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.chunk = 100_000
	c := client(t, f)
	data := someBytes(700_000)
	id := attach(t, c, data, "image/jpeg")
	r, err := c.Get(t.Context(), "photo", id)
	if err != nil {
		t.Fatal(err)
	}
	var fields struct {
		Blob        string `json:"blob"`
		Size        int    `json:"size"`
		ContentType string `json:"content_type"`
		TakenAt     string `json:"taken_at"`
	}
	sum := sha256.Sum256(data)
	if err := json.Unmarshal(r.Fields, &fields); err != nil || fields.Blob != hex.EncodeToString(sum[:]) || fields.Size != 700_000 || fields.ContentType != "image/jpeg" || fields.TakenAt == "" {
		t.Errorf("the record is %s, %v", r.Fields, err)
	}
	mustSync(t, c) // before any byte was sent
	if got := f.last(t).Outbox.MediaBytes; got != 700_000 {
		t.Errorf("the outbox says %d bytes of media", got)
	}
	if b, contentType := readAll(t, c, id); !bytes.Equal(b, data) || contentType != "image/jpeg" {
		t.Errorf("the local copy has %d bytes of %s", len(b), contentType)
	}
	up, err := c.Upload(t.Context())
	if err != nil || up.Uploaded != 1 || f.puts < 7 {
		t.Errorf("%+v after %d pieces, %v", up, f.puts, err)
	}
	if m, err := c.Media(t.Context()); err != nil || len(m) != 1 {
		t.Errorf("before the record says stored: %v, %v", m, err)
	}
	mustSync(t, c)
	if m, err := c.Media(t.Context()); err != nil || len(m) != 0 {
		t.Errorf("after it: %v, %v", m, err)
	}
	f.bend(func(f *fake) { f.blobBytes = []byte("from the server") })
	if b, _ := readAll(t, c, id); string(b) != "from the server" {
		t.Errorf("opened %q", b)
	}
	if _, _, err := c.Open(t.Context(), satchel.NewID()); !errors.Is(err, satchelclient.ErrNotFound) {
		t.Errorf("an unknown record gave %v", err)
	}
}

func TestAnUploadGoesOnWhereItStopped(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := client(t, f)
	attach(t, c, someBytes(600_000), "image/jpeg")
	mustSync(t, c)
	f.bend(func(f *fake) {
		f.onPut = func(*satchelv1.PutChunkRequest) error {
			if f.puts == 2 {
				return connect.NewError(connect.CodeUnavailable, errors.New("the signal went"))
			}
			return nil
		}
	})
	if _, err := c.Upload(t.Context()); !errors.Is(err, satchelclient.ErrUnavailable) {
		t.Fatalf("got %v", err)
	}
	if up, err := c.Upload(t.Context()); err != nil || up.Uploaded != 1 || f.puts != 4 {
		t.Errorf("%+v after %d pieces, %v", up, f.puts, err)
	}
}

func TestAnUploadFollowsTheOffsetThatTheServerExpects(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := client(t, f)
	attach(t, c, someBytes(600_000), "image/jpeg")
	mustSync(t, c)
	f.bend(func(f *fake) {
		f.onPut = func(*satchelv1.PutChunkRequest) error {
			if f.puts == 2 { // the replica's folder was lost
				clear(f.uploads)
			}
			return nil
		}
	})
	if up, err := c.Upload(t.Context()); err != nil || up.Uploaded != 1 {
		t.Errorf("%+v, %v", up, err)
	}
}

func TestGarbledBytesAreSentOnceMore(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := client(t, f)
	attach(t, c, someBytes(1000), "image/jpeg")
	mustSync(t, c)
	f.bend(func(f *fake) {
		f.onPut = func(req *satchelv1.PutChunkRequest) error {
			if f.puts == 1 {
				req.Data[0] ^= 1
			}
			return nil
		}
	})
	if up, err := c.Upload(t.Context()); err != nil || up.Uploaded != 1 || f.puts != 2 {
		t.Errorf("%+v after %d pieces, %v", up, f.puts, err)
	}
}

func TestARefusedFileHoldsUpNoOtherAndStays(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := client(t, f)
	bad := attach(t, c, []byte("<html>"), "text/html")
	attach(t, c, someBytes(1000), "image/jpeg")
	mustSync(t, c)
	up, err := c.Upload(t.Context())
	if err != nil || up.Uploaded != 1 || len(up.Refused) != 1 || up.Refused[0].Record != bad || up.Refused[0].Refused != satchel.ReasonUnsupportedMedia {
		t.Errorf("%+v, %v", up, err)
	}
	if b, _ := readAll(t, c, bad); string(b) != "<html>" {
		t.Errorf("the bytes are %q", b)
	}
	if up, err := c.Upload(t.Context()); err != nil || len(up.Refused) != 0 {
		t.Errorf("tried again: %+v, %v", up, err)
	}
	if err := c.ForgetMedia(t.Context(), bad); err != nil {
		t.Fatal(err)
	}
	mustSync(t, c)
	if m, err := c.Media(t.Context()); err != nil || len(m) != 0 {
		t.Errorf("%v are left, %v", m, err)
	}
}

func TestAFileThatCannotBeReadLeavesNothing(t *testing.T) {
	t.Parallel()
	store := memstore.New()
	c := signedIn(t, config(newFake(t), store))
	broken := io.MultiReader(bytes.NewReader(someBytes(300_000)), failing{})
	if _, err := c.Attach(t.Context(), "photo", broken, "image/jpeg", nil); !errors.Is(err, os.ErrInvalid) {
		t.Errorf("got %v", err)
	}
	if _, err := c.AttachBytes(t.Context(), "photo", nil, "image/jpeg", nil); err == nil {
		t.Error("an empty file was attached")
	}
	if _, err := c.AttachFile(t.Context(), "photo", filepath.Join(t.TempDir(), "none"), "image/jpeg", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	wantPending(t, c, 0)
	wantEmpty(t, store, satchelclient.TableBytes, satchelclient.TableMedia)
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, os.ErrInvalid }

func wantEmpty(t *testing.T, store satchelclient.Store, tables ...satchelclient.Table) {
	t.Helper()
	err := store.View(context.Background(), func(tx satchelclient.ReadTx) error {
		for _, name := range tables {
			err := tx.Scan(name, nil, nil, func(k, _ []byte) error { t.Errorf("%s still has %x", name, k); return nil })
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
