package syncengine

import "time"

// clockOffLimit is how far a phone's wall clock may be from the truth before the verdict says so.
const clockOffLimit = 5 * time.Minute

// eventTime finds when a mutation was recorded (S7), in milliseconds since 1970. Where the phone's boot ever met the
// server, it follows from that pair and the monotonic clock, whatever the wall clock says. Where it never did, it is
// the wall clock, held within [the time of the checkpoint on which it was recorded, received]. Without any reading it
// is the time of receipt. It is never later than received, and per device never earlier than last.
func eventTime(r ClockReading, pairs []ClockPair, checkpointMS, receivedMS, last int64) (ms int64, off bool) {
	at, known := receivedMS, false
	for _, p := range pairs {
		if r.Boot != "" && p.Boot == r.Boot && p.ServerMS > 0 {
			at, known = p.ServerMS+int64(r.MonotonicMS)-int64(p.MonotonicMS), true
			off = r.WallMS != 0 && (r.WallMS-at > clockOffLimit.Milliseconds() || at-r.WallMS > clockOffLimit.Milliseconds())
			break
		}
	}
	if !known && r.WallMS > 0 {
		at = r.WallMS
		if held := max(at, checkpointMS); held != at {
			at, off = held, true
		}
		if at > receivedMS {
			off = off || at-receivedMS > clockOffLimit.Milliseconds()
		}
	}
	at = min(max(at, 0), receivedMS)
	return min(max(at, last), max(receivedMS, last)), off
}
