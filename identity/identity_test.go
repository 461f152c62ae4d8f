package identity

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const goodPassword = "correct horse battery"

// world is a database with services on it, and a clock that only the test moves.
type world struct {
	*Service
	t    *testing.T
	cfg  Config
	log  *lockedBuffer
	mu   sync.Mutex
	time time.Time
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// engine stands in for the engine: it keeps the real clock table, and writes announcements to a table, so that what was
// rolled back is not seen.
type engine struct{ fail error }

func (engine) OrgCreated(ctx context.Context, tx pgx.Tx, org satchel.ID) error {
	_, err := tx.Exec(ctx, "insert into org_clock (org_id, cursor_key) values ($1, 'key')", org)
	return err
}

func (e engine) RightsChanged(ctx context.Context, tx pgx.Tx, org satchel.ID) error {
	if e.fail != nil {
		return e.fail
	}
	_, err := tx.Exec(ctx, "update org_clock set rights = rights + 1 where org_id = $1", org)
	return err
}

func (engine) DirectoryChanged(ctx context.Context, tx pgx.Tx, org satchel.ID, persons, teams []satchel.ID) error {
	_, err := tx.Exec(ctx, "insert into announced (org_id, persons, teams) values ($1, $2, $3)", org, persons, teams)
	return err
}

// newWorld makes a database and a service; adjust may change its Config.
func newWorld(t *testing.T, adjust ...func(*Config)) *world {
	t.Helper()
	w := &world{t: t, log: &lockedBuffer{}, time: time.Date(2026, 11, 2, 8, 0, 0, 0, time.UTC)}
	pool := pgtest.New(t)
	if _, err := pool.Exec(t.Context(), "create table announced (n serial, org_id uuid, persons uuid[], teams uuid[])"); err != nil {
		t.Fatal(err)
	}
	w.cfg = Config{
		Pool: pool, Rights: engine{},
		Roles: func(context.Context, satchel.ID) ([]string, error) {
			return []string{"admin", "manager", "rep"}, nil
		},
		MayManage: func(_ context.Context, p *satchel.Principal) (bool, error) { return p.HasRole("admin"), nil },
		Hashing:   Argon2{MemoryKiB: 8, Passes: 1, Lanes: 1},
		Now: func() time.Time {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.time
		},
		Logger: slog.New(slog.NewJSONHandler(w.log, nil)),
	}
	for _, f := range adjust {
		f(&w.cfg)
	}
	w.Service = w.replica()
	return w
}

// replica makes another server on the same database.
func (w *world) replica() *Service {
	w.t.Helper()
	s, err := New(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) wait(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.time = w.time.Add(d)
}

func (w *world) org(slug string) satchel.ID {
	w.t.Helper()
	org, err := w.CreateOrg(w.t.Context(), NewOrg{Slug: slug, Name: "Org " + slug})
	must(w.t, err)
	return org
}

func (w *world) person(slug, login string, roles ...string) Person {
	w.t.Helper()
	p, err := w.AddUser(w.t.Context(), slug, NewPerson{Login: login, DisplayName: "The " + login, Roles: roles, Password: goodPassword})
	must(w.t, err)
	return p
}

func (w *world) signIn(slug, login string) *Session {
	w.t.Helper()
	s, err := w.SignIn(w.t.Context(), SignIn{Org: slug, Login: login, Password: goodPassword})
	must(w.t, err)
	return s
}

// as signs somebody in and gives their principal.
func (w *world) as(slug, login string) *satchel.Principal {
	w.t.Helper()
	p, err := w.Authenticate(w.t.Context(), w.signIn(slug, login).Tokens.Access)
	must(w.t, err)
	return p
}

func (w *world) rightsOf(org satchel.ID) (n int) {
	w.t.Helper()
	must(w.t, w.pool.QueryRow(w.t.Context(), "select rights from org_clock where org_id = $1", org).Scan(&n))
	return n
}

// announced gives the last announcement, and how many there were.
func (w *world) announced(org satchel.ID) (persons, teams []satchel.ID, n int) {
	w.t.Helper()
	must(w.t, w.pool.QueryRow(w.t.Context(), `select persons, teams, (select count(*) from announced where org_id = $1)
		from announced where org_id = $1 order by n desc limit 1`, org).Scan(&persons, &teams, &n))
	return persons, teams, n
}

// behind opens a transaction that runs sql and holds its locks, starts all calls, waits until each of them waits for a
// lock, and commits. So the calls meet at the point that the locks guard, whatever the machine's mood.
func (w *world) behind(sql string, args []any, calls ...func()) {
	w.t.Helper()
	ctx := w.t.Context()
	tx, err := w.pool.Begin(ctx)
	must(w.t, err)
	defer func() { _ = tx.Rollback(ctx) }()
	_, err = tx.Exec(ctx, sql, args...)
	must(w.t, err)
	var wg sync.WaitGroup
	for _, call := range calls {
		wg.Go(call)
	}
	poll := time.NewTicker(2 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(30 * time.Second); ; <-poll.C {
		var waiting int // not asked inside tx, where pg_stat_activity would stand still
		must(w.t, w.pool.QueryRow(ctx, "select count(*) from pg_locks where not granted and pid in (select pid from pg_stat_activity where datname = current_database())").Scan(&waiting))
		if waiting >= len(calls) {
			break
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%d of %d calls came to the lock", waiting, len(calls))
		}
	}
	must(w.t, tx.Commit(ctx))
	wg.Wait()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refused checks that err is one that a caller may see, with this reason.
func refused(t testing.TB, err error, want satchel.Reason) {
	t.Helper()
	if satchel.ReasonOf(err) != want {
		t.Fatalf("got the error %v, want the reason %s", err, want)
	}
	if satchel.KindOf(err) == satchel.Internal {
		t.Fatalf("the error %v would reach the caller as a fault of ours", err)
	}
}

func TestTheSetUpCodeLetsExactlyOneAdministratorIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	_, err := w.SignIn(ctx, SignIn{Login: "root", Password: goodPassword})
	refused(t, err, satchel.ReasonNotSetUp)

	old, needed, err := w.EnsureSetupCode(ctx)
	must(t, err)
	code, again, err := w.EnsureSetupCode(ctx)
	must(t, err)
	if !needed || !again || code == old || len(code) < 32 {
		t.Fatal("each start of an empty server must make a new code of 160 bits")
	}
	ask := SetUp{Code: old, Org: NewOrg{Slug: "acme", Name: "Acme"}, Login: "Root", DisplayName: "Root", Password: goodPassword}
	_, _, err = w.SetUp(ctx, ask)
	refused(t, err, satchel.ReasonBadCredentials)
	ask.Code, ask.Password = code, "short"
	_, _, err = w.SetUp(ctx, ask)
	refused(t, err, satchel.ReasonMalformed)
	ask.Password = ""
	_, _, err = w.SetUp(ctx, ask)
	refused(t, err, satchel.ReasonMalformed)

	ask.Code, ask.Password = strings.ToUpper(code), goodPassword
	errs := make([]error, 4)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			a := ask
			a.Org.Slug = fmt.Sprintf("acme%d", i)
			_, _, errs[i] = w.SetUp(ctx, a)
		})
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else {
			refused(t, err, satchel.ReasonNotAllowed)
		}
	}
	if won != 1 {
		t.Fatalf("%d of 4 set-ups with the same code worked", won)
	}
	p := w.as("", "root")
	if !p.HasRole("admin") || p.Rights != 2 {
		t.Fatalf("the first person is %+v", p)
	}
	if _, needed, err := w.EnsureSetupCode(ctx); err != nil || needed {
		t.Fatalf("a server with an organisation asked for a set-up (%v)", err)
	}
}

func TestAnOrganisationNeedsASlugOfItsOwnAndARealTimeZone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.org("acme")
	_, err := w.CreateOrg(ctx, NewOrg{Slug: "acme", Name: "Another"})
	refused(t, err, satchel.ReasonTaken)
	for _, n := range []NewOrg{{Slug: "Ac me", Name: "x"}, {Slug: "b"}, {Slug: "b", Name: "x", TimeZone: "Mars/Base"}, {Slug: "b", Name: "x", TimeZone: "Local"}} {
		_, err := w.CreateOrg(ctx, n)
		refused(t, err, satchel.ReasonMalformed)
	}
	w.person("acme", "li")
	me, err := w.WhoAmI(ctx, w.as("acme", "li"))
	must(t, err)
	if me.TimeZone != "Asia/Shanghai" || me.OrgName != "Org acme" || me.DisplayName != "The li" {
		t.Fatalf("WhoAmI gave %+v", me)
	}
}

func TestAClosingOrganisationAcceptsNobodyFromTheNextRequestOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	w.org("acme")
	w.person("acme", "li")
	s := w.signIn("acme", "li")
	must(t, w.CloseOrg(ctx, "acme"))
	_, err := w.Authenticate(ctx, s.Tokens.Access)
	refused(t, err, satchel.ReasonSessionEnded)
	_, err = w.Refresh(ctx, s.Tokens.Refresh)
	refused(t, err, satchel.ReasonSessionEnded)
	_, err = w.SignIn(ctx, SignIn{Org: "acme", Login: "li", Password: goodPassword})
	refused(t, err, satchel.ReasonBadCredentials)
	refused(t, w.CloseOrg(ctx, "nobody"), satchel.ReasonNotFound)
}

func TestTheOperatorAddsPeopleAndLetsThemBackIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	org := w.org("acme")
	li := w.person("acme", "li", "rep")
	_, err := w.AddUser(ctx, "acme", NewPerson{Login: "wang", Roles: []string{"emperor"}})
	refused(t, err, satchel.ReasonMalformed)
	_, err = w.AddUser(ctx, "nobody", NewPerson{Login: "wang"})
	refused(t, err, satchel.ReasonNotFound)

	_, err = w.pool.Exec(ctx, "update person set disabled_at = now() where org_id = $1 and id = $2", org, li.ID)
	must(t, err)
	const fresh = "another long password"
	must(t, w.ResetUser(ctx, "acme", "LI", fresh))
	_, err = w.SignIn(ctx, SignIn{Org: "acme", Login: "li", Password: goodPassword})
	refused(t, err, satchel.ReasonBadCredentials)
	_, err = w.SignIn(ctx, SignIn{Org: "acme", Login: "li", Password: fresh})
	must(t, err)
	refused(t, w.ResetUser(ctx, "acme", "nobody", fresh), satchel.ReasonNotFound)
}

func TestAnImportHashesOnceAndAnnouncesOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	org := w.org("demo")
	teams := []Team{{ID: satchel.NewID(), Name: "East"}, {ID: satchel.NewID(), Name: "Shanghai"}}
	teams[1].Parent = teams[0].ID
	var people []Person
	for i := range 40 {
		people = append(people, Person{ID: satchel.NewID(), Login: fmt.Sprintf("rep%02d", i), DisplayName: "Rep", Team: teams[1].ID, Roles: []string{"rep"}})
	}
	before := w.hash.runs.Load()
	must(t, pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		if err := w.ImportTeams(ctx, tx, org, teams); err != nil {
			return err
		}
		return w.ImportPeople(ctx, tx, org, goodPassword, people)
	}))
	if n := w.hash.runs.Load() - before; n != 1 {
		t.Errorf("the password was hashed %d times", n)
	}
	ids, _, n := w.announced(org)
	if len(ids) != 40 || n != 2 || w.rightsOf(org) != 3 {
		t.Errorf("%d people announced last, %d announcements, rights %d", len(ids), n, w.rightsOf(org))
	}
	p := w.as("demo", "rep07")
	if p.Person != people[7].ID || !slices.Equal(p.Roles, []string{"rep"}) {
		t.Errorf("rep07 is %+v", p)
	}
	loop := []Team{{ID: satchel.NewID(), Name: "A"}, {ID: satchel.NewID(), Name: "B"}}
	loop[0].Parent, loop[1].Parent = loop[1].ID, loop[0].ID
	refused(t, pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error { return w.ImportTeams(ctx, tx, org, loop) }), satchel.ReasonMalformed)
}

// dump gives every row of identity's tables as text.
func dump(t *testing.T, pool *pgxpool.Pool) string {
	t.Helper()
	var all strings.Builder
	for _, table := range []string{"org", "team", "person", "device", "session", "sign_in_throttle", "setup_code"} {
		rows, err := pool.Query(t.Context(), "select x::text from "+table+" x")
		must(t, err)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		must(t, err)
		all.WriteString(strings.Join(lines, "\n"))
	}
	return all.String()
}

func TestNoSecretIsStoredOrLoggedInClear(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	code, _, err := w.EnsureSetupCode(ctx)
	must(t, err)
	_, _, err = w.SetUp(ctx, SetUp{Code: code, Org: NewOrg{Slug: "acme", Name: "Acme"}, Login: "root", DisplayName: "Root", Password: goodPassword})
	must(t, err)
	first := w.signIn("acme", "root")
	second, err := w.Refresh(ctx, first.Tokens.Refresh)
	must(t, err)
	ask := SignIn{Org: "acme", Login: "root", Password: "wrong but long"}
	_, err = w.SignIn(ctx, ask)
	refused(t, err, satchel.ReasonBadCredentials)
	setUp := SetUp{Code: code, Password: goodPassword}
	for _, v := range []any{first, *first, second, &second, ask, &ask, setUp, []any{first, second, ask, setUp}} {
		w.cfg.Logger.Info("careless", "value", v, "text", fmt.Sprintf("%v %+v %#v", v, v, v))
		slog.New(slog.NewTextHandler(w.log, nil)).Info("careless", "value", v)
	}
	_, err = w.Authenticate(ctx, second.Access)
	must(t, err)
	_, err = w.Refresh(ctx, first.Tokens.Refresh)
	refused(t, err, satchel.ReasonSessionEnded)

	text := dump(t, w.pool)
	if !strings.Contains(text, "$argon2id$v=19$m=8,t=1,p=1$") || !strings.Contains(w.log.String(), "spent refresh token") {
		t.Fatal("the test does not look where secrets could be")
	}
	for name, secret := range map[string]string{"code": code, "password": goodPassword, "wrong password": ask.Password,
		"access": first.Tokens.Access, "refresh": first.Tokens.Refresh, "next access": second.Access, "next refresh": second.Refresh} {
		for _, part := range []string{secret, secret[len(secret)-12:]} {
			hex := fmt.Sprintf("%x", part)
			if strings.Contains(text, part) || strings.Contains(text, hex) || strings.Contains(w.log.String(), part) {
				t.Errorf("the %s stands in the database or the log", name)
			}
		}
	}
}
