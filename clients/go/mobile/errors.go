package mobile

import (
	"cmp"
	"context"
	"errors"
	"regexp"
	"strings"
	"syscall"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/clients/go/sqlitestore"
)

// The codes of errors, for an app to branch on: see [ParseError]. None of them loses anything that was recorded.
const (
	CodeUnavailable    = "unavailable"     // no answer, or the server cannot answer just now: try again later
	CodeSignInAgain    = "sign_in_again"   // there is no session, or it has ended: ask for the password
	CodeBadCredentials = "bad_credentials" // login and password do not fit
	CodeDeviceRevoked  = "device_revoked"  // an administrator revoked this device
	CodeUpgradeApp     = "upgrade_app"     // this app is too old for the server, or for the file; everything is kept for the newer one
	CodeWiped          = "wiped"           // the server ordered this device to delete its data, and that was done
	CodeOtherPerson    = "other_person"    // the file belongs to somebody else: open another one
	CodeUnsent         = "unsent"          // mutations were not sent yet: sync first
	CodeTooLarge       = "too_large"       // a mutation or a file is over its limit; nothing was recorded
	CodeNotFound       = "not_found"       // there is no such thing here, or the server has none that this person may see
	CodeStorageFull    = "storage_full"    // the device has no room left; nothing was recorded
	CodeInUse          = "in_use"          // another process, or another Client of this one, has the file open
	CodeClosed         = "closed"          // the Client was closed
	CodeCanceled       = "canceled"        // Stop or Close ended the call
	CodeRefused        = "refused"         // the server refused the call for another cause: see the reason
	CodeInvalid        = "invalid"         // a mistake of the app: see the message
	CodeFailed         = "failed"          // anything else, such as a disk that fails: see the message
)

// Failure is an error taken apart.
type Failure struct {
	// Code is what to branch on, one of the constants above.
	Code string
	// Reason is the server's typed cause (docs/errors.md), such as "RATE_LIMITED"; "" = none.
	Reason string
	// Message is a sentence: for the person, in the language of the configuration, where Reason is set; else for developers.
	Message string
}

var coded = regexp.MustCompile(`^([a-z]+(?:_[a-z]+)*)(?: ([A-Z][A-Z_]*))?: `)

// ParseError takes apart the text of an error that this package gave: localizedDescription of an NSError, message of an
// Exception. Any other text has the code "failed". It never fails and may be called on any thread.
func ParseError(text string) *Failure {
	m := coded.FindStringSubmatch(text)
	if m == nil {
		return &Failure{Code: CodeFailed, Message: text}
	}
	return &Failure{Code: m[1], Reason: m[2], Message: text[len(m[0]):]}
}

// failure is an error with a code. Its text is what ParseError takes apart.
type failure struct {
	code   string
	reason satchel.Reason
	err    error
}

func (f *failure) Error() string {
	head := f.code
	if f.reason != "" {
		head += " " + string(f.reason)
	}
	text := f.err.Error()
	if e, ok := errors.AsType[*satchelclient.Error](f.err); ok {
		text = cmp.Or(e.Message, strings.TrimPrefix(text, "satchelclient: "))
	} else {
		text = strings.TrimPrefix(text, "satchelclient: ")
	}
	return head + ": " + text
}

func (f *failure) Unwrap() error { return f.err }

// invalid is a mistake of the app.
func invalid(text string) error { return &failure{code: CodeInvalid, err: errors.New(text)} }

var errClosed = &failure{code: CodeClosed, err: errors.New("the client is closed: open the file again")}

// classes says which code an error of clients/go has, in the order in which they are asked.
var classes = []struct {
	is   error
	code string
}{
	{satchelclient.ErrWiped, CodeWiped},
	{satchelclient.ErrDeviceRevoked, CodeDeviceRevoked},
	{satchelclient.ErrUpgradeApp, CodeUpgradeApp},
	{sqlitestore.ErrNewer, CodeUpgradeApp},
	{satchelclient.ErrSignInAgain, CodeSignInAgain},
	{satchelclient.ErrUnavailable, CodeUnavailable},
	{satchelclient.ErrOtherPerson, CodeOtherPerson},
	{satchelclient.ErrUnsent, CodeUnsent},
	{satchelclient.ErrTooLarge, CodeTooLarge},
	{satchelclient.ErrNotFound, CodeNotFound},
	{satchelclient.ErrStoreInUse, CodeInUse},
	{satchelclient.ErrClosed, CodeClosed},
	{context.Canceled, CodeCanceled},
	{syscall.ENOSPC, CodeStorageFull},
}

// explain gives an error its code. nil stays nil.
func explain(err error) error {
	if err == nil {
		return nil
	}
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	f := &failure{code: CodeFailed, err: err}
	call, refused := errors.AsType[*satchelclient.Error](err)
	if refused {
		f.code, f.reason = CodeRefused, call.Reason
	}
	if full, ok := errors.AsType[*sqlite.Error](err); ok && full.Code()&0xff == sqlite3.SQLITE_FULL {
		f.code = CodeStorageFull
		return f
	}
	if f.reason == satchel.ReasonBadCredentials {
		f.code = CodeBadCredentials
		return f
	}
	for _, c := range classes {
		if errors.Is(err, c.is) {
			f.code = c.code
			return f
		}
	}
	return f
}
