package conformance

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/gen/satchel/v1/satchelv1connect"
)

// server plays the server of all transcripts, each under a path of its own, on a port of the loopback.
type server struct {
	url       string
	http      *http.Server
	validator protovalidate.Validator

	mu     sync.Mutex
	scene  *scene // the one that is played; calls of an older one are cut
	prefix string
	count  int
}

func newServer() (*server, error) {
	validator, err := protovalidate.New()
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &server{url: "http://" + l.Addr().String(), validator: validator}
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	s.http.SetKeepAlivesEnabled(false) // who reuses a connection that was cut may send the request again on its own
	go s.http.Serve(l)                 //nolint:errcheck // ends with close
	return s, nil
}

func (s *server) close() error { return s.http.Close() }

// play makes a scene the current one and gives its address.
func (s *server) play(sc *scene) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	s.scene, s.prefix = sc, fmt.Sprintf("/scene-%d", s.count)
	return s.url + s.prefix
}

// ServeHTTP answers one call.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Allow-Headers", r.Header.Get("Access-Control-Request-Headers"))
	h.Set("Access-Control-Allow-Methods", "POST, GET, PUT")
	h.Set("Access-Control-Allow-Private-Network", "true")
	h.Set("Access-Control-Expose-Headers", "*")
	h.Set("Access-Control-Max-Age", "600")
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	s.mu.Lock()
	sc, prefix := s.scene, s.prefix
	s.mu.Unlock()
	rest, ok := strings.CutPrefix(r.URL.Path, prefix+"/")
	if sc == nil || !ok {
		panic(http.ErrAbortHandler) // of a client that was killed in an earlier scene
	}
	r.URL.Path = "/" + rest
	r, err := unform(r)
	if err != nil {
		sc.fail("a piece of a file came as a form that cannot be read: " + err.Error())
		panic(http.ErrAbortHandler)
	}
	f := new(fate)
	buf := &buffered{header: http.Header{}, status: http.StatusOK}
	routes(sc).ServeHTTP(buf, r.WithContext(context.WithValue(r.Context(), fateKey{}, f)))
	switch {
	case f.lost:
		panic(http.ErrAbortHandler)
	case f.page > 0:
		h.Set("Content-Type", "text/html")
		w.WriteHeader(f.page)
		fmt.Fprint(w, "<html><body>Welcome to the hotel. Please log in.</body></html>")
		return
	case buf.status == http.StatusNotFound:
		sc.fail("a call came to " + rest + ", which no transcript asks for")
	}
	for k, v := range buf.header {
		h[k] = v
	}
	body := buf.body.Bytes()
	if f.newer {
		if body, err = newer(body, h); err != nil {
			sc.fail("the answer of a newer server: " + err.Error())
		}
	}
	h.Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(buf.status)
	if f.cut {
		w.Write(body[:len(body)/2]) //nolint:errcheck // it is cut anyway
		if fl, ok := w.(http.Flusher); ok {
			fl.Flush()
		}
		panic(http.ErrAbortHandler)
	}
	w.Write(body) //nolint:errcheck // the client sees it
}

// fate is what happens to an answer on its way.
type fate struct {
	lost, cut, newer bool
	page             int
}

type fateKey struct{}

// newer adds to the answer of a Sync a field and a directive that this contract does not describe.
func newer(body []byte, h http.Header) ([]byte, error) {
	if h.Get("Content-Encoding") == "gzip" {
		r, err := gzip.NewReader(bytes.NewReader(body))
		if err == nil {
			body, err = io.ReadAll(r)
		}
		if err != nil {
			return nil, err
		}
		h.Del("Content-Encoding")
	}
	if h.Get("Content-Type") == "application/proto" {
		unknown := protowire.AppendString(protowire.AppendTag(nil, 1000, protowire.BytesType), "new")
		body = append(body, unknown...)
		return protowire.AppendBytes(protowire.AppendTag(body, 4, protowire.BytesType), unknown), nil // SyncResponse.directives
	}
	var object map[string]any
	if err := decode(body, &object); err != nil {
		return nil, err
	}
	directives, _ := object["directives"].([]any)
	object["directives"] = append(directives, map[string]any{"newOrder": map[string]any{"why": "new"}})
	object["newField"] = []any{"new"}
	return json.Marshal(object)
}

// buffered keeps an answer until its fate is known.
type buffered struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (b *buffered) Header() http.Header         { return b.header }
func (b *buffered) WriteHeader(status int)      { b.status = status }
func (b *buffered) Write(p []byte) (int, error) { return b.body.Write(p) }

// methods are those that transcripts may name.
var methods = map[string]func(*scene, *http.ServeMux){
	"SignIn":     route[satchelv1.SignInRequest, satchelv1.SignInResponse]("SignIn", satchelv1connect.AuthServiceSignInProcedure),
	"Refresh":    route[satchelv1.RefreshRequest, satchelv1.RefreshResponse]("Refresh", satchelv1connect.AuthServiceRefreshProcedure),
	"SignOut":    route[satchelv1.SignOutRequest, satchelv1.SignOutResponse]("SignOut", satchelv1connect.AuthServiceSignOutProcedure),
	"Sync":       route[satchelv1.SyncRequest, satchelv1.SyncResponse]("Sync", satchelv1connect.SyncServiceSyncProcedure),
	"Wait":       route[satchelv1.WaitRequest, satchelv1.WaitResponse]("Wait", satchelv1connect.SyncServiceWaitProcedure),
	"Repair":     route[satchelv1.RepairRequest, satchelv1.RepairResponse]("Repair", satchelv1connect.SyncServiceRepairProcedure),
	"Begin":      route[satchelv1.BeginRequest, satchelv1.BeginResponse]("Begin", satchelv1connect.MediaServiceBeginProcedure),
	"PutChunk":   route[satchelv1.PutChunkRequest, satchelv1.PutChunkResponse]("PutChunk", satchelv1connect.MediaServicePutChunkProcedure),
	"Complete":   route[satchelv1.CompleteRequest, satchelv1.CompleteResponse]("Complete", satchelv1connect.MediaServiceCompleteProcedure),
	"GetSchema":  route[satchelv1.GetSchemaRequest, satchelv1.GetSchemaResponse]("GetSchema", satchelv1connect.SchemaServiceGetSchemaProcedure),
	"SetAddress": route[satchelv1.SetAddressRequest, satchelv1.SetAddressResponse]("SetAddress", satchelv1connect.DeviceServiceSetAddressProcedure),
}

func routes(sc *scene) *http.ServeMux {
	mux := http.NewServeMux()
	for _, add := range methods {
		add(sc, mux)
	}
	return mux
}

func route[Req, Res any](method, procedure string) func(*scene, *http.ServeMux) {
	return func(sc *scene, mux *http.ServeMux) {
		mux.Handle(procedure, connect.NewUnaryHandler(procedure, func(ctx context.Context, req *connect.Request[Req]) (*connect.Response[Res], error) {
			out := new(Res)
			in, ok := any(req.Msg).(proto.Message)
			answer, ok2 := any(out).(proto.Message)
			f, ok3 := ctx.Value(fateKey{}).(*fate)
			if !ok || !ok2 || !ok3 {
				return nil, errors.New("not a message")
			}
			token := strings.TrimPrefix(req.Header().Get("Authorization"), "Bearer ")
			if err := sc.take(ctx, method, token, in, answer, f); err != nil {
				return nil, err
			}
			return connect.NewResponse(out), nil
		}))
	}
}

// callError makes the Connect error that a transcript asks for.
func callError(e *CallError) error {
	var code connect.Code
	if err := code.UnmarshalText([]byte(e.Code)); err != nil {
		return err
	}
	err := connect.NewError(code, errors.New("refused by the transcript"))
	if e.Reason == "" {
		return err
	}
	reason, ok := satchelv1.Reason_value["REASON_"+e.Reason]
	if !ok {
		return fmt.Errorf("there is no reason %q", e.Reason)
	}
	d, derr := connect.NewErrorDetail(&satchelv1.ErrorDetail{Reason: satchelv1.Reason(reason), Message: "Refused.", RequestId: "r-1",
		RetryAfterMs: e.RetryAfterMs, Expected: e.Expected})
	if derr != nil {
		return derr
	}
	err.AddDetail(d)
	return err
}
