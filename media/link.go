package media

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/pg"
)

// LinkTTL is how long a link works.
const LinkTTL = 10 * time.Minute

// BlobPattern is where [Service.BlobHandler] is to be mounted (http.ServeMux).
const BlobPattern = "GET /media/v1/blob/{org}/{sha256}"

// Link is an address to open a blob with.
type Link struct {
	URL         string    // relative to the server's address; whoever has it can open it until Expires, so it is a secret
	Expires     time.Time // whole seconds
	ContentType string
	Size        int64 // bytes
}

// Link gives an address for the bytes that a record names. The right to see the record is checked now, that the person
// is still active each time the link is used.
//
// Errors: NOT_FOUND when the person cannot see the record or its bytes did not arrive yet; which is not said.
func (s *Service) Link(ctx context.Context, p *satchel.Principal, record satchel.ID) (Link, error) {
	name, stored, err := s.Records.BlobOf(ctx, p, record)
	if err != nil {
		return Link{}, err
	}
	sum, err := ParseSum(name)
	if err != nil {
		return Link{}, notThere()
	}
	if !stored {
		// The record hears of its bytes a moment after they arrived; the one who sent them need not wait for that.
		if err := s.Pool.QueryRow(ctx, sqlOwns, p.Org, sum[:], p.Person).Scan(&stored); err != nil {
			return Link{}, pg.ToError(err)
		}
	}
	if !stored {
		return Link{}, notThere()
	}
	l := Link{Expires: s.Now().Add(LinkTTL).Truncate(time.Second)}
	if l.Size, l.ContentType, err = getBlob(ctx, s.Pool, p.Org, sum); err != nil {
		return Link{}, err
	}
	expiry := strconv.FormatInt(l.Expires.Unix(), 10)
	q := url.Values{"p": {p.Person.String()}, "e": {expiry}, "s": {s.sign(p.Org, sum, p.Person, expiry)}}
	l.URL = fmt.Sprintf("/media/v1/blob/%s/%s?%s", p.Org, sum, q.Encode())
	return l, nil
}

func notThere() error {
	return satchel.E(satchel.NotFound, satchel.ReasonNotFound, "There is no such record, or its bytes did not arrive yet.")
}

func getBlob(ctx context.Context, q querier, org satchel.ID, sum Sum) (size int64, contentType string, err error) {
	err = q.QueryRow(ctx, sqlGetBlob, org, sum[:]).Scan(&size, &contentType)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, "", notThere()
	}
	return size, contentType, pg.ToError(err)
}

func (s *Service) sign(org satchel.ID, sum Sum, person satchel.ID, expiry string) string {
	mac := hmac.New(sha256.New, s.Key)
	fmt.Fprintf(mac, "media.link.v1\n%s\n%s\n%s\n%s", org, sum, person, expiry)
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// BlobHandler serves links, with ranges, to GET and HEAD at [BlobPattern]. It needs no session. What it serves runs
// nothing and is shown by a browser only where it is a picture or sound. Errors, by Config.WriteError: NOT_ALLOWED for
// a link that was changed, expired, or whose person is no longer active; NOT_FOUND. Access logs must not hold the
// query of these addresses.
func (s *Service) BlobHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.serveBlob(w, r); err != nil {
			s.WriteError(w, r, err)
		}
	})
}

func (s *Service) serveBlob(w http.ResponseWriter, r *http.Request) error {
	org, sum, err := s.checkLink(r)
	if err != nil {
		return err
	}
	size, contentType, err := getBlob(r.Context(), s.Pool, org, sum)
	if err != nil {
		return err
	}
	key := blobKey(org, sum)
	if _, err := s.Store.Stat(r.Context(), key); err != nil { // before a status is sent that cannot be taken back
		return err
	}
	kind, _ := accepted(contentType)
	disposition := "attachment"
	if kind.inline {
		disposition = "inline"
	}
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Disposition", disposition+`; filename="`+sum.String()[:16]+"."+kind.ext+`"`)
	h.Set("Etag", `"`+sum.String()+`"`)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; sandbox")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "private, max-age=600")
	if strings.Contains(r.Header.Get("Range"), ",") {
		r.Header.Del("Range") // many ranges are many reads of the store; the whole is a right answer
	}
	body := &blobReader{ctx: r.Context(), store: s.Store, key: key, size: size}
	defer body.Close() //nolint:errcheck // only read
	http.ServeContent(patientWriter{w, http.NewResponseController(w)}, r, "", time.Time{}, body)
	return nil
}

func (s *Service) checkLink(r *http.Request) (satchel.ID, Sum, error) {
	refused := func() error {
		return satchel.E(satchel.Denied, satchel.ReasonNotAllowed, "The link is wrong or has expired. Ask for a new one.")
	}
	q := r.URL.Query()
	org, oerr := satchel.ParseID(r.PathValue("org"))
	sum, serr := ParseSum(r.PathValue("sha256"))
	person, perr := satchel.ParseID(q.Get("p"))
	expiry, eerr := strconv.ParseInt(q.Get("e"), 10, 64)
	if errors.Join(oerr, serr, perr, eerr) != nil {
		return org, sum, refused()
	}
	want := s.sign(org, sum, person, q.Get("e"))
	if !hmac.Equal([]byte(q.Get("s")), []byte(want)) || !s.Now().Before(time.Unix(expiry, 0)) {
		return org, sum, refused()
	}
	active, err := s.PersonActive(r.Context(), org, person)
	if err != nil {
		return org, sum, err
	}
	if !active {
		return org, sum, refused()
	}
	return org, sum, nil
}

// The windows in which a blob is read: small first, for players ask for a few bytes and look again.
const (
	firstWindow = 256 << 10
	lastWindow  = 8 << 20
)

// blobReader is an io.ReadSeeker on a stored blob that asks the store for one window at a time.
type blobReader struct {
	ctx    context.Context
	store  Store
	key    string
	size   int64
	at     int64
	window int64
	cur    io.ReadCloser
}

func (b *blobReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += b.at
	case io.SeekEnd:
		offset += b.size
	}
	if offset < 0 {
		return 0, errors.New("media: a seek before the beginning")
	}
	if offset != b.at {
		_ = b.Close() // only read
		b.at, b.window = offset, 0
	}
	return offset, nil
}

func (b *blobReader) Read(p []byte) (int, error) {
	for {
		if b.at >= b.size {
			return 0, io.EOF
		}
		if b.cur == nil {
			b.window = min(max(2*b.window, firstWindow), lastWindow)
			cur, _, err := b.store.Open(b.ctx, b.key, b.at, b.window)
			if err != nil {
				return 0, err
			}
			b.cur = cur
		}
		n, err := b.cur.Read(p)
		b.at += int64(n)
		if err == io.EOF {
			_ = b.Close() // only read
			if err = nil; n == 0 {
				continue
			}
		}
		return n, err
	}
}

// Close ends the window that is being read.
func (b *blobReader) Close() error {
	if b.cur == nil {
		return nil
	}
	err := b.cur.Close()
	b.cur = nil
	return err
}
