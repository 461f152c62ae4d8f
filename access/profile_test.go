package access_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/satchel-sync/satchel/access"
)

func TestS13AProfileCountsMonthsInTheOrganisationsZone(t *testing.T) {
	t.Parallel()
	zone := time.FixedZone("UTC+8", 8*3600)
	eve := time.Date(2026, 12, 31, 15, 59, 59, 0, time.UTC)
	newYear := eve.Add(time.Second)
	for _, c := range []struct {
		now  time.Time
		n    int
		want string
	}{
		{eve, 1, "2026-12"}, {newYear, 1, "2027-01"}, {eve, 12, "2026-01"}, {newYear, 12, "2026-02"}, {newYear, 13, "2026-01"},
		{newYear, 0, ""}, {time.Date(2026, 3, 31, 12, 0, 0, 0, time.UTC), 2, "2026-02"},
	} {
		got := access.FirstMonth(c.now, zone, c.n)
		if got != c.want {
			t.Errorf("%d months at %s begin with %q, want %q", c.n, c.now, got, c.want)
		}
		if n := access.MonthsSince(got, c.now, zone); n != c.n {
			t.Errorf("from %q to %s are %d months, want %d", got, c.now, n, c.n)
		}
	}
	if n := access.MonthsSince("2027-05", newYear, zone); n != 1 {
		t.Errorf("from a month to come are %d months, want 1", n)
	}
}

func TestTooManyBucketsAreCutByWholeMonths(t *testing.T) {
	t.Parallel()
	months := func(n, each int) map[string]int {
		out := map[string]int{}
		for i := range n {
			out[fmt.Sprintf("20%02d-%02d", 20+i/12, i%12+1)] = each
		}
		return out
	}
	for _, c := range []struct {
		fixed, months, each int
		want                string
	}{
		{100, 9, 100, ""}, {101, 9, 100, "2020-02"}, {0, 24, 100, "2021-03"}, {1000, 2, 1, "2020-02"}, {5000, 3, 7, "2020-03"},
		{0, 1, 5000, "2020-01"}, {2000, 0, 0, ""},
	} {
		if got := access.FirstThatFits(c.fixed, months(c.months, c.each)); got != c.want {
			t.Errorf("%d fixed and %d months of %d are followed from %q, want %q", c.fixed, c.months, c.each, got, c.want)
		}
	}
}

func TestAProfileTakesKindsAndTheStemsThatHaveNoneLeft(t *testing.T) {
	t.Parallel()
	f := []access.Followed{{Stem: "own:a", Kinds: []string{"account", "visit"}}, {Stem: "org", Kinds: []string{"person"}}}
	if got := fmt.Sprint(access.Only(f, []string{"visit", "task"})); got != "[{own:a [visit]}]" {
		t.Error(got)
	}
	if got := access.Only(f, nil); len(got) != 2 {
		t.Error(got)
	}
}
