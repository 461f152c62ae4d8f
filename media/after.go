package media

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/jobs"
	"github.com/satchel-sync/satchel/internal/pg"
)

// The kinds of this package's jobs.
const (
	jobStored = "media.stored" // tells the records of stored bytes
	jobSweep  = "media.sweep"  // ends uploads that expired
)

// storedAttempts makes a job last for weeks of a broken [Submitter]: until it gets through, phones keep their copies.
const storedAttempts = 30

// tell enqueues the job that marks the records, if the person sent these bytes.
func (s *Service) tell(ctx context.Context, tx pgx.Tx, org, person satchel.ID, sum Sum) error {
	args := storedArgs{Person: person, SHA256: sum.String()}
	err := tx.QueryRow(ctx, sqlOwned, org, sum[:], person).Scan(&args.Size, &args.ContentType)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.Jobs.Enqueue(ctx, tx, jobs.Job{Kind: jobStored, Org: org, Args: args, MaxAttempts: storedAttempts})
}

// Named is to be called in the transaction of every change that lets a record of author name the bytes sha256 anew: if
// the author sent them before, the job that marks the record is enqueued with that transaction. Together with
// [Service.Complete] this misses no record, in whichever order bytes and record arrive. A malformed sha256 names
// nothing.
func (s *Service) Named(ctx context.Context, tx pgx.Tx, org, author satchel.ID, sha256 string) error {
	sum, err := ParseSum(sha256)
	if err != nil {
		return nil
	}
	if _, err := tx.Exec(ctx, sqlShareBlob, org, sum[:]); err != nil {
		return err
	}
	return s.tell(ctx, tx, org, author, sum)
}

// storedArgs is what the job carries.
type storedArgs struct {
	Person      satchel.ID `json:"person"`
	SHA256      string     `json:"sha256"`
	Size        int64      `json:"size"`
	ContentType string     `json:"content_type"`
}

func (s *Service) handleStored(ctx context.Context, org satchel.ID, args json.RawMessage) error {
	var a storedArgs
	if err := json.Unmarshal(args, &a); err != nil {
		return jobs.Discard(fmt.Errorf("media: the job's arguments do not decode: %w", err))
	}
	return s.Submit.BlobStored(ctx, Stored{Org: org, Person: a.Person, SHA256: a.SHA256, Size: a.Size, ContentType: a.ContentType})
}

// dropStaging deletes what lies under prefix, whether or not the caller still waits. What it cannot delete stays for
// [Service.Sweep].
func (s *Service) dropStaging(ctx context.Context, prefix string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dropTimeout)
	defer cancel()
	if err := s.deleteAll(ctx, prefix); err != nil {
		s.Logger.WarnContext(ctx, "media: staged pieces stay until the next sweep", "prefix", prefix, "error", err)
	}
}

func (s *Service) deleteAll(ctx context.Context, prefix string) error {
	for key, err := range s.Store.List(ctx, prefix) {
		if err == nil {
			err = s.Store.Delete(ctx, key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// sweepBatch is how many uploads one Sweep ends.
const sweepBatch = 100

// Sweep ends an organisation's uploads that expired, at most 100 of them, and deletes their pieces. It tells how many
// rows went; call it again, now or later, while that is not 0. Blobs are never touched.
func (s *Service) Sweep(ctx context.Context, org satchel.ID) (int, error) {
	now := s.Now()
	if _, err := s.Pool.Exec(ctx, sqlDropExpired, org, now, sweepBatch); err != nil {
		return 0, pg.ToError(err)
	}
	rows, err := s.Pool.Query(ctx, sqlListEnded, org, now, sweepBatch)
	if err != nil {
		return 0, pg.ToError(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[satchel.ID])
	if err != nil {
		return 0, pg.ToError(err)
	}
	for n, id := range ids {
		// The pieces go first: a row that is gone can no longer tell where they are.
		if err := s.deleteAll(ctx, stagingPrefix(org, id)); err != nil {
			return n, err
		}
		if _, err := s.Pool.Exec(ctx, sqlDeleteUpload, org, id); err != nil {
			return n, pg.ToError(err)
		}
	}
	return len(ids), nil
}

// sweepAt is the job that sweeps an organisation; one of them waits at a time, for the upload that expires first.
func sweepAt(org satchel.ID, at time.Time) jobs.Job {
	return jobs.Job{Kind: jobSweep, Org: org, RunAt: at, Key: "sweep"}
}

// handleSweep sweeps until nothing is left to do and comes back when the next upload expires.
func (s *Service) handleSweep(ctx context.Context, org satchel.ID, _ json.RawMessage) error {
	for n := 1; n > 0; {
		var err error
		if n, err = s.Sweep(ctx, org); err != nil {
			return err
		}
	}
	return pg.InTx(ctx, s.Pool, func(ctx context.Context, tx pgx.Tx) error {
		var next *time.Time
		if err := tx.QueryRow(ctx, sqlNextExpiry, org).Scan(&next); err != nil || next == nil {
			return err
		}
		return s.Jobs.Enqueue(ctx, tx, sweepAt(org, *next))
	})
}
