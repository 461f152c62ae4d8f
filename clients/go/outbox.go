package satchelclient

import (
	"context"
	"errors"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/internal/mutant"
)

// logKeptMs is how long a verdict and its mutation stay in the log: as long as the server's backups may be old, so that
// they could be offered again to a restored one.
const logKeptMs = 35 * 24 * 3600 * 1000

// Settled is what became of a mutation.
type Settled struct {
	Order    uint64     // its place among the mutations recorded on this device, from 1
	Device   satchel.ID // under which it was sent
	Mutation *satchelv1.Mutation
	Verdict  *satchelv1.Verdict
}

// Pending counts the mutations that have no verdict yet.
func (c *Client) Pending(ctx context.Context) (int, error) {
	n := 0
	err := c.store.View(ctx, func(tx ReadTx) error {
		return tx.Scan(TableOutbox, nil, nil, func(_, _ []byte) error { n++; return nil })
	})
	return n, err
}

// Settled gives up to limit lines of the verdict log, oldest first, whose order is greater than after (0 = from the
// first). The log keeps them for 35 days, by the server's clock.
func (c *Client) Settled(ctx context.Context, after uint64, limit int) ([]Settled, error) {
	var all []Settled
	err := c.store.View(ctx, func(tx ReadTx) error {
		return tx.Scan(TableVerdict, nil, uintKey(after), func(key, value []byte) error {
			if len(all) >= limit {
				return ErrStop
			}
			row, verdict, ok := readLog(value)
			s := Settled{Order: uintOf(key), Device: row.Device, Mutation: new(satchelv1.Mutation), Verdict: verdict}
			if ok && proto.Unmarshal(row.Mutation, s.Mutation) == nil {
				all = append(all, s)
			}
			return nil
		})
	})
	return all, err
}

// sending is what one call takes from the outbox.
type sending struct {
	mutations []*satchelv1.Mutation
	keys      map[uint64][]byte // number → key in the outbox
	pending   int               // all in the outbox, these included
	request   *satchelv1.SyncRequest
}

// last gives the last mutation taken; nil = none.
func (s *sending) last() *satchelv1.Mutation {
	if len(s.mutations) == 0 {
		return nil
	}
	return s.mutations[len(s.mutations)-1]
}

// number takes the first mutations of the outbox, gives numbers to those that have none, and makes the request. The
// numbers are durable when it returns, and only then may they be sent. What cannot be sent as it is gives its place to an
// envelope.
func (c *Client) number(ctx context.Context, batch int, budget uint32, noPage bool) (sending, error) {
	s := sending{keys: map[uint64][]byte{}}
	err := c.update(ctx, "number", func(tx Tx) error {
		at, err := getMeta[place](tx, metaPlace)
		if err != nil {
			return err
		}
		n, err := getNumbers(tx)
		if err != nil {
			return err
		}
		s.request = &satchelv1.SyncRequest{
			Confirmed: n.Next - 1, Cursor: at.Cursor, MaxBytes: budget, SchemaVersion: c.cfg.SchemaVersion,
			Outbox: new(satchelv1.Outbox), NoPage: noPage, Profile: c.cfg.Profile, SeenSeq: at.Seen, AppVersion: c.cfg.AppVersion,
			CompletesRows: true,
		}
		size, full := 0, false
		var boots []string
		err = tx.Scan(TableOutbox, nil, nil, func(key, value []byte) error {
			s.pending++
			if full {
				return nil // only counted
			}
			m, ok := readOutbox(value)
			if !ok || len(value) > maxMutationBytes {
				if m, err = c.envelop(tx, key, value, s.last(), n.Next); err != nil {
					return err
				}
				value = nil // a few bytes now
			}
			boot := m.GetRecorded().GetBoot()
			isNew := boot != "" && !slices.Contains(boots, boot)
			if len(s.mutations) >= batch || size+len(value)+16 > maxBatchBytes || isNew && len(boots) == maxClockPairs {
				full = true
				return nil
			}
			if s.pending == 1 {
				s.request.Outbox.OldestMs = m.GetRecorded().GetWallMs()
				if m.Number > 0 {
					s.request.Confirmed = m.Number - 1
				}
			}
			if isNew {
				boots = append(boots, boot)
			}
			if m.Number == 0 {
				m.Number = n.Next
				n.Next++
				if err := putProto(tx, TableOutbox, key, m); err != nil {
					return err
				}
			}
			size += len(value) + 16 // its number, tag and length
			s.mutations = append(s.mutations, m)
			s.keys[m.Number] = slices.Clone(key)
			full = m.Skip != nil // what follows is sent with the next call
			return nil
		})
		if err != nil {
			return err
		}
		for _, boot := range boots {
			value, err := tx.Get(TableClock, []byte(boot))
			if err != nil {
				return err
			}
			if value == nil {
				continue // this boot has not met the server yet
			}
			pair := new(satchelv1.ClockPair)
			if proto.Unmarshal(value, pair) != nil {
				continue // this answer brings another
			}
			s.request.ClockPairs = append(s.request.ClockPairs, pair)
		}
		s.request.Mutations = s.mutations
		s.request.Outbox.Count = uint32(s.pending)
		if s.request.Outbox.MediaBytes, err = mediaBytes(tx); err != nil {
			return err
		}
		return putMeta(tx, metaNumbers, n)
	})
	return s, err
}

// settle stores what became of a mutation: it leaves the outbox for the log. Its ops stay shown until a checkpoint at
// or past the verdict's seq, unless nothing of it took effect.
func (c *Client) settle(tx Tx, key []byte, serverMs int64, v *satchelv1.Verdict) (Settled, error) {
	order := uintOf(key)
	s := Settled{Order: order, Device: c.snapshot().Device, Mutation: new(satchelv1.Mutation), Verdict: v}
	value, err := tx.Get(TableOutbox, key)
	if err != nil {
		return s, err
	}
	if err := unmarshal(value, s.Mutation); err != nil {
		return s, err
	}
	if s.Mutation.Skip != nil { // nobody's work: it stands in no log, and under no order of its own
		return s, tx.Delete(TableOutbox, key)
	}
	verdict, err := proto.Marshal(v)
	if err != nil {
		return s, err
	}
	err = putJSON(tx, TableVerdict, uintKey(order), verdictRow{Device: s.Device, ServerMs: serverMs, Mutation: value, Verdict: verdict})
	if err != nil {
		return s, err
	}
	if err := tx.Delete(TableOutbox, key); err != nil {
		return s, err
	}
	if mutant.On(mutant.OverlayEarly) {
		return s, hide(tx, order, s.Mutation)
	}
	if nothingHappened(v.Status) {
		return s, hide(tx, order, s.Mutation)
	}
	return s, putSettled(tx, order, settled{Seq: v.Seq, Mutation: s.Mutation})
}

func nothingHappened(s satchelv1.Status) bool {
	return s == satchelv1.Status_STATUS_REJECTED || s == satchelv1.Status_STATUS_STALE
}

// hide takes a mutation's ops off what is shown.
func hide(tx Tx, order uint64, m *satchelv1.Mutation) error {
	for i, op := range m.Ops {
		id, err := satchel.ParseID(op.RecordId)
		if err != nil {
			return err
		}
		if err := tx.Delete(TableOverlay, overlayKey(id, order, i)); err != nil {
			return err
		}
	}
	return nil
}

// hideSettled takes off what is settled at or before seq: the checkpoint shows it. Own creations that it does not show,
// for they lie in no bucket that the device follows, are noted as kept at the office, where list says so (S14).
func hideSettled(tx Tx, seq uint64, nowMs int64, list bool) error {
	noted := false
	err := tx.Scan(TableSettled, nil, nil, func(key, value []byte) error {
		s, ok := readSettled(value)
		switch {
		case !ok:
			return errors.Join(hideOrder(tx, uintOf(key)), tx.Delete(TableSettled, key))
		case s.Seq > seq:
			return nil
		}
		if list {
			n, err := noteOffice(tx, key, s.Mutation, nowMs)
			if err != nil {
				return err
			}
			noted = noted || n
		}
		if err := hide(tx, uintOf(key), s.Mutation); err != nil {
			return err
		}
		return tx.Delete(TableSettled, key)
	})
	if err != nil || !noted {
		return err
	}
	return trimAged(tx, TableOffice, nowMs)
}

// noteOffice notes the creations of a settled mutation that are not on the device at this checkpoint.
func noteOffice(tx Tx, key []byte, m *satchelv1.Mutation, nowMs int64) (noted bool, err error) {
	at := nowMs
	if b, err := tx.Get(TableVerdict, key); err != nil {
		return false, err
	} else if b != nil {
		row, v, ok := readLog(b)
		if v.GetStatus() == satchelv1.Status_STATUS_UNSUPPORTED {
			return false, nil
		}
		if ok {
			at = row.ServerMs
		}
	}
	for _, op := range m.Ops {
		id, err := satchel.ParseID(op.RecordId)
		if err != nil {
			return noted, err
		}
		old, listed, err := getAged(tx, TableOffice, id)
		if err != nil {
			return noted, err
		}
		switch {
		case op.GetDelete() != nil || listed && old.Dead:
			err = tx.Delete(TableOffice, id[:])
		case op.GetCreate() != nil && !listed:
			var shown []byte
			if shown, err = tx.Get(TableRecord, recordKey(op.Kind, id)); err == nil && shown == nil {
				noted = true
				err = putJSON(tx, TableOffice, id[:], aged{Kind: op.Kind, Ms: at})
			}
		}
		if err != nil {
			return noted, err
		}
	}
	return noted, nil
}

// trimLog removes some of the lines that are older than the log keeps. It is called with each verdict stored, so it
// removes more than is added.
func trimLog(tx Tx, serverMs int64) error {
	seen := 0
	return tx.Scan(TableVerdict, nil, nil, func(key, value []byte) error {
		row, _, ok := readLog(value)
		if !ok { // it could not be offered again
			return tx.Delete(TableVerdict, key)
		}
		if seen++; seen > 2*maxBatch || row.ServerMs > serverMs-logKeptMs {
			return ErrStop
		}
		return tx.Delete(TableVerdict, key)
	})
}

// noteClock keeps the pair for this boot, and forgets those of boots in which nothing pending was recorded.
func noteClock(tx Tx, boot string, monotonicMs uint64, serverMs int64) error {
	if boot != "" && serverMs > 0 {
		pair := &satchelv1.ClockPair{Boot: boot, MonotonicMs: monotonicMs, ServerMs: serverMs}
		if err := putProto(tx, TableClock, []byte(boot), pair); err != nil {
			return err
		}
	}
	var stale [][]byte
	err := tx.Scan(TableClock, nil, nil, func(key, _ []byte) error {
		if string(key) != boot {
			stale = append(stale, slices.Clone(key))
		}
		return nil
	})
	if err != nil || len(stale) == 0 {
		return err
	}
	used := map[string]bool{}
	err = tx.Scan(TableOutbox, nil, nil, func(_, value []byte) error {
		if m, ok := readOutbox(value); ok {
			used[m.GetRecorded().GetBoot()] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, key := range stale {
		if !used[string(key)] {
			if err := tx.Delete(TableClock, key); err != nil {
				return err
			}
		}
	}
	return nil
}
