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
	checkTime   = 15 * time.Minute
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
	var open []*schema.Record // of the last blob of a page, whose other records the next one may have
	for blob, after := "", (satchel.ID{}); ; {
		page, err := t.Engine.NamingAnyBlob(ctx, org, blob, after, checkPage)
		if err != nil {
			return err
		}
		groups := byBlob(append(open, page...))
		if open = nil; len(page) == checkPage {
			open, groups = groups[len(groups)-1], groups[:len(groups)-1]
			last := page[len(page)-1]
			blob, after = last.Text(blobField), last.ID
		}
		if err := checkGroups(ctx, checker, org, groups, each); err != nil || open == nil {
			return err
		}
	}
}

// byBlob parts records, which are in the order of their blobs.
func byBlob(records []*schema.Record) (groups [][]*schema.Record) {
	for i, r := range records {
		if i == 0 || r.Text(blobField) != records[i-1].Text(blobField) {
			groups = append(groups, nil)
		}
		groups[len(groups)-1] = append(groups[len(groups)-1], r)
	}
	return groups
}

func checkGroups(ctx context.Context, checker *media.Checker, org satchel.ID, groups [][]*schema.Record, each func(MediaFinding) error) error {
	found := make([][]media.Condition, len(groups))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(checkAtOnce)
	for i, records := range groups {
		g.Go(func() (err error) {
			ctx, cancel := context.WithTimeout(gctx, checkTime)
			defer cancel()
			claims := make([]media.Claim, len(records))
			for n, r := range records {
				claims[n] = media.Claim{Author: r.Author, Sound: r.Kind == voiceNote, Stored: r.Text(stateField) == stored}
			}
			found[i], err = checker.Check(ctx, org, records[0].Text(blobField), claims)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, records := range groups {
		for n, r := range records {
			if err := each(MediaFinding{r.ID, media.KeyOf(org, r.Text(blobField)), found[i][n]}); err != nil {
				return err
			}
		}
	}
	return nil
}
