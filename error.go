package satchel

import (
	"errors"
	"fmt"
	"time"
)

// Kind sorts errors by what the caller can do about them. One table in server/ turns each into a Connect code.
type Kind uint8

const (
	// Internal is the zero value: a fault of ours. Its cause is for the log, never for the caller.
	Internal Kind = iota
	// Invalid means that the request is wrong and will stay wrong.
	Invalid
	// Unauthenticated means that there is no valid session.
	Unauthenticated
	// Denied means that the session is valid and the right is missing.
	Denied
	// NotFound means that the thing does not exist, or is not the caller's to know of.
	NotFound
	// Precondition means that something else must be done first; Reason says what.
	Precondition
	// Contention means that others were faster too often; try again, with jitter.
	Contention
	// Exhausted means that a limit was reached; RetryAfter says when to come back.
	Exhausted
	// Unavailable means that the server or something behind it cannot answer just now; try again, with jitter.
	Unavailable
)

// Error is an error that a caller may see. Every error that is not one becomes Internal at the edge, and its text
// stays in the log.
type Error struct {
	Kind       Kind
	Reason     Reason        // the typed cause; the zero value means that the Kind says all
	Detail     string        // an English sentence for developers, without customer data: what to do
	RetryAfter time.Duration // with Exhausted and Unavailable: when to come back; 0 = unknown
	Err        error         // the cause, for the log only
}

// Error gives the text for the log. What a caller sees is Detail.
func (e *Error) Error() string {
	s := string(e.Reason)
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// E makes an Error; detail is formatted like fmt.Sprintf.
func E(kind Kind, reason Reason, detail string, args ...any) *Error {
	if len(args) > 0 {
		detail = fmt.Sprintf(detail, args...)
	}
	return &Error{Kind: kind, Reason: reason, Detail: detail}
}

// KindOf tells the kind of err: Internal for every error that is not an [Error].
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// ReasonOf tells the reason of err, or "".
func ReasonOf(err error) Reason {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return ""
}
