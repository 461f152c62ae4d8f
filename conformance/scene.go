package conformance

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

// scene is one transcript while it is played.
type scene struct {
	validator protovalidate.Validator
	log       func(string) // what came and went, for -v
	kill      chan struct{}
	failed    chan struct{} // closed with the first failure

	mu      sync.Mutex
	names   scope
	calls   []Call // of the step that is under way, without those that came
	anyway  bool   // they may come in any order
	hits    int    // how often the first came, where it may be repeated
	came    int    // calls in this step
	lengths map[string]int
	failure string
	rules   always
	media   map[string]*upload // by upload id
}

// upload is a file on its way.
type upload struct {
	hash string
	size uint64
	data []byte
}

func newScene(v protovalidate.Validator, log func(string)) *scene {
	return &scene{validator: v, log: log, kill: make(chan struct{}), failed: make(chan struct{}), names: scope{}, lengths: map[string]int{},
		rules: always{sent: map[string]*satchelv1.Mutation{}, cursors: map[string]bool{"": true}}, media: map[string]*upload{}}
}

// fail notes the first failure; all calls after it are refused.
func (s *scene) fail(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failLocked(why)
}

func (s *scene) failLocked(why string) {
	if s.failure == "" {
		s.failure = why
		close(s.failed)
	}
}

// begin says which calls must come from now on.
func (s *scene) begin(calls []Call, anyway bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls, s.anyway, s.hits, s.came = slices.Clone(calls), anyway, 0, 0
}

// end says that no more may come, and fails where some did not.
func (s *scene) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, c := range s.calls {
		if !c.Maybe && (i > 0 || s.hits == 0) {
			s.failLocked(fmt.Sprintf("after %d calls, this one did not come: %s %s", s.came, c.Call, text(c.Request)))
			break
		}
	}
	s.calls = nil
}

// with calls fn with the names that are bound.
func (s *scene) with(fn func(scope) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fn(s.names)
}

// take is every call of the client: it must be the one that the transcript has next.
func (s *scene) take(ctx context.Context, method, token string, req, res proto.Message, f *fate) error {
	c, err := s.expect(method, token, req)
	if err != nil {
		return err
	}
	switch {
	case c.Kill:
		select {
		case s.kill <- struct{}{}: // the player kills the client
		case <-ctx.Done():
		case <-s.failed:
		}
		f.lost = true
		return connect.NewError(connect.CodeAborted, errors.New("killed"))
	case c.Lost, c.Page > 0:
		f.lost, f.page = c.Lost, c.Page
		return connect.NewError(connect.CodeAborted, errors.New("lost"))
	case c.Error != nil:
		return callError(c.Error)
	}
	f.cut, f.newer = c.Cut, c.Newer
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.answer(c.Answer, req, res); err != nil {
		var refused *connect.Error
		if !errors.As(err, &refused) {
			s.failLocked(fmt.Sprintf("the answer to %s: %v", method, err))
		}
		return err
	}
	s.log("    ← " + text(tree(res.ProtoReflect())))
	return nil
}

func (s *scene) expect(method, token string, req proto.Message) (Call, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	got := tree(req.ProtoReflect())
	s.log("    → " + method + " " + text(got))
	refused := connect.NewError(connect.CodeUnavailable, errors.New("the transcript has failed"))
	if s.failure != "" {
		return Call{}, refused
	}
	if err := s.rules.check(s.validator, method, token, req); err != nil {
		s.failLocked(fmt.Sprintf("%s breaks the contract: %v\n  it was %s", method, err, text(got)))
		return Call{}, refused
	}
	length := 0
	if m, ok := req.(*satchelv1.SyncRequest); ok {
		length = len(m.Mutations)
	}
	before, ok := s.lengths[method]
	if !ok {
		before = -1
	}
	i, diffs := s.find(method, token, got, before)
	if i < 0 {
		why := fmt.Sprintf("%s came, as call %d of this step", method, s.came+1)
		for _, d := range diffs {
			why += "\n  " + d
		}
		s.failLocked(why + "\n  it was " + text(got))
		return Call{}, refused
	}
	s.lengths[method] = length
	s.came++
	c := s.calls[i]
	switch {
	case s.anyway:
		s.calls = slices.Delete(s.calls, i, i+1)
	case i > 0:
		s.calls, s.hits = s.calls[i:], 0
	}
	switch {
	case s.anyway:
	case c.Repeat:
		s.hits++
	default:
		s.calls, s.hits = s.calls[1:], 0
	}
	return c, nil
}

// find gives the place of the call that came among those that may come now; -1 and the differences = it is none of them.
func (s *scene) find(method, token string, got any, before int) (int, []string) {
	var first []string
	for i, c := range s.calls {
		names := maps.Clone(s.names)
		var diffs []string
		switch {
		case c.Call != method:
			diffs = []string{"it was to be " + c.Call}
		case c.Token != nil && len(names.fits(c.Token, token, -1)) > 0:
			diffs = []string{"the token is " + text(token) + ", want " + text(c.Token)}
		case c.Request != nil:
			diffs = names.fits(c.Request, got, before)
		}
		if len(diffs) == 0 {
			maps.Copy(s.names, names)
			return i, nil
		}
		if first == nil || i == 1 && s.hits > 0 && len(diffs) < len(first) {
			first = diffs
		}
		if passable := c.Maybe || i == 0 && s.hits > 0; !passable && !s.anyway {
			return -1, first
		}
	}
	if first == nil {
		first = []string{"no call was to come"}
	}
	return -1, first
}

// answer fills res with what the transcript says.
func (s *scene) answer(form any, req, res proto.Message) error {
	if form == "media" {
		return s.takeMedia(req, res)
	}
	form, err := s.names.fill(form)
	if err != nil {
		return err
	}
	if m, ok := req.(*satchelv1.SyncRequest); ok {
		form = eachVerdict(form, m)
	}
	if err := message(form, res); err != nil {
		return err
	}
	switch res := res.(type) {
	case *satchelv1.SyncResponse:
		if res.ServerTimeMs == 0 {
			res.ServerTimeMs = serverMs
		}
		s.rules.cursors[string(res.GetPage().GetCursor())] = true
	case *satchelv1.RepairResponse:
		s.rules.cursors[string(res.GetPlan().GetCursor())] = true
	case *satchelv1.BeginResponse:
		m, ok := req.(*satchelv1.BeginRequest)
		if ok && res.UploadId != "" && s.media[res.UploadId] == nil {
			s.media[res.UploadId] = &upload{hash: m.Sha256, size: m.Size}
		}
	}
	return nil
}

// eachVerdict writes {"each": verdict} out.
func eachVerdict(form any, req *satchelv1.SyncRequest) any {
	object, _ := form.(map[string]any)
	word, _ := object["verdicts"].(map[string]any)
	each, ok := word["each"].(map[string]any)
	if !ok {
		return form
	}
	list := []any{}
	for _, m := range req.Mutations {
		v := maps.Clone(each)
		v["number"] = json.Number(strconv.FormatUint(m.Number, 10))
		list = append(list, v)
	}
	object = maps.Clone(object)
	object["verdicts"] = list
	return object
}

// takeMedia keeps pieces as the server does.
func (s *scene) takeMedia(req, res proto.Message) error {
	switch req := req.(type) {
	case *satchelv1.PutChunkRequest:
		u := s.media[req.UploadId]
		if u == nil {
			return fmt.Errorf("there is no upload %s", req.UploadId)
		}
		have := uint64(len(u.data))
		end := req.Offset + uint64(len(req.Data))
		if req.Offset > have || end > u.size {
			return fmt.Errorf("a piece from %d to %d came, of %d bytes of which %d are there", req.Offset, end, u.size, have)
		}
		if end > have {
			u.data = slices.Concat(u.data[:req.Offset], req.Data)
		}
		if out, ok := res.(*satchelv1.PutChunkResponse); ok {
			out.Offset = uint64(len(u.data))
		}
		return nil
	case *satchelv1.CompleteRequest:
		u := s.media[req.UploadId]
		if u == nil {
			return fmt.Errorf("there is no upload %s", req.UploadId)
		}
		hash := sha256.Sum256(u.data)
		if uint64(len(u.data)) != u.size || hex.EncodeToString(hash[:]) != u.hash {
			return fmt.Errorf("%d bytes of %d came, with another hash", len(u.data), u.size)
		}
		if out, ok := res.(*satchelv1.CompleteResponse); ok {
			out.Sha256 = u.hash
		}
		return nil
	}
	return errors.New("only PutChunk and Complete are answered with media")
}
