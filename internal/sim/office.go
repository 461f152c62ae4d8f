package sim

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	satchelclient "github.com/satchel-sync/satchel/clients/go"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/identity"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine"
)

// newerPack is the schema that ships with the binary, and a kind more.
func newerPack() ([]byte, error) {
	pack := schema.DefaultPack()
	kind := []byte("\nkinds:\n  - name: memo\n    label: {zh: 便条, en: Memo}\n    owner: owner\n    buckets: [owner, team]\n    fields:\n" +
		"      - {name: owner, type: reference, target: person, required: true, label: {zh: 负责人, en: Owner}}\n" +
		"      - {name: text, type: text, label: {zh: 内容, en: Text}}\n")
	out := bytes.Replace(pack, []byte("\nkinds:\n"), kind, 1)
	rights := []byte("    kinds:\n      memo: {read: team, create: true, update: own}\n      account: {read: ")
	out = bytes.ReplaceAll(out, []byte("    kinds:\n      account: {read: "), rights)
	if bytes.Count(out, []byte("memo: {read")) < 3 || !bytes.Contains(out, kind) {
		return nil, errors.New("sim: the default pack does not look as it did")
	}
	return out, nil
}

// publish makes a newer schema current: what newer apps recorded is understood from then on.
func (w *world) publish() error {
	w.disarm()
	pack, err := newerPack()
	if err != nil {
		return err
	}
	if w.newer, err = w.hasNewer(); err != nil || w.newer { // else a restored database has lost it
		return err
	}
	if _, err := w.replicas[0].app.Engine.PublishSchema(w.ctx, w.Org, pack); err != nil {
		return fmt.Errorf("sim: the newer schema: %w", err)
	}
	w.newer = true
	w.act.Published++
	w.tracef("a newer schema is published")
	return nil
}

func (w *world) hasNewer() (has bool, err error) {
	return has, w.db.QueryRow(w.ctx, `SELECT schema_version > 1 FROM org_clock WHERE org_id = $1`, w.Org).Scan(&has)
}

// rename changes something that everybody sees, so that each phone gets a page, with a digest.
func (w *world) rename() error {
	name := "adi " + w.text()
	_, err := w.replicas[0].app.Identity.UpdatePerson(w.ctx, w.Admin(), identity.PersonPatch{Person: w.People["adi"], DisplayName: &name})
	return err
}

// resolve lets somebody at the office settle a kept mutation.
func (w *world) resolve() error {
	w.disarm()
	e := w.replicas[w.rnd.IntN(len(w.replicas))].app.Engine
	list, _, err := e.Kept(w.ctx, w.Org, syncengine.KeptFilter{State: syncengine.KeptOpen, Limit: 20})
	if err != nil {
		w.fail("S5", "the office cannot list what is kept: %v", err)
		return nil
	}
	slices.SortFunc(list, func(a, b syncengine.Kept) int { // ids of devices follow from no seed
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(w.order(a), w.order(b)), cmp.Compare(a.Number, b.Number))
	})
	draw := w.rnd.IntN(1 << 16)
	if len(list) == 0 {
		return nil
	}
	k := list[draw%len(list)]
	var v syncengine.Verdict
	var state string
	what := "tries again"
	switch n := w.rnd.IntN(10); {
	case n < 6 && k.Verdict.Status == syncengine.Rejected && k.Mutation != nil && mended(k.Mutation.Ops) != nil:
		what = "edits"
		v, state, err = e.EditKept(w.ctx, w.Admin(), k.Device, k.Number, mended(k.Mutation.Ops))
	case n < 8:
		v, state, err = e.RetryKept(w.ctx, w.Admin(), k.Device, k.Number)
	default:
		what = "discards"
		state, err = e.DiscardKept(w.ctx, w.Admin(), k.Device, k.Number)
	}
	w.tracef("the office %s what %s: %s %s %s %v", what, w.order(k), v.Status, v.Reason, state, err)
	if err == nil && state != syncengine.KeptOpen {
		w.act.Resolved++
	}
	return nil
}

// order names a kept mutation by its first record.
func (w *world) order(k syncengine.Kept) string {
	if k.Mutation == nil || len(k.Mutation.Ops) == 0 {
		return ""
	}
	return k.Mutation.Ops[0].Record.String()
}

// mended gives the ops with what is wrong about a visit made right; nil = that is not what is wrong.
func mended(ops []syncengine.Op) []syncengine.Op {
	out := slices.Clone(ops)
	found := false
	for i, op := range out {
		var fields map[string]any
		if op.Kind != "visit" || op.Action != syncengine.Create || json.Unmarshal(op.Fields, &fields) != nil || fields["satisfaction"] == nil {
			continue
		}
		fields["satisfaction"] = 3
		text, err := json.Marshal(fields)
		if err != nil {
			return nil
		}
		out[i].Fields, found = text, true
	}
	if !found {
		return nil
	}
	return out
}

// took notes what a round trip did beside mutations and rows.
func (w *world) took(p *phone, r satchelclient.Result) {
	w.act.Forks += r.Forked
	w.act.Repairs += r.Repaired
	w.act.Reoffered += r.Restored
	w.act.Skips += int(min(r.Skipped, 1000))
	if r.Repaired > 0 {
		if p.excused <= 0 {
			w.fail("S17", "%s was repaired, and nothing had happened to it", p.name)
		}
		p.repaired = true
		p.excused--
	}
	if r.Calls > 0 && !r.More && (p.repaired || r.Checkpoint && r.SettledPriority == 0) {
		p.damaged, p.repaired = false, false // it has compared, or shows what it was brought
	}
}

// standsIn notes the ids of skips and envelopes, which the client minted.
func (w *world) standsIn(p *phone) {
	err := p.store.View(w.ctx, func(tx satchelclient.ReadTx) error {
		return tx.Scan(satchelclient.TableOutbox, nil, nil, func(_, value []byte) error {
			m := new(satchelv1.Mutation)
			if proto.Unmarshal(value, m) == nil && (m.Skip != nil || m.Envelope != nil) && w.model.Stands(m) && m.Envelope != nil {
				w.act.Envelopes++
			}
			return nil
		})
	})
	if err != nil {
		w.fail("S3", "%s: the outbox cannot be read: %v", p.name, err)
	}
}
