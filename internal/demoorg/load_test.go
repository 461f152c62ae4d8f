package demoorg_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/satchel-sync/satchel/identity"
	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/internal/demoorg"
	"github.com/satchel-sync/satchel/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// product gives a wired product that does not serve, on a database of its own.
func product(t *testing.T) (*app.App, demoorg.Config) {
	t.Helper()
	pool := pgtest.New(t)
	a, err := app.New(t.Context(), app.Config{
		Pool: pool, BlobURL: "file://" + t.TempDir(), Secret: []byte("0123456789abcdef0123456789abcdef"), Dev: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return a, demoorg.Config{Pool: pool, Identity: a.Identity, Engine: a.Engine}
}

// records counts an organisation's records by kind.
func records(t *testing.T, pool *pgxpool.Pool) map[string]int {
	t.Helper()
	rows, err := pool.Query(t.Context(), "select kind, count(*) from record group by kind")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	out := map[string]int{}
	for rows.Next() {
		var kind string
		var n int
		if err := rows.Scan(&kind, &n); err != nil {
			t.Fatal(err)
		}
		out[kind] = n
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestALoadThatWasKilledGoesOnAndNothingIsThereTwice(t *testing.T) {
	t.Parallel()
	_, cfg := product(t)
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	cfg.Progress = func(done, total int) {
		if done > total/2 {
			kill()
		}
	}
	if _, err := demoorg.Load(ctx, cfg); !errors.Is(err, context.Canceled) {
		t.Fatalf("a killed load gives %v", err)
	}
	if got := records(t, cfg.Pool)["visit"]; got == 0 || got >= 20_000 {
		t.Fatalf("a killed load left %d visits; this test wants some and not all", got)
	}
	cfg.Progress = nil
	if loaded, err := demoorg.Load(t.Context(), cfg); err != nil || !loaded {
		t.Fatalf("the second load gives %v, %v", loaded, err)
	}
	got := records(t, cfg.Pool)
	if got["account"] != 3_000 || got["visit"] != 20_000 || got["contact"] == 0 || got["quote"] == 0 {
		t.Fatalf("the company has %v", got)
	}
	if loaded, err := demoorg.Load(t.Context(), cfg); err != nil || loaded {
		t.Fatalf("a third load gives %v, %v", loaded, err)
	}
}

func TestEveryPrintedLoginWorksAndTheRepOwnsTheExampleAccount(t *testing.T) {
	t.Parallel()
	a, cfg := product(t)
	cfg.Small = true
	if _, err := demoorg.Load(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	account, err := demoorg.RepAccount(true)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range demoorg.Logins() {
		s, err := a.Identity.SignIn(t.Context(), identity.SignIn{Login: l.Login, Password: demoorg.Password})
		if err != nil {
			t.Fatalf("%s: %v", l.Login, err)
		}
		p, err := a.Identity.Authenticate(t.Context(), s.Tokens.Access)
		if err != nil {
			t.Fatalf("%s: %v", l.Login, err)
		}
		if l.Role == "rep" {
			r, err := a.Engine.Visible(t.Context(), p, account)
			if err != nil || r == nil || r.Ref("owner") != s.Person {
				t.Fatalf("the example account is %v, %v", r, err)
			}
		}
	}
}

func TestADatabaseOfSomebodyElseIsLeftAlone(t *testing.T) {
	t.Parallel()
	a, cfg := product(t)
	if _, err := a.Identity.CreateOrg(t.Context(), identity.NewOrg{Slug: "acme", Name: "Acme"}); err != nil {
		t.Fatal(err)
	}
	if loaded, err := demoorg.Load(t.Context(), cfg); err != nil || loaded {
		t.Fatalf("Load gives %v, %v", loaded, err)
	}
	if got := records(t, cfg.Pool); len(got) != 0 {
		t.Fatalf("there are %v", got)
	}
}
