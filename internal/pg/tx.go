package pg

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// BeginSQL is the statement that begins a transaction.
type BeginSQL string

// The two ways in which Satchel begins a transaction.
const (
	ReadCommitted BeginSQL = "begin isolation level read committed read write"
	OneSnapshot   BeginSQL = "begin isolation level repeatable read read only"
)

// rollbackTimeout bounds a rollback, which does not stop for a caller's cancelled context.
const rollbackTimeout = 2 * time.Second

// Tx is a transaction whose BEGIN travels with its first statement or batch, and whose COMMIT can travel with its last
// ([Tx.SendBatchCommit]), so that a transaction of one batch is one round trip. It implements [pgx.Tx]. Like every
// pgx transaction it belongs to one goroutine, and results must be closed before the next statement.
//
// A Tx holds a connection until Commit, Rollback, or a SendBatchCommit that ended it; always defer Rollback.
type Tx struct {
	conn       *pgxpool.Conn
	begin      BeginSQL
	begun      bool // BEGIN is on its way or done
	done       bool // the connection is given back
	committed  bool // the server confirmed the commit
	rolledBack bool // Rollback was called
	savepoints int
}

var _ pgx.Tx = (*Tx)(nil)

// Begin takes a connection from the pool; nothing is sent before the first statement. begin "" means ReadCommitted.
func Begin(ctx context.Context, pool *pgxpool.Pool, begin BeginSQL) (*Tx, error) {
	if begin == "" {
		begin = ReadCommitted
	}
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	return &Tx{conn: conn, begin: begin}, nil
}

// Committed tells whether the server confirmed the commit.
func (tx *Tx) Committed() bool { return tx.committed }

// Conn gives the connection, for its type map and settings only: a statement sent over it directly may run before BEGIN.
func (tx *Tx) Conn() *pgx.Conn { return tx.conn.Conn() }

// errNotBegun is the answer to every statement after a first one that failed before Postgres executed BEGIN (a syntax
// error, an unknown table): without it the statement would run outside any transaction.
var errNotBegun = errors.New("pg: the transaction did not begin, for its first statement failed; roll back")

// usable tells whether a statement may be sent.
func (tx *Tx) usable() error {
	if tx.done {
		return pgx.ErrTxClosed
	}
	c := tx.conn.Conn()
	if c.IsClosed() {
		return pgconn.ErrConnClosed
	}
	if tx.begun && !c.PgConn().IsBusy() && c.PgConn().TxStatus() == 'I' {
		return errNotBegun
	}
	return nil
}

// prelude lists what goes before the first statement.
func (tx *Tx) prelude() []string {
	if l := stateOf(tx.conn.Conn()).limits; l != "" {
		return []string{string(tx.begin), l}
	}
	return []string{string(tx.begin)}
}

// ensureBegun spends a round trip on BEGIN, for the calls that it cannot travel with.
func (tx *Tx) ensureBegun(ctx context.Context) error {
	if err := tx.usable(); err != nil || tx.begun {
		return err
	}
	_, err := tx.Exec(ctx, "select")
	return err
}

// Exec runs one statement; without arguments sql may also be several, divided by semicolons.
func (tx *Tx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if err := tx.usable(); err != nil {
		return pgconn.CommandTag{}, err
	}
	if tx.begun {
		return tx.conn.Exec(ctx, sql, args...)
	}
	if len(args) == 0 {
		all := ""
		for _, p := range tx.prelude() {
			all += p + ";\n"
		}
		tx.begun = true
		return tx.conn.Exec(ctx, all+sql)
	}
	if hasOptions(args) {
		if err := tx.ensureBegun(ctx); err != nil {
			return pgconn.CommandTag{}, err
		}
		return tx.conn.Exec(ctx, sql, args...)
	}
	b := &pgx.Batch{}
	b.Queue(sql, args...)
	br := tx.SendBatch(ctx, b)
	tag, err := br.Exec()
	if cerr := br.Close(); err == nil {
		err = cerr
	}
	return tag, err
}

// Query runs one statement that gives rows.
func (tx *Tx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if err := tx.usable(); err != nil {
		return failedRows{err: err}, err
	}
	if !tx.begun && hasOptions(args) {
		if err := tx.ensureBegun(ctx); err != nil {
			return failedRows{err: err}, err
		}
	}
	if tx.begun {
		return tx.conn.Conn().Query(ctx, sql, args...)
	}
	b := &pgx.Batch{}
	b.Queue(sql, args...)
	br := tx.SendBatch(ctx, b)
	rows, err := br.Query()
	r := &firstRows{Rows: rows, br: br}
	if err != nil {
		r.Close()
		return r, err
	}
	return r, nil
}

// QueryRow runs one statement and gives its first row.
func (tx *Tx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, _ := tx.Query(ctx, sql, args...)
	return firstRow{rows}
}

// SendBatch sends all statements of b in one write, BEGIN in front where this is the first.
func (tx *Tx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	return tx.send(ctx, b, false)
}

// SendBatchCommit sends all statements of b and COMMIT in one write. Closing the results reads the outcome: nil means
// committed and confirmed. If a statement fails, COMMIT is not executed, Close gives the statement's error and the
// transaction waits for Rollback. [ErrUnknownCommit] and [ErrCommitted] say what they say. A callback or a value
// that cannot be scanned does not stop the COMMIT, which is already on its way: a check that must stop it has to be
// made by SQL that raises an error.
func (tx *Tx) SendBatchCommit(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	return tx.send(ctx, b, true)
}

func (tx *Tx) send(ctx context.Context, b *pgx.Batch, commit bool) pgx.BatchResults {
	if err := tx.usable(); err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	if tx.begun && !commit {
		return tx.conn.SendBatch(ctx, b)
	}
	r := &results{tx: tx, queries: b.QueuedQueries, commit: commit, cancel: func() {}}
	if commit {
		ctx, r.cancel = tx.bounded(ctx)
	}
	all := &pgx.Batch{}
	if !tx.begun {
		for _, p := range tx.prelude() {
			all.Queue(p)
			r.skip++
		}
	}
	all.QueuedQueries = append(all.QueuedQueries, b.QueuedQueries...)
	if commit {
		all.Queue("commit")
	}
	tx.begun = true
	r.inner = tx.conn.SendBatch(ctx, all)
	return r
}

// CopyFrom is COPY; it does not travel with BEGIN.
func (tx *Tx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error) {
	if err := tx.ensureBegun(ctx); err != nil {
		return 0, err
	}
	return tx.conn.CopyFrom(ctx, table, columns, src)
}

// Prepare prepares a statement on this connection; it outlives the transaction. It does not work through PgBouncer.
func (tx *Tx) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	if tx.done {
		return nil, pgx.ErrTxClosed
	}
	return tx.conn.Conn().Prepare(ctx, name, sql)
}

// LargeObjects is part of pgx.Tx and always panics: Satchel keeps no large objects in Postgres.
func (tx *Tx) LargeObjects() pgx.LargeObjects { panic("pg: large objects are not supported") }

// Begin sets a savepoint; its Commit releases it and its Rollback undoes what came after it.
func (tx *Tx) Begin(ctx context.Context) (pgx.Tx, error) {
	tx.savepoints++
	name := "satchel_" + strconv.Itoa(tx.savepoints)
	if _, err := tx.Exec(ctx, "savepoint "+name); err != nil {
		return nil, err
	}
	return &savepoint{Tx: tx, name: name}, nil
}

// Commit commits. nil means that the server confirmed it, on its standby too where there is one. A transaction that
// sent nothing has nothing to commit. If COMMIT could not be sent the transaction stays open for Rollback.
func (tx *Tx) Commit(ctx context.Context) error {
	if tx.done {
		return pgx.ErrTxClosed
	}
	if !tx.begun {
		tx.committed = true
		tx.finish()
		return nil
	}
	if err := tx.usable(); err != nil {
		tx.finish()
		return err
	}
	stateOf(tx.conn.Conn()).warning = nil
	ctx, cancel := tx.bounded(ctx)
	defer cancel()
	tag, err := tx.conn.Exec(ctx, "commit")
	return tx.judge(tag, err)
}

// bounded gives a COMMIT a deadline where its caller gave none.
func (tx *Tx) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, bounded := ctx.Deadline(); bounded {
		return ctx, func() {}
	}
	limit := stateOf(tx.conn.Conn()).commit
	if limit <= 0 {
		limit = CommitTimeout
	}
	return context.WithTimeout(ctx, limit)
}

// judge turns the outcome of a COMMIT that was sent into this transaction's end.
func (tx *Tx) judge(tag pgconn.CommandTag, err error) error {
	conn := tx.conn.Conn()
	warning := stateOf(conn).warning
	alive := !conn.IsClosed()
	_, said := errors.AsType[*pgconn.PgError](err)
	switch {
	case err == nil && tag.String() == "COMMIT" && warning == nil:
		tx.committed = true
		tx.finish()
		return nil
	case err == nil && warning != nil:
		tx.finish()
		return fmt.Errorf("%w: the server warned: %s", ErrUnknownCommit, warning.Message)
	case err == nil:
		tx.finish()
		return fmt.Errorf("%w: %w", ErrUnknownCommit, pgx.ErrTxCommitRollback)
	case alive && pgconn.SafeToRetry(err):
		return err // nothing was sent; Rollback follows. (A closed connection claims the same after it was.)
	case alive && conn.PgConn().TxStatus() != 'I':
		return err // a statement before COMMIT failed, so COMMIT was skipped; Rollback follows
	case alive && said:
		tx.finish() // the server refused the commit itself and rolled back
		return err
	}
	tx.finish()
	return fmt.Errorf("%w: %w", ErrUnknownCommit, err)
}

// Rollback undoes the transaction and gives the connection back; one whose state is uncertain is closed instead. It
// gives pgx.ErrTxClosed, which a deferred call may ignore, when the transaction has ended before. A cancelled ctx does
// not stop it; it takes at most 2 s.
func (tx *Tx) Rollback(ctx context.Context) error {
	if tx.done {
		return pgx.ErrTxClosed
	}
	defer tx.finish()
	tx.rolledBack = true
	conn := tx.conn.Conn()
	if conn.IsClosed() || conn.PgConn().TxStatus() == 'I' && !conn.PgConn().IsBusy() {
		return nil // the server has nothing of it, or drops it with the connection
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	if conn.PgConn().IsBusy() { // results were left open; closing the connection is the only way that is certain
		return conn.Close(ctx)
	}
	if _, err := conn.Exec(ctx, "rollback"); err != nil {
		_ = conn.Close(ctx) // the first error tells more
		return err
	}
	return nil
}

// finish gives the connection back. The pool closes it if it is busy or still in a transaction.
func (tx *Tx) finish() {
	tx.done = true
	tx.conn.Release()
}

// savepoint is a Tx inside a Tx. It has no SendBatchCommit, which would end the outer one.
type savepoint struct {
	pgx.Tx
	name string
	done bool
}

func (s *savepoint) Commit(ctx context.Context) error {
	return s.end(ctx, "release savepoint "+s.name)
}

func (s *savepoint) Rollback(ctx context.Context) error {
	return s.end(ctx, "rollback to savepoint "+s.name+"; release savepoint "+s.name)
}

func (s *savepoint) end(ctx context.Context, sql string) error {
	if s.done {
		return pgx.ErrTxClosed
	}
	s.done = true
	_, err := s.Exec(ctx, sql)
	return err
}

// hasOptions tells whether pgx's options stand before the arguments; a batch does not know them.
func hasOptions(args []any) bool {
	if len(args) == 0 {
		return false
	}
	switch args[0].(type) {
	case pgx.QueryExecMode, pgx.QueryResultFormats, pgx.QueryResultFormatsByOID:
		return true
	}
	return false
}
