package tests_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	satchel "github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/internal/app"
)

// disk is a small disk of its own, mounted for the test. Where this process may not mount, it is an ordinary folder, and
// what would fill the disk is a limit on the size of files (RLIMIT_FSIZE): Postgres and the server then meet the same
// fault at the same calls of the system, a write that is refused, by another name.
type disk struct {
	dir     string
	mounted bool
}

func smallDisk(t *testing.T, size int) *disk {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "satchel-disk-") // where also the user whom Postgres runs as gets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	d := &disk{dir: dir}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d,mode=0755", size), "satchel", dir).CombinedOutput(); err != nil {
		t.Logf("no disk can be mounted here, so files are limited instead: %s", bytes.TrimSpace(out))
		return d
	}
	d.mounted = true
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %s", out)
		}
	})
	return d
}

// fill takes all room but some bytes.
func (d *disk) fill(t *testing.T, room int64) {
	t.Helper()
	f, err := os.Create(d.ballast())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 64<<10)
	for len(block) > 0 {
		n, err := f.Write(block)
		switch {
		case err == nil:
		case !errors.Is(err, syscall.ENOSPC):
			t.Fatal(err)
		default:
			block = block[:(len(block)-n)/2]
		}
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(max(0, st.Size()-room)); err != nil {
		t.Fatal(err)
	}
}

func (d *disk) ballast() string { return filepath.Join(d.dir, "ballast") }

func (d *disk) free(t *testing.T) {
	t.Helper()
	if err := os.Remove(d.ballast()); err != nil {
		t.Fatal(err)
	}
}

// limitFiles lets no file of this process, and of those that it starts, grow beyond so many bytes; "" lifts that.
func limitFiles(size string) error {
	signal.Ignore(syscall.SIGXFSZ)
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &l); err != nil {
		return err
	}
	l.Cur = l.Max
	if size != "" {
		n, err := strconv.ParseUint(size, 10, 63)
		if err != nil {
			return err
		}
		l.Cur = n
	}
	return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &l)
}

func TestWithoutRoomForMediaUploadsAreRefusedRecordsSyncAndRoomIsUsed(t *testing.T) {
	t.Parallel()
	d := smallDisk(t, 4<<20)
	_, cfg, _ := survivor(t) // has the database, and another folder
	cfg.Blobs = "file://" + filepath.Join(d.dir, "blobs")
	m := bear(t, cfg)
	t.Cleanup(func() { m.died(t) })
	full := func(is bool) {
		t.Helper()
		switch {
		case d.mounted && is:
			d.fill(t, 0)
		case d.mounted:
			d.free(t)
		case is:
			m.tell(t, "limit 1000")
		default:
			m.tell(t, "limit")
		}
	}
	ann := phone(t, m.url, "ann", nil)
	visit := recordVisit(t, ann)
	photos := map[satchel.ID][]byte{}
	take := func(n int) {
		t.Helper()
		jpeg := append(picture(t), bytes.Repeat([]byte{byte(n)}, 300<<10)...) // more than one piece
		photos[attachPhoto(t, ann, visit, jpeg)] = jpeg
	}
	take(1)
	syncNow(t, ann)
	if _, err := ann.Upload(t.Context()); err != nil {
		t.Fatal(err)
	}
	raw := signIn(t, m.url, "acme", "ann")
	for round := range 2 {
		full(true)
		take(2 + round)
		if r := syncNow(t, ann); r.Pending != 0 {
			t.Errorf("without room for photos records wait: %+v", r)
		}
		for range 3 {
			if _, err := ann.Upload(t.Context()); !errors.Is(err, satchelclient.ErrUnavailable) {
				t.Errorf("an upload in pieces, without room: %v", err)
			}
			if a := raw.upload(append(picture(t), bytes.Repeat([]byte{9}, 100<<10)...), "image/jpeg"); a.code != "unavailable" && a.code != "resource_exhausted" {
				t.Errorf("an upload as a whole, without room: %s", a.raw)
			}
		}
		full(false)
		if _, err := ann.Upload(t.Context()); err != nil {
			t.Errorf("with room again: %v", err)
		}
	}
	m.tell(t, "step")
	for id, want := range photos {
		isStored(t, ann, id)
		comesBack(t, ann, id, want)
	}
}

// Not parallel: it moves this process's folder for temporary files, or limits its files.
func TestWithoutRoomForTheDatabaseWorkIsRefusedAndNothingIsLost(t *testing.T) {
	if testing.Short() {
		t.Skip("it fills a disk of 200 MB")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	d := smallDisk(t, 200<<20)
	t.Setenv("TMPDIR", d.dir) // where the database will lie, with its own temporary files
	db, pool := ownPostgres(ctx, t, map[string]string{"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on",
		"min_wal_size": "32MB", "max_wal_size": "32MB"})
	if d.mounted && !strings.HasPrefix(db.Home(), d.dir) {
		t.Fatalf("the database is in %s, not on the small disk", db.Home())
	}
	p := serveConfig(t, app.Config{Pool: pool, BlobURL: "file://" + filepath.Join(d.dir, "blobs")}, hire)
	full := func(is bool) {
		t.Helper()
		switch {
		case d.mounted && is:
			d.fill(t, 1<<20)
			return
		case d.mounted:
			d.free(t)
			if ready(ctx, p, 5*time.Second) {
				return // otherwise it gave up for want of room, and is started again as an operator would
			}
		case is:
			if err := limitFiles(fmt.Sprint(18 << 20)); err != nil { // a segment of the log has 16 MiB
				t.Fatal(err)
			}
			defer func() {
				if err := limitFiles(""); err != nil {
					t.Error(err)
				}
			}()
		}
		if err := db.Restart(ctx); err != nil {
			t.Fatal(err)
		}
	}
	ann, raw := phone(t, p.url, "ann", nil), signIn(t, p.url, "acme", "ben")
	written := 0
	write := func() {
		t.Helper()
		var text strings.Builder // that does not compress
		for text.Len() < 18_000 {
			text.WriteString(satchel.NewID().String()[20:])
		}
		var b satchelclient.Batch
		for range 10 {
			b.Create("account", satchelclient.Fields{"name": fmt.Sprint("ann/", written), "remark": text.String()})
			written++
		}
		if _, err := ann.Record(ctx, &b); err != nil {
			t.Fatal(err)
		}
	}
	write()
	syncNow(t, ann)
	full(true)
	refusals := 0
	for n := 0; refusals < 5 && n < 400; n++ {
		write()
		if _, err := ann.Sync(ctx); err == nil {
			continue
		} else if !errors.Is(err, satchelclient.ErrUnavailable) {
			t.Fatalf("without room the call is %v", err)
		}
		refusals++
		if a := raw.call("SyncService/Sync", map[string]any{"noPage": true, "mutations": []any{map[string]any{"number": "1", "id": satchel.NewID().String(),
			"ops": []any{op(satchel.NewID().String(), "account", "create", withFields(map[string]any{"name": "Ben's"}))}}}}); a.code != "" && a.code != "unavailable" && a.code != "resource_exhausted" {
			t.Errorf("without room another phone gets %s", a.raw)
		}
		if res, err := http.Get(p.url + "/healthz"); err != nil || res.StatusCode != http.StatusOK {
			t.Errorf("the server falls over: %v", err)
		} else {
			_ = res.Body.Close()
		}
	}
	if refusals == 0 {
		t.Fatalf("the disk is never full, after %d records", written)
	}
	full(false)
	if !ready(ctx, p, patience) {
		t.Fatal("with room again the server is not ready")
	}
	if _, err := syncUntilSettled(ctx, ann); err != nil {
		t.Fatal(err)
	}
	fresh := phone(t, p.url, "ann", nil)
	syncNow(t, fresh)
	onceEach(t, fresh, "account", numbered("ann", written))
}

// ready waits until a product says that it is.
func ready(ctx context.Context, p *product, d time.Duration) bool {
	for deadline := time.Now().Add(d); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		if res, err := http.Get(p.url + "/readyz"); err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return true
			}
		}
	}
	return false
}
