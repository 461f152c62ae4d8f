package story

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	satchel "github.com/satchel-sync/satchel"
	client "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/identity"
	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/internal/devpg"
	"github.com/satchel-sync/satchel/internal/fakes"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/migrations"
)

// password is that of everybody in the story.
const password = "three phones"

// orderTime bounds how long the server's process may take for an order.
const orderTime = 60 * time.Second

// stage is where the story plays: Postgres, the server's process, the scripted FCM server and the phones.
type stage struct {
	cfg    Config
	dir    string
	db     *devpg.Server
	fcm    *fakes.FCM
	offset time.Duration
	people map[string]satchel.ID
	child  *child
	proxy  atomic.Pointer[string] // the server's address of now
	phones []*phone
}

// child is the server's process.
type child struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
	url   string
}

// raise builds the stage.
func raise(ctx context.Context, cfg Config) (*stage, error) {
	dir, err := os.MkdirTemp("", "satchel-demo-")
	if err != nil {
		return nil, err
	}
	s := &stage{cfg: cfg, dir: dir, people: map[string]satchel.ID{}}
	if s.db, err = devpg.StartEphemeral(ctx, map[string]string{"fsync": "on"}); err != nil {
		return s, err
	}
	if s.fcm, err = fakes.StartFCM(); err != nil {
		return s, err
	}
	pool, err := pg.Open(ctx, s.db.URL(), pg.Options{})
	if err != nil {
		return s, err
	}
	defer pool.Close()
	if err := migrations.Up(ctx, pool); err != nil {
		return s, err
	}
	a, err := app.New(ctx, appConfig(app.Config{Pool: pool, BlobURL: s.blobs()}, s.fcm.Endpoint()))
	if err != nil {
		return s, err
	}
	if err := s.hire(ctx, a); err != nil {
		return s, err
	}
	if _, err := a.Jobs.Step(ctx); err != nil {
		return s, err
	}
	return s, s.start(ctx)
}

func (s *stage) blobs() string { return "file://" + filepath.Join(s.dir, "blobs") }

// hire makes the organisation: a manager and her two reps.
func (s *stage) hire(ctx context.Context, a *app.App) error {
	if _, err := a.Identity.CreateOrg(ctx, identity.NewOrg{Slug: "story", Name: "Harbour Trading", TimeZone: "Asia/Shanghai"}); err != nil {
		return err
	}
	org, err := a.Identity.OrgBySlug(ctx, "story")
	if err != nil {
		return err
	}
	admin, err := a.Identity.AddUser(ctx, "story", identity.NewPerson{Login: "admin", DisplayName: "Office", Roles: []string{"admin"}, Password: password})
	if err != nil {
		return err
	}
	who := &satchel.Principal{Org: org, Person: admin.ID, Roles: []string{"admin"}}
	team, err := a.Identity.CreateTeam(ctx, who, "North", satchel.ID{})
	if err != nil {
		return err
	}
	for _, p := range [][3]string{{"ann", "Ann", "rep"}, {"ben", "Ben", "rep"}, {"mei", "Mei", "manager"}} {
		made, err := a.Identity.AddUser(ctx, "story", identity.NewPerson{Login: p[0], DisplayName: p[1], Team: team.ID,
			Roles: []string{p[2]}, Password: password})
		if err != nil {
			return err
		}
		s.people[p[1]] = made.ID
	}
	return nil
}

// start starts the server's process and waits until it answers.
func (s *stage) start(ctx context.Context) error {
	cmd := s.cfg.Child(ctx, ChildConfig{DatabaseURL: s.db.URL(), BlobURL: s.blobs(), FCMURL: s.fcm.Endpoint(),
		Listen: "127.0.0.1:0", Offset: s.offset})
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if cmd.Stderr == nil {
		cmd.Stderr = os.Stderr
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("story: start the server: %w", err)
	}
	s.child = &child{cmd: cmd, in: in, lines: make(chan string, 16)}
	go func() {
		defer close(s.child.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			s.child.lines <- lines.Text()
		}
	}()
	line, err := s.child.line()
	if err != nil {
		return err
	}
	url, ok := strings.CutPrefix(line, "ready ")
	if !ok {
		return fmt.Errorf("story: the server said %q", line)
	}
	s.child.url = url
	s.proxy.Store(&url)
	return nil
}

func (c *child) line() (string, error) {
	select {
	case line, ok := <-c.lines:
		if !ok {
			return "", errors.New("story: the server's process has ended")
		}
		return line, nil
	case <-time.After(orderTime):
		return "", errors.New("story: the server's process does not answer")
	}
}

// order gives the server's process an order and waits for its answer.
func (s *stage) order(words string) error {
	if _, err := fmt.Fprintln(s.child.in, words); err != nil {
		return err
	}
	line, err := s.child.line()
	if err == nil && !strings.HasPrefix(line, "ok") {
		err = fmt.Errorf("story: the server said %q", line)
	}
	return err
}

// advance lets time pass for the server and the phones, and works the jobs that became due.
func (s *stage) advance(d time.Duration) error {
	s.offset += d
	if err := s.order("advance " + d.String()); err != nil {
		return err
	}
	return s.order("step")
}

// knocks gives what FCM was asked to show on the phone with the token, in order.
func (s *stage) knocks(token string) []string {
	var out []string
	for _, m := range s.fcm.Messages() {
		if m.Token == token {
			out = append(out, fmt.Sprint(m.Body, m.Data))
		}
	}
	return out
}

// now is the story's clock.
func (s *stage) now() time.Time { return time.Now().Add(s.offset) }

// died waits for the end of a process that killed itself, and tells whether it was killed.
func (s *stage) died() bool {
	ended := make(chan struct{})
	go func() { _ = s.child.cmd.Wait(); close(ended) }()
	select {
	case <-ended:
		return s.child.cmd.ProcessState.String() == "signal: killed"
	case <-time.After(orderTime):
		return false
	}
}

// strike ends everything that raise began.
func (s *stage) strike() {
	for _, p := range s.phones {
		_ = p.store.Close()
	}
	if s.child != nil && s.child.cmd.ProcessState == nil {
		_ = s.child.in.Close()
		timer := time.AfterFunc(10*time.Second, func() { _ = s.child.cmd.Process.Kill() })
		_ = s.child.cmd.Wait()
		timer.Stop()
	}
	if s.fcm != nil {
		_ = s.fcm.Close()
	}
	if s.db != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_ = s.db.Stop(ctx)
	}
	_ = os.RemoveAll(s.dir)
}

// phone is one person's phone: the reference client on a store of its own.
type phone struct {
	*client.Client
	name    string
	stage   *stage
	store   client.Store
	offline atomic.Bool
}

// RoundTrip reaches the server of now, or nothing when there is no signal.
func (p *phone) RoundTrip(r *http.Request) (*http.Response, error) {
	if p.offline.Load() {
		return nil, errors.New("no signal")
	}
	to := r.Clone(r.Context())
	to.URL.Host = strings.TrimPrefix(*p.stage.proxy.Load(), "http://")
	to.Host = to.URL.Host
	return http.DefaultTransport.RoundTrip(to)
}

// phone unpacks a new phone and signs its person in.
func (s *stage) phone(ctx context.Context, name string) (*phone, error) {
	p := &phone{name: name, stage: s}
	var err error
	if p.store, err = s.cfg.OpenStore(ctx, filepath.Join(s.dir, name+".db")); err != nil {
		return nil, err
	}
	s.phones = append(s.phones, p)
	boot := time.Now()
	if p.Client, err = client.New(client.Config{
		BaseURL: "http://satchel.story", Store: p.store, HTTPClient: &http.Client{Transport: p}, Now: s.now,
		Monotonic: func() (string, uint64) { return "boot of " + name, uint64(s.now().Sub(boot).Milliseconds()) },
		Timeout:   20 * time.Second, Language: "en",
	}); err != nil {
		return nil, err
	}
	if err := p.SignIn(ctx, client.Credentials{Org: "story", Login: strings.ToLower(name), Password: password,
		DeviceName: name + "'s phone", Platform: "go", AppVersion: "1"}); err != nil {
		return nil, fmt.Errorf("%s signs in: %w", name, err)
	}
	return p, nil
}
