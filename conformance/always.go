package conformance

import (
	"errors"
	"fmt"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

// always is what holds for every request of a transcript, whether it says so or not.
type always struct {
	sent    map[string]*satchelv1.Mutation // by random id, as first sent, without its number
	cursors map[string]bool                // that were given
}

func (a *always) check(v protovalidate.Validator, method, token string, req proto.Message) error {
	if err := v.Validate(req); err != nil {
		return err
	}
	if at := unknown(req.ProtoReflect()); at != "" {
		return fmt.Errorf("%s has bytes that no field describes", at)
	}
	if token == "" && method != "SignIn" && method != "Refresh" {
		return errors.New("there is no access token")
	}
	switch req := req.(type) {
	case *satchelv1.WaitRequest:
		return a.cursor(req.Cursor)
	case *satchelv1.SyncRequest:
		if err := a.cursor(req.Cursor); err != nil {
			return err
		}
		return a.mutations(req)
	}
	return nil
}

func (a *always) cursor(c []byte) error {
	if !a.cursors[string(c)] {
		return fmt.Errorf("the cursor %q was never given", c)
	}
	return nil
}

func (a *always) mutations(req *satchelv1.SyncRequest) error {
	size, expected := 0, uint64(0)
	inCall := map[string]bool{}
	for i, m := range req.Mutations {
		size += proto.Size(m)
		switch {
		case i == 0 && req.Confirmed >= m.Number:
			return fmt.Errorf("confirmed is %d, and number %d is sent", req.Confirmed, m.Number)
		case i > 0 && m.Number != expected:
			return fmt.Errorf("number %d comes where %d must", m.Number, expected)
		case inCall[m.Id]:
			return fmt.Errorf("two mutations of the call have the id %s", m.Id)
		case m.Skip == nil && m.Envelope == nil && len(m.Ops) == 0:
			return fmt.Errorf("number %d has neither ops nor a skip nor an envelope", m.Number)
		}
		inCall[m.Id] = true
		expected = max(m.Number, m.GetSkip().GetTo()) + 1
		bare := proto.CloneOf(m)
		bare.Number = 0
		if was := a.sent[m.Id]; was == nil {
			a.sent[m.Id] = bare
		} else if !proto.Equal(was, bare) {
			return fmt.Errorf("the mutation %s was sent before as %s", m.Id, text(tree(was.ProtoReflect())))
		}
	}
	if size > 1<<20 {
		return fmt.Errorf("the mutations have %d bytes", size)
	}
	return nil
}

// unknown names a message in m, or m, that has fields which the proto does not describe; "" = none.
func unknown(m protoreflect.Message) (at string) {
	if len(m.GetUnknown()) > 0 {
		return string(m.Descriptor().Name())
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.Kind() != protoreflect.MessageKind {
			return true
		}
		if f.IsList() {
			for i := range v.List().Len() {
				if at == "" {
					at = unknown(v.List().Get(i).Message())
				}
			}
		} else {
			at = unknown(v.Message())
		}
		return at == ""
	})
	return at
}
