package app

import "testing"

func TestABusyProcessMayHaveMoreGarbageUntilItIsQuiet(t *testing.T) {
	t.Parallel()
	b := breath{percent: usualPercent}
	var now memory
	look := func(collecting, busy float64, live uint64) int {
		last := now
		now = memory{now.collecting + collecting, now.busy + busy, live}
		return b.next(last, now)
	}
	const small = 15 << 20
	if got := look(0.01, 0.05, small); got != usualPercent {
		t.Errorf("at rest %d", got)
	}
	if got := look(0.05, 1.5, small); got != usualPercent {
		t.Errorf("busy with its work %d", got)
	}
	if got := look(0.4, 1.8, small); got != busyPercent {
		t.Errorf("busy collecting %d", got)
	}
	for range 3 * calmFor { // now it collects less, because it may have more
		if got := look(0.05, 1.8, small); got != busyPercent {
			t.Fatalf("while it works on %d", got)
		}
	}
	for i := range calmFor - 1 {
		if got := look(0, 0.02, small); got != busyPercent {
			t.Fatalf("a moment later, %d, %d", i, got)
		}
	}
	if got := look(0, 0.02, small); got != usualPercent {
		t.Errorf("when it is quiet %d", got)
	}
	for live, want := range map[uint64]int{small: busyPercent, busyGarbage / 4: busyPercent, busyGarbage / 2: 200, busyGarbage: 100, 3 * busyGarbage: usualPercent} {
		if got := look(0.4, 1.8, live); got != want {
			t.Errorf("busy with %d MiB alive %d, not %d", live>>20, got, want)
		}
	}
}
