package access

import (
	"slices"
	"time"
)

const monthForm = "2006-01"

// FirstMonth names the oldest of the last n months at a moment, that moment's own included; "" = all months, for n = 0.
func FirstMonth(now time.Time, zone *time.Location, n int) string {
	if n <= 0 {
		return ""
	}
	y, m, _ := now.In(zone).Date()
	return time.Date(y, m-time.Month(n-1), 1, 0, 0, 0, 0, time.UTC).Format(monthForm)
}

// MonthsSince counts the months from the first to that of the moment, both included, at least 1; 0 = all, for "" and for
// what is no month.
func MonthsSince(first string, now time.Time, zone *time.Location) int {
	from, err := time.Parse(monthForm, first)
	if err != nil {
		return 0
	}
	y, m, _ := now.In(zone).Date()
	return max(1, (y-from.Year())*12+int(m-from.Month())+1)
}

// Only narrows what is followed to these kinds (nil = all); a stem by which none of them comes is left out.
func Only(followed []Followed, kinds []string) []Followed {
	if kinds == nil {
		return followed
	}
	out := make([]Followed, 0, len(followed))
	for _, f := range followed {
		var left []string
		for _, kind := range f.Kinds {
			if slices.Contains(kinds, kind) {
				left = append(left, kind)
			}
		}
		if len(left) > 0 {
			out = append(out, Followed{f.Stem, left})
		}
	}
	return out
}

// FirstThatFits gives the oldest month of which, with all later ones, a person can follow every bucket, when besides
// them fixed buckets are not by month; "" = all. perMonth counts buckets by month. At least the newest month is kept.
func FirstThatFits(fixed int, perMonth map[string]int) string {
	months := make([]string, 0, len(perMonth))
	for m := range perMonth {
		months = append(months, m)
	}
	slices.Sort(months)
	left := MaxBucketsPerPerson - fixed
	for i := len(months) - 1; i >= 0; i-- {
		if left -= perMonth[months[i]]; left < 0 {
			return months[min(i+1, len(months)-1)]
		}
	}
	return ""
}
