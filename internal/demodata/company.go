package demodata

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	satchel "github.com/satchel-sync/satchel"
)

// Config says how large the company is. Zero counts stand for the size of the demo.
type Config struct {
	Seed     uint64    // of the random source; the same seed gives the same company
	Now      time.Time // the company's present: nothing took place later. Required; cut to milliseconds
	Reps     int       // sales reps; 0 = 40
	Accounts int       // 0 = 3,000
	Visits   int       // 0 = 20,000
	Tasks    int       // 0 = two for each rep and month of a quarter
	Quotes   int       // 0 = one for each eight accounts
}

// Company is what was made up.
type Company struct {
	Name   string
	Teams  []Team   // parents before children
	People []Person // the director first, then leads, managers, reps, and who else there is
	// Records come parents before children, and within a kind in the order of their event times.
	Records []Record
}

// Team is a node of the tree of three levels: the company, regions, teams.
type Team struct {
	ID     satchel.ID
	Parent satchel.ID // zero = the top
	Name   string
}

// Person is somebody who can sign in.
type Person struct {
	ID    satchel.ID
	Login string // rep01 … rep40, manager1 …, lead1 …, director, admin, assistant, viewer
	Name  string
	Title string
	Team  satchel.ID
	Roles []string // of the field-sales pack, sorted
}

// Record is a create of the field-sales pack: fields that no device may write are left to their defaults.
type Record struct {
	ID      satchel.ID
	Kind    string
	Author  satchel.ID // the person on whose device it was made; may read and create it
	Owner   satchel.ID // whose it is: the owner field, else the author
	Fields  map[string]any
	EventMS int64 // milliseconds since 1970
}

// zone is that of the company's working hours.
const zone = 8 * time.Hour

// day is a day's length; there is no daylight saving in China.
const day = 24 * time.Hour

// generator makes one company.
type generator struct {
	cfg     Config
	rng     *rand.Rand
	words   *words
	out     *Company
	reps    []seller
	names   map[string]bool // of accounts, so that none stands twice by accident
	members []account
}

// seller is a rep with a manager and the cities that he travels.
type seller struct {
	person, manager satchel.ID
	region          *region
	cities          []city
}

// account is what later records need to know of one.
type account struct {
	at       int // its index in Records
	owner    seller
	created  time.Time
	city     city
	lat, lng float64
	english  bool
	contacts []contact
	visits   int
}

type contact struct {
	id      satchel.ID
	name    string
	created time.Time
}

// Generate makes up a company. A size below zero, or no present, is an error.
func Generate(cfg Config) (*Company, error) {
	if cfg.Now.IsZero() {
		return nil, errors.New("demodata: Config.Now is the company's present; give a time")
	}
	if cfg.Reps < 0 || cfg.Accounts < 0 || cfg.Visits < 0 || cfg.Tasks < 0 || cfg.Quotes < 0 {
		return nil, errors.New("demodata: sizes count from 0 on")
	}
	cfg.Now = cfg.Now.UTC().Truncate(time.Millisecond)
	cfg.Reps = cmp.Or(cfg.Reps, 40)
	cfg.Accounts = cmp.Or(cfg.Accounts, 3_000)
	cfg.Visits = cmp.Or(cfg.Visits, 20_000)
	cfg.Tasks = cmp.Or(cfg.Tasks, cfg.Reps*6)
	cfg.Quotes = cmp.Or(cfg.Quotes, (cfg.Accounts+7)/8)
	g := &generator{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x5a7c4e1)), words: vocabulary(), names: map[string]bool{},
		out: &Company{Name: "远帆工业自动化"}}
	g.people()
	g.accounts()
	g.contacts()
	visits := g.visits()
	g.tasks(visits)
	g.quotes()
	return g.out, nil
}

// id mints an id of the form of a UUIDv7 whose random part comes from the seed.
func (g *generator) id(at time.Time) satchel.ID {
	var id satchel.ID
	ms := uint64(at.UnixMilli())
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	binary.BigEndian.PutUint16(id[6:], uint16(g.rng.Uint32()))
	binary.BigEndian.PutUint64(id[8:], g.rng.Uint64())
	id[6] = 0x70 | id[6]&0x0f
	id[8] = 0x80 | id[8]&0x3f
	return id
}

// pick draws one of a list.
func pick[T any](g *generator, list []T) T { return list[g.rng.IntN(len(list))] }

// chance is true in n of 100 draws.
func (g *generator) chance(n int) bool { return g.rng.IntN(100) < n }

// people makes the tree of teams and who works in it.
func (g *generator) people() {
	start := g.cfg.Now.Add(-4 * 365 * day)
	team := func(parent satchel.ID, name string) satchel.ID {
		t := Team{ID: g.id(start), Parent: parent, Name: name}
		g.out.Teams = append(g.out.Teams, t)
		return t.ID
	}
	hire := func(login, name, title string, team satchel.ID, roles ...string) satchel.ID {
		slices.Sort(roles)
		p := Person{ID: g.id(start), Login: login, Name: name, Title: title, Team: team, Roles: roles}
		g.out.People = append(g.out.People, p)
		return p.ID
	}
	top := team(satchel.ID{}, "销售中心")
	hire("director", g.chinese(), "销售总监", top, "director", "manager")
	type unit struct {
		team    satchel.ID
		manager satchel.ID
		region  *region
		cities  []city
		name    string
	}
	var units []unit
	var regions []satchel.ID
	for i := range g.words.regions {
		r := &g.words.regions[i]
		id := team(top, r.zh)
		regions = append(regions, id)
		hire(fmt.Sprintf("lead%d", i+1), g.chinese(), "大区经理", id, "director", "manager")
		for half := range 2 {
			cities := r.cities[half*2 : half*2+2]
			units = append(units, unit{region: r, cities: cities, name: cities[0].zh + cities[1].zh + "组", team: id})
		}
	}
	for i := range units {
		u := &units[i]
		u.team = team(u.team, u.name)
		u.manager = hire(fmt.Sprintf("manager%d", i+1), g.chinese(), "销售经理", u.team, "manager")
	}
	for i := range g.cfg.Reps {
		u := units[i%len(units)]
		id := hire(fmt.Sprintf("rep%02d", i+1), g.chinese(), "销售代表", u.team, "rep")
		g.reps = append(g.reps, seller{person: id, manager: u.manager, region: u.region, cities: u.cities})
	}
	hire("admin", g.chinese(), "系统管理员", top, "admin")
	hire("assistant", g.chinese(), "销售助理", regions[0], "assistant")
	hire("viewer", "Tessa Rowland", "Auditor", top, "viewer")
}

// chinese makes up a person's name.
func (g *generator) chinese() string { return pick(g, g.words.surnames) + pick(g, g.words.given) }

// fill puts a name and a product into a sentence.
func (g *generator) fill(sentence, name string) string {
	return strings.NewReplacer("{name}", name, "{product}", pick(g, g.words.products)).Replace(sentence)
}

// workday draws a moment in working hours from the span, denser towards its end; never before or after the span.
func (g *generator) workday(from, to time.Time) time.Time {
	u := g.rng.Float64()
	at := to.Add(-time.Duration(u * u * float64(to.Sub(from))))
	local := at.Add(zone).Truncate(day)
	switch local.Weekday() {
	case time.Saturday:
		local = local.Add(-day)
	case time.Sunday:
		local = local.Add(-2 * day)
	}
	at = local.Add(8*time.Hour + 30*time.Minute + time.Duration(g.rng.Int64N(int64(9*time.Hour)))).Add(-zone).Truncate(time.Second)
	if at.Before(from) {
		return from
	}
	if at.After(to) {
		return to
	}
	return at
}

// The canonical forms of the schema's types.
func text(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
func date(t time.Time) string { return t.Add(zone).UTC().Format(time.DateOnly) }
func whole(n int) json.Number { return json.Number(strconv.Itoa(n)) }

// money writes an amount of cents as a decimal in its shortest form.
func money(cents int64) json.Number {
	s := fmt.Sprintf("%d.%02d", cents/100, cents%100)
	return json.Number(strings.TrimSuffix(strings.TrimRight(s, "0"), "."))
}

// degrees writes a coordinate with six digits after the point, about 10 cm.
func degrees(x float64) json.Number { return json.Number(strconv.FormatFloat(x, 'f', 6, 64)) }

// set makes a set of drawn texts, sorted as a set is stored.
func (g *generator) set(from []string, most int) []any {
	var drawn []string
	for range 1 + g.rng.IntN(most) {
		drawn = append(drawn, pick(g, from))
	}
	slices.Sort(drawn)
	var out []any
	for _, s := range slices.Compact(drawn) {
		out = append(out, s)
	}
	return out
}
