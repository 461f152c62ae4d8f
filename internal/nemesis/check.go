package nemesis

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/internal/sim/model"
)

// check is the last word, when everything has come to rest.
func (w *world) check() error {
	owed := map[string][]satchel.ID{}
	for _, p := range w.phones {
		if w.stage.restored {
			p.hearAgain()
		}
		for _, m := range p.muts {
			w.model.Muts[m.ID] = m
			w.act.Mutations++
		}
		owed[p.name] = p.owed()
		w.act.Add(p.act)
	}
	for _, p := range w.phones { // a clone hears of what the other had recorded
		for _, h := range p.heard {
			m := w.model.Muts[h.id]
			if m == nil {
				w.fail("S2", "%s got a verdict of a mutation that nobody recorded: %s", p.name, h.id)
				continue
			}
			m.Verdicts = append(m.Verdicts, h.verdict)
		}
	}
	if w.stage.restored {
		if err := w.forgetRefused(owed); err != nil {
			return err
		}
		if err := w.checkBroughtBack(); err != nil {
			return err
		}
	}
	o, err := w.model.Office(w.ctx)
	if err != nil {
		return err
	}
	if err := w.model.CheckLedger(w.ctx, o, owed); err != nil {
		return err
	}
	if err := w.model.CheckPlaces(w.ctx, o); err != nil {
		return err
	}
	if err := w.checkOrder(); err != nil {
		return err
	}
	fresh := map[string]*phone{}
	defer func() {
		for _, p := range fresh {
			p.close()
		}
	}()
	for _, p := range w.phones {
		w.model.CheckPairs(w.ctx, p.holder())
		w.model.Compare(w.ctx, p.holder(), o)
		twin := fresh[p.login]
		if twin == nil {
			if twin, err = w.newPhone(1000+2*len(fresh), p.login); err != nil { // an even number keeps its store in memory
				return err
			}
			fresh[p.login] = twin
			if err := twin.signIn(w.ctx); err != nil {
				return fmt.Errorf("nemesis: a fresh phone of %s cannot sign in: %w", p.login, err)
			}
			if _, err := twin.client.Sync(w.ctx); err != nil {
				w.fail("S20", "a fresh phone of %s cannot sync: %v", p.login, err)
			}
			w.model.Compare(w.ctx, twin.holder(), o)
		}
		if got, want := w.model.All(w.ctx, p.holder()), w.model.All(w.ctx, twin.holder()); got != want {
			w.fail("S13", "%s does not hold what a fresh phone of %s holds: %s", p.name, p.login, model.Difference(got, want))
		}
	}
	return nil
}

// hearAgain takes the phone's log as it is now: what a restored database had lost was offered again, and has the fate that
// it met then.
func (p *phone) hearAgain() {
	before, act := p.heard, p.act
	p.heard, p.read = nil, 0
	p.learn()
	p.act = act
	now := map[satchel.ID]*satchelv1.Verdict{}
	for _, h := range p.heard {
		now[h.id] = h.verdict
	}
	for _, h := range before {
		v := now[h.id]
		if v == nil || v.Status == h.verdict.Status {
			continue
		}
		p.w.tracef("after the restore %s of %s is %s %s, and was %s", h.id, p.name, v.Status, v.Reason, h.verdict.Status)
		if v.Status == satchelv1.Status_STATUS_REJECTED && h.verdict.Status != satchelv1.Status_STATUS_STALE {
			p.w.early = append(p.w.early, h.id)
		}
	}
}

// checkBroughtBack proves S18: what had taken effect before the restore, and came again before what it names, takes effect
// in the end with nobody's help, if its phone may see what it names. (Somebody may have given that away meanwhile, and an
// attention that spoke of something refused is not there.)
func (w *world) checkBroughtBack() error {
	rows, err := w.stage.pool.Query(w.ctx, `SELECT id FROM kept WHERE org_id = $1 AND id = ANY($2)
		AND state <> 'applied' AND verdict ->> 'why' IN ('RECORD_UNKNOWN', 'DEPENDS_ON')`, w.Org, w.early)
	if err != nil {
		return err
	}
	left, err := pgx.CollectRows(rows, pgx.RowTo[satchel.ID])
	for _, id := range left {
		m := w.model.Muts[id]
		i := slices.IndexFunc(w.phones, func(p *phone) bool { return m != nil && p.name == m.Phone })
		if i >= 0 && w.phones[i].holds(m.Ops) {
			w.fail("S18", "mutation %s of %s had taken effect before the restore, and is refused for good", id, m.Phone)
		}
	}
	return err
}

// holds tells whether a phone has everything that ops name: their records, and the accounts that new ones hang under.
func (p *phone) holds(ops []*satchelv1.Op) bool {
	made := map[string]bool{}
	for _, op := range ops {
		kind, id := op.Kind, op.RecordId
		if create := op.GetCreate(); create != nil {
			made[id] = true
			var fields struct{ Account string }
			if err := json.Unmarshal([]byte(create.Fields), &fields); err != nil {
				return false
			}
			kind, id = "account", fields.Account
		}
		if made[id] || id == "" {
			continue
		}
		record, err := satchel.ParseID(id)
		if err == nil {
			_, err = p.client.Get(p.w.ctx, kind, record)
		}
		if err != nil {
			return false
		}
	}
	return true
}

// forgetRefused leaves out what a restored database does not know and phones do not offer it again: what had been refused
// by commits that are lost. Its person was told, and the phone's log still has it.
func (w *world) forgetRefused(owed map[string][]satchel.ID) error {
	var cut, since uint64 // the lost line's commits are between them
	var epochs int
	if err := w.stage.pool.QueryRow(w.ctx, `SELECT (cuts -> -1 ->> 'cut')::bigint, ((cuts -> -1 ->> 'epoch')::bigint + 1) << 40,
		jsonb_array_length(cuts) FROM org_clock WHERE org_id = $1`, w.Org).Scan(&cut, &since, &epochs); err != nil {
		return err
	}
	if epochs != 1 {
		w.fail("S18", "one restore ended %d epochs", epochs)
	}
	rows, err := w.stage.pool.Query(w.ctx, `SELECT unnest(ids) FROM ledger WHERE org_id = $1`, w.Org)
	if err != nil {
		return err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[satchel.ID])
	if err != nil {
		return err
	}
	known := map[satchel.ID]bool{}
	for _, id := range ids {
		known[id] = true
	}
	gone := func(id satchel.ID) bool {
		m := w.model.Muts[id]
		return m != nil && !known[id] && len(m.Verdicts) > 0 && !slices.ContainsFunc(m.Verdicts, func(v *satchelv1.Verdict) bool {
			refused := v.Status == satchelv1.Status_STATUS_REJECTED || v.Status == satchelv1.Status_STATUS_STALE
			return !refused || v.Seq <= cut || v.Seq >= since
		})
	}
	for phone := range owed {
		owed[phone] = slices.DeleteFunc(owed[phone], gone)
	}
	maps.DeleteFunc(w.model.Muts, func(id satchel.ID, _ *model.Mutation) bool { return gone(id) })
	return nil
}

// effect is when a mutation took effect: first, where it was sent more than once.
type effect struct {
	seq, number int64
	device      satchel.ID
}

// checkOrder proves S3: of each device the numbers have no gap, and each phone's mutations took effect in the order in
// which they were recorded. Two phones with one store may share a device, and a store that was rolled back begins
// another life: the order is that of each life.
func (w *world) checkOrder() error {
	rows, err := w.stage.pool.Query(w.ctx, `SELECT device_id, first, ids, seq FROM ledger WHERE org_id = $1 ORDER BY device_id, first`, w.Org)
	if err != nil {
		return err
	}
	var device, at satchel.ID
	var first, next, seq, lastSeq int64
	var ids []satchel.ID
	effects := map[satchel.ID]effect{}
	if _, err := pgx.ForEachRow(rows, []any{&at, &first, &ids, &seq}, func() error {
		if at != device {
			device, next, lastSeq = at, 1, 0
		}
		if first != next {
			w.fail("S3", "the ledger of device %s goes on with %d, not %d", device, first, next)
		}
		if seq < lastSeq {
			w.fail("S3", "number %d of device %s took effect at %d, before its predecessor at %d", first, device, seq, lastSeq)
		}
		next, lastSeq = first+int64(len(ids)), seq
		for i, id := range ids {
			if was, twice := effects[id]; !twice || seq < was.seq {
				effects[id] = effect{seq, first + int64(i), device}
			}
		}
		return nil
	}); err != nil {
		return err
	}
	lives := map[string][]*model.Mutation{}
	for id := range effects {
		if m := w.model.Muts[id]; m != nil { // S2 tells of others
			lives[m.Phone] = append(lives[m.Phone], m)
		}
	}
	for _, all := range lives {
		slices.SortFunc(all, func(a, b *model.Mutation) int { return cmp.Compare(a.Order, b.Order) })
		for i := 1; i < len(all); i++ {
			a, b := effects[all[i-1].ID], effects[all[i].ID]
			if b.seq < a.seq || b.seq == a.seq && b.device == a.device && b.number < a.number {
				w.fail("S3", "on %s mutation %s was recorded after %s and took effect before it: %+v, %+v", all[i].Phone, all[i].ID, all[i-1].ID, b, a)
			}
		}
	}
	return nil
}
