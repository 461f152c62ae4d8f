package media_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"testing"
	"time"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/media"
)

// tag is an EXIF tag to be written.
type tag struct {
	id    uint16
	kind  uint16 // 2 text, 4 number, 5 fraction
	count uint32
	data  []byte
}

func text(id uint16, s string) tag { return tag{id, 2, uint32(len(s) + 1), append([]byte(s), 0)} }

func number(id uint16, n uint32) tag { return tag{id, 4, 1, binary.BigEndian.AppendUint32(nil, n)} }

func angle(id uint16, deg, min, sec uint32) tag {
	var b []byte
	for _, n := range []uint32{deg, 1, min, 1, sec, 100} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return tag{id, 5, 3, b}
}

// directory writes an IFD that stands at offset at of the TIFF part.
func directory(at int, tags ...tag) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(len(tags)))
	var tail []byte
	behind := at + 2 + 12*len(tags) + 4
	for _, t := range tags {
		b = binary.BigEndian.AppendUint16(b, t.id)
		b = binary.BigEndian.AppendUint16(b, t.kind)
		b = binary.BigEndian.AppendUint32(b, t.count)
		if len(t.data) <= 4 {
			b = append(b, append(bytes.Clone(t.data), 0, 0, 0, 0)[:4]...)
			continue
		}
		b = binary.BigEndian.AppendUint32(b, uint32(behind+len(tail)))
		tail = append(tail, t.data...)
	}
	return append(append(b, 0, 0, 0, 0), tail...)
}

// withEXIF puts an EXIF segment with the directories into a JPEG.
func withEXIF(jpg []byte, ifd0, exif, gps []tag) []byte {
	at := 8
	exifAt := at + len(directory(at, append(ifd0, number(0x8769, 0), number(0x8825, 0))...))
	gpsAt := exifAt + len(directory(exifAt, exif...))
	tiff := []byte("MM\x00\x2a\x00\x00\x00\x08")
	tiff = append(tiff, directory(at, append(ifd0, number(0x8769, uint32(exifAt)), number(0x8825, uint32(gpsAt)))...)...)
	tiff = append(tiff, directory(exifAt, exif...)...)
	tiff = append(tiff, directory(gpsAt, gps...)...)
	segment := append([]byte("Exif\x00\x00"), tiff...)
	out := append(bytes.Clone(jpg[:2]), 0xff, 0xe1)
	out = binary.BigEndian.AppendUint16(out, uint16(len(segment)+2))
	return append(append(out, segment...), jpg[2:]...)
}

// evidenceOf sends b as a photo and gives what the database says of it; nil for NULL.
func (w *world) evidenceOf(b []byte) *media.Evidence {
	w.t.Helper()
	sum := w.mustSend(person(satchel.NewID()), b, "image/jpeg")
	var raw []byte
	if err := w.pool.QueryRow(w.t.Context(), `select evidence from blob where encode(sha256, 'hex') = $1`, sum).Scan(&raw); err != nil {
		w.t.Fatal(err)
	}
	if raw == nil {
		return nil
	}
	var ev media.Evidence
	if err := json.Unmarshal(raw, &ev); err != nil {
		w.t.Fatal(err)
	}
	return &ev
}

func TestTheEvidenceOfAPhotoIsItsSizeTimeAndPlace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ev := w.evidenceOf(withEXIF(photo(t, 1), []tag{text(0x0110, "Phone 12")},
		[]tag{text(0x9003, "2026:03:02 09:30:15"), text(0x9011, "+08:00")},
		[]tag{text(1, "N"), angle(2, 31, 14, 3000), text(3, "W"), angle(4, 121, 28, 1200)}))
	if ev == nil || ev.Width != 64 || ev.Height != 48 || ev.TakenAt != "2026-03-02T09:30:15+08:00" || ev.Camera != "Phone 12" {
		t.Fatalf("evidence: %+v", ev)
	}
	if ev.Latitude == nil || *ev.Latitude < 31.2416 || *ev.Latitude > 31.2417 || ev.Longitude == nil || *ev.Longitude > -121.469 || *ev.Longitude < -121.471 {
		t.Errorf("place: %v %v", *ev.Latitude, *ev.Longitude)
	}
	if ev := w.evidenceOf(photo(t, 2)); ev == nil || *ev != (media.Evidence{Width: 64, Height: 48}) {
		t.Errorf("a photo without EXIF has %+v", ev)
	}
}

// The head that the evidence is read from is what the bytes begin with, also where the rest is longer than it.
func TestTheEvidenceOfALargePhotoIsKeptToo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	large := append(photo(t, 3), bytes.Repeat([]byte("what follows the picture's end "), 20_000)...)
	if ev := w.evidenceOf(large); ev == nil || *ev != (media.Evidence{Width: 64, Height: 48}) {
		t.Errorf("of %d bytes: %+v", len(large), ev)
	}
}

func TestNonsenseInAPhotoCostsTheEvidenceAndNeverThePhoto(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ev := w.evidenceOf(withEXIF(photo(t, 3), []tag{text(0x0110, "Ph\x01o\xffne \u202e and a name that is far longer than any camera has ever had or ever will")},
		[]tag{text(0x9003, "2026:13:77 99:99:99"), text(0x9011, "<script>")},
		[]tag{text(1, "N"), angle(2, 131, 0, 0), text(3, "E"), angle(4, 121, 0, 0)}))
	if ev == nil || ev.TakenAt != "" || ev.Latitude != nil || ev.Longitude != nil || len(ev.Camera) > 64 || bytes.ContainsAny([]byte(ev.Camera), "\x01\xff") {
		t.Errorf("evidence: %+v", ev)
	}
	whole := withEXIF(photo(t, 4), []tag{text(0x0110, "Phone")}, []tag{text(0x9003, "2026:03:02 09:30:15")}, nil)
	loop := withEXIF(photo(t, 5), []tag{number(0x8769, 8), number(0x8825, 8)}, nil, nil) // directories that contain themselves
	huge := bytes.Clone(photo(t, 6))
	at := bytes.Index(huge, []byte{0xff, 0xc0}) // the frame: its size stands 5 bytes behind
	copy(huge[at+5:], []byte{0xff, 0xff, 0xff, 0xff})
	start := time.Now()
	for _, b := range [][]byte{whole[:40], whole[:60], whole[:100], loop, huge} {
		w.evidenceOf(b)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}
