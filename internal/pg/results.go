package pg

import (
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// results are the results of a caller's batch inside a bigger one: BEGIN in front, COMMIT behind, neither of which
// the caller sees.
type results struct {
	tx      *Tx
	inner   pgx.BatchResults
	queries []*pgx.QueuedQuery // the caller's
	next    int                // the caller's next query
	skip    int                // results still to read before the caller's first
	commit  bool
	cancel  func()   // ends the time of the COMMIT
	last    pgx.Rows // rows that the caller may not have closed
	err     error    // the first error that a result gave
	closed  bool
}

func (r *results) advance() {
	if r.last != nil {
		r.last.Close()
		r.last = nil
	}
	for ; r.skip > 0; r.skip-- {
		_, err := r.inner.Exec()
		r.note(err)
	}
}

func (r *results) note(err error) {
	if r.err == nil {
		r.err = err
	}
}

// Exec reads the next result.
func (r *results) Exec() (pgconn.CommandTag, error) {
	if err := r.more(); err != nil {
		return pgconn.CommandTag{}, err
	}
	tag, err := r.inner.Exec()
	r.note(err)
	return tag, err
}

// Query reads the next result as rows.
func (r *results) Query() (pgx.Rows, error) {
	if err := r.more(); err != nil {
		return failedRows{err: err}, err
	}
	rows, err := r.inner.Query()
	r.note(err)
	r.last = rows
	return rows, err
}

// QueryRow reads the next result's first row.
func (r *results) QueryRow() pgx.Row {
	rows, _ := r.Query()
	return firstRow{rows}
}

// more moves to the caller's next query.
func (r *results) more() error {
	if r.closed {
		return fmt.Errorf("pg: the batch is closed")
	}
	if r.next >= len(r.queries) {
		return fmt.Errorf("pg: the batch has no more results")
	}
	r.advance()
	r.next++
	return nil
}

// Tx is nil: the transaction is the one that sent the batch.
func (r *results) Tx() pgx.Tx { return nil }

// Close runs the callbacks of the queries whose results are still unread, and reads the fate of the COMMIT.
func (r *results) Close() error {
	if r.closed {
		return r.err
	}
	for r.next < len(r.queries) {
		q := r.queries[r.next]
		if r.err == nil && q.Fn != nil {
			r.note(q.Fn(r))
			continue
		}
		_, _ = r.Exec() // Exec notes its error
	}
	r.advance()
	r.closed = true
	if !r.commit {
		r.note(r.inner.Close())
		return r.err
	}
	defer r.cancel()
	stateOf(r.tx.conn.Conn()).warning = nil
	tag, err := r.inner.Exec()
	if cerr := r.inner.Close(); err == nil {
		err = cerr
	}
	switch judged := r.tx.judge(tag, err); {
	case judged == nil && r.err != nil:
		r.err = fmt.Errorf("%w: %w", ErrCommitted, r.err)
	default:
		r.err = judged
	}
	return r.err
}

// firstRows are the rows of a statement that travelled with BEGIN; closing them closes the batch.
type firstRows struct {
	pgx.Rows
	br  pgx.BatchResults
	err error
}

func (r *firstRows) Close() {
	if r.br == nil {
		return
	}
	r.Rows.Close()
	r.err = r.br.Close()
	r.br = nil
}

func (r *firstRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

func (r *firstRows) Scan(dest ...any) error {
	err := r.Rows.Scan(dest...)
	if err != nil {
		r.Close()
	}
	return err
}

func (r *firstRows) Err() error {
	if err := r.Rows.Err(); err != nil {
		return err
	}
	return r.err
}

// firstRow is the first of some rows.
type firstRow struct{ rows pgx.Rows }

func (r firstRow) Scan(dest ...any) error {
	defer r.rows.Close()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	r.rows.Close()
	return r.rows.Err()
}

// failedRows are the rows of a statement that was not sent.
type failedRows struct{ err error }

func (failedRows) Close()                                       {}
func (f failedRows) Err() error                                 { return f.err }
func (failedRows) CommandTag() pgconn.CommandTag                { return pgconn.CommandTag{} }
func (failedRows) FieldDescriptions() []pgconn.FieldDescription { return nil }
func (failedRows) Next() bool                                   { return false }
func (f failedRows) Scan(...any) error                          { return f.err }
func (f failedRows) Values() ([]any, error)                     { return nil, f.err }
func (failedRows) RawValues() [][]byte                          { return nil }
func (failedRows) Conn() *pgx.Conn                              { return nil }
func (failedRows) TypeMap() *pgtype.Map                         { return nil }
