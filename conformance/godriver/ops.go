package godriver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
)

// op is a step of a batch, as the runner writes it.
type op struct {
	Create  string                     `json:"create"`
	Patch   string                     `json:"patch"`
	Delete  string                     `json:"delete"`
	Command string                     `json:"command"`
	Record  string                     `json:"record"`
	Name    string                     `json:"name"`
	Fields  map[string]json.RawMessage `json:"fields"`
	Args    map[string]json.RawMessage `json:"args"`
	Sets    []struct {
		Field  string   `json:"field"`
		Add    []string `json:"add"`
		Remove []string `json:"remove"`
	} `json:"sets"`
	Increments []struct {
		Field string `json:"field"`
		By    int64  `json:"by"`
	} `json:"increments"`
}

// batch makes a batch of ops, and gives the ids of its creations.
func batch(ops []op) (*satchelclient.Batch, []satchel.ID, error) {
	b := new(satchelclient.Batch)
	created := []satchel.ID{}
	named := func(s string) (satchel.ID, bool) { // "&1"
		digits, ok := strings.CutPrefix(s, "&")
		n, err := strconv.Atoi(digits)
		if !ok || err != nil || n < 1 || n > len(created) {
			return satchel.ID{}, false
		}
		return created[n-1], true
	}
	fields := func(in map[string]json.RawMessage) satchelclient.Fields {
		out := satchelclient.Fields{}
		for name, v := range in {
			var s string
			if json.Unmarshal(v, &s) == nil {
				if id, ok := named(s); ok {
					out[name] = id
					continue
				}
			}
			out[name] = v
		}
		return out
	}
	for _, o := range ops {
		id, ok := named(o.Record)
		if !ok && o.Record != "" {
			var err error
			if id, err = satchel.ParseID(o.Record); err != nil {
				return nil, nil, err
			}
		}
		switch {
		case o.Create != "":
			created = append(created, b.Create(o.Create, fields(o.Fields)))
		case o.Patch != "":
			var edits []satchelclient.Edit
			for _, s := range o.Sets {
				if len(s.Add) > 0 {
					edits = append(edits, satchelclient.AddTo(s.Field, s.Add...))
				}
				if len(s.Remove) > 0 {
					edits = append(edits, satchelclient.RemoveFrom(s.Field, s.Remove...))
				}
			}
			for _, i := range o.Increments {
				edits = append(edits, satchelclient.Increment(i.Field, i.By))
			}
			b.Patch(o.Patch, id, fields(o.Fields), edits...)
		case o.Delete != "":
			b.Delete(o.Delete, id)
		case o.Command != "":
			b.Command(o.Command, id, o.Name, fields(o.Args))
		default:
			return nil, nil, fmt.Errorf("an op without an action: %+v", o)
		}
	}
	return b, created, nil
}

// errorOf gives an error in the words of the README.
func errorOf(err error) map[string]any {
	out := map[string]any{"code": codeOf(err), "reason": "", "retry_after_ms": 0, "message": err.Error()}
	if e, ok := errors.AsType[*satchelclient.Error](err); ok {
		out["reason"], out["retry_after_ms"] = e.Reason, e.RetryAfter.Milliseconds()
	}
	return out
}

func codeOf(err error) string {
	e, refused := errors.AsType[*satchelclient.Error](err)
	switch {
	case refused && e.Reason == satchel.ReasonBadCredentials:
		return "bad_credentials"
	case errors.Is(err, context.Canceled):
		return "canceled"
	}
	for _, class := range []struct {
		err  error
		code string
	}{
		{satchelclient.ErrWiped, "wiped"}, {satchelclient.ErrOtherPerson, "other_person"}, {satchelclient.ErrUnsent, "unsent"},
		{satchelclient.ErrDeviceRevoked, "device_revoked"}, {satchelclient.ErrUpgradeApp, "upgrade_app"},
		{satchelclient.ErrSignInAgain, "sign_in_again"}, {satchelclient.ErrTooLarge, "too_large"}, {satchelclient.ErrNotFound, "not_found"},
		{satchelclient.ErrClosed, "closed"}, {satchelclient.ErrUnavailable, "unavailable"},
	} {
		if errors.Is(err, class.err) {
			return class.code
		}
	}
	if refused {
		return "refused"
	}
	return "invalid"
}
