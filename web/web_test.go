package web_test

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/satchel-sync/satchel/web"
)

// built is a small folder such as Vite and scripts/size.mjs leave behind.
func built(t *testing.T) *web.App {
	t.Helper()
	files := fstest.MapFS{}
	for name, content := range map[string]string{
		"unbuilt.html": "unbuilt", "app/index.html": "the app", "app/index.html.gz": "gz of the app", "app/index.html.br": "br of the app",
		"app/assets/main-3f2a.js": "script", "app/assets/main-3f2a.js.gz": "gz of script", "app/sw.js": "worker", "app/icon-192.png": "png",
		"app/manifest.webmanifest": "{}", "app/notes.txt": "not for browsers",
	} {
		files[name] = &fstest.MapFile{Data: []byte(content)}
	}
	a, err := web.New(web.Config{Files: files})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func get(a http.Handler, path string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	a.ServeHTTP(rec, r)
	return rec
}

const page = "text/html,application/xhtml+xml,*/*;q=0.8"

func TestEachScreensAddressGivesTheApp(t *testing.T) {
	t.Parallel()
	a := built(t)
	for _, path := range []string{"/", "/index.html", "/accounts", "/visits/019a9f00-0000-7000-8000-0000000000b1", "/accounts/?x=1"} {
		if rec := get(a, path, "Accept", page); rec.Code != http.StatusOK || rec.Body.String() != "the app" || rec.Header().Get("Cache-Control") != "no-cache" {
			t.Errorf("%s: %d %q %v", path, rec.Code, rec.Body, rec.Header())
		}
	}
}

func TestWhatIsNoScreenIsNotFound(t *testing.T) {
	t.Parallel()
	a := built(t)
	for _, c := range []struct{ path, accept string }{
		{"/nothing", "*/*"}, {"/nothing", ""}, {"/assets/gone-1.js", page}, {"/.git/config", page}, {"/notes.txt", page}, {"/unbuilt.html", page},
		{"/app/index.html", page}, {"/assets/main-3f2a.js.gz", page}, {"/../web.go", page},
	} {
		if rec := get(a, c.path, "Accept", c.accept); rec.Code != http.StatusNotFound {
			t.Errorf("%s (%s): %d %q", c.path, c.accept, rec.Code, rec.Body)
		}
	}
}

func TestWhatIsNamedByItsContentIsKeptAndTheRestIsAskedFor(t *testing.T) {
	t.Parallel()
	a := built(t)
	for path, want := range map[string]string{
		"/assets/main-3f2a.js": "public, max-age=31536000, immutable", "/sw.js": "no-cache", "/icon-192.png": "no-cache", "/manifest.webmanifest": "no-cache",
	} {
		if got := get(a, path).Header().Get("Cache-Control"); got != want {
			t.Errorf("%s: %q", path, got)
		}
	}
}

func TestTheSmallestFormThatTheBrowserReadsIsSent(t *testing.T) {
	t.Parallel()
	a := built(t)
	for _, c := range []struct{ path, accepted, encoding, body string }{
		{"/", "gzip, deflate, br, zstd", "br", "br of the app"},
		{"/", "gzip", "gzip", "gz of the app"},
		{"/", "br;q=0, gzip;q=0.5", "gzip", "gz of the app"},
		{"/", "", "", "the app"},
		{"/", "brotli", "", "the app"},
		{"/assets/main-3f2a.js", "br, gzip", "gzip", "gz of script"},
		{"/icon-192.png", "br, gzip", "", "png"},
	} {
		rec := get(a, c.path, "Accept-Encoding", c.accepted)
		if rec.Header().Get("Content-Encoding") != c.encoding || rec.Body.String() != c.body {
			t.Errorf("%s with %q: %q %q", c.path, c.accepted, rec.Header().Get("Content-Encoding"), rec.Body)
		}
		if vary := rec.Header().Get("Vary") == "Accept-Encoding"; vary != (c.path != "/icon-192.png") {
			t.Errorf("%s: Vary is %q", c.path, rec.Header().Get("Vary"))
		}
	}
}

func TestWhatTheBrowserHasIsNotSentAgain(t *testing.T) {
	t.Parallel()
	a := built(t)
	tag := get(a, "/", "Accept-Encoding", "gzip").Header().Get("ETag")
	again := get(a, "/", "Accept-Encoding", "gzip", "If-None-Match", `"old", W/`+tag)
	if again.Code != http.StatusNotModified || again.Body.Len() != 0 {
		t.Errorf("the same: %d %q", again.Code, again.Body)
	}
	if other := get(a, "/", "If-None-Match", tag); other.Code != http.StatusOK {
		t.Errorf("the same in another form: %d", other.Code)
	}
}

func TestOnlyReadingIsAnswered(t *testing.T) {
	t.Parallel()
	a := built(t)
	rec := httptest.NewRecorder()
	a.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/", nil))
	if rec.Code != http.StatusMethodNotAllowed || rec.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d %v", rec.Code, rec.Header())
	}
	rec = httptest.NewRecorder()
	a.ServeHTTP(rec, httptest.NewRequest(http.MethodHead, "/", nil))
	if rec.Code != http.StatusOK || rec.Body.Len() != 0 || rec.Header().Get("Content-Length") != "7" {
		t.Errorf("HEAD: %d %q %v", rec.Code, rec.Body, rec.Header())
	}
}

func TestEveryAnswerHasTheStrictPolicyAndMayUseCameraMicrophoneAndPlace(t *testing.T) {
	t.Parallel()
	a := built(t)
	for _, path := range []string{"/", "/sw.js", "/assets/main-3f2a.js", "/gone.js"} {
		h := get(a, path).Header()
		csp := h.Get("Content-Security-Policy")
		if !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "script-src 'self';") || strings.Contains(csp, "unsafe") ||
			!strings.Contains(csp, "frame-ancestors 'none'") || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", path, h)
		}
		for _, need := range []string{"camera=(self)", "microphone=(self)", "geolocation=(self)"} {
			if !strings.Contains(h.Get("Permissions-Policy"), need) {
				t.Errorf("%s: %v", path, h.Get("Permissions-Policy"))
			}
		}
	}
}

func TestABinaryBuiltWithoutNodeSaysInBothLanguagesHowToBuildTheApp(t *testing.T) {
	t.Parallel()
	a, err := web.New(web.Config{Files: fstest.MapFS{"unbuilt.html": &fstest.MapFile{Data: []byte("make web")}}})
	if err != nil {
		t.Fatal(err)
	}
	if rec := get(a, "/", "Accept", page); a.Built() || rec.Code != http.StatusOK || rec.Body.String() != "make web" || rec.Header().Get("Cache-Control") != "no-cache" {
		t.Errorf("%d %q", rec.Code, rec.Body)
	}
	if _, err := web.New(web.Config{Files: fstest.MapFS{}}); err == nil {
		t.Error("a folder without anything is served")
	}
}

// inline is what the policy would keep from running.
var inline = regexp.MustCompile(`(?i)<script>|<script [^s>]*>[^<]|<style|\son\w+=|style="`)

func TestThePageOfThisBinaryHasNothingInline(t *testing.T) {
	t.Parallel()
	a, err := web.New(web.Config{})
	if err != nil {
		t.Fatal(err)
	}
	rec := get(a, "/")
	body := rec.Body.String()
	if rec.Code != http.StatusOK || !strings.Contains(body, "<title>Satchel</title>") || inline.MatchString(body) {
		t.Errorf("%d %s", rec.Code, body)
	}
	if !a.Built() && (!strings.Contains(body, "make web") || !strings.Contains(body, `lang="zh-CN"`)) {
		t.Errorf("the page does not say how to build: %s", body)
	}
}
