package syncengine_test

import (
	"context"
	"testing"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/pgtest"
	"github.com/satchel-sync/satchel/syncengine"
)

// worlds gives each try of a fuzz target its world: the same one fifty times, then a fresh one on the same database, for
// each phone pulls all that the tries before it made. One try at a time runs in a process.
func worlds(f *testing.F) func(t *testing.T) *world {
	f.Helper()
	pool := pgtest.New(f)
	var w *world
	tries := 0
	return func(t *testing.T) *world {
		if tries%50 == 0 {
			if _, err := pool.Exec(context.Background(), `UPDATE org SET slug = org_id::text`); err != nil {
				t.Fatal(err)
			}
			w = newWorldOn(t, pool)
		}
		tries++
		w.t = t
		return w
	}
}

// FuzzQueue sends what a device's queue could hold, or a broken one: edits, creations, skips, envelopes, bytes that are no
// mutation, under the number expected, a later one, one that is used up, or the largest; and any of it again. Whatever
// comes, the call goes well, the fate follows from number and id alone (S2, S3), and the next good mutation is applied
// (S5).
func FuzzQueue(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 0, 3, 2, 0, 9, 3, 0, 0, 4, 0, 0, 5, 0, 0})
	f.Add([]byte{2, 0, 255, 0, 1, 0, 0, 2, 1, 2, 0, 0, 6, 0, 0, 0, 0, 0})
	f.Add([]byte{2, 3, 200, 0, 3, 0, 1, 4, 7, 2, 0, 254, 6, 1, 0, 3, 0, 3})
	world := worlds(f)
	f.Fuzz(func(t *testing.T, draws []byte) {
		w := world(t)
		ann := w.phone("Ann")
		acc := ann.account("x") // number 1
		expected := uint64(2)
		type fate struct {
			m syncengine.Mutation
			v syncengine.Verdict
		}
		var settled []fate
		for draws = draws[:min(len(draws), 45)]; len(draws) >= 3; draws = draws[3:] {
			form, place, extra := draws[0]%7, draws[1]%5, uint64(draws[2])
			m := syncengine.Mutation{ID: satchel.NewID(), Number: [...]uint64{expected, expected + 1 + extra, max(1, expected-min(expected, 1+extra)), 1<<64 - 1, expected}[place]}
			known := -1
			switch form {
			case 0:
				m.Ops = []syncengine.Op{patch("account", acc, 0, map[string]any{"remark": m.ID.String()})}
			case 1:
				m.Ops = []syncengine.Op{create("account", satchel.NewID(), map[string]any{"name": "n"}), patch("account", satchel.NewID(), extra, map[string]any{"name": "nobody's"})}
			case 2:
				to := m.Number + [...]uint64{0, 1, extra, syncengine.MaxSkip - 1, syncengine.MaxSkip, 1 << 40, -m.Number, 1<<64 - 1 - m.Number}[extra%8]
				m.Skip = &syncengine.Skip{To: to, Why: string([]byte{draws[2], draws[1]})}
			case 3:
				m.Envelope = &syncengine.Envelope{Size: extra << 20, SHA256: draws[:3]}
			case 4:
				m.Malformed = draws[:3]
			case 5: // several things at once
				m.Skip, m.Envelope, m.Malformed = &syncengine.Skip{To: m.Number + extra}, &syncengine.Envelope{}, draws[:1]
				m.Ops = []syncengine.Op{patch("account", acc, 0, map[string]any{"remark": "no"})}
			case 6:
				if len(settled) > 0 {
					known = int(extra) % len(settled)
					m = settled[known].m
				}
			}
			out, err := w.engine.Apply(context.Background(), ann.who, syncengine.Batch{Mutations: []syncengine.Mutation{m}, Confirmed: extra % 2})
			if err != nil {
				t.Fatalf("%+v: %v", m, err)
			}
			switch {
			case known >= 0:
				if len(out.Verdicts) != 1 || out.Fork || out.Verdicts[0].Status != settled[known].v.Status || out.Verdicts[0].Reason != settled[known].v.Reason || out.Verdicts[0].Seq != settled[known].v.Seq {
					t.Fatalf("%+v was %+v, and again: %+v", m, settled[known].v, out)
				}
			case m.Number > expected:
				if len(out.Verdicts) != 0 || out.Fork || out.Expected != expected {
					t.Fatalf("behind a gap, where %d is expected: %+v", expected, out)
				}
			case m.Number < expected:
				if len(out.Verdicts) != 0 || !out.Fork {
					t.Fatalf("number %d is used up by another: %+v", m.Number, out)
				}
			default:
				if len(out.Verdicts) != 1 || out.Fork || out.Verdicts[0].Number != m.Number || out.Expected <= expected {
					t.Fatalf("%+v, expected: %+v", m, out)
				}
				if skips := out.Expected - expected; skips > 1 && (m.Skip == nil || m.Skip.To != out.Expected-1 || skips > syncengine.MaxSkip) {
					t.Fatalf("%+v uses up %d numbers", m, skips)
				}
				expected = out.Expected
				settled = append(settled, fate{m, out.Verdicts[0]})
			}
		}
		good := syncengine.Mutation{ID: satchel.NewID(), Number: expected, Ops: []syncengine.Op{patch("account", acc, 0, map[string]any{"remark": "good"})}}
		out, err := w.engine.Apply(context.Background(), ann.who, syncengine.Batch{Mutations: []syncengine.Mutation{good}})
		if err != nil || len(out.Verdicts) != 1 || out.Verdicts[0].Status != syncengine.Applied {
			t.Fatalf("a good mutation behind all that: %+v, %v", out, err)
		}
		ann.pull()
		if got := ann.field(acc, "remark"); got != "good" {
			t.Fatalf("the account says %v", got)
		}
	})
}
