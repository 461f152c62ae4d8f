package dataset

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"
	"unicode/utf8"

	satchel "github.com/satchel-sync/satchel"
	"github.com/satchel-sync/satchel/identity"
	"github.com/satchel-sync/satchel/internal/demodata"
)

// Scale is the size of an organisation. The figures of other systems (docs/performance.md) were taken at [Full].
type Scale struct {
	Teams          int `json:"teams"`            // each with a manager
	RepsPerTeam    int `json:"reps_per_team"`    // a manager sees what these have
	VisitsPerRep   int `json:"visits_per_rep"`   // 11 months of them
	AccountsPerRep int `json:"accounts_per_rep"` // the visits are to these
	// ManagersPerTeam is how many people follow a team; 0 = 1.
	ManagersPerTeam int `json:"managers_per_team,omitempty"`
}

// The scales: 200,000 visits; a tenth of that for a first look; what a test can afford.
var (
	Full  = Scale{Teams: 10, RepsPerTeam: 100, VisitsPerRep: 200, AccountsPerRep: 5}
	Quick = Scale{Teams: 10, RepsPerTeam: 10, VisitsPerRep: 200, AccountsPerRep: 5}
	Tiny  = Scale{Teams: 2, RepsPerTeam: 4, VisitsPerRep: 80, AccountsPerRep: 2}
)

// Reps counts the reps.
func (s Scale) Reps() int { return s.Teams * s.RepsPerTeam }

// Visits counts the visits.
func (s Scale) Visits() int { return s.Reps() * s.VisitsPerRep }

// Managers counts the managers.
func (s Scale) Managers() int { return s.Teams * max(s.ManagersPerTeam, 1) }

// check refuses what cannot be loaded.
func (s Scale) check() error {
	if s.Teams < 1 || s.RepsPerTeam < 4 || s.VisitsPerRep < 1 || s.AccountsPerRep < 1 || s.ManagersPerTeam < 0 || s.Visits() > 5_000_000 {
		return fmt.Errorf("dataset: the scale %+v has too few teams (1), reps (4), visits or accounts (1), or more than 5,000,000 visits", s)
	}
	return nil
}

// Org says which organisation to make.
type Org struct {
	Slug  string
	Scale Scale
	Seed  uint64 // organisations of different seeds have different ids
	// Floor loads the floor's table with the same visits too. One organisation of a database may have it.
	Floor bool
	// Unmirrored leaves out the records that show people and teams to each phone, so that the first sync of each of
	// very many phones is small where only what comes after is measured.
	Unmirrored bool
}

// visitBytes is what a visit's JSON has on average, as Postgres spells it.
const visitBytes = 908

// Present is the data's present, so that every run loads the same rows.
var Present = time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)

const span = 330 * 24 * time.Hour

// World is an organisation that is loaded: the same for the same [Org]. It is read only.
type World struct {
	Org
	Root     satchel.ID
	Teams    []satchel.ID
	Managers []satchel.ID   // of team i / ManagersPerTeam
	Reps     []satchel.ID   // of team i / RepsPerTeam
	Accounts [][]satchel.ID // by rep
	pool     []map[string]any
	texts    [][]byte
}

// NewWorld imagines the organisation.
func NewWorld(o Org) (*World, error) {
	if err := o.Scale.check(); err != nil {
		return nil, err
	}
	company, err := demodata.Generate(demodata.Config{Seed: 7, Now: Present, Reps: 10, Accounts: 60, Visits: 1500, Tasks: 1, Quotes: 1})
	if err != nil {
		return nil, err
	}
	w := &World{Org: o}
	rng := rand.New(rand.NewPCG(o.Seed, 1))
	born := Present.Add(-2 * span)
	next := func() satchel.ID {
		born = born.Add(time.Second)
		return MintID(rng, born)
	}
	w.Root = next()
	for range o.Scale.Teams {
		w.Teams = append(w.Teams, next())
	}
	for range o.Scale.Managers() {
		w.Managers = append(w.Managers, next())
	}
	for range o.Scale.Reps() {
		w.Reps = append(w.Reps, next())
		accounts := make([]satchel.ID, o.Scale.AccountsPerRep)
		for i := range accounts {
			accounts[i] = next()
		}
		w.Accounts = append(w.Accounts, accounts)
	}
	for _, r := range company.Records {
		if r.Kind == "visit" {
			w.pool = append(w.pool, r.Fields)
			w.texts = append(w.texts, []byte(r.Fields["summary"].(string)))
		}
	}
	return w, nil
}

// MintID mints a UUIDv7 from a source that can be repeated.
func MintID(rng *rand.Rand, at time.Time) (id satchel.ID) {
	binary.BigEndian.PutUint64(id[8:], rng.Uint64())
	binary.BigEndian.PutUint64(id[:8], uint64(at.UnixMilli())<<16|uint64(rng.Uint32()&0xffff))
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return id
}

// Team gives the index of a rep's team.
func (w *World) Team(rep int) int { return rep / w.Scale.RepsPerTeam }

// RepLogin is the login of the rep with that index.
func RepLogin(rep int) string { return fmt.Sprintf("rep%04d", rep) }

// ManagerLogin is the login of the manager with that index.
func ManagerLogin(manager int) string { return fmt.Sprintf("manager%02d", manager) }

// people gives teams and people, parents first.
func (w *World) people() ([]identity.Team, []identity.Person) {
	teams := []identity.Team{{ID: w.Root, Name: "bench"}}
	var people []identity.Person
	for i, id := range w.Teams {
		teams = append(teams, identity.Team{ID: id, Parent: w.Root, Name: fmt.Sprintf("team %02d", i)})
	}
	for i, id := range w.Managers {
		people = append(people, identity.Person{ID: id, Login: ManagerLogin(i), DisplayName: ManagerLogin(i),
			Team: w.Teams[i/max(w.Scale.ManagersPerTeam, 1)], Roles: []string{"manager"}})
	}
	for i, id := range w.Reps {
		people = append(people, identity.Person{ID: id, Login: RepLogin(i), DisplayName: RepLogin(i),
			Team: w.Teams[w.Team(i)], Roles: []string{"rep"}})
	}
	return teams, people
}

// item is a record to load.
type item struct {
	id     satchel.ID
	kind   string
	author satchel.ID
	team   int
	at     time.Time
	fields map[string]any
}

// items yields every record, accounts first, then visits in the order of their times.
func (w *World) items(yield func(item) bool) {
	for rep, accounts := range w.Accounts {
		for i, id := range accounts {
			fields := map[string]any{"owner": w.Reps[rep].String(), "name": fmt.Sprintf("Orient Machinery %d-%d", rep, i)}
			if !yield(item{id: id, kind: "account", author: w.Reps[rep], team: w.Team(rep), at: Present.Add(-span), fields: fields}) {
				return
			}
		}
	}
	rng := rand.New(rand.NewPCG(w.Seed, 2))
	step := span / time.Duration(w.Scale.Visits())
	for i := range w.Scale.Visits() {
		rep := i % w.Scale.Reps()
		at := Present.Add(-span + time.Duration(i)*step).Truncate(time.Millisecond)
		v := item{id: MintID(rng, at), kind: "visit", author: w.Reps[rep], team: w.Team(rep), at: at, fields: w.Visit(rng, rep, at)}
		if !yield(v) {
			return
		}
	}
}

// Visit makes the fields of a visit: those of the demo company's, with a summary as long as it takes to be as large as
// the visits with which other systems were measured. None has a follow-up date, which would set a timer.
func (w *World) Visit(rng *rand.Rand, rep int, at time.Time) map[string]any {
	like := w.pool[rng.IntN(len(w.pool))]
	fields := map[string]any{
		"account": w.Accounts[rep][rng.IntN(w.Scale.AccountsPerRep)].String(), "visited_at": stamp(at),
		"left_at": stamp(at.Add(time.Duration(10+rng.IntN(100)) * time.Minute)),
	}
	for _, name := range []string{"subject", "purpose", "outcome", "place", "products", "satisfaction"} {
		if v, ok := like[name]; ok {
			fields[name] = v
		}
	}
	want := visitBytes - 100 + rng.IntN(201)
	want -= len(Encode(fields)) + 2*len(fields) + len(`, "summary": ""`) // Postgres writes a space behind each colon and comma
	var text []byte
	for len(text) < want { // short pieces, so that a page packs no better than what people write: to about a third
		from := w.texts[rng.IntN(len(w.texts))]
		at := rng.IntN(len(from))
		n := 2 + rng.IntN(6)
		if rng.IntN(40) == 0 {
			text = append(text, '\n')
		}
		for ; at < len(from) && n > 0; n-- {
			r, size := utf8.DecodeRune(from[at:])
			if r != utf8.RuneError {
				text = append(text, from[at:at+size]...)
			}
			at += size
		}
	}
	text = text[:max(want, 1)]
	for !utf8.Valid(text) {
		text = text[:len(text)-1]
	}
	fields["summary"] = string(text)
	return fields
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// Encode spells fields as the engine does.
func Encode(v any) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // made here, of texts and numbers
	}
	return bytes.TrimRight(buf.Bytes(), "\n")
}
