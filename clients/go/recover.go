package satchelclient

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

// maxSkip is how many numbers one skip closes.
const maxSkip = 1_000_000

// lastNumber is the last number that a mutation uses up.
func lastNumber(m *satchelv1.Mutation) uint64 { return max(m.Number, m.GetSkip().GetTo()) }

// readOutbox reads a row of the outbox; false = it cannot be sent.
func readOutbox(value []byte) (*satchelv1.Mutation, bool) {
	m := new(satchelv1.Mutation)
	if proto.Unmarshal(value, m) != nil {
		return m, false
	}
	if _, err := satchel.ParseID(m.Id); err != nil || len(m.Ops) == 0 && m.Skip == nil && m.Envelope == nil {
		return m, false
	}
	for _, op := range m.Ops {
		if _, err := satchel.ParseID(op.RecordId); err != nil || op.Kind == "" || len(op.Kind) > 64 || op.Action == nil {
			return m, false
		}
	}
	return m, true
}

// envelop puts an envelope in the place of a row of the outbox that cannot be sent, so that what follows can. The bytes
// are kept; its ops are no longer shown. last is the mutation before it, next the next number to be given.
func (c *Client) envelop(tx Tx, key, value []byte, last *satchelv1.Mutation, next uint64) (*satchelv1.Mutation, error) {
	hash := sha256.Sum256(value)
	boot, ms := c.cfg.Monotonic()
	m := &satchelv1.Mutation{
		Id:       c.cfg.NewID().String(),
		Envelope: &satchelv1.Envelope{Size: uint64(len(value)), Sha256: hash[:]},
		Recorded: &satchelv1.ClockReading{Boot: boot, MonotonicMs: ms, WallMs: c.cfg.Now().UnixMilli()},
	}
	// Its own number may be unreadable too. Where it had one, its neighbours tell; where they do not, it gets a new one, and
	// the server says what is missing.
	behind := uint64(0)
	err := tx.Scan(TableOutbox, nil, key, func(_, value []byte) error {
		behind++
		if m2, ok := readOutbox(value); ok {
			if m2.Number > behind {
				m.Number = m2.Number - behind
			}
			return ErrStop
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if m.Number == 0 && last != nil && lastNumber(last)+1 < next {
		m.Number = lastNumber(last) + 1
	}
	order := uintOf(key)
	if err := hideOrder(tx, order); err != nil {
		return nil, err
	}
	c.cfg.Logger.Warn("satchel client sends an envelope for a mutation that cannot be sent", "order", order, "bytes", len(value))
	return m, errors.Join(tx.Put(TableKept, key, value), putProto(tx, TableOutbox, key, m))
}

// hideOrder takes a mutation that cannot be read off what is shown.
func hideOrder(tx Tx, order uint64) error {
	return tx.Scan(TableOverlay, nil, nil, func(key, _ []byte) error {
		if uintOf(key[len(satchel.ID{}):]) != order {
			return nil
		}
		return tx.Delete(TableOverlay, key)
	})
}

// Kept is something that could not be sent, and stays on the device.
type Kept struct {
	Order  uint64     // of a mutation: its place among those recorded on this device
	Record satchel.ID // of a row that the server may have lost and did not take: the record
	Bytes  []byte     // satchel.v1.Mutation or Change, perhaps damaged
}

// KeptBytes lists what could not be sent: mutations that were too large or can no longer be read, and rows that a restored
// server did not take. It is the person's, to be exported; nothing deletes it but a wipe.
func (c *Client) KeptBytes(ctx context.Context) ([]Kept, error) {
	var all []Kept
	err := c.store.View(ctx, func(tx ReadTx) error {
		return tx.Scan(TableKept, nil, nil, func(key, value []byte) error {
			k := Kept{Order: uintOf(key), Bytes: slices.Clone(value)}
			if k.Order == 0 {
				k.Record = idOf(key)
			}
			all = append(all, k)
			return nil
		})
	})
	return all, err
}

// fillGap makes the outbox begin at the number that the server expects: with what the log still has under the numbers
// that are missing, and with skips for the others (S3). It tells how many numbers were given up.
func (c *Client) fillGap(ctx context.Context, expected uint64) (skipped uint64, err error) {
	device := c.snapshot().Device
	boot, ms := c.cfg.Monotonic()
	err = c.update(ctx, "gap", func(tx Tx) error {
		skipped = 0
		var first []byte
		end := uint64(0)
		err := tx.Scan(TableOutbox, nil, nil, func(key, value []byte) error {
			m, ok := readOutbox(value)
			first, end = slices.Clone(key), m.Number
			if !ok {
				end = 0
			}
			return ErrStop
		})
		if err != nil || expected >= end {
			return err
		}
		skip := func(before []byte, from, to uint64) error {
			for ; from <= to; from += maxSkip {
				m := &satchelv1.Mutation{
					Number: from, Id: c.cfg.NewID().String(), Skip: &satchelv1.Skip{To: min(to, from+maxSkip-1), Why: "store damaged"},
					Recorded: &satchelv1.ClockReading{Boot: boot, MonotonicMs: ms, WallMs: c.cfg.Now().UnixMilli()},
				}
				skipped += m.Skip.To - from + 1
				if err := putProto(tx, TableOutbox, skipKey(before, from), m); err != nil {
					return err
				}
			}
			return nil
		}
		err = tx.Scan(TableVerdict, nil, nil, func(key, value []byte) error {
			row, v, ok := readLog(value)
			if !ok || row.Device != device || v.Number < expected || v.Number >= end {
				return nil
			}
			if v.Number > expected {
				if err := skip(key, expected, v.Number-1); err != nil {
					return err
				}
			}
			expected = v.Number + 1
			return offerAgain(tx, key, row.Mutation, v.Number)
		})
		if err != nil || expected == end {
			return err
		}
		return skip(first, expected, end-1)
	})
	return skipped, err
}

// skipKey is a key right before that of what follows, in the order of the numbers that are skipped.
func skipKey(before []byte, from uint64) []byte {
	key := append(uintKey(uintOf(before)-1), 0xff)
	return append(key, uintKey(from)...)
}

// readLog reads a line of the verdict log; false = it cannot be read.
func readLog(value []byte) (row verdictRow, v *satchelv1.Verdict, ok bool) {
	v = new(satchelv1.Verdict)
	return row, v, json.Unmarshal(value, &row) == nil && proto.Unmarshal(row.Verdict, v) == nil
}

// offerAgain puts a settled mutation back into the outbox, and shows it as pending.
func offerAgain(tx Tx, key, value []byte, number uint64) error {
	if m, ok := readOutbox(value); ok {
		m.Number = number
		var err error
		if value, err = proto.Marshal(m); err != nil {
			return err
		}
		for i, op := range m.Ops {
			id, err := satchel.ParseID(op.RecordId)
			if err != nil {
				return err
			}
			if err := putProto(tx, TableOverlay, overlayKey(id, uintOf(key), i), op); err != nil {
				return err
			}
			if op.GetCreate() != nil {
				if err := tx.Delete(TableOffice, id[:]); err != nil {
					return err
				}
			}
		}
	}
	return errors.Join(tx.Put(TableOutbox, key, value), tx.Delete(TableVerdict, key), tx.Delete(TableSettled, key))
}

// takeRestored offers again what a restored server has lost: every mutation whose verdict is of a later commit than those
// it still has goes back to its place in the outbox, before what is pending, and all of it is numbered anew. It gives
// their count.
func takeRestored(tx Tx, order *satchelv1.Restored) (int, error) {
	again := 0
	err := tx.Scan(TableVerdict, nil, nil, func(key, value []byte) error {
		row, v, ok := readLog(value)
		if !ok || v.Seq <= order.AfterSeq || nothingHappened(v.Status) {
			return nil
		}
		again++
		return offerAgain(tx, key, row.Mutation, 0)
	})
	if err != nil {
		return 0, err
	}
	// What is still shown and in no log any more.
	err = tx.Scan(TableSettled, nil, nil, func(key, value []byte) error {
		s, ok := readSettled(value)
		if !ok || s.Seq <= order.AfterSeq {
			return nil
		}
		mutation, err := proto.Marshal(s.Mutation)
		if err != nil {
			return err
		}
		again++
		return offerAgain(tx, key, mutation, 0)
	})
	if err != nil {
		return 0, err
	}
	if err := renumber(tx, max(order.ExpectedNumber, 1)); err != nil {
		return 0, err
	}
	at, err := getMeta[place](tx, metaPlace)
	if err != nil {
		return 0, err
	}
	at.Seen, at.Complete = order.Seq, false
	// A repair by what the server was before it was restored says nothing about it now.
	if st, err := getRepair(tx); err != nil {
		return 0, err
	} else if st != nil {
		if err := restart(tx, &repairState{Salvage: true}); err != nil {
			return 0, err
		}
	}
	return again, putMeta(tx, metaPlace, at)
}

// renumber takes the numbers off all pending mutations; they begin again at next, with the next call. Their random ids
// stay, so that the server knows again what it had already taken. Skips of the old numbers go.
func renumber(tx Tx, next uint64) error {
	n, err := getNumbers(tx)
	if err != nil {
		return err
	}
	n.Next = next
	err = tx.Scan(TableOutbox, nil, nil, func(key, value []byte) error {
		m, ok := readOutbox(value)
		switch {
		case !ok || m.Number == 0:
			return nil // what cannot be read is looked at before it is sent
		case m.Skip != nil:
			return tx.Delete(TableOutbox, key)
		}
		m.Number = 0
		return putProto(tx, TableOutbox, key, m)
	})
	if err != nil {
		return err
	}
	return putMeta(tx, metaNumbers, n)
}

// wipe deletes what the device knows, and of its own mutations those that the server has kept. Others stay, to be
// sent; with none left, the identity goes too. It tells whether everything is gone.
func wipe(tx Tx, salvaged uint64) (bool, error) {
	left := false
	err := tx.Scan(TableOutbox, nil, nil, func(key, value []byte) error {
		m, ok := readOutbox(value)
		if !ok || m.Number == 0 || m.Number > salvaged {
			left = true
			return nil
		}
		if err := hide(tx, uintOf(key), m); err != nil {
			return err
		}
		return tx.Delete(TableOutbox, key)
	})
	if err != nil {
		return false, err
	}
	if err := hideSettled(tx, ^uint64(0), 0, false); err != nil {
		return false, err
	}
	at, err := getMeta[place](tx, metaPlace)
	if err != nil {
		return false, err
	}
	tables := []Table{TableRecord, TableStaging, TableVerdict, TableRepair, TableMerged, TableOffice}
	if !left {
		tables = Tables()
	}
	for _, t := range tables {
		if err := tx.Clear(t); err != nil {
			return false, err
		}
	}
	if left {
		return false, errors.Join(tx.Delete(TableMeta, []byte(metaRepair)), putMeta(tx, metaPlace, place{Seen: at.Seen}))
	}
	return true, nil
}
