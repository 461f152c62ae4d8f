package syncengine

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/access"
)

// viewHash names a view.
type viewHash [16]byte

// cursor is the place of a device: what it has, and where to go on. Its bytes are signed for one person.
type cursor struct {
	view viewHash
	// live is the place in the complete buckets: all changes at or before (seq, record) were given.
	live    uint64
	liveRec satchel.ID
	// done is the number of the view's entries that are complete.
	done int
	// The place in the entry being filled. What the device may hold of the entries still to fill, it was told of up to
	// fillSince: heads absent since before need no leave. 0 = it holds nothing of them.
	fillSeq   uint64
	fillRec   satchel.ID
	fillSince uint64
}

// lastRecord is behind every record of a seq.
var lastRecord = satchel.ID{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

const (
	cursorVersion = 1
	tokenVersion  = 2
	macSize       = 12 // bytes of HMAC-SHA256 kept: a forger has one try a call
)

func (c cursor) seal(key []byte, person satchel.ID) []byte {
	b := append([]byte{cursorVersion}, c.view[:]...)
	b = binary.AppendUvarint(b, c.live)
	b = binary.AppendUvarint(b, uint64(c.done))
	if c.liveRec != lastRecord {
		b = append(append(b, 1), c.liveRec[:]...)
	} else {
		b = append(b, 0)
	}
	b = binary.AppendUvarint(b, c.fillSeq)
	b = binary.AppendUvarint(b, c.fillSince)
	if c.fillSeq > 0 {
		b = append(b, c.fillRec[:]...)
	}
	return sign(key, person, b)
}

// openCursor reads a cursor that this server sealed for this person; false = it did not.
func openCursor(key []byte, person satchel.ID, sealed []byte) (cursor, bool) {
	b, ok := verify(key, person, sealed)
	if !ok || len(b) < 18 || b[0] != cursorVersion {
		return cursor{}, false
	}
	r := reader{b: b[1:]}
	var c cursor
	copy(c.view[:], r.take(16))
	c.live = r.uvarint()
	c.done = int(r.uvarint())
	c.liveRec = lastRecord
	if r.take(1)[0] == 1 {
		copy(c.liveRec[:], r.take(16))
	}
	c.fillSeq = r.uvarint()
	c.fillSince = r.uvarint()
	if c.fillSeq > 0 {
		copy(c.fillRec[:], r.take(16))
	}
	return c, !r.short && len(r.b) == 0
}

// token proves what a device was showing: the view and seq of a checkpoint and its time.
type token struct {
	view   viewHash
	seq    uint64
	timeMS int64
}

func (t token) seal(key []byte, person satchel.ID) []byte {
	b := append([]byte{tokenVersion}, t.view[:]...)
	b = binary.AppendUvarint(b, t.seq)
	b = binary.AppendUvarint(b, uint64(t.timeMS))
	return sign(key, person, b)
}

// openToken reads a checkpoint's token of this person.
func openToken(key []byte, person satchel.ID, sealed []byte) (token, bool) {
	b, ok := verify(key, person, sealed)
	if !ok || len(b) < 18 || b[0] != tokenVersion {
		return token{}, false
	}
	r := reader{b: b[1:]}
	var t token
	copy(t.view[:], r.take(16))
	t.seq = r.uvarint()
	t.timeMS = int64(r.uvarint())
	return t, !r.short && len(r.b) == 0
}

// sign appends the MAC; the person is in it, not in the bytes.
func sign(key []byte, person satchel.ID, b []byte) []byte { return append(b, mac(key, person, b)...) }

func verify(key []byte, person satchel.ID, sealed []byte) ([]byte, bool) {
	if len(sealed) <= macSize || len(key) == 0 {
		return nil, false
	}
	b, sum := sealed[:len(sealed)-macSize], sealed[len(sealed)-macSize:]
	return b, hmac.Equal(sum, mac(key, person, b))
}

func mac(key []byte, person satchel.ID, b []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(person[:])
	h.Write(b)
	return h.Sum(nil)[:macSize]
}

// reader takes bytes off a slice; past the end it gives zeros and remembers.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if len(r.b) < n {
		r.short = true
		return make([]byte, n)
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.short = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

// view is what a cursor stands for: buckets in fill order with the kinds that come by each, and the masks. A bucket may
// stand twice, first with the kinds that are complete, later with those that are still to fill. Immutable.
type view struct {
	Entries []viewEntry            `json:"e"`
	Masks   map[string]access.Mask `json:"m,omitempty"` // by kind; only those that take something out
	Schema  int                    `json:"v"`
}

type viewEntry struct {
	Bucket int64    `json:"b"`
	Kinds  []string `json:"k"` // sorted
}

type viewKey struct {
	org  satchel.ID
	hash viewHash
}

func (v *view) encode() ([]byte, viewHash) {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings and numbers
	}
	sum := sha256.Sum256(raw)
	return raw, viewHash(sum[:16])
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
func targetView(o *org, g *access.Grants, f []followed) *view {
	v := &view{Schema: o.schema.Version, Masks: map[string]access.Mask{}}
	for _, b := range f {
		v.Entries = append(v.Entries, viewEntry{b.Num, b.Kinds})
	}
	for _, kind := range o.schema.Kinds() {
		if m := g.Mask(kind); len(m.Hidden)+len(m.Partial) > 0 {
			v.Masks[kind] = m
		}
	}
	return v
}

// turn is what a change of view means for a device.
type turn struct {
	view         *view
	cursor       cursor // with the new done and fill place; view hash not yet set
	changed      bool   // the view is another than the cursor's
	dropped      []int64
	droppedKinds []bucketKind
	narrowed     map[string][]string
}

// turnTo brings a cursor of an old view to the target: what is complete stays complete and is listed first, what is
// lost is dropped, what is new or newly shown is filled. copies are the kinds that keep values of others. Pure.
func turnTo(old *view, c cursor, target *view, copies []string) turn {
	t := turn{cursor: c, narrowed: map[string][]string{}}
	refill := map[string]bool{} // kinds whose rows look otherwise now
	for _, kind := range slices.Sorted(maps.Keys(union(old.Masks, target.Masks))) {
		was, is := old.Masks[kind], target.Masks[kind]
		if slices.Equal(was.Hidden, is.Hidden) && slices.Equal(was.Partial, is.Partial) {
			continue
		}
		var gone []string
		for _, f := range is.Hidden {
			if !slices.Contains(was.Hidden, f) {
				gone = append(gone, f)
			}
		}
		for _, f := range is.Partial {
			if !slices.Contains(was.Hidden, f) && !slices.Contains(was.Partial, f) {
				gone = append(gone, f)
			}
		}
		if len(gone) > 0 {
			slices.Sort(gone)
			t.narrowed[kind] = gone
		}
		for _, f := range slices.Concat(was.Hidden, was.Partial, is.Partial) {
			if !slices.Contains(is.Hidden, f) && (slices.Contains(was.Hidden, f) || slices.Contains(was.Partial, f) != slices.Contains(is.Partial, f)) {
				refill[kind] = true // something is shown that was not, or is shown otherwise
			}
		}
	}
	// Copies of fields in other kinds (attentions) look otherwise too, also where a kind is read no longer, or anew.
	if len(refill) > 0 || len(t.narrowed) > 0 || !maps.Equal(old.kinds(), target.kinds()) {
		for _, kind := range copies {
			refill[kind] = true
		}
	}

	// The device may hold rows of every entry, also of one that is yet to fill: it may have been complete under an
	// earlier view, or half filled. A drop of what it does not hold does nothing.
	complete := map[int64][]string{}
	held := map[int64][]string{}
	for i, entry := range old.Entries {
		if i < c.done {
			complete[entry.Bucket] = append(complete[entry.Bucket], entry.Kinds...)
		}
		held[entry.Bucket] = append(held[entry.Bucket], entry.Kinds...)
	}
	wanted := map[int64][]string{}
	for _, entry := range target.Entries {
		wanted[entry.Bucket] = append(wanted[entry.Bucket], entry.Kinds...)
	}
	for _, bucket := range slices.Sorted(maps.Keys(held)) {
		kinds, still := wanted[bucket]
		if !still {
			t.dropped = append(t.dropped, bucket)
			continue
		}
		for _, kind := range held[bucket] {
			if !slices.Contains(kinds, kind) {
				t.droppedKinds = append(t.droppedKinds, bucketKind{bucket, kind})
			}
		}
	}
	next := &view{Masks: target.Masks, Schema: target.Schema}
	var rest []viewEntry
	for _, entry := range target.Entries {
		var have, lack []string
		for _, kind := range entry.Kinds {
			if slices.Contains(complete[entry.Bucket], kind) && !refill[kind] {
				have = append(have, kind)
			} else {
				lack = append(lack, kind)
			}
		}
		if len(have) > 0 {
			next.Entries = append(next.Entries, viewEntry{entry.Bucket, have})
		}
		if len(lack) > 0 {
			rest = append(rest, viewEntry{entry.Bucket, lack})
		}
	}
	t.cursor.done = len(next.Entries)
	keepPlace := false
	if c.fillSeq > 0 && c.done < len(old.Entries) && len(refill) == 0 {
		filling := old.Entries[c.done]
		for i, entry := range rest {
			if entry.Bucket == filling.Bucket && slices.Equal(entry.Kinds, filling.Kinds) {
				rest = append([]viewEntry{entry}, slices.Delete(rest, i, i+1)...)
				keepPlace = true
				break
			}
		}
	}
	if !keepPlace {
		t.cursor.fillSeq, t.cursor.fillRec = 0, satchel.ID{}
	}
	if c.fillSince == 0 && c.live > 0 {
		// What was complete is told up to the live place; of its last seq perhaps only a part.
		t.cursor.fillSince = max(c.live-1, 1)
	}
	if next.Entries = append(next.Entries, rest...); len(rest) == 0 {
		t.cursor.fillSince = 0
	}
	t.view, t.changed = next, true
	return t
}

// kinds gives the kinds that come by some bucket.
func (v *view) kinds() map[string]bool {
	out := map[string]bool{}
	for _, entry := range v.Entries {
		for _, kind := range entry.Kinds {
			out[kind] = true
		}
	}
	return out
}

// same tells whether a view, with whatever is complete of it, is the target already.
func (v *view) same(target *view) bool {
	if v.Schema != target.Schema || len(v.Masks) != len(target.Masks) {
		return false
	}
	for kind, m := range target.Masks {
		w := v.Masks[kind]
		if !slices.Equal(m.Hidden, w.Hidden) || !slices.Equal(m.Partial, w.Partial) {
			return false
		}
	}
	have := map[int64][]string{}
	for _, entry := range v.Entries {
		have[entry.Bucket] = append(have[entry.Bucket], entry.Kinds...)
	}
	if len(have) != len(target.Entries) {
		return false
	}
	for _, entry := range target.Entries {
		kinds := slices.Clone(have[entry.Bucket])
		slices.Sort(kinds)
		if !slices.Equal(kinds, entry.Kinds) {
			return false
		}
	}
	return true
}

func union[V any](a, b map[string]V) map[string]bool {
	out := map[string]bool{}
	for k := range a {
		out[k] = true
	}
	for k := range b {
		out[k] = true
	}
	return out
}

const sqlView = `-- syncengine.View
SELECT def FROM view WHERE org_id = $1 AND hash = $2`

const sqlKeepView = `-- syncengine.KeepView
INSERT INTO view (org_id, hash, def, used_on) VALUES ($1, $2, $3, $4)
ON CONFLICT (org_id, hash) DO UPDATE SET used_on = excluded.used_on WHERE view.used_on < excluded.used_on`

// view gives a view by its hash; nil = the server does not have it.
func (e *Engine) view(ctx context.Context, q querier, id satchel.ID, hash viewHash) (*view, error) {
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
	v = &view{}
	if err := json.Unmarshal(raw, v); err != nil {
		return nil, err
	}
	e.mu.Lock()
	put(e.views, key, v)
	e.mu.Unlock()
	return v, nil
}

// keepView stores a view before a cursor that names it is handed out.
func (e *Engine) keepView(ctx context.Context, id satchel.ID, v *view) (viewHash, error) {
	raw, hash := v.encode()
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
