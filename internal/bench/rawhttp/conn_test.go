package rawhttp_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/internal/bench/rawhttp"
)

const (
	echo    = "/test.v1.Test/Echo"
	stream  = "/test.v1.Test/Stream"
	refused = "/test.v1.Test/Refused"
)

// dial connects to a server of Connect's own library.
func dial(t *testing.T) *rawhttp.Conn {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(echo, connect.NewUnaryHandler(echo, func(_ context.Context, in *connect.Request[satchelv1.SyncRequest]) (*connect.Response[satchelv1.SyncResponse], error) {
		if in.Header().Get("Authorization") != "Bearer key" {
			return nil, connect.NewError(connect.CodeUnauthenticated, errors.New("who are you"))
		}
		return connect.NewResponse(&satchelv1.SyncResponse{ServerTimeMs: int64(len(in.Msg.Cursor))}), nil
	}))
	mux.Handle(stream, connect.NewServerStreamHandler(stream, func(_ context.Context, in *connect.Request[satchelv1.WaitRequest], s *connect.ServerStream[satchelv1.WaitResponse]) error {
		for i := range len(in.Msg.Cursor) {
			if err := s.Send(&satchelv1.WaitResponse{Wake: i%2 == 1}); err != nil {
				return err
			}
		}
		return nil
	}))
	mux.HandleFunc(refused, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		http.Error(w, "come later", http.StatusServiceUnavailable)
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	c, err := rawhttp.Dial(t.Context(), srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if err := c.Deadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestOneConnectionServesCallAfterCallWhateverWasAnswered(t *testing.T) {
	t.Parallel()
	c := dial(t)
	for n := range 3 {
		out := &satchelv1.SyncResponse{}
		in := &satchelv1.SyncRequest{Cursor: []byte(strings.Repeat("x", n*50_000))}
		if err := c.Call(echo, "key", in, out); err != nil || out.ServerTimeMs != int64(n*50_000) {
			t.Fatalf("call %d: %v %v", n, out, err)
		}
		for path, want := range map[string]rawhttp.Status{echo: {Code: 401}, refused: {Code: 503, RetryAfter: 7 * time.Second}} {
			s, ok := errors.AsType[*rawhttp.Status](c.Call(path, "", in, out))
			if !ok || s.Code != want.Code || s.RetryAfter != want.RetryAfter || s.Body == "" {
				t.Fatalf("%s: %+v", path, s)
			}
		}
	}
}

func TestAStreamBringsItsMessagesOneByOne(t *testing.T) {
	t.Parallel()
	c := dial(t)
	if err := c.Subscribe(stream, &satchelv1.WaitRequest{Cursor: []byte("four")}); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		if _, err := c.Arrived(); err != nil {
			t.Fatal(err)
		}
		out := &satchelv1.WaitResponse{}
		if err := c.Next(out); err != nil || out.Wake != (i%2 == 1) {
			t.Fatalf("message %d: %v %v", i, out, err)
		}
	}
	if err := c.Next(&satchelv1.WaitResponse{}); err == nil {
		t.Fatal("the end of the stream is taken for a message")
	}
}

func TestARefusedStreamIsAnError(t *testing.T) {
	t.Parallel()
	if err := dial(t).Subscribe(refused, &satchelv1.WaitRequest{}); err == nil || !strings.Contains(err.Error(), "503") {
		t.Fatal(err)
	}
}
