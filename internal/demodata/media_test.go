package demodata_test

import (
	"bytes"
	"encoding/binary"
	"image/jpeg"
	"math"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/satchel-sync/satchel/internal/demodata"
)

func TestAPhotoIsAJPEGThatSaysWhenAndWhereItWasTaken(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 21, 16, 5, 9, 0, time.FixedZone("", 8*3600))
	raw, err := demodata.RealJPEG(demodata.Shot{Seed: 1, At: at, Lat: 31.230416, Lng: -121.473701})
	if err != nil {
		t.Fatal(err)
	}
	img, err := jpeg.Decode(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	if b := img.Bounds(); b.Dx() != 1280 || b.Dy() != 960 {
		t.Errorf("the picture has %v", b)
	}
	if raw[2] != 0xff || raw[3] != 0xe1 || string(raw[6:12]) != "Exif\x00\x00" {
		t.Fatalf("no EXIF behind the beginning: % x", raw[:12])
	}
	tiff := raw[12 : 4+int(binary.BigEndian.Uint16(raw[4:]))]
	first := entries(t, tiff, 8)
	camera := entries(t, tiff, binary.LittleEndian.Uint32(first[0x8769]))
	if got := string(camera[0x9003]); got != "2026:11:21 16:05:09\x00" {
		t.Errorf("DateTimeOriginal %q", got)
	}
	if got := string(camera[0x9011]); got != "+08:00\x00" {
		t.Errorf("OffsetTimeOriginal %q", got)
	}
	position := entries(t, tiff, binary.LittleEndian.Uint32(first[0x8825]))
	if got := string(position[1][:1]) + string(position[3][:1]); got != "NW" {
		t.Errorf("hemispheres %q", got)
	}
	if lat, lng := angle(position[2]), angle(position[4]); math.Abs(lat-31.230416) > 3e-6 || math.Abs(lng-121.473701) > 3e-6 {
		t.Errorf("position %f, %f", lat, lng)
	}
}

// entries reads a TIFF directory, little-endian: the bytes of each value by tag.
func entries(t *testing.T, tiff []byte, at uint32) map[uint16][]byte {
	t.Helper()
	size := map[uint16]uint32{1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1}
	out := map[uint16][]byte{}
	before := -1
	for i := range uint32(binary.LittleEndian.Uint16(tiff[at:])) {
		e := tiff[at+2+i*12:]
		tag, n := binary.LittleEndian.Uint16(e), size[binary.LittleEndian.Uint16(e[2:])]*binary.LittleEndian.Uint32(e[4:])
		if n == 0 || int(tag) <= before {
			t.Fatalf("the entry %#x has no size or is out of order", tag)
		}
		before = int(tag)
		if out[tag] = e[8 : 8+min(n, 4)]; n > 4 {
			from := binary.LittleEndian.Uint32(e[8:])
			out[tag] = tiff[from : from+n]
		}
	}
	return out
}

func angle(b []byte) float64 {
	sum, unit := 0.0, 1.0
	for i := range 3 {
		sum += float64(binary.LittleEndian.Uint32(b[i*8:])) / float64(binary.LittleEndian.Uint32(b[i*8+4:])) / unit
		unit *= 60
	}
	return sum
}

func TestTheSameShotGivesTheSameBytesAndAnotherSeedOthers(t *testing.T) {
	t.Parallel()
	shot := demodata.Shot{Seed: 1, Width: 64, Height: 48}
	one, err := demodata.RealJPEG(shot)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := demodata.RealJPEG(shot)
	shot.Seed = 2
	other, _ := demodata.RealJPEG(shot)
	if !bytes.Equal(one, again) || bytes.Equal(one, other) {
		t.Error("the bytes do not follow from the shot")
	}
	for _, bad := range []demodata.Shot{{Width: 1}, {Height: 9_000}, {Lat: 91}, {Lng: -181}} {
		if _, err := demodata.RealJPEG(bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

// The machine that runs the tests may have no speaker; both answers are specified.
func TestSpeechIsAWaveFileOrAnErrorThatSaysWhatToInstall(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"Customer asks for a new quote by Friday.", "客户希望周五之前拿到新的报价。"} {
		wav, err := demodata.Speech(t.Context(), text)
		if _, missing := exec.LookPath("espeak-ng"); missing != nil {
			if err == nil || !strings.Contains(err.Error(), "install the package espeak-ng") {
				t.Errorf("got %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(wav) < 20_000 || string(wav[:4]) != "RIFF" || string(wav[8:12]) != "WAVE" || int(binary.LittleEndian.Uint32(wav[4:]))+8 != len(wav) {
			t.Errorf("%d bytes that begin with %q", len(wav), wav[:min(len(wav), 12)])
		}
	}
}

func TestSpeechWithoutTheProgramSaysWhatToInstall(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := demodata.Speech(t.Context(), "hello"); err == nil || !strings.Contains(err.Error(), "install the package espeak-ng") {
		t.Errorf("got %v", err)
	}
}

func TestNothingAndTooMuchAreNotSpoken(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", " \n", strings.Repeat("a", 4_001)} {
		if _, err := demodata.Speech(t.Context(), text); err == nil {
			t.Errorf("%.10q was spoken", text)
		}
	}
}
