package model

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

// fate is what the database says of a mutation.
type fate struct {
	status string
	paths  []struct {
		Record satchel.ID `json:"r"`
		Path   string     `json:"p"`
	}
}

func (f fate) applied() bool {
	return f.status == "APPLIED" || f.status == "MERGED" || f.status == "CONFLICTED"
}

// ledger reads the fates of all mutations, by their random ids.
func (m *Model) ledger(ctx context.Context) (map[satchel.ID]fate, error) {
	rows, err := m.DB.Query(ctx, `SELECT ids, verdicts FROM ledger WHERE org_id = $1`, m.Org)
	if err != nil {
		return nil, err
	}
	out := map[satchel.ID]fate{}
	var ids []satchel.ID
	var raw []byte
	_, err = pgx.ForEachRow(rows, []any{&ids, &raw}, func() error {
		var verdicts []json.RawMessage
		if len(raw) > 0 {
			if err := json.Unmarshal(raw, &verdicts); err != nil {
				return err
			}
		}
		for i, id := range ids {
			f := fate{status: "APPLIED"}
			if verdicts != nil {
				var v struct {
					Status string          `json:"s"`
					Paths  json.RawMessage `json:"paths"`
				}
				if err := json.Unmarshal(verdicts[i], &v); err != nil {
					return err
				}
				f.status = v.Status
				if len(v.Paths) > 0 {
					if err := json.Unmarshal(v.Paths, &f.paths); err != nil {
						return err
					}
				}
			}
			if was, twice := out[id]; twice && was.status != f.status {
				m.Fail("S2", "mutation %s has two fates: %s and %s", id, was.status, f.status)
			}
			out[id] = f
		}
		return nil
	})
	return out, err
}

// kept reads every text that the office keeps beside the records themselves, and the attentions by person.
func (m *Model) kept(ctx context.Context) (all string, attentions map[string]string, err error) {
	var b strings.Builder
	attentions = map[string]string{}
	rows, err := m.DB.Query(ctx, `SELECT coalesce(before::text, '') || coalesce(lost::text, '') FROM history WHERE org_id = $1
		UNION ALL SELECT data::text FROM record WHERE org_id = $1
		UNION ALL SELECT mutation::text FROM kept WHERE org_id = $1`, m.Org)
	if err != nil {
		return "", nil, err
	}
	var s, person string
	if _, err := pgx.ForEachRow(rows, []any{&s}, func() error { b.WriteString(s); return nil }); err != nil {
		return "", nil, err
	}
	// A closed attention that opens again begins anew; its earlier items are in its history.
	if rows, err = m.DB.Query(ctx, `SELECT r.data ->> 'person', r.data::text || coalesce((SELECT string_agg(h.before::text, '') FROM history h
		WHERE h.org_id = $1 AND h.record_id = r.id), '') FROM record r WHERE r.org_id = $1 AND r.kind = 'attention'`, m.Org); err != nil {
		return "", nil, err
	}
	_, err = pgx.ForEachRow(rows, []any{&person, &s}, func() error { attentions[person] += s; return nil })
	return b.String(), attentions, err
}

// CheckLedger proves S1 to S4 and S8: each mutation has one fate, the fate that phones were told, and the records hold
// exactly what the fates say. owed are the mutations of which phones await a fate, by the phone's name.
func (m *Model) CheckLedger(ctx context.Context, o *Office, owed map[string][]satchel.ID) error {
	fates, err := m.ledger(ctx)
	if err != nil {
		return err
	}
	kept, attentions, err := m.kept(ctx)
	if err != nil {
		return err
	}
	for phone, ids := range owed {
		for _, id := range ids {
			if _, ok := fates[id]; !ok {
				m.Fail("S3", "mutation %s of %s was lost", id, phone)
			}
		}
	}
	counts := map[string]int64{}
	for id, f := range fates {
		mut := m.Muts[id]
		if mut == nil {
			m.Fail("S2", "the ledger has mutation %s, which nobody recorded", id)
			continue
		}
		if f.applied() {
			for _, op := range mut.Ops {
				for _, inc := range op.GetPatch().GetIncrements() {
					counts[op.RecordId] += inc.By
				}
			}
		}
		m.checkEffects(o, mut, f)
		mut.offered(func(record, field, value string) {
			if !strings.Contains(kept, quoted(value)) {
				m.Fail("S8", "%q, offered for %s of %s by %s (%s), is nowhere", value, field, record, mut.Phone, f.status)
			}
			for _, path := range f.paths {
				if f.applied() && path.Record.String() == record && path.Path == field && !strings.Contains(attentions[mut.Person.String()], quoted(value)) {
					m.Fail("S8", "%s of %s lost %q of %s (%s) and nobody was told", field, record, value, mut.Phone, f.status)
				}
			}
		})
	}
	for id, mut := range m.Muts {
		for _, v := range mut.Verdicts {
			if f, ok := fates[id]; !ok || "STATUS_"+f.status != v.Status.String() {
				m.Fail("S1", "%s heard %s of mutation %s, the ledger says %q", mut.Phone, v.Status, id, f.status)
			}
		}
	}
	for id, st := range o.all {
		if st.rec.Kind != "account" {
			continue
		}
		has, _ := st.rec.Data["visit_count"].(float64)
		if want := counts[id.String()]; int64(has) != want {
			m.Fail("S2", "the account %s counts %v, its increments make %d", id, has, want)
		}
	}
	return nil
}

// quoted is a unique value as jsonb writes it.
func quoted(value string) string { return `"` + value + `"` }

// checkEffects proves that all of a mutation is there, or nothing.
func (m *Model) checkEffects(o *Office, mut *Mutation, f fate) {
	for _, op := range mut.Ops {
		if _, ok := op.Action.(*satchelv1.Op_Create); !ok {
			continue
		}
		if _, there := o.all[satchel.MustParseID(op.RecordId)]; there != f.applied() {
			m.Fail("S4", "mutation %s of %s is %s, and its %s %s is there: %v", mut.ID, mut.Phone, f.status, op.Kind, op.RecordId, there)
		}
	}
}
