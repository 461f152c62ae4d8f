package media

import (
	"encoding/json"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"strconv"
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

// ChunkPattern is where [Service.ChunkHandler] is to be mounted (http.ServeMux).
const ChunkPattern = "POST /media/v1/chunk/{upload}"

// formOverhead is what a form may have besides the piece, in bytes; formParts how many parts it may have.
const (
	formOverhead = 16 << 10
	formParts    = 8
)

// ChunkHandler takes a piece as multipart/form-data, which is all that wx.uploadFile can send: the field "offset" and the
// file "file", in any order; other fields are passed over. It does as [Service.PutChunk] and answers 200 with
// {"offset":"…"}, the bytes received so far, spelt as PutChunkResponse; otherwise by Config.WriteError.
func (s *Service) ChunkHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		at, err := s.receiveChunk(w, r)
		if err != nil {
			s.WriteError(w, r, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{"offset": strconv.FormatInt(at, 10)}) // a client that is gone asks again
	})
}

func (s *Service) receiveChunk(w http.ResponseWriter, r *http.Request) (int64, error) {
	p, err := s.Authenticate(r)
	if err != nil {
		return 0, err
	}
	id, err := satchel.ParseID(r.PathValue("upload"))
	if err != nil {
		return 0, satchel.E(satchel.Invalid, satchel.ReasonMalformed, "The path names the upload by the UUID that Begin gave.")
	}
	body := &patientBody{r: r.Body, rc: http.NewResponseController(w)}
	_ = body.rc.SetWriteDeadline(time.Time{}) // the answer may come long after the request began
	defer body.rest()
	r.Body = io.NopCloser(io.LimitReader(body, ChunkSize+formOverhead))
	form, err := r.MultipartReader()
	if err != nil {
		return 0, satchel.E(satchel.Invalid, satchel.ReasonMalformed, "The body is multipart/form-data with the field offset and the file file.")
	}
	offset, data, err := readForm(form)
	if err != nil {
		return 0, err
	}
	body.rest()
	return s.PutChunk(r.Context(), p, id, offset, data)
}

// readForm gives what a piece's form has; -1 or nil where it lacks one, which PutChunk refuses.
func readForm(form *multipart.Reader) (offset int64, data []byte, err error) {
	offset = -1
	for range formParts {
		part, err := form.NextRawPart()
		if errors.Is(err, io.EOF) {
			return offset, data, nil
		}
		if err != nil {
			return 0, nil, brokenOff(err)
		}
		switch part.FormName() {
		case "offset":
			text, err := io.ReadAll(io.LimitReader(part, 32))
			if err != nil {
				return 0, nil, brokenOff(err)
			}
			if offset, err = strconv.ParseInt(string(text), 10, 64); err != nil {
				return 0, nil, satchel.E(satchel.Invalid, satchel.ReasonMalformed, "The field offset is a whole number.")
			}
		case "file":
			if data, err = io.ReadAll(io.LimitReader(part, ChunkSize+1)); err != nil {
				return 0, nil, brokenOff(err)
			}
			if len(data) > ChunkSize {
				return offset, data, nil // refused by PutChunk; the rest of the form is of no use
			}
		}
	}
	return 0, nil, satchel.E(satchel.Invalid, satchel.ReasonMalformed, "The form has too many parts.")
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
