package model

import (
	"context"
	"hash/fnv"
	"strconv"

	"github.com/jackc/pgx/v5"

	satchel "github.com/satchel-sync/satchel"
)

// CheckWhole proves what the office's tables say of each other: digests are those of a recount (S17), numbers have no gap
// (S3), and merged records are gone and lead to one that is not merged (S9).
func (m *Model) CheckWhole(ctx context.Context, o *Office) error {
	for id, st := range o.all {
		if st.root.IsZero() {
			continue
		}
		if !st.rec.Deleted {
			m.Fail("S9", "the %s %s was merged into %s, and lives", st.rec.Kind, id, st.root)
		}
		if next := o.all[st.root].root; !next.IsZero() {
			m.Fail("S9", "the %s %s leads to %s, which was merged into %s", st.rec.Kind, id, st.root, next)
		}
	}
	if err := m.checkDigests(ctx, o); err != nil {
		return err
	}
	return m.checkNumbers(ctx)
}

type shelf struct {
	bucket int64
	kind   string
}

type tally struct{ count, sum int64 }

// mixed is the last step of H in docs/protocol.md.
func mixed(h uint32) uint32 {
	h ^= h >> 16
	h *= 0x85ebca6b
	h ^= h >> 13
	h *= 0xc2b2ae35
	return h ^ h>>16
}

// checkDigests counts anew.
func (m *Model) checkDigests(ctx context.Context, o *Office) error {
	want := map[shelf]tally{}
	for id, st := range o.all {
		if st.rec.Deleted {
			continue
		}
		h := fnv.New32a()
		h.Write(id[:])
		h.Write(strconv.AppendUint(nil, st.rec.Rev, 10))
		for _, num := range st.buckets {
			t := want[shelf{num, st.rec.Kind}]
			want[shelf{num, st.rec.Kind}] = tally{t.count + 1, t.sum + int64(mixed(h.Sum32()))}
		}
	}
	rows, err := m.DB.Query(ctx, `SELECT num, kind, count, sum FROM bucket WHERE org_id = $1`, m.Org)
	if err != nil {
		return err
	}
	var s shelf
	var t tally
	if _, err := pgx.ForEachRow(rows, []any{&s.bucket, &s.kind, &t.count, &t.sum}, func() error {
		if want[s] != t {
			m.Fail("S17", "the digest of %s in bucket %d is %v, a recount gives %v", s.kind, s.bucket, t, want[s])
		}
		delete(want, s)
		return nil
	}); err != nil {
		return err
	}
	for s, t := range want {
		m.Fail("S17", "there is no digest of %s in bucket %d, a recount gives %v", s.kind, s.bucket, t)
	}
	return nil
}

// checkNumbers looks for gaps in the numbers of each device. What a skip has closed is none.
func (m *Model) checkNumbers(ctx context.Context) error {
	rows, err := m.DB.Query(ctx, `SELECT device_id, first, ids FROM ledger WHERE org_id = $1 ORDER BY device_id, first`, m.Org)
	if err != nil {
		return err
	}
	var device, at satchel.ID
	var first, next uint64
	var ids []satchel.ID
	_, err = pgx.ForEachRow(rows, []any{&at, &first, &ids}, func() error {
		if at != device && m.past == nil { // where the ledger was trimmed, it begins anywhere
			next = 1
		} else if at != device {
			next = first
		}
		if device = at; first != next {
			m.Fail("S3", "the ledger of device %s goes on with %d, not %d", device, first, next)
		}
		next = max(first+uint64(len(ids)), m.stands[ids[len(ids)-1]]+1)
		return nil
	})
	return err
}
