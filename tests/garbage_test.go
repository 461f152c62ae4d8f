package tests_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	satchel "github.com/satchel-sync/satchel"
)

// TestNoBytesBreakAProcedure sends Protobuf with a few bytes that are wrong. It prints its seed; give it in place of the
// clock to see a failure again.
func TestNoBytesBreakAProcedure(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for _, name := range procedures() {
		if name == "AuthService/SignOut" || name == "AuthService/ChangePassword" || name == "SyncService/Wait" {
			continue // the first ends the session, the second is limited, the third waits
		}
		good := v.fillIn(rpcs[name].good)
		if name == "SyncService/Sync" {
			good = `{"noPage": true, "mutations": [{"number": "1", "id": "8f14e45f-ceea-467f-a0e6-1f2e3d4c5b61", "recorded": {"boot": "b", "monotonicMs": "1"},
				"ops": [{"recordId": "` + v.account + `", "kind": "account", "baseRev": "1", "patch": {"fields": "{\"name\": \"x\"}", "sets": [{"field": "tags", "add": ["a"]}], "increments": [{"field": "visit_count", "by": "1"}]}}]}]}`
		}
		raw, err := proto.Marshal(requestOf(t, name, good))
		if err != nil {
			t.Fatal(err)
		}
		for range 40 {
			bad := bytes.Clone(raw)
			for range 1 + rng.IntN(4) {
				switch n := len(bad); {
				case n == 0 || rng.IntN(4) == 0:
					bad = append(bad, byte(rng.Uint32()))
				case rng.IntN(3) == 0:
					bad = bad[:rng.IntN(n)]
				case rng.IntN(2) == 0:
					bad[rng.IntN(n)] = byte(rng.Uint32())
				default:
					at := rng.IntN(n)
					bad = append(bad[:at:at], append([]byte{byte(rng.Uint32())}, bad[at:]...)...)
				}
			}
			req, err := http.NewRequest(http.MethodPost, v.url+"/satchel.v1."+name, bytes.NewReader(bad))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/proto")
			req.Header.Set("Authorization", "Bearer "+v.admin.token)
			if a := v.admin.do(req); a.status >= 500 || a.code == "internal" || a.code == "unknown" || a.code == "no error of ours" {
				t.Errorf("%s with %x: %d %s", name, bad, a.status, a.raw)
			}
		}
	}
}

// requestOf reads the request of a procedure.
func requestOf(t *testing.T, procedure, good string) proto.Message {
	t.Helper()
	service, method, _ := strings.Cut(procedure, "/")
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName("satchel.v1." + service))
	if err != nil {
		t.Fatal(err)
	}
	in := d.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(method)).Input()
	mt, err := protoregistry.GlobalTypes.FindMessageByName(in.FullName())
	if err != nil {
		t.Fatal(err)
	}
	m := mt.New().Interface()
	if err := protojson.Unmarshal([]byte(good), m); err != nil {
		t.Fatalf("%s: %v", procedure, err)
	}
	return m
}

// TestNoValueBreaksAField puts values of all types, and at the ends of their ranges, into every field that a person may
// write: each is taken or refused with its reason, and none is a fault of the server.
func TestNoValueBreaksAField(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	values := []string{`null`, `true`, `0`, `-0`, `-1`, `1.5`, `1e400`, `-1e-400`, `9223372036854775807`, `9223372036854775808`, `-9223372036854775809`,
		`123456789012345678901234567890.123456789`, `""`, `" "`, `"x"`, `"\u0000"`, `"\ud800"`, `"NaN"`, `"Infinity"`, `"2026-02-30"`, `"0000-00-00"`,
		`"-4713-11-24"`, `"99999-12-31T23:59:59Z"`, `"2026-11-21T25:61:61Z"`, `"2026-11-21T08:00:00+99:99"`, `"0001-01-01T00:00:00Z"`, `"9999-12-31T23:59:59.999999999Z"`,
		`[]`, `["a","a"]`, `[1]`, `[[]]`, `[null]`, `{}`, `{"lat": 91, "lng": 181}`, `{"lat": "1", "lng": []}`, `{"lat": 1e400, "lng": 1}`, `{"": {"": ""}}`,
		`"00000000-0000-0000-0000-000000000000"`, `"` + v.account + `"`, `"` + strings.ToUpper(v.account) + `"`, `"` + strings.Repeat("長", 30_000) + `"`}
	records := map[string]string{"account": v.account, "visit": v.visit, "photo": v.photo,
		"quote":      v.ann.create("quote", map[string]any{"account": v.account, "title": "A draft", "amount": 5}),
		"contact":    v.ann.create("contact", map[string]any{"account": v.account, "name": "Zhou"}),
		"task":       v.ann.create("task", map[string]any{"title": "Call"}),
		"voice_note": v.ann.create("voice_note", map[string]any{"visit": v.visit, "blob": noHash})}
	tried, taken := 0, 0
	for _, one := range v.admin.must("SchemaService/GetSchema", `{}`)["kinds"].([]any) {
		kind := one.(map[string]any)
		if kind["canCreate"] != true {
			continue
		}
		record := records[kind["name"].(string)]
		if record == "" {
			t.Fatalf("there is no %s to change", kind["name"])
		}
		var batch []any
		var what []string
		send := func() {
			for settled := 0; settled < len(batch); {
				res := v.admin.must("SyncService/Sync", map[string]any{"noPage": true, "mutations": batch[settled:]})
				verdicts, _ := res["verdicts"].([]any)
				if len(verdicts) == 0 {
					t.Fatalf("no verdict behind %d: %v", settled, res)
				}
				for _, x := range verdicts {
					if got := x.(map[string]any); got["reason"] == "REASON_INTERNAL" || got["status"] == "STATUS_UNSUPPORTED" {
						t.Errorf("%s: %v", what[settled], got)
					} else if got["status"] != "STATUS_REJECTED" {
						taken++
					}
					settled++
				}
			}
			batch, what = nil, nil
		}
		for _, f := range kind["fields"].([]any) {
			field := f.(map[string]any)
			if field["canWrite"] != true {
				continue
			}
			for _, value := range values {
				v.admin.number++
				batch = append(batch, map[string]any{"number": fmt.Sprint(v.admin.number), "id": satchel.NewID().String(), "ops": []any{
					op(record, kind["name"].(string), "patch", map[string]any{"fields": fmt.Sprintf(`{"%s": %s}`, field["name"], value)})}})
				what = append(what, fmt.Sprintf("%s.%s = %.60s", kind["name"], field["name"], value))
				if tried++; len(batch) == 40 {
					send()
				}
			}
		}
		send()
	}
	if tried < 1000 || taken < 100 {
		t.Errorf("only %d values were tried, and %d taken", tried, taken)
	}
	v.admin.pull() // what was taken can be read
}
