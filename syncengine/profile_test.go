package syncengine_test

import (
	"context"
	"strings"
	"testing"
	"time"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/access"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine"
)

// visitEachMonth makes a visit and a photo in each of the last n months, the oldest first, and brings the clock back.
func (w *world) visitEachMonth(p *phone, n int) (visits []satchel.ID) {
	w.t.Helper()
	now := w.now()
	w.clock.Store(now.AddDate(0, -n, 0).UnixMilli())
	acc := p.account("x")
	for i := n - 1; i >= 0; i-- {
		w.clock.Store(now.AddDate(0, -i, 0).UnixMilli())
		id := satchel.NewID()
		p.mustDo(create("visit", id, visitFields(acc, "v")))
		p.mustDo(create("photo", satchel.NewID(), map[string]any{"visit": id.String(), "blob": strings.Repeat("0", 64)}))
		visits = append(visits, id)
	}
	return visits
}

func TestS13AProfileSaysHowManyMonthsAndWhichKindsAreFollowed(t *testing.T) {
	w := newWorld(t)
	writer := w.phone("Ann")
	visits := w.visitEachMonth(writer, 14) // 2025-10 to 2026-11
	for _, c := range []struct {
		profile               string
		visits, photos, month int
	}{{"", 14, 14, 0}, {"full", 14, 14, 0}, {"phone", 12, 12, 12}, {"mini_program", 2, 0, 2}} {
		for _, name := range []string{"Ann", "Mei"} {
			p := w.phone(name)
			p.profile = c.profile
			p.pull()
			if k := p.kinds(); k["visit"] != c.visits || k["photo"] != c.photos || k["account"] != 1 || p.last.FollowedMonths != c.month {
				t.Errorf("%s with the profile %q holds %v and follows %d months, want %d", name, c.profile, k, p.last.FollowedMonths, c.month)
			}
		}
	}
	ann := w.phone("Ann")
	ann.profile = "phone"
	ann.pull()
	// Another profile: what it does not follow goes at once, and comes back with the one before.
	ann.profile, ann.bytes = "mini_program", 1
	ann.page()
	if k := ann.kinds(); k["visit"] != 2 || k["photo"] != 0 {
		t.Errorf("on the first page of another profile: %v", k)
	}
	ann.bytes = 0
	ann.pull()
	ann.sameAsNew()
	ann.profile = ""
	ann.pull()
	ann.sameAsNew()
	if !ann.has(visits[0]) || ann.last.FollowedMonths != 0 {
		t.Errorf("with everything: %v", w.show(ann))
	}
	if n := ann.repairTo("mini_program"); n != 0 {
		t.Errorf("%d rows travel to a phone that has more than it must", n)
	}
	ann.pull()
	ann.sameAsNew()
}

// repairTo repairs the phone under another profile.
func (p *phone) repairTo(profile string) int {
	p.profile = profile
	return p.repair(nil)
}

func TestS13ANewMonthEndsTheOldestAtOnceAndWithoutAWrite(t *testing.T) {
	w := newWorld(t)
	writer := w.phone("Ann")
	visits := w.visitEachMonth(writer, 2) // 2026-10 and 2026-11
	mini, full := w.phone("Ann"), w.phone("Ann")
	mini.profile = "mini_program"
	for _, p := range []*phone{mini, full} {
		p.pull()
		p.pull()
	}
	if !mini.has(visits[0]) {
		t.Fatal("October is missing")
	}
	// One second before December begins in Shanghai nothing is new; then October goes.
	w.clock.Store(time.Date(2026, 11, 30, 15, 59, 59, 0, time.UTC).UnixMilli())
	if pg := mini.try(t); pg != nil {
		t.Errorf("before midnight: %+v", pg)
	}
	w.pass(time.Second)
	if woken, d := waits(t, w.engine, mini); !woken || d > 10*time.Second {
		t.Errorf("a phone that waits over midnight: woken %v after %s", woken, d)
	}
	mini.page()
	if mini.has(visits[0]) || !mini.has(visits[1]) {
		t.Errorf("in December: %v", w.show(mini))
	}
	if pg := full.try(t); pg != nil {
		t.Errorf("a phone that follows all months: %+v", pg)
	}
	if pg := mini.try(t); pg != nil {
		t.Errorf("again: %+v", pg)
	}
}

// try pulls without staging.
func (p *phone) try(t *testing.T) *syncengine.Page {
	t.Helper()
	pg, err := p.engine.Pull(context.Background(), p.who, syncengine.PullRequest{Cursor: p.cursor, Profile: p.profile})
	if err != nil {
		t.Fatal(err)
	}
	return pg
}

func TestS13AnUnknownProfileIsToldTheKnownOnes(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	ann.account("x")
	ann.pull()
	_, err := w.engine.Pull(context.Background(), ann.who, syncengine.PullRequest{Cursor: ann.cursor, Profile: "watch"})
	if satchel.ReasonOf(err) != satchel.ReasonMalformed || !strings.Contains(err.Error(), "full, mini_program, phone") {
		t.Errorf("%v", err)
	}
	if _, err := w.engine.RepairStart(context.Background(), ann.who, "watch", nil); satchel.ReasonOf(err) != satchel.ReasonMalformed {
		t.Errorf("%v", err)
	}
	// A profile that devices follow by is never taken away.
	pack := strings.Replace(string(schema.DefaultPack()), "\n  mini_program:\n", "\n  micro_program:\n", 1)
	if _, err := w.engine.PublishSchema(context.Background(), w.org, []byte(pack)); err == nil || !strings.Contains(err.Error(), "mini_program") {
		t.Errorf("%v", err)
	}
	pack = strings.Replace(string(schema.DefaultPack()), "    months: 2\n", "    months: 1\n", 1)
	mini := w.phone("Ann")
	mini.profile = "mini_program"
	mini.pull()
	if _, err := w.engine.PublishSchema(context.Background(), w.org, []byte(pack)); err != nil {
		t.Fatal(err)
	}
	mini.pull()
	if mini.last.FollowedMonths != 1 {
		t.Errorf("%d months are followed by the new version", mini.last.FollowedMonths)
	}
}

func TestS13WhoHasTooManyBucketsFollowsFewerMonthsAndIsTold(t *testing.T) {
	w := newWorld(t)
	mei := w.phone("Mei")
	visits := w.visitEachMonth(w.phone("Ann"), 3)
	w.exec(`INSERT INTO bucket_name (org_id, stem, month, num)
		SELECT $1, 'team:' || $2, to_char('2000-01-01'::date + n * interval '1 month', 'YYYY-MM'), 100000 + n
		FROM generate_series(0, 319) n ON CONFLICT DO NOTHING`, w.org, w.teams["north"].String())
	w.exec(`INSERT INTO bucket_name (org_id, stem, month, num)
		SELECT $1, 'team:' || t.id, to_char('1950-01-01'::date + n * interval '1 month', 'YYYY-MM'), t.base + n
		FROM generate_series(0, 919) n, (VALUES ($2, 200000), ($3, 300000)) AS t(id, base) ON CONFLICT DO NOTHING`,
		w.org, w.teams["north"].String(), w.teams["south"].String())
	w.exec(`UPDATE org_clock SET buckets = 400000 WHERE org_id = $1`, w.org)
	w.changeRights(`UPDATE person SET team_id = $3 WHERE org_id = $1 AND id = $2`, w.org, w.people["Mei"], w.teams["head"])
	mei.pull()
	n := mei.last.FollowedMonths
	if n < 400 || n > 940 {
		t.Errorf("%d months are followed", n)
	}
	plan, err := w.engine.RepairStart(context.Background(), mei.who, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	nums := map[int64]bool{}
	for _, b := range plan.Buckets {
		nums[b.Bucket] = true
	}
	if len(nums) > access.MaxBucketsPerPerson || len(nums) < access.MaxBucketsPerPerson-2 {
		t.Errorf("%d buckets are followed", len(nums))
	}
	for _, id := range visits {
		if !mei.has(id) {
			t.Error("a new visit is missing")
		}
	}
}
