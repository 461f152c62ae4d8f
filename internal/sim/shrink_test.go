package sim

import (
	"slices"
	"testing"
	"time"
)

func TestShrinkingLeavesOnlyTheStepsThatAFailureNeeds(t *testing.T) {
	t.Parallel()
	var all []int
	for i := range 200 {
		all = append(all, i+1)
	}
	runs := 0
	got := shrink(all, 200, time.Now().Add(time.Hour), func(keep []int) bool {
		runs++
		return slices.Contains(keep, 17) && slices.Contains(keep, 101)
	})
	if !slices.Equal(got, []int{17, 101}) {
		t.Errorf("after %d runs: %v", runs, got)
	}
	runs = 0
	got = shrink(all, 10, time.Now().Add(time.Hour), func(keep []int) bool { runs++; return slices.Contains(keep, 150) })
	if runs > 10 || len(got) > 20 || !slices.Contains(got, 150) {
		t.Errorf("%d runs came to %v", runs, got)
	}
}

func TestStepsAreReadAsTheyAreSpelled(t *testing.T) {
	t.Parallel()
	var s Steps
	if err := s.UnmarshalText([]byte("40, 9-12,3,10")); err != nil || s.String() != "3,9-12,40" {
		t.Errorf("%s %v", s, err)
	}
	for _, wrong := range []string{"", "a", "3-1", "-4", "1-900000000"} {
		if err := s.UnmarshalText([]byte(wrong)); err == nil {
			t.Errorf("%q is read as %v", wrong, s)
		}
	}
}
