package mobile_test

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/satchel-sync/satchel/clients/go/mobile"
)

// silent is a server that takes a call, says so, and does not answer until hold is closed.
func silent(t *testing.T, hold, asked chan struct{}) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case asked <- struct{}{}:
		default:
		}
		select {
		case <-hold:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestATextOfAnErrorIsTakenApart(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]mobile.Failure{
		"unavailable: no answer":                             {Code: mobile.CodeUnavailable, Message: "no answer"},
		"bad_credentials BAD_CREDENTIALS: Wrong password: x": {Code: mobile.CodeBadCredentials, Reason: "BAD_CREDENTIALS", Message: "Wrong password: x"},
		"The network connection was lost.":                   {Code: mobile.CodeFailed, Message: "The network connection was lost."},
		"Domain: go":                                         {Code: mobile.CodeFailed, Message: "Domain: go"},
		"":                                                   {Code: mobile.CodeFailed},
	} {
		if got := mobile.ParseError(text); *got != want {
			t.Errorf("%q is taken apart as %+v", text, *got)
		}
	}
}

func TestMistakesOfTheAppAreSaidAndRecordNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "satchel.db")
	for _, wrong := range []string{`{"langauge": "en"}`, `{`, `[]`, `{"timeoutMs": -1}`, `{"maxBytes": -1}`, `{} {}`} {
		_, err := mobile.Open(path, "http://localhost", wrong, nil)
		wantCode(t, err, mobile.CodeInvalid)
	}
	_, err := mobile.Open("", "http://localhost", "", nil)
	wantCode(t, err, mobile.CodeInvalid)
	c, err := mobile.Open(path, "http://localhost", "", nil)
	ok(t, err)
	t.Cleanup(func() { ok(t, c.Close()) })
	id := "01930000-0000-7000-8000-000000000000"
	for name, call := range map[string]func() error{
		"no JSON":          func() error { _, err := c.Create("account", "name"); return err },
		"not an object":    func() error { _, err := c.Create("account", "[1]"); return err },
		"no kind":          func() error { _, err := c.Create("", "{}"); return err },
		"no id":            func() error { return c.Patch("account", "x", "{}", "") },
		"id of zeros":      func() error { return c.Delete("account", "00000000-0000-0000-0000-000000000000") },
		"edit of nothing":  func() error { return c.Patch("account", id, "", `[{"field": "tags"}]`) },
		"edit of two ways": func() error { return c.Patch("account", id, "", `[{"field": "tags", "add": ["a"], "by": 1}]`) },
		"misspelt edit":    func() error { return c.Patch("account", id, "", `[{"field": "tags", "added": ["a"]}]`) },
		"an empty batch":   func() error { _, err := c.Record(mobile.NewBatch()); return err },
		"no batch":         func() error { _, err := c.Record(nil); return err },
		"no such file":     func() error { _, err := c.AttachFile("photo", path+".jpg", "image/jpeg", ""); return err },
		"no bytes":         func() error { _, err := c.Attach("photo", nil, "image/jpeg", ""); return err },
		"wrong then right": func() error {
			b := mobile.NewBatch()
			b.Delete("account", "x")
			b.Create("account", "{}")
			_, err := c.Record(b)
			return err
		},
	} {
		if err := call(); err == nil || mobile.ParseError(err.Error()).Code != mobile.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	text, err := c.Pending()
	if list := many(t, text, err); len(list) != 0 {
		t.Errorf("recorded: %s", text)
	}
}

func TestAnObjectThatTheAppMadeItselfFailsInsteadOfEndingTheProcess(t *testing.T) {
	t.Parallel()
	// The bindings give every class an empty constructor.
	c := new(mobile.Client)
	_, err := c.List("account", "")
	wantCode(t, err, mobile.CodeClosed)
	wantCode(t, c.Start(nil), mobile.CodeClosed)
	wantCode(t, c.SignOut(), mobile.CodeClosed)
	c.Stop()
	ok(t, c.Close())
	new(mobile.Watch).Stop()
}
