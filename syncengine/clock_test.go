package syncengine

import (
	"testing"

	"pgregory.net/rapid"
)

func TestS7NoClockOfAPhoneDecides(t *testing.T) {
	t.Parallel()
	const hour = int64(3_600_000)
	noon := 20_000 * hour
	pairs := []ClockPair{{Boot: "monday", MonotonicMS: 1_000, ServerMS: noon}, {Boot: "tuesday", MonotonicMS: 5_000, ServerMS: noon + 24*hour}}
	received := noon + 30*hour
	for name, c := range map[string]struct {
		reading    ClockReading
		checkpoint int64
		last       int64
		want       int64
		off        bool
	}{
		"from the pair of its boot, whatever the wall clock says": {ClockReading{Boot: "monday", MonotonicMS: 1_000 + uint64(hour), WallMS: 7}, 0, 0, noon + hour, true},
		"from the pair of its boot, however many reboots later":   {ClockReading{Boot: "monday", MonotonicMS: 1_500}, 0, 0, noon + 500, false},
		"before the pair was noted":                               {ClockReading{Boot: "tuesday", MonotonicMS: 2_000}, 0, 0, noon + 24*hour - 3_000, false},
		"a boot that never met the server: the wall clock":        {ClockReading{Boot: "other", WallMS: noon + 3*hour}, noon, 0, noon + 3*hour, false},
		"held above the checkpoint that it was recorded on":       {ClockReading{WallMS: noon - 5_000*hour}, noon, 0, noon, true},
		"held below the time of receipt":                          {ClockReading{WallMS: noon + 10*365*24*hour}, noon, 0, received, true},
		"no reading at all: the time of receipt":                  {ClockReading{}, noon, 0, received, false},
		"never earlier than the device's last":                    {ClockReading{WallMS: noon + hour}, noon, noon + 2*hour, noon + 2*hour, false},
	} {
		if got, off := eventTime(c.reading, pairs, c.checkpoint, received, c.last); got != c.want || off != c.off {
			t.Errorf("%s: %d (off %v), want %d (off %v)", name, got, off, c.want, c.off)
		}
	}
}

func TestS7EventTimesNeverRunBackNorAheadOfTheServer(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		last, received := int64(0), int64(1_000_000)
		for range rapid.IntRange(1, 20).Draw(t, "mutations") {
			received += int64(rapid.IntRange(0, 1_000_000).Draw(t, "passed"))
			r := ClockReading{Boot: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "boot"),
				MonotonicMS: rapid.Uint64Max(1<<62).Draw(t, "monotonic"), WallMS: rapid.Int64().Draw(t, "wall")}
			pairs := []ClockPair{{Boot: "a", MonotonicMS: rapid.Uint64Max(1<<62).Draw(t, "noted"), ServerMS: rapid.Int64Range(1, 1<<50).Draw(t, "server")}}
			at, _ := eventTime(r, pairs, rapid.Int64Range(0, received).Draw(t, "checkpoint"), received, last)
			if at < last || at > received {
				t.Fatalf("%d is not within [%d, %d]", at, last, received)
			}
			last = at
		}
	})
}
