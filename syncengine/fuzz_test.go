package syncengine

import (
	"bytes"
	"testing"

	satchel "github.com/satchel-sync/satchel"
)

// What this server did not seal is no cursor and no token; what it sealed opens as it was, for that person only.
func FuzzOpenCursor(f *testing.F) {
	key, person := []byte("a key of thirty-two bytes, no less"), satchel.MustParseID("01939f2c-0000-7000-8000-000000000001")
	f.Add([]byte{}, uint64(0), uint64(0), uint64(0), 0)
	f.Add(cursor{live: 7, liveRec: lastRecord}.seal(key, person), uint64(1), uint64(2), uint64(3), 4)
	f.Add(token{seq: 7, timeMS: 9}.seal(key, person), uint64(1<<63), uint64(0), uint64(9), 1000)
	f.Fuzz(func(t *testing.T, raw []byte, live, fillSeq, since uint64, done int) {
		if _, ok := openCursor(key, person, raw); ok && !bytes.Equal(raw, cursor{live: 7, liveRec: lastRecord}.seal(key, person)) {
			t.Fatal("a cursor that was never given opens")
		}
		// Signed by a thief of the key, nonsense must still not panic.
		openCursor(key, person, sign(key, person, bytes.Clone(raw)))
		openToken(key, person, sign(key, person, bytes.Clone(raw)))

		c := cursor{live: live, fillSeq: fillSeq, fillSince: since, done: max(done, 0), liveRec: lastRecord}
		copy(c.view[:], raw)
		if len(raw) > 32 {
			copy(c.liveRec[:], raw[16:])
		}
		if fillSeq > 0 {
			c.fillRec = c.liveRec
		}
		sealed := c.seal(key, person)
		if got, ok := openCursor(key, person, sealed); !ok || got != c {
			t.Fatalf("%+v opens as %+v", c, got)
		}
		if _, ok := openCursor(key, satchel.NewID(), sealed); ok {
			t.Fatal("somebody else's cursor opens")
		}
		if _, ok := openToken(key, person, sealed); ok {
			t.Fatal("a cursor opens as a token")
		}
	})
}
