package tests_test

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/internal/demoorg"
)

// TestTheReadmesFirstCallsWork runs what README.md tells a mobile team to type.
func TestTheReadmesFirstCallsWork(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "```sh\nURL=")
	script, _, ends := strings.Cut(rest, "\n```")
	_, script, next := strings.Cut(script, "\n")
	if !ok || !ends || !next {
		t.Fatal("README.md has no block that begins with URL=")
	}
	p := serveWith(t, func(t *testing.T, a *app.App, pool *pgxpool.Pool) {
		if _, err := demoorg.Load(context.Background(), demoorg.Config{Pool: pool, Identity: a.Identity, Engine: a.Engine, Small: true}); err != nil {
			t.Fatal(err)
		}
	})
	out := string(command(t, time.Minute, root, []string{"URL=" + p.url}, "sh", "-c", script))
	if !strings.Contains(out, `"changes":[{`) || !strings.Contains(out, `"cursor":"`) {
		t.Errorf("the last call answers %s", out)
	}
}

var link = regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`)

func TestTheLinksOfTheDocumentsLeadSomewhere(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	decisions, err := filepath.Glob(filepath.Join(root, "docs", "decisions", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, page := range append(append(pages, decisions...), filepath.Join(root, "README.md")) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			found++
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), filepath.FromSlash(m[1]))); err != nil {
				t.Errorf("%s: %s leads nowhere", page, m[1])
			}
		}
	}
	if found < 10 {
		t.Errorf("only %d links were found", found)
	}
}
