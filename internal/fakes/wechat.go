package fakes

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// WeChat is a scripted server of WeChat's code2session. A code is what the test makes it: "code-NAME-…" is of the user
// NAME, whose openid is "openid-NAME"; each is taken once. It is safe for concurrent use.
type WeChat struct {
	srv    *http.Server
	addr   string
	app    string
	secret string

	mu    sync.Mutex
	used  map[string]bool
	next  []int
	drops int
	asked int
}

// StartWeChat starts a server on a free port of the loopback interface, for one mini-program. The caller closes it.
func StartWeChat(appID, secret string) (*WeChat, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("fakes.StartWeChat: %w", err)
	}
	f := &WeChat{addr: l.Addr().String(), app: appID, secret: secret, used: map[string]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /sns/jscode2session", f.session)
	f.srv = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second}
	go func() { _ = f.srv.Serve(l) }() // ends with Close
	return f, nil
}

// API is what a client is pointed at.
func (f *WeChat) API() string { return "http://" + f.addr }

// Close ends the server and its connections.
func (f *WeChat) Close() error { return f.srv.Close() }

// Script sets the errcodes that the next questions are answered with; behind them come true answers.
func (f *WeChat) Script(codes ...int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next = codes
}

// Drop has the next n questions worked on and never answered.
func (f *WeChat) Drop(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drops = n
}

// Asked tells how many questions came.
func (f *WeChat) Asked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

func (f *WeChat) session(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	answer, drop := f.answer(q.Get("appid"), q.Get("secret"), q.Get("js_code"), q.Get("grant_type"))
	if drop {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "text/plain") // as the real one says
	_ = json.NewEncoder(w).Encode(answer)
}

func (f *WeChat) answer(app, secret, code, grant string) (answer map[string]any, drop bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	refuse := func(n int) (map[string]any, bool) {
		return map[string]any{"errcode": n, "errmsg": fmt.Sprintf("scripted, rid: %d", f.asked)}, false
	}
	if len(f.next) > 0 {
		n := f.next[0]
		f.next = f.next[1:]
		return refuse(n)
	}
	name, ok := strings.CutPrefix(code, "code-")
	name, _, _ = strings.Cut(name, "-")
	switch {
	case app != f.app:
		return refuse(40013)
	case secret != f.secret:
		return refuse(40125)
	case grant != "authorization_code" || !ok || name == "":
		return refuse(40029)
	case f.used[code]:
		return refuse(40163)
	}
	f.used[code] = true
	if f.drops > 0 {
		f.drops--
		return nil, true
	}
	return map[string]any{"openid": "openid-" + name, "session_key": "c2Vzc2lvbiBrZXkgb2Yg" + name, "unionid": "union-" + name}, false
}
