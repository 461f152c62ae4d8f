package tests_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"testing"

	satchel "github.com/satchel-sync/satchel"
)

func TestWhatAsksForTooMuchIsBoundedOrRefused(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	long := strings.Repeat("x", 100_000)
	for name, c := range map[string]struct {
		method, body string
		code         string // "" = it goes well
	}{
		"a page of everybody":            {"DirectoryService/ListPeople", `{"pageSize": 1000000000}`, "invalid_argument"},
		"a page of less than nobody":     {"DirectoryService/ListPeople", `{"pageSize": -1}`, "invalid_argument"},
		"a page of all bytes":            {"SyncService/Sync", `{"maxBytes": 4294967295}`, ""},
		"a page of one byte":             {"SyncService/Sync", `{"maxBytes": 1}`, ""},
		"201 mutations":                  {"SyncService/Sync", `{"mutations": [` + strings.Repeat(`{"number": "1"},`, 200) + `{}]}`, "invalid_argument"},
		"33 clock pairs":                 {"SyncService/Sync", `{"clockPairs": [` + strings.Repeat(`{"boot": "b"},`, 32) + `{"boot": "b"}]}`, "invalid_argument"},
		"a number without end":           {"SyncService/Sync", `{"mutations": [{"number": "18446744073709551615", "id": "8f14e45f-ceea-467f-a0e6-1f2e3d4c5b61", "ops": []}], "noPage": true}`, ""},
		"confirmed for ever":             {"SyncService/Sync", `{"confirmed": "18446744073709551615", "noPage": true}`, ""},
		"an outbox without end":          {"SyncService/Sync", `{"outbox": {"count": 4294967295, "oldestMs": "-9223372036854775808", "mediaBytes": "18446744073709551615"}, "noPage": true}`, ""},
		"a schema of the far future":     {"SyncService/Sync", `{"schemaVersion": 4294967295, "noPage": true}`, ""},
		"a commit of the far future":     {"SyncService/Sync", `{"seenSeq": "18446744073709551615", "noPage": true}`, ""},
		"a skip without end":             {"SyncService/Sync", `{"mutations": [{"number": "8", "id": "8f14e45f-ceea-467f-a0e6-1f2e3d4c5b61", "skip": {"to": "18446744073709551615"}}], "noPage": true}`, ""},
		"an envelope without end":        {"SyncService/Sync", `{"mutations": [{"number": "9", "id": "8f14e45f-ceea-467f-a0e6-1f2e3d4c5b62", "envelope": {"size": "18446744073709551615"}}], "noPage": true}`, ""},
		"a profile of a whole book":      {"SyncService/Sync", `{"profile": "` + long + `"}`, "invalid_argument"},
		"a bucket of the largest number": {"SyncService/Repair", `{"revs": {"bucket": "18446744073709551615", "kind": "account"}}`, ""},
		"501 rows of a repair":           {"SyncService/Repair", `{"rows": {"records": "` + strings.Repeat("AAAAAAAAAAAAAAAAAAAAAA", 501) + `"}}`, "invalid_argument"},
		"201 salvaged rows":              {"SyncService/Repair", `{"salvage": {"rows": [` + strings.Repeat(`{},`, 200) + `{}]}}`, "invalid_argument"},
		"a salvaged rev without end":     {"SyncService/Repair", `{"salvage": {"rows": [{"recordId": "` + v.account + `", "kind": "account", "rev": "18446744073709551615", "eventMs": "-9223372036854775808", "fields": "{}"}]}}`, ""},
		"257 forms":                      {"SyncService/Repair", `{"start": {"forms": {"forms": [` + strings.Repeat(`{"kind": "x"},`, 256) + `{"kind": "x"}]}}}`, "invalid_argument"},
		"a long comment":                 {"ApprovalService/Decide", `{"approvalId": "` + v.approval + `", "formHash": "x", "decision": "DECISION_REJECT", "key": "` + v.approval + `", "comment": "` + long + `"}`, "invalid_argument"},
		"a long address":                 {"DeviceService/SetAddress", `{"kind": "ADDRESS_KIND_FCM_TOKEN", "address": "` + long + `"}`, "invalid_argument"},
		"an address of no kind":          {"DeviceService/SetAddress", `{"kind": 99, "address": "x"}`, "invalid_argument"},
		"a file of the largest size":     {"MediaService/Begin", `{"sha256": "` + noHash + `", "size": "18446744073709551615", "contentType": "image/jpeg"}`, "invalid_argument"},
		"a piece at the largest place":   {"MediaService/PutChunk", `{"uploadId": "` + v.upload + `", "offset": "18446744073709551615", "data": "YWJj"}`, "failed_precondition"},
		"17 roles":                       {"DirectoryService/CreatePerson", `{"login": "x", "displayName": "x", "roles": [` + strings.Repeat(`"rep",`, 16) + `"rep"]}`, "invalid_argument"},
		"a decision that is none":        {"ApprovalService/Decide", `{"approvalId": "` + v.approval + `", "formHash": "x", "decision": 7, "key": "` + v.approval + `"}`, "invalid_argument"},
	} {
		a := v.ann.call(c.method, c.body)
		if a.code != c.code {
			t.Errorf("%s: %.400s", name, a.raw)
		}
	}
}

// TestTwoHundredMutationsOfAHundredOpsAreSettledInTurns sends the most that one call can carry.
func TestTwoHundredMutationsOfAHundredOpsAreSettledInTurns(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	mutations := make([]any, 200)
	for i := range mutations {
		ops := make([]any, 100)
		for j := range ops {
			ops[j] = op(satchel.NewID().String(), "account", "create", map[string]any{"fields": `{"name": "n"}`})
		}
		mutations[i] = map[string]any{"number": fmt.Sprint(i + 1), "id": satchel.NewID().String(), "ops": ops}
	}
	settled := 0
	for range 60 {
		res := v.ben.call("SyncService/Sync", map[string]any{"noPage": true, "mutations": mutations[settled:]})
		if res.code != "" && res.code != "deadline_exceeded" && res.code != "unavailable" {
			t.Fatalf("behind %d: %.400s", settled, res.raw)
		}
		verdicts, _ := res.body["verdicts"].([]any)
		for _, one := range verdicts {
			if got := one.(map[string]any); got["status"] != "STATUS_APPLIED" || got["number"] != fmt.Sprint(settled+1) {
				t.Fatalf("behind %d: %v", settled, got)
			}
			settled++
		}
		if settled == len(mutations) {
			return
		}
	}
	t.Errorf("only %d are settled", settled)
}

func TestWhatCouldRunIsNeverServed(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	for name, data := range map[string]string{
		"a page":                      "<!doctype html><script>alert(1)</script>",
		"an SVG":                      `<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>`,
		"an SVG behind XML":           `<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>`,
		"a program":                   "MZ\x90\x00\x03\x00\x00\x00\x04\x00\x00\x00\xff\xff\x00\x00",
		"a script":                    "#!/bin/sh\nrm -rf /\n",
		"a page behind the end of it": "GIF89", // not quite a GIF
		"text":                        "nothing",
		"a ZIP":                       "PK\x03\x04\x14\x00\x00\x00\x08\x00",
	} {
		if a := v.ann.upload([]byte(data), "image/jpeg"); a.code != "invalid_argument" && a.code != "failed_precondition" || a.reason != "UNSUPPORTED_MEDIA" {
			t.Errorf("%s: %s", name, a.raw)
		}
	}
	// A picture with a page in it stays a picture, that no browser takes for anything else.
	both := append(picture(t), "<script>alert(1)</script>"...)
	if a := v.ann.upload(both, "text/html"); a.code != "" {
		t.Fatalf("a photo with something behind it: %s", a.raw)
	}
	sum := sha256.Sum256(both)
	photo := v.ann.create("photo", map[string]any{"visit": v.visit, "blob": hex.EncodeToString(sum[:])})
	link, _ := v.ann.must("MediaService/Link", map[string]any{"recordId": photo})["url"].(string)
	res, err := http.Get(v.url + link)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for header, want := range map[string]string{"Content-Type": "image/jpeg", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
		"Content-Security-Policy": "default-src 'none'; sandbox", "Content-Disposition": `inline; filename="` + hex.EncodeToString(sum[:8]) + `.jpg"`} {
		if got := res.Header.Get(header); got != want {
			t.Errorf("%s is %q", header, got)
		}
	}
}

func TestTheUploadPathTakesNothingButItsOwn(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	for _, c := range []struct {
		method, path, token string
		want                int
	}{
		{http.MethodPut, "/media/v1/upload/" + noHash, "", 401},
		{http.MethodPut, "/media/v1/upload/..%2f..%2fetc", v.ann.token, 400},
		{http.MethodPut, "/media/v1/upload/" + strings.ToUpper(noHash), v.ann.token, 400},
		{http.MethodPut, "/media/v1/upload/" + noHash + "%00", v.ann.token, 400},
		{http.MethodPut, "/media/v1/upload/", v.ann.token, 405},
		{http.MethodPut, "/media/v1/blob/" + v.ann.org + "/" + v.hash, v.ann.token, 405},
		{http.MethodGet, "/media/v1/upload/" + v.hash, v.ann.token, 404},
		{http.MethodDelete, "/media/v1/blob/" + v.ann.org + "/" + v.hash, v.ann.token, 405},
		{http.MethodTrace, "/", v.ann.token, 405},
		{http.MethodGet, "/../../etc/passwd", "", 307},
		{http.MethodGet, "/.git/config", "", 404},
		{http.MethodGet, "/debug/pprof/", "", 404},
		{http.MethodGet, "/satchel.v1.SyncService/Sync?encoding=json&message=%7B%7D", v.ann.token, 405},
	} {
		req, err := http.NewRequest(c.method, v.url+c.path, strings.NewReader("abc"))
		if err != nil {
			t.Fatal(err)
		}
		if c.method == http.MethodGet {
			req.Body = http.NoBody
		}
		req.Header.Set("Authorization", "Bearer "+c.token)
		res, err := (&http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != c.want {
			t.Errorf("%s %s gives %d, not %d", c.method, c.path, res.StatusCode, c.want)
		}
	}
}

func TestAKeyThatIsUsedForTwoQuotesSubmitsBoth(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	key := satchel.NewID().String()
	for range 2 {
		quote := v.ann.create("quote", map[string]any{"account": v.account, "title": "Small", "amount": 5})
		for range 2 { // the second time is a replay
			got := v.ann.must("ApprovalService/Submit", map[string]any{"recordId": quote, "key": key})["verdict"].(map[string]any)
			if got["status"] != "STATUS_APPLIED" {
				t.Errorf("the verdict is %v", got)
			}
		}
		v.ann.pull()
		if state := v.ann.seen[quote].fields["approval_state"]; state != "approved" {
			t.Errorf("the quote is %v", state)
		}
	}
}
