package syncengine

import (
	satchel "github.com/satchel-sync/satchel"
)

// RepairPlan says what a device must hold, at one moment (S17).
type RepairPlan struct {
	Cursor     []byte // the device goes on with it when the repair is done
	Buckets    []BucketDigest
	StaleKinds []string            // their rows look otherwise now
	Narrowed   map[string][]string // by kind: fields that must go
	Forms      []Form
	Seq        uint64
}

// BucketDigest is what lies of one kind in one bucket.
type BucketDigest struct {
	Bucket int64
	Kind   string
	Digest Digest
}

// RecordRevs lists records of one kind in one bucket, in the order of their ids, with their revs.
type RecordRevs struct {
	Records []satchel.ID
	Revs    []uint64
	More    bool
}
