package syncengine_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/syncengine"
)

// waits tells whether Wait comes back by itself within 20 s, which is before its own end.
func waits(t *testing.T, e *syncengine.Engine, p *phone) (woken bool, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	start := time.Now()
	woken, err := e.Wait(ctx, p.who, p.cursor, nil)
	if err != nil {
		t.Error(err)
	}
	return woken, time.Since(start)
}

// A replica that is never told of others' commits (its Run does not run) still sees, when it registers a waiter, what
// was committed since the pull.
func TestF16WaitRegistersThenLooks(t *testing.T) {
	w := newWorld(t)
	ann, mei := w.phone("Ann"), w.phone("Mei")
	acc := ann.account("x")
	deaf := w.newEngine()
	for name, change := range map[string]func(){
		"a change": func() { ann.mustDo(patch("account", acc, 0, map[string]any{"remark": satchel.NewID().String()})) },
		"a grant": func() {
			w.changeRights(`UPDATE person SET roles = ARRAY['viewer'] WHERE org_id = $1 AND id = $2`, w.org, w.people["Mei"])
		},
		"a bucket of its own": func() {
			w.phone("Ben").mustDo(create("visit", satchel.NewID(), visitFields(w.phone("Ben").account("b"), "v")))
		},
	} {
		mei.engine = deaf
		mei.pull()
		change()
		if woken, d := waits(t, deaf, mei); !woken || d > 10*time.Second {
			t.Errorf("%s: woken %v after %s", name, woken, d)
		}
	}
}

// What does not concern a device does not wake it, so that phones of a busy organisation do not spin.
func TestF16OthersCommitsDoNotWake(t *testing.T) {
	w := newWorld(t)
	ann, cem := w.phone("Ann"), w.phone("Cem")
	acc := cem.account("south's")
	ann.pull()
	ann.pull()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	woken := make(chan bool, 1)
	go func() {
		ok, _ := w.engine.Wait(ctx, ann.who, ann.cursor, nil)
		woken <- ok
	}()
	for range 10 {
		cem.mustDo(patch("account", acc, 0, map[string]any{"remark": satchel.NewID().String()}))
	}
	cancel()
	if <-woken {
		t.Error("Ann is woken by the south's changes")
	}
}

// A replica that is drained sends those who wait away, who then wait at another one.
func TestAWaitEndsWhenItsReplicaDrains(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	ann.pull()
	until := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		woken, err := w.engine.Wait(t.Context(), ann.who, ann.cursor, until)
		if woken {
			err = errors.New("it says that there is something to pull")
		}
		ended <- err
	}()
	close(until) // before it waits, or while it does
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("it goes on")
	}
}

func TestF16ManyWaitersAreAllWoken(t *testing.T) {
	w := newWorld(t)
	ann := w.phone("Ann")
	acc := ann.account("x")
	mei := w.phone("Mei")
	mei.pull()
	other := w.newEngine()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() { _ = other.Run(ctx) }()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if woken, err := other.Wait(ctx, mei.who, mei.cursor, nil); err != nil || !woken {
				t.Errorf("woken %v, %v", woken, err)
			}
		})
	}
	ann.mustDo(patch("account", acc, 0, map[string]any{"remark": "news"}))
	wg.Wait()
}

// Random ops through Apply never error: the fate of a mutation is a verdict.
func FuzzMutation(f *testing.F) {
	f.Add(byte(1), "account", []byte(`{"name":"x"}`), []byte(nil), "", uint64(0), uint64(1), "tags", "a", int64(1), false)
	f.Add(byte(2), "account", []byte(`{"owner":null}`), []byte(nil), "", uint64(1)<<63, uint64(2), "visit_count", "\x00", int64(-1)<<63, true)
	f.Add(byte(3), "visit", []byte(`[]`), []byte(`{`), "x", uint64(1), uint64(0), "", "", int64(0), true)
	f.Add(byte(4), "quote", []byte(nil), []byte(`{"a":1e400}`), "approval.submit", uint64(1), uint64(1)<<63, "subject", "b", int64(7), false)
	f.Add(byte(9), "attention", []byte(`{"open":false,"items":[]}`), []byte(`{}`), "\xff", uint64(1), uint64(1), "items", "", int64(0), true)
	world := worlds(f)
	f.Fuzz(func(t *testing.T, action byte, kind string, fields, args []byte, name string, base, number uint64, field, element string, by int64, standing bool) {
		w := world(t)
		ann := w.phone("Ann")
		acc := ann.account("x")
		op := syncengine.Op{Action: syncengine.Action(action), Record: satchel.NewID(), Kind: kind, BaseRev: base, Fields: fields, Args: args, Name: name}
		if standing {
			op.Record = acc
		}
		if field != "" {
			op.Sets, op.Increments = sets(field, element), increment(field, by)
		}
		first := ann.mutation(op, op, patch("account", acc, base, map[string]any{"remark": "with it"}))
		last := ann.mutation(patch("account", acc, 0, map[string]any{"remark": "behind it"}))
		out, err := w.engine.Apply(context.Background(), ann.who, syncengine.Batch{Mutations: []syncengine.Mutation{first, last}, Confirmed: number})
		if err != nil || len(out.Verdicts) != 2 || out.Verdicts[1].Status != syncengine.Applied {
			t.Fatalf("%+v %v", out, err)
		}
		again, err := w.engine.Apply(context.Background(), ann.who, syncengine.Batch{Mutations: []syncengine.Mutation{first, last}})
		if err != nil || len(again.Verdicts) != 2 || again.Verdicts[0].Status != out.Verdicts[0].Status {
			t.Fatalf("again %+v %v", again, err)
		}
		ann.pull()
		if wild := (syncengine.Mutation{Number: number, ID: satchel.NewID(), Ops: []syncengine.Op{op}}); number < 2 || number > 3 {
			if _, err := w.engine.Apply(context.Background(), ann.who, syncengine.Batch{Mutations: []syncengine.Mutation{wild}}); err != nil {
				t.Fatalf("number %d: %v", number, err)
			}
		}
	})
}
