package godriver

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
)

// maxLine is the longest line of the runner, in bytes.
const maxLine = 64 << 20

// Options say what a driver is made of.
type Options struct {
	// Stores keeps the stores.
	Stores Stores
	// JSON has the client speak JSON in place of binary Protobuf.
	JSON bool
	// HTTPClient makes the client's calls; nil = http.DefaultClient.
	HTTPClient *http.Client
}

// driver has the client of the moment.
type driver struct {
	Options

	mu     sync.Mutex // guards what follows
	client *satchelclient.Client
	store  satchelclient.Store
	name   string // the store's
	clock  clock
	cancel context.CancelFunc // ends what the client is doing
	ctx    context.Context
}

type clock struct {
	Boot   string `json:"boot"`
	Ms     uint64 `json:"ms"`
	WallMs int64  `json:"wall_ms"`
}

// Serve answers commands until its input ends.
func Serve(ctx context.Context, r io.Reader, w io.Writer, o Options) error {
	d := &driver{Options: o}
	d.ctx, d.cancel = context.WithCancel(ctx)
	in := bufio.NewScanner(r)
	in.Buffer(make([]byte, 64<<10), maxLine)
	var out sync.Mutex
	var running sync.WaitGroup
	defer running.Wait()
	defer d.release(true) //nolint:errcheck // the driver ends
	for in.Scan() {
		var c command
		if err := json.Unmarshal(in.Bytes(), &c); err != nil {
			return fmt.Errorf("godriver: a command cannot be read: %w", err)
		}
		if c.Do != "kill" {
			running.Wait() // one at a time
		}
		running.Go(func() {
			answer, err := d.do(&c)
			if answer == nil {
				answer = map[string]any{}
			}
			if err != nil {
				answer = map[string]any{"error": errorOf(err)}
			}
			answer["id"] = c.ID
			line, err := json.Marshal(answer)
			if err != nil {
				return
			}
			out.Lock()
			defer out.Unlock()
			w.Write(append(line, '\n')) //nolint:errcheck // who does not hear it times out
		})
		if c.Do == "kill" {
			running.Wait()
		}
	}
	return in.Err()
}

// command is a line of the runner.
type command struct {
	ID          int             `json:"id"`
	Do          string          `json:"do"`
	BaseURL     string          `json:"base_url"`
	Store       string          `json:"store"`
	Config      config          `json:"config"`
	Clock       clock           `json:"clock"`
	Boot        string          `json:"boot"`
	Ms          uint64          `json:"ms"`
	WallMs      int64           `json:"wall_ms"`
	From        string          `json:"from"`
	To          string          `json:"to"`
	Login       string          `json:"login"`
	Password    string          `json:"password"`
	Ops         []op            `json:"ops"`
	Kind        string          `json:"kind"`
	Record      satchel.ID      `json:"record"`
	Base64      []byte          `json:"base64"`
	ContentType string          `json:"content_type"`
	Fields      json.RawMessage `json:"fields"`
	Order       uint64          `json:"order"`
}

type config struct {
	Profile       string `json:"profile"`
	SchemaVersion uint32 `json:"schema_version"`
	AppVersion    string `json:"app_version"`
	MaxBytes      uint32 `json:"max_bytes"`
}

// do carries a command out.
func (d *driver) do(c *command) (map[string]any, error) {
	switch c.Do {
	case "reset":
		return nil, errors.Join(d.release(true), d.Stores.Reset())
	case "open":
		return nil, d.open(c)
	case "close":
		return nil, d.release(false)
	case "kill":
		return nil, d.release(true)
	case "copy":
		return nil, d.Stores.Copy(context.Background(), c.From, c.To)
	case "clock":
		d.mu.Lock()
		defer d.mu.Unlock()
		d.clock = clock{c.Boot, c.Ms, c.WallMs}
		return nil, nil
	}
	d.mu.Lock()
	client, store, ctx := d.client, d.store, d.ctx
	d.mu.Unlock()
	if client == nil {
		return nil, satchelclient.ErrClosed
	}
	return ask(ctx, client, store, c)
}

func (d *driver) open(c *command) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.client != nil {
		return errors.New("a client is open")
	}
	store, err := d.Stores.Open(context.Background(), c.Store)
	if err != nil {
		return err
	}
	d.store, d.name, d.clock = store, c.Store, c.Clock
	cfg := satchelclient.Config{
		BaseURL: c.BaseURL, Store: store, HTTPClient: d.HTTPClient, Timeout: 10 * time.Second,
		Profile: c.Config.Profile, SchemaVersion: c.Config.SchemaVersion, AppVersion: c.Config.AppVersion, MaxBytes: c.Config.MaxBytes,
		Now:       func() time.Time { return time.UnixMilli(d.now().WallMs) },
		Monotonic: func() (string, uint64) { now := d.now(); return now.Boot, now.Ms },
	}
	if d.JSON {
		cfg.Codec = satchelclient.JSON
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.mu.Unlock() // New asks for the time
	client, err := satchelclient.New(cfg)
	d.mu.Lock()
	if err != nil {
		return errors.Join(err, d.Stores.Release(c.Store, true))
	}
	d.client = client
	return nil
}

func (d *driver) now() clock {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.clock
}

// release ends the client, if there is one. Closing it is like a kill for what is under way: nothing of that comes into the
// store any more.
func (d *driver) release(killed bool) error {
	d.mu.Lock()
	client, name := d.client, d.name
	d.client, d.store = nil, nil
	d.cancel()
	d.mu.Unlock()
	if client == nil {
		return nil
	}
	return errors.Join(client.Close(), d.Stores.Release(name, killed))
}

// ask carries out what is the client's.
func ask(ctx context.Context, client *satchelclient.Client, store satchelclient.Store, c *command) (map[string]any, error) {
	switch c.Do {
	case "sign_in":
		return nil, client.SignIn(ctx, satchelclient.Credentials{Login: c.Login, Password: c.Password, Platform: "go"})
	case "sign_out":
		return nil, client.SignOut(ctx)
	case "identity":
		id := client.Identity()
		return map[string]any{"person": idText(id.Person), "org": idText(id.Org), "device": idText(id.Device), "signed_in": id.SignedIn}, nil
	case "record":
		b, created, err := batch(c.Ops)
		if err != nil {
			return nil, err
		}
		id, err := client.Record(ctx, b)
		return map[string]any{"mutation": id, "created": created}, err
	case "sync_once":
		r, err := client.SyncOnce(ctx)
		return map[string]any{"more": r.More, "min_protocol": r.MinProtocol}, err
	case "sync":
		r, err := client.Sync(ctx)
		return map[string]any{"more": r.More, "min_protocol": r.MinProtocol}, err
	case "wait":
		wake, err := client.Wait(ctx)
		return map[string]any{"wake": wake}, err
	case "attach":
		var fields satchelclient.Fields
		if err := json.Unmarshal(c.Fields, &fields); err != nil {
			return nil, err
		}
		id, err := client.AttachBytes(ctx, c.Kind, c.Base64, c.ContentType, fields)
		return map[string]any{"record": id}, err
	case "upload":
		r, err := client.Upload(ctx)
		return map[string]any{"uploaded": r.Uploaded, "refused": len(r.Refused)}, err
	case "damage":
		return nil, store.Update(ctx, func(tx satchelclient.Tx) error {
			return tx.Put(satchelclient.TableOutbox, binary.BigEndian.AppendUint64(nil, c.Order), []byte("\xff\xff\xff"))
		})
	}
	return look(ctx, client, c)
}

// look answers what a client shows.
func look(ctx context.Context, client *satchelclient.Client, c *command) (map[string]any, error) {
	switch c.Do {
	case "show":
		list, err := client.List(ctx, c.Kind)
		records := []any{}
		for _, r := range list {
			records = append(records, recordOf(r))
		}
		return map[string]any{"records": records}, err
	case "get":
		r, err := client.Get(ctx, c.Kind, c.Record)
		if errors.Is(err, satchelclient.ErrNotFound) {
			return map[string]any{"record": nil}, nil
		}
		return map[string]any{"record": recordOf(r)}, err
	case "status":
		s, err := client.Status(ctx)
		return map[string]any{"pending": s.Pending, "seq": strconv.FormatUint(s.Seq, 10), "complete": s.Complete,
			"settled_priority": s.SettledPriority, "followed_months": s.FollowedMonths, "repairing": s.Repairing}, err
	case "settled":
		log, err := client.Settled(ctx, 0, 10_000)
		lines := []any{}
		for _, s := range log {
			reason := strings.TrimPrefix(s.Verdict.Reason.String(), "REASON_")
			if s.Verdict.Reason == 0 {
				reason = ""
			}
			lines = append(lines, map[string]any{"mutation": s.Mutation.Id, "fate": strings.TrimPrefix(s.Verdict.Status.String(), "STATUS_"),
				"reason": reason, "attention": s.Verdict.AttentionId})
		}
		return map[string]any{"settled": lines}, err
	case "office":
		all, err := client.AtOffice(ctx)
		lines := []any{}
		for _, o := range all {
			lines = append(lines, map[string]any{"kind": o.Kind, "id": o.ID})
		}
		return map[string]any{"office": lines}, err
	case "kept":
		all, err := client.KeptBytes(ctx)
		return map[string]any{"count": len(all)}, err
	case "media":
		all, err := client.Media(ctx)
		lines := []any{}
		for _, m := range all {
			lines = append(lines, map[string]any{"record": m.Record, "blob": m.SHA256, "size": m.Size, "refused": string(m.Refused)})
		}
		return map[string]any{"media": lines}, err
	}
	return map[string]any{"unknown": true}, nil
}

func recordOf(r satchelclient.Record) map[string]any {
	return map[string]any{"id": r.ID, "fields": r.Fields, "rev": strconv.FormatUint(r.Rev, 10), "pending": r.Pending, "author": idText(r.Author)}
}

func idText(id satchel.ID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}
