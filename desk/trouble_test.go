package desk_test

import (
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/satchel-sync/satchel/desk"
)

var now = time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)

// well is a phone to which nothing is wrong.
func well() desk.Facts {
	return desk.Facts{PersonName: "Ann", SignedIn: now.Add(-720 * time.Hour), Contact: now.Add(-time.Minute), Protocol: 1, MinProtocol: 1}
}

func TestEachCauseIsToldWhereItAppliesAndNowhereElse(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*desk.Facts)
		want   []desk.Kind
		says   string // in English
	}{
		"all is well":                       {func(*desk.Facts) {}, nil, ""},
		"it has never synced":               {func(f *desk.Facts) { f.Contact, f.Protocol = time.Time{}, 0 }, []desk.Kind{desk.NeverSynced}, "never synced"},
		"a day without a word":              {func(f *desk.Facts) { f.Contact = now.Add(-24 * time.Hour) }, []desk.Kind{desk.Silent}, "for 24 hours"},
		"a day less a second":               {func(f *desk.Facts) { f.Contact = now.Add(-24*time.Hour + time.Second) }, nil, ""},
		"a week without a word":             {func(f *desk.Facts) { f.Contact = now.Add(-7 * 24 * time.Hour) }, []desk.Kind{desk.Silent}, "for 7 days"},
		"something waits":                   {func(f *desk.Facts) { f.Outbox, f.Oldest = 1, f.Contact.Add(-time.Hour) }, []desk.Kind{desk.Waiting}, "1 change waited"},
		"it waits though it was heard of":   {func(f *desk.Facts) { f.Outbox, f.Oldest = 3, f.Contact.Add(-3*time.Hour) }, []desk.Kind{desk.Stuck}, "3 changes wait unsent, the oldest for 3 hours"},
		"a phone's clock is ahead":          {func(f *desk.Facts) { f.Outbox, f.Oldest = 3, f.Contact.Add(3*time.Hour) }, []desk.Kind{desk.Waiting}, "3 changes waited"},
		"it waits, nobody knows since when": {func(f *desk.Facts) { f.Outbox = 2 }, []desk.Kind{desk.Waiting}, "2 changes waited"},
		"photos wait":                       {func(f *desk.Facts) { f.MediaBytes = 3 << 20 }, []desk.Kind{desk.MediaWaiting}, "3.0 MiB"},
		"there is more to pull":             {func(f *desk.Facts) { f.Unfinished, f.Lag = true, 1 }, []desk.Kind{desk.Behind}, "1 commit behind"},
		"others work since":                 {func(f *desk.Facts) { f.Lag = 12 }, nil, ""},
		"something was refused":             {func(f *desk.Facts) { f.Kept = 2 }, []desk.Kind{desk.Kept}, "2 refused or conflicting changes wait"},
		"the app is too old":                {func(f *desk.Facts) { f.MinProtocol = 2 }, []desk.Kind{desk.OldApp}, "update the app"},
		"it was forked":                     {func(f *desk.Facts) { f.Forked = true }, []desk.Kind{desk.Forked}, "restored or cloned"},
		"it repaired its data":              {func(f *desk.Facts) { f.Repaired = now.Add(-6 * 24 * time.Hour) }, []desk.Kind{desk.Repaired}, "6 days ago"},
		"it repaired long ago":              {func(f *desk.Facts) { f.Repaired = now.Add(-8 * 24 * time.Hour) }, nil, ""},
		"it is revoked":                     {func(f *desk.Facts) { f.Revoked = now.Add(-time.Hour) }, []desk.Kind{desk.Revoked}, "was revoked."},
		"it is revoked with work on it": {func(f *desk.Facts) {
			f.Revoked, f.Outbox, f.Contact, f.Kept = now.Add(-time.Hour), 4, now.Add(-72*time.Hour), 1
		},
			[]desk.Kind{desk.Kept, desk.Revoked}, "4 changes waited on it"},
		"its person is gone": {func(f *desk.Facts) { f.Disabled, f.MediaBytes = true, 1 }, []desk.Kind{desk.PersonDisabled}, "may not sign in"},
		"much at once, the most pressing first": {func(f *desk.Facts) {
			f.Contact, f.Outbox, f.Oldest, f.Kept, f.MediaBytes = now.Add(-50*time.Hour), 1, now.Add(-60*time.Hour), 1, 1
		}, []desk.Kind{desk.Stuck, desk.Kept, desk.Silent, desk.MediaWaiting}, "2 days"},
	} {
		f := well()
		c.change(&f)
		var kinds []desk.Kind
		var said strings.Builder
		for _, tr := range desk.Troubles(f, now) {
			kinds = append(kinds, tr.Kind)
			said.WriteString(tr.EN)
			if !strings.ContainsFunc(tr.ZH, func(r rune) bool { return unicode.Is(unicode.Han, r) }) || strings.Contains(tr.ZH+tr.EN, "%!") {
				t.Errorf("%s: %q %q", name, tr.ZH, tr.EN)
			}
		}
		if !slices.Equal(kinds, c.want) || !strings.Contains(said.String(), c.says) {
			t.Errorf("%s: %v %q", name, kinds, said.String())
		}
	}
}
