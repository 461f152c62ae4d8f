package schema_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/satchel-sync/satchel/schema"
)

func pack(t *testing.T) *schema.Schema {
	t.Helper()
	s, err := schema.Default()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTheFieldSalesPackLoadsWithItsTwelveKinds(t *testing.T) {
	t.Parallel()
	want := []string{"account", "approval", "attention", "contact", "notice", "person", "photo", "quote", "task", "team", "visit", "voice_note"}
	s := pack(t)
	if got := s.Kinds(); !slices.Equal(got, want) {
		t.Errorf("kinds %v, want %v", got, want)
	}
	if want := []string{"admin", "assistant", "director", "manager", "rep", "viewer"}; !slices.Equal(s.Roles(), want) {
		t.Errorf("roles %v, want %v", s.Roles(), want)
	}
}

// Nothing but commands and the server may write what devices must not forge.
func TestWhatOnlyTheServerMayWriteIsServerOnlyInThePack(t *testing.T) {
	t.Parallel()
	s := pack(t)
	writable := map[string][]string{"approval": nil, "person": nil, "team": nil, "notice": {"read"}, "attention": {"open"}}
	for kind, want := range writable {
		var got []string
		for _, f := range s.Kind(kind).Fields() {
			if f.Merge != schema.ServerOnly {
				got = append(got, f.Name)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: devices may write %v, want %v", kind, got, want)
		}
		for _, role := range s.Roles() {
			if g := s.Role(role).Kinds[kind]; g.Create || g.Delete != schema.None {
				t.Errorf("role %s may create or delete %s", role, kind)
			}
		}
	}
	for path, want := range map[string]schema.Policy{
		"quote.approval_state": schema.ServerOnly, "quote.approved_by": schema.ServerOnly, "photo.blob_state": schema.ServerOnly,
		"photo.evidence": schema.ServerOnly, "photo.blob": schema.Immutable, "account.visit_count": schema.Counter,
		"account.tags": schema.SetMerge, "account.level": schema.Ask, "visit.visited_at": schema.Min, "visit.left_at": schema.Max,
	} {
		kind, field, _ := strings.Cut(path, ".")
		if got := s.Kind(kind).Field(field).Merge; got != want {
			t.Errorf("%s merges by %s, want %s", path, got, want)
		}
	}
}

func TestRepsDoNotSeeCreditLimitsAndAssistantsSeeMobilesInPart(t *testing.T) {
	t.Parallel()
	s := pack(t)
	if r := s.Role("rep").Kinds["account"].Fields["credit_limit"]; r != schema.Hidden {
		t.Errorf("a rep's right to credit_limit is %q", r)
	}
	for _, role := range []string{"assistant", "viewer"} {
		if r := s.Role(role).Kinds["contact"].Fields["mobile"]; r != schema.Masked {
			t.Errorf("the %s's right to mobile is %q", role, r)
		}
		if r := s.Role(role).Kinds["account"].Fields["credit_limit"]; r != schema.Hidden {
			t.Errorf("the %s's right to credit_limit is %q", role, r)
		}
	}
}

func TestTheRulesAndFlowsOfThePackAreRead(t *testing.T) {
	t.Parallel()
	s := pack(t)
	due := s.Rules[0]
	if due.Name != "follow_up_due" || due.Kind != "visit" || due.Anchor != "follow_up_at" || due.OffsetMS != 0 || due.Template != "follow_up_due" {
		t.Errorf("rule %+v", due)
	}
	for outcome, want := range map[string]bool{"lost": false, "interested": true} {
		got, err := due.When.True(map[string]map[string]any{"new": {"outcome": outcome}})
		if err != nil || got != want {
			t.Errorf("outcome %s: %v, %v", outcome, got, err)
		}
	}
	if task := s.Rules[1]; task.OffsetMS != -3_600_000 {
		t.Errorf("offset %d ms, want an hour before", task.OffsetMS)
	}
	want := schema.Flow{Name: "quote_amount", Kind: "quote", AmountField: "amount", Limit: "100000", Node: "manager",
		Approver: "manager", Role: "manager", StateField: "approval_state"}
	got := *s.Flows[0]
	if !slices.Equal(got.FormFields, []string{"title", "amount", "currency", "discount", "lines"}) {
		t.Errorf("form %v", got.FormFields)
	}
	if got.FormFields = nil; got.Name != want.Name || got.Limit != want.Limit || got.StateField != want.StateField || got.Approver != want.Approver {
		t.Errorf("flow %+v, want %+v", got, want)
	}
	for _, key := range []string{"follow_up_due", "task_due", "approval_waiting", "approval_approved", "approval_rejected", "attention_new"} {
		if text := s.Templates[key]; text.ZH == "" || text.EN == "" {
			t.Errorf("template %s: %+v", key, text)
		}
	}
}
