package sim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What shrinking may cost.
const (
	shrinkRuns = 60
	shrinkTime = 90 * time.Second
)

// shrink looks for few steps that still fail, by leaving out more and more of them (ddmin); fails runs some. With a bound
// on runs and time, what it gives may not be the fewest.
func shrink(steps []int, runs int, until time.Time, fails func(keep []int) bool) []int {
	try := func(keep []int) bool {
		if runs <= 0 || time.Now().After(until) {
			return false
		}
		runs--
		return fails(keep)
	}
	for pieces := 2; len(steps) > 1; {
		size := (len(steps) + pieces - 1) / pieces
		smaller := false
		for from := 0; from < len(steps); from += size {
			rest := slices.Concat(steps[:from], steps[min(from+size, len(steps)):])
			if len(rest) > 0 && try(rest) {
				steps, pieces, smaller = rest, max(2, pieces-1), true
				break
			}
		}
		switch {
		case smaller:
		case pieces >= len(steps) || runs <= 0 || time.Now().After(until):
			return steps
		default:
			pieces = min(len(steps), 2*pieces)
		}
	}
	return steps
}

// Steps are numbers of steps as people write them: 3,9-12,40.
type Steps []int

// String spells the steps.
func (s Steps) String() string {
	var parts []string
	for i := 0; i < len(s); {
		j := i
		for j+1 < len(s) && s[j+1] == s[j]+1 {
			j++
		}
		if j > i {
			parts = append(parts, fmt.Sprintf("%d-%d", s[i], s[j]))
		} else {
			parts = append(parts, strconv.Itoa(s[i]))
		}
		i = j + 1
	}
	return strings.Join(parts, ",")
}

// UnmarshalText reads what String spells; "0" = no step.
func (s *Steps) UnmarshalText(text []byte) error {
	all := Steps{}
	for _, part := range strings.Split(string(text), ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		a, err := strconv.Atoi(first)
		b := a
		if err == nil && isRange {
			b, err = strconv.Atoi(last)
		}
		if err != nil || a < 0 || b < a || b-a > 100_000 {
			return fmt.Errorf("%q is no step and no range of steps, such as 3,9-12,40", part)
		}
		for n := a; n <= b; n++ {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	*s = slices.Compact(all)
	return nil
}
