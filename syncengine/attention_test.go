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
