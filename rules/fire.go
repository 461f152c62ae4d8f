package rules

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/jobs"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine"
)

// fire is the job: it asks whether the timer still waits with the setting that enqueued it, and lets the command decide
// under the record's lock.
func (r *Rules) fire(ctx context.Context, org satchel.ID, raw json.RawMessage) error {
	var args fireArgs
	if err := json.Unmarshal(raw, &args); err != nil {
		return jobs.Discard(err)
	}
	var due time.Time
	err := r.cfg.Pool.QueryRow(ctx, sqlWaiting, org, args.Rule, args.Record, args.Token).Scan(&due)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil // moved, cancelled or done
	}
	if err != nil {
		return err
	}
	if early := due.Sub(r.cfg.Now()); early > 0 { // this replica's clock is behind that of the queue
		return jobs.Snooze(early)
	}
	v, err := r.cfg.Engine.Submit(ctx, syncengine.SystemMutation{Org: org, Source: sourcePrefix + args.Rule,
		Key: args.Record.String() + "/" + args.Token.String(), Cause: "the rule " + args.Rule + " was due",
		Ops: []syncengine.Op{{Action: syncengine.Command, Name: Job, Record: args.Record, Kind: args.Kind, Args: raw}}})
	if err != nil {
		return err
	}
	if v.Status != syncengine.Applied {
		if _, err := r.cfg.Pool.Exec(ctx, sqlSettle, org, args.Rule, args.Record, args.Token, "failed", r.cfg.Now(), nil); err != nil {
			return err
		}
		return jobs.Discard(fmt.Errorf("rules: the notice of %s was refused: %s %s", args.Rule, v.Reason, v.Detail))
	}
	return nil
}

// command looks again, under the lock of the record, and makes the notice. What it finds it writes into the timer's row
// in the engine's transaction, so that the notice and the row agree.
func (r *Rules) command(ctx context.Context, v *syncengine.View, c syncengine.Call) ([]syncengine.Op, error) {
	if !v.Person().IsZero() {
		return nil, &syncengine.Refusal{Status: syncengine.Rejected, Reason: satchel.ReasonUnknownCommand,
			Detail: "this server has no such command for people"}
	}
	var args fireArgs
	if err := json.Unmarshal(c.Args, &args); err != nil {
		return nil, fmt.Errorf("rules.command: %w", err)
	}
	rec, err := v.Get(ctx, c.Record) // the record's lock before the timer's, as the observer has it
	if err != nil {
		return nil, err
	}
	var was string
	var due time.Time
	err = v.Tx().QueryRow(ctx, sqlLock, v.Org(), args.Rule, args.Record, args.Token).Scan(&was, &due)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	rule := ruleNamed(v.Schema(), args.Rule, c.Kind)
	state, person := r.judge(v, rule, rec, was)
	var late any
	var ops []syncengine.Op
	if state == "fired" {
		late = max(v.Now().Sub(due), 0).Milliseconds()
		op, err := notice(ctx, v, rule, rec, was, person)
		if err != nil {
			return nil, err
		}
		ops = append(ops, op...)
	}
	_, err = v.Tx().Exec(ctx, sqlSettle, v.Org(), args.Rule, args.Record, args.Token, state, v.Now(), late)
	return ops, err
}

// judge says what becomes of a due timer, and whom it tells.
func (r *Rules) judge(v *syncengine.View, rule *schema.Rule, rec *schema.Record, was string) (state string, to satchel.ID) {
	if rule == nil || anchor(rule, rec) != was {
		return "cancelled", to
	}
	if rule.When != nil {
		ok, err := rule.When.True(map[string]map[string]any{"new": rec.Data})
		if err != nil {
			r.cfg.Logger.Error("rules: a condition cannot be evaluated; it counts as false", "org", v.Org(), "rule", rule.Name, "error", err)
		}
		if !ok || err != nil {
			return "skipped", to
		}
	}
	to = rec.OwnerID(v.Schema().Kind(rec.Kind))
	if rule.Notify != "" {
		to = rec.Ref(rule.Notify)
	}
	if p, known := v.Directory().Person(to); !known || p.Disabled {
		return "skipped", to
	}
	return "fired", to
}

// notice gives the op that creates the notice: its id follows from rule, record and anchor, so that an anchor that comes
// back to a moment for which the person was told already tells nobody twice.
func notice(ctx context.Context, v *syncengine.View, rule *schema.Rule, rec *schema.Record, was string, to satchel.ID) ([]syncengine.Op, error) {
	id := satchel.DerivedID(rec.ID, sourcePrefix+rule.Name+"/"+was)
	old, err := v.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	switch {
	case old != nil && old.Kind == "notice" && old.Author.IsZero():
		return nil, nil
	case old != nil:
		id = satchel.NewID() // somebody took the id for a record of his own
	}
	fields, err := json.Marshal(map[string]any{"person": to, "template": rule.Template, "record": rec.ID, "record_kind": rec.Kind,
		"rule": rule.Name, "at": v.Now().UTC().Format(time.RFC3339Nano)})
	return []syncengine.Op{{Action: syncengine.Create, Record: id, Kind: "notice", Fields: fields}}, err
}

// ruleNamed finds the rule; nil = the schema of now has none of that name for the kind.
func ruleNamed(s *schema.Schema, name, kind string) *schema.Rule {
	for _, rule := range s.Rules {
		if rule.Name == name && rule.Kind == kind {
			return rule
		}
	}
	return nil
}
