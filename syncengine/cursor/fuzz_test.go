package cursor

import (
	"bytes"
	"testing"

	satchel "github.com/satchel-sync/satchel"
)

// What this server did not seal is no cursor and no token; what it sealed opens as it was, for that person only.
func FuzzOpenCursor(f *testing.F) {
	key, person := []byte("a key of thirty-two bytes, no less"), satchel.MustParseID("01939f2c-0000-7000-8000-000000000001")
	f.Add([]byte{}, uint64(0), uint64(0), uint64(0), 0, byte(0))
	f.Add(Cursor{Live: 7, LiveRec: LastRecord}.Seal(key, person), uint64(1), uint64(2), uint64(3), 4, byte(3))
	f.Add(Token{Seq: 7, TimeMS: 9}.Seal(key, person), uint64(1<<63), uint64(0), uint64(9), 1000, byte(1))
	f.Fuzz(func(t *testing.T, raw []byte, live, fillSeq, since uint64, done int, flags byte) {
		if _, ok := Open(key, person, raw); ok && !bytes.Equal(raw, Cursor{Live: 7, LiveRec: LastRecord}.Seal(key, person)) {
			t.Fatal("a cursor that was never given opens")
		}
		// Signed by a thief of the key, nonsense must still not panic.
		Open(key, person, sign(key, person, bytes.Clone(raw)))
		OpenToken(key, person, sign(key, person, bytes.Clone(raw)))

		c := Cursor{Live: live, FillSeq: fillSeq, FillSince: since, Done: max(done, 0), LiveRec: LastRecord,
			Staged: flags&1 != 0, Whole: flags&2 != 0}
		copy(c.View[:], raw)
		if len(raw) > 32 {
			copy(c.LiveRec[:], raw[16:])
		}
		if fillSeq > 0 {
			c.FillRec = c.LiveRec
		}
		sealed := c.Seal(key, person)
		if got, ok := Open(key, person, sealed); !ok || got != c {
			t.Fatalf("%+v opens as %+v", c, got)
		}
		if c.Since() > c.Live {
			t.Fatalf("%+v was told of everything up to %d", c, c.Since())
		}
		if _, ok := Open(key, satchel.NewID(), sealed); ok {
			t.Fatal("somebody else's cursor opens")
		}
		if _, ok := OpenToken(key, person, sealed); ok {
			t.Fatal("a cursor opens as a token")
		}
		tok := Token{View: c.View, Seq: live, TimeMS: int64(since)}
		proof := tok.Seal(key, person)
		if got, ok := OpenToken(key, person, proof); !ok || got != tok {
			t.Fatalf("%+v opens as %+v", tok, got)
		}
		if _, ok := Open(key, person, proof); ok {
			t.Fatal("a token opens as a cursor")
		}
		// Of what was given, one byte changed, the end cut off, or something behind it.
		for _, given := range [][]byte{sealed, proof} {
			at := int((live ^ since) % uint64(len(given)))
			bent := bytes.Clone(given)
			bent[at] ^= byte(done) | 1
			for _, b := range [][]byte{bent, given[:at], append(bytes.Clone(given), byte(done))} {
				_, isCursor := Open(key, person, b)
				_, isToken := OpenToken(key, person, b)
				if isCursor || isToken {
					t.Fatalf("%x opens, made of %x", b, given)
				}
			}
		}
	})
}
