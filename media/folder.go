package media

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"strings"
	"sync"
	"syscall"
	"time"
)

// tmpAge is how old a temporary file must be to count as left behind by a crash: far longer than any Put takes.
const tmpAge = 6 * time.Hour

const (
	objectsDir = "objects"
	tmpDir     = "tmp"
)

// Folder is a [Store] in a folder of one file system. A file becomes visible by a rename after its bytes are on disk,
// and the folder that shows it is on disk before Put ends. Several processes may use the same folder.
type Folder struct {
	root *os.Root   // keeps every path inside, symbolic links included
	mu   sync.Mutex // making and removing folders; one that others see here is on disk already
}

// NewFolder opens the folder dir, makes it where it is missing, and removes what crashed writers left behind.
func NewFolder(dir string) (*Folder, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("media: cannot make the blob folder: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("media: cannot open the blob folder: %w", err)
	}
	f := &Folder{root: root}
	if err := f.setUp(); err != nil {
		_ = root.Close() // the first error tells more
		return nil, fmt.Errorf("media: cannot use the blob folder %s: %w", dir, err)
	}
	return f, nil
}

func (f *Folder) setUp() error {
	for _, d := range []string{objectsDir, tmpDir} {
		if err := f.root.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	if err := f.syncDir("."); err != nil {
		return err
	}
	return f.sweepTmp()
}

// sweepTmp judges age by the file system's own clock, so that no other clock matters.
func (f *Folder) sweepTmp() error {
	probe, name, err := f.temp()
	if err != nil {
		return err
	}
	defer f.root.Remove(name) //nolint:errcheck // the next start sweeps it
	defer probe.Close()       //nolint:errcheck // nothing was written
	info, err := probe.Stat()
	if err != nil {
		return err
	}
	entries, err := fs.ReadDir(f.root.FS(), tmpDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if i, err := e.Info(); err == nil && info.ModTime().Sub(i.ModTime()) > tmpAge {
			if err := f.root.Remove(path.Join(tmpDir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// Close gives the folder back; the Folder is not usable afterwards.
func (f *Folder) Close() error { return f.root.Close() }

func (f *Folder) temp() (*os.File, string, error) {
	name := path.Join(tmpDir, strings.ToLower(rand.Text()))
	file, err := f.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	return file, name, err
}

// Put implements [Store].
func (f *Folder) Put(ctx context.Context, key string, sum Sum, size int64, r io.Reader) error {
	if err := checkPut(key, size); err != nil {
		return err
	}
	tmp, name, err := f.temp()
	if err != nil {
		return down(err)
	}
	defer f.root.Remove(name) //nolint:errcheck // gone after the rename; else the next start sweeps it
	v := newVerifier(ctxReader{ctx, r}, sum, size)
	_, err = io.Copy(struct{ io.Writer }{tmp}, v) // hides ReadFrom: the bytes must pass the verifier in user space
	if verr := v.proven(); verr != nil {
		_ = tmp.Close() // thrown away
		return verr
	}
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = f.show(name, path.Join(objectsDir, key))
	}
	if err != nil {
		return down(err)
	}
	return nil
}

// show renames the temporary file to its name and makes the name durable. A Delete may remove the empty folder in
// between; then it is made again.
func (f *Folder) show(tmp, name string) (err error) {
	dir := path.Dir(name)
	for range 10 {
		if err = f.makeDir(dir); err != nil {
			return err
		}
		if err = f.root.Rename(tmp, name); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return err
	}
	return f.syncDir(dir)
}

func (f *Folder) makeDir(dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.root.Stat(dir); err == nil {
		return nil
	}
	if err := f.root.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for d := path.Dir(dir); d != "."; d = path.Dir(d) {
		if err := f.syncDir(d); err != nil {
			return err
		}
	}
	return nil
}

func (f *Folder) syncDir(dir string) error {
	d, err := f.root.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

// Open implements [Store].
func (f *Folder) Open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, int64, error) {
	if err := checkKey(key); err != nil {
		return nil, 0, err
	}
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	file, err := f.root.Open(path.Join(objectsDir, key))
	if err != nil {
		return nil, 0, missingOrDown(err)
	}
	info, err := file.Stat()
	switch {
	case err != nil:
		err = down(err)
	case info.IsDir():
		err = ErrNotStored
	case offset < 0 || offset >= info.Size() || length == 0:
		err = ErrBadRange
	}
	if err != nil {
		_ = file.Close() // nothing was read
		return nil, 0, err
	}
	if length < 0 || length > info.Size()-offset {
		length = info.Size() - offset
	}
	part := struct {
		io.Reader
		io.Closer
	}{ctxReader{ctx, io.NewSectionReader(file, offset, length)}, file}
	return part, info.Size(), nil
}

// Stat implements [Store].
func (f *Folder) Stat(ctx context.Context, key string) (int64, error) {
	if err := checkKey(key); err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	info, err := f.root.Stat(path.Join(objectsDir, key))
	if err != nil {
		return 0, missingOrDown(err)
	}
	if info.IsDir() {
		return 0, ErrNotStored
	}
	return info.Size(), nil
}

// Delete implements [Store]. Folders that became empty go too.
func (f *Folder) Delete(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	name := path.Join(objectsDir, key)
	if info, err := f.root.Stat(name); err == nil && info.IsDir() {
		return nil
	}
	if err := f.root.Remove(name); err != nil {
		if err := missingOrDown(err); !errors.Is(err, ErrNotStored) {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for d := path.Dir(name); d != objectsDir; d = path.Dir(d) {
		if f.root.Remove(d) != nil { // not empty
			break
		}
	}
	return nil
}

// List implements [Store].
func (f *Folder) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if err := checkPrefix(prefix); err != nil {
			yield("", err)
			return
		}
		start := path.Join(objectsDir, prefix)
		err := fs.WalkDir(f.root.FS(), start, func(name string, d fs.DirEntry, err error) error {
			if cerr := ctx.Err(); cerr != nil {
				return cerr
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil // deleted meanwhile
			}
			if err != nil {
				return down(err)
			}
			if !d.IsDir() && !yield(strings.TrimPrefix(name, objectsDir+"/"), nil) {
				return fs.SkipAll
			}
			return nil
		})
		if err != nil {
			yield("", err)
		}
	}
}

// Check implements [Store] by writing a file.
func (f *Folder) Check(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	file, name, err := f.temp()
	if err != nil {
		return down(err)
	}
	_, err = file.WriteString("ok")
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	if rerr := f.root.Remove(name); err == nil {
		err = rerr
	}
	if err != nil {
		return down(err)
	}
	return nil
}

func missingOrDown(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return ErrNotStored
	}
	return down(err)
}

// ctxReader stops between reads when ctx ends.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
