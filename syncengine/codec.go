package syncengine

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/schema"
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

// arrayText spells a bigint[] as Postgres reads it: unnest takes no arrays of arrays.
func arrayText(nums []int64) string {
	out := []byte{'{'}
	for i, n := range nums {
		if i > 0 {
			out = append(out, ',')
		}
		out = strconv.AppendInt(out, n, 10)
	}
	return string(append(out, '}'))
}

func encode64(raw []byte) string { return base64.StdEncoding.EncodeToString(raw) }

func sortedKeys(m map[string]any) []string { return slices.Sorted(maps.Keys(m)) }

func texts(in []string) []any {
	out := make([]any, len(in))
	for i, s := range in {
		out[i] = s
	}
	return out
}

// encodeJSON spells values as compact JSON, without the escapes that HTML would need.
func encodeJSON(v any) (string, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return "", err
	}
	return string(bytes.TrimRight(buf.Bytes(), "\n")), nil
}

// decodeObject reads a stored JSON object.
func decodeObject(raw []byte) (map[string]any, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	m := map[string]any{}
	err := dec.Decode(&m)
	return m, err
}

// encodeStamps spells stamps as {"path": [rev, at, "device", number]}.
func encodeStamps(stamps map[string]schema.Stamp) string {
	out := []byte{'{'}
	for i, path := range slices.Sorted(maps.Keys(stamps)) {
		s := stamps[path]
		if i > 0 {
			out = append(out, ',')
		}
		name, _ := json.Marshal(path)
		out = append(append(out, name...), ':', '[')
		out = append(strconv.AppendUint(out, s.Rev, 10), ',')
		out = append(strconv.AppendInt(out, s.At, 10), ',', '"')
		if !s.Device.IsZero() {
			out = append(out, s.Device.String()...)
		}
		out = append(strconv.AppendUint(append(out, '"', ','), s.Number, 10), ']')
	}
	return string(append(out, '}'))
}

func decodeStamps(raw []byte) (map[string]schema.Stamp, error) {
	var in map[string][4]json.RawMessage
	if err := json.Unmarshal(raw, &in); err != nil {
		return nil, err
	}
	out := make(map[string]schema.Stamp, len(in))
	for path, v := range in {
		var s schema.Stamp
		var device string
		for i, to := range []any{&s.Rev, &s.At, &device, &s.Number} {
			if err := json.Unmarshal(v[i], to); err != nil {
				return nil, err
			}
		}
		if device != "" {
			id, err := satchel.ParseID(device)
			if err != nil {
				return nil, err
			}
			s.Device = id
		}
		out[path] = s
	}
	return out, nil
}
