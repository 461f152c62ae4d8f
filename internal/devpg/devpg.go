package devpg

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Database and User are the names that every Server has.
const (
	Database = "satchel"
	User     = "satchel"
)

// How long the steps may take at most; Start also ends with its ctx.
const (
	startTimeout = 60 * time.Second
	stopTimeout  = 15 * time.Second
	pollEvery    = 20 * time.Millisecond
	maxLog       = 10 << 20 // postgres.log is begun anew beyond this
)

// Config says where a private Postgres lives.
type Config struct {
	// Dir is its home: data, password, log, lock. It is made if it is missing. Required.
	Dir string
	// FallbackDir is used, with a name made from Dir, when this process is root and the unprivileged user that Postgres
	// must run as cannot reach Dir (a clone below /root); "" means /var/lib/satchel.
	FallbackDir string
	// Settings are Postgres' own, over the ones that this package chooses.
	Settings map[string]string
	// Env is added to the postmaster's environment, NAME=value; for the laboratory.
	Env []string
	// Log gets a line for what takes long (a new cluster, an adoption); nil means silence. Postgres' own log is
	// postgres.log in the home.
	Log io.Writer
}

// Server is a running private Postgres. Its methods are for one goroutine.
type Server struct {
	cfg       Config
	bin       string
	home      string
	sockets   string
	port      int
	password  string
	who       *account
	lock      *os.File // nil when another process owns the server
	proc      *process
	ephemeral *watchdog
}

// Start gives a Postgres that answers, on the data in cfg.Dir: a new cluster, the existing one, or a postmaster that an
// earlier process left running when it was killed. As root it runs Postgres as the user postgres (or satchel, which
// it adds). One process owns the server; where another one already does (`satchel user add` beside `satchel serve`),
// Start shares it: URL works, Stop leaves it alone, and it is gone when the owner stops it. If this process is killed,
// Postgres stays and the next Start adopts it.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Dir == "" {
		return nil, errors.New("devpg: Config.Dir is required")
	}
	if cfg.FallbackDir == "" {
		cfg.FallbackDir = "/var/lib/satchel"
	}
	if cfg.Log == nil {
		cfg.Log = io.Discard
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	s := &Server{cfg: cfg}
	if s.bin, err = Find(); err != nil {
		return nil, err
	}
	if s.who, err = accountForPostgres(ctx); err != nil {
		return nil, err
	}
	if s.home, err = s.who.home(ctx, dir, filepath.Join(cfg.FallbackDir, short(dir))); err != nil {
		return nil, err
	}
	if s.home != dir {
		fmt.Fprintf(cfg.Log, "devpg: %s cannot be reached by user %s, so the data are in %s\n", dir, s.who.name, s.home)
	}
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// open becomes the owner of the home and brings its server up, or shares it.
func (s *Server) open(ctx context.Context) error {
	for {
		lock, err := tryLock(filepath.Join(s.home, "lock"))
		if err != nil {
			return err
		}
		if lock != nil {
			s.lock = lock
			break
		}
		if s.attach(ctx) == nil {
			return nil
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("devpg: another process holds %s, but no Postgres answers there; stop that process, or choose another directory", s.home)
		}
	}
	err := s.prepare(ctx)
	if err == nil {
		err = s.up(ctx)
	}
	if err == nil {
		err = s.createDatabase(ctx)
	}
	if err != nil {
		if s.proc != nil {
			s.stop()
		}
		s.unlock()
	}
	return err
}

func (s *Server) data() string { return filepath.Join(s.home, "data") }

// prepare makes the cluster where there is none, and reads what the home says about an existing one.
func (s *Server) prepare(ctx context.Context) error {
	if err := s.chooseSockets(); err != nil {
		return err
	}
	version, err := os.ReadFile(filepath.Join(s.data(), "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) {
		return s.initdb(ctx)
	}
	if err != nil {
		return err
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(version)))
	if err != nil {
		return fmt.Errorf("devpg: %s holds no Postgres version", filepath.Join(s.data(), "PG_VERSION"))
	}
	if s.bin, err = find(major); err != nil {
		return err
	}
	return s.readPassword()
}

func (s *Server) readPassword() error {
	b, err := os.ReadFile(filepath.Join(s.home, "password"))
	s.password = strings.TrimSpace(string(b))
	return err
}

// chooseSockets takes the home for the socket, or a short directory where a socket's path would be too long.
func (s *Server) chooseSockets() error {
	s.sockets = s.home
	if len(s.home)+len("/.s.PGSQL.65535.lock") < 100 {
		return nil
	}
	s.sockets = filepath.Join("/tmp", "satchel-"+short(s.home))
	return s.who.mkdir(s.sockets)
}

// initdb makes the cluster beside its place and renames it, so that one that was interrupted is never taken for whole.
func (s *Server) initdb(ctx context.Context) error {
	fmt.Fprintf(s.cfg.Log, "devpg: making a new Postgres cluster in %s\n", s.home)
	fresh := s.data() + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	raw := make([]byte, 24)
	_, _ = rand.Read(raw) // never fails
	s.password = hex.EncodeToString(raw)
	pwfile := filepath.Join(s.home, "password")
	if err := s.who.write(pwfile, s.password+"\n"); err != nil {
		return err
	}
	args := []string{"-D", fresh, "--username=" + User, "--pwfile=" + pwfile, "--auth=scram-sha-256",
		"--encoding=UTF8", "--locale=" + locale()}
	if s.ephemeral != nil {
		args = append(args, "--no-sync")
	}
	if out, err := s.who.command(ctx, s.home, filepath.Join(s.bin, "initdb"), args...).CombinedOutput(); err != nil {
		return fmt.Errorf("devpg: initdb failed: %w\n%s", err, out)
	}
	return os.Rename(fresh, s.data())
}

// settings gives the command line of the postmaster behind its paths and port.
func (s *Server) settings() []string {
	all := map[string]string{"listen_addresses": "127.0.0.1", "timezone": "UTC", "log_timezone": "UTC",
		"max_connections": "200", "log_min_messages": "warning", "logging_collector": "off"}
	for k, v := range s.cfg.Settings {
		all[k] = v
	}
	var args []string
	for k, v := range all {
		args = append(args, "--"+k+"="+v)
	}
	sort.Strings(args)
	return args
}

// up adopts a postmaster that runs on the data, or starts one.
func (s *Server) up(ctx context.Context) error {
	flags := strings.Join(append(s.settings(), s.cfg.Env...), "\n")
	flagFile := filepath.Join(s.home, "settings")
	if left := leftBehind(s.data()); left != nil {
		before, _ := os.ReadFile(flagFile) // unreadable is different
		s.port, s.sockets = left.port, left.sockets
		// It may just be recovering from the crash that killed its owner.
		answers := s.waitReady(ctx, left, 5*time.Second) == nil
		if answers && string(before) == flags {
			fmt.Fprintf(s.cfg.Log, "devpg: adopting the Postgres that an earlier process left running, pid %d\n", left.pid)
			s.proc = left
			return nil
		}
		if err := left.stop(stopTimeout); err != nil {
			return err
		}
		if err := s.chooseSockets(); err != nil {
			return err
		}
	}
	if err := s.who.write(flagFile, flags); err != nil {
		return err
	}
	var err error
	for range 5 { // another program may take the port first; a killed postmaster's children may still be going
		if s.port, err = freePort(s.port); err != nil {
			return err
		}
		if s.proc, err = s.launch(); err != nil {
			return err
		}
		if err = s.waitReady(ctx, s.proc, startTimeout); err == nil {
			return nil
		}
		_ = s.proc.stop(stopTimeout) // it is gone already, or this makes sure; err tells more
		s.proc = nil
		if ctx.Err() != nil {
			break
		}
		_ = pause(ctx)
	}
	return fmt.Errorf("devpg: Postgres did not start: %w\n%s", err, s.logTail())
}

func (s *Server) launch() (*process, error) {
	name := filepath.Join(s.home, "postgres.log")
	flags := os.O_CREATE | os.O_WRONLY | os.O_APPEND
	if st, err := os.Stat(name); err == nil && st.Size() > maxLog {
		flags |= os.O_TRUNC
	}
	log, err := os.OpenFile(name, flags, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	args := append([]string{"-D", s.data(), "-p", strconv.Itoa(s.port), "-k", s.sockets}, s.settings()...)
	cmd := s.who.command(context.Background(), s.home, filepath.Join(s.bin, "postgres"), args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(cmd.Env, s.cfg.Env...)
	cmd.SysProcAttr.Setsid = true // Ctrl-C in the terminal is ours to handle, in order
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("devpg: %w", err)
	}
	p := &process{pid: cmd.Process.Pid, exited: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // why it ended is in its log
		close(p.exited)
	}()
	return p, nil
}

// waitReady waits until the server answers a query, at most d.
func (s *Server) waitReady(ctx context.Context, p *process, d time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for {
		err := s.ping(ctx)
		if err == nil {
			return nil
		}
		if p.gone() {
			return errors.New("it ended at once")
		}
		if pause(ctx) != nil {
			return err
		}
	}
}

func (s *Server) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.url("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var data string
	if err := conn.QueryRow(ctx, "show data_directory").Scan(&data); err != nil {
		return err
	}
	if data != s.data() {
		return fmt.Errorf("another Postgres answers there, on %s", data)
	}
	return nil
}

func (s *Server) createDatabase(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.url("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var exists bool
	err = conn.QueryRow(ctx, "select exists (select from pg_database where datname = $1)", Database).Scan(&exists)
	if err == nil && !exists {
		_, err = conn.Exec(ctx, "create database "+Database)
	}
	return err
}

// attach shares the server of the process that holds the lock.
func (s *Server) attach(ctx context.Context) error {
	left := leftBehind(s.data())
	if left == nil {
		return errors.New("no postmaster runs")
	}
	if err := s.readPassword(); err != nil {
		return err
	}
	s.port, s.sockets = left.port, left.sockets
	conn, err := pgx.Connect(ctx, s.URL()) // the owner may still be making the database
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// URL gives the address of the database over the Unix socket, with its password.
func (s *Server) URL() string { return s.url(Database) }

func (s *Server) url(database string) string {
	q := url.Values{"host": {s.sockets}, "port": {strconv.Itoa(s.port)}, "sslmode": {"disable"}}
	u := url.URL{Scheme: "postgres", User: url.UserPassword(User, s.password), Path: "/" + database, RawQuery: q.Encode()}
	return u.String()
}

// TCPURL gives the address of the database over the loopback, for what stands between (proxies) or speaks no socket.
func (s *Server) TCPURL() string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(User, s.password), Path: "/" + Database,
		Host: "127.0.0.1:" + strconv.Itoa(s.port), RawQuery: "sslmode=disable"}
	return u.String()
}

// Home gives the directory that holds the data, the password and postgres.log.
func (s *Server) Home() string { return s.home }

// Shared tells whether another process owns the server.
func (s *Server) Shared() bool { return s.lock == nil }

// Stop shuts the server down cleanly: sessions are cut, what was committed is on disk. If ctx ends or 15 s pass first
// it is stopped hard, from which the next Start recovers. A shared server is left alone. An ephemeral one is removed.
func (s *Server) Stop(ctx context.Context) error {
	if s.Shared() {
		return nil
	}
	limit := stopTimeout
	if t, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(t))
	}
	var err error
	if s.proc != nil {
		err = s.proc.stop(limit)
		s.proc = nil
	}
	if s.sockets != s.home {
		_ = os.Remove(s.sockets) // empty now; if not, the next start uses it
	}
	s.unlock()
	if s.ephemeral != nil {
		s.ephemeral.end()
		err = errors.Join(err, os.RemoveAll(s.home))
	}
	return err
}

func (s *Server) stop() {
	_ = s.proc.stop(stopTimeout) // called on the way out with a better error
	s.proc = nil
}

func (s *Server) unlock() {
	if s.lock != nil {
		_ = s.lock.Close() // closing releases it, whatever it returns
		s.lock = nil
	}
}

// Kill ends the postmaster as a power cut would (SIGKILL); for fault tests. Only the owner may.
func (s *Server) Kill() error {
	if s.Shared() || s.proc == nil {
		return errors.New("devpg: this process has no running server of its own")
	}
	err := s.proc.kill()
	s.proc = nil
	return err
}

// Restart starts a killed or running server again, on the same port and socket, so that URL stays right.
func (s *Server) Restart(ctx context.Context) error {
	if s.Shared() {
		return errors.New("devpg: this process does not own the server")
	}
	if s.proc != nil {
		if err := s.proc.stop(stopTimeout); err != nil {
			return err
		}
		s.proc = nil
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return s.up(ctx)
}

func (s *Server) logTail() string {
	b, _ := os.ReadFile(filepath.Join(s.home, "postgres.log")) // without it the error still says what failed
	return string(b[max(0, len(b)-2000):])
}

// short names a path in 12 letters.
func short(path string) string {
	h := sha256.Sum256([]byte(path))
	return hex.EncodeToString(h[:6])
}

func pause(ctx context.Context) error {
	t := time.NewTimer(pollEvery)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// tryLock gives nil when another process holds the lock. The system releases it with the process.
func tryLock(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("devpg: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return f, nil
	}
	_ = f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, nil
	}
	return nil, fmt.Errorf("devpg: %w", err)
}
