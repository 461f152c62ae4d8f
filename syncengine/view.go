package syncengine

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/access"
	"github.com/satchel-sync/satchel/syncengine/cursor"
)

type viewKey struct {
	org  satchel.ID
	hash cursor.Hash
}

// followed is a bucket that a person follows.
type followed struct {
	access.Bucket
	Num   int64
	Kinds []string
}

type followKey struct {
	org, person     satchel.ID
	rights, buckets uint64
	roles           string
}

// followed lists a person's buckets as of the clock, in fill order: own work, what all share, older facts by month,
// newest first, then the teams'. More than MaxBucketsPerPerson are cut at the oldest months.
func (e *Engine) followed(ctx context.Context, q querier, o *org, c clock, person satchel.ID, roles []string) ([]followed, error) {
	key := followKey{o.id, person, c.Rights, c.Buckets, strings.Join(roles, ",")}
	e.mu.Lock()
	out, ok := e.follow[key]
	e.mu.Unlock()
	if ok {
		return out, nil
	}
	stems := access.Follow(e.grantsOf(o, roles), o.dir, person)
	names := make([]string, len(stems))
	kinds := make(map[string][]string, len(stems))
	rank := make(map[string]int, len(stems))
	for i, s := range stems {
		names[i], kinds[s.Stem], rank[s.Stem] = s.Stem, s.Kinds, i
	}
	rows, err := q.Query(ctx, sqlFollowed, o.id, names)
	if err != nil {
		return nil, err
	}
	out, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (f followed, err error) {
		err = r.Scan(&f.Stem, &f.Month, &f.Num)
		f.Kinds = kinds[f.Stem]
		return f, err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(out, func(a, b followed) int {
		if x, y := fillClass(a), fillClass(b); x != y {
			return x - y
		}
		if c := strings.Compare(b.Month, a.Month); c != 0 {
			return c
		}
		if rank[a.Stem] != rank[b.Stem] {
			return rank[a.Stem] - rank[b.Stem]
		}
		return int(a.Num - b.Num)
	})
	out = out[:min(len(out), access.MaxBucketsPerPerson)]
	e.mu.Lock()
	put(e.follow, key, out)
	e.mu.Unlock()
	return out, nil
}

// fillClass orders the filling: what a rep needs first comes first.
func fillClass(f followed) int {
	switch {
	case f.Class() == "own" && f.Month == "":
		return 0
	case f.Class() == "org":
		return 1
	case f.Class() == "own":
		return 2
	case f.Month == "":
		return 3
	}
	return 4
}

// targetView is what a person is to follow now.
func targetView(o *org, g *access.Grants, f []followed) *cursor.View {
	v := &cursor.View{Schema: o.schema.Version, Masks: map[string]access.Mask{}}
	for _, b := range f {
		v.Entries = append(v.Entries, cursor.Entry{Bucket: b.Num, Kinds: b.Kinds})
	}
	for _, kind := range o.schema.Kinds() {
		if m := g.Mask(kind); len(m.Hidden)+len(m.Partial) > 0 {
			v.Masks[kind] = m
		}
	}
	return v
}

const sqlView = `-- syncengine.View
SELECT def FROM view WHERE org_id = $1 AND hash = $2`

const sqlKeepView = `-- syncengine.KeepView
INSERT INTO view (org_id, hash, def, used_on) VALUES ($1, $2, $3, $4)
ON CONFLICT (org_id, hash) DO UPDATE SET used_on = excluded.used_on WHERE view.used_on < excluded.used_on`

// view gives a view by its hash; nil = the server does not have it.
func (e *Engine) view(ctx context.Context, q querier, id satchel.ID, hash cursor.Hash) (*cursor.View, error) {
	key := viewKey{id, hash}
	e.mu.Lock()
	v := e.views[key]
	e.mu.Unlock()
	if v != nil {
		return v, nil
	}
	var raw []byte
	err := q.QueryRow(ctx, sqlView, id, hash[:]).Scan(&raw)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	v = &cursor.View{}
	if err := json.Unmarshal(raw, v); err != nil {
		return nil, err
	}
	e.mu.Lock()
	put(e.views, key, v)
	e.mu.Unlock()
	return v, nil
}

// keepView stores a view before a cursor that names it is handed out.
func (e *Engine) keepView(ctx context.Context, id satchel.ID, v *cursor.View) (cursor.Hash, error) {
	raw, hash := v.Encode()
	key := viewKey{id, hash}
	e.mu.Lock()
	_, known := e.views[key]
	e.mu.Unlock()
	if known {
		return hash, nil
	}
	if _, err := e.cfg.Pool.Exec(ctx, sqlKeepView, id, hash[:], raw, e.cfg.Now()); err != nil {
		return hash, err
	}
	e.mu.Lock()
	put(e.views, key, v)
	e.mu.Unlock()
	return hash, nil
}
