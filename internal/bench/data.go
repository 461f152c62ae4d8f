package bench

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

// Scale is the size of the data. The figures of other systems (docs/performance.md) were taken at [Full].
type Scale struct {
	Teams          int `json:"teams"`            // each with a manager
	RepsPerTeam    int `json:"reps_per_team"`    // a manager sees what these have
	VisitsPerRep   int `json:"visits_per_rep"`   // 11 months of them
	AccountsPerRep int `json:"accounts_per_rep"` // the visits are to these
}

// The scales: 200,000 visits; a tenth of that for a first look; what a test can afford.
var (
	Full  = Scale{Teams: 10, RepsPerTeam: 100, VisitsPerRep: 200, AccountsPerRep: 5}
	Quick = Scale{Teams: 10, RepsPerTeam: 10, VisitsPerRep: 200, AccountsPerRep: 5}
	Tiny  = Scale{Teams: 2, RepsPerTeam: 4, VisitsPerRep: 30, AccountsPerRep: 2}
)

func (s Scale) reps() int   { return s.Teams * s.RepsPerTeam }
func (s Scale) visits() int { return s.reps() * s.VisitsPerRep }

// check refuses what the figures cannot be taken with.
func (s Scale) check() error {
	if s.Teams < 2 || s.RepsPerTeam < 4 || s.VisitsPerRep < 1 || s.AccountsPerRep < 1 || s.visits() > 5_000_000 {
		return fmt.Errorf("bench: the scale %+v has too few teams (2), reps (4), visits or accounts (1), or more than 5,000,000 visits", s)
	}
	return nil
}

// visitBytes is what a visit's JSON has on average, as Postgres spells it.
const visitBytes = 908

// The data's present and the span of the visits before it, so that every run loads the same rows.
var present = time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)

const span = 330 * 24 * time.Hour

// world is the organisation that is loaded: the same for the same scale.
type world struct {
	scale    Scale
	root     satchel.ID
	teams    []satchel.ID
	managers []satchel.ID
	reps     []satchel.ID   // of team i / RepsPerTeam
	accounts [][]satchel.ID // by rep
	pool     []map[string]any
	texts    [][]byte
}

func newWorld(scale Scale) (*world, error) {
	if err := scale.check(); err != nil {
		return nil, err
	}
	company, err := demodata.Generate(demodata.Config{Seed: 7, Now: present, Reps: 10, Accounts: 60, Visits: 1500, Tasks: 1, Quotes: 1})
	if err != nil {
		return nil, err
	}
	w := &world{scale: scale}
	rng := rand.New(rand.NewPCG(7, 1))
	born := present.Add(-2 * span)
	next := func() satchel.ID {
		born = born.Add(time.Second)
		return idAt(rng, born)
	}
	w.root = next()
	for range scale.Teams {
		w.teams, w.managers = append(w.teams, next()), append(w.managers, next())
	}
	for range scale.reps() {
		w.reps = append(w.reps, next())
		accounts := make([]satchel.ID, scale.AccountsPerRep)
		for i := range accounts {
			accounts[i] = next()
		}
		w.accounts = append(w.accounts, accounts)
	}
	for _, r := range company.Records {
		if r.Kind == "visit" {
			w.pool = append(w.pool, r.Fields)
			w.texts = append(w.texts, []byte(r.Fields["summary"].(string)))
		}
	}
	return w, nil
}

// idAt mints a UUIDv7 from a source that can be repeated.
func idAt(rng *rand.Rand, at time.Time) (id satchel.ID) {
	binary.BigEndian.PutUint64(id[8:], rng.Uint64())
	binary.BigEndian.PutUint64(id[:8], uint64(at.UnixMilli())<<16|uint64(rng.Uint32()&0xffff))
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return id
}

func (w *world) team(rep int) int { return rep / w.scale.RepsPerTeam }

func repLogin(rep int) string      { return fmt.Sprintf("rep%04d", rep) }
func managerLogin(team int) string { return fmt.Sprintf("manager%02d", team) }

// people gives teams and people, parents first.
func (w *world) people() ([]identity.Team, []identity.Person) {
	teams := []identity.Team{{ID: w.root, Name: "bench"}}
	var people []identity.Person
	for i, id := range w.teams {
		teams = append(teams, identity.Team{ID: id, Parent: w.root, Name: fmt.Sprintf("team %02d", i)})
		people = append(people, identity.Person{ID: w.managers[i], Login: managerLogin(i), DisplayName: managerLogin(i),
			Team: id, Roles: []string{"manager"}})
	}
	for i, id := range w.reps {
		people = append(people, identity.Person{ID: id, Login: repLogin(i), DisplayName: repLogin(i),
			Team: w.teams[w.team(i)], Roles: []string{"rep"}})
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
func (w *world) items(yield func(item) bool) {
	for rep, accounts := range w.accounts {
		for i, id := range accounts {
			fields := map[string]any{"owner": w.reps[rep].String(), "name": fmt.Sprintf("Orient Machinery %d-%d", rep, i)}
			if !yield(item{id: id, kind: "account", author: w.reps[rep], team: w.team(rep), at: present.Add(-span), fields: fields}) {
				return
			}
		}
	}
	rng := rand.New(rand.NewPCG(7, 2))
	step := span / time.Duration(w.scale.visits())
	for i := range w.scale.visits() {
		rep := i % w.scale.reps()
		at := present.Add(-span + time.Duration(i)*step).Truncate(time.Millisecond)
		v := item{id: idAt(rng, at), kind: "visit", author: w.reps[rep], team: w.team(rep), at: at, fields: w.visit(rng, rep, at)}
		if !yield(v) {
			return
		}
	}
}

// visit makes the fields of a visit: those of the demo company's, with a summary as long as it takes to be as large as
// the visits with which other systems were measured. None has a follow-up date, which would set a timer.
func (w *world) visit(rng *rand.Rand, rep int, at time.Time) map[string]any {
	like := w.pool[rng.IntN(len(w.pool))]
	fields := map[string]any{
		"account": w.accounts[rep][rng.IntN(w.scale.AccountsPerRep)].String(), "visited_at": stamp(at),
		"left_at": stamp(at.Add(time.Duration(10+rng.IntN(100)) * time.Minute)),
	}
	for _, name := range []string{"subject", "purpose", "outcome", "place", "products", "satisfaction"} {
		if v, ok := like[name]; ok {
			fields[name] = v
		}
	}
	want := visitBytes - 100 + rng.IntN(201)
	want -= len(encode(fields)) + 2*len(fields) + len(`, "summary": ""`) // Postgres writes a space behind each colon and comma
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

// encode spells fields as the engine does.
func encode(v any) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // made here, of texts and numbers
	}
	return bytes.TrimRight(buf.Bytes(), "\n")
}
