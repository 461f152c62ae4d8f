package schema

import (
	"slices"

	"github.com/satchel-sync/satchel/internal/expr"
)

// Type is how a field is stored. Merge, checks and compatibility know only these twelve.
type Type string

// The storage types.
const (
	Text      Type = "text"      // one line, at most 500 characters unless max_length says otherwise
	LongText  Type = "long_text" // at most 20,000 characters
	Integer   Type = "integer"   // a whole number of 64 bits
	Decimal   Type = "decimal"   // a number with at most 18 digits before and 6 after the point
	Boolean   Type = "boolean"   // true or false
	Date      Type = "date"      // 2026-11-21
	DateTime  Type = "datetime"  // 2026-11-21T08:00:00Z, RFC 3339 with a zone
	Choice    Type = "choice"    // one of the field's choices
	Set       Type = "set"       // texts without order and doubles; at most 500 of 200 characters each
	Reference Type = "reference" // the id of a record of kind Target
	Geo       Type = "geo"       // {"lat", "lng", "datum", "accuracy_m"}: one value, never merged by part
	JSON      Type = "json"      // anything, at most 64 KiB; one value
)

// Policy is how two concurrent changes of one path are settled; see the table in docs/protocol.md.
type Policy string

// The merge policies.
const (
	LastWrite  Policy = "last_write"  // the later event time; ties: the higher device id. The default
	ServerWins Policy = "server"      // the standing value
	Min        Policy = "min"         // the smaller
	Max        Policy = "max"         // the larger
	Counter    Policy = "counter"     // deltas add up
	SetMerge   Policy = "set"         // by element; add wins over a concurrent remove
	Immutable  Policy = "immutable"   // set once
	Ask        Policy = "ask"         // a person chooses
	ServerOnly Policy = "server_only" // no device writes it
)

// Field describes one field of a kind.
type Field struct {
	Name      string
	Type      Type
	LabelZH   string
	LabelEN   string
	Merge     Policy
	Group     string   // fields of one group are settled as one; "" = by itself
	Required  bool     // must have a value in every valid record
	Choices   []string // of a Choice
	Target    string   // kind that a Reference points to
	MaxLength int      // in characters; 0 = the type's own limit
	Default   any      // value of a create that does not name it; nil = none
}

// DeletePolicy settles a delete that meets an edit.
type DeletePolicy string

// The delete policies.
const (
	EditWins   DeletePolicy = "edit_wins"   // the edit revives the record; a delete that had not seen it conflicts. The default
	DeleteWins DeletePolicy = "delete_wins" // the record stays deleted; the edit is refused
)

// Kind describes a kind of record.
type Kind struct {
	Name    string
	LabelZH string
	LabelEN string
	// Fact marks what took place (a visit, a photo): never refused because its parent moved meanwhile, and kept in
	// the bucket of the month of its event time.
	Fact bool
	// Delete settles a delete that meets an edit.
	Delete DeletePolicy
	// Owner names the field with the owner's person id; "" = the author owns the record.
	Owner string
	// Parent names the reference field of the record under which this one hangs; "" = it hangs under none.
	Parent string
	// Buckets lists where a record lies: "owner", "team" (the owner's), "org", "parent_owner", "field:NAME" (a person
	// named in a field). At most 8 at once.
	Buckets []string
	// Copies marks a kind that keeps values of other records as items of (record, field, value): they are shown under
	// the field rights of the record they came from (S21).
	Copies bool
	// Checks are conditions over `new` that every valid record satisfies.
	Checks []Check

	fields  map[string]*Field
	ordered []*Field
}

// Check is a condition that a record must satisfy as a whole.
type Check struct {
	Condition *expr.Condition
	Fields    []string // the fields that it is about, for the message
}

// Field gives the field of that name, or nil.
func (k *Kind) Field(name string) *Field { return k.fields[name] }

// Fields gives the fields in the order of the pack. The slice must not be changed.
func (k *Kind) Fields() []*Field { return k.ordered }

// Scope is how far a right reaches.
type Scope string

// The scopes, narrowest first.
const (
	None Scope = ""     // nowhere: the default
	Own  Scope = "own"  // what lies in the person's own buckets
	Team Scope = "team" // and in those of the person's team and all teams below
	All  Scope = "all"  // and in those of every team
)

var scopes = []Scope{None, Own, Team, All}

// Wider gives the wider of two scopes.
func (s Scope) Wider(t Scope) Scope {
	if slices.Index(scopes, t) > slices.Index(scopes, s) {
		return t
	}
	return s
}

// Reaches tells whether s is at least as wide as t.
func (s Scope) Reaches(t Scope) bool { return slices.Index(scopes, s) >= slices.Index(scopes, t) }

// FieldRight is what a role may do with a field; the zero value leaves the kind's rights as they are.
type FieldRight string

// The field rights, narrowest first.
const (
	Hidden FieldRight = "hidden" // never sent
	Masked FieldRight = "masked" // sent in part: the first 3 and the last 4 characters of a long text
	Read   FieldRight = "read"   // sent, not writable
	Write  FieldRight = "write"  // what the kind's update and create rights allow: the default
)

// KindGrant is what a role may do with a kind. The zero value is nothing.
type KindGrant struct {
	Read   Scope
	Create bool
	Update Scope
	Delete Scope
	Fields map[string]FieldRight // fields that differ from Write
}

// Role is a named set of grants.
type Role struct {
	Name   string
	Rights []string // such as "directory.manage"
	Kinds  map[string]KindGrant
}

// FullProfile is the profile that every schema has: all kinds, all months. A device that names none has it.
const FullProfile = "full"

// Profile says which part of what is a person's a device follows (S13): a phone with little room, or a mini-program,
// takes fewer kinds and months. It takes no right away.
type Profile struct {
	Name   string
	Kinds  []string // sorted; nil = all
	Months int      // of facts, the current one included; 0 = all
}

// Rule is an IF-THEN rule of the pack: at Anchor + Offset of a record that satisfies When, its owner gets a notice.
type Rule struct {
	Name     string
	Kind     string
	Anchor   string // datetime or date field
	OffsetMS int64  // added to the anchor, in milliseconds; may be negative
	When     *expr.Condition
	Notify   string // field with the person to notify; "" = the owner
	Template string // key of the notice's text
}

// Flow is an approval flow of the pack: Node decides where Limit is reached.
type Flow struct {
	Name        string
	Kind        string
	AmountField string
	Limit       string   // decimal; an amount at or above it needs the approver, below it none
	Node        string   // name of the node
	Approver    string   // "manager" (nearest person with ApproverRole in the team or above)
	Role        string   // role that the approver has
	FormFields  []string // what the task shows, frozen
	StateField  string   // server_only field with the approval's state
}

// Template is the text of a notice in the languages that Satchel speaks. Both are always there.
type Template struct {
	ZH string
	EN string
}

// Schema is one published version of an organisation's kinds, roles, rules and flows. It is immutable.
type Schema struct {
	Version int
	Rules   []*Rule
	Flows   []*Flow
	// Templates are the texts of notices by key. They never hold customer data. The map must not be changed.
	Templates map[string]Template

	kinds    map[string]*Kind
	names    []string
	roles    map[string]*Role
	profiles map[string]*Profile
}

// Kind gives the kind of that name, or nil.
func (s *Schema) Kind(name string) *Kind { return s.kinds[name] }

// Kinds gives the names of all kinds, sorted. The slice must not be changed.
func (s *Schema) Kinds() []string { return s.names }

// Role gives the role of that name, or nil.
func (s *Schema) Role(name string) *Role { return s.roles[name] }

// Roles gives the names of all roles, sorted.
func (s *Schema) Roles() []string {
	names := make([]string, 0, len(s.roles))
	for name := range s.roles {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Profile gives the profile of that name, or nil; "" and [FullProfile] give the full one.
func (s *Schema) Profile(name string) *Profile {
	if name == "" || name == FullProfile {
		return &Profile{Name: FullProfile}
	}
	return s.profiles[name]
}

// Profiles gives the names of all profiles, sorted, the full one included.
func (s *Schema) Profiles() []string {
	names := []string{FullProfile}
	for name := range s.profiles {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
