package satchel

import (
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/google/uuid"
)

// ID identifies an organisation, a person, a team, a device, a record or a mutation. It is a UUID; ids that Satchel
// mints are UUIDv7 (RFC 9562), so that rows written together lie together in an index. Devices mint record ids
// themselves. The zero ID means "none" and is never stored as a key.
type ID [16]byte

// NewID mints a UUIDv7 from the machine's clock and random source. It panics only when the system has no randomness.
func NewID() ID { return ID(uuid.Must(uuid.NewV7())) }

// ParseID reads the canonical form of 36 characters (either case); every other form is refused, so that one id has
// one spelling wherever it is compared as text.
func ParseID(s string) (ID, error) {
	if len(s) != 36 {
		return ID{}, fmt.Errorf("an id has the form 00000000-0000-0000-0000-000000000000, not %d characters", len(s))
	}
	u, err := uuid.Parse(s)
	return ID(u), err
}

// MustParseID is ParseID for constants; it panics on a malformed id.
func MustParseID(s string) ID {
	id, err := ParseID(s)
	if err != nil {
		panic(err)
	}
	return id
}

// DerivedID names something by what it is made from: the same space and name always give the same id (UUIDv5).
func DerivedID(space ID, name string) ID { return ID(uuid.NewSHA1(uuid.UUID(space), []byte(name))) }

// IsZero tells whether the id means "none".
func (id ID) IsZero() bool { return id == ID{} }

// String gives the canonical lower-case form.
func (id ID) String() string { return uuid.UUID(id).String() }

// MarshalText gives the canonical lower-case form.
func (id ID) MarshalText() ([]byte, error) { return uuid.UUID(id).MarshalText() }

// UnmarshalText is [ParseID].
func (id *ID) UnmarshalText(b []byte) error {
	p, err := ParseID(string(b))
	*id = p
	return err
}

// Value makes an ID a parameter for database/sql. The hot path does not pass here: internal/pg teaches pgx the
// binary form.
func (id ID) Value() (driver.Value, error) { return id.String(), nil }

// Scan reads an id from its text or its 16 bytes; NULL becomes the zero ID.
func (id *ID) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*id = ID{}
		return nil
	case string:
		return id.UnmarshalText([]byte(v))
	case []byte:
		if len(v) == 16 {
			copy(id[:], v)
			return nil
		}
		return id.UnmarshalText(v)
	}
	return errors.New("satchel: an id is text or 16 bytes")
}
