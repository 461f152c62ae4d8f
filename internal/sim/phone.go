package sim

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	satchel "github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/clients/go/memstore"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/internal/sim/model"
)

// phone is a person's device. What follows disk is what the simulator knows of it beside what the phone itself keeps.
type phone struct {
	w      *world
	name   string // of the phone
	login  string
	client *satchelclient.Client
	store  *memstore.Store
	disk   // rolled back together with the store

	budget       uint32 // bytes of a page
	replica      int
	noUp, noDown bool  // the partition's directions
	boot         int64 // moment of the last boot, by the world's clock
	boots        int
	skew         int64 // of its wall clock, milliseconds
	profile      string
	app          uint32 // the schema version that the app was built for; 0 = none in particular
	deadly       int    // the points until it is killed; 0 = it is not
	point        string
	minted       uint64 // ids of mutations

	backup     *memstore.Store
	backupDisk disk
	lastSeq    uint64 // of the last checkpoint, for S11

	held map[satchel.ID]string // records that it held when the database lost them, to be salvaged; by kind
}

// disk is what was durable on a phone at some moment.
type disk struct {
	owes  map[satchel.ID]bool // mutations recorded here: each gets a verdict in the end
	read  uint64              // last line of the verdict log that was read
	mine  map[satchel.ID]*own // records with own values that must be shown
	order uint64              // last place in the outbox that was read

	damaged  bool              // what is shown may be wrong, until the phone has compared it
	hurt     bool              // rows of the outbox were lost or spoilt
	repaired bool              // and what that brought is not shown yet
	heard    map[uint64]uint64 // of lines of the verdict log, by order: the commits of the verdicts that were read
	excused  int               // repairs that may come
}

// own is what a phone must show of a record by its own mutations: the record itself (the mark "") and its fields.
type own struct {
	kind    string
	deleted bool // by this phone: nothing is said of it any more
	marks   map[string]mark
}

// mark is an own value of a field.
type mark struct {
	value   string
	by      satchel.ID // the mutation
	settled uint64     // its verdict's seq; 0 = it has none
}

func (d disk) clone() disk {
	c := d
	c.owes, c.mine, c.heard = map[satchel.ID]bool{}, map[satchel.ID]*own{}, map[uint64]uint64{}
	maps.Copy(c.heard, d.heard)
	for id := range d.owes {
		c.owes[id] = true
	}
	for id, o := range d.mine {
		twin := *o
		twin.marks = maps.Clone(o.marks)
		c.mine[id] = &twin
	}
	return c
}

type killed struct{}

// outcome is what a call of a phone came to.
type outcome struct {
	res    satchelclient.Result
	err    error
	killed bool
	rights bool
}

func (w *world) newPhone(login, profile string) (*phone, error) {
	p := &phone{w: w, login: login, profile: profile, name: fmt.Sprintf("%s-%d", login, len(w.phones)), store: memstore.New(), boot: w.clock.Load(),
		budget: []uint32{0, 16 << 10, 1 << 10}[len(w.phones)%3], disk: disk{}.clone()}
	return p, p.open()
}

// open starts the app on the phone's store.
func (p *phone) open() (err error) {
	p.deadly = 0
	if p.client != nil {
		if err := p.client.Close(); err != nil {
			return err
		}
	}
	p.client, err = satchelclient.New(satchelclient.Config{
		BaseURL: "http://sim", Store: p.store, HTTPClient: &http.Client{Transport: antenna{p.w, p}},
		Now: func() time.Time { return time.UnixMilli(p.w.clock.Load() + p.skew) },
		Monotonic: func() (string, uint64) {
			return fmt.Sprintf("%s/%d", p.name, p.boots), uint64(p.w.clock.Load() - p.boot)
		},
		MaxBytes: p.budget, Profile: p.profile, SchemaVersion: p.app, NewID: p.newID,
		Step: p.step,
	})
	return err
}

// newID mints the id of a mutation: attentions are named after some, and lie in pages by their names. It is none that
// another phone, or this one before its store was rolled back, has minted.
func (p *phone) newID() satchel.ID {
	p.minted++
	id := satchel.DerivedID(satchel.ID{}, fmt.Sprintf("%d/%s/%d", p.w.cfg.Seed, p.name, p.minted))
	binary.BigEndian.PutUint64(id[:8], uint64(p.w.clock.Load())<<16|p.minted&0xfff)
	id[6] = id[6]&0x0f | 0x70
	return id
}

// step is called by the client at each point where a kill must be harmless.
func (p *phone) step(point string) {
	p.point = point
	if p.hurt && (point == "gap:after" || point == "number:after") {
		p.w.standsIn(p)
	}
	if p.deadly == 0 {
		return
	}
	if p.deadly--; p.deadly == 0 {
		panic(killed{})
	}
}

// alive runs fn; killed tells that the phone died in it. It is then started again on what its store holds.
func (p *phone) alive(fn func() error) (dead bool, err error) {
	defer func() {
		p.deadly = 0
		if r := recover(); r == (killed{}) {
			dead = true
			err = p.open()
		} else if r != nil {
			panic(r)
		}
	}()
	return false, fn()
}

// syncOnce makes one round trip. It draws nothing, so that two may run beside each other.
func (p *phone) syncOnce(ctx context.Context) (o outcome) {
	o.killed, o.err = p.alive(func() (err error) {
		o.res, err = p.client.SyncOnce(ctx)
		return err
	})
	return o
}

// reboot takes the phone off and on: another boot, whose clock begins at 0.
func (p *phone) reboot() error {
	p.boots++
	p.boot = p.w.clock.Load()
	return p.open()
}

func (w *world) signIn(p *phone) error {
	dead, err := p.alive(func() error {
		return p.client.SignIn(w.ctx, w.Credentials(p.login, p.name))
	})
	if dead && err == nil {
		w.act.Kills++
	}
	return err
}

// sync makes a round trip, perhaps the phone's last, and looks at what came of it.
func (w *world) sync(p *phone) {
	if w.faults && w.one(12) {
		p.deadly = 1 + w.rnd.IntN(12)
	}
	w.after(p, p.syncOnce(w.ctx))
}

// after looks at what a round trip came to.
func (w *world) after(p *phone, o outcome) {
	switch {
	case o.killed:
		w.act.Kills++
		w.tracef("%s is killed at %s", p.name, p.point)
		if o.err != nil {
			w.fail("S1", "%s does not start after a kill at %s: %v", p.name, p.point, o.err)
		}
	case o.err != nil:
		w.tracef("%s: sync: %v", p.name, o.err)
	default:
		w.tracef("%s: sync: sent %d settled %d pending %d changes %d checkpoint=%v more=%v%s", p.name, o.res.Sent,
			len(o.res.Settled), o.res.Pending, o.res.Changes, o.res.Checkpoint, o.res.More, beside(o.res))
	}
	w.took(p, o.res)
	w.learn(p)
	if !o.killed && (errors.Is(o.err, satchelclient.ErrSignInAgain) || errors.Is(o.err, satchelclient.ErrDeviceRevoked)) {
		if err := w.signIn(p); err != nil {
			w.tracef("%s: sign in: %v", p.name, err)
		}
		return
	}
	through := o.err == nil && !o.res.More && !o.killed
	if through || o.killed && strings.HasPrefix(p.point, "no-page") {
		p.forget(^uint64(0))
	}
	w.checkOwn(p)
	if !p.damaged {
		w.model.CheckPairs(w.ctx, p.holder()) // at any moment: what is shown is that of a checkpoint
	}
	if through && !p.damaged && w.faults && w.one(3) {
		w.checkHeld(p)
	}
}

// beside spells what is rare in a result.
func beside(r satchelclient.Result) (text string) {
	for _, c := range []struct {
		n    int
		what string
	}{{r.Forked, "forked"}, {r.Repaired, "repaired"}, {r.Restored, "offered again"}, {int(r.Skipped), "skipped"}} {
		if c.n > 0 {
			text += fmt.Sprintf(" %s %d", c.what, c.n)
		}
	}
	return text
}

// learn reads what the phone's store says of verdicts and checkpoints.
func (w *world) learn(p *phone) {
	if w.act.Restores > 0 || p.hurt { // older lines may have gone and come again
		p.read = 0
	}
	for {
		lines, err := p.client.Settled(w.ctx, p.read, 100)
		if err != nil {
			w.fail("S3", "%s: the log cannot be read: %v", p.name, err)
			return
		}
		for _, l := range lines {
			p.read = l.Order
			if seq, known := p.heard[l.Order]; known && seq == l.Verdict.Seq || w.model.Gone(l.Verdict.Seq) {
				continue
			}
			p.heard[l.Order] = l.Verdict.Seq
			id := satchel.MustParseID(l.Mutation.Id)
			if l.Mutation.Envelope != nil {
				w.model.Stands(l.Mutation)
				continue
			}
			m := w.model.Muts[id]
			if m == nil {
				w.fail("S2", "%s got a verdict of a mutation that nobody recorded: %s", p.name, id)
				continue
			}
			m.Verdicts = append(m.Verdicts, l.Verdict)
			w.tracef("  %s: %s %s of %v", p.name, l.Verdict.Status, l.Verdict.Reason, m.Names())
			w.act.Verdicts++
			switch l.Verdict.Status {
			case satchelv1.Status_STATUS_CONFLICTED, satchelv1.Status_STATUS_MERGED:
				w.act.Conflicts++
			case satchelv1.Status_STATUS_REJECTED:
				w.act.Refused++
			}
			gone := l.Verdict.Status == satchelv1.Status_STATUS_REJECTED || l.Verdict.Status == satchelv1.Status_STATUS_STALE
			for rec, o := range p.mine {
				if gone && m.Touches(rec) { // what is left of its own values is hard to say; it is checked no more
					delete(p.mine, rec)
					continue
				}
				for field, mk := range o.marks {
					if mk.by == id {
						mk.settled = max(1, l.Verdict.Seq)
						o.marks[field] = mk
					}
				}
			}
		}
		if len(lines) < 100 {
			break
		}
	}
	seq := p.place().Seq
	if seq < p.lastSeq {
		w.fail("S11", "%s went back from %d to %d", p.name, p.lastSeq, seq)
	}
	p.lastSeq = seq
	p.forget(seq)
}

// forget drops what a checkpoint at seq shows by itself.
func (p *phone) forget(seq uint64) {
	for id, o := range p.mine {
		for field, mk := range o.marks {
			if mk.settled > 0 && mk.settled <= seq {
				delete(o.marks, field)
			}
		}
		if len(o.marks) == 0 && !o.deleted {
			delete(p.mine, id)
		}
	}
}

// place reads how far the phone is.
func (p *phone) place() (at struct{ Seq uint64 }) {
	_ = p.store.View(p.w.ctx, func(tx satchelclient.ReadTx) error {
		b, err := tx.Get(satchelclient.TableMeta, []byte("place"))
		if err != nil || b == nil {
			return err
		}
		return json.Unmarshal(b, &at)
	})
	return at
}

// noted reads from the outbox what was recorded since; whatever a kill left there counts, and nothing else does.
func (w *world) noted(p *phone) {
	err := p.store.View(w.ctx, func(tx satchelclient.ReadTx) error {
		var after []byte
		if p.order > 0 {
			after = key(p.order)
		}
		return tx.Scan(satchelclient.TableOutbox, nil, after, func(k, value []byte) error {
			m := new(satchelv1.Mutation)
			if err := proto.Unmarshal(value, m); err != nil {
				return err
			}
			if len(k) > 8 || m.Envelope != nil { // nobody recorded it
				return nil
			}
			p.order = orderOf(k)
			id := satchel.MustParseID(m.Id)
			if w.model.Muts[id] == nil {
				w.model.Muts[id] = &model.Mutation{ID: id, Phone: p.name, Person: w.People[p.login], Order: p.order, Ops: m.Ops}
				w.act.Mutations++
			}
			p.owes[id] = true
			for _, op := range m.Ops {
				w.tracef("  %s %s on rev %d: %v", op.Kind, op.RecordId, op.BaseRev&(1<<40-1), op.Action)
			}
			p.keep(id, m.Ops)
			return nil
		})
	})
	if err != nil {
		w.fail("S3", "%s: the outbox cannot be read: %v", p.name, err)
	}
}

// keep notes what must be shown by a mutation just recorded.
func (p *phone) keep(id satchel.ID, ops []*satchelv1.Op) {
	for _, op := range ops {
		rec := satchel.MustParseID(op.RecordId)
		o := p.mine[rec]
		if o == nil {
			o = &own{kind: op.Kind, marks: map[string]mark{}}
			p.mine[rec] = o
		}
		var set map[string]any
		switch a := op.Action.(type) {
		case *satchelv1.Op_Create:
			o.marks[""] = mark{by: id}
			_ = json.Unmarshal([]byte(a.Create.Fields), &set)
		case *satchelv1.Op_Patch:
			_ = json.Unmarshal([]byte(a.Patch.Fields), &set)
		case *satchelv1.Op_Delete:
			o.deleted = true
		}
		for field, v := range set {
			if s, ok := v.(string); ok && model.IsUnique(s) {
				o.marks[field] = mark{value: s, by: id}
			}
		}
	}
}
