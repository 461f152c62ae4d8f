package app

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/media"
	"github.com/satchel-sync/satchel/schema"
)

// The limits of CheckMedia.
const (
	checkPage   = 500 // records
	checkAtOnce = 8   // questions to the blob store
	checkTime   = 2 * time.Minute
)

// MediaFinding is how the bytes stand that a record names.
type MediaFinding struct {
	Record    satchel.ID
	Key       string // where they lie in the blob store
	Condition media.Condition
}

// CheckMedia compares what an organisation's records say of their bytes with the blob store (see [media.Checker]), and
// tells each of every one. It ends at the first error, of each too.
func (t *Tools) CheckMedia(ctx context.Context, store media.Store, org satchel.ID, each func(MediaFinding) error) error {
	checker := media.NewChecker(t.pool, store, t.jobs, time.Now)
	for blob, after := "", (satchel.ID{}); ; {
		page, err := t.Engine.NamingAnyBlob(ctx, org, blob, after, checkPage)
		if err != nil || len(page) == 0 {
			return err
		}
		found := make([]MediaFinding, len(page))
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(checkAtOnce)
		for i, r := range page {
			g.Go(func() (err error) {
				ctx, cancel := context.WithTimeout(gctx, checkTime)
				defer cancel()
				found[i] = MediaFinding{Record: r.ID, Key: media.KeyOf(org, r.Text(blobField))}
				found[i].Condition, err = checker.Check(ctx, org, claimOf(r))
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		for _, f := range found {
			if err := each(f); err != nil {
				return err
			}
		}
		last := page[len(page)-1]
		blob, after = last.Text(blobField), last.ID
	}
}

func claimOf(r *schema.Record) media.Claim {
	return media.Claim{Author: r.Author, SHA256: r.Text(blobField), Sound: r.Kind == voiceNote, Stored: r.Text(stateField) == stored}
}
