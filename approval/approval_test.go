package approval_test

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/approval"
	"github.com/satchel-sync/satchel/internal/enginetest"
	"github.com/satchel-sync/satchel/internal/pgtest"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

type world struct {
	*enginetest.World
	t   *testing.T
	svc *approval.Service
}

func newWorld(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	w := &world{World: enginetest.New(t), t: t}
	w.svc = w.register(w.Replica)
	return w
}

func (w *world) register(r enginetest.Replica) *approval.Service {
	w.t.Helper()
	svc, err := approval.New(approval.Config{Engine: r.Engine, Jobs: r.Jobs})
	if err != nil {
		w.t.Fatal(err)
	}
	svc.Register()
	return svc
}

func (w *world) quote(p *enginetest.Phone, amount string) satchel.ID {
	w.t.Helper()
	id := satchel.NewID()
	p.MustDo(enginetest.Create("quote", id, map[string]any{"account": p.Account(), "title": "Pumps", "amount": number(amount), "lines": []any{map[string]any{"n": number("1e2")}}}))
	return id
}

type number string

func (n number) MarshalJSON() ([]byte, error) { return []byte(n), nil }

func submit(quote satchel.ID) syncengine.Op {
	return enginetest.Command(approval.CommandSubmit, "quote", quote, nil)
}

func decide(app *schema.Record, decision string) syncengine.Op {
	return enginetest.Command(approval.CommandDecide, approval.Kind, app.ID, map[string]any{"form_hash": app.Text("form_hash"), "decision": decision, "comment": "as agreed"})
}

func withdraw(app *schema.Record) syncengine.Op {
	return enginetest.Command(approval.CommandWithdraw, approval.Kind, app.ID, nil)
}

// submitted gives a quote of Ann's that waits for Mei.
func (w *world) submitted(amount string) (ann *enginetest.Phone, quote satchel.ID, app *schema.Record) {
	w.t.Helper()
	ann = w.Phone("Ann")
	quote = w.quote(ann, amount)
	ann.MustDo(submit(quote))
	apps := w.Records("approval")
	if len(apps) != 1 {
		w.t.Fatalf("%d approvals", len(apps))
	}
	return ann, quote, apps[0]
}

func (w *world) state(quote satchel.ID) string {
	w.t.Helper()
	return w.Record(quote).Text("approval_state")
}

// told counts the notices to somebody by template.
func (w *world) told(name, template string) (n int) {
	w.t.Helper()
	for _, r := range w.Records("notice") {
		if r.Ref("person") == w.People[name] && r.Text("template") == template {
			n++
		}
	}
	return n
}

func (w *world) is(v syncengine.Verdict, status syncengine.Status, reason satchel.Reason) {
	w.t.Helper()
	if v.Status != status || v.Reason != reason {
		w.t.Errorf("the verdict is %s %s (%s), not %s %s", v.Status, v.Reason, v.Detail, status, reason)
	}
}

func TestBelowTheLimitAQuoteIsApprovedAtOnceAndNobodyIsAsked(t *testing.T) {
	w := newWorld(t)
	ann := w.Phone("Ann")
	q := w.quote(ann, "99999.99")
	ann.MustDo(submit(q))
	if w.state(q) != "approved" || len(w.Records("approval")) != 0 || len(w.Records("notice")) != 0 {
		t.Errorf("the quote is %s", w.state(q))
	}
}

func TestExactlyAHundredThousandWaitsForTheManagerWhoIsToldOnce(t *testing.T) {
	w := newWorld(t)
	_, q, app := w.submitted("100000")
	if w.state(q) != "waiting" || app.Ref("approver") != w.People["Mei"] || app.Ref("initiator") != w.People["Ann"] || app.Ref("subject") != q {
		t.Errorf("the quote is %s, the approval %v", w.state(q), app.Data)
	}
	if w.told("Mei", "approval_waiting") != 1 || len(w.Records("notice")) != 1 {
		t.Error("not the manager alone was told, or not once")
	}
	p, err := w.svc.Preview(t.Context(), w.Principal("Ann", satchel.ID{}), q)
	if err != nil || p.Approver != w.People["Mei"] || p.Node != "manager" {
		t.Errorf("the preview is %+v, %v", p, err)
	}
}

func TestADecisionReachesTheQuoteAndItsInitiator(t *testing.T) {
	for decision, state := range map[string]string{"approve": "approved", "reject": "rejected"} {
		t.Run(decision, func(t *testing.T) {
			w := newWorld(t)
			_, q, app := w.submitted("250000")
			w.Phone("Mei").MustDo(decide(app, decision))
			app, quote := w.Record(app.ID), w.Record(q)
			if app.Text("state") != state || app.Text("decision") != decision || app.Text("comment") != "as agreed" ||
				app.Ref("decided_by") != w.People["Mei"] || app.Text("decided_at") == "" || quote.Text("approval_state") != state {
				t.Errorf("the approval is %v, the quote %v", app.Data, quote.Data)
			}
			if by := quote.Ref("approved_by"); (by == w.People["Mei"]) != (state == "approved") {
				t.Errorf("approved by %v", by)
			}
			if w.told("Ann", "approval_"+state) != 1 {
				t.Error("the initiator was not told once")
			}
		})
	}
}

func TestOfManyDecisionsAtOnceExactlyOneCounts(t *testing.T) {
	w := newWorld(t)
	_, q, app := w.submitted("100000")
	services := []*approval.Service{w.svc, w.register(w.NewReplica()), w.register(w.NewReplica())}
	const n = 24
	verdicts := make([]syncengine.Verdict, n)
	who := w.Principal("Mei", satchel.ID{})
	var g errgroup.Group
	for i := range n {
		g.Go(func() (err error) {
			d := approval.Decision{FormHash: app.Text("form_hash"), Decision: []string{approval.Approve, approval.Reject}[i%2]}
			verdicts[i], err = services[i%len(services)].Decide(t.Context(), who, app.ID, d, satchel.NewID().String())
			if satchel.KindOf(err) == satchel.Contention {
				err = nil // it was told to try again; nothing happened
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	applied := -1
	for i, v := range verdicts {
		switch {
		case v.Status == syncengine.Applied && applied < 0:
			applied = i
		case v.Status == syncengine.Applied:
			t.Error("two decisions count")
		case v.Status != "":
			w.is(v, syncengine.Stale, satchel.ReasonSuperseded)
		}
	}
	if applied < 0 {
		t.Fatal("none counts")
	}
	if want := []string{"approved", "rejected"}[applied%2]; w.state(q) != want || w.Record(app.ID).Text("state") != want {
		t.Errorf("the quote is %s, not %s", w.state(q), want)
	}
	if w.told("Ann", "approval_approved")+w.told("Ann", "approval_rejected") != 1 {
		t.Error("the initiator was not told once")
	}
}

func TestOfManySubmissionsAtOnceOneRuns(t *testing.T) {
	w := newWorld(t)
	ann := w.Phone("Ann")
	q := w.quote(ann, "100000")
	who := w.Principal("Ann", satchel.ID{})
	var g errgroup.Group
	for range 12 {
		g.Go(func() error {
			_, err := w.svc.Submit(t.Context(), who, q, satchel.NewID().String())
			return err
		})
	}
	if err := g.Wait(); err != nil && satchel.KindOf(err) != satchel.Contention {
		t.Fatal(err)
	}
	if len(w.Records("approval")) != 1 || w.told("Mei", "approval_waiting") != 1 {
		t.Errorf("%d approvals run", len(w.Records("approval")))
	}
	w.is(ann.Do(submit(q)), syncengine.Rejected, satchel.ReasonAlreadyRunning)
}

func TestADecisionMadeOfflineAfterTheWithdrawalChangesNothingAndIsKept(t *testing.T) {
	w := newWorld(t)
	ann, q, app := w.submitted("100000")
	mei := w.Phone("Mei")
	offline := mei.Mutation(decide(app, "approve")) // on a phone without a signal
	w.Pass(time.Hour)
	ann.MustDo(withdraw(app))
	w.is(mei.Send(offline)[0], syncengine.Stale, satchel.ReasonSuperseded)
	if w.state(q) != "draft" || w.Record(app.ID).Text("state") != "withdrawn" {
		t.Errorf("the quote is %s", w.state(q))
	}
	if len(w.Records("attention")) != 0 {
		t.Error("a stale decision makes an attention")
	}
	w.Step()
	late, _ := w.Record(app.ID).Data["late"].([]any)
	if len(late) != 1 {
		t.Fatalf("%d late opinions are kept", len(late))
	}
	if o := late[0].(map[string]any); o["by"] != w.People["Mei"].String() || o["decision"] != "approve" || o["comment"] != "as agreed" ||
		!strings.HasPrefix(o["at"].(string), "2026-11-21T08:00:00") {
		t.Errorf("the late opinion is %v", o)
	}
	w.is(mei.Send(offline)[0], syncengine.Stale, satchel.ReasonSuperseded) // its answer was lost
	w.Step()
	if late, _ := w.Record(app.ID).Data["late"].([]any); len(late) != 1 {
		t.Errorf("sent again, it is kept %d times", len(late))
	}
}

func TestOnlyTheNewestLateOpinionsAreKept(t *testing.T) {
	w := newWorld(t)
	_, _, app := w.submitted("100000")
	mei := w.Phone("Mei")
	mei.MustDo(decide(app, "reject"))
	for range 13 {
		mei.Do(enginetest.Command(approval.CommandDecide, approval.Kind, app.ID, map[string]any{"form_hash": "x", "decision": "approve", "comment": strings.Repeat("很", 2000)}))
	}
	w.Step()
	late, _ := w.Record(app.ID).Data["late"].([]any)
	if len(late) != 10 {
		t.Errorf("%d late opinions are kept", len(late))
	}
}

func TestADecisionSentAgainCountsOnceOnlineAndFromADevice(t *testing.T) {
	w := newWorld(t)
	_, _, app := w.submitted("100000")
	mei := w.Phone("Mei")
	m := mei.Mutation(decide(app, "approve"))
	for range 2 {
		w.is(mei.Send(m)[0], syncengine.Applied, "")
	}
	if w.told("Ann", "approval_approved") != 1 {
		t.Error("told twice")
	}
	// Online: a quote below the limit, submitted twice with one key.
	ben := w.Phone("Ben")
	q := w.quote(ben, "100000")
	for range 2 {
		v, err := w.svc.Submit(t.Context(), w.Principal("Ben", satchel.ID{}), q, "k")
		if err != nil {
			t.Fatal(err)
		}
		w.is(v, syncengine.Applied, "")
	}
	if len(w.Records("approval")) != 2 {
		t.Errorf("%d approvals", len(w.Records("approval")))
	}
}

func TestNobodyDecidesHisOwnRequestOrSomebodyElsesTask(t *testing.T) {
	w := newWorld(t)
	ann, q, app := w.submitted("100000")
	w.is(ann.Do(decide(app, "approve")), syncengine.Rejected, satchel.ReasonForbidden)
	w.is(w.Phone("Ben").Do(decide(app, "approve")), syncengine.Rejected, satchel.ReasonRecordUnknown)
	w.is(w.Phone("Dina").Do(decide(app, "approve")), syncengine.Rejected, satchel.ReasonRecordUnknown) // higher up, and yet not asked
	w.is(w.Phone("Ben").Do(withdraw(app)), syncengine.Rejected, satchel.ReasonRecordUnknown)
	if w.state(q) != "waiting" {
		t.Errorf("the quote is %s", w.state(q))
	}
	// A manager's own quote goes up: nobody above holds the role, so an administrator decides.
	mei := w.Phone("Mei")
	own := w.quote(mei, "100000")
	mei.MustDo(submit(own))
	for _, a := range w.Records("approval") {
		if a.Ref("subject") == own && a.Ref("approver") != w.People["Adi"] {
			t.Errorf("decided by %v", a.Ref("approver"))
		}
	}
}

func TestWithoutAnybodyToDecideNothingIsSubmittedOrPasses(t *testing.T) {
	w := newWorld(t)
	w.ChangeRights(`UPDATE person SET disabled_at = now() WHERE id = ANY($1)`, []satchel.ID{w.People["Mei"], w.People["Adi"]})
	ann := w.Phone("Ann")
	q := w.quote(ann, "100000")
	w.is(ann.Do(submit(q)), syncengine.Rejected, satchel.ReasonInvalid)
	if w.state(q) != "draft" {
		t.Errorf("the quote is %s", w.state(q))
	}
	if _, err := w.svc.Preview(t.Context(), w.Principal("Ann", satchel.ID{}), q); satchel.KindOf(err) != satchel.Precondition {
		t.Errorf("the preview says %v", err)
	}
}

func TestOnlyWhoMayChangeAQuoteSubmitsIt(t *testing.T) {
	w := newWorld(t)
	q := w.quote(w.Phone("Ann"), "100000")
	w.is(w.Phone("Ben").Do(submit(q)), syncengine.Rejected, satchel.ReasonRecordUnknown)
	w.ChangeRights(`UPDATE person SET roles = ARRAY['viewer'] WHERE id = $1`, w.People["Ben"]) // sees the team's
	w.is(w.Phone("Ben").Do(submit(q)), syncengine.Rejected, satchel.ReasonForbidden)
	if _, err := w.svc.Submit(t.Context(), w.Principal("Cem", satchel.ID{}), q, "k"); satchel.KindOf(err) != satchel.NotFound {
		t.Errorf("online: %v", err)
	}
}

func TestWhileItWaitsAndOnceItIsApprovedTheFormsFieldsAreLocked(t *testing.T) {
	w := newWorld(t)
	ann, q, app := w.submitted("100000")
	edit := func(fields map[string]any) syncengine.Verdict {
		return ann.Do(enginetest.Patch("quote", q, w.Record(q).Rev, fields))
	}
	w.is(edit(map[string]any{"amount": 1}), syncengine.Rejected, satchel.ReasonFieldForbidden)
	w.is(edit(map[string]any{"remark": "fine"}), syncengine.Applied, "")
	w.is(ann.Do(enginetest.Create("quote", q, map[string]any{"amount": 1})), syncengine.Rejected, satchel.ReasonFieldForbidden)
	w.is(ann.Do(enginetest.Delete("quote", q, w.Record(q).Rev)), syncengine.Rejected, satchel.ReasonAlreadyRunning)
	w.is(edit(map[string]any{"approval_state": "approved"}), syncengine.Rejected, satchel.ReasonFieldForbidden)

	w.Phone("Mei").MustDo(decide(app, "approve"))
	w.is(edit(map[string]any{"amount": 9000000}), syncengine.Rejected, satchel.ReasonFieldForbidden)
	w.is(ann.Do(submit(q)), syncengine.Rejected, satchel.ReasonAlreadyRunning)
	reopen := enginetest.Command(approval.CommandReopen, "quote", q, nil)
	w.is(w.Phone("Ben").Do(reopen), syncengine.Rejected, satchel.ReasonRecordUnknown)
	ann.MustDo(reopen)
	if w.state(q) != "draft" || w.Record(q).Data["approved_by"] != nil {
		t.Errorf("reopened, the quote is %v", w.Record(q).Data)
	}
	w.is(edit(map[string]any{"amount": 9000000}), syncengine.Applied, "")
	ann.MustDo(submit(q))
	if w.state(q) != "waiting" {
		t.Errorf("the quote is %s", w.state(q))
	}
	w.is(ann.Do(reopen), syncengine.Rejected, satchel.ReasonAlreadyRunning)
}

func TestADecisionIsBoundToTheFormThatWasSeenAndThatStands(t *testing.T) {
	w := newWorld(t)
	_, q, app := w.submitted("100000")
	mei := w.Phone("Mei")
	other := enginetest.Command(approval.CommandDecide, approval.Kind, app.ID, map[string]any{"form_hash": strings.Repeat("0", 64), "decision": "approve"})
	w.is(mei.Do(other), syncengine.Stale, satchel.ReasonStaleForm)
	// The system writes past the lock.
	if v, err := w.Engine.Submit(t.Context(), syncengine.SystemMutation{Org: w.Org, Source: "import", Key: "1",
		Ops: []syncengine.Op{enginetest.Patch("quote", q, 2, map[string]any{"amount": 1})}}); err != nil || v.Status != syncengine.Applied {
		t.Fatal(v, err)
	}
	w.is(mei.Do(decide(app, "approve")), syncengine.Stale, satchel.ReasonStaleForm)
	w.is(mei.Do(decide(app, "maybe")), syncengine.Rejected, satchel.ReasonBadValue)
	if w.state(q) != "waiting" {
		t.Errorf("the quote is %s", w.state(q))
	}
	mei.MustDo(decide(app, "reject"))
}

// S21: the frozen form is the approver's to see, the quote is not.
func TestAnApproverWithoutRightsOnTheQuoteSeesTheFrozenForm(t *testing.T) {
	w := newWorld(t)
	w.ChangeRights(`UPDATE person SET disabled_at = now() WHERE id = $1`, w.People["Mei"])
	pack := strings.Replace(string(schema.DefaultPack()), "quote: {read: all, create: true, update: all, delete: all}", "", 1)
	if _, err := w.Engine.PublishSchema(t.Context(), w.Org, []byte(pack)); err != nil {
		t.Fatal(err)
	}
	_, q, app := w.submitted("100000")
	adi := w.Principal("Adi", satchel.ID{})
	if app.Ref("approver") != adi.Person {
		t.Fatal("the administrator is not asked")
	}
	if rec, err := w.Engine.Visible(t.Context(), adi, q); err != nil || rec != nil {
		t.Fatalf("the quote is visible: %v", err)
	}
	seen, err := w.Engine.Visible(t.Context(), adi, app.ID)
	if err != nil || seen == nil {
		t.Fatal("the approval is not visible", err)
	}
	form, _ := seen.Data["form"].(map[string]any)
	if form["title"] != "Pumps" || !schema.Equal(form["amount"], w.Record(q).Data["amount"]) || len(form) != 5 {
		t.Errorf("the form is %v", form)
	}
	v, err := w.svc.Decide(t.Context(), adi, app.ID, approval.Decision{FormHash: seen.Text("form_hash"), Decision: approval.Approve}, "k")
	if err != nil {
		t.Fatal(err)
	}
	w.is(v, syncengine.Applied, "")
	if w.state(q) != "approved" {
		t.Errorf("the quote is %s", w.state(q))
	}
}

func TestAQuoteThatAPhoneCreatedAndSubmittedOfflineIsSubmittedInOneBatch(t *testing.T) {
	w := newWorld(t)
	ann := w.Phone("Ann")
	account, q := ann.Account(), satchel.NewID()
	for _, v := range ann.Send(ann.Mutation(enginetest.Create("quote", q, map[string]any{"account": account, "title": "Pumps", "amount": 100000})), ann.Mutation(submit(q))) {
		w.is(v, syncengine.Applied, "")
	}
	if w.state(q) != "waiting" {
		t.Errorf("the quote is %s", w.state(q))
	}
	w.Phone("Mei").MustDo(decide(w.Records("approval")[0], "approve"))
}

func TestAFlowThatIsNoLongerPublishedLeavesItsTaskDecidable(t *testing.T) {
	w := newWorld(t)
	_, q, app := w.submitted("100000")
	pack := strings.Replace(string(schema.DefaultPack()), "name: quote_amount", "name: quote_new", 1)
	if _, err := w.Engine.PublishSchema(t.Context(), w.Org, []byte(pack)); err != nil {
		t.Fatal(err)
	}
	w.Phone("Mei").MustDo(decide(app, "approve"))
	if s := w.state(q); s != "approved" {
		t.Errorf("the quote is %s", s)
	}
}

func TestAKindWithoutAFlowIsNotSubmittedAndTheSystemsCommandIsNoPersons(t *testing.T) {
	w := newWorld(t)
	ann := w.Phone("Ann")
	account := ann.Account()
	w.is(ann.Do(enginetest.Command(approval.CommandSubmit, "account", account, nil)), syncengine.Rejected, satchel.ReasonInvalid)
	w.is(ann.Do(enginetest.Command(approval.CommandDecide, "account", account, map[string]any{"decision": "approve"})), syncengine.Rejected, satchel.ReasonMalformed)
	_, _, app := w.submitted("100000")
	w.is(ann.Do(enginetest.Command(approval.Job, approval.Kind, app.ID, map[string]any{})), syncengine.Rejected, satchel.ReasonUnknownCommand)
	if _, err := w.svc.Withdraw(t.Context(), w.Principal("Ann", satchel.ID{}), app.ID, ""); satchel.KindOf(err) != satchel.Invalid {
		t.Errorf("without a key: %v", err)
	}
}
