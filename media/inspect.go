package media

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"time"
	"unicode"

	"github.com/bep/imagemeta"
	"github.com/gabriel-vasile/mimetype"
)

// mediaType says how an accepted type is handed out.
type mediaType struct {
	ext    string // of the file's name
	inline bool   // a browser may show or play it; everything else is only downloaded
}

// accepted lists the types that are taken. What can carry a script (SVG, HTML, XML) or run is not among them.
func accepted(contentType string) (mediaType, bool) {
	switch contentType {
	case "image/jpeg":
		return mediaType{"jpg", true}, true
	case "image/png":
		return mediaType{"png", true}, true
	case "image/webp":
		return mediaType{"webp", true}, true
	case "image/gif":
		return mediaType{"gif", true}, true
	case "image/heic":
		return mediaType{"heic", true}, true
	case "audio/mpeg":
		return mediaType{"mp3", true}, true
	case "audio/mp4":
		return mediaType{"m4a", true}, true
	case "audio/aac":
		return mediaType{"aac", true}, true
	case "audio/amr":
		return mediaType{"amr", true}, true
	case "audio/wav":
		return mediaType{"wav", true}, true
	case "audio/ogg":
		return mediaType{"ogg", true}, true
	case "audio/webm":
		return mediaType{"weba", true}, true
	case "video/webm":
		return mediaType{"webm", false}, true
	case "video/mp4":
		return mediaType{"mp4", false}, true
	case "application/pdf":
		return mediaType{"pdf", false}, true
	}
	return mediaType{}, false
}

// sniff tells what the bytes are, and whether that is accepted. announced decides only where the bytes are a container
// that holds sound as well as pictures, which the container's head does not tell.
func sniff(head []byte, announced string) (contentType string, ok bool) {
	contentType, _, _ = strings.Cut(mimetype.Detect(head).String(), ";")
	sound := strings.HasPrefix(announced, "audio/")
	switch {
	case contentType == "audio/x-m4a", contentType == "video/mp4" && sound:
		contentType = "audio/mp4"
	case contentType == "video/webm" && sound:
		contentType = "audio/webm"
	case contentType == "image/heif":
		contentType = "image/heic" // the same container; phones write either brand
	case contentType == "audio/mpeg" && !beginsLikeMP3(head):
		contentType = "application/octet-stream" // sound somewhere inside is not enough
	case contentType == "application/pdf" && !bytes.HasPrefix(head, []byte("%PDF-")):
		contentType = "application/octet-stream" // a PDF behind something else is a file with two faces
	}
	_, ok = accepted(contentType)
	return contentType, ok
}

func beginsLikeMP3(b []byte) bool {
	return bytes.HasPrefix(b, []byte("ID3")) || len(b) > 1 && b[0] == 0xff && b[1]&0xe0 == 0xe0
}

// The limits of reading evidence. The head is bounded, each directory of tags is read once, and pixels are never
// decoded, so the time is bounded too.
const (
	maxTags     = 500
	maxTagBytes = 1000
	maxText     = 64
	maxPixels   = 400_000_000 // more than any phone makes; such a picture's other claims are not read
)

// Evidence is what a JPEG says of itself. Whoever made the file could write anything into it: it supports a visit, it
// never proves one. A field that the file does not have, or that is nonsense, is absent.
type Evidence struct {
	Width     int      `json:"width,omitempty"`    // pixels
	Height    int      `json:"height,omitempty"`   // pixels
	TakenAt   string   `json:"taken_at,omitempty"` // the camera's wall clock, 2006-01-02T15:04:05, with ±07:00 only where the file has it
	Latitude  *float64 `json:"lat,omitempty"`      // degrees, as written (WGS-84 by the standard, GCJ-02 from some phones)
	Longitude *float64 `json:"lon,omitempty"`      // degrees
	Camera    string   `json:"camera,omitempty"`   // model, at most 64 characters
}

// evidence reads head, the beginning of a file; nil where there is nothing to say.
func evidence(contentType string, head []byte) []byte {
	if contentType != "image/jpeg" {
		return nil
	}
	ev := readEvidence(head)
	if ev == (Evidence{}) {
		return nil
	}
	b, err := json.Marshal(ev)
	if err != nil {
		return nil // cannot happen: numbers are finite
	}
	return b
}

func readEvidence(head []byte) (ev Evidence) {
	defer func() {
		if recover() != nil { // a decoder that met a hostile file costs the evidence, not the photo
			ev = Evidence{}
		}
	}()
	var tags imagemeta.Tags
	// An error means a damaged file: what was read until there counts.
	result, _ := imagemeta.Decode(imagemeta.Options{R: bytes.NewReader(head), ImageFormat: imagemeta.JPEG, Sources: imagemeta.EXIF | imagemeta.CONFIG,
		LimitNumTags: maxTags, LimitTagSize: maxTagBytes,
		HandleTag: func(tag imagemeta.TagInfo) error { tags.Add(tag); return nil }})
	ev.Width, ev.Height = result.ImageConfig.Width, result.ImageConfig.Height
	if ev.Width*ev.Height > maxPixels {
		return ev
	}
	exif := tags.EXIF()
	text := func(name string) string { s, _ := exif[name].Value.(string); return clean(s) }
	if at, err := time.Parse("2006:01:02 15:04:05", text("DateTimeOriginal")); err == nil {
		ev.TakenAt = at.Format("2006-01-02T15:04:05")
		if _, err := time.Parse("-07:00", text("OffsetTimeOriginal")); err == nil {
			ev.TakenAt += text("OffsetTimeOriginal")
		}
	}
	lat, okLat := degrees(exif["GPSLatitude"].Value, text("GPSLatitudeRef"), "S", 90)
	lon, okLon := degrees(exif["GPSLongitude"].Value, text("GPSLongitudeRef"), "W", 180)
	if okLat && okLon {
		ev.Latitude, ev.Longitude = &lat, &lon
	}
	ev.Camera = text("Model")
	return ev
}

func degrees(v any, ref, negative string, limit float64) (float64, bool) {
	f, ok := v.(float64)
	if !ok || math.IsNaN(f) || f < -limit || f > limit {
		return 0, false
	}
	if ref == negative {
		f = -f
	}
	return f, true
}

// clean makes text that a database and a screen can take.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	if r := []rune(s); len(r) > maxText {
		s = string(r[:maxText])
	}
	return strings.TrimSpace(s)
}
