package server_test

import (
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/internal/app"
)

var base64Raw = base64.RawStdEncoding

func asConnect(err error, out **connect.Error) bool { return errors.As(err, out) }

func TestEveryProtocolCarriesTheSameSync(t *testing.T) {
	w := newWorld(t)
	for name, p := range map[string]struct {
		client  *http.Client
		options []connect.ClientOption
	}{
		"Connect with Protobuf over HTTP/1.1": {http.DefaultClient, nil},
		"Connect with JSON over HTTP/1.1":     {http.DefaultClient, []connect.ClientOption{connect.WithProtoJSON()}},
		"Connect with JSON over HTTP/2":       {h2c(t), []connect.ClientOption{connect.WithProtoJSON()}},
		"Connect, gzipped request":            {h2c(t), []connect.ClientOption{connect.WithSendGzip()}},
		"gRPC":                                {h2c(t), []connect.ClientOption{connect.WithGRPC()}},
		"gRPC-Web over HTTP/1.1":              {http.DefaultClient, []connect.ClientOption{connect.WithGRPCWeb()}},
		"gRPC-Web with JSON":                  {h2c(t), []connect.ClientOption{connect.WithGRPCWeb(), connect.WithProtoJSON()}},
	} {
		t.Run(name, func(t *testing.T) {
			d := w.phone(p.client, p.options...)
			d.signIn("ann")
			res := d.send(d.mutation(d.account("华东机械 " + strings.Repeat("x", 100))))
			if len(res.Verdicts) != 1 || res.Verdicts[0].Status != satchelv1.Status_STATUS_APPLIED {
				t.Fatalf("got %v", res.Verdicts)
			}
			if res.ServerTimeMs != w.clock.Load() {
				t.Errorf("the server's time is %d", res.ServerTimeMs)
			}
			d.settle()
			if _, err := d.sync.Sync(t.Context(), &satchelv1.SyncRequest{Cursor: []byte("nonsense")}); true {
				code, e := detail(t, err)
				if code != connect.CodeInvalidArgument || e.Reason != satchelv1.Reason_REASON_MALFORMED_CURSOR || e.RequestId == "" || e.Message == "" {
					t.Errorf("got %v %v", code, e)
				}
			}
		})
	}
}

func TestEveryProtocolTellsThatAMessageIsTooLarge(t *testing.T) {
	w := newWorld(t)
	for name, p := range map[string]struct {
		client  *http.Client
		options []connect.ClientOption
	}{
		"Connect over HTTP/1.1":  {http.DefaultClient, nil},
		"Connect over HTTP/2":    {h2c(t), nil},
		"gRPC":                   {h2c(t), []connect.ClientOption{connect.WithGRPC()}},
		"gRPC-Web over HTTP/1.1": {http.DefaultClient, []connect.ClientOption{connect.WithGRPCWeb()}},
		"gRPC, gzipped":          {h2c(t), []connect.ClientOption{connect.WithGRPC(), connect.WithSendGzip()}},
	} {
		t.Run(name, func(t *testing.T) {
			d := w.phone(p.client, p.options...)
			d.signIn("ann")
			_, err := d.sync.Sync(t.Context(), &satchelv1.SyncRequest{Mutations: []*satchelv1.Mutation{d.mutation(d.account(strings.Repeat("x", 5<<20)))}})
			if code, e := detail(t, err); code != connect.CodeResourceExhausted || e.Reason != satchelv1.Reason_REASON_TOO_LARGE {
				t.Errorf("got %v %v", code, e)
			}
			d.next = 0
			if v := d.send(d.mutation(d.account("x"))).Verdicts; len(v) != 1 {
				t.Errorf("the next call got %v", v)
			}
		})
	}
}

func TestACallIsASpanWhereThereIsATracer(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	tracer := trace.NewTracerProvider(trace.WithSpanProcessor(spans))
	w := newWorld(t, func(c *app.Config) { c.Tracer = tracer })
	w.signIn("ann").settle()
	var names []string
	for _, s := range spans.Ended() {
		names = append(names, s.Name())
	}
	if !slices.Contains(names, "satchel.v1.SyncService/Sync") || !slices.Contains(names, "satchel.v1.AuthService/SignIn") {
		t.Errorf("got %v", names)
	}
}
