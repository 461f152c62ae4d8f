package satchelclient_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/clients/go/memstore"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/gen/satchel/v1/satchelv1connect"
)

// fake is a small server that keeps the protocol's words over a real connection: numbers and random ids, verdicts,
// pages of pageRows rows. Tests bend it through its hooks, which are called with mu held.
type fake struct {
	satchelv1connect.UnimplementedAuthServiceHandler
	satchelv1connect.UnimplementedSyncServiceHandler
	satchelv1connect.UnimplementedMediaServiceHandler
	url string

	mu       sync.Mutex
	requests []*satchelv1.SyncRequest
	script   func(*satchelv1.SyncRequest) (*satchelv1.SyncResponse, error)  // answers in place of the fake, unless it gives nil, nil
	answer   func(*satchelv1.SyncRequest, *satchelv1.SyncResponse) error    // sees or changes an answer; an error loses it
	refuse   func(*satchelv1.Mutation) (satchelv1.Status, satchelv1.Reason) // 0 = apply
	waits    chan struct{}                                                  // closed = something to pull
	pageRows int

	person, org satchel.ID
	device      satchel.ID
	access      string
	refresh     string
	generation  int
	previous    string // refresh token, good once more until the pair that it gave was used
	signOuts    []string
	refreshes   int

	seq     uint64
	lanes   map[satchel.ID][]*satchelv1.Verdict // by device, by number
	ids     map[satchel.ID][]string             // by device, by number: random ids
	applied map[string]int                      // by random id
	rows    map[string]*row

	digests  bool   // checkpoints state them
	cut      uint64 // of the epoch before this one: what was lost is beyond it
	repairs  []*satchelv1.RepairRequest
	plan     func(*satchelv1.RepairPlan) // sees or changes a plan
	onRepair func(*satchelv1.RepairRequest) error
	salvaged map[string]*satchelv1.Change

	uploads   map[string][]byte // by hash
	stored    map[string]bool
	chunk     uint32
	puts      int
	onPut     func(*satchelv1.PutChunkRequest) error // with mu held
	blobBytes []byte
}

type row struct {
	seq    uint64
	change *satchelv1.Change
	fields map[string]any
}

const serverTime = int64(1_790_000_000_000)

func newFake(t *testing.T) *fake {
	t.Helper()
	f, stop := startFake()
	t.Cleanup(stop)
	return f
}

func startFake() (*fake, func()) {
	f := &fake{
		person: satchel.NewID(), org: satchel.NewID(), device: satchel.NewID(), pageRows: 100,
		lanes: map[satchel.ID][]*satchelv1.Verdict{}, ids: map[satchel.ID][]string{}, applied: map[string]int{},
		rows: map[string]*row{}, salvaged: map[string]*satchelv1.Change{}, uploads: map[string][]byte{}, stored: map[string]bool{}, chunk: 1 << 20, waits: make(chan struct{}),
	}
	mux := http.NewServeMux()
	mux.Handle(satchelv1connect.NewAuthServiceHandler(f))
	mux.Handle(satchelv1connect.NewSyncServiceHandler(f))
	mux.Handle(satchelv1connect.NewMediaServiceHandler(f))
	mux.HandleFunc("/media/blob", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			w.WriteHeader(http.StatusTeapot) // a link must not be opened with the session's token
			return
		}
		w.Write(f.blobBytes)
	})
	s := httptest.NewServer(mux)
	f.url = s.URL
	return f, s.Close
}

func fail(code connect.Code, reason satchelv1.Reason, expected uint64) error {
	err := connect.NewError(code, fmt.Errorf("refused"))
	d, _ := connect.NewErrorDetail(&satchelv1.ErrorDetail{Reason: reason, RequestId: "r1", Expected: expected})
	err.AddDetail(d)
	return err
}

func (f *fake) mint() *satchelv1.Tokens {
	f.generation++
	f.previous = f.refresh
	f.access, f.refresh = fmt.Sprintf("access-%d", f.generation), fmt.Sprintf("refresh-%d", f.generation)
	return &satchelv1.Tokens{AccessToken: f.access, RefreshToken: f.refresh}
}

// enter locks the fake and checks the token.
func (f *fake) enter(ctx context.Context) error {
	f.mu.Lock()
	info, _ := connect.CallInfoForHandlerContext(ctx)
	if info.RequestHeader().Get("Authorization") != "Bearer "+f.access {
		f.mu.Unlock()
		return fail(connect.CodeUnauthenticated, satchelv1.Reason_REASON_TOKEN_EXPIRED, 0)
	}
	f.previous = ""
	return nil
}

func (f *fake) SignIn(_ context.Context, req *satchelv1.SignInRequest) (*satchelv1.SignInResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if req.Password != "right" {
		return nil, fail(connect.CodeUnauthenticated, satchelv1.Reason_REASON_BAD_CREDENTIALS, 0)
	}
	return &satchelv1.SignInResponse{Tokens: f.mint(), DeviceId: f.device.String(), PersonId: f.person.String(), OrgId: f.org.String(), DisplayName: "Li Na"}, nil
}

func (f *fake) Refresh(_ context.Context, req *satchelv1.RefreshRequest) (*satchelv1.RefreshResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refreshes++
	if req.RefreshToken != f.refresh && (req.RefreshToken != f.previous || f.previous == "") {
		return nil, fail(connect.CodeUnauthenticated, satchelv1.Reason_REASON_SESSION_ENDED, 0)
	}
	return &satchelv1.RefreshResponse{Tokens: f.mint()}, nil
}

func (f *fake) SignOut(ctx context.Context, _ *satchelv1.SignOutRequest) (*satchelv1.SignOutResponse, error) {
	if err := f.enter(ctx); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	f.signOuts = append(f.signOuts, f.access)
	return &satchelv1.SignOutResponse{}, nil
}

func (f *fake) Wait(ctx context.Context, req *satchelv1.WaitRequest) (*satchelv1.WaitResponse, error) {
	if err := f.enter(ctx); err != nil {
		return nil, err
	}
	ch := f.waits
	news := len(f.page(req.Cursor).Changes) > 0
	f.mu.Unlock()
	if news {
		return &satchelv1.WaitResponse{Wake: true}, nil
	}
	select {
	case <-ch:
		return &satchelv1.WaitResponse{Wake: true}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (f *fake) Sync(ctx context.Context, req *satchelv1.SyncRequest) (*satchelv1.SyncResponse, error) {
	if err := f.enter(ctx); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	f.requests = append(f.requests, req)
	if f.script != nil {
		if res, err := f.script(req); res != nil || err != nil {
			return res, err
		}
	}
	res := f.sync(req)
	if f.answer != nil {
		if err := f.answer(req, res); err != nil {
			return nil, err
		}
	}
	return res, nil
}

func (f *fake) sync(req *satchelv1.SyncRequest) *satchelv1.SyncResponse {
	res := &satchelv1.SyncResponse{ServerTimeMs: serverTime}
	if f.cut > 0 && f.beyond(req.SeenSeq) {
		res.Directives = []*satchelv1.Directive{{Order: &satchelv1.Directive_Restored{Restored: &satchelv1.Restored{
			AfterSeq: f.cut, ExpectedNumber: uint64(len(f.lanes[f.device])) + 1, Seq: f.seq}}}}
		return res
	}
	f.seq++
	for _, m := range req.Mutations {
		lane, ids := f.lanes[f.device], f.ids[f.device]
		switch {
		case m.Number > uint64(len(lane))+1:
			res.ExpectedNumber = uint64(len(lane)) + 1
		case m.Number <= uint64(len(lane)) && ids[m.Number-1] == m.Id:
			res.Verdicts = append(res.Verdicts, lane[m.Number-1])
		case m.Number > uint64(len(lane)) && m.Skip != nil:
			v := &satchelv1.Verdict{Number: m.Number, Seq: f.seq, Status: satchelv1.Status_STATUS_APPLIED}
			for range m.Skip.To - m.Number {
				lane, ids = append(lane, &satchelv1.Verdict{}), append(ids, "skipped")
			}
			f.lanes[f.device], f.ids[f.device] = append(lane, v), append(ids, m.Id)
			res.Verdicts = append(res.Verdicts, v)
		case m.Number <= uint64(len(lane)):
			f.device = satchel.NewID()
			res.Verdicts = nil
			res.Directives = []*satchelv1.Directive{{Order: &satchelv1.Directive_Fork{Fork: &satchelv1.Fork{DeviceId: f.device.String()}}}}
			return res
		default:
			v := &satchelv1.Verdict{Number: m.Number, Seq: f.seq, Status: satchelv1.Status_STATUS_APPLIED}
			refused := m.Envelope != nil
			if refused {
				v.Status, v.Reason = satchelv1.Status_STATUS_REJECTED, satchelv1.Reason_REASON_MALFORMED
			}
			if f.refuse != nil {
				if status, reason := f.refuse(m); status != 0 {
					v.Status, v.Reason, refused = status, reason, true
				}
			}
			if !refused && f.applied[m.Id] == 0 {
				f.apply(m)
			}
			f.lanes[f.device], f.ids[f.device] = append(lane, v), append(ids, m.Id)
			res.Verdicts = append(res.Verdicts, v)
		}
	}
	if req.NoPage {
		return res
	}
	if seq, _ := placeOf(req.Cursor); f.cut > 0 && f.beyond(seq) {
		res.Directives = []*satchelv1.Directive{{Order: &satchelv1.Directive_Repair{Repair: &satchelv1.RepairOrder{Salvage: true}}}}
		return res
	}
	res.Page = f.page(req.Cursor)
	return res
}

func (f *fake) apply(m *satchelv1.Mutation) {
	f.applied[m.Id]++
	for _, op := range m.Ops {
		r := f.rows[op.RecordId]
		if r == nil {
			r = &row{fields: map[string]any{}, change: &satchelv1.Change{RecordId: op.RecordId, Kind: op.Kind, Entered: []uint64{1}, AuthorId: f.person.String()}}
			f.rows[op.RecordId] = r
		}
		var set map[string]any
		if text := op.GetCreate().GetFields() + op.GetPatch().GetFields(); text != "" {
			if err := json.Unmarshal([]byte(text), &set); err != nil {
				panic(err)
			}
		}
		maps.Copy(r.fields, set)
		for _, inc := range op.GetPatch().GetIncrements() {
			n, _ := r.fields[inc.Field].(float64)
			r.fields[inc.Field] = n + float64(inc.By)
		}
		if op.GetDelete() != nil {
			r.change.Deleted = true
		}
		if hash, _ := r.fields["blob"].(string); f.stored[hash] {
			r.fields["blob_state"] = "stored"
		}
		f.touch(r)
	}
}

func (f *fake) touch(r *row) {
	r.seq, r.change.Rev = f.seq, max(r.change.Rev+1, f.seq>>40<<40)
	text, err := json.Marshal(r.fields)
	if err != nil {
		panic(err)
	}
	r.change.Fields = string(text)
	if r.change.Deleted {
		r.change.Fields, r.change.Entered = "", nil
	}
}

// put writes a record as somebody else.
func (f *fake) put(kind string, id satchel.ID, fields map[string]any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seq++
	r := f.rows[id.String()]
	if r == nil {
		r = &row{fields: map[string]any{}, change: &satchelv1.Change{RecordId: id.String(), Kind: kind, Entered: []uint64{1}}}
		f.rows[id.String()] = r
	}
	maps.Copy(r.fields, fields)
	f.touch(r)
}

// page gives rows after the cursor "seq/id", in that order.
func (f *fake) page(cursor []byte) *satchelv1.Page {
	seq, id := placeOf(cursor)
	all := slices.SortedFunc(maps.Values(f.rows), func(a, b *row) int {
		if a.seq != b.seq {
			return int(a.seq) - int(b.seq)
		}
		return bytes.Compare([]byte(a.change.RecordId), []byte(b.change.RecordId))
	})
	p := &satchelv1.Page{Cursor: cursor}
	for _, r := range all {
		if r.seq < seq || r.seq == seq && r.change.RecordId <= id {
			continue
		}
		if len(p.Changes) == f.pageRows {
			p.More = true
			return p
		}
		p.Changes = append(p.Changes, proto.CloneOf(r.change))
		p.Cursor = fmt.Appendf(nil, "%d/%s", r.seq, r.change.RecordId)
	}
	p.Cursor = fmt.Appendf(nil, "%d/~", f.seq)
	p.SchemaVersion = 3
	p.Checkpoint, p.Seq, p.Token = true, f.seq, fmt.Appendf(nil, "token-%d", f.seq)
	if f.digests {
		p.Digest = new(satchelv1.Digest)
		for _, d := range f.shelves() {
			p.Digest.Count += d.Digest.Count
			p.Digest.Sum += d.Digest.Sum
		}
	}
	return p
}

// last gives the last request.
func (f *fake) last(t *testing.T) *satchelv1.SyncRequest {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.requests) == 0 {
		t.Fatal("there was no request")
	}
	return f.requests[len(f.requests)-1]
}

// bend changes the fake under its lock.
func (f *fake) bend(change func(*fake)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func config(f *fake, store satchelclient.Store) satchelclient.Config {
	return satchelclient.Config{
		BaseURL: f.url, Store: store, Timeout: 20 * time.Second,
		Now:       func() time.Time { return time.UnixMilli(serverTime + 5) },
		Monotonic: func() (string, uint64) { return "boot-1", 77 },
	}
}

// client gives a client that is signed in to the fake, on a store in memory.
func client(t *testing.T, f *fake) *satchelclient.Client {
	t.Helper()
	return signedIn(t, config(f, memstore.New()))
}

func signedIn(t *testing.T, cfg satchelclient.Config) *satchelclient.Client {
	t.Helper()
	c, err := satchelclient.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SignIn(t.Context(), satchelclient.Credentials{Login: "lina", Password: "right"}); err != nil {
		t.Fatal(err)
	}
	return c
}

func mustSync(t *testing.T, c *satchelclient.Client) satchelclient.Result {
	t.Helper()
	r, err := c.Sync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustCreate(t *testing.T, c *satchelclient.Client, kind string, fields satchelclient.Fields) satchel.ID {
	t.Helper()
	id, err := c.Create(t.Context(), kind, fields)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// shown gives the fields as text, or "none".
func shown(t *testing.T, c *satchelclient.Client, kind string, id satchel.ID) string {
	t.Helper()
	r, err := c.Get(t.Context(), kind, id)
	if err == satchelclient.ErrNotFound {
		return "none"
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(r.Fields)
}

func wantShown(t *testing.T, c *satchelclient.Client, kind string, id satchel.ID, want string) {
	t.Helper()
	if got := shown(t, c, kind, id); got != want {
		t.Errorf("shown: %s, want %s", got, want)
	}
}

func wantPending(t *testing.T, c *satchelclient.Client, want int) {
	t.Helper()
	if n, err := c.Pending(t.Context()); err != nil || n != want {
		t.Errorf("%d are pending, want %d; %v", n, want, err)
	}
}

func numbers(req *satchelv1.SyncRequest) []uint64 {
	var all []uint64
	for _, m := range req.Mutations {
		all = append(all, m.Number)
	}
	return all
}
