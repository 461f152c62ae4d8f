package model

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	satchel "github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/syncengine"
)

// Model is what is known of one organisation. Its methods are for one goroutine.
type Model struct {
	DB   *pgxpool.Pool // connections that no fault strikes
	Org  satchel.ID    // a [Company]'s
	Now  func() time.Time
	Muts map[satchel.ID]*Mutation // all that were ever durable on a phone, by their random ids
	// Fail is told of each broken promise.
	Fail func(promise, format string, args ...any)
	// Trace is told what helps to understand a failure; nil = nobody.
	Trace func(format string, args ...any)

	reader *syncengine.Engine
	past   map[satchel.ID][]fate // of mutations whose runs may be trimmed
	closed map[satchel.ID]string // states of kept mutations whose rows may be gone
	texts  string                // what they kept
	stands map[satchel.ID]uint64 // skips and envelopes, which nobody recorded: the last number of each
	gone   [2]uint64             // commits that a database lost: above the first, below the second
	unsent map[satchel.ID]bool   // refused, which a restored database forgot
}

func (m *Model) tracef(format string, args ...any) {
	if m.Trace != nil {
		m.Trace(format, args...)
	}
}

// Mutation is one that was durable on some phone, once.
type Mutation struct {
	ID       satchel.ID
	Phone    string
	Person   satchel.ID
	Order    uint64 // its place in the outbox in which it was recorded
	Ops      []*satchelv1.Op
	Verdicts []*satchelv1.Verdict // as phones heard them
}

// Touches tells whether the mutation is about the record.
func (m *Mutation) Touches(record satchel.ID) bool {
	return slices.ContainsFunc(m.Ops, func(op *satchelv1.Op) bool { return op.RecordId == record.String() })
}

// Names lists the records that a mutation is about.
func (m *Mutation) Names() (ids []string) {
	for _, op := range m.Ops {
		ids = append(ids, op.RecordId)
	}
	return ids
}

// offered lists the unique values that a mutation offers, by record and field.
func (m *Mutation) offered(yield func(record, field, value string)) {
	for _, op := range m.Ops {
		var set map[string]any
		fields := op.GetPatch().GetFields()
		if c := op.GetCreate(); c != nil {
			fields = c.Fields
		}
		if fields == "" || json.Unmarshal([]byte(fields), &set) != nil {
			continue
		}
		for field, v := range set {
			if s, ok := v.(string); ok && IsUnique(s) {
				yield(op.RecordId, field, s)
			}
		}
	}
}

// IsUnique tells whether a value is one that nobody else wrote; see [Hand].
func IsUnique(s string) bool { return strings.HasPrefix(s, "<") && strings.HasSuffix(s, ">") }

// Holder is a phone as the model sees it.
type Holder struct {
	Name, Login string
	Person      satchel.ID
	Client      *satchelclient.Client
	Store       satchelclient.Store
	Profile     string // by which it follows
}

// Shown lists what a phone shows of a kind, oldest first.
func (m *Model) Shown(ctx context.Context, h Holder, kind string) []satchelclient.Record {
	list, err := h.Client.List(ctx, kind)
	if err != nil {
		m.Fail("S14", "%s cannot list %s: %v", h.Name, kind, err)
	}
	if kind == "attention" { // their ids follow no order
		slices.SortStableFunc(list, func(a, b satchelclient.Record) int { return strings.Compare(about(a), about(b)) })
	}
	return list
}

func about(r satchelclient.Record) string { return r.Text("record") + r.Text("cause") }

// CheckPairs proves S4 and S12 on a phone: what changes together is shown together.
func (m *Model) CheckPairs(ctx context.Context, h Holder) {
	pairs := map[string][]string{}
	for _, t := range m.Shown(ctx, h, "task") {
		if mark := t.Text("title"); strings.HasPrefix(mark, pairMark) {
			pairs[mark] = append(pairs[mark], t.Text("remark"))
		}
	}
	for mark, remarks := range pairs {
		if len(remarks) != 2 || remarks[0] != remarks[1] {
			m.Fail("S4 S12", "%s shows half of what was done at once: %s %q", h.Name, mark, remarks)
		}
	}
}
