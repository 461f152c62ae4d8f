package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/desk"
	"github.com/satchel-sync/satchel/identity"
	"github.com/satchel-sync/satchel/internal/app"
)

// The limits of what the doctor tells of phones.
const (
	doctorOrgs   = 200 // organisations
	doctorPhones = 50  // in a table
)

// phone is a device as the doctor tells of it.
type phone struct {
	Org         string     `json:"org"`
	Device      string     `json:"device"`
	Person      string     `json:"person"`
	Name        string     `json:"name,omitempty"`
	Platform    string     `json:"platform,omitempty"`
	AppVersion  string     `json:"app_version,omitempty"`
	Schema      int        `json:"schema_version,omitempty"`
	Profile     string     `json:"profile,omitempty"`
	LastContact *time.Time `json:"last_contact,omitempty"`
	Outbox      uint32     `json:"outbox"`
	MediaBytes  uint64     `json:"media_bytes"`
	Lag         uint64     `json:"lag"`
	Kept        int        `json:"kept"`
	Troubles    []trouble  `json:"troubles"`
}

type trouble struct {
	Kind string `json:"kind"`
	Text string `json:"text"`
}

// phones looks at the devices of every organisation, or of the one that was asked for.
func (c *doctorCmd) phones(ctx context.Context, db *database, r *report) {
	tools, err := app.Operator(db.pool)
	if err != nil {
		r.add("phones", bad, "unknown", err.Error())
		return
	}
	orgs, err := c.organisations(ctx, tools.Identity)
	if err != nil {
		r.add("phones", bad, "unknown", explain(err).Error())
		return
	}
	if len(orgs) == 0 {
		r.add("phones", good, "there is no organisation yet", "")
		return
	}
	var all []phone
	found := map[desk.Kind]int{}
	devices, troubled, kept := 0, 0, 0
	for _, org := range orgs {
		states, err := states(ctx, tools.Desk, org.ID)
		if err != nil {
			r.add("phones", bad, "unknown", explain(err).Error())
			return
		}
		for _, s := range states {
			devices++
			kept += s.Kept
			if len(s.Troubles) > 0 {
				troubled++
				found[s.Troubles[0].Kind]++
			}
			if c.Device == "" && len(s.Troubles) > 0 && c.Org != "" || strings.EqualFold(s.Device.String(), c.Device) {
				all = append(all, phoneOf(org, s))
			}
		}
	}
	state := good
	if found[desk.Stuck]+found[desk.OldApp]+found[desk.Kept]+found[desk.Behind] > 0 {
		state = warn
	}
	text := fmt.Sprintf("%d of %d in sync", devices-troubled, devices)
	if kept > 0 {
		text += fmt.Sprintf("; refused or conflicting changes that wait for the office: %d", kept)
	}
	advice := "`satchel doctor --org=NAME` lists those with troubles"
	if c.Org != "" {
		advice = "see below; the office desk (DeskService) settles what was refused"
	}
	r.add("phones", state, text, advice)
	if c.Device != "" && len(all) == 0 {
		r.add("phone "+c.Device, bad, "unknown", "no organisation that was looked at has this device; its id is what the list shows")
	}
	r.Phones = all
}

// organisations gives those to look at.
func (c *doctorCmd) organisations(ctx context.Context, id *identity.Service) ([]identity.Org, error) {
	if c.Org == "" {
		return id.Orgs(ctx, "", doctorOrgs)
	}
	org, err := id.OrgBySlug(ctx, c.Org)
	return []identity.Org{{ID: org, Slug: c.Org}}, err
}

// states gives all devices of an organisation.
func states(ctx context.Context, d *desk.Desk, org satchel.ID) (all []desk.State, err error) {
	f := desk.StateFilter{Limit: desk.MaxStates}
	for {
		page, next, err := d.AllStates(ctx, org, f)
		all = append(all, page...)
		if err != nil || next == "" {
			return all, err
		}
		f.After = next
	}
}

func phoneOf(org identity.Org, s desk.State) phone {
	p := phone{Org: org.Slug, Device: s.Device.String(), Person: s.PersonName, Name: s.Name, Platform: s.Platform, AppVersion: s.AppVersion,
		Schema: s.SchemaVersion, Profile: s.Profile, Outbox: s.Outbox, MediaBytes: s.MediaBytes, Lag: s.Lag, Kept: s.Kept,
		Troubles: []trouble{}}
	if !s.Contact.IsZero() {
		p.LastContact = &s.Contact
	}
	for _, t := range s.Troubles {
		p.Troubles = append(p.Troubles, trouble{string(t.Kind), t.EN})
	}
	return p
}

// phoneTable prints phones that are not in sync.
// Names come last: characters that are two columns wide would push what is behind them out of line.
func phoneTable(w io.Writer, org string, phones []phone, now time.Time) {
	fmt.Fprintln(w, "\nPhones that are not in sync, the most pressing first:")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "DEVICE\tLAST CONTACT\tWAITS\tKEPT\tWHY\tPERSON")
	for _, p := range phones[:min(len(phones), doctorPhones)] {
		var why []string
		for _, tr := range p.Troubles {
			why = append(why, strings.ToLower(strings.ReplaceAll(tr.Kind, "_", " ")))
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%s\t%s\n", p.Device, ago(p.LastContact, now), p.Outbox, p.Kept, strings.Join(why, ", "), p.Person)
	}
	_ = t.Flush() // w is what failed then
	if more := len(phones) - doctorPhones; more > 0 {
		fmt.Fprintf(w, "… and %d more; --json has them all.\n", more)
	}
	fmt.Fprintf(w, "Why one is not, and what to do: satchel doctor --org=%s --device=ID\n", org)
}

// tell prints why one phone is not in sync.
func (p phone) tell(w io.Writer, now time.Time) {
	fmt.Fprintf(w, "\n%s's %s (%s)\n", p.Person, nameOr(p.Name, "device"), p.Device)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(t, "  %s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	line("app", "%s, version %s, schema %s, profile %s", nameOr(p.Platform, "unknown platform"), nameOr(p.AppVersion, "not told"),
		nameOr(number(p.Schema), "not told"), nameOr(p.Profile, "full"))
	line("last contact", "%s", ago(p.LastContact, now))
	line("waited on it then", "%d changes, %.1f MiB of media", p.Outbox, float64(p.MediaBytes)/(1<<20))
	line("commits since it pulled", "%d", p.Lag)
	line("refused or conflicting", "%d", p.Kept)
	_ = t.Flush() // w is what failed then
	if len(p.Troubles) == 0 {
		fmt.Fprintln(w, "It is in sync, as far as the server knows.")
		return
	}
	fmt.Fprintln(w, "Why it is not in sync:")
	for _, tr := range p.Troubles {
		fmt.Fprintf(w, "  - %s\n", tr.Text)
	}
}

func number(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func nameOr(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// ago gives the time since a contact, in its largest whole unit.
func ago(at *time.Time, now time.Time) string {
	if at == nil {
		return "never"
	}
	switch d := now.Sub(*at); {
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", d/time.Hour)
	default:
		return fmt.Sprintf("%d days ago", d/(24*time.Hour))
	}
}

// checkFlags refuses what makes no sense.
func (c *doctorCmd) checkFlags() error {
	if c.Device == "" {
		return nil
	}
	if _, err := satchel.ParseID(c.Device); err != nil {
		return usagef("--device: %q is no id of a device (a UUID)", c.Device)
	}
	return nil
}
