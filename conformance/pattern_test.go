package conformance

import (
	"bytes"
	"encoding/json"
	"io"
	"mime/multipart"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

func TestAPatternFitsWhatItSaysAndNothingElse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, got string
		fits         bool
	}{
		{`{"a": 1}`, `{"a": "1", "b": 2}`, true},
		{`{"a": 1}`, `{"a": 2}`, false},
		{`{"a": 1}`, `{}`, false},
		{`{"a": null}`, `{}`, true},
		{`{"a": null}`, `{"a": "0"}`, true},
		{`{"a": null}`, `{"a": 3}`, false},
		{`{"a": "*"}`, `{}`, true},
		{`["$x", "$x"]`, `["p", "p"]`, true},
		{`["$x", "$x"]`, `["p", "q"]`, false},
		{`"$x"`, `""`, false},
		{`["$bound"]`, `["known"]`, true},
		{`["$bound"]`, `["other"]`, false},
		{`"@a1"`, `"019a9f00-0000-7000-8000-0000000000a1"`, true},
		{`"@a1"`, `"019a9f00-0000-7000-8000-0000000000a2"`, false},
		{`[1, 2]`, `[1, 2, 3]`, false},
		{`{"any_order": [1, 2]}`, `[2, 1]`, true},
		{`{"any_order": [1, 2]}`, `[2, 2]`, false},
		{`{"first": [1, 2]}`, `[1]`, true},
		{`{"first": [1, 2]}`, `[]`, false},
		{`{"first": [1, 2]}`, `[2]`, false},
		{`{"first": [1, 2]}`, `[1, 2, 3]`, false},
		{`{"fewer": true}`, `[1, 2]`, true},
		{`{"fewer": true}`, `[1, 2, 3]`, false},
		{`{"at_least": 3}`, `"3"`, true},
		{`{"at_least": 3}`, `2`, false},
		{`{"fields": {"n": 1}}`, `{"fields": {"n": 1}}`, true},
		{`{"fields": {"n": 1}}`, `{"fields": {"n": 1.0}}`, true},
		{`{"fields": {"n": 1}}`, `{"fields": {"n": "1"}}`, false},
		{`{"fields": {"n": 1}}`, `{"fields": {"n": 1, "m": 2}}`, false},
		{`{"fields": {"n": null}}`, `{"fields": {}}`, true},
		{`{"fields": {"n": 900719925474099300001}}`, `{"fields": {"n": 900719925474099300002}}`, false},
	} {
		names := scope{"bound": "known"}
		if diffs := names.fits(value(t, c.pattern), value(t, c.got), 3); (len(diffs) == 0) != c.fits {
			t.Errorf("%s on %s: %v", c.pattern, c.got, diffs)
		}
	}
}

func TestADigestIsCountedAsTheProtocolSays(t *testing.T) {
	t.Parallel()
	if got := hashOf(satchel.MustParseID("019a9f00-0000-7000-8000-0000000000e1"), 1); got != 1567089173 {
		t.Errorf("H is %d", got)
	}
}

func value(t *testing.T, text string) any {
	t.Helper()
	var v any
	if err := decode([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// played plays one transcript with a driver that answers each command with the next of the answers, and then no more.
// patience is how long it is waited for each.
func played(t *testing.T, patience time.Duration, steps string, answers ...string) Result {
	t.Helper()
	tr, err := parse("test", []byte(`{"title": "t", "states": ["S1"], "steps": `+steps+`}`))
	if err != nil {
		t.Fatal(err)
	}
	commands, toDriver := io.Pipe()
	fromDriver, w := io.Pipe()
	go func() {
		d := json.NewDecoder(commands)
		for n := 0; ; n++ {
			var c struct {
				ID int `json:"id"`
			}
			if d.Decode(&c) != nil {
				return
			}
			if n == 0 { // reset
				answers = append([]string{`{}`}, answers...)
			}
			if n < len(answers) {
				if json.NewEncoder(w).Encode(map[string]any{"id": c.ID, "records": json.RawMessage(answers[n]), "unknown": answers[n] == `"unknown"`}) != nil {
					return
				}
			}
		}
	}()
	r, err := New(Config{Connect: func() (io.Reader, io.Writer) { return fromDriver, toDriver }, Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		toDriver.Close()
		w.Close()
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r.Play(tr)
}

func TestWhatADriverDoesWrongIsSaid(t *testing.T) {
	t.Parallel()
	const long, short = 30 * time.Second, 200 * time.Millisecond
	show := `[{"do": "show", "kind": "account", "gives": {"records": [1]}}]`
	if r := played(t, long, show, `[1]`); r.Failure != "" {
		t.Error(r.Failure)
	}
	for want, r := range map[string]Result{
		"records[0]: came 2, want 1":              played(t, long, show, `[2]`),
		"no answer within 200ms":                  played(t, short, show),
		"did not come: Sync":                      played(t, long, `[{"do": "sync_once", "calls": [{"call": "Sync", "answer": {}}]}]`, `{}`),
		"the driver does not have this command":   played(t, long, show, `"unknown"`),
		`it did not fail; want {"code":"unsent"}`: played(t, long, `[{"do": "sign_out", "fails": {"code": "unsent"}}]`, `{}`),
	} {
		if !strings.Contains(r.Failure, want) {
			t.Errorf("want %q, got %q", want, r.Failure)
		}
	}
	if r := played(t, long, `[{"do": "damage", "order": 1}]`, `"unknown"`); !r.NotAsked {
		t.Errorf("a driver that cannot damage its store: %+v", r)
	}
}

func TestAPieceThatComesAsAFormIsAPutChunk(t *testing.T) {
	t.Parallel()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	if err := form.WriteField("offset", "12"); err != nil {
		t.Fatal(err)
	}
	file, err := form.CreateFormFile("file", "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(file, "bytes"); err != nil {
		t.Fatal(err)
	}
	if err := form.Close(); err != nil {
		t.Fatal(err)
	}
	id := satchel.NewID().String()
	r := httptest.NewRequest("POST", chunkPath+id, &body)
	r.Header.Set("Content-Type", form.FormDataContentType())
	call, err := unform(r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(call.Body)
	if err != nil {
		t.Fatal(err)
	}
	var m satchelv1.PutChunkRequest
	if err := protojson.Unmarshal(got, &m); err != nil || m.UploadId != id || m.Offset != 12 || string(m.Data) != "bytes" {
		t.Errorf("%s; %v", got, err)
	}
	if call.URL.Path != "/satchel.v1.MediaService/PutChunk" {
		t.Error(call.URL.Path)
	}
}

func TestATranscriptThatIsWrittenWronglyIsRefused(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{"title": "t", "states": ["S1"], "steps": [{}]}`,
		`{"title": "t", "states": ["S1"], "steps": [{"do": "sync", "calls": [{"call": "Sink", "answer": {}}]}]}`,
		`{"title": "t", "states": ["S1"], "steps": [{"do": "sync", "calls": [{"call": "Sync"}]}]}`,
		`{"title": "t", "states": ["S1"], "steps": [{"do": "sync", "calls": [{"call": "Sync", "anwser": {}, "lost": true}]}]}`,
		`{"title": "t", "states": ["S1"]}`,
		`{"title": "t", "states": ["S1"], "stpes": [], "steps": [{"do": "sync"}]}`,
	} {
		if _, err := parse("test", []byte(text)); err == nil {
			t.Errorf("%s is taken", text)
		}
	}
}
