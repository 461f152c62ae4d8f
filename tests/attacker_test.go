package tests_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	satchel "github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/identity"
	"github.com/satchel-sync/satchel/internal/app"
	"github.com/satchel-sync/satchel/internal/demodata"
)

// caller is somebody with a session, who speaks Connect JSON as anybody with curl can.
type caller struct {
	t                                   *testing.T
	url                                 string
	token, refresh, device, person, org string
	number                              int
	cursor                              string
	seen                                map[string]seen // what came by pages, by record
}

type seen struct {
	kind   string
	fields map[string]any
}

// answer is what came back: of a call that failed, what the error tells, without the request's id.
type answer struct {
	status  int
	code    string // "" = the call went well
	reason  string
	detail  string // for developers
	message string // for people
	size    int    // of the body
	body    map[string]any
	raw     []byte
}

// told is all that a caller can learn from a failure.
func (a answer) told() string {
	return fmt.Sprintf("%d %s %s %q %q %d bytes", a.status, a.code, a.reason, a.detail, a.message, a.size)
}

func signIn(t *testing.T, url, org, login string) *caller {
	t.Helper()
	c := &caller{t: t, url: url, seen: map[string]seen{}}
	a := c.call("AuthService/SignIn", map[string]any{"org": org, "login": login, "password": password, "device": map[string]any{"platform": "go"}})
	if a.code != "" {
		t.Fatalf("%s of %s cannot sign in: %s", login, org, a.raw)
	}
	tokens, _ := a.body["tokens"].(map[string]any)
	c.token, _ = tokens["accessToken"].(string)
	c.refresh, _ = tokens["refreshToken"].(string)
	c.device, _ = a.body["deviceId"].(string)
	c.person, _ = a.body["personId"].(string)
	c.org, _ = a.body["orgId"].(string)
	return c
}

// call posts one request of Connect; body is JSON as text, or what json.Marshal takes.
func (c *caller) call(method string, body any, headers ...string) answer {
	c.t.Helper()
	var raw []byte
	switch b := body.(type) {
	case string:
		raw = []byte(b)
	default:
		var err error
		if raw, err = json.Marshal(body); err != nil {
			c.t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+"/satchel.v1."+method, bytes.NewReader(raw))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return c.do(req)
}

func (c *caller) do(req *http.Request) answer {
	c.t.Helper()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	a := answer{status: res.StatusCode, raw: raw, size: len(raw)}
	_ = json.Unmarshal(raw, &a.body) // bytes of a photo are no JSON
	if res.StatusCode == http.StatusOK {
		return a
	}
	a.code, _ = a.body["code"].(string)
	a.detail, _ = a.body["message"].(string)
	if a.code == "" {
		a.code = "no error of ours"
	}
	if details, _ := a.body["details"].([]any); len(details) > 0 {
		d, _ := details[0].(map[string]any)
		value, _ := d["value"].(string)
		b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
		var e satchelv1.ErrorDetail
		if err == nil {
			err = proto.Unmarshal(b, &e)
		}
		if err != nil {
			c.t.Fatalf("the detail of %s: %v", raw, err)
		}
		a.reason, a.message = strings.TrimPrefix(e.Reason.String(), "REASON_"), e.Message
	}
	return a
}

// must is call for what has to go well.
func (c *caller) must(method string, body any) map[string]any {
	c.t.Helper()
	a := c.call(method, body)
	if a.code != "" {
		c.t.Fatalf("%s: %s", method, a.raw)
	}
	return a.body
}

// op is one op in the wire's JSON.
func op(record, kind, action string, what any) map[string]any {
	return map[string]any{"recordId": record, "kind": kind, action: what}
}

// withFields is what a create or patch carries.
func withFields(fields any) map[string]any {
	raw, err := json.Marshal(fields)
	if err != nil {
		panic(err) // the test's own literals
	}
	return map[string]any{"fields": string(raw)}
}

// mutate sends one mutation, with numbers in order, and gives its verdict.
func (c *caller) mutate(ops ...map[string]any) map[string]any {
	c.t.Helper()
	c.number++
	got := c.must("SyncService/Sync", map[string]any{"noPage": true, "mutations": []any{
		map[string]any{"number": fmt.Sprint(c.number), "id": satchel.NewID().String(), "ops": ops}}})
	verdicts, _ := got["verdicts"].([]any)
	if len(verdicts) != 1 {
		c.t.Fatalf("no verdict: %v", got)
	}
	return verdicts[0].(map[string]any)
}

// create makes a record, which has to go well, and gives its id.
func (c *caller) create(kind string, fields map[string]any) string {
	c.t.Helper()
	id := satchel.NewID().String()
	if v := c.mutate(op(id, kind, "create", withFields(fields))); v["status"] != "STATUS_APPLIED" {
		c.t.Fatalf("a %s: %v", kind, v)
	}
	return id
}

// pull brings the caller's copy up to date.
func (c *caller) pull() {
	c.t.Helper()
	for range 100 {
		body := map[string]any{}
		if c.cursor != "" {
			body["cursor"] = c.cursor
		}
		page, _ := c.must("SyncService/Sync", body)["page"].(map[string]any)
		if page == nil {
			return
		}
		if cursor, ok := page["cursor"].(string); ok {
			c.cursor = cursor
		}
		changes, _ := page["changes"].([]any)
		for _, one := range changes {
			ch := one.(map[string]any)
			text, _ := ch["fields"].(string)
			s := seen{kind: ch["kind"].(string)}
			if text != "" {
				if err := json.Unmarshal([]byte(text), &s.fields); err != nil {
					c.t.Fatal(err)
				}
			}
			c.seen[ch["recordId"].(string)] = s
		}
		if page["more"] != true {
			return
		}
	}
	c.t.Fatal("the pages do not end")
}

// the gives the one record of a kind that the caller has.
func (c *caller) the(kind string) (id string, fields map[string]any) {
	c.t.Helper()
	for r, s := range c.seen {
		if s.kind == kind && s.fields != nil {
			if id != "" {
				c.t.Fatalf("there is more than one %s", kind)
			}
			id, fields = r, s.fields
		}
	}
	if id == "" {
		c.t.Fatalf("there is no %s", kind)
	}
	return id, fields
}

// upload sends bytes whole.
func (c *caller) upload(data []byte, contentType string) answer {
	c.t.Helper()
	sum := sha256.Sum256(data)
	req, err := http.NewRequest(http.MethodPut, c.url+"/media/v1/upload/"+hex.EncodeToString(sum[:]), bytes.NewReader(data))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Content-Type", contentType)
	return c.do(req)
}

// victim is what Ann of Acme has, and the others want.
type victim struct {
	*product
	ann, ben, mei, admin *caller // Acme's
	gina, gus            *caller // Globex's administrator and rep

	account, visit, photo, quote, approval string
	formHash                               string
	upload                                 string // an upload of Ann's that is on its way
	hash                                   string // of the photo
	link                                   string // to it, as Ann got it
	team                                   string // North
	cursor, checkpoint                     string // Ann's
	kept                                   string // the number of a mutation of Ann's that was refused
}

// newVictim fills two organisations.
func newVictim(t *testing.T) *victim {
	t.Helper()
	v := &victim{product: serve(t)}
	globex(t, v.App)
	v.ann, v.ben, v.mei, v.admin = signIn(t, v.url, "acme", "ann"), signIn(t, v.url, "acme", "ben"), signIn(t, v.url, "acme", "mei"), signIn(t, v.url, "acme", "admin")
	v.gina, v.gus = signIn(t, v.url, "globex", "gina"), signIn(t, v.url, "globex", "gus")
	v.account = v.ann.create("account", map[string]any{"name": "Orient", "level": "a", "phone": "0571 8888 1234"})
	v.visit = v.ann.create("visit", map[string]any{"account": v.account, "subject": "Shelves"})
	jpeg := picture(t)
	sum := sha256.Sum256(jpeg)
	v.hash = hex.EncodeToString(sum[:])
	if a := v.ann.upload(jpeg, "image/jpeg"); a.code != "" {
		t.Fatalf("the photo: %s", a.raw)
	}
	v.photo = v.ann.create("photo", map[string]any{"visit": v.visit, "blob": v.hash})
	for deadline := time.Now().Add(patience); ; { // the product works jobs too: a step finds nothing while one is at work
		if _, err := v.Jobs.Step(context.Background()); err != nil {
			t.Fatal(err)
		}
		if v.ann.pull(); v.ann.seen[v.photo].fields["blob_state"] == "stored" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the photo's record never says that the bytes are stored")
		}
	}
	v.link, _ = v.ann.must("MediaService/Link", map[string]any{"recordId": v.photo})["url"].(string)
	other := sha256.Sum256([]byte("another"))
	v.upload, _ = v.ann.must("MediaService/Begin", map[string]any{"sha256": hex.EncodeToString(other[:]), "size": "7", "contentType": "image/jpeg"})["uploadId"].(string)
	v.quote = v.ann.create("quote", map[string]any{"account": v.account, "title": "Autumn", "amount": 250000})
	if got := v.ann.must("ApprovalService/Submit", map[string]any{"recordId": v.quote, "key": satchel.NewID().String()}); got["verdict"].(map[string]any)["status"] != "STATUS_APPLIED" {
		t.Fatalf("the quote is not submitted: %v", got)
	}
	if refused := v.ann.mutate(op(v.visit, "visit", "patch", withFields(map[string]any{"satisfaction": 9}))); refused["status"] != "STATUS_REJECTED" {
		t.Fatalf("the mutation is not refused: %v", refused)
	}
	v.kept = fmt.Sprint(v.ann.number)
	v.mei.pull()
	var fields map[string]any
	v.approval, fields = v.mei.the("approval")
	v.formHash, _ = fields["form_hash"].(string)
	page := v.ann.must("SyncService/Sync", map[string]any{})["page"].(map[string]any)
	v.cursor, _ = page["cursor"].(string)
	v.checkpoint, _ = page["token"].(string)
	teams := v.admin.must("DirectoryService/ListTeams", map[string]any{})["teams"].([]any)
	v.team, _ = teams[0].(map[string]any)["id"].(string)
	for name, id := range map[string]string{"link": v.link, "upload": v.upload, "formHash": v.formHash, "cursor": v.cursor, "checkpoint": v.checkpoint, "team": v.team} {
		if id == "" {
			t.Fatalf("there is no %s", name)
		}
	}
	return v
}

// globex makes a second organisation with an administrator and a rep.
func globex(t *testing.T, a *app.App) {
	t.Helper()
	ctx := context.Background()
	if _, err := a.Identity.CreateOrg(ctx, identity.NewOrg{Slug: "globex", Name: "Globex"}); err != nil {
		t.Fatal(err)
	}
	for _, p := range [][2]string{{"gina", "admin"}, {"gus", "rep"}} {
		if _, err := a.Identity.AddUser(ctx, "globex", identity.NewPerson{Login: p[0], DisplayName: p[0], Roles: []string{p[1]}, Password: password}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.Jobs.Step(ctx); err != nil {
		t.Fatal(err)
	}
}

// picture is a real photo, small.
func picture(t *testing.T) []byte {
	t.Helper()
	b, err := demodata.RealJPEG(demodata.Shot{At: time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC), Lat: 30.25, Lng: 120.17, Width: 160, Height: 120})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
