package media

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
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
	Sound  bool       // it is to be heard, not seen; see [Service.Begin]'s contentType
	Stored bool       // it says that they are stored: no phone may have them any more
}

// Condition is how the bytes of a claim stand.
type Condition uint8

// The conditions.
const (
	// Sound: the claim is right, the bytes are there in their size.
	Sound Condition = iota
	// Found: they were there and the database did not say so, as after a restore to a moment before they came. It does
	// now, and the job that tells the author's records is committed.
	Found
	// Awaited: they have yet to come from the author's phone. Bytes of somebody else that are the same do not count.
	Awaited
	// Unclear: they are there, the database does not know who sent them, and records of several authors name them.
	Unclear
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

// Check tells how the bytes with this SHA-256 (64 hex digits in lower case; anything else names nothing) stand, for each
// of the claims, which are those of all records that name them. It repairs what can be, and deletes nothing.
//
// Bytes that the database does not know are read and proven, and then are their author's: a database that lost who sent
// them can only ask the records that name them. So where these have several authors, they are nobody's.
func (c *Checker) Check(ctx context.Context, org satchel.ID, sha256 string, claims []Claim) ([]Condition, error) {
	all := func(one Condition) []Condition { return slices.Repeat([]Condition{one}, len(claims)) }
	sum, err := ParseSum(sha256)
	if err != nil || len(claims) == 0 {
		return all(Awaited), nil
	}
	there, size, known, err := c.look(ctx, org, sum)
	if err != nil {
		return nil, err
	}
	if there && known < 0 {
		one, err := c.adopt(ctx, org, claims, sum, size)
		return all(one), err
	}
	out := make([]Condition, len(claims))
	for i, claim := range claims {
		switch {
		case !there && (claim.Stored || known >= 0), there && size != known:
			out[i] = Missing
		case !there:
			out[i] = Awaited
		case claim.Stored:
			out[i] = Sound
		default:
			if out[i], err = c.told(ctx, org, claim, sum); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// look asks the store, and then the database for the size that it knows; -1 = it knows no such bytes.
func (c *Checker) look(ctx context.Context, org satchel.ID, sum Sum) (there bool, size, known int64, err error) {
	for range 2 { // what a phone sends may arrive between the two questions
		size, err = c.s.Store.Stat(ctx, blobKey(org, sum))
		if there = err == nil; !there && !errors.Is(err, ErrNotStored) {
			return false, 0, 0, err
		}
		known, _, err = getBlob(ctx, c.s.Pool, org, sum)
		if satchel.KindOf(err) == satchel.NotFound {
			known, err = -1, nil
		}
		if err != nil || there || known < 0 {
			break
		}
	}
	return there, size, known, err
}

// told tells the records of an author who sent the bytes, and were not told.
func (c *Checker) told(ctx context.Context, org satchel.ID, claim Claim, sum Sum) (Condition, error) {
	var sent bool
	if err := c.s.Pool.QueryRow(ctx, sqlOwns, org, sum[:], claim.Author).Scan(&sent); err != nil || !sent {
		return Awaited, pg.ToError(err)
	}
	err := pg.InTx(ctx, c.s.Pool, func(ctx context.Context, tx pgx.Tx) error { return c.s.tell(ctx, tx, org, claim.Author, sum) })
	return Found, pg.ToError(err)
}

// adopt takes bytes that lie in the store for the author's, where there is but one.
func (c *Checker) adopt(ctx context.Context, org satchel.ID, claims []Claim, sum Sum, size int64) (Condition, error) {
	author := claims[0].Author
	if slices.ContainsFunc(claims, func(other Claim) bool { return other.Author != author }) {
		return Unclear, nil
	}
	kind, ev, err := c.prove(ctx, org, claims[0], sum, size)
	if err != nil || kind == "" {
		return Missing, err
	}
	var found Condition
	err = pg.InTx(ctx, c.s.Pool, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, sqlLockBlob, org, sum[:]); err != nil {
			return err
		}
		switch _, _, err := getBlob(ctx, tx, org, sum); {
		case err == nil: // somebody sent them meanwhile, and it may be somebody else
			found = Awaited
			return nil
		case satchel.KindOf(err) != satchel.NotFound:
			return err
		}
		found = Found
		if err := c.s.note(ctx, tx, org, author, sum, size, kind, ev); err != nil {
			return err
		}
		return c.s.tell(ctx, tx, org, author, sum)
	})
	return found, pg.ToError(err)
}

// prove reads the bytes and tells what they are; "" = not what their name says, or of a type that is not taken.
func (c *Checker) prove(ctx context.Context, org satchel.ID, claim Claim, sum Sum, size int64) (kind string, ev []byte, err error) {
	if size == 0 {
		return "", nil, nil
	}
	body, _, err := c.s.Store.Open(ctx, blobKey(org, sum), 0, -1)
	if err != nil {
		return "", nil, err
	}
	defer body.Close() //nolint:errcheck // only read
	buf := bufio.NewReaderSize(body, headSize)
	head, err := buf.Peek(int(min(headSize, size)))
	if err != nil && !errors.Is(err, io.EOF) {
		return "", nil, err
	}
	announced := ""
	if claim.Sound {
		announced = "audio/"
	}
	kind, ok := sniff(head, announced)
	ev = evidence(kind, head) // head is the buffer's, which reading on overwrites
	switch _, err := io.Copy(io.Discard, newVerifier(buf, sum, size)); {
	case satchel.ReasonOf(err) == satchel.ReasonHashMismatch || err == nil && !ok:
		return "", nil, nil
	case err != nil:
		return "", nil, err
	}
	return kind, ev, nil
}
