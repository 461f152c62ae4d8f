package satchelclient

import (
	"context"
	"errors"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

// What an app branches on, with errors.Is. None of them loses anything that was recorded.
var (
	// ErrUnavailable: no answer, or the server cannot answer just now. Everything is kept; try again, with jitter.
	ErrUnavailable = errors.New("satchelclient: the server does not answer; everything is kept, try again later")
	// ErrSignInAgain: there is no session, or it has ended. Ask for the password; everything is kept.
	ErrSignInAgain = errors.New("satchelclient: sign in again; everything recorded is kept")
	// ErrDeviceRevoked: an administrator revoked this device.
	ErrDeviceRevoked = errors.New("satchelclient: this device was revoked by an administrator")
	// ErrUpgradeApp: the server no longer speaks this protocol. Everything is kept for the newer app.
	ErrUpgradeApp = errors.New("satchelclient: this app is too old for the server; everything recorded is kept")
	// ErrWiped: the server ordered this device to delete its data, and that was done.
	ErrWiped = errors.New("satchelclient: the server ordered this device to delete its data")
	// ErrOtherPerson: the store belongs to somebody else. Open another store for this person.
	ErrOtherPerson = errors.New("satchelclient: the store belongs to another person; open another store")
	// ErrUnsent: mutations were not sent yet. Sync first.
	ErrUnsent = errors.New("satchelclient: some mutations were not sent yet; sync first")
	// ErrTooLarge: a mutation or a file is over its limit; nothing was recorded.
	ErrTooLarge = errors.New("satchelclient: too large")
	// ErrNotFound: the store has no such thing, or the server has none that this person may see.
	ErrNotFound = errors.New("satchelclient: not found")
	// ErrStoreInUse: another process, or another client of this one, has the store. Close that one first; a process that
	// was killed no longer has it.
	ErrStoreInUse = errors.New("satchelclient: the store is in use; one client at a time may have it")
	// ErrClosed: this client was closed.
	ErrClosed = errors.New("satchelclient: the client is closed")
)

// Error is a call that the server refused or that did not reach it.
type Error struct {
	Code       connect.Code   // the Connect code
	Reason     satchel.Reason // the typed cause; "" = the code says all
	Message    string         // a sentence for the person, in Config.Language, as far as the server gave one
	RequestID  string         // finds the call in the server's log
	RetryAfter time.Duration  // when another try makes sense; 0 = unknown
	Expected   uint64         // with UNEXPECTED_OFFSET: the offset that the server expects
	Err        error          // the cause
}

// Error gives a text for the log.
func (e *Error) Error() string {
	s := "satchelclient: " + e.Code.String()
	if e.Reason != "" {
		s += " " + string(e.Reason)
	}
	if e.Message != "" {
		s += ": " + e.Message
	}
	if e.RequestID != "" {
		s += " (request " + e.RequestID + ")"
	}
	return s
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is puts the error into the classes that an app branches on, so that errors.Is(err, ErrUnavailable) works.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrUnavailable:
		return e.Code == connect.CodeUnavailable || e.timedOut()
	case ErrSignInAgain:
		return e.Code == connect.CodeUnauthenticated && e.Reason != satchel.ReasonDeviceRevoked &&
			e.Reason != satchel.ReasonBadCredentials
	case ErrDeviceRevoked:
		return e.Reason == satchel.ReasonDeviceRevoked
	case ErrUpgradeApp:
		return e.Reason == satchel.ReasonClientTooOld
	case ErrTooLarge:
		return e.Reason == satchel.ReasonTooLarge
	case ErrNotFound:
		return e.Reason == satchel.ReasonNotFound
	}
	return false
}

// timedOut tells whether sending less may help.
func (e *Error) timedOut() bool {
	return e.Code == connect.CodeDeadlineExceeded || e.Reason == satchel.ReasonDeadline
}

// noAnswer tells whether a code that this side chose, not the server, says no more than that no answer of the server's came:
// the connection was reset or cut in the middle, or something on the way answered in its place, as a hotel's log-in page.
func noAnswer(c connect.Code) bool {
	switch c {
	case connect.CodeCanceled, connect.CodeUnknown, connect.CodeInternal, connect.CodeInvalidArgument, connect.CodeDataLoss:
		return true
	}
	return false
}

// callError turns what a call returned into an *Error. The end of the caller's own context stays what it is.
func callError(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	e := &Error{Code: connect.CodeOf(err), Err: err}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		e.Code = connect.CodeDeadlineExceeded
	case !connect.IsWireError(err) && noAnswer(e.Code):
		e.Code = connect.CodeUnavailable
	}
	ce, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return e
	}
	for _, d := range ce.Details() {
		v, err := d.Value()
		if err != nil {
			continue
		}
		if detail, ok := v.(*satchelv1.ErrorDetail); ok {
			if detail.Reason != satchelv1.Reason_REASON_UNSPECIFIED {
				e.Reason = satchel.Reason(strings.TrimPrefix(detail.Reason.String(), "REASON_"))
			}
			e.Message, e.RequestID, e.Expected = detail.Message, detail.RequestId, detail.Expected
			e.RetryAfter = time.Duration(detail.RetryAfterMs) * time.Millisecond
			return e
		}
	}
	// The server gives each of its errors a detail. What looks like the end of the session and has none is a portal's.
	if e.Code == connect.CodeUnauthenticated || e.Code == connect.CodePermissionDenied {
		e.Code = connect.CodeUnavailable
	}
	return e
}
