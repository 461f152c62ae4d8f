package model

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

// fate is what the database says of a mutation.
type fate struct {
	status string
	paths  []lostPath
}

type lostPath struct {
	Record satchel.ID `json:"r"`
	Path   string     `json:"p"`
}

func (f fate) applied() bool {
	return f.status == "APPLIED" || f.status == "MERGED" || f.status == "CONFLICTED"
}

// ledger reads the fates of all mutations, by their random ids. One has several only where the ledger was trimmed and
// then a phone came back from before that.
func (m *Model) ledger(ctx context.Context) (map[satchel.ID][]fate, error) {
	rows, err := m.DB.Query(ctx, `SELECT ids, verdicts FROM ledger WHERE org_id = $1`, m.Org)
	if err != nil {
		return nil, err
	}
	out := map[satchel.ID][]fate{}
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
					Status string     `json:"s"`
					Paths  []lostPath `json:"paths"`
				}
				if err := json.Unmarshal(verdicts[i], &v); err != nil {
					return err
				}
				f.status, f.paths = v.Status, v.Paths
			}
			if was, twice := out[id]; twice && was[0].status != f.status {
				m.Fail("S2", "mutation %s has two fates: %s and %s", id, was[0].status, f.status)
			}
			out[id] = []fate{f}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for id, old := range m.past {
		for _, f := range old {
			if !slices.ContainsFunc(out[id], func(g fate) bool { return g.status == f.status }) {
				out[id] = append(out[id], f)
			}
		}
	}
	return out, nil
}

// Remember notes what the database says of mutations, before it may forget: runs of the ledger, and what was kept and is
// closed, go after some time.
func (m *Model) Remember(ctx context.Context) (err error) {
	if m.past, err = m.ledger(ctx); err != nil {
		return err
	}
	if m.closed, err = m.states(ctx); err != nil {
		return err
	}
	var texts string
	if err := m.DB.QueryRow(ctx, `SELECT coalesce(string_agg(mutation::text, ''), '') FROM kept WHERE org_id = $1 AND state <> 'open'`,
		m.Org).Scan(&texts); err != nil {
		return err
	}
	m.texts += texts
	return nil
}

// states reads the states of kept mutations. One that conflicts took effect, but for what a person must choose.
func (m *Model) states(ctx context.Context) (map[satchel.ID]string, error) {
	rows, err := m.DB.Query(ctx, `SELECT id, CASE status WHEN 'CONFLICTED' THEN 'applied' ELSE state END FROM kept WHERE org_id = $1`, m.Org)
	if err != nil {
		return nil, err
	}
	out := maps.Clone(m.closed)
	if out == nil {
		out = map[satchel.ID]string{}
	}
	var id satchel.ID
	var state string
	_, err = pgx.ForEachRow(rows, []any{&id, &state}, func() error {
		if out[id] != "applied" { // a copy of it under another number
			out[id] = state
		}
		return nil
	})
	return out, err
}

// Gone tells whether the database has lost the commit.
func (m *Model) Gone(seq uint64) bool { return seq > m.gone[0] && seq < m.gone[1] }

// Lost forgets what phones heard of commits that the database has lost. What was refused is not offered again.
func (m *Model) Lost(after uint64) {
	const epochShift = 40
	m.gone = [2]uint64{after, (after>>epochShift + 1) << epochShift}
	for id, mut := range m.Muts {
		mut.Verdicts = slices.DeleteFunc(mut.Verdicts, func(v *satchelv1.Verdict) bool {
			if v.Seq <= after {
				return false
			}
			if v.Status == satchelv1.Status_STATUS_REJECTED || v.Status == satchelv1.Status_STATUS_STALE {
				if m.unsent == nil {
					m.unsent = map[satchel.ID]bool{}
				}
				m.unsent[id] = true
			}
			return true
		})
	}
}

// Stands notes a skip or an envelope, which stands for mutations that a phone cannot send; false = it was noted before.
func (m *Model) Stands(mut *satchelv1.Mutation) bool {
	id := satchel.MustParseID(mut.Id)
	if m.stands == nil {
		m.stands = map[satchel.ID]uint64{}
	}
	_, noted := m.stands[id]
	m.stands[id] = max(m.stands[id], mut.GetSkip().GetTo())
	return !noted
}

// kept reads every text that the office keeps beside the records themselves, and the attentions by person.
func (m *Model) kept(ctx context.Context) (all string, attentions map[string]string, err error) {
	var b strings.Builder
	attentions = map[string]string{}
	rows, err := m.DB.Query(ctx, `SELECT coalesce(before::text, '') || coalesce(lost::text, '') FROM history WHERE org_id = $1
		UNION ALL SELECT data::text FROM record WHERE org_id = $1 AND root IS NULL
		UNION ALL SELECT mutation::text FROM kept WHERE org_id = $1 AND mutation IS NOT NULL`, m.Org)
	if err != nil {
		return "", nil, err
	}
	b.WriteString(m.texts)
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
			if _, ok := fates[id]; !ok && !m.unsent[id] {
				m.Fail("S3", "mutation %s of %s was lost", id, phone)
			}
		}
	}
	states, err := m.states(ctx)
	if err != nil {
		return err
	}
	counts := map[satchel.ID]int64{}
	for id, all := range fates {
		mut := m.Muts[id]
		if _, standsIn := m.stands[id]; mut == nil && standsIn {
			continue
		}
		if mut == nil {
			m.Fail("S2", "the ledger has mutation %s, which nobody recorded", id)
			continue
		}
		applied := states[id] == "applied" || slices.ContainsFunc(all, fate.applied)
		if applied {
			for _, op := range mut.Ops {
				for _, inc := range op.GetPatch().GetIncrements() {
					counts[o.rootOf(satchel.MustParseID(op.RecordId))] += inc.By
				}
			}
		}
		m.checkEffects(o, mut, all, applied)
		for _, f := range all {
			m.checkKept(mut, f, states)
			mut.offered(func(record, field, value string) {
				if !strings.Contains(kept, quoted(value)) {
					m.Fail("S8 S9", "%q, offered for %s of %s by %s (%s), is nowhere", value, field, record, mut.Phone, f.status)
				}
				for _, path := range f.paths {
					if f.applied() && path.Record.String() == record && path.Path == field && !strings.Contains(attentions[mut.Person.String()], quoted(value)) {
						m.Fail("S8", "%s of %s lost %q of %s (%s) and nobody was told", field, record, value, mut.Phone, f.status)
					}
				}
			})
		}
	}
	for id, mut := range m.Muts {
		for _, v := range mut.Verdicts {
			if !slices.ContainsFunc(fates[id], func(f fate) bool { return "STATUS_"+f.status == v.Status.String() }) {
				m.Fail("S1", "%s heard %s of mutation %s, the ledger says %v", mut.Phone, v.Status, id, fates[id])
			}
		}
	}
	for id, st := range o.all {
		if st.rec.Kind != "account" || !st.root.IsZero() {
			continue
		}
		has, _ := st.rec.Data["visit_count"].(float64)
		if want := counts[id]; int64(has) != want {
			m.Fail("S2", "the account %s counts %v, its increments make %d", id, has, want)
			for _, mut := range m.Muts {
				for _, op := range mut.Ops {
					for _, inc := range op.GetPatch().GetIncrements() {
						if o.rootOf(satchel.MustParseID(op.RecordId)) == id {
							m.tracef("  by %d: %s of %s, %v, kept %q", inc.By, mut.ID, mut.Phone, fates[mut.ID], states[mut.ID])
						}
					}
				}
			}
			m.traceHistory(ctx, id)
		}
	}
	return nil
}

// traceHistory tells how a count came about.
func (m *Model) traceHistory(ctx context.Context, id satchel.ID) {
	rows, err := m.DB.Query(ctx, `SELECT format('rev %s %s by %s %s number %s: %s lost %s at %s', rev & (1::bigint << 40) - 1, op, device, source, number, before, lost, received_at)
		FROM history WHERE org_id = $1 AND record_id = $2 ORDER BY rev, id`, m.Org, id)
	if err != nil {
		return
	}
	lines, _ := pgx.CollectRows(rows, pgx.RowTo[string]) // for the eye only
	for _, line := range lines {
		m.tracef("    %s", line)
	}
}

// quoted is a unique value as jsonb writes it.
func quoted(value string) string { return `"` + value + `"` }

// checkEffects proves that all of a mutation is there, or nothing.
func (m *Model) checkEffects(o *Office, mut *Mutation, all []fate, applied bool) {
	for _, op := range mut.Ops {
		if _, ok := op.Action.(*satchelv1.Op_Create); !ok {
			continue
		}
		if there := o.has(satchel.MustParseID(op.RecordId)); there != applied {
			m.Fail("S4", "mutation %s of %s is %v, and its %s %s is there: %v", mut.ID, mut.Phone, all, op.Kind, op.RecordId, there)
		}
	}
}

// checkKept proves S5 for the office: what did not take effect as it was sent is kept, or was settled.
func (m *Model) checkKept(mut *Mutation, f fate, states map[satchel.ID]string) {
	if f.status != "REJECTED" && f.status != "CONFLICTED" && f.status != "UNSUPPORTED" {
		return
	}
	for _, op := range mut.Ops {
		if op.GetCommand() != nil {
			return // a lost claim or a decision that came too late is only a verdict
		}
	}
	if states[mut.ID] == "" {
		m.Fail("S5", "mutation %s of %s is %s, and the office does not have it", mut.ID, mut.Phone, f.status)
	}
}
