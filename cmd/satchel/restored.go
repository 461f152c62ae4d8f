package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/term"

	"github.com/satchel-sync/satchel/internal/app"
)

// restoredCmd is `satchel restored`.
type restoredCmd struct {
	databaseFlags `embed:""`
	Yes           bool `help:"Do not ask."`
}

// Help tells more.
func (*restoredCmd) Help() string {
	return "For a database that was put back from a snapshot of its disk or of its virtual machine, before phones reach it: that shows in nothing. " +
		"A restore from a base backup or an archive (PITR) and a standby that was promoted are noticed without this command; then it does no harm. " +
		"It begins a new epoch: phones offer again what they were told is safe and this database does not have, and compare their data with it. " +
		"Nothing is deleted. Run it without need, it costs every phone one comparison."
}

// Run opens an epoch.
func (c *restoredCmd) Run(ctx context.Context, std streams) error {
	return c.operateAll(ctx, std, func(tools *app.Tools) error {
		orgs, err := tools.Identity.Orgs(ctx, "", doctorOrgs)
		if err != nil {
			return err
		}
		if len(orgs) == 0 {
			return errors.New("there is no organisation in this database; is it the one that was restored?")
		}
		names := make([]string, len(orgs))
		for i, o := range orgs {
			names[i] = o.Slug
		}
		fmt.Fprintf(std.out, "Organisations in this database: %s.\n", strings.Join(names, ", "))
		if err := c.confirm(std); err != nil {
			return err
		}
		if err := tools.Engine.OpenEpoch(ctx); err != nil {
			return err
		}
		fmt.Fprintln(std.out, "A new epoch has begun. Servers that run take notice within a second.\n"+
			"At its next contact each phone sends again what this database has lost, and compares its data;\n"+
			"what only phones still hold waits at the office desk (ListSalvage) to be brought back.")
		return nil
	})
}

// confirm asks on a terminal; elsewhere --yes must be given.
func (c *restoredCmd) confirm(std streams) error {
	if c.Yes {
		return nil
	}
	if !term.IsTerminal(int(std.in.Fd())) {
		return usagef("this begins a new epoch in the database: say so by --yes where nobody can be asked")
	}
	fmt.Fprint(std.err, "Begin a new epoch in it? [y/N] ")
	line, err := bufio.NewReader(io.LimitReader(std.in, 100)).ReadString('\n')
	if answer := strings.ToLower(strings.TrimSpace(line)); err != nil || answer != "y" && answer != "yes" {
		return errors.New("nothing was done")
	}
	return nil
}
