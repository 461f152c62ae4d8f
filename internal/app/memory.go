package app

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// A small server collects garbage often: with 15 MiB alive, every 8 MiB. While phones push, that takes a third of the
// processor. So a process that is busy collecting is allowed more garbage for a while, and gives it back when it is
// quiet: small at rest, where even a first sync of 20,000 records is faster with a small heap, and fast when it works
// for long. docs/performance.md has the figures.
const (
	breatheEvery = time.Second
	calmFor      = 10 // looks without much collecting, until the memory is given back
	usualPercent = 50
	busyPercent  = 400
	busyGarbage  = 256 << 20 // bytes: where 400 % of what is alive is more, it is as many percent as this is
	busyShare    = 0.08      // of the processor's time spent on collecting, from which more garbage is allowed
)

// Breathe sets how much garbage this process may have, by how busy it is, until ctx ends. It is for the process that
// serves alone: it changes a setting of the whole process. Where GOGC is set, percent is that, and nothing is changed.
func Breathe(ctx context.Context, gogc string) {
	if gogc != "" {
		return
	}
	debug.SetGCPercent(usualPercent)
	tick := time.NewTicker(breatheEvery)
	defer tick.Stop()
	b := breath{percent: usualPercent}
	last := readMemory()
	for {
		select {
		case <-ctx.Done():
			debug.SetGCPercent(100) // Go's own
			return
		case <-tick.C:
		}
		now := readMemory()
		before := b
		if b.next(last, now) != before.percent {
			debug.SetGCPercent(b.percent)
		}
		if before.wide && !b.wide {
			debug.FreeOSMemory()
		}
		last = now
	}
}

// memory is what the runtime says of itself: seconds of processors since the start, bytes.
type memory struct {
	collecting, busy float64
	live             uint64
}

// breath decides.
type breath struct {
	percent int
	wide    bool // more garbage is allowed
	calm    int  // looks since collecting took much
}

// next gives the percentage from now on.
func (b *breath) next(last, now memory) int {
	busy := now.busy - last.busy
	much := busy > 0.1*breatheEvery.Seconds() && now.collecting-last.collecting > busyShare*busy
	if b.wide { // it collects less now; that it still works is what keeps it there
		much = busy > 0.5*breatheEvery.Seconds()
	}
	if b.calm++; much {
		b.wide, b.calm = true, 0
	} else if b.calm >= calmFor {
		b.wide = false
	}
	b.percent = usualPercent
	if b.wide {
		const step = 25 // so that what is alive may vary a little without a new setting
		share := min(busyGarbage*100/max(now.live, 1), busyPercent)
		b.percent = max(int(share)/step*step, usualPercent)
	}
	return b.percent
}

func readMemory() memory {
	s := []metrics.Sample{{Name: "/cpu/classes/gc/total:cpu-seconds"}, {Name: "/cpu/classes/total:cpu-seconds"},
		{Name: "/cpu/classes/idle:cpu-seconds"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	m := memory{live: s[3].Value.Uint64()}
	m.collecting, m.busy = s[0].Value.Float64(), s[1].Value.Float64()-s[2].Value.Float64()
	return m
}
