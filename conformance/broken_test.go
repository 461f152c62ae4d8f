package conformance_test

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/clients/go/memstore"
	"github.com/satchel-sync/satchel/conformance"
	"github.com/satchel-sync/satchel/conformance/godriver"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

// A fault makes of the Go client a broken one: it forgets, or does not understand, some part of the protocol. Each names
// the transcripts that find it. Together they name all: a transcript that no broken client fails would prove nothing.
type fault struct {
	name    string
	request func(proto.Message)             // changes what is sent
	answer  func(req, answer proto.Message) // changes what is understood
	stores  func() godriver.Stores          // forgets
	again   bool                            // sends each call twice
	deaf    bool                            // to all answers but 200
	strict  bool                            // no field that it does not know
	found   []string
}

func sync(change func(*satchelv1.SyncRequest)) func(proto.Message) {
	return func(m proto.Message) {
		if r, ok := m.(*satchelv1.SyncRequest); ok {
			change(r)
		}
	}
}

func mutations(change func(*satchelv1.Mutation)) func(proto.Message) {
	return sync(func(r *satchelv1.SyncRequest) {
		for _, m := range r.Mutations {
			change(m)
		}
	})
}

func answer(change func(*satchelv1.SyncResponse)) func(_, m proto.Message) {
	return func(_, m proto.Message) {
		if r, ok := m.(*satchelv1.SyncResponse); ok {
			change(r)
		}
	}
}

func page(change func(*satchelv1.Page)) func(_, m proto.Message) {
	return answer(func(r *satchelv1.SyncResponse) {
		if r.Page != nil {
			change(r.Page)
		}
	})
}

func changes(change func(*satchelv1.Change)) func(_, m proto.Message) {
	return page(func(p *satchelv1.Page) {
		for _, ch := range p.Changes {
			change(ch)
		}
	})
}

func faults() []fault {
	return []fault{
		{name: "it shows each page as it comes", answer: page(func(p *satchelv1.Page) { p.Checkpoint = true }),
			found: []string{"page-dropped-bucket", "page-killed", "page-left", "page-narrowed", "page-staged", "page-staged-survives",
				"page-tombstone", "repair-did-not-help"}},
		{name: "it does not store cursors", request: sync(func(r *satchelv1.SyncRequest) { r.Cursor = nil }),
			found: []string{"cursor-malformed", "digest-right", "lane-cut-answer", "lane-killed", "lane-lost-answer",
				"session-other-person"}},
		{name: "it waits from no place", request: func(m proto.Message) {
			if w, ok := m.(*satchelv1.WaitRequest); ok {
				w.Cursor = []byte("none")
			}
		},
			found: []string{"wait"}},
		{name: "it mints an id whenever it sends", request: mutations(func(m *satchelv1.Mutation) { m.Id = satchel.NewID().String() }),
			found: []string{"cursor-malformed", "lane-atomic", "lane-base-rev", "lane-cut-answer", "lane-draining", "lane-too-large"}},
		{name: "it numbers whenever it sends", request: func() func(proto.Message) {
			next := uint64(1)
			return mutations(func(m *satchelv1.Mutation) { m.Number = next; next++ })
		}(),
			found: []string{"clock-boots", "cursor-malformed", "lane-atomic", "lane-base-rev", "lane-cut-answer", "lane-draining"}},
		{name: "it forgets with a kill", stores: newForgetful,
			found: []string{"lane-fork", "lane-killed", "lane-recorded-killed", "media-resumed", "page-killed", "repair-killed",
				"restored", "session-expired"}},
		{name: "it sends again at once", again: true,
			found: []string{"clock-boots", "cursor-malformed", "lane-envelope", "lane-gap-skipped", "lane-lost-answer", "repair-killed",
				"session-ended", "session-other-device", "session-refresh-lost"}},
		{name: "it passes leaves over", answer: changes(func(ch *satchelv1.Change) { ch.Left = nil }),
			found: []string{"digest-right", "page-left"}},
		{name: "it does not note buckets", answer: changes(func(ch *satchelv1.Change) {
			if len(ch.Entered) > 0 {
				ch.Entered = []uint64{1}
			}
		}),
			found: []string{"cursor-malformed", "digest-right", "page-buckets-moved", "page-dropped-bucket", "page-dropped-kind",
				"page-large-numbers", "page-left", "repair-staged"}},
		{name: "it reads numbers as doubles", answer: func(_, m proto.Message) {
			double := func(n uint64) uint64 { return uint64(float64(n)) }
			if r, ok := m.(*satchelv1.SyncResponse); ok && r.Page != nil {
				for i, b := range r.Page.DroppedBuckets {
					r.Page.DroppedBuckets[i] = double(b)
				}
				for _, ch := range r.Page.Changes {
					ch.Rev = double(ch.Rev)
					for i, b := range ch.Entered {
						ch.Entered[i] = double(b)
					}
				}
			}
		},
			found: []string{"page-large-numbers"}},
		{name: "it passes dropped buckets over", answer: page(func(p *satchelv1.Page) { p.DroppedBuckets, p.DroppedKinds = nil, nil }),
			found: []string{"cursor-malformed", "digest-right", "page-dropped-bucket", "page-dropped-kind", "page-large-numbers",
				"profile-changed"}},
		{name: "it drops after the changes", answer: page(func(p *satchelv1.Page) {
			for _, ch := range p.Changes {
				ch.Entered = slices.DeleteFunc(ch.Entered, func(b uint64) bool { return b == 7 || slices.Contains(p.DroppedBuckets, b) })
			}
		}),
			found: []string{"page-dropped-and-back"}},
		{name: "it passes narrowed fields over", answer: page(func(p *satchelv1.Page) { p.Narrowed = nil }),
			found: []string{"page-narrowed", "page-narrowed-copies"}},
		{name: "it passes tombstones over", answer: changes(func(ch *satchelv1.Change) { ch.Deleted = false }),
			found: []string{"digest-right", "page-merged", "page-tombstone"}},
		{name: "it does not follow merges", answer: changes(func(ch *satchelv1.Change) { ch.MergedInto = "" }),
			found: []string{"page-merged"}},
		{name: "it does not complete rows", answer: changes(func(ch *satchelv1.Change) { ch.AsSent = false }),
			found: []string{"page-as-sent", "repair-as-sent"}},
		{name: "it takes the later half of a page first", answer: page(func(p *satchelv1.Page) { slices.Reverse(p.Changes) }),
			found: []string{"page-replaced"}},
		{name: "it takes a partial checkpoint for a full one", answer: page(func(p *satchelv1.Page) { p.SettledPriority = 0 }),
			found: []string{"page-priorities"}},
		{name: "it hides own work with its verdict", answer: answer(func(r *satchelv1.SyncResponse) {
			for _, v := range r.Verdicts {
				v.Seq = 1
			}
		}),
			found: []string{"lane-fork-no-page", "lane-goes-on", "office", "overlay-idle", "overlay-until-checkpoint",
				"page-large-numbers", "restored", "restored-log-trimmed", "verdict-stays-shown"}},
		{name: "it keeps own work shown for ever", answer: answer(func(r *satchelv1.SyncResponse) {
			for _, v := range r.Verdicts {
				v.Seq = 1 << 62
			}
			if r.Page != nil {
				r.Page.Seq = 1
			}
		}),
			found: []string{"cursor-malformed", "lane-cut-answer", "lane-goes-on", "lane-recorded-killed", "media-at-office", "office"}},
		{name: "it takes every verdict for applied", answer: answer(func(r *satchelv1.SyncResponse) {
			for _, v := range r.Verdicts {
				v.Status, v.Reason, v.AttentionId = satchelv1.Status_STATUS_APPLIED, 0, ""
			}
		}),
			found: []string{"overlay-command", "restored", "verdict-conflicted", "verdict-rejected", "verdict-stays-shown"}},
		{name: "it takes every verdict for a refusal", answer: answer(func(r *satchelv1.SyncResponse) {
			for _, v := range r.Verdicts {
				v.Status = satchelv1.Status_STATUS_REJECTED
			}
		}),
			found: []string{"lane-fork-no-page", "lane-lost-answer", "media-at-office", "office", "overlay-command", "overlay-idle"}},
		{name: "it passes verdicts over", answer: answer(func(r *satchelv1.SyncResponse) { r.Verdicts = nil }),
			found: []string{"clock-boots", "cursor-malformed", "lane-envelope", "lane-fork", "lane-hotel", "session-sign-out"}},
		{name: "it passes directives over", answer: answer(func(r *satchelv1.SyncResponse) { r.Directives = nil }),
			found: []string{"lane-fork-same", "lane-phone-backup", "repair-pending", "session-wiped", "session-wiped-unsent"}},
		{name: "it sends no edits of sets and counters", request: mutations(func(m *satchelv1.Mutation) {
			for _, op := range m.Ops {
				if p := op.GetPatch(); p != nil {
					p.Sets, p.Increments = nil, nil
				}
			}
		}),
			found: []string{"overlay-edits"}},
		{name: "it splits mutations", request: mutations(func(m *satchelv1.Mutation) { m.Ops = m.Ops[:min(1, len(m.Ops))] }),
			found: []string{"lane-atomic", "verdict-conflicted"}},
		{name: "it names no revs", request: mutations(func(m *satchelv1.Mutation) {
			for _, op := range m.Ops {
				op.BaseRev = 0
			}
		}),
			found: []string{"lane-atomic", "lane-base-rev", "overlay-command", "overlay-delete", "overlay-edits", "page-large-numbers",
				"page-merged", "verdict-conflicted"}},
		{name: "it sends the token of now", request: mutations(func(m *satchelv1.Mutation) { m.CheckpointToken = nil }),
			found: []string{"lane-base-rev"}},
		{name: "it names no schema", request: mutations(func(m *satchelv1.Mutation) { m.SchemaVersion = 0 }),
			found: []string{"schema-version"}},
		{name: "it sends no clock pairs", request: sync(func(r *satchelv1.SyncRequest) { r.ClockPairs = nil }),
			found: []string{"clock-boots", "clock-pair"}},
		{name: "it says nothing of its profile and its outbox", request: sync(func(r *satchelv1.SyncRequest) { r.Profile, r.Outbox = "", nil }),
			found: []string{"clock-pair", "lane-many", "media-refused", "media-upload", "profile-changed", "verdict-some"}},
		{name: "it does not say what it has seen", request: sync(func(r *satchelv1.SyncRequest) { r.SeenSeq = 0 }),
			found: []string{"lane-goes-on", "overlay-until-checkpoint", "page-idle", "page-large-numbers", "page-priorities", "restored",
				"restored-and-repaired", "restored-log-trimmed"}},
		{name: "it confirms nothing", request: sync(func(r *satchelv1.SyncRequest) { r.Confirmed = 0 }),
			found: []string{"lane-fork", "lane-goes-on", "overlay-until-checkpoint", "page-priorities", "restored", "session-after-fork",
				"verdict-rejected", "verdict-some"}},
		{name: "it passes the expected number over", answer: answer(func(r *satchelv1.SyncResponse) { r.ExpectedNumber = 0 }),
			found: []string{"lane-gap-filled", "lane-gap-skipped"}},
		{name: "it looks at no digest", answer: page(func(p *satchelv1.Page) { p.Digest = nil }),
			found: []string{"repair-did-not-help", "repair-digest"}},
		{name: "it counts otherwise", answer: page(func(p *satchelv1.Page) {
			if p.Digest != nil {
				p.Digest.Sum++
			}
		}),
			found: []string{"digest-right", "repair-digest", "repair-pieces"}},
		{name: "it asks for everything at each repair", answer: func(_, m proto.Message) {
			if r, ok := m.(*satchelv1.RepairResponse); ok && r.Plan != nil {
				r.Plan.StaleKinds = []string{"account", "visit"}
			}
		},
			found: []string{"repair-did-not-help", "repair-digest", "repair-pieces", "repair-salvage", "restored-and-repaired"}},
		{name: "it asks once for revs and rows", answer: func(_, m proto.Message) {
			if r, ok := m.(*satchelv1.RepairResponse); ok && r.Revs != nil {
				r.Revs.More = false
			}
		},
			found: []string{"repair-pieces"}},
		{name: "it salvages nothing", answer: answer(func(r *satchelv1.SyncResponse) {
			for _, d := range r.Directives {
				if d.GetRepair() != nil {
					d.GetRepair().Salvage = false
				}
			}
		}),
			found: []string{"repair-salvage", "restored-and-repaired"}},
		{name: "it never takes a new pair of tokens", answer: func(_, m proto.Message) {
			if r, ok := m.(*satchelv1.RefreshResponse); ok {
				r.Tokens = &satchelv1.Tokens{AccessToken: "access-1", RefreshToken: "refresh-1"}
			}
		},
			found: []string{"session-expired", "session-refresh-lost"}},
		{name: "it signs in as a new device", request: func(m proto.Message) {
			if r, ok := m.(*satchelv1.SignInRequest); ok && r.Device != nil {
				r.Device.DeviceId, r.Device.Installation = "", satchel.NewID().String()
			}
		},
			found: []string{"session-after-fork", "session-ended", "session-other-device"}},
		{name: "it sends files from the beginning", answer: func(_, m proto.Message) {
			if r, ok := m.(*satchelv1.BeginResponse); ok {
				r.Offset, r.Stored = 0, false
				r.UploadId = cmp.Or(r.UploadId, satchel.NewID().String())
			}
		},
			found: []string{"media-at-office", "media-offset", "media-refused", "media-resumed", "media-stored"}},
		{name: "it takes no change of what it has", answer: page(func(p *satchelv1.Page) {
			p.Changes = slices.DeleteFunc(p.Changes, func(ch *satchelv1.Change) bool { return ch.Rev == 2 })
		}),
			found: []string{"cursor-malformed", "digest-right", "media-upload", "overlay-rebased", "overlay-until-checkpoint",
				"page-dropped-and-back"}},
		{name: "it sends the last first", request: sync(func(r *satchelv1.SyncRequest) { slices.Reverse(r.Mutations) }),
			found: []string{"clock-boots", "lane-base-rev", "lane-envelope", "lane-fork", "lane-gap-filled", "lane-gap-skipped"}},
		{name: "it takes every refusal for a bad line", deaf: true,
			found: []string{"session-expired-again", "lane-draining", "lane-later", "lane-less", "media-garbled", "session-refused", "session-revoked",
				"session-too-old"}},
		{name: "it refuses what it does not know", strict: true,
			found: []string{"page-newer"}},
		{name: "it keeps files for ever", answer: changes(func(ch *satchelv1.Change) { ch.Fields = strings.Replace(ch.Fields, "stored", "waiting", 1) }),
			found: []string{"media-upload"}},
	}
}

// forgetful is memory that loses, with a kill, all since the store was opened.
type forgetful struct {
	stores map[string]*memstore.Store
	opened map[string]*memstore.Store
}

func newForgetful() godriver.Stores {
	return &forgetful{map[string]*memstore.Store{}, map[string]*memstore.Store{}}
}

func (f *forgetful) Open(_ context.Context, name string) (satchelclient.Store, error) {
	if f.stores[name] == nil {
		f.stores[name] = memstore.New()
	}
	f.opened[name] = f.stores[name].Clone()
	return f.stores[name], nil
}

func (f *forgetful) Release(name string, killed bool) error {
	if killed {
		f.stores[name] = f.opened[name]
	}
	return nil
}

func (f *forgetful) Copy(_ context.Context, from, to string) error {
	f.stores[to] = f.stores[from].Clone()
	return nil
}

func (f *forgetful) Reset() error { clear(f.stores); return nil }

// line is the way between a client and the server, on which a fault sits.
type line struct{ fault }

// pairs gives a request and an answer to read, by the end of the path.
var pairs = map[string]func() (proto.Message, proto.Message){
	"/Sync": func() (proto.Message, proto.Message) { return new(satchelv1.SyncRequest), new(satchelv1.SyncResponse) },
	"/Repair": func() (proto.Message, proto.Message) {
		return new(satchelv1.RepairRequest), new(satchelv1.RepairResponse)
	},
	"/SignIn": func() (proto.Message, proto.Message) {
		return new(satchelv1.SignInRequest), new(satchelv1.SignInResponse)
	},
	"/Refresh": func() (proto.Message, proto.Message) {
		return new(satchelv1.RefreshRequest), new(satchelv1.RefreshResponse)
	},
	"/Wait": func() (proto.Message, proto.Message) { return new(satchelv1.WaitRequest), new(satchelv1.WaitResponse) },
	"/Begin": func() (proto.Message, proto.Message) {
		return new(satchelv1.BeginRequest), new(satchelv1.BeginResponse)
	},
	"/PutChunk": func() (proto.Message, proto.Message) {
		return new(satchelv1.PutChunkRequest), new(satchelv1.PutChunkResponse)
	},
	"/Complete": func() (proto.Message, proto.Message) {
		return new(satchelv1.CompleteRequest), new(satchelv1.CompleteResponse)
	},
}

func (l line) RoundTrip(r *http.Request) (*http.Response, error) {
	i := strings.LastIndex(r.URL.Path, "/")
	pair := pairs[r.URL.Path[i:]]
	if pair == nil {
		return http.DefaultTransport.RoundTrip(r)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	if r.Header.Get("Content-Encoding") == "gzip" {
		unpacked, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		if body, err = io.ReadAll(unpacked); err != nil {
			return nil, err
		}
	}
	req, answer := pair()
	if err := proto.Unmarshal(body, req); err != nil {
		return nil, err
	}
	if l.request != nil {
		l.request(req)
	}
	send := func() (*http.Response, error) {
		body, err := proto.Marshal(req)
		if err != nil {
			return nil, err
		}
		r := r.Clone(r.Context())
		r.Body, r.ContentLength, r.GetBody = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
		r.Header.Set("Accept-Encoding", "identity")
		r.Header.Del("Content-Encoding")
		return http.DefaultTransport.RoundTrip(r)
	}
	res, err := send()
	if l.again && err != nil {
		res, err = send()
	}
	if l.deaf && err == nil && res.StatusCode != http.StatusOK {
		res.Body.Close()
		return nil, io.ErrUnexpectedEOF
	}
	if err != nil || l.answer == nil && !l.strict || res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "application/proto" {
		return res, err
	}
	defer res.Body.Close()
	if body, err = io.ReadAll(res.Body); err != nil {
		return nil, err
	}
	if err := proto.Unmarshal(body, answer); err != nil {
		return nil, err
	}
	if l.strict && len(answer.ProtoReflect().GetUnknown()) > 0 {
		return nil, io.ErrUnexpectedEOF
	}
	if l.answer != nil {
		l.answer(req, answer)
	}
	if body, err = proto.Marshal(answer); err != nil {
		return nil, err
	}
	res.Header.Set("Content-Length", strconv.Itoa(len(body)))
	res.Body, res.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return res, nil
}

func (f fault) client(t *testing.T) conformance.Config {
	o := godriver.Options{Stores: godriver.Memory(), HTTPClient: &http.Client{Transport: line{f}}}
	if f.stores != nil {
		o.Stores = f.stores()
	}
	return inProcess(t, o)
}

func TestABrokenClientFailsTheTranscriptsThatAreAboutItsFault(t *testing.T) {
	t.Parallel()
	for _, f := range faults() {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			failed := play(t, f.client(t), f.found...)
			for _, name := range f.found {
				if failed[name] == "" {
					t.Errorf("the transcript %s does not find it", name)
				}
			}
		})
	}
}

func TestEachTranscriptFindsAFault(t *testing.T) {
	t.Parallel()
	all, err := conformance.Transcripts()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, f := range faults() {
		for _, name := range f.found {
			found[name] = true
		}
	}
	for _, tr := range all {
		if !found[tr.Name] {
			t.Errorf("no broken client fails %s", tr.Name)
		}
		delete(found, tr.Name)
	}
	for name := range found {
		t.Errorf("there is no transcript %s", name)
	}
}
