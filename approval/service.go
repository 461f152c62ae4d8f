package approval

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/jobs"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine"
)

// The commands, as devices name them.
const (
	// CommandSubmit submits the record that it names; args {}.
	CommandSubmit = "approval.submit"
	// CommandDecide decides the approval that it names; args {"form_hash", "decision": "approve" or "reject", "comment"}.
	CommandDecide = "approval.decide"
	// CommandWithdraw withdraws the approval that it names; the record becomes a draft; args {}.
	CommandWithdraw = "approval.withdraw"
	// CommandReopen makes a draft of the approved record that it names, so that it can be changed; args {}.
	CommandReopen = "approval.reopen"
)

// Job is the kind of the job, and the name of the system's command, that keeps an opinion which came too late.
const Job = "approval.late"

// Kind is the kind of the records that approvals are.
const Kind = "approval"

// Config is what a service needs.
type Config struct {
	Engine *syncengine.Engine
	Jobs   *jobs.Jobs
	// Logger defaults to slog.Default.
	Logger *slog.Logger
}

// Service runs approvals. It keeps no state and is safe for concurrent use; any number of replicas may share a database.
type Service struct{ cfg Config }

// New makes a service; nothing happens before [Service.Register].
func New(cfg Config) (*Service, error) {
	if cfg.Engine == nil || cfg.Jobs == nil {
		return nil, errors.New("approval.New: Engine and Jobs are needed")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Service{cfg: cfg}, nil
}

// Register gives the engine the commands and the guard, and the jobs their handler. It is called once, before the
// engine's first call.
func (s *Service) Register() {
	s.cfg.Engine.Guard(guard)
	s.cfg.Engine.Command(CommandSubmit, s.submit)
	s.cfg.Engine.Command(CommandDecide, s.decide)
	s.cfg.Engine.Command(CommandWithdraw, s.withdraw)
	s.cfg.Engine.Command(CommandReopen, s.reopen)
	s.cfg.Engine.Command(Job, s.late)
	s.cfg.Jobs.Handle(Job, s.keepLate)
}

// Preview is who would decide.
type Preview struct {
	NotNeeded bool       // submitting approves at once
	Approver  satchel.ID // the person who would decide as things are now; zero when not needed
	Node      string     // the flow's node; "" when not needed
}

// Preview tells who would approve a record if the caller submitted it now. Nothing happens. Errors: NotFound when the
// caller does not see the record, Invalid when its kind has no flow, Precondition when there is nobody to decide.
func (s *Service) Preview(ctx context.Context, who *satchel.Principal, record satchel.ID) (Preview, error) {
	if _, err := s.visible(ctx, who, record); err != nil {
		return Preview{}, err
	}
	// As it stands, not as the caller sees it: a hidden amount counts all the same.
	rec, err := s.cfg.Engine.Record(ctx, who.Org, record)
	if err != nil {
		return Preview{}, err
	}
	sch, dir, err := s.cfg.Engine.Org(ctx, who.Org)
	if err != nil {
		return Preview{}, err
	}
	f := flowOf(sch, rec.Kind)
	if f == nil {
		return Preview{}, satchel.E(satchel.Invalid, satchel.ReasonInvalid, "records of this kind need no approval")
	}
	if !needed(f, rec) {
		return Preview{NotNeeded: true}, nil
	}
	id, ok := approver(dir, f, who.Person, rec.OwnerID(sch.Kind(rec.Kind)))
	if !ok {
		return Preview{}, satchel.E(satchel.Precondition, satchel.ReasonInvalid, nobody, f.Role)
	}
	return Preview{Approver: id, Node: f.Node}, nil
}

// Submit submits a record in the caller's name. key names the attempt: with the same key it takes effect once, and the
// verdict is the same. The error is NotFound when the caller does not see the record; what the rules of approvals refuse
// is a verdict.
func (s *Service) Submit(ctx context.Context, who *satchel.Principal, record satchel.ID, key string) (syncengine.Verdict, error) {
	return s.onRecord(ctx, who, CommandSubmit, record, key)
}

// Reopen makes a draft of an approved record, like Submit.
func (s *Service) Reopen(ctx context.Context, who *satchel.Principal, record satchel.ID, key string) (syncengine.Verdict, error) {
	return s.onRecord(ctx, who, CommandReopen, record, key)
}

func (s *Service) onRecord(ctx context.Context, who *satchel.Principal, name string, record satchel.ID, key string) (syncengine.Verdict, error) {
	rec, err := s.visible(ctx, who, record)
	if err != nil {
		return syncengine.Verdict{}, err
	}
	return s.run(ctx, who, name, rec.Kind, record, struct{}{}, key)
}

// Decision is what an approver says about what he saw.
type Decision struct {
	FormHash string `json:"form_hash"`         // of the approval as he saw it
	Decision string `json:"decision"`          // [Approve] or [Reject]
	Comment  string `json:"comment,omitempty"` // at most 2,000 characters
}

// Decide decides an approval in the caller's name, like Submit: too late, about another form or by somebody else is a
// verdict, too.
func (s *Service) Decide(ctx context.Context, who *satchel.Principal, approval satchel.ID, d Decision, key string) (syncengine.Verdict, error) {
	return s.run(ctx, who, CommandDecide, Kind, approval, d, key)
}

// Withdraw withdraws an approval in the caller's name, like Submit.
func (s *Service) Withdraw(ctx context.Context, who *satchel.Principal, approval satchel.ID, key string) (syncengine.Verdict, error) {
	return s.run(ctx, who, CommandWithdraw, Kind, approval, struct{}{}, key)
}

// run lets a command through the engine's door, as a device's would come. A key counts for its record only: used for
// another one by mistake, it does not bring the verdict of the first.
func (s *Service) run(ctx context.Context, who *satchel.Principal, name, kind string, record satchel.ID, args any, key string) (syncengine.Verdict, error) {
	if key == "" || len(key) > 100 {
		return syncengine.Verdict{}, satchel.E(satchel.Invalid, satchel.ReasonMalformed, "a key of 1 to 100 characters names the attempt")
	}
	raw, err := json.Marshal(args)
	if err != nil {
		return syncengine.Verdict{}, err
	}
	return s.cfg.Engine.Submit(ctx, syncengine.SystemMutation{Org: who.Org, Source: "approval", Key: who.Person.String() + "/" + name + "/" + record.String() + "/" + key,
		Actor: who, Cause: "a person did it online",
		Ops: []syncengine.Op{{Action: syncengine.Command, Name: name, Record: record, Kind: kind, Args: raw}}})
}

func (s *Service) visible(ctx context.Context, who *satchel.Principal, record satchel.ID) (*schema.Record, error) {
	rec, err := s.cfg.Engine.Visible(ctx, who, record)
	if err == nil && rec == nil {
		err = satchel.E(satchel.NotFound, satchel.ReasonNotFound, "no such record")
	}
	return rec, err
}
