package push

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/jobs"
)

// claim is a delivery that this worker may send.
type claim struct {
	kind, address, language string
	attempts                int
	created                 time.Time
}

// deliver is the job: it looks whether the knock is still wanted, claims it, sends it and notes the answer.
func (p *Push) deliver(ctx context.Context, org satchel.ID, raw json.RawMessage) error {
	var args deliverArgs
	if err := json.Unmarshal(raw, &args); err != nil {
		return jobs.Discard(err)
	}
	m, language, state, err := p.compose(ctx, org, args)
	if err != nil {
		return err
	}
	if state != "" {
		return p.settle(ctx, org, args, state)
	}
	now := p.cfg.Now()
	var c claim
	err = p.cfg.Pool.QueryRow(ctx, sqlClaim, org, args.Notice, args.Address, now, now.Add(-lease)).
		Scan(&c.kind, &c.address, &c.language, &c.attempts, &c.created)
	if errors.Is(err, pgx.ErrNoRows) {
		return p.unclaimed(ctx, org, args, now)
	}
	if err != nil {
		return err
	}
	sender := p.cfg.Senders[c.kind]
	switch {
	case sender == nil:
		return p.settle(ctx, org, args, "no_channel")
	case c.attempts > MaxAttempts || now.Sub(c.created) > MaxAge:
		return p.settle(ctx, org, args, "gave_up")
	}
	m.Address, m.Text = c.address, language(c.language)
	sending, cancel := context.WithTimeout(ctx, sendTimeout)
	got := sender.Send(sending, m)
	cancel()
	return p.answered(ctx, org, args, c, got)
}

// compose makes the message without address and text, whose language the claim brings; or tells the state in which the
// delivery ends unsent.
func (p *Push) compose(ctx context.Context, org satchel.ID, args deliverArgs) (m Message, text func(string) string, state string, err error) {
	rec, err := p.cfg.Engine.Record(ctx, org, args.Notice)
	if err != nil {
		return m, nil, "", err
	}
	if read, _ := rec.Data["read"].(bool); !rec.Exists() || read {
		return m, nil, "read", nil
	}
	s, dir, err := p.cfg.Engine.Org(ctx, org)
	if err != nil {
		return m, nil, "", err
	}
	if who, known := dir.Person(rec.Ref("person")); !known || who.Disabled {
		return m, nil, "address_gone", nil
	}
	t, known := s.Templates[rec.Text("template")]
	if !known {
		p.cfg.Logger.Error("push: a notice names a template that the schema does not have", "org", org, "template", rec.Text("template"))
		return m, nil, "bad_payload", nil
	}
	m.Data = map[string]string{"notice": rec.ID.String(), "record": rec.Text("record"), "kind": rec.Text("record_kind"),
		"msg_id": satchel.DerivedID(args.Address, args.Notice.String()).String()}
	return m, func(language string) string {
		if language == "zh" {
			return t.ZH
		}
		return t.EN
	}, "", nil
}

// unclaimed finds out why a delivery could not be claimed.
func (p *Push) unclaimed(ctx context.Context, org satchel.ID, args deliverArgs, now time.Time) error {
	var state string
	var claimed *time.Time
	err := p.cfg.Pool.QueryRow(ctx, sqlState, org, args.Notice, args.Address).Scan(&state, &claimed)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return err
	case state == "sending" && claimed != nil && claimed.Add(lease).After(now):
		return jobs.Snooze(claimed.Add(lease).Sub(now) + time.Second) // another worker's; look again if it died
	case state == "waiting" || state == "sending":
		return p.settle(ctx, org, args, "address_gone")
	}
	return nil
}

// answered notes what the channel said, also while this process shuts down: what was sent must not be sent again.
func (p *Push) answered(ctx context.Context, org satchel.ID, args deliverArgs, c claim, got Result) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	switch got.Answer {
	case Sent:
		p.brake.note(c.kind, false)
		return p.settle(ctx, org, args, "sent")
	case AddressDead:
		if p.brake.note(c.kind, true) {
			p.cfg.Logger.Error("push: most addresses are reported dead, so none is deleted; look at the channel's account",
				"channel", c.kind, "org", org, "code", got.Code)
		} else if _, err := p.cfg.Pool.Exec(ctx, sqlDropDead, org, args.Address); err != nil {
			return err
		}
		return p.settle(ctx, org, args, "dead")
	case BadPayload:
		p.cfg.Logger.Error("push: the channel refuses our message", "channel", c.kind, "org", org, "notice", args.Notice, "code", got.Code)
		return p.settle(ctx, org, args, "bad_payload")
	case Misconfigured:
		p.cfg.Logger.Error("push: the channel refuses our account", "channel", c.kind, "org", org, "code", got.Code)
		if c.attempts >= MaxAttempts {
			return p.settle(ctx, org, args, "misconfigured")
		}
		got.RetryAfter = max(got.RetryAfter, 15*time.Minute) // time for somebody to mend it
	default:
		if c.attempts >= MaxAttempts {
			return p.settle(ctx, org, args, "gave_up")
		}
	}
	if _, err := p.cfg.Pool.Exec(ctx, sqlRetry, org, args.Notice, args.Address); err != nil {
		return err
	}
	return jobs.Snooze(pause(c.attempts, got.RetryAfter))
}

// pause is how long to wait before the next send: what the channel asked for, else a minute, doubled with each attempt
// up to an hour; a little more by chance, so that not all come back at once.
func pause(attempts int, asked time.Duration) time.Duration {
	d := asked
	if d <= 0 {
		d = time.Minute << min(attempts-1, 6)
	}
	d = min(d, time.Hour)
	return d + rand.N(d/10+1)
}

func (p *Push) settle(ctx context.Context, org satchel.ID, args deliverArgs, state string) error {
	_, err := p.cfg.Pool.Exec(ctx, sqlSettle, org, args.Notice, args.Address, state, p.cfg.Now())
	return err
}
