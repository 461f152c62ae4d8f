package syncengine

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/access"
	"github.com/satchel-sync/satchel/schema"
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
	profile, first  string
}

// following is what a person follows by a profile.
type following struct {
	stems   []access.Followed
	buckets []followed
	first   string // the oldest month of facts; "" = all
}

// nums lists the buckets' numbers.
func (f following) nums() []int64 {
	out := make([]int64, len(f.buckets))
	for i, b := range f.buckets {
		out[i] = b.Num
	}
	return out
}

// names lists the stems, also of buckets that are yet to come.
func (f following) names() []string {
	out := make([]string, len(f.stems))
	for i, s := range f.stems {
		out[i] = s.Stem
	}
	return out
}

// profile gives the schema's profile of that name; the error names those that there are.
func (o *org) profile(name string) (*schema.Profile, error) {
	if p := o.schema.Profile(name); p != nil {
		return p, nil
	}
	return nil, satchel.E(satchel.Invalid, satchel.ReasonMalformed, "the schema has no profile of that name; it has %s",
		strings.Join(o.schema.Profiles(), ", "))
}

// followed lists all buckets of a person; see follows.
func (e *Engine) followed(ctx context.Context, q querier, o *org, c clock, person satchel.ID, roles []string) ([]followed, error) {
	f, err := e.follows(ctx, q, o, c, person, roles, o.schema.Profile(schema.FullProfile))
	return f.buckets, err
}

// follows lists a person's buckets as of the clock and now's month, in fill order: own work, what all share, older facts
// by month, newest first, then the teams'. Where they are more than MaxBucketsPerPerson, fewer months are followed.
func (e *Engine) follows(ctx context.Context, q querier, o *org, c clock, person satchel.ID, roles []string, p *schema.Profile) (following, error) {
	key := followKey{o.id, person, c.Rights, c.Buckets, strings.Join(roles, ","), p.Name, access.FirstMonth(e.cfg.Now(), o.zone, p.Months)}
	e.mu.Lock()
	out, ok := e.follow[key]
	e.mu.Unlock()
	if ok {
		return out, nil
	}
	out = following{stems: access.Only(access.Follow(e.grantsOf(o, roles), o.dir, person), p.Kinds), first: key.first}
	stems := out.stems
	names := make([]string, len(stems))
	kinds := make(map[string][]string, len(stems))
	rank := make(map[string]int, len(stems))
	for i, s := range stems {
		names[i], kinds[s.Stem], rank[s.Stem] = s.Stem, s.Kinds, i
	}
	rows, err := q.Query(ctx, sqlFollowed, o.id, names, key.first)
	if err != nil {
		return following{}, err
	}
	buckets, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (f followed, err error) {
		err = r.Scan(&f.Stem, &f.Month, &f.Num)
		f.Kinds = kinds[f.Stem]
		return f, err
	})
	if err != nil {
		return following{}, err
	}
	fixed, perMonth := 0, map[string]int{}
	for _, b := range buckets {
		if b.Month == "" {
			fixed++
		} else {
			perMonth[b.Month]++
		}
	}
	if first := access.FirstThatFits(fixed, perMonth); first != "" {
		out.first = first
		buckets = slices.DeleteFunc(buckets, func(b followed) bool { return b.Month != "" && b.Month < first })
	}
	slices.SortFunc(buckets, func(a, b followed) int {
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
	out.buckets = buckets[:min(len(buckets), access.MaxBucketsPerPerson)]
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

// target is the view of what a person is to follow now by a profile.
func (e *Engine) target(ctx context.Context, q querier, o *org, c clock, person satchel.ID, p *schema.Profile) (*cursor.View, following, error) {
	roles := o.roles(person)
	f, err := e.follows(ctx, q, o, c, person, roles, p)
	if err != nil {
		return nil, f, err
	}
	g := e.grantsOf(o, roles)
	v := &cursor.View{Schema: o.schema.Version, Masks: map[string]access.Mask{}}
	if p.Name != schema.FullProfile {
		v.Profile = p.Name
	}
	for _, b := range f.buckets {
		v.Entries = append(v.Entries, cursor.Entry{Bucket: b.Num, Kinds: b.Kinds, Class: fillClass(b)})
	}
	for _, kind := range o.schema.Kinds() {
		if m := g.Mask(kind); len(m.Hidden)+len(m.Partial) > 0 {
			v.Masks[kind] = m
		}
	}
	return v, f, nil
}

const sqlView = `-- syncengine.View
SELECT def, used_on FROM view WHERE org_id = $1 AND hash = $2`

const sqlKeepView = `-- syncengine.KeepView
INSERT INTO view (org_id, hash, def, used_on) VALUES ($1, $2, $3, $4)
ON CONFLICT (org_id, hash) DO UPDATE SET used_on = excluded.used_on WHERE view.used_on < excluded.used_on`

// viewUsed is after how long the use of a view is noted again: those that nobody uses for long are forgotten.
const viewUsed = 30 * 24 * time.Hour

// knownView is a view of the table.
type knownView struct {
	*cursor.View
	used time.Time // as the table has it
}

// view gives a view by its hash; nil = the server does not have it.
func (e *Engine) view(ctx context.Context, q querier, id satchel.ID, hash cursor.Hash) (*cursor.View, error) {
	key := viewKey{id, hash}
	e.mu.Lock()
	v, ok := e.views[key]
	e.mu.Unlock()
	if ok {
		return v.View, nil
	}
	var raw []byte
	err := q.QueryRow(ctx, sqlView, id, hash[:]).Scan(&raw, &v.used)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	v.View = &cursor.View{}
	if err := json.Unmarshal(raw, v.View); err != nil {
		return nil, err
	}
	e.mu.Lock()
	put(e.views, key, v)
	e.mu.Unlock()
	return v.View, nil
}

// keepView stores a view before a cursor that names it is handed out, and notes from time to time that it is used.
func (e *Engine) keepView(ctx context.Context, id satchel.ID, v *cursor.View) (cursor.Hash, error) {
	raw, hash := v.Encode()
	key := viewKey{id, hash}
	now := e.cfg.Now()
	e.mu.Lock()
	known, ok := e.views[key]
	e.mu.Unlock()
	if ok && now.Sub(known.used) < viewUsed {
		return hash, nil
	}
	if _, err := e.cfg.Pool.Exec(ctx, sqlKeepView, id, hash[:], raw, now); err != nil {
		return hash, err
	}
	e.mu.Lock()
	put(e.views, key, knownView{v, now})
	e.mu.Unlock()
	return hash, nil
}

const sqlViewInUse = `-- syncengine.ViewInUse
UPDATE view SET used_on = $3 WHERE org_id = $1 AND hash = $2 AND used_on < $3`

// viewInUse notes, from time to time, that a device goes on with a view that was read or kept here.
func (e *Engine) viewInUse(ctx context.Context, id satchel.ID, hash cursor.Hash) error {
	key, now := viewKey{id, hash}, e.cfg.Now()
	e.mu.Lock()
	v, ok := e.views[key]
	e.mu.Unlock()
	if !ok || now.Sub(v.used) < viewUsed {
		return nil
	}
	if _, err := e.cfg.Pool.Exec(ctx, sqlViewInUse, id, hash[:], now); err != nil {
		return err
	}
	v.used = now
	e.mu.Lock()
	put(e.views, key, v)
	e.mu.Unlock()
	return nil
}
