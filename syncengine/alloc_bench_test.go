package syncengine_test

import (
	"testing"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/internal/enginetest"
	"github.com/satchel-sync/satchel/syncengine"
)

func BenchmarkApplyFiftyVisits(b *testing.B) {
	w := enginetest.New(b)
	p := w.Phone("Ann")
	var accounts []satchel.ID
	for range 5 {
		accounts = append(accounts, p.Account())
	}
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		var ms []syncengine.Mutation
		for i := range 50 {
			n++
			ms = append(ms, p.Mutation(enginetest.Create("visit", satchel.NewID(), map[string]any{"account": accounts[i%5].String(), "subject": "Besuch und Gespräch", "purpose": "follow_up",
				"outcome": "won", "satisfaction": 4, "summary": "He wants the offer by next week.\nThe second line is about the price that the competitor gave him, which is lower; 他们希望在下周之前收到报价。", "visited_at": "2026-11-21T08:00:00.000Z"})))
		}
		b.StartTimer()
		for _, v := range p.Send(ms...) {
			if v.Status != syncengine.Applied {
				b.Fatal(v)
			}
		}
	}
}
