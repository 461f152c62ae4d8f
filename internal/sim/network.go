package sim

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
)

var (
	errNoWay  = errors.New("sim: the request was lost")
	errNoBack = errors.New("sim: the answer was lost")
)

// letter is a request as it travels.
type letter struct {
	due     int // the step at which it arrives again
	method  string
	url     *url.URL
	header  http.Header
	body    []byte
	replica int
}

// antenna is a phone's way to the servers, as an http.RoundTripper.
type antenna struct {
	w *world
	p *phone
}

// RoundTrip loses, doubles, delays or delivers a request, as the seed says.
func (a antenna) RoundTrip(req *http.Request) (*http.Response, error) {
	body := []byte(nil)
	if req.Body != nil {
		var err error
		if body, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		req.Body.Close()
	}
	w, p := a.w, a.p
	l := letter{method: req.Method, url: req.URL, header: req.Header.Clone(), body: body, replica: p.replica}
	if p.noUp {
		return nil, errNoWay
	}
	lost := p.noDown
	if w.faults {
		switch n := w.rnd.IntN(1000); {
		case n < w.bad: // lost on the way
			w.act.Lost++
			w.tracef("  request lost: %s", req.URL.Path)
			return nil, errNoWay
		case n < 2*w.bad: // late: it arrives when the phone has long given up
			w.act.Late++
			l.due = w.at + 1 + w.rnd.IntN(25)
			w.late = append(w.late, l)
			w.tracef("  request late: %s", req.URL.Path)
			return nil, errNoWay
		case n < 3*w.bad: // twice: once now, once later
			w.act.Doubled++
			twin := l
			twin.due = w.at + 1 + w.rnd.IntN(25)
			w.late = append(w.late, twin)
			w.tracef("  request doubled: %s", req.URL.Path)
		case n < 4*w.bad:
			lost = true
		}
	}
	res := w.deliver(req.Context(), l)
	if lost {
		w.act.Lost++
		w.tracef("  answer lost: %s %d", req.URL.Path, res.StatusCode)
		return nil, errNoBack
	}
	res.Request = req
	return res, nil
}

// deliver gives a letter to its replica and brings the answer.
func (w *world) deliver(ctx context.Context, l letter) *http.Response {
	req := (&http.Request{Method: l.method, URL: l.url, Header: l.header.Clone(), Body: io.NopCloser(bytes.NewReader(l.body)),
		ContentLength: int64(len(l.body)), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Host: l.url.Host,
		RequestURI: l.url.RequestURI(), RemoteAddr: "192.0.2.1:1"}).WithContext(ctx)
	a := &answer{header: http.Header{}}
	server := w.replicas[l.replica].app.Server
	server.Handler().ServeHTTP(a, req)
	server.Rest() // what it notes behind its answer has its place in the order of the run
	w.restart()
	if a.code == 0 {
		a.code = http.StatusOK
	}
	return &http.Response{StatusCode: a.code, Status: http.StatusText(a.code), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: a.header, Body: io.NopCloser(&a.body), ContentLength: int64(a.body.Len())}
}

// deliverLate delivers what is due; nobody hears the answers.
func (w *world) deliverLate() {
	rest := w.late[:0]
	for _, l := range w.late {
		if l.due > w.at {
			rest = append(rest, l)
			continue
		}
		res := w.deliver(w.ctx, l)
		w.tracef("  arrives late: %s %d", l.url.Path, res.StatusCode)
	}
	w.late = rest
}

// answer is what a handler writes.
type answer struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(code int) {
	if a.code == 0 && code >= 200 {
		a.code = code
	}
}

func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(p)
}
