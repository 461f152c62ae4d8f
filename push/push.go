package push

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/jobs"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/syncengine"
)

// Job is the kind of the job that sends one delivery.
const Job = "push.deliver"

// noticeKind is the kind of record that is an inbox's line.
const noticeKind = "notice"

// Limits.
const (
	MaxAddresses    = 20               // of one person; the longest unset are dropped
	MaxAddressBytes = 1024             // of one address
	MaxAttempts     = 12               // sends of one delivery that began
	MaxAge          = 24 * time.Hour   // of a notice; an older one knocks no more
	sendTimeout     = 20 * time.Second // of one send
	lease           = 90 * time.Second // after which a claim counts as its worker's death; longer than a send
)

// Config is what push needs.
type Config struct {
	Pool   *pgxpool.Pool
	Engine *syncengine.Engine
	Jobs   *jobs.Jobs
	// Senders are the channels by kind of address ("fcm"). Deliveries to a kind that is not here are settled as
	// no_channel; the notices stay in the inbox.
	Senders map[string]Sender
	// Now is the clock, the same as the jobs'. Defaults to time.Now.
	Now func() time.Time
	// Logger defaults to slog.Default. It gets neither addresses nor texts.
	Logger *slog.Logger
}

// Push keeps addresses and sends deliveries. It is safe for concurrent use; any number of replicas may share a database.
type Push struct {
	cfg   Config
	brake *brake
}

// New makes a push; nothing is sent before [Push.Register] and the jobs' Run.
func New(cfg Config) (*Push, error) {
	if cfg.Pool == nil || cfg.Engine == nil || cfg.Jobs == nil {
		return nil, errors.New("push.New: Pool, Engine and Jobs are needed")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Push{cfg: cfg, brake: newBrake()}, nil
}

// Register gives the engine the observer and the jobs their handler. It is called once, before the engine's first call.
func (p *Push) Register() {
	p.cfg.Engine.Observe(p.Observe)
	p.cfg.Jobs.Handle(Job, p.deliver)
}

// deliverArgs names a delivery.
type deliverArgs struct {
	Notice  satchel.ID `json:"notice"`
	Address satchel.ID `json:"address"`
}

// Observe is the engine's observer: new notices get a delivery for each address of their person, and each delivery its
// job. Imported notices knock at nobody's door.
func (p *Push) Observe(ctx context.Context, tx pgx.Tx, changes []syncengine.Change) error {
	var notices, people []satchel.ID
	for _, c := range changes {
		if c.Kind.Name == noticeKind && c.Before == nil && c.After.Exists() && !strings.HasPrefix(c.Source, "import:") {
			notices, people = append(notices, c.After.ID), append(people, c.After.Ref("person"))
		}
	}
	if len(notices) == 0 {
		return nil
	}
	org := changes[0].Org
	rows, err := tx.Query(ctx, sqlNewDeliveries, org, notices, people, changes[0].ReceivedAt)
	if err != nil {
		return err
	}
	var js []jobs.Job
	var args deliverArgs
	if _, err := pgx.ForEachRow(rows, []any{&args.Notice, &args.Address}, func() error {
		js = append(js, jobs.Job{Kind: Job, Org: org, Args: args})
		return nil
	}); err != nil {
		return err
	}
	return p.cfg.Jobs.Enqueue(ctx, tx, js...)
}

// SetAddress says that the caller's device can be reached at an address of a kind ("fcm"). Phones change hands: the
// address moves to this device and person from whoever had it, and replaces another one of that kind of this device.
// language is the language of the texts: whatever begins with zh is Chinese, all else English. Setting it again is cheap
// and tells that it is still in use. The error is Invalid when kind or address cannot be ones, or the caller has no
// device.
func (p *Push) SetAddress(ctx context.Context, who *satchel.Principal, kind, address, language string) error {
	if err := checkAddress(who, kind, address); err != nil {
		return err
	}
	lang := "en"
	if strings.HasPrefix(strings.ToLower(language), "zh") {
		lang = "zh"
	}
	return pg.InTx(ctx, p.cfg.Pool, func(ctx context.Context, tx pgx.Tx) error {
		var b pgx.Batch
		b.Queue(sqlDropOther, who.Org, who.Device, kind, address)
		b.Queue(sqlSetAddress, who.Org, satchel.NewID(), kind, address, who.Person, who.Device, lang, p.cfg.Now())
		b.Queue(sqlDropOldest, who.Org, who.Person, MaxAddresses)
		return tx.SendBatch(ctx, &b).Close()
	})
}

// RemoveAddress forgets the address of a kind of the caller's device; that there is none is no error.
func (p *Push) RemoveAddress(ctx context.Context, who *satchel.Principal, kind string) error {
	_, err := p.cfg.Pool.Exec(ctx, sqlRemoveAddress, who.Org, who.Device, kind)
	return pg.ToError(err)
}

// DeviceGone forgets all addresses of a device, in the transaction that revokes it or signs it out: what was on its
// way finds them gone.
func (p *Push) DeviceGone(ctx context.Context, tx pgx.Tx, org, device satchel.ID) error {
	_, err := tx.Exec(ctx, sqlDropDevice, org, device)
	return err
}

func checkAddress(who *satchel.Principal, kind, address string) error {
	switch {
	case who.Device.IsZero():
		return satchel.E(satchel.Invalid, satchel.ReasonMalformed, "only a device has an address; sign in on one")
	case kind == "" || len(kind) > 32 || strings.Trim(kind, "abcdefghijklmnopqrstuvwxyz0123456789_") != "":
		return satchel.E(satchel.Invalid, satchel.ReasonMalformed, "the kind of an address is the channel's name, such as fcm")
	case address == "" || len(address) > MaxAddressBytes || strings.ContainsFunc(address, func(r rune) bool { return r <= ' ' || r > '~' }):
		return satchel.E(satchel.Invalid, satchel.ReasonMalformed, "an address has 1 to %d printable ASCII characters", MaxAddressBytes)
	}
	return nil
}
