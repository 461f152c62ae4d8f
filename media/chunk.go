package media

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/pg"
)

// OffsetError is the Precondition error UNEXPECTED_OFFSET: the piece does not begin where the last one ended. It wraps
// the *satchel.Error; the edge finds it by errors.As and tells the client [OffsetError.Expected].
type OffsetError struct {
	err      *satchel.Error
	expected int64
}

func unexpectedOffset(expected int64) error {
	return &OffsetError{satchel.E(satchel.Precondition, satchel.ReasonUnexpectedOffset,
		"%d bytes were received so far. Send on from there.", expected), expected}
}

// Error gives the text for the log.
func (e *OffsetError) Error() string { return e.err.Error() }

// Unwrap gives the *satchel.Error.
func (e *OffsetError) Unwrap() error { return e.err }

// Expected is the offset from which to send.
func (e *OffsetError) Expected() int64 { return e.expected }

// PutChunk receives the piece of an upload that begins at offset and tells how many bytes are received now. A piece
// that was already received, with the same bytes, is acknowledged again; of an upload that is complete, every piece.
// What was acknowledged survives a restart, and the next piece may go to another replica.
//
// Errors: NOT_FOUND for an upload that is somebody else's, unknown or expired (begin again); UNEXPECTED_OFFSET
// ([OffsetError]); TOO_LARGE above [ChunkSize], past the announced size, or for very many tiny pieces; MALFORMED.
func (s *Service) PutChunk(ctx context.Context, p *satchel.Principal, id satchel.ID, offset int64, data []byte) (int64, error) {
	n := int64(len(data))
	switch {
	case n < 1 || offset < 0:
		return 0, satchel.E(satchel.Invalid, satchel.ReasonMalformed, "A piece has at least 1 byte and begins at 0 or later.")
	case n > ChunkSize:
		return 0, satchel.E(satchel.Invalid, satchel.ReasonTooLarge, "A piece has at most %d bytes.", ChunkSize)
	}
	u, err := getUpload(ctx, s.Pool, p, id, s.Now())
	if err != nil {
		return 0, pg.ToError(err)
	}
	pc := piece{start: offset, size: n, sum: sha256.Sum256(data)}
	if u.done || offset != u.received {
		at, _, err := s.again(ctx, p, u, pc)
		return at, err
	}
	switch {
	case n > u.size-offset:
		return 0, satchel.E(satchel.Invalid, satchel.ReasonTooLarge, "The upload was announced with %d bytes; this piece goes past them.", u.size)
	case u.pieces >= freePieces+(offset+n)/meanPiece:
		return 0, satchel.E(satchel.Invalid, satchel.ReasonTooLarge, "The upload has too many tiny pieces. Send larger ones, %d bytes at best.", ChunkSize)
	}
	// The key has the round and the hash, so what another replica, or an earlier round, writes meanwhile lies elsewhere
	// or is the same.
	key := stagingKey(p.Org, u, pc)
	if err := s.Store.Put(ctx, key, pc.sum, n, bytes.NewReader(data)); err != nil {
		return 0, err
	}
	won := false
	err = pg.InTx(ctx, s.Pool, func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, sqlAdvance, p.Org, u.id, u.round, offset, n)
		if won = tag.RowsAffected() == 1; err != nil || !won {
			return err
		}
		_, err = tx.Exec(ctx, sqlInsertPiece, p.Org, u.id, offset, n, pc.sum[:])
		return err
	})
	switch {
	case err != nil:
		return 0, err
	case won:
		return offset + n, nil
	}
	return s.lost(ctx, p, u, pc, key)
}

// lost settles a piece that somebody else's overtook between look and write.
func (s *Service) lost(ctx context.Context, p *satchel.Principal, before upload, pc piece, key string) (int64, error) {
	now, err := getUpload(ctx, s.Pool, p, before.id, s.Now())
	if err != nil {
		return 0, pg.ToError(err) // what was staged goes with the upload
	}
	at, recorded, err := s.again(ctx, p, now, pc)
	if now.round != before.round || now.done || !recorded {
		// Nobody will ever read what was just staged. If this fails, the end of the upload deletes it.
		if derr := s.Store.Delete(ctx, key); derr != nil {
			s.Logger.WarnContext(ctx, "media: a piece that lost stays until its upload ends", "upload", before.id, "error", derr)
		}
	}
	return at, err
}

// again answers a piece that does not begin where the last one ended. recorded tells whether the upload counts on the
// staged bytes of the piece; where that could not be found out, it is true.
func (s *Service) again(ctx context.Context, p *satchel.Principal, u upload, pc piece) (at int64, recorded bool, err error) {
	if u.done {
		return u.size, false, nil
	}
	if pc.start < u.received {
		have, ok, err := getPiece(ctx, s.Pool, p.Org, u.id, pc.start)
		if err != nil {
			return 0, true, pg.ToError(err)
		}
		if ok && have == pc {
			return u.received, true, nil
		}
		// The pieces go when the upload ends or begins again, perhaps since u was read.
		now, err := getUpload(ctx, s.Pool, p, u.id, s.Now())
		if err != nil {
			return 0, true, pg.ToError(err)
		}
		if u = now; u.done {
			return u.size, false, nil
		}
	}
	return 0, false, unexpectedOffset(u.received)
}

func stagingPrefix(org, id satchel.ID) string { return fmt.Sprintf("staging/%s/%s/", org, id) }

func stagingRound(org satchel.ID, u upload) string {
	return fmt.Sprintf("%s%d/", stagingPrefix(org, u.id), u.round)
}

func stagingKey(org satchel.ID, u upload, pc piece) string {
	return fmt.Sprintf("%s%d-%s", stagingRound(org, u), pc.start, pc.sum)
}

func blobKey(org satchel.ID, sum Sum) string {
	name := sum.String()
	return fmt.Sprintf("blob/%s/%s/%s", org, name[:2], name)
}
