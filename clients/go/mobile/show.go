package mobile

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	satchelclient "github.com/satchel-sync/satchel/clients/go"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

// record is a record as apps get it.
type record struct {
	ID      string          `json:"id"`
	Kind    string          `json:"kind"`
	Rev     string          `json:"rev"`
	Fields  json.RawMessage `json:"fields"`
	Author  string          `json:"author"`
	EventMs int64           `json:"eventMs"`
	Pending bool            `json:"pending"`
}

func recordOf(r satchelclient.Record) record {
	f := r.Fields
	if len(f) == 0 {
		f = json.RawMessage("{}")
	}
	return record{ID: r.ID.String(), Kind: r.Kind, Rev: strconv.FormatUint(r.Rev, 10), Fields: f, Author: text(r.Author), EventMs: r.EventMs, Pending: r.Pending}
}

// Get gives a record as the device shows it: {"id", "kind", "rev", "fields", "author", "eventMs", "pending"}, or fails with
// "not_found". Of a record that was merged into another it gives that one, with its own id: edit that one from then on. It
// waits for the disk only.
//
// rev is that of the last checkpoint, "0" = the server's version was never shown. author "" is the system. eventMs is when the
// work took place, milliseconds since 1970, 0 = not known yet. pending: own mutations are shown on top.
func (c *Client) Get(kind, record string) (string, error) {
	ctx, err := c.local()
	if err != nil {
		return "", err
	}
	id, err := parseID("the record", record)
	if err != nil {
		return "", err
	}
	r, err := c.inner.Get(ctx, kind, id)
	if err != nil {
		return "", c.fail(err)
	}
	return encode(recordOf(r))
}

// query is what List takes. See there.
type query struct {
	Where map[string]any `json:"where"`
	Order string         `json:"order"`
	Limit int            `json:"limit"`
}

// List gives records of a kind as the device shows them, a JSON array of what Get gives. What a person must look at are
// records of kind "attention"; their notices are records of kind "notice". It waits for the disk only; it reads all records
// of the kind, so call it on a worker where there may be thousands.
//
// queryJSON is a JSON object, "" = all by id, which is by time of creation:
//
//	where   field → value: only records that have these values; null = only those without the field
//	order   a field to sort by, "-field" = from the greatest; records without it come first, or last
//	limit   at most so many, from the first
func (c *Client) List(kind, queryJSON string) (string, error) {
	ctx, err := c.local()
	if err != nil {
		return "", err
	}
	var q query
	if err := decode("the query", queryJSON, &q); err != nil {
		return "", err
	}
	if q.Limit < 0 {
		return "", invalid("the query: limit is not negative")
	}
	all, err := c.inner.List(ctx, kind)
	if err != nil {
		return "", c.fail(err)
	}
	out, err := q.pick(all)
	if err != nil {
		return "", c.fail(err)
	}
	return encode(out)
}

// pick gives the records that the query asks for, in its order.
func (q query) pick(all []satchelclient.Record) ([]record, error) {
	field, down := strings.CutPrefix(q.Order, "-")
	out, keys := []record{}, map[string]any{}
	for _, r := range all {
		if len(q.Where) > 0 || field != "" {
			var f map[string]any
			if err := r.Decode(&f); err != nil {
				return nil, err
			}
			if !q.fits(f) {
				continue
			}
			keys[r.ID.String()] = f[field]
		}
		out = append(out, recordOf(r))
	}
	if field != "" {
		slices.SortStableFunc(out, func(a, b record) int {
			n := compare(keys[a.ID], keys[b.ID])
			if down {
				return -n
			}
			return n
		})
	}
	if q.Limit > 0 && len(out) > q.Limit {
		out = out[:q.Limit]
	}
	return out, nil
}

func (q query) fits(fields map[string]any) bool {
	for name, want := range q.Where {
		if !reflect.DeepEqual(fields[name], want) {
			return false
		}
	}
	return true
}

// compare orders values of one field: nothing first, then numbers, then texts, then all else as equals.
func compare(a, b any) int {
	class := func(v any) int {
		switch v.(type) {
		case nil:
			return 0
		case float64:
			return 1
		case string:
			return 2
		}
		return 3
	}
	if n := cmp.Compare(class(a), class(b)); n != 0 {
		return n
	}
	switch a := a.(type) {
	case float64:
		return cmp.Compare(a, b.(float64))
	case string:
		return cmp.Compare(a, b.(string))
	}
	return 0
}

// op is what one step of a mutation does, for the person to see.
type op struct {
	Action  string          `json:"action"`
	Kind    string          `json:"kind"`
	Record  string          `json:"record"`
	Fields  json.RawMessage `json:"fields"`
	Command string          `json:"command"`
}

func opsOf(m *satchelv1.Mutation) []op {
	out := []op{}
	for _, o := range m.GetOps() {
		action, values := "patch", o.GetPatch().GetFields()
		switch {
		case o.GetCreate() != nil:
			action, values = "create", o.GetCreate().GetFields()
		case o.GetDelete() != nil:
			action = "delete"
		case o.GetCommand() != nil:
			action, values = "command", o.GetCommand().GetArgs()
		}
		if !json.Valid([]byte(values)) {
			values = "{}"
		}
		out = append(out, op{Action: action, Kind: o.GetKind(), Record: o.GetRecordId(), Fields: json.RawMessage(values), Command: o.GetCommand().GetName()})
	}
	return out
}

// Pending gives what has no verdict yet, in order, a JSON array of {"order", "id", "ops", "recordedMs", "sent"}: order is the
// mutation's place among those recorded on this device, from 1; ops its steps, {"action", "kind", "record", "fields",
// "command"}; recordedMs when it was recorded, by the device's clock; sent that it was sent at least once. It waits for the
// disk only.
func (c *Client) Pending() (string, error) {
	ctx, err := c.local()
	if err != nil {
		return "", err
	}
	type line struct {
		Order      uint64 `json:"order"`
		ID         string `json:"id"`
		Ops        []op   `json:"ops"`
		RecordedMs int64  `json:"recordedMs"`
		Sent       bool   `json:"sent"`
	}
	all := []line{}
	err = c.store.View(ctx, func(tx satchelclient.ReadTx) error {
		return tx.Scan(satchelclient.TableOutbox, nil, nil, func(key, value []byte) error {
			m := new(satchelv1.Mutation)
			if proto.Unmarshal(value, m) != nil {
				m = new(satchelv1.Mutation) // damaged: it is there, and nobody knows what it was
			}
			if m.Skip != nil || len(key) != 8 {
				return nil // a filled gap is nobody's work
			}
			all = append(all, line{binary.BigEndian.Uint64(key), m.Id, opsOf(m), m.GetRecorded().GetWallMs(), m.Number > 0})
			return nil
		})
	})
	if err != nil {
		return "", c.fail(err)
	}
	return encode(all)
}

// settled is what became of a mutation.
type settled struct {
	Order     int64    `json:"order"`
	ID        string   `json:"id"`
	Ops       []op     `json:"ops"`
	Fate      string   `json:"fate"`
	Reason    string   `json:"reason"`
	Paths     []path   `json:"paths"`
	Notes     []string `json:"notes"`
	Attention string   `json:"attention"`
}

type path struct {
	Record string `json:"record"`
	Path   string `json:"path"`
}

func settledOf(all []satchelclient.Settled) []settled {
	out := []settled{}
	for _, s := range all {
		v := s.Verdict
		line := settled{Order: int64(s.Order), ID: s.Mutation.GetId(), Ops: opsOf(s.Mutation), Paths: []path{}, Notes: []string{},
			Fate: strings.TrimPrefix(v.GetStatus().String(), "STATUS_"), Attention: v.GetAttentionId()}
		if v.GetReason() != satchelv1.Reason_REASON_UNSPECIFIED {
			line.Reason = strings.TrimPrefix(v.GetReason().String(), "REASON_")
		}
		for _, p := range v.GetPaths() {
			line.Paths = append(line.Paths, path{p.GetRecordId(), p.GetPath()})
		}
		for _, n := range v.GetNotes() {
			line.Notes = append(line.Notes, strings.TrimPrefix(n.String(), "NOTE_"))
		}
		out = append(out, line)
	}
	return out
}

// Settled gives up to limit lines of the log of verdicts, oldest first, whose order is greater than after (0 = from the
// first): a JSON array of {"order", "id", "ops", "fate", "reason", "paths", "notes", "attention"}. fate is APPLIED, MERGED,
// CONFLICTED, REJECTED, STALE, SEEN or UNSUPPORTED; reason its typed cause unless APPLIED (docs/errors.md); paths what lost
// or was refused; notes remarks such as POSSIBLE_DOUBLE; attention the record that keeps what did not stand, "" = none. The log
// keeps them for 35 days. It waits for the disk only.
func (c *Client) Settled(after, limit int64) (string, error) {
	ctx, err := c.local()
	if err != nil {
		return "", err
	}
	all, err := c.inner.Settled(ctx, uint64(max(after, 0)), int(min(max(limit, 0), 10_000)))
	if err != nil {
		return "", c.fail(err)
	}
	return encode(settledOf(all))
}

// Attentions gives what a person must look at, conflicts, refusals and possible doubles: List("attention", "").
func (c *Client) Attentions() (string, error) { return c.List("attention", "") }

// AtOffice gives what the person created here and the server took, but which this device does not follow, such as a kind that
// its profile leaves out: a JSON array of {"kind", "id", "serverMs"}, serverMs being when the server took it, milliseconds
// since 1970. It waits for the disk only.
func (c *Client) AtOffice() (string, error) {
	ctx, err := c.local()
	if err != nil {
		return "", err
	}
	list, err := c.inner.AtOffice(ctx)
	if err != nil {
		return "", c.fail(err)
	}
	type line struct {
		Kind     string `json:"kind"`
		ID       string `json:"id"`
		ServerMs int64  `json:"serverMs"`
	}
	all := []line{}
	for _, r := range list {
		all = append(all, line{r.Kind, r.ID.String(), r.When.UnixMilli()})
	}
	return encode(all)
}

// Kept gives what could not be sent and stays on the device, for the person to export: a JSON array of {"key", "text"}. The
// text is JSON, or base64 of what can no longer be read. It waits for the disk only.
func (c *Client) Kept() (string, error) {
	ctx, err := c.local()
	if err != nil {
		return "", err
	}
	list, err := c.inner.KeptBytes(ctx)
	if err != nil {
		return "", c.fail(err)
	}
	type line struct {
		Key  string `json:"key"`
		Text string `json:"text"`
	}
	all := []line{}
	for _, k := range list {
		key, m := strconv.FormatUint(k.Order, 10), proto.Message(new(satchelv1.Mutation))
		if k.Order == 0 {
			key, m = k.Record.String(), new(satchelv1.Change)
		}
		words := base64.StdEncoding.EncodeToString(k.Bytes)
		if proto.Unmarshal(k.Bytes, m) == nil {
			if readable, err := protojson.Marshal(m); err == nil {
				words = string(readable)
			}
		}
		all = append(all, line{key, words})
	}
	return encode(all)
}
