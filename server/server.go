package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/access"
	"github.com/satchel-sync/satchel/desk"
	"github.com/satchel-sync/satchel/identity"
	"github.com/satchel-sync/satchel/media"
	"github.com/satchel-sync/satchel/push"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine"
)

// The limits of the edge. Those of messages stand in the proto comments.
const (
	MaxBody      = 4 << 20  // bytes of a request, as sent and after decompression
	maxOpenBody  = 64 << 10 // bytes of a request that needs no session
	maxHeader    = 64 << 10 // bytes of a request's headers
	callTime     = 15 * time.Second
	waitTime     = 30 * time.Second
	gateTime     = 5 * time.Second
	readyTime    = time.Second
	drainTime    = 20 * time.Second // for calls that run when the server is told to end
	headerTime   = 10 * time.Second
	idleTime     = 120 * time.Second
	bodyGrace    = 30 * time.Second // before a body must have come at bodyRate
	bodyRate     = 2 << 10          // bytes per second, the least that is waited for: a 2G phone sends more
	answerGrace  = 60 * time.Second
	plainTime    = 5 * time.Minute // for the answers of pages; links to bytes set their own
	minCompress  = 512             // bytes below which an answer is not compressed
	maxStreams   = 128             // calls at once on one HTTP/2 connection
	protoHeader  = "Satchel-Protocol"
	reqIDHeader  = "X-Request-Id"
	mediaPrefix  = "/media/v1/"
	contactEvery = time.Minute
)

// Engine is what the edge needs of syncengine.Engine.
type Engine interface {
	Apply(ctx context.Context, p *satchel.Principal, in syncengine.Batch) (syncengine.Outcome, error)
	Pull(ctx context.Context, p *satchel.Principal, r syncengine.PullRequest) (*syncengine.Page, error)
	Wait(ctx context.Context, p *satchel.Principal, cursor []byte, until <-chan struct{}) (bool, error)
	Restored(ctx context.Context, p *satchel.Principal, seen uint64, cursor []byte) (*syncengine.Lost, error)
	Contact(ctx context.Context, p *satchel.Principal, n syncengine.ContactNote) error
	Lanes(ctx context.Context, org satchel.ID, devices []satchel.ID) (map[satchel.ID]syncengine.Lane, error)
	Org(ctx context.Context, id satchel.ID) (*schema.Schema, *access.Directory, error)
	Grants(ctx context.Context, p *satchel.Principal) (*access.Grants, error)
}

// Repairer is what the edge needs of syncengine.Engine for repairs (S17).
type Repairer interface {
	RepairStart(ctx context.Context, p *satchel.Principal, profile string, forms []syncengine.Form) (*syncengine.RepairPlan, error)
	RepairRevs(ctx context.Context, p *satchel.Principal, profile string, bucket int64, kind string, after satchel.ID) (*syncengine.RecordRevs, error)
	RepairRows(ctx context.Context, p *satchel.Principal, profile string, ids []satchel.ID) (rows []syncengine.RowChange, answered int, err error)
	Salvage(ctx context.Context, p *satchel.Principal, rows []syncengine.SalvagedRow) error
}

// Identity is what the edge needs of identity.Service.
type Identity interface {
	Authenticator
	SignIn(ctx context.Context, in identity.SignIn) (*identity.Session, error)
	SignInWeChat(ctx context.Context, in identity.SignInWeChat) (*identity.Session, error)
	UnbindWeChat(ctx context.Context, p *satchel.Principal, person satchel.ID) error
	Refresh(ctx context.Context, refresh string) (identity.Tokens, error)
	SignOut(ctx context.Context, p *satchel.Principal) error
	WhoAmI(ctx context.Context, p *satchel.Principal) (*identity.Me, error)
	ChangePassword(ctx context.Context, p *satchel.Principal, oldPassword, newPassword string) error
	SetUp(ctx context.Context, in identity.SetUp) (org, person satchel.ID, err error)

	ListPeople(ctx context.Context, p *satchel.Principal, size int, token string) ([]identity.Person, string, error)
	CreatePerson(ctx context.Context, p *satchel.Principal, n identity.NewPerson) (identity.Person, error)
	UpdatePerson(ctx context.Context, p *satchel.Principal, patch identity.PersonPatch) (identity.Person, error)
	ResetPassword(ctx context.Context, p *satchel.Principal, person satchel.ID, password string) error
	ListTeams(ctx context.Context, p *satchel.Principal) ([]identity.Team, error)
	CreateTeam(ctx context.Context, p *satchel.Principal, name string, parent satchel.ID) (identity.Team, error)
	UpdateTeam(ctx context.Context, p *satchel.Principal, patch identity.TeamPatch) (identity.Team, error)

	ListDevices(ctx context.Context, p *satchel.Principal, person satchel.ID) ([]identity.Device, error)
	RevokeDevice(ctx context.Context, p *satchel.Principal, device satchel.ID) error
}

// Authenticator tells who an access token speaks for.
type Authenticator interface {
	Authenticate(ctx context.Context, token string) (*satchel.Principal, error)
}

// Media is what the edge needs of media.Service.
type Media interface {
	Begin(ctx context.Context, p *satchel.Principal, sha256 string, size int64, contentType string) (media.Upload, error)
	PutChunk(ctx context.Context, p *satchel.Principal, id satchel.ID, offset int64, data []byte) (int64, error)
	Complete(ctx context.Context, p *satchel.Principal, id satchel.ID) (sha256 string, err error)
	Link(ctx context.Context, p *satchel.Principal, record satchel.ID) (media.Link, error)
	UploadHandler() http.Handler
	ChunkHandler() http.Handler
	BlobHandler() http.Handler
}

// Push keeps where devices can be notified. kind is spelt like satchel.v1.AddressKind without its prefix, in lower
// case ("fcm_token"); language is "zh-CN" or "en".
type Push interface {
	SetAddress(ctx context.Context, p *satchel.Principal, kind, address, language string) error
	RemoveAddress(ctx context.Context, p *satchel.Principal, kind string) error
	// AddGrants counts what the caller accepted by one prompt of a mini-program, and gives how many messages of each
	// template he allows.
	AddGrants(ctx context.Context, p *satchel.Principal, key satchel.ID, templates []string) ([]push.Grant, error)
}

// Approval previews, submits and decides for a person who is online.
type Approval interface {
	// Preview tells who would approve a record; approver is zero when no approval is needed.
	Preview(ctx context.Context, p *satchel.Principal, record satchel.ID) (approver satchel.ID, node string, err error)
	// Submit starts the approval; key names the attempt.
	Submit(ctx context.Context, p *satchel.Principal, record, key satchel.ID) (syncengine.Verdict, error)
	// Decide approves or rejects what formHash froze; key names the attempt.
	Decide(ctx context.Context, p *satchel.Principal, approval satchel.ID, formHash string, approve bool, comment string, key satchel.ID) (syncengine.Verdict, error)
}

// Forker gives a device that was restored from a backup, or cloned, a new id.
type Forker interface {
	ForkDevice(ctx context.Context, p *satchel.Principal) (satchel.ID, error)
}

// Config is what a Server needs. Engine, Identity and Ready are required.
type Config struct {
	Engine   Engine
	Identity Identity
	Media    Media      // nil: its calls answer unimplemented
	Push     Push       // nil: as Media
	Approval Approval   // nil: as Media
	Desk     *desk.Desk // nil: as Media
	Repairer Repairer   // nil: as Media
	Forker   Forker     // nil: no fork is ordered; the device's mutations wait

	// Page answers browsers: GET and HEAD of what is no call; nil = 404. It sets its own headers.
	Page http.Handler

	// Ready tells whether the database answers; /readyz asks it with a deadline of 1 s.
	Ready func(ctx context.Context) error

	// Origins are the web origins (such as "https://crm.example.com") whose pages may call; "*" = all, which is safe
	// because no cookie carries rights. Empty = the server's own page only.
	Origins []string
	// TrustProxy are the addresses of proxies whose X-Forwarded-For is believed.
	TrustProxy []netip.Prefix
	// TLSCert and TLSKey are PEM files, read again when they change; both "" = plain HTTP (h2c and HTTP/1.1).
	TLSCert, TLSKey string
	// MetricsPublic serves /metrics to everybody. Otherwise it answers only requests that come from this machine and
	// through no proxy: it tells what the server does and must not be open to the internet.
	MetricsPublic bool
	// MinProtocol is the lowest value of Satchel-Protocol that is served; 0 = 1. An app below it is told to upgrade; what
	// it has recorded is taken and kept.
	MinProtocol uint32
	// SyncsAtOnce is how many Syncs are worked on at once, the others wait for their turn: as many as the pool has
	// connections; 0 = 10.
	SyncsAtOnce int
	// Dev turns gRPC reflection on.
	Dev bool
	// DrainDelay is how long calls are still taken after /readyz began to say no, so that a load balancer can look away.
	DrainDelay time.Duration
	// Tracer, where not nil, gets a span for each call.
	Tracer trace.TracerProvider

	Now    func() time.Time // nil = time.Now
	Logger *slog.Logger     // nil = nothing is logged
}

// Server answers calls. It is safe for concurrent use.
type Server struct {
	cfg        Config
	log        *slog.Logger
	metrics    *metrics
	handler    http.Handler
	procedures []string // paths of all procedures
	certs      *certs   // nil = no TLS
	drain      context.Context
	endWaits   context.CancelFunc
	draining   atomic.Bool
	grace      time.Duration // bodyGrace; less in a test
	contacts   *contacts
	repairs    *repairs
	waits      *waits
	reading    *admission // Syncs whose bodies are read
	working    *admission // Syncs that are applied and answered
}

// New makes a server; it does not listen yet. It fails when a required part of cfg is missing, an origin is no origin,
// or the certificate cannot be read.
func New(cfg Config) (*Server, error) {
	if cfg.Engine == nil || cfg.Identity == nil || cfg.Ready == nil {
		return nil, errors.New("server.New: Engine, Identity and Ready are needed")
	}
	if (cfg.TLSCert == "") != (cfg.TLSKey == "") {
		return nil, errors.New("server.New: a certificate and its key come together")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.MinProtocol = max(cfg.MinProtocol, 1)
	if cfg.SyncsAtOnce <= 0 {
		cfg.SyncsAtOnce = 10
	}
	s := &Server{cfg: cfg, log: cfg.Logger, metrics: newMetrics(), grace: bodyGrace}
	s.drain, s.endWaits = context.WithCancel(context.Background())
	s.contacts = newContacts(cfg.Engine, cfg.Now, cfg.Logger)
	s.waits, s.repairs = &waits{n: map[satchel.ID]int{}}, newRepairs()
	s.reading, s.working = newAdmission(syncsRead, syncsWait, readPatience), newAdmission(cfg.SyncsAtOnce, syncsRead, workPatience)
	if cfg.TLSCert != "" {
		s.certs = &certs{certFile: cfg.TLSCert, keyFile: cfg.TLSKey, log: cfg.Logger, now: cfg.Now}
		if err := s.certs.load(); err != nil {
			return nil, fmt.Errorf("server.New: the certificate or its key cannot be read: %w", err)
		}
	}
	handler, err := s.routes()
	if err != nil {
		return nil, fmt.Errorf("server.New: %w", err)
	}
	s.handler = handler
	return s, nil
}

// Handler answers every path of the port: calls, links to bytes, health, metrics and the page.
func (s *Server) Handler() http.Handler { return s.handler }

// Rest waits until nothing goes on any more behind answers that were given, such as notes of last contacts. It is for a
// caller of [Server.Handler] whose calls have all ended: nobody else may call meanwhile.
func (s *Server) Rest() { s.contacts.wait() }

// Serve answers on l until ctx ends. Then /readyz says no, waiting devices are sent away at once, calls that run get
// 20 s, and what is left is cut off. The error is nil after such an end.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := s.httpServer()
	if s.certs != nil {
		l = tls.NewListener(l, srv.TLSConfig)
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("server: %w", err)
	case <-ctx.Done():
	}
	s.draining.Store(true)
	s.log.Info("server is draining")
	s.endWaits()
	if s.cfg.DrainDelay > 0 {
		timer := time.NewTimer(s.cfg.DrainDelay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case err := <-failed:
			return fmt.Errorf("server: %w", err)
		}
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	err := srv.Shutdown(grace)
	if err != nil {
		s.log.Warn("calls were cut off at the end of the drain")
		err = srv.Close()
	}
	s.contacts.wait()
	if ended := <-failed; err == nil && !errors.Is(ended, http.ErrServerClosed) {
		err = ended
	}
	if err != nil {
		return fmt.Errorf("server: %w", err)
	}
	return nil
}

// httpServer bounds what a connection may cost.
func (s *Server) httpServer() *http.Server {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	p.SetUnencryptedHTTP2(true)
	srv := &http.Server{
		Handler: s.handler, Protocols: p,
		ReadHeaderTimeout: headerTime, IdleTimeout: idleTime, WriteTimeout: plainTime, MaxHeaderBytes: maxHeader,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams, MaxReceiveBufferPerStream: 256 << 10, MaxReceiveBufferPerConnection: 1 << 20,
			SendPingTimeout: 60 * time.Second, PingTimeout: 15 * time.Second, WriteByteTimeout: answerGrace,
		},
		ErrorLog: slog.NewLogLogger(quiet{s.log.Handler()}, slog.LevelDebug),
	}
	if s.certs != nil {
		srv.TLSConfig = &tls.Config{GetCertificate: s.certs.get, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	}
	return srv
}
