package pg

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/puddle/v2"

	"github.com/satchel-sync/satchel"
)

// ErrUnknownCommit means that a COMMIT was sent and nobody knows whether it holds: the connection broke, the server
// rolled back instead, or the wait for a standby was cut short. Whoever gets it must not tell a caller that anything
// was done, nor that nothing was.
var ErrUnknownCommit = errors.New("pg: it is unknown whether the transaction was committed")

// ErrCommitted means that a transaction is committed although reading its results failed on this side; doing it again
// would do it twice.
var ErrCommitted = errors.New("pg: the transaction is committed, but its results could not be read")

// Class sorts database errors by what to do about them.
type Class uint8

const (
	// Other is the zero value: nil, a fault of ours, or no database error at all.
	Other Class = iota
	// Retry means that the transaction lost against another one and may be done again at once (40…, 55P03).
	Retry
	// BadData means that Postgres refuses these data and will refuse them again (22…, 23…, 54…).
	BadData
	// Timeout means that a statement took too long (57014).
	Timeout
	// Unavailable means that the database, or the way to it, is not there just now, or that a commit's fate is unknown.
	Unavailable
	// Canceled means that the caller's own context ended; it says nothing about the database.
	Canceled
)

// String gives the name for logs and metrics.
func (c Class) String() string {
	return [...]string{"other", "retry", "bad_data", "timeout", "unavailable", "canceled"}[c]
}

// Classify tells the class of err, however deep it is wrapped.
func Classify(err error) Class {
	switch {
	case err == nil, errors.Is(err, ErrCommitted):
		return Other
	case errors.Is(err, ErrUnknownCommit):
		return Unavailable
	}
	// A failed connection attempt wraps whatever the server said to it, which is no verdict on a statement.
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok && !ctxEnded(err) {
		return Unavailable
	}
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok {
		return classifyState(pe)
	}
	if ctxEnded(err) {
		return Canceled
	}
	if errors.Is(err, puddle.ErrClosedPool) || errors.Is(err, pgconn.ErrConnClosed) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return Unavailable
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return Unavailable
	}
	if errors.Is(err, pgx.ErrTxCommitRollback) {
		return Unavailable
	}
	return Other
}

// Away tells whether err says that the server, or the way to it, may be there again in a moment: it restarts, its
// connections are taken, nothing listens yet. A wrong password, database or host name is none of these, nor is what a
// server refuses for good.
func Away(err error) bool {
	if Classify(err) != Unavailable || errors.Is(err, puddle.ErrClosedPool) {
		return false
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		return false
	}
	pe, said := errors.AsType[*pgconn.PgError](err)
	return !said || len(pe.Code) == 5 && (pe.Code[:3] == "57P" || pe.Code[:2] == "53" || pe.Code[:2] == "08" && pe.Code != "08P01")
}

func ctxEnded(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

func classifyState(pe *pgconn.PgError) Class {
	switch pe.Code {
	case "55P03":
		return Retry
	case "57014":
		return Timeout
	case "40003":
		return Unavailable
	case "0A000":
		if pe.Routine == "RevalidateCachedQuery" { // a migration changed a table under a prepared statement
			return Retry
		}
		return Other
	}
	if len(pe.Code) != 5 {
		return Other
	}
	switch pe.Code[:2] {
	case "40":
		return Retry
	case "22", "23", "54":
		return BadData
	case "08", "25", "53", "58", "XX":
		return Unavailable
	}
	if pe.Code[:3] == "57P" {
		return Unavailable
	}
	return Other
}

// ToError makes of a database error what a caller may see: Unavailable becomes DATABASE_DOWN, Retry (after the retries
// are used up) becomes BUSY. An error that already is a [satchel.Error], and everything else, stays as it is.
func ToError(err error) error {
	if _, ok := errors.AsType[*satchel.Error](err); ok {
		return err
	}
	switch Classify(err) {
	case Unavailable:
		return &satchel.Error{Kind: satchel.Unavailable, Reason: satchel.ReasonDatabaseDown,
			Detail: "The database does not answer just now. Try again with the same request.", RetryAfter: time.Second, Err: err}
	case Retry:
		return &satchel.Error{Kind: satchel.Contention, Reason: satchel.ReasonBusy,
			Detail: "Others are changing the same data. Try again after a short random wait.", Err: err}
	}
	return err
}
