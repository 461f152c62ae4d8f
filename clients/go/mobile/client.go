package mobile

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/clients/go/sqlitestore"
)

// Clock is the phone's clock that runs on while it sleeps and that nobody sets: it tells the server when offline work took
// place, also when the wall clock is wrong. Go's own clock stands still while a phone sleeps, so the app gives one. It is
// called at each record and each sync, from any thread, and must return at once.
type Clock interface {
	// Boot is an id of this boot of the phone, or of this process: whatever ElapsedMillis counts from. "" or more than 64
	// bytes: there is no such clock now.
	Boot() string
	// ElapsedMillis is the time since then in milliseconds, sleep included.
	ElapsedMillis() int64
}

// Client is a device's side of the protocol, on one file. An app has one per signed-in person, from start to end.
type Client struct {
	inner  *satchelclient.Client
	store  *watched
	file   io.Closer
	teller *teller

	mu     sync.Mutex // guards what follows
	ctx    context.Context
	cancel context.CancelFunc // ends the calls that wait for the network, and what runs
	run    *running           // nil = nothing runs
	closed bool
}

// maxBoot bounds the id of a boot, in bytes.
const maxBoot = 64

// config is what Open reads. See there.
type config struct {
	Language      string `json:"language"`
	AppVersion    string `json:"appVersion"`
	Profile       string `json:"profile"`
	SchemaVersion uint32 `json:"schemaVersion"`
	MaxBytes      uint32 `json:"maxBytes"`
	TimeoutMs     int64  `json:"timeoutMs"`
	RetryMinMs    int64  `json:"retryMinMs"`
	RetryMaxMs    int64  `json:"retryMaxMs"`
	JSON          bool   `json:"json"`
}

// Open opens the file at path, or makes it, for the server at baseURL, such as "https://satchel.example.com". The folder must
// exist. It makes no call of the network. While a Client has the file, another Open of it fails with "in_use", also in another
// process, such as an extension of the app. clock may be nil: then the server estimates when offline work took place.
//
// configuration is a JSON object, "" = all defaults:
//
//	language       of messages for people: "zh-CN" or "en" (default)
//	appVersion     shown to the office; at most 64 bytes
//	profile        by which the device follows fewer kinds and months, such as "phone"; default: everything
//	schemaVersion  the one that the app was built for; default: the organisation's current one
//	maxBytes       of one page, at most 4194304; default: the server's, 262144
//	timeoutMs      of one call of the server; default 30000
//	retryMinMs, retryMaxMs   bounds of the pause after a failure, which doubles; default 1000 and 60000
//	json           true: messages as JSON, readable in a proxy; default: binary
func Open(path, baseURL, configuration string, clock Clock) (*Client, error) {
	var cfg config
	if err := decode("the configuration", configuration, &cfg); err != nil {
		return nil, err
	}
	if path == "" || baseURL == "" {
		return nil, invalid("Open needs the path of a file and the server's address")
	}
	if cfg.TimeoutMs < 0 || cfg.RetryMinMs < 0 || cfg.RetryMaxMs < 0 {
		return nil, invalid("the configuration: times are not negative")
	}
	file, err := sqlitestore.Open(context.Background(), path)
	if err != nil {
		return nil, explain(err)
	}
	c := &Client{file: file, teller: newTeller()}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.store = &watched{Store: file, changed: c.teller.changed}
	full := satchelclient.Config{
		BaseURL: baseURL, Store: c.store, Language: cfg.Language, AppVersion: cfg.AppVersion, Profile: cfg.Profile,
		SchemaVersion: cfg.SchemaVersion, MaxBytes: cfg.MaxBytes, Timeout: time.Duration(cfg.TimeoutMs) * time.Millisecond,
		RetryMin: time.Duration(cfg.RetryMinMs) * time.Millisecond, RetryMax: time.Duration(cfg.RetryMaxMs) * time.Millisecond,
		Logger: slog.New(pauses{c.paused}),
	}
	if cfg.JSON {
		full.Codec = satchelclient.JSON
	}
	if clock != nil {
		full.Monotonic = func() (string, uint64) {
			boot, ms := clock.Boot(), clock.ElapsedMillis()
			if len(boot) > maxBoot || ms < 0 {
				return "", 0 // the server would take nothing with it
			}
			return boot, uint64(ms)
		}
	}
	if c.inner, err = satchelclient.New(full); err != nil {
		c.cancel()
		return nil, explain(errors.Join(err, file.Close()))
	}
	c.teller.status = c.status
	go c.teller.loop()
	return c, nil
}

// Close ends what runs and every call that waits, ends the watches, and gives the file back; nothing that was recorded is
// lost. Later calls fail with "closed". It waits for the disk only. Closing twice is harmless.
func (c *Client) Close() error {
	if c.inner == nil {
		return nil
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	c.cancel()
	run := c.run
	c.mu.Unlock()
	if run != nil {
		<-run.done
	}
	c.teller.close()
	return explain(errors.Join(c.inner.Close(), c.file.Close()))
}

// local gives the context of calls that do not use the network, or the error of a Client that is of no use.
func (c *Client) local() (context.Context, error) {
	if c.inner == nil {
		return nil, errClosed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errClosed
	}
	return context.Background(), nil
}

// network is local for calls that use the network and that Stop ends.
func (c *Client) network() (context.Context, error) {
	if _, err := c.local(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ctx, nil
}

// fail gives an error its code. What a closed file answers is "closed".
func (c *Client) fail(err error) error {
	if err == nil {
		return nil
	}
	if _, closed := c.local(); closed != nil {
		return closed
	}
	return explain(err)
}

// SignIn opens a session and waits for the network. org is the organisation's short name, "" = the only one on the server.
// deviceName is shown to the office, such as "Li Na's phone". The first sign-in makes the file this person's for good; a later
// one of somebody else fails with "other_person" and changes nothing. Wrong passwords are "bad_credentials", too many tries
// "refused" with RATE_LIMITED.
func (c *Client) SignIn(org, login, password, deviceName string) error {
	ctx, err := c.network()
	if err != nil {
		return err
	}
	return c.fail(c.inner.SignIn(ctx, satchelclient.Credentials{
		Org: org, Login: login, Password: password, DeviceName: deviceName, Platform: runtime.GOOS,
	}))
}

// SignOut ends the session and waits for the network. With mutations that were not sent it fails with "unsent" and does
// nothing. Everything stays in the file for the next sign-in of the same person: to remove it, Close and delete the file.
func (c *Client) SignOut() error {
	ctx, err := c.network()
	if err != nil {
		return err
	}
	return c.fail(c.inner.SignOut(ctx))
}

// Identity tells who the device speaks for: {"org", "person", "device", "displayName", "signedIn"}. It waits for nothing.
func (c *Client) Identity() (string, error) {
	if _, err := c.local(); err != nil {
		return "", err
	}
	id := c.inner.Identity()
	return encode(struct {
		Org         string `json:"org"`
		Person      string `json:"person"`
		Device      string `json:"device"`
		DisplayName string `json:"displayName"`
		SignedIn    bool   `json:"signedIn"`
	}{text(id.Org), text(id.Person), text(id.Device), id.DisplayName, id.SignedIn})
}

// SetFCMToken says that this device can be notified by Firebase Cloud Messaging under the registration token, with texts in
// the configuration's language; it waits for the network. Call it after SignIn and whenever the platform gives a new token.
func (c *Client) SetFCMToken(token string) error {
	ctx, err := c.network()
	if err != nil {
		return err
	}
	return c.fail(c.inner.SetFCMToken(ctx, token))
}

// text gives an id, "" = none.
func text(id satchel.ID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}

func parseID(of, id string) (satchel.ID, error) {
	got, err := satchel.ParseID(id)
	if err != nil || got.IsZero() {
		return got, invalid(of + ": not an id (a UUID in lower case)")
	}
	return got, nil
}

// decode reads one JSON value that the app gave, "" = nothing.
func decode(what, given string, into any) error {
	if given == "" {
		return nil
	}
	d := json.NewDecoder(strings.NewReader(given))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return invalid(what + ": " + strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := d.Token(); err != io.EOF {
		return invalid(what + ": something stands behind the JSON")
	}
	return nil
}

func encode(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), explain(err)
}
