package approval

import (
	"encoding/json"
	"math/rand/v2"
	"testing"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/access"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine"
)

func flow(t *testing.T) *schema.Flow {
	t.Helper()
	s, err := schema.Default()
	if err != nil {
		t.Fatal(err)
	}
	return flowOf(s, "quote")
}

func TestAnAmountAtTheLimitNeedsADecisionAndSoDoesOneThatCannotBeRead(t *testing.T) {
	t.Parallel()
	f := flow(t)
	for amount, want := range map[string]bool{"0": false, "99999.999999": false, "100000": true, "100000.0": true, "100000.000001": true, "1e5": true,
		"999999999999999999": true, "-1": false} {
		rec := &schema.Record{Data: map[string]any{"amount": json.Number(amount)}}
		if got := needed(f, rec); got != want {
			t.Errorf("%s needs a decision: %v", amount, got)
		}
	}
	for _, v := range []any{nil, "99999", true} {
		if !needed(f, &schema.Record{Data: map[string]any{"amount": v}}) {
			t.Errorf("the amount %v passes", v)
		}
	}
}

func TestTheNearestHolderDecidesElseAnAdministratorNeverOneself(t *testing.T) {
	t.Parallel()
	f := flow(t)
	id := func() satchel.ID { return satchel.NewID() }
	head, north, empty := id(), id(), id()
	ann, mei, dina, adi, ada := id(), id(), id(), id(), id()
	person := func(p, team satchel.ID, off bool, roles ...string) access.Person {
		return access.Person{ID: p, Team: team, Roles: roles, Disabled: off}
	}
	tree := map[satchel.ID]satchel.ID{head: {}, north: head, empty: head}
	all := []access.Person{person(ann, north, false, "rep"), person(mei, north, false, "manager"), person(dina, head, false, "manager"),
		person(adi, empty, false, "admin"), person(ada, empty, true, "admin")}
	lowest := id()
	for _, c := range []struct {
		name             string
		people           []access.Person
		initiator, owner satchel.ID
		want             satchel.ID
	}{
		{"a rep's manager", all, ann, ann, mei},
		{"a manager's manager, not himself", all, mei, mei, dina},
		{"nobody above: an administrator elsewhere", all, dina, dina, adi},
		{"the owner does not decide for himself through another", all, ann, mei, adi},
		{"a disabled manager is passed by", []access.Person{all[0], person(mei, north, true, "manager"), all[2]}, ann, ann, dina},
		{"somebody without a team", []access.Person{person(lowest, satchel.ID{}, false, "rep"), all[3]}, lowest, lowest, adi},
		{"the only administrator does not decide for himself", all[3:], adi, adi, satchel.ID{}},
		{"nobody at all", all[:1], ann, ann, satchel.ID{}},
	} {
		got, ok := approver(access.NewDirectory(1, c.people, tree), f, c.initiator, c.owner)
		if got != c.want || ok != !c.want.IsZero() {
			t.Errorf("%s: %v %v", c.name, got, ok)
		}
	}
}

func TestWhatADecisionMakesOfATask(t *testing.T) {
	t.Parallel()
	ann, mei, cem := satchel.NewID(), satchel.NewID(), satchel.NewID()
	waiting := task{state: stateWaiting, initiator: ann, approver: mei, formHash: "h"}
	fine := opinion{by: mei, decision: Approve, formHash: "h", formStands: true}
	with := func(o opinion, fn func(*opinion)) opinion { fn(&o); return o }
	was := func(state string) task { tk := waiting; tk.state = state; return tk }
	for _, c := range []struct {
		name   string
		task   task
		o      opinion
		state  string
		status syncengine.Status
		reason satchel.Reason
	}{
		{"approve", waiting, fine, stateApproved, "", ""},
		{"reject", waiting, with(fine, func(o *opinion) { o.decision = Reject }), stateRejected, "", ""},
		{"reject what changed", waiting, with(fine, func(o *opinion) { o.decision, o.formStands = Reject, false }), stateRejected, "", ""},
		{"approve what changed", waiting, with(fine, func(o *opinion) { o.formStands = false }), "", syncengine.Stale, satchel.ReasonStaleForm},
		{"another form", waiting, with(fine, func(o *opinion) { o.formHash = "g" }), "", syncengine.Stale, satchel.ReasonStaleForm},
		{"reject another form", waiting, with(fine, func(o *opinion) { o.formHash, o.decision = "g", Reject }), "", syncengine.Stale, satchel.ReasonStaleForm},
		{"one's own", waiting, with(fine, func(o *opinion) { o.by = ann }), "", syncengine.Rejected, satchel.ReasonForbidden},
		{"somebody else's", waiting, with(fine, func(o *opinion) { o.by = cem }), "", syncengine.Stale, satchel.ReasonReassigned},
		{"approved", was(stateApproved), fine, "", syncengine.Stale, satchel.ReasonSuperseded},
		{"rejected", was(stateRejected), fine, "", syncengine.Stale, satchel.ReasonSuperseded},
		{"withdrawn", was(stateWithdrawn), fine, "", syncengine.Stale, satchel.ReasonSuperseded},
	} {
		state, r := decide(c.task, c.o)
		if r == nil {
			r = &syncengine.Refusal{}
		}
		if state != c.state || r.Status != c.status || r.Reason != c.reason {
			t.Errorf("%s: %q %s %s", c.name, state, r.Status, r.Reason)
		}
	}
}

// The path is a function of its inputs (I5), and whatever these are, a task is decided by its approver once.
func TestAnySequenceOfDecisionsAndWithdrawalsSettlesATaskOnceAndTheSameWayEachTime(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	people := []satchel.ID{satchel.NewID(), satchel.NewID(), satchel.NewID()}
	pick := func(s ...string) string { return s[rng.IntN(len(s))] }
	settled := 0
	for range 3000 {
		start := task{state: stateWaiting, initiator: people[0], approver: people[1], formHash: "h"}
		steps := make([]opinion, 1+rng.IntN(8))
		for i := range steps {
			steps[i] = opinion{by: people[rng.IntN(3)], decision: pick(Approve, Reject, stateWithdrawn),
				formHash: pick("h", "h", "g"), formStands: rng.IntN(3) > 0}
		}
		play := func() (string, int) {
			now, changes := start, 0
			for _, o := range steps {
				next, r := decide(now, o)
				if o.decision == stateWithdrawn {
					next, r = withdraw(now, o.by == now.initiator)
				}
				if (r == nil) == (next == "") {
					t.Fatalf("%+v on %+v gives both or neither", o, now)
				}
				if r != nil {
					continue
				}
				changes++
				if now.state != stateWaiting {
					t.Fatalf("%+v changed a settled task", o)
				}
				if next == stateApproved && (o.by != now.approver || o.by == now.initiator || o.formHash != now.formHash || !o.formStands) {
					t.Fatalf("%+v approved", o)
				}
				now.state = next
			}
			return now.state, changes
		}
		state, changes := play()
		if again, _ := play(); again != state || changes > 1 {
			t.Fatalf("%+v: %s, then %s, after %d changes", steps, state, again, changes)
		}
		settled += changes
	}
	if settled < 500 {
		t.Errorf("only %d of 3000 sequences settled anything", settled)
	}
}

func TestAHashIsOfTheFormAloneAndOfAllOfIt(t *testing.T) {
	t.Parallel()
	f := flow(t)
	rec := &schema.Record{Rev: 1, Data: map[string]any{"title": "a<b>&", "amount": json.Number("1"), "remark": "x"}}
	hash := func(r *schema.Record) string {
		h, err := hashOf(freeze(f, r))
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	first := hash(rec)
	// {"amount":1,"currency":null,"discount":null,"lines":null,"title":"a<b>&"}
	if first != "e34e092e5ce5db600026e5c23f6906237c4f1eef6459d3b82ce8f1143623125b" {
		t.Errorf("the hash is %s", first)
	}
	rec.Data["remark"] = "y"
	if hash(rec) != first || !stands(freeze(f, rec), rec) {
		t.Error("a field that the form does not show changes it")
	}
	form := any(freeze(f, rec))
	for name, v := range map[string]any{"title": "b", "amount": json.Number("2"), "discount": json.Number("5"), "lines": []any{}} {
		other := rec.Clone()
		other.Data[name] = v
		if hash(other) == first || stands(form, other) {
			t.Errorf("another %s is the same form", name)
		}
	}
	same := rec.Clone()
	same.Data["amount"] = json.Number("1.0")
	if !stands(form, same) {
		t.Error("the same number in another spelling is another form")
	}
}
