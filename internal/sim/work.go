package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/internal/sim/model"
)

func key(n uint64) []byte       { return binary.BigEndian.AppendUint64(nil, n) }
func orderOf(key []byte) uint64 { return binary.BigEndian.Uint64(key) }

// holder is the phone as the model sees it.
func (p *phone) holder() model.Holder {
	return model.Holder{Name: p.name, Login: p.login, Person: p.w.People[p.login], Client: p.client, Store: p.store, Profile: p.profile}
}

// hand is the person at the phone.
func (w *world) hand(p *phone) *model.Hand {
	return &model.Hand{Rnd: w.rnd, Me: w.People[p.login], Others: w.Others(), Now: w.now, NewID: w.id, Text: w.text,
		Show:  func(kind string) []satchelclient.Record { return w.model.Shown(w.ctx, p.holder(), kind) },
		Trace: func(format string, args ...any) { w.tracef(p.name+" "+format, args...) }}
}

// clash lets all who have an account write the same field of it, none knowing of the others.
func (w *world) clash(p *phone) {
	h := w.hand(p)
	account, any := h.Any("account")
	field := h.Field()
	if !any {
		return
	}
	w.tracef("all write %s of %s", field, account.ID)
	for _, q := range w.phones {
		if _, err := q.client.Get(w.ctx, "account", account.ID); err != nil || w.one(3) {
			continue
		}
		w.put(q, h.Write(account.ID, field))
	}
}

// hopeless creates what will be refused, and more that hangs under it.
func (w *world) hopeless(p *phone) {
	h := w.hand(p)
	account, any := h.Any("account")
	if !any {
		return
	}
	v := w.id()
	first, second, third := new(satchelclient.Batch), new(satchelclient.Batch), new(satchelclient.Batch)
	first.CreateAs("visit", v, satchelclient.Fields{"account": account.ID, "subject": w.text(), "satisfaction": 9})
	second.CreateAs("task", w.id(), satchelclient.Fields{"assignee": w.People[p.login].String(), "title": w.text(), "visit": v})
	second.Patch("visit", v, satchelclient.Fields{"summary": w.text()})
	third.CreateAs("photo", w.id(), satchelclient.Fields{"visit": v, "caption": w.text(), "blob": fmt.Sprintf("%064x", w.rnd.Uint64())})
	for _, b := range []*satchelclient.Batch{first, second, third} {
		w.put(p, b)
		if w.one(3) {
			w.sync(p) // the rest is recorded on what was refused, or is it gone?
		}
	}
}

// record lets a person do something on what his phone shows.
func (w *world) record(p *phone) {
	if p.app > 0 && w.one(6) { // an app that is newer than the server
		b := new(satchelclient.Batch)
		b.CreateAs("memo", w.id(), satchelclient.Fields{"owner": w.People[p.login].String(), "text": w.text()})
		w.put(p, b)
		return
	}
	if b := w.hand(p).Draw(); b != nil {
		w.put(p, b)
	}
}

// put records a mutation, perhaps as the last thing that the phone does.
func (w *world) put(p *phone, b *satchelclient.Batch) {
	if w.faults && w.one(25) {
		p.deadly = 1 + w.rnd.IntN(2)
	}
	dead, err := p.alive(func() error {
		_, err := p.client.Record(w.ctx, b)
		return err
	})
	if dead {
		w.act.Kills++
		w.tracef("%s is killed at %s", p.name, p.point)
	}
	if err != nil {
		w.fail("S3", "%s cannot record: %v", p.name, err)
	}
	w.noted(p)
	w.checkOwn(p)
}

// trouble happens to a phone or its way.
func (w *world) trouble(p *phone) error {
	switch n := w.rnd.IntN(30); {
	case n < 5:
		p.noUp, p.noDown = w.one(2), w.one(2)
		if p.noUp || p.noDown {
			w.act.Partitions++
		}
		w.tracef("%s: cut off up=%v down=%v", p.name, p.noUp, p.noDown)
	case n < 9:
		p.noUp, p.noDown = false, false
	case n < 11:
		w.backUp(p)
	case n < 13 && p.backup != nil:
		return w.rewind(p)
	case n < 15 && len(w.phones) < 12:
		return w.clone(p)
	case n < 17:
		p.skew = (w.rnd.Int64N(5) - 2) * 86_400_000
		w.tracef("%s: its clock is wrong by %d ms", p.name, p.skew)
	case n < 20:
		return w.damageRecords(p)
	case n < 22:
		return w.damageOutbox(p)
	case n < 24:
		p.profile = w.pick("", "phone", "mini_program")
		w.act.Profiles++
		w.tracef("%s: follows by the profile %q", p.name, p.profile)
		return p.open()
	case n < 26:
		w.revoke(p)
	default:
		w.act.Reboots++
		w.tracef("%s: reboots", p.name)
		return p.reboot()
	}
	return nil
}

// phone draws one. A clone more or less changes nothing about the draws of others.
func (w *world) phone() *phone {
	n := w.rnd.IntN(16)
	if n >= len(w.phones) {
		n %= w.founders
	}
	return w.phones[n]
}

// step is one thing that happens.
func (w *world) step() error {
	w.deliverLate()
	w.restart() // of a change of rights or a job, in the step before
	if what, ok := w.events[w.at]; ok {
		return w.happen(what)
	}
	p := w.phone()
	p.replica = w.rnd.IntN(len(w.replicas))
	switch n := w.rnd.IntN(100); {
	case n < 36:
		for range 1 + w.rnd.IntN(3) {
			w.record(p)
		}
	case n < 39:
		w.clash(p)
	case n < 41:
		w.hopeless(p)
	case n < 69:
		for range 1 + w.rnd.IntN(4) {
			w.sync(p)
		}
	case n < 80:
		return w.trouble(p)
	case n < 84:
		w.breakDatabase()
	case n < 88:
		w.meanwhile()
	case n < 92:
		if err := w.changeRights(w.replicas[w.rnd.IntN(len(w.replicas))].app); err != nil {
			w.tracef("rights: %v", err)
		}
	case n < 94:
		return w.resolve()
	default:
		ran, err := w.replicas[w.rnd.IntN(len(w.replicas))].app.Jobs.Step(w.ctx)
		w.tracef("jobs: %d, %v", ran, err)
	}
	return nil
}

// heal ends all trouble, and gives phones and jobs the time that S20 allows.
func (w *world) heal() error {
	w.tracef("healing")
	w.faults = false
	if w.publishes && !w.newer {
		if err := w.publish(); err != nil {
			return err
		}
	}
	w.at += 1 << 20 // everything late arrives now
	w.deliverLate()
	w.at -= 1 << 20
	w.disarm()
	for _, r := range w.replicas {
		r.pool.Reset() // as after a restart: connections that broke unseen go
	}
	if err := w.EnableAll(w.ctx, w.replicas[0].app.Identity); err != nil {
		return fmt.Errorf("sim: people cannot be enabled: %w", err)
	}
	if err := w.rename(); err != nil {
		return fmt.Errorf("sim: nobody can be renamed: %w", err)
	}
	before := int64(-1)
	for round := range 12 {
		w.at++
		w.pass(3 * time.Hour)
		busy := 0
		ran, err := w.replicas[round%2].app.Jobs.Step(w.ctx)
		if err != nil {
			return fmt.Errorf("sim: jobs do not step on a healthy database: %w", err)
		}
		var moved int64 // jobs that try again what may come yet move nothing
		if err := w.db.QueryRow(w.ctx, `SELECT max(last_seq) FROM bucket WHERE org_id = $1`, w.Org).Scan(&moved); err != nil {
			return err
		}
		if moved != before {
			before = moved
			busy += 1 + ran
		}
		for _, p := range w.phones {
			p.noUp, p.noDown, p.replica = false, false, round%2
			r, err := p.client.Sync(w.ctx)
			w.took(p, r)
			w.learn(p)
			if errors.Is(err, satchelclient.ErrSignInAgain) || errors.Is(err, satchelclient.ErrDeviceRevoked) {
				if err := w.signIn(p); err != nil {
					w.fail("S20", "%s cannot sign in: %v", p.name, err)
				}
				r, err = p.client.Sync(w.ctx)
				w.took(p, r)
				w.learn(p)
			}
			w.tracef("%s: sync: sent %d settled %d pending %d changes %d%s at %d, %v", p.name, r.Sent, len(r.Settled), r.Pending, r.Changes, beside(r),
				p.place().Seq&(1<<40-1), err)
			busy += r.Sent + r.Changes + r.Repaired
			if err != nil {
				busy++
				if round == 11 {
					w.fail("S20", "%s cannot sync: %v", p.name, err)
				}
			}
			if r.Pending > 0 && round == 11 {
				w.fail("S20", "%s still has %d pending", p.name, r.Pending)
			}
			if err == nil {
				p.forget(^uint64(0))
			}
			w.checkOwn(p)
		}
		if busy == 0 && round > 2 {
			return nil
		}
	}
	w.fail("S20", "it does not come to rest")
	return nil
}
