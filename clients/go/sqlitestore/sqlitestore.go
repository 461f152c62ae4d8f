package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"sync"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	satchelclient "github.com/satchel-sync/satchel/clients/go"
)

// ErrNewer says that a newer version of the app wrote the file.
var ErrNewer = errors.New("sqlitestore: the store was written by a newer version; update the app")

// version is the user_version of files that this package writes.
const version = 2

// scanRows is how many rows a scan reads at once; fn may use the transaction between.
const scanRows = 256

// Store is a satchelclient.Store in a file.
type Store struct {
	path   string
	mu     sync.Mutex // one transaction at a time: there is one connection
	db     *sql.DB
	claims satchelclient.Claims
	conn   *sql.Conn
	stmts  map[satchelclient.Table]*statements
}

// statements of one table, prepared once.
type statements struct{ get, put, del, clear, scan, scanAll *sql.Stmt }

// Open opens the file, or makes it. It holds it until Close: a second Open, here or in another process, is
// [satchelclient.ErrStoreInUse]. The lock is the operating system's: a process that is killed loses it.
// The folder must exist. Keep the file out of backups where the platform can: a restored one makes the server give
// the device a new id.
func Open(ctx context.Context, path string) (*Store, error) {
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Opaque: url.PathEscape(path), RawQuery: url.Values{
		"_pragma": {"locking_mode(EXCLUSIVE)", "journal_mode(WAL)", "synchronous(FULL)", "busy_timeout(0)", "cache_size(-8000)", "secure_delete(ON)"},
		"_txlock": {"immediate"},
	}.Encode()}).String())
	if err != nil {
		return nil, err
	}
	s := &Store{path: path, db: db, stmts: map[satchelclient.Table]*statements{}}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(s.inUse(err), s.Close())
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	s.db.SetMaxOpenConns(1)
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return err
	}
	s.conn = conn
	// Writing takes the lock, and EXCLUSIVE keeps it.
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := migrate(ctx, tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	for _, t := range satchelclient.Tables() {
		st := new(statements)
		for text, into := range map[string]**sql.Stmt{
			"SELECT value FROM %s WHERE key = ?": &st.get,
			"INSERT INTO %s (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value": &st.put,
			"DELETE FROM %s WHERE key = ?": &st.del,
			"DELETE FROM %s":               &st.clear,
			"SELECT key, value FROM %s WHERE key >= ? AND key < ? ORDER BY key LIMIT ?": &st.scan,
			"SELECT key, value FROM %s WHERE key >= ? ORDER BY key LIMIT ?":             &st.scanAll,
		} {
			if *into, err = conn.PrepareContext(ctx, fmt.Sprintf(text, t)); err != nil {
				return err
			}
		}
		s.stmts[t] = st
	}
	return nil
}

// migrate brings the file to this version. WITHOUT ROWID keeps a row in the tree of its key; the pieces of files are
// too long for that.
func migrate(ctx context.Context, tx *sql.Tx) error {
	var has int
	if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&has); err != nil {
		return err
	}
	if has > version {
		return ErrNewer
	}
	if has < version {
		for _, t := range satchelclient.Tables() {
			text := fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s (key BLOB PRIMARY KEY NOT NULL, value BLOB NOT NULL)", t)
			if t != satchelclient.TableBytes {
				text += " WITHOUT ROWID"
			}
			if _, err := tx.ExecContext(ctx, text); err != nil {
				return err
			}
		}
	}
	_, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", version))
	return err
}

func (s *Store) inUse(err error) error {
	if e, ok := errors.AsType[*sqlite.Error](err); ok && (e.Code()&0xff == sqlite3.SQLITE_BUSY || e.Code()&0xff == sqlite3.SQLITE_LOCKED) {
		return fmt.Errorf("%w: %s (%w)", satchelclient.ErrStoreInUse, s.path, err)
	}
	return err
}

// Claim implements satchelclient.Store.
func (s *Store) Claim() (func(), error) { return s.claims.Take(s.path) }

// View implements satchelclient.Store.
func (s *Store) View(ctx context.Context, fn func(satchelclient.ReadTx) error) error {
	return s.run(ctx, func(t *tx) error { return fn(t) }, false)
}

// Update implements satchelclient.Store.
func (s *Store) Update(ctx context.Context, fn func(satchelclient.Tx) error) error {
	return s.run(ctx, func(t *tx) error { return fn(t) }, true)
}

func (s *Store) run(ctx context.Context, fn func(*tx) error, write bool) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil {
		return errors.New("sqlitestore: the store is closed")
	}
	// Cancelling half-way would leave the connection in doubt; a local transaction is short, so it is not told of ctx.
	background := context.WithoutCancel(ctx)
	text, end := "BEGIN", "ROLLBACK"
	if write {
		text = "BEGIN IMMEDIATE"
	}
	if _, err := s.conn.ExecContext(background, text); err != nil {
		return err
	}
	defer func() { // also when fn panics
		if _, endErr := s.conn.ExecContext(background, end); endErr != nil && end == "COMMIT" {
			_, rollErr := s.conn.ExecContext(background, "ROLLBACK")
			err = errors.Join(endErr, rollErr)
		} else if endErr != nil {
			err = errors.Join(err, endErr)
		}
	}()
	if err := fn(&tx{store: s, ctx: background}); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if write {
		end = "COMMIT"
	}
	return nil
}

// Close implements satchelclient.Store. The file can then be opened again.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if s.conn != nil {
		for _, st := range s.stmts {
			err = errors.Join(err, st.get.Close(), st.put.Close(), st.del.Close(), st.clear.Close(), st.scan.Close(), st.scanAll.Close())
		}
		err = errors.Join(err, s.conn.Close())
		s.conn = nil
	}
	return errors.Join(err, s.db.Close())
}

type tx struct {
	store *Store
	ctx   context.Context
}

func (t *tx) table(name satchelclient.Table) (*statements, error) {
	st := t.store.stmts[name]
	if st == nil {
		return nil, fmt.Errorf("sqlitestore: no table %q", name)
	}
	return st, nil
}

func (t *tx) Get(name satchelclient.Table, key []byte) ([]byte, error) {
	st, err := t.table(name)
	if err != nil {
		return nil, err
	}
	var value []byte
	err = st.get.QueryRowContext(t.ctx, blob(key)).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return blob(value), err
}

// blob makes an empty value of nil, which SQLite would take for NULL.
func blob(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

func (t *tx) Put(name satchelclient.Table, key, value []byte) error {
	return t.exec(name, func(st *statements) *sql.Stmt { return st.put }, blob(key), blob(value))
}

func (t *tx) Delete(name satchelclient.Table, key []byte) error {
	return t.exec(name, func(st *statements) *sql.Stmt { return st.del }, blob(key))
}

func (t *tx) Clear(name satchelclient.Table) error {
	return t.exec(name, func(st *statements) *sql.Stmt { return st.clear })
}

func (t *tx) exec(name satchelclient.Table, pick func(*statements) *sql.Stmt, args ...any) error {
	st, err := t.table(name)
	if err != nil {
		return err
	}
	_, err = pick(st).ExecContext(t.ctx, args...)
	return err
}

func (t *tx) Scan(name satchelclient.Table, prefix, after []byte, fn func(key, value []byte) error) error {
	st, err := t.table(name)
	if err != nil {
		return err
	}
	from, to := blob(prefix), endOf(prefix)
	if after != nil && string(after) >= string(prefix) {
		from = next(after)
	}
	for {
		rows, err := t.rows(st, from, to)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if err := fn(r[0], r[1]); err != nil {
				if errors.Is(err, satchelclient.ErrStop) {
					return nil
				}
				return err
			}
		}
		if len(rows) < scanRows {
			return nil
		}
		from = next(rows[len(rows)-1][0])
	}
}

// rows reads the next rows of a scan whole, so that no statement is open while fn runs.
func (t *tx) rows(st *statements, from, to []byte) (found [][2][]byte, err error) {
	var rows *sql.Rows
	if to == nil {
		rows, err = st.scanAll.QueryContext(t.ctx, from, scanRows)
	} else {
		rows, err = st.scan.QueryContext(t.ctx, from, to, scanRows)
	}
	if err != nil {
		return nil, err
	}
	defer rows.Close() // its error is rows.Err
	for rows.Next() {
		var r [2][]byte
		if err := rows.Scan(&r[0], &r[1]); err != nil {
			return nil, err
		}
		r[0], r[1] = blob(r[0]), blob(r[1])
		found = append(found, r)
	}
	return found, rows.Err()
}

// next is the smallest key greater than key.
func next(key []byte) []byte { return append(key[:len(key):len(key)], 0) }

// endOf is the smallest key greater than all that begin with prefix; nil = there is none.
func endOf(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xff {
			return append(prefix[:i:i], prefix[i]+1)
		}
	}
	return nil
}
