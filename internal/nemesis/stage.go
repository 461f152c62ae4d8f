package nemesis

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/internal/devpg"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/migrations"
	"github.com/satchel-sync/satchel/syncengine"
)

// stage is where seeds are run: a Postgres, the replicas' processes, and the office, which is the product once more in
// this process: it makes organisations, changes rights, and works at the end what is due by a later hour. A stage serves
// many seeds, one after the other, each with an organisation of its own.
type stage struct {
	dir      string
	db       *devpg.Server // whose address everybody has
	standby  *devpg.Server // nil = there is none
	front    *way          // the way to db, where db may be another one later; nil = there is none
	backup   *devpg.Backup // to restore; nil = there is none
	url      string        // of the database
	replicas []*replica
	pool     *pgxpool.Pool // the office's and the model's
	office   *app.App
	ahead    atomic.Int64 // nanoseconds that the office's clock is ahead
	orgs     int          // so far
	restored bool         // a backup took the place of Postgres
	dead     bool         // something could not be brought up again
}

// durable are Postgres' settings: they wait for the disk, and the data can be copied.
var durable = map[string]string{"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "wal_level": "replica",
	"max_wal_senders": "8", "max_connections": "60", "shared_buffers": "64MB", "max_wal_size": "1GB"}

// behind is what there is beside one Postgres.
type behind uint8

const (
	nothing   behind = iota
	aStandby         // for which every commit waits; servers know both addresses, as an operator would give them
	aFrontman        // a proxy before Postgres, so that another one can take its place: for restoreBackup
)

// raise builds a stage. server makes the command that runs [Serve].
func raise(ctx context.Context, server func(context.Context) *exec.Cmd, with behind, settings map[string]string) (s *stage, err error) {
	s = &stage{}
	defer func() {
		if err != nil {
			s.strike()
		}
	}()
	if s.dir, err = os.MkdirTemp("", "satchel-nemesis-"); err != nil {
		return s, err
	}
	if s.db, err = devpg.StartEphemeral(ctx, settings); err != nil {
		return s, err
	}
	s.url = s.db.URL()
	switch with {
	case aStandby:
		if s.standby, err = s.db.Standby(ctx, "second"); err != nil {
			return s, err
		}
		s.url = devpg.ReadWriteURL(s.db, s.standby)
		if err := s.system(ctx, "synchronous_standby_names", "second"); err != nil {
			return s, err
		}
	case aFrontman:
		if s.front, err = newWay(func() string { return hostOf(s.db.TCPURL()) }); err != nil {
			return s, err
		}
		s.url = strings.Replace(s.db.TCPURL(), hostOf(s.db.TCPURL()), s.front.l.Addr().String(), 1)
	}
	if s.pool, err = pg.Open(ctx, s.url, pg.Options{AppName: "satchel sim model", MaxConns: 5, OnConnect: syncengine.CheckLine}); err != nil {
		return s, err
	}
	if err := migrations.Up(ctx, s.pool); err != nil {
		return s, err
	}
	blobs := filepath.Join(s.dir, "blobs")
	now := func() time.Time { return time.Now().Add(time.Duration(s.ahead.Load())) }
	if s.office, err = newApp(ctx, s.pool, blobs, now, nil); err != nil {
		return s, err
	}
	for i := range replicas {
		r := &replica{number: i, cmd: server, orders: orders{DatabaseURL: s.url, Blobs: blobs, Replica: i}, log: new(tail)}
		s.replicas = append(s.replicas, r)
		if err := r.start(ctx); err != nil {
			return s, err
		}
	}
	return s, nil
}

// system changes a setting of the primary. It is no transaction, so it waits for no standby.
func (s *stage) system(ctx context.Context, name, value string) error {
	conn, err := pgx.Connect(ctx, s.db.URL())
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "ALTER SYSTEM SET "+name+" = '"+value+"'")
	if err == nil {
		_, err = conn.Exec(ctx, "SELECT pg_reload_conf()")
	}
	return errors.Join(err, conn.Close(ctx))
}

// address is where the nth connection of somebody goes: to the replicas in turn.
func (s *stage) address(n int) string { return s.replicas[n%len(s.replicas)].at() }

// cutSessions lets Postgres end the sessions of a replica.
func (s *stage) cutSessions(ctx context.Context, replica int) error {
	_, err := s.pool.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1`, appName(replica))
	return err
}

// failOver kills the primary for good and makes the standby the primary.
func (s *stage) failOver(ctx context.Context) error {
	if s.standby == nil {
		return errors.New("nemesis: there is no standby")
	}
	if err := s.db.Kill(); err != nil {
		return err
	}
	old := s.db
	s.db, s.standby = s.standby, nil
	err := s.db.Promote(ctx)
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return errors.Join(err, old.Stop(end)) // it does not run: only its folder goes
}

// keepBackup takes a base backup.
func (s *stage) keepBackup(ctx context.Context) (err error) {
	if s.front == nil {
		return errors.New("nemesis: a backup can be restored behind a frontman only")
	}
	if s.backup != nil {
		s.backup.Remove()
	}
	s.backup, err = s.db.Backup(ctx)
	return err
}

// restoreBackup puts the backup in the place of Postgres, and what was written since is gone, as after a disaster. The
// servers go on: that the database is another one is theirs to notice (S18).
func (s *stage) restoreBackup(ctx context.Context) error {
	if s.backup == nil {
		return nil
	}
	if err := s.db.Kill(); err != nil {
		return err
	}
	fresh, err := s.backup.Start(ctx)
	if err != nil {
		return err
	}
	s.front.mu.Lock() // its target reads db
	old := s.db
	s.db, s.backup, s.restored = fresh, nil, true
	s.front.mu.Unlock()
	s.front.cut()
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return old.Stop(end) // it does not run: only its folder goes
}

// hostOf gives host:port of a URL that this package made.
func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Host
}

// heal brings everything up again.
func (s *stage) heal(ctx context.Context) error {
	for _, r := range s.replicas {
		r.signal(syscall.SIGCONT)
	}
	// Postgres' events bring it up themselves; here it is only asked.
	s.pool.Reset()
	var one int
	err := errors.New("not asked yet")
	for began := time.Now(); err != nil && time.Since(began) < replicaStart; {
		if err = s.pool.QueryRow(ctx, "SELECT 1").Scan(&one); err != nil {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	if err != nil {
		return fmt.Errorf("nemesis: Postgres does not come back: %w", err)
	}
	for _, r := range s.replicas {
		if err := r.runs(ctx); err != nil {
			return err
		}
	}
	return nil
}

// strike ends everything that raise began.
func (s *stage) strike() {
	for _, r := range s.replicas {
		r.kill()
	}
	if s.pool != nil {
		s.pool.Close()
	}
	if s.front != nil {
		s.front.close()
	}
	if s.backup != nil {
		s.backup.Remove()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, db := range []*devpg.Server{s.standby, s.db} { // the standby first: it would wait for a primary
		if db != nil {
			_ = db.Stop(ctx) // its watchdog ends it otherwise
		}
	}
	if s.dir != "" {
		_ = os.RemoveAll(s.dir) // in the temporary folder
	}
}
