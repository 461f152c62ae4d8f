package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/pgtest"
	"github.com/satchel-sync/satchel/media"
)

func TestMediaCheckFindsWhatIsThereAndListsWhatIsMissing(t *testing.T) {
	t.Parallel()
	address, folder := pgtest.URL(t), "file://"+t.TempDir()
	env := []string{"DATABASE_URL=" + address, "BLOB_URL=" + folder}
	must(t, env, "org", "create", "acme")
	if out, errs, status := invoke(t, env, "media", "check"); status != 0 || !strings.Contains(out, "acme: 0 in order, 0 found and marked as stored, 0 awaited from phones, 0 unclear, 0 missing") {
		t.Fatalf("exit status %d\n%s%s", status, out, errs)
	}

	pool, err := pgxpool.New(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	var org satchel.ID
	var text string
	if err := pool.QueryRow(t.Context(), `select org_id::text from org where slug = 'acme'`).Scan(&text); err != nil {
		t.Fatal(err)
	}
	org = satchel.MustParseID(text)
	store, err := media.OpenStore(t.Context(), folder)
	if err != nil {
		t.Fatal(err)
	}
	pdf := []byte("%PDF-1.4\n1 0 obj <<>> endobj\ntrailer <<>>\n%%EOF\n")
	sum := sha256.Sum256(pdf)
	if err := store.Put(t.Context(), media.KeyOf(org, hex.EncodeToString(sum[:])), sum, int64(len(pdf)), bytes.NewReader(pdf)); err != nil {
		t.Fatal(err)
	}
	for sha, state := range map[string]string{hex.EncodeToString(sum[:]): "pending", strings.Repeat("ab", 32): "stored", strings.Repeat("cd", 32): "pending"} {
		if _, err := pool.Exec(t.Context(), `insert into record (org_id, id, kind, rev, data, stamps, buckets, author, event_ms, schema_version)
			values ($1, gen_random_uuid(), 'photo', 1, jsonb_build_object('blob', $2::text, 'blob_state', $3::text), '{}', '{}', gen_random_uuid(), 1, 1)`,
			org.String(), sha, state); err != nil {
			t.Fatal(err)
		}
	}
	out, errs, status := invoke(t, env, "media", "check", "--org=acme")
	if status != 1 || !strings.Contains(out, "acme: 0 in order, 1 found and marked as stored, 1 awaited from phones, 0 unclear, 1 missing") ||
		!strings.Contains(out, media.KeyOf(org, strings.Repeat("ab", 32))+"\n") || !strings.Contains(errs, "BLOB_URL") {
		t.Fatalf("exit status %d\n%s%s", status, out, errs)
	}
}

func TestMediaCheckSaysWhatItNeeds(t *testing.T) {
	t.Parallel()
	address := pgtest.URL(t)
	for name, c := range map[string]struct {
		env    []string
		args   []string
		status int
		says   string
	}{
		"no database":     {nil, nil, 2, "which database"},
		"no blob store":   {[]string{"DATABASE_URL=" + address}, nil, 2, "which blob store"},
		"no organisation": {[]string{"DATABASE_URL=" + address, "BLOB_URL=file://" + t.TempDir()}, nil, 1, "no organisation"},
		"another one":     {[]string{"DATABASE_URL=" + address, "BLOB_URL=file://" + t.TempDir()}, []string{"--org=none"}, 1, "satchel org create"},
	} {
		out, errs, status := invoke(t, c.env, append([]string{"media", "check"}, c.args...)...)
		if status != c.status || !strings.Contains(errs, c.says) {
			t.Errorf("%s: exit status %d\n%s%s", name, status, out, errs)
		}
	}
}
