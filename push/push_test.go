package push_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/enginetest"
	"github.com/satchel-sync/satchel/internal/fakes"
	"github.com/satchel-sync/satchel/internal/jobs"
	"github.com/satchel-sync/satchel/internal/pgtest"
	"github.com/satchel-sync/satchel/push"
	"github.com/satchel-sync/satchel/syncengine"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

type world struct {
	*enginetest.World
	t    *testing.T
	fcm  *fakes.FCM
	push *push.Push
}

func newWorld(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	fcm, err := fakes.StartFCM()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = fcm.Close() })
	w := &world{World: enginetest.New(t), t: t, fcm: fcm}
	w.push = w.register(w.Replica, true)
	return w
}

func (w *world) register(r enginetest.Replica, withFCM bool) *push.Push {
	w.t.Helper()
	cfg := push.Config{Pool: w.Pool, Engine: r.Engine, Jobs: r.Jobs, Now: w.Now}
	if withFCM {
		sender, err := push.NewFCM(w.t.Context(), push.FCMConfig{ProjectID: "demo", Endpoint: w.fcm.Endpoint()})
		if err != nil {
			w.t.Fatal(err)
		}
		cfg.Senders = map[string]push.Sender{push.FCMKind: sender}
	}
	p, err := push.New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	p.Register()
	return p
}

// address gives a person a phone that can be reached at a token.
func (w *world) address(name, token, language string) *satchel.Principal {
	w.t.Helper()
	who := w.Principal(name, satchel.NewID())
	if err := w.push.SetAddress(w.t.Context(), who, push.FCMKind, token, language); err != nil {
		w.t.Fatal(err)
	}
	return who
}

// notify puts a line into somebody's inbox, as a rule does.
func (w *world) notify(name string) satchel.ID {
	w.t.Helper()
	id := satchel.NewID()
	v, err := w.Engine.Submit(w.t.Context(), syncengine.SystemMutation{Org: w.Org, Source: "rule:x", Key: id.String(), Ops: []syncengine.Op{
		enginetest.Create("notice", id, map[string]any{"person": w.People[name], "template": "follow_up_due", "record": w.Org.String(), "record_kind": "visit"})}})
	if err != nil || v.Status != syncengine.Applied {
		w.t.Fatal(v, err)
	}
	return id
}

func (w *world) states() (out []string) {
	w.t.Helper()
	rows, err := w.Pool.Query(w.t.Context(), `SELECT state FROM delivery WHERE org_id = $1 ORDER BY notice_id, address_id`, w.Org)
	if err != nil {
		w.t.Fatal(err)
	}
	out, err = pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func (w *world) want(states ...string) {
	w.t.Helper()
	if got := w.states(); !slices.Equal(got, states) {
		w.t.Fatalf("the deliveries are %v, not %v", got, states)
	}
}

func (w *world) sent(n int) []fakes.FCMMessage {
	w.t.Helper()
	got := w.fcm.Messages()
	if len(got) != n {
		w.t.Fatalf("%d messages were sent, not %d", len(got), n)
	}
	return got
}

func (w *world) addresses() int {
	var n int
	if err := w.Pool.QueryRow(w.t.Context(), `SELECT count(*) FROM push_address WHERE org_id = $1`, w.Org).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

func TestANoticeKnocksOnceAtEachPhoneOfItsPersonInThePhonesLanguage(t *testing.T) {
	w := newWorld(t)
	w.address("Ann", "ann-1", "zh-CN")
	w.address("Ann", "ann-2", "en")
	w.address("Ben", "ben", "en")
	id := w.notify("Ann")
	w.Step()
	w.Step()
	texts := map[string]string{}
	for _, m := range w.sent(2) {
		texts[m.Token] = m.Body
		if m.Project != "demo" || m.Data["notice"] != id.String() || m.Data["record"] != w.Org.String() || m.Data["kind"] != "visit" || m.Data["msg_id"] == "" || len(m.Data) != 4 {
			t.Errorf("sent %+v", m)
		}
	}
	if texts["ann-1"] != "有一次拜访到了跟进时间。" || texts["ann-2"] != "A visit is due for follow-up." {
		t.Errorf("the texts are %v", texts)
	}
	w.want("sent", "sent")
}

func TestAnEditedNoticeKnocksNoSecondTimeAndAReadOneNotAtAll(t *testing.T) {
	w := newWorld(t)
	w.address("Ann", "ann", "en")
	id := w.notify("Ann")
	w.Phone("Ann").MustDo(enginetest.Patch("notice", id, 1, map[string]any{"read": true}))
	w.Step()
	w.sent(0)
	w.want("read")
}

func TestTroubleIsWaitedOutAsLongAsTheChannelAsks(t *testing.T) {
	w := newWorld(t)
	w.address("Ann", "ann", "en")
	w.fcm.Script(fakes.FCMAnswer{Status: 503, RetryAfter: 600}, fakes.FCMAnswer{Status: 429, Code: "QUOTA_EXCEEDED"}, fakes.FCMAnswer{Status: 500, Code: "INTERNAL"})
	w.notify("Ann")
	w.Step()
	w.sent(1) // the library did not try again by itself
	w.want("waiting")
	w.Pass(600*time.Second - time.Millisecond)
	w.Step()
	w.sent(1)
	w.Pass(61 * time.Second) // and up to a tenth more
	w.Step()
	w.sent(2)
	w.Pass(2*time.Minute - time.Millisecond) // nothing was said: a minute, doubled with each attempt
	w.Step()
	w.sent(2)
	w.Pass(13 * time.Second)
	w.Step()
	w.sent(3)
	w.Pass(5 * time.Minute)
	w.Step()
	msgs := w.sent(4)
	w.want("sent")
	for _, m := range msgs {
		if m.Data["msg_id"] != msgs[0].Data["msg_id"] {
			t.Error("a second try has another msg_id")
		}
	}
}

func TestABrokenConnectionIsTriedAgainLaterWithTheSameID(t *testing.T) {
	w := newWorld(t)
	w.address("Ann", "ann", "en")
	w.fcm.Script(fakes.FCMAnswer{Drop: true})
	w.notify("Ann")
	w.Step()
	w.sent(1)
	w.want("waiting")
	w.Pass(2 * time.Minute)
	w.Step()
	if m := w.sent(2); m[0].Data["msg_id"] != m[1].Data["msg_id"] {
		t.Error("a second try has another msg_id")
	}
	w.want("sent")
}

func TestTroubleThatDoesNotEndIsGivenUp(t *testing.T) {
	w := newWorld(t)
	w.address("Ann", "ann", "en")
	w.fcm.Answer("ann", fakes.FCMAnswer{Status: 503})
	w.notify("Ann")
	for range 30 {
		w.Step()
		w.Pass(2 * time.Hour)
	}
	if n := len(w.fcm.Messages()); n < 5 || n > push.MaxAttempts {
		t.Errorf("it was tried %d times", n)
	}
	w.want("gave_up")
	if w.addresses() != 1 {
		t.Error("the address is gone")
	}
}

func TestOnlyTheWordThatAnAddressIsUnknownDeletesIt(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer fakes.FCMAnswer
		state  string
		kept   int
	}{
		{"unregistered", fakes.FCMAnswer{Status: 404, Code: "UNREGISTERED"}, "dead", 0},
		{"a 404 of something else", fakes.FCMAnswer{Status: 404}, "waiting", 1},
		{"another sender", fakes.FCMAnswer{Status: 403, Code: "SENDER_ID_MISMATCH"}, "waiting", 1},
		{"no permission", fakes.FCMAnswer{Status: 403}, "waiting", 1},
		{"credentials of a third party", fakes.FCMAnswer{Status: 401, Code: "THIRD_PARTY_AUTH_ERROR"}, "waiting", 1},
		{"our payload", fakes.FCMAnswer{Status: 400, Code: "INVALID_ARGUMENT"}, "bad_payload", 1},
		{"a bare 400", fakes.FCMAnswer{Status: 400}, "bad_payload", 1},
		{"what nobody knows", fakes.FCMAnswer{Status: 418}, "waiting", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.address("Ann", "ann", "en")
			w.fcm.Answer("ann", c.answer)
			w.notify("Ann")
			w.Step()
			w.want(c.state)
			if w.addresses() != c.kept {
				t.Errorf("%d addresses are left", w.addresses())
			}
			w.sent(1)
		})
	}
}

func TestAnAccountThatStaysWrongEndsAsMisconfigured(t *testing.T) {
	w := newWorld(t)
	w.address("Ann", "ann", "en")
	w.fcm.Answer("ann", fakes.FCMAnswer{Status: 403, Code: "SENDER_ID_MISMATCH"})
	w.notify("Ann")
	for range 2 * push.MaxAttempts {
		w.Step()
		w.Pass(20 * time.Minute)
	}
	w.want("misconfigured")
	if w.addresses() != 1 {
		t.Error("the address is gone")
	}
}

func TestAMassOfDeadAddressesDeletesNoMore(t *testing.T) {
	w := newWorld(t)
	w.address("Ann", "ann", "en")
	for range 21 { // good sends, so that the first dead ones are believed
		w.notify("Ann")
	}
	w.Step()
	for i := range 18 {
		w.address("Ben", fmt.Sprintf("ben-%d", i), "en")
		w.fcm.Answer(fmt.Sprintf("ben-%d", i), fakes.FCMAnswer{Status: 404, Code: "UNREGISTERED"})
		w.address("Cem", fmt.Sprintf("cem-%d", i), "en")
		w.fcm.Answer(fmt.Sprintf("cem-%d", i), fakes.FCMAnswer{Status: 404, Code: "UNREGISTERED"})
	}
	w.notify("Ben")
	w.Step()
	if n := w.addresses(); n != 1+18 {
		t.Fatalf("%d addresses are left: a few dead ones are forgotten", n)
	}
	w.notify("Cem")
	w.Step()
	if n := w.addresses(); n < 15 || n > 18 {
		t.Errorf("%d addresses are left: at a half of all sends the brake goes on", n)
	}
	left := w.addresses()
	w.notify("Cem")
	w.Step()
	if w.addresses() != left {
		t.Error("the brake is on, and yet an address was deleted")
	}
}

func TestWithoutAChannelTheNoticeStaysInTheInbox(t *testing.T) {
	t.Parallel()
	w := &world{World: enginetest.New(t), t: t}
	w.push = w.register(w.Replica, false)
	w.address("Ann", "ann", "en")
	id := w.notify("Ann")
	w.Step()
	w.want("no_channel")
	if !w.Record(id).Exists() {
		t.Error("the notice is gone")
	}
}

func TestAnAddressMovesToWhoeverSignedInLastAndNothingOnItsWayReachesHim(t *testing.T) {
	w := newWorld(t)
	w.address("Ann", "shared", "en")
	w.notify("Ann")
	w.address("Ben", "shared", "en")
	w.Step()
	w.sent(0)
	w.want("address_gone")
	w.notify("Ann")
	w.notify("Ben")
	w.Step()
	w.sent(1)
	if w.addresses() != 1 {
		t.Errorf("%d addresses", w.addresses())
	}
}

func TestANewAddressOfAPhoneReplacesItsOldOne(t *testing.T) {
	w := newWorld(t)
	who := w.address("Ann", "old", "en")
	if err := w.push.SetAddress(t.Context(), who, push.FCMKind, "new", "en"); err != nil {
		t.Fatal(err)
	}
	w.notify("Ann")
	// Setting it again, as each start of the app does, takes nothing off its way.
	if err := w.push.SetAddress(t.Context(), who, push.FCMKind, "new", "zh"); err != nil {
		t.Fatal(err)
	}
	w.Step()
	if m := w.sent(1)[0]; m.Token != "new" || m.Body != "有一次拜访到了跟进时间。" {
		t.Errorf("sent %+v", m)
	}
}

func TestARemovedAddressOrRevokedDeviceOrDisabledPersonHearsNothing(t *testing.T) {
	w := newWorld(t)
	ann, ben := w.address("Ann", "ann", "en"), w.address("Ben", "ben", "en")
	w.address("Cem", "cem", "en")
	for _, name := range []string{"Ann", "Ben", "Cem"} {
		w.notify(name)
	}
	if err := w.push.RemoveAddress(t.Context(), ann, push.FCMKind); err != nil || w.addresses() != 2 {
		t.Fatalf("%d addresses are left, %v", w.addresses(), err)
	}
	if err := pgx.BeginFunc(t.Context(), w.Pool, func(tx pgx.Tx) error {
		return w.push.DeviceGone(t.Context(), tx, w.Org, ben.Device)
	}); err != nil {
		t.Fatal(err)
	}
	w.ChangeRights(`UPDATE person SET disabled_at = now() WHERE id = $1`, w.People["Cem"])
	w.Step()
	w.sent(0)
	w.want("address_gone", "address_gone", "address_gone")
}

func TestOnlyADeviceHasAnAddressAndItMustLookLikeOne(t *testing.T) {
	w := newWorld(t)
	dev := satchel.NewID()
	for _, c := range []struct {
		device        satchel.ID
		kind, address string
	}{{satchel.ID{}, "fcm", "x"}, {dev, "", "x"}, {dev, "FCM", "x"}, {dev, "fcm", ""}, {dev, "fcm", "a b"}, {dev, "fcm", "\x00"}, {dev, "fcm", string(make([]byte, 2000))}} {
		if err := w.push.SetAddress(t.Context(), w.Principal("Ann", c.device), c.kind, c.address, "en"); satchel.KindOf(err) != satchel.Invalid {
			t.Errorf("%+v gives %v", c, err)
		}
	}
}

func TestNobodyHasMoreThanTwentyAddresses(t *testing.T) {
	w := newWorld(t)
	for i := range push.MaxAddresses + 3 {
		w.address("Ann", fmt.Sprintf("ann-%d", i), "en")
		w.Pass(time.Second)
	}
	if n := w.addresses(); n != push.MaxAddresses {
		t.Errorf("%d addresses", n)
	}
	if w.Text(`SELECT address FROM push_address WHERE address = 'ann-22'`) == "" {
		t.Error("the newest one is gone")
	}
}

func TestADeliveryWhoseJobRunsOnAllReplicasAtOnceIsSentOnce(t *testing.T) {
	w := newWorld(t)
	w.address("Ann", "ann", "en")
	w.notify("Ann")
	w.copyJob(6)
	var g errgroup.Group
	for range 3 {
		r := w.NewReplica()
		w.register(r, true)
		g.Go(func() error {
			_, err := r.Jobs.Step(context.Background())
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	w.Pass(10 * time.Minute)
	w.Step()
	w.sent(1)
	w.want("sent")
}

// copyJob enqueues the waiting job again, as one that a dead process left would come back.
func (w *world) copyJob(times int) {
	w.t.Helper()
	var args []byte
	if err := w.Pool.QueryRow(w.t.Context(), `SELECT args -> 'args' FROM river_job WHERE kind = $1`, push.Job).Scan(&args); err != nil {
		w.t.Fatal(err)
	}
	if err := pgx.BeginFunc(w.t.Context(), w.Pool, func(tx pgx.Tx) error {
		for range times {
			if err := w.Jobs.Enqueue(w.t.Context(), tx, jobs.Job{Kind: push.Job, Org: w.Org, Args: rawJSON(args)}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
}

type rawJSON []byte

func (r rawJSON) MarshalJSON() ([]byte, error) { return r, nil }

func TestAClaimWhoseWorkerDiedIsTakenOverAfterItsLease(t *testing.T) {
	w := newWorld(t)
	w.address("Ann", "ann", "en")
	w.notify("Ann")
	w.Exec(`UPDATE delivery SET state = 'sending', attempts = 1, claimed_at = $1`, w.Now())
	w.Step()
	w.sent(0) // it may still be alive
	w.Pass(2 * time.Minute)
	w.Step()
	w.sent(1)
	w.want("sent")
}

func TestANoticeThatIsADayOldKnocksNoMore(t *testing.T) {
	w := newWorld(t)
	w.address("Ann", "ann", "en")
	w.notify("Ann")
	w.Pass(push.MaxAge + time.Second) // the workers were down
	w.Step()
	w.sent(0)
	w.want("gave_up")
}

// movingSender finds an address dead just after the phone signed in as somebody else.
type movingSender struct{ move func() }

func (s movingSender) Send(context.Context, push.Message) push.Result {
	s.move()
	return push.Result{Answer: push.AddressDead}
}

func TestAnAddressThatMovedWhileItWasFoundDeadIsKeptForItsNewPerson(t *testing.T) {
	t.Parallel()
	w := &world{World: enginetest.New(t), t: t}
	var err error
	w.push, err = push.New(push.Config{Pool: w.Pool, Engine: w.Engine, Jobs: w.Jobs, Now: w.Now, Senders: map[string]push.Sender{
		push.FCMKind: movingSender{func() { w.address("Ben", "shared", "en") }}}})
	if err != nil {
		t.Fatal(err)
	}
	w.push.Register()
	w.address("Ann", "shared", "en")
	w.notify("Ann")
	w.Step()
	w.want("dead")
	if w.addresses() != 1 {
		t.Error("the new person's address was deleted")
	}
}
