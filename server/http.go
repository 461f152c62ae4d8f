package server

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	connectcors "connectrpc.com/cors"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/rs/cors"

	satchel "github.com/satchel-sync/satchel"
)

// calls stands in front of everything: it names the request, bounds its body and writes one line of log. The line has
// the path of a call and never that of a page or a link, for a link is a secret.
func (s *Server) calls(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &call{
			id: satchel.NewID().String(), zh: wantsChinese(r.Header.Get("Accept-Language")), start: s.cfg.Now(),
			address: s.clientAddress(r), response: http.NewResponseController(w),
		}
		header := w.Header()
		header.Set(reqIDHeader, c.id)
		header.Set("X-Content-Type-Options", "nosniff")
		r = r.WithContext(context.WithValue(r.Context(), callKey{}, c))
		if r.Body != nil && r.Body != http.NoBody {
			// Also for a body that nobody reads: net/http itself reads some of it before the answer leaves. A test without
			// a network has no deadlines, and nobody slow.
			_ = c.response.SetReadDeadline(time.Now().Add(s.grace))
		}
		if r.Body != nil && r.Body != http.NoBody && !strings.HasPrefix(r.URL.Path, mediaPrefix) {
			limit := int64(MaxBody)
			if open(r.URL.Path) {
				limit = maxOpenBody
			}
			c.body = &boundedBody{c: c, body: r.Body, left: limit, announced: r.ContentLength, limit: limit,
				begin: time.Now(), grace: s.grace, framed: strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")}
			r.Body = c.body
		}
		rec := &statusWriter{ResponseWriter: w}
		defer func() {
			if p := recover(); p != nil {
				if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
					panic(p)
				}
				s.log.ErrorContext(r.Context(), "request panicked", "request", c.id, "stack", string(debug.Stack()))
				if rec.status == 0 {
					w.WriteHeader(http.StatusInternalServerError)
				}
				c.code = "internal"
			}
			if c.leave != nil {
				c.leave()
			}
			s.observe(r, c, rec.status)
		}()
		next.ServeHTTP(rec, r)
	})
}

// observe counts and logs a request that ended.
func (s *Server) observe(r *http.Request, c *call, status int) {
	procedure := s.procedureOf(r.URL.Path)
	if c.code == "" {
		c.code = codeOfStatus(status)
		if c.code == "ok" && strings.HasPrefix(procedure, "/") {
			c.code = "refused" // before the guard, which notes every code that it knows
		}
	}
	took := s.cfg.Now().Sub(c.start)
	s.metrics.call(procedure, c.code, took)
	level := slog.LevelInfo
	switch {
	case c.cause != nil || c.code == "internal":
		level = slog.LevelError
	case procedure == otherPath || strings.HasSuffix(procedure, "/Wait"):
		level = slog.LevelDebug
	}
	if !s.log.Enabled(r.Context(), level) {
		return
	}
	attrs := []slog.Attr{slog.String("procedure", procedure), slog.String("code", c.code),
		slog.Duration("took", took), slog.String("request", c.id)}
	if c.principal != nil {
		attrs = append(attrs, slog.String("org", c.principal.Org.String()), slog.String("device", c.principal.Device.String()))
	}
	if c.cause != nil {
		attrs = append(attrs, slog.String("error", causeText(c.cause)))
	}
	s.log.LogAttrs(r.Context(), level, "call", attrs...)
}

const otherPath = "other"

// procedureOf gives a bounded set of names for the log and the metrics.
func (s *Server) procedureOf(path string) string {
	switch {
	case strings.HasPrefix(path, mediaPrefix):
		return "media"
	case slices.Contains(s.procedures, path):
		return path
	}
	return otherPath
}

func codeOfStatus(status int) string {
	switch {
	case status == 0 || status < 400:
		return "ok"
	case status < 500:
		return "http_4xx"
	}
	return "http_5xx"
}

// wantsChinese reads Accept-Language: the first of zh and en that it names decides.
func wantsChinese(header string) bool {
	for tag := range strings.SplitSeq(header[:min(len(header), 200)], ",") {
		lang, _, _ := strings.Cut(strings.TrimSpace(tag), ";")
		lang, _, _ = strings.Cut(lang, "-")
		switch strings.ToLower(lang) {
		case "zh":
			return true
		case "en":
			return false
		}
	}
	return false
}

// clientAddress tells who calls: the peer, or what a trusted proxy says of it.
func (s *Server) clientAddress(r *http.Request) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	at := peer.Addr().Unmap()
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && s.trusted(at); i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		at = hop.Unmap()
	}
	return at
}

func (s *Server) trusted(a netip.Addr) bool {
	return slices.ContainsFunc(s.cfg.TrustProxy, func(p netip.Prefix) bool { return p.Contains(a) })
}

// boundedBody ends a body that is too large or too slow with an error that reaches the caller as it is. A body may
// take 30 s, and longer while it brings 2 KiB a second.
type boundedBody struct {
	c         *call
	body      io.ReadCloser
	limit     int64
	left      int64
	announced int64 // Content-Length; -1 = unknown
	begin     time.Time
	grace     time.Duration
	framed    bool // gRPC: the body begins with five bytes that tell the message's length
	prefix    []byte
	done      bool
}

// Read gives what came in time and within the limit.
func (b *boundedBody) Read(p []byte) (int, error) {
	if b.announced > b.limit {
		return 0, b.tooLarge()
	}
	if len(p) == 0 {
		return 0, nil
	}
	if b.framed {
		b.framed = false
		var head [5]byte
		n, err := io.ReadFull(readerFunc(b.read), head[:])
		if n == 0 && errors.Is(err, io.EOF) {
			return 0, io.EOF
		}
		if err == nil && int64(binary.BigEndian.Uint32(head[1:])) > b.limit-5 {
			return 0, b.tooLarge()
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return 0, err
		}
		b.prefix = head[:n]
	}
	if len(b.prefix) > 0 {
		n := copy(p, b.prefix)
		b.prefix = b.prefix[n:]
		return n, nil
	}
	return b.read(p)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func (b *boundedBody) read(p []byte) (int, error) {
	if !b.done {
		// Fails where the server has no deadlines (a test without a network); then there is nobody slow either.
		_ = b.c.response.SetReadDeadline(b.begin.Add(b.grace + time.Duration((b.limit-b.left)/bodyRate)*time.Second))
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.body.Read(p)
	if int64(n) > b.left {
		return 0, b.tooLarge()
	}
	b.left -= int64(n)
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		b.release()
		return n, io.EOF
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, b.fail(&satchel.Error{Kind: satchel.Contention, Reason: satchel.ReasonDeadline, Err: err,
			Detail: "the body came too slowly; send less at once"})
	}
	return n, b.fail(&satchel.Error{Kind: satchel.Unavailable, Err: errors.Join(errGone, err), Detail: "the body broke off; send it again"})
}

func (b *boundedBody) fail(e *satchel.Error) error {
	out := wireError(b.c, e)
	b.c.code = out.Code().String()
	return out
}

func (b *boundedBody) tooLarge() error {
	return b.fail(satchel.E(satchel.Exhausted, satchel.ReasonTooLarge, "a body has at most %d bytes; send less at once", b.limit))
}

// release ends the wait for the body, so that its deadline does not end a call that runs.
func (b *boundedBody) release() {
	if !b.done {
		b.done = true
		_ = b.c.response.SetReadDeadline(time.Time{})
	}
}

// Close closes the body.
func (b *boundedBody) Close() error { return b.body.Close() }

// statusWriter notes the status.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Flush sends what was written so far.
func (w *statusWriter) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

// Unwrap lets http.ResponseController find the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// crossOrigin lets pages of the configured origins call.
func crossOrigin(origins []string) (func(http.Handler) http.Handler, error) {
	for _, o := range origins {
		if o == "*" {
			continue
		}
		u, err := url.Parse(o)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.Path != "" || u.RawQuery != "" || strings.Contains(o, "*") {
			return nil, errors.New("an origin has the form https://host[:port], or is *")
		}
	}
	if len(origins) == 0 {
		return func(h http.Handler) http.Handler { return h }, nil
	}
	c := cors.New(cors.Options{
		AllowedOrigins: origins,
		AllowedMethods: append(connectcors.AllowedMethods(), http.MethodPut),
		AllowedHeaders: append(connectcors.AllowedHeaders(), "Authorization", "Accept-Language", "Content-Encoding", "Range", protoHeader),
		ExposedHeaders: append(connectcors.ExposedHeaders(), reqIDHeader, "Retry-After"),
		MaxAge:         7200,
	})
	return c.Handler, nil
}

// gzipLevel compresses a page of visits in 40 % less time than the default level, for 9 % more bytes: see
// docs/performance.md.
const gzipLevel = 3

// compression gives gzip and zstd without the standard library's slowness, and without its trust: what a body becomes
// is bounded while it is unpacked, so a bomb costs no more than a body of the largest size.
func compression() []connect.HandlerOption {
	return []connect.HandlerOption{
		connect.WithCompressMinBytes(minCompress),
		connect.WithCompression("gzip",
			func() connect.Decompressor { return &unpacker{r: new(gzip.Reader)} },
			func() connect.Compressor {
				w, _ := gzip.NewWriterLevel(io.Discard, gzipLevel) // the level is a valid one
				return w
			}),
		connect.WithCompression("zstd",
			func() connect.Decompressor {
				r, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
					zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecoderMaxMemory(MaxBody+1))
				if err != nil {
					panic(err) // the options are constants
				}
				return &unpacker{r: zstdReader{r}}
			},
			func() connect.Compressor {
				w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault),
					zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
				if err != nil {
					panic(err) // the options are constants
				}
				return w
			}),
	}
}

// unpacker stops a decompressor at MaxBody.
type unpacker struct {
	r interface {
		io.Reader
		Reset(io.Reader) error
		Close() error
	}
	n int64
}

// Reset begins another body.
func (u *unpacker) Reset(r io.Reader) error {
	u.n = 0
	if r == http.NoBody { // connect gives the decompressor back: what it holds of the body can go
		_ = u.r.Reset(r)
		return nil
	}
	return u.r.Reset(r)
}

// Read gives what was unpacked; its errors reach the caller as they are.
func (u *unpacker) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	u.n += int64(n)
	c := new(call)
	switch {
	case u.n > MaxBody || errors.Is(err, zstd.ErrDecoderSizeExceeded) || errors.Is(err, zstd.ErrWindowSizeExceeded):
		return 0, wireError(c, satchel.E(satchel.Exhausted, satchel.ReasonTooLarge, "a body has at most %d bytes when it is unpacked", MaxBody))
	case err != nil && !errors.Is(err, io.EOF):
		return 0, wireError(c, satchel.E(satchel.Invalid, satchel.ReasonMalformed, "the body is not compressed as its headers say"))
	}
	return n, err
}

// Close is Reset's opposite.
func (u *unpacker) Close() error { return u.r.Close() }

// zstdReader is a zstd.Decoder that lives on after Close, as connect's pools want it.
type zstdReader struct{ d *zstd.Decoder }

func (z zstdReader) Read(p []byte) (int, error) { return z.d.Read(p) }
func (z zstdReader) Reset(r io.Reader) error    { return z.d.Reset(r) }
func (z zstdReader) Close() error               { return z.d.Reset(nil) }

// quiet drops the warnings of net/http about callers: handshakes that failed, connections that broke.
type quiet struct{ slog.Handler }

// certs serves a certificate from files, and reads them again when they change.
type certs struct {
	certFile, keyFile string
	log               *slog.Logger
	now               func() time.Time

	mu       sync.Mutex
	cert     *tls.Certificate
	modified [2]time.Time
	looked   time.Time
}

// lookEvery is how often the files are looked at, at most.
const lookEvery = time.Second

func (c *certs) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.now(); now.Sub(c.looked) >= lookEvery {
		c.looked = now
		if err := c.loadLocked(); err != nil {
			c.log.Error("the new certificate cannot be read; the old one is served on", "error", err.Error())
		}
	}
	return c.cert, nil
}

func (c *certs) load() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.loadLocked()
}

func (c *certs) loadLocked() error {
	var modified [2]time.Time
	for i, name := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		modified[i] = info.ModTime()
	}
	if c.cert != nil && modified == c.modified {
		return nil
	}
	cert, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return err // also half of a renewal: the next look comes in a second
	}
	c.cert, c.modified = &cert, modified
	return nil
}
