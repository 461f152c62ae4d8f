package dataset

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/internal/pgtest"
	"github.com/satchel-sync/satchel/syncengine"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var tiny = Org{Slug: "bench", Scale: Tiny, Seed: 7, Floor: true}

// loaded is a database with the world's people, on which its records are loaded in one way or the other.
func loaded(t *testing.T, w *World, how func(*pgxpool.Pool, *app.App, satchel.ID) error) (*pgxpool.Pool, *app.App, satchel.ID) {
	t.Helper()
	pool := pgtest.New(t)
	a, err := NewApp(t.Context(), pool, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	org, err := makeOrg(t.Context(), pool, a, w)
	if err != nil {
		t.Fatal(err)
	}
	if err := how(pool, a, org); err != nil {
		t.Fatal(err)
	}
	return pool, a, org
}

func copied(t *testing.T, w *World) (*pgxpool.Pool, *app.App, satchel.ID) {
	return loaded(t, w, func(pool *pgxpool.Pool, a *app.App, org satchel.ID) error {
		return load(t.Context(), pool, a.Engine, org, w, Present)
	})
}

// imported loads through the engine, in the same commits.
func imported(t *testing.T, w *World) (*pgxpool.Pool, *app.App, satchel.ID) {
	return loaded(t, w, func(pool *pgxpool.Pool, a *app.App, org satchel.ID) error {
		var seq, rights, buckets int64
		if err := pool.QueryRow(t.Context(), sqlStart, org).Scan(&seq, &rights, &buckets); err != nil {
			return err
		}
		all := slices.Collect(w.items)
		for part := range slices.Chunk(all, commitSize) {
			seq++
			var records []syncengine.ImportRecord
			for _, it := range part {
				records = append(records, syncengine.ImportRecord{ID: it.id, Kind: it.kind, Author: it.author, EventMS: it.at.UnixMilli(), Fields: it.fields})
			}
			if err := a.Engine.Import(t.Context(), org, strings.TrimPrefix(importSource, "import:"), commitKey(seq), records); err != nil {
				return err
			}
		}
		return nil
	})
}

// tables are compared as text, without what differs by time and chance: the organisation, the ids of history, times
// of receipt. Bucket numbers, seqs, counts and sums must be the same.
var tables = []string{
	`SELECT to_jsonb(r) - 'org_id' FROM record r WHERE kind IN ('account', 'visit') ORDER BY id`,
	`SELECT to_jsonb(h) - 'org_id' FROM head h ORDER BY bucket, record_id`,
	`SELECT to_jsonb(b) - 'org_id' FROM bucket b ORDER BY num, kind`,
	`SELECT to_jsonb(n) - 'org_id' FROM bucket_name n ORDER BY num`,
	`SELECT to_jsonb(h) - 'org_id' - 'id' - 'received_at' FROM history h WHERE source LIKE 'import:%' ORDER BY record_id`,
	`SELECT to_jsonb(l) - 'org_id' - 'at' FROM ledger_source l WHERE source LIKE 'import:%' ORDER BY key`,
	`SELECT to_jsonb(c) - 'org_id' - 'cursor_key' FROM org_clock c`,
	`SELECT to_jsonb(count(*)) FROM ledger`,
}

func TestTheLoaderWritesWhatTheEngineWouldWrite(t *testing.T) {
	t.Parallel()
	w, err := NewWorld(tiny)
	if err != nil {
		t.Fatal(err)
	}
	ours, _, _ := copied(t, w)
	engines, _, _ := imported(t, w)
	for _, sql := range tables {
		a, b := column(t, ours, sql), column(t, engines, sql)
		if len(a) == 0 || len(a) != len(b) {
			t.Errorf("%s: %d rows, the engine has %d", sql, len(a), len(b))
			continue
		}
		for i := range a {
			if a[i] != b[i] {
				t.Errorf("%s:\n loader %s\n engine %s", sql, a[i], b[i])
				break
			}
		}
	}
}

func column(t *testing.T, pool *pgxpool.Pool, sql string) []string {
	t.Helper()
	rows, err := pool.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestEveryPersonPullsWhatWasLoadedForHimAndTheCountsAreThose(t *testing.T) {
	t.Parallel()
	w, err := NewWorld(tiny)
	if err != nil {
		t.Fatal(err)
	}
	pool, a, org := copied(t, w)

	// What each bucket must hold, anew from the heads.
	if wrong := column(t, pool, `SELECT to_jsonb(b) FROM bucket b WHERE b.count <>
		(SELECT count(*) FROM head h WHERE h.org_id = b.org_id AND h.bucket = b.num AND h.kind = b.kind AND h.Present)`); len(wrong) > 0 {
		t.Errorf("counts that are not those of the heads: %v", wrong)
	}
	sums := map[int64]int64{}
	rows, err := pool.Query(t.Context(), `SELECT h.bucket, r.id, r.rev FROM head h JOIN record r ON r.org_id = h.org_id AND r.id = h.record_id WHERE h.present`)
	if err != nil {
		t.Fatal(err)
	}
	var bucket, rev, sum int64
	var id satchel.ID
	if _, err := pgx.ForEachRow(rows, []any{&bucket, &id, &rev}, func() error {
		sums[bucket] += digest(id, uint64(rev))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	rows, err = pool.Query(t.Context(), `SELECT num, sum(sum)::bigint FROM bucket GROUP BY num`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pgx.ForEachRow(rows, []any{&bucket, &sum}, func() error {
		if sum == 0 || sum != sums[bucket] {
			t.Errorf("bucket %d has the sum %d, its heads %d", bucket, sum, sums[bucket])
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}

	// And a fresh phone gets it.
	for rep, person := range w.Reps {
		if n := visitsOf(t, a, &satchel.Principal{Org: org, Person: person, Device: satchel.NewID(), Roles: []string{"rep"}}); n != w.Scale.VisitsPerRep {
			t.Errorf("rep %d pulls %d visits", rep, n)
		}
	}
	for _, person := range w.Managers {
		n := visitsOf(t, a, &satchel.Principal{Org: org, Person: person, Device: satchel.NewID(), Roles: []string{"manager"}})
		if want := w.Scale.VisitsPerRep * w.Scale.RepsPerTeam; n != want {
			t.Errorf("a manager pulls %d visits, not %d", n, want)
		}
	}
}

func visitsOf(t *testing.T, a *app.App, p *satchel.Principal) int {
	t.Helper()
	seen := map[satchel.ID]bool{}
	var cursor []byte
	for range 1000 {
		page, err := a.Engine.Pull(context.WithoutCancel(t.Context()), p, syncengine.PullRequest{Cursor: cursor})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range page.Changes {
			if c.Kind == "visit" && len(c.Fields) > 0 {
				seen[c.Record] = true
			}
		}
		if cursor = page.Cursor; !page.More {
			return len(seen)
		}
	}
	t.Fatal("the pull does not end")
	return 0
}

func TestVisitsAreAsLargeAsThoseThatOtherSystemsWereMeasuredWith(t *testing.T) {
	t.Parallel()
	w, err := NewWorld(tiny)
	if err != nil {
		t.Fatal(err)
	}
	pool, _, _ := copied(t, w)
	var mean float64
	if err := pool.QueryRow(t.Context(), `SELECT avg(octet_length(data::text)) FROM record WHERE kind = 'visit'`).Scan(&mean); err != nil {
		t.Fatal(err)
	}
	if mean < visitBytes-25 || mean > visitBytes+25 {
		t.Errorf("a visit has %.0f bytes on average, not about %d", mean, visitBytes)
	}
}

func TestTheSameScaleGivesTheSameWorld(t *testing.T) {
	t.Parallel()
	text := func() string {
		w, err := NewWorld(tiny)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for it := range w.items {
			b.WriteString(it.id.String() + it.at.Format(time.RFC3339) + string(Encode(it.fields)) + "\n")
		}
		return b.String()
	}
	if first, again := text(), text(); first != again {
		t.Error("two worlds of one scale differ")
	}
}
