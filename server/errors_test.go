package server

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	satchel "github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/syncengine"
)

// goReasons reads the constants of reason.go, so that one that is added there is not forgotten here.
func goReasons(t *testing.T) map[string]bool {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "../reason.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	ast.Inspect(f, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok && len(v.Values) == 1 {
			out[strings.Trim(v.Values[0].(*ast.BasicLit).Value, `"`)] = true
		}
		return true
	})
	return out
}

func TestTheWireAndTheCodeHaveTheSameReasonsAndEachHasItsTexts(t *testing.T) {
	t.Parallel()
	reasons := goReasons(t)
	if len(reasons) < 40 {
		t.Fatalf("read only %d reasons", len(reasons))
	}
	for name, number := range satchelv1.Reason_value {
		if number == 0 {
			continue
		}
		r := strings.TrimPrefix(name, "REASON_")
		if !reasons[r] {
			t.Errorf("the proto has %s, reason.go has not", name)
		}
		if words := textOf(satchel.Reason(r)); words.zh == "" || words.en == "" {
			t.Errorf("%s has no text", r)
		}
	}
	for r := range reasons {
		if protoReason(satchel.Reason(r)) == 0 {
			t.Errorf("reason.go has %s, the proto has not", r)
		}
	}
}

func TestEveryStatusAndNoteOfTheEngineHasItsWireForm(t *testing.T) {
	t.Parallel()
	for _, s := range []syncengine.Status{syncengine.Applied, syncengine.Merged, syncengine.Conflicted, syncengine.Stale,
		syncengine.Rejected, syncengine.Seen, syncengine.Unsupported} {
		if wireVerdict(syncengine.Verdict{Status: s}).Status == 0 {
			t.Errorf("%s has none", s)
		}
	}
	for _, n := range []syncengine.Note{syncengine.PossibleDouble, syncengine.ClockOff, syncengine.ParentMoved, syncengine.OverTimeout} {
		if wireVerdict(syncengine.Verdict{Notes: []syncengine.Note{n}}).Notes[0] == 0 {
			t.Errorf("%s has none", n)
		}
	}
}

func TestAnErrorTellsTheCallerWhatItIsMeantToAndNothingElse(t *testing.T) {
	t.Parallel()
	secret := errors.New(`duplicate key (mobile)=(13800000000)`)
	for name, c := range map[string]struct {
		err    error
		code   connect.Code
		reason satchel.Reason
		says   string
	}{
		"a typed error":            {satchel.E(satchel.NotFound, satchel.ReasonNotFound, "no such thing"), connect.CodeNotFound, satchel.ReasonNotFound, "no such thing"},
		"a typed error in another": {fmt.Errorf("while: %w", satchel.E(satchel.Denied, satchel.ReasonNotAllowed, "no right")), connect.CodePermissionDenied, satchel.ReasonNotAllowed, "no right"},
		"an unknown error":         {secret, connect.CodeInternal, satchel.ReasonUnexpectedInternal, "a fault of the server; the request id finds it in the log"},
		"an internal typed error":  {&satchel.Error{Detail: "13800000000", Err: secret}, connect.CodeInternal, satchel.ReasonUnexpectedInternal, "a fault of the server; the request id finds it in the log"},
		"a cause":                  {&satchel.Error{Kind: satchel.Unavailable, Reason: satchel.ReasonDatabaseDown, Detail: "try again", Err: secret}, connect.CodeUnavailable, satchel.ReasonDatabaseDown, "try again"},
	} {
		out := wireError(&call{id: "the-id"}, c.err)
		if out.Code() != c.code || out.Message() != c.says {
			t.Errorf("%s: %v %q", name, out.Code(), out.Message())
		}
		v, err := out.Details()[0].Value()
		if err != nil {
			t.Fatal(err)
		}
		d := v.(*satchelv1.ErrorDetail)
		if d.Reason != protoReason(c.reason) || d.RequestId != "the-id" || d.Message == "" || strings.Contains(d.String()+out.Error(), "1380000") {
			t.Errorf("%s: %v", name, d)
		}
	}
}

func TestALimitTellsWhenToComeBack(t *testing.T) {
	t.Parallel()
	out := wireError(&call{zh: true}, &satchel.Error{Kind: satchel.Exhausted, Reason: satchel.ReasonRateLimited, RetryAfter: 1500 * time.Millisecond})
	v, err := out.Details()[0].Value()
	if err != nil {
		t.Fatal(err)
	}
	if d := v.(*satchelv1.ErrorDetail); d.RetryAfterMs != 1500 || d.Message != "尝试次数过多，请稍后再试。" || out.Meta().Get("Retry-After") != "2" {
		t.Errorf("got %v, Retry-After %q", d, out.Meta().Get("Retry-After"))
	}
}

func TestTheLanguageIsTheFirstOneThatWeSpeak(t *testing.T) {
	t.Parallel()
	for header, zh := range map[string]bool{"": false, "zh-CN": true, "zh": true, "en,zh": false, "fr, zh-Hans;q=0.9, en": true,
		"ZH-cn;q=0.1": true, strings.Repeat("x", 5000): false} {
		if wantsChinese(header) != zh {
			t.Errorf("%.40q gives %v", header, !zh)
		}
	}
}
