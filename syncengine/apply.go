package syncengine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/pg"
)

// tries bounds how often a transaction that lost against others is done again.
const tries = 6

// Apply applies a batch of one device in one transaction and tells the fate of its mutations. Mutations behind a gap,
// and what is left when the deadline or the bound on heads is reached, have no verdict: they are still pending. The
// error is nil unless the database cannot be reached; then nothing is known of the batch, and sending it again is safe.
func (e *Engine) Apply(ctx context.Context, p *satchel.Principal, in Batch) (Outcome, error) {
	in.Mutations = consecutive(in.Mutations)
	if len(in.Mutations) == 0 {
		return Outcome{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Deadline)
	defer cancel()

	out, err := e.attempt(ctx, p, in)
	if byData(err) {
		out, err = e.oneByOne(ctx, p, in)
	}
	switch {
	case err == nil:
		return out, nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		out.Undone = satchel.ReasonDeadline
		return out, nil
	case lostRace(err):
		out.Undone = satchel.ReasonBusy
		return out, nil
	case len(out.Verdicts) > 0:
		return out, nil // what is settled is settled; the rest is still pending
	}
	return Outcome{}, pg.ToError(err)
}

// byData tells whether an error comes from what a mutation holds, so that doing it again would fail again.
func byData(err error) bool {
	class := pg.Classify(err)
	return !lostRace(err) && (class == pg.BadData || class == pg.Timeout || isFault(err))
}

// attempt runs the flow until it is not in the way of others.
func (e *Engine) attempt(ctx context.Context, p *satchel.Principal, in Batch) (out Outcome, err error) {
	err = e.retry(ctx, func() error {
		out, err = e.flow(ctx, p, in)
		in.occupied = in.occupied || takenIn(err, "head")
		return err
	})
	return out, err
}

// flow is one batch of one device: one transaction.
func (e *Engine) flow(ctx context.Context, p *satchel.Principal, in Batch) (Outcome, error) {
	tx, err := pg.Begin(ctx, e.cfg.Pool, pg.ReadCommitted)
	if err != nil {
		return Outcome{}, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	b := e.newBatch(tx, p, in)

	if err := b.load(ctx); err != nil { // 1 seen, 2 load: one round trip
		return Outcome{}, err
	}
	if b.forked() {
		return Outcome{Fork: true, Expected: b.lane.next}, nil
	}
	for _, m := range b.pending() {
		if err := b.mutate(ctx, m); errors.Is(err, errFull) { // 3 check, 4 merge
			break
		} else if err != nil {
			return Outcome{}, err
		}
	}
	if len(b.settled) == 0 {
		return b.outcome(0), nil
	}
	if err := b.finish(ctx); err != nil { // attentions, placement
		return Outcome{}, err
	}
	if err := b.react(ctx); err != nil { // 6 react
		return Outcome{}, err
	}
	seq, err := b.commit(ctx) // 5 write, 7 number, COMMIT: one round trip
	if err != nil {
		return Outcome{}, err
	}
	b.wake()
	return b.outcome(seq), nil
}

// oneByOne does a batch again, one mutation a transaction, because Postgres refused something in it (S5): the one that
// fails again (by a time-out: for the third time in this call) is refused and its bytes are kept. The outcome holds what
// was settled also where there is an error.
func (e *Engine) oneByOne(ctx context.Context, p *satchel.Principal, in Batch) (Outcome, error) {
	var all Outcome
	for i := range in.Mutations {
		one := in
		one.Mutations = in.Mutations[i : i+1]
		out, err := e.attempt(ctx, p, one)
		if pg.Classify(err) == pg.Timeout {
			out, err = e.attempt(ctx, p, one)
		}
		if byData(err) {
			e.cfg.Logger.Error("syncengine: Postgres refused a mutation", "org", p.Org, "device", p.Device,
				"number", one.Mutations[0].Number, "sqlstate", sqlState(err))
			one.culprit = true
			out, err = e.attempt(ctx, p, one)
		}
		if err != nil {
			return all, err
		}
		all.Verdicts = append(all.Verdicts, out.Verdicts...)
		all.Expected, all.Fork = out.Expected, out.Fork
		if len(out.Verdicts) == 0 {
			break
		}
	}
	return all, nil
}

// Submit applies what a system source does; see [SystemMutation]. Its verdict is stored under (source, key): sent
// again, it takes effect once and the verdict is the same.
func (e *Engine) Submit(ctx context.Context, m SystemMutation) (Verdict, error) {
	out, err := e.submit(ctx, m)
	if errors.Is(err, context.DeadlineExceeded) {
		return Verdict{}, &satchel.Error{Kind: satchel.Contention, Reason: satchel.ReasonDeadline,
			Detail: "the change took too long; send it again under the same key, it takes effect once", Err: err}
	}
	if err != nil {
		return Verdict{}, pg.ToError(err)
	}
	return out.Verdicts[0], nil
}

// submit runs the flow of a system mutation until it is not in the way of others; past the deadline its error says so.
func (e *Engine) submit(ctx context.Context, m SystemMutation) (out Outcome, err error) {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Deadline)
	defer cancel()
	err = e.retry(ctx, func() error {
		out, err = e.flowSystem(ctx, m)
		return err
	})
	if err != nil && ctx.Err() != nil {
		err = errors.Join(ctx.Err(), err)
	}
	return out, err
}

// flowSystem is the flow of a system mutation.
func (e *Engine) flowSystem(ctx context.Context, m SystemMutation) (Outcome, error) {
	tx, err := pg.Begin(ctx, e.cfg.Pool, pg.ReadCommitted)
	if err != nil {
		return Outcome{}, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	b := e.newSystemBatch(tx, m)
	if err := b.load(ctx); err != nil {
		return Outcome{}, err
	}
	if b.known != nil {
		return Outcome{Verdicts: []Verdict{*b.known}}, nil
	}
	if m.kept != nil && m.kept.discard {
		b.settled = append(b.settled, settledMutation{b.in.Mutations[0], Verdict{Status: Applied}})
	} else if err := b.mutate(ctx, b.in.Mutations[0]); err != nil {
		return Outcome{}, err
	}
	if b.fruitless() {
		return b.outcome(0), nil
	}
	if err := b.finish(ctx); err != nil {
		return Outcome{}, err
	}
	if err := b.react(ctx); err != nil {
		return Outcome{}, err
	}
	seq, err := b.commit(ctx)
	if err != nil {
		return Outcome{}, err
	}
	b.wake()
	return b.outcome(seq), nil
}

// retry does fn again while it only lost against others: locks, changed rights, a source's key taken meanwhile.
func (e *Engine) retry(ctx context.Context, fn func() error) error {
	for try := 1; ; try++ {
		err := fn()
		if err == nil || try == tries || !lostRace(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Duration(rand.Int64N(int64(try) * int64(5*time.Millisecond)))):
		}
	}
}

func lostRace(err error) bool {
	if errors.Is(err, errMoved) || pg.Classify(err) == pg.Retry {
		return true
	}
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgErr.Code == "SA001" || takenIn(err, "ledger_source", "record", "bucket_name", "head")
}

// takenIn tells whether the key of a row to be inserted is taken, in one of the tables.
func takenIn(err error, tables ...string) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgErr.Code == "23505" && slices.Contains(tables, pgErr.TableName)
}

// errFull says that a mutation does not fit into the commit any more: it is done in the next one.
var errFull = errors.New("syncengine: the commit is full")

// fault is an error of a command, guard or observer that is neither a refusal nor the database's: by a mistake of ours,
// doing it again would fail again. The mutation is refused and kept, so that it blocks nothing (S5).
type fault struct {
	where string
	err   error
}

func (f *fault) Error() string { return f.where + ": " + f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

func isFault(err error) bool {
	_, ok := errors.AsType[*fault](err)
	return ok
}

// faultOf marks an error of a feature as a fault, unless it has a meaning of its own.
func faultOf(where string, err error) error {
	_, refusal := errors.AsType[*Refusal](err)
	_, pgErr := errors.AsType[*pgconn.PgError](err)
	if err == nil || refusal || pgErr || lostRace(err) || pg.Classify(err) != pg.Other {
		return err
	}
	return &fault{where, err}
}

// shielded runs what features and schemas gave, and makes an error of a panic.
func (b *batch) shielded(where string, fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			b.e.cfg.Logger.Error("syncengine: a panic", "org", b.orgID, "where", where, "panic", fmt.Sprintf("%T", r), "stack", string(debug.Stack()))
			err = &fault{where, errors.New("panic")}
		}
	}()
	return fn()
}

// errMoved undoes a batch whose premises changed while it ran.
var errMoved = errors.New("syncengine: what was read has changed meanwhile")

func sqlState(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code
	}
	return ""
}

// consecutive cuts a batch at the first gap: what is behind it gets no verdict. A skip, whose run is longer than the
// numbers of its mutations, is a batch of its own.
func consecutive(ms []Mutation) []Mutation {
	for i := 1; i < len(ms); i++ {
		if ms[i].Number != ms[i-1].Number+1 || ms[i].Skip != nil || ms[0].Skip != nil {
			return ms[:i]
		}
	}
	return ms[:min(len(ms), MaxBatch)]
}

// inTx runs fn in a transaction of the engine's own tables.
func (e *Engine) inTx(ctx context.Context, fn func(ctx context.Context, tx pgx.Tx) error) error {
	return pg.InTx(ctx, e.cfg.Pool, fn)
}
