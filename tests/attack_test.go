package tests_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	satchel "github.com/satchel-sync/satchel"
	_ "github.com/satchel-sync/satchel/gen/satchel/v1" // the contract, for the registry
)

// rpc says how each procedure is attacked. A procedure without an entry fails the tests.
type rpc struct {
	// good is a well-formed request; {{name}} stands for a thing of the victim. The administrator of Acme sends it with
	// hostile texts in the place of each of its own, and strangers send it without a session.
	good string
	// open needs no session.
	open bool
	// swap are requests in which {{id}} is a thing of Ann's at Acme: for somebody who may not know of it the answer is
	// the same as for an id that nobody has. Absent with a reason why there is nothing to swap.
	swap []swap
	none string
	// admins says that the procedure needs the right to manage the directory, or the office desk.
	admins bool
	// stored says that the answer carries verdicts: the outcome is looked for there.
	verdict bool
}

type swap struct {
	request string
	id      string   // name of the thing
	by      []string // who tries; nil = Ben, her colleague, and Gina, the administrator of another organisation
}

const elsewhere = `gina` // things of the organisation that a colleague may well know

var rpcs = map[string]rpc{
	"SyncService/Sync": {
		good: `{"cursor": "", "clockPairs": [{"boot": "b", "monotonicMs": "1", "serverMs": "1"}], "noPage": true}`,
		none: "TestAMutationTellsNothingOfWhatItsPersonMayNotSee swaps its ids, and the cursor and the token are in TestWhatOnePersonWasGivenIsWorthNothingToAnother",
	},
	"SyncService/Repair": {good: `{"profile": "", "start": {"forms": {"forms": [{"kind": "account", "form": "1"}]}}}`,
		none: "TestARepairGivesNothingOfSomebodyElse swaps its buckets and records"},
	"SyncService/Wait": {good: `{"cursor": "AAAA"}`, none: "TestWhatOnePersonWasGivenIsWorthNothingToAnother has the cursor"},

	"AuthService/SignIn":         {open: true, good: `{"org": "acme", "login": "nobody", "password": "wrong password", "device": {"deviceId": "x", "installation": "i", "name": "n", "platform": "p", "appVersion": "1"}}`, none: "a device id of another person gives a new device: TestASignInOnSomebodyElsesDeviceGetsADeviceOfItsOwn"},
	"AuthService/SignInWeChat":   {open: true, good: `{"code": "c", "org": "acme", "device": {"deviceId": "x", "installation": "i", "name": "n", "platform": "p", "appVersion": "1"}, "bind": {"login": "nobody", "password": "wrong password"}}`, none: "as SignIn"},
	"AuthService/UnbindWeChat":   {good: `{"personId": ""}`, swap: []swap{{`{"personId": "{{id}}"}`, "ann", nil}}},
	"AuthService/Refresh":        {open: true, good: `{"refreshToken": "sar_x"}`, none: "TestWhatOnePersonWasGivenIsWorthNothingToAnother has the token"},
	"AuthService/SetUp":          {open: true, good: `{"code": "c", "org": "third", "orgName": "Third", "login": "x", "displayName": "X", "password": "long enough 1"}`, none: "the code is no id; it works once"},
	"AuthService/SignOut":        {good: `{}`, none: "it has no fields"},
	"AuthService/WhoAmI":         {good: `{}`, none: "it has no fields"},
	"AuthService/ChangePassword": {good: `{"oldPassword": "wrong password", "newPassword": "long enough 1"}`, none: "it is about the caller"},

	"DirectoryService/ListPeople": {good: `{"pageToken": ""}`, swap: []swap{{`{"pageToken": "{{id}}"}`, "ann", []string{elsewhere}}}},
	"DirectoryService/CreatePerson": {admins: true, good: `{"login": "{{new}}", "displayName": "N", "teamId": "", "roles": ["rep"], "password": "long enough 1"}`,
		swap: []swap{{`{"login": "spy", "displayName": "Spy", "teamId": "{{id}}"}`, "team", nil}}},
	"DirectoryService/UpdatePerson": {admins: true, good: `{"personId": "{{ben}}", "displayName": "Ben", "roles": {"roles": ["rep"]}}`,
		swap: []swap{{`{"personId": "{{id}}", "displayName": "Taken"}`, "ann", nil}, {`{"personId": "{{gina}}", "teamId": "{{id}}"}`, "team", []string{elsewhere}}}},
	"DirectoryService/ResetPassword": {admins: true, good: `{"personId": "{{ben}}", "newPassword": "open sesame 42"}`,
		swap: []swap{{`{"personId": "{{id}}", "newPassword": "a new password"}`, "ann", nil}}},
	"DirectoryService/ListTeams": {good: `{}`, none: "it has no fields"},
	"DirectoryService/CreateTeam": {admins: true, good: `{"name": "N", "parentId": ""}`,
		swap: []swap{{`{"name": "Below", "parentId": "{{id}}"}`, "team", nil}}},
	"DirectoryService/UpdateTeam": {admins: true, good: `{"teamId": "{{team}}", "name": "North"}`,
		swap: []swap{{`{"teamId": "{{id}}", "name": "Taken"}`, "team", nil}}},

	"DeviceService/ListDevices":   {good: `{"personId": ""}`, swap: []swap{{`{"personId": "{{id}}"}`, "ann", nil}}},
	"DeviceService/RevokeDevice":  {good: `{"deviceId": "01234567-89ab-7def-8123-456789abcdef"}`, swap: []swap{{`{"deviceId": "{{id}}"}`, "device", nil}}},
	"DeviceService/SetAddress":    {good: `{"kind": "ADDRESS_KIND_FCM_TOKEN", "address": "token", "language": "en"}`, none: "it is about the caller's device"},
	"DeviceService/AddGrants":     {good: `{"key": "01234567-89ab-7def-8123-456789abcdef", "templates": ["t1"]}`, none: "it is about the caller"},
	"DeviceService/RemoveAddress": {good: `{"kind": "ADDRESS_KIND_FCM_TOKEN"}`, none: "it is about the caller's device"},

	"DeskService/ListSyncState": {admins: true, good: `{"personId": "{{ann}}", "after": ""}`,
		swap: []swap{{`{"personId": "{{id}}"}`, "ann", nil}}},
	"DeskService/ListKept": {admins: true, good: `{"deviceId": "{{device}}", "personId": "{{ann}}", "after": ""}`,
		swap: []swap{{`{"deviceId": "{{id}}"}`, "device", nil}, {`{"personId": "{{id}}"}`, "ann", nil}}},
	"DeskService/RetryKept": {admins: true, good: `{"deviceId": "{{device}}", "number": "{{kept}}"}`,
		swap: []swap{{`{"deviceId": "{{id}}", "number": "{{kept}}"}`, "device", nil}}},
	"DeskService/EditKept": {admins: true, good: `{"deviceId": "{{device}}", "number": "{{kept}}", "ops": [{"recordId": "{{visit}}", "kind": "visit", "patch": {"fields": "{}"}}]}`,
		swap: []swap{{`{"deviceId": "{{id}}", "number": "{{kept}}", "ops": [{"recordId": "{{visit}}", "kind": "visit", "patch": {"fields": "{}"}}]}`, "device", nil}}},
	"DeskService/DiscardKept": {admins: true, good: `{"deviceId": "01234567-89ab-7def-8123-456789abcdef", "number": "{{kept}}"}`,
		swap: []swap{{`{"deviceId": "{{id}}", "number": "{{kept}}"}`, "device", nil}}},
	"DeskService/ListSalvage": {admins: true, good: `{"after": ""}`, none: "it has no ids"},
	"DeskService/ResolveSalvage": {admins: true, good: `{"recordId": "01234567-89ab-7def-8123-456789abcdef"}`,
		swap: []swap{{`{"recordId": "{{id}}"}`, "account", nil}}},

	"MediaService/Begin": {good: `{"sha256": "` + noHash + `", "size": "9", "contentType": "image/jpeg"}`,
		none: "the same bytes are never told: TestBytesOfAnotherAreNeverTold"},
	"MediaService/PutChunk": {good: `{"uploadId": "01234567-89ab-7def-8123-456789abcdef", "data": "YWJj"}`,
		swap: []swap{{`{"uploadId": "{{id}}", "data": "YWJj"}`, "upload", nil}}},
	"MediaService/Complete": {good: `{"uploadId": "01234567-89ab-7def-8123-456789abcdef"}`, swap: []swap{{`{"uploadId": "{{id}}"}`, "upload", nil}}},
	"MediaService/Link": {good: `{"recordId": "01234567-89ab-7def-8123-456789abcdef"}`,
		swap: []swap{{`{"recordId": "{{id}}"}`, "photo", nil}, {`{"recordId": "{{id}}"}`, "account", nil}}},

	"SchemaService/GetSchema": {good: `{}`, none: "it has no ids"},

	"ApprovalService/Preview": {good: `{"recordId": "01234567-89ab-7def-8123-456789abcdef"}`,
		swap: []swap{{`{"recordId": "{{id}}"}`, "quote", nil}, {`{"recordId": "{{id}}"}`, "account", nil}}},
	"ApprovalService/Submit": {good: `{"recordId": "01234567-89ab-7def-8123-456789abcdef", "key": "01234567-89ab-7def-8123-456789abcdef"}`,
		swap: []swap{{`{"recordId": "{{id}}", "key": "{{fresh}}"}`, "quote", nil}, {`{"recordId": "{{id}}", "key": "{{fresh}}"}`, "account", nil}}},
	"ApprovalService/Decide": {good: `{"approvalId": "01234567-89ab-7def-8123-456789abcdef", "formHash": "x", "decision": "DECISION_APPROVE", "comment": "c", "key": "{{fresh}}"}`,
		verdict: true,
		swap: []swap{{`{"approvalId": "{{id}}", "formHash": "{{formHash}}", "decision": "DECISION_APPROVE", "key": "{{fresh}}"}`, "approval", nil},
			{`{"approvalId": "{{id}}", "formHash": "x", "decision": "DECISION_APPROVE", "key": "{{fresh}}"}`, "approval", nil}}},
}

// noHash is a SHA-256 of bytes that nobody has.
const noHash = "00000000000000000000000000000000000000000000000000000000000000aa"

// procedures are all of the contract, as Service/Method.
func procedures() []string {
	var out []string
	protoregistry.GlobalFiles.RangeFilesByPackage("satchel.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				out = append(out, string(s.Name())+"/"+string(s.Methods().Get(j).Name()))
			}
		}
		return true
	})
	return out
}

func TestEveryProcedureHasItsAttack(t *testing.T) {
	t.Parallel()
	known := procedures()
	for _, name := range known {
		if a, ok := rpcs[name]; !ok || a.good == "" || len(a.swap) == 0 && a.none == "" {
			t.Errorf("%s: say in rpcs how it is attacked", name)
		}
	}
	if len(known) != len(rpcs) {
		t.Errorf("the contract has %d procedures, rpcs has %d", len(known), len(rpcs))
	}
}

// fillIn puts things of the victim into a request.
func (v *victim) fillIn(request string) string {
	for name, id := range v.things() {
		request = strings.ReplaceAll(request, "{{"+name+"}}", id)
	}
	request = strings.ReplaceAll(request, "{{new}}", "p"+satchel.NewID().String())
	return strings.ReplaceAll(request, "{{fresh}}", satchel.NewID().String())
}

func (v *victim) things() map[string]string {
	return map[string]string{"ann": v.ann.person, "ben": v.ben.person, "gina": v.gina.person, "team": v.team, "device": v.ann.device, "account": v.account, "visit": v.visit,
		"kept": v.kept, "photo": v.photo, "quote": v.quote, "approval": v.approval, "upload": v.upload, "formHash": v.formHash}
}

// learnt is what a caller can tell apart in an answer: of a verdict all but what differs from one to the next.
func learnt(a answer, id string) string {
	v, ok := a.body["verdict"].(map[string]any)
	if !ok {
		if a.code == "" {
			return strings.ReplaceAll(string(a.raw), id, "ID")
		}
		return a.told()
	}
	return fmt.Sprint(v["status"], v["reason"], v["detail"], len(fmt.Sprint(v["paths"])), v["attentionId"] != nil, v["notes"])
}

func TestAThingOfSomebodyElseIsLikeOneThatDoesNotExist(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	for _, name := range procedures() {
		for i, s := range rpcs[name].swap {
			by := s.by
			if by == nil {
				by = []string{"ben", elsewhere}
			}
			for _, who := range by {
				c := map[string]*caller{"ben": v.ben, elsewhere: v.gina}[who]
				id, nobodys := v.things()[s.id], satchel.NewID().String()
				theirs := c.call(name, v.fillIn(strings.ReplaceAll(s.request, "{{id}}", id)))
				none := c.call(name, v.fillIn(strings.ReplaceAll(s.request, "{{id}}", nobodys)))
				what := fmt.Sprintf("%s #%d of the %s by %s", name, i, s.id, who)
				if got, want := learnt(theirs, id), learnt(none, nobodys); got != want {
					t.Errorf("%s:\n  hers:     %s\n  nobody's: %s", what, got, want)
				}
				refused := theirs.code == "not_found" || theirs.code == "permission_denied" && rpcs[name].admins && who == "ben" ||
					rpcs[name].verdict && theirs.body["verdict"].(map[string]any)["status"] == "STATUS_REJECTED"
				switch name {
				case "DirectoryService/ListPeople":
					refused = !strings.Contains(string(theirs.raw), v.ann.person)
				case "DeskService/ListSyncState", "DeskService/ListKept":
					refused = refused || who == elsewhere && string(theirs.raw) == "{}"
				case "DeviceService/ListDevices", "AuthService/UnbindWeChat":
					refused = theirs.code == "not_found" || theirs.code == "permission_denied" && who == "ben"
				}
				if !refused {
					t.Errorf("%s: %s", what, theirs.raw)
				}
			}
		}
	}
	if a := signIn(t, v.url, "acme", "ann"); a.person != v.ann.person {
		t.Error("Ann is somebody else")
	}
	me := v.ann.must("AuthService/WhoAmI", `{}`)
	if me["displayName"] != "Ann" {
		t.Errorf("somebody renamed Ann: %v", me)
	}
	_, fields := v.mei.the("approval")
	v.mei.pull()
	if _, now := v.mei.the("approval"); now["state"] != "waiting" || fields["state"] != "waiting" {
		t.Errorf("somebody decided: %v", now)
	}
}

func TestNoProcedureAnswersWithoutASession(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	disabled, closing := v.ben, v.gus
	v.admin.must("DirectoryService/UpdatePerson", map[string]any{"personId": v.ben.person, "disabled": true})
	if err := v.Identity.CloseOrg(context.Background(), "globex"); err != nil {
		t.Fatal(err)
	}
	revoked := signIn(t, v.url, "acme", "mei")
	v.mei.must("DeviceService/RevokeDevice", map[string]any{"deviceId": revoked.device})
	out := signIn(t, v.url, "acme", "mei")
	out.must("AuthService/SignOut", `{}`)
	stranger := &caller{t: t, url: v.url}
	refreshed := &caller{t: t, url: v.url, token: v.mei.refresh} // a refresh token is no access token
	for _, name := range procedures() {
		if rpcs[name].open {
			continue
		}
		good := v.fillIn(rpcs[name].good)
		for who, want := range map[*caller]string{stranger: "unauthenticated TOKEN_EXPIRED", refreshed: "unauthenticated TOKEN_EXPIRED",
			disabled: "unauthenticated SESSION_ENDED", closing: "unauthenticated SESSION_ENDED", out: "unauthenticated SESSION_ENDED",
			revoked: "permission_denied DEVICE_REVOKED"} {
			if a := who.call(name, good); a.code+" "+a.reason != want {
				t.Errorf("%s: %s, not %s", name, a.raw, want)
			}
		}
	}
	for name, who := range map[string]*caller{"a disabled person": disabled, "a closed organisation": closing, "who signed out": out} {
		if a := stranger.call("AuthService/Refresh", map[string]any{"refreshToken": who.refresh}); a.reason != "SESSION_ENDED" {
			t.Errorf("%s refreshes: %s", name, a.raw)
		}
	}
	for _, login := range [][2]string{{"acme", "ben"}, {"globex", "gus"}, {"nowhere", "ann"}} {
		a := stranger.call("AuthService/SignIn", map[string]any{"org": login[0], "login": login[1], "password": password})
		b := stranger.call("AuthService/SignIn", map[string]any{"org": "acme", "login": "ann", "password": "wrong password"})
		if a.reason != "BAD_CREDENTIALS" || a.told() != b.told() {
			t.Errorf("%v signs in: %s, not %s", login, a.raw, b.raw)
		}
	}
}

func TestARepManagesNobody(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	admins := 0
	for _, name := range procedures() {
		if !rpcs[name].admins {
			continue
		}
		admins++
		for who, c := range map[string]*caller{"a rep": v.ben, "a manager": v.mei} {
			if a := c.call(name, v.fillIn(rpcs[name].good)); a.code != "permission_denied" || a.reason != "NOT_ALLOWED" {
				t.Errorf("%s by %s: %s", name, who, a.raw)
			}
		}
	}
	if admins < 5 {
		t.Errorf("only %d procedures are for administrators", admins)
	}
	people := v.ben.must("DirectoryService/ListPeople", map[string]any{"pageSize": 500})["people"].([]any)
	for _, one := range people {
		if p := one.(map[string]any); p["id"] != v.ben.person && p["login"] != nil {
			t.Errorf("a rep reads the login of a colleague: %v", p)
		}
	}
}

// hostile are texts that have broken other servers.
var hostile = map[string]string{
	"a NUL":              "a\u0000b",
	"a control":          "\u001b[31m\r\nX-Injected: 1",
	"right to left":      "\u202efdp.exe",
	"joined emoji":       "👩‍👩‍👧‍👦🏳️‍🌈",
	"rare characters":    "𠮷野家𡈽",
	"a path":             "../../../../etc/passwd",
	"a query":            `'; drop table record; --"\`,
	"a long text":        strings.Repeat("長", 5000),
	"nothing but spaces": "  \u3000 ",
	"a byte order mark":  "\ufeff",
	"a template":         "{{.}}${7*7}%s%n",
}

func TestNoTextBreaksAProcedure(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	tries := 0
	for _, name := range procedures() {
		if name == "AuthService/SignOut" {
			continue
		}
		var good map[string]any
		if err := json.Unmarshal([]byte(v.fillIn(rpcs[name].good)), &good); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for what, text := range hostile {
			for i := range texts(good, -1, "") {
				again := map[string]any{}
				if err := json.Unmarshal([]byte(v.fillIn(rpcs[name].good)), &again); err != nil {
					t.Fatal(err)
				}
				texts(again, i, text)
				a := v.admin.call(name, again)
				tries++
				if a.code == "internal" || a.code == "unknown" || a.code == "no error of ours" || a.code == "unavailable" {
					t.Errorf("%s with %s in text %d: %s", name, what, i, a.raw)
				}
			}
		}
	}
	if tries < 200 {
		t.Errorf("only %d requests were tried", tries)
	}
	if me := v.admin.must("AuthService/WhoAmI", `{}`); me["displayName"] != "Office" {
		t.Errorf("the administrator became %v", me)
	}
}

// texts counts the texts of a message in their order, and replaces the one of that index.
func texts(v any, index int, with string) int {
	n := 0
	var walk func(v any, set func(any))
	walk = func(v any, set func(any)) {
		switch v := v.(type) {
		case string:
			if n == index {
				set(with)
			}
			n++
		case map[string]any:
			for _, k := range sortedKeys(v) {
				walk(v[k], func(x any) { v[k] = x })
			}
		case []any:
			for i := range v {
				walk(v[i], func(x any) { v[i] = x })
			}
		}
	}
	walk(v, func(any) {})
	return n
}
