package syncengine

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/access"
	"github.com/satchel-sync/satchel/internal/pg"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine/cursor"
)

// View is what a command reads through: inside the transaction, under locks, with what earlier mutations of the batch
// did. It is good until the command returns.
type View struct{ a *attempt }

// Get gives a record, locked until the end of the transaction; nil = there is none. The record must not be changed.
func (v *View) Get(ctx context.Context, id satchel.ID) (*schema.Record, error) {
	r, err := v.a.row(ctx, id)
	if r == nil || err != nil {
		return nil, err
	}
	return r.rec, nil
}

// Sees tells whether the person has the record now; the system sees everything.
func (v *View) Sees(ctx context.Context, id satchel.ID) (bool, error) {
	r, err := v.a.row(ctx, id)
	return r != nil && v.a.sees(r), err
}

// Schema gives the organisation's schema of now.
func (v *View) Schema() *schema.Schema { return v.a.b.org.schema }

// Directory gives the organisation's people and teams of now.
func (v *View) Directory() *access.Directory { return v.a.b.org.dir }

// Grants gives what the person may do; nil = the system, which may do everything.
func (v *View) Grants() *access.Grants { return v.a.b.grants }

// Person is in whose name the command runs; zero = the system.
func (v *View) Person() satchel.ID { return v.a.b.person }

// Org is the organisation.
func (v *View) Org() satchel.ID { return v.a.b.orgID }

// EventTime is when the person acted (S7).
func (v *View) EventTime() time.Time { return time.UnixMilli(v.a.at).UTC() }

// Now is when the mutation was received.
func (v *View) Now() time.Time { return v.a.b.now }

// Tx is the transaction, for a feature's own tables.
func (v *View) Tx() pgx.Tx { return v.a.b.tx }

// Visible gives a record that the person can see now, with the fields that he may not read taken out (hidden and
// partly masked alike); nil = there is none for him. Deleted records are not given.
func (e *Engine) Visible(ctx context.Context, p *satchel.Principal, id satchel.ID) (*schema.Record, error) {
	o, c, err := e.orgNow(ctx, e.cfg.Pool, p.Org)
	if err != nil {
		return nil, pg.ToError(err)
	}
	f, err := e.followed(ctx, e.cfg.Pool, o, c, p.Person, o.roles(p.Person))
	if err != nil {
		return nil, pg.ToError(err)
	}
	r, err := e.readRow(ctx, p.Org, id)
	if r == nil || err != nil {
		return nil, err
	}
	g := e.grantsOf(o, o.roles(p.Person))
	a := &attempt{b: &batch{grants: g, org: o, follow: f, person: p.Person}}
	if r.rec.Deleted || !a.sees(r) {
		return nil, nil
	}
	out := r.rec.Clone()
	m := g.Mask(out.Kind)
	for _, field := range append(m.Hidden, m.Partial...) {
		delete(out.Data, field)
	}
	return out, nil
}

const sqlNaming = `-- syncengine.Naming
SELECT ` + recordColumns + ` FROM record
WHERE org_id = $1 AND blob = $2 AND id > $3 AND NOT deleted ORDER BY id LIMIT $4`

// In the order of the index; 50,000 photos among 500,000 records take 1 ms for a page of 500.
const sqlNamingAny = `-- syncengine.NamingAny
SELECT ` + recordColumns + ` FROM record
WHERE org_id = $1 AND blob IS NOT NULL AND (blob, id) > ($2, $3) AND NOT deleted ORDER BY blob, id LIMIT $4`

// NamingBlob gives the records that name a blob (SHA-256 in hex), behind one, in the order of their ids.
func (e *Engine) NamingBlob(ctx context.Context, org satchel.ID, sha256 string, after satchel.ID, limit int) ([]*schema.Record, error) {
	return e.records(ctx, sqlNaming, org, sha256, after, limit)
}

// NamingAnyBlob gives the records that name a blob, behind the one with this blob and id, in the order of both.
func (e *Engine) NamingAnyBlob(ctx context.Context, org satchel.ID, afterBlob string, after satchel.ID, limit int) ([]*schema.Record, error) {
	return e.records(ctx, sqlNamingAny, org, afterBlob, after, limit)
}

// records reads whole records.
func (e *Engine) records(ctx context.Context, sql string, args ...any) ([]*schema.Record, error) {
	rows, err := e.cfg.Pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, pg.ToError(err)
	}
	defer rows.Close()
	var out []*schema.Record
	for rows.Next() {
		r, err := scanRecord(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, r.rec)
	}
	return out, pg.ToError(rows.Err())
}

// Record gives a record as it stands, for the system; nil = there is none.
func (e *Engine) Record(ctx context.Context, org, id satchel.ID) (*schema.Record, error) {
	r, err := e.readRow(ctx, org, id)
	if r == nil || err != nil {
		return nil, err
	}
	return r.rec, nil
}

// readRow reads one row, without a lock; nil = there is none.
func (e *Engine) readRow(ctx context.Context, org, id satchel.ID) (*row, error) {
	rows, err := e.cfg.Pool.Query(ctx, sqlReadRecords, org, []satchel.ID{id})
	if err != nil {
		return nil, pg.ToError(err)
	}
	defer rows.Close()
	if !rows.Next() {
		return nil, pg.ToError(rows.Err())
	}
	return scanRecord(rows)
}

// Lane is what the engine knows of a device's queue.
type Lane struct {
	LastContact time.Time // zero = never
	OutboxCount uint32
	Next        uint64
}

const sqlLanes = `-- syncengine.Lanes
SELECT device_id, last_contact, outbox_count, next FROM lane WHERE org_id = $1 AND device_id = ANY($2)`

// Lanes tells about devices' queues; devices that never synced are left out.
func (e *Engine) Lanes(ctx context.Context, org satchel.ID, devices []satchel.ID) (map[satchel.ID]Lane, error) {
	rows, err := e.cfg.Pool.Query(ctx, sqlLanes, org, devices)
	if err != nil {
		return nil, pg.ToError(err)
	}
	out := map[satchel.ID]Lane{}
	var id satchel.ID
	var contact *time.Time
	var l Lane
	_, err = pgx.ForEachRow(rows, []any{&id, &contact, &l.OutboxCount, &l.Next}, func() error {
		l.LastContact = time.Time{}
		if contact != nil {
			l.LastContact = *contact
		}
		out[id] = l
		return nil
	})
	return out, pg.ToError(err)
}

// row gives a record as this mutation sees it, locked; nil = there is none.
func (a *attempt) row(ctx context.Context, id satchel.ID) (*row, error) {
	if r, ok := a.rows[id]; ok {
		return r, nil
	}
	return a.b.get(ctx, id)
}

// sees tells whether the person has the record now.
func (a *attempt) sees(r *row) bool {
	if a.b.grants == nil {
		return true
	}
	if r.place != nil || r.stored == nil {
		place := r.place
		if place == nil { // made by this very mutation, which is placed at its end
			place = access.Place(a.b.org.schema.Kind(r.rec.Kind), r.rec, r.parentOwner, a.b.org.dir, a.b.org.zone)
		}
		for _, f := range a.b.follow {
			for _, b := range place {
				if f.Stem == b.Stem && slices.Contains(f.Kinds, r.rec.Kind) {
					return true
				}
			}
		}
		// A record of this batch whose bucket does not exist yet is in no list: its stem decides.
		return access.Sees(access.Follow(a.b.grants, a.b.org.dir, a.b.person), r.rec.Kind, place)
	}
	for _, num := range r.buckets {
		for _, f := range a.b.follow {
			if f.Num == num && slices.Contains(f.Kinds, r.rec.Kind) {
				return true
			}
		}
	}
	return false
}

// hadAtCheckpoint tells whether the device had the record at the checkpoint whose token the mutation carries: the
// record has, in a bucket of that view, a head that is present or that left after that seq.
func (a *attempt) hadAtCheckpoint(ctx context.Context, id satchel.ID) (bool, error) {
	t, ok := cursor.OpenToken(a.b.clock.Key, a.b.person, a.m.Token)
	if !ok {
		return false, nil
	}
	v, err := a.b.e.view(ctx, a.b.tx, a.b.orgID, t.View)
	if err != nil || v == nil {
		return false, err
	}
	nums := make([]int64, len(v.Entries))
	for i, entry := range v.Entries {
		nums[i] = entry.Bucket
	}
	var had bool
	err = a.b.tx.QueryRow(ctx, sqlLeftSince, a.b.orgID, id, nums, int64(t.Seq)).Scan(&had)
	return had, err
}
