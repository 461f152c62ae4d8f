package server

import (
	"context"

	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

type approvalService struct{ *Server }

// Preview tells who would approve.
func (s approvalService) Preview(ctx context.Context, in *satchelv1.PreviewRequest) (*satchelv1.PreviewResponse, error) {
	id, err := parseID("record_id", in.RecordId)
	if err != nil {
		return nil, err
	}
	approver, node, err := s.cfg.Approval.Preview(ctx, principal(ctx), id)
	if err != nil {
		return nil, err
	}
	return &satchelv1.PreviewResponse{NotNeeded: approver.IsZero(), ApproverId: text(approver), Node: node}, nil
}

// Submit starts an approval.
func (s approvalService) Submit(ctx context.Context, in *satchelv1.SubmitRequest) (*satchelv1.SubmitResponse, error) {
	id, err := parseID("record_id", in.RecordId)
	if err != nil {
		return nil, err
	}
	key, err := parseID("key", in.Key)
	if err != nil {
		return nil, err
	}
	v, err := s.cfg.Approval.Submit(ctx, principal(ctx), id, key)
	if err != nil {
		return nil, err
	}
	return &satchelv1.SubmitResponse{Verdict: wireVerdict(v)}, nil
}

// Decide approves or rejects.
func (s approvalService) Decide(ctx context.Context, in *satchelv1.DecideRequest) (*satchelv1.DecideResponse, error) {
	id, err := parseID("approval_id", in.ApprovalId)
	if err != nil {
		return nil, err
	}
	key, err := parseID("key", in.Key)
	if err != nil {
		return nil, err
	}
	v, err := s.cfg.Approval.Decide(ctx, principal(ctx), id, in.FormHash, in.Decision == satchelv1.Decision_DECISION_APPROVE, in.Comment, key)
	if err != nil {
		return nil, err
	}
	return &satchelv1.DecideResponse{Verdict: wireVerdict(v)}, nil
}
