package media

import (
	"encoding/json"
	"strings"
	"testing"
)

func FuzzWhateverAPhotoSaysItsEvidenceIsSmallAndFitsTheDatabase(f *testing.F) {
	f.Add([]byte("\xff\xd8\xff\xe1\x00\x10Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x01"))
	f.Add([]byte("\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03"))
	f.Add([]byte("\xff\xd8\xff\xe1\xff\xffExif\x00\x00II\x2a\x00\x08\x00\x00\x00\xff\xff\x10\x01\x02\x00\xff\xff\x00\x00\x08\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, head []byte) {
		b := evidence("image/jpeg", head)
		if len(b) > 2048 || strings.Contains(string(b), `\u0000`) || b != nil && !json.Valid(b) {
			t.Errorf("evidence: %q", b)
		}
	})
}

func FuzzAKeyThatIsAcceptedStaysInsideTheStore(f *testing.F) {
	for _, key := range []string{"blob/a/b", "../x", "a//b", "/a", "a/..", "a/./b", "."} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if checkKey(key) == nil && (strings.HasPrefix(key, "/") || strings.Contains("/"+key+"/", "/../") || strings.Contains("/"+key+"/", "/./") ||
			strings.Contains(key, "//") || strings.ContainsAny(key, "\\\x00%? ")) {
			t.Errorf("the key %q is accepted", key)
		}
	})
}
