package app

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/approval"
	"github.com/satchel-sync/satchel/desk"
	"github.com/satchel-sync/satchel/identity"
	"github.com/satchel-sync/satchel/internal/jobs"
	"github.com/satchel-sync/satchel/internal/wechat"
	"github.com/satchel-sync/satchel/media"
	"github.com/satchel-sync/satchel/push"
	"github.com/satchel-sync/satchel/rules"
	"github.com/satchel-sync/satchel/server"
	"github.com/satchel-sync/satchel/syncengine"
	"github.com/satchel-sync/satchel/web"
)

// Config is what the product needs to run. Pool, BlobURL and Secret are required.
type Config struct {
	Pool    *pgxpool.Pool // of internal/pg, on a migrated database
	BlobURL string        // file:///folder or s3://KEY:SECRET@host/bucket; see media.OpenStore
	Secret  []byte        // signs media links: at least 32 random bytes, the same on every replica

	// FCM is how phones are notified; the zero value notifies nobody, notices stay in the inbox.
	FCM FCM

	// WeChat is the mini-program that people may sign in by; the zero value is none.
	WeChat WeChat

	// Identity changes sign-in's costs and limits, for tests and the laboratory; the zero value is right for production.
	Identity Identity

	// What the edge does; see server.Config.
	Origins         []string
	TrustProxy      []netip.Prefix
	TLSCert, TLSKey string
	MetricsPublic   bool
	Dev             bool
	DrainDelay      time.Duration
	MinProtocol     uint32
	Tracer          trace.TracerProvider

	// Now is the clock of everything, jobs included; nil = the machine's, and the database's for jobs.
	Now    func() time.Time
	Logger *slog.Logger // nil = nothing is logged
}

// FCM says how to reach Firebase Cloud Messaging; the zero value is not at all.
type FCM struct {
	Project         string // the Firebase project
	CredentialsFile string // a service account's JSON key; "" needs Endpoint
	Endpoint        string // in place of Google's, such as a scripted server's; "" = Google's
}

// WeChat says which mini-program is ours; the zero value is none.
type WeChat struct {
	AppID  string
	Secret string // of the mini-program, for WeChat's server
	API    string // in place of WeChat's address, such as a scripted server's; "" = WeChat's
}

// Identity changes what sign-in costs and allows.
type Identity struct {
	Hashing          identity.Argon2
	AddressPerSecond float64 // negative = no limit by address
}

// App is the product, wired. Its parts may be called from any goroutine.
type App struct {
	Engine   *syncengine.Engine
	Identity *identity.Service
	Media    *media.Service
	Store    media.Store
	Rules    *rules.Rules
	Push     *push.Push
	Approval *approval.Service
	Desk     *desk.Desk
	Jobs     *jobs.Jobs
	Server   *server.Server

	pool *pgxpool.Pool
}

// New wires the parts. It reaches the blob store once and fails when that does not answer.
func New(ctx context.Context, cfg Config) (*App, error) {
	now := cfg.Now
	if now == nil {
		now = time.Now
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	a := &App{pool: cfg.Pool}
	var err error
	if a.Jobs, err = jobs.New(cfg.Pool, jobs.Config{Now: cfg.Now, Logger: log}); err != nil {
		return nil, fmt.Errorf("app.New: %w", err)
	}
	if a.Engine, err = syncengine.New(syncengine.Config{Pool: cfg.Pool, Jobs: a.Jobs, Now: now, Logger: log}); err != nil {
		return nil, fmt.Errorf("app.New: %w", err)
	}
	for kind, handler := range a.Engine.Handlers() {
		a.Jobs.Handle(kind, handler)
	}
	var mini identity.WeChat
	if cfg.WeChat.AppID != "" {
		if mini, err = wechat.New(wechat.Config{AppID: cfg.WeChat.AppID, Secret: cfg.WeChat.Secret, API: cfg.WeChat.API, Logger: log}); err != nil {
			return nil, fmt.Errorf("app.New: %w", err)
		}
	}
	if a.Identity, err = identity.New(identity.Config{
		Pool: cfg.Pool, Rights: a.Engine, Roles: a.roles, MayManage: a.mayManage, WeChat: mini,
		DeviceGone:       a.deviceGone,
		AddressPerSecond: cfg.Identity.AddressPerSecond, Hashing: cfg.Identity.Hashing, Now: now, Logger: log,
	}); err != nil {
		return nil, fmt.Errorf("app.New: %w", err)
	}
	if a.Store, err = media.OpenStore(ctx, cfg.BlobURL); err != nil {
		return nil, fmt.Errorf("app.New: %w", err)
	}
	records := mediaRecords{a.Engine}
	if a.Media, err = media.New(media.Config{
		Pool: cfg.Pool, Store: a.Store, Records: records, Submit: records, Jobs: a.Jobs, PersonActive: a.personActive,
		Authenticate: server.Bearer(a.Identity), WriteError: server.WriteError(log), Key: cfg.Secret, Now: now, Logger: log,
	}); err != nil {
		return nil, fmt.Errorf("app.New: %w", err)
	}
	a.Engine.Observe(observeBlobs(a.Media))
	if a.Rules, err = rules.New(rules.Config{Pool: cfg.Pool, Engine: a.Engine, Jobs: a.Jobs, Now: now, Logger: log}); err != nil {
		return nil, fmt.Errorf("app.New: %w", err)
	}
	a.Rules.Register()
	senders := map[string]push.Sender{}
	if cfg.FCM.Project != "" {
		if senders[fcm], err = push.NewFCM(ctx, push.FCMConfig{ProjectID: cfg.FCM.Project,
			CredentialsFile: cfg.FCM.CredentialsFile, Endpoint: cfg.FCM.Endpoint}); err != nil {
			return nil, fmt.Errorf("app.New: %w", err)
		}
	}
	if a.Push, err = push.New(push.Config{Pool: cfg.Pool, Engine: a.Engine, Jobs: a.Jobs, Senders: senders, Now: now, Logger: log}); err != nil {
		return nil, fmt.Errorf("app.New: %w", err)
	}
	a.Push.Register()
	if a.Approval, err = approval.New(approval.Config{Engine: a.Engine, Jobs: a.Jobs, Logger: log}); err != nil {
		return nil, fmt.Errorf("app.New: %w", err)
	}
	a.Approval.Register()
	if a.Desk, err = desk.New(desk.Config{Engine: a.Engine, Devices: devices(a.Identity), MinProtocol: int(cfg.MinProtocol), Now: now}); err != nil {
		return nil, fmt.Errorf("app.New: %w", err)
	}
	page, err := web.New(web.Config{})
	if err != nil {
		return nil, fmt.Errorf("app.New: %w", err)
	}
	if a.Server, err = server.New(server.Config{
		Page:   page,
		Engine: a.Engine, Forker: a.Engine, Identity: a.Identity, Media: a.Media, Push: addresses{a.Push}, Approval: approvals{a.Approval}, Desk: a.Desk, Repairer: a.Engine, Ready: a.ready,
		Origins: cfg.Origins, TrustProxy: cfg.TrustProxy, TLSCert: cfg.TLSCert, TLSKey: cfg.TLSKey,
		MetricsPublic: cfg.MetricsPublic, Dev: cfg.Dev, DrainDelay: cfg.DrainDelay, MinProtocol: cfg.MinProtocol, Tracer: cfg.Tracer, Now: now, Logger: log,
		SyncsAtOnce: int(cfg.Pool.Config().MaxConns),
	}); err != nil {
		return nil, fmt.Errorf("app.New: %w", err)
	}
	return a, nil
}

// Run runs the loops behind the calls (jobs, wakes of other replicas) until ctx ends. The listener is [App.Server]'s.
func (a *App) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.Engine.Run(ctx) })
	g.Go(func() error { return a.Jobs.Run(ctx) })
	return g.Wait()
}

// deviceGone waits for what a device that was revoked or signed out is just applying, and forgets where it could be
// notified.
func (a *App) deviceGone(ctx context.Context, tx pgx.Tx, org, device satchel.ID) error {
	if err := a.Engine.DeviceGone(ctx, tx, org, device); err != nil {
		return err
	}
	return a.Push.DeviceGone(ctx, tx, org, device)
}

func (a *App) ready(ctx context.Context) error { return a.pool.Ping(ctx) }

// roles names the roles of an organisation's schema.
func (a *App) roles(ctx context.Context, org satchel.ID) ([]string, error) {
	s, _, err := a.Engine.Org(ctx, org)
	if err != nil {
		return nil, err
	}
	return s.Roles(), nil
}

// manageDirectory is the right to manage people, teams and devices.
const manageDirectory = "directory.manage"

func (a *App) mayManage(ctx context.Context, p *satchel.Principal) (bool, error) {
	g, err := a.Engine.Grants(ctx, p)
	return err == nil && g.Has(manageDirectory), err
}

// personActive tells whether a link that a person was given still works for him.
func (a *App) personActive(ctx context.Context, org, person satchel.ID) (bool, error) {
	_, dir, err := a.Engine.Org(ctx, org)
	if err != nil {
		return false, err
	}
	p, known := dir.Person(person)
	return known && !p.Disabled, nil
}
