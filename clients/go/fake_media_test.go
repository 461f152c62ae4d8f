package satchelclient_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"

	"connectrpc.com/connect"

	"github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

func (f *fake) Begin(ctx context.Context, req *satchelv1.BeginRequest) (*satchelv1.BeginResponse, error) {
	if err := f.enter(ctx); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	if f.stored[req.Sha256] {
		return &satchelv1.BeginResponse{Stored: true}, nil
	}
	if req.ContentType == "text/html" {
		return nil, fail(connect.CodeInvalidArgument, satchelv1.Reason_REASON_UNSUPPORTED_MEDIA, 0)
	}
	return &satchelv1.BeginResponse{UploadId: f.uploadID(req.Sha256), Offset: uint64(len(f.uploads[req.Sha256])), ChunkSize: f.chunk}, nil
}

func (f *fake) uploadID(hash string) string { return satchel.DerivedID(f.org, hash).String() }

func (f *fake) hashOf(upload string, hashes []string) string {
	for _, h := range hashes {
		if f.uploadID(h) == upload {
			return h
		}
	}
	return ""
}

func (f *fake) PutChunk(ctx context.Context, req *satchelv1.PutChunkRequest) (*satchelv1.PutChunkResponse, error) {
	if err := f.enter(ctx); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	f.puts++
	if f.onPut != nil {
		if err := f.onPut(req); err != nil {
			return nil, err
		}
	}
	hash := f.hashOf(req.UploadId, f.blobHashes())
	if have := uint64(len(f.uploads[hash])); req.Offset != have {
		return nil, fail(connect.CodeFailedPrecondition, satchelv1.Reason_REASON_UNEXPECTED_OFFSET, have)
	}
	f.uploads[hash] = append(f.uploads[hash], req.Data...)
	return &satchelv1.PutChunkResponse{Offset: uint64(len(f.uploads[hash]))}, nil
}

// blobHashes are those that records name: in these tests the record comes first.
func (f *fake) blobHashes() []string {
	var all []string
	for _, r := range f.rows {
		if h, ok := r.fields["blob"].(string); ok {
			all = append(all, h)
		}
	}
	return all
}

func (f *fake) Complete(ctx context.Context, req *satchelv1.CompleteRequest) (*satchelv1.CompleteResponse, error) {
	if err := f.enter(ctx); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	hash := f.hashOf(req.UploadId, f.blobHashes())
	sum := sha256.Sum256(f.uploads[hash])
	if hex.EncodeToString(sum[:]) != hash {
		f.uploads[hash] = nil
		return nil, fail(connect.CodeInvalidArgument, satchelv1.Reason_REASON_HASH_MISMATCH, 0)
	}
	f.stored[hash] = true
	f.seq++
	for _, r := range f.rows {
		if r.fields["blob"] == hash {
			r.fields["blob_state"] = "stored"
			f.touch(r)
		}
	}
	return &satchelv1.CompleteResponse{Sha256: hash}, nil
}

func (f *fake) Link(ctx context.Context, req *satchelv1.LinkRequest) (*satchelv1.LinkResponse, error) {
	if err := f.enter(ctx); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	if f.rows[req.RecordId] == nil {
		return nil, fail(connect.CodeNotFound, satchelv1.Reason_REASON_NOT_FOUND, 0)
	}
	return &satchelv1.LinkResponse{Url: "/media/blob", ContentType: "image/jpeg", Size: uint64(len(f.blobBytes))}, nil
}
