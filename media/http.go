package media

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/satchel-sync/satchel"
)

// UploadPattern is where [Service.UploadHandler] is to be mounted (http.ServeMux).
const UploadPattern = "PUT /media/v1/upload/{sha256}"

// bodyPatience is how long a body may stand still.
const bodyPatience = 60 * time.Second

// UploadHandler takes a whole blob in one request, for good links: the body is the bytes, Content-Length their number,
// Content-Type what the phone calls them, the path names their SHA-256. It verifies and stores as [Service.Begin],
// [Service.PutChunk] and [Service.Complete] do, by which an upload that breaks off here goes on there. It answers 200
// with {"sha256":"…"} when the bytes are stored, otherwise by Config.WriteError.
func (s *Service) UploadHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sum, err := s.receive(w, r)
		if err != nil {
			s.WriteError(w, r, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{"sha256": sum}) // a client that is gone asks again
	})
}

func (s *Service) receive(w http.ResponseWriter, r *http.Request) (string, error) {
	p, err := s.Authenticate(r)
	if err != nil {
		return "", err
	}
	if r.ContentLength < 0 {
		return "", satchel.E(satchel.Invalid, satchel.ReasonMalformed, "The request needs a Content-Length.")
	}
	up, err := s.Begin(r.Context(), p, r.PathValue("sha256"), r.ContentLength, r.Header.Get("Content-Type"))
	if err != nil {
		return "", err
	}
	body := &patientBody{r: r.Body, rc: http.NewResponseController(w)}
	_ = body.rc.SetWriteDeadline(time.Time{}) // the answer comes long after the request began
	defer body.rest()
	if up.Stored {
		// Many clients read no answer before their body is gone.
		_, err := io.Copy(io.Discard, body)
		return r.PathValue("sha256"), brokenOff(err)
	}
	if err := s.receivePieces(r, p, up, body); err != nil {
		return "", err
	}
	body.rest()
	return s.Complete(r.Context(), p, up.ID)
}

func (s *Service) receivePieces(r *http.Request, p *satchel.Principal, up Upload, body io.Reader) error {
	if _, err := io.CopyN(io.Discard, body, up.Offset); err != nil {
		return brokenOff(err)
	}
	buf := make([]byte, min(ChunkSize, r.ContentLength))
	for at := up.Offset; at < r.ContentLength; {
		data := buf[:min(ChunkSize, r.ContentLength-at)]
		if _, err := io.ReadFull(body, data); err != nil {
			return brokenOff(err)
		}
		for len(data) > 0 {
			got, err := s.PutChunk(r.Context(), p, up.ID, at, data)
			if off, ok := errors.AsType[*OffsetError](err); ok && off.Expected() > at {
				got = off.Expected() // another request of the same person sends the same bytes, and is ahead
			} else if err != nil {
				return err
			}
			skip := got - at
			at = got
			if skip <= int64(len(data)) {
				data = data[skip:]
				continue
			}
			if _, err := io.CopyN(io.Discard, body, skip-int64(len(data))); err != nil {
				return brokenOff(err)
			}
			data = nil
		}
	}
	return nil
}

func brokenOff(err error) error {
	if err == nil {
		return nil
	}
	return &satchel.Error{Kind: satchel.Unavailable, Reason: satchel.ReasonDeadline, Err: err,
		Detail: "The body broke off. What arrived is kept; send it again, or send on from the offset that Begin tells."}
}

// patientBody gives up on a body that stands still, however long the whole takes.
type patientBody struct {
	r  io.Reader
	rc *http.ResponseController
}

func (b *patientBody) Read(p []byte) (int, error) {
	// Where a server has no deadlines its own time-outs must do.
	_ = b.rc.SetReadDeadline(time.Now().Add(bodyPatience))
	return b.r.Read(p)
}

// rest ends the patience: the connection is no longer expected to bring anything.
func (b *patientBody) rest() { _ = b.rc.SetReadDeadline(time.Time{}) }

// patientWriter gives up on a reader that stands still, however long the whole takes.
type patientWriter struct {
	http.ResponseWriter
	rc *http.ResponseController
}

func (w patientWriter) Write(p []byte) (int, error) {
	_ = w.rc.SetWriteDeadline(time.Now().Add(bodyPatience))
	return w.ResponseWriter.Write(p)
}
