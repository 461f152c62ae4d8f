package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/satchel-sync/satchel/media"
	"github.com/satchel-sync/satchel/migrations"
)

// doctorCmd is `satchel doctor`.
type doctorCmd struct {
	databaseFlags `embed:""`
	secretFlags   `embed:""`
	blobFlags     `embed:""`
	JSON          bool   `name:"json" help:"Print JSON: {\"ok\": …, \"checks\": [{\"name\", \"state\", \"found\", \"advice\"}], \"phones\": […]}."`
	Org           string `placeholder:"NAME" help:"List the phones of this organisation that are not in sync (its short name)."`
	Device        string `placeholder:"ID" help:"Tell why this phone is not in sync (its id, as the list shows it)."`
}

// Help tells more.
func (*doctorCmd) Help() string {
	return "Give it the environment of `satchel serve`. The exit status is 1 when something is wrong; warnings alone leave it 0. " +
		"It writes one object into the blob store and deletes it again, and changes nothing in the database."
}

// The states of a check.
const (
	good = "ok"
	warn = "warning"
	bad  = "wrong"
)

// The limits that the doctor knows.
const (
	minPostgres  = 150000
	skewWarn     = time.Second
	skewBad      = 30 * time.Second
	diskWarn     = 5 << 30   // bytes that are free
	diskBad      = 512 << 20 // bytes
	doctorsBlob  = "doctor/check"
	checkTimeout = 15 * time.Second
)

// check is what the doctor found of one thing.
type check struct {
	Name   string `json:"name"`
	State  string `json:"state"` // ok, warning, wrong
	Found  string `json:"found"`
	Advice string `json:"advice,omitempty"`
}

// report collects checks.
type report struct {
	OK     bool    `json:"ok"`
	Checks []check `json:"checks"`
	Phones []phone `json:"phones,omitempty"` // those that were asked for
}

func (r *report) add(name, state, found, advice string) {
	if state == good {
		advice = ""
	}
	r.Checks = append(r.Checks, check{name, state, found, advice})
	r.OK = r.OK && state != bad
}

// Run looks at everything and prints a table.
func (c *doctorCmd) Run(ctx context.Context, std streams) error {
	if err := c.checkFlags(); err != nil {
		return err
	}
	r := &report{OK: true}
	c.secret(r)
	c.database(ctx, std, r)
	c.blobs(ctx, r)
	if c.JSON {
		e := json.NewEncoder(std.out)
		e.SetIndent("", "  ")
		if err := e.Encode(r); err != nil {
			return err
		}
	} else {
		r.table(std.out)
		switch {
		case c.Device != "":
			for _, p := range r.Phones {
				p.tell(std.out, time.Now())
			}
		case len(r.Phones) > 0:
			phoneTable(std.out, c.Org, r.Phones, time.Now())
		}
	}
	if !r.OK {
		return errors.New("something is wrong; see the table")
	}
	return nil
}

func (r *report) table(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, c := range r.Checks {
		fmt.Fprintf(t, "%s\t%s\t%s\n", c.State, c.Name, c.Found)
		if c.Advice != "" {
			fmt.Fprintf(t, "\t\t→ %s\n", c.Advice)
		}
	}
	_ = t.Flush() // std.out is what failed then
}

func (c *doctorCmd) secret(r *report) {
	if _, err := c.read(c.Dev); err != nil {
		r.add("secret", bad, "not usable", err.Error())
		return
	}
	if c.Secret == "" && c.SecretFile == "" {
		r.add("secret", warn, "the development secret", "everybody knows it; production refuses it")
		return
	}
	r.add("secret", good, "set", "")
}

func (c *doctorCmd) database(ctx context.Context, std streams, r *report) {
	ctx, cancel := context.WithTimeout(ctx, 4*checkTimeout)
	defer cancel()
	db, err := c.open(ctx, std.err)
	if err != nil {
		r.add("database", bad, "does not answer", err.Error())
		return
	}
	defer db.close()
	c.postgres(ctx, db.pool, r)
	skew(ctx, db.pool, r)
	switch pending, err := migrations.Pending(ctx, db.pool); {
	case err != nil:
		r.add("migrations", bad, "unknown", err.Error())
	case len(pending) > 0:
		r.add("migrations", bad, fmt.Sprintf("%d pending", len(pending)), "run `satchel migrate`")
	default:
		r.add("migrations", good, "up to date", "")
		c.phones(ctx, db, r)
	}
	if db.private != nil {
		disk(r, "disk of the database", db.private.Home())
	}
}

const sqlDoctor = `-- doctor.Settings
select current_setting('server_version_num')::int, current_setting('server_version'), current_setting('server_encoding'),
       current_setting('fsync'), current_setting('synchronous_commit'), current_setting('full_page_writes'),
       current_setting('max_connections')::int`

// postgres looks at the server's version and at the settings by which "acknowledged" means "durable".
func (c *doctorCmd) postgres(ctx context.Context, pool *pgxpool.Pool, r *report) {
	var number, conns int
	var version, encoding, fsync, commit, pages string
	if err := pool.QueryRow(ctx, sqlDoctor).Scan(&number, &version, &encoding, &fsync, &commit, &pages, &conns); err != nil {
		r.add("Postgres", bad, "does not answer", err.Error())
		return
	}
	state := good
	if number < minPostgres {
		state = bad
	}
	r.add("Postgres", state, version, "Satchel needs Postgres 15 or newer")
	state = good
	if encoding != "UTF8" {
		state = bad
	}
	r.add("encoding", state, encoding, "make the database anew with ENCODING 'UTF8'")
	state = good
	if fsync != "on" || pages != "on" {
		state = bad
	}
	r.add("fsync", state, fmt.Sprintf("fsync %s, full_page_writes %s", fsync, pages),
		"a power cut would lose what phones were told is safe: set both to on")
	switch commit {
	case "off":
		r.add("synchronous_commit", bad, commit, "a crash would lose what phones were told is safe: set it to on, or to remote_apply with a standby")
	case "local", "remote_write":
		r.add("synchronous_commit", warn, commit, "with a standby, a fail-over may lose the last commits: set it to on or remote_apply")
	default:
		r.add("synchronous_commit", good, commit, "")
	}
	state = good
	if conns < int(c.DBConns)+10 {
		state = warn
	}
	r.add("connections", state, fmt.Sprintf("max_connections %d, a replica uses up to %d", conns, c.DBConns+2),
		"raise max_connections, lower --db-conns, or put PgBouncer between (--pgbouncer)")
}

// skew compares the clocks of this machine and of the database.
func skew(ctx context.Context, pool *pgxpool.Pool, r *report) {
	best, found := time.Duration(0), time.Hour
	for range 3 { // the quickest of three answers is the most exact
		var there time.Time
		from := time.Now()
		if err := pool.QueryRow(ctx, "-- doctor.Clock\nselect clock_timestamp()").Scan(&there); err != nil {
			r.add("clock", bad, "unknown", err.Error())
			return
		}
		took := time.Since(from)
		if took < found {
			best, found = there.Sub(from.Add(took/2)), took
		}
	}
	state := good
	switch off := best.Abs(); {
	case off > skewBad:
		state = bad
	case off > skewWarn:
		state = warn
	}
	r.add("clock", state, fmt.Sprintf("the database is %s off this machine", best.Round(time.Millisecond)),
		"deadlines and sessions go by these clocks: run NTP (chrony, systemd-timesyncd) on both")
}

// blobs writes, reads and deletes one object.
func (c *doctorCmd) blobs(ctx context.Context, r *report) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	address, err := c.url(&c.databaseFlags)
	if err != nil {
		r.add("blob store", bad, "unknown", err.Error())
		return
	}
	u, err := url.Parse(address)
	if err != nil {
		r.add("blob store", bad, "unknown", "BLOB_URL is no address; see `satchel serve --help`")
		return
	}
	if password, _ := u.User.Password(); password == "minioadmin" {
		r.add("blob store's secret", bad, "the one that MinIO ships with", "everybody knows it: change it on the S3 server and in BLOB_URL")
	}
	store, err := media.OpenStore(ctx, address)
	if err != nil {
		r.add("blob store", bad, "does not open", err.Error())
		return
	}
	if closer, ok := store.(io.Closer); ok {
		defer closer.Close()
	}
	began := time.Now()
	if step, err := exercise(ctx, store); err != nil {
		r.add("blob store", bad, step+" failed", err.Error()+"; check the address, the rights of the key, and the disk")
		return
	}
	r.add("blob store", good, fmt.Sprintf("write, read, delete in %s", time.Since(began).Round(time.Millisecond)), "")
	if u.Scheme == "file" {
		disk(r, "disk of the blob store", u.Path)
	}
}

// exercise gives the step that failed.
func exercise(ctx context.Context, store media.Store) (step string, err error) {
	text := []byte("satchel doctor " + rand.Text())
	key := doctorsBlob + "-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	if err := store.Put(ctx, key, sha256.Sum256(text), int64(len(text)), bytes.NewReader(text)); err != nil {
		return "write", err
	}
	rd, _, err := store.Open(ctx, key, 0, -1)
	if err != nil {
		return "read", err
	}
	got, err := io.ReadAll(io.LimitReader(rd, 1<<10))
	rd.Close()
	if err != nil {
		return "read", err
	}
	if !bytes.Equal(got, text) {
		return "read", errors.New("other bytes came back")
	}
	if err := store.Delete(ctx, key); err != nil {
		return "delete", err
	}
	return "", nil
}

// disk tells how much room is left on the file system of a folder.
func disk(r *report, name, dir string) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			r.add(name, warn, "unknown", err.Error())
		}
		return
	}
	free := int64(fs.Bavail) * int64(fs.Bsize) //nolint:unconvert // the types differ between systems
	state := good
	switch {
	case free < diskBad:
		state = bad
	case free < diskWarn:
		state = warn
	}
	r.add(name, state, fmt.Sprintf("%.1f GiB free", float64(free)/(1<<30)), "make room: a full disk refuses uploads and commits")
}
