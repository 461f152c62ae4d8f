package access

import (
	"slices"
	"strings"
	"time"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/schema"
)

// MaxBucketsPerRecord bounds in how many buckets one record lies (schema refuses a kind that names more);
// MaxBucketsPerPerson how many one person follows.
const (
	MaxBucketsPerRecord = 8
	MaxBucketsPerPerson = 1000
)

// Bucket names a set of records that are granted together: a stem ("own:PERSON", "team:TEAM", "org") and, for facts,
// the month of the event in the organisation's zone ("2026-11"; "" = not by month).
type Bucket struct {
	Stem  string
	Month string
}

// Class gives the stem's kind: "own", "team" or "org".
func (b Bucket) Class() string {
	class, _, _ := strings.Cut(b.Stem, ":")
	return class
}

// OwnStem names what is a person's.
func OwnStem(person satchel.ID) string { return "own:" + person.String() }

// TeamStem names what is a team's; the zero team holds what people without a team own.
func TeamStem(team satchel.ID) string { return "team:" + team.String() }

// OrgStem names what everybody in the organisation shares.
const OrgStem = "org"

// Place tells in which buckets a record lies: a pure function of the record, its parent's owner (zero = it has no
// parent or the parent no owner) and the directory. Sorted, without doubles, never nil. Each entry of the kind's
// Buckets gives at most one, and a schema with more than MaxBucketsPerRecord of them is refused at publish, so nothing
// is cut here. A deleted record stays where it was placed by its last values, so that its tombstone reaches who had it.
func Place(k *schema.Kind, r *schema.Record, parentOwner satchel.ID, d *Directory, zone *time.Location) []Bucket {
	month := ""
	if k.Fact {
		month = time.UnixMilli(r.EventMS).In(zone).Format(monthForm)
	}
	owner := r.OwnerID(k)
	out := make([]Bucket, 0, len(k.Buckets))
	own := func(person satchel.ID) {
		if !person.IsZero() {
			out = append(out, Bucket{OwnStem(person), month})
		}
	}
	for _, where := range k.Buckets {
		switch {
		case where == "owner":
			own(owner)
		case where == "team":
			if !owner.IsZero() {
				out = append(out, Bucket{TeamStem(d.TeamOf(owner)), month})
			}
		case where == "parent_owner":
			own(parentOwner)
		case where == "org":
			out = append(out, Bucket{OrgStem, ""})
		case strings.HasPrefix(where, "field:"):
			own(r.Ref(strings.TrimPrefix(where, "field:")))
		}
	}
	slices.SortFunc(out, compareBuckets)
	return slices.Compact(out)
}

func compareBuckets(a, b Bucket) int {
	if c := strings.Compare(a.Stem, b.Stem); c != 0 {
		return c
	}
	return strings.Compare(a.Month, b.Month)
}

// Followed is a stem that a person follows and the kinds that come by it, sorted.
type Followed struct {
	Stem  string
	Kinds []string
}

// Follow tells which stems a person follows, in the order in which a new device fills them: the person's own, the
// organisation's, the teams.
func Follow(g *Grants, d *Directory, person satchel.ID) []Followed {
	var own, team, all, org []string
	for _, name := range g.schema.Kinds() {
		k, read := g.schema.Kind(name), g.kinds[name].Read
		if read == schema.None {
			continue
		}
		own = append(own, name)
		if slices.Contains(k.Buckets, "org") {
			org = append(org, name)
		}
		if slices.Contains(k.Buckets, "team") {
			if read.Reaches(schema.Team) {
				team = append(team, name)
			}
			if read.Reaches(schema.All) {
				all = append(all, name)
			}
		}
	}
	var out []Followed
	add := func(stem string, kinds []string) {
		if len(kinds) > 0 {
			out = append(out, Followed{stem, kinds})
		}
	}
	add(OwnStem(person), own)
	add(OrgStem, org)
	below := d.Below(d.TeamOf(person))
	for _, t := range below {
		add(TeamStem(t), team)
	}
	for _, t := range append(slices.Clone(d.Teams()), satchel.ID{}) {
		if !slices.Contains(below, t) {
			add(TeamStem(t), all)
		}
	}
	return out
}

// Sees tells whether somebody who follows these stems has a record of the kind that lies in the buckets.
func Sees(followed []Followed, kind string, buckets []Bucket) bool {
	for _, b := range buckets {
		for _, f := range followed {
			if f.Stem == b.Stem && slices.Contains(f.Kinds, kind) {
				return true
			}
		}
	}
	return false
}
