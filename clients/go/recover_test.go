package satchelclient_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
	"github.com/satchel-sync/satchel/clients/go/memstore"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

func outboxKey(order byte) []byte { return []byte{0, 0, 0, 0, 0, 0, 0, order} }

// noted gives the mutations of all requests as texts, those that were sent again too.
func noted(f *fake) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, req := range f.requests {
		for _, m := range req.Mutations {
			text := fmt.Sprint(m.Number)
			if m.Skip != nil {
				text += fmt.Sprintf("-%d skipped", m.Skip.To)
			}
			if m.Envelope != nil {
				text += " envelope"
			}
			all = append(all, text)
		}
	}
	f.requests = nil
	return all
}

func TestAGapThatTheDeviceCannotFillIsSkippedAndTheRestGoesOn(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	store := memstore.New()
	c := signedIn(t, config(f, store))
	ids := make([]satchel.ID, 5)
	for i := range ids {
		ids[i] = mustCreate(t, c, "visit", nil)
	}
	f.bend(func(f *fake) {
		f.script = func(*satchelv1.SyncRequest) (*satchelv1.SyncResponse, error) {
			f.script = nil
			return &satchelv1.SyncResponse{ServerTimeMs: serverTime}, nil // numbered, and not taken
		}
	})
	once(t, c)
	damage(t, store, func(tx satchelclient.Tx) error {
		return errors.Join(tx.Delete(satchelclient.TableOutbox, outboxKey(2)), tx.Delete(satchelclient.TableOutbox, outboxKey(3)))
	})
	noted(f)
	r := mustSync(t, c)
	if r.Skipped != 2 || r.Pending != 0 {
		t.Errorf("the result is %+v", r)
	}
	if got := noted(f); !slices.Equal(got, []string{"1", "4", "5", "4", "5", "2-3 skipped", "4", "5"}) &&
		!slices.Equal(got, []string{"1", "4", "5", "2-3 skipped", "4", "5"}) {
		t.Errorf("sent %v", got)
	}
	if len(f.rows) != 3 {
		t.Errorf("the server has %d records", len(f.rows))
	}
	mustCreate(t, c, "visit", nil)
	mustSync(t, c)
	if got := noted(f); !slices.Equal(got, []string{"6"}) {
		t.Errorf("then sent %v", got)
	}
	if log, err := c.Settled(t.Context(), 0, 10); err != nil || len(log) != 4 {
		t.Errorf("the log has %d lines, %v", len(log), err)
	}
}

func TestAGapIsFilledWithWhatTheLogStillHas(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	store := memstore.New()
	c := signedIn(t, config(f, store))
	for range 4 {
		mustCreate(t, c, "visit", nil)
	}
	mustSync(t, c)
	f.bend(func(f *fake) { // it forgot, and does not say so
		clear(f.lanes)
		clear(f.ids)
		clear(f.applied)
		clear(f.rows)
	})
	damage(t, store, func(tx satchelclient.Tx) error { return tx.Delete(satchelclient.TableVerdict, outboxKey(2)) })
	mustCreate(t, c, "visit", nil)
	noted(f)
	r := mustSync(t, c)
	if got := noted(f); r.Skipped != 1 || !slices.Equal(got, []string{"5", "1", "2-2 skipped", "3", "4", "5"}) {
		t.Errorf("sent %v; %+v", got, r)
	}
	wantPending(t, c, 0)
	if len(f.rows) != 4 {
		t.Errorf("the server has %d records", len(f.rows))
	}
}

func TestWhatCannotBeReadIsSentAsAnEnvelopeAndItsBytesAreKept(t *testing.T) {
	t.Parallel()
	for _, sent := range []bool{false, true} {
		f := newFake(t)
		store := memstore.New()
		c := signedIn(t, config(f, store))
		for i := range 4 {
			mustCreate(t, c, "visit", satchelclient.Fields{"i": i})
		}
		if sent { // they have numbers
			f.bend(func(f *fake) {
				f.script = func(*satchelv1.SyncRequest) (*satchelv1.SyncResponse, error) {
					f.script = nil
					return &satchelv1.SyncResponse{ServerTimeMs: serverTime}, nil
				}
			})
			once(t, c)
		}
		large := mustCreate(t, c, "visit", satchelclient.Fields{"note": strings.Repeat("x", 200<<10)})
		junk := []byte("\xff\xff no mutation")
		var grown []byte
		damage(t, store, func(tx satchelclient.Tx) error {
			b, err := tx.Get(satchelclient.TableOutbox, outboxKey(5))
			grown = append(slices.Clone(b), slices.Concat([]byte{0xfa, 0x7f, 0x80, 0x80, 0x08}, make([]byte, 128<<10))...) // an unknown field
			return errors.Join(err, tx.Put(satchelclient.TableOutbox, outboxKey(2), junk), tx.Put(satchelclient.TableOutbox, outboxKey(5), grown))
		})
		noted(f)
		mustSync(t, c)
		if got := noted(f); !slices.Equal(got, []string{"1", "2 envelope", "3", "4", "5 envelope"}) {
			t.Errorf("sent %v", got)
		}
		wantPending(t, c, 0)
		wantSame(t, f, c, "visit")
		wantShown(t, c, "visit", large, "none")
		kept, err := c.KeptBytes(t.Context())
		if err != nil || len(kept) != 2 || kept[0].Order != 2 || !bytes.Equal(kept[0].Bytes, junk) || !bytes.Equal(kept[1].Bytes, grown) {
			t.Errorf("kept %d, %v", len(kept), err)
		}
		wantEmpty(t, store, satchelclient.TableOverlay, satchelclient.TableOutbox)
		if log, err := c.Settled(t.Context(), 0, 10); err != nil || len(log) != 5 || log[1].Verdict.Status != satchelv1.Status_STATUS_REJECTED {
			t.Errorf("the log has %d lines, %v", len(log), err)
		}
	}
}

func TestARestoredServerIsOfferedAgainWhatItLostInTheOrderOfRecording(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.digests = true
	store := memstore.New()
	c := signedIn(t, config(f, store))
	visit := mustCreate(t, c, "visit", satchelclient.Fields{"n": 0})
	theirs, known := satchel.NewID(), satchel.NewID()
	f.put("account", known, map[string]any{"n": 1})
	mustSync(t, c)
	restore := f.backup()

	if err := c.Patch(t.Context(), "visit", visit, nil, satchelclient.Increment("n", 1)); err != nil {
		t.Fatal(err)
	}
	mustSync(t, c)
	task := mustCreate(t, c, "task", satchelclient.Fields{"a": 1})
	f.bend(func(f *fake) {
		f.refuse = func(m *satchelv1.Mutation) (satchelv1.Status, satchelv1.Reason) {
			if m.Ops[0].GetPatch().GetFields() != "" {
				return satchelv1.Status_STATUS_REJECTED, satchelv1.Reason_REASON_INVALID
			}
			return 0, 0
		}
	})
	if err := c.Patch(t.Context(), "visit", visit, satchelclient.Fields{"refused": true}); err != nil {
		t.Fatal(err)
	}
	f.put("account", theirs, map[string]any{"only": "here"})
	f.put("account", known, map[string]any{"n": 2})
	mustSync(t, c)
	if err := c.Patch(t.Context(), "visit", visit, nil, satchelclient.Increment("n", 10)); err != nil { // pending at the restore
		t.Fatal(err)
	}

	restore()
	noted(f)
	r := mustSync(t, c)
	if r.Restored != 2 || r.Repaired != 1 || r.Pending != 0 || len(r.Settled) != 3 {
		t.Errorf("the result is %+v", r)
	}
	if got := noted(f); !slices.Equal(got, []string{"5", "2", "3", "4"}) {
		t.Errorf("sent %v", got)
	}
	wantShown(t, c, "visit", visit, `{"n":11}`)
	wantShown(t, c, "task", task, `{"a":1}`)
	wantShown(t, c, "account", theirs, "none")
	wantSame(t, f, c, "visit", "task", "account")
	if f.salvaged[theirs.String()].GetFields() != `{"only":"here"}` || f.salvaged[known.String()].GetFields() != `{"n":2}` {
		t.Errorf("salvaged %v", f.salvaged)
	}
	for id, n := range f.applied {
		if n != 1 {
			t.Errorf("%s took effect %d times", id, n)
		}
	}
	log, err := c.Settled(t.Context(), 0, 10)
	if err != nil || len(log) != 5 {
		t.Errorf("the log has %d lines, %v", len(log), err)
	}
	if r := mustSync(t, c); r.Restored != 0 || r.Calls != 1 || f.last(t).SeenSeq>>40 != 1 {
		t.Errorf("then: %+v, seen %x", r, f.last(t).SeenSeq)
	}
	wantEmpty(t, store, satchelclient.TableOutbox, satchelclient.TableOverlay, satchelclient.TableSettled, satchelclient.TableStaging, satchelclient.TableRepair)
}

func TestWhatIsOfferedAgainIsShownAllTheWhile(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c := client(t, f)
	mustSync(t, c)
	restore := f.backup()
	visit := mustCreate(t, c, "visit", satchelclient.Fields{"n": 1})
	mustSync(t, c)
	restore()
	for calls := 0; ; calls++ {
		r, err := c.SyncOnce(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		wantShown(t, c, "visit", visit, `{"n":1}`)
		if !r.More && r.Pending == 0 {
			break
		}
		if calls > 20 {
			t.Fatal("it does not end")
		}
	}
	wantSame(t, f, c, "visit")
}

// A repair and the taking up of what a restored server lost, killed at each step and gone on with.
func TestAKillAtAnyStepOfARestoreLosesNothing(t *testing.T) {
	t.Parallel()
	live := func(kill int) (steps int) {
		f := newFake(t)
		f.digests, f.pageRows = true, 2
		store := memstore.New()
		at, name := 0, ""
		cfg := config(f, store)
		c := signedIn(t, cfg)
		visit := mustCreate(t, c, "visit", satchelclient.Fields{"n": 0})
		theirs := make([]satchel.ID, 5)
		for i := range theirs {
			theirs[i] = satchel.NewID()
			f.put("account", theirs[i], map[string]any{"i": i})
		}
		mustSync(t, c)
		restore := f.backup()
		for range 3 {
			if err := c.Patch(t.Context(), "visit", visit, nil, satchelclient.Increment("n", 1)); err != nil {
				t.Fatal(err)
			}
			mustSync(t, c)
		}
		lost := satchel.NewID()
		f.put("account", lost, map[string]any{"lost": true})
		f.put("account", theirs[0], map[string]any{"i": "lost"})
		mustSync(t, c)
		restore()
		f.put("account", theirs[1], map[string]any{"i": "since"})
		task := mustCreate(t, c, "task", nil)
		cfg.Step = func(step string) {
			if at++; at == kill {
				name = step
				panic(killed{})
			}
		}
		for range 2 {
			over := func() (over bool) {
				defer func() {
					if r := recover(); r != nil && r != (killed{}) {
						panic(r)
					}
				}()
				if err := c.Close(); err != nil {
					t.Fatal(err)
				}
				var err error
				if c, err = satchelclient.New(cfg); err != nil {
					t.Fatalf("killed at %s: %v", name, err)
				}
				if _, err := c.Sync(t.Context()); err != nil {
					t.Fatalf("killed at %s: %v", name, err)
				}
				return true
			}()
			if over {
				break
			}
		}
		steps = at
		wantShown(t, c, "visit", visit, `{"n":3}`)
		wantShown(t, c, "task", task, `{}`)
		wantSame(t, f, c, "visit", "task", "account")
		wantPending(t, c, 0)
		wantEmpty(t, store, satchelclient.TableOutbox, satchelclient.TableOverlay, satchelclient.TableSettled, satchelclient.TableStaging, satchelclient.TableRepair)
		if f.salvaged[lost.String()].GetFields() != `{"lost":true}` || f.salvaged[theirs[0].String()].GetFields() != `{"i":"lost"}` {
			t.Errorf("killed at %s: salvaged %v", name, f.salvaged)
		}
		for id, n := range f.applied {
			if n != 1 {
				t.Errorf("killed at %s: %s took effect %d times", name, id, n)
			}
		}
		if len(f.applied) != 5 || t.Failed() {
			t.Fatalf("killed at %d (%s): %d mutations took effect", kill, name, len(f.applied))
		}
		return steps
	}
	steps := live(0)
	if steps < 30 {
		t.Fatalf("a restore has only %d steps", steps)
	}
	for kill := 1; kill <= steps; kill++ {
		live(kill)
	}
}
