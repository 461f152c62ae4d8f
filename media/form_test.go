package media_test

import (
	"bytes"
	"fmt"
	"mime/multipart"
	"strconv"
	"strings"
	"testing"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/media"
	"github.com/satchel-sync/satchel/media/mediatest"
)

// form makes a body of multipart/form-data; a name that begins with "@" is a file.
func form(t *testing.T, fields ...any) (body *bytes.Buffer, contentType string) {
	t.Helper()
	body = &bytes.Buffer{}
	m := multipart.NewWriter(body)
	for i := 0; i < len(fields); i += 2 {
		name, value := fields[i].(string), fields[i+1]
		if file, ok := strings.CutPrefix(name, "@"); ok {
			part, err := m.CreateFormFile(file, "piece.bin")
			if err != nil {
				t.Fatal(err)
			}
			_, _ = part.Write(value.([]byte)) // to memory
			continue
		}
		if err := m.WriteField(name, fmt.Sprint(value)); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	return body, m.FormDataContentType()
}

func TestAFileArrivesInPiecesOfForms(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	base := w.serve(rep)
	b := append(photo(t, 9), mediatest.Bytes(700_000)...)
	up := w.begin(rep, b, "image/jpeg")
	const size = 256 << 10
	for at := 0; at < len(b); at += size {
		piece := b[at:min(at+size, len(b))]
		for _, fields := range [][]any{{"offset", at, "@file", piece}, {"@file", piece, "note", "x", "offset", at}} { // the second time it is there already
			body, contentType := form(t, fields...)
			res, got := w.do("POST", base+"/media/v1/chunk/"+up.ID.String(), body, "Content-Type", contentType)
			if want := fmt.Sprintf(`{"offset":"%d"}`, at+len(piece)); res.StatusCode != 200 || strings.TrimSpace(string(got)) != want {
				t.Fatalf("at %d: %s %q", at, res.Status, got)
			}
		}
	}
	if sum, err := w.Complete(t.Context(), rep, up.ID); err != nil || sum != sumOf(b) {
		t.Errorf("%q, %v", sum, err)
	}
}

func TestAWrongFormIsRefusedAndChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rep := person(satchel.NewID())
	base := w.serve(rep)
	b := mediatest.Bytes(media.ChunkSize * 2)
	up := w.begin(rep, b, "image/jpeg")
	many := []any{}
	for i := range 20 {
		many = append(many, "f"+strconv.Itoa(i), i)
	}
	for _, c := range []struct {
		name   string
		fields []any
		id     string
		reason satchel.Reason
	}{
		{"a skip", []any{"offset", 5, "@file", b[5:10]}, "", satchel.ReasonUnexpectedOffset},
		{"no offset", []any{"@file", b[:10]}, "", satchel.ReasonMalformed},
		{"an offset that is none", []any{"offset", "0x", "@file", b[:10]}, "", satchel.ReasonMalformed},
		{"no file", []any{"offset", 0}, "", satchel.ReasonMalformed},
		{"too large", []any{"offset", 0, "@file", b[:media.ChunkSize+1]}, "", satchel.ReasonTooLarge},
		{"much too large", []any{"@other", b, "offset", 0, "@file", b[:10]}, "", satchel.ReasonMalformed},
		{"too many parts", many, "", satchel.ReasonMalformed},
		{"no upload", []any{"offset", 0, "@file", b[:10]}, "nothing", satchel.ReasonMalformed},
		{"an upload of nobody", []any{"offset", 0, "@file", b[:10]}, satchel.NewID().String(), satchel.ReasonNotFound},
	} {
		body, contentType := form(t, c.fields...)
		id := up.ID.String()
		if c.id != "" {
			id = c.id
		}
		res, got := w.do("POST", base+"/media/v1/chunk/"+id, body, "Content-Type", contentType)
		if reason := strings.TrimSpace(string(got)); reason != string(c.reason) {
			t.Errorf("%s: %s %q", c.name, res.Status, got)
		}
	}
	body, _ := form(t, "offset", 0, "@file", b[:10])
	if res, got := w.do("POST", base+"/media/v1/chunk/"+up.ID.String(), body, "Content-Type", "application/json"); strings.TrimSpace(string(got)) != "MALFORMED" {
		t.Errorf("JSON: %s %q", res.Status, got)
	}
	body, contentType := form(t, "offset", 0, "@file", b[:10])
	if res, _ := w.do("POST", w.serve(nil)+"/media/v1/chunk/"+up.ID.String(), body, "Content-Type", contentType); res.StatusCode != 401 {
		t.Errorf("nobody was let in: %s", res.Status)
	}
	if at := w.begin(rep, b, "image/jpeg").Offset; at != 0 {
		t.Errorf("%d bytes were received", at)
	}
}
