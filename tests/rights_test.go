package tests_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	satchel "github.com/satchel-sync/satchel"
)

// verdictTold is what a verdict tells, without what differs from one mutation to the next.
func verdictTold(v map[string]any) string {
	var paths []string
	list, _ := v["paths"].([]any)
	for _, p := range list {
		paths = append(paths, fmt.Sprint(p.(map[string]any)["path"]))
	}
	return fmt.Sprintf("%v %v %v %v attention %t %v", v["status"], v["reason"], v["detail"], paths, v["attentionId"] != nil, v["notes"])
}

func TestAMutationTellsNothingOfWhatItsPersonMayNotSee(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	child := func(kind, parent string, more map[string]any) func(string) map[string]any {
		return func(id string) map[string]any {
			fields := map[string]any{parent: id}
			for k, x := range more {
				fields[k] = x
			}
			return op(satchel.NewID().String(), kind, "create", withFields(fields))
		}
	}
	command := func(kind, name, args string) func(string) map[string]any {
		return func(id string) map[string]any {
			return op(id, kind, "command", map[string]any{"name": name, "args": args})
		}
	}
	patch := func(kind string, fields map[string]any) func(string) map[string]any {
		return func(id string) map[string]any { return op(id, kind, "patch", withFields(fields)) }
	}
	for name, c := range map[string]struct {
		id  string
		try func(id string) map[string]any
	}{
		"to change an account":          {v.account, patch("account", map[string]any{"name": "Taken"})},
		"to write a wrong value":        {v.account, patch("account", map[string]any{"level": "z"})},
		"to write a field that is none": {v.account, patch("account", map[string]any{"no_such": 1})},
		"to change it as another kind":  {v.account, patch("contact", map[string]any{"name": "Taken"})},
		"to take it over":               {v.account, patch("account", map[string]any{"owner": v.ben.person})},
		"to delete an account":          {v.account, func(id string) map[string]any { return op(id, "account", "delete", map[string]any{}) }},
		"to delete a photo":             {v.photo, func(id string) map[string]any { return op(id, "photo", "delete", map[string]any{}) }},
		"to add to a set": {v.account, func(id string) map[string]any {
			return op(id, "account", "patch", map[string]any{"sets": []any{map[string]any{"field": "tags", "add": []string{"x"}}}})
		}},
		"to count": {v.account, func(id string) map[string]any {
			return op(id, "account", "patch", map[string]any{"increments": []any{map[string]any{"field": "visit_count", "by": "1"}}})
		}},
		"a visit to an account":              {v.account, child("visit", "account", map[string]any{"subject": "Spying"})},
		"a contact of an account":            {v.account, child("contact", "account", map[string]any{"name": "Spy"})},
		"a quote to an account":              {v.account, child("quote", "account", map[string]any{"title": "Spy", "amount": 1})},
		"a photo of a visit":                 {v.visit, child("photo", "visit", map[string]any{"blob": v.hash})},
		"to submit a quote":                  {v.quote, command("quote", "approval.submit", "")},
		"to reopen a quote":                  {v.quote, command("quote", "approval.reopen", "{}")},
		"to submit an account":               {v.account, command("account", "approval.submit", "")},
		"to decide":                          {v.approval, command("approval", "approval.decide", `{"form_hash": "`+v.formHash+`", "decision": "approve"}`)},
		"to decide in a way that is none":    {v.approval, command("approval", "approval.decide", `{"decision": 1}`)},
		"to decide without saying how":       {v.approval, command("approval", "approval.decide", "")},
		"to withdraw":                        {v.approval, command("approval", "approval.withdraw", "")},
		"to run a command of the system":     {v.approval, command("approval", "approval.late", "{}")},
		"to fire a rule":                     {v.visit, command("visit", "rules.fire", `{"rule": "follow_up_due"}`)},
		"to change somebody's attention":     {v.account, patch("attention", map[string]any{"open": false})},
		"to move a visit of one's own there": {v.account, nil},
	} {
		try := c.try
		for who, attacker := range map[string]*caller{"Ben": v.ben, "Gina": v.gina} {
			if try == nil {
				own := attacker.create("account", map[string]any{"name": "Own"})
				visit := attacker.create("visit", map[string]any{"account": own, "subject": "Own"})
				c.try = func(id string) map[string]any {
					return op(visit, "visit", "patch", withFields(map[string]any{"account": id}))
				}
			}
			hers, nobodys := attacker.mutate(c.try(c.id)), attacker.mutate(c.try(satchel.NewID().String()))
			if got, want := verdictTold(hers), verdictTold(nobodys); got != want {
				t.Errorf("%s tries %s:\n  hers:     %s\n  nobody's: %s", who, name, got, want)
			}
			if hers["status"] != "STATUS_REJECTED" {
				t.Errorf("%s tries %s: %v", who, name, hers)
			}
		}
	}
	// Nor does what is kept of the refusals bring anything of hers.
	for _, attacker := range []*caller{v.ben, v.gina, v.gus} {
		attacker.pull()
		for id, s := range attacker.seen {
			raw, err := json.Marshal(s.fields)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(raw), "Orient") || strings.Contains(string(raw), "0571 8888") || strings.Contains(string(raw), "Shelves") {
				t.Errorf("%s %s of another brings %s", s.kind, id, raw)
			}
		}
	}
	// An id of another organisation is free: records of two organisations never meet.
	if got := v.gus.mutate(op(v.account, "account", "create", withFields(map[string]any{"name": "Same id"}))); got["status"] != "STATUS_APPLIED" {
		t.Errorf("the id of an account of Acme at Globex: %v", got)
	}
	v.ann.pull()
	if got := v.ann.seen[v.account].fields["name"]; got != "Orient" {
		t.Errorf("Ann's account is %v", got)
	}
}

func TestWhatOnlyTheServerWritesIsWrittenByNoDevice(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	kinds := v.admin.must("SchemaService/GetSchema", `{}`)["kinds"].([]any)
	value := map[string]any{"text": "x", "long_text": "x", "integer": 7, "decimal": 7, "boolean": true, "date": "2026-11-21",
		"datetime": "2026-11-21T08:00:00Z", "choice": "x", "set": []string{"x"}, "reference": v.ben.person, "geo": map[string]any{"lat": 1, "lng": 1}, "json": map[string]any{}}
	tried := 0
	for _, one := range kinds {
		kind := one.(map[string]any)
		name := kind["name"].(string)
		for _, f := range kind["fields"].([]any) {
			field := f.(map[string]any)
			if field["merge"] != "server_only" {
				continue
			}
			tried++
			x := value[field["type"].(string)]
			if choices, _ := field["choices"].([]any); len(choices) > 0 {
				x = choices[0]
			}
			fields := withFields(map[string]any{field["name"].(string): x})
			for what, o := range map[string]map[string]any{
				"create": op(satchel.NewID().String(), name, "create", fields),
				"patch":  op(map[string]string{"quote": v.quote, "photo": v.photo, "person": v.ann.person, "team": v.team, "approval": v.approval}[name], name, "patch", fields),
			} {
				if o["recordId"] == "" {
					continue // the administrator sees none of that kind
				}
				got := v.admin.mutate(o)
				if got["status"] != "STATUS_REJECTED" || got["reason"] != "REASON_FIELD_FORBIDDEN" && got["reason"] != "REASON_RECORD_UNKNOWN" && got["reason"] != "REASON_FORBIDDEN" {
					t.Errorf("%s of %s.%s by the administrator: %v", what, name, field["name"], got)
				}
			}
		}
	}
	if tried < 30 {
		t.Errorf("only %d fields are the server's", tried)
	}
	// Nor is a record made in another's name, or given to somebody out of reach.
	for what, o := range map[string]map[string]any{
		"an account for Ben":    op(satchel.NewID().String(), "account", "create", withFields(map[string]any{"name": "Gift", "owner": v.ben.person})),
		"an account for nobody": op(satchel.NewID().String(), "account", "create", withFields(map[string]any{"name": "Gift", "owner": satchel.NewID().String()})),
		"an account for Gina":   op(satchel.NewID().String(), "account", "create", withFields(map[string]any{"name": "Gift", "owner": v.gina.person})),
		"hers to Ben":           op(v.account, "account", "patch", withFields(map[string]any{"owner": v.ben.person})),
		"a hidden field":        op(v.account, "account", "patch", withFields(map[string]any{"credit_limit": 1_000_000})),
		"the author":            op(v.account, "account", "patch", withFields(map[string]any{"author": v.ben.person})),
		"the rev":               op(v.account, "account", "patch", withFields(map[string]any{"rev": 1})),
		"a person":              op(satchel.NewID().String(), "person", "create", withFields(map[string]any{"name": "Ghost"})),
		"to be removed":         op(v.ann.person, "person", "delete", map[string]any{}),
		"a command in disguise": op(v.quote, "quote", "command", map[string]any{"name": "approval.late", "args": "{}"}),
		"a rule":                op(v.visit, "visit", "command", map[string]any{"name": "rules.fire", "args": `{"rule": "follow_up_due"}`}),
		"her own quote decided": op(v.approval, "approval", "command", map[string]any{"name": "approval.decide", "args": `{"form_hash": "` + v.formHash + `", "decision": "approve"}`}),
		"a quote that waits":    op(v.quote, "quote", "patch", withFields(map[string]any{"amount": 1})),
	} {
		if got := v.ann.mutate(o); got["status"] != "STATUS_REJECTED" {
			t.Errorf("%s: %v", what, got)
		}
	}
}

func TestWhatOnePersonWasGivenIsWorthNothingToAnother(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	for who, c := range map[string]*caller{"Ben": v.ben, "Gina": v.gina} {
		for _, name := range []string{"SyncService/Sync", "SyncService/Wait"} {
			if a := c.call(name, map[string]any{"cursor": v.cursor}); a.reason != "MALFORMED_CURSOR" {
				t.Errorf("%s with the cursor of Ann by %s: %s", name, who, a.raw)
			}
		}
		c.number++
		got := c.must("SyncService/Sync", map[string]any{"noPage": true, "mutations": []any{map[string]any{"number": fmt.Sprint(c.number), "id": satchel.NewID().String(),
			"checkpointToken": v.checkpoint, "ops": []any{op(satchel.NewID().String(), "visit", "create", withFields(map[string]any{"account": v.account, "subject": "Hers"}))}}}})
		if one := got["verdicts"].([]any)[0].(map[string]any); one["reason"] != "REASON_RECORD_UNKNOWN" {
			t.Errorf("a visit with the token of Ann by %s: %v", who, one)
		}
	}
	// A token names its organisation and device; each part of one in another is no token.
	for name, pair := range map[string][2]string{"access": {v.ann.token, v.gina.token}, "refresh": {v.ann.refresh, v.gina.refresh}} {
		for cut, i := range map[string][2]int{"the organisation": {0, 16}, "the device": {16, 32}, "both": {0, 32}} {
			forged := splice(t, pair[0], pair[1], i[0], i[1])
			stranger := &caller{t: t, url: v.url, token: forged}
			a := stranger.call("AuthService/WhoAmI", `{}`)
			if name == "refresh" {
				stranger.token = ""
				a = stranger.call("AuthService/Refresh", map[string]any{"refreshToken": forged})
			}
			if a.code != "unauthenticated" {
				t.Errorf("a %s token with %s of another: %s", name, cut, a.raw)
			}
		}
	}
	for name, c := range map[string]*caller{"Ann": v.ann, "Gina": v.gina} {
		if a := c.call("AuthService/WhoAmI", `{}`); a.code != "" {
			t.Errorf("the forgery ended the session of %s: %s", name, a.raw)
		}
	}
	// A refresh token that was spent ends the session, of the thief too.
	old := v.ben.refresh
	next := v.ben.must("AuthService/Refresh", map[string]any{"refreshToken": old})["tokens"].(map[string]any)
	v.ben.token = next["accessToken"].(string)
	v.ben.must("AuthService/WhoAmI", `{}`)
	if a := v.ben.call("AuthService/Refresh", map[string]any{"refreshToken": old}); a.reason != "SESSION_ENDED" {
		t.Errorf("a spent refresh token: %s", a.raw)
	}
	if a := v.ben.call("AuthService/Refresh", map[string]any{"refreshToken": next["refreshToken"]}); a.reason != "SESSION_ENDED" {
		t.Errorf("the newest token after the theft: %s", a.raw)
	}
}

// splice puts bytes of one token into another.
func splice(t *testing.T, into, from string, begin, end int) string {
	t.Helper()
	prefix := into[:4]
	a, err := base64.RawURLEncoding.DecodeString(into[4:])
	if err != nil {
		t.Fatal(err)
	}
	b, err := base64.RawURLEncoding.DecodeString(from[4:])
	if err != nil {
		t.Fatal(err)
	}
	copy(a[begin:end], b[begin:end])
	return prefix + base64.RawURLEncoding.EncodeToString(a)
}

func TestASignInOnSomebodyElsesDeviceGetsADeviceOfItsOwn(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	stranger := &caller{t: t, url: v.url}
	for org, login := range map[string]string{"acme": "ben", "globex": "gina"} {
		got := stranger.must("AuthService/SignIn", map[string]any{"org": org, "login": login, "password": password, "device": map[string]any{"deviceId": v.ann.device}})
		if got["deviceId"] == v.ann.device {
			t.Errorf("%s signed in on the device of Ann", login)
		}
	}
	if a := v.ann.call("AuthService/WhoAmI", `{}`); a.code != "" {
		t.Errorf("Ann is out: %s", a.raw)
	}
}

func TestBytesOfAnotherAreNeverTold(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	for who, c := range map[string]*caller{"Ben": v.ben, "Gina": v.gina} {
		hers := c.must("MediaService/Begin", map[string]any{"sha256": v.hash, "size": "9", "contentType": "image/jpeg"})
		none := c.must("MediaService/Begin", map[string]any{"sha256": noHash, "size": "9", "contentType": "image/jpeg"})
		if hers["stored"] != nil || len(hers) != len(none) || hers["uploadId"] == v.upload {
			t.Errorf("%s hears of the bytes: %v, of others %v", who, hers, none)
		}
		// A record that names them gives no way to them either.
		account := c.create("account", map[string]any{"name": "Own"})
		visit := c.create("visit", map[string]any{"account": account, "subject": "Own"})
		photo := c.create("photo", map[string]any{"visit": visit, "blob": v.hash})
		if _, err := v.Jobs.Step(context.Background()); err != nil {
			t.Fatal(err)
		}
		if a := c.call("MediaService/Link", map[string]any{"recordId": photo}); a.code != "not_found" {
			t.Errorf("%s has a link to the bytes: %s", who, a.raw)
		}
	}
}

func TestALinkOpensWhatItIsForAndNothingElse(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	stranger := &caller{t: t, url: v.url}
	get := func(path string) answer {
		t.Helper()
		req, err := http.NewRequest(http.MethodGet, v.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		return stranger.do(req)
	}
	if a := get(v.link); a.code != "" || string(a.raw) != string(picture(t)) {
		t.Fatalf("the link as it was given: %d %.200s", a.status, a.raw)
	}
	path, query, _ := strings.Cut(v.link, "?")
	other := strings.Replace(path, v.hash, noHash, 1)
	for name, c := range map[string]struct {
		path string
		want int
	}{
		"of other bytes":                {other + "?" + query, 403},
		"of another organisation":       {strings.Replace(path, v.ann.org, v.gina.org, 1) + "?" + query, 403},
		"for another person":            {path + "?" + strings.Replace(query, v.ann.person, v.ben.person, 1), 403},
		"for longer":                    {path + "?" + strings.Replace(query, "e=1", "e=2", 1), 403},
		"with a time that is none":      {path + "?" + strings.Replace(query, "e=1", "e=-1", 1), 403},
		"without a signature":           {path, 403},
		"with an empty one":             {path + "?p=" + v.ann.person + "&e=9999999999&s=", 403},
		"with the hash in capitals":     {strings.ToUpper(path[len("/media/v1/blob/"):]) + "?" + query, 404},
		"up from the folder":            {"/media/v1/blob/" + v.ann.org + "/%2e%2e%2f%2e%2e%2fetc%2fpasswd?" + query, 403},
		"up from the folder in the org": {"/media/v1/blob/%2e%2e/" + v.hash + "?" + query, 403},
		"with a folder more":            {path + "/x?" + query, 404},
		"the folder":                    {"/media/v1/blob/" + v.ann.org + "/", 404},
		"media":                         {"/media/v1/", 404},
	} {
		if !strings.HasPrefix(c.path, "/") {
			c.path = "/media/v1/blob/" + c.path
			c.want = 403
		}
		if a := get(c.path); a.status != c.want || strings.Contains(string(a.raw), "JFIF") {
			t.Errorf("a link %s: %d %.200s", name, a.status, a.raw)
		}
	}
	// A link is nothing to a phone that has no right: it works for who has it, as long as its person may.
	v.admin.must("DirectoryService/UpdatePerson", map[string]any{"personId": v.ann.person, "disabled": true})
	if a := get(v.link); a.status != 403 {
		t.Errorf("the link of somebody who was disabled: %d", a.status)
	}
}
