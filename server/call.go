package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/gen/satchel/v1/satchelv1connect"
)

// call is what the edge knows of a request while it runs. One goroutine writes it.
type call struct {
	id        string // of the request
	zh        bool   // texts in Chinese
	start     time.Time
	address   netip.Addr // of the caller; the zero Addr = unknown
	principal *satchel.Principal
	protocol  uint32 // that the app speaks
	code      string // of the answer; "" = not known here
	cause     error  // of an internal error, for the log
	body      *boundedBody
	response  *http.ResponseController
	leave     func() // ends what the call was let in to; nil = nothing
}

type callKey struct{}

// callOf gives the request that ctx belongs to; never nil.
func callOf(ctx context.Context) *call {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		return c
	}
	return &call{}
}

// principal gives who calls; the gate let nobody else through.
func principal(ctx context.Context) *satchel.Principal { return callOf(ctx).principal }

// open tells whether a procedure needs no session.
func open(procedure string) bool {
	switch procedure {
	case satchelv1connect.AuthServiceSignInProcedure, satchelv1connect.AuthServiceRefreshProcedure,
		satchelv1connect.AuthServiceSetUpProcedure, satchelv1connect.AuthServiceSignInWeChatProcedure:
		return true
	}
	return false
}

// gate runs when the headers are there and before the body is read: who calls, and does the app speak a protocol that
// this server speaks.
func (s *Server) gate(ctx context.Context, spec connect.Spec, _ connect.Peer, header http.Header) (_ context.Context, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = s.fail(ctx, fmt.Errorf("panic: %v\n%s", r, debug.Stack()))
		}
	}()
	c := callOf(ctx)
	c.protocol = 1
	if v := header.Get(protoHeader); v != "" {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil {
			return nil, s.fail(ctx, satchel.E(satchel.Invalid, satchel.ReasonMalformed, "%s is a whole number", protoHeader))
		}
		c.protocol = max(uint32(n), 1)
	}
	if s.tooOld(ctx) && !servesOldApps(spec.Procedure) {
		return nil, s.fail(ctx, satchel.E(satchel.Precondition, satchel.ReasonClientTooOld,
			"this server speaks protocol %d and above: update the app; what it has recorded can still be sent by Sync", s.cfg.MinProtocol))
	}
	if open(spec.Procedure) {
		return ctx, nil
	}
	if spec.Procedure == satchelv1connect.SyncServiceSyncProcedure {
		if c.leave, err = s.reading.enter(ctx); err != nil {
			return nil, s.fail(ctx, err)
		}
		if c.body != nil {
			c.body.begin = time.Now() // while it waited, nobody asked for the body
		}
	}
	authCtx, cancel := context.WithTimeout(ctx, gateTime)
	defer cancel()
	p, err := authenticate(authCtx, s.cfg.Identity, header)
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	c.principal = p
	return ctx, nil
}

// tooOld tells whether the app speaks a protocol that this server has dropped.
func (s *Server) tooOld(ctx context.Context) bool {
	spoken := callOf(ctx).protocol
	return spoken != 0 && spoken < s.cfg.MinProtocol
}

// servesOldApps tells what an app of a dropped protocol may still call: it can send what it has recorded, and renew the
// session that this takes.
func servesOldApps(procedure string) bool {
	switch procedure {
	case satchelv1connect.SyncServiceSyncProcedure, satchelv1connect.AuthServiceRefreshProcedure:
		return true
	}
	return false
}

func authenticate(ctx context.Context, a Authenticator, header http.Header) (*satchel.Principal, error) {
	scheme, token, ok := strings.Cut(header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" || len(token) > 512 {
		return nil, satchel.E(satchel.Unauthenticated, satchel.ReasonTokenExpired,
			"the call needs Authorization: Bearer and an access token: sign in or refresh")
	}
	return a.Authenticate(ctx, token)
}

// Bearer authenticates plain HTTP requests like calls, for media.Config.Authenticate.
func Bearer(a Authenticator) func(*http.Request) (*satchel.Principal, error) {
	return func(r *http.Request) (*satchel.Principal, error) {
		ctx, cancel := context.WithTimeout(r.Context(), gateTime)
		defer cancel()
		p, err := authenticate(ctx, a, r.Header)
		if err == nil {
			callOf(r.Context()).principal = p
		}
		return p, err
	}
}

// guard is the interceptor behind the gate: it recovers, bounds the time, validates, and turns errors into what a
// caller may see.
func (s *Server) guard(validator protovalidate.Validator) connect.UnaryInterceptorFunc {
	return func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (res connect.AnyResponse, err error) {
			c := callOf(ctx)
			waits := req.Spec().Procedure == satchelv1connect.SyncServiceWaitProcedure
			if waits { // its answer is small, and a thousand are sent at once: their time to travel is set beforehand
				c.mayTravel(waitTime)
			}
			defer func() {
				if r := recover(); r != nil {
					res, err = nil, fmt.Errorf("panic: %v\n%s", r, debug.Stack())
				}
				size := 0
				if err != nil {
					res, err = nil, s.fail(ctx, err)
				} else {
					c.code = "ok"
					if m, ok := res.Any().(proto.Message); ok && !waits {
						size = proto.Size(m)
					}
				}
				if !waits {
					c.mayTravel(time.Duration(size/bodyRate) * time.Second)
				}
			}()
			if c.body != nil {
				c.body.release()
			}
			if !waits { // the engine bounds that one
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, callTime) // a shorter one of the client's is in ctx already
				defer cancel()
			}
			if err := valid(validator, req.Any()); err != nil {
				return nil, err
			}
			if req.Spec().Procedure == satchelv1connect.SyncServiceSyncProcedure {
				leave, err := s.working.enter(ctx)
				if err != nil {
					return nil, err
				}
				defer leave()
			}
			return next(ctx, req)
		}
	}
}

// mayTravel bounds how long the answer may take to leave, beside answerGrace; a reader that stands still is left.
func (c *call) mayTravel(d time.Duration) {
	if c.response != nil {
		_ = c.response.SetWriteDeadline(time.Now().Add(answerGrace + d))
	}
}

// valid checks a message against the constraints in the proto. What a mutation contains is not looked at: that makes
// no call fail (see batchOf).
func valid(validator protovalidate.Validator, msg any) error {
	m, ok := msg.(proto.Message)
	if !ok {
		return errors.New("server: the message is no protobuf message")
	}
	if isUndecodable(m) {
		return satchel.E(satchel.Invalid, satchel.ReasonMalformed,
			"the body is not a message of this procedure: well-formed JSON or Protobuf, all texts UTF-8")
	}
	err := validator.Validate(m, protovalidate.WithFilter(protovalidate.FilterFunc(notInMutation)))
	if err == nil {
		return nil
	}
	bad, ok := errors.AsType[*protovalidate.ValidationError](err)
	if !ok {
		return fmt.Errorf("server: validate: %w", err)
	}
	return satchel.E(satchel.Invalid, satchel.ReasonMalformed, "%s", problems(bad))
}

func notInMutation(_ protoreflect.Message, d protoreflect.Descriptor) bool {
	_, isField := d.(protoreflect.FieldDescriptor)
	return !isField || d.Parent().FullName() != mutationName
}

const mutationName protoreflect.FullName = "satchel.v1.Mutation"

// problems names the fields that are wrong and which rule they break, without their values.
func problems(bad *protovalidate.ValidationError) string {
	var b strings.Builder
	for i, v := range bad.Violations {
		if i == 5 {
			b.WriteString(" …")
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(protovalidate.FieldPathString(v.Proto.GetField()))
		b.WriteString(" breaks ")
		b.WriteString(v.Proto.GetRuleId())
	}
	return b.String()
}

// A body that does not decode would leave connect before any interceptor and without an ErrorDetail. So the codecs
// never fail: they mark the message, and valid refuses it. The mark is an unknown field of this number, which no
// message of the contract has; a client that sends it is refused in the same way.
const undecodableField protowire.Number = protowire.MaxValidNumber

func undecodableMark() []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, undecodableField, protowire.VarintType), 1)
}

func markUndecodable(m proto.Message) {
	proto.Reset(m)
	m.ProtoReflect().SetUnknown(undecodableMark())
}

func isUndecodable(m proto.Message) bool {
	raw := m.ProtoReflect().GetUnknown()
	return len(raw) > 0 && bytes.Equal(raw, undecodableMark())
}

// codec is one of connect's codecs that marks what it cannot decode.
type codec struct {
	name string
	json bool
}

// Name is the codec's name in the Content-Type.
func (c codec) Name() string { return c.name }

// Marshal encodes a message.
func (c codec) Marshal(v any) ([]byte, error) { return c.MarshalAppend(nil, v) }

// MarshalAppend encodes a message behind dst.
func (c codec) MarshalAppend(dst []byte, v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("server: %T is no protobuf message", v)
	}
	if c.json {
		return protojson.MarshalOptions{}.MarshalAppend(dst, m)
	}
	return proto.MarshalOptions{}.MarshalAppend(dst, m)
}

// Unmarshal decodes a message; fields that this server does not know are passed over.
func (c codec) Unmarshal(raw []byte, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("server: %T is no protobuf message", v)
	}
	var err error
	if c.json {
		err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(raw, m)
	} else {
		err = proto.Unmarshal(raw, m)
	}
	if err != nil {
		markUndecodable(m)
	}
	return nil
}

// IsBinary tells connect how to write the message into a URL.
func (c codec) IsBinary() bool { return !c.json }

// parseID reads an id that a call names; one that is malformed is nobody's.
func parseID(field, s string) (satchel.ID, error) {
	id, err := satchel.ParseID(s)
	if err != nil {
		return id, satchel.E(satchel.Invalid, satchel.ReasonMalformed, "%s is a UUID of 36 characters", field)
	}
	return id, nil
}

// optionalID is parseID where empty means none.
func optionalID(field, s string) (satchel.ID, error) {
	if s == "" {
		return satchel.ID{}, nil
	}
	return parseID(field, s)
}

// text gives an id as the wire has it: empty for none.
func text(id satchel.ID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}

// millis gives a time as the wire has it: 0 for none.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
