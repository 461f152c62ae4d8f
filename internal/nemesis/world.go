package nemesis

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/internal/sim/model"
)

// holders are the persons of the phones; the phones' numbers are their places.
var holders = []string{"dina", "mei", "ann", "ann", "ben", "ass", "sam", "cem"}

// world is one run of a seed on a stage.
type world struct {
	model.Company
	ctx    context.Context
	stage  *stage
	seed   uint64
	dir    string
	model  *model.Model
	began  time.Time
	worked sync.WaitGroup         // phones that have drawn steps left
	all    sync.WaitGroup         // phones at work
	calm   chan struct{}          // closed when phones are to stop
	turns  map[string]*sync.Mutex // by login: of two phones with one store, a sign-in ends the other's session

	mu     sync.Mutex // guards what follows
	phones []*phone
	act    Activity
	failed []string
	early  []satchel.ID // took effect, and was refused when it came again after a restore
	trace  io.Writer    // nil = nobody
}

func newWorld(ctx context.Context, s *stage, seed uint64, trace io.Writer) (w *world, err error) {
	s.orgs++
	w = &world{ctx: ctx, stage: s, seed: seed, calm: make(chan struct{}), turns: map[string]*sync.Mutex{}, trace: trace, began: time.Now()}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.dir, err = os.MkdirTemp(s.dir, "phones-"); err != nil {
		return w, err
	}
	return w, w.found(fmt.Sprintf("sim-%d", s.orgs))
}

// found makes the company and its people's phones.
func (w *world) found(slug string) (err error) {
	if w.Company, err = model.Found(w.ctx, w.stage.office, w.stage.pool, slug, satchel.NewID); err != nil {
		return err
	}
	w.model = &model.Model{DB: w.stage.pool, Org: w.Org, Now: time.Now, Muts: map[satchel.ID]*model.Mutation{}, Fail: w.fail, Trace: w.tracef}
	for login := range w.People {
		w.turns[login] = new(sync.Mutex)
	}
	for i, login := range holders {
		p, err := w.newPhone(i, login)
		w.phones = append(w.phones, p)
		if err == nil {
			err = p.signIn(w.ctx)
		}
		if err != nil {
			return fmt.Errorf("nemesis: %s cannot sign in: %w", p.name, err)
		}
	}
	return nil
}

func (w *world) close() {
	for _, p := range w.phones {
		p.close()
	}
	if w.dir != "" {
		_ = os.RemoveAll(w.dir) // goes with the stage otherwise
	}
}

func (w *world) tracef(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.trace != nil {
		fmt.Fprintf(w.trace, "%6d "+format+"\n", append([]any{time.Since(w.began).Milliseconds()}, args...)...)
	}
}

// maxFailed bounds how many broken promises of a run are told; one that went wrong goes wrong in many places.
const maxFailed = 20

// fail notes a broken promise.
func (w *world) fail(promise, format string, args ...any) {
	text := promise + ": " + fmt.Sprintf(format, args...)
	w.tracef("FAILED %s", text)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.failed) < maxFailed {
		w.failed = append(w.failed, text)
	}
}

func (w *world) count(add func(*Activity)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	add(&w.act)
}

// launch lets a phone work; the caller holds mu or is alone.
func (w *world) launch(p *phone) {
	w.worked.Add(1)
	w.all.Go(func() { p.work(w.ctx, w.calm) })
}

// run lets all phones work while the schedule happens.
func (w *world) run(events []event) error {
	w.began = time.Now()
	for _, p := range w.phones {
		w.launch(p)
	}
	type moment struct {
		at time.Duration
		do func() error
	}
	var plan []moment
	for _, e := range events {
		begin, end := w.effect(e)
		plan = append(plan, moment{e.at, func() error { w.tracef("event %s", e); return begin() }})
		if end != nil {
			plan = append(plan, moment{e.at + e.last, func() error { w.tracef("event %d is over", e.number); return end() }})
		}
	}
	slices.SortStableFunc(plan, func(a, b moment) int { return int(a.at - b.at) })
	var err error
	for _, m := range plan {
		select {
		case <-w.ctx.Done():
			err = w.ctx.Err()
		case <-time.After(time.Until(w.began.Add(m.at))):
			err = m.do()
		}
		if err != nil {
			break
		}
	}
	if err == nil {
		err = w.await(&w.worked)
	}
	close(w.calm)
	return errors.Join(err, w.await(&w.all))
}

// await waits for a group, at most as long as the run may take.
func (w *world) await(g *sync.WaitGroup) error {
	done := make(chan struct{})
	go func() { g.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-w.ctx.Done():
		return fmt.Errorf("nemesis: phones do not come to an end: %w", w.ctx.Err())
	}
}

// rounds and roundAhead bound how long all may take to come to rest.
const (
	rounds     = 16
	roundAhead = 3 * time.Hour
)

// heal ends all trouble, and gives phones and jobs the time that S20 allows.
func (w *world) heal() error {
	w.tracef("healing")
	for _, p := range w.phones {
		p.deadly.Store(0)
		p.refused = 0
		p.way.set(open, open, 0)
		p.way.cut()
	}
	if err := w.stage.heal(w.ctx); err != nil {
		return err
	}
	for _, r := range w.stage.replicas {
		if text := r.trouble(); text != "" {
			w.fail("S20", "%s", text)
		}
	}
	if err := w.EnableAll(w.ctx, w.stage.office.Identity); err != nil {
		return fmt.Errorf("nemesis: people cannot be enabled: %w", err)
	}
	for _, p := range w.phones { // what was asked of them when they had stopped
		for len(p.inbox) > 0 {
			if err := (<-p.inbox)(p); err != nil {
				return err
			}
		}
	}
	for round := range rounds {
		last := round == rounds-1
		if err := w.jobsRest(); err != nil {
			return err
		}
		w.stage.ahead.Add(int64(roundAhead))
		ran, err := w.stage.office.Jobs.Step(w.ctx)
		if err != nil {
			return fmt.Errorf("nemesis: jobs do not step on a healthy database: %w", err)
		}
		var busy sync.WaitGroup
		moved := make([]int, len(w.phones))
		for i, p := range w.phones {
			busy.Go(func() { moved[i] = w.rest(p, last) })
		}
		busy.Wait()
		for _, n := range moved {
			ran += n
		}
		w.tracef("round %d: %d things happened", round, ran)
		if ran == 0 {
			return w.nothingDue()
		}
	}
	w.fail("S20", "it does not come to rest")
	return nil
}

// jobsRest waits until no server works a job of the organisation, or only dead ones seem to.
func (w *world) jobsRest() error {
	for range 40 {
		var n int
		if err := w.stage.pool.QueryRow(w.ctx, `SELECT count(*) FROM river_job WHERE state = 'running' AND args ->> 'org' = $1`,
			w.Org.String()).Scan(&n); err != nil || n == 0 {
			return err
		}
		select {
		case <-w.ctx.Done():
			return w.ctx.Err()
		case <-time.After(25 * time.Millisecond):
		}
	}
	return nil
}

// nothingDue proves that no job waits that should have run, and that none was given up.
func (w *world) nothingDue() error {
	rows, err := w.stage.pool.Query(w.ctx, `SELECT kind || ' ' || state::text || ' ' || coalesce(errors[array_upper(errors, 1)] ->> 'error', '')
		FROM river_job WHERE args ->> 'org' = $1 AND (state = 'discarded' OR state IN ('available', 'running', 'retryable', 'scheduled') AND scheduled_at < now())`,
		w.Org.String())
	if err != nil {
		return err
	}
	left, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, text := range left {
		w.fail("S20", "a job is left: %s", text)
	}
	return err
}

// rest lets a phone come into step, and tells how much happened.
func (w *world) rest(p *phone, last bool) int {
	turn := w.turns[p.login]
	turn.Lock()
	defer turn.Unlock()
	ctx, cancel := context.WithTimeout(w.ctx, 20*time.Second)
	defer cancel()
	r, err := p.sync(ctx, p.client.Sync)
	if errors.Is(err, satchelclient.ErrSignInAgain) {
		r, err = p.sync(ctx, p.client.Sync)
	}
	moved := r.Sent + r.Changes
	if err != nil {
		moved++
		if last {
			w.fail("S20", "%s cannot sync: %v", p.name, err)
		}
	}
	if r.Pending > 0 {
		moved++
		if last {
			w.fail("S20", "%s still has %d pending", p.name, r.Pending)
		}
	}
	return moved
}
