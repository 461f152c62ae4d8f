package tests_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	satchel "github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/clients/go/memstore"
	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/internal/pgtest"
	"github.com/satchel-sync/satchel/media/mediatest"
)

// patience is how long something may take that happens soon on a machine with nothing else to do.
const patience = 90 * time.Second

// phone signs a Go client in.
func phone(t *testing.T, url, login string, through http.RoundTripper) *satchelclient.Client {
	t.Helper()
	c, err := satchelclient.New(satchelclient.Config{BaseURL: url, Store: memstore.New(), HTTPClient: &http.Client{Transport: through}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SignIn(t.Context(), satchelclient.Credentials{Org: "acme", Login: login, Password: password, Platform: "go"}); err != nil {
		t.Fatal(err)
	}
	return c
}

func syncNow(t *testing.T, c *satchelclient.Client) satchelclient.Result {
	t.Helper()
	r, err := c.Sync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// syncUntilSettled syncs through failures until nothing waits any more.
func syncUntilSettled(ctx context.Context, c *satchelclient.Client) (failures int, err error) {
	for {
		_, err := c.Sync(ctx)
		waiting, perr := c.Pending(ctx)
		switch {
		case perr != nil:
			return failures, perr
		case err == nil && waiting == 0:
			return failures, nil
		case err != nil:
			failures++
			if !errors.Is(err, satchelclient.ErrUnavailable) {
				return failures, err
			}
		}
		if ctx.Err() != nil {
			return failures, ctx.Err()
		}
	}
}

// loss loses the answers of calls that the server has answered.
type loss struct{ next atomic.Int64 } // how many answers to lose from now on

// RoundTrip is http.RoundTripper's.
func (l *loss) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil || !strings.HasSuffix(r.URL.Path, "/Sync") || l.next.Add(-1) < 0 {
		return res, err
	}
	_ = res.Body.Close() // the signal went
	return nil, errors.New("the connection broke behind the commit")
}

func TestAnAnswerThatWasLostBehindTheCommitChangesNothing(t *testing.T) {
	t.Parallel()
	p := serve(t)
	bad := &loss{}
	c := phone(t, p.url, "ann", bad)
	account, err := c.Create(t.Context(), "account", satchelclient.Fields{"name": "Orient", "level": "b"})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := c.Patch(t.Context(), "account", account, nil, satchelclient.Increment("visit_count", 1)); err != nil {
			t.Fatal(err)
		}
	}
	bad.next.Store(3)
	for range 3 {
		if _, err := c.Sync(t.Context()); !errors.Is(err, satchelclient.ErrUnavailable) {
			t.Fatalf("got %v", err)
		}
	}
	r := syncNow(t, c)
	if r.Pending != 0 || len(r.Settled) != 4 {
		t.Errorf("settled: %+v", r)
	}
	got, err := c.Get(t.Context(), "account", account)
	if err != nil || !strings.Contains(string(got.Fields), `"visit_count": 3`) {
		t.Errorf("counted %v, %v", string(got.Fields), err)
	}
	other := phone(t, p.url, "ann", nil)
	syncNow(t, other)
	if all, err := other.List(t.Context(), "account"); err != nil || len(all) != 1 || !strings.Contains(string(all[0].Fields), `"visit_count": 3`) {
		t.Errorf("another phone has %d accounts, %v", len(all), err)
	}
}

func TestTheSameNumberAndIdWithAnotherBodyChangesNothing(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	send := func(name string) map[string]any {
		return v.ben.must("SyncService/Sync", map[string]any{"noPage": true, "mutations": []any{map[string]any{"number": "1", "id": "8f14e45f-ceea-467f-a0e6-1f2e3d4c5b61",
			"ops": []any{op("019a9f00-0000-7000-8000-0000000000a1", "account", "create", withFields(map[string]any{"name": name}))}}}})
	}
	first, again := send("One"), send("Two")
	if fmt.Sprint(first["verdicts"]) != fmt.Sprint(again["verdicts"]) {
		t.Errorf("first %v, then %v", first, again)
	}
	v.ben.pull()
	if got := v.ben.seen["019a9f00-0000-7000-8000-0000000000a1"].fields["name"]; got != "One" {
		t.Errorf("the account is %v", got)
	}
}

func TestAnEditOfARecordThatTheManagerDeletedBringsItBackForBoth(t *testing.T) {
	t.Parallel()
	p := serve(t)
	ann, mei := phone(t, p.url, "ann", nil), phone(t, p.url, "mei", nil)
	task, err := ann.Create(t.Context(), "task", satchelclient.Fields{"title": "Call"})
	if err != nil {
		t.Fatal(err)
	}
	syncNow(t, ann)
	syncNow(t, mei)
	if err := mei.Delete(t.Context(), "task", task); err != nil {
		t.Fatal(err)
	}
	syncNow(t, mei)
	if err := ann.Patch(t.Context(), "task", task, satchelclient.Fields{"remark": "They want it in red"}); err != nil {
		t.Fatal(err)
	}
	r := syncNow(t, ann)
	if len(r.Settled) != 1 || r.Pending != 0 {
		t.Fatalf("settled: %+v", r)
	}
	if s := r.Settled[0].Verdict.Status.String(); s != "STATUS_APPLIED" {
		t.Errorf("the edit is %s", s)
	}
	syncNow(t, mei)
	for who, c := range map[string]*satchelclient.Client{"Ann": ann, "Mei": mei} {
		if got, err := c.Get(t.Context(), "task", task); err != nil || got.Text("remark") != "They want it in red" || got.Text("title") != "Call" {
			t.Errorf("%s has %s, %v", who, got.Fields, err)
		}
	}
	// The other way round: who deletes what somebody changed meanwhile is asked, and the change stands.
	if err := ann.Patch(t.Context(), "task", task, satchelclient.Fields{"remark": "In blue after all"}); err != nil {
		t.Fatal(err)
	}
	syncNow(t, ann)
	if err := mei.Delete(t.Context(), "task", task); err != nil {
		t.Fatal(err)
	}
	if r := syncNow(t, mei); len(r.Settled) != 1 || r.Settled[0].Verdict.Status.String() != "STATUS_CONFLICTED" || r.Settled[0].Verdict.AttentionId == "" {
		t.Errorf("the delete is %+v", r.Settled)
	}
	if got, err := mei.Get(t.Context(), "task", task); err != nil || got.Text("remark") != "In blue after all" {
		t.Errorf("Mei has %s, %v", got.Fields, err)
	}
}

func TestTextOfEveryScriptComesBackByteForByte(t *testing.T) {
	t.Parallel()
	p := serve(t)
	ann, again := phone(t, p.url, "ann", nil), phone(t, p.url, "ann", nil)
	texts := map[satchel.ID]string{}
	for _, s := range []string{"\u202egnp.exe\u202c", "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽", "𠮷野家 𡈽 㐂", "e\u0301 é", "ﷺ مرحبا", "a\u00a0b\u200bc\u2028d", "\ufeffx", `"\/{}`, "ﬃ ＡＢＣ", "0e1 1.0 true null"} {
		id, err := ann.Create(t.Context(), "account", satchelclient.Fields{"name": s, "remark": s + s})
		if err != nil {
			t.Fatal(err)
		}
		texts[id] = s
	}
	if r := syncNow(t, ann); r.Pending != 0 {
		t.Fatalf("%+v", r)
	}
	syncNow(t, again)
	for id, want := range texts {
		got, err := again.Get(t.Context(), "account", id)
		if err != nil || got.Text("name") != want || got.Text("remark") != want+want {
			t.Errorf("%+q came back as %+q, %v", want, got.Text("name"), err)
		}
	}
}

func TestAValueOfTenThousandLevelsIsAVerdict(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	for name, deep := range map[string]string{
		"arrays":            `{"title": "x", "amount": 1, "account": "` + v.account + `", "lines": ` + strings.Repeat("[", 30_000) + strings.Repeat("]", 30_000) + `}`,
		"objects":           `{"title": "x", "amount": 1, "account": "` + v.account + `", "lines": ` + strings.Repeat(`{"a":`, 20_000) + "1" + strings.Repeat("}", 20_000) + `}`,
		"a number":          `{"title": "x", "amount": 1e999999999, "account": "` + v.account + `"}`,
		"a long number":     `{"title": "x", "amount": ` + strings.Repeat("9", 100_000) + `, "account": "` + v.account + `"}`,
		"the same key":      `{"title": "x", "title": "y", "amount": 1, "account": "` + v.account + `"}`,
		"many fields":       `{"title": "x"` + strings.Repeat(`, "f": 1`, 20_000) + `}`,
		"a set of too many": `{"name": "x", "tags": ["` + strings.Repeat(`a","`, 30_000) + `b"]}`,
	} {
		kind := "quote"
		if strings.Contains(deep, "tags") {
			kind = "account"
		}
		got := v.ann.mutate(op(satchel.NewID().String(), kind, "create", map[string]any{"fields": deep}))
		if got["status"] != "STATUS_REJECTED" || got["attentionId"] == nil {
			t.Errorf("%s: %v", name, got)
		}
	}
	for _, args := range []string{strings.Repeat("[", 50_000), `{"form_hash": ` + strings.Repeat(`{"a":`, 20_000)} {
		if got := v.mei.mutate(op(v.approval, "approval", "command", map[string]any{"name": "approval.decide", "args": args})); got["status"] != "STATUS_REJECTED" {
			t.Errorf("a command with deep arguments: %v", got)
		}
	}
}

// TestASetDoesNotGrowWithoutEnd adds to one set, with edits each of which is in order.
func TestASetDoesNotGrowWithoutEnd(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	refused := false
	for i := range 8 {
		add := make([]string, 200)
		for j := range add {
			add[j] = fmt.Sprintf("tag %d %d", i, j)
		}
		got := v.ann.mutate(op(v.account, "account", "patch", map[string]any{"sets": []any{map[string]any{"field": "tags", "add": add}}}))
		refused = refused || got["status"] == "STATUS_REJECTED"
	}
	v.ann.pull()
	if tags, _ := v.ann.seen[v.account].fields["tags"].([]any); !refused || len(tags) == 0 || len(tags) > 500 {
		t.Errorf("the set has %d elements, refused: %t", len(tags), refused)
	}
}

// TestAPostgresThatStopsUnderTheCallsLosesNothing restarts the database while two phones send.
func TestAPostgresThatStopsUnderTheCallsLosesNothing(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	db, pool := ownPostgres(ctx, t, map[string]string{"fsync": "on", "synchronous_commit": "on"})
	p := serveConfig(t, app.Config{Pool: pool}, hire)
	const each = 60
	phones := []*satchelclient.Client{phone(t, p.url, "ann", nil), phone(t, p.url, "ben", nil)}
	begun := make(chan struct{}, len(phones))
	var g errgroup.Group
	for i, c := range phones {
		g.Go(func() error {
			for n := range each {
				if _, err := c.Create(ctx, "account", satchelclient.Fields{"name": fmt.Sprintf("%d/%d", i, n)}); err != nil {
					return err
				}
				if _, err := syncUntilSettled(ctx, c); err != nil {
					return err
				}
				if n == each/4 {
					begun <- struct{}{}
				}
			}
			return nil
		})
	}
	for range phones {
		select {
		case <-begun:
		case <-ctx.Done():
			t.Fatal("the phones do not get on")
		}
	}
	if err := db.Restart(ctx); err != nil { // a fast shutdown: sessions end in the middle of what they do
		t.Error(err)
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	pool.Reset() // what follows is about what is there, and does not try again on a session of before
	for i, login := range []string{"ann", "ben"} {
		fresh := phone(t, p.url, login, nil)
		syncNow(t, fresh)
		onceEach(t, fresh, "account", numbered(i, each))
	}
}

func TestWhenAllConnectionsAreTakenCallsAreShedAndHealthIsTruthful(t *testing.T) {
	t.Parallel()
	pool, err := pg.Open(t.Context(), pgtest.URL(t), pg.Options{AppName: "test", MaxConns: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	p := serveConfig(t, app.Config{Pool: pool}, hire)
	ann := signIn(t, p.url, "acme", "ann")
	var held []*pgxpool.Conn
	release := func() {
		for _, c := range held {
			c.Release()
		}
		held = nil
	}
	t.Cleanup(release)
	for range 3 {
		c, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	probe := func(path string) int {
		t.Helper()
		res, err := http.Get(p.url + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	if got := probe("/healthz"); got != http.StatusOK {
		t.Errorf("healthz gives %d: the process lives", got)
	}
	if got := probe("/readyz"); got != http.StatusServiceUnavailable {
		t.Errorf("readyz gives %d", got)
	}
	var g errgroup.Group
	for range 20 {
		g.Go(func() error {
			a := ann.call("SyncService/Sync", `{}`, "Connect-Timeout-Ms", "700")
			if a.code != "deadline_exceeded" && a.code != "unavailable" {
				return fmt.Errorf("a call gives %s", a.raw)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	release()
	if a := ann.call("SyncService/Sync", `{}`); a.code != "" {
		t.Errorf("afterwards: %s", a.raw)
	}
	if got := probe("/readyz"); got != http.StatusOK {
		t.Errorf("afterwards readyz gives %d", got)
	}
}

func TestWhileTheBlobStoreIsAwayRecordsSyncAndBytesComeLater(t *testing.T) {
	t.Parallel()
	s3 := mediatest.StartS3(t)
	p := serveConfig(t, app.Config{Pool: pgtest.New(t), BlobURL: s3.URL}, hire)
	c := phone(t, p.url, "ann", nil)
	jpeg := picture(t)
	attachPhoto(t, c, recordVisit(t, c), jpeg)
	s3.Stop()
	if r := syncNow(t, c); r.Pending != 0 || len(r.Settled) != 3 {
		t.Errorf("without the store: %+v", r)
	}
	raw := signIn(t, p.url, "acme", "ann")
	if a := raw.upload(jpeg, "image/jpeg"); a.code != "unavailable" || a.reason != "BLOB_STORE_DOWN" {
		t.Errorf("an upload without the store: %s", a.raw)
	}
	if _, err := c.Upload(t.Context()); err == nil {
		t.Error("the photo was sent to nowhere")
	}
	s3.Start(t)
	deadline := time.Now().Add(patience)
	for {
		_, err := c.Upload(t.Context())
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	again := raw.upload(jpeg, "image/jpeg") // it is there: nothing is stored twice
	if again.code != "" || !bytes.Contains(again.raw, []byte("sha256")) {
		t.Errorf("afterwards: %s", again.raw)
	}
}

func TestADeviceWaitsInFewPlacesAtOnce(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const tried = 30
	codes := make(chan int, tried)
	for range tried {
		go func() {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, v.url+"/satchel.v1.SyncService/Wait", strings.NewReader(`{"cursor": "`+v.cursor+`"}`))
			if err != nil {
				codes <- 0
				return
			}
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Authorization", "Bearer "+v.ann.token)
			res, err := http.DefaultClient.Do(req)
			if err != nil { // this test has ended
				codes <- 0
				return
			}
			_ = res.Body.Close()
			codes <- res.StatusCode
		}()
	}
	for i := range tried - 8 {
		select {
		case code := <-codes:
			if code != http.StatusTooManyRequests {
				t.Fatalf("call %d gives %d", i, code)
			}
		case <-time.After(20 * time.Second): // before Wait itself answers
			t.Fatal("more than eight calls of one device wait")
		}
	}
	if a := v.mei.call("SyncService/Wait", map[string]any{"cursor": v.mei.cursor}, "Connect-Timeout-Ms", "300"); a.code == "resource_exhausted" {
		t.Errorf("somebody else is refused: %s", a.raw)
	}
}
