package syncengine

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/schema"
)

// payload spells the ops as they were sent, for a mutation whose values cannot be stored as values.
func (a *attempt) payload() string {
	raw, err := json.Marshal(a.m.Ops)
	if err != nil { // RawMessage that is not JSON
		raw = rawOps(a.m.Ops)
	}
	return encode64(raw)
}

// unfit refuses a mutation for what it is as a whole, before its ops are looked at; nil = it may be tried.
func (a *attempt) unfit() *Refusal {
	size := 0
	for i := range a.m.Ops {
		op := &a.m.Ops[i]
		size += len(op.Fields) + len(op.Args) + len(op.Kind) + len(op.Name) + 16*len(op.Increments)
		for _, s := range op.Sets {
			for _, el := range slices.Concat(s.Add, s.Remove) {
				size += len(el) + 4
			}
		}
	}
	switch {
	case a.m.TooOld:
		return &Refusal{Status: Unsupported, Reason: satchel.ReasonClientTooOld, Detail: "this server does not speak the app's protocol any more; it is kept for the office"}
	case a.m.Envelope != nil && a.m.Envelope.Size > MaxMutationBytes:
		return &Refusal{Status: Rejected, Reason: satchel.ReasonTooLarge, Detail: "a mutation has at most 256 KiB; its bytes are on the device"}
	case a.m.Envelope != nil:
		return &Refusal{Status: Rejected, Reason: satchel.ReasonMalformed, Detail: "the device cannot read the mutation any more; its bytes are there"}
	case a.m.Skip != nil:
		return &Refusal{Status: Rejected, Reason: satchel.ReasonMalformed, Detail: "a skip has no ops and goes from its own number to one at most 1,000,000 on"}
	case a.b.unsure > 0 && a.m.additive() && a.recorded() < a.b.unsure:
		return &Refusal{Status: Rejected, Reason: satchel.ReasonConcurrent, Detail: "it may have taken effect already, so long ago that nobody knows; a person must look"}
	case len(a.m.Malformed) > 0:
		return &Refusal{Status: Rejected, Reason: satchel.ReasonMalformed, Detail: "the mutation does not have the documented form; its bytes are kept"}
	case len(a.m.Ops) == 0:
		return &Refusal{Status: Rejected, Reason: satchel.ReasonMalformed, Detail: "a mutation has at least one op"}
	case len(a.m.Ops) > MaxOps || size > MaxMutationBytes:
		return &Refusal{Status: Rejected, Reason: satchel.ReasonTooLarge, Detail: "a mutation has at most 100 ops and 256 KiB"}
	}
	return nil
}

// touched names the fields of an edit, sorted; never nil.
func touched(fields map[string]any, sets []schema.SetEdit, incs []schema.Increment) []string {
	out := make([]string, 0, len(fields)+len(sets)+len(incs))
	for name := range fields {
		out = append(out, name)
	}
	for _, s := range sets {
		out = append(out, s.Field)
	}
	for _, inc := range incs {
		out = append(out, inc.Field)
	}
	slices.Sort(out)
	return out
}

// rawOps keeps the parts of ops that are not JSON as bytes.
func rawOps(ops []Op) (raw []byte) {
	for _, op := range ops {
		raw = append(append(append(raw, op.Fields...), '\n'), op.Args...)
	}
	return raw
}

// empty tells whether a mutation holds nothing at all.
func (m Mutation) empty() bool {
	return len(m.Ops) == 0 && len(m.Malformed) == 0 && m.Skip == nil && m.Envelope == nil
}

// remains spells what is known of a mutation without ops, for an attention.
func (m Mutation) remains() []any {
	number := func(n uint64) json.Number { return json.Number(strconv.FormatUint(n, 10)) }
	switch {
	case m.Skip != nil:
		return []any{map[string]any{"from": number(m.Number), "to": number(m.Skip.To), "why": cut(m.Skip.Why, 200)}}
	case m.Envelope != nil:
		return []any{map[string]any{"size": number(m.Envelope.Size), "sha256": hex.EncodeToString(m.Envelope.SHA256)}}
	case len(m.Malformed) > 0:
		return []any{map[string]any{"encoding": "base64", "value": encode64(m.Malformed)}}
	}
	return nil
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
	out, err := schema.AppendJSON(make([]byte, 0, 512), v)
	return string(out), err
}

// decodeObject reads a stored JSON object.
func decodeObject(raw []byte) (map[string]any, error) { return schema.DecodeStored(raw) }

// encodeStamps spells stamps as {"path": [rev, at, "device", number]}.
func encodeStamps(stamps map[string]schema.Stamp) string {
	out := append(make([]byte, 0, 80*len(stamps)+2), '{')
	var few [8]string
	paths := few[:0]
	for path := range stamps {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	for i, path := range paths {
		s := stamps[path]
		if i > 0 {
			out = append(out, ',')
		}
		out, _ = schema.AppendJSON(out, path) // of a text, no error
		out = append(strconv.AppendUint(append(out, ':', '['), s.Rev, 10), ',')
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

// itemsOf spells a refused op as values of fields; raw, where not "", stands in for values that Postgres refuses.
func itemsOf(op Op, raw string) []any {
	kind := clean(op.Kind)
	item := func(field string, value any) any {
		return map[string]any{"record": op.Record.String(), "kind": kind, "field": field,
			"action": op.Action.String(), "value": value}
	}
	if raw == "" && !storableOp(op) {
		raw = rawOp(op)
	}
	if raw != "" {
		return []any{map[string]any{"record": op.Record.String(), "kind": kind, "field": "", "action": op.Action.String(),
			"encoding": "base64", "value": raw}}
	}
	var out []any
	fields, _ := schema.DecodeFields(op.Fields) // storableOp has looked
	for _, name := range sortedKeys(fields) {
		out = append(out, item(name, fields[name]))
	}
	for _, s := range op.Sets {
		out = append(out, item(s.Field, map[string]any{"add": texts(s.Add), "remove": texts(s.Remove)}))
	}
	for _, inc := range op.Increments {
		out = append(out, item(inc.Field, map[string]any{"by": json.Number(fmt.Sprint(inc.By))}))
	}
	if op.Action == Command {
		args, _ := schema.DecodeFields(op.Args)
		out = append(out, item("", map[string]any{"command": op.Name, "args": args}))
	}
	if len(out) == 0 {
		out = append(out, item("", nil))
	}
	return out
}

// storable tells whether a mutation can be kept as JSON: what Postgres or the decoder refuses is kept as bytes.
func storable(m Mutation) bool {
	for _, op := range m.Ops {
		if !storableOp(op) {
			return false
		}
	}
	return true
}

func storableOp(op Op) bool {
	ok := clean(op.Kind) == op.Kind && clean(op.Name) == op.Name
	for _, raw := range []json.RawMessage{op.Fields, op.Args} {
		_, err := schema.DecodeFields(raw)
		ok = ok && err == nil
	}
	for _, s := range op.Sets {
		for _, text := range slices.Concat([]string{s.Field}, s.Add, s.Remove) {
			ok = ok && storableText(text)
		}
	}
	for _, inc := range op.Increments {
		ok = ok && storableText(inc.Field)
	}
	return ok
}

// rawOp spells what an op holds in base64.
func rawOp(op Op) string {
	raw := append(append([]byte(nil), op.Fields...), op.Args...)
	for _, s := range op.Sets {
		raw = append(raw, fmt.Sprintf("%q", s)...)
	}
	for _, inc := range op.Increments {
		raw = append(raw, fmt.Sprintf("%q", inc.Field)...)
	}
	return encode64(raw)
}

// storableText tells whether Postgres can hold a text.
func storableText(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// clean makes of a name from outside one that can be stored.
func clean(name string) string { return cut(name, 63) }

// cut makes of a text from outside one of at most so many bytes that can be stored.
func cut(text string, most int) string {
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "?"), "\x00", "?")
	for len(text) > most {
		_, size := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-size]
	}
	return text
}

// named collects the ids that the ops name, and those of the records that new ones hang under; sorted, so that two
// batches lock in one order. A batch that only creates shares the parents: many visits to one account do not wait for
// each other. One that also edits locks all of them alike, in one pass: two passes would be two orders, and a deadlock
// costs a second.
func (b *batch) named() (records, parents []satchel.ID) {
	edits := false
	for i := range b.in.Mutations {
		for j := range b.in.Mutations[i].Ops {
			op := &b.in.Mutations[i].Ops[j]
			records = append(records, op.Record)
			edits = edits || op.Action != Create
			if op.Action == Create || op.Action == Patch {
				parents = append(parents, referenced(op.Fields)...)
			}
			if op.Action == Command && op.Name == MergeCommand {
				records = append(records, referenced(op.Args)...)
			}
		}
	}
	if edits {
		records, parents = append(records, parents...), nil
	}
	slices.SortFunc(records, compareIDs)
	records = slices.Compact(records)
	slices.SortFunc(parents, compareIDs)
	parents = slices.DeleteFunc(slices.Compact(parents), func(id satchel.ID) bool {
		_, own := slices.BinarySearchFunc(records, id, compareIDs)
		return own
	})
	return records, parents
}

// referenced finds what looks like ids among the values of a JSON object, without knowing the schema: at most 8 are
// shared-locked, and only the kind's parent matters.
func referenced(fields json.RawMessage) []satchel.ID {
	var out []satchel.ID
	for rest := fields; len(out) < 8; {
		at := bytes.IndexByte(rest, ':')
		if at < 0 {
			break
		}
		rest = bytes.TrimLeft(rest[at+1:], " \t\r\n")
		if len(rest) >= 38 && rest[0] == '"' && rest[37] == '"' {
			if id, err := satchel.ParseID(string(rest[1:37])); err == nil {
				out = append(out, id)
			}
		}
	}
	return out
}

// noteSent notes what the row of a creation has beyond what the device sent, so that it can travel without its fields.
func (a *attempt) noteSent(op Op, rec *schema.Record) {
	if !a.b.in.Completes || a.b.source != nil || a.system {
		return
	}
	given, err := schema.DecodeFields(op.Fields)
	if err != nil {
		return
	}
	extra := map[string]any{}
	s := Sent{Rev: rec.Rev}
	for name, v := range rec.Data {
		s.Names = append(s.Names, name)
		if !schema.Equal(given[name], v) {
			extra[name] = v
		}
	}
	for name := range given {
		if _, has := rec.Data[name]; !has {
			s.Names = append(s.Names, name)
			extra[name] = nil
		}
	}
	if len(extra) > 0 {
		text, err := encodeJSON(extra)
		if err != nil {
			return
		}
		s.Extra = []byte(text)
	}
	if a.sent == nil {
		a.sent = map[satchel.ID]Sent{}
	}
	a.sent[rec.ID] = s
}
