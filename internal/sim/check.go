package sim

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/internal/sim/model"
)

// checkOwn proves S14 and what Get promises: own work is shown until a checkpoint shows it.
func (w *world) checkOwn(p *phone) {
	if p.damaged {
		return
	}
	shown := map[satchel.ID]satchelclient.Record{}
	wrote := map[satchel.ID]map[string][]string{} // by the record that shows it: edits of one merged into another are shown there
	for id, o := range p.mine {
		if o.deleted {
			continue
		}
		r, err := p.client.Get(w.ctx, o.kind, id)
		_, created := o.marks[""]
		switch {
		case errors.Is(err, satchelclient.ErrNotFound) && !created:
			continue // it has left the phone, or was never on it
		case err != nil:
			w.fail("S14", "%s does not show its own %s %s: %v", p.name, o.kind, id, err)
			continue
		}
		shown[id] = r
		if wrote[r.ID] == nil {
			wrote[r.ID] = map[string][]string{}
		}
		for field, mk := range o.marks {
			wrote[r.ID][field] = append(wrote[r.ID][field], mk.value)
		}
	}
	for id, r := range shown {
		for field, mk := range p.mine[id].marks {
			if field != "" && !slices.Contains(wrote[r.ID][field], r.Text(field)) {
				w.fail("S14", "%s shows %s of its own %s %s as %q, it wrote %q", p.name, field, r.Kind, id, r.Text(field), mk.value)
			}
		}
	}
}

// checkHeld proves S13 on a phone that is at a checkpoint of this moment.
func (w *world) checkHeld(p *phone) {
	o, err := w.model.Office(w.ctx)
	if err != nil {
		w.fail("S13", "the office cannot be read: %v", err)
		return
	}
	w.model.Compare(w.ctx, p.holder(), o)
}

// checkAll is the last word, when everything has come to rest.
func (w *world) checkAll() error {
	o, err := w.model.Office(w.ctx)
	if err != nil {
		return err
	}
	owed := map[string][]satchel.ID{}
	for _, p := range w.phones {
		owed[p.name] = slices.AppendSeq(owed[p.name], maps.Keys(p.owes))
	}
	if err := w.model.CheckLedger(w.ctx, o, owed); err != nil {
		return err
	}
	if err := w.model.CheckPlaces(w.ctx, o); err != nil {
		return err
	}
	if err := w.model.CheckWhole(w.ctx, o); err != nil {
		return err
	}
	if err := w.checkSalvage(); err != nil {
		return err
	}
	before, err := w.seq()
	if err != nil {
		return err
	}
	fresh := map[string]*phone{}
	for _, p := range w.phones {
		w.model.CheckPairs(w.ctx, p.holder())
		w.model.Compare(w.ctx, p.holder(), o)
		twin := fresh[p.login+"/"+p.profile]
		if twin == nil {
			if twin, err = w.newPhone(p.login, p.profile); err != nil {
				return err
			}
			if err := w.signIn(twin); err != nil {
				return fmt.Errorf("sim: a fresh phone of %s cannot sign in: %w", p.login, err)
			}
			if _, err := twin.client.Sync(w.ctx); err != nil {
				w.fail("S20", "a fresh phone of %s cannot sync: %v", p.login, err)
			}
			fresh[p.login+"/"+p.profile] = twin
			w.model.Compare(w.ctx, twin.holder(), o)
		}
		if got, want := w.model.All(w.ctx, p.holder()), w.model.All(w.ctx, twin.holder()); got != want {
			w.fail("S13", "%s does not hold what a fresh phone of %s holds: %s", p.name, p.login, model.Difference(got, want))
		}
		r, err := p.client.SyncOnce(w.ctx)
		if (errors.Is(err, satchelclient.ErrSignInAgain) || errors.Is(err, satchelclient.ErrDeviceRevoked)) && w.signIn(p) == nil { // its clone has taken the session
			r, err = p.client.SyncOnce(w.ctx)
		}
		switch {
		case err != nil:
			w.fail("S20", "%s at rest cannot sync: %v", p.name, err)
		case r.Changes+r.Sent > 0 || r.More:
			w.fail("S15", "%s at rest sent %d and got %d", p.name, r.Sent, r.Changes)
		}
	}
	after, err := w.seq()
	if err == nil && after != before {
		w.fail("S15", "idle syncs moved the clock from %d to %d", before, after)
	}
	return err
}

// checkSalvage proves S18: what only a phone still held when the database was restored is there again, or was sent up.
func (w *world) checkSalvage() error {
	have := map[satchel.ID]bool{}
	rows, err := w.db.Query(w.ctx, `SELECT id, false FROM record WHERE org_id = $1 UNION ALL SELECT record_id, true FROM salvage WHERE org_id = $1
		UNION ALL SELECT record_id, false FROM history WHERE org_id = $1 AND op = 'purge'`, w.Org)
	if err != nil {
		return err
	}
	var id satchel.ID
	var salvaged bool
	if _, err := pgx.ForEachRow(rows, []any{&id, &salvaged}, func() error {
		have[id] = true
		if salvaged {
			w.act.Salvaged++
		}
		return nil
	}); err != nil {
		return err
	}
	for _, p := range w.phones {
		for id, kind := range p.held {
			if !have[id] {
				w.fail("S18", "%s held the %s %s when the database was restored, and the office does not have it", p.name, kind, id)
			}
		}
	}
	return w.db.QueryRow(w.ctx, `SELECT (SELECT count(*) FROM record WHERE org_id = $1 AND root IS NOT NULL),
		(SELECT count(*) FROM history WHERE org_id = $1 AND op = 'purge')`, w.Org).Scan(&w.act.Merged, &w.act.Purged)
}

func (w *world) seq() (seq int64, err error) {
	return seq, w.db.QueryRow(w.ctx, `SELECT seq FROM org_clock WHERE org_id = $1`, w.Org).Scan(&seq)
}
