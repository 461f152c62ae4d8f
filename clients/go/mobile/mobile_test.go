package mobile_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/satchel-sync/satchel/clients/go/mobile"
)

func TestAVisitIsRecordedWithoutASignalAndArrivesAtTheManager(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	ann, mei := o.phone(t, "ann"), o.phone(t, "mei")
	text, err := ann.Identity()
	if me := one(t, text, err); me["displayName"] != "ann" || me["signedIn"] != true || me["person"] == "" || me["device"] == "" {
		t.Errorf("ann is %v", me)
	}
	o.down.Store(true)
	batch := mobile.NewBatch()
	account := batch.Create("account", `{"name": "Orient", "tags": ["a", "b"], "deal_amount": 123456789012345678.25}`)
	visit := batch.Create("visit", written(t, object{"account": account, "subject": "Shelves"}))
	mutation, err := ann.Record(batch)
	ok(t, err)
	text, err = ann.Pending()
	waiting := many(t, text, err)
	if len(waiting) != 1 || waiting[0]["id"] != mutation || waiting[0]["order"] != 1.0 || waiting[0]["sent"] != false || len(waiting[0]["ops"].([]any)) != 2 {
		t.Errorf("pending: %s", text)
	}
	if text, err := ann.Get("visit", visit); !strings.Contains(text, `"pending":true`) || err != nil {
		t.Errorf("%s, %v", text, err)
	}
	_, err = ann.Sync()
	wantCode(t, err, mobile.CodeUnavailable)

	o.down.Store(false)
	if r := ann.sync(); r["sent"] != 1.0 || r["pending"] != 0.0 || r["checkpoint"] != true {
		t.Errorf("the sync did %v", r)
	}
	text, err = ann.Settled(0, 10)
	fates := many(t, text, err)
	if len(fates) != 1 || fates[0]["id"] != mutation || fates[0]["fate"] != "APPLIED" || fates[0]["reason"] != "" {
		t.Errorf("settled: %s", text)
	}
	mei.sync()
	if got := mei.fields("visit", visit); got["account"] != account || got["subject"] != "Shelves" {
		t.Errorf("the manager sees %v", got)
	}
	if text, err := mei.Get("account", account); !strings.Contains(text, "123456789012345678.25") || err != nil {
		t.Errorf("the digits of an amount are not all there: %s, %v", text, err)
	}

	ok(t, ann.Patch("account", account, `{"level": "a"}`, `[{"field": "tags", "add": ["c"], "remove": ["a"]}, {"field": "visit_count", "by": 2}]`))
	ann.sync()
	mei.sync()
	got := mei.fields("account", account)
	if got["level"] != "a" || written(t, got["tags"]) != `["b","c"]` || got["visit_count"] != 2.0 {
		t.Errorf("after a patch: %v", got)
	}
	ok(t, ann.Patch("account", account, `{"level": null}`, ""))
	extra := ann.account("Temporary")
	ok(t, ann.Delete("account", extra))
	_, err = ann.Get("account", extra)
	wantCode(t, err, mobile.CodeNotFound)
	if _, there := ann.fields("account", account)["level"]; there {
		t.Error("null did not clear a field")
	}
}

func TestARunKeepsPhonesInStepAndTellsWhatItWaitsFor(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	ann, ben := o.phone(t, "ann"), o.phone(t, "mei")
	_, err := ben.Watch("account", ben.ear)
	ok(t, err)
	_, err = ben.WatchStatus(ben.ear)
	ok(t, err)
	ben.until(t, "a first call of each", func() bool { return ben.kinds["account"] == 1 && len(ben.statuses) == 1 })
	ok(t, ann.Start(ann.ear))
	ok(t, ben.Start(ben.ear))
	account := ann.account("Orient")
	ben.until(t, "the account", func() bool { return ben.kinds["account"] > 1 })
	ben.until(t, "a complete status", func() bool {
		return strings.Contains(ben.statuses[len(ben.statuses)-1], `"complete":true`)
	})
	if got := ben.fields("account", account); got["name"] != "Orient" {
		t.Errorf("it shows %v", got)
	}
	o.down.Store(true)
	ok(t, ann.Patch("account", account, `{"remark": "on the way"}`, ""))
	ann.until(t, "a pause", func() bool { return len(ann.failures) > 0 })
	if f := mobile.ParseError(heard(ann.ear, func() string { return ann.failures[0] })); f.Code != mobile.CodeUnavailable {
		t.Errorf("it pauses because of %+v", f)
	}
	if n := heard(ann.ear, func() int { return len(ann.ends) }); n > 0 {
		t.Error("a lost signal ended the run")
	}
	o.down.Store(false)
	ok(t, ann.Start(ann.ear)) // at once, in place of the run that pauses
	ann.until(t, "the end of the first run", func() bool { return len(ann.ends) == 1 && ann.ends[0] == "" })
	ann.Stop()
	ann.until(t, "the end of the second", func() bool { return len(ann.ends) == 2 && ann.ends[1] == "" })
	if r := ann.sync(); r["pending"] != 0.0 { // it can be used on
		t.Errorf("after Stop: %v", r)
	}
	ok(t, ben.Close())
	ben.until(t, "the end with the client", func() bool { return len(ben.ends) == 1 && ben.ends[0] == "" })
}

func TestARunEndsWithWhatOnlyTheAppCanMend(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	p := &phone{t: t, path: filepath.Join(t.TempDir(), "satchel.db"), ear: newEar()}
	p.reopen(o.url)
	t.Cleanup(func() { ok(t, p.Close()) })
	ok(t, p.Start(p.ear))
	p.until(t, "the end", func() bool { return len(p.ends) == 1 })
	if end := heard(p.ear, func() string { return p.ends[0] }); mobile.ParseError(end).Code != mobile.CodeSignInAgain {
		t.Errorf("a run without a session ends with %q", end)
	}
	ok(t, p.Start(nil)) // a run that nobody listens to
	_, err := p.Watch("account", nil)
	wantCode(t, err, mobile.CodeInvalid)
}

func TestAWatchHearsOfItsKindOnlyAndNothingAfterStop(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	p := o.phone(t, "ann")
	accounts, all, stopped := newEar(), newEar(), newEar()
	_, err := p.Watch("account", accounts)
	ok(t, err)
	_, err = p.Watch("", all)
	ok(t, err)
	w, err := p.Watch("account", stopped)
	ok(t, err)
	stopped.until(t, "the first call", func() bool { return stopped.kinds["account"] == 1 })
	accounts.until(t, "its first call too", func() bool { return accounts.kinds["account"] == 1 }) // what comes before it is told with it
	w.Stop()
	w.Stop()
	account := p.account("Orient")
	_, err = p.Create("visit", written(t, object{"account": account, "subject": "Shelves"}))
	ok(t, err)
	all.until(t, "both kinds", func() bool { return all.kinds["account"] > 0 && all.kinds["visit"] > 0 })
	accounts.until(t, "the account", func() bool { return accounts.kinds["account"] > 1 })
	if visits := heard(accounts, func() int { return accounts.kinds["visit"] }); visits > 0 {
		t.Errorf("it heard %d times of another kind", visits)
	}
	if calls := heard(stopped, func() int { return stopped.kinds["account"] }); calls != 1 {
		t.Errorf("after Stop it was called %d times more", calls-1)
	}
	before := heard(all, func() int { return all.kinds["account"] })
	p.sync() // settles: no longer pending
	all.until(t, "the checkpoint", func() bool { return all.kinds["account"] > before })
	if text, _ := p.Get("account", account); !strings.Contains(text, `"pending":false`) {
		t.Errorf("after the sync: %s", text)
	}
}

func TestAConflictIsAnAttentionAndWhatWasRefusedIsSaid(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	ann, mei := o.phone(t, "ann"), o.phone(t, "mei")
	account := ann.account("Orient")
	ann.sync()
	mei.sync()
	ok(t, ann.Patch("account", account, `{"level": "a"}`, ""))
	ok(t, mei.Patch("account", account, `{"level": "b"}`, ""))
	mei.sync()
	ann.sync()
	text, err := ann.Settled(1, 10)
	fates := many(t, text, err)
	if len(fates) != 1 || fates[0]["fate"] != "CONFLICTED" || written(t, fates[0]["paths"]) != written(t, []object{{"record": account, "path": "level"}}) {
		t.Fatalf("settled: %s", text)
	}
	text, err = ann.Attentions()
	if list := many(t, text, err); len(list) != 1 || list[0]["id"] != fates[0]["attention"] {
		t.Errorf("attentions: %s", text)
	}
	ok(t, ann.Command("account", account, "no.such.command", ""))
	ann.sync()
	text, err = ann.Settled(2, 10)
	if fates := many(t, text, err); len(fates) != 1 || fates[0]["reason"] == "" || fates[0]["fate"] == "APPLIED" {
		t.Errorf("settled: %s", text)
	}
}

func TestListPicksAndSorts(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	p := o.phone(t, "ann")
	account, other := p.account("Orient"), p.account("Pearl")
	for i, at := range []string{"2026-11-02T08:00:00Z", "2026-11-03T08:00:00Z", "2026-11-01T08:00:00Z", ""} {
		f := object{"account": account, "subject": string(rune('a' + i)), "satisfaction": i + 1}
		if at != "" {
			f["visited_at"] = at
		}
		_, err := p.Create("visit", written(t, f))
		ok(t, err)
	}
	_, err := p.Create("visit", written(t, object{"account": other, "subject": "z"}))
	ok(t, err)
	for query, want := range map[string]string{
		``: "abcdz",
		written(t, object{"where": object{"account": account}, "order": "visited_at"}):              "dcab",
		written(t, object{"where": object{"account": account}, "order": "-visited_at", "limit": 2}): "ba",
		written(t, object{"where": object{"satisfaction": 3}}):                                      "c",
		written(t, object{"where": object{"visited_at": nil, "account": account}}):                  "d",
		written(t, object{"order": "-satisfaction", "where": object{"account": account}}):           "dcba",
		written(t, object{"where": object{"account": account, "subject": "z"}}):                     "",
	} {
		text, err := p.List("visit", query)
		got := ""
		for _, r := range many(t, text, err) {
			got += r["fields"].(object)["subject"].(string)
		}
		if got != want {
			t.Errorf("List(%s) gives %q, want %q", query, got, want)
		}
	}
	for _, wrong := range []string{`{"sort": "name"}`, `[]`, `{"limit": -1}`, `{} {}`} {
		_, err := p.List("visit", wrong)
		wantCode(t, err, mobile.CodeInvalid)
	}
}

func TestAPhotoGoesUpAndComesBack(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	ann, mei := o.phone(t, "ann"), o.phone(t, "mei")
	visit, err := ann.Create("visit", written(t, object{"account": ann.account("Orient"), "subject": "Shelves"}))
	ok(t, err)
	jpeg := append([]byte{0xff, 0xd8, 0xff, 0xe0, 0, 16, 'J', 'F', 'I', 'F', 0}, bytes.Repeat([]byte{7}, 400_000)...)
	taken := filepath.Join(t.TempDir(), "photo.jpg")
	ok(t, os.WriteFile(taken, jpeg, 0o600))
	photo, err := ann.AttachFile("photo", taken, "image/jpeg", written(t, object{"visit": visit}))
	ok(t, err)
	small, err := ann.Attach("photo", jpeg[:2000], "image/jpeg", written(t, object{"visit": visit}))
	ok(t, err)
	ok(t, os.Remove(taken))
	text, err := ann.Media()
	if list := many(t, text, err); len(list) != 2 || list[0]["record"] != photo || list[0]["size"] != float64(len(jpeg)) || list[0]["refused"] != "" {
		t.Errorf("media: %s", text)
	}
	text, err = ann.Status()
	if s := one(t, text, err); s["media"] != 2.0 || s["mediaBytes"] != float64(len(jpeg)+2000) || s["pending"] != 4.0 || s["signedIn"] != true {
		t.Errorf("status: %s", text)
	}
	ann.sync()
	text, err = ann.Upload()
	if r := one(t, text, err); r["uploaded"] != 2.0 || r["refused"] != 0.0 {
		t.Errorf("upload: %s", text)
	}
	ok(t, ann.ForgetMedia(small))
	_, err = mei.Watch("photo", mei.ear)
	ok(t, err)
	ok(t, mei.Start(nil))
	mei.until(t, "the server's word that it has the bytes", func() bool {
		text, err := mei.Get("photo", photo)
		return err == nil && strings.Contains(text, `"blob_state":"stored"`)
	})
	saved := filepath.Join(t.TempDir(), "saved.jpg")
	kind, err := mei.SaveMedia(photo, saved)
	ok(t, err)
	if got, err := os.ReadFile(saved); err != nil || !bytes.Equal(got, jpeg) || kind != "image/jpeg" {
		t.Errorf("the photo came back with %d of %d bytes as %s, %v", len(got), len(jpeg), kind, err)
	}
	o.down.Store(true)
	_, err = mei.SaveMedia(photo, saved)
	wantCode(t, err, mobile.CodeUnavailable)
	if got, err := os.ReadFile(saved); err != nil || !bytes.Equal(got, jpeg) {
		t.Error("a failure changed the file that was there")
	}
	if left, _ := filepath.Glob(saved + ".*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	again := filepath.Join(t.TempDir(), "own.jpg")
	if _, err := ann.SaveMedia(photo, again); err != nil { // its own copy needs no signal
		t.Errorf("the device's own copy: %v", err)
	}
}

func TestWhatWasRecordedIsThereWhenTheAppIsOpenedAgain(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	p := o.phone(t, "ann")
	account := p.account("Orient")
	wantCode(t, p.SignOut(), mobile.CodeUnsent)
	_, err := mobile.Open(p.path, o.url, "", nil)
	wantCode(t, err, mobile.CodeInUse)
	ok(t, p.Close())
	ok(t, p.Close())
	_, err = p.Get("account", account)
	wantCode(t, err, mobile.CodeClosed)
	wantCode(t, p.Start(nil), mobile.CodeClosed)
	p.Stop()
	p.reopen(o.url)
	if got := p.fields("account", account); got["name"] != "Orient" {
		t.Errorf("it shows %v", got)
	}
	p.sync()
	ok(t, p.SignOut())
	wantCode(t, p.SignIn("acme", "ben", password, ""), mobile.CodeOtherPerson)
	wantCode(t, p.SignIn("acme", "ann", "wrong", ""), mobile.CodeBadCredentials)
	_, err = p.Sync()
	wantCode(t, err, mobile.CodeSignInAgain)
}

func TestStopEndsACallThatWaitsForTheNetwork(t *testing.T) {
	t.Parallel()
	hold, asked := make(chan struct{}), make(chan struct{}, 1)
	url := silent(t, hold, asked)
	p := &phone{t: t, path: filepath.Join(t.TempDir(), "satchel.db"), ear: newEar()}
	p.reopen(url)
	t.Cleanup(func() { ok(t, p.Close()) })
	t.Cleanup(func() { close(hold) })
	result := make(chan error, 1)
	go func() { result <- p.SignIn("acme", "ann", password, "") }()
	<-asked
	p.Stop()
	wantCode(t, <-result, mobile.CodeCanceled)
}
