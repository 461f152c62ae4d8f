package app

import (
	"context"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/approval"
	"github.com/satchel-sync/satchel/syncengine"
)

// approvals spells approval's service as the edge asks for it.
type approvals struct{ service *approval.Service }

// Preview tells who would approve a record; zero = nobody needs to.
func (a approvals) Preview(ctx context.Context, p *satchel.Principal, record satchel.ID) (satchel.ID, string, error) {
	got, err := a.service.Preview(ctx, p, record)
	return got.Approver, got.Node, err
}

// Submit starts the approval.
func (a approvals) Submit(ctx context.Context, p *satchel.Principal, record, key satchel.ID) (syncengine.Verdict, error) {
	return a.service.Submit(ctx, p, record, key.String())
}

// Decide approves or rejects.
func (a approvals) Decide(ctx context.Context, p *satchel.Principal, id satchel.ID, formHash string, approve bool, comment string, key satchel.ID) (syncengine.Verdict, error) {
	decision := approval.Reject
	if approve {
		decision = approval.Approve
	}
	return a.service.Decide(ctx, p, id, approval.Decision{FormHash: formHash, Decision: decision, Comment: comment}, key.String())
}
