package satchelclient

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	"connectrpc.com/connect"

	"github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

// pieceBytes is the size of a piece in the store, and the largest one that is sent.
const pieceBytes = 256 << 10

// mediaRow is a file whose bytes this device keeps until the record says that they are stored.
type mediaRow struct {
	Kind        string         `json:"kind"`
	SHA256      string         `json:"sha256"`
	Size        uint64         `json:"size"`
	ContentType string         `json:"content_type"`
	Refused     satchel.Reason `json:"refused,omitempty"` // the server will never take these bytes
	Copying     bool           `json:"copying,omitempty"` // Attach has not finished: it is no file yet
}

// Media is a file that this device keeps.
type Media struct {
	Record      satchel.ID // the photo or voice note
	Kind        string
	SHA256      string // hex
	Size        uint64 // bytes
	ContentType string
	Refused     satchel.Reason // not "": the server does not take it; the bytes stay here
}

// UploadResult is what one Upload did.
type UploadResult struct {
	Uploaded int     // files whose bytes the server has
	Refused  []Media // files that it does not take; they are not tried again
	Released int     // files of which the record says that they are stored: the local copy is gone
}

// AttachBytes is [Client.Attach] for bytes in memory.
func (c *Client) AttachBytes(ctx context.Context, kind string, data []byte, contentType string, fields Fields) (satchel.ID, error) {
	return c.Attach(ctx, kind, bytes.NewReader(data), contentType, fields)
}

// AttachFile is [Client.Attach] for a file, which is copied.
func (c *Client) AttachFile(ctx context.Context, kind, path, contentType string, fields Fields) (satchel.ID, error) {
	f, err := os.Open(path)
	if err != nil {
		return satchel.ID{}, err
	}
	defer f.Close() // read only: nothing can be lost
	return c.Attach(ctx, kind, f, contentType, fields)
}

// Attach copies the bytes into the store, queues them for [Client.Upload], and records the creation of the record that
// names them: kind "photo" with the fields visit and taken_at, or "voice_note" with visit and duration_ms, to which
// blob (SHA-256 in hex), size and content_type are added. At most 100 MiB, else [ErrTooLarge]; an empty file is
// refused. The record syncs without waiting for the bytes. A kill on the way leaves neither record nor bytes.
func (c *Client) Attach(ctx context.Context, kind string, r io.Reader, contentType string, fields Fields) (satchel.ID, error) {
	b := new(Batch)
	all := Fields{}
	for k, v := range fields {
		all[k] = v
	}
	id := satchel.NewID()
	hash, size, err := c.copyIn(ctx, id, r)
	if err != nil {
		return satchel.ID{}, errors.Join(err, c.update(context.WithoutCancel(ctx), "attach-undone", func(tx Tx) error { return deleteMedia(tx, id) }))
	}
	all["blob"], all["size"], all["content_type"] = hash, size, contentType
	b.createAs(kind, id, all)
	err = c.update(ctx, "attach", func(tx Tx) error {
		if err := putJSON(tx, TableMedia, id[:], mediaRow{Kind: kind, SHA256: hash, Size: size, ContentType: contentType}); err != nil {
			return err
		}
		_, err := c.recordIn(tx, b)
		return err
	})
	if err != nil {
		return satchel.ID{}, errors.Join(err, c.update(context.WithoutCancel(ctx), "attach-undone", func(tx Tx) error { return deleteMedia(tx, id) }))
	}
	nudge(c.recorded)
	nudge(c.attached)
	return id, nil
}

// copyIn stores the bytes piece by piece, each in a transaction of its own, so that a big file neither fills the memory
// nor keeps others from the store.
func (c *Client) copyIn(ctx context.Context, id satchel.ID, r io.Reader) (string, uint64, error) {
	hash, size := sha256.New(), uint64(0)
	buf := make([]byte, pieceBytes)
	for piece := uint64(0); ; piece++ {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			size += uint64(n)
			if size > maxMediaBytes {
				return "", 0, fmt.Errorf("%w: a file has at most %d bytes", ErrTooLarge, maxMediaBytes)
			}
			hash.Write(buf[:n])
			err := c.update(ctx, "piece", func(tx Tx) error {
				if piece == 0 {
					if err := putJSON(tx, TableMedia, id[:], mediaRow{Copying: true}); err != nil {
						return err
					}
				}
				return tx.Put(TableBytes, pieceKey(id, piece), buf[:n])
			})
			if err != nil {
				return "", 0, err
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return "", 0, err
		}
	}
	if size == 0 {
		return "", 0, errors.New("satchelclient: the file is empty")
	}
	return hex.EncodeToString(hash.Sum(nil)), size, nil
}

func pieceKey(id satchel.ID, piece uint64) []byte { return append(id[:], uintKey(piece)...) }

// createAs is Create with an id that the caller has minted.
func (b *Batch) createAs(kind string, id satchel.ID, fields Fields) {
	b.add(kind, id, &satchelv1.Op{Action: &satchelv1.Op_Create{Create: &satchelv1.Create{Fields: b.json(fields)}}})
}

// Media lists the files that this device still keeps, oldest first.
func (c *Client) Media(ctx context.Context) ([]Media, error) {
	var all []Media
	err := c.store.View(ctx, func(tx ReadTx) error {
		return scanMedia(tx, func(id satchel.ID, row mediaRow) error {
			all = append(all, Media{Record: id, Kind: row.Kind, SHA256: row.SHA256, Size: row.Size,
				ContentType: row.ContentType, Refused: row.Refused})
			return nil
		})
	})
	return all, err
}

// ForgetMedia drops the device's copy of a file that a person does not want sent any more.
func (c *Client) ForgetMedia(ctx context.Context, record satchel.ID) error {
	return c.update(ctx, "forget-media", func(tx Tx) error { return deleteMedia(tx, record) })
}

// Upload sends queued files, oldest first, each going on where it stopped. A file stays queued, and is asked about
// again, until its record says that it is stored: only then does its copy go; or, when the record is kept at the office
// ([Client.AtOffice]), until the server says that it has the bytes. One that the server does not take is
// marked and does not hold up the others; any other error ends the call and keeps everything.
func (c *Client) Upload(ctx context.Context) (UploadResult, error) {
	var r UploadResult
	if err := c.uploading.enter(ctx); err != nil {
		return r, err
	}
	defer c.uploading.leave()
	released, err := c.release(ctx)
	r.Released = released
	if err != nil {
		return r, err
	}
	all, err := c.Media(ctx)
	if err != nil {
		return r, err
	}
	for _, m := range all {
		if m.Refused != "" {
			continue
		}
		err := c.upload(ctx, m)
		var e *Error
		if errors.As(err, &e) && (e.Reason == satchel.ReasonUnsupportedMedia || e.Reason == satchel.ReasonTooLarge) {
			m.Refused = e.Reason
			if err := c.update(ctx, "refused", func(tx Tx) error { return refuseMedia(tx, m) }); err != nil {
				return r, err
			}
			r.Refused = append(r.Refused, m)
			continue
		}
		if err != nil {
			return r, err
		}
		r.Uploaded++
		gone, err := c.releaseAtOffice(ctx, m.Record)
		if err != nil {
			return r, err
		}
		if gone {
			r.Released++
		}
	}
	return r, nil
}

// releaseAtOffice drops the copy of a file that the server has, when its record is kept at the office and so will never
// say here that it is stored.
func (c *Client) releaseAtOffice(ctx context.Context, record satchel.ID) (gone bool, err error) {
	err = c.store.View(ctx, func(tx ReadTx) error {
		row, ok, err := getAged(tx, TableOffice, record)
		gone = ok && !row.Dead
		return err
	})
	if err != nil || !gone {
		return false, err
	}
	return true, c.update(ctx, "release", func(tx Tx) error { return deleteMedia(tx, record) })
}

// upload sends one file. Begin gives the same upload again, so nothing about it needs to be kept.
func (c *Client) upload(ctx context.Context, m Media) error {
	for restarts := 0; ; restarts++ {
		begun, err := call(ctx, c, c.cfg.Timeout, c.media.Begin, &satchelv1.BeginRequest{Sha256: m.SHA256, Size: m.Size, ContentType: m.ContentType})
		if err != nil || begun.Stored {
			return err
		}
		if err = c.sendPieces(ctx, m, begun); err == nil {
			_, err = call(ctx, c, c.cfg.Timeout, c.media.Complete, &satchelv1.CompleteRequest{UploadId: begun.UploadId})
		}
		e, ok := errors.AsType[*Error](err)
		// Garbled on the way, or forgotten meanwhile: once more from the beginning.
		if ok && restarts == 0 && (e.Reason == satchel.ReasonHashMismatch || e.Reason == satchel.ReasonNotFound) {
			continue
		}
		return err
	}
}

func (c *Client) sendPieces(ctx context.Context, m Media, begun *satchelv1.BeginResponse) error {
	limit := uint64(pieceBytes)
	if begun.ChunkSize > 0 {
		limit = min(limit, uint64(begun.ChunkSize))
	}
	corrected := 0
	for offset := begun.Offset; offset < m.Size; {
		piece, err := c.piece(ctx, m.Record, offset/pieceBytes)
		if err != nil {
			return err
		}
		from := offset % pieceBytes
		if from >= uint64(len(piece)) {
			return fmt.Errorf("satchelclient: the bytes of a file end at %d instead of %d", offset, m.Size)
		}
		data := piece[from:min(uint64(len(piece)), from+limit)]
		res, err := call(ctx, c, c.cfg.Timeout, c.media.PutChunk, &satchelv1.PutChunkRequest{UploadId: begun.UploadId, Offset: offset, Data: data})
		e, ok := errors.AsType[*Error](err)
		switch {
		case ok && e.Reason == satchel.ReasonUnexpectedOffset && e.Expected <= m.Size && corrected < 10:
			corrected++
			offset = e.Expected
		case err != nil:
			return err
		case res.Offset <= offset || res.Offset > m.Size:
			return fmt.Errorf("satchelclient: the server acknowledged %d after a piece at %d of %d bytes", res.Offset, offset, m.Size)
		default:
			offset = res.Offset
		}
	}
	return nil
}

// piece reads one piece; ErrNotFound when the file was forgotten meanwhile or ends before it.
func (c *Client) piece(ctx context.Context, id satchel.ID, n uint64) ([]byte, error) {
	var piece []byte
	err := c.store.View(ctx, func(tx ReadTx) error {
		b, err := tx.Get(TableBytes, pieceKey(id, n))
		if err == nil && b == nil {
			err = ErrNotFound
		}
		piece = bytes.Clone(b)
		return err
	})
	return piece, err
}

// Open opens the bytes of a photo or voice note: the device's own copy while it keeps one, else the server's, which the
// person must be allowed to see. The caller closes the reader.
func (c *Client) Open(ctx context.Context, record satchel.ID) (body io.ReadCloser, contentType string, err error) {
	var row mediaRow
	err = c.store.View(ctx, func(tx ReadTx) error {
		b, err := tx.Get(TableMedia, record[:])
		if err != nil || b == nil {
			return err
		}
		return json.Unmarshal(b, &row)
	})
	if err != nil {
		return nil, "", err
	}
	if row.SHA256 != "" { // not while it is being attached
		return io.NopCloser(&localReader{ctx: ctx, c: c, id: record, size: row.Size}), row.ContentType, nil
	}
	link, err := call(ctx, c, c.cfg.Timeout, c.media.Link, &satchelv1.LinkRequest{RecordId: record.String()})
	if err != nil {
		return nil, "", err
	}
	base, err := url.Parse(c.cfg.BaseURL + "/")
	if err != nil {
		return nil, "", err
	}
	target, err := base.Parse(link.Url)
	if err != nil {
		return nil, "", errors.New("satchelclient: the address that the server gave cannot be read")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, "", err
	}
	res, err := c.cfg.HTTPClient.Do(req)
	if err != nil {
		return nil, "", &Error{Code: connect.CodeUnavailable, Err: err}
	}
	if res.StatusCode != http.StatusOK {
		res.Body.Close() // nothing of it is of use
		return nil, "", &Error{Code: httpCode(res.StatusCode), Message: "opening the bytes: " + res.Status}
	}
	return res.Body, link.ContentType, nil
}

func httpCode(status int) connect.Code {
	switch {
	case status == http.StatusNotFound:
		return connect.CodeNotFound
	case status == http.StatusForbidden || status == http.StatusUnauthorized:
		return connect.CodePermissionDenied // the link, not the session
	case status == http.StatusTooManyRequests || status >= 500:
		return connect.CodeUnavailable
	}
	return connect.CodeUnknown
}

// localReader reads a file from the store, a piece at a time.
type localReader struct {
	ctx  context.Context
	c    *Client
	id   satchel.ID
	size uint64
	next uint64 // piece
	rest []byte
	read uint64
}

// Read gives the next bytes; [ErrNotFound] when the copy was released meanwhile: open again.
func (r *localReader) Read(p []byte) (int, error) {
	if r.read == r.size {
		return 0, io.EOF
	}
	if len(r.rest) == 0 {
		piece, err := r.c.piece(r.ctx, r.id, r.next)
		if err != nil {
			return 0, err
		}
		r.rest, r.next = piece, r.next+1
	}
	n := copy(p, r.rest)
	r.rest, r.read = r.rest[n:], r.read+uint64(n)
	return n, nil
}

// release drops the copies of files whose record, at the checkpoint, says that they are stored.
func (c *Client) release(ctx context.Context) (int, error) {
	var stored []satchel.ID
	err := c.store.View(ctx, func(tx ReadTx) error {
		return scanMedia(tx, func(id satchel.ID, row mediaRow) error {
			ch, err := getChange(tx, TableRecord, recordKey(row.Kind, id))
			if err != nil || ch.GetFields() == "" {
				return err
			}
			var fields struct {
				Blob  string `json:"blob"`
				State string `json:"blob_state"`
			}
			if json.Unmarshal([]byte(ch.Fields), &fields) != nil {
				return nil
			}
			// The state speaks of the blob that the record names, which somebody may have replaced.
			if fields.State == "stored" && fields.Blob == row.SHA256 {
				stored = append(stored, id)
			}
			return nil
		})
	})
	if err != nil || len(stored) == 0 {
		return 0, err
	}
	return len(stored), c.update(ctx, "release", func(tx Tx) error {
		for _, id := range stored {
			if err := deleteMedia(tx, id); err != nil {
				return err
			}
		}
		return nil
	})
}

// scanMedia calls fn for each file.
func scanMedia(tx ReadTx, fn func(satchel.ID, mediaRow) error) error {
	return tx.Scan(TableMedia, nil, nil, func(key, value []byte) error {
		var row mediaRow
		if json.Unmarshal(value, &row) != nil || row.Copying {
			return nil // what cannot be read keeps nothing else from being sent
		}
		return fn(satchel.ID(key), row)
	})
}

func refuseMedia(tx Tx, m Media) error {
	b, err := tx.Get(TableMedia, m.Record[:])
	if err != nil || b == nil {
		return err // forgotten meanwhile
	}
	return putJSON(tx, TableMedia, m.Record[:], mediaRow{Kind: m.Kind, SHA256: m.SHA256, Size: m.Size, ContentType: m.ContentType, Refused: m.Refused})
}

// deleteMedia removes a file or what was copied of it. It names the pieces that there may be instead of looking for
// them, for looking would read them.
func deleteMedia(tx Tx, id satchel.ID) error {
	for n := range uint64(maxMediaBytes / pieceBytes) {
		if err := tx.Delete(TableBytes, pieceKey(id, n)); err != nil {
			return err
		}
	}
	return tx.Delete(TableMedia, id[:])
}

// mediaBytes counts what waits to be sent.
func mediaBytes(tx ReadTx) (uint64, error) {
	var sum uint64
	err := scanMedia(tx, func(_ satchel.ID, row mediaRow) error {
		if row.Refused == "" {
			sum += row.Size
		}
		return nil
	})
	return sum, err
}

// sweepMedia removes what a kill left of files that were being attached.
func sweepMedia(tx Tx) error {
	return tx.Scan(TableMedia, nil, nil, func(key, value []byte) error {
		var row mediaRow
		if json.Unmarshal(value, &row) != nil || !row.Copying {
			return nil
		}
		return deleteMedia(tx, satchel.ID(key))
	})
}
