package wechat_test

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/fakes"
	"github.com/satchel-sync/satchel/internal/wechat"
)

const secret = "0123456789abcdef-secret"

func client(t *testing.T, api, secret string) (*wechat.Client, *bytes.Buffer) {
	t.Helper()
	log := &bytes.Buffer{}
	c, err := wechat.New(wechat.Config{AppID: "wx1", Secret: secret, API: api, Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return c, log
}

func fake(t *testing.T) *fakes.WeChat {
	t.Helper()
	f, err := fakes.StartWeChat("wx1", secret)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestACodeNamesItsUserOnce(t *testing.T) {
	t.Parallel()
	f := fake(t)
	c, _ := client(t, f.API()+"/", secret)
	open, union, err := c.Exchange(t.Context(), "code-li-1")
	if open != "openid-li" || union != "union-li" || err != nil {
		t.Errorf("the user is %q, %q: %v", open, union, err)
	}
	if _, _, err = c.Exchange(t.Context(), "code-li-1"); satchel.ReasonOf(err) != satchel.ReasonWeChatCode {
		t.Errorf("the same code again: %v", err)
	}
	if _, _, err = c.Exchange(t.Context(), "code&secret=x"); satchel.ReasonOf(err) != satchel.ReasonWeChatCode {
		t.Errorf("a code that would be another question: %v", err)
	}
}

func TestAQuestionWhoseAnswerBreaksOffIsAskedOnce(t *testing.T) {
	t.Parallel()
	f := fake(t)
	c, _ := client(t, f.API(), secret)
	if _, _, err := c.Exchange(t.Context(), "code-li-1"); err != nil {
		t.Fatal(err)
	}
	f.Drop(1)
	if _, _, err := c.Exchange(t.Context(), "code-li-2"); satchel.ReasonOf(err) != satchel.ReasonWeChatDown {
		t.Errorf("it is %v", err)
	}
	if n := f.Asked(); n != 2 {
		t.Errorf("WeChat was asked %d times", n)
	}
}

func TestEachRefusalSaysWhatToDo(t *testing.T) {
	t.Parallel()
	f := fake(t)
	c, log := client(t, f.API(), secret)
	for code, want := range map[int]satchel.Error{
		-1:    {Kind: satchel.Unavailable, Reason: satchel.ReasonWeChatDown},
		40029: {Kind: satchel.Unauthenticated, Reason: satchel.ReasonWeChatCode},
		40163: {Kind: satchel.Unauthenticated, Reason: satchel.ReasonWeChatCode},
		40226: {Kind: satchel.Denied, Reason: satchel.ReasonWeChatBlocked},
		45011: {Kind: satchel.Exhausted, Reason: satchel.ReasonRateLimited},
		40125: {Kind: satchel.Precondition, Reason: satchel.ReasonWeChatOff},
		99999: {Kind: satchel.Precondition, Reason: satchel.ReasonWeChatOff},
	} {
		f.Script(code)
		_, _, err := c.Exchange(t.Context(), "code-li-1")
		if satchel.KindOf(err) != want.Kind || satchel.ReasonOf(err) != want.Reason {
			t.Errorf("%d became %v", code, err)
		}
	}
	if !strings.Contains(log.String(), "40125") {
		t.Errorf("the log does not say that the secret is wrong: %s", log)
	}
}

func TestNoErrorTellsTheSecretOrTheCode(t *testing.T) {
	t.Parallel()
	const page = "<html>not WeChat</html>"
	for name, serve := range map[string]http.HandlerFunc{
		"nobody listens": nil,
		"a page":         func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, page) },
		"a failure":      func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) },
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/?"+r.URL.RawQuery, http.StatusFound)
		},
		"a cut":        func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"nobody named": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"session_key": "k"}`) },
		"a megabyte": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"openid": "`+strings.Repeat("x", 1<<20)+`"}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(serve)
			if serve == nil {
				srv.Close()
			}
			t.Cleanup(srv.Close)
			c, log := client(t, srv.URL, secret)
			_, _, err := c.Exchange(t.Context(), "code-of-li")
			if satchel.ReasonOf(err) != satchel.ReasonWeChatDown {
				t.Fatalf("it is %v", err)
			}
			for _, word := range []string{secret, "code-of-li", page} {
				if strings.Contains(err.Error()+log.String(), word) {
					t.Errorf("%q is told: %v", word, err)
				}
			}
		})
	}
}

func TestAWeChatThatDoesNotAnswerIsLeft(t *testing.T) {
	t.Parallel()
	silent := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-silent }))
	t.Cleanup(srv.Close)
	t.Cleanup(func() { close(silent) })
	c, _ := client(t, srv.URL, secret)
	begin := time.Now()
	if _, _, err := c.Exchange(t.Context(), "code-li-1"); satchel.ReasonOf(err) != satchel.ReasonWeChatDown {
		t.Errorf("it is %v", err)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestAClientThatLacksSomethingIsNotMade(t *testing.T) {
	t.Parallel()
	for _, cfg := range []wechat.Config{{}, {AppID: "wx1"}, {Secret: "s"}, {AppID: "wx1", Secret: "s", API: "weixin"}} {
		if _, err := wechat.New(cfg); err == nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
}
