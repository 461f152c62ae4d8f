package syncengine_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine"
)

func TestF26OneOpenAttentionPerPersonAndRecord(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc := ann.account("x")
	for i := range 30 {
		ann.do(patch("account", acc, 0, map[string]any{"credit_limit": i}))
	}
	if n := w.count(`SELECT count(*) FROM record WHERE org_id = $1 AND kind = 'attention'`, w.org); n != 1 {
		t.Errorf("%d attentions for 30 refusals of one record", n)
	}
	ann.pull()
	for id, h := range ann.records {
		if h.kind == "attention" {
			if items, _ := h.fields["items"].([]any); len(items) != 30 {
				t.Errorf("it keeps %d of 30", len(items))
			}
			// Closed, it opens again with the next.
			ann.mustDo(patch("attention", id, h.rev, map[string]any{"open": false}))
		}
	}
	v := ann.do(patch("account", acc, 0, map[string]any{"credit_limit": 99}))
	ann.pull()
	if ann.field(v.Attention, "open") != true || len(ann.field(v.Attention, "items").([]any)) != 1 {
		t.Errorf("%v", ann.records[v.Attention].fields)
	}
}

func TestF26AnAttentionIsBoundedAndWhatItDropsIsInHistory(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc := ann.account("x")
	var v syncengine.Verdict
	for i := range 6 {
		v = ann.do(patch("account", acc, 0, map[string]any{"credit_limit": 1, "remark": fmt.Sprint(i) + strings.Repeat("x", 19_000), "address": strings.Repeat("y", 100)}),
			patch("account", acc, 0, map[string]any{"remark": strings.Repeat("z", 19_000)}), patch("account", acc, 0, map[string]any{"remark": strings.Repeat("w", 19_000)}))
	}
	if n := w.count(`SELECT length(data::text) FROM record WHERE org_id = $1 AND id = $2`, w.org, v.Attention); n > 300<<10 {
		t.Errorf("the attention has %d bytes", n)
	}
	if n := w.count(`SELECT count(*) FROM history WHERE org_id = $1 AND record_id = $2 AND before::text LIKE '%0xxxx%'`, w.org, v.Attention); n == 0 {
		t.Error("what was dropped is in no history")
	}
	ann.pull()
	if !keptIn(ann, v.Attention, "remark", "5"+strings.Repeat("x", 19_000)) {
		t.Error("the newest is not kept")
	}
}

func TestNobodyBlocksOthersByTakingTheIDOfHisAttention(t *testing.T) {
	w := newWorld(t)
	ann, mei := w.phone("Ann"), w.phone("Mei")
	acc := ann.account("x")
	ann.mustDo(create("task", satchel.DerivedID(w.people["Ann"], "attention/"+acc.String()), map[string]any{"title": "mine"}))
	ann.pull()
	mei.pull()
	ann.mustDo(patch("account", acc, 1, map[string]any{"remark": "Ann's"}))
	w.pass(time.Minute)
	if v := mei.do(patch("account", acc, 1, map[string]any{"remark": "Mei's"})); v.Status != syncengine.Applied {
		t.Errorf("%+v", v)
	}
	if v := ann.do(patch("account", acc, 1, map[string]any{"credit_limit": 1})); v.Status != syncengine.Rejected {
		t.Errorf("%+v", v)
	}
}

func TestF10VerdictsContainNoValues(t *testing.T) {
	w := newWorld(t)
	ann, mei := w.phone("Ann"), w.phone("Mei")
	acc := ann.account("x")
	ann.pull()
	mei.mustDo(patch("account", acc, 1, map[string]any{"remark": "a secret of Mei", "level": "a"}))
	for _, v := range []syncengine.Verdict{
		ann.do(patch("account", acc, 1, map[string]any{"level": "b"})),
		ann.do(patch("account", acc, 1, map[string]any{"credit_limit": 4711})),
		ann.do(create("visit", satchel.NewID(), map[string]any{"account": acc.String(), "subject": "4711", "satisfaction": 4711})),
	} {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if v.Status == syncengine.Applied || strings.Contains(string(text), "4711") || strings.Contains(string(text), "secret") {
			t.Errorf("%s", text)
		}
	}
}

func TestF11APersonWhoLosesToARuleIsTold(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc := ann.account("x")
	ann.pull()
	offline := ann.mutation(patch("account", acc, 1, map[string]any{"remark": "Ann's", "region": "Ann's"}))
	w.pass(time.Hour)
	if _, err := w.engine.Submit(context.Background(), syncengine.SystemMutation{Org: w.org, Source: "rule:x", Key: "1", Ops: []syncengine.Op{
		patch("account", acc, 1, map[string]any{"remark": "the rule's", "region": "the rule's"})}}); err != nil {
		t.Fatal(err)
	}
	v := ann.send(offline)[0]
	ann.pull()
	if v.Status != syncengine.Merged || !keptIn(ann, v.Attention, "remark", "Ann's") || !keptIn(ann, v.Attention, "region", "Ann's") {
		t.Errorf("%+v", v)
	}
}

func TestF26ARuleThatOverrulesAPersonTellsHim(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc := ann.account("x")
	ann.mustDo(patch("account", acc, 1, map[string]any{"remark": "Ann's"}))
	w.pass(time.Hour)
	if _, err := w.engine.Submit(context.Background(), syncengine.SystemMutation{Org: w.org, Source: "rule:x", Key: "1", Ops: []syncengine.Op{
		patch("account", acc, 1, map[string]any{"remark": "the rule's, made on sight of rev 1"})}}); err != nil {
		t.Fatal(err)
	}
	ann.pull()
	if ann.kinds()["attention"] != 1 {
		t.Errorf("%v", w.show(ann))
	}
}

func TestS21CopiesOfAKindThatIsReadNoLongerAreWithheld(t *testing.T) {
	w := newWorld(t)
	mei, dina := w.phone("Mei"), w.phone("Dina")
	acc, quote := satchel.NewID(), satchel.NewID()
	mei.mustDo(create("account", acc, map[string]any{"name": "x"}), create("quote", quote, map[string]any{"account": acc.String(), "title": "q", "amount": 1}))
	mei.pull()
	dina.pull()
	offline := mei.mutation(patch("quote", quote, mei.records[quote].rev, map[string]any{"title": "Mei's"}))
	w.pass(time.Hour)
	dina.mustDo(patch("quote", quote, dina.records[quote].rev, map[string]any{"title": "Dina's"}))
	v := mei.send(offline)[0]
	mei.pull()
	if !keptIn(mei, v.Attention, "title", "Mei's") {
		t.Fatalf("%+v", v)
	}
	// A pack in which managers do not read quotes, with the same masks as before.
	pack := strings.Replace(string(schema.DefaultPack()), "      quote: {read: team, create: true, update: team, delete: team}\n", "", 1)
	if _, err := w.engine.PublishSchema(context.Background(), w.org, []byte(pack)); err != nil {
		t.Fatal(err)
	}
	mei.pull()
	if mei.has(quote) || !mei.has(v.Attention) || keptIn(mei, v.Attention, "title", "Mei's") {
		t.Errorf("%v: %v", w.show(mei), mei.field(v.Attention, "items"))
	}
}

func TestAPackThatWouldLoseSomethingIsNotPublished(t *testing.T) {
	w := newWorld(t)
	whole := string(schema.DefaultPack())
	for want, pack := range map[string]string{
		"no kind attention":     strings.ReplaceAll(whole, "attention", "reminder"),
		"cannot hold":           strings.Replace(whole, "choices: [conflict, refused, possible_double]", "choices: [conflict]", 1),
		"asks for more":         strings.Replace(whole, "{name: mutation, type: json,", "{name: mutation, type: json, required: true,", 1),
		"account.phone is gone": strings.Replace(whole, "      - {name: phone, type: text, max_length: 40, label: {zh: 电话, en: Phone}}\n", "", 1),
		"was of type decimal":   strings.Replace(whole, "{name: deal_amount, type: decimal", "{name: deal_amount, type: integer", 1),
	} {
		_, err := w.engine.PublishSchema(context.Background(), w.org, []byte(pack))
		if satchel.ReasonOf(err) != satchel.ReasonMalformed || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestAnAttentionTellsWhoWroteWhatStands(t *testing.T) {
	w := newWorld(t)
	ann, tablet, mei := w.phone("Ann"), w.phone("Ann"), w.phone("Mei")
	name := map[string]string{"": "the system", w.people["Ann"].String(): "Ann", w.people["Mei"].String(): "Mei"}
	by := func(p *phone, attention satchel.ID, field string) string {
		t.Helper()
		p.pull()
		items, _ := p.field(attention, "items").([]any)
		for _, it := range items {
			if m := it.(map[string]any); m["field"] == field {
				if who, told := m["by"].(string); told {
					return name[who]
				}
				return "nobody"
			}
		}
		t.Fatalf("no item of %q in %v", field, items)
		return ""
	}
	rule := func(acc satchel.ID, rev uint64, fields map[string]any) {
		t.Helper()
		if _, err := w.engine.Submit(t.Context(), syncengine.SystemMutation{Org: w.org, Source: "rule:x", Key: acc.String() + fmt.Sprint(rev),
			Ops: []syncengine.Op{patch("account", acc, rev, fields)}}); err != nil {
			t.Fatal(err)
		}
	}
	acc, gone, group := ann.account("x"), ann.account("y"), ann.account("z")
	for _, p := range []*phone{ann, tablet, mei} {
		p.pull()
	}

	// What Ann recorded without a network loses to Mei, to a rule, and to what she did on another device.
	mine := ann.mutation(patch("account", acc, 1, map[string]any{"remark": "Ann's", "region": "Ann's", "phone": "1", "tags": []any{"key"}}))
	deal := ann.mutation(patch("account", group, 1, map[string]any{"deal_amount": 5}))
	w.pass(time.Minute)
	mei.mustDo(patch("account", acc, 1, map[string]any{"remark": "Mei's"}))
	tablet.mustDo(patch("account", acc, 1, map[string]any{"phone": "2"}))
	rule(acc, 3, map[string]any{"region": "the rule's"})
	mei.mustDo(patch("account", group, 1, map[string]any{"stage": "won"}))
	mei.mustDo(patch("account", gone, 1, map[string]any{"remark": "stays"}))
	v := ann.send(mine, deal)
	for field, want := range map[string]string{"remark": "Mei", "region": "the system", "phone": "Ann"} {
		if got := by(ann, v[0].Attention, field); got != want {
			t.Errorf("what stands of %s was written by %s, the attention says %s", field, want, got)
		}
	}
	if got := by(ann, v[1].Attention, "deal_amount"); got != "Mei" {
		t.Errorf("what stands of a group of which Mei changed another field is of %s", got)
	}

	// A manager's deletion that met an edit; what stood and was replaced, by a person and by a rule.
	dina := w.phone("Dina")
	dina.pull()
	w.pass(time.Minute)
	ann.mustDo(patch("account", gone, ann.records[gone].rev, map[string]any{"phone": "3"}))
	v[0] = dina.do(syncengine.Op{Action: syncengine.Delete, Record: gone, Kind: "account", BaseRev: 2})
	if v[0].Status != syncengine.Conflicted || by(dina, v[0].Attention, "") != "Ann" {
		t.Errorf("a deletion: %+v", v[0])
	}
	over := satchel.DerivedID(w.people["Ann"], "attention/"+gone.String())
	mei.mustDo(patch("account", gone, 2, map[string]any{"phone": "4"}))
	if got := by(ann, over, "phone"); got != "Mei" {
		t.Errorf("what Mei replaced is of %s", got)
	}
	over = satchel.DerivedID(w.people["Mei"], "attention/"+group.String())
	rule(group, 1, map[string]any{"stage": "lost"})
	if got := by(mei, over, "stage"); got != "the system" {
		t.Errorf("what a rule replaced is of %s", got)
	}
}

func TestAnAttentionTellsWhyTheNewestWasRefused(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc, visit := ann.account("x"), satchel.NewID()
	why := func(v syncengine.Verdict) any {
		t.Helper()
		if v.Status != syncengine.Rejected && v.Status != syncengine.Merged {
			t.Fatalf("%+v", v)
		}
		ann.pull()
		return ann.field(v.Attention, "reason")
	}
	if got := why(ann.do(patch("account", acc, 1, map[string]any{"credit_limit": 1}))); got != "FIELD_FORBIDDEN" {
		t.Errorf("the first: %v", got)
	}
	v := ann.do(patch("account", acc, 1, map[string]any{"name": nil}))
	if got := why(v); got != "INVALID" {
		t.Errorf("the second, for another reason: %v", got)
	}
	if n := w.count(`SELECT count(*) FROM history WHERE org_id = $1 AND record_id = $2 AND before ->> 'reason' = 'FIELD_FORBIDDEN'`, w.org, v.Attention); n != 1 {
		t.Error("the reason that was there is in no history")
	}

	// What waits for a refused creation is refused only because of that.
	v = ann.do(create("visit", visit, map[string]any{"account": acc.String(), "subject": "s", "satisfaction": 9}))
	waits := ann.do(create("task", satchel.NewID(), map[string]any{"title": "t", "account": acc.String()}),
		patch("visit", visit, 0, map[string]any{"subject": "t"}))
	if waits.Reason != satchel.ReasonDependsOn || waits.Attention != v.Attention || why(waits) != "INVALID" {
		t.Errorf("%+v: %v", waits, ann.field(v.Attention, "reason"))
	}

	// Settled, it opens again with a conflict, which nobody refused.
	mei := w.phone("Mei")
	mei.pull()
	att := satchel.DerivedID(w.people["Ann"], "attention/"+acc.String())
	ann.mustDo(patch("attention", att, ann.records[att].rev, map[string]any{"open": false}))
	offline := ann.mutation(patch("account", acc, 1, map[string]any{"remark": "Ann's"}))
	w.pass(time.Minute)
	mei.mustDo(patch("account", acc, 1, map[string]any{"remark": "Mei's"}))
	if v = ann.send(offline)[0]; v.Attention != att || why(v) != nil || ann.field(att, "open") != true {
		t.Errorf("%+v: %v", v, ann.records[att].fields)
	}
}
