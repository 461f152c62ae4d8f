package sqlitestore_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/clients/go/sqlitestore"
	"github.com/satchel-sync/satchel/clients/go/storetest"
)

// The test binary, started with this in its environment, tries to open the file and says what came of it.
const otherProcess = "SQLITESTORE_TEST_OPEN"

func TestMain(m *testing.M) {
	if path := os.Getenv(otherProcess); path != "" {
		_, err := sqlitestore.Open(context.Background(), path)
		if err == nil {
			os.Stdout.WriteString("open\n")
			_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed, or the test is
		}
		if errors.Is(err, satchelclient.ErrStoreInUse) {
			os.Stdout.WriteString("in use")
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func open(t *testing.T, path string) *sqlitestore.Store {
	t.Helper()
	s, err := sqlitestore.Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestSQLiteIsAStore(t *testing.T) {
	t.Parallel()
	storetest.Exercise(t, func(t *testing.T) satchelclient.Store {
		return open(t, filepath.Join(t.TempDir(), "a name with ? # % and 空格.db"))
	})
}

func TestWhatWasCommittedIsThereAfterOpeningAgain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, path)
	put := func(s *sqlitestore.Store, key string, fail error) {
		err := s.Update(context.Background(), func(tx satchelclient.Tx) error {
			return errors.Join(tx.Put(satchelclient.TableMeta, []byte(key), []byte("v")), fail)
		})
		if !errors.Is(err, fail) {
			t.Fatal(err)
		}
	}
	put(s, "kept", nil)
	put(s, "undone", errors.New("no"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	err := open(t, path).View(context.Background(), func(tx satchelclient.ReadTx) error {
		kept, err := tx.Get(satchelclient.TableMeta, []byte("kept"))
		undone, err2 := tx.Get(satchelclient.TableMeta, []byte("undone"))
		if string(kept) != "v" || undone != nil {
			t.Errorf("kept %q, undone %q", kept, undone)
		}
		return errors.Join(err, err2)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestASecondStoreOnTheSameFileIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, path)
	if _, err := sqlitestore.Open(context.Background(), path); !errors.Is(err, satchelclient.ErrStoreInUse) || !strings.Contains(err.Error(), path) {
		t.Errorf("in this process: %v", err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), otherProcess+"="+path)
	if out, err := cmd.Output(); err != nil || !strings.Contains(string(out), "in use") {
		t.Errorf("in another process: %q, %v", out, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, path)
}

func TestAProcessThatIsKilledNoLongerHasTheFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), otherProcess+"="+path)
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err == nil && line != "open\n" {
		err = errors.New(line)
	}
	if _, opened := sqlitestore.Open(context.Background(), path); !errors.Is(opened, satchelclient.ErrStoreInUse) || !strings.Contains(opened.Error(), path) {
		t.Errorf("while the other lives: %v", opened)
	}
	if killed := cmd.Process.Kill(); err != nil || killed != nil {
		t.Fatal(err, killed)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("it was not killed")
	}
	open(t, path)
}

func TestAFileOfTheFirstVersionGetsTheTablesThatItLacks(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, path)
	if err := s.Update(context.Background(), func(tx satchelclient.Tx) error { return tx.Put(satchelclient.TableMeta, []byte("k"), []byte("v")) }); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"DROP TABLE kept", "DROP TABLE repair", "DROP TABLE merged", "DROP TABLE office", "PRAGMA user_version = 1"} {
		if _, err := db.Exec(text); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	err = open(t, path).Update(context.Background(), func(tx satchelclient.Tx) error {
		v, err := tx.Get(satchelclient.TableMeta, []byte("k"))
		if string(v) != "v" {
			t.Errorf("the value is %q", v)
		}
		return errors.Join(err, tx.Put(satchelclient.TableOffice, []byte("k"), nil))
	})
	if err != nil {
		t.Error(err)
	}
}

func TestAFileOfANewerVersionIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlitestore.Open(context.Background(), path); !errors.Is(err, sqlitestore.ErrNewer) {
		t.Errorf("got %v", err)
	}
}

func TestTheFileIsInWALMode(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.db")
	open(t, path)
	// Versions 2 in the file's header.
	header, err := os.ReadFile(path)
	if err != nil || len(header) < 20 || header[18] != 2 || header[19] != 2 {
		t.Errorf("the file is not in WAL mode: %v", err)
	}
}
