package server_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	satchel "github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/gen/satchel/v1/satchelv1connect"
	"github.com/satchel-sync/satchel/internal/app"
)

func TestAnIdleSyncAnswersIn150BytesOrLess(t *testing.T) {
	w := newWorld(t)
	d := w.signIn("ann")
	d.send(d.mutation(d.account("华东机械")))
	d.settle()
	body, err := json.Marshal(map[string]any{"cursor": d.cursor, "confirmed": "1"})
	if err != nil {
		t.Fatal(err)
	}
	res, raw := w.post(syncPath, d.tokens.AccessToken, strings.NewReader(string(body)))
	if res.StatusCode != http.StatusOK || len(raw) > 150 || len(raw) == 0 {
		t.Errorf("%d bytes: %s", len(raw), raw)
	}
}

func TestABigAnswerIsCompressedForWhoCanReadIt(t *testing.T) {
	w := newWorld(t)
	d := w.signIn("ann")
	for range 20 {
		d.send(d.mutation(d.account(strings.Repeat("华东机械", 20))))
	}
	for _, encoding := range []string{"gzip", "zstd"} {
		res, raw := w.post(syncPath, d.tokens.AccessToken, strings.NewReader(`{}`), "Accept-Encoding", encoding)
		if res.Header.Get("Content-Encoding") != encoding || len(raw) > 4000 {
			t.Errorf("asked for %s: got %q, %d bytes", encoding, res.Header.Get("Content-Encoding"), len(raw))
		}
	}
}

func TestAContactIsNotedOnceAMinute(t *testing.T) {
	w := newWorld(t)
	d := w.signIn("ann")
	began := w.clock.Load()
	d.send(d.mutation(d.account("x")))
	contact := func() (int64, uint32) {
		res, err := d.devices.ListDevices(t.Context(), &satchelv1.ListDevicesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return res.Devices[0].LastContactMs, res.Devices[0].OutboxCount
	}
	idle := func(count uint32) {
		t.Helper()
		if _, err := d.sync.Sync(t.Context(), &satchelv1.SyncRequest{Cursor: d.cursor, Outbox: &satchelv1.Outbox{Count: count}}); err != nil {
			t.Fatal(err)
		}
	}
	w.eventually("the first contact is noted", func() bool { at, _ := contact(); return at == began })
	w.pass(time.Minute)
	first := w.clock.Load()
	idle(7)
	w.eventually("the contact is noted", func() bool { at, n := contact(); return at == first && n == 7 })
	w.pass(59 * time.Second)
	idle(8)
	w.pass(time.Second)
	idle(9)
	w.eventually("the next contact is noted, the one between is not", func() bool {
		at, n := contact()
		if n == 8 {
			t.Fatal("the device was noted twice within a minute")
		}
		return at == first+60_000 && n == 9
	})
}

func TestVerdictsComeAlsoWhenThePageCannot(t *testing.T) {
	w := newWorld(t)
	d := w.signIn("ann")
	res, err := d.sync.Sync(t.Context(), &satchelv1.SyncRequest{Cursor: []byte("nonsense"), Mutations: []*satchelv1.Mutation{d.mutation(d.account("x"))}})
	if err != nil || len(res.Verdicts) != 1 || res.Verdicts[0].Status != satchelv1.Status_STATUS_APPLIED || res.Page.GetCursor() != nil {
		t.Errorf("got %v, %v", res, err)
	}
}

// lockOut keeps a table locked until the returned function is called.
func (w *world) lockOut(statement string, args ...any) (release func()) {
	w.t.Helper()
	tx, err := w.pool.Begin(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := tx.Exec(context.Background(), "SET LOCAL idle_in_transaction_session_timeout = 0"); err != nil {
		w.t.Fatal(err)
	}
	if _, err := tx.Exec(context.Background(), statement, args...); err != nil {
		w.t.Fatal(err)
	}
	return func() { _ = tx.Rollback(context.Background()) } // done twice, the second says that it is over
}

func TestAPageComesAlsoWhenTheMutationsCouldNotBeAppliedInTime(t *testing.T) {
	w := newWorld(t)
	d := w.signIn("ann")
	d.send(d.mutation(d.account("x")))
	release := w.lockOut("SELECT 1 FROM lane WHERE device_id = $1 FOR UPDATE", d.id)
	t.Cleanup(release)
	d.cursor = nil
	m := d.mutation(d.account("y"))
	res := d.send(m)
	if len(res.Verdicts) != 0 || len(res.GetPage().GetChanges()) == 0 {
		t.Errorf("got %v", res)
	}
	release()
	if v := d.send(m).Verdicts; len(v) != 1 || v[0].Status != satchelv1.Status_STATUS_APPLIED {
		t.Errorf("sent again: %v", v)
	}
}

func TestTheClientsShorterDeadlineHolds(t *testing.T) {
	w := newWorld(t)
	d := w.signIn("ann")
	t.Cleanup(w.lockOut("LOCK TABLE session, org_clock IN ACCESS EXCLUSIVE MODE"))
	began := time.Now()
	_, raw := w.post(syncPath, d.tokens.AccessToken, strings.NewReader(`{}`), "Connect-Timeout-Ms", "200")
	if code, e := failure(t, raw); code != "deadline_exceeded" || e.Reason != satchelv1.Reason_REASON_DEADLINE {
		t.Errorf("got %s %v", code, e)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestADatabaseThatIsAwayIsUnavailableAndNotReady(t *testing.T) {
	w := newWorld(t)
	d := w.signIn("ann")
	if rec := w.get("/readyz", ""); rec.Code != http.StatusOK {
		t.Fatalf("ready: %d", rec.Code)
	}
	w.pool.Close()
	if rec := w.get("/readyz", ""); rec.Code != http.StatusServiceUnavailable {
		t.Errorf("readyz gives %d", rec.Code)
	}
	if rec := w.get("/healthz", ""); rec.Code != http.StatusOK {
		t.Errorf("healthz gives %d", rec.Code)
	}
	_, err := d.sync.Sync(t.Context(), &satchelv1.SyncRequest{})
	if code, e := detail(t, err); code != connect.CodeUnavailable || e.Reason != satchelv1.Reason_REASON_DATABASE_DOWN {
		t.Errorf("got %v %v", code, e)
	}
}

func TestAServerThatEndsSendsItsWaitersAwayAndFinishesItsCalls(t *testing.T) {
	w := newWorld(t, func(c *app.Config) { c.DrainDelay = 5 * time.Second }) // time for all that follows
	d := w.signIn("ann")
	d.settle()
	waited := make(chan *satchelv1.WaitResponse, 1)
	go func() {
		res, err := d.sync.Wait(context.Background(), &satchelv1.WaitRequest{Cursor: d.cursor})
		if err != nil {
			t.Error(err)
		}
		waited <- res
	}()
	w.eventually("the device waits", func() bool {
		return strings.Contains(w.get("/metrics", "127.0.0.1:1").Body.String(), "satchel_waiting_devices 1")
	})
	release := w.lockOut("SELECT 1 FROM org_clock FOR UPDATE")
	t.Cleanup(release)
	m := d.mutation(d.account("x"))
	sent := make(chan *satchelv1.SyncResponse, 1)
	go func() {
		res, err := d.sync.Sync(context.Background(), &satchelv1.SyncRequest{Mutations: []*satchelv1.Mutation{m}, NoPage: true})
		if err != nil {
			t.Error(err)
		}
		sent <- res
	}()
	w.eventually("the call waits for the lock", func() bool {
		var n int
		if err := w.pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n > 0
	})
	w.stop()
	if res := <-waited; res == nil || res.Wake {
		t.Errorf("the waiter got %v", res)
	}
	if rec := w.get("/readyz", ""); rec.Code != http.StatusServiceUnavailable {
		t.Errorf("readyz gives %d", rec.Code)
	}
	_, err := d.sync.Wait(t.Context(), &satchelv1.WaitRequest{Cursor: d.cursor})
	if code, e := detail(t, err); code != connect.CodeUnavailable || e.Reason != satchelv1.Reason_REASON_DRAINING {
		t.Errorf("a new waiter got %v %v", code, e)
	}
	release()
	if res := <-sent; len(res.GetVerdicts()) != 1 || res.Verdicts[0].Status != satchelv1.Status_STATUS_APPLIED {
		t.Errorf("the call got %v", res)
	}
	<-w.ended
	if res, err := http.Get(w.url + "/healthz"); err == nil {
		res.Body.Close()
		t.Error("the port is still open")
	}
}

func TestOnlyConfiguredOriginsMayCallFromABrowser(t *testing.T) {
	w := newWorld(t, func(c *app.Config) { c.Origins = []string{"https://crm.example.com"} })
	preflight := func(origin string) http.Header {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, w.url+syncPath, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Origin", origin)
		r.Header.Set("Access-Control-Request-Method", "POST")
		r.Header.Set("Access-Control-Request-Headers", "accept-language,authorization,connect-protocol-version,connect-timeout-ms,content-encoding,content-type,satchel-protocol")
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.Header
	}
	h := preflight("https://crm.example.com")
	if h.Get("Access-Control-Allow-Origin") != "https://crm.example.com" || !strings.Contains(strings.ToLower(h.Get("Access-Control-Allow-Headers")), "authorization") || h.Get("Access-Control-Max-Age") != "7200" {
		t.Errorf("got %v", h)
	}
	if h := preflight("https://evil.example.com"); h.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("a stranger got %v", h)
	}
}

func TestMetricsAreForThisMachineUnlessTheyArePublic(t *testing.T) {
	w := newWorld(t)
	if rec := w.get("/metrics", "127.0.0.1:5"); rec.Code != http.StatusOK || !strings.Contains(rec.Body.String(), "satchel_waiting_devices") {
		t.Errorf("from here: %d", rec.Code)
	}
	if rec := w.get("/metrics", "203.0.113.5:5"); rec.Code != http.StatusNotFound {
		t.Errorf("from afar: %d", rec.Code)
	}
	if rec := w.get("/metrics", "127.0.0.1:5", "X-Forwarded-For", "203.0.113.5"); rec.Code != http.StatusNotFound {
		t.Errorf("through a proxy: %d", rec.Code)
	}
	public := newWorldNow(t, func(c *app.Config) { c.MetricsPublic = true })
	if rec := public.get("/metrics", "203.0.113.5:5"); rec.Code != http.StatusOK {
		t.Errorf("public: %d", rec.Code)
	}
}

func TestThePortServesTheWebAppToBrowsersAndOnlyToThem(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"/", "/visits/new"} {
		rec := w.get(path, "", "Accept", "text/html")
		if rec.Code != http.StatusOK || !strings.HasPrefix(rec.Header().Get("Content-Type"), "text/html") || !strings.Contains(rec.Header().Get("Content-Security-Policy"), "script-src 'self'") {
			t.Errorf("%s: %d %v", path, rec.Code, rec.Header())
		}
	}
	for _, path := range []string{"/../server.go", "/nothing", "/.git/config"} {
		if rec := w.get(path, ""); rec.Code == http.StatusOK {
			t.Errorf("%s gives %d", path, rec.Code)
		}
	}
}

func TestReflectionIsForDevelopmentOnly(t *testing.T) {
	path := "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
	w := newWorld(t)
	if _, raw := w.post(path, "", strings.NewReader(`{}`)); !strings.Contains(string(raw), "unimplemented") {
		t.Errorf("got %s", raw)
	}
	dev := newWorldNow(t, func(c *app.Config) { c.Dev = true })
	if res, raw := dev.post(path, "", strings.NewReader(`{}`)); strings.Contains(string(raw), "no such procedure") {
		t.Errorf("in development: %d %s", res.StatusCode, raw)
	}
}

func TestTheSchemaShowsWhatThePersonMaySee(t *testing.T) {
	w := newWorld(t)
	d := w.signIn("ann")
	client := satchelv1connect.NewSchemaServiceClient(http.DefaultClient, w.url, connect.WithInterceptors(d.as()))
	res, err := client.GetSchema(t.Context(), &satchelv1.GetSchemaRequest{})
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]*satchelv1.KindInfo{}
	for _, k := range res.Kinds {
		kinds[k.Name] = k
	}
	account := kinds["account"]
	if account == nil || !account.CanCreate || !account.CanUpdate || account.CanDelete || !kinds["visit"].GetFact() || kinds["approval"].GetCanCreate() {
		t.Fatalf("got %v", account)
	}
	for _, f := range account.Fields {
		if f.Name == "credit_limit" {
			t.Error("a hidden field is shown")
		}
		if f.Name == "name" && (!f.CanWrite || !f.Required || f.LabelZh != "客户名称" || f.Type != "text") {
			t.Errorf("got %v", f)
		}
	}
	names := map[string]string{}
	for _, x := range res.Templates {
		names[x.Name] = x.TextZh + x.TextEn
	}
	if names["task_due"] != "有一项任务即将到期。A task is due soon." || len(names) < 6 {
		t.Errorf("the texts of notices: %v", names)
	}
	again, err := client.GetSchema(t.Context(), &satchelv1.GetSchemaRequest{HaveVersion: res.Version})
	if err != nil || len(again.Kinds) != 0 || len(again.Templates) != 0 || again.Version != res.Version {
		t.Errorf("the version that the app has gives %d kinds, %v", len(again.Kinds), err)
	}
}

func TestAnAdministratorManagesPeopleTeamsAndDevices(t *testing.T) {
	w := newWorld(t)
	admin := w.signIn("ada")
	dir := satchelv1connect.NewDirectoryServiceClient(http.DefaultClient, w.url, connect.WithInterceptors(admin.as()))
	team, err := dir.CreateTeam(t.Context(), &satchelv1.CreateTeamRequest{Name: "华东"})
	if err != nil {
		t.Fatal(err)
	}
	eve, err := dir.CreatePerson(t.Context(), &satchelv1.CreatePersonRequest{Login: "eve", DisplayName: "Eve", TeamId: team.Team.Id, Roles: []string{"rep"}, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	phone := w.signIn("eve")
	name, none, off := "Eva", "", true
	got, err := dir.UpdatePerson(t.Context(), &satchelv1.UpdatePersonRequest{PersonId: eve.Person.Id, DisplayName: &name, TeamId: &none, Roles: &satchelv1.RoleList{Roles: []string{"manager"}}})
	if err != nil || got.Person.DisplayName != "Eva" || got.Person.TeamId != "" || got.Person.Roles[0] != "manager" {
		t.Fatalf("got %v, %v", got, err)
	}
	me, err := phone.auth.WhoAmI(t.Context(), &satchelv1.WhoAmIRequest{})
	if err != nil || me.DisplayName != "Eva" || me.Roles[0] != "manager" {
		t.Errorf("the phone is told %v, %v", me, err)
	}
	if _, err := dir.UpdatePerson(t.Context(), &satchelv1.UpdatePersonRequest{PersonId: eve.Person.Id, Disabled: &off}); err != nil {
		t.Fatal(err)
	}
	_, err = phone.auth.WhoAmI(t.Context(), &satchelv1.WhoAmIRequest{})
	if code, e := detail(t, err); code != connect.CodeUnauthenticated || e.Reason != satchelv1.Reason_REASON_SESSION_ENDED {
		t.Errorf("disabled: %v %v", code, e)
	}
	_, err = dir.UpdatePerson(t.Context(), &satchelv1.UpdatePersonRequest{PersonId: satchel.NewID().String(), DisplayName: &name})
	if code, _ := detail(t, err); code != connect.CodeNotFound {
		t.Errorf("nobody: %v", code)
	}
}

// certificate writes a new self-signed certificate and gives its serial number.
func certificate(t *testing.T, certFile, keyFile string, serial int64, at time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, at, at); err != nil {
			t.Fatal(err)
		}
	}
}

func TestACertificateThatChangedIsServedWithoutARestart(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	certificate(t, certFile, keyFile, 1, time.Now().Add(-time.Hour))
	w := newWorld(t, func(c *app.Config) { c.TLSCert, c.TLSKey = certFile, keyFile })
	addr := w.serve()
	serial := func() int64 {
		t.Helper()
		conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	if got := serial(); got != 1 {
		t.Fatalf("serial %d", got)
	}
	certificate(t, certFile, keyFile, 2, time.Now())
	w.pass(2 * time.Second)
	if got := serial(); got != 2 {
		t.Errorf("after the change: serial %d", got)
	}
	if err := os.WriteFile(certFile, []byte("half a certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.pass(2 * time.Second)
	if got := serial(); got != 2 {
		t.Errorf("after a broken change: serial %d", got)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}}
	t.Cleanup(client.CloseIdleConnections)
	res, err := client.Get("https://" + addr + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if raw, _ := io.ReadAll(res.Body); res.ProtoMajor != 2 || string(raw) != "ok\n" {
		t.Errorf("got HTTP/%d %q", res.ProtoMajor, raw)
	}
}
