package sim

import (
	"fmt"
	"regexp"
	"strings"
)

// What follows from no seed: ids of requests, the names of databases and sockets, and random ids, of which only which is
// which can be told.
var (
	requests  = regexp.MustCompile(`\(request [^)]*\)`)
	databases = regexp.MustCompile(`\b(?:satchel_sim|satchel_test|sim)_[0-9a-z_]+|/[^ ]*\.s\.PGSQL[^ ]*`)
	ids       = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
)

// Difference compares the traces of two runs of one seed, and tells the first line in which they differ; "" = they do
// not. Random ids are compared by the order in which they first appear.
func Difference(first, second string) string {
	a, b := strings.Split(plain(first), "\n"), strings.Split(plain(second), "\n")
	for i := range max(len(a), len(b)) {
		if was, is := lineOf(a, i), lineOf(b, i); was != is {
			return fmt.Sprintf("line %d: %q, then %q", i+1, was, is)
		}
	}
	return ""
}

func lineOf(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "the end"
}

// plain gives a trace without what follows from no seed.
func plain(trace string) string {
	seen := map[string]string{}
	trace = databases.ReplaceAllString(requests.ReplaceAllString(trace, ""), "")
	return ids.ReplaceAllStringFunc(trace, func(id string) string {
		name, known := seen[id]
		if !known {
			name = fmt.Sprintf("id %d", len(seen)+1)
			seen[id] = name
		}
		return name
	})
}
