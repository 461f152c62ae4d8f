package server

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"
	"connectrpc.com/otelconnect"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/protobuf/reflect/protoreflect"

	satchel "github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/gen/satchel/v1/satchelv1connect"
	"github.com/satchel-sync/satchel/media"
	"github.com/satchel-sync/satchel/syncengine"
)

// routes puts together everything that the port answers.
func (s *Server) routes() (http.Handler, error) {
	paths, requests := methods()
	s.procedures = paths
	validator, err := protovalidate.New(protovalidate.WithMessageDescriptors(requests...), protovalidate.WithDisableLazy())
	if err != nil {
		return nil, err
	}
	options, err := s.callOptions(validator)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	serve := func(path string, h http.Handler) { mux.Handle(path, s.knownOnly(h)) }
	serve(satchelv1connect.NewSyncServiceHandler(syncService{Server: s, validator: validator}, options...))
	serve(satchelv1connect.NewAuthServiceHandler(authService{s}, options...))
	serve(satchelv1connect.NewDirectoryServiceHandler(directoryService{s}, options...))
	serve(satchelv1connect.NewDeviceServiceHandler(deviceService{s}, options...))
	serve(satchelv1connect.NewSchemaServiceHandler(schemaService{s}, options...))
	if s.cfg.Media != nil {
		serve(satchelv1connect.NewMediaServiceHandler(mediaService{s}, options...))
		mux.Handle(media.UploadPattern, s.cfg.Media.UploadHandler())
		mux.Handle(media.ChunkPattern, s.cfg.Media.ChunkHandler())
		mux.Handle(media.BlobPattern, s.cfg.Media.BlobHandler())
	} else {
		serve(satchelv1connect.NewMediaServiceHandler(satchelv1connect.UnimplementedMediaServiceHandler{}, options...))
	}
	if s.cfg.Approval != nil {
		serve(satchelv1connect.NewApprovalServiceHandler(approvalService{s}, options...))
	} else {
		serve(satchelv1connect.NewApprovalServiceHandler(satchelv1connect.UnimplementedApprovalServiceHandler{}, options...))
	}
	if s.cfg.Desk != nil {
		serve(satchelv1connect.NewDeskServiceHandler(deskService{s}, options...))
	} else {
		serve(satchelv1connect.NewDeskServiceHandler(satchelv1connect.UnimplementedDeskServiceHandler{}, options...))
	}
	if s.cfg.Dev {
		reflector := grpcreflect.NewStaticReflector(services()...)
		mux.Handle(grpcreflect.NewHandlerV1(reflector))
		mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector))
	}
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /metrics", s.private(promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 2, Timeout: 5 * time.Second})))
	mux.Handle("/", s.pageOrUnknown())
	across, err := crossOrigin(s.cfg.Origins)
	if err != nil {
		return nil, err
	}
	return s.calls(across(mux)), nil
}

// callOptions are the same for every service: what stands between the wire and a method, from the outside in.
func (s *Server) callOptions(validator protovalidate.Validator) ([]connect.HandlerOption, error) {
	options := compression()
	options = append(options,
		connect.WithReadMaxBytes(MaxBody),
		connect.WithRequestGate(s.gate),
		connect.WithCodec(codec{name: "proto"}),
		connect.WithCodec(codec{name: "json", json: true}),
		connect.WithCodec(codec{name: "json; charset=utf-8", json: true}),
	)
	if s.cfg.Tracer != nil {
		trace, err := otelconnect.NewInterceptor(otelconnect.WithTracerProvider(s.cfg.Tracer), otelconnect.WithoutMetrics())
		if err != nil {
			return nil, err
		}
		options = append(options, connect.WithInterceptors(trace))
	}
	return append(options, connect.WithInterceptors(s.guard(validator))), nil
}

// absent answers a call of a feature that this server was built without.
func absent() error {
	return connect.NewError(connect.CodeUnimplemented, errors.New("this server does not have this feature"))
}

// files are the descriptors of the contract.
func files() []protoreflect.FileDescriptor {
	return []protoreflect.FileDescriptor{satchelv1.File_satchel_v1_sync_proto, satchelv1.File_satchel_v1_auth_proto,
		satchelv1.File_satchel_v1_directory_proto, satchelv1.File_satchel_v1_device_proto, satchelv1.File_satchel_v1_media_proto,
		satchelv1.File_satchel_v1_schema_proto, satchelv1.File_satchel_v1_approval_proto,
		satchelv1.File_satchel_v1_desk_proto}
}

func services() []string {
	var out []string
	for _, f := range files() {
		for i := range f.Services().Len() {
			out = append(out, string(f.Services().Get(i).FullName()))
		}
	}
	return out
}

// methods gives every procedure's path and request message.
func methods() (paths []string, requests []protoreflect.MessageDescriptor) {
	for _, f := range files() {
		for i := range f.Services().Len() {
			service := f.Services().Get(i)
			for j := range service.Methods().Len() {
				m := service.Methods().Get(j)
				paths = append(paths, "/"+string(service.FullName())+"/"+string(m.Name()))
				requests = append(requests, m.Input())
			}
		}
	}
	return paths, requests
}

// healthz says that the process lives.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok") }

// readyz says whether calls can be answered here: the database answers within a second, and the server does not end.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	if s.draining.Load() {
		plain(w, http.StatusServiceUnavailable, "draining")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), readyTime)
	defer cancel()
	if err := s.cfg.Ready(ctx); err != nil {
		s.log.WarnContext(ctx, "not ready", "error", causeText(err))
		plain(w, http.StatusServiceUnavailable, "the database does not answer")
		return
	}
	plain(w, http.StatusOK, "ok")
}

func plain(w http.ResponseWriter, status int, line string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(line + "\n")) // who hung up asks again
}

// private answers only who asks from this machine, and through no proxy, unless Config.MetricsPublic.
func (s *Server) private(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, err := netip.ParseAddrPort(r.RemoteAddr)
		near := err == nil && peer.Addr().Unmap().IsLoopback() && r.Header.Get("X-Forwarded-For") == "" && r.Header.Get("Forwarded") == ""
		if !near && !s.cfg.MetricsPublic {
			http.NotFound(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// metrics counts what the edge does, in a registry of its own.
type metrics struct {
	registry  *prometheus.Registry
	calls     *prometheus.HistogramVec
	mutations *prometheus.CounterVec
	undoes    *prometheus.CounterVec
	waiting   prometheus.Gauge
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "satchel_call_seconds",
			Help: "Duration of calls, by procedure and code.", Buckets: []float64{.002, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 15, 30}},
			[]string{"procedure", "code"}),
		mutations: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "satchel_mutations_total",
			Help: "Verdicts given to devices, by status; a replay counts again."}, []string{"status"}),
		undoes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "satchel_batches_undone_total",
			Help: "Batches of which a part has no verdict yet, by reason."}, []string{"reason"}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{Name: "satchel_waiting_devices",
			Help: "Devices that wait on this replica for something to pull."}),
	}
	m.registry.MustRegister(m.calls, m.mutations, m.undoes, m.waiting, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) call(procedure, code string, took time.Duration) {
	m.calls.WithLabelValues(procedure, code).Observe(took.Seconds())
}

func (m *metrics) mutation(s syncengine.Status) { m.mutations.WithLabelValues(string(s)).Inc() }

func (m *metrics) undone(r satchel.Reason) { m.undoes.WithLabelValues(string(r)).Inc() }

// knownOnly lets only procedures of the contract through to a service.
func (s *Server) knownOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !slices.Contains(s.procedures, r.URL.Path) {
			s.unknown(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// unknown tells an app in its own protocol that there is no such procedure.
func (s *Server) unknown(w http.ResponseWriter, r *http.Request) {
	err := connect.NewError(connect.CodeUnimplemented, errors.New("there is no such procedure: is the app newer than the server?"))
	_ = connect.NewErrorWriter().Write(w, r, s.fail(r.Context(), err)) // who hung up asks again
}

// pageOrUnknown serves the web app to browsers.
func (s *Server) pageOrUnknown() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPost:
			s.unknown(w, r)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			plain(w, http.StatusMethodNotAllowed, "method not allowed")
		case s.cfg.Page == nil:
			http.NotFound(w, r)
		default:
			s.cfg.Page.ServeHTTP(w, r)
		}
	})
}
