package syncengine_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/enginetest"
	"github.com/satchel-sync/satchel/syncengine"
)

func TestS15ARowThatStandsAsItWasSentTravelsWithoutItsFields(t *testing.T) {
	t.Parallel()
	w := enginetest.New(t)
	p := w.Phone("Ann")
	who := w.Principal("Ann", p.Device)
	page, err := w.Engine.Pull(t.Context(), who, syncengine.PullRequest{})
	if err != nil {
		t.Fatal(err)
	}
	plain, edited, masked := satchel.NewID(), satchel.NewID(), satchel.NewID()
	fields := map[string]any{"name": "Orient", "level": "b", "tags": []string{"b", "a", "a"}, "phone": nil, "deal_amount": json.Number("1.50")}
	out, err := w.Engine.Apply(t.Context(), who, syncengine.Batch{Completes: true, Mutations: []syncengine.Mutation{
		p.Mutation(enginetest.Create("account", plain, fields)),
		p.Mutation(enginetest.Create("account", edited, fields), enginetest.Patch("account", edited, 1, map[string]any{"name": "Occident"})),
		p.Mutation(enginetest.Create("account", masked, map[string]any{"level": "b"})), // without a name: refused
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, refused := out.Sent[masked]; refused || len(out.Verdicts) != 3 {
		t.Fatalf("sent %v, verdicts %v", out.Sent, out.Verdicts)
	}
	next, err := w.Engine.Pull(t.Context(), who, syncengine.PullRequest{Cursor: page.Cursor, Sent: out.Sent})
	if err != nil {
		t.Fatal(err)
	}
	whole, err := w.Engine.Pull(t.Context(), who, syncengine.PullRequest{Cursor: page.Cursor})
	if err != nil {
		t.Fatal(err)
	}
	rows := func(p *syncengine.Page) map[satchel.ID]syncengine.RowChange {
		m := map[satchel.ID]syncengine.RowChange{}
		for _, c := range p.Changes {
			m[c.Record] = c
		}
		return m
	}
	short, long := rows(next), rows(whole)
	if short[edited].AsSent || string(short[edited].Fields) != string(long[edited].Fields) {
		t.Errorf("what was edited since came as %s", short[edited].Fields)
	}
	if !short[plain].AsSent || len(short[plain].Fields) >= len(long[plain].Fields) {
		t.Fatalf("came with %s", short[plain].Fields)
	}
	var over, want map[string]any
	text, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	for raw, to := range map[string]*map[string]any{string(short[plain].Fields): &over, string(long[plain].Fields): &want} {
		if err := json.Unmarshal([]byte(raw), to); err != nil {
			t.Fatal(err)
		}
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	for name, v := range over {
		if got[name] = v; v == nil {
			delete(got, name)
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
