package approval

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/jobs"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine"
)

// nobody is what a submission hears that has no approver.
const nobody = "there is nobody to decide: give somebody above the initiator the role %s, or somebody else the role " + adminRole

// Limits of late opinions: the newest are kept, with the begin of their comments.
const (
	maxLate        = 10
	maxLateComment = 500 // characters
)

func refuse(reason satchel.Reason, path, detail string) *syncengine.Refusal {
	return &syncengine.Refusal{Status: syncengine.Rejected, Reason: reason, Path: path, Detail: detail}
}

// owned gives a record that the person may change, with its flow.
func owned(ctx context.Context, v *syncengine.View, c syncengine.Call) (*schema.Record, *schema.Flow, error) {
	rec, err := v.Get(ctx, c.Record)
	if err != nil {
		return nil, nil, err
	}
	sees, err := v.Sees(ctx, c.Record)
	if err != nil {
		return nil, nil, err
	}
	f := flowOf(v.Schema(), c.Kind)
	switch {
	case v.Person().IsZero():
		return nil, nil, refuse(satchel.ReasonForbidden, "", "a person does this, not the system")
	case !rec.Exists() || !sees:
		return nil, nil, refuse(satchel.ReasonRecordUnknown, "", "no such record")
	case f == nil:
		return nil, nil, refuse(satchel.ReasonInvalid, "", "records of this kind need no approval")
	case !mayChange(v, rec):
		return nil, nil, refuse(satchel.ReasonForbidden, "", "no right to change this record")
	}
	return rec, f, nil
}

// mayChange tells whether the person may update the record at all.
func mayChange(v *syncengine.View, rec *schema.Record) bool {
	owner := rec.OwnerID(v.Schema().Kind(rec.Kind))
	return v.Directory().Within(v.Grants().Kind(rec.Kind).Update, v.Person(), owner, rec.Author)
}

// submit is approval.submit.
func (s *Service) submit(ctx context.Context, v *syncengine.View, c syncengine.Call) ([]syncengine.Op, error) {
	rec, f, err := owned(ctx, v, c)
	if err != nil {
		return nil, err
	}
	if r := maySubmit(rec.Text(f.StateField)); r != nil {
		return nil, r
	}
	if !needed(f, rec) {
		return ops(patch(rec.Kind, rec.ID, marked(v, f, stateApproved, satchel.ID{})))
	}
	to, ok := approver(v.Directory(), f, v.Person(), rec.OwnerID(v.Schema().Kind(rec.Kind)))
	if !ok {
		return nil, refuse(satchel.ReasonInvalid, "", fmt.Sprintf(nobody, f.Role))
	}
	form := freeze(f, rec)
	hash, err := hashOf(form)
	if err != nil {
		return nil, err
	}
	id := satchel.NewID()
	return ops(
		patch(rec.Kind, rec.ID, marked(v, f, stateWaiting, satchel.ID{})),
		create(Kind, id, map[string]any{"subject": rec.ID, "flow": f.Name, "node": f.Node, "initiator": v.Person(), "approver": to,
			"state": stateWaiting, "form": form, "form_hash": hash}),
		notice(v, to, "approval_waiting", id),
	)
}

// marked gives the fields that say a record's state; approved_by is said where the kind has such a field.
func marked(v *syncengine.View, f *schema.Flow, state string, by satchel.ID) map[string]any {
	fields := map[string]any{f.StateField: state}
	if a := v.Schema().Kind(f.Kind).Field("approved_by"); a != nil && a.Target == "person" && a.Merge == schema.ServerOnly {
		fields[a.Name] = nil
		if !by.IsZero() {
			fields[a.Name] = by
		}
	}
	return fields
}

// subject gives the approval of a command, which its person sees, with the record that it is about, both locked, and
// their flow; nil = the record is deleted, or its kind has no flow any more.
func subject(ctx context.Context, v *syncengine.View, c syncengine.Call) (app, rec *schema.Record, f *schema.Flow, err error) {
	if c.Kind != Kind {
		return nil, nil, nil, refuse(satchel.ReasonMalformed, "", "this command names an approval")
	}
	if v.Person().IsZero() {
		return nil, nil, nil, refuse(satchel.ReasonForbidden, "", "a person does this, not the system")
	}
	if app, err = v.Get(ctx, c.Record); err != nil {
		return nil, nil, nil, err
	}
	sees, err := v.Sees(ctx, c.Record)
	if err != nil {
		return nil, nil, nil, err
	}
	if !app.Exists() || !sees { // before anything else is looked at, so that the two cannot be told apart
		return nil, nil, nil, refuse(satchel.ReasonRecordUnknown, "", "no such approval")
	}
	if rec, err = v.Get(ctx, app.Ref("subject")); err != nil {
		return nil, nil, nil, err
	}
	if rec.Exists() {
		f = flowRunning(v.Schema(), app.Text("flow"), rec.Kind)
	}
	return app, rec, f, nil
}

// decide is approval.decide.
func (s *Service) decide(ctx context.Context, v *syncengine.View, c syncengine.Call) ([]syncengine.Op, error) {
	app, rec, f, err := subject(ctx, v, c)
	if err != nil {
		return nil, err
	}
	var d Decision
	if err := json.Unmarshal(c.Args, &d); err != nil || d.Decision != Approve && d.Decision != Reject {
		return nil, refuse(satchel.ReasonBadValue, "", `the arguments are {"form_hash", "decision": "approve" or "reject", "comment"}`)
	}
	state, refused := decide(taskOf(app), opinion{by: v.Person(), decision: d.Decision, formHash: d.FormHash,
		formStands: stands(app.Data["form"], rec)})
	if refused != nil {
		if refused.Reason == satchel.ReasonSuperseded {
			if err := s.tooLate(ctx, v, app.ID, d); err != nil {
				return nil, err
			}
		}
		return nil, refused
	}
	fields := map[string]any{"state": state, "decision": d.Decision, "decided_by": v.Person(), "decided_at": stamp(v.EventTime())}
	if d.Comment != "" {
		fields["comment"] = d.Comment
	}
	out := []step{patch(Kind, app.ID, fields), notice(v, app.Ref("initiator"), "approval_"+state, app.ID)}
	if f != nil {
		by := satchel.ID{}
		if state == stateApproved {
			by = v.Person()
		}
		out = append(out, patch(rec.Kind, rec.ID, marked(v, f, state, by)))
	}
	return ops(out...)
}

// withdraw is approval.withdraw.
func (s *Service) withdraw(ctx context.Context, v *syncengine.View, c syncengine.Call) ([]syncengine.Op, error) {
	app, rec, f, err := subject(ctx, v, c)
	if err != nil {
		return nil, err
	}
	t := taskOf(app)
	may := v.Person() == t.initiator
	if !may && rec.Exists() {
		sees, err := v.Sees(ctx, rec.ID)
		if err != nil {
			return nil, err
		}
		may = sees && mayChange(v, rec)
	}
	state, refused := withdraw(t, may)
	if refused != nil {
		return nil, refused
	}
	out := []step{patch(Kind, app.ID, map[string]any{"state": state, "decided_by": v.Person(), "decided_at": stamp(v.EventTime())})}
	if f != nil {
		out = append(out, patch(rec.Kind, rec.ID, marked(v, f, stateDraft, satchel.ID{})))
	}
	return ops(out...)
}

// reopen is approval.reopen.
func (s *Service) reopen(ctx context.Context, v *syncengine.View, c syncengine.Call) ([]syncengine.Op, error) {
	rec, f, err := owned(ctx, v, c)
	if err != nil {
		return nil, err
	}
	if r := mayReopen(rec.Text(f.StateField)); r != nil {
		return nil, r
	}
	return ops(patch(rec.Kind, rec.ID, marked(v, f, stateDraft, satchel.ID{})))
}

// lateArgs is an opinion that came too late.
type lateArgs struct {
	Approval satchel.ID `json:"approval"`
	Key      satchel.ID `json:"key"`
	By       satchel.ID `json:"by"`
	At       string     `json:"at"`
	Decision string     `json:"decision"`
	Comment  string     `json:"comment,omitempty"`
}

// tooLate enqueues, in the transaction of the refusal, the job that keeps the opinion: a refused mutation itself changes
// no record.
func (s *Service) tooLate(ctx context.Context, v *syncengine.View, app satchel.ID, d Decision) error {
	comment := d.Comment
	if utf8.RuneCountInString(comment) > maxLateComment {
		comment = string([]rune(comment)[:maxLateComment])
	}
	return s.cfg.Jobs.Enqueue(ctx, v.Tx(), jobs.Job{Kind: Job, Org: v.Org(), Args: lateArgs{Approval: app, Key: satchel.NewID(),
		By: v.Person(), At: stamp(v.EventTime()), Decision: d.Decision, Comment: comment}})
}

// keepLate is the job.
func (s *Service) keepLate(ctx context.Context, org satchel.ID, raw json.RawMessage) error {
	var args lateArgs
	if err := json.Unmarshal(raw, &args); err != nil {
		return jobs.Discard(err)
	}
	v, err := s.cfg.Engine.Submit(ctx, syncengine.SystemMutation{Org: org, Source: "approval", Key: "late/" + args.Key.String(),
		Cause: "a decision came after the matter was settled",
		Ops:   []syncengine.Op{{Action: syncengine.Command, Name: Job, Record: args.Approval, Kind: Kind, Args: raw}}})
	if err == nil && v.Status != syncengine.Applied {
		err = jobs.Discard(fmt.Errorf("approval: a late opinion was refused: %s %s", v.Reason, v.Detail))
	}
	return err
}

// late is the system's command that appends a late opinion.
func (s *Service) late(ctx context.Context, v *syncengine.View, c syncengine.Call) ([]syncengine.Op, error) {
	if !v.Person().IsZero() {
		return nil, refuse(satchel.ReasonUnknownCommand, "", "this server has no such command for people")
	}
	var args lateArgs
	if err := json.Unmarshal(c.Args, &args); err != nil {
		return nil, fmt.Errorf("approval.late: %w", err)
	}
	app, err := v.Get(ctx, c.Record)
	if err != nil || !app.Exists() {
		return nil, err
	}
	list, _ := app.Data["late"].([]any)
	list = append(append([]any{}, list...), map[string]any{"by": args.By, "at": args.At, "decision": args.Decision, "comment": args.Comment})
	return ops(patch(Kind, app.ID, map[string]any{"late": list[max(len(list)-maxLate, 0):]}))
}

// step is an op whose fields are not spelt yet.
type step struct {
	syncengine.Op
	fields map[string]any
}

func create(kind string, id satchel.ID, fields map[string]any) step {
	return step{syncengine.Op{Action: syncengine.Create, Record: id, Kind: kind}, fields}
}

func patch(kind string, id satchel.ID, fields map[string]any) step {
	return step{syncengine.Op{Action: syncengine.Patch, Record: id, Kind: kind}, fields}
}

// notice tells somebody about an approval; the state machine lets each be made once.
func notice(v *syncengine.View, to satchel.ID, template string, app satchel.ID) step {
	return create("notice", satchel.NewID(), map[string]any{"person": to, "template": template, "record": app, "record_kind": Kind, "at": stamp(v.Now())})
}

func ops(steps ...step) ([]syncengine.Op, error) {
	out := make([]syncengine.Op, len(steps))
	for i, s := range steps {
		raw, err := json.Marshal(s.fields)
		if err != nil {
			return nil, err
		}
		out[i] = s.Op
		out[i].Fields = raw
	}
	return out, nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
