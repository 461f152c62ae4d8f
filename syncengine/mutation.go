package syncengine

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/schema"
)

// Limits of what comes up. The proto comments state them for clients.
const (
	MaxBatch         = 200       // mutations in one batch
	MaxOps           = 100       // ops in one mutation
	MaxMutationBytes = 256 << 10 // JSON of one mutation's ops, in bytes
	MaxHeads         = 2000      // heads that one commit moves
)

// Action is what an op does.
type Action uint8

// The actions.
const (
	Create Action = iota + 1
	Patch
	Delete
	Command
)

func (a Action) String() string {
	return [...]string{"", "create", "patch", "delete", "command"}[min(int(a), 4)]
}

// Op is one step of a mutation.
type Op struct {
	Action     Action             `json:"action"`
	Record     satchel.ID         `json:"record"`
	Kind       string             `json:"kind"`
	BaseRev    uint64             `json:"base_rev,omitempty"`
	Fields     json.RawMessage    `json:"fields,omitempty"` // of a create or patch: a JSON object
	Sets       []schema.SetEdit   `json:"sets,omitempty"`
	Increments []schema.Increment `json:"increments,omitempty"`
	Name       string             `json:"name,omitempty"` // of a command
	Args       json.RawMessage    `json:"args,omitempty"` // of a command: a JSON object

	via *row // the merged record that it was sent to; Record is the root of it then
}

// Mutation is what a person did on a device: all its ops take effect, or none (S4).
type Mutation struct {
	Number        uint64       `json:"number,omitempty"`
	ID            satchel.ID   `json:"id"`
	Ops           []Op         `json:"ops"`
	Recorded      ClockReading `json:"recorded"`
	Token         []byte       `json:"token,omitempty"` // of the checkpoint on which it was recorded
	SchemaVersion int          `json:"schema_version,omitempty"`
	// Malformed, where not empty, is what came in place of a mutation of the documented form, as bytes. It has no Ops:
	// the verdict is REJECTED MALFORMED and an attention keeps the bytes.
	Malformed []byte `json:"malformed,omitempty"`
	// Skip, in place of ops, uses up this number and those up to Skip.To: the device has lost what stood there (S3). A
	// batch ends before a skip, or is that skip alone.
	Skip *Skip `json:"skip,omitempty"`
	// Envelope, in place of ops, stands for a mutation that is too large or that the device cannot read any more (S5).
	Envelope *Envelope `json:"envelope,omitempty"`
	// TooOld says that it was sent in a protocol that this server does not speak any more: the verdict is UNSUPPORTED,
	// and it is kept for the office as far as it could be read.
	TooOld bool `json:"too_old,omitempty"`
}

// Skip closes a gap that the device cannot fill.
type Skip struct {
	To  uint64 `json:"to"`            // the last number of the gap; the mutation's own is the first
	Why string `json:"why,omitempty"` // a word or two for the attention, without data
}

// MaxSkip is how many numbers one skip uses up at most.
const MaxSkip = 1_000_000

// Envelope describes a mutation whose bytes stay on the device.
type Envelope struct {
	Size   uint64 `json:"size"` // bytes
	SHA256 []byte `json:"sha256,omitempty"`
}

// ClockReading is a moment by a device's clocks; see the proto.
type ClockReading struct {
	Boot        string `json:"boot,omitempty"`
	MonotonicMS uint64 `json:"monotonic_ms,omitempty"`
	WallMS      int64  `json:"wall_ms,omitempty"`
}

// ClockPair says what the server's time was at a monotonic reading of a boot.
type ClockPair struct {
	Boot        string
	MonotonicMS uint64
	ServerMS    int64
}

// Outbox is what waits on a device.
type Outbox struct {
	Count      uint32
	OldestMS   int64
	MediaBytes uint64
}

// Batch is what one device sends at once.
type Batch struct {
	Mutations     []Mutation
	Confirmed     uint64
	Pairs         []ClockPair
	Outbox        Outbox
	SchemaVersion int
	// Completes says that the device can complete a row from the creation that it sent: Outcome.Sent is wanted.
	Completes bool

	culprit bool // Postgres refused the one mutation twice: refuse it, keep its bytes
	// occupied says that heads of records that it creates may be there: of one that was purged, and to whose older heads
	// the sweep has not come yet.
	occupied bool
}

// SystemMutation is what others than devices do: rules, jobs, decisions in a browser, imports. It is known by
// (Source, Key) in place of (device, number): sent again, it takes effect once.
type SystemMutation struct {
	Org    satchel.ID
	Source string // such as "rule:follow_up_due", "approval", "media"
	Key    string // unique per source
	// Actor is the person in whose name it acts, with whose rights of now it is checked; nil = the system, which may
	// write every field.
	Actor *satchel.Principal
	Ops   []Op
	// Guard, where not 0, is the rev of the first op's record that the source saw: if it moved, the verdict is STALE.
	Guard uint64
	At    time.Time // event time; zero = now
	Cause string    // shown as the answer to "why did this happen"; without customer data

	// The device, number, token and schema version that it had first, for a mutation that was kept: it counts as that
	// device's word.
	device        satchel.ID
	number        uint64
	token         []byte
	schemaVersion int
	kept          *keptTry // nil = it is not about a kept mutation
	// culprit says that Postgres refuses the mutation's data: refuse it, keep its bytes.
	culprit bool
}

// Status is the fate of a mutation, spelt like the enum satchel.v1.Status without its prefix.
type Status string

// The statuses, from the best to the worst.
const (
	Applied     Status = "APPLIED"
	Merged      Status = "MERGED"
	Conflicted  Status = "CONFLICTED"
	Stale       Status = "STALE"
	Rejected    Status = "REJECTED"
	Seen        Status = "SEEN"
	Unsupported Status = "UNSUPPORTED"
)

// Note is a remark that never changes a verdict.
type Note string

// The notes.
const (
	PossibleDouble Note = "POSSIBLE_DOUBLE"
	ClockOff       Note = "CLOCK_OFF"
	ParentMoved    Note = "PARENT_MOVED"
	OverTimeout    Note = "OVER_TIMEOUT"
)

// Path names a field of a record; an empty Path is the record as a whole.
type Path struct {
	Record satchel.ID `json:"r"`
	Path   string     `json:"p,omitempty"`
}

// Verdict is the fate of one mutation. It contains no values.
type Verdict struct {
	Number    uint64         `json:"-"`
	Status    Status         `json:"s"`
	Reason    satchel.Reason `json:"why,omitempty"`
	Paths     []Path         `json:"paths,omitempty"`
	Notes     []Note         `json:"notes,omitempty"`
	Attention satchel.ID     `json:"att,omitzero"`
	Detail    string         `json:"detail,omitempty"`
	Seq       uint64         `json:"-"`
}

// plain tells whether the ledger need not spell it out.
func (v Verdict) plain() bool {
	return v.Status == Applied && v.Reason == "" && len(v.Paths) == 0 && len(v.Notes) == 0 && v.Attention.IsZero()
}

// Outcome is what became of a batch.
type Outcome struct {
	Verdicts []Verdict // of the mutations that were settled, by number
	Expected uint64    // the number that the server expects next
	// Fork says that the device's numbering is not the one that the server knows: it must take a new id and number its
	// pending mutations anew (S3).
	Fork bool
	// Sent is how the creations of this call stand that were applied, by record; for [PullRequest]. nil unless
	// Batch.Completes.
	Sent map[satchel.ID]Sent
	// Undone says why mutations have no verdict yet although they were in order: DEADLINE or BUSY. They are still
	// pending; the page comes all the same (S14).
	Undone satchel.Reason
}

// Refusal is the error by which a command refuses: the mutation gets its status and reason.
type Refusal struct {
	Status Status // Rejected or Stale
	Reason satchel.Reason
	Path   string
	Detail string // without values
	// Routine refusals (a lost claim, a stale decision) are only a verdict and leave no attention, if the mutation
	// holds nothing else.
	Routine bool
}

// Error gives the reason and detail.
func (r *Refusal) Error() string { return string(r.Reason) + ": " + r.Detail }

// Call is a command as it reaches its feature.
type Call struct {
	Record  satchel.ID
	Kind    string
	BaseRev uint64
	Args    json.RawMessage // a JSON object; nil = {}
}

// CommandFunc turns a command into ops. It reads through the view, under locks; its ops may write every field. It
// refuses with a [Refusal]; every other error undoes the batch.
type CommandFunc func(ctx context.Context, v *View, c Call) ([]Op, error)

// GuardFunc may refuse, with a [Refusal], that a person edits a record or deletes it because of the state that it is in:
// pure, asked under the record's lock with the record as it stands. fields names what the edit touches, sorted; nil = it
// is deleted. What commands and the system do passes unasked.
type GuardFunc func(s *schema.Schema, k *schema.Kind, rec *schema.Record, fields []string) error

// Change is a record before and after a mutation, for observers. Neither must be changed.
type Change struct {
	Org        satchel.ID
	Schema     *schema.Schema // the organisation's, by which the change was made
	Zone       *time.Location // the organisation's
	Kind       *schema.Kind
	Before     *schema.Record // nil: it was created
	After      *schema.Record
	Actor      satchel.ID // person; zero = the system
	Source     string     // "" = a device
	EventMS    int64
	ReceivedAt time.Time
}

// Observer looks at what a transaction changed. It may write its own tables and enqueue jobs in the transaction,
// never records; the changes' rows are not yet in the tables. An error undoes the batch.
type Observer func(ctx context.Context, tx pgx.Tx, changes []Change) error

// end is the last number that a mutation uses up.
func (m Mutation) end() uint64 {
	if s := m.Skip; s != nil && len(m.Ops) == 0 && s.To >= m.Number && s.To-m.Number < MaxSkip {
		return s.To
	}
	return m.Number
}

// skips tells whether a mutation is a skip of the documented form.
func (m Mutation) skips() bool {
	return m.Skip != nil && len(m.Ops) == 0 && (m.end() > m.Number || m.Skip.To == m.Number)
}

// additive tells whether a mutation that takes effect twice does harm even where its records are merged: it counts, or
// it commands.
func (m Mutation) additive() bool {
	return slices.ContainsFunc(m.Ops, func(op Op) bool { return op.Action == Command || len(op.Increments) > 0 })
}

// clockOffLimit is how far a phone's wall clock may be from the truth before the verdict says so.
const clockOffLimit = 5 * time.Minute

// eventTime finds when a mutation was recorded (S7), in milliseconds since 1970. Where the phone's boot ever met the
// server, it follows from that pair and the monotonic clock, whatever the wall clock says. Where it never did, it is
// the wall clock, held within [the time of the checkpoint on which it was recorded, received]. Without any reading it
// is the time of receipt. It is never later than received, and per device never earlier than last.
func eventTime(r ClockReading, pairs []ClockPair, checkpointMS, receivedMS, last int64) (ms int64, off bool) {
	at, known := receivedMS, false
	for _, p := range pairs {
		if r.Boot != "" && p.Boot == r.Boot && p.ServerMS > 0 {
			at, known = p.ServerMS+int64(r.MonotonicMS)-int64(p.MonotonicMS), true
			off = r.WallMS != 0 && (r.WallMS-at > clockOffLimit.Milliseconds() || at-r.WallMS > clockOffLimit.Milliseconds())
			break
		}
	}
	if !known && r.WallMS > 0 {
		at = r.WallMS
		if held := max(at, checkpointMS); held != at {
			at, off = held, true
		}
		if at > receivedMS {
			off = off || at-receivedMS > clockOffLimit.Milliseconds()
		}
	}
	at = min(max(at, 0), receivedMS)
	return min(max(at, last), max(receivedMS, last)), off
}
