package model

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	satchel "github.com/satchel-sync/satchel"
	satchelclient "github.com/satchel-sync/satchel/clients/go"
)

// Hand is a person at work on a phone: it draws mutations on what the phone shows. It belongs to one goroutine.
type Hand struct {
	Rnd    *rand.Rand
	Me     satchel.ID
	Others []satchel.ID      // whom it gives things to
	Now    func() time.Time  // of the person
	NewID  func() satchel.ID // for what it creates
	Text   func() string     // a value that nobody wrote before, in pointed brackets, so that it can be found again
	Show   func(kind string) []satchelclient.Record
	Trace  func(format string, args ...any) // nil = nobody
}

// Pairs are two tasks that only ever change together, in one mutation: the mark of atomic effects.
const pairMark = "pair "

// One in n.
func (h *Hand) One(n int) bool { return h.Rnd.IntN(n) == 0 }

// Pick takes one of the names.
func (h *Hand) Pick(names ...string) string { return names[h.Rnd.IntN(len(names))] }

func (h *Hand) someone() satchel.ID { return h.Others[h.Rnd.IntN(len(h.Others))] }

// Any takes one of what the phone shows of a kind.
func (h *Hand) Any(kind string) (satchelclient.Record, bool) {
	list := h.Show(kind)
	if kind == "task" {
		list = slices.DeleteFunc(list, func(r satchelclient.Record) bool { return strings.HasPrefix(r.Text("title"), pairMark) })
	}
	n := h.Rnd.IntN(1 << 16)
	if len(list) == 0 {
		return satchelclient.Record{}, false
	}
	if n%3 > 0 { // many hands on few records: that is where they meet
		list = list[:min(3, len(list))]
	}
	return list[n/3%len(list)], true
}

// batch mints the ids of records.
type batch struct {
	satchelclient.Batch
	hand *Hand
}

func (b *batch) create(kind string, fields satchelclient.Fields) satchel.ID {
	id := b.hand.NewID()
	b.CreateAs(kind, id, fields)
	return id
}

// Field draws one of an account's on which many hands meet.
func (h *Hand) Field() string { return h.Pick("remark", "region", "level", "stage", "phone") }

// Write writes such a field of an account, and counts a visit.
func (h *Hand) Write(account satchel.ID, field string) *satchelclient.Batch {
	text := h.Text()
	switch field {
	case "level":
		text = h.Pick("a", "b", "c", "d")
	case "stage":
		text = h.Pick("contacted", "proposal", "won")
	}
	b := new(satchelclient.Batch)
	b.Patch("account", account, satchelclient.Fields{field: text}, satchelclient.Increment("visit_count", 1))
	return b
}

// Meet writes a field of the oldest account, where all who have it meet; nil = there is none.
func (h *Hand) Meet() *satchelclient.Batch {
	list, field := h.Show("account"), h.Field()
	if len(list) == 0 {
		return nil
	}
	return h.Write(list[0].ID, field)
}

// Draw makes a mutation; nil = there is nothing to do it with.
func (h *Hand) Draw() *satchelclient.Batch {
	b := &batch{hand: h}
	me := h.Me.String()
	soon := h.Now().Add(time.Duration(h.Rnd.IntN(7200)) * time.Second).Format(time.RFC3339)
	account, any := h.Any("account")
	n := h.Rnd.IntN(100)
	if h.Trace != nil {
		h.Trace("does %d", n)
	}
	switch {
	case !any || n < 5:
		b.create("account", satchelclient.Fields{"owner": me, "name": h.Text(), "tags": []string{"new"}})
	case n < 14: // a visit with its task and what follows: they stand or fall together
		v := b.create("visit", satchelclient.Fields{"account": account.ID, "subject": h.Text(), "summary": h.Text(), "follow_up_at": soon})
		b.create("task", satchelclient.Fields{"assignee": me, "title": h.Text(), "visit": v, "due_at": soon})
		b.Patch("account", account.ID, nil, satchelclient.Increment("visit_count", 1))
	case n < 18: // one of its ops is refused, so none takes effect
		b.create("visit", satchelclient.Fields{"account": account.ID, "subject": h.Text(), "satisfaction": 9})
		b.Patch("account", account.ID, nil, satchelclient.Increment("visit_count", 1000))
	case n < 24:
		mark, remark := pairMark+h.Text(), h.Text()
		b.create("task", satchelclient.Fields{"assignee": me, "title": mark, "remark": remark})
		b.create("task", satchelclient.Fields{"assignee": me, "title": mark, "remark": remark})
	case n < 32:
		for _, t := range h.Show("task") {
			if mark := t.Text("title"); strings.HasPrefix(mark, pairMark) && (h.One(2) || len(h.Show("task")) < 4) {
				text, both := h.Text(), 0
				for _, twin := range h.Show("task") {
					if twin.Text("title") == mark {
						b.Patch("task", twin.ID, satchelclient.Fields{"remark": text})
						both++
					}
				}
				if both != 2 { // a damaged phone may show one
					return nil
				}
				return &b.Batch
			}
		}
		return nil
	case n < 35:
		kind := h.Pick("account", "account", "contact")
		loser, ok := h.Any(kind)
		into, also := h.Any(kind)
		if !ok || !also || loser.ID == into.ID {
			return nil
		}
		b.Command(kind, loser.ID, "record.merge", satchelclient.Fields{"into": into.ID.String()})
	case n < 44:
		b.Patch("account", account.ID, nil, satchelclient.Increment("visit_count", 1+h.Rnd.Int64N(3)))
	case n < 60:
		fields := satchelclient.Fields{h.Pick("remark", "region", "industry"): h.Text()}
		if v, ok := fields["industry"]; ok && v != "" {
			fields = satchelclient.Fields{"level": h.Pick("a", "b", "c", "d"), "phone": h.Text()}
		}
		b.Patch("account", account.ID, fields, satchelclient.AddTo("tags", h.Text()))
	case n < 64:
		b.Patch("account", account.ID, satchelclient.Fields{"stage": h.Pick("contacted", "proposal", "won"), "deal_amount": h.Rnd.IntN(9),
			"credit_limit": h.Rnd.IntN(6) - 1})
	case n < 70:
		b.Patch("account", account.ID, satchelclient.Fields{"owner": h.someone()})
	case n < 73:
		b.create("contact", satchelclient.Fields{"account": account.ID, "name": h.Text(), "mobile": "13800138000", "wechat": h.Text()})
	case n < 76:
		b.create("task", satchelclient.Fields{"assignee": h.someone(), "title": h.Text(), "due_at": soon})
	case n < 80:
		if t, ok := h.Any("task"); ok {
			b.Patch("task", t.ID, satchelclient.Fields{"remark": h.Text(), "done": h.One(2)})
			return &b.Batch
		}
		return nil
	case n < 83:
		k := h.Pick("task", "contact", "account")
		if r, ok := h.Any(k); ok {
			b.Delete(k, r.ID)
			return &b.Batch
		}
		return nil
	case n < 87:
		if v, ok := h.Any("visit"); ok {
			b.create("photo", satchelclient.Fields{"visit": v.ID, "caption": h.Text(), "blob": fmt.Sprintf("%064x", h.Rnd.Uint64())})
			if h.One(2) {
				b.Patch("visit", v.ID, satchelclient.Fields{"summary": h.Text(), "account": account.ID})
			} else if under, err := satchel.ParseID(v.Text("account")); err == nil { // all that hangs below moves with it
				b.Patch("account", under, satchelclient.Fields{"owner": h.someone()})
			}
			return &b.Batch
		}
		return nil
	case n < 91:
		b.create("quote", satchelclient.Fields{"account": account.ID, "title": h.Text(), "amount": 5000 + 145000*h.Rnd.IntN(2)})
	case n < 94:
		if q, ok := h.Any("quote"); ok {
			b.Command("quote", q.ID, "approval.submit", nil)
			return &b.Batch
		}
		return nil
	case n < 97:
		if a, ok := h.Any("approval"); ok {
			b.Command("approval", a.ID, "approval.decide", satchelclient.Fields{"form_hash": a.Text("form_hash"),
				"decision": h.Pick("approve", "reject"), "comment": h.Text()})
			return &b.Batch
		}
		return nil
	default:
		if a, ok := h.Any("attention"); ok {
			b.Patch("attention", a.ID, satchelclient.Fields{"open": false})
			return &b.Batch
		}
		return nil
	}
	return &b.Batch
}
