package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/migrations"
)

// serveCmd is `satchel serve`.
type serveCmd struct {
	databaseFlags `embed:""`
	secretFlags   `embed:""`
	blobFlags     `embed:""`

	Listen        string        `env:"SATCHEL_LISTEN" group:"Network" default:":8080" placeholder:"ADDR" help:"Where to listen: host:port, :port for all addresses, port 0 for any free one."`
	PublicURL     string        `env:"SATCHEL_PUBLIC_URL" group:"Network" placeholder:"URL" help:"The address that people use, such as https://crm.example.com; for the set-up link."`
	TLSCert       string        `name:"tls-cert" env:"SATCHEL_TLS_CERT" group:"Network" type:"path" placeholder:"FILE" help:"Certificate chain (PEM), read again when it changes. Empty = plain HTTP, for a proxy in front."`
	TLSKey        string        `name:"tls-key" env:"SATCHEL_TLS_KEY" group:"Network" type:"path" placeholder:"FILE" help:"Its key (PEM)."`
	TrustProxy    []string      `env:"SATCHEL_TRUST_PROXY" group:"Network" placeholder:"CIDR" help:"Proxies whose X-Forwarded-For is believed, such as 10.0.0.0/8. Sign-in is limited by address, so behind a proxy this matters."`
	CORSOrigins   []string      `name:"cors-origin" env:"SATCHEL_CORS_ORIGINS" group:"Network" placeholder:"ORIGIN" help:"Web origins whose pages may call, such as https://app.example.com. With --dev: all."`
	DrainDelay    time.Duration `env:"SATCHEL_DRAIN_DELAY" group:"Network" default:"0s" help:"At the end: how long to go on taking calls after /readyz says no, so that a load balancer can look away."`
	MetricsPublic bool          `env:"SATCHEL_METRICS_PUBLIC" group:"Observing" help:"Serve /metrics to everybody who reaches the port, rather than to this machine only."`

	Migrate *bool `env:"SATCHEL_MIGRATE" group:"Database" negatable:"" help:"Apply pending migrations at the start. Without it, serve refuses a database that is behind. On with --dev."`

	FCMCredentials string `name:"fcm-credentials" env:"SATCHEL_FCM_CREDENTIALS" group:"Notifications" type:"path" placeholder:"FILE" help:"Service account (JSON) of a Firebase project. Empty = no notifications to phones; the inbox works without."`
	FCMProject     string `name:"fcm-project" env:"SATCHEL_FCM_PROJECT" group:"Notifications" placeholder:"ID" help:"The Firebase project, where it is not the one that the service account names."`

	WeChatAppID  string `name:"wechat-app-id" env:"SATCHEL_WECHAT_APP_ID" group:"WeChat" placeholder:"ID" help:"The mini-program whose users may sign in by it. Empty = none."`
	WeChatSecret string `name:"wechat-secret" env:"SATCHEL_WECHAT_SECRET" group:"WeChat" placeholder:"SECRET" help:"Its secret, of WeChat's console; better by the variable than by the flag."`
	WeChatAPI    string `name:"wechat-api" env:"SATCHEL_WECHAT_API" group:"WeChat" placeholder:"URL" help:"In place of WeChat's address: a relay of yours, or a scripted server in tests."`

	LogLevel     slog.Level `env:"SATCHEL_LOG_LEVEL" group:"Observing" default:"info" help:"debug, info, warn or error."`
	LogFormat    string     `env:"SATCHEL_LOG_FORMAT" group:"Observing" enum:"auto,text,json" default:"auto" help:"text, json, or auto: text with --dev, else json."`
	OTLPEndpoint string     `name:"otlp-endpoint" env:"OTEL_EXPORTER_OTLP_ENDPOINT" group:"Observing" placeholder:"URL" help:"Where traces go (OTLP over HTTP), such as http://localhost:4318. Empty = no traces."`

	DemoData string `env:"SATCHEL_DEMO_DATA" group:"Development" enum:"full,small,none" default:"full" help:"With --dev: the demo company to load into an empty database: full, small or none."`
}

// Help tells more.
func (*serveCmd) Help() string {
	return "On an empty database it prints a one-time link to set up the first organisation. " +
		"It ends in good order on SIGTERM or Ctrl-C: /readyz says no, calls that run get 20 s; a second signal ends it at once."
}

// blobFlags say where the bytes of photos and voice notes are.
type blobFlags struct {
	BlobURL string `env:"BLOB_URL" group:"Blob store" placeholder:"URL" help:"s3://KEY:SECRET@host/bucket?region=… (insecure=1 for plain HTTP, path=1 for path style) or file:///folder. Required, but for --dev."`
}

// url gives the blob store's address; in development a folder of its own.
func (f *blobFlags) url(db *databaseFlags) (string, error) {
	if f.BlobURL != "" {
		return f.BlobURL, nil
	}
	if !db.Dev {
		return "", usagef("which blob store? Give --blob-url or BLOB_URL: s3://KEY:SECRET@host/bucket, or file:///folder for a single server")
	}
	dir, err := filepath.Abs(filepath.Join(db.DataDir, "blobs"))
	if err != nil {
		return "", err
	}
	return (&url.URL{Scheme: "file", Path: dir}).String(), nil
}

// Run serves until ctx ends.
func (c *serveCmd) Run(ctx context.Context, std streams) error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	cfg.Logger = c.logger(std)
	l, err := listen(ctx, c.Listen)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }() // Serve closes it when it comes that far
	if cfg.Tracer, err = c.tracer(ctx, cfg.Logger); err != nil {
		return err
	}
	if t, ok := cfg.Tracer.(interface{ Shutdown(context.Context) error }); ok {
		defer func() {
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			_ = t.Shutdown(end) // spans that nobody takes are lost
		}()
	}
	var db *database
	if err := patient(ctx, cfg.Logger, func() (err error) { db, err = c.open(ctx, std.err); return err }); err != nil {
		return err
	}
	defer db.close()
	if err := patient(ctx, cfg.Logger, func() error { return c.shape(ctx, db, cfg.Logger) }); err != nil {
		return err
	}
	cfg.Pool = db.pool
	a, err := app.New(ctx, cfg)
	if err != nil {
		return err
	}
	if c.Dev {
		if err := c.loadDemo(ctx, a, db, std); err != nil {
			return err
		}
	}
	breathing, stop := context.WithCancel(ctx)
	defer stop()
	go app.Breathe(breathing, os.Getenv("GOGC"))
	return c.serve(ctx, a, l, std)
}

// How long a start waits for a Postgres that restarts, or starts beside it.
const (
	patience = 15 * time.Second
	minRest  = 100 * time.Millisecond
	maxRest  = 2 * time.Second
)

// patient does a step of the start again while the database is only away for a moment, with growing pauses.
func patient(ctx context.Context, log *slog.Logger, step func() error) error {
	until, rest := time.Now().Add(patience), minRest
	for {
		err := step()
		if !pg.Away(err) || time.Now().Add(rest).After(until) {
			return err
		}
		if rest == minRest {
			log.Warn("the database does not answer; it is asked again", "for", patience, "err", err)
		}
		pause := time.NewTimer(rest)
		select {
		case <-ctx.Done():
			pause.Stop()
			return err
		case <-pause.C:
		}
		rest = min(2*rest, maxRest)
	}
}

// config turns flags into the product's configuration, all but what must be opened first.
func (c *serveCmd) config() (app.Config, error) {
	cfg := app.Config{
		Origins: c.CORSOrigins, TLSCert: c.TLSCert, TLSKey: c.TLSKey,
		MetricsPublic: c.MetricsPublic, Dev: c.Dev, DrainDelay: c.DrainDelay,
		WeChat: app.WeChat{AppID: c.WeChatAppID, Secret: c.WeChatSecret, API: c.WeChatAPI},
	}
	if (c.WeChatAppID == "") != (c.WeChatSecret == "") {
		return cfg, usagef("--wechat-app-id and --wechat-secret come together")
	}
	secret, err := c.read(c.Dev)
	if err != nil {
		return cfg, err
	}
	if cfg.Secret, err = linkKey(secret); err != nil {
		return cfg, err
	}
	if cfg.FCM, err = c.fcm(); err != nil {
		return cfg, err
	}
	if cfg.BlobURL, err = c.url(&c.databaseFlags); err != nil {
		return cfg, err
	}
	for _, text := range c.TrustProxy {
		prefix, err := parsePrefix(text)
		if err != nil {
			return cfg, usagef("--trust-proxy: %q is no address and no network such as 10.0.0.0/8", text)
		}
		cfg.TrustProxy = append(cfg.TrustProxy, prefix)
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return cfg, usagef("--tls-cert and --tls-key come together")
	}
	if c.PublicURL != "" {
		u, err := url.Parse(c.PublicURL)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
			return cfg, usagef("--public-url: %q is no address such as https://crm.example.com", c.PublicURL)
		}
	}
	if c.Dev && len(cfg.Origins) == 0 {
		cfg.Origins = []string{"*"} // no cookie carries rights
	}
	return cfg, nil
}

// fcm reads which project the service account is of.
func (c *serveCmd) fcm() (app.FCM, error) {
	if c.FCMCredentials == "" {
		if c.FCMProject != "" {
			return app.FCM{}, usagef("--fcm-project takes --fcm-credentials too")
		}
		return app.FCM{}, nil
	}
	out := app.FCM{Project: c.FCMProject, CredentialsFile: c.FCMCredentials}
	b, err := os.ReadFile(c.FCMCredentials)
	if err != nil {
		return out, fmt.Errorf("--fcm-credentials: %w", err)
	}
	var account struct {
		Project string `json:"project_id"`
	}
	if err := json.Unmarshal(b, &account); err != nil {
		return out, usagef("--fcm-credentials: the file is no JSON; download the service account's key anew")
	}
	if out.Project == "" {
		out.Project = account.Project
	}
	if out.Project == "" {
		return out, usagef("--fcm-credentials: the file names no project_id; give --fcm-project")
	}
	return out, nil
}

func parsePrefix(text string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	return a.Prefix(a.BitLen())
}

func (c *serveCmd) logger(std streams) *slog.Logger {
	o := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "json" || c.LogFormat == "auto" && !c.Dev {
		return slog.New(slog.NewJSONHandler(std.err, o))
	}
	return slog.New(slog.NewTextHandler(std.err, o))
}

// listen takes the port before anything else is started, since that is what most often fails.
func listen(ctx context.Context, addr string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s is taken: another program (another satchel?) listens there. "+
			"Stop it, or choose another port: `make run LISTEN=:9090`, or --listen=:9090 or SATCHEL_LISTEN=:9090", portOf(addr))
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("this user may not listen on %s: ports below 1024 need a right of their own "+
			"(AmbientCapabilities=CAP_NET_BIND_SERVICE in the systemd unit); choose another by --listen or SATCHEL_LISTEN", portOf(addr))
	}
	return nil, usagef("--listen %q: %v; it takes host:port or :port", addr, err)
}

func portOf(addr string) string {
	if _, port, err := net.SplitHostPort(addr); err == nil {
		return "port " + port
	}
	return addr
}

// shape sees to it that the database has the shape that this version needs.
func (c *serveCmd) shape(ctx context.Context, db *database, log *slog.Logger) error {
	if c.Migrate != nil && *c.Migrate || c.Migrate == nil && c.Dev {
		applied, err := db.migrate(ctx)
		if len(applied) > 0 {
			log.Info("database migrated", "migrations", len(applied))
		}
		return err
	}
	pending, err := migrations.Pending(ctx, db.pool)
	if err != nil {
		return err
	}
	if len(pending) > 0 {
		return fmt.Errorf("the database is behind this version, by %d migrations (%s). Run `satchel migrate`, or start with --migrate",
			len(pending), strings.Join(pending, ", "))
	}
	return nil
}

// serve runs everything until ctx ends: then calls end first, the loops behind them after that.
func (c *serveCmd) serve(ctx context.Context, a *app.App, l net.Listener, std streams) error {
	if err := c.announce(ctx, a, l, std); err != nil {
		return err
	}
	loops, endLoops := context.WithCancel(context.WithoutCancel(ctx))
	defer endLoops()
	g, broken := errgroup.WithContext(loops)
	g.Go(func() error { return a.Run(loops) })
	g.Go(func() error {
		defer endLoops()
		calls, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(broken, cancel)() // a loop that failed ends the calls
		return a.Server.Serve(calls, l)
	})
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
