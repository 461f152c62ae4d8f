package app

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/media"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine"
)

// blobField and stateField are the fields by which a record names bytes and learns that they are stored.
const (
	blobField  = "blob"
	stateField = "blob_state"
	stored     = "stored"
	voiceNote  = "voice_note" // the kind whose bytes are heard
)

// mediaRecords tells media what records name, and records what media stored.
type mediaRecords struct{ engine *syncengine.Engine }

// BlobOf gives the bytes that a record names, as the person may see it.
func (m mediaRecords) BlobOf(ctx context.Context, p *satchel.Principal, record satchel.ID) (string, bool, error) {
	r, err := m.engine.Visible(ctx, p, record)
	if err != nil {
		return "", false, err
	}
	if r == nil || r.Text(blobField) == "" {
		return "", false, satchel.E(satchel.NotFound, satchel.ReasonNotFound, "no such record, or it names no bytes")
	}
	return r.Text(blobField), r.Text(stateField) == stored, nil
}

// BlobStored marks the records of the person who sent the bytes, and nobody else's: naming a hash gives no way to them.
func (m mediaRecords) BlobStored(ctx context.Context, s media.Stored) error {
	fields, err := json.Marshal(map[string]any{stateField: stored, "size": s.Size, "content_type": s.ContentType})
	if err != nil {
		return err
	}
	for after := (satchel.ID{}); ; {
		records, err := m.engine.NamingBlob(ctx, s.Org, s.SHA256, after, namingPage)
		if err != nil {
			return err
		}
		for _, r := range records {
			if r.Author != s.Person || r.Text(stateField) == stored {
				continue
			}
			if err := m.mark(ctx, s, r, fields); err != nil {
				return err
			}
		}
		if len(records) < namingPage {
			return nil
		}
		after = records[len(records)-1].ID
	}
}

// namingPage is how many records that name the same bytes are looked at together.
const namingPage = 100

func (m mediaRecords) mark(ctx context.Context, s media.Stored, r *schema.Record, fields json.RawMessage) error {
	v, err := m.engine.Submit(ctx, syncengine.SystemMutation{
		Org: s.Org, Source: "media", Key: r.ID.String() + "/" + s.SHA256, Cause: "the bytes have arrived",
		Ops: []syncengine.Op{{Action: syncengine.Patch, Record: r.ID, Kind: r.Kind, BaseRev: r.Rev, Fields: fields}},
	})
	if err == nil && v.Status == syncengine.Rejected {
		err = fmt.Errorf("app.BlobStored: record %s: %s", r.ID, v.Reason)
	}
	return err
}

// observeBlobs tells media of every record that names bytes anew, in the transaction that does.
func observeBlobs(m *media.Service) syncengine.Observer {
	return func(ctx context.Context, tx pgx.Tx, changes []syncengine.Change) error {
		for _, c := range changes {
			sha := c.After.Text(blobField)
			if sha == "" || c.Kind.Field(stateField) == nil || c.Before != nil && c.Before.Text(blobField) == sha {
				continue
			}
			if err := m.Named(ctx, tx, c.Org, c.After.Author, sha); err != nil {
				return err
			}
		}
		return nil
	}
}
