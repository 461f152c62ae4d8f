package media

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/jobs"
	"github.com/satchel-sync/satchel/internal/pg"
)

// Claim is what a record says of its bytes.
type Claim struct {
	Author satchel.ID // of the record: whose phone sends the bytes
	SHA256 string     // 64 hex digits in lower case; anything else names nothing
	Sound  bool       // it is to be heard, not seen; see [Service.Begin]'s contentType
	Stored bool       // it says that they are stored: no phone may have them any more
}

// Condition is how the bytes of a claim stand.
type Condition uint8

// The conditions.
const (
	// Sound: the claim is right, the bytes are there.
	Sound Condition = iota
	// Found: they were there and the database did not say so, as after a restore to a moment before they came. It does
	// now, and the job that tells the author's records is committed.
	Found
	// Awaited: they have yet to come from a phone.
	Awaited
	// Missing: they were stored and are not there, or are others.
	Missing
)

// Checker compares claims with what is stored, for an operator who has restored the database or the blob store. It is
// safe for concurrent use, also beside servers that run.
type Checker struct{ s *Service }

// NewChecker makes one; all parameters are required. The jobs that it enqueues are worked by the servers.
func NewChecker(pool *pgxpool.Pool, store Store, queue *jobs.Jobs, now func() time.Time) *Checker {
	return &Checker{&Service{Config{Pool: pool, Store: store, Jobs: queue, Now: now, Logger: slog.New(slog.DiscardHandler)}}}
}

// KeyOf gives the key in the blob store under which an organisation's bytes lie; "" for a malformed sha256.
func KeyOf(org satchel.ID, sha256 string) string {
	sum, err := ParseSum(sha256)
	if err != nil {
		return ""
	}
	return blobKey(org, sum)
}

// Check tells how the bytes of a claim stand, and repairs what can be: nothing is ever deleted. Bytes that the database
// does not know are read and proven first, and then are the author's: a database that lost who sent them can only ask
// the record that names them.
func (c *Checker) Check(ctx context.Context, org satchel.ID, claim Claim) (Condition, error) {
	s := c.s
	sum, err := ParseSum(claim.SHA256)
	if err != nil {
		return Awaited, nil
	}
	size, err := s.Store.Stat(ctx, blobKey(org, sum))
	there := err == nil
	if err != nil && !errors.Is(err, ErrNotStored) {
		return 0, err
	}
	known, _, err := s.getBlob(ctx, org, sum)
	isKnown := err == nil
	if err != nil && satchel.KindOf(err) != satchel.NotFound {
		return 0, err
	}
	switch {
	case there && !isKnown:
		return c.adopt(ctx, org, claim, sum, size)
	case !there && (claim.Stored || isKnown), there && size != known:
		return Missing, nil
	case !there:
		return Awaited, nil
	case claim.Stored:
		return Sound, nil
	}
	var sent bool
	if err := s.Pool.QueryRow(ctx, sqlOwns, org, sum[:], claim.Author).Scan(&sent); err != nil || !sent {
		return Awaited, pg.ToError(err) // somebody else's: he who did not send them sends them
	}
	err = pg.InTx(ctx, s.Pool, func(ctx context.Context, tx pgx.Tx) error { return s.tell(ctx, tx, org, claim.Author, sum) })
	return Found, pg.ToError(err)
}

// adopt takes bytes that lie in the store for the author's.
func (c *Checker) adopt(ctx context.Context, org satchel.ID, claim Claim, sum Sum, size int64) (Condition, error) {
	s := c.s
	body, _, err := s.Store.Open(ctx, blobKey(org, sum), 0, -1)
	if err != nil {
		return 0, err
	}
	defer body.Close() //nolint:errcheck // only read
	buf := bufio.NewReaderSize(body, headSize)
	head, err := buf.Peek(int(min(headSize, size)))
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	announced := ""
	if claim.Sound {
		announced = "audio/"
	}
	kind, ok := sniff(head, announced)
	ev := evidence(kind, head) // before the buffer is read on
	switch _, err := io.Copy(io.Discard, newVerifier(buf, sum, size)); {
	case satchel.ReasonOf(err) == satchel.ReasonHashMismatch || err == nil && !ok:
		return Missing, nil
	case err != nil:
		return 0, err
	}
	err = pg.InTx(ctx, s.Pool, func(ctx context.Context, tx pgx.Tx) error {
		if err := s.note(ctx, tx, org, claim.Author, sum, size, kind, ev); err != nil {
			return err
		}
		return s.tell(ctx, tx, org, claim.Author, sum)
	})
	return Found, pg.ToError(err)
}
