package cursor

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"

	satchel "github.com/satchel-sync/satchel"
)

// Hash names a view.
type Hash [16]byte

// Cursor is the place of a device: what it has, and where to go on. Its bytes are signed for one person.
type Cursor struct {
	View Hash
	// Live is the place in the complete buckets: all changes at or before (Live, LiveRec) were given.
	Live    uint64
	LiveRec satchel.ID
	// Done is the number of the view's entries that are complete.
	Done int
	// The place in the entry being filled. What the device may hold of the entries still to fill, it was told of up to
	// FillSince: heads absent since before need no leave. 0 = it holds nothing of them.
	FillSeq   uint64
	FillRec   satchel.ID
	FillSince uint64
	// Staged: the last page was no checkpoint; the device keeps what came since apart from what it shows.
	Staged bool
	// Whole: of what is staged, something may belong to entries that are still to fill, since the view turned in
	// mid-fill; it must not be shown before all of them are complete.
	Whole bool
}

// LastRecord is behind every record of a seq.
var LastRecord = satchel.ID{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

const (
	cursorVersion = 1
	tokenVersion  = 2
	macSize       = 12 // bytes of HMAC-SHA256 kept: a forger has one try a call
)

// What a cursor's flags say.
const (
	flagLiveRec = 1 << iota // the live place is within a seq: its record follows
	flagStaged
	flagWhole
)

// Seal spells a cursor for one person.
func (c Cursor) Seal(key []byte, person satchel.ID) []byte {
	b := append([]byte{cursorVersion}, c.View[:]...)
	b = binary.AppendUvarint(b, c.Live)
	b = binary.AppendUvarint(b, uint64(c.Done))
	var flags byte
	if c.LiveRec != LastRecord {
		flags |= flagLiveRec
	}
	if c.Staged {
		flags |= flagStaged
	}
	if c.Whole {
		flags |= flagWhole
	}
	b = append(b, flags)
	if c.LiveRec != LastRecord {
		b = append(b, c.LiveRec[:]...)
	}
	b = binary.AppendUvarint(b, c.FillSeq)
	b = binary.AppendUvarint(b, c.FillSince)
	if c.FillSeq > 0 {
		b = append(b, c.FillRec[:]...)
	}
	return sign(key, person, b)
}

// Open reads a cursor that this server sealed for this person; false = it did not.
func Open(key []byte, person satchel.ID, sealed []byte) (Cursor, bool) {
	b, ok := verify(key, person, sealed)
	if !ok || len(b) < 18 || b[0] != cursorVersion {
		return Cursor{}, false
	}
	r := reader{b: b[1:]}
	var c Cursor
	copy(c.View[:], r.take(16))
	c.Live = r.uvarint()
	c.Done = int(r.uvarint())
	c.LiveRec = LastRecord
	flags := r.take(1)[0]
	if flags&flagLiveRec != 0 {
		copy(c.LiveRec[:], r.take(16))
	}
	c.Staged, c.Whole = flags&flagStaged != 0, flags&flagWhole != 0
	c.FillSeq = r.uvarint()
	c.FillSince = r.uvarint()
	if c.FillSeq > 0 {
		copy(c.FillRec[:], r.take(16))
	}
	return c, !r.short && len(r.b) == 0 && flags < flagWhole<<1
}

// Since is the commit up to which the device was told of everything that it may hold: what was purged at or before it
// is of no use to it.
func (c Cursor) Since() uint64 {
	since := c.Live
	if c.LiveRec != LastRecord && since > 0 {
		since-- // of its last commit it may have a part
	}
	if c.FillSince > 0 {
		since = min(since, c.FillSince)
	}
	return since
}

// Token proves what a device was showing: the view and seq of a checkpoint and its time.
type Token struct {
	View   Hash
	Seq    uint64
	TimeMS int64
}

// Seal spells a token for one person.
func (t Token) Seal(key []byte, person satchel.ID) []byte {
	b := append([]byte{tokenVersion}, t.View[:]...)
	b = binary.AppendUvarint(b, t.Seq)
	b = binary.AppendUvarint(b, uint64(t.TimeMS))
	return sign(key, person, b)
}

// OpenToken reads a checkpoint's token of this person.
func OpenToken(key []byte, person satchel.ID, sealed []byte) (Token, bool) {
	b, ok := verify(key, person, sealed)
	if !ok || len(b) < 18 || b[0] != tokenVersion {
		return Token{}, false
	}
	r := reader{b: b[1:]}
	var t Token
	copy(t.View[:], r.take(16))
	t.Seq = r.uvarint()
	t.TimeMS = int64(r.uvarint())
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
