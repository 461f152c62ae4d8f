package approval

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"slices"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/access"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine"
)

// The states of an approval and of the record that it is about; a record is never withdrawn, an approval never a draft.
const (
	stateDraft     = "draft"
	stateWaiting   = "waiting"
	stateApproved  = "approved"
	stateRejected  = "rejected"
	stateWithdrawn = "withdrawn"
)

// The decisions.
const (
	Approve = "approve"
	Reject  = "reject"
)

// adminRole decides where a flow's own role is held by nobody above the initiator.
const adminRole = "admin"

// flowOf gives the flow of a kind: the first that the schema has; nil = the kind needs no approval.
func flowOf(s *schema.Schema, kind string) *schema.Flow {
	i := slices.IndexFunc(s.Flows, func(f *schema.Flow) bool { return f.Kind == kind })
	if i < 0 {
		return nil
	}
	return s.Flows[i]
}

// flowRunning gives the flow of an approval that runs: by its name, or, where that is no longer published, the kind's of
// now, so that the record is not left waiting for ever; nil = the kind has none any more.
func flowRunning(s *schema.Schema, name, kind string) *schema.Flow {
	for _, f := range s.Flows {
		if f.Name == name && f.Kind == kind {
			return f
		}
	}
	return flowOf(s, kind)
}

// needed tells whether somebody must decide: at the limit and above it, and wherever the amount cannot be read.
func needed(f *schema.Flow, rec *schema.Record) bool {
	n, ok := rec.Data[f.AmountField].(json.Number)
	if !ok {
		return true
	}
	amount, ok := new(big.Rat).SetString(n.String())
	limit, ok2 := new(big.Rat).SetString(f.Limit)
	return !ok || !ok2 || amount.Cmp(limit) >= 0
}

// approver finds who decides: the holder of the flow's role nearest above the initiator, else an administrator. Neither
// the initiator nor the record's owner decides. false = there is nobody, so it cannot be submitted.
func approver(d *access.Directory, f *schema.Flow, initiator, owner satchel.ID) (satchel.ID, bool) {
	if p, ok := d.Holder(f.Role, initiator); ok && p.ID != owner {
		return p.ID, true
	}
	p, ok := d.Anywhere(adminRole, initiator, owner)
	return p.ID, ok
}

// maySubmit refuses what is running or decided.
func maySubmit(state string) *syncengine.Refusal {
	switch state {
	case stateWaiting:
		return &syncengine.Refusal{Status: syncengine.Rejected, Reason: satchel.ReasonAlreadyRunning, Routine: true,
			Detail: "an approval of this record is running"}
	case stateApproved:
		return &syncengine.Refusal{Status: syncengine.Rejected, Reason: satchel.ReasonAlreadyRunning, Routine: true,
			Detail: "this record is approved; reopen it before it is changed and submitted again"}
	}
	return nil
}

// mayReopen refuses what is not approved.
func mayReopen(state string) *syncengine.Refusal {
	switch state {
	case stateApproved:
		return nil
	case stateWaiting:
		return &syncengine.Refusal{Status: syncengine.Rejected, Reason: satchel.ReasonAlreadyRunning, Routine: true,
			Detail: "an approval of this record is running; withdraw it"}
	}
	return &syncengine.Refusal{Status: syncengine.Rejected, Reason: satchel.ReasonNotSubmitted, Routine: true,
		Detail: "this record is not approved"}
}

// task is an approval as it stands.
type task struct {
	state               string
	initiator, approver satchel.ID
	formHash            string
}

func taskOf(rec *schema.Record) task {
	return task{state: rec.Text("state"), initiator: rec.Ref("initiator"), approver: rec.Ref("approver"), formHash: rec.Text("form_hash")}
}

// opinion is what somebody who sees the approval decided, and on what.
type opinion struct {
	by         satchel.ID
	decision   string
	formHash   string // of the form that he saw
	formStands bool   // the record still has the values of the frozen form
}

// decide tells what a decision makes of a task: its next state, or why it changes nothing.
func decide(t task, o opinion) (state string, refused *syncengine.Refusal) {
	stale := func(reason satchel.Reason, detail string) (string, *syncengine.Refusal) {
		return "", &syncengine.Refusal{Status: syncengine.Stale, Reason: reason, Detail: detail, Routine: true}
	}
	rejected := func(reason satchel.Reason, detail string) (string, *syncengine.Refusal) {
		return "", &syncengine.Refusal{Status: syncengine.Rejected, Reason: reason, Detail: detail, Routine: true}
	}
	switch {
	case o.by == t.initiator:
		return rejected(satchel.ReasonForbidden, "nobody decides his own request")
	case o.by != t.approver:
		return stale(satchel.ReasonReassigned, "the task is somebody else's")
	case t.state != stateWaiting:
		return stale(satchel.ReasonSuperseded, "it was decided or withdrawn; the approval says by whom and when")
	case o.formHash != t.formHash:
		return stale(satchel.ReasonStaleForm, "the decision is about another form than the one that waits; look at it and decide again")
	case o.decision == Reject:
		return stateRejected, nil
	case !o.formStands:
		return stale(satchel.ReasonStaleForm, "the record no longer has the values of the form; reject it, or let it be withdrawn and submitted again")
	}
	return stateApproved, nil
}

// withdraw tells what withdrawing makes of a task.
func withdraw(t task, may bool) (state string, refused *syncengine.Refusal) {
	switch {
	case !may:
		return "", &syncengine.Refusal{Status: syncengine.Rejected, Reason: satchel.ReasonForbidden, Routine: true,
			Detail: "only who submitted it, or may change the record, withdraws it"}
	case t.state != stateWaiting:
		return "", &syncengine.Refusal{Status: syncengine.Stale, Reason: satchel.ReasonSuperseded, Routine: true,
			Detail: "it was decided or withdrawn already"}
	}
	return stateWithdrawn, nil
}

// freeze copies what the flow shows the approver; a field without a value is null, so that a later value is a change.
func freeze(f *schema.Flow, rec *schema.Record) map[string]any {
	form := make(map[string]any, len(f.FormFields))
	for _, name := range f.FormFields {
		form[name] = rec.Data[name]
	}
	return form
}

// hashOf gives the SHA-256, in hex, of a form as JSON with sorted keys and without spaces.
func hashOf(form map[string]any) (string, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(form); err != nil {
		return "", err
	}
	sum := sha256.Sum256(bytes.TrimRight(buf.Bytes(), "\n"))
	return hex.EncodeToString(sum[:]), nil
}

// stands tells whether a record still has the values of a frozen form: those that were frozen, whatever the flow has
// become meanwhile.
func stands(form any, rec *schema.Record) bool {
	fields, ok := form.(map[string]any)
	if !ok || !rec.Exists() {
		return false
	}
	for name, was := range fields {
		if !schema.Equal(was, rec.Data[name]) {
			return false
		}
	}
	return true
}

// guard keeps what is decided on as it is: while an approval runs the record is not deleted, and neither then nor once it
// is approved does anybody change a field of the form. Other fields stay free.
func guard(s *schema.Schema, k *schema.Kind, rec *schema.Record, fields []string) error {
	f := flowOf(s, k.Name)
	if f == nil {
		return nil
	}
	state := rec.Text(f.StateField)
	detail := "an approval of this record is running; withdraw it first"
	switch {
	case state == stateApproved:
		detail = "this record is approved; reopen it first"
	case state != stateWaiting:
		return nil
	}
	if fields == nil && state == stateWaiting {
		return &syncengine.Refusal{Status: syncengine.Rejected, Reason: satchel.ReasonAlreadyRunning, Detail: detail}
	}
	for _, name := range fields {
		if slices.Contains(f.FormFields, name) {
			return &syncengine.Refusal{Status: syncengine.Rejected, Reason: satchel.ReasonFieldForbidden, Path: name, Detail: detail}
		}
	}
	return nil
}
