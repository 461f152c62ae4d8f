package server

import (
	"context"
	"math"

	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

type mediaService struct{ *Server }

// Begin announces bytes.
func (s mediaService) Begin(ctx context.Context, in *satchelv1.BeginRequest) (*satchelv1.BeginResponse, error) {
	up, err := s.cfg.Media.Begin(ctx, principal(ctx), in.Sha256, int64(min(in.Size, math.MaxInt64)), in.ContentType)
	if err != nil {
		return nil, err
	}
	if up.Stored {
		return &satchelv1.BeginResponse{Stored: true}, nil
	}
	return &satchelv1.BeginResponse{UploadId: text(up.ID), Offset: uint64(up.Offset), ChunkSize: uint32(up.ChunkSize),
		ExpiresMs: millis(up.Expires)}, nil
}

// PutChunk sends a piece.
func (s mediaService) PutChunk(ctx context.Context, in *satchelv1.PutChunkRequest) (*satchelv1.PutChunkResponse, error) {
	id, err := parseID("upload_id", in.UploadId)
	if err != nil {
		return nil, err
	}
	got, err := s.cfg.Media.PutChunk(ctx, principal(ctx), id, int64(min(in.Offset, math.MaxInt64)), in.Data)
	if err != nil {
		return nil, err
	}
	return &satchelv1.PutChunkResponse{Offset: uint64(got)}, nil
}

// Complete ends an upload.
func (s mediaService) Complete(ctx context.Context, in *satchelv1.CompleteRequest) (*satchelv1.CompleteResponse, error) {
	id, err := parseID("upload_id", in.UploadId)
	if err != nil {
		return nil, err
	}
	sum, err := s.cfg.Media.Complete(ctx, principal(ctx), id)
	if err != nil {
		return nil, err
	}
	return &satchelv1.CompleteResponse{Sha256: sum}, nil
}

// Link gives an address for bytes.
func (s mediaService) Link(ctx context.Context, in *satchelv1.LinkRequest) (*satchelv1.LinkResponse, error) {
	id, err := parseID("record_id", in.RecordId)
	if err != nil {
		return nil, err
	}
	got, err := s.cfg.Media.Link(ctx, principal(ctx), id)
	if err != nil {
		return nil, err
	}
	return &satchelv1.LinkResponse{Url: got.URL, ExpiresMs: millis(got.Expires), ContentType: got.ContentType,
		Size: uint64(got.Size)}, nil
}
