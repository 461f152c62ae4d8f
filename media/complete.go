package media

import (
	"bufio"
	"context"
	"errors"
	"io"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/pg"
)

// headSize is how much of a file is looked at to tell its type and to read its evidence; cameras write both in front.
const headSize = 256 << 10

const dropTimeout = 30 * time.Second

// errOvertaken means that the upload moved while Complete worked.
var errOvertaken = errors.New("media: the upload moved meanwhile")

// Complete ends an upload: it verifies the size, the SHA-256 and the type of the bytes and stores them. When it gives
// the SHA-256, the bytes are durable, [Service.Begin] answers "stored" to this person, and a job that tells
// [Submitter] is committed. Completing again gives the same, for a week.
//
// Errors: NOT_FOUND as for [Service.PutChunk]; UNEXPECTED_OFFSET ([OffsetError]) while pieces are missing;
// HASH_MISMATCH: the upload begins again at 0; UNSUPPORTED_MEDIA: the bytes are right and of a type that is not taken.
func (s *Service) Complete(ctx context.Context, p *satchel.Principal, id satchel.ID) (sha256 string, err error) {
	u, err := getUpload(ctx, s.Pool, p, id, s.Now())
	if err != nil {
		return "", pg.ToError(err)
	}
	if u.done {
		return u.sum.String(), nil
	}
	err = s.complete(ctx, p, u)
	if err == nil {
		s.dropStaging(ctx, stagingPrefix(p.Org, u.id))
		return u.sum.String(), nil
	}
	// Somebody else may have completed it, or begun it again, and deleted the pieces while they were being read here.
	now, lookErr := getUpload(context.WithoutCancel(ctx), s.Pool, p, id, s.Now())
	switch {
	case lookErr != nil:
		return "", pg.ToError(lookErr)
	case now.done:
		return u.sum.String(), nil
	case now.round != u.round:
		return "", unexpectedOffset(now.received)
	case satchel.ReasonOf(err) == satchel.ReasonHashMismatch:
		return "", s.reject(ctx, p, u, err)
	case errors.Is(err, ErrNotStored): // the store lost a piece; only the phone can help
		s.Logger.ErrorContext(ctx, "media: a staged piece is gone; its upload begins again", "upload", u.id)
		return "", s.reject(ctx, p, u, unexpectedOffset(0))
	}
	return "", pg.ToError(err)
}

func (s *Service) complete(ctx context.Context, p *satchel.Principal, u upload) error {
	if u.received != u.size {
		return unexpectedOffset(u.received)
	}
	pieces, err := listPieces(ctx, s.Pool, p.Org, u.id)
	if err != nil {
		return err
	}
	var n int64
	for _, pc := range pieces {
		n += pc.size
	}
	if n != u.size { // they went between the two looks
		return errOvertaken
	}
	body := &pieceReader{ctx: ctx, s: s, org: p.Org, u: u, pieces: pieces}
	defer body.Close() //nolint:errcheck // only read
	buf := bufio.NewReaderSize(body, headSize)
	head, err := buf.Peek(int(min(headSize, u.size)))
	if err != nil && !errors.Is(err, io.EOF) { // an early end is the verifier's to judge
		return err
	}
	kind, ok := sniff(head, u.contentType)
	ev := evidence(kind, head) // head is the buffer's, which reading on overwrites
	if ok {
		err = s.Store.Put(ctx, blobKey(p.Org, u.sum), u.sum, u.size, buf)
	} else if _, err = io.Copy(io.Discard, newVerifier(buf, u.sum, u.size)); err == nil {
		// Only now is it sure that these are the bytes that were meant, and not damaged ones.
		return satchel.E(satchel.Invalid, satchel.ReasonUnsupportedMedia,
			"The bytes are %s, which is not taken. Pictures, sound, MP4 or WebM video, and PDF are.", kind)
	}
	if err != nil {
		return err
	}
	return s.commit(ctx, p, u, kind, ev)
}

// reject begins the upload again at 0 and gives reason back; a Complete that runs beside this one may have done so
// already.
func (s *Service) reject(ctx context.Context, p *satchel.Principal, u upload, reason error) error {
	err := pg.InTx(ctx, s.Pool, func(ctx context.Context, tx pgx.Tx) error {
		_, err := restart(ctx, tx, p.Org, u.id, &u.round, u.size)
		return err
	})
	if err != nil {
		return err
	}
	s.dropStaging(ctx, stagingRound(p.Org, u))
	return reason
}

func (s *Service) commit(ctx context.Context, p *satchel.Principal, u upload, kind string, ev []byte) error {
	return pg.InTx(ctx, s.Pool, func(ctx context.Context, tx pgx.Tx) error {
		if err := s.note(ctx, tx, p.Org, p.Person, u.sum, u.size, kind, ev); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, sqlFinish, p.Org, u.id, u.round)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return errOvertaken
		}
		if _, err := tx.Exec(ctx, sqlDeletePieces, p.Org, u.id); err != nil {
			return err
		}
		return s.tell(ctx, tx, p.Org, p.Person, u.sum)
	})
}

// note writes down that the bytes are stored and that the person sent them.
func (s *Service) note(ctx context.Context, tx pgx.Tx, org, person satchel.ID, sum Sum, size int64, kind string, ev []byte) error {
	now := s.Now()
	b := &pgx.Batch{}
	b.Queue(sqlLockBlob, org, sum[:])
	b.Queue(sqlInsertBlob, org, sum[:], size, kind, ev, now)
	b.Queue(sqlInsertOwner, org, sum[:], person, now)
	return tx.SendBatch(ctx, b).Close()
}

// pieceReader reads the pieces of an upload one behind the other.
type pieceReader struct {
	ctx    context.Context
	s      *Service
	org    satchel.ID
	u      upload
	pieces []piece
	cur    io.ReadCloser
}

func (r *pieceReader) Read(p []byte) (int, error) {
	for {
		if r.cur == nil {
			if len(r.pieces) == 0 {
				return 0, io.EOF
			}
			cur, _, err := r.s.Store.Open(r.ctx, stagingKey(r.org, r.u, r.pieces[0]), 0, -1)
			if err != nil {
				return 0, err
			}
			r.cur, r.pieces = cur, r.pieces[1:]
		}
		n, err := r.cur.Read(p)
		if err == io.EOF {
			_ = r.Close() // only read
			err = nil
			if n == 0 {
				continue
			}
		}
		return n, err
	}
}

// Close ends the piece that is being read.
func (r *pieceReader) Close() error {
	if r.cur == nil {
		return nil
	}
	err := r.cur.Close()
	r.cur = nil
	return err
}
