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
		"stored. What should be there and is not, or not in its size, is listed, and so is what people of several names claim; then the exit status is 1. " +
		"Nothing is deleted, servers may run, and it can be run again."
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
		var sum tally
		for _, o := range orgs {
			n, err := c.check(ctx, std, tools, store, o)
			if err != nil {
				return err
			}
			for i := range n {
				sum[i] += n[i]
			}
		}
		switch missing, unclear := sum[media.Missing], sum[media.Unclear]; {
		case missing > 0:
			return fmt.Errorf("%d missing. Is this the right blob store (BLOB_URL)? Then bring their objects back from the bucket's older versions or its copy", missing)
		case unclear > 0:
			return fmt.Errorf("%d unclear: people named the same bytes, and the database has lost who sent them. Look at them in the blob store and ask; who sent them can attach them again", unclear)
		}
		return nil
	})
}

// tally counts the conditions.
type tally [media.Missing + 1]int

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

// check tells how an organisation's bytes stand.
func (c *mediaCheckCmd) check(ctx context.Context, std streams, tools *app.Tools, store media.Store, o identity.Org) (n tally, err error) {
	listed := map[media.Condition]string{media.Missing: "missing", media.Unclear: "unclear"}
	total, last := 0, time.Now()
	err = tools.CheckMedia(ctx, store, o.ID, func(f app.MediaFinding) error {
		n[f.Condition]++
		if word := listed[f.Condition]; word != "" {
			fmt.Fprintf(std.out, "%s\t%s\trecord %s\t%s\n", word, o.Slug, f.Record, f.Key)
		}
		if total++; time.Since(last) > mediaNotice {
			last = time.Now()
			fmt.Fprintf(std.err, "%s: %d looked at …\n", o.Slug, total)
		}
		return nil
	})
	if err != nil {
		fmt.Fprintf(std.err, "%s: ended after %d; what was found so far is marked, run it again\n", o.Slug, total)
		return n, err
	}
	fmt.Fprintf(std.out, "%s: %d in order, %d found and marked as stored, %d awaited from phones, %d unclear, %d missing\n",
		o.Slug, n[media.Sound], n[media.Found], n[media.Awaited], n[media.Unclear], n[media.Missing])
	return n, nil
}
