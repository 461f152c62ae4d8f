package identity

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	"golang.org/x/text/unicode/norm"

	"github.com/satchel-sync/satchel"
)

// Argon2 are the parameters of argon2id (RFC 9106). They are stored with each hash, so they can be raised at any time.
type Argon2 struct {
	MemoryKiB uint32 // at least 8, at most 1 GiB
	Passes    uint32 // 1 to 16
	Lanes     uint8  // 1 to 16
}

const (
	hashSalt     = 16
	hashKey      = 32
	hashWaiters  = 256             // who waits for a slot; more are sent away at once
	hashPatience = 5 * time.Second // how long a waiter waits
)

var errHashForm = errors.New("identity: a stored password hash does not have the form of argon2id")

// hasher bounds how much memory and CPU passwords may take.
type hasher struct {
	params  Argon2
	slots   chan struct{}
	waiting atomic.Int64
	runs    atomic.Int64 // how often argon2id ran; the specification of equal cost counts it
	nobody  string       // a hash that no password has: unknown logins are checked against it, at the same cost
}

func newHasher(p Argon2, slots int) (*hasher, error) {
	if p.invalid() {
		return nil, errors.New("identity: Config.Hashing is outside of its limits")
	}
	h := &hasher{params: p, slots: make(chan struct{}, slots)}
	key, salt := random(hashKey), random(hashSalt)
	h.nobody = encodeHash(p, salt, key)
	return h, nil
}

func (p Argon2) invalid() bool {
	return p.MemoryKiB < 8*uint32(p.Lanes) || p.MemoryKiB > 1<<20 || p.Passes < 1 || p.Passes > 16 || p.Lanes < 1 || p.Lanes > 16
}

// acquire waits for a slot; the caller must call release, once.
func (h *hasher) acquire(ctx context.Context) (release func(), err error) {
	busy := &satchel.Error{Kind: satchel.Exhausted, Reason: satchel.ReasonRateLimited,
		Detail: "Too many people are signing in at this moment. Try again shortly.", RetryAfter: 2 * time.Second}
	if h.waiting.Add(1) > hashWaiters {
		h.waiting.Add(-1)
		return nil, busy
	}
	defer h.waiting.Add(-1)
	patience := time.NewTimer(hashPatience)
	defer patience.Stop()
	select {
	case h.slots <- struct{}{}:
		return func() { <-h.slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-patience.C:
		return nil, busy
	}
}

// make hashes a new password; the caller holds a slot.
func (h *hasher) make(password string) string {
	salt := random(hashSalt)
	return encodeHash(h.params, salt, h.run(h.params, password, salt, hashKey))
}

// check tells whether password has this hash, and whether the hash should be made anew with the parameters of now. An
// empty hash costs the same and is never right. The caller holds a slot.
func (h *hasher) check(encoded, password string) (ok, outdated bool, err error) {
	known := encoded != ""
	if !known {
		encoded = h.nobody
	}
	p, salt, key, err := decodeHash(encoded)
	if err != nil {
		return false, false, err
	}
	same := subtle.ConstantTimeCompare(h.run(p, password, salt, uint32(len(key))), key) == 1
	return same && known, p != h.params, nil
}

func (h *hasher) run(p Argon2, password string, salt []byte, size uint32) []byte {
	h.runs.Add(1)
	// NFKC, so that a password typed full-width or composed differently on another phone is the same password.
	return argon2.IDKey([]byte(norm.NFKC.String(password)), salt, p.Passes, p.MemoryKiB, p.Lanes, size)
}

func encodeHash(p Argon2, salt, key []byte) string {
	b := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.MemoryKiB, p.Passes, p.Lanes, b.EncodeToString(salt), b.EncodeToString(key))
}

func decodeHash(s string) (p Argon2, salt, key []byte, err error) {
	f := strings.Split(s, "$")
	if len(f) != 6 || f[0] != "" || f[1] != "argon2id" || f[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return p, nil, nil, errHashForm
	}
	if _, err := fmt.Sscanf(f[3], "m=%d,t=%d,p=%d", &p.MemoryKiB, &p.Passes, &p.Lanes); err != nil || p.invalid() {
		return p, nil, nil, errHashForm
	}
	b := base64.RawStdEncoding.Strict()
	salt, err1 := b.DecodeString(f[4])
	key, err2 := b.DecodeString(f[5])
	if err1 != nil || err2 != nil || len(salt) < 8 || len(key) < 16 || len(key) > 64 {
		return p, nil, nil, errHashForm
	}
	return p, salt, key, nil
}

// checkPassword is the policy for new passwords.
func checkPassword(password string) error {
	if n := utf8.RuneCountInString(password); n < 10 || len(password) > 1024 || !utf8.ValidString(password) {
		return satchel.E(satchel.Invalid, satchel.ReasonMalformed, "A password must have at least 10 characters and at most 1024 bytes of UTF-8.")
	}
	return nil
}

// newHash checks a new password against the policy and hashes it.
func (s *Service) newHash(ctx context.Context, password string) (string, error) {
	if err := checkPassword(password); err != nil {
		return "", err
	}
	release, err := s.hash.acquire(ctx)
	if err != nil {
		return "", err
	}
	defer release()
	return s.hash.make(password), nil
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: it ends the process when the system has no randomness
	return b
}
