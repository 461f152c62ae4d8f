package tests_test

import (
	"context"
	"net/http"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	satchel "github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/clients/go/memstore"
	"github.com/satchel-sync/satchel/clients/go/sqlitestore"
	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/internal/pgtest"
)

// backup copies the whole database, as a dump would, and gives a way back to it.
func backup(t *testing.T, pool *pgxpool.Pool) (restore func()) {
	t.Helper()
	ctx := context.Background()
	// With their columns, but for those that Postgres makes itself of the others.
	rows, err := pool.Query(ctx, `SELECT format('%I', t.tablename), string_agg(format('%I', c.column_name), ', ') FROM pg_tables t
		JOIN information_schema.columns c ON c.table_schema = 'public' AND c.table_name = t.tablename AND c.is_generated = 'NEVER'
		WHERE t.schemaname = 'public' GROUP BY t.tablename`)
	if err != nil {
		t.Fatal(err)
	}
	var table, columns string
	var tables []string
	columnsOf := map[string]string{}
	if _, err := pgx.ForEachRow(rows, []any{&table, &columns}, func() error {
		tables, columnsOf[table] = append(tables, table), columns
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var save, back strings.Builder
	save.WriteString(`CREATE SCHEMA kept_aside;`)
	back.WriteString(`SET LOCAL session_replication_role = replica; TRUNCATE ` + strings.Join(tables, ", ") + `;`)
	for _, table := range tables {
		save.WriteString(`CREATE TABLE kept_aside.` + table + ` AS TABLE public.` + table + `;`)
		back.WriteString(`INSERT INTO public.` + table + ` (` + columnsOf[table] + `) OVERRIDING SYSTEM VALUE SELECT ` + columnsOf[table] +
			` FROM kept_aside.` + table + `;`)
	}
	if _, err := pool.Exec(ctx, save.String()); err != nil {
		t.Fatal(err)
	}
	return func() {
		if _, err := pool.Exec(ctx, `BEGIN; `+back.String()+` COMMIT`); err != nil {
			t.Fatal(err)
		}
	}
}

// rowsAsked counts the records whose rows repairs asked for.
type rowsAsked struct {
	calls map[string]int
}

// RoundTrip is http.RoundTripper's.
func (r *rowsAsked) RoundTrip(req *http.Request) (*http.Response, error) {
	r.calls[filepath.Base(req.URL.Path)]++
	return http.DefaultTransport.RoundTrip(req)
}

func onStore(t *testing.T, url, login string, store satchelclient.Store, through http.RoundTripper) *satchelclient.Client {
	t.Helper()
	c, err := satchelclient.New(satchelclient.Config{BaseURL: url, Store: store, HTTPClient: &http.Client{Transport: through}, Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	if c.Identity().SignedIn {
		return c
	}
	if err := c.SignIn(t.Context(), satchelclient.Credentials{Org: "acme", Login: login, Password: password, Platform: "go"}); err != nil {
		t.Fatal(err)
	}
	return c
}

// wantAlike compares what two devices of a person show.
func wantAlike(t *testing.T, a, b *satchelclient.Client) {
	t.Helper()
	for _, kind := range []string{"account", "visit", "person", "team", "attention", "quote"} {
		as, err := a.List(t.Context(), kind)
		if err != nil {
			t.Fatal(err)
		}
		bs, err := b.List(t.Context(), kind)
		if err != nil {
			t.Fatal(err)
		}
		if len(as) != len(bs) {
			t.Errorf("%d and %d of kind %s are shown", len(as), len(bs), kind)
			continue
		}
		for i := range as {
			if as[i].ID != bs[i].ID || as[i].Rev != bs[i].Rev || !sameJSON(t, as[i].Fields, bs[i].Fields) {
				t.Errorf("%s: %s at %d and %s at %d", kind, as[i].Fields, as[i].Rev, bs[i].Fields, bs[i].Rev)
			}
		}
	}
}

func sameJSON(t *testing.T, a, b []byte) bool {
	t.Helper()
	x, err := decode(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := decode(b)
	if err != nil {
		t.Fatal(err)
	}
	return reflect.DeepEqual(x, y)
}

func TestS17AStoreThatLostRowsIsRepairedByWhatDiffersOnly(t *testing.T) {
	t.Parallel()
	p := serve(t)
	store, err := sqlitestore.Open(t.Context(), filepath.Join(t.TempDir(), "ann.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	calls := &rowsAsked{calls: map[string]int{}}
	ann := onStore(t, p.url, "ann", store, calls)
	var accounts []satchel.ID
	for range 30 {
		id, err := ann.Create(t.Context(), "account", satchelclient.Fields{"name": "Customer", "level": "b"})
		if err != nil {
			t.Fatal(err)
		}
		accounts = append(accounts, id)
	}
	if r := syncNow(t, ann); r.Repaired != 0 || calls.calls["Repair"] != 0 {
		t.Fatalf("%+v; calls: %v", r, calls.calls)
	}
	err = store.Update(t.Context(), func(tx satchelclient.Tx) error {
		return tx.Delete(satchelclient.TableRecord, append([]byte("account\x00"), accounts[7][:]...))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := ann.Close(); err != nil {
		t.Fatal(err)
	}
	ann = onStore(t, p.url, "ann", store, calls)
	visit, err := ann.Create(t.Context(), "visit", satchelclient.Fields{"account": accounts[7], "subject": "First"})
	if err != nil {
		t.Fatal(err)
	}
	r := syncNow(t, ann)
	if r.Repaired != 1 || calls.calls["Repair"] != 3 || r.Pending != 0 { // start, the revs of one bucket, one row
		t.Errorf("%+v; calls: %v", r, calls.calls)
	}
	if _, err := ann.Get(t.Context(), "account", accounts[7]); err != nil {
		t.Error(err)
	}
	if v, err := ann.Get(t.Context(), "visit", visit); err != nil || v.Pending {
		t.Errorf("%+v, %v", v, err)
	}
	fresh := onStore(t, p.url, "ann", memstore.New(), http.DefaultTransport)
	syncNow(t, fresh)
	wantAlike(t, ann, fresh)
	if r := syncNow(t, ann); r.Repaired != 0 {
		t.Errorf("then: %+v", r)
	}
}

func TestS18ARestoredDatabaseGetsBackWhatDevicesKnow(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t)
	p := serveConfig(t, app.Config{Pool: pool}, hire)
	annStore, benStore := memstore.New(), memstore.New()
	ann, ben := onStore(t, p.url, "ann", annStore, http.DefaultTransport), onStore(t, p.url, "ben", benStore, http.DefaultTransport)
	shared, err := ann.Create(t.Context(), "account", satchelclient.Fields{"name": "Customer", "level": "b"})
	if err != nil {
		t.Fatal(err)
	}
	syncNow(t, ann)
	syncNow(t, ben)
	mei := onStore(t, p.url, "mei", memstore.New(), http.DefaultTransport)
	syncNow(t, mei)

	restore := backup(t, pool)
	if err := ann.Patch(t.Context(), "account", shared, satchelclient.Fields{"level": "a"}); err != nil {
		t.Fatal(err)
	}
	visit, err := ann.Create(t.Context(), "visit", satchelclient.Fields{"account": shared, "subject": "Lost"})
	if err != nil {
		t.Fatal(err)
	}
	if r := syncNow(t, ann); len(r.Settled) != 2 {
		t.Fatalf("%+v", r)
	}
	syncNow(t, mei) // the manager sees them
	pending, err := ann.Create(t.Context(), "visit", satchelclient.Fields{"account": shared, "subject": "Pending"})
	if err != nil {
		t.Fatal(err)
	}

	restore()
	if err := p.Engine.OpenEpoch(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := syncNow(t, ann)
	if r.Restored != 2 || r.Repaired != 1 || r.Pending != 0 || len(r.Settled) != 3 {
		t.Errorf("%+v", r)
	}
	for _, s := range r.Settled {
		if s.Verdict.Status != 1 {
			t.Errorf("the verdict is %v", s.Verdict)
		}
	}
	for _, id := range []satchel.ID{visit, pending} {
		if v, err := ann.Get(t.Context(), "visit", id); err != nil || v.Pending {
			t.Errorf("%+v, %v", v, err)
		}
	}
	if a, err := ann.Get(t.Context(), "account", shared); err != nil || a.Text("level") != "a" || a.Pending {
		t.Errorf("%+v, %v", a, err)
	}
	for login, c := range map[string]*satchelclient.Client{"ann": ann, "ben": ben, "mei": mei} {
		deadline := time.Now().Add(patience)
		for {
			r, err := c.Sync(t.Context())
			if err == nil && !r.More && r.Pending == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %+v, %v", login, r, err)
			}
		}
		fresh := onStore(t, p.url, login, memstore.New(), http.DefaultTransport)
		syncNow(t, fresh)
		wantAlike(t, c, fresh)
		if r := syncNow(t, c); r.Repaired != 0 || r.Restored != 0 {
			t.Errorf("%s then: %+v", login, r)
		}
	}
}

func TestS13AProfileTakesAwayAndBringsWhatDiffersAndOwnWorkIsKeptAtTheOffice(t *testing.T) {
	t.Parallel()
	p := serve(t)
	store := memstore.New()
	open := func(profile string) *satchelclient.Client {
		t.Helper()
		c, err := satchelclient.New(satchelclient.Config{BaseURL: p.url, Store: store, Profile: profile, AppVersion: "9.9", Timeout: patience})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := open("mini_program")
	if err := c.SignIn(t.Context(), satchelclient.Credentials{Org: "acme", Login: "ann", Password: password, Platform: "wechat"}); err != nil {
		t.Fatal(err)
	}
	photo := attachPhoto(t, c, recordVisit(t, c), picture(t))
	syncNow(t, c)
	if r := syncNow(t, c); r.Repaired != 0 {
		t.Errorf("%+v", r)
	}
	if _, err := c.Get(t.Context(), "photo", photo); err != satchelclient.ErrNotFound {
		t.Errorf("the profile leaves photos out: %v", err)
	}
	if s, err := c.Status(t.Context()); err != nil || s.FollowedMonths != 2 || !s.Complete {
		t.Errorf("%+v, %v", s, err)
	}
	list, err := c.AtOffice(t.Context())
	if err != nil || len(list) != 1 || list[0].ID != photo {
		t.Errorf("at the office: %+v, %v", list, err)
	}
	if r, err := c.Upload(t.Context()); err != nil || r.Uploaded != 1 || r.Released != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}

	c = open("") // all of it
	if r := syncNow(t, c); r.Repaired != 0 {
		t.Errorf("%+v", r)
	}
	if _, err := c.Get(t.Context(), "photo", photo); err != nil {
		t.Error(err)
	}
	if list, err := c.AtOffice(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("at the office: %+v, %v", list, err)
	}
	fresh := onStore(t, p.url, "ann", memstore.New(), http.DefaultTransport)
	syncNow(t, fresh)
	wantAlike(t, c, fresh)
}

func TestS9AnEditOfAMergedRecordGoesToTheOneThatItBecame(t *testing.T) {
	t.Parallel()
	p := serve(t)
	ann, mei := onStore(t, p.url, "ann", memstore.New(), http.DefaultTransport), onStore(t, p.url, "mei", memstore.New(), http.DefaultTransport)
	var ids []satchel.ID
	for _, name := range []string{"Customer", "Customer Ltd"} {
		id, err := ann.Create(t.Context(), "account", satchelclient.Fields{"name": name})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	syncNow(t, ann)
	syncNow(t, mei)
	if err := mei.Command(t.Context(), "account", ids[0], "record.merge", satchelclient.Fields{"into": ids[1]}); err != nil {
		t.Fatal(err)
	}
	if r := syncNow(t, mei); len(r.Settled) != 1 || r.Settled[0].Verdict.Status != 1 {
		t.Fatalf("%+v", r.Settled)
	}
	if err := ann.Patch(t.Context(), "account", ids[0], satchelclient.Fields{"remark": "key"}); err != nil {
		t.Fatal(err)
	}
	syncNow(t, ann)
	for _, c := range []*satchelclient.Client{ann, mei} {
		syncNow(t, c)
		a, err := c.Get(t.Context(), "account", ids[0])
		if err != nil || a.ID != ids[1] || a.Text("remark") != "key" || a.Pending {
			t.Errorf("%+v, %v", a, err)
		}
		if all, err := c.List(t.Context(), "account"); err != nil || len(all) != 1 {
			t.Errorf("%d accounts are shown, %v", len(all), err)
		}
	}
}
