package mobile

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"
)

func TestADiskWithoutRoomIsToldApart(t *testing.T) {
	t.Parallel()
	// SQLite itself says it, in a file that may not grow.
	db, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "small.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if _, err := db.Exec("CREATE TABLE t (v BLOB); PRAGMA max_page_count = 3"); err != nil {
		t.Fatal(err)
	}
	if _, err = db.Exec("INSERT INTO t VALUES (zeroblob(1000000))"); err == nil {
		t.Fatal("the file has room")
	}
	if got := ParseError(explain(fmt.Errorf("writing: %w", err)).Error()); got.Code != CodeStorageFull {
		t.Errorf("%v is told as %+v", err, got)
	}
}
