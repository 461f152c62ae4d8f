package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/satchel-sync/satchel/internal/pgtest"
)

func TestTheDoctorTellsWhyAPhoneIsNotInSync(t *testing.T) {
	t.Parallel()
	env := production(t, pgtest.Empty(t))
	must(t, env, "migrate")
	must(t, env, "org", "create", "acme", "--admin=boss")
	if out, errs, _ := invoke(t, env, "doctor"); !strings.Contains(out, "0 of 0 in sync") {
		t.Errorf("before anybody has a phone:\n%s%s", out, errs)
	}
	r := serve(t, env)
	password := strings.TrimSpace(must(t, env, "user", "add", "acme", "li", "--role=rep"))
	_, password, _ = strings.Cut(password, "only now: ")
	status, in := r.call("AuthService/SignIn", `{"org": "acme", "login": "li", "password": "`+password+`", "device": {"name": "Li's phone"}}`)
	device, _ := in["deviceId"].(string)
	if status != 200 || device == "" {
		t.Fatalf("the sign-in gives %d %v", status, in)
	}
	out, errs, status := invoke(t, env, "doctor", "--org=acme")
	if !strings.Contains(out, "0 of 1 in sync") || !strings.Contains(out, device) || !strings.Contains(out, "never synced") {
		t.Errorf("exit status %d\n%s%s", status, out, errs)
	}
	out, errs, _ = invoke(t, env, "doctor", "--device="+strings.ToUpper(device))
	if !strings.Contains(out, "Li's phone") || !strings.Contains(out, "It has signed in and never synced. Open the app") {
		t.Errorf("why:\n%s%s", out, errs)
	}
	out, _, _ = invoke(t, env, "doctor", "--org=acme", "--json")
	var told struct{ Phones []phone }
	if err := json.Unmarshal([]byte(out), &told); err != nil || len(told.Phones) != 1 || told.Phones[0].Troubles[0].Kind != "NEVER_SYNCED" {
		t.Errorf("as JSON: %v in %s", err, out)
	}
	if out, _, status := invoke(t, env, "doctor", "--device=01234567-89ab-7def-8123-456789abcdef"); status != 1 || !strings.Contains(out, "no organisation that was looked at has this device") {
		t.Errorf("a device of nobody: %d\n%s", status, out)
	}
	if _, errs, status := invoke(t, env, "doctor", "--device=x"); status != 2 || !strings.Contains(errs, "no id of a device") {
		t.Errorf("an id that is none: %d %s", status, errs)
	}
}

func TestAnOperatorTellsThatTheDatabaseWasPutBack(t *testing.T) {
	t.Parallel()
	env := production(t, pgtest.Empty(t))
	must(t, env, "migrate")
	if _, errs, status := invoke(t, env, "restored", "--yes"); status != 1 || !strings.Contains(errs, "there is no organisation") {
		t.Errorf("an empty database: %d %s", status, errs)
	}
	must(t, env, "org", "create", "acme")
	if _, errs, status := invoke(t, env, "restored"); status != 2 || !strings.Contains(errs, "--yes") {
		t.Errorf("without a terminal and without --yes: %d %s", status, errs)
	}
	if out := must(t, env, "restored", "--yes"); !strings.Contains(out, "acme") || !strings.Contains(out, "A new epoch has begun") {
		t.Errorf("it says %s", out)
	}
}
