package satchelclient

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/gen/satchel/v1/satchelv1connect"
)

// Codec is how messages are written on the wire.
type Codec uint8

const (
	// Proto is binary Protobuf, the default: smallest.
	Proto Codec = iota
	// JSON is Protobuf's JSON form: readable in a proxy, and what mini-programs send.
	JSON
)

// Config says how a client works. BaseURL and Store are required.
type Config struct {
	// BaseURL is the server's address, such as "https://satchel.example.com".
	BaseURL string
	// Store keeps everything; the client uses it alone. Closing it is the caller's.
	Store Store
	// HTTPClient makes the calls; nil = http.DefaultClient. Time-outs are the client's own.
	HTTPClient *http.Client
	// Now is the wall clock; nil = time.Now.
	Now func() time.Time
	// Monotonic gives a random id of this boot of the phone and the milliseconds since it, sleep included. nil = the
	// device has no such clock: then the server estimates when offline edits took place. A clock that stops while the
	// device sleeps is worse than none.
	Monotonic func() (boot string, ms uint64)
	// NewID mints the ids of mutations, each another one; nil = satchel.NewID. For the simulator.
	NewID func() satchel.ID
	// Codec of messages.
	Codec Codec
	// Language of messages for people: "zh-CN" or "en"; "" = en.
	Language string
	// MaxBytes is the budget of one page, at most 4 MiB; 0 = the server's default, 256 KiB.
	MaxBytes uint32
	// AppVersion is shown to the office and sent with each call, at most 64 bytes; "" = as at the sign-in.
	AppVersion string
	// Profile of the schema by which the device follows fewer kinds and months, such as "phone" or "mini_program"; "" =
	// everything. It may change from one start to the next: the next Sync takes away or brings what differs.
	Profile string
	// SchemaVersion is the one that the app was built for; 0 = the organisation's current one.
	SchemaVersion uint32
	// Timeout of one call; 0 = 30 seconds. Wait takes at least 35, for the server holds it for 25.
	Timeout time.Duration
	// RetryMin and RetryMax bound Run's pause after a failure, which doubles from one to the other; 0 = 1 and 60 seconds.
	RetryMin, RetryMax time.Duration
	// Logger gets ids, counts and reasons, never what people wrote; nil = none.
	Logger *slog.Logger
	// Step, when set, is called with the name of each point between which a kill must be harmless: "x:before" inside
	// the local transaction x, just before its commit, "x:after" behind it, "call" and "answer" around the network. A
	// panic in it leaves the store as a kill would. For tests and the simulator.
	Step func(point string)
}

// Client is a device's side of the protocol. It is safe for concurrent use; there is one per store. At most one Sync,
// one refresh and one Upload run at a time, others wait for it; reading and recording never wait for the network.
type Client struct {
	cfg    Config
	store  Store
	auth   satchelv1connect.AuthServiceClient
	sync   satchelv1connect.SyncServiceClient
	media  satchelv1connect.MediaServiceClient
	device satchelv1connect.DeviceServiceClient

	unclaim func() // gives the store back

	syncing, refreshing, uploading gate

	// These belong to whoever passed the gate syncing.
	counted  bool // the table of records was counted since New
	uploaded bool // the last call during a repair sent mutations: the next one repairs
	single   bool // rows that the server did not take are salvaged one by one

	mu       sync.Mutex // guards what follows
	identity identity   // as stored
	batch    int        // mutations to send at once; halved on a time-out
	budget   uint32     // bytes of a page; 0 = the server's default; halved on a time-out
	closed   bool

	recorded, attached chan struct{} // capacity 1: something new for Run's loops
}

// Limits of the protocol.
const (
	maxBatch         = 200       // mutations in a call
	maxBatchBytes    = 1 << 20   // bytes of them
	maxOps           = 100       // ops in a mutation
	maxMutationBytes = 256 << 10 // bytes of them
	maxPageBytes     = 4 << 20
	minPageBytes     = 16 << 10
	defaultPageBytes = 256 << 10
	maxAnswerBytes   = 32 << 20 // no answer is longer; a row is at most a mutation's size, a page at most 4 MiB and a row
	maxMediaBytes    = 100 << 20
	maxClockPairs    = 32
)

// New opens a client on a store and claims it until [Client.Close]: a second one on the same store is refused with
// [ErrStoreInUse]. A new store gets a random installation id, and an older one is continued where it stopped, whatever
// was under way. It makes no call.
func New(cfg Config) (*Client, error) {
	if cfg.BaseURL == "" || cfg.Store == nil {
		return nil, errors.New("satchelclient: Config.BaseURL and Config.Store are required")
	}
	if len(cfg.Profile) > 64 || len(cfg.AppVersion) > 64 {
		return nil, errors.New("satchelclient: Config.Profile and Config.AppVersion have at most 64 bytes")
	}
	if cfg.MaxBytes > maxPageBytes {
		return nil, fmt.Errorf("satchelclient: Config.MaxBytes is at most %d", maxPageBytes)
	}
	cfg.BaseURL = strings.TrimRight(cfg.BaseURL, "/")
	if cfg.HTTPClient == nil {
		cfg.HTTPClient = http.DefaultClient
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.NewID == nil {
		cfg.NewID = satchel.NewID
	}
	if cfg.Monotonic == nil {
		cfg.Monotonic = func() (string, uint64) { return "", 0 }
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.RetryMin == 0 {
		cfg.RetryMin = time.Second
	}
	if cfg.RetryMax == 0 {
		cfg.RetryMax = time.Minute
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Step == nil {
		cfg.Step = func(string) {}
	}
	// A request of a few mutations is mostly JSON text, and 2G uplinks are slow.
	opts := []connect.ClientOption{connect.WithReadMaxBytes(maxAnswerBytes), connect.WithSendGzip(), connect.WithCompressMinBytes(1024)}
	if cfg.Codec == JSON {
		opts = append(opts, connect.WithProtoJSON())
	}
	c := &Client{
		cfg:        cfg,
		store:      cfg.Store,
		auth:       satchelv1connect.NewAuthServiceClient(cfg.HTTPClient, cfg.BaseURL, opts...),
		sync:       satchelv1connect.NewSyncServiceClient(cfg.HTTPClient, cfg.BaseURL, opts...),
		media:      satchelv1connect.NewMediaServiceClient(cfg.HTTPClient, cfg.BaseURL, opts...),
		device:     satchelv1connect.NewDeviceServiceClient(cfg.HTTPClient, cfg.BaseURL, opts...),
		syncing:    newGate(),
		refreshing: newGate(),
		uploading:  newGate(),
		batch:      maxBatch,
		budget:     cfg.MaxBytes,
		recorded:   make(chan struct{}, 1),
		attached:   make(chan struct{}, 1),
	}
	var err error
	if c.unclaim, err = cfg.Store.Claim(); err != nil {
		return nil, err
	}
	opened := false
	defer func() { // also when Config.Step panics
		if !opened {
			c.unclaim()
		}
	}()
	err = c.update(context.Background(), "open", func(tx Tx) error {
		id, err := getMeta[identity](tx, metaIdentity)
		if err != nil {
			return err
		}
		if id.Installation == "" {
			id.Installation = satchel.NewID().String()
			if err := putMeta(tx, metaIdentity, id); err != nil {
				return err
			}
		}
		c.identity = id
		return sweepMedia(tx)
	})
	if err != nil {
		return nil, err
	}
	opened = true
	return c, nil
}

// Close gives the store back, which another client can then have, and does not close it. Calls that are under way fail
// with [ErrClosed] at their next step, as after a kill: nothing is lost.
func (c *Client) Close() error {
	// Within a transaction, so that none of this client's comes after it. A store that was closed has none.
	err := c.store.Update(context.Background(), func(Tx) error { c.shut(); return nil })
	if err != nil {
		c.shut()
	}
	c.unclaim()
	return nil
}

func (c *Client) shut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
}

func (c *Client) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// update is every write of the client to its store: one local transaction, with a point to be killed at before and
// after its commit.
func (c *Client) update(ctx context.Context, step string, fn func(Tx) error) error {
	err := c.store.Update(ctx, func(tx Tx) error {
		if c.isClosed() {
			return ErrClosed
		}
		if err := fn(tx); err != nil {
			return err
		}
		c.cfg.Step(step + ":before")
		return nil
	})
	if err == nil {
		c.cfg.Step(step + ":after")
	}
	return err
}

// protocolVersion is the version of docs/protocol.md that this client speaks. A server that no longer speaks it answers
// CLIENT_TOO_OLD.
const protocolVersion = "1"

// call makes one call with the session's token, and once more with a fresh one when it had expired.
func call[Req, Res any](ctx context.Context, c *Client, timeout time.Duration, rpc func(context.Context, *Req) (*Res, error), req *Req) (*Res, error) {
	token := c.accessToken()
	for again := false; ; again = true {
		if token == "" {
			return nil, ErrSignInAgain
		}
		res, err := bare(ctx, c, timeout, token, rpc, req)
		if e, ok := errors.AsType[*Error](err); !ok || e.Reason != satchel.ReasonTokenExpired || again {
			return res, err
		}
		if token, err = c.refreshed(ctx, token); err != nil {
			return nil, err
		}
	}
}

// bare makes one call with the token, "" = none, within the time-out.
func bare[Req, Res any](ctx context.Context, c *Client, timeout time.Duration, token string, rpc func(context.Context, *Req) (*Res, error), req *Req) (*Res, error) {
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	limited, info := connect.NewClientContext(limited)
	if token != "" {
		info.RequestHeader().Set("Authorization", "Bearer "+token)
	}
	info.RequestHeader().Set("Satchel-Protocol", protocolVersion)
	if c.cfg.Language != "" {
		info.RequestHeader().Set("Accept-Language", c.cfg.Language)
	}
	res, err := rpc(limited, req)
	if err != nil {
		return nil, callError(ctx, err)
	}
	return res, nil
}

// gate lets one at a time pass; unlike a mutex, who waits can give up.
type gate chan struct{}

func newGate() gate { return make(gate, 1) }

func (g gate) enter(ctx context.Context) error {
	select {
	case g <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g gate) leave() { <-g }

// nudge wakes the loop that listens on ch, now or when it next listens.
func nudge(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
