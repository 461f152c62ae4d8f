package rules

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/jobs"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine"
)

// DateHour is the hour of the organisation's day that a date anchor stands for.
const DateHour = 9

// Job is the kind of the job, and the name of the command, that a due timer runs.
const Job = "rules.fire"

// sourcePrefix marks mutations that come from rules; they set no timers themselves, so that rules cannot feed on what
// rules do.
const sourcePrefix = "rule:"

// attempts of a job: the last one comes some weeks after the first, so that no outage loses a deadline.
const attempts = 20

// Config is what rules need.
type Config struct {
	Pool   *pgxpool.Pool
	Engine *syncengine.Engine
	Jobs   *jobs.Jobs
	// Now is the clock by which timers are due, the same as the engine's and the jobs'. Defaults to time.Now.
	Now func() time.Time
	// Logger defaults to slog.Default.
	Logger *slog.Logger
}

// Rules keeps the timers of the rules that organisations' schemas define. It is safe for concurrent use; any number of
// replicas may share a database.
type Rules struct{ cfg Config }

// New makes rules; nothing happens before [Rules.Register].
func New(cfg Config) (*Rules, error) {
	if cfg.Pool == nil || cfg.Engine == nil || cfg.Jobs == nil {
		return nil, errors.New("rules.New: Pool, Engine and Jobs are needed")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Rules{cfg: cfg}, nil
}

// Register gives the engine the observer and the command, and the jobs their handler. It is called once, before the
// engine's first call.
func (r *Rules) Register() {
	r.cfg.Engine.Observe(r.Observe)
	r.cfg.Engine.Command(Job, r.command)
	r.cfg.Jobs.Handle(Job, r.fire)
}

// fireArgs is what the job and the command carry.
type fireArgs struct {
	Rule   string     `json:"rule"`
	Record satchel.ID `json:"record"`
	Kind   string     `json:"kind"`
	Token  satchel.ID `json:"token"` // of the setting of the timer
}

// timers collects what a transaction means for timers, column by column.
type timers struct {
	set struct {
		rules, anchors  []string
		records, tokens []satchel.ID
		due             []time.Time
	}
	cancel struct {
		rules   []string
		records []satchel.ID
	}
	jobs []jobs.Job
}

// Observe is the engine's observer: it brings the timers in step with the anchors that a transaction really changed. A
// rule that is published later than a record sets its timer when the record's anchor changes next.
func (r *Rules) Observe(ctx context.Context, tx pgx.Tx, changes []syncengine.Change) error {
	var t timers
	for _, c := range fold(changes) {
		for _, rule := range c.Schema.Rules {
			if rule.Kind == c.Kind.Name {
				t.add(rule, c)
			}
		}
	}
	var b pgx.Batch
	if len(t.set.rules) > 0 {
		b.Queue(sqlSet, changes[0].Org, t.set.rules, t.set.records, t.set.anchors, t.set.due, t.set.tokens)
	}
	if len(t.cancel.rules) > 0 {
		b.Queue(sqlCancel, changes[0].Org, t.cancel.rules, t.cancel.records, changes[0].ReceivedAt)
	}
	if b.Len() == 0 {
		return nil
	}
	if err := r.cfg.Jobs.Queue(&b, t.jobs...); err != nil {
		return err
	}
	return tx.SendBatch(ctx, &b).Close()
}

// fold makes one change of all that a transaction did to a record, without what rules did.
func fold(changes []syncengine.Change) []syncengine.Change {
	var out []syncengine.Change
	at := map[satchel.ID]int{}
	for _, c := range changes {
		if strings.HasPrefix(c.Source, sourcePrefix) {
			continue
		}
		if i, known := at[c.After.ID]; known {
			out[i].After = c.After
			continue
		}
		at[c.After.ID] = len(out)
		out = append(out, c)
	}
	return out
}

// add sets or cancels the timer of a rule for a changed record.
func (t *timers) add(rule *schema.Rule, c syncengine.Change) {
	was, is := anchor(rule, c.Before), anchor(rule, c.After)
	if was == is {
		return
	}
	due, ok := dueAt(rule, c.Kind, is, c.Zone)
	// What an import brings from the past was somebody's business there and then.
	if !ok || strings.HasPrefix(c.Source, "import:") && !due.After(c.ReceivedAt) {
		if was != "" {
			t.cancel.rules, t.cancel.records = append(t.cancel.rules, rule.Name), append(t.cancel.records, c.After.ID)
		}
		return
	}
	args := fireArgs{Rule: rule.Name, Record: c.After.ID, Kind: c.Kind.Name, Token: satchel.NewID()}
	t.set.rules, t.set.records = append(t.set.rules, args.Rule), append(t.set.records, args.Record)
	t.set.anchors, t.set.due = append(t.set.anchors, is), append(t.set.due, due)
	t.set.tokens = append(t.set.tokens, args.Token)
	t.jobs = append(t.jobs, jobs.Job{Kind: Job, Org: c.Org, Args: args, RunAt: due, MaxAttempts: attempts})
}

// anchor gives the value that a rule's timer hangs on; "" = the record gives no reason for a timer.
func anchor(rule *schema.Rule, rec *schema.Record) string {
	if !rec.Exists() {
		return ""
	}
	return rec.Text(rule.Anchor)
}

// dueAt gives the moment of a rule for an anchor's value: a date stands for [DateHour] o'clock of that day in the
// organisation's zone. false = the value is no moment.
func dueAt(rule *schema.Rule, k *schema.Kind, value string, zone *time.Location) (time.Time, bool) {
	f := k.Field(rule.Anchor)
	if f == nil || value == "" {
		return time.Time{}, false
	}
	var at time.Time
	var err error
	if f.Type == schema.Date {
		if at, err = time.ParseInLocation(time.DateOnly, value, zone); err == nil {
			at = time.Date(at.Year(), at.Month(), at.Day(), DateHour, 0, 0, 0, zone)
		}
	} else {
		at, err = time.Parse(time.RFC3339Nano, value)
	}
	if err != nil {
		return time.Time{}, false
	}
	return at.Add(time.Duration(rule.OffsetMS) * time.Millisecond), true
}
