package push_test

import (
	"fmt"
	"testing"
	"time"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/enginetest"
	"github.com/satchel-sync/satchel/push"
)

func newGrants(t *testing.T) (*world, *satchel.Principal) {
	t.Helper()
	w := &world{World: enginetest.New(t), t: t}
	var err error
	if w.push, err = push.New(push.Config{Pool: w.Pool, Engine: w.Engine, Jobs: w.Jobs, Now: w.Now}); err != nil {
		t.Fatal(err)
	}
	ann := w.Principal("Ann", satchel.NewID())
	// What identity writes when Ann signs in by WeChat.
	if _, err := w.Pool.Exec(t.Context(), `insert into wechat_identity (org_id, app_id, openid, person_id, password_version, bound_at)
		select org_id, 'wx1', 'open-ann', id, password_version, now() from person where org_id = $1 and id = $2`, ann.Org, ann.Person); err != nil {
		t.Fatal(err)
	}
	return w, ann
}

func (w *world) grant(who *satchel.Principal, key satchel.ID, templates ...string) string {
	w.t.Helper()
	got, err := w.push.AddGrants(w.t.Context(), who, key, templates)
	if err != nil {
		w.t.Fatal(err)
	}
	return fmt.Sprint(got)
}

func TestEachAcceptedTemplateCountsOnceHoweverOftenItIsReported(t *testing.T) {
	t.Parallel()
	w, ann := newGrants(t)
	first, second := satchel.NewID(), satchel.NewID()
	w.grant(ann, first, "b", "a")
	if got := w.grant(ann, first, "b", "a"); got != "[{a 1} {b 1}]" {
		t.Errorf("the same report twice gives %s", got)
	}
	if got := w.grant(ann, second, "a"); got != "[{a 2} {b 1}]" {
		t.Errorf("another one gives %s", got)
	}
}

func TestGrantsAreBounded(t *testing.T) {
	t.Parallel()
	w, ann := newGrants(t)
	for range push.MaxGrants + 5 {
		w.grant(ann, satchel.NewID(), "a")
	}
	if got := w.grant(ann, satchel.NewID(), "a"); got != fmt.Sprintf("[{a %d}]", push.MaxGrants) {
		t.Errorf("%s", got)
	}
	for i := range push.MaxTemplates {
		w.Pass(time.Second)
		w.grant(ann, satchel.NewID(), fmt.Sprintf("t%02d", i))
	}
	got, err := w.push.AddGrants(t.Context(), ann, satchel.NewID(), []string{"t00"})
	if err != nil || len(got) != push.MaxTemplates || got[0] != (push.Grant{Template: "t00", Count: 2}) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestGrantsAreOfTheWeChatUserWhomThePersonIsBoundToNow(t *testing.T) {
	t.Parallel()
	w, ann := newGrants(t)
	if _, err := w.push.AddGrants(t.Context(), w.Principal("Ben", satchel.NewID()), satchel.NewID(), []string{"a"}); satchel.ReasonOf(err) != satchel.ReasonWeChatNotBound {
		t.Errorf("Ben, who is bound to nobody: %v", err)
	}
	w.grant(ann, satchel.NewID(), "a")
	if _, err := w.Pool.Exec(t.Context(), "update wechat_identity set openid = 'open-ann-2'"); err != nil {
		t.Fatal(err)
	}
	if got := w.grant(ann, satchel.NewID(), "b"); got != "[{b 1}]" {
		t.Errorf("her new WeChat account has %s", got)
	}
	if _, err := w.Pool.Exec(t.Context(), "update person set password_version = password_version + 1"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.push.AddGrants(t.Context(), ann, satchel.NewID(), []string{"a"}); satchel.ReasonOf(err) != satchel.ReasonWeChatNotBound {
		t.Errorf("with a binding that has ended: %v", err)
	}
}
