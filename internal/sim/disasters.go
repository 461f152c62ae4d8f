package sim

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	satchel "github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/clients/go/memstore"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"google.golang.org/protobuf/proto"
)

// event is what happens at most once in a run, at a step that the seed says.
type event int

const (
	copyDatabase event = iota
	restoreDatabase
	longAway
	publishSchema
)

// foresee draws the events of the run, and how bad its network is.
func (w *world) foresee() error {
	w.bad = w.rnd.IntN(60)
	w.events = map[int]event{}
	at := func(from, steps int) int { return from + w.rnd.IntN(steps) }
	restores, copied, restored := w.rnd.IntN(5) < 2, at(10, 110), at(3, 50)
	goesAway, away := w.rnd.IntN(5) < 2, at(20, 140)
	publishes, published := w.rnd.IntN(5) < 2, at(20, 150)
	if restores {
		w.events[copied], w.events[copied+restored] = copyDatabase, restoreDatabase
	}
	if _, taken := w.events[away]; goesAway && !taken {
		w.events[away] = longAway
	}
	if _, taken := w.events[published]; publishes && !taken {
		w.events[published], w.publishes = publishSchema, true
		for i, p := range w.phones {
			if i%3 == 0 {
				p.app = 2
				if err := p.open(); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (w *world) happen(what event) error {
	switch what {
	case copyDatabase:
		return w.copyDatabase()
	case restoreDatabase:
		return w.restoreDatabase()
	case longAway:
		return w.longAway()
	default:
		return w.publish()
	}
}

// backUp notes a phone's store as it is now.
func (w *world) backUp(p *phone) {
	p.backup, p.backupDisk = p.store.Clone(), p.disk.clone()
	w.tracef("%s: its store is backed up", p.name)
}

// rewind rolls a phone's store back to its backup.
func (w *world) rewind(p *phone) error {
	w.act.Rewound++
	w.tracef("%s: its store is rolled back", p.name)
	p.store, p.disk, p.held = p.backup.Clone(), p.backupDisk.clone(), nil
	p.lastSeq = p.place().Seq
	p.boots++
	p.boot = w.clock.Load()
	return p.open()
}

// clone makes a second phone of a phone's store.
func (w *world) clone(p *phone) error {
	twin := &phone{w: w, login: p.login, name: fmt.Sprintf("%s-%d", p.login, len(w.phones)), store: p.store.Clone(), disk: p.disk.clone(),
		boot: w.clock.Load(), budget: p.budget, lastSeq: p.lastSeq, profile: p.profile, app: p.app}
	w.act.Clones++
	w.tracef("%s: its store is cloned, both live on: %s", p.name, twin.name)
	w.phones = append(w.phones, twin)
	return twin.open()
}

// olderState gives a row as a backup has it, where that is of an earlier rev; nil = it has none.
func olderState(ctx context.Context, backup *memstore.Store, key, value []byte) (older []byte, err error) {
	if backup == nil {
		return nil, nil
	}
	now, then := new(satchelv1.Change), new(satchelv1.Change)
	if err := proto.Unmarshal(value, now); err != nil {
		return nil, err
	}
	err = backup.View(ctx, func(tx satchelclient.ReadTx) error {
		b, err := tx.Get(satchelclient.TableRecord, key)
		if err != nil || b == nil {
			return err
		}
		if err := proto.Unmarshal(b, then); err != nil || then.Rev >= now.Rev {
			return err
		}
		older = bytes.Clone(b)
		return nil
	})
	return older, err
}

// damageRecords loses rows of what a phone shows, or leaves older states of them, and restarts the app.
func (w *world) damageRecords(p *phone) error {
	if p.place().Seq == 0 {
		return nil // it has never been at a checkpoint
	}
	n := 0
	err := p.store.Update(w.ctx, func(tx satchelclient.Tx) error {
		return tx.Scan(satchelclient.TableRecord, nil, nil, func(key, value []byte) error {
			draw := w.rnd.IntN(20)
			if draw > 1 {
				return nil
			}
			n++
			if draw == 0 {
				return tx.Delete(satchelclient.TableRecord, key)
			}
			// An older state is one that the row really had: a rev with the content of another no digest could find.
			older, err := olderState(w.ctx, p.backup, key, value)
			if err != nil {
				return err
			}
			if older == nil {
				return tx.Delete(satchelclient.TableRecord, key)
			}
			return tx.Put(satchelclient.TableRecord, key, older)
		})
	})
	if err != nil || n == 0 {
		return err
	}
	w.act.Damaged++
	w.tracef("%s: %d of its records are damaged", p.name, n)
	p.damaged, p.held = true, nil
	p.excuse()
	return p.open()
}

// excuse allows a repair, and another one where one is under way, which knows nothing of what happens now.
func (p *phone) excuse() {
	p.excused = 1
	_ = p.store.View(p.w.ctx, func(tx satchelclient.ReadTx) error {
		if b, err := tx.Get(satchelclient.TableMeta, []byte("repair")); err != nil || b != nil {
			p.excused = 2
			return err
		}
		return nil
	})
}

// damageOutbox loses or spoils rows of the outbox, and restarts the app.
func (w *world) damageOutbox(p *phone) error {
	lose := w.one(2)
	n := 0
	err := p.store.Update(w.ctx, func(tx satchelclient.Tx) error {
		return tx.Scan(satchelclient.TableOutbox, nil, nil, func(k, value []byte) error {
			m := new(satchelv1.Mutation)
			if len(k) > 8 || proto.Unmarshal(value, m) != nil || len(m.Ops) == 0 || n > 0 && w.one(2) {
				return nil
			}
			n++
			delete(p.owes, satchel.MustParseID(m.Id))
			for _, op := range m.Ops {
				delete(p.mine, satchel.MustParseID(op.RecordId))
			}
			if !lose {
				return tx.Put(satchelclient.TableOutbox, k, []byte("\xff\xff\xff spoilt"))
			}
			if err := tx.Scan(satchelclient.TableOverlay, nil, nil, func(key, _ []byte) error {
				if orderOf(key[16:]) != orderOf(k) {
					return nil
				}
				return tx.Delete(satchelclient.TableOverlay, key)
			}); err != nil {
				return err
			}
			return tx.Delete(satchelclient.TableOutbox, k)
		})
	})
	if err != nil || n == 0 {
		return err
	}
	w.act.Damaged++
	w.tracef("%s: %d rows of its outbox are damaged, lost=%v", p.name, n, lose)
	p.hurt = true
	return p.open()
}

// revoke revokes one of a person's devices, perhaps right after an answer to it was lost; he signs in again.
func (w *world) revoke(p *phone) {
	if w.one(2) && !p.noUp {
		was := p.noDown
		p.noDown = true
		w.sync(p)
		p.noDown = was
	}
	w.disarm()
	a := w.replicas[p.replica].app
	devices, err := a.Identity.DevicesOf(w.ctx, w.Org, w.People[p.login], satchel.ID{}, 50)
	if err != nil || len(devices) == 0 {
		w.tracef("devices: %v", err)
		return
	}
	d := devices[w.rnd.IntN(len(devices))]
	err = a.Identity.RevokeDevice(w.ctx, w.Admin(), d.ID)
	w.act.Revoked++
	w.tracef("%s: a device is revoked: %v", p.login, err)
}

// longAway lets half a year go by, in which most phones are in drawers. Some come back from backups of before it.
func (w *world) longAway() error {
	w.act.Away++
	w.tracef("half a year goes by")
	was := w.faults
	w.faults = false
	defer func() { w.faults = was }()
	w.disarm()
	if err := w.forgetCopy(); err != nil { // a backup is not that old
		return err
	}
	var rewound []*phone
	for _, p := range w.phones {
		switch w.rnd.IntN(4) {
		case 0:
			w.backUp(p)
			rewound = append(rewound, p)
			fallthrough
		case 1, 2:
			if p.noUp || p.noDown {
				continue
			}
			for range 3 { // the last one confirms
				w.sync(p)
			}
		}
	}
	for _, d := range []time.Duration{25 * time.Hour, 182 * 24 * time.Hour, time.Hour} {
		w.pass(d)
		if err := w.model.Remember(w.ctx); err != nil { // the ledger is trimmed
			return err
		}
		for range 2 {
			ran, err := w.replicas[0].app.Jobs.Step(w.ctx)
			w.tracef("jobs: %d, %v", ran, err)
		}
	}
	for _, p := range w.phones {
		p.excuse()
		p.backupDisk.excused = 2
		if err := p.reboot(); err != nil {
			return err
		}
	}
	for _, p := range rewound {
		if w.one(2) {
			if err := w.rewind(p); err != nil {
				return err
			}
			for range 4 {
				w.sync(p)
			}
		}
	}
	return nil
}

// copied is an older state of the database.
type copied struct {
	name string
	seq  uint64
}

func (w *world) forgetCopy() error {
	c := w.copied
	w.copied = nil
	if c == nil {
		return nil
	}
	return w.administer("DROP DATABASE IF EXISTS " + c.name + " WITH (FORCE)")
}

// administer sends a statement to the server of the database, from outside of it.
func (w *world) administer(sql string) error {
	u, err := database(w.cfg.URL, "postgres")
	if err != nil {
		return err
	}
	return admin(context.WithoutCancel(w.ctx), u, sql)
}

// letGo closes all connections to the database.
func (w *world) letGo() {
	w.disarm()
	w.db.Reset()
	for _, r := range w.replicas {
		r.pool.Reset()
	}
}

// copyDatabase notes the database as it is now.
func (w *world) copyDatabase() error {
	u, err := url.Parse(w.cfg.URL)
	if err != nil {
		return errors.New("sim: the database's address does not parse")
	}
	seq, err := w.seq()
	if err != nil {
		return err
	}
	name := strings.TrimPrefix(u.Path, "/")
	w.copied = &copied{name: fmt.Sprintf("sim_%x", sha256.Sum256([]byte(name)))[:24], seq: uint64(seq)}
	w.tracef("the database is backed up at %d", seq)
	w.letGo()
	// What the server notes beside its answers must not hold the copy up.
	for _, sql := range []string{
		"ALTER DATABASE " + name + " ALLOW_CONNECTIONS false",
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '" + name + "'",
		"CREATE DATABASE " + w.copied.name + " TEMPLATE " + name + " STRATEGY file_copy",
		"ALTER DATABASE " + name + " ALLOW_CONNECTIONS true",
	} {
		err := w.administer(sql)
		for range 3 {
			if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.Code != "55006" {
				break
			}
			err = w.administer(sql) // a server that ends takes its time
		}
		if err != nil {
			return err
		}
	}
	w.letGo() // of what was terminated
	return nil
}

// restoreDatabase puts the older state in the place of the database, while phones go on.
func (w *world) restoreDatabase() error {
	if w.copied == nil {
		return nil
	}
	c := w.copied
	w.copied = nil
	u, err := url.Parse(w.cfg.URL)
	if err != nil {
		return errors.New("sim: the database's address does not parse")
	}
	name := strings.TrimPrefix(u.Path, "/")
	w.act.Restores++
	w.letGo()
	for _, sql := range []string{"DROP DATABASE " + name + " WITH (FORCE)", "ALTER DATABASE " + c.name + " RENAME TO " + name} {
		if err := w.administer(sql); err != nil {
			return err
		}
	}
	w.letGo()
	// What shows that it was restored: a dump or base backup on another server, or nothing but the operator's word.
	byHand := w.one(3)
	w.tracef("the database is restored as it was at %d, by hand=%v", c.seq, byHand)
	if !byHand {
		if _, err := w.db.Exec(w.ctx, `UPDATE line SET system = system + 1`); err != nil {
			return err
		}
	}
	for _, r := range w.replicas {
		if w.one(2) { // the servers were restarted
			if err := w.serve(r); err != nil {
				return err
			}
		}
		if err := r.pool.Ping(w.ctx); err != nil {
			return err
		}
	}
	if byHand {
		if err := w.replicas[0].app.Engine.OpenEpoch(w.ctx); err != nil {
			return err
		}
	}
	// Postgres has told the moment of the restore by its own clock, which is not the world's.
	if _, err := w.db.Exec(w.ctx, `UPDATE org_clock SET cuts = jsonb_set(cuts, '{-1,at}', to_jsonb($1::bigint))`, w.clock.Load()); err != nil {
		return err
	}
	return w.lost(c.seq)
}

// lost makes the model forget what the database has lost.
func (w *world) lost(after uint64) error {
	w.model.Lost(after)
	here := map[satchel.ID]bool{}
	rows, err := w.db.Query(w.ctx, `SELECT id FROM record WHERE org_id = $1`, w.Org)
	if err != nil {
		return err
	}
	var id satchel.ID
	if _, err := pgx.ForEachRow(rows, []any{&id}, func() error { here[id] = true; return nil }); err != nil {
		return err
	}
	for _, p := range w.phones {
		p.excuse()
		p.backupDisk.excused = 2
		p.disk.unsettle(after)
		p.backupDisk.unsettle(after)
		p.held = map[satchel.ID]string{}
		err := p.store.View(w.ctx, func(tx satchelclient.ReadTx) error {
			return tx.Scan(satchelclient.TableRecord, nil, nil, func(key, _ []byte) error {
				id, kind := satchel.ID(key[len(key)-16:]), string(key[:len(key)-17])
				if !here[id] && slices.Contains(salvagedKinds, kind) {
					p.held[id] = kind
				}
				return nil
			})
		})
		if err != nil {
			return err
		}
		if p.damaged {
			p.held = nil
		}
	}
	return nil
}

// salvagedKinds are those of records that people make.
var salvagedKinds = []string{"account", "contact", "visit", "photo", "task", "quote"}

// unsettle forgets that verdicts above the commit were given.
func (d *disk) unsettle(after uint64) {
	for _, o := range d.mine {
		for field, mk := range o.marks {
			if mk.settled > after {
				mk.settled = 0
				o.marks[field] = mk
			}
		}
	}
}
