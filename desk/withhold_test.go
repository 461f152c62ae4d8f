package desk_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/access"
	"github.com/satchel-sync/satchel/desk"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine"
)

func pack(t *testing.T) *schema.Schema {
	t.Helper()
	s, err := schema.Default()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// secret marks every value that an assistant may not read, shown those that he may.
const secret, shown = "SECRET", "SHOWN"

func made(kind string, fields map[string]any) syncengine.Op {
	raw, err := json.Marshal(fields)
	if err != nil {
		panic(err) // the test's own literals
	}
	return syncengine.Op{Action: syncengine.Create, Record: satchel.NewID(), Kind: kind, Fields: raw}
}

func TestS21OpsAreShownUnderTheFieldRightsOfWhoLooks(t *testing.T) {
	t.Parallel()
	s := pack(t)
	patch := made("account", map[string]any{"remark": shown, "credit_limit": secret})
	patch.Action = syncengine.Patch
	patch.Sets = []schema.SetEdit{{Field: "tags", Add: []string{shown}}, {Field: "wechat", Add: []string{secret}}}
	patch.Increments = []schema.Increment{{Field: "visit_count", By: 1}, {Field: "credit_limit", By: 4711}}
	ops := []syncengine.Op{
		made("account", map[string]any{"name": shown, "credit_limit": secret}),
		made("contact", map[string]any{"name": shown, "mobile": secret, "wechat": secret}), // one in part, one not at all
		patch,
		made("attention", map[string]any{"reason": shown, "items": []any{map[string]any{"value": secret}}}), // copies of who knows what
		made("spaceship", map[string]any{"captain": secret}),                                                // nobody knows its rights
		{Action: syncengine.Command, Kind: "account", Name: "account.lend", Args: json.RawMessage(`{"amount": "SECRET"}`)},
		{Action: syncengine.Command, Kind: "visit", Name: "visit.end", Args: json.RawMessage(`{"word": "SHOWN"}`)},
		{Action: syncengine.Patch, Kind: "visit", Fields: json.RawMessage(`{"subject": "SECRET", `)},
		{Action: syncengine.Delete, Kind: "account"},
	}
	before := fmt.Sprintf("%v", ops)
	got, withheld := desk.Withhold(s, access.NewGrants(s, []string{"assistant"}), ops)
	text := told(t, got)
	if strings.Contains(text, secret) || strings.Contains(text, "4711") {
		t.Errorf("an assistant reads %s", text)
	}
	if n := strings.Count(text, shown); n != 6 || len(got) != len(ops) {
		t.Errorf("an assistant reads %d of 6: %s", n, text)
	}
	want := []string{"account.account.lend", "account.credit_limit", "account.wechat", "attention.items", "contact.mobile", "contact.wechat",
		"spaceship.captain", "visit."}
	if !reflect.DeepEqual(withheld, want) {
		t.Errorf("withheld are %v, not %v", withheld, want)
	}
	if after := fmt.Sprintf("%v", ops); after != before {
		t.Error("the ops that were given are changed")
	}

	all, nothing := desk.Withhold(s, access.NewGrants(s, []string{"admin"}), ops)
	if len(nothing) > 0 || told(t, all) != told(t, ops) {
		t.Errorf("who may read every field is withheld %v", nothing)
	}
	none, _ := desk.Withhold(s, access.NewGrants(s, nil), ops)
	if text := told(t, none); strings.Contains(text, secret) || strings.Contains(text, shown) {
		t.Errorf("who may read nothing reads %s", text)
	}
}

// told spells ops, those too whose fields are no JSON.
func told(t *testing.T, ops []syncengine.Op) string {
	t.Helper()
	var b strings.Builder
	for _, op := range ops {
		fmt.Fprintf(&b, "%s %s %s %v %v %s\n", op.Action, op.Kind, op.Fields, op.Sets, op.Increments, op.Args)
	}
	return b.String()
}
