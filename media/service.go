package media

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/jobs"
	"github.com/satchel-sync/satchel/internal/pg"
)

// The limits of uploads.
const (
	MaxSize   = 100 << 20 // bytes of one blob
	ChunkSize = 1 << 20   // bytes of one piece

	maxOpen      = 64      // uploads of one person that are on their way
	maxOpenBytes = 2 << 30 // what they announce together
	uploadTTL    = 7 * 24 * time.Hour
	freePieces   = 1024     // an upload may have this many pieces of any size,
	meanPiece    = 16 << 10 // and more only while they are this large on the average
)

// Records says what records name. It is asked with each [Service.Link] and never remembered.
type Records interface {
	// BlobOf gives the SHA-256 that a record names, if the person can see the record and that field of it; "" or a
	// NotFound error where he cannot, or where it names none. stored tells whether the record says that its bytes are
	// stored: that field is written by the server alone, for records whose author sent the bytes, so that naming
	// somebody else's bytes gives no way to them.
	BlobOf(ctx context.Context, p *satchel.Principal, record satchel.ID) (sha256 string, stored bool, err error)
}

// Stored says that a person's bytes are durable.
type Stored struct {
	Org         satchel.ID
	Person      satchel.ID // who sent them
	SHA256      string     // 64 hex digits in lower case
	Size        int64      // bytes
	ContentType string     // what the bytes are
}

// Submitter hears of stored bytes. It marks the records that name them and whose author is the person that sent them
// (nobody else's: see [Records]). It is called at least once, after the commit, by a job that tries again after an
// error; so it must do no harm the second time.
type Submitter interface {
	BlobStored(ctx context.Context, s Stored) error
}

// Config is what a [Service] needs. All fields without a remark must be set.
type Config struct {
	Pool    *pgxpool.Pool
	Store   Store
	Records Records
	Submit  Submitter
	// Jobs carries what follows a commit. New names the handlers of this package's two kinds, so it comes before
	// Jobs.Run or Step.
	Jobs *jobs.Jobs
	// PersonActive tells whether a person may still use what he was given: not disabled, the organisation not closing.
	PersonActive func(ctx context.Context, org, person satchel.ID) (bool, error)
	// Authenticate tells who sends a request, for [Service.UploadHandler].
	Authenticate func(*http.Request) (*satchel.Principal, error)
	// WriteError answers a plain HTTP request with an error, as the edge does everywhere.
	WriteError func(http.ResponseWriter, *http.Request, error)
	// Key signs links: at least 32 random bytes, the same on every replica. A new key ends all links, which live for
	// [LinkTTL] anyway.
	Key []byte
	// Now is the clock.
	Now func() time.Time
	// Logger may be nil: then nothing is logged.
	Logger *slog.Logger
}

// Service receives bytes and lends them out. It is safe for concurrent use, and several replicas may serve the same
// upload. Its errors are *satchel.Error or wrap one; what a caller may see is documented with each method, and every
// method may give DATABASE_DOWN and BLOB_STORE_DOWN besides.
type Service struct {
	Config
}

// New makes a Service; its error names the field of the Config that is wrong.
func New(cfg Config) (*Service, error) {
	for name, missing := range map[string]bool{"Pool": cfg.Pool == nil, "Store": cfg.Store == nil, "Records": cfg.Records == nil,
		"Submit": cfg.Submit == nil, "Jobs": cfg.Jobs == nil, "PersonActive": cfg.PersonActive == nil,
		"Authenticate": cfg.Authenticate == nil, "WriteError": cfg.WriteError == nil, "Now": cfg.Now == nil} {
		if missing {
			return nil, fmt.Errorf("media: Config.%s is missing", name)
		}
	}
	if len(cfg.Key) < 32 {
		return nil, errors.New("media: Config.Key needs at least 32 random bytes")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{Config: cfg}
	cfg.Jobs.Handle(jobStored, s.handleStored)
	cfg.Jobs.Handle(jobSweep, s.handleSweep)
	return s, nil
}

// Upload says how an announced blob stands.
type Upload struct {
	Stored    bool       // the person already sent these bytes: nothing to do, the other fields are zero
	ID        satchel.ID // name it with each piece
	Offset    int64      // bytes received so far: send from here
	ChunkSize int64      // most bytes of one piece
	Expires   time.Time  // when the upload is forgotten; beginning again moves it
}

// Begin announces size bytes with the given SHA-256 (64 hex digits in lower case). contentType is what the phone calls
// them and is used only to tell sound from picture where the bytes are a container of either. The same person and
// SHA-256 give the same upload until it is complete. Whether somebody else stored the same bytes is never said: he who
// did not send them sends them.
//
// Errors: MALFORMED; TOO_LARGE above [MaxSize]; RATE_LIMITED when the person has too many uploads on their way.
func (s *Service) Begin(ctx context.Context, p *satchel.Principal, sha256 string, size int64, contentType string) (Upload, error) {
	sum, err := ParseSum(sha256)
	switch {
	case err != nil:
		return Upload{}, err
	case size < 1:
		return Upload{}, satchel.E(satchel.Invalid, satchel.ReasonMalformed, "A blob has at least 1 byte.")
	case size > MaxSize:
		return Upload{}, satchel.E(satchel.Invalid, satchel.ReasonTooLarge, "A blob has at most %d bytes. Compress or cut it.", MaxSize)
	case len(contentType) > 128 || strings.ContainsFunc(contentType, func(r rune) bool { return r < ' ' || r > '~' }):
		return Upload{}, satchel.E(satchel.Invalid, satchel.ReasonMalformed, "A content type has at most 128 characters, all printable ASCII.")
	}
	var up Upload
	err = pg.InTx(ctx, s.Pool, func(ctx context.Context, tx pgx.Tx) (err error) {
		up, err = s.begin(ctx, tx, p, sum, size, contentType)
		return err
	})
	return up, err
}

func (s *Service) begin(ctx context.Context, tx pgx.Tx, p *satchel.Principal, sum Sum, size int64, contentType string) (Upload, error) {
	if _, err := tx.Exec(ctx, sqlLockPerson, p.Org, p.Person); err != nil {
		return Upload{}, err
	}
	var owns bool
	if err := tx.QueryRow(ctx, sqlOwns, p.Org, sum[:], p.Person).Scan(&owns); err != nil || owns {
		return Upload{Stored: owns}, err
	}
	now := s.Now()
	up := Upload{ChunkSize: ChunkSize, Expires: now.Add(uploadTTL)}
	var announced int64
	err := tx.QueryRow(ctx, sqlFindOpen, p.Org, p.Person, sum[:]).Scan(&up.ID, &announced, &up.Offset)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return s.open(ctx, tx, p, up, sum, size, contentType)
	case err != nil:
		return Upload{}, err
	case announced != size: // one of the two announcements was a lie; the newer one counts
		up.Offset = 0
		if _, err := restart(ctx, tx, p.Org, up.ID, nil, size); err != nil {
			return Upload{}, err
		}
	}
	_, err = tx.Exec(ctx, sqlRenewUpload, p.Org, up.ID, p.Device, contentType, up.Expires)
	return up, err
}

func (s *Service) open(ctx context.Context, tx pgx.Tx, p *satchel.Principal, up Upload, sum Sum, size int64, contentType string) (Upload, error) {
	now := s.Now()
	var n, announced int64
	if err := tx.QueryRow(ctx, sqlCountOpen, p.Org, p.Person, now).Scan(&n, &announced); err != nil {
		return Upload{}, err
	}
	if n >= maxOpen || announced+size > maxOpenBytes {
		e := satchel.E(satchel.Exhausted, satchel.ReasonRateLimited,
			"Too many uploads are on their way (%d, %d bytes). Complete some of them before beginning others.", n, announced)
		e.RetryAfter = time.Minute
		return Upload{}, e
	}
	up.ID = satchel.NewID()
	if _, err := tx.Exec(ctx, sqlInsertUpload, p.Org, up.ID, p.Person, p.Device, sum[:], size, contentType, now, up.Expires); err != nil {
		return Upload{}, err
	}
	return up, s.Jobs.Enqueue(ctx, tx, sweepAt(p.Org, up.Expires))
}

// restart forgets all pieces of an open upload. round nil means whichever it is; done is false where the upload is no
// longer open or in another round.
func restart(ctx context.Context, tx pgx.Tx, org, id satchel.ID, round *int64, size int64) (done bool, err error) {
	tag, err := tx.Exec(ctx, sqlRestartUpload, org, id, round, size)
	if err != nil || tag.RowsAffected() == 0 {
		return false, err
	}
	_, err = tx.Exec(ctx, sqlDeletePieces, org, id)
	return err == nil, err
}
