package devpg

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Backup is a copy of a server's data at a moment (pg_basebackup), for tests of what a restored database does. It goes
// with [Backup.Remove], or when this process ends.
type Backup struct{ copied *Server }

// Backup copies the running server's data. Its settings need wal_level replica and max_wal_senders of at least 2.
func (s *Server) Backup(ctx context.Context) (*Backup, error) {
	c, err := s.copy(ctx)
	if err != nil {
		return nil, err
	}
	return &Backup{c}, nil
}

// Start gives a Postgres on the backup, with the settings of the server that it was taken from, recovered as from an
// archive: on a new timeline. A backup starts once: the server that it gives changes it, and its Stop removes it.
func (b *Backup) Start(ctx context.Context) (*Server, error) {
	if b.copied == nil {
		return nil, errors.New("devpg: the backup was started already")
	}
	s := b.copied
	b.copied = nil
	s.cfg.Settings["restore_command"] = "false" // the archive has nothing more than the backup
	if err := s.who.write(filepath.Join(s.data(), "recovery.signal"), ""); err != nil {
		s.discard()
		return nil, err
	}
	return s.launchCopy(ctx)
}

// Remove deletes a backup that was not started.
func (b *Backup) Remove() {
	if b.copied != nil {
		b.copied.discard()
		b.copied = nil
	}
}

// Standby gives a second server that follows this one by streaming, as [Server.Backup] needs it, under the name by
// which synchronous_standby_names knows it. It is ephemeral; [Server.Promote] makes it a primary.
func (s *Server) Standby(ctx context.Context, name string) (*Server, error) {
	c, err := s.copy(ctx, "--write-recovery-conf", "--dbname", "application_name="+name)
	if err != nil {
		return nil, err
	}
	return c.launchCopy(ctx)
}

// Promote makes a standby a primary, and returns when it takes writes.
func (s *Server) Promote(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.url("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var done bool
	if err := conn.QueryRow(ctx, "select pg_promote(true, 30)").Scan(&done); err != nil {
		return err
	}
	if !done {
		return errors.New("devpg: the standby was not promoted within 30 s")
	}
	return nil
}

// Halt stops the server at once, without a checkpoint (SIGQUIT, "immediate"); [Server.Restart] recovers. For fault
// tests; only the owner may.
func (s *Server) Halt() error {
	if s.Shared() || s.proc == nil {
		return errors.New("devpg: this process has no running server of its own")
	}
	_ = syscall.Kill(s.proc.pid, syscall.SIGQUIT) // gone already is what is wanted
	if !s.proc.wait(10 * time.Second) {
		return s.Kill()
	}
	s.proc = nil
	return nil
}

// copy fills the home of a new ephemeral server with this one's data.
func (s *Server) copy(ctx context.Context, flags ...string) (*Server, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	c, err := newEphemeral(ctx, maps.Clone(s.cfg.Settings))
	if err != nil {
		return nil, err
	}
	c.bin, c.password = s.bin, s.password
	args := append([]string{"-h", s.sockets, "-p", strconv.Itoa(s.port), "-U", User, "-D", c.data(), "--checkpoint=fast", "--wal-method=stream", "--no-sync"}, flags...)
	cmd := c.who.command(ctx, c.home, filepath.Join(c.bin, "pg_basebackup"), args...)
	cmd.Env = append(cmd.Env, "PGPASSWORD="+s.password) // not on a command line, which everybody reads
	out, err := cmd.CombinedOutput()
	if err == nil {
		err = c.who.write(filepath.Join(c.home, "password"), c.password+"\n")
	}
	if err != nil {
		c.discard()
		return nil, fmt.Errorf("devpg: pg_basebackup failed: %w\n%s", err, out)
	}
	return c, nil
}

func (s *Server) launchCopy(ctx context.Context) (*Server, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := s.open(ctx); err != nil {
		s.discard()
		return nil, err
	}
	return s, nil
}

// ReadWriteURL gives the address of whichever of the servers is the primary, over the loopback: what an operator of a
// primary and its standbys gives to `satchel serve`.
func ReadWriteURL(servers ...*Server) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(User, servers[0].password), Path: "/" + Database,
		RawQuery: "sslmode=disable&target_session_attrs=read-write"}
	for i, s := range servers {
		if i > 0 {
			u.Host += ","
		}
		u.Host += "127.0.0.1:" + strconv.Itoa(s.port)
	}
	return u.String()
}

// CommitsWait returns when commits wait for the standby that the settings name and that is not there: a reload takes its
// time. Its error after a minute is that they do not.
func (s *Server) CommitsWait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	probe, err := pgx.Connect(ctx, s.URL())
	if err != nil {
		return err
	}
	defer probe.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it held nothing
	side, err := pgx.Connect(ctx, s.URL())
	if err != nil {
		return err
	}
	defer side.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it held nothing
	done := make(chan error, 1)
	commit := func() {
		_, err := probe.Exec(ctx, "set synchronous_commit = on; create table probe (); drop table probe")
		done <- err
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	go commit()
	for {
		select {
		case err := <-done:
			if err != nil {
				return err
			}
			go commit()
		case <-tick.C:
			cut, err := side.Exec(ctx, "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep' and pid = $1", probe.PgConn().PID())
			if err == nil && cut.RowsAffected() == 0 {
				continue
			}
			return errors.Join(err, <-done) // that it was cancelled is a warning only
		}
	}
}
