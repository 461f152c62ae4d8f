package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/satchel-sync/satchel/internal/pgtest"
)

// call makes a Connect call in JSON.
func (r *running) call(procedure, body string) (int, map[string]any) {
	r.t.Helper()
	resp, err := http.Post(r.base+"/satchel.v1."+procedure, "application/json", strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, answer
}

func TestThePrintedCommandsWorkWhenCopiedOneAfterTheOther(t *testing.T) {
	t.Parallel()
	r := serve(t, []string{"DATABASE_URL=" + pgtest.URL(t), "SATCHEL_DATA_DIR=" + t.TempDir()}, "--dev", "--demo-data=small")
	text := r.printing("Said hello by curl")
	for _, login := range []string{"rep01", "manager1", "director", "admin", "satchel-demo"} {
		if !strings.Contains(text, login) {
			t.Errorf("the log-in %s is not printed", login)
		}
	}
	_, commands, ok := strings.Cut(text, "log a visit\n\n")
	if !ok {
		t.Fatalf("no commands in\n%s", text)
	}
	parts := strings.Split(strings.TrimSpace(commands), "\n\n")
	if len(parts) != 3 {
		t.Fatalf("%d commands in\n%s", len(parts), commands)
	}
	// One shell gets them, as they stand; lines of ours between them tell the answers apart.
	script := parts[0] + "\necho; echo ---; " + parts[1] + "\necho; echo ---; " + parts[2] + "\necho; echo ---; " + parts[2]
	out, err := exec.CommandContext(t.Context(), "bash", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("bash: %v\n%s", err, out)
	}
	answers := strings.Split(string(out), "---\n")
	if len(answers) != 4 || strings.TrimSpace(answers[0]) != "" {
		t.Fatalf("answers:\n%s", out)
	}
	if !strings.Contains(answers[1], `"kind":"account"`) {
		t.Errorf("the second command brings no account:\n%s", answers[1])
	}
	for _, a := range answers[2:] { // the second time it is a replay, with the same verdict
		if !strings.Contains(a, `"STATUS_APPLIED"`) {
			t.Errorf("the visit is not applied:\n%s", a)
		}
	}
}

func TestATakenPortIsNamedWithTheWayToChooseAnother(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	_, errs, status := invoke(t, nil, "serve", "--dev", "--listen="+l.Addr().String(), "--data-dir="+dataDir(t))
	if status != 1 || !strings.Contains(errs, "port "+port+" is taken") || !strings.Contains(errs, "make run LISTEN=") {
		t.Fatalf("exit status %d: %s", status, errs)
	}
}

func TestAnEmptyProductionDatabasePrintsASetUpLinkThatWorksOnce(t *testing.T) {
	t.Parallel()
	env := production(t, pgtest.Empty(t))
	r := serve(t, env, "--migrate")
	found := regexp.MustCompile(regexp.QuoteMeta(r.base) + `/#setup=(\S+)`).FindStringSubmatch(r.printing("#setup="))
	if found == nil {
		t.Fatalf("no link in\n%s", r.printed())
	}
	setUp := `{"code":"` + found[1] + `","org":"acme","orgName":"Acme","login":"boss","displayName":"Boss","password":"correct-horse"}`
	if status, answer := r.call("AuthService/SetUp", setUp); status != http.StatusOK {
		t.Fatalf("SetUp: %d %v", status, answer)
	}
	if status, answer := r.call("AuthService/SignIn", `{"org":"acme","login":"boss","password":"correct-horse"}`); status != http.StatusOK {
		t.Fatalf("SignIn: %d %v", status, answer)
	}
	if status, _ := r.call("AuthService/SetUp", strings.Replace(setUp, "acme", "other", 1)); status == http.StatusOK {
		t.Fatal("the link works twice")
	}
	if status := r.end(syscall.SIGTERM); status != 0 {
		t.Fatalf("exit status %d after SIGTERM:\n%s", status, r.stderr.String())
	}
	if strings.Contains(r.stderr.String(), found[1]) || strings.Contains(r.stderr.String(), "correct-horse") {
		t.Fatal("the log holds a secret")
	}
	if again := serve(t, append(env, "SATCHEL_PUBLIC_URL="+r.base)); strings.Contains(again.printed(), "setup=") {
		t.Fatal("a server that is set up prints a link")
	}
}

func TestAServerRefusesADatabaseThatIsBehindUntilItIsMigrated(t *testing.T) {
	t.Parallel()
	env := production(t, pgtest.Empty(t))
	_, errs, status := invoke(t, env, "serve", "--listen=127.0.0.1:0")
	if status != 1 || !strings.Contains(errs, "satchel migrate") {
		t.Fatalf("exit status %d: %s", status, errs)
	}
	if out := must(t, env, "migrate", "--dry-run"); !strings.HasPrefix(out, "Pending: ") {
		t.Fatalf("migrate --dry-run: %s", out)
	}
	if out := must(t, env, "migrate"); !strings.HasPrefix(out, "Applied: ") {
		t.Fatalf("migrate: %s", out)
	}
	if out := must(t, env, "migrate"); out != "The database is up to date.\n" {
		t.Fatalf("migrate again: %s", out)
	}
	r := serve(t, env, "--public-url=http://127.0.0.1:1/")
	r.printing("http://127.0.0.1:1/#setup=")
}

// restarting stands before a database and drops connections as one that restarts does: of those counted from 1, the ones
// for which away is true.
func restarting(t *testing.T, address string, away func(n int) bool) (url string) {
	t.Helper()
	db, err := pgx.ParseConfig(address)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	network, target := "tcp", net.JoinHostPort(db.Host, fmt.Sprint(db.Port))
	if strings.HasPrefix(db.Host, "/") {
		network, target = "unix", fmt.Sprintf("%s/.s.PGSQL.%d", db.Host, db.Port)
	}
	go func() { // ends with the listener, and each connection with its ends
		for n := 1; ; n++ {
			near, err := l.Accept()
			if err != nil {
				return
			}
			if away(n) {
				near.Close()
				continue
			}
			go func() {
				defer near.Close()
				far, err := net.Dial(network, target)
				if err != nil {
					return
				}
				defer far.Close()
				go func() { _, _ = io.Copy(far, near); far.Close() }()
				_, _ = io.Copy(near, far)
			}()
		}
	}()
	return fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", db.User, db.Password, l.Addr(), db.Database)
}

func TestAServerThatStartsOutlivesARestartOfPostgres(t *testing.T) {
	t.Parallel()
	// Away at the first question, between the first two steps, and when the loops begin.
	url := restarting(t, pgtest.URL(t), func(n int) bool { return n <= 3 || n == 5 || n == 6 })
	r := serve(t, production(t, url))
	if status := r.end(syscall.SIGTERM); status != 0 {
		t.Fatalf("exit status %d:\n%s", status, r.stderr.String())
	}
	if n := strings.Count(r.stderr.String(), "it is asked again"); n != 1 {
		t.Errorf("it said %d times that the database does not answer:\n%s", n, r.stderr.String())
	}
}

func TestAnOperatorMakesOrganisationsAndPeopleWhoCanSignIn(t *testing.T) {
	t.Parallel()
	env := production(t, pgtest.URL(t))
	database := env[:1] // that is all these commands take
	out := must(t, database, "org", "create", "acme", "--name=Acme", "--admin=boss")
	made := regexp.MustCompile(`shown only now: (\S+)`)
	boss := made.FindStringSubmatch(out)
	if boss == nil {
		t.Fatalf("no password in %q", out)
	}
	must(t, database, "user", "add", "acme", "li", "--role=rep")
	reset := made.FindStringSubmatch(must(t, database, "user", "reset", "acme", "li"))
	if reset == nil {
		t.Fatal("a reset gives no password")
	}
	for args, want := range map[string]string{
		"org create acme":              "has this short name",
		"user add acme li --role=rep":  "already",
		"user add acme wu --role=king": "rep",
		"user add none wu --role=rep":  "satchel org create",
		"user reset acme nobody":       "satchel user add",
	} {
		if _, errs, status := invoke(t, database, strings.Fields(args)...); status != 1 || !strings.Contains(strings.ToLower(errs), want) {
			t.Errorf("satchel %s: exit status %d: %s", args, status, errs)
		}
	}
	r := serve(t, append(env, "SATCHEL_PUBLIC_URL=http://127.0.0.1"), "--log-level=debug", "--dev", "--demo-data=none")
	for login, password := range map[string]string{"boss": boss[1], "li": reset[1]} {
		if status, answer := r.call("AuthService/SignIn", `{"login":"`+login+`","password":"`+password+`"}`); status != http.StatusOK {
			t.Errorf("%s cannot sign in: %d %v", login, status, answer)
		}
	}
}

func TestASecondStartIsQuickAlsoAfterAKill(t *testing.T) {
	t.Parallel()
	args := []string{"--dev", "--demo-data=small", "--data-dir=" + dataDir(t)}
	serve(t, nil, args...).end(syscall.SIGKILL)
	best := time.Hour
	for range 3 { // the machine may be busy with other tests
		r := serve(t, nil, args...)
		if best = min(best, r.took); strings.Contains(r.stderr.String(), "Loading") {
			t.Fatal("the demo company is loaded twice")
		}
		if status := r.end(syscall.SIGTERM); status != 0 {
			t.Fatalf("exit status %d:\n%s", status, r.stderr.String())
		}
		if best < 3*time.Second {
			return
		}
	}
	t.Fatalf("the quickest of three starts took %s", best)
}

func TestADevelopmentServerTakesCallsFromEveryOriginAndAProductionServerFromNone(t *testing.T) {
	t.Parallel()
	allowed := func(r *running) string {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, r.base+"/satchel.v1.SyncService/Sync", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Origin", "http://localhost:5173")
		req.Header.Set("Access-Control-Request-Method", "POST")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.Header.Get("Access-Control-Allow-Origin")
	}
	env := production(t, pgtest.URL(t))
	if got := allowed(serve(t, env)); got != "" {
		t.Errorf("a production server allows %q", got)
	}
	if got := allowed(serve(t, env, "--dev", "--demo-data=small")); got == "" {
		t.Error("a development server allows no origin")
	}
}

func TestTracesAreSentToTheCollectorAtTheLatestWhenTheServerEnds(t *testing.T) {
	t.Parallel()
	paths := make(chan string, 100)
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case paths <- r.URL.Path:
		default:
		}
		w.WriteHeader(http.StatusOK)
	}))
	defer collector.Close()
	r := serve(t, append(production(t, pgtest.URL(t)), "OTEL_EXPORTER_OTLP_ENDPOINT="+collector.URL))
	if status, _ := r.call("AuthService/SignIn", `{"login":"nobody","password":"no password"}`); status == http.StatusOK {
		t.Fatal("nobody signed in")
	}
	if status := r.end(syscall.SIGTERM); status != 0 {
		t.Fatalf("exit status %d:\n%s", status, r.stderr.String())
	}
	select {
	case path := <-paths:
		if path != "/v1/traces" {
			t.Fatalf("traces went to %s", path)
		}
	default:
		t.Fatal("no trace was sent")
	}
}

func TestACallThatRunsIsAnsweredWhenTheServerIsToldToEnd(t *testing.T) {
	t.Parallel()
	r := serve(t, []string{"DATABASE_URL=" + pgtest.URL(t), "SATCHEL_DATA_DIR=" + t.TempDir()}, "--dev", "--demo-data=small")
	_, session := r.call("AuthService/SignIn", `{"login":"rep01","password":"satchel-demo"}`)
	token, _ := session["tokens"].(map[string]any)["accessToken"].(string)
	// The body comes in two halves; between them the server is told to end.
	body, send := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.base+"/satchel.v1.SyncService/Sync", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	// The client sends the body only when the server asks for it, so that the first write below ends when the call runs.
	req.Header.Set("Expect", "100-continue")
	client := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: 20 * time.Second, DisableKeepAlives: true}}
	answer := make(chan int, 1)
	go func() {
		resp, err := client.Do(req)
		if err != nil {
			answer <- 0
			return
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		answer <- resp.StatusCode
	}()
	if _, err := io.WriteString(send, `{"maxBytes":`); err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for r.accepts() { // it takes no new connections any more
		time.Sleep(5 * time.Millisecond)
	}
	if _, err := io.WriteString(send, `1000}`); err != nil {
		t.Fatal(err)
	}
	_ = send.Close()
	if status := <-answer; status != http.StatusOK {
		t.Fatalf("the call that ran got %d", status)
	}
	if status := r.end(syscall.Signal(0)); status != 0 {
		t.Fatalf("exit status %d:\n%s", status, r.stderr.String())
	}
}

// accepts tells whether the server takes new connections.
func (r *running) accepts() bool {
	c, err := net.DialTimeout("tcp", strings.TrimPrefix(r.base, "http://"), time.Second)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

func TestBehindPgBouncerServeAsksToBeToldAndThenServes(t *testing.T) {
	t.Parallel()
	direct := pgtest.Empty(t)
	env := production(t, pgtest.Bouncer(t, direct, 2))
	if _, errs, status := invoke(t, env, "serve", "--listen=127.0.0.1:0", "--migrate"); status != 2 || !strings.Contains(errs, "--pgbouncer") || !strings.Contains(errs, "--direct-database-url") {
		t.Fatalf("untold: exit status %d: %s", status, errs)
	}
	if _, errs, status := invoke(t, env, "migrate", "--pgbouncer"); status != 2 || !strings.Contains(errs, "--direct-database-url") {
		t.Fatalf("migrate: exit status %d: %s", status, errs)
	}
	env = append(env, "SATCHEL_PGBOUNCER=true", "SATCHEL_DIRECT_DATABASE_URL="+direct)
	must(t, env, "migrate")
	password := regexp.MustCompile(`shown only now: (\S+)`).FindStringSubmatch(must(t, env, "org", "create", "acme", "--name=Acme", "--admin=boss"))
	if password == nil {
		t.Fatal("no password is printed")
	}
	r := serve(t, env)
	if status, answer := r.call("AuthService/SignIn", `{"org":"acme","login":"boss","password":"`+password[1]+`"}`); status != http.StatusOK {
		t.Errorf("SignIn: %d %v", status, answer)
	}
	if status := r.end(syscall.SIGTERM); status != 0 {
		t.Errorf("exit status %d:\n%s", status, r.stderr.String())
	}
	if out, errs, _ := invoke(t, env, "doctor"); strings.Contains(out+errs, "panic") || !strings.Contains(out, "Postgres") {
		t.Errorf("the doctor says %s%s", out, errs)
	}
}
