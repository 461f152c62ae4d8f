package demodata

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"image"
	"image/jpeg"
	"math"
	"math/rand/v2"
	"time"
)

// Shot is a photo to take.
type Shot struct {
	Seed     uint64    // of the picture; other seeds give other bytes
	At       time.Time // DateTimeOriginal, to the second, with its zone; zero = 2026-01-01T08:00:00Z
	Lat, Lng float64   // GPS position in degrees, to 1/100 second of arc
	Width    int       // pixels; 0 = 1280, at most 8,000
	Height   int       // pixels; 0 = 960, at most 8,000
}

// RealJPEG gives the photo of a shop front as a phone would: a JPEG with EXIF that holds when and where. The same shot
// always gives the same bytes.
func RealJPEG(s Shot) ([]byte, error) {
	s.Width, s.Height = cmp.Or(s.Width, 1280), cmp.Or(s.Height, 960)
	if s.Width < 16 || s.Height < 16 || s.Width > 8_000 || s.Height > 8_000 {
		return nil, errors.New("demodata: a photo has 16 to 8,000 pixels on each side")
	}
	if math.Abs(s.Lat) > 90 || math.Abs(s.Lng) > 180 {
		return nil, errors.New("demodata: a position has a latitude to 90 and a longitude to 180 degrees")
	}
	if s.At.IsZero() {
		s.At = time.Date(2026, 1, 1, 8, 0, 0, 0, time.UTC)
	}
	var body bytes.Buffer
	if err := jpeg.Encode(&body, shopFront(s), &jpeg.Options{Quality: 82}); err != nil {
		return nil, err
	}
	exif := append([]byte("Exif\x00\x00"), exifTIFF(s)...)
	raw := body.Bytes()
	out := make([]byte, 0, len(raw)+len(exif)+4)
	out = append(out, raw[:2]...) // SOI
	out = append(out, 0xff, 0xe1) // APP1
	out = binary.BigEndian.AppendUint16(out, uint16(len(exif)+2))
	out = append(out, exif...)
	return append(out, raw[2:]...), nil
}

// shopFront paints sky, a wall with windows, a sign, a street, and the noise of a small sensor.
func shopFront(s Shot) image.Image {
	rng := rand.New(rand.NewPCG(s.Seed, 0x1f0705))
	img := image.NewYCbCr(image.Rect(0, 0, s.Width, s.Height), image.YCbCrSubsampleRatio420)
	hue := func() (byte, byte) { return byte(96 + rng.IntN(64)), byte(96 + rng.IntN(64)) }
	wallB, wallR := hue()
	signB, signR := hue()
	columns := 3 + rng.IntN(5)
	sky, sign, street := s.Height*(15+rng.IntN(15))/100, s.Height*(40+rng.IntN(10))/100, s.Height*(80+rng.IntN(10))/100
	cell := max(1, s.Width/columns)
	for y := range s.Height {
		for x := range s.Width {
			light, cb, cr := 0, byte(128), byte(128)
			switch {
			case y < sky:
				light, cb, cr = 200+40*y/sky, 140, 118
			case y >= street:
				light = 90 + 20*(y-street)/(s.Height-street)
			case y >= sign && y < sign+s.Height/10:
				light, cb, cr = 150, signB, signR
				if x%(cell/2+1) < cell/4 && y%7 > 1 {
					light = 230
				}
			case x%cell > cell/5 && x%cell < cell*4/5 && y%(s.Height/5+1) > s.Height/20:
				light, cb, cr = 60+(x*7+y*3)%25, 135, 122
			default:
				light, cb, cr = 165, wallB, wallR
			}
			img.Y[img.YOffset(x, y)] = byte(max(0, min(255, light+rng.IntN(9)-4)))
			if x%2 == 0 && y%2 == 0 {
				at := img.COffset(x, y)
				img.Cb[at], img.Cr[at] = cb, cr
			}
		}
	}
	return img
}

// entry is one of a TIFF directory: a tag, its type, how many values, and their bytes.
type entry struct {
	tag, typ uint16
	count    uint32
	data     []byte
}

// TIFF types.
const (
	tiffByte     = 1
	tiffASCII    = 2
	tiffShort    = 3
	tiffLong     = 4
	tiffRational = 5
)

func ascii(tag uint16, s string) entry {
	return entry{tag, tiffASCII, uint32(len(s) + 1), append([]byte(s), 0)}
}

func long(tag uint16, v uint32) entry {
	return entry{tag, tiffLong, 1, binary.LittleEndian.AppendUint32(nil, v)}
}

// angle writes degrees as three rationals: whole degrees, whole minutes, seconds in hundredths.
func angle(tag uint16, degrees float64) entry {
	hundredths := uint32(math.Round(math.Abs(degrees) * 360_000))
	var b []byte
	for _, v := range []uint32{hundredths / 360_000, 1, hundredths / 6_000 % 60, 1, hundredths % 6_000, 100} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return entry{tag, tiffRational, 3, b}
}

// exifTIFF writes the three directories of EXIF: the picture's, the camera's, the position's.
func exifTIFF(s Shot) []byte {
	ns, ew := "N", "E"
	if s.Lat < 0 {
		ns = "S"
	}
	if s.Lng < 0 {
		ew = "W"
	}
	when := s.At.Format("2006:01:02 15:04:05")
	camera := []entry{
		{0x9000, 7, 4, []byte("0232")}, // ExifVersion
		ascii(0x9003, when),            // DateTimeOriginal
		ascii(0x9011, s.At.Format("-07:00")),
		long(0xa002, uint32(s.Width)),
		long(0xa003, uint32(s.Height)),
	}
	utc := s.At.UTC()
	var clock []byte
	for _, v := range []int{utc.Hour(), utc.Minute(), utc.Second()} {
		clock = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(clock, uint32(v)), 1)
	}
	position := []entry{
		{0x0000, tiffByte, 4, []byte{2, 3, 0, 0}}, // GPSVersionID
		ascii(0x0001, ns), angle(0x0002, s.Lat), ascii(0x0003, ew), angle(0x0004, s.Lng),
		{0x0007, tiffRational, 3, clock}, ascii(0x001d, utc.Format("2006:01:02")),
	}
	picture := func(cameraAt, positionAt uint32) []entry {
		return []entry{
			ascii(0x010f, "Satchel"), ascii(0x0110, "Demo camera"),
			{0x0112, tiffShort, 1, []byte{1, 0}}, // Orientation: upright
			ascii(0x0132, when), long(0x8769, cameraAt), long(0x8825, positionAt),
		}
	}
	const header = 8
	cameraAt := uint32(header + len(directory(picture(0, 0), header)))
	positionAt := cameraAt + uint32(len(directory(camera, cameraAt)))
	out := append([]byte("II*\x00"), binary.LittleEndian.AppendUint32(nil, header)...)
	out = append(out, directory(picture(cameraAt, positionAt), header)...)
	out = append(out, directory(camera, cameraAt)...)
	return append(out, directory(position, positionAt)...)
}

// directory writes entries, sorted by tag, as a TIFF directory that begins at the given offset; values of more than
// four bytes follow it.
func directory(entries []entry, at uint32) []byte {
	out := binary.LittleEndian.AppendUint16(nil, uint16(len(entries)))
	var values []byte
	valuesAt := at + 2 + uint32(len(entries))*12 + 4
	for _, e := range entries {
		out = binary.LittleEndian.AppendUint16(out, e.tag)
		out = binary.LittleEndian.AppendUint16(out, e.typ)
		out = binary.LittleEndian.AppendUint32(out, e.count)
		if len(e.data) <= 4 {
			out = append(out, append(bytes.Clone(e.data), 0, 0, 0, 0)[:4]...)
			continue
		}
		out = binary.LittleEndian.AppendUint32(out, valuesAt+uint32(len(values)))
		values = append(values, e.data...)
		if len(values)%2 == 1 {
			values = append(values, 0) // values begin at even offsets
		}
	}
	out = binary.LittleEndian.AppendUint32(out, 0) // no further directory
	return append(out, values...)
}
