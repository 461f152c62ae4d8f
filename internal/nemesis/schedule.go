package nemesis

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// fault is what an event does.
type fault string

const (
	killReplica  fault = "kill -9 replica"       // started again when the time is over
	stopReplica  fault = "SIGSTOP replica"       // SIGCONT when the time is over
	restartPG    fault = "restart Postgres"      // fast: sessions are cut, clean
	haltPG       fault = "halt Postgres"         // immediate: recovery at the start
	killPG       fault = "kill -9 Postgres"      // the postmaster; its children see it
	cutSessions  fault = "terminate backends of" // of one replica
	partition    fault = "partition phone"       // per direction: stalled or dropped
	slowWay      fault = "slow phone"            // both directions
	killPhone    fault = "kill phone"            // between two of its steps
	restorePhone fault = "restore phone"         // its store is copied, and rolled back to that when the time is over
	clonePhone   fault = "clone phone"           // both live on
	changeRights fault = "change rights"         // of people or teams

	// Only scripts have these.
	failOver   fault = "fail over to a standby" // the primary dies for good
	restoreOld fault = "restore Postgres"       // from a base backup that is taken now, when the time is over
)

// lane is what happens to the bytes of one direction.
type lane uint8

const (
	open  lane = iota
	stall      // they wait, and arrive late, perhaps when the other side has given up
	drop       // the connection breaks on the first of them
)

func (l lane) String() string { return [...]string{"open", "stalled", "dropped"}[l] }

// event is one entry of a schedule.
type event struct {
	number   int           // from 1; --keep names it
	at       time.Duration // after the beginning
	what     fault
	target   int           // replica or phone
	last     time.Duration // how long, where it has an end
	up, down lane          // of a partition
	choice   uint64        // what else has to be chosen
}

func (e event) String() string {
	text := fmt.Sprintf("%2d. at %4d ms: %s", e.number, e.at.Milliseconds(), e.what)
	switch e.what {
	case restartPG, haltPG, killPG, changeRights, failOver, restoreOld:
	case cutSessions:
		text += " replica " + strconv.Itoa(e.target)
	default:
		text += " " + strconv.Itoa(e.target)
	}
	if e.what == partition {
		text += fmt.Sprintf(", up %s, down %s", e.up, e.down)
	}
	if e.last > 0 {
		text += fmt.Sprintf(", for %d ms", e.last.Milliseconds())
	}
	return text
}

// Of a run.
const (
	replicas  = 2
	steps     = 32                      // of each phone
	during    = 3600 * time.Millisecond // the time in which events begin
	minEvents = 10
)

// draw makes the schedule of a seed.
func draw(seed uint64, phones int) []event {
	r := rand.New(rand.NewPCG(seed, 0x4e656d65736973))
	ms := func(from, to int) time.Duration { return time.Duration(from+r.IntN(to-from)) * time.Millisecond }
	var all []event
	for range minEvents + r.IntN(6) {
		e := event{at: ms(100, int(during.Milliseconds())), choice: r.Uint64(), target: r.IntN(phones)}
		switch n := r.IntN(100); {
		case n < 16:
			e.what, e.target, e.last = killReplica, r.IntN(replicas), ms(50, 700)
		case n < 26:
			e.what, e.target, e.last = stopReplica, r.IntN(replicas), ms(200, 1800)
		case n < 31:
			e.what = restartPG
		case n < 36:
			e.what = haltPG
		case n < 40:
			e.what = killPG
		case n < 46:
			e.what, e.target = cutSessions, r.IntN(replicas)
		case n < 62:
			e.what, e.last = partition, ms(200, 2000)
			e.up, e.down = lane(r.IntN(3)), lane(r.IntN(3))
			if e.up == open && e.down == open {
				e.down = drop
			}
		case n < 67:
			e.what, e.last = slowWay, ms(400, 1500)
		case n < 74:
			e.what = killPhone
		case n < 81:
			e.what, e.last = restorePhone, ms(200, 1200)
		case n < 86:
			e.what = clonePhone
		default:
			e.what = changeRights
		}
		all = append(all, e)
	}
	// Whatever was drawn: a server dies and rights change in every run.
	all[0].what, all[0].target, all[0].last = killReplica, int(all[0].choice%replicas), 300*time.Millisecond
	all[1].what, all[1].last = changeRights, 0
	slices.SortStableFunc(all, func(a, b event) int { return int(a.at - b.at) })
	for i := range all {
		all[i].number = i + 1
	}
	return all
}

// only keeps the events of these numbers; nil keeps all.
func only(all []event, keep []int) []event {
	if keep == nil {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), func(e event) bool { return !slices.Contains(keep, e.number) })
}

func numbers(events []event) []int {
	out := []int{}
	for _, e := range events {
		out = append(out, e.number)
	}
	return out
}

// replay is the command that runs a seed with these events again; 0 names no event.
func replay(command string, seed uint64, keep []int) string {
	text := command + " --seed " + strconv.FormatUint(seed, 10)
	if keep == nil {
		return text
	}
	if len(keep) == 0 {
		keep = []int{0}
	}
	var list []string
	for _, n := range keep {
		list = append(list, strconv.Itoa(n))
	}
	return text + " --keep " + strings.Join(list, ",")
}
