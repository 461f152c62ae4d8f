package nemesis

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	satchel "github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/clients/go/memstore"
	"github.com/satchel-sync/satchel/clients/go/sqlitestore"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/internal/sim/model"
)

// phone is a person's device. It belongs to the goroutine that works on it; deadly and inbox are for others.
type phone struct {
	w       *world
	index   int
	name    string
	login   string
	rnd     *rand.Rand
	hand    *model.Hand
	client  *satchelclient.Client
	store   satchelclient.Store
	file    string // of the store; "" = it is in memory
	net     *http.Transport
	way     *way
	conns   atomic.Int64 // so far
	deadly  atomic.Int64 // the points until it is killed; 0 = it is not
	inbox   chan func(*phone) error
	point   string
	texts   int
	refused int // sign-ins
	lives   int // times that its store was rolled back
	boots   int
	boot    time.Time
	disk

	muts  []*model.Mutation
	heard []heard
	act   Activity
}

// disk is what was durable on a phone at some moment, beside what the phone itself keeps.
type disk struct {
	owes  map[satchel.ID]bool // mutations recorded here: each gets a verdict in the end
	read  uint64              // last line of the verdict log that was read
	order uint64              // last place in the outbox that was read
}

func (d disk) clone() disk {
	d.owes = maps.Clone(d.owes)
	return d
}

// heard is a verdict as a phone was told it.
type heard struct {
	id      satchel.ID
	verdict *satchelv1.Verdict
}

type killed struct{}

// Of phones.
const (
	callTime = 1500 * time.Millisecond // of one call, while there are faults
	stepTime = 4 * time.Second
	quiet    = 130 // ms between two steps, at most
)

// newPhone unpacks a phone for a person. Every other one keeps its store on disk.
func (w *world) newPhone(index int, login string) (*phone, error) {
	p := &phone{w: w, index: index, login: login, disk: disk{owes: map[satchel.ID]bool{}}}
	if index%2 == 1 {
		p.file = filepath.Join(w.dir, fmt.Sprintf("phone-%d.db", index))
	} else {
		p.store = memstore.New()
	}
	return p, p.set()
}

// twin is a second phone on a copy of a store.
func (w *world) twin(index int, login string, s saved) (*phone, error) {
	p := &phone{w: w, index: index, login: login, disk: s.disk, file: s.file}
	if s.memory != nil {
		p.store = s.memory
	}
	return p, p.set()
}

// set gives a phone its way, its person and its draws, and opens it.
func (p *phone) set() (err error) {
	w := p.w
	p.name = fmt.Sprintf("%s-%d", p.login, p.index)
	p.inbox = make(chan func(*phone) error, 16)
	p.rnd = rand.New(rand.NewPCG(w.seed, uint64(1000+p.index)))
	p.hand = &model.Hand{Rnd: p.rnd, Me: w.People[p.login], Others: w.Others(), Now: time.Now, NewID: satchel.NewID, Text: p.text,
		Show: func(kind string) []satchelclient.Record { return w.model.Shown(w.ctx, p.holder(), kind) }}
	if p.way, err = newWay(func() string { return w.stage.address(p.index + int(p.conns.Add(1))) }); err != nil {
		return err
	}
	return p.open()
}

// text is a value that nobody wrote before.
func (p *phone) text() string {
	p.texts++
	return fmt.Sprintf("<%s.%d>", p.name, p.texts)
}

// life names the phone since its store was last rolled back.
func (p *phone) life() string { return p.name + strings.Repeat("'", p.lives) }

func (p *phone) holder() model.Holder {
	return model.Holder{Name: p.name, Login: p.login, Person: p.w.People[p.login], Client: p.client, Store: p.store}
}

// open starts the app on what the store holds, again where it is killed while it starts.
func (p *phone) open() error {
	for {
		dead, err := p.start()
		if !dead {
			return err
		}
		p.died()
		if err := p.shut(); err != nil {
			return err
		}
	}
}

func (p *phone) died() {
	p.act.PhoneKills++
	p.w.tracef("%s is killed at %s", p.name, p.point)
}

func (p *phone) start() (dead bool, err error) {
	defer func() {
		if r := recover(); r == (killed{}) {
			dead = true
		} else if r != nil {
			panic(r)
		}
	}()
	p.deadly.Store(0)
	if p.net != nil {
		p.net.CloseIdleConnections()
	}
	if p.client != nil {
		err := p.client.Close()
		if p.client = nil; err != nil {
			return false, err
		}
	}
	if p.file != "" && p.store == nil {
		if p.store, err = sqlitestore.Open(p.w.ctx, p.file); err != nil {
			return false, err
		}
	}
	dialer := &net.Dialer{Timeout: callTime}
	p.net = &http.Transport{DialContext: dialer.DialContext, MaxConnsPerHost: 4, IdleConnTimeout: time.Minute}
	p.boots++
	p.boot = time.Now()
	p.client, err = satchelclient.New(satchelclient.Config{
		BaseURL: p.way.url(), Store: p.store, HTTPClient: &http.Client{Transport: p.net}, Timeout: callTime,
		Monotonic: func() (string, uint64) {
			return fmt.Sprintf("%s/%d", p.name, p.boots), uint64(time.Since(p.boot).Milliseconds())
		},
		MaxBytes: []uint32{0, 16 << 10, 1 << 10}[p.index%3],
		Step:     p.step,
	})
	return false, err
}

// shut closes the store and the connections.
func (p *phone) shut() error {
	p.net.CloseIdleConnections()
	if p.file == "" || p.store == nil {
		return nil
	}
	err := p.store.Close()
	p.store = nil
	return err
}

// close is the end of the phone.
func (p *phone) close() {
	if p.way != nil {
		p.way.close()
	}
	if p.net != nil {
		_ = p.shut() // what it held has been looked at
	}
}

// step is called by the client at each point where a kill must be harmless.
func (p *phone) step(point string) {
	p.point = point
	if p.deadly.Load() > 0 && p.deadly.Add(-1) == 0 {
		panic(killed{})
	}
}

// alive runs fn; dead tells that the phone died in it. It is then started again on what its store holds.
func (p *phone) alive(fn func() error) (dead bool, err error) {
	defer func() {
		if r := recover(); r == (killed{}) {
			dead = true
			p.died()
			if err = errors.Join(p.shut(), p.open()); err != nil {
				p.w.fail("S1", "%s does not start after a kill at %s: %v", p.name, p.point, err)
			}
		} else if r != nil {
			panic(r)
		}
	}()
	return false, fn()
}

// copyTo writes the store into another file.
func copyFile(from, to string) error {
	for _, end := range []string{"", "-wal"} {
		b, err := os.ReadFile(from + end)
		if errors.Is(err, os.ErrNotExist) && end != "" {
			_ = os.Remove(to + end) // a log of other data must not lie beside it
			continue
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(to+end, b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// saved is a copy of a phone's store.
type saved struct {
	memory *memstore.Store
	file   string
	disk   disk
}

// save copies the store as it stands.
func (p *phone) save(name string) (saved, error) {
	s := saved{disk: p.disk.clone()}
	if m, ok := p.store.(*memstore.Store); ok {
		s.memory = m.Clone()
		return s, nil
	}
	s.file = filepath.Join(p.w.dir, name)
	if err := p.shut(); err != nil {
		return s, err
	}
	return s, errors.Join(copyFile(p.file, s.file), p.open())
}

// restore rolls the store back.
func (p *phone) restore(s saved) error {
	p.disk = s.disk
	p.lives++
	if err := p.shut(); err != nil {
		return err
	}
	if s.memory != nil {
		p.store = s.memory
	} else if err := copyFile(s.file, p.file); err != nil {
		return err
	}
	return p.open()
}

// work does the phone's share of a run: its drawn steps, then waiting for what others do, until calm.
func (p *phone) work(ctx context.Context, calm <-chan struct{}) {
	worked := sync.OnceFunc(p.w.worked.Done)
	defer worked()
	for i := 0; ; i++ {
		pause := time.Duration(p.rnd.IntN(quiet)) * time.Millisecond
		select {
		case <-calm:
			return
		case do := <-p.inbox:
			if err := do(p); err != nil {
				p.w.fail("S1", "%s does not go on: %v", p.name, err)
				return
			}
			i--
			continue
		case <-time.After(pause):
		}
		limited, cancel := context.WithTimeout(ctx, stepTime)
		if i < steps {
			p.drawn(limited)
		} else {
			p.idle(limited)
		}
		cancel()
		if i+1 >= steps {
			worked()
		}
	}
}

// drawn is one step of work.
func (p *phone) drawn(ctx context.Context) {
	n, deadly := p.rnd.IntN(100), 0
	if p.rnd.IntN(14) == 0 {
		deadly = 1 + p.rnd.IntN(10)
	}
	if deadly > 0 {
		p.deadly.Store(int64(deadly))
	}
	switch {
	case n < 14:
		p.put(ctx, p.hand.Meet())
	case n < 62:
		p.put(ctx, p.hand.Draw())
		if n%3 == 0 {
			_, _ = p.sync(ctx, p.client.SyncOnce) // sync itself looks at what came of it
		}
	case n < 86:
		_, _ = p.sync(ctx, p.client.SyncOnce) // sync itself looks at what came of it
	case n < 94:
		_, _ = p.sync(ctx, p.client.Sync) // sync itself looks at what came of it
	default:
		p.net.CloseIdleConnections() // the next call goes to the other replica
		p.idle(ctx)
	}
}

// idle waits for the server's hint, and syncs.
func (p *phone) idle(ctx context.Context) {
	waiting, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	_, err := p.client.Wait(waiting)
	if errors.Is(err, satchelclient.ErrSignInAgain) {
		p.again(ctx)
	}
	_, _ = p.sync(ctx, p.client.SyncOnce) // sync itself looks at what came of it
}

// put records what the person does; nil = nothing.
func (p *phone) put(ctx context.Context, b *satchelclient.Batch) {
	if b == nil {
		return
	}
	_, err := p.alive(func() error {
		_, err := p.client.Record(ctx, b)
		return err
	})
	if err != nil && ctx.Err() == nil {
		p.w.fail("S3", "%s cannot record: %v", p.name, err)
	}
	p.noted()
}

// sync makes round trips and looks at what came of them.
func (p *phone) sync(ctx context.Context, call func(context.Context) (satchelclient.Result, error)) (r satchelclient.Result, err error) {
	dead, err := p.alive(func() (err error) {
		r, err = call(ctx)
		return err
	})
	p.act.Forks += r.Forked
	p.learn()
	p.w.model.CheckPairs(p.w.ctx, p.holder()) // at any moment: what is shown is that of a checkpoint
	switch {
	case dead:
	case err != nil:
		p.w.tracef("%s: sync: %v", p.name, err)
		if errors.Is(err, satchelclient.ErrSignInAgain) {
			p.again(ctx)
		}
	default:
		p.w.tracef("%s: sync: sent %d settled %d pending %d changes %d forked %d", p.name, r.Sent, len(r.Settled), r.Pending, r.Changes, r.Forked)
	}
	return r, err
}

// again signs the person in. Who was refused twice waits for the office: more attempts would close the login for minutes.
func (p *phone) again(ctx context.Context) {
	if p.refused >= 2 {
		return
	}
	err := p.signIn(ctx)
	if err != nil {
		p.w.tracef("%s: sign in: %v", p.name, err)
	}
	if e, ok := errors.AsType[*satchelclient.Error](err); ok && e.Reason == satchel.ReasonBadCredentials {
		p.refused++
	}
}

func (p *phone) signIn(ctx context.Context) error {
	_, err := p.alive(func() error {
		return p.client.SignIn(ctx, p.w.Credentials(p.login, p.name))
	})
	return err
}

// noted reads from the outbox what was recorded since; whatever a kill left there counts, and nothing else does.
func (p *phone) noted() {
	err := p.store.View(p.w.ctx, func(tx satchelclient.ReadTx) error {
		var after []byte
		if p.order > 0 {
			after = binary.BigEndian.AppendUint64(nil, p.order)
		}
		return tx.Scan(satchelclient.TableOutbox, nil, after, func(k, value []byte) error {
			m := new(satchelv1.Mutation)
			if err := proto.Unmarshal(value, m); err != nil {
				return err
			}
			p.order = binary.BigEndian.Uint64(k)
			id := satchel.MustParseID(m.Id)
			p.muts = append(p.muts, &model.Mutation{ID: id, Phone: p.life(), Person: p.w.People[p.login], Order: p.order, Ops: m.Ops})
			p.owes[id] = true
			return nil
		})
	})
	if err != nil {
		p.w.fail("S3", "%s: the outbox cannot be read: %v", p.name, err)
	}
}

// learn reads what the phone was told of its mutations.
func (p *phone) learn() {
	for {
		lines, err := p.client.Settled(p.w.ctx, p.read, 100)
		if err != nil {
			p.w.fail("S3", "%s: the log cannot be read: %v", p.name, err)
			return
		}
		for _, l := range lines {
			p.read = l.Order
			p.heard = append(p.heard, heard{satchel.MustParseID(l.Mutation.Id), l.Verdict})
			p.act.Verdicts++
			switch l.Verdict.Status {
			case satchelv1.Status_STATUS_CONFLICTED, satchelv1.Status_STATUS_MERGED:
				p.act.Conflicts++
			case satchelv1.Status_STATUS_REJECTED:
				p.act.Refused++
			}
		}
		if len(lines) < 100 {
			return
		}
	}
}

// owed lists what the phone awaits a fate of.
func (p *phone) owed() []satchel.ID { return slices.Collect(maps.Keys(p.owes)) }
