package tests_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	satchel "github.com/satchel-sync/satchel"
)

// TestARepairGivesNothingOfSomebodyElse asks for what lies in Ann's buckets and for her rows, as her colleague, as the
// administrator of another organisation, and for buckets and records that nobody has: the answers are the same.
func TestARepairGivesNothingOfSomebodyElse(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	raw := func(id string) string {
		b := satchel.MustParseID(id)
		return base64.StdEncoding.EncodeToString(b[:])
	}
	page := v.ann.must("SyncService/Sync", map[string]any{})["page"].(map[string]any)
	buckets := map[string]bool{}
	for _, one := range page["changes"].([]any) {
		c := one.(map[string]any)
		if c["recordId"] == v.account || c["recordId"] == v.visit {
			for _, b := range c["entered"].([]any) {
				buckets[b.(string)] = true
			}
		}
	}
	if len(buckets) < 2 {
		t.Fatalf("Ann's account and visit lie in %v", buckets)
	}
	rows := func(c *caller, id string) answer {
		return c.call("SyncService/Repair", map[string]any{"rows": map[string]any{"records": raw(id)}})
	}
	if got := rows(v.ann, v.account); got.code != "" || !strings.Contains(string(got.raw), "Orient") {
		t.Fatalf("her own row: %s", got.raw)
	}
	for name, c := range map[string]*caller{"ben": v.ben, "gina": v.gina} {
		none := rows(c, satchel.NewID().String())
		for _, id := range []string{v.account, v.visit, v.photo, v.quote, v.approval} {
			if got := rows(c, id); string(got.raw) != string(none.raw) || got.code != none.code {
				t.Errorf("%s asks for %s: %s, not %s", name, id, got.raw, none.raw)
			}
		}
		for bucket := range buckets {
			for _, kind := range []string{"account", "visit"} {
				ask := func(b string) answer {
					return c.call("SyncService/Repair", fmt.Sprintf(`{"revs": {"bucket": %q, "kind": %q}}`, b, kind))
				}
				// Gina's own buckets may have Ann's numbers; they hold nothing of these kinds.
				if got, none := ask(bucket), ask("123456789"); got.code != none.code || strings.Contains(string(got.raw), "records") {
					t.Errorf("%s asks for the %ss of bucket %s: %s, not %s", name, kind, bucket, got.raw, none.raw)
				}
			}
		}
		plan := c.must("SyncService/Repair", `{"start": {}}`)
		text, err := json.Marshal(plan)
		if err != nil || strings.Contains(string(text), "Orient") {
			t.Errorf("%s's plan: %s %v", name, text, err)
		}
	}
}

// TestWhatAStrangerSalvagesIsHisOwnWordAndChangesNothing sends up rows of somebody else's account: nothing of it stands
// before the office says so.
func TestWhatAStrangerSalvagesIsHisOwnWordAndChangesNothing(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	row := map[string]any{"recordId": v.account, "kind": "account", "rev": "99", "fields": `{"name": "Taken", "credit_limit": 1000000}`, "authorId": v.ann.person}
	send := func() {
		v.ben.must("SyncService/Repair", map[string]any{"salvage": map[string]any{"rows": []any{row}}})
	}
	send()
	if got := v.admin.must("DeskService/ListSalvage", `{}`); len(got) != 0 {
		t.Errorf("of a database that was never restored the desk shows %v", got)
	}
	if err := v.Engine.OpenEpoch(t.Context()); err != nil {
		t.Fatal(err)
	}
	send()
	v.ann.pull()
	if name := v.ann.seen[v.account].fields["name"]; name != "Orient" {
		t.Errorf("the account is %v", name)
	}
	list := v.admin.must("DeskService/ListSalvage", `{}`)
	text, err := json.Marshal(list)
	if err != nil || !strings.Contains(string(text), "Taken") || strings.Contains(string(text), "credit_limit") || !strings.Contains(string(text), v.ben.person) {
		t.Errorf("the desk shows %s %v", text, err)
	}
	if got := v.gina.must("DeskService/ListSalvage", `{}`); len(got) != 0 {
		t.Errorf("another organisation's desk shows %v", got)
	}
	v.admin.must("DeskService/ResolveSalvage", map[string]any{"recordId": v.account})
	if got := v.admin.must("DeskService/ListSalvage", `{}`); len(got) != 0 {
		t.Errorf("after it was discarded the desk shows %v", got)
	}
}
