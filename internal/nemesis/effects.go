package nemesis

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"
)

// effect gives what an event does, and what ends it (nil = it ends by itself).
func (w *world) effect(e event) (begin, end func() error) {
	s := w.stage
	switch e.what {
	case killReplica:
		return func() error {
			w.count(func(a *Activity) { a.Kills++ })
			s.replicas[e.target].kill()
			return nil
		}, func() error { return w.again(e.target) }
	case stopReplica:
		return func() error {
			w.count(func(a *Activity) { a.Stops++ })
			s.replicas[e.target].signal(syscall.SIGSTOP)
			return nil
		}, func() error { s.replicas[e.target].signal(syscall.SIGCONT); return nil }
	case restartPG, haltPG, killPG:
		return func() error { return w.restart(e.what) }, nil
	case cutSessions:
		return func() error {
			w.count(func(a *Activity) { a.Cut++ })
			if err := s.cutSessions(w.ctx, e.target); err != nil {
				w.tracef("the sessions cannot be cut: %v", err)
			}
			return nil
		}, nil
	case failOver:
		return func() error {
			w.count(func(a *Activity) { a.Restarts++ })
			return s.failOver(w.ctx)
		}, nil
	case restoreOld:
		return func() error { return s.keepBackup(w.ctx) }, func() error {
			w.count(func(a *Activity) { a.Restarts++ })
			return s.restoreBackup(w.ctx)
		}
	case changeRights:
		return func() error { w.rights(e.choice); return nil }, nil
	}
	p := w.phones[e.target] // clones come behind
	switch e.what {
	case partition:
		return func() error {
			w.count(func(a *Activity) { a.Partitions++ })
			p.way.set(e.up, e.down, 0)
			return nil
		}, func() error { p.way.set(open, open, 0); return nil }
	case slowWay:
		return func() error {
			w.count(func(a *Activity) { a.Slow++ })
			p.way.set(open, open, time.Duration(20+e.choice%180)*time.Millisecond)
			return nil
		}, func() error { p.way.set(open, open, 0); return nil }
	case killPhone:
		return func() error { p.deadly.Store(int64(1 + e.choice%12)); return nil }, nil
	case restorePhone:
		var kept *saved
		return func() error {
				return w.tell(p, func(p *phone) error {
					s, err := p.save(fmt.Sprintf("backup-%d.db", e.number))
					kept = &s
					return err
				})
			}, func() error {
				return w.tell(p, func(p *phone) error {
					if kept == nil {
						return nil
					}
					w.count(func(a *Activity) { a.Restores++ })
					return p.restore(*kept)
				})
			}
	case clonePhone:
		return func() error {
			return w.tell(p, func(p *phone) error {
				s, err := p.save(fmt.Sprintf("clone-%d.db", e.number))
				if err != nil {
					return err
				}
				twin, err := w.twin(100+e.number, p.login, s)
				w.mu.Lock()
				defer w.mu.Unlock()
				w.phones = append(w.phones, twin)
				w.act.Clones++
				if err == nil {
					w.launch(twin)
				}
				return err
			})
		}, nil
	}
	return func() error { return fmt.Errorf("nemesis: nothing is known of %q", e.what) }, nil
}

// tell lets a phone do something between two of its steps.
func (w *world) tell(p *phone, do func(*phone) error) error {
	select {
	case p.inbox <- do:
		return nil
	case <-w.ctx.Done():
		return w.ctx.Err()
	}
}

// again starts a replica, beside what else happens.
func (w *world) again(replica int) error {
	r := w.stage.replicas[replica]
	if r.at() != "" {
		return nil // killed twice, started already
	}
	return r.start(w.ctx)
}

// restart takes Postgres away, and brings it back.
func (w *world) restart(how fault) error {
	w.count(func(a *Activity) { a.Restarts++ })
	db := w.stage.db
	var err error
	switch how {
	case haltPG:
		err = db.Halt()
	case killPG:
		err = db.Kill()
	}
	return errors.Join(err, db.Restart(w.ctx))
}

// rights moves people and teams about, as an administrator does.
func (w *world) rights(choice uint64) {
	r := rand.New(rand.NewPCG(choice, 1))
	login := w.AnyLogin(r)
	for range 5 { // Postgres may be away
		told, change := w.DrawChange(r, login)
		err := change(w.ctx, w.stage.office.Identity)
		w.tracef("rights: %s, %v", told, err)
		if err == nil {
			w.count(func(a *Activity) { a.RightsChanged++ })
			return
		}
	}
}
