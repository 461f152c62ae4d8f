package media

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"net/url"
	"strings"

	"github.com/satchel-sync/satchel"
)

// Store keeps bytes under keys. It is safe for concurrent use by several processes. A key is 1 to 512 bytes of
// lower-case letters, digits, '-', '_', '.' and '/', without empty segments, "." or ".."; every other key is refused
// with [ErrBadKey]. When the store does not answer, or its disk is full or broken, a method gives a *satchel.Error of
// kind Unavailable and reason BLOB_STORE_DOWN; when ctx ends first, ctx's error.
//
// Both implementations pass mediatest.Exercise.
type Store interface {
	// Put reads exactly size bytes (at least 1) from r and keeps them under key, in place of what was there. It
	// gives nil only when the bytes are durable. Bytes with another SHA-256 than sum, fewer or more of them, give
	// HASH_MISMATCH; an error of r comes back as it is. After an error nothing new is visible under key. Putting
	// the same again does nothing more, also concurrently. Where r is an io.Seeker at its beginning, a
	// transient fault is tried again.
	Put(ctx context.Context, key string, sum Sum, size int64, r io.Reader) error
	// Open reads length bytes from offset, or to the end where length is negative or reaches past it, and tells the
	// size of the whole. The caller closes the reader, which lives no longer than ctx. A missing key gives
	// [ErrNotStored], an offset at or past the end, or a length of 0, [ErrBadRange].
	Open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, int64, error)
	// Stat tells the size; a missing key gives [ErrNotStored].
	Stat(ctx context.Context, key string) (int64, error)
	// Delete removes the key. A key that is not there is no error.
	Delete(ctx context.Context, key string) error
	// List gives the keys that begin with prefix, which ends with '/', in no particular order. What is put or
	// deleted meanwhile may be in it or not. It ends after the first error.
	List(ctx context.Context, prefix string) iter.Seq2[string, error]
	// Check tells within seconds whether the store answers, for readiness.
	Check(ctx context.Context) error
}

// Errors of a [Store] that mean a mistake of ours or a missing key; they are not for callers outside.
var (
	ErrNotStored = errors.New("media: nothing is stored under this key")
	ErrBadKey    = errors.New("media: the key is empty, too long, or has a form that no store accepts")
	ErrBadRange  = errors.New("media: the range lies outside the stored bytes")
)

// OpenStore opens the store that blobURL names: "file:///path" for a folder ([NewFolder]), "s3://…" for S3 ([NewS3]).
// Its errors are for an operator and never contain the secret.
func OpenStore(ctx context.Context, blobURL string) (Store, error) {
	scheme, rest, _ := strings.Cut(blobURL, "://")
	switch scheme {
	case "file":
		u, err := url.Parse(blobURL)
		if err != nil || u.Host != "" || !strings.HasPrefix(rest, "/") || u.RawQuery != "" {
			return nil, errors.New("media: a folder is named like file:///var/lib/satchel/blobs, with three slashes and nothing behind the path")
		}
		return NewFolder(u.Path)
	case "s3":
		return NewS3(ctx, blobURL)
	}
	return nil, errors.New("media: the blob store is named by file:///path or s3://KEY:SECRET@host:port/bucket")
}

// Sum is a SHA-256.
type Sum [sha256.Size]byte

// ParseSum reads 64 hex digits in lower case, the one spelling that a blob's name has.
func ParseSum(s string) (Sum, error) {
	var sum Sum
	if len(s) != 2*len(sum) || strings.ToLower(s) != s {
		return sum, satchel.E(satchel.Invalid, satchel.ReasonMalformed, "A SHA-256 is written as 64 hex digits in lower case.")
	}
	if _, err := hex.Decode(sum[:], []byte(s)); err != nil {
		return sum, satchel.E(satchel.Invalid, satchel.ReasonMalformed, "A SHA-256 is written as 64 hex digits in lower case.")
	}
	return sum, nil
}

// String gives 64 hex digits in lower case.
func (s Sum) String() string { return hex.EncodeToString(s[:]) }

func checkKey(key string) error {
	if key == "" || len(key) > 512 {
		return ErrBadKey
	}
	for seg := range strings.SplitSeq(key, "/") {
		if seg == "" || seg == "." || seg == ".." || len(seg) > 200 {
			return ErrBadKey
		}
		for _, c := range []byte(seg) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
				return ErrBadKey
			}
		}
	}
	return nil
}

func checkPrefix(prefix string) error {
	dir, ok := strings.CutSuffix(prefix, "/")
	if !ok {
		return ErrBadKey
	}
	return checkKey(dir)
}

// checkPut is what both stores ask of a Put before they read.
func checkPut(key string, size int64) error {
	if size < 1 {
		return fmt.Errorf("media: a blob has at least 1 byte, not %d", size)
	}
	return checkKey(key)
}

func down(err error) error {
	return &satchel.Error{Kind: satchel.Unavailable, Reason: satchel.ReasonBlobStoreDown,
		Detail: "The blob store does not answer just now. Nothing was lost; try again with the same request.", Err: err}
}

func mismatch() error {
	return satchel.E(satchel.Invalid, satchel.ReasonHashMismatch,
		"The bytes are not the ones that were announced (size or SHA-256 differ). Send them again from the beginning.")
}

// verifier hands through what it reads and always holds the last byte back until size and SHA-256 are proven, so that
// no server ever gets a whole body that is wrong. (A server may take a body that breaks off for whole when its hash
// fits the header; versitygw does.)
type verifier struct {
	r    *bufio.Reader
	h    hash.Hash
	want Sum
	size int64
	left int64
	err  error
}

func newVerifier(r io.Reader, want Sum, size int64) *verifier {
	return &verifier{r: bufio.NewReaderSize(r, 64<<10), h: sha256.New(), want: want, size: size, left: size}
}

func (v *verifier) Read(p []byte) (int, error) {
	if v.err != nil {
		return 0, v.err
	}
	if v.left == 0 {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	if b, err := v.r.Peek(int(min(2, v.left))); int64(len(b)) < min(2, v.left) {
		if v.err = err; err == io.EOF {
			v.err = mismatch()
		}
		return 0, v.err
	}
	n := min(len(p), v.r.Buffered())
	if int64(n) >= v.left {
		n = int(v.left)
	} else if n == v.r.Buffered() {
		n-- // what follows is not known yet
	}
	n, _ = v.r.Read(p[:n]) // from the buffer
	v.h.Write(p[:n])       //nolint:errcheck // a hash does not fail
	if v.left -= int64(n); v.left == 0 {
		if v.err = v.judge(); v.err != nil {
			return 0, v.err
		}
	}
	return n, nil
}

// judge looks at the hash, and whether r ends here.
func (v *verifier) judge() error {
	if Sum(v.h.Sum(nil)) != v.want {
		return mismatch()
	}
	switch _, err := v.r.ReadByte(); err {
	case nil:
		return mismatch()
	case io.EOF:
		return nil
	default:
		return err
	}
}

// proven tells whether all bytes passed and were right.
func (v *verifier) proven() error {
	if v.err == nil && v.left > 0 {
		return io.ErrUnexpectedEOF
	}
	return v.err
}

// seekingVerifier can begin again, for a store that tries again.
type seekingVerifier struct {
	*verifier
	s io.ReadSeeker
}

func (v seekingVerifier) Seek(offset int64, whence int) (int64, error) {
	if offset != 0 || whence != io.SeekStart {
		return 0, errors.New("media: only back to the beginning")
	}
	if _, err := v.s.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	v.r.Reset(v.s)
	v.h.Reset()
	v.left, v.err = v.size, nil
	return 0, nil
}
