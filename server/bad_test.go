package server_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	satchel "github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/internal/app"
)

const syncPath = "/satchel.v1.SyncService/Sync"

func TestWhatIsNoCallIsRefusedWithATypedReason(t *testing.T) {
	w := newWorld(t)
	d := w.signIn("ann")
	good := d.tokens.AccessToken
	other := w.signIn("ben")
	cursor := other.send().Page.Cursor
	foreign, err := json.Marshal(map[string]any{"cursor": cursor})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path, token, body string
		code              string
		reason            satchelv1.Reason
	}{
		"no token":                  {syncPath, "", `{}`, "unauthenticated", satchelv1.Reason_REASON_TOKEN_EXPIRED},
		"a token of noise":          {syncPath, "noise", `{}`, "unauthenticated", satchelv1.Reason_REASON_TOKEN_EXPIRED},
		"a token of a megabyte":     {syncPath, strings.Repeat("x", 2000), `{}`, "unauthenticated", satchelv1.Reason_REASON_TOKEN_EXPIRED},
		"no JSON":                   {syncPath, good, `{"cursor":`, "invalid_argument", satchelv1.Reason_REASON_MALFORMED},
		"an empty body":             {syncPath, good, ``, "invalid_argument", satchelv1.Reason_REASON_MALFORMED},
		"a wrong type":              {syncPath, good, `{"mutations":7}`, "invalid_argument", satchelv1.Reason_REASON_MALFORMED},
		"text that is not UTF-8":    {syncPath, good, "{\"mutations\":[{\"number\":1,\"id\":\"\xff\"}]}", "invalid_argument", satchelv1.Reason_REASON_MALFORMED},
		"a lone surrogate":          {syncPath, good, `{"mutations":[{"number":1,"id":"\ud800"}]}`, "invalid_argument", satchelv1.Reason_REASON_MALFORMED},
		"a hundred thousand levels": {syncPath, good, strings.Repeat(`{"outbox":`, 100_000), "invalid_argument", satchelv1.Reason_REASON_MALFORMED},
		"a mutation without number": {syncPath, good, `{"mutations":[{"id":"x"}]}`, "invalid_argument", satchelv1.Reason_REASON_MALFORMED},
		"too many mutations":        {syncPath, good, `{"mutations":[` + strings.Repeat(`{},`, 200) + `{}]}`, "invalid_argument", satchelv1.Reason_REASON_MALFORMED},
		"a cursor that is broken":   {syncPath, good, `{"cursor":"AAAA"}`, "invalid_argument", satchelv1.Reason_REASON_MALFORMED_CURSOR},
		"somebody else's cursor":    {syncPath, good, string(foreign), "invalid_argument", satchelv1.Reason_REASON_MALFORMED_CURSOR},
		"a cursor that is too long": {syncPath, good, `{"cursor":"` + strings.Repeat("AAAA", 400) + `"}`, "invalid_argument", satchelv1.Reason_REASON_MALFORMED},
		"to wait without a cursor":  {"/satchel.v1.SyncService/Wait", good, `{}`, "invalid_argument", satchelv1.Reason_REASON_MALFORMED},
		"an id that is none":        {"/satchel.v1.DeviceService/RevokeDevice", good, `{"deviceId":"1"}`, "invalid_argument", satchelv1.Reason_REASON_MALFORMED},
		"a person that is none":     {"/satchel.v1.DeviceService/ListDevices", good, `{"personId":"1"}`, "invalid_argument", satchelv1.Reason_REASON_MALFORMED},
		"somebody else's device":    {"/satchel.v1.DeviceService/RevokeDevice", good, `{"deviceId":"` + other.id.String() + `"}`, "not_found", satchelv1.Reason_REASON_NOT_FOUND},
		"a right that is missing":   {"/satchel.v1.DirectoryService/CreateTeam", good, `{"name":"x"}`, "permission_denied", satchelv1.Reason_REASON_NOT_ALLOWED},
		"a wrong password":          {"/satchel.v1.AuthService/SignIn", "", `{"login":"ann","password":"wrong"}`, "unauthenticated", satchelv1.Reason_REASON_BAD_CREDENTIALS},
		"a procedure that is none":  {"/satchel.v1.SyncService/Steal", good, `{}`, "unimplemented", satchelv1.Reason_REASON_UNSPECIFIED},
		"a service that is none":    {"/satchel.v2.Other/Call", good, `{}`, "unimplemented", satchelv1.Reason_REASON_UNSPECIFIED},
		"a sign-in that is too big": {"/satchel.v1.AuthService/SignIn", "", `{"login":"` + strings.Repeat("x", 70_000) + `"}`, "resource_exhausted", satchelv1.Reason_REASON_TOO_LARGE},
	} {
		t.Run(name, func(t *testing.T) {
			_, raw := w.post(c.path, c.token, strings.NewReader(c.body))
			code, e := failure(t, raw)
			if code != c.code || e.Reason != c.reason || e.RequestId == "" || e.Message == "" {
				t.Errorf("got %s %v", code, e)
			}
			if !strings.Contains(w.log.String(), e.RequestId) {
				t.Error("the log does not know the request")
			}
		})
	}
	if log := w.log.String(); strings.Contains(log, password) || strings.Contains(log, good) {
		t.Error("a secret is in the log")
	}
}

func TestTheTextIsInThePersonsLanguage(t *testing.T) {
	w := newWorld(t)
	_, raw := w.post(syncPath, "", strings.NewReader(`{}`), "Accept-Language", "zh-CN,zh;q=0.9,en;q=0.8")
	if _, e := failure(t, raw); e.Message != "登录已过期，正在续期；如仍出现请重新登录。" {
		t.Errorf("got %q", e.Message)
	}
}

func TestAMutationWithoutTheDocumentedFormIsRefusedByAVerdictAndKept(t *testing.T) {
	w := newWorld(t)
	d := w.signIn("ann")
	bad := map[string]*satchelv1.Mutation{
		"a record id that is none":  d.mutation(&satchelv1.Op{RecordId: "visit-1", Kind: "account", Action: &satchelv1.Op_Delete{Delete: &satchelv1.Delete{}}}),
		"no action":                 d.mutation(&satchelv1.Op{RecordId: satchel.NewID().String(), Kind: "account"}),
		"a kind that is too long":   d.mutation(create(strings.Repeat("k", 65), nil)),
		"an id that is none":        d.mutation(d.account("x")),
		"a token that is too long":  d.mutation(d.account("x")),
		"a set edit without a name": d.mutation(&satchelv1.Op{RecordId: satchel.NewID().String(), Kind: "account", Action: &satchelv1.Op_Patch{Patch: &satchelv1.Patch{Sets: []*satchelv1.SetEdit{{}}}}}),
	}
	bad["an id that is none"].Id = "my-mutation"
	bad["a token that is too long"].CheckpointToken = make([]byte, 300)
	var ms []*satchelv1.Mutation
	names := map[uint64]string{}
	for n := uint64(1); n <= d.next; n++ {
		for name, m := range bad {
			if m.Number == n {
				ms = append(ms, m)
				names[n] = name
			}
		}
	}
	last := d.mutation(d.account("behind them all"))
	res := d.send(append(ms, last)...)
	if len(res.Verdicts) != len(ms)+1 {
		t.Fatalf("%d verdicts for %d mutations", len(res.Verdicts), len(ms)+1)
	}
	if v := res.Verdicts[len(ms)]; v.Status != satchelv1.Status_STATUS_APPLIED {
		t.Errorf("what stands behind them is %v", v)
	}
	for _, v := range res.Verdicts[:len(ms)] {
		if v.Status != satchelv1.Status_STATUS_REJECTED || v.Reason != satchelv1.Reason_REASON_MALFORMED || v.AttentionId == "" {
			t.Errorf("%s: %v", names[v.Number], v)
		}
	}
	again, err := d.sync.Sync(t.Context(), &satchelv1.SyncRequest{Mutations: ms, NoPage: true})
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range again.Verdicts {
		if !proto.Equal(v, res.Verdicts[i]) {
			t.Errorf("%s: a replay gives %v, before %v", names[v.Number], v, res.Verdicts[i])
		}
	}
	kept := map[string]string{}
	for _, c := range res.Page.Changes {
		if c.Kind == "attention" {
			kept[c.RecordId] = c.Fields
		}
	}
	for _, v := range res.Verdicts[:len(ms)] {
		raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(ms[v.Number-1])
		if err != nil {
			t.Fatal(err)
		}
		if want, _ := json.Marshal(raw); !strings.Contains(kept[v.AttentionId], strings.Trim(string(want), `"`)) {
			t.Errorf("%s: the attention %s does not hold the bytes: %s", names[v.Number], v.AttentionId, kept[v.AttentionId])
		}
	}
}

func TestValuesThatTheDatabaseCannotHoldAreAVerdict(t *testing.T) {
	w := newWorld(t)
	d := w.signIn("ann")
	for name, fields := range map[string]string{
		"NUL":                  `{"owner":"` + d.person + `","name":"a\u0000b"}`,
		"a lone surrogate":     `{"owner":"` + d.person + `","name":"a\ud800b"}`,
		"no JSON at all":       `{"owner":`,
		"an array":             `[]`,
		"a name of 10 million": `{"owner":"` + d.person + `","name":"` + strings.Repeat("x", 300_000) + `"}`,
	} {
		op := create("account", nil)
		op.GetCreate().Fields = fields
		v := d.send(d.mutation(op)).Verdicts
		if len(v) != 1 || v[0].Status != satchelv1.Status_STATUS_REJECTED || v[0].Number != d.next {
			t.Errorf("%s: %v", name, v)
		}
	}
	ops := make([]*satchelv1.Op, 101)
	for i := range ops {
		ops[i] = d.account("x")
	}
	if v := d.send(d.mutation(ops...)).Verdicts; len(v) != 1 || v[0].Reason != satchelv1.Reason_REASON_TOO_LARGE {
		t.Errorf("101 ops: %v", v)
	}
	if v := d.send(d.mutation()).Verdicts; len(v) != 1 || v[0].Reason != satchelv1.Reason_REASON_MALFORMED {
		t.Errorf("no op: %v", v)
	}
}

func TestNumbersOutOfOrderGetNoVerdictAndSayWhatIsExpected(t *testing.T) {
	w := newWorld(t)
	d := w.signIn("ann")
	first, second, third := d.mutation(d.account("1")), d.mutation(d.account("2")), d.mutation(d.account("3"))
	if res := d.send(second); len(res.Verdicts) != 0 || res.ExpectedNumber != 1 || res.Page == nil {
		t.Errorf("behind a gap: %v, expected %d", res.Verdicts, res.ExpectedNumber)
	}
	if res := d.send(first, third); len(res.Verdicts) != 1 || res.ExpectedNumber != 0 {
		t.Errorf("before a gap: %v, expected %d", res.Verdicts, res.ExpectedNumber)
	}
	if res := d.send(third, second); len(res.Verdicts) != 0 || res.ExpectedNumber != 2 {
		t.Errorf("backwards: %v, expected %d", res.Verdicts, res.ExpectedNumber)
	}
	if res := d.send(first, second, third); len(res.Verdicts) != 3 || res.ExpectedNumber != 0 {
		t.Errorf("in order: %v, expected %d", res.Verdicts, res.ExpectedNumber)
	}
}

func TestASessionThatIsOverSaysWhatToDo(t *testing.T) {
	w := newWorld(t)
	old := w.signIn("ann")
	w.pass(20 * time.Minute)
	_, err := old.sync.Sync(t.Context(), &satchelv1.SyncRequest{})
	if code, e := detail(t, err); code != connect.CodeUnauthenticated || e.Reason != satchelv1.Reason_REASON_TOKEN_EXPIRED {
		t.Errorf("expired: %v %v", code, e)
	}
	lost, mine := w.signIn("ann"), w.signIn("ann")
	if _, err := mine.devices.RevokeDevice(t.Context(), &satchelv1.RevokeDeviceRequest{DeviceId: lost.id.String()}); err != nil {
		t.Fatal(err)
	}
	_, err = lost.sync.Sync(t.Context(), &satchelv1.SyncRequest{})
	if code, e := detail(t, err); code != connect.CodeUnauthenticated && code != connect.CodePermissionDenied || e.Reason != satchelv1.Reason_REASON_DEVICE_REVOKED {
		t.Errorf("revoked: %v %v", code, e)
	}
	if _, err := mine.auth.SignOut(t.Context(), &satchelv1.SignOutRequest{}); err != nil {
		t.Fatal(err)
	}
	_, err = mine.sync.Sync(t.Context(), &satchelv1.SyncRequest{})
	if code, e := detail(t, err); code != connect.CodeUnauthenticated || e.Reason != satchelv1.Reason_REASON_SESSION_ENDED {
		t.Errorf("signed out: %v %v", code, e)
	}
}

// TestAnAppThatIsTooOldSendsItsWorkAndIsToldToUpgrade is fault 17: nothing that it has recorded is lost, and nothing is
// given that it might not understand.
func TestAnAppThatIsTooOldSendsItsWorkAndIsToldToUpgrade(t *testing.T) {
	w := newWorld(t, func(c *app.Config) { c.MinProtocol = 2 })
	d := w.signIn("ann", speaking("2"))
	d.settle()
	old := w.phone(http.DefaultClient, speaking("1"))
	old.tokens, old.next, old.cursor = d.tokens, d.next, d.cursor
	m := old.mutation(old.account("Orient"))
	for range 2 { // the answer is lost, and it is sent again
		res := old.send(m)
		if len(res.Verdicts) != 1 || res.Verdicts[0].Status != satchelv1.Status_STATUS_UNSUPPORTED || res.Verdicts[0].Reason != satchelv1.Reason_REASON_CLIENT_TOO_OLD {
			t.Errorf("the verdict is %v", res.Verdicts)
		}
		if len(res.Directives) != 1 || res.Directives[0].GetUpgrade().GetMinProtocol() != 2 {
			t.Errorf("the directives are %v", res.Directives)
		}
		// Without a page an old app would believe that it has everything, and stop showing its own work.
		if res.Page == nil || res.Page.Cursor != nil || res.Page.Checkpoint || res.Page.More || len(res.Page.Changes) > 0 {
			t.Errorf("the page is %v", res.Page)
		}
	}
	if _, err := old.auth.Refresh(t.Context(), &satchelv1.RefreshRequest{RefreshToken: d.tokens.RefreshToken}); err != nil {
		t.Errorf("its session ends with its work unsent: %v", err)
	}
	d.signIn("ann")
	ada := w.signIn("ada", speaking("2"))
	list, err := ada.desk.ListKept(t.Context(), &satchelv1.ListKeptRequest{State: satchelv1.KeptState_KEPT_STATE_OPEN})
	if err != nil || len(list.Kept) != 1 || list.Kept[0].Id != m.Id || !strings.Contains(list.Kept[0].Ops[0].GetCreate().GetFields(), "Orient") {
		t.Errorf("it is kept as %v, %v", list, err)
	}
	for _, speaks := range []string{"1", "0", ""} {
		_, raw := w.post("/satchel.v1.AuthService/WhoAmI", d.tokens.AccessToken, strings.NewReader(`{}`), "Satchel-Protocol", speaks)
		if code, e := failure(t, raw); code != "failed_precondition" || e.Reason != satchelv1.Reason_REASON_CLIENT_TOO_OLD {
			t.Errorf("protocol %q gives %s %v", speaks, code, e)
		}
	}
	if res, raw := w.post(syncPath, d.tokens.AccessToken, strings.NewReader(`{}`), "Satchel-Protocol", "3"); res.StatusCode != http.StatusOK {
		t.Errorf("the protocol of tomorrow gives %s", raw)
	}
	_, raw := w.post(syncPath, d.tokens.AccessToken, strings.NewReader(`{}`), "Satchel-Protocol", "one")
	if code, _ := failure(t, raw); code != "invalid_argument" {
		t.Errorf("no number gives %s", code)
	}
}

// speaking sends a protocol with each call.
func speaking(protocol string) connect.ClientOption {
	return connect.WithInterceptors(connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
			r.Header().Set("Satchel-Protocol", protocol)
			return next(ctx, r)
		}
	}))
}

// endless gives a body that never ends, and counts what was taken of it.
type endless struct{ taken atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	e.taken.Add(int64(len(p)))
	return len(p), nil
}

func TestABodyWithoutAnEndIsCutEarly(t *testing.T) {
	w := newWorld(t)
	d := w.signIn("ann")
	for name, c := range map[string]struct {
		token string
		most  int64
	}{"of somebody with a session": {d.tokens.AccessToken, 16 << 20}, "of somebody without": {"", 8 << 20}} {
		body := &endless{}
		w.streamed(body, -1, c.token)
		if n := body.taken.Load(); n > c.most {
			t.Errorf("%s: %d bytes were taken", name, n)
		}
	}
	body := &endless{}
	raw := w.streamed(body, 1<<30, d.tokens.AccessToken)
	if code, e := failure(t, raw); code != "resource_exhausted" || e.Reason != satchelv1.Reason_REASON_TOO_LARGE {
		t.Errorf("an announced gigabyte: %s %v", code, e)
	}
	if n := body.taken.Load(); n > 8<<20 {
		t.Errorf("an announced gigabyte: %d bytes were taken", n)
	}
}

// streamed writes a request by hand, so that the answer is read while the body is still on its way.
func (w *world) streamed(body io.Reader, size int64, token string) []byte {
	w.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		w.t.Fatal(err)
	}
	length := "Transfer-Encoding: chunked"
	if size >= 0 {
		length = fmt.Sprintf("Content-Length: %d", size)
	}
	if token != "" {
		length += "\r\nAuthorization: Bearer " + token
	}
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%s\r\n\r\n", syncPath, length)
	go func() { // ends when the server, or the deferred Close, closes the connection
		buf := make([]byte, 64<<10)
		for {
			n, err := body.Read(buf)
			if err != nil {
				return
			}
			if size < 0 {
				_, err = fmt.Fprintf(conn, "%x\r\n%s\r\n", n, buf[:n])
			} else {
				_, err = conn.Write(buf[:n])
			}
			if err != nil {
				return
			}
		}
	}()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil // the server closed while the body was still being written: cut, all the same
	}
	defer res.Body.Close()
	raw, _ := io.ReadAll(res.Body) // may be cut in the same way
	return raw
}

// Not parallel: what tests beside it allocate would count.
func TestABombIsDefusedInLittleMemory(t *testing.T) {
	w := newWorldNow(t)
	d := w.signIn("ann")
	const size = 400 << 20 // a hundred times what a body may become
	zeros := bytes.Repeat([]byte(" "), 1<<20)
	var gz, zs bytes.Buffer
	g, _ := gzip.NewWriterLevel(&gz, gzip.BestCompression)
	z, err := zstd.NewWriter(&zs, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	for range size >> 20 {
		if _, err := g.Write(zeros); err != nil {
			t.Fatal(err)
		}
		if _, err := z.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for encoding, bomb := range map[string][]byte{"gzip": gz.Bytes(), "zstd": zs.Bytes()} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, raw := w.post(syncPath, d.tokens.AccessToken, bytes.NewReader(bomb), "Content-Encoding", encoding)
		runtime.ReadMemStats(&after)
		if code, e := failure(t, raw); code != "resource_exhausted" || e.Reason != satchelv1.Reason_REASON_TOO_LARGE {
			t.Errorf("%s: %s %v", encoding, code, e)
		}
		// All that was ever allocated meanwhile: more than what was held at once.
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
			t.Errorf("%s: %d MiB were allocated for a bomb of %d bytes", encoding, grown>>20, len(bomb))
		}
	}
	_, raw := w.post(syncPath, d.tokens.AccessToken, strings.NewReader("no gzip"), "Content-Encoding", "gzip")
	if !bytes.Contains(raw, []byte("invalid_argument")) {
		t.Errorf("what is no gzip gives %s", raw)
	}
}

func TestHeadersThatAreTooLargeAreRefused(t *testing.T) {
	w := newWorld(t)
	res, _ := w.post(syncPath, "", strings.NewReader(`{}`), "X-Large", strings.Repeat("x", 80<<10))
	if res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("got %d", res.StatusCode)
	}
}
