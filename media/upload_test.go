package media_test

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/media"
	"github.com/satchel-sync/satchel/media/mediatest"
)

func TestAPhotoSentInPiecesIsStoredUnderItsHashAndItsRecordsHearOfItAfterTheCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	b := append(photo(t, 1), mediatest.Bytes(2_500_000)...)
	up := w.begin(rep, b, "image/jpeg")
	if up.Stored || up.Offset != 0 || up.ChunkSize != 1<<20 || !up.Expires.After(w.now) {
		t.Fatalf("begin gave %+v", up)
	}
	for at := int64(0); at < int64(len(b)); {
		at = w.chunk(rep, up, at, b[at:min(at+media.ChunkSize, int64(len(b)))])
	}
	sum, err := w.Complete(t.Context(), rep, up.ID)
	if err != nil || sum != sumOf(b) {
		t.Fatalf("complete gave %q, %v", sum, err)
	}
	key := "blob/" + rep.Org.String() + "/" + sum[:2] + "/" + sum
	if size, err := w.store.Stat(t.Context(), key); err != nil || size != int64(len(b)) {
		t.Errorf("the store has %d bytes, %v", size, err)
	}
	if left := w.stored("staging/"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if n := w.work(); n != 1 || w.heard[0] != (media.Stored{Org: rep.Org, Person: rep.Person, SHA256: sum, Size: int64(len(b)), ContentType: "image/jpeg"}) {
		t.Errorf("%d jobs, heard %+v", n, w.heard)
	}
	if up := w.begin(rep, b, "image/jpeg"); !up.Stored {
		t.Error("the same person is asked to send the same bytes again")
	}
	if again, err := w.Complete(t.Context(), rep, up.ID); err != nil || again != sum {
		t.Errorf("completing again gave %q, %v", again, err)
	}
	if at := w.chunk(rep, up, 0, b[:10]); at != int64(len(b)) {
		t.Errorf("a late piece of a complete upload was answered with %d", at)
	}
	if n := w.work(); n != 0 {
		t.Errorf("%d more jobs", n)
	}
}

func TestAnUploadGoesOnAtAnotherReplicaWhereItBrokeOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	b := photo(t, 2)
	up := w.begin(rep, b, "image/jpeg")
	w.chunk(rep, up, 0, b[:100])
	w.pass(6 * 24 * time.Hour)
	w.Service = w.replica()
	rep.Device = satchel.NewID()
	again := w.begin(rep, b, "image/jpeg")
	if again.ID != up.ID || again.Offset != 100 {
		t.Fatalf("beginning again gave %+v", again)
	}
	w.pass(6 * 24 * time.Hour)
	w.chunk(rep, again, 100, b[100:])
	if _, err := w.Complete(t.Context(), rep, up.ID); err != nil {
		t.Error(err)
	}
}

func TestAPieceThatWasReceivedIsAcknowledgedAgainAndAnyOtherIsToldWhereToGoOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	b := photo(t, 3)
	up := w.begin(rep, b, "image/jpeg")
	w.chunk(rep, up, 0, b[:100])
	w.chunk(rep, up, 100, b[100:150])
	if at := w.chunk(rep, up, 0, b[:100]); at != 150 {
		t.Errorf("the replay was answered with %d", at)
	}
	for name, c := range map[string]struct {
		at int64
		b  []byte
	}{"a gap": {151, b[151:160]}, "other bytes": {0, b[1:101]}, "another cut": {50, b[50:150]}, "past the end": {1 << 40, b[:1]}} {
		t.Log(name)
		_, err := w.PutChunk(t.Context(), rep, up.ID, c.at, c.b)
		wantOffset(t, err, 150)
	}
	_, err := w.Complete(t.Context(), rep, up.ID)
	wantOffset(t, err, 150)
}

func TestTheSamePiecesSentByManyRequestsAtOnceMakeOneFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	b := append(photo(t, 4), mediatest.Bytes(20_000)...)
	up := w.begin(rep, b, "image/jpeg")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for at := 0; at < len(b); at += 4000 {
				if _, err := w.PutChunk(t.Context(), rep, up.ID, int64(at), b[at:min(at+4000, len(b))]); err != nil {
					t.Errorf("piece at %d: %v", at, err)
				}
			}
			if sum, err := w.Complete(t.Context(), rep, up.ID); err != nil || sum != sumOf(b) {
				t.Errorf("complete gave %q, %v", sum, err)
			}
		})
	}
	wg.Wait()
	if n := w.work(); n != 1 {
		t.Errorf("%d jobs", n)
	}
	if left := w.stored("staging/"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestBytesWithAnotherHashAreRefusedAndTheUploadBeginsAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	good := photo(t, 5)
	for name, bad := range map[string][]byte{"damaged at the end": append(bytes.Clone(good[:len(good)-1]), 'x'),
		"damaged where the type is told": append([]byte("<html>"), good[6:]...)} {
		up := w.begin(rep, good, "image/jpeg")
		w.chunk(rep, up, 0, bad)
		_, err := w.Complete(t.Context(), rep, up.ID)
		t.Log(name)
		wantReason(t, err, satchel.Invalid, satchel.ReasonHashMismatch)
		if again := w.begin(rep, good, "image/jpeg"); again.ID != up.ID || again.Offset != 0 || again.Stored {
			t.Errorf("after the refusal begin gave %+v", again)
		}
	}
	if got := w.stored("blob/"); len(got) != 0 {
		t.Errorf("stored: %v", got)
	}
	if n := w.count(`select count(*) from blob`); n != 0 {
		t.Errorf("%d rows", n)
	}
	w.mustSend(rep, good, "image/jpeg")
}

func TestASizeLieIsFoundOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	b := photo(t, 6)
	short, err := w.Begin(t.Context(), rep, sumOf(b), int64(len(b))-10, "image/jpeg")
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.PutChunk(t.Context(), rep, short.ID, 0, b)
	wantReason(t, err, satchel.Invalid, satchel.ReasonTooLarge)
	w.chunk(rep, short, 0, b[:len(b)-10])
	_, err = w.Complete(t.Context(), rep, short.ID)
	wantReason(t, err, satchel.Invalid, satchel.ReasonHashMismatch)
	w.chunk(rep, short, 0, b[:10])
	// The honest announcement takes the upload over, from the beginning.
	up := w.begin(rep, b, "image/jpeg")
	if up.ID != short.ID || up.Offset != 0 {
		t.Errorf("begin gave %+v", up)
	}
	w.mustSend(rep, b, "image/jpeg")
}

func TestTheBytesTellTheTypeAndWhatCouldRunIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	mp4 := append([]byte("\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom"), mediatest.Bytes(100)...)
	webm := append([]byte("\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\xf7\x81\x01\x42\xf2\x81\x04\x42\xf3\x81\x08\x42\x82\x84webm"), mediatest.Bytes(101)...)
	for _, c := range []struct {
		name, announced, want string
		b                     []byte
	}{
		{"a photo", "image/jpeg", "image/jpeg", photo(t, 7)},
		{"a photo that is called a program", "application/x-msdownload", "image/jpeg", photo(t, 8)},
		{"a PDF that is called a photo", "image/jpeg", "application/pdf", []byte("%PDF-1.7\n1 0 obj\n")},
		{"a PNG", "image/png", "image/png", []byte("\x89PNG\r\n\x1a\n and so on")},
		{"a GIF", "image/gif", "image/gif", []byte("GIF89a and so on")},
		{"a WebP", "image/webp", "image/webp", []byte("RIFF\x10\x00\x00\x00WEBPVP8 and so on")},
		{"a HEIC", "image/heic", "image/heic", []byte("\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic and so on")},
		{"an MP3", "audio/mpeg", "audio/mpeg", []byte("ID3\x04\x00\x00\x00\x00\x00\x0a and so on")},
		{"an AMR", "audio/amr", "audio/amr", []byte("#!AMR\n and so on")},
		{"an AAC", "audio/aac", "audio/aac", []byte("\xff\xf1\x50\x80 and so on")},
		{"an M4A", "audio/mp4", "audio/mp4", []byte("\x00\x00\x00\x18ftypM4A \x00\x00\x00\x00M4A mp42 and so on")},
		{"a voice note in an MP4", "audio/mp4", "audio/mp4", mp4},
		{"a video in an MP4", "video/mp4", "video/mp4", append(mp4, 'v')},
		{"a voice note in a WebM", "audio/webm;codecs=opus", "audio/webm", webm},
		{"a WAV", "audio/wav", "audio/wav", []byte("RIFF\x24\x00\x00\x00WAVEfmt and so on")},
		{"an Ogg Opus", "audio/ogg", "audio/ogg", []byte("OggS\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x13OpusHead and so on")},
		{"an SVG", "image/svg+xml", "", []byte(`<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>`)},
		{"HTML called a photo", "image/jpeg", "", []byte("<!doctype html><script>alert(1)</script>")},
		{"a program called a photo", "image/jpeg", "", append([]byte("MZ\x90\x00\x03\x00\x00\x00"), mediatest.Bytes(200)...)},
		{"an ELF called sound", "audio/mp4", "", append([]byte("\x7fELF\x02\x01\x01\x00"), mediatest.Bytes(200)...)},
		{"a zip", "application/zip", "", append([]byte("PK\x03\x04"), mediatest.Bytes(200)...)},
		{"text", "text/plain", "", []byte("just words")},
		{"noise", "image/jpeg", "", mediatest.Bytes(300)},
		{"HTML in front of a PDF", "application/pdf", "", []byte("<html><script>alert(1)</script>\n%PDF-1.7\n1 0 obj\n")},
	} {
		sum, err := w.send(rep, c.b, c.announced)
		if c.want == "" {
			t.Log(c.name)
			wantReason(t, err, satchel.Invalid, satchel.ReasonUnsupportedMedia)
			continue
		}
		var got string
		if err == nil {
			err = w.pool.QueryRow(t.Context(), `select content_type from blob where encode(sha256, 'hex') = $1`, sum).Scan(&got)
		}
		if got != c.want {
			t.Errorf("%s was taken for %q, %v", c.name, got, err)
		}
	}
}

func TestAnUploadIsKnownToNobodyButItsPerson(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	b := photo(t, 9)
	up := w.begin(rep, b, "image/jpeg")
	sameIDs := *rep
	sameIDs.Org = satchel.NewID()
	for name, other := range map[string]*satchel.Principal{"a colleague": person(rep.Org), "a person of another organisation": &sameIDs} {
		t.Log(name)
		_, err := w.PutChunk(t.Context(), other, up.ID, 0, b)
		wantReason(t, err, satchel.NotFound, satchel.ReasonNotFound)
		_, err = w.Complete(t.Context(), other, up.ID)
		wantReason(t, err, satchel.NotFound, satchel.ReasonNotFound)
	}
	_, err := w.PutChunk(t.Context(), rep, satchel.NewID(), 0, b)
	wantReason(t, err, satchel.NotFound, satchel.ReasonNotFound)
}

func TestThatBytesExistIsToldOnlyToWhoSentThem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	b := photo(t, 10)
	w.mustSend(rep, b, "image/jpeg")
	colleague, stranger := person(rep.Org), person(satchel.NewID())
	for _, p := range []*satchel.Principal{colleague, stranger} {
		if up := w.begin(p, b, "image/jpeg"); up.Stored || up.Offset != 0 {
			t.Errorf("somebody who did not send the bytes heard %+v", up)
		}
		w.mustSend(p, b, "image/jpeg")
		if up := w.begin(p, b, "image/jpeg"); !up.Stored {
			t.Error("he who sent them too is asked again")
		}
	}
	if n := w.work(); n != 3 {
		t.Errorf("%d of 3 senders are told", n)
	}
	if got := w.stored("blob/"); len(got) != 2 {
		t.Errorf("stored: %v, want once per organisation", got)
	}
}

func TestWrongAnnouncementsAndPiecesAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	good := strings.Repeat("0a", 32)
	for _, c := range []struct {
		sum         string
		size        int64
		contentType string
		reason      satchel.Reason
	}{
		{good, 0, "image/jpeg", satchel.ReasonMalformed}, {good, -1, "image/jpeg", satchel.ReasonMalformed},
		{good, 100<<20 + 1, "image/jpeg", satchel.ReasonTooLarge}, {good, 1, strings.Repeat("x", 129), satchel.ReasonMalformed},
		{"", 1, "", satchel.ReasonMalformed}, {strings.ToUpper(good), 1, "", satchel.ReasonMalformed}, {good[1:], 1, "", satchel.ReasonMalformed},
		{strings.Repeat("zz", 32), 1, "", satchel.ReasonMalformed}, {"../" + good[3:], 1, "", satchel.ReasonMalformed},
	} {
		_, err := w.Begin(t.Context(), rep, c.sum, c.size, c.contentType)
		wantReason(t, err, satchel.Invalid, c.reason)
	}
	up, err := w.Begin(t.Context(), rep, good, 100<<20, "image/jpeg")
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.PutChunk(t.Context(), rep, up.ID, 0, nil)
	wantReason(t, err, satchel.Invalid, satchel.ReasonMalformed)
	_, err = w.PutChunk(t.Context(), rep, up.ID, -1, []byte("x"))
	wantReason(t, err, satchel.Invalid, satchel.ReasonMalformed)
	_, err = w.PutChunk(t.Context(), rep, up.ID, 0, make([]byte, media.ChunkSize+1))
	wantReason(t, err, satchel.Invalid, satchel.ReasonTooLarge)
}

func TestVeryManyTinyPiecesAreRefusedUntilLargerOnesCome(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	b := mediatest.Bytes(200_000)
	up := w.begin(rep, b, "image/jpeg")
	w.chunk(rep, up, 0, b[:1])
	w.exec(`update upload set pieces = 1024`)
	_, err := w.PutChunk(t.Context(), rep, up.ID, 1, b[1:2])
	wantReason(t, err, satchel.Invalid, satchel.ReasonTooLarge)
	w.chunk(rep, up, 1, b[1:100_000])
}

func TestAPersonHasAtMost64UploadsOnTheirWay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	var wg sync.WaitGroup
	var refused sync.Map
	for i := range 70 {
		wg.Go(func() {
			b := photo(t, uint8(i))
			if _, err := w.Begin(t.Context(), rep, sumOf(b), int64(len(b)), "image/jpeg"); err != nil {
				wantReason(t, err, satchel.Exhausted, satchel.ReasonRateLimited)
				refused.Store(i, b)
			}
		})
	}
	wg.Wait()
	if n := w.count(`select count(*) from upload where org_id = $1`, rep.Org); n != 64 {
		t.Errorf("%d uploads are open", n)
	}
	w.begin(person(rep.Org), photo(t, 1), "image/jpeg") // somebody else is not hindered
	w.pass(8 * 24 * time.Hour)
	refused.Range(func(_, b any) bool { w.begin(rep, b.([]byte), "image/jpeg"); return true })
}

func TestAnExpiredUploadIsSweptWithItsPiecesAndCanBeBegunAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	b, done := photo(t, 11), photo(t, 12)
	up := w.begin(rep, b, "image/jpeg")
	w.chunk(rep, up, 0, b[:100])
	w.mustSend(rep, done, "image/jpeg")
	if n, err := w.Sweep(t.Context(), rep.Org); err != nil || n != 0 || len(w.stored("staging/")) != 1 {
		t.Fatalf("a sweep before the time took %d, %v", n, err)
	}
	w.pass(7*24*time.Hour + time.Second)
	_, err := w.PutChunk(t.Context(), rep, up.ID, 100, b[100:])
	wantReason(t, err, satchel.NotFound, satchel.ReasonNotFound)
	if n, err := w.Sweep(t.Context(), satchel.NewID()); err != nil || n != 0 {
		t.Errorf("another organisation's sweep took %d, %v", n, err)
	}
	if n, err := w.Sweep(t.Context(), rep.Org); err != nil || n != 2 {
		t.Errorf("the sweep took %d, %v", n, err)
	}
	if left := w.stored("staging/"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if n := w.count(`select count(*) from upload_piece`); n != 0 {
		t.Errorf("%d pieces left", n)
	}
	if got := w.stored("blob/"); len(got) != 1 {
		t.Errorf("a sweep touched the blobs: %v", got)
	}
	if again := w.begin(rep, b, "image/jpeg"); again.ID == up.ID || again.Offset != 0 {
		t.Errorf("begin gave %+v", again)
	}
	if again := w.begin(rep, done, "image/jpeg"); !again.Stored {
		t.Error("what was stored is asked for again")
	}
}

func TestASubmitterThatFailsIsToldAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	w.deaf = true
	w.mustSend(rep, photo(t, 19), "image/jpeg")
	w.work()
	w.deaf = false
	w.pass(time.Hour)
	w.work()
	w.pass(time.Hour)
	w.work()
	if len(w.heard) != 1 {
		t.Errorf("heard %+v", w.heard)
	}
}

func TestExpiredUploadsAreSweptByAJobWithoutAnybodyAsking(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	w.chunk(rep, w.begin(rep, photo(t, 20), "image/jpeg"), 0, photo(t, 20)[:100])
	w.pass(24 * time.Hour)
	w.chunk(rep, w.begin(rep, photo(t, 21), "image/jpeg"), 0, photo(t, 21)[:100])
	for _, left := range []int{2, 1, 0} { // on the 2nd, 7th and 8th day
		w.work()
		if got := w.stored("staging/"); len(got) != left || w.count(`select count(*) from upload`) != left {
			t.Errorf("%v are there, want %d", got, left)
		}
		w.pass(map[int]time.Duration{2: 6 * 24 * time.Hour, 1: 24 * time.Hour}[left] + time.Second)
	}
	if n := w.count(`select count(*) from river_job where kind = 'media.sweep' and finalized_at is null`); n != 0 {
		t.Errorf("%d sweeps wait for nothing", n)
	}
}

func TestAnExpiredUploadThatWasNotSweptYetGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	b := photo(t, 13)
	up := w.begin(rep, b, "image/jpeg")
	w.chunk(rep, up, 0, b[:100])
	w.pass(8 * 24 * time.Hour)
	again := w.begin(rep, b, "image/jpeg")
	if again.ID != up.ID || again.Offset != 100 {
		t.Fatalf("begin gave %+v", again)
	}
	if n, err := w.Sweep(t.Context(), rep.Org); err != nil || n != 0 {
		t.Errorf("the sweep took %d, %v", n, err)
	}
	w.chunk(rep, again, 100, b[100:])
	if _, err := w.Complete(t.Context(), rep, up.ID); err != nil {
		t.Error(err)
	}
}

func TestWhenTheJobCannotBeCommittedNothingIsAndCompletingAgainWorks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	b := photo(t, 14)
	up := w.begin(rep, b, "image/jpeg")
	w.chunk(rep, up, 0, b)
	w.exec(`alter table river_job rename to river_job_away`)
	if _, err := w.Complete(t.Context(), rep, up.ID); err == nil {
		t.Fatal("a failed transaction was reported as done")
	}
	if n := w.count(`select (select count(*) from blob) + (select count(*) from blob_owner)`); n != 0 {
		t.Errorf("%d rows stayed", n)
	}
	w.exec(`alter table river_job_away rename to river_job`)
	if _, err := w.Complete(t.Context(), rep, up.ID); err != nil {
		t.Error(err)
	}
	if n := w.work(); n != 1 {
		t.Errorf("%d jobs", n)
	}
}

func TestAPieceThatTheStoreLostIsAskedForAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	b := photo(t, 15)
	up := w.begin(rep, b, "image/jpeg")
	w.chunk(rep, up, 0, b)
	for _, key := range w.stored("staging/") {
		if err := w.store.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	_, err := w.Complete(t.Context(), rep, up.ID)
	wantOffset(t, err, 0)
	w.mustSend(rep, b, "image/jpeg")
}

func TestWhileTheStoreIsDownNothingIsAcknowledgedAndAfterwardsTheUploadGoesOn(t *testing.T) {
	t.Parallel()
	srv := mediatest.StartS3(t)
	w := newWorldOn(t, openStore(t, srv.URL))
	rep := person(satchel.NewID())
	b := append(photo(t, 16), mediatest.Bytes(1_500_000)...)
	up := w.begin(rep, b, "image/jpeg")
	w.chunk(rep, up, 0, b[:1<<20])
	srv.Stop()
	_, err := w.PutChunk(t.Context(), rep, up.ID, 1<<20, b[1<<20:])
	wantReason(t, err, satchel.Unavailable, satchel.ReasonBlobStoreDown)
	srv.Start(t)
	if again := w.begin(rep, b, "image/jpeg"); again.Offset != 1<<20 {
		t.Fatalf("begin gave %+v", again)
	}
	w.chunk(rep, up, 1<<20, b[1<<20:])
	srv.Stop()
	_, err = w.Complete(t.Context(), rep, up.ID)
	wantReason(t, err, satchel.Unavailable, satchel.ReasonBlobStoreDown)
	srv.Start(t)
	if sum, err := w.Complete(t.Context(), rep, up.ID); err != nil || sum != sumOf(b) {
		t.Errorf("complete gave %q, %v", sum, err)
	}
	if left := w.stored("staging/"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func (w *world) named(ctx context.Context, org, author satchel.ID, sum string) error {
	return pg.InTx(ctx, w.pool, func(ctx context.Context, tx pgx.Tx) error { return w.Named(ctx, tx, org, author, sum) })
}

func TestARecordThatComesAfterItsBytesIsMarkedOnlyWhereItsAuthorSentThem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	sum := w.mustSend(rep, photo(t, 17), "image/jpeg")
	w.work()
	for _, c := range []struct {
		org, author satchel.ID
		sum         string
		want        int
	}{{rep.Org, rep.Person, sum, 1}, {rep.Org, satchel.NewID(), sum, 0}, {satchel.NewID(), rep.Person, sum, 0},
		{rep.Org, rep.Person, sumOf([]byte("other")), 0}, {rep.Org, rep.Person, "no hash", 0}} {
		if err := w.named(t.Context(), c.org, c.author, c.sum); err != nil {
			t.Error(err)
		}
		if n := w.work(); n != c.want {
			t.Errorf("%+v made %d jobs", c, n)
		}
	}
}

func TestARecordAndItsBytesThatArriveAtOnceDoNotMissEachOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	b := photo(t, 18)
	up := w.begin(rep, b, "image/jpeg")
	w.chunk(rep, up, 0, b)
	tx, err := pg.Begin(t.Context(), w.pool, pg.ReadCommitted)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // after the commit
	if err := w.Named(t.Context(), tx, rep.Org, rep.Person, sumOf(b)); err != nil {
		t.Fatal(err)
	}
	completed := make(chan error, 1)
	go func() { _, err := w.Complete(t.Context(), rep, up.ID); completed <- err }()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if w.count(`select count(*) from pg_locks where locktype = 'advisory' and not granted and database = (select oid from pg_database where datname = current_database())`) == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the bytes did not wait for the record's transaction")
		}
	}
	if n := w.count(`select count(*) from river_job where kind = 'media.stored'`); n != 0 {
		t.Errorf("%d jobs could run before the record is there", n)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-completed; err != nil {
		t.Error(err)
	}
	if n := w.work(); n != 1 {
		t.Errorf("%d jobs", n)
	}
}
