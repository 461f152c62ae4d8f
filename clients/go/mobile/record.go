package mobile

import (
	"encoding/json"
	"strings"

	"github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
)

// fields reads the fields of a record: a JSON object, "" = none. Values stay as they were written: no digit of a number is
// lost.
func fields(given string) (satchelclient.Fields, error) {
	var all map[string]json.RawMessage
	if err := decode("the fields", given, &all); err != nil {
		return nil, err
	}
	out := satchelclient.Fields{}
	for name, value := range all {
		out[name] = value
	}
	return out, nil
}

// edits reads a JSON array of edits, "" = none.
func edits(given string) ([]satchelclient.Edit, error) {
	var all []struct {
		Field  string   `json:"field"`
		Add    []string `json:"add"`
		Remove []string `json:"remove"`
		By     *int64   `json:"by"`
	}
	if err := decode("the edits", given, &all); err != nil {
		return nil, err
	}
	var out []satchelclient.Edit
	for _, e := range all {
		if e.Field == "" || (e.By == nil) == (e.Add == nil && e.Remove == nil) {
			return nil, invalid(`the edits: each has a "field", and either "add" and "remove", or "by"`)
		}
		if e.By != nil {
			out = append(out, satchelclient.Increment(e.Field, *e.By))
			continue
		}
		if len(e.Add) > 0 {
			out = append(out, satchelclient.AddTo(e.Field, e.Add...))
		}
		if len(e.Remove) > 0 {
			out = append(out, satchelclient.RemoveFrom(e.Field, e.Remove...))
		}
	}
	return out, nil
}

// Batch collects ops that take effect together or not at all: one mutation of at most 100 ops and 256 KiB. A new one is
// empty. What is wrong with an op is said by [Client.Record]. Use it from one thread at a time.
type Batch struct {
	inner satchelclient.Batch
	ops   int
	err   error
}

// NewBatch makes an empty batch.
func NewBatch() *Batch { return new(Batch) }

func (b *Batch) failed(err error) bool {
	if b.err == nil {
		b.err = err
	}
	return err != nil
}

// on counts an op on a record and gives the record's id; false = there is something wrong.
func (b *Batch) on(kind, record string) (satchel.ID, bool) {
	id, err := parseID("the record", record)
	return id, !b.failed(err) && b.of(kind)
}

// of counts an op on a record of the kind; false = that is no kind's name.
func (b *Batch) of(kind string) bool {
	if kind == "" || len(kind) > 64 || strings.ContainsRune(kind, 0) {
		return !b.failed(invalid("a kind has 1 to 64 bytes and no zero byte"))
	}
	b.ops++
	return true
}

// Create adds the creation of a record with the fields, a JSON object, and gives its new id, which later ops may refer to.
func (b *Batch) Create(kind, fieldsJSON string) string {
	f, err := fields(fieldsJSON)
	if b.failed(err) || !b.of(kind) {
		return ""
	}
	return b.inner.Create(kind, f).String()
}

// Patch adds a change of the record's named fields, a JSON object in which null clears a field, "" = none; and of sets and
// counters: a JSON array of {"field", "add": [texts], "remove": [texts]} and {"field", "by": number}, "" = none.
func (b *Batch) Patch(kind, record, fieldsJSON, editsJSON string) {
	f, err := fields(fieldsJSON)
	if b.failed(err) {
		return
	}
	e, err := edits(editsJSON)
	if b.failed(err) {
		return
	}
	if id, ok := b.on(kind, record); ok {
		b.inner.Patch(kind, id, f, e...)
	}
}

// Delete adds the deletion of a record for all.
func (b *Batch) Delete(kind, record string) {
	if id, ok := b.on(kind, record); ok {
		b.inner.Delete(kind, id)
	}
}

// Command adds a command about a record, such as "approval.decide", with its arguments, a JSON object, "" = none. What it
// does is shown when the server has done it.
func (b *Batch) Command(kind, record, name, argumentsJSON string) {
	f, err := fields(argumentsJSON)
	if b.failed(err) {
		return
	}
	if id, ok := b.on(kind, record); ok {
		b.inner.Command(kind, id, name, f)
	}
}

// Record records the batch as one mutation and gives the mutation's random id, by which [Client.Settled] tells what became of
// it. When it returns, the mutation is on disk and shown. It waits for the disk only and never for the network.
func (c *Client) Record(batch *Batch) (string, error) {
	ctx, err := c.local()
	if err != nil {
		return "", err
	}
	if batch == nil {
		return "", invalid("Record needs a batch")
	}
	if batch.err != nil {
		return "", batch.err
	}
	if batch.ops == 0 {
		return "", invalid("the batch is empty: add an op")
	}
	var id satchel.ID
	if id, err = c.inner.Record(ctx, &batch.inner); err != nil {
		return "", c.fail(err)
	}
	return id.String(), nil
}

// Create records the creation of one record with the fields, a JSON object, and gives its id. It waits for the disk only.
func (c *Client) Create(kind, fieldsJSON string) (string, error) {
	b := new(Batch)
	id := b.Create(kind, fieldsJSON)
	if _, err := c.Record(b); err != nil {
		return "", err
	}
	return id, nil
}

// Patch records a change of one record; see [Batch.Patch]. It waits for the disk only.
func (c *Client) Patch(kind, record, fieldsJSON, editsJSON string) error {
	b := new(Batch)
	b.Patch(kind, record, fieldsJSON, editsJSON)
	_, err := c.Record(b)
	return err
}

// Delete records the deletion of one record for all. It waits for the disk only.
func (c *Client) Delete(kind, record string) error {
	b := new(Batch)
	b.Delete(kind, record)
	_, err := c.Record(b)
	return err
}

// Command records a command about one record; see [Batch.Command]. It waits for the disk only.
func (c *Client) Command(kind, record, name, argumentsJSON string) error {
	b := new(Batch)
	b.Command(kind, record, name, argumentsJSON)
	_, err := c.Record(b)
	return err
}
