package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	satchel "github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/gen/satchel/v1/satchelv1connect"
	"github.com/satchel-sync/satchel/internal/bench/dataset"
	"github.com/satchel-sync/satchel/internal/bench/rawhttp"
)

const (
	stormArrive    = time.Second // within which all come
	stormBound     = 4 * time.Minute
	stormPatience  = 45 * time.Second // of a phone for one answer
	stormBackoff   = time.Second      // doubled with each call that failed, with jitter
	stormSlowest   = 15 * time.Second
	stormTemplates = 32 // different nights' work
	stormPatches   = 10 // of the batch: visits that the office has
	stormPairs     = 5  // of the batch: a visit and its task
)

// storm is the morning: all reps of one organisation arrive within a second, each with a night's 50 changes, on a
// connection and a session of its own, with the cursor of the evening. Who is turned away comes again, later each time.
func (l *lab) storm(ctx context.Context) error {
	org := dataset.Org{Slug: orgSlug, Scale: l.mode.Storm, Seed: 500, Unmirrored: true}
	in, err := l.on(ctx, l.server, dataset.Set{Name: l.mode.Name + "_storm", Orgs: []dataset.Org{org}}, false)
	if err != nil {
		return err
	}
	defer in.close()
	reps, err := in.evening(ctx)
	if err != nil {
		return err
	}
	nights, err := in.nights()
	if err != nil {
		return err
	}
	tally := &tally{counts: map[string]int{}}
	var peak int64
	cost := meterOf{l: in}
	err = in.profile(ctx, func() error {
		_, err := cost.spend(ctx, len(reps)*batchSize, func() (err error) {
			peak, err = in.morning(ctx, reps, nights, tally)
			return err
		})
		return err
	})
	if err != nil {
		return err
	}
	f := l.report.add("morning_storm", fmt.Sprintf("s, p99 of %d reps", len(reps)), lower, []float64{quantile(tally.took, 0.99)})
	f.Counts = tally.counts
	f.Fault = tally.fault(len(reps))
	l.report.add("storm_p50_s", "s", lower, []float64{quantile(tally.took, 0.5)})
	l.report.add("storm_all_s", "s, until the last is done", lower, []float64{quantile(tally.took, 1)})
	l.report.add("storm_mutations_per_s", "1/s", higher, []float64{float64(tally.counts[verdictName(satchelv1.Status_STATUS_APPLIED)]) / cost.wall.Seconds()})
	l.report.add("storm_peak_mib", "MiB of the server", lower, []float64{float64(peak) / 1024})
	cost.note("storm", "1,000 mutations", 1000)
	return nil
}

// stormRep is a rep and the phone that he slept beside.
type stormRep struct {
	index         int
	token, cursor string
	visits        []satchel.ID // that the office has
}

// evening signs all reps in and brings their phones to a checkpoint.
func (l *lab) evening(ctx context.Context) ([]stormRep, error) {
	reps := make([]stormRep, l.w.Scale.Reps())
	fmt.Fprintf(l.cfg.Log, "storm: %d phones sign in and make their first sync\n", len(reps))
	byOwner := map[satchel.ID][]satchel.ID{}
	rows, err := l.conn.Query(ctx, sqlStormVisits, [16]byte(l.org))
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		var owner, id [16]byte
		if err := rows.Scan(&owner, &id); err != nil {
			return nil, err
		}
		byOwner[owner] = append(byOwner[owner], id)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	g, ctx := errgroup.WithContext(ctx)
	for worker := range signInOf {
		g.Go(func() error {
			conn, err := rawhttp.Dial(ctx, l.product.HTTP) // only the storm needs one for each
			if err != nil {
				return err
			}
			defer conn.Close()
			for i := worker; i < len(reps) && ctx.Err() == nil; i += signInOf {
				p, err := signInRaw(conn, l.w.Slug, dataset.RepLogin(i))
				if err != nil {
					return err
				}
				if err := p.pull(); err != nil {
					return err
				}
				reps[i] = stormRep{index: i, token: p.token, cursor: p.cursor, visits: byOwner[l.w.Reps[i]]}
				if len(reps[i].visits) < stormPatches {
					return errors.New("bench: a rep has too few visits to patch")
				}
			}
			return ctx.Err()
		})
	}
	return reps, g.Wait()
}

// night is a night's work as bytes, with the places of the ids that differ from rep to rep: thousands of phones must
// not cost the machine what making up their texts would.
type night struct {
	body  []byte
	start []int // of each mutation in body
	ids   []idPlace
}

type idPlace struct {
	at   int
	what string // whose id: "" a fresh one, "account", "rep", or the number of the rep's visit
	same int    // ids of the same number above 0 are the same one
}

// nights makes the work of different nights.
func (l *lab) nights() ([]night, error) {
	out := make([]night, stormTemplates)
	for i := range out {
		var err error
		if out[i], err = l.night(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (l *lab) night() (night, error) {
	var n night
	marks := map[string]idPlace{} // placeholder to what it stands for
	mark := func(what string, same int) satchel.ID {
		id := satchel.NewID()
		marks[id.String()] = idPlace{what: what, same: same}
		return id
	}
	visit := func() (satchel.ID, map[string]any) {
		fields := l.w.Visit(l.rng, 0, time.Now())
		fields["account"] = mark("account", 0).String()
		return mark("", 0), fields
	}
	for i := range batchSize {
		m := &satchelv1.Mutation{Number: uint64(i + 1), Id: mark("", 0).String()}
		switch {
		case i%10 < stormPatches*10/batchSize:
			k := i/10*(stormPatches*10/batchSize) + i%10
			m.Ops = append(m.Ops, patch("visit", mark(strconv.Itoa(k), 0), map[string]any{"subject": fmt.Sprintf("night %d", l.rng.IntN(1e6)), "outcome": "won"}))
		case i%10 < (stormPatches+stormPairs)*10/batchSize:
			_, fields := visit()
			id := mark("", i+1)
			task := map[string]any{"assignee": mark("rep", 0).String(), "title": "Send the offer", "account": mark("account", 0).String(), "visit": id.String()}
			m.Ops = append(m.Ops, create("visit", id, fields), create("task", mark("", 0), task))
		default:
			id, fields := visit()
			m.Ops = append(m.Ops, create("visit", id, fields))
		}
		raw, err := proto.Marshal(m)
		if err != nil {
			return n, err
		}
		n.start = append(n.start, len(n.body))
		n.body = protowire.AppendBytes(protowire.AppendTag(n.body, 1, protowire.BytesType), raw)
	}
	for text, place := range marks {
		found := false
		for at := 0; ; {
			k := bytes.Index(n.body[at:], []byte(text))
			if k < 0 {
				break
			}
			at += k
			place.at = at
			n.ids = append(n.ids, place)
			found, at = true, at+len(text)
		}
		if !found && place.what != "" {
			return n, errors.New("bench: an id of the night's work is not in it")
		}
	}
	return n, nil
}

// request is the rep's call with the mutations from number first on; the same for the same rep, so that a call that is
// made again says the same.
func (n night) request(l *lab, rep stormRep, first int) []byte {
	body := append(make([]byte, 0, len(n.body)+len(rep.cursor)+64), n.body...)
	rng := rand.New(rand.NewPCG(uint64(rep.index), l.stormSeed))
	shared := map[int]satchel.ID{}
	for _, p := range n.ids {
		var id satchel.ID
		switch p.what {
		case "":
			id = dataset.MintID(rng, l.stormBegan)
			if s, ok := shared[p.same]; ok && p.same > 0 {
				id = s
			}
			shared[p.same] = id
		case "account":
			id = l.w.Accounts[rep.index][0]
		case "rep":
			id = l.w.Reps[rep.index]
		default:
			k, _ := strconv.Atoi(p.what)
			id = rep.visits[k]
		}
		copy(body[p.at:], id.String())
	}
	body = body[n.start[first-1]:]
	body = protowire.AppendVarint(protowire.AppendTag(body, 2, protowire.VarintType), uint64(first-1))
	return protowire.AppendString(protowire.AppendTag(body, 3, protowire.BytesType), rep.cursor)
}

// tally is what became of the reps.
type tally struct {
	mu     sync.Mutex
	took   []float64 // s from the arrival until the phone is at a checkpoint with all verdicts, or its time ran out
	done   int
	counts map[string]int
}

func (t *tally) add(counts map[string]int, took time.Duration, done bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, n := range counts {
		t.counts[name] += n
	}
	t.took = append(t.took, took.Seconds())
	if done {
		t.done++
	}
}

// fault says what was not as it must be.
func (t *tally) fault(reps int) string {
	applied := verdictName(satchelv1.Status_STATUS_APPLIED)
	if t.done != reps {
		return fmt.Sprintf("%d of %d reps were not done in %s", reps-t.done, reps, stormBound)
	}
	if n := t.counts[applied]; n != reps*batchSize {
		return fmt.Sprintf("%d of %d changes were not applied", reps*batchSize-n, reps*batchSize)
	}
	return ""
}

func verdictName(s satchelv1.Status) string { return "verdicts " + s.String()[len("STATUS_"):] }

// morning lets all reps come, and gives the most memory that the server had, in KiB.
func (l *lab) morning(ctx context.Context, reps []stormRep, nights []night, t *tally) (peak int64, err error) {
	whole := ctx // the server lives on when the phones' time has run out
	ctx, cancel := context.WithTimeout(ctx, stormBound)
	defer cancel()
	l.stormBegan, l.stormSeed = time.Now(), l.rng.Uint64()
	watched := make(chan error, 1)
	stop := make(chan struct{})
	go func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			var u usage
			if err := l.product.ask(whole, "usage", &u); err != nil {
				watched <- err
				return
			}
			peak = max(peak, u.RSSKiB)
			select {
			case <-stop:
				watched <- nil
				return
			case <-tick.C:
			}
		}
	}()
	var all sync.WaitGroup
	for _, rep := range reps {
		arrives := time.Duration(l.rng.Int64N(int64(stormArrive)))
		all.Go(func() {
			pause(ctx, arrives)
			begin := time.Now()
			counts := map[string]int{}
			done := l.stormPhone(ctx, rep, nights[rep.index%len(nights)], counts)
			t.add(counts, time.Since(begin), done)
		})
	}
	all.Wait()
	close(stop)
	err = <-watched
	return peak, err
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// stormPhone syncs until everything is settled and the phone is at a checkpoint; false = the time ran out.
func (l *lab) stormPhone(ctx context.Context, rep stormRep, n night, counts map[string]int) bool {
	var conn *rawhttp.Conn
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	first, failed := 1, 0
	for ctx.Err() == nil {
		out, err := l.stormCall(ctx, &conn, rep, n, first)
		counts["calls"]++
		settled := 0
		for status, k := range out.verdicts {
			counts[verdictName(status)] += k
			settled += k
		}
		first += settled
		if len(out.cursor) > 0 {
			rep.cursor = out.cursor
		}
		why, said := "", time.Duration(0)
		if s, ok := errors.AsType[*rawhttp.Status](err); ok {
			why, said = fmt.Sprintf("calls refused with %d", s.Code), s.RetryAfter
		} else if err != nil {
			why = "calls that broke"
		} else if settled == 0 && first <= batchSize {
			why = "calls that settled nothing"
		}
		switch {
		case why != "":
			counts[why]++
			wait := min(stormBackoff<<min(failed, 4), stormSlowest)
			failed++
			pause(ctx, max(said, wait/2+time.Duration(rand.Int64N(int64(wait)))))
		case first > batchSize && !out.more:
			return true
		default:
			failed = 0
		}
	}
	return false
}

// stormCall is one Sync, on a new connection where the last one broke.
func (l *lab) stormCall(ctx context.Context, conn **rawhttp.Conn, rep stormRep, n night, first int) (out stormAnswer, err error) {
	defer func() {
		if err == nil {
			return
		}
		if s, ok := errors.AsType[*rawhttp.Status](err); ok && err == error(s) { //nolint:errorlint // joined with another one, the connection has ended
			return
		}
		if *conn != nil {
			(*conn).Close()
			*conn = nil
		}
	}()
	if *conn == nil {
		if *conn, err = rawhttp.Dial(ctx, l.product.HTTP); err != nil {
			return out, err
		}
	}
	if err := (*conn).Deadline(time.Now().Add(stormPatience)); err != nil {
		return out, err
	}
	body := protowire.AppendString(protowire.AppendTag(nil, 3, protowire.BytesType), rep.cursor)
	if first <= batchSize {
		body = n.request(l, rep, first)
	}
	if err := (*conn).Send(satchelv1connect.SyncServiceSyncProcedure, rep.token, body); err != nil {
		return out, err
	}
	if body, err = (*conn).Answer(); err != nil {
		return out, err
	}
	return readAnswer(body)
}

// stormAnswer is what a phone of the storm reads of a SyncResponse; the rows it would store are passed over.
type stormAnswer struct {
	verdicts map[satchelv1.Status]int
	cursor   string
	more     bool
}

func readAnswer(body []byte) (stormAnswer, error) {
	out := stormAnswer{verdicts: map[satchelv1.Status]int{}}
	err := fields(body, func(num protowire.Number, v uint64, raw []byte) error {
		switch num {
		case 1:
			var status satchelv1.Status
			err := fields(raw, func(num protowire.Number, v uint64, _ []byte) error {
				if num == 2 {
					status = satchelv1.Status(v)
				}
				return nil
			})
			out.verdicts[status]++
			return err
		case 2:
			return fields(raw, func(num protowire.Number, v uint64, raw []byte) error {
				switch num {
				case 1:
					out.cursor = string(raw)
				case 6:
					out.more = v != 0
				}
				return nil
			})
		case 4:
			return errors.New("bench: a phone of the storm got an order")
		}
		return nil
	})
	return out, err
}

// fields passes the fields of a message: v of a varint, raw of bytes.
func fields(b []byte, field func(num protowire.Number, v uint64, raw []byte) error) error {
	for len(b) > 0 {
		num, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		var v uint64
		var raw []byte
		switch kind {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			raw, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(num, kind, b)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if err := field(num, v, raw); err != nil {
			return err
		}
	}
	return nil
}
