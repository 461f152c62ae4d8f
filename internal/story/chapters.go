package story

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	satchel "github.com/satchel-sync/satchel"
	client "github.com/satchel-sync/satchel/clients/go"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/internal/demodata"
)

// props are the things that pass from chapter to chapter.
type props struct {
	harbour, lantern satchel.ID // accounts
	visit            satchel.ID
	quote            satchel.ID
}

var chapters = []chapter{
	{"Ann, Ben and their manager Mei sign in on three phones.", signIn},
	{"In a basement without a signal, Ann logs a visit with a photo and a voice note.", basement},
	{"Ann and Mei edited one account meanwhile.", twoEdit},
	{"An account is given to Ben while Ann, who visits it, has no signal.", reassigned},
	{"The follow-up date passes.", followUp},
	{"A quote above the limit waits for Mei, who decides without a signal.", quote},
	{"The server is killed in the middle of a batch, and again before it could answer.", killed},
}

func signIn(ctx context.Context, t *teller) (err error) {
	if t.ann, err = t.stage.phone(ctx, "Ann"); err != nil {
		return err
	}
	if t.ben, err = t.stage.phone(ctx, "Ben"); err != nil {
		return err
	}
	if t.mei, err = t.stage.phone(ctx, "Mei"); err != nil {
		return err
	}
	t.say("Mei opens two accounts for Ann: Harbour Foods and Lantern Tea.")
	if t.props.harbour, err = t.mei.Create(ctx, "account", client.Fields{"name": "Harbour Foods", "owner": t.stage.people["Ann"].String()}); err != nil {
		return err
	}
	if t.props.lantern, err = t.mei.Create(ctx, "account", client.Fields{"name": "Lantern Tea 灯笼茶行", "owner": t.stage.people["Ann"].String()}); err != nil {
		return err
	}
	if err := all(t.ann.SetFCMToken(ctx, "token-of-ann"), t.mei.SetFCMToken(ctx, "token-of-mei"), settle(ctx, t.mei), settle(ctx, t.ann), settle(ctx, t.ben)); err != nil {
		return err
	}
	colleagues, err := t.ann.List(ctx, "person")
	if err != nil {
		return err
	}
	return all(
		t.see(shows(ctx, t.ann, "account", t.props.harbour) && shows(ctx, t.ann, "account", t.props.lantern), "Ann's phone shows both accounts"),
		t.see(!shows(ctx, t.ben, "account", t.props.harbour), "Ben's phone does not: they are not his"),
		t.see(len(colleagues) == 4, "Ann's phone knows her colleagues' names without a signal"),
	)
}

func basement(ctx context.Context, t *teller) error {
	photo, err := demodata.RealJPEG(demodata.Shot{Seed: 7, At: t.stage.now(), Lat: 31.2304, Lng: 121.4737})
	if err != nil {
		return err
	}
	voice, err := demodata.Speech(ctx, "The shelf near the entrance is empty. They want two more cases by Friday.")
	if err != nil {
		return err
	}
	t.ann.offline.Store(true)
	began := t.stage.now()
	visit := client.Fields{"account": t.props.harbour.String(), "subject": "Shelf check", "outcome": "interested",
		"follow_up_at": began.Add(48 * time.Hour).UTC().Format(time.RFC3339)}
	if t.props.visit, err = t.ann.Create(ctx, "visit", visit); err != nil {
		return err
	}
	shot, err := t.ann.AttachBytes(ctx, "photo", photo, "image/jpeg", client.Fields{"visit": t.props.visit.String()})
	if err != nil {
		return err
	}
	note, err := t.ann.AttachBytes(ctx, "voice_note", voice, "audio/wav", client.Fields{"visit": t.props.visit.String()})
	if err != nil {
		return err
	}
	_, noSignal := t.ann.Sync(ctx)
	if err := all(
		t.see(noSignal != nil, "there is no signal"),
		t.see(shows(ctx, t.ann, "visit", t.props.visit), "Ann's own phone shows the visit at once"),
		t.see(!shows(ctx, t.mei, "visit", t.props.visit), "Mei's does not yet"),
	); err != nil {
		return err
	}
	t.ann.offline.Store(false)
	t.say("The signal comes.")
	res, err := t.ann.SyncOnce(ctx)
	if err != nil {
		return err
	}
	if err := t.see(res.Calls == 1 && len(res.Settled) == 3 && res.Pending == 0 && applied(res) && res.Checkpoint,
		"one round trip settles visit, photo and note: %d of 3 applied", len(res.Settled)); err != nil {
		return err
	}
	up, err := t.ann.Upload(ctx)
	if err != nil {
		return err
	}
	kept, err := t.ann.Media(ctx)
	if err != nil {
		return err
	}
	if err := all(t.stage.order("step"), settle(ctx, t.ann), settle(ctx, t.mei)); err != nil {
		return err
	}
	if _, err := t.ann.Upload(ctx); err != nil {
		return err
	}
	left, err := t.ann.Media(ctx)
	if err != nil {
		return err
	}
	return all(
		t.see(up.Uploaded == 2, "the bytes follow: %d kB of photo, %d kB of speech", len(photo)>>10, len(voice)>>10),
		t.see(len(kept) == 2 && len(left) == 0, "the phone lets go of its own copies only now that the records say stored"),
		t.see(shows(ctx, t.mei, "visit", t.props.visit), "Mei's phone shows the visit"),
		t.see(same(ctx, t.mei, shot, photo), "the photo opens on Mei's phone, byte for byte"),
		t.see(same(ctx, t.mei, note, voice), "so does the voice note"),
	)
}

func twoEdit(ctx context.Context, t *teller) error {
	t.ann.offline.Store(true)
	if err := t.ann.Patch(ctx, "account", t.props.harbour, client.Fields{"remark": "Ask for Mr Zhou", "address": "12 Quay Road"}); err != nil {
		return err
	}
	t.say("Ann, offline: remark \"Ask for Mr Zhou\", address 12 Quay Road.")
	if err := t.stage.advance(time.Minute); err != nil {
		return err
	}
	if err := all(t.mei.Patch(ctx, "account", t.props.harbour, client.Fields{"remark": "Key account", "industry": "food"}), settle(ctx, t.mei)); err != nil {
		return err
	}
	t.say("Mei, a minute later: remark \"Key account\", industry food.")
	t.ann.offline.Store(false)
	res, err := t.ann.Sync(ctx)
	if err != nil {
		return err
	}
	if err := settle(ctx, t.mei); err != nil {
		return err
	}
	account, err := t.mei.Get(ctx, "account", t.props.harbour)
	if err != nil {
		return err
	}
	if err := all(
		t.see(len(res.Settled) == 1 && res.Settled[0].Verdict.GetStatus() == satchelv1.Status_STATUS_MERGED, "the server merges them"),
		t.see(account.Text("address") == "12 Quay Road" && account.Text("industry") == "food", "address and industry both survive"),
		t.see(account.Text("remark") == "Key account", "of the two remarks the later one stands"),
	); err != nil {
		return err
	}
	attention, err := t.ann.Get(ctx, "attention", satchel.MustParseID(res.Settled[0].Verdict.GetAttentionId()))
	if err != nil {
		return err
	}
	return t.see(strings.Contains(string(attention.Fields), "Ask for Mr Zhou"), "Ann's phone shows her what lost, to restore with one tap")
}

func reassigned(ctx context.Context, t *teller) error {
	t.ann.offline.Store(true)
	visit, err := t.ann.Create(ctx, "visit", client.Fields{"account": t.props.lantern.String(), "subject": "Tasting"})
	if err != nil {
		return err
	}
	t.say("Ann, offline, visits Lantern Tea.")
	if err := all(t.mei.Patch(ctx, "account", t.props.lantern, client.Fields{"owner": t.stage.people["Ben"].String()}), settle(ctx, t.mei)); err != nil {
		return err
	}
	t.say("Mei gives Lantern Tea to Ben.")
	t.ann.offline.Store(false)
	res, err := t.ann.Sync(ctx)
	if err != nil {
		return err
	}
	if err := settle(ctx, t.ben); err != nil {
		return err
	}
	moved := len(res.Settled) == 1 && slices.Contains(res.Settled[0].Verdict.GetNotes(), satchelv1.Note_NOTE_PARENT_MOVED)
	return all(
		t.see(applied(res) && moved, "the visit is accepted, with the remark that the account has moved"),
		t.see(shows(ctx, t.ann, "visit", visit), "Ann still has her visit"),
		t.see(!shows(ctx, t.ann, "account", t.props.lantern), "the account is gone from her phone"),
		t.see(shows(ctx, t.ben, "account", t.props.lantern) && shows(ctx, t.ben, "visit", visit), "Ben has the account, and sees what took place there"),
	)
}

func followUp(ctx context.Context, t *teller) error {
	before := t.stage.knocks("token-of-ann")
	if err := t.stage.advance(47 * time.Hour); err != nil {
		return err
	}
	if err := t.see(len(t.stage.knocks("token-of-ann")) == len(before), "an hour before, nobody is disturbed"); err != nil {
		return err
	}
	if err := all(t.stage.advance(2*time.Hour), t.stage.advance(time.Hour), t.stage.order("step"), settle(ctx, t.ann)); err != nil {
		return err
	}
	notices, err := t.ann.List(ctx, "notice")
	if err != nil {
		return err
	}
	var due []client.Record
	for _, n := range notices {
		if n.Text("template") == "follow_up_due" && n.Text("record") == t.props.visit.String() {
			due = append(due, n)
		}
	}
	knocks := t.stage.knocks("token-of-ann")[len(before):]
	return all(
		t.see(len(due) == 1, "Ann finds one notice in her inbox"),
		t.see(len(knocks) == 1, "and FCM was asked to knock once"),
		t.see(!strings.Contains(strings.Join(knocks, " "), "Harbour") && !strings.Contains(strings.Join(knocks, " "), "Shelf"), "with no customer's name in it"),
	)
}

func quote(ctx context.Context, t *teller) error {
	var b client.Batch
	t.props.quote = b.Create("quote", client.Fields{"account": t.props.harbour.String(), "title": "Autumn shelves", "amount": 180000, "currency": "CNY"})
	b.Command("quote", t.props.quote, "approval.submit", nil)
	if _, err := t.ann.Record(ctx, &b); err != nil {
		return err
	}
	res, err := t.ann.Sync(ctx)
	if err != nil {
		return err
	}
	if err := all(t.see(applied(res), "Ann's quote of 180,000 is submitted"), settle(ctx, t.mei)); err != nil {
		return err
	}
	tasks, err := t.mei.List(ctx, "approval")
	if err != nil {
		return err
	}
	if err := t.see(len(tasks) == 1 && tasks[0].Text("state") == "waiting" && strings.Contains(string(tasks[0].Fields), "180000"),
		"it waits on Mei's phone, with what she needs to decide"); err != nil {
		return err
	}
	t.mei.offline.Store(true)
	if err := t.mei.Command(ctx, "approval", tasks[0].ID, "approval.decide",
		client.Fields{"form_hash": tasks[0].Text("form_hash"), "decision": "approve", "comment": "Good."}); err != nil {
		return err
	}
	if err := settle(ctx, t.ann); err != nil {
		return err
	}
	waiting, err := t.ann.Get(ctx, "quote", t.props.quote)
	if err != nil {
		return err
	}
	t.say("Mei approves in a tunnel.")
	if err := t.see(waiting.Text("approval_state") == "waiting", "for Ann it still waits"); err != nil {
		return err
	}
	t.mei.offline.Store(false)
	before := len(t.stage.knocks("token-of-ann"))
	decided, err := t.mei.Sync(ctx)
	if err != nil {
		return err
	}
	if err := all(t.stage.order("step"), settle(ctx, t.ann)); err != nil {
		return err
	}
	done, err := t.ann.Get(ctx, "quote", t.props.quote)
	if err != nil {
		return err
	}
	notices, err := t.ann.List(ctx, "notice")
	if err != nil {
		return err
	}
	told := slices.ContainsFunc(notices, func(n client.Record) bool { return n.Text("template") == "approval_approved" })
	return all(
		t.see(applied(decided), "when Mei's phone has a signal again, her decision counts"),
		t.see(done.Text("approval_state") == "approved", "the quote is approved"),
		t.see(told && len(t.stage.knocks("token-of-ann")) == before+1, "and Ann is told, in her inbox and by one knock"),
	)
}

func killed(ctx context.Context, t *teller) error {
	const visits = 30
	for round, order := range []string{"kill-in-batch", "kill-before-answer"} {
		for i := range visits {
			if _, err := t.ann.Create(ctx, "visit", client.Fields{"account": t.props.harbour.String(),
				"subject": fmt.Sprintf("Round %d, stop %d", round+1, i+1)}); err != nil {
				return err
			}
		}
		if err := t.ann.Patch(ctx, "account", t.props.harbour, nil, client.Increment("visit_count", visits)); err != nil {
			return err
		}
		if err := t.stage.order(order); err != nil {
			return err
		}
		_, err := t.ann.Sync(ctx)
		where := "inside the transaction"
		if round == 1 {
			where = "after the commit, before the answer"
		}
		if err := all(
			t.see(err != nil && t.stage.died(), "kill -9 strikes %s; Ann's phone gets no answer", where),
			t.stage.start(ctx),
		); err != nil {
			return err
		}
		res, err := t.ann.Sync(ctx)
		if err != nil {
			return err
		}
		if err := t.see(len(res.Settled) == visits+1 && applied(res) && res.Pending == 0,
			"the server is back; the phone sends again, and all %d get their verdict", visits+1); err != nil {
			return err
		}
	}
	if err := settle(ctx, t.mei); err != nil {
		return err
	}
	list, err := t.mei.List(ctx, "visit")
	if err != nil {
		return err
	}
	seen := map[string]int{}
	for _, v := range list {
		if strings.HasPrefix(v.Text("subject"), "Round ") {
			seen[v.Text("subject")]++
		}
	}
	twice := 0
	for _, n := range seen {
		if n > 1 {
			twice++
		}
	}
	account, err := t.mei.Get(ctx, "account", t.props.harbour)
	if err != nil {
		return err
	}
	var fields struct {
		Count int `json:"visit_count"`
	}
	if err := account.Decode(&fields); err != nil {
		return err
	}
	return all(
		t.see(len(seen) == 2*visits && twice == 0, "Mei counts %d visits: nothing is lost, nothing is there twice", len(seen)),
		t.see(fields.Count == 2*visits, "and the counter stands at %d", fields.Count),
	)
}

func settle(ctx context.Context, p *phone) error {
	res, err := p.Sync(ctx)
	if err != nil {
		return fmt.Errorf("%s's phone syncs: %w", p.name, err)
	}
	if len(res.Settled) > 0 && !applied(res) {
		return fmt.Errorf("%s's phone syncs: not all that was recorded is applied", p.name)
	}
	return nil
}

func shows(ctx context.Context, p *phone, kind string, id satchel.ID) bool {
	_, err := p.Get(ctx, kind, id)
	return err == nil
}

func applied(r client.Result) bool {
	for _, s := range r.Settled {
		if s.Verdict.GetStatus() != satchelv1.Status_STATUS_APPLIED {
			return false
		}
	}
	return len(r.Settled) > 0
}

// same tells whether the bytes that a phone opens are the ones that were made.
func same(ctx context.Context, p *phone, record satchel.ID, want []byte) bool {
	body, _, err := p.Open(ctx, record)
	if err != nil {
		return false
	}
	defer body.Close()
	got, err := io.ReadAll(io.LimitReader(body, int64(len(want))+1))
	if err != nil {
		return false
	}
	a, b := sha256.Sum256(got), sha256.Sum256(want)
	return bytes.Equal(a[:], b[:])
}
