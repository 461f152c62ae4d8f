package demodata

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	satchel "github.com/satchel-sync/satchel"
)

// add appends a record and gives its index.
func (g *generator) add(kind string, at time.Time, author, owner satchel.ID, fields map[string]any) int {
	g.out.Records = append(g.out.Records, Record{ID: g.id(at), Kind: kind, Author: author, Owner: owner, Fields: fields, EventMS: at.UnixMilli()})
	return len(g.out.Records) - 1
}

// accounts makes the customers, oldest first. Most are older than a year; a tenth came in the last two months.
func (g *generator) accounts() {
	times := make([]time.Time, g.cfg.Accounts)
	for i := range times {
		from, to := g.cfg.Now.Add(-3*365*day), g.cfg.Now.Add(-365*day)
		if g.chance(10) {
			from, to = g.cfg.Now.Add(-60*day), g.cfg.Now.Add(-2*day)
		}
		times[i] = g.workday(from, to)
	}
	slices.SortFunc(times, time.Time.Compare)
	for i, at := range times {
		owner := pick(g, g.reps)
		if i < len(g.reps) {
			owner = g.reps[i] // everybody has one
		}
		g.account(at, owner)
	}
}

func (g *generator) account(at time.Time, owner seller) {
	c := pick(g, owner.cities)
	trade := pick(g, g.words.industries)
	a := account{owner: owner, created: at, city: c, english: g.chance(12),
		lat: c.lat + (g.rng.Float64()-0.5)*0.16, lng: c.lng + (g.rng.Float64()-0.5)*0.16}
	name := g.accountName(c, trade, a.english)
	fields := map[string]any{
		"owner": owner.person.String(), "name": name, "industry": trade.choice, "region": owner.region.zh,
		"level": pick(g, []string{"a", "b", "b", "c", "c", "c", "d"}), "status": pick(g, []string{"potential", "potential", "active", "active", "active", "dormant", "lost"}),
		"address": g.address(c, a.english), "phone": c.dial + "-5550" + fmt.Sprintf("%04d", g.rng.IntN(10_000)), "uscc": g.creditCode(c),
		"place":            map[string]any{"lat": degrees(a.lat), "lng": degrees(a.lng), "datum": "gcj02"},
		"first_contact_on": date(at),
	}
	if g.chance(60) {
		fields["tags"] = g.set(g.words.tags, 3)
	}
	if g.chance(35) {
		stage := pick(g, []string{"contacted", "contacted", "proposal", "proposal", "negotiation", "signing", "won", "lost"})
		fields["stage"] = stage
		fields["deal_amount"] = money(int64(1+g.rng.IntN(400)) * 500_000)
		fields["close_on"] = date(g.cfg.Now.Add(time.Duration(g.rng.IntN(120)-20) * day))
	}
	author := owner.person
	if g.chance(50) {
		author = owner.manager // reps neither see nor set it
		fields["credit_limit"] = whole((1 + g.rng.IntN(50)) * 10_000)
	}
	if g.chance(40) {
		fields["next_contact_on"] = date(g.cfg.Now.Add(time.Duration(g.rng.IntN(45)-5) * day))
	}
	if g.chance(30) {
		fields["remark"] = pick(g, g.words.remarks)
	}
	a.at = g.add("account", at, author, owner.person, fields)
	g.members = append(g.members, a)
}

// accountName makes up a name that no other account has.
func (g *generator) accountName(c city, trade industry, english bool) string {
	for try := 0; ; try++ {
		name := c.zh + pick(g, g.words.brandA) + pick(g, g.words.brandB) + pick(g, trade.zh) + pick(g, g.words.suffixZH)
		if english {
			name = pick(g, g.words.brandEN) + " " + pick(g, trade.en) + " (" + c.en + ") " + pick(g, g.words.suffixEN)
		}
		if try > 50 { // a very large company runs out of words
			name += fmt.Sprintf(" %d", len(g.names))
		}
		if !g.names[name] {
			g.names[name] = true
			return name
		}
	}
}

func (g *generator) address(c city, english bool) string {
	road := pick(g, g.words.roadA) + pick(g, g.words.roadB) + pick(g, g.words.roadC)
	number := 1 + g.rng.IntN(1998)
	if english {
		return fmt.Sprintf("Building %d, %d Export Park, %s", 1+g.rng.IntN(20), number, c.en)
	}
	return fmt.Sprintf("%s市%s%s%d号%d幢%d室", c.zh, pick(g, c.districts), road, number, 1+g.rng.IntN(12), 101+g.rng.IntN(20)*100+g.rng.IntN(8))
}

// creditCode makes a unified social credit code with right check characters (GB 32100 over GB 11714), so that a check
// of them has something to say yes to.
func (g *generator) creditCode(c city) string {
	const digits = "0123456789ABCDEFGHJKLMNPQRTUWXY"
	body := make([]byte, 8)
	sum := 0
	for i, w := range []int{3, 7, 9, 10, 5, 8, 4, 2} {
		d := g.rng.IntN(10)
		body[i] = byte('0' + d)
		sum += d * w
	}
	check := "0123456789X0"[(11-sum%11)%11]
	code := "91" + c.code + string(body) + string(check)
	sum = 0
	for i, w := range []int{1, 3, 9, 27, 19, 26, 16, 17, 20, 29, 25, 13, 8, 24, 10, 30, 28} {
		sum += strings.IndexByte(digits, code[i]) * w
	}
	return code + string(digits[(31-sum%31)%31])
}

// contacts makes one to three people for each account; the first came with the account.
func (g *generator) contacts() {
	for i := range g.members {
		a := &g.members[i]
		for n := range 1 + g.rng.IntN(3)*g.rng.IntN(2) {
			at := a.created
			if n > 0 {
				at = g.workday(a.created, g.cfg.Now.Add(-day))
			}
			name, titles := g.chinese(), g.words.titles
			if a.english {
				titles = g.words.titlesEN
				name = pick(g, g.words.englishFirst) + " " + pick(g, g.words.englishLast)
			}
			fields := map[string]any{
				"account": g.out.Records[a.at].ID.String(), "name": name, "title": pick(g, titles),
				"mobile":        fmt.Sprintf("12%09d", g.rng.IntN(1_000_000_000)),
				"decision_role": pick(g, []string{"decider", "influencer", "influencer", "user", "gatekeeper"}),
			}
			if g.chance(30) {
				fields["email"] = fmt.Sprintf("contact%d.%d@example.com", i+1, n+1)
			}
			if g.chance(15) {
				fields["birthday"] = fmt.Sprintf("%d-%02d-%02d", 1962+g.rng.IntN(38), 1+g.rng.IntN(12), 1+g.rng.IntN(28))
			}
			at = at.Add(time.Duration(n) * time.Second)
			r := g.add("contact", at, a.owner.person, a.owner.person, fields)
			a.contacts = append(a.contacts, contact{id: g.out.Records[r].ID, name: name, created: at})
		}
	}
	first := slices.IndexFunc(g.out.Records, func(r Record) bool { return r.Kind == "contact" })
	if first >= 0 {
		g.sort(first)
	}
}

// sort puts the records from an index on in the order of their times.
func (g *generator) sort(from int) {
	slices.SortStableFunc(g.out.Records[from:], func(a, b Record) int { return cmp.Compare(a.EventMS, b.EventMS) })
}

// visits makes the visits of the last year, oldest first: many to few accounts, few to many. It gives what tasks may
// follow from.
func (g *generator) visits() []Record {
	first := len(g.out.Records)
	for range g.cfg.Visits {
		u := g.rng.Float64()
		a := &g.members[int(u*math.Sqrt(u)*float64(len(g.members)))]
		from := g.cfg.Now.Add(-365 * day)
		if a.created.After(from) {
			from = a.created
		}
		g.visit(a, g.workday(from, g.cfg.Now.Add(-time.Hour)))
	}
	g.sort(first)
	for i := range g.members {
		if a := &g.members[i]; a.visits > 0 {
			g.out.Records[a.at].Fields["visit_count"] = whole(a.visits)
		}
	}
	return g.out.Records[first:]
}

func (g *generator) visit(a *account, at time.Time) {
	author := a.owner.person
	if g.chance(4) {
		author = a.owner.manager // went along, or instead
	}
	purpose := pick(g, []string{"first_visit", "follow_up", "follow_up", "follow_up", "demo", "negotiation", "service", "collection"})
	outcome := pick(g, []string{"interested", "interested", "follow_up", "follow_up", "follow_up", "won", "lost", "no_contact"})
	stay := time.Duration(10+g.rng.IntN(100)) * time.Minute
	met := pick(g, a.contacts)
	subjects := g.words.subjects[purpose]
	if a.english {
		subjects = g.words.subjectsEN[purpose]
	}
	fields := map[string]any{
		"account": g.out.Records[a.at].ID.String(), "subject": pick(g, subjects), "purpose": purpose, "outcome": outcome,
		"visited_at": text(at), "left_at": text(at.Add(min(stay, g.cfg.Now.Sub(at)))), "summary": g.summary(met.name, a.english),
	}
	if !met.created.After(at) {
		fields["met"] = met.id.String()
	}
	if g.chance(85) {
		fields["place"] = map[string]any{"lat": degrees(a.lat + (g.rng.Float64()-0.5)*0.002), "lng": degrees(a.lng + (g.rng.Float64()-0.5)*0.002),
			"datum": "gcj02", "accuracy_m": whole(5 + g.rng.IntN(60))}
	}
	if outcome == "follow_up" || outcome == "interested" {
		fields["follow_up_at"] = text(at.Add(time.Duration(3+g.rng.IntN(25)) * day).Truncate(time.Hour))
	}
	if g.chance(50) {
		fields["products"] = g.set(g.words.products, 3)
	}
	if g.chance(40) {
		fields["satisfaction"] = whole(1 + max(g.rng.IntN(5), g.rng.IntN(5)))
	}
	g.add("visit", at, author, author, fields)
	a.visits++
	account := g.out.Records[a.at].Fields
	if last, _ := account["last_contact_at"].(string); last < text(at) {
		account["last_contact_at"] = text(at)
	}
}

func (g *generator) summary(name string, english bool) string {
	if english {
		return g.fill(pick(g, g.words.notesEN), name)
	}
	return g.fill(pick(g, g.words.opening)+pick(g, g.words.finding)+pick(g, g.words.competitor)+pick(g, g.words.next), name)
}

// tasks makes what is still to do and what was done, most of it following from visits.
func (g *generator) tasks(visits []Record) {
	first := len(g.out.Records)
	recent := visits[len(visits)*4/5:]
	for i := range g.cfg.Tasks {
		owner := g.reps[i%len(g.reps)]
		author := owner.person
		at := g.workday(g.cfg.Now.Add(-30*day), g.cfg.Now.Add(-time.Hour))
		fields := map[string]any{"title": g.fill(pick(g, g.words.tasks), ""), "priority": pick(g, []string{"low", "normal", "normal", "high"})}
		if len(recent) > 0 && g.chance(70) {
			v := pick(g, recent)
			author = v.Author
			owner.person = v.Author
			fields["account"], fields["visit"] = v.Fields["account"], v.ID.String()
			at = time.UnixMilli(v.EventMS).Add(min(20*time.Minute, g.cfg.Now.Sub(time.UnixMilli(v.EventMS))))
		} else if g.chance(30) {
			author = owner.manager
		}
		fields["assignee"] = owner.person.String()
		due := at.Add(time.Duration(1+g.rng.IntN(14)) * day).Truncate(time.Hour)
		fields["due_at"] = text(due)
		if due.Before(g.cfg.Now) && g.chance(80) {
			fields["done"], fields["done_at"] = true, text(due.Add(-time.Duration(g.rng.IntN(20))*time.Hour))
		}
		g.add("task", at, author, owner.person, fields)
	}
	g.sort(first)
}

// quotes makes offers; every tenth is for exactly 100,000, where the approval begins.
func (g *generator) quotes() {
	first := len(g.out.Records)
	for i := range g.cfg.Quotes {
		a := pick(g, g.members)
		at := g.workday(a.created, g.cfg.Now.Add(-time.Hour))
		var lines []any
		total := int64(0)
		for range 1 + g.rng.IntN(4) {
			quantity, cents := int64(1+g.rng.IntN(40)), int64(100+g.rng.IntN(90_000))*10
			total += quantity * cents
			lines = append(lines, map[string]any{"product": pick(g, g.words.products), "quantity": whole(int(quantity)), "price": money(cents)})
		}
		discount := g.rng.IntN(4) * 5
		total = total * int64(100-discount) / 100
		if i%10 == 0 {
			lines = []any{map[string]any{"product": pick(g, g.words.products), "quantity": whole(10), "price": json.Number("10000")}}
			total, discount = 10_000_000, 0
		}
		g.add("quote", at, a.owner.person, a.owner.person, map[string]any{
			"account": g.out.Records[a.at].ID.String(), "title": fmt.Sprintf("报价 %s-%04d", at.Add(zone).UTC().Format("200601"), i+1), "amount": money(total),
			"currency": "CNY", "discount": whole(discount), "lines": lines, "valid_until": date(at.Add(30 * day)),
		})
	}
	g.sort(first)
}
