package sim

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	satchel "github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

// mutation is one that was durable on some phone, once.
type mutation struct {
	id       satchel.ID
	phone    string
	person   satchel.ID
	ops      []*satchelv1.Op
	verdicts []*satchelv1.Verdict // as phones heard them
}

func (m *mutation) touches(record satchel.ID) bool {
	return slices.ContainsFunc(m.ops, func(op *satchelv1.Op) bool { return op.RecordId == record.String() })
}

// names lists the records that a mutation is about.
func (m *mutation) names() (ids []string) {
	for _, op := range m.ops {
		ids = append(ids, op.RecordId)
	}
	return ids
}

// offered lists the unique values that a mutation offers, by record and field.
func (m *mutation) offered(yield func(record, field, value string)) {
	for _, op := range m.ops {
		var set map[string]any
		fields := op.GetPatch().GetFields()
		if c := op.GetCreate(); c != nil {
			fields = c.Fields
		}
		if fields == "" || json.Unmarshal([]byte(fields), &set) != nil {
			continue
		}
		for field, v := range set {
			if s, ok := v.(string); ok && isUnique(s) {
				yield(op.RecordId, field, s)
			}
		}
	}
}

func isUnique(s string) bool { return strings.HasPrefix(s, "<") && strings.HasSuffix(s, ">") }

// Pairs are two tasks that only ever change together, in one mutation: the mark of atomic effects.
const pairMark = "pair "

func key(n uint64) []byte       { return binary.BigEndian.AppendUint64(nil, n) }
func orderOf(key []byte) uint64 { return binary.BigEndian.Uint64(key) }

// shown lists what a phone shows of a kind, oldest first.
func (w *world) shown(p *phone, kind string) []satchelclient.Record {
	list, err := p.client.List(w.ctx, kind)
	if err != nil {
		w.fail("S14", "%s cannot list %s: %v", p.name, kind, err)
	}
	if kind == "attention" { // their ids follow no order
		slices.SortStableFunc(list, func(a, b satchelclient.Record) int { return strings.Compare(about(a), about(b)) })
	}
	return list
}

func about(r satchelclient.Record) string { return r.Text("record") + r.Text("cause") }

func (w *world) any(p *phone, kind string) (satchelclient.Record, bool) {
	list := w.shown(p, kind)
	if kind == "task" {
		list = slices.DeleteFunc(list, func(r satchelclient.Record) bool { return strings.HasPrefix(r.Text("title"), pairMark) })
	}
	n := w.rnd.IntN(1 << 16)
	if len(list) == 0 {
		return satchelclient.Record{}, false
	}
	if n%3 > 0 { // many hands on few records: that is where they meet
		list = list[:min(3, len(list))]
	}
	return list[n/3%len(list)], true
}

// clash lets all who have an account write the same field of it, none knowing of the others.
func (w *world) clash(p *phone) {
	account, any := w.any(p, "account")
	field := w.pick("remark", "region", "level", "stage", "phone")
	if !any {
		return
	}
	w.tracef("all write %s of %s", field, account.ID)
	for _, q := range w.phones {
		if _, err := q.client.Get(w.ctx, "account", account.ID); err != nil || w.one(3) {
			continue
		}
		value := w.text()
		switch field {
		case "level":
			value = w.pick("a", "b", "c", "d")
		case "stage":
			value = w.pick("contacted", "proposal", "won")
		}
		b := new(satchelclient.Batch)
		b.Patch("account", account.ID, satchelclient.Fields{field: value}, satchelclient.Increment("visit_count", 1))
		w.put(q, b)
	}
}

// record lets a person do something on what his phone shows.
func (w *world) record(p *phone) {
	if b := w.draw(p); b != nil {
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

// batch mints the ids of records from the seed.
type batch struct {
	satchelclient.Batch
	w *world
}

func (b *batch) create(kind string, fields satchelclient.Fields) satchel.ID {
	id := b.w.id()
	b.CreateAs(kind, id, fields)
	return id
}

// draw makes a mutation; nil = there is nothing to do it with.
func (w *world) draw(p *phone) *satchelclient.Batch {
	b := &batch{w: w}
	me := w.people[p.login].String()
	soon := w.now().Add(time.Duration(w.rnd.IntN(7200)) * time.Second).Format(time.RFC3339)
	account, any := w.any(p, "account")
	n := w.rnd.IntN(100)
	w.tracef("%s does %d", p.name, n)
	switch {
	case !any || n < 5:
		b.create("account", satchelclient.Fields{"owner": me, "name": w.text(), "tags": []string{"new"}})
	case n < 14: // a visit with its task and what follows: they stand or fall together
		v := b.create("visit", satchelclient.Fields{"account": account.ID, "subject": w.text(), "summary": w.text(), "follow_up_at": soon})
		b.create("task", satchelclient.Fields{"assignee": me, "title": w.text(), "visit": v, "due_at": soon})
		b.Patch("account", account.ID, nil, satchelclient.Increment("visit_count", 1))
	case n < 18: // one of its ops is refused, so none takes effect
		b.create("visit", satchelclient.Fields{"account": account.ID, "subject": w.text(), "satisfaction": 9})
		b.Patch("account", account.ID, nil, satchelclient.Increment("visit_count", 1000))
	case n < 24:
		mark := pairMark + fmt.Sprint(w.texts)
		b.create("task", satchelclient.Fields{"assignee": me, "title": mark, "remark": w.text()})
		b.create("task", satchelclient.Fields{"assignee": me, "title": mark, "remark": fmt.Sprintf("<%d>", w.texts)})
	case n < 32:
		for _, t := range w.shown(p, "task") {
			if mark := t.Text("title"); strings.HasPrefix(mark, pairMark) && (w.one(2) || len(w.shown(p, "task")) < 4) {
				text := w.text()
				for _, twin := range w.shown(p, "task") {
					if twin.Text("title") == mark {
						b.Patch("task", twin.ID, satchelclient.Fields{"remark": text})
					}
				}
				return &b.Batch
			}
		}
		return nil
	case n < 44:
		b.Patch("account", account.ID, nil, satchelclient.Increment("visit_count", 1+w.rnd.Int64N(3)))
	case n < 60:
		fields := satchelclient.Fields{w.pick("remark", "region", "industry"): w.text()}
		if v, ok := fields["industry"]; ok && v != "" {
			fields = satchelclient.Fields{"level": w.pick("a", "b", "c", "d"), "phone": w.text()}
		}
		b.Patch("account", account.ID, fields, satchelclient.AddTo("tags", w.text()))
	case n < 64:
		b.Patch("account", account.ID, satchelclient.Fields{"stage": w.pick("contacted", "proposal", "won"), "deal_amount": w.rnd.IntN(9),
			"credit_limit": w.rnd.IntN(6) - 1})
	case n < 70:
		b.Patch("account", account.ID, satchelclient.Fields{"owner": w.people[movable[w.rnd.IntN(len(movable))]]})
	case n < 73:
		b.create("contact", satchelclient.Fields{"account": account.ID, "name": w.text(), "mobile": "13800138000", "wechat": w.text()})
	case n < 76:
		b.create("task", satchelclient.Fields{"assignee": w.people[movable[w.rnd.IntN(len(movable))]], "title": w.text(), "due_at": soon})
	case n < 80:
		if t, ok := w.any(p, "task"); ok {
			b.Patch("task", t.ID, satchelclient.Fields{"remark": w.text(), "done": w.one(2)})
			return &b.Batch
		}
		return nil
	case n < 83:
		k := w.pick("task", "contact", "account")
		if r, ok := w.any(p, k); ok {
			b.Delete(k, r.ID)
			return &b.Batch
		}
		return nil
	case n < 87:
		if v, ok := w.any(p, "visit"); ok {
			b.create("photo", satchelclient.Fields{"visit": v.ID, "caption": w.text(), "blob": fmt.Sprintf("%064x", w.rnd.Uint64())})
			if w.one(2) {
				b.Patch("visit", v.ID, satchelclient.Fields{"summary": w.text(), "account": account.ID})
			} else if under, err := satchel.ParseID(v.Text("account")); err == nil { // all that hangs below moves with it
				b.Patch("account", under, satchelclient.Fields{"owner": w.people[movable[w.rnd.IntN(len(movable))]]})
			}
			return &b.Batch
		}
		return nil
	case n < 91:
		b.create("quote", satchelclient.Fields{"account": account.ID, "title": w.text(), "amount": 5000 + 145000*w.rnd.IntN(2)})
	case n < 94:
		if q, ok := w.any(p, "quote"); ok {
			b.Command("quote", q.ID, "approval.submit", nil)
			return &b.Batch
		}
		return nil
	case n < 97:
		if a, ok := w.any(p, "approval"); ok {
			b.Command("approval", a.ID, "approval.decide", satchelclient.Fields{"form_hash": a.Text("form_hash"),
				"decision": w.pick("approve", "reject"), "comment": w.text()})
			return &b.Batch
		}
		return nil
	default:
		if a, ok := w.any(p, "attention"); ok {
			b.Patch("attention", a.ID, satchelclient.Fields{"open": false})
			return &b.Batch
		}
		return nil
	}
	return &b.Batch
}

// trouble happens to a phone or its way.
func (w *world) trouble(p *phone) error {
	switch n := w.rnd.IntN(20); {
	case n < 5:
		p.noUp, p.noDown = w.one(2), w.one(2)
		if p.noUp || p.noDown {
			w.act.Partitions++
		}
		w.tracef("%s: cut off up=%v down=%v", p.name, p.noUp, p.noDown)
	case n < 9:
		p.noUp, p.noDown = false, false
	case n < 11:
		p.backup, p.backupDisk = p.store.Clone(), p.disk.clone()
		w.tracef("%s: its store is backed up", p.name)
	case n < 13 && p.backup != nil:
		w.act.Restores++
		w.tracef("%s: its store is rolled back", p.name)
		p.store, p.disk = p.backup.Clone(), p.backupDisk.clone()
		p.lastSeq = p.place().Seq
		p.boots++
		p.boot = w.clock.Load()
		return p.open()
	case n < 15 && len(w.phones) < 12:
		twin := &phone{w: w, login: p.login, name: fmt.Sprintf("%s-%d", p.login, len(w.phones)), store: p.store.Clone(), disk: p.disk.clone(),
			boot: w.clock.Load(), budget: p.budget, lastSeq: p.lastSeq}
		w.act.Clones++
		w.tracef("%s: its store is cloned, both live on: %s", p.name, twin.name)
		w.phones = append(w.phones, twin)
		return twin.open()
	case n < 17:
		p.skew = (w.rnd.Int64N(5) - 2) * 86_400_000
		w.tracef("%s: its clock is wrong by %d ms", p.name, p.skew)
	default:
		w.act.Reboots++
		w.tracef("%s: reboots", p.name)
		return p.reboot()
	}
	return nil
}

// step is one thing that happens.
func (w *world) step() error {
	w.at++
	w.pass(time.Duration(w.rnd.IntN(300)) * time.Second)
	w.deliverLate()
	w.restart() // of a change of rights or a job, in the step before
	p := w.phones[w.rnd.IntN(len(w.phones))]
	p.replica = w.rnd.IntN(len(w.replicas))
	switch n := w.rnd.IntN(100); {
	case n < 42:
		w.record(p)
	case n < 45:
		w.clash(p)
	case n < 74:
		for range 1 + w.rnd.IntN(4) {
			w.sync(p)
		}
	case n < 82:
		return w.trouble(p)
	case n < 86:
		w.breakDatabase()
	case n < 90:
		w.meanwhile()
	case n < 94:
		if err := w.changeRights(w.replicas[w.rnd.IntN(len(w.replicas))].app); err != nil {
			w.tracef("rights: %v", err)
		}
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
	w.at += 1 << 20 // everything late arrives now
	w.deliverLate()
	w.at -= 1 << 20
	w.disarm()
	for _, r := range w.replicas {
		r.pool.Reset() // as after a restart: connections that broke unseen go
	}
	if err := w.enableAll(); err != nil {
		return fmt.Errorf("sim: people cannot be enabled: %w", err)
	}
	for round := range 12 {
		w.at++
		w.pass(3 * time.Hour)
		busy := 0
		ran, err := w.replicas[round%2].app.Jobs.Step(w.ctx)
		if err != nil {
			return fmt.Errorf("sim: jobs do not step on a healthy database: %w", err)
		}
		busy += ran
		for _, p := range w.phones {
			p.noUp, p.noDown, p.replica = false, false, round%2
			r, err := p.client.Sync(w.ctx)
			w.learn(p)
			if errors.Is(err, satchelclient.ErrSignInAgain) {
				if err := w.signIn(p); err != nil {
					w.fail("S20", "%s cannot sign in: %v", p.name, err)
				}
				r, err = p.client.Sync(w.ctx)
				w.learn(p)
			}
			w.act.Forks += r.Forked
			w.tracef("%s: sync: sent %d settled %d pending %d changes %d, %v", p.name, r.Sent, len(r.Settled), r.Pending, r.Changes, err)
			busy += r.Sent + r.Changes
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
