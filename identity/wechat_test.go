package identity

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/satchel-sync/satchel"
)

// wechat stands in for WeChat's server: the code "NAME/…" is of the user NAME, once. (The real client is tested with a
// scripted server in internal/wechat, and both together in tests/.)
type wechat struct {
	mu    sync.Mutex
	used  map[string]bool
	asked int
	fail  error
}

func (*wechat) AppID() string { return "wx1" }

func (f *wechat) Exchange(_ context.Context, code string) (string, string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	name, _, ok := strings.Cut(code, "/")
	switch {
	case f.fail != nil:
		return "", "", f.fail
	case !ok || f.used[code]:
		return "", "", satchel.E(satchel.Unauthenticated, satchel.ReasonWeChatCode, "used")
	}
	f.used[code] = true
	return "open-" + name, "", nil
}

type wechatWorld struct {
	*world
	wechat *wechat
	codes  int
}

func withWeChat(t *testing.T) *wechatWorld {
	t.Helper()
	f := &wechat{used: map[string]bool{}}
	w := &wechatWorld{world: newWorld(t, func(c *Config) { c.WeChat = f; c.AddressPerSecond = -1 }), wechat: f}
	w.org("acme")
	w.person("acme", "root", "admin")
	w.person("acme", "li", "rep")
	w.person("acme", "wang", "rep")
	return w
}

// code gives a new code of a WeChat user.
func (w *wechatWorld) code(user string) string {
	w.codes++
	return fmt.Sprintf("%s/%d", user, w.codes)
}

func (w *wechatWorld) enter(user string) (*Session, error) {
	return w.SignInWeChat(w.t.Context(), SignInWeChat{Org: "acme", Code: w.code(user)})
}

func (w *wechatWorld) bind(user, login string) (*Session, error) {
	return w.SignInWeChat(w.t.Context(), SignInWeChat{Org: "acme", Code: w.code(user), Bind: &SignIn{Login: login, Password: goodPassword}})
}

func TestAWeChatUserIsAskedForThePasswordOnceAndThenSignsInByWeChatAlone(t *testing.T) {
	t.Parallel()
	w := withWeChat(t)
	_, err := w.enter("u1")
	refused(t, err, satchel.ReasonWeChatNotBound)
	first, err := w.bind("u1", "li")
	must(t, err)
	again, err := w.SignInWeChat(t.Context(), SignInWeChat{Code: w.code("u1"), Device: DeviceInfo{ID: first.Device, Platform: "wechat"}}) // the only organisation
	must(t, err)
	if again.Person != first.Person || again.Device != first.Device || again.DisplayName != "The li" {
		t.Errorf("it is %+v, and was %+v", again, first)
	}
	p, err := w.Authenticate(t.Context(), again.Tokens.Access)
	must(t, err)
	if p.Person != first.Person || !p.HasRole("rep") {
		t.Errorf("the session is of %+v", p)
	}
	_, err = w.Authenticate(t.Context(), first.Tokens.Access)
	refused(t, err, satchel.ReasonTokenExpired)
	other, err := w.enter("u1") // another device
	must(t, err)
	if other.Device == first.Device || other.Person != first.Person {
		t.Errorf("another device is %+v", other)
	}
}

func TestASignInWhoseAnswerWasLostIsRepeatedWithTheSameCodeForFiveMinutes(t *testing.T) {
	t.Parallel()
	w := withWeChat(t)
	_, err := w.bind("u1", "li")
	must(t, err)
	in := SignInWeChat{Org: "acme", Code: w.code("u1"), Device: DeviceInfo{Installation: "phone"}}
	asked := w.wechat.asked
	for _, replica := range []*Service{w.Service, w.replica(), w.Service} {
		_, err := replica.SignInWeChat(t.Context(), in)
		must(t, err)
		w.wait(2 * time.Minute)
	}
	if n := w.wechat.asked - asked; n != 1 {
		t.Errorf("WeChat was asked %d times", n)
	}
	_, err = w.SignInWeChat(t.Context(), in) // six minutes later
	refused(t, err, satchel.ReasonWeChatCode)

	in.Code = w.code("u1")
	_, err = w.SignInWeChat(t.Context(), in)
	must(t, err)
	in.Device.Installation = "a thief's"
	_, err = w.SignInWeChat(t.Context(), in)
	refused(t, err, satchel.ReasonWeChatCode)

	w.wait(time.Hour)
	_, err = w.enter("u1")
	must(t, err)
	var codes int
	must(t, w.pool.QueryRow(t.Context(), "select count(*) from wechat_code").Scan(&codes))
	if codes != 1 {
		t.Errorf("%d codes are remembered", codes)
	}
}

func TestAWeChatUserIsOnePersonAndAPersonOneWeChatUser(t *testing.T) {
	t.Parallel()
	w := withWeChat(t)
	_, err := w.bind("u1", "li")
	must(t, err)
	_, err = w.bind("u1", "wang")
	refused(t, err, satchel.ReasonTaken)
	_, err = w.bind("u2", "li") // li has another WeChat account now
	must(t, err)
	_, err = w.enter("u1")
	refused(t, err, satchel.ReasonWeChatNotBound)
	_, err = w.bind("u1", "wang")
	must(t, err)
	for user, name := range map[string]string{"u1": "The wang", "u2": "The li"} {
		s, err := w.enter(user)
		must(t, err)
		if s.DisplayName != name {
			t.Errorf("%s is %s", user, s.DisplayName)
		}
	}
}

func TestABindingEndsWithThePasswordThePersonAndTheAdministratorsWord(t *testing.T) {
	t.Parallel()
	w := withWeChat(t)
	ctx := t.Context()
	root, li := w.as("acme", "root"), w.as("acme", "li")
	yes, no := true, false
	for name, end := range map[string]func() error{
		"a reset": func() error { return w.ResetPassword(ctx, root, li.Person, goodPassword) },
		"a change": func() error {
			return errors.Join(w.ChangePassword(ctx, li, goodPassword, goodPassword+"!"), w.ResetPassword(ctx, root, li.Person, goodPassword))
		},
		"the administrator": func() error { return w.UnbindWeChat(ctx, root, li.Person) },
		"the person":        func() error { return w.UnbindWeChat(ctx, li, satchel.ID{}) },
		"disabled and enabled": func() error {
			_, err := w.UpdatePerson(ctx, root, PersonPatch{Person: li.Person, Disabled: &yes})
			_, err2 := w.UpdatePerson(ctx, root, PersonPatch{Person: li.Person, Disabled: &no})
			return errors.Join(err, err2)
		},
	} {
		_, err := w.bind("u1", "li")
		must(t, err)
		must(t, end())
		if _, err = w.enter("u1"); satchel.ReasonOf(err) != satchel.ReasonWeChatNotBound {
			t.Errorf("after %s: %v", name, err)
		}
	}
	wang := w.as("acme", "wang")
	refused(t, w.UnbindWeChat(ctx, wang, li.Person), satchel.ReasonNotAllowed)
	_, err := w.bind("u1", "li")
	must(t, err)
	must(t, w.ResetPassword(ctx, root, li.Person, goodPassword))
	_, err = w.bind("u1", "wang") // li's binding held no more
	must(t, err)
}

func TestAWrongPasswordBindsNothingAndCountsAsAnAttempt(t *testing.T) {
	t.Parallel()
	w := withWeChat(t)
	try := func(org, login, password string) error {
		_, err := w.SignInWeChat(t.Context(), SignInWeChat{Org: org, Code: w.code("u1"), Bind: &SignIn{Login: login, Password: password}})
		return err
	}
	refused(t, try("acme", "nobody", goodPassword), satchel.ReasonBadCredentials)
	refused(t, try("nowhere", "li", goodPassword), satchel.ReasonBadCredentials)
	for range freeAttempts {
		refused(t, try("acme", "li", "wrong but long"), satchel.ReasonBadCredentials)
	}
	refused(t, try("acme", "li", goodPassword), satchel.ReasonRateLimited)
	_, err := w.SignIn(t.Context(), SignIn{Org: "acme", Login: "li", Password: goodPassword})
	refused(t, err, satchel.ReasonRateLimited)
	for _, org := range []string{"acme", "nowhere"} { // which of them exists is not said
		_, err = w.SignInWeChat(t.Context(), SignInWeChat{Org: org, Code: w.code("u1")})
		refused(t, err, satchel.ReasonWeChatNotBound)
	}
}

func TestABindingThatEndsWhileItSignsInOpensNothing(t *testing.T) {
	t.Parallel()
	w := withWeChat(t)
	_, err := w.bind("u1", "li")
	must(t, err)
	w.behind("delete from wechat_identity", nil, func() { _, err = w.enter("u1") })
	refused(t, err, satchel.ReasonWeChatNotBound)
}

func TestTwoBindingsOfOnePersonAtOnceLeaveOne(t *testing.T) {
	t.Parallel()
	w := withWeChat(t)
	errs := make([]error, 2)
	ins := []SignInWeChat{{Org: "acme", Code: w.code("u1")}, {Org: "acme", Code: w.code("u2")}}
	calls := make([]func(), 2)
	for i := range ins {
		ins[i].Bind = &SignIn{Login: "li", Password: goodPassword}
		calls[i] = func() { _, errs[i] = w.SignInWeChat(t.Context(), ins[i]) }
	}
	w.behind("update person set display_name = display_name", nil, calls...)
	n := 0
	must(t, w.pool.QueryRow(t.Context(), "select count(*) from wechat_identity").Scan(&n))
	if n != 1 {
		t.Errorf("%d WeChat users are bound to one person", n)
	}
	for _, err := range errs {
		if err != nil && satchel.ReasonOf(err) != satchel.ReasonBusy {
			t.Error(err)
		}
	}
	if errs[0] != nil && errs[1] != nil {
		t.Error("neither came in")
	}
}

func TestNothingOfASignInByWeChatIsLoggedAndAServerWithoutMiniProgramSaysSo(t *testing.T) {
	t.Parallel()
	w := withWeChat(t)
	in := SignInWeChat{Code: "secret-code", Bind: &SignIn{Login: "li", Password: goodPassword}}
	w.cfg.Logger.Info("x", "in", in)
	if s := fmt.Sprintf("%v %+v %#v", in, in, in) + w.log.String(); strings.Contains(s, "secret-code") || strings.Contains(s, goodPassword) {
		t.Errorf("it tells: %s", s)
	}
	w.cfg.WeChat = nil
	_, err := w.replica().SignInWeChat(t.Context(), in)
	refused(t, err, satchel.ReasonWeChatOff)
	w.wechat.fail = satchel.E(satchel.Unavailable, satchel.ReasonWeChatDown, "down")
	_, err = w.enter("u1")
	refused(t, err, satchel.ReasonWeChatDown)
}
