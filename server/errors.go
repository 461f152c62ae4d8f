package server

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	satchel "github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/media"
)

// codeOf is the table that turns kinds of errors into Connect codes.
func codeOf(k satchel.Kind) connect.Code {
	switch k {
	case satchel.Invalid:
		return connect.CodeInvalidArgument
	case satchel.Unauthenticated:
		return connect.CodeUnauthenticated
	case satchel.Denied:
		return connect.CodePermissionDenied
	case satchel.NotFound:
		return connect.CodeNotFound
	case satchel.Precondition:
		return connect.CodeFailedPrecondition
	case satchel.Contention:
		return connect.CodeAborted
	case satchel.Exhausted:
		return connect.CodeResourceExhausted
	case satchel.Unavailable:
		return connect.CodeUnavailable
	}
	return connect.CodeInternal
}

// protoReason gives a reason as the wire spells it.
func protoReason(r satchel.Reason) satchelv1.Reason {
	return satchelv1.Reason(satchelv1.Reason_value["REASON_"+string(r)])
}

// fail turns an error into what the caller may see and notes it for the log. An error that is not a *satchel.Error
// tells the caller nothing but the request id.
func (s *Server) fail(ctx context.Context, err error) *connect.Error {
	c := callOf(ctx)
	out := wireError(c, err)
	c.code = out.Code().String()
	if out.Code() == connect.CodeInternal || out.Code() == connect.CodeUnavailable {
		c.cause = err
	}
	return out
}

func wireError(c *call, err error) *connect.Error {
	if ce, ok := errors.AsType[*connect.Error](err); ok { // made at the edge
		if len(ce.Details()) == 0 {
			addDetail(ce, &satchelv1.ErrorDetail{RequestId: c.id, Message: sentence(new(satchel.Error), c.zh)})
		}
		return ce
	}
	e := known(err)
	detail := &satchelv1.ErrorDetail{Reason: protoReason(e.Reason), RequestId: c.id, Message: sentence(e, c.zh)}
	if e.RetryAfter > 0 {
		detail.RetryAfterMs = uint32(min((e.RetryAfter + time.Millisecond - 1).Milliseconds(), math.MaxUint32))
	}
	if off, ok := errors.AsType[*media.OffsetError](err); ok {
		detail.Expected = uint64(max(0, off.Expected()))
	}
	code := codeOf(e.Kind)
	switch {
	case errors.Is(e.Err, errGone):
		code = connect.CodeCanceled
	case e.Kind == satchel.Contention && e.Reason == satchel.ReasonDeadline:
		code = connect.CodeDeadlineExceeded
	}
	out := connect.NewError(code, errors.New(e.Detail))
	addDetail(out, detail)
	if e.RetryAfter > 0 {
		out.Meta().Set("Retry-After", strconv.FormatInt(int64(math.Ceil(e.RetryAfter.Seconds())), 10))
	}
	return out
}

func addDetail(e *connect.Error, detail *satchelv1.ErrorDetail) {
	if d, err := connect.NewErrorDetail(detail); err == nil { // fails for no message of ours
		e.AddDetail(d)
	}
}

// errGone marks an error of a caller that hung up.
var errGone = errors.New("server: the caller is gone")

// known finds the *satchel.Error in err, or makes the one that stands for it.
func known(err error) *satchel.Error {
	if e, ok := errors.AsType[*satchel.Error](pg.ToError(err)); ok {
		if e.Kind != satchel.Internal {
			return e
		}
		return internal(e)
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return &satchel.Error{Kind: satchel.Contention, Reason: satchel.ReasonDeadline, Err: err,
			Detail: "the call took longer than allowed; send the same again, or less at once"}
	case errors.Is(err, context.Canceled):
		return &satchel.Error{Kind: satchel.Unavailable, Err: errors.Join(errGone, err), Detail: "the caller ended the call"}
	}
	return internal(err)
}

func internal(err error) *satchel.Error {
	return &satchel.Error{Kind: satchel.Internal, Reason: satchel.ReasonUnexpectedInternal, Err: err,
		Detail: "a fault of the server; the request id finds it in the log"}
}

// sentence gives the text for the person.
func sentence(e *satchel.Error, zh bool) string {
	t := textOf(e.Reason)
	if zh {
		return t.zh
	}
	return t.en
}

// WriteError answers a plain HTTP request with an error, spelt like that of a call by Connect, for
// media.Config.WriteError. The cause of an internal error goes to the log only.
func WriteError(log *slog.Logger) func(http.ResponseWriter, *http.Request, error) {
	w := connect.NewErrorWriter()
	return func(rw http.ResponseWriter, r *http.Request, err error) {
		c := callOf(r.Context())
		ce := wireError(c, err)
		c.code = ce.Code().String()
		if ce.Code() == connect.CodeInternal {
			log.ErrorContext(r.Context(), "request failed", "request", c.id, "error", causeText(err))
		}
		rw.Header().Set("Cache-Control", "no-store")
		_ = w.Write(rw, r, ce) // who does not read the answer asks again
	}
}

// causeText is a cause for the log. What Postgres says may quote a value, so of that only the SQLSTATE is kept.
func causeText(err error) string {
	var state interface{ SQLState() string }
	if errors.As(err, &state) {
		return "SQLSTATE " + state.SQLState()
	}
	s := err.Error()
	if len(s) > 4000 {
		s = strings.ToValidUTF8(s[:4000], "")
	}
	return s
}
