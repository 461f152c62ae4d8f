package desk

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/access"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine"
)

// Right is what a person needs for the desk.
const Right = "desk.manage"

// The limits of lists.
const (
	DefaultStates = 100    // devices of a page
	MaxStates     = 500    // of a page at most
	MaxDevices    = 50_000 // that one list looks at, the first to sign in first
	batch         = 500    // devices read at once
)

// Engine is what the desk needs of syncengine.Engine.
type Engine interface {
	Org(ctx context.Context, id satchel.ID) (*schema.Schema, *access.Directory, error)
	Grants(ctx context.Context, p *satchel.Principal) (*access.Grants, error)
	SyncStates(ctx context.Context, org satchel.ID, f syncengine.LaneFilter) ([]syncengine.LaneState, string, error)
	Kept(ctx context.Context, org satchel.ID, f syncengine.KeptFilter) ([]syncengine.Kept, string, error)
	RetryKept(ctx context.Context, p *satchel.Principal, device satchel.ID, number uint64) (syncengine.Verdict, string, error)
	EditKept(ctx context.Context, p *satchel.Principal, device satchel.ID, number uint64, ops []syncengine.Op) (syncengine.Verdict, string, error)
	DiscardKept(ctx context.Context, p *satchel.Principal, device satchel.ID, number uint64) (string, error)
	Salvaged(ctx context.Context, org satchel.ID, limit int, after string) ([]syncengine.Salvaged, string, error)
	ResolveSalvage(ctx context.Context, p *satchel.Principal, record satchel.ID, restore bool) (syncengine.Verdict, error)
}

// Device is what the directory knows of a device.
type Device struct {
	ID, Person satchel.ID
	Name       string
	Platform   string
	AppVersion string    // at the last sign-in
	SignedIn   time.Time // last
	Revoked    time.Time // zero = it is not
}

// Config is what a Desk needs; all but MinProtocol and Now is required.
type Config struct {
	Engine Engine
	// Devices gives an organisation's devices in the order of their ids, behind one, at most limit; only those of the
	// person, unless that is zero.
	Devices func(ctx context.Context, org, person, after satchel.ID, limit int) ([]Device, error)
	// MinProtocol is the oldest protocol that the server speaks; 0 = 1.
	MinProtocol int
	Now         func() time.Time // nil = time.Now
}

// Desk is safe for concurrent use and holds no state.
type Desk struct{ cfg Config }

// New makes a Desk. It fails when something required is missing.
func New(cfg Config) (*Desk, error) {
	if cfg.Engine == nil || cfg.Devices == nil {
		return nil, errors.New("desk.New: Engine and Devices are needed")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.MinProtocol = max(cfg.MinProtocol, 1)
	return &Desk{cfg: cfg}, nil
}

// State is what the server knows of a device, and why it is not in sync.
type State struct {
	Facts
	Troubles []Trouble // the most pressing first; none = it is in sync
}

// StateFilter says which devices.
type StateFilter struct {
	Person   satchel.ID // zero = everybody's
	Troubled bool       // only those with troubles
	Limit    int        // 0 = DefaultStates, at most MaxStates
	After    string     // what came with the page before; "" = from the first
}

// States gives devices, those with the most pressing troubles first, and where the next page begins ("" = there is
// none). Between pages devices may move: one may then come twice or not at all. Needs the right [Right].
func (d *Desk) States(ctx context.Context, p *satchel.Principal, f StateFilter) ([]State, string, error) {
	if _, err := d.may(ctx, p); err != nil {
		return nil, "", err
	}
	return d.AllStates(ctx, p.Org, f)
}

// AllStates is States for an operator at the database: no right is asked for.
func (d *Desk) AllStates(ctx context.Context, org satchel.ID, f StateFilter) ([]State, string, error) {
	after, err := placeOf(f.After)
	if err != nil {
		return nil, "", err
	}
	if f.Limit <= 0 {
		f.Limit = DefaultStates
	}
	f.Limit = min(f.Limit, MaxStates)
	all, err := d.facts(ctx, org, f.Person)
	if err != nil {
		return nil, "", err
	}
	now := d.cfg.Now()
	states := make([]State, 0, len(all))
	for _, facts := range all {
		s := State{Facts: facts, Troubles: Troubles(facts, now)}
		if (len(s.Troubles) > 0 || !f.Troubled) && (f.After == "" || s.place().compare(after) > 0) {
			states = append(states, s)
		}
	}
	slices.SortFunc(states, func(a, b State) int { return a.place().compare(b.place()) })
	if len(states) <= f.Limit {
		return states, "", nil
	}
	states = states[:f.Limit]
	return states, states[f.Limit-1].place().String(), nil
}

// facts puts together what the directory and the engine know of devices.
func (d *Desk) facts(ctx context.Context, org, person satchel.ID) ([]Facts, error) {
	_, dir, err := d.cfg.Engine.Org(ctx, org)
	if err != nil {
		return nil, err
	}
	lanes, err := d.lanes(ctx, org, person)
	if err != nil {
		return nil, err
	}
	var out []Facts
	for after := (satchel.ID{}); len(out) < MaxDevices; {
		devices, err := d.cfg.Devices(ctx, org, person, after, batch)
		if err != nil {
			return nil, err
		}
		for _, dev := range devices {
			who, known := dir.Person(dev.Person)
			f := Facts{Device: dev.ID, Person: dev.Person, PersonName: who.Name, Disabled: known && who.Disabled,
				Name: dev.Name, Platform: dev.Platform, AppVersion: dev.AppVersion, SignedIn: dev.SignedIn, Revoked: dev.Revoked,
				MinProtocol: d.cfg.MinProtocol}
			if l, ok := lanes[dev.ID]; ok {
				f.add(l)
			}
			out = append(out, f)
		}
		if len(devices) < batch {
			break
		}
		after = devices[len(devices)-1].ID
	}
	return out, nil
}

func (d *Desk) lanes(ctx context.Context, org, person satchel.ID) (map[satchel.ID]syncengine.LaneState, error) {
	f := syncengine.LaneFilter{Limit: batch}
	if !person.IsZero() {
		f.Persons = []satchel.ID{person}
	}
	out := map[satchel.ID]syncengine.LaneState{}
	for len(out) < MaxDevices {
		lanes, next, err := d.cfg.Engine.SyncStates(ctx, org, f)
		if err != nil {
			return nil, err
		}
		for _, l := range lanes {
			out[l.Device] = l
		}
		if next == "" {
			break
		}
		f.After = next
	}
	return out, nil
}

// may refuses whoever lacks the right, and gives him who has it as a reader.
func (d *Desk) may(ctx context.Context, p *satchel.Principal) (reader, error) {
	g, err := d.cfg.Engine.Grants(ctx, p)
	if err != nil {
		return reader{}, err
	}
	if !g.Has(Right) {
		return reader{}, satchel.E(satchel.Denied, satchel.ReasonNotAllowed, "This needs the right %s.", Right)
	}
	s, _, err := d.cfg.Engine.Org(ctx, p.Org)
	return reader{s, g}, err
}

// place is where a device stands in the list: the most pressing trouble first, then who is longest silent.
type place struct {
	rank    int
	contact int64 // milliseconds
	device  satchel.ID
}

func (s State) place() place {
	p := place{rank: len(order), device: s.Device}
	if len(s.Troubles) > 0 {
		p.rank = slices.Index(order[:], s.Troubles[0].Kind)
	}
	if !s.Contact.IsZero() {
		p.contact = s.Contact.UnixMilli()
	}
	return p
}

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.rank, q.rank), cmp.Compare(p.contact, q.contact), slices.Compare(p.device[:], q.device[:]))
}

// String gives the place as an opaque text.
func (p place) String() string {
	raw := append(binary.BigEndian.AppendUint64([]byte{byte(p.rank)}, uint64(p.contact)), p.device[:]...)
	return base64.RawURLEncoding.EncodeToString(raw)
}

func placeOf(s string) (p place, err error) {
	if s == "" {
		return p, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(raw) != 9+len(p.device) {
		return p, satchel.E(satchel.Invalid, satchel.ReasonMalformed, "The page token is not one that this server gave. Begin without one.")
	}
	p.rank, p.contact = int(raw[0]), int64(binary.BigEndian.Uint64(raw[1:9]))
	copy(p.device[:], raw[9:])
	return p, nil
}
