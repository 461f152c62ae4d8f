package syncengine

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"

	satchel "github.com/satchel-sync/satchel"
)

// viewHash names a view.
type viewHash [16]byte

// cursor is the place of a device: what it has, and where to go on. Its bytes are signed for one person.
type cursor struct {
	view viewHash
	// live is the place in the complete buckets: all changes at or before (seq, record) were given.
	live    uint64
	liveRec satchel.ID
	// done is the number of the view's entries that are complete.
	done int
	// The place in the entry being filled; heads absent since before fillSince need no leave.
	fillSeq   uint64
	fillRec   satchel.ID
	fillSince uint64
}

// lastRecord is behind every record of a seq.
var lastRecord = satchel.ID{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

const (
	cursorVersion = 1
	tokenVersion  = 2
	macSize       = 12 // bytes of HMAC-SHA256 kept: a forger has one try a call
)

func (c cursor) seal(key []byte, person satchel.ID) []byte {
	b := append([]byte{cursorVersion}, c.view[:]...)
	b = binary.AppendUvarint(b, c.live)
	b = binary.AppendUvarint(b, uint64(c.done))
	if c.liveRec != lastRecord {
		b = append(append(b, 1), c.liveRec[:]...)
	} else {
		b = append(b, 0)
	}
	b = binary.AppendUvarint(b, c.fillSeq)
	b = binary.AppendUvarint(b, c.fillSince)
	if c.fillSeq > 0 {
		b = append(b, c.fillRec[:]...)
	}
	return sign(key, person, b)
}

// openCursor reads a cursor that this server sealed for this person; false = it did not.
func openCursor(key []byte, person satchel.ID, sealed []byte) (cursor, bool) {
	b, ok := verify(key, person, sealed)
	if !ok || len(b) < 18 || b[0] != cursorVersion {
		return cursor{}, false
	}
	r := reader{b: b[1:]}
	var c cursor
	copy(c.view[:], r.take(16))
	c.live = r.uvarint()
	c.done = int(r.uvarint())
	c.liveRec = lastRecord
	if r.take(1)[0] == 1 {
		copy(c.liveRec[:], r.take(16))
	}
	c.fillSeq = r.uvarint()
	c.fillSince = r.uvarint()
	if c.fillSeq > 0 {
		copy(c.fillRec[:], r.take(16))
	}
	return c, !r.short && len(r.b) == 0
}

// token proves what a device was showing: the view and seq of a checkpoint and its time.
type token struct {
	view   viewHash
	seq    uint64
	timeMS int64
}

func (t token) seal(key []byte, person satchel.ID) []byte {
	b := append([]byte{tokenVersion}, t.view[:]...)
	b = binary.AppendUvarint(b, t.seq)
	b = binary.AppendUvarint(b, uint64(t.timeMS))
	return sign(key, person, b)
}

// openToken reads a checkpoint's token of this person.
func openToken(key []byte, person satchel.ID, sealed []byte) (token, bool) {
	b, ok := verify(key, person, sealed)
	if !ok || len(b) < 18 || b[0] != tokenVersion {
		return token{}, false
	}
	r := reader{b: b[1:]}
	var t token
	copy(t.view[:], r.take(16))
	t.seq = r.uvarint()
	t.timeMS = int64(r.uvarint())
	return t, !r.short && len(r.b) == 0
}

// sign appends the MAC; the person is in it, not in the bytes.
func sign(key []byte, person satchel.ID, b []byte) []byte { return append(b, mac(key, person, b)...) }

func verify(key []byte, person satchel.ID, sealed []byte) ([]byte, bool) {
	if len(sealed) <= macSize || len(key) == 0 {
		return nil, false
	}
	b, sum := sealed[:len(sealed)-macSize], sealed[len(sealed)-macSize:]
	return b, hmac.Equal(sum, mac(key, person, b))
}

func mac(key []byte, person satchel.ID, b []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(person[:])
	h.Write(b)
	return h.Sum(nil)[:macSize]
}

// reader takes bytes off a slice; past the end it gives zeros and remembers.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if len(r.b) < n {
		r.short = true
		return make([]byte, n)
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.short = true
		return 0
	}
	r.b = r.b[n:]
	return v
}
