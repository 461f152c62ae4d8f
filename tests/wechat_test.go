package tests_test

import (
	"encoding/json"
	"strings"
	"testing"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/internal/fakes"
	"github.com/satchel-sync/satchel/internal/pgtest"
)

// sessionKey is what WeChat's server says beside the openid, and what nobody may ever see.
const sessionKey = "c2Vzc2lvbiBrZXkgb2Yg"

// serveWeChat is serve with a mini-program, whose WeChat is scripted.
func serveWeChat(t *testing.T) (*product, *fakes.WeChat) {
	t.Helper()
	wechat, err := fakes.StartWeChat("wx-acme", "the secret of Acme")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = wechat.Close() })
	p := serveConfig(t, app.Config{Pool: pgtest.New(t), WeChat: app.WeChat{AppID: "wx-acme", Secret: "the secret of Acme", API: wechat.API()}}, hire)
	t.Cleanup(func() {
		for _, word := range []string{"the secret of Acme", sessionKey, "code-", "openid-"} {
			if strings.Contains(p.log.String(), word) {
				t.Errorf("the log holds %q", word)
			}
		}
	})
	return p, wechat
}

func TestARepSignsInByWeChatAndTellsWhatSheAllows(t *testing.T) {
	t.Parallel()
	p, wechat := serveWeChat(t)
	c := &caller{t: t, url: p.url}
	if a := c.call("AuthService/SignInWeChat", `{"code": "code-ann-1", "org": "acme"}`); a.reason != "WECHAT_NOT_BOUND" || a.code != "failed_precondition" {
		t.Errorf("before she is bound: %s", a.raw)
	}
	wechat.Drop(1) // WeChat took the code, and its answer never came
	bind := map[string]any{"code": "code-ann-2", "bind": map[string]any{"login": "ann", "password": password}, "device": map[string]any{"installation": "i1", "platform": "wechat"}}
	if a := c.call("AuthService/SignInWeChat", bind); a.reason != "WECHAT_DOWN" || a.code != "unavailable" {
		t.Errorf("without WeChat's answer: %s", a.raw)
	}
	bind["code"] = "code-ann-3"
	first := c.must("AuthService/SignInWeChat", bind)
	if strings.Contains(asText(t, first), sessionKey) {
		t.Error("the answer holds the session key")
	}
	again := c.must("AuthService/SignInWeChat", bind)["session"].(map[string]any) // its answer was lost, say
	in := &caller{t: t, url: p.url, token: again["tokens"].(map[string]any)["accessToken"].(string)}
	if me := in.must("AuthService/WhoAmI", `{}`); me["displayName"] != "Ann" {
		t.Errorf("she is %v", me)
	}
	grant := map[string]any{"key": satchel.NewID().String(), "templates": []string{"visit_due", "approval"}}
	for range 2 {
		if got := asText(t, in.must("DeviceService/AddGrants", grant)["grants"]); got != `[{"count":1,"template":"approval"},{"count":1,"template":"visit_due"}]` {
			t.Errorf("she allows %s", got)
		}
	}
	in.must("AuthService/UnbindWeChat", `{}`)
	if a := c.call("AuthService/SignInWeChat", `{"code": "code-ann-4"}`); a.reason != "WECHAT_NOT_BOUND" {
		t.Errorf("after it was unbound: %s", a.raw)
	}
	if a := in.call("DeviceService/AddGrants", grant); a.reason != "WECHAT_NOT_BOUND" {
		t.Errorf("allowing without a binding: %s", a.raw)
	}
}

func TestAServerWithoutAMiniProgramSaysSo(t *testing.T) {
	t.Parallel()
	c := &caller{t: t, url: serve(t).url}
	if a := c.call("AuthService/SignInWeChat", `{"code": "code-ann-1"}`); a.reason != "WECHAT_OFF" {
		t.Errorf("it is %s", a.raw)
	}
}

func asText(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
