package identity

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"time"

	"github.com/satchel-sync/satchel"
)

// Tokens are a session's secrets; nothing of them is stored but hashes. They hide themselves from logs and from fmt.
type Tokens struct {
	Access         string    // for the Authorization header
	AccessExpires  time.Time // when it stops being accepted
	Refresh        string    // for Refresh
	RefreshExpires time.Time // when it stops being accepted
}

// String tells nothing.
func (Tokens) String() string { return "(tokens)" }

// GoString tells nothing.
func (Tokens) GoString() string { return "(tokens)" }

// MarshalText tells nothing; JSON and slog ask it, also for a struct that holds tokens.
func (Tokens) MarshalText() ([]byte, error) { return []byte("(tokens)"), nil }

// A token is its prefix and the base64 of: organisation, device, for a refresh token the family (random, the same for
// all refresh tokens of one sign-in), and 32 random bytes. The ids are no secrets; they let one indexed statement, fixed
// to one organisation, find the session, and the family lets an old refresh token be told from noise without keeping
// old hashes.
const (
	accessPrefix  = "sat_"
	refreshPrefix = "sar_"
	idsSize       = 32
	familySize    = 16
	secretSize    = 32
)

type parsedToken struct {
	org, device satchel.ID
	family      []byte
	hash        []byte // SHA-256 of the whole token
}

func makeToken(prefix string, org, device satchel.ID, family, secret []byte) string {
	b := make([]byte, 0, idsSize+familySize+secretSize)
	b = append(append(append(append(b, org[:]...), device[:]...), family...), secret...)
	return prefix + base64.RawURLEncoding.EncodeToString(b)
}

func parseToken(prefix string, familySize int, token string) (parsedToken, bool) {
	if len(token) > 256 {
		return parsedToken{}, false
	}
	text, ok := strings.CutPrefix(token, prefix)
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if !ok || err != nil || len(b) != idsSize+familySize+secretSize {
		return parsedToken{}, false
	}
	t := parsedToken{org: satchel.ID(b[:16]), device: satchel.ID(b[16:32]), family: b[idsSize : idsSize+familySize], hash: hashOf(token)}
	return t, true
}

func hashOf(secret string) []byte {
	h := sha256.Sum256([]byte(secret))
	return h[:]
}

// firstPair mints the tokens of a sign-in.
func firstPair(org, device satchel.ID) (t Tokens, family []byte) {
	family = random(familySize)
	t.Access = makeToken(accessPrefix, org, device, nil, random(secretSize))
	t.Refresh = makeToken(refreshPrefix, org, device, family, random(secretSize))
	return t, family
}

// nextPair derives a pair from the refresh token that was presented and a salt that only the database knows: who has
// one of the two has nothing, and who sends the same token again while the salt is kept gets the same pair.
func nextPair(refresh string, old parsedToken, salt []byte) (t Tokens) {
	derive := func(label string) []byte {
		m := hmac.New(sha256.New, salt)
		m.Write([]byte(label))
		m.Write([]byte(refresh))
		return m.Sum(nil)
	}
	t.Access = makeToken(accessPrefix, old.org, old.device, nil, derive("access:"))
	t.Refresh = makeToken(refreshPrefix, old.org, old.device, old.family, derive("refresh:"))
	return t
}
