package syncengine

import (
	"encoding/base64"
	"encoding/json"

	satchel "github.com/satchel-sync/satchel"
)

// payload spells the ops as they were sent, for a mutation whose values cannot be stored as values.
func (a *attempt) payload() string {
	raw, err := json.Marshal(a.m.Ops)
	if err != nil {
		// RawMessage that is not JSON: keep the parts as bytes.
		raw = nil
		for _, op := range a.m.Ops {
			raw = append(append(append(raw, op.Fields...), '\n'), op.Args...)
		}
	}
	return base64.StdEncoding.EncodeToString(raw)
}

// keepBytes keeps a mutation without the documented form. It names no record that could be trusted, so the mutation's
// own id stands in for one.
func (a *attempt) keepBytes(r *Refusal) satchel.ID {
	a.b.pendAtt = append(a.b.pendAtt, attention{person: a.b.person, record: a.m.ID, cause: "refused", reason: r.Reason,
		items: []any{map[string]any{"encoding": "base64", "value": encode64(a.m.Malformed)}}})
	return attentionID(a.b.person, a.m.ID)
}

// culpritPayload gives the bytes of what Postgres refused, else "".
func (b *batch) culpritPayload(a *attempt) string {
	if !b.in.culprit {
		return ""
	}
	return a.payload()
}
