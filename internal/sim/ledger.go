package sim

import (
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
func (w *world) ledger() (map[satchel.ID]fate, error) {
	rows, err := w.db.Query(w.ctx, `SELECT ids, verdicts FROM ledger WHERE org_id = $1`, w.org)
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
				w.fail("S2", "mutation %s has two fates: %s and %s", id, was.status, f.status)
			}
			out[id] = f
		}
		return nil
	})
	return out, err
}

// kept reads every text that the office keeps beside the records themselves, and the attentions by person.
func (w *world) kept() (all string, attentions map[string]string, err error) {
	var b strings.Builder
	attentions = map[string]string{}
	rows, err := w.db.Query(w.ctx, `SELECT coalesce(before::text, '') || coalesce(lost::text, '') FROM history WHERE org_id = $1
		UNION ALL SELECT data::text FROM record WHERE org_id = $1
		UNION ALL SELECT mutation::text FROM parked WHERE org_id = $1`, w.org)
	if err != nil {
		return "", nil, err
	}
	var s, person string
	if _, err := pgx.ForEachRow(rows, []any{&s}, func() error { b.WriteString(s); return nil }); err != nil {
		return "", nil, err
	}
	// A closed attention that opens again begins anew; its earlier items are in its history.
	if rows, err = w.db.Query(w.ctx, `SELECT r.data ->> 'person', r.data::text || coalesce((SELECT string_agg(h.before::text, '') FROM history h
		WHERE h.org_id = $1 AND h.record_id = r.id), '') FROM record r WHERE r.org_id = $1 AND r.kind = 'attention'`, w.org); err != nil {
		return "", nil, err
	}
	_, err = pgx.ForEachRow(rows, []any{&person, &s}, func() error { attentions[person] += s; return nil })
	return b.String(), attentions, err
}

// checkLedger proves S1 to S4 and S8: each mutation has one fate, the fate that phones were told, and the records hold
// exactly what the fates say.
func (w *world) checkLedger(o *office) error {
	fates, err := w.ledger()
	if err != nil {
		return err
	}
	kept, attentions, err := w.kept()
	if err != nil {
		return err
	}
	for _, p := range w.phones {
		for id := range p.owes {
			if _, ok := fates[id]; !ok {
				w.fail("S3", "mutation %s of %s was lost", id, p.name)
			}
		}
	}
	counts := map[string]int64{}
	for id, f := range fates {
		m := w.muts[id]
		if m == nil {
			w.fail("S2", "the ledger has mutation %s, which nobody recorded", id)
			continue
		}
		if f.applied() {
			for _, op := range m.ops {
				for _, inc := range op.GetPatch().GetIncrements() {
					counts[op.RecordId] += inc.By
				}
			}
		}
		w.checkEffects(o, m, f)
		m.offered(func(record, field, value string) {
			if !strings.Contains(kept, quoted(value)) {
				w.fail("S8", "%q, offered for %s of %s by %s (%s), is nowhere", value, field, record, m.phone, f.status)
			}
			for _, path := range f.paths {
				if f.applied() && path.Record.String() == record && path.Path == field && !strings.Contains(attentions[m.person.String()], quoted(value)) {
					w.fail("S8", "%s of %s lost %q of %s (%s) and nobody was told", field, record, value, m.phone, f.status)
				}
			}
		})
	}
	for id, m := range w.muts {
		for _, v := range m.verdicts {
			if f, ok := fates[id]; !ok || "STATUS_"+f.status != v.Status.String() {
				w.fail("S1", "%s heard %s of mutation %s, the ledger says %q", m.phone, v.Status, id, f.status)
			}
		}
	}
	for id, st := range o.all {
		if st.rec.Kind != "account" {
			continue
		}
		has, _ := st.rec.Data["visit_count"].(float64)
		if want := counts[id.String()]; int64(has) != want {
			w.fail("S2", "the account %s counts %v, its increments make %d", id, has, want)
		}
	}
	return nil
}

// quoted is a unique value as jsonb writes it.
func quoted(value string) string { return `"` + value + `"` }

// checkEffects proves that all of a mutation is there, or nothing.
func (w *world) checkEffects(o *office, m *mutation, f fate) {
	for _, op := range m.ops {
		if _, ok := op.Action.(*satchelv1.Op_Create); !ok {
			continue
		}
		if _, there := o.all[satchel.MustParseID(op.RecordId)]; there != f.applied() {
			w.fail("S4", "mutation %s of %s is %s, and its %s %s is there: %v", m.id, m.phone, f.status, op.Kind, op.RecordId, there)
		}
	}
}
