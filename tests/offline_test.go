package tests_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	satchel "github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/clients/go/memstore"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/internal/pgtest"
)

// TestAMonthOfflineWithTenThousandChangesDrainsWithoutATimeOut lets a phone record for 31 days without a signal, longer
// than its session lives without one, while others work on. Then it signs in again and sends.
func TestAMonthOfflineWithTenThousandChangesDrainsWithoutATimeOut(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes half a minute on a slow machine")
	}
	t.Parallel()
	const changes, month = 10_000, 31 * 24 * time.Hour
	var offset atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
	offset.Store(int64(-month))
	p := serveConfig(t, app.Config{Pool: pgtest.New(t), Now: now}, hire)
	calls := &stopwatch{}
	c, err := satchelclient.New(satchelclient.Config{BaseURL: p.url, Store: memstore.New(), Now: now, HTTPClient: &http.Client{Transport: calls}})
	if err != nil {
		t.Fatal(err)
	}
	who := satchelclient.Credentials{Org: "acme", Login: "ann", Password: password, Platform: "go"}
	if err := c.SignIn(t.Context(), who); err != nil {
		t.Fatal(err)
	}
	var accounts []satchel.ID
	for n := range 100 {
		id, err := c.Create(t.Context(), "account", satchelclient.Fields{"name": fmt.Sprint("account ", n)})
		if err != nil {
			t.Fatal(err)
		}
		accounts = append(accounts, id)
	}
	syncNow(t, c)
	mei := phone(t, p.url, "mei", nil)
	syncNow(t, mei)

	for n := range changes { // three a day of a hundred customers
		offset.Add(int64(month / changes))
		account := accounts[n%len(accounts)]
		switch n % 4 {
		case 0, 1:
			_, err = c.Create(t.Context(), "visit", satchelclient.Fields{"account": account, "subject": strconv.Itoa(n)})
		case 2:
			err = c.Patch(t.Context(), "account", account, nil, satchelclient.Increment("visit_count", 1))
		default:
			err = c.Patch(t.Context(), "account", account, satchelclient.Fields{"remark": strconv.Itoa(n)})
		}
		if err != nil {
			t.Fatal(err)
		}
		if n == changes/2 {
			for _, a := range accounts {
				if err := mei.Patch(t.Context(), "account", a, satchelclient.Fields{"phone": "0571 8888", "remark": "Mei was here"}); err != nil {
					t.Fatal(err)
				}
			}
			if r := syncNow(t, mei); r.Pending != 0 {
				t.Fatalf("Mei's changes wait: %+v", r)
			}
		}
	}
	if n, err := c.Pending(t.Context()); err != nil || n != changes {
		t.Fatalf("%d changes wait, %v", n, err)
	}
	if _, err := c.Sync(t.Context()); !errors.Is(err, satchelclient.ErrSignInAgain) {
		t.Errorf("after a month the session gives %v", err)
	}
	if err := c.SignIn(t.Context(), who); err != nil {
		t.Fatal(err)
	}
	calls.reset()
	began := time.Now()
	r := syncNow(t, c) // one Sync: no call of it may fail
	if r.Pending != 0 || len(r.Settled) != changes || r.Sent != changes || r.Forked != 0 {
		t.Errorf("sent %d, settled %d, %d wait, forked %d", r.Sent, len(r.Settled), r.Pending, r.Forked)
	}
	longest, failed := calls.longest()
	t.Logf("%d calls in %s, the longest took %s", r.Calls, time.Since(began).Round(time.Millisecond), longest.Round(time.Millisecond))
	if failed > 0 || longest > 10*time.Second || r.Calls > changes/200+40 {
		t.Errorf("%d calls, of which %d failed; the longest took %s", r.Calls, failed, longest)
	}
	for _, s := range r.Settled {
		if st := s.Verdict.Status; st != satchelv1.Status_STATUS_APPLIED && st != satchelv1.Status_STATUS_MERGED {
			t.Fatalf("a change is %v", s.Verdict)
		}
	}
	syncNow(t, mei)
	visits, err := mei.List(t.Context(), "visit")
	if err != nil {
		t.Fatal(err)
	}
	subjects := map[string]int{}
	for _, v := range visits {
		subjects[v.Text("subject")]++
	}
	if len(visits) != changes/2 || len(subjects) != changes/2 {
		t.Errorf("there are %d visits of %d subjects", len(visits), len(subjects))
	}
	for n, id := range accounts {
		a, err := mei.Get(t.Context(), "account", id)
		if err != nil {
			t.Fatal(err)
		}
		want := 0
		for k := n; k < changes; k += len(accounts) {
			if k%4 == 2 {
				want++
			}
		}
		if has := fmt.Sprintf(`"visit_count": %d`, want); want > 0 && !strings.Contains(string(a.Fields), has) || a.Text("phone") != "0571 8888" {
			t.Fatalf("account %d is %s; it should have %s", n, a.Fields, has)
		}
	}
}

// stopwatch measures calls of Sync.
type stopwatch struct{ most, bad atomic.Int64 }

func (s *stopwatch) reset() { s.most.Store(0); s.bad.Store(0) }

func (s *stopwatch) longest() (time.Duration, int64) {
	return time.Duration(s.most.Load()), s.bad.Load()
}

// RoundTrip is http.RoundTripper's.
func (s *stopwatch) RoundTrip(r *http.Request) (*http.Response, error) {
	began := time.Now()
	res, err := http.DefaultTransport.RoundTrip(r)
	s.most.Store(max(s.most.Load(), int64(time.Since(began))))
	if err != nil || res.StatusCode != http.StatusOK {
		s.bad.Add(1)
	}
	return res, err
}

// TestAReinstalledAppGoesOnAndDoublesNothing loses the store of a phone. The app may remember its device's id (in a
// keychain) or not; the old session ends in the first case, and by the office's hand in the second.
func TestAReinstalledAppGoesOnAndDoublesNothing(t *testing.T) {
	t.Parallel()
	p := serve(t)
	for name, remembered := range map[string]bool{"with the old id": true, "without it": false} {
		old := signIn(t, p.url, "acme", "ann")
		account := old.create("account", map[string]any{"name": "Before, " + name})
		old.create("visit", map[string]any{"account": account, "subject": "Before, " + name})

		again := &caller{t: t, url: p.url, seen: map[string]seen{}}
		device := map[string]any{"platform": "go", "installation": satchel.NewID().String()}
		if remembered {
			device["deviceId"] = old.device
		}
		got := again.must("AuthService/SignIn", map[string]any{"org": "acme", "login": "ann", "password": password, "device": device})
		again.token, _ = got["tokens"].(map[string]any)["accessToken"].(string)
		again.device, _ = got["deviceId"].(string)
		if remembered != (again.device == old.device) {
			t.Errorf("%s: the device %s becomes %s", name, old.device, again.device)
		}
		if a := old.call("SyncService/Sync", `{}`); remembered && a.code != "unauthenticated" {
			t.Errorf("%s: the old session goes on: %s", name, a.raw)
		}
		// Its store is empty, so it counts from one. The server knows these numbers by other ids: it orders a new device.
		number := map[string]any{"number": "1", "id": satchel.NewID().String(), "ops": []any{
			op(account, "account", "patch", map[string]any{"increments": []any{map[string]any{"field": "visit_count", "by": "1"}}}),
			op(satchel.NewID().String(), "task", "create", withFields(map[string]any{"title": "After, " + name}))}}
		res := again.must("SyncService/Sync", map[string]any{"noPage": true, "mutations": []any{number}})
		if directives, _ := res["directives"].([]any); remembered {
			fork, _ := directives[0].(map[string]any)["fork"].(map[string]any)
			if res["verdicts"] != nil || fork["deviceId"] == nil || fork["deviceId"] == old.device {
				t.Errorf("%s: no new device: %v", name, res)
			}
			res = again.must("SyncService/Sync", map[string]any{"noPage": true, "mutations": []any{number}})
		}
		verdicts, _ := res["verdicts"].([]any)
		if len(verdicts) != 1 || verdicts[0].(map[string]any)["status"] != "STATUS_APPLIED" {
			t.Fatalf("%s: %v", name, res)
		}
		again.pull()
		count := map[string]int{}
		for _, s := range again.seen {
			for _, field := range []string{"name", "subject", "title"} {
				if text, _ := s.fields[field].(string); strings.HasSuffix(text, name) {
					count[s.kind+" "+text]++
				}
			}
		}
		for _, what := range []string{"account Before, ", "visit Before, ", "task After, "} {
			if count[what+name] != 1 {
				t.Errorf("%s: after the reinstallation there are %v", name, count)
			}
		}
		if got := again.seen[account].fields["visit_count"]; fmt.Sprint(got) != "1" {
			t.Errorf("%s: counted %v", name, got)
		}
		// The office sees both devices, or the one, and can end the old one.
		signIn(t, p.url, "acme", "admin").must("DeviceService/RevokeDevice", map[string]any{"deviceId": old.device})
		if a := old.call("SyncService/Sync", `{}`); a.reason != "DEVICE_REVOKED" && a.code != "unauthenticated" {
			t.Errorf("%s: the revoked device syncs: %s", name, a.raw)
		}
	}
}

// TestANewerAppLosesNothingAtAnOlderServer sends what this server does not know: fields and enums of a later contract,
// a new kind of op, fields of a later schema.
func TestANewerAppLosesNothingAtAnOlderServer(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	// Unknown fields everywhere, in JSON: passed over.
	v.ann.number++
	id := satchel.NewID().String()
	a := v.ann.call("SyncService/Sync", fmt.Sprintf(`{"noPage": true, "later": {"deep": [1]}, "mutations": [{"number": "%d", "id": "%s", "later": "x",
		"ops": [{"recordId": "%s", "kind": "task", "later": 1, "create": {"fields": "{\"title\": \"Call\"}", "later": null}}]}]}`,
		v.ann.number, satchel.NewID(), id))
	if verdicts, _ := a.body["verdicts"].([]any); len(verdicts) != 1 || verdicts[0].(map[string]any)["status"] != "STATUS_APPLIED" {
		t.Errorf("fields that are not known: %s", a.raw)
	}
	// The same in bytes: an op whose action this server does not know stands beside one that it does. It is refused
	// alone, with its bytes kept as they came, and what follows is applied.
	title := `{"title": "Behind"}`
	known := &satchelv1.Op{RecordId: satchel.NewID().String(), Kind: "task", Action: &satchelv1.Op_Create{Create: &satchelv1.Create{Fields: title}}}
	newer := &satchelv1.Op{RecordId: id, Kind: "task"}
	raw, err := proto.Marshal(newer)
	if err != nil {
		t.Fatal(err)
	}
	raw = protowire.AppendBytes(protowire.AppendTag(raw, 999, protowire.BytesType), []byte("an op of next year"))
	if err := proto.Unmarshal(raw, newer); err != nil {
		t.Fatal(err)
	}
	v.ann.number += 2
	res := v.ann.sync(&satchelv1.SyncRequest{NoPage: true, Mutations: []*satchelv1.Mutation{
		{Number: uint64(v.ann.number - 1), Id: satchel.NewID().String(), Ops: []*satchelv1.Op{newer}},
		{Number: uint64(v.ann.number), Id: satchel.NewID().String(), Ops: []*satchelv1.Op{known}}}})
	if len(res.Verdicts) != 2 || res.Verdicts[0].Status == satchelv1.Status_STATUS_APPLIED || res.Verdicts[0].AttentionId == "" || res.Verdicts[1].Status != satchelv1.Status_STATUS_APPLIED {
		t.Fatalf("an op that is not known: %v", res.Verdicts)
	}
	v.ann.pull()
	if kept := fmt.Sprint(v.ann.seen[res.Verdicts[0].AttentionId].fields); !strings.Contains(kept, "base64") {
		t.Errorf("its bytes are not kept: %s", kept)
	}
	// A field of a later schema is kept, to be applied when the server knows it; without a version it is refused and kept.
	for version, want := range map[string]string{"1000": "STATUS_UNSUPPORTED", "0": "STATUS_REJECTED"} {
		v.ann.number++
		got := v.ann.must("SyncService/Sync", map[string]any{"noPage": true, "schemaVersion": version, "mutations": []any{map[string]any{
			"number": fmt.Sprint(v.ann.number), "id": satchel.NewID().String(),
			"ops": []any{op(id, "task", "patch", withFields(map[string]any{"mood": "bright", "title": "Other"}))}}}})
		verdicts, _ := got["verdicts"].([]any)
		if len(verdicts) != 1 || verdicts[0].(map[string]any)["status"] != want || verdicts[0].(map[string]any)["attentionId"] == nil {
			t.Errorf("a field of schema %s: %v", version, got)
		}
	}
	// An enum's value that is not known is refused for what it is, and nothing falls over.
	if a := v.mei.call("ApprovalService/Decide", map[string]any{"approvalId": v.approval, "formHash": "x", "decision": 77, "key": v.approval}); a.code != "invalid_argument" {
		t.Errorf("an enum's value of next year: %s", a.raw)
	}
}

// TestAnOlderAppLosesNothingAtANewerServer gives a phone answers with fields, enums and directives of a later contract,
// and lets it edit records of which it knows not all fields.
func TestAnOlderAppLosesNothingAtANewerServer(t *testing.T) {
	t.Parallel()
	p := serve(t)
	later := &future{}
	ann, ben := phone(t, p.url, "ann", later), phone(t, p.url, "ann", nil)
	account, err := ben.Create(t.Context(), "account", satchelclient.Fields{"name": "Quay", "remark": "that the older app does not show", "tags": []string{"a"}})
	if err != nil {
		t.Fatal(err)
	}
	syncNow(t, ben)
	syncNow(t, ann)
	later.on.Store(true)
	if err := ann.Patch(t.Context(), "account", account, satchelclient.Fields{"name": "Quay and Sons"}); err != nil {
		t.Fatal(err)
	}
	r := syncNow(t, ann)
	if r.Pending != 0 || len(r.Settled) != 1 || r.Settled[0].Verdict.Status != futureStatus || later.seen.Load() == 0 {
		t.Errorf("an answer of a newer server: %+v, changed %d", r, later.seen.Load())
	}
	syncNow(t, ben)
	got, err := ben.Get(t.Context(), "account", account)
	if err != nil || got.Text("name") != "Quay and Sons" || got.Text("remark") != "that the older app does not show" || !strings.Contains(string(got.Fields), `"tags": ["a"]`) {
		t.Errorf("after the older app's edit: %s, %v", got.Fields, err)
	}
	if mine, err := ann.Get(t.Context(), "account", account); err != nil || mine.Text("name") != "Quay and Sons" {
		t.Errorf("the older app shows %s, %v", mine.Fields, err)
	}
}

// futureStatus is a fate that no verdict has today.
const futureStatus = satchelv1.Status(99)

// future answers as a server of a later contract would.
type future struct {
	on   atomic.Bool
	seen atomic.Int64
}

// RoundTrip is http.RoundTripper's.
func (f *future) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Accept-Encoding", "identity")
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil || !f.on.Load() || !strings.HasSuffix(r.URL.Path, "/Sync") || res.StatusCode != http.StatusOK {
		return res, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	answer := &satchelv1.SyncResponse{}
	if err := proto.Unmarshal(raw, answer); err != nil {
		return nil, err
	}
	news := protowire.AppendBytes(protowire.AppendTag(nil, 999, protowire.BytesType), []byte("of next year"))
	for _, v := range answer.Verdicts {
		v.Status = futureStatus
		v.Notes = append(v.Notes, satchelv1.Note(99))
		v.ProtoReflect().SetUnknown(news)
		f.seen.Add(1)
	}
	for _, c := range answer.Page.GetChanges() {
		c.ProtoReflect().SetUnknown(news)
	}
	order := &satchelv1.Directive{} // of a kind that this app does not know
	order.ProtoReflect().SetUnknown(news)
	answer.Directives = append(answer.Directives, order)
	answer.ProtoReflect().SetUnknown(news)
	if raw, err = proto.Marshal(answer); err != nil {
		return nil, err
	}
	res.Body, res.ContentLength = io.NopCloser(bytes.NewReader(raw)), int64(len(raw))
	res.Header.Set("Content-Length", strconv.Itoa(len(raw)))
	return res, nil
}

// sync calls Sync in Protobuf's bytes.
func (c *caller) sync(in *satchelv1.SyncRequest) *satchelv1.SyncResponse {
	c.t.Helper()
	raw, err := proto.Marshal(in)
	if err != nil {
		c.t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodPost, c.url+"/satchel.v1.SyncService/Sync", bytes.NewReader(raw))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/proto")
	req.Header.Set("Authorization", "Bearer "+c.token)
	a := c.do(req)
	out := &satchelv1.SyncResponse{}
	if err := proto.Unmarshal(a.raw, out); a.status != http.StatusOK || err != nil {
		c.t.Fatalf("%d %s, %v", a.status, a.raw, err)
	}
	return out
}
