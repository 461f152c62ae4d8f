package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"

	"golang.org/x/term"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/internal/demoorg"
)

// loadDemo loads the demo company into an empty database, or completes a load that was killed.
func (c *serveCmd) loadDemo(ctx context.Context, a *app.App, db *database, std streams) error {
	if c.DemoData == "none" {
		return nil
	}
	p := progress{w: std.err}
	if f, ok := std.err.(*os.File); ok {
		p.bar = term.IsTerminal(int(f.Fd()))
	}
	_, err := demoorg.Load(ctx, demoorg.Config{
		Pool: db.pool, Identity: a.Identity, Engine: a.Engine, Small: c.DemoData == "small", Progress: p.show,
	})
	if err != nil {
		return fmt.Errorf("the demo company could not be loaded (start again: it goes on where it stopped): %w", err)
	}
	return nil
}

// progress shows how far a load is: as a bar on a terminal, else by a few lines.
type progress struct {
	w    io.Writer
	bar  bool
	last int // percent
}

func (p *progress) show(done, total int) {
	const width = 40
	percent := done * 100 / max(total, 1)
	switch {
	case p.bar:
		full := done * width / max(total, 1)
		fmt.Fprintf(p.w, "\rLoading the demo company [%s%s] %3d%%", strings.Repeat("#", full), strings.Repeat(".", width-full), percent)
		if done == total {
			fmt.Fprintln(p.w)
		}
	case done == 0 || done == total || percent >= p.last+25:
		p.last = percent
		fmt.Fprintf(p.w, "Loading the demo company: %d of %d records\n", done, total)
	}
}

// announce prints where the server is and how to get in. It is called when the port is taken and calls are about to
// be answered.
func (c *serveCmd) announce(ctx context.Context, a *app.App, l net.Listener, std streams) error {
	base := c.baseURL(l)
	fmt.Fprintf(std.out, "Satchel serves on %s/\n", base)
	for _, other := range lanURLs(base, c.Listen) {
		fmt.Fprintf(std.out, "           and on %s/   (phones in the same network)\n", other)
	}
	if c.PublicURL != "" {
		base = strings.TrimRight(c.PublicURL, "/")
	}
	code, empty, err := a.Identity.EnsureSetupCode(ctx)
	if err != nil {
		return err
	}
	if empty {
		// The code stands behind the #, which browsers keep to themselves: no access log gets it.
		fmt.Fprintf(std.out, "\nThere is no organisation yet. Open this link once to set the first one up (a new start makes a new link):\n\n  %s/#setup=%s\n\n", base, code)
		return nil
	}
	if !c.Dev {
		return nil
	}
	return c.banner(ctx, a, base, std)
}

// baseURL is the address of the listener, as this machine reaches it, without a slash at its end.
func (c *serveCmd) baseURL(l net.Listener) string {
	scheme := "http"
	if c.TLSCert != "" {
		scheme = "https"
	}
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return scheme + "://" + l.Addr().String()
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() || ip.IsLoopback() {
		host = "localhost"
		if ip != nil && ip.IsLoopback() && ip.To4() != nil && !ip.IsUnspecified() {
			host = ip.String()
		}
	}
	return (&url.URL{Scheme: scheme, Host: net.JoinHostPort(host, port)}).String()
}

// banner is what a newcomer sees.
func (c *serveCmd) banner(ctx context.Context, a *app.App, base string, std streams) error {
	if c.DatabaseURL == "" {
		fmt.Fprintf(std.out, "Data: %s (Ctrl-C ends the server; the data stay)\n", c.DataDir)
	}
	org, err := a.Identity.OrgBySlug(ctx, demoorg.Slug)
	if satchel.KindOf(err) == satchel.NotFound {
		return nil // somebody's own organisation
	}
	if err != nil {
		return err
	}
	if whole, err := demoorg.Complete(ctx, a.Engine, org); err != nil || !whole {
		return err
	}
	fmt.Fprintf(std.out, "\nLog-ins of the demo company (password %s):\n", demoorg.Password)
	for _, l := range demoorg.Logins() {
		fmt.Fprintf(std.out, "  %-9s %s\n", l.Role, l.Login)
	}
	lines, err := curls(base, c.DemoData == "small")
	if err != nil {
		return err
	}
	fmt.Fprintf(std.out, "\nThree commands to copy, one after the other: sign in, sync, log a visit\n\n")
	for _, line := range lines {
		fmt.Fprintf(std.out, "%s\n\n", line)
	}
	return nil
}

// lanURLs gives the addresses of this machine where others can reach a server that listens everywhere.
func lanURLs(base, listen string) []string {
	host, _, err := net.SplitHostPort(listen)
	if err != nil || host != "" && !net.ParseIP(host).IsUnspecified() {
		return nil
	}
	u, err := url.Parse(base)
	if err != nil || u.Hostname() != "localhost" {
		return nil
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []string
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if ok && n.IP.To4() != nil && n.IP.IsPrivate() && len(out) < 2 {
			out = append(out, u.Scheme+"://"+net.JoinHostPort(n.IP.String(), u.Port()))
		}
	}
	return out
}

// curls are three commands that work as they are printed, one after the other, with curl and sed alone. The third may
// be sent again: its number and id are known then, and the answer is the same.
func curls(base string, small bool) ([]string, error) {
	account, err := demoorg.RepAccount(small)
	if err != nil {
		return nil, err
	}
	const jsonType = "-H 'Content-Type: application/json'"
	const bearer = `-H "Authorization: Bearer $TOKEN"`
	return []string{
		fmt.Sprintf(`TOKEN=$(curl -sS %s/satchel.v1.AuthService/SignIn %s \
  -d '{"login":"%s","password":"%s"}' | sed -n 's/.*"accessToken": *"\([^"]*\)".*/\1/p')`,
			base, jsonType, demoorg.Logins()[0].Login, demoorg.Password),
		fmt.Sprintf(`curl -sS %s/satchel.v1.SyncService/Sync %s \
  %s -d '{"maxBytes":2000}'; echo`, base, bearer, jsonType),
		fmt.Sprintf(`curl -sS %s/satchel.v1.SyncService/Sync %s \
  %s -d '{"noPage":true,"mutations":[{"number":"1","id":"%s","ops":[{"recordId":"%s","kind":"visit",
  "create":{"fields":"{\"account\":\"%s\",\"subject\":\"Said hello by curl\"}"}}]}]}'; echo`,
			base, bearer, jsonType, satchel.NewID(), satchel.NewID(), account),
	}, nil
}
