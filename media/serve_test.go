package media_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/media"
	"github.com/satchel-sync/satchel/media/mediatest"
)

// serve runs both handlers on a real server; who is the signed-in person, nil for nobody.
func (w *world) serve(who *satchel.Principal) string {
	mux := http.NewServeMux()
	mux.Handle(media.UploadPattern, w.UploadHandler())
	mux.Handle(media.ChunkPattern, w.ChunkHandler())
	mux.Handle(media.BlobPattern, w.BlobHandler())
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if who != nil {
			r = r.WithContext(context.WithValue(r.Context(), whoKey{}, who))
		}
		mux.ServeHTTP(rw, r)
	}))
	w.t.Cleanup(srv.Close)
	return srv.URL
}

func (w *world) do(method, url string, body io.Reader, header ...string) (*http.Response, []byte) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, url, body)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return res, b
}

// record makes a record that names b and that sees can see.
func (w *world) record(sees *satchel.Principal, b []byte, stored bool) satchel.ID {
	id := satchel.NewID()
	w.book[id] = entry{sees: sees.Person, sha256: sumOf(b), stored: stored}
	return id
}

func (w *world) link(p *satchel.Principal, record satchel.ID) media.Link {
	w.t.Helper()
	l, err := w.Link(w.t.Context(), p, record)
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

func TestALinkOpensTheBytesWholeAndInRanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	b := append(photo(t, 1), mediatest.Bytes(1_000_000)...)
	w.mustSend(rep, b, "image/jpeg")
	l := w.link(rep, w.record(rep, b, true))
	if l.Size != int64(len(b)) || l.ContentType != "image/jpeg" || !l.Expires.Equal(w.now.Add(media.LinkTTL)) || !strings.HasPrefix(l.URL, "/media/v1/blob/") {
		t.Errorf("link: %+v", l)
	}
	base := w.serve(nil)
	res, got := w.do("GET", base+l.URL, nil)
	if res.StatusCode != 200 || !bytes.Equal(got, b) {
		t.Errorf("got %s, %d bytes", res.Status, len(got))
	}
	for name, want := range map[string]string{"Content-Type": "image/jpeg", "X-Content-Type-Options": "nosniff", "Accept-Ranges": "bytes",
		"Content-Security-Policy": "default-src 'none'; sandbox", "Cache-Control": "private, max-age=600", "Referrer-Policy": "no-referrer",
		"Etag": `"` + sumOf(b) + `"`, "Content-Disposition": `inline; filename="` + sumOf(b)[:16] + `.jpg"`} {
		if res.Header.Get(name) != want {
			t.Errorf("%s is %q, want %q", name, res.Header.Get(name), want)
		}
	}
	for rng, want := range map[string][]byte{"bytes=0-1": b[:2], "bytes=500000-": b[500_000:], "bytes=-10": b[len(b)-10:], "bytes=10-400000": b[10:400_001]} {
		if res, got := w.do("GET", base+l.URL, nil, "Range", rng); res.StatusCode != 206 || !bytes.Equal(got, want) {
			t.Errorf("%s gave %s, %d bytes", rng, res.Status, len(got))
		}
	}
	if res, got := w.do("GET", base+l.URL, nil, "Range", "bytes=0-1,5-6"); res.StatusCode != 200 || !bytes.Equal(got, b) {
		t.Errorf("two ranges gave %s, %d bytes; want the whole", res.Status, len(got))
	}
	if res, _ := w.do("GET", base+l.URL, nil, "Range", "bytes=9999999-"); res.StatusCode != 416 {
		t.Errorf("a range outside gave %s", res.Status)
	}
	if res, got := w.do("HEAD", base+l.URL, nil); res.StatusCode != 200 || res.ContentLength != int64(len(b)) || len(got) != 0 {
		t.Errorf("HEAD gave %s, %d", res.Status, res.ContentLength)
	}
	if res, _ := w.do("GET", base+l.URL, nil, "If-None-Match", `"`+sumOf(b)+`"`); res.StatusCode != 304 {
		t.Errorf("a copy that is still right gave %s", res.Status)
	}
}

func TestWhatIsNeitherPictureNorSoundIsOnlyDownloaded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	b := []byte("%PDF-1.7\n1 0 obj\n")
	w.mustSend(rep, b, "application/pdf")
	l := w.link(rep, w.record(rep, b, true))
	res, _ := w.do("GET", w.serve(nil)+l.URL, nil)
	if d := res.Header.Get("Content-Disposition"); !strings.HasPrefix(d, "attachment;") || res.Header.Get("Content-Type") != "application/pdf" {
		t.Errorf("got %q, %q", d, res.Header.Get("Content-Type"))
	}
}

func TestALinkThatWasChangedOrExpiredOrWhosePersonIsGoneIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	b, other := photo(t, 2), photo(t, 3)
	w.mustSend(rep, b, "image/jpeg")
	w.mustSend(rep, other, "image/jpeg")
	foreign := person(satchel.NewID())
	w.mustSend(foreign, b, "image/jpeg")
	good := w.link(rep, w.record(rep, b, true)).URL
	base := w.serve(nil)
	refused := func(name, url string) {
		t.Helper()
		if res, got := w.do("GET", base+url, nil); res.StatusCode != 403 || strings.TrimSpace(string(got)) != "NOT_ALLOWED" {
			t.Errorf("%s: %s %q", name, res.Status, got)
		}
	}
	path, query, _ := strings.Cut(good, "?")
	expiry := query[2:strings.Index(query, "&")]
	if len(expiry) != 10 {
		t.Fatalf("the expiry in %q is not where this test looks", good)
	}
	refused("another organisation's copy", strings.Replace(good, rep.Org.String(), foreign.Org.String(), 1))
	refused("another blob", strings.Replace(good, sumOf(b), sumOf(other), 1))
	refused("another person", strings.Replace(good, rep.Person.String(), foreign.Person.String(), 1))
	refused("a later expiry", strings.Replace(good, "e="+expiry, "e=9999999999", 1))
	refused("another signature", strings.Replace(good, "&s=", "&s=A", 1))
	refused("no signature", good[:strings.Index(good, "&s=")])
	refused("no query", path)
	refused("no person", strings.Replace(good, rep.Person.String(), "", 1))
	refused("no expiry", strings.Replace(good, "e="+expiry, "e=", 1))
	if res, _ := w.do("GET", base+good, nil); res.StatusCode != 200 {
		t.Errorf("the good link gave %s", res.Status)
	}
	w.gone[rep.Person] = true
	refused("a person who was disabled", good)
	w.gone[rep.Person] = false
	w.pass(media.LinkTTL - time.Second)
	if res, _ := w.do("GET", base+good, nil); res.StatusCode != 200 {
		t.Errorf("a second before its end the link gave %s", res.Status)
	}
	w.pass(time.Second)
	refused("an expired link", good)
}

func TestALinkIsGivenOnlyForARecordThatThePersonSeesAndWhoseBytesItsAuthorSent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	thief := person(rep.Org)
	b := photo(t, 4)
	w.mustSend(rep, b, "image/jpeg")
	fresh := w.record(rep, b, false)
	if l := w.link(rep, fresh); l.Size != int64(len(b)) {
		t.Errorf("the sender cannot open his photo before its record was marked: %+v", l)
	}
	for name, record := range map[string]satchel.ID{"an unknown record": satchel.NewID(), "a record of somebody else": fresh,
		"a record of his own that names bytes he never sent":   w.record(thief, b, false),
		"a record without bytes":                               w.record(thief, []byte("nowhere"), false),
		"a record that is marked, but the bytes are not there": w.record(thief, []byte("nowhere"), true)} {
		t.Log(name)
		_, err := w.Link(t.Context(), thief, record)
		wantReason(t, err, satchel.NotFound, satchel.ReasonNotFound)
	}
	abroad := person(satchel.NewID())
	_, err := w.Link(t.Context(), abroad, w.record(abroad, b, true))
	wantReason(t, err, satchel.NotFound, satchel.ReasonNotFound)
}

func TestABlobStoreThatIsDownIsSaidBeforeTheBodyBegins(t *testing.T) {
	t.Parallel()
	srv := mediatest.StartS3(t)
	w := newWorldOn(t, openStore(t, srv.URL))
	rep := person(satchel.NewID())
	b := photo(t, 5)
	w.mustSend(rep, b, "image/jpeg")
	l := w.link(rep, w.record(rep, b, true))
	base := w.serve(nil)
	if res, got := w.do("GET", base+l.URL, nil, "Range", "bytes=5-9"); res.StatusCode != 206 || !bytes.Equal(got, b[5:10]) {
		t.Errorf("got %s, %d bytes", res.Status, len(got))
	}
	srv.Stop()
	if res, got := w.do("GET", base+l.URL, nil); res.StatusCode != 503 || strings.TrimSpace(string(got)) != "BLOB_STORE_DOWN" {
		t.Errorf("got %s %q", res.Status, got)
	}
}

func TestAWholeFileIsTakenInOneRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	base := w.serve(rep)
	b := append(photo(t, 6), mediatest.Bytes(3_000_000)...)
	for range 2 { // the second time it is there already
		res, got := w.do("PUT", base+"/media/v1/upload/"+sumOf(b), bytes.NewReader(b), "Content-Type", "image/jpeg")
		if res.StatusCode != 200 || strings.TrimSpace(string(got)) != `{"sha256":"`+sumOf(b)+`"}` {
			t.Errorf("got %s %q", res.Status, got)
		}
	}
	if n := w.work(); n != 1 {
		t.Errorf("%d jobs", n)
	}
	if up := w.begin(rep, b, "image/jpeg"); !up.Stored {
		t.Error("it is not stored")
	}
}

func TestAWrongWholeFileIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	base := w.serve(rep)
	b := photo(t, 7)
	page := []byte("<!doctype html><script>alert(1)</script>")
	for _, c := range []struct {
		name, sum string
		body      io.Reader
		status    int
		reason    satchel.Reason
	}{
		{"another hash", sumOf(photo(t, 8)), bytes.NewReader(b), 400, satchel.ReasonHashMismatch},
		{"no hash", "photo.jpg", bytes.NewReader(b), 400, satchel.ReasonMalformed},
		{"no bytes", sumOf(nil), http.NoBody, 400, satchel.ReasonMalformed},
		{"an unknown length", sumOf(b), io.MultiReader(bytes.NewReader(b)), 400, satchel.ReasonMalformed},
		{"HTML", sumOf(page), bytes.NewReader(page), 400, satchel.ReasonUnsupportedMedia},
	} {
		res, got := w.do("PUT", base+"/media/v1/upload/"+c.sum, c.body, "Content-Type", "image/jpeg")
		if res.StatusCode != c.status || strings.TrimSpace(string(got)) != string(c.reason) {
			t.Errorf("%s: %s %q", c.name, res.Status, got)
		}
	}
	if res, _ := w.do("PUT", w.serve(nil)+"/media/v1/upload/"+sumOf(b), bytes.NewReader(b)); res.StatusCode != 401 {
		t.Errorf("nobody was let in: %s", res.Status)
	}
	if got := w.stored("blob/"); len(got) != 0 {
		t.Errorf("stored: %v", got)
	}
	// Too large is said before any byte is read.
	req := httptest.NewRequest("PUT", "/media/v1/upload/"+sumOf(b), neverRead{t})
	req.ContentLength = media.MaxSize + 1
	req.SetPathValue("sha256", sumOf(b))
	rec := httptest.NewRecorder()
	w.UploadHandler().ServeHTTP(rec, req.WithContext(context.WithValue(req.Context(), whoKey{}, rep)))
	if rec.Code != 400 || strings.TrimSpace(rec.Body.String()) != "TOO_LARGE" {
		t.Errorf("got %d %q", rec.Code, rec.Body)
	}
}

type neverRead struct{ t *testing.T }

func (n neverRead) Read([]byte) (int, error) {
	n.t.Error("the body was read")
	return 0, io.EOF
}

func TestAFileThatBreaksOffInOneRequestGoesOnInPieces(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	base := w.serve(rep)
	b := append(photo(t, 9), mediatest.Bytes(2_500_000)...)
	body, phone := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), "PUT", base+"/media/v1/upload/"+sumOf(b), body)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = int64(len(b))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if res, err := http.DefaultClient.Do(req); err == nil {
			_ = res.Body.Close() // the request fails on this side
			t.Errorf("a body that broke off got %s", res.Status)
		}
	}()
	if _, err := phone.Write(b[:2_200_000]); err != nil {
		t.Fatal(err)
	}
	phone.CloseWithError(io.ErrUnexpectedEOF)
	<-done
	// The server may still be storing what came in.
	up := w.begin(rep, b, "image/jpeg")
	for deadline := time.Now().Add(30 * time.Second); up.Offset != 2<<20; up = w.begin(rep, b, "image/jpeg") {
		if time.Now().After(deadline) {
			t.Fatalf("begin gave %+v", up)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if res, got := w.do("PUT", base+"/media/v1/upload/"+sumOf(b), bytes.NewReader(b)); res.StatusCode != 200 {
		t.Errorf("the whole again gave %s %q", res.Status, got)
	}
}

func TestTheSameWholeFileSentTwiceAtOnceIsStoredOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	base := w.serve(rep)
	b := append(photo(t, 10), mediatest.Bytes(4_000_000)...)
	w.chunk(rep, w.begin(rep, b, "image/jpeg"), 0, b[:12345]) // so that the cuts of the two differ from those of a third
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			req, err := http.NewRequestWithContext(t.Context(), "PUT", base+"/media/v1/upload/"+sumOf(b), bytes.NewReader(b))
			if err != nil {
				t.Error(err)
				return
			}
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close() //nolint:errcheck // only read
			if got, _ := io.ReadAll(res.Body); res.StatusCode != 200 {
				t.Errorf("got %s %q", res.Status, got)
			}
		})
	}
	wg.Wait()
	if n := w.work(); n != 1 {
		t.Errorf("%d jobs", n)
	}
}

func TestAServiceWithoutWhatItNeedsIsNotMade(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, spoil := range map[string]func(*media.Config){
		"Store": func(c *media.Config) { c.Store = nil }, "Key": func(c *media.Config) { c.Key = make([]byte, 31) },
		"PersonActive": func(c *media.Config) { c.PersonActive = nil }, "Jobs": func(c *media.Config) { c.Jobs = nil },
	} {
		cfg := w.cfg
		spoil(&cfg)
		if _, err := media.New(cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
}
