package satchelclient_test

import (
	"testing"

	"github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/clients/go/memstore"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

// A fork gives a device another id to number under, and no other session: who signs in again names the session's device,
// goes on under the fork's id, and keeps the numbers that the server may have taken already.
func TestASignInAfterAForkIsThatOfTheSameDevice(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := signedIn(t, config(f, memstore.New()))
	session, fork := c.Identity().Device, satchel.NewID()
	f.script = func(*satchelv1.SyncRequest) (*satchelv1.SyncResponse, error) {
		return &satchelv1.SyncResponse{Directives: []*satchelv1.Directive{{Order: &satchelv1.Directive_Fork{Fork: &satchelv1.Fork{DeviceId: fork.String()}}}}}, nil
	}
	if _, err := c.Create(t.Context(), "visit", nil); err != nil {
		t.Fatal(err)
	}
	if r, err := c.SyncOnce(t.Context()); err != nil || r.Forked != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	var sent []uint64
	f.script = func(in *satchelv1.SyncRequest) (*satchelv1.SyncResponse, error) {
		for _, m := range in.Mutations {
			sent = append(sent, m.Number)
		}
		return &satchelv1.SyncResponse{}, nil // as if the answer were lost
	}
	if _, err := c.SyncOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.device = session
	f.mu.Unlock()
	if err := c.SignIn(t.Context(), satchelclient.Credentials{Login: "lina", Password: "right"}); err != nil {
		t.Fatal(err)
	}
	if got := c.Identity().Device; got != fork {
		t.Errorf("the device numbers under %s, not under the fork's %s", got, fork)
	}
	if _, err := c.SyncOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(sent) != 2 || sent[0] != sent[1] {
		t.Errorf("sent as %v", sent)
	}
}

// A device whose first rows were lost before the server had taken any: told its own id, it begins anew at 1.
func TestADeviceThatIsToldItsOwnIDAgainNumbersAnew(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	store := memstore.New()
	c := signedIn(t, config(f, store))
	var sent []uint64
	own := c.Identity().Device.String()
	f.script = func(in *satchelv1.SyncRequest) (*satchelv1.SyncResponse, error) {
		for _, m := range in.Mutations {
			sent = append(sent, m.Number)
		}
		return &satchelv1.SyncResponse{Directives: []*satchelv1.Directive{{Order: &satchelv1.Directive_Fork{Fork: &satchelv1.Fork{DeviceId: own}}}}}, nil
	}
	for range 2 {
		if _, err := c.Create(t.Context(), "visit", nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.SyncOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := store.Update(t.Context(), func(tx satchelclient.Tx) error { // the first row is lost
		return tx.Scan(satchelclient.TableOutbox, nil, nil, func(key, _ []byte) error {
			if err := tx.Delete(satchelclient.TableOutbox, key); err != nil {
				return err
			}
			return satchelclient.ErrStop
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.SyncOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(sent) != 3 || sent[2] != 1 {
		t.Errorf("sent as %v", sent)
	}
}
