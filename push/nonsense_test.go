package push_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/satchel-sync/satchel/internal/enginetest"
	"github.com/satchel-sync/satchel/push"
)

func TestAnAnswerThatIsNoneOfFCMsIsTriedAgainAndCostsNoAddress(t *testing.T) {
	const page = "<html><body>404 Not Found, UNREGISTERED</body></html>"
	for name, c := range map[string]struct {
		status int
		body   string
	}{
		"a page of a gateway":            {http.StatusBadGateway, page},
		"a page that says not found":     {http.StatusNotFound, page},
		"JSON that says nothing":         {http.StatusNotFound, `{}`},
		"JSON that breaks off":           {http.StatusNotFound, `{"error": {"code": 404, "details": [{"errorCode": "UNREGIS`},
		"a code without FCM's type":      {http.StatusNotFound, `{"error": {"code": 404, "details": [{"@type": "x", "errorCode": "UNREGISTERED"}]}}`},
		"a time-out of its own":          {http.StatusRequestTimeout, ""},
		"a megabyte":                     {http.StatusInternalServerError, strings.Repeat("x", 1<<20)},
		"no length and a broken end":     {0, ""},
		"a redirect to somewhere nobody": {http.StatusFound, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var calls atomic.Int64
			var mended atomic.Bool
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // a test's own client sends it
				if calls.Add(1); mended.Load() {
					w.Header().Set("Content-Type", "application/json")
					_, _ = io.WriteString(w, `{"name": "projects/demo/messages/1"}`)
					return
				}
				switch c.status {
				case 0:
					_, _ = io.WriteString(w, `{"na`)
					w.(http.Flusher).Flush()
					panic(http.ErrAbortHandler)
				case http.StatusFound:
					w.Header().Set("Location", "http://127.0.0.1:1/")
				}
				w.Header().Set("Content-Type", "text/html")
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			}))
			t.Cleanup(srv.Close)
			w := &world{World: enginetest.New(t), t: t}
			sender, err := push.NewFCM(t.Context(), push.FCMConfig{ProjectID: "demo", Endpoint: srv.URL + "/v1"})
			if err != nil {
				t.Fatal(err)
			}
			if w.push, err = push.New(push.Config{Pool: w.Pool, Engine: w.Engine, Jobs: w.Jobs, Now: w.Now,
				Senders: map[string]push.Sender{push.FCMKind: sender}}); err != nil {
				t.Fatal(err)
			}
			w.push.Register()
			w.address("Ann", "ann", "en")
			w.notify("Ann")
			w.Step()
			w.want("waiting")
			if n := calls.Load(); n != 1 {
				t.Errorf("it was sent %d times at once", n)
			}
			if n := w.addresses(); n != 1 {
				t.Errorf("%d addresses are left", n)
			}
			mended.Store(true)
			w.Pass(2 * time.Hour)
			w.Step()
			w.want("sent")
		})
	}
}
