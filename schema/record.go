package schema

import (
	"maps"

	satchel "github.com/satchel-sync/satchel"
)

// Stamp tells who changed a path last. A path that was not changed since the record's creation has no stamp.
type Stamp struct {
	Rev    uint64     // the record's rev that this change made
	At     int64      // event time in milliseconds since 1970 (S7)
	Device satchel.ID // zero = a system source, which loses ties
	Number uint64     // the device's number of the mutation
}

// Record is a record as it stands. Values are decoded JSON: string, bool, json.Number, []any, map[string]any; an
// absent field is not in Data.
type Record struct {
	ID      satchel.ID
	Kind    string
	Rev     uint64 // 0 = it does not exist yet
	Data    map[string]any
	Stamps  map[string]Stamp // by path
	Author  satchel.ID       // person; zero = the system
	EventMS int64            // event time of the creation
	Deleted bool
}

// Exists tells whether the record was created and is not deleted.
func (r *Record) Exists() bool { return r != nil && r.Rev > 0 && !r.Deleted }

// Clone gives a copy whose maps can be changed; values are shared, since nothing changes a value in place.
func (r *Record) Clone() *Record {
	c := *r
	c.Data = maps.Clone(r.Data)
	c.Stamps = maps.Clone(r.Stamps)
	if c.Data == nil {
		c.Data = map[string]any{}
	}
	if c.Stamps == nil {
		c.Stamps = map[string]Stamp{}
	}
	return &c
}

// Text gives a text field, or "".
func (r *Record) Text(field string) string {
	s, _ := r.Data[field].(string)
	return s
}

// Ref gives a reference field, or the zero id.
func (r *Record) Ref(field string) satchel.ID {
	id, err := satchel.ParseID(r.Text(field))
	if err != nil {
		return satchel.ID{}
	}
	return id
}

// OwnerID gives the person who owns the record: the kind's owner field, else the author.
func (r *Record) OwnerID(k *Kind) satchel.ID {
	if k.Owner != "" {
		return r.Ref(k.Owner)
	}
	return r.Author
}
