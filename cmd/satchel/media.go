package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/satchel-sync/satchel/identity"
	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/media"
)

// mediaCmd is `satchel media`.
type mediaCmd struct {
	Check mediaCheckCmd `cmd:"" help:"Look for the bytes of every photo and voice note in the blob store, and mark what is there after all."`
}

// mediaCheckCmd is `satchel media check`.
type mediaCheckCmd struct {
	databaseFlags `embed:""`
	blobFlags     `embed:""`
	Org           string `placeholder:"SLUG" help:"Only of this organisation. Empty = of all."`
}

// Help tells more.
func (*mediaCheckCmd) Help() string {
	return "For after a restore, of the database or of the blob store. Phones let go of a photo when its record says that it is stored, so a database that " +
		"was put back to the moment before would wait for it for ever: what lies in the blob store after all is read, proven by its SHA-256, and marked as " +
		"stored. What should be there and is not is listed, and the exit status is 1. Nothing is deleted, servers may run, and it can be run again."
}

// mediaNotice is how often the progress is told.
const mediaNotice = 10 * time.Second

// Run checks all organisations, or one.
func (c *mediaCheckCmd) Run(ctx context.Context, std streams) error {
	return c.operateAll(ctx, std, func(tools *app.Tools) error {
		address, err := c.url(&c.databaseFlags)
		if err != nil {
			return err
		}
		store, err := media.OpenStore(ctx, address)
		if err != nil {
			return err
		}
		orgs, err := c.orgs(ctx, tools.Identity)
		if err != nil {
			return err
		}
		missing := 0
		for _, o := range orgs {
			n, err := c.check(ctx, std, tools, store, o)
			if err != nil {
				return err
			}
			missing += n
		}
		if missing > 0 {
			return fmt.Errorf("%d missing. Is this the right blob store (BLOB_URL)? Then bring their objects back from the bucket's older versions or its copy", missing)
		}
		return nil
	})
}

func (c *mediaCheckCmd) orgs(ctx context.Context, id *identity.Service) ([]identity.Org, error) {
	if c.Org != "" {
		o, err := id.OrgBySlug(ctx, c.Org)
		return []identity.Org{{ID: o, Slug: c.Org}}, err
	}
	var all []identity.Org
	for after := ""; ; {
		page, err := id.Orgs(ctx, after, doctorOrgs)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if len(page) < doctorOrgs {
			break
		}
		after = page[len(page)-1].Slug
	}
	if len(all) == 0 {
		return nil, errors.New("there is no organisation in this database")
	}
	return all, nil
}

// check tells how an organisation's bytes stand, and how many are missing.
func (c *mediaCheckCmd) check(ctx context.Context, std streams, tools *app.Tools, store media.Store, o identity.Org) (missing int, err error) {
	var n [media.Missing + 1]int
	total, last := 0, time.Now()
	err = tools.CheckMedia(ctx, store, o.ID, func(f app.MediaFinding) error {
		n[f.Condition]++
		if f.Condition == media.Missing {
			fmt.Fprintf(std.out, "missing\t%s\trecord %s\t%s\n", o.Slug, f.Record, f.Key)
		}
		if total++; time.Since(last) > mediaNotice {
			last = time.Now()
			fmt.Fprintf(std.err, "%s: %d looked at …\n", o.Slug, total)
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("%s, after %d: %w", o.Slug, total, err)
	}
	fmt.Fprintf(std.out, "%s: %d in order, %d found and marked as stored, %d awaited from phones, %d missing\n",
		o.Slug, n[media.Sound], n[media.Found], n[media.Awaited], n[media.Missing])
	return n[media.Missing], nil
}
