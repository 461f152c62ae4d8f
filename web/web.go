package web

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
)

// dist has what Vite built in app, where that was done, and unbuilt.html always.
//
//go:embed all:dist
var dist embed.FS

// types are the kinds of files that a build makes; others are not served. The machine's own table is not asked: it differs.
var types = map[string]string{
	".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
	".svg": "image/svg+xml", ".png": "image/png", ".webmanifest": "application/manifest+json",
}

// policy lets the app run its own files, show and play what it holds itself, and call the server that it came from.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; " +
	"media-src 'self' blob:; manifest-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Config says what to serve.
type Config struct {
	// Files is a folder like dist; nil = the one that was built into this binary.
	Files fs.FS
}

// asset is a file as it is sent.
type asset struct {
	contentType string
	tag         string // of its content, without quotes
	keep        bool   // its name changes with its content
	plain       []byte
	gzip        []byte // nil: it was not compressed
	brotli      []byte
}

// App serves the web app. It answers GET and HEAD, from any goroutine; what was asked for once stays in memory.
type App struct {
	assets map[string]file // by path, with its slash
	index  file
	built  bool
}

// file reads an asset when it is asked for the first time: a server that only phones call needs none.
type file func() (*asset, error)

// New looks what files there are. It fails when there is neither an app nor the page that stands in for it.
func New(cfg Config) (*App, error) {
	files := cfg.Files
	if files == nil {
		sub, err := fs.Sub(dist, "dist")
		if err != nil {
			return nil, err
		}
		files = sub
	}
	lazy := func(name string) file { return sync.OnceValues(func() (*asset, error) { return read(files, name) }) }
	a := &App{assets: map[string]file{}}
	err := fs.WalkDir(files, "app", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || types[path.Ext(name)] == "" {
			return err
		}
		a.assets[strings.TrimPrefix(name, "app")] = lazy(name)
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if a.index = a.assets["/index.html"]; a.index != nil {
		a.built = true
		delete(a.assets, "/index.html") // it is /, and one page has one address
		return a, nil
	}
	a.assets, a.index = nil, lazy("unbuilt.html")
	_, err = a.index()
	return a, err
}

// Built tells whether the app is in this binary.
func (a *App) Built() bool { return a.built }

func read(files fs.FS, name string) (*asset, error) {
	plain, err := fs.ReadFile(files, name)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(plain)
	out := &asset{contentType: types[path.Ext(name)], tag: hex.EncodeToString(sum[:12]), plain: plain, keep: strings.HasPrefix(name, "app/assets/")}
	for ending, to := range map[string]*[]byte{".gz": &out.gzip, ".br": &out.brotli} {
		if *to, err = fs.ReadFile(files, name+ending); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return out, nil
}

// ServeHTTP answers with a file, with the app itself for the addresses of its screens, else with 404.
func (a *App) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	found := a.assets[r.URL.Path]
	if found == nil && (r.URL.Path == "/" || r.URL.Path == "/index.html" || screen(r)) {
		found = a.index
	}
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(self), microphone=(self), geolocation=(self)")
	if found == nil {
		http.NotFound(w, r)
		return
	}
	f, err := found()
	if err != nil { // a folder of somebody else's; what is built in is there
		http.Error(w, "the file cannot be read", http.StatusInternalServerError)
		return
	}
	f.send(w, r)
}

// screen tells whether a browser asks for one of the app's screens, whose addresses only the app knows.
func screen(r *http.Request) bool {
	return !strings.Contains(r.URL.Path, ".") && strings.Contains(r.Header.Get("Accept"), "text/html")
}

func (f *asset) send(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	body, encoding := f.plain, ""
	switch accepted := r.Header.Get("Accept-Encoding"); {
	case f.brotli != nil && accepts(accepted, "br"):
		body, encoding = f.brotli, "br"
	case f.gzip != nil && accepts(accepted, "gzip"):
		body, encoding = f.gzip, "gzip"
	}
	tag := `"` + f.tag + encoding + `"`
	h.Set("ETag", tag)
	h.Set("Content-Type", f.contentType)
	if f.gzip != nil || f.brotli != nil {
		h.Set("Vary", "Accept-Encoding")
	}
	h.Set("Cache-Control", "no-cache")
	if f.keep {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	if known(r.Header.Get("If-None-Match"), tag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if encoding != "" {
		h.Set("Content-Encoding", encoding)
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodGet {
		_, _ = w.Write(body) // who hung up asks again
	}
}

// accepts reads Accept-Encoding: the encoding is named, and not with the weight 0.
func accepts(header, encoding string) bool {
	for part := range strings.SplitSeq(header, ",") {
		name, weight, _ := strings.Cut(part, ";")
		if strings.TrimSpace(name) != encoding {
			continue
		}
		_, q, has := strings.Cut(weight, "=")
		n, err := strconv.ParseFloat(strings.TrimSpace(q), 64)
		return !has || err != nil || n > 0
	}
	return false
}

// known tells whether a browser has this content already.
func known(header, tag string) bool {
	for part := range strings.SplitSeq(header, ",") {
		if part = strings.TrimSpace(part); part == "*" || strings.TrimPrefix(part, "W/") == tag {
			return true
		}
	}
	return false
}
