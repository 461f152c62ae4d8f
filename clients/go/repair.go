package satchelclient

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

// A repair (S17) compares what the device holds with what it should hold and brings only what differs. It is a list of
// things to do in TableRepair, made by the answer to start; each answer after it takes some off, in one local
// transaction, so that a kill at any step goes on behind the last answer. What it finds out is staged, and shown together
// at the next checkpoint. The outbox and the overlay are not touched.

// repairState is what TableMeta keeps of a repair. There is none while none is under way.
type repairState struct {
	Salvage  bool   `json:"salvage"` // rows are sent up before they are removed
	Planned  bool   `json:"planned"` // start was answered
	Swept    bool   `json:"swept"`   // rows without a bucket were looked at
	Restarts int    `json:"restarts"`
	Cursor   []byte `json:"cursor"`
	Seq      uint64 `json:"seq"`
	Forms    []byte `json:"forms"`
}

// Letters of TableRepair.
const (
	doBucket  = 'b' // bucket, kind → the last record compared: it differs
	doRow     = 'r' // record id → kind: its row is to be asked for
	doSalvage = 's' // record id → satchel.v1.Change: to be sent up
)

// Bounds of a repair's calls.
const (
	maxRepairRows  = 500
	maxSalvageRows = 200
	maxRestarts    = 3
)

func getRepair(tx ReadTx) (*repairState, error) { return getMeta[*repairState](tx, metaRepair) }

// beginRepair asks for a repair; one that is under way goes on, unless only this one salvages.
func beginRepair(tx Tx, salvage bool) error {
	st, err := getRepair(tx)
	if err != nil || st != nil && (st.Salvage || !salvage) {
		return err
	}
	return restart(tx, &repairState{Salvage: salvage})
}

// restart begins anew; what is still to be salvaged stays.
func restart(tx Tx, st *repairState) error {
	for _, letter := range []byte{doBucket, doRow} {
		err := tx.Scan(TableRepair, []byte{letter}, nil, func(key, _ []byte) error { return tx.Delete(TableRepair, key) })
		if err != nil {
			return err
		}
	}
	return putMeta(tx, metaRepair, &repairState{Salvage: st.Salvage, Restarts: st.Restarts})
}

// repairStep makes one call of the repair.
func (c *Client) repairStep(ctx context.Context) (r Result, err error) {
	var st *repairState
	var at place
	req := &satchelv1.RepairRequest{Profile: c.cfg.Profile}
	var bucket, after []byte // of revs
	var rows [][]byte        // keys of TableRepair
	batch, _ := c.limits()
	err = c.store.View(ctx, func(tx ReadTx) error {
		if st, err = getRepair(tx); err != nil {
			return err
		}
		if at, err = getMeta[place](tx, metaPlace); err != nil || !st.Planned {
			return err
		}
		err := tx.Scan(TableRepair, []byte{doBucket}, nil, func(key, value []byte) error {
			bucket, after = slices.Clone(key), slices.Clone(value)
			return ErrStop
		})
		if err != nil || bucket != nil {
			return err
		}
		most := maxRepairRows
		if batch < maxBatch {
			most = batch // a call ran out of time
		}
		wanted := new(satchelv1.RepairRows)
		err = tx.Scan(TableRepair, []byte{doRow}, nil, func(key, _ []byte) error {
			if len(rows) == most {
				return ErrStop
			}
			rows = append(rows, slices.Clone(key))
			wanted.Records = append(wanted.Records, key[1:]...)
			return nil
		})
		if err != nil || len(rows) > 0 {
			req.Step = &satchelv1.RepairRequest_Rows{Rows: wanted}
			return err
		}
		salvage, size := new(satchelv1.RepairSalvage), 0
		req.Step = &satchelv1.RepairRequest_Salvage{Salvage: salvage}
		most = min(maxSalvageRows, batch)
		if c.single {
			most = 1
		}
		return tx.Scan(TableRepair, []byte{doSalvage}, nil, func(key, value []byte) error {
			if size += len(value) + 8; len(rows) == most || len(rows) > 0 && size > maxBatchBytes {
				return ErrStop
			}
			rows = append(rows, slices.Clone(key))
			if ch := readChange(value); ch != nil {
				salvage.Rows = append(salvage.Rows, ch)
			}
			return nil
		})
	})
	if err != nil {
		return r, err
	}
	switch {
	case !st.Planned:
		start := new(satchelv1.RepairStart)
		if at.Forms != nil {
			start.Forms = new(satchelv1.Forms)
			if proto.Unmarshal(at.Forms, start.Forms) != nil {
				start.Forms = nil // every kind that looks in some way of its own is asked for
			}
		}
		start.Forms = unsureForms(start.Forms, at.Unsure)
		req.Step = &satchelv1.RepairRequest_Start{Start: start}
	case bucket != nil:
		number, kind := bucketOf(bucket)
		req.Step = &satchelv1.RepairRequest_Revs{Revs: &satchelv1.RepairRevs{Bucket: number, Kind: kind, After: after}}
	}
	c.cfg.Step("call")
	res, err := call(ctx, c, c.cfg.Timeout, c.sync.Repair, req)
	if err != nil {
		return r, c.repairRefused(ctx, st, req, rows, err)
	}
	c.cfg.Step("answer")
	r.Calls, r.More, r.advanced = 1, true, true
	finished := false
	err = c.update(ctx, "repair", func(tx Tx) error {
		t := &repairTaker{tx: tx, st: *st}
		if t.at, err = getMeta[place](tx, metaPlace); err != nil {
			return err
		}
		switch req.Step.(type) {
		case *satchelv1.RepairRequest_Start:
			err = t.takePlan(res.Plan)
		case *satchelv1.RepairRequest_Revs:
			err = t.takeRevs(bucket, after, res.Revs)
		case *satchelv1.RepairRequest_Rows:
			err = t.takeRows(rows, res)
		case *satchelv1.RepairRequest_Salvage:
			err = deleteAll(tx, TableRepair, rows)
		}
		if err != nil {
			return err
		}
		finished, err = t.end()
		return err
	})
	if err == nil && finished {
		r.Repaired, c.single = 1, false
	}
	return r, err
}

// repairRefused goes on after a call that failed. What may succeed another time is given back. What is refused for good
// must not keep the device from pulling: rows that the server does not take stay here among the kept bytes; any other
// step begins anew, and after some times the cursor is given up.
func (c *Client) repairRefused(ctx context.Context, st *repairState, req *satchelv1.RepairRequest, rows [][]byte, failed error) error {
	e, ok := errors.AsType[*Error](failed)
	final := ok && (e.Reason == satchel.ReasonTooLarge && e.RetryAfter == 0 || slices.Contains([]connect.Code{connect.CodeInvalidArgument,
		connect.CodeNotFound, connect.CodeFailedPrecondition, connect.CodeUnimplemented, connect.CodePermissionDenied}, e.Code))
	if !final || errors.Is(failed, ErrDeviceRevoked) || errors.Is(failed, ErrUpgradeApp) {
		return failed
	}
	if req.GetSalvage() != nil {
		if len(rows) > 1 {
			c.single = true
			return failed
		}
		c.cfg.Logger.Warn("satchel client keeps a row that could not be salvaged", "error", failed)
		return errors.Join(failed, c.update(ctx, "repair", func(tx Tx) error {
			for _, key := range rows {
				value, err := tx.Get(TableRepair, key)
				if err != nil {
					return err
				}
				if err := tx.Put(TableKept, append(uintKey(0), key[1:]...), value); err != nil {
					return err
				}
			}
			return deleteAll(tx, TableRepair, rows)
		}))
	}
	c.cfg.Logger.Warn("satchel client begins a repair anew", "restarts", st.Restarts, "error", failed)
	return errors.Join(failed, c.update(ctx, "repair", func(tx Tx) error {
		if st.Restarts++; st.Restarts < maxRestarts || st.Salvage {
			return restart(tx, st)
		}
		at, err := getMeta[place](tx, metaPlace)
		if err != nil {
			return err
		}
		if err := errors.Join(tx.Clear(TableRepair), tx.Delete(TableMeta, []byte(metaRepair)), refill(tx, &at)); err != nil {
			return err
		}
		return putMeta(tx, metaPlace, at)
	}))
}

func deleteAll(tx Tx, t Table, keys [][]byte) error {
	for _, key := range keys {
		if err := tx.Delete(t, key); err != nil {
			return err
		}
	}
	return nil
}

// shelf is one kind in one bucket.
type shelf struct {
	bucket uint64
	kind   string
}

func (s shelf) key() []byte {
	return append(binary.BigEndian.AppendUint64([]byte{doBucket}, s.bucket), s.kind...)
}

func bucketOf(key []byte) (uint64, string) { return uintOf(key[1:9]), string(key[9:]) }

// repairTaker takes an answer within one transaction.
type repairTaker struct {
	tx Tx
	at place
	st repairState
}

// end stores the state, or, with nothing left to do, makes the plan's cursor the device's.
func (t *repairTaker) end() (bool, error) {
	left, err := some(t.tx, TableRepair)
	if err == nil && !left && t.st.Salvage && t.at.Refill && !t.st.Swept {
		t.st.Swept = true
		if err := t.sweep(); err != nil {
			return false, err
		}
		left, err = some(t.tx, TableRepair)
	}
	if err != nil {
		return false, err
	}
	if left {
		return false, errors.Join(putMeta(t.tx, metaRepair, &t.st), putMeta(t.tx, metaPlace, t.at))
	}
	t.at.Cursor, t.at.Forms, t.at.Complete, t.at.Repaired = t.st.Cursor, t.st.Forms, false, max(t.st.Seq, 1)
	if t.at.Doubt == sure {
		t.at.Doubt = repaired
	}
	return true, errors.Join(t.tx.Delete(TableMeta, []byte(metaRepair)), putMeta(t.tx, metaPlace, t.at))
}

// sweep salvages the rows that are shown without a bucket since a cursor was given up, and did not come again.
func (t *repairTaker) sweep() error {
	return scanChanges(t.tx, TableRecord, nil, nil, func(key []byte, own *satchelv1.Change) error {
		if len(own.Entered) > 0 {
			return nil
		}
		staged, err := getChange(t.tx, TableStaging, key)
		if err != nil || len(staged.GetEntered()) > 0 {
			return err
		}
		return t.salvage(idOf(key), own)
	})
}

// takePlan takes away at once what is no longer this person's, and notes where the device differs from the plan.
func (t *repairTaker) takePlan(plan *satchelv1.RepairPlan) (err error) {
	if plan == nil || len(plan.Cursor) == 0 {
		return errors.New("satchelclient: the server gave no plan for a repair")
	}
	if t.st.Forms, err = (proto.MarshalOptions{}).MarshalAppend([]byte{}, plan.Forms); err != nil {
		return err
	}
	t.st.Planned, t.st.Cursor, t.st.Seq = true, plan.Cursor, plan.Seq
	// What was staged since the last checkpoint is compared anew with all else.
	if err := t.tx.Clear(TableStaging); err != nil {
		return err
	}
	pages := &pageTaker{tx: t.tx, at: t.at}
	if err := pages.narrow(plan.Narrowed); err != nil {
		return err
	}
	t.at = pages.at
	t.at.doubtKinds(plan.StaleKinds...) // until what is staged of them is shown
	for _, n := range plan.Narrowed {
		t.at.doubtKinds(n.Kind)
	}
	should, have := map[shelf]tally{}, map[shelf]tally{}
	for _, b := range plan.Buckets {
		should[shelf{b.Bucket, b.Kind}] = tally{b.Digest.GetCount(), b.Digest.GetSum()}
	}
	err = scanChanges(t.tx, TableRecord, nil, nil, func(key []byte, was *satchelv1.Change) error {
		if len(was.Entered) == 0 { // shown until the cursor that was given up is replaced
			t.at.Refill = true
			return nil
		}
		id, ch := idOf(key), proto.CloneOf(was)
		ch.Entered = slices.DeleteFunc(ch.Entered, func(b uint64) bool { _, mine := should[shelf{b, ch.Kind}]; return !mine })
		if len(ch.Entered) == 0 {
			return errors.Join(t.salvage(id, was), putShown(t.tx, &t.at, key, was, nil))
		}
		if len(ch.Entered) < len(was.Entered) {
			if err := putShown(t.tx, &t.at, key, was, ch); err != nil {
				return err
			}
		}
		for _, b := range ch.Entered {
			s := shelf{b, ch.Kind}
			sum := have[s]
			have[s] = tally{sum.Count + 1, sum.Sum + hashOf(id, ch.Rev)}
		}
		if slices.Contains(plan.StaleKinds, ch.Kind) {
			return t.want(id, ch.Kind)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for s, sum := range should {
		if have[s] != sum {
			if err := t.tx.Put(TableRepair, s.key(), nil); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *repairTaker) want(id satchel.ID, kind string) error {
	return t.tx.Put(TableRepair, append([]byte{doRow}, id[:]...), []byte(kind))
}

// salvage keeps a row that the server may have lost, to be sent up before the repair ends.
func (t *repairTaker) salvage(id satchel.ID, own *satchelv1.Change) error {
	if !t.st.Salvage || own.GetFields() == "" {
		return nil
	}
	return putProto(t.tx, TableRepair, append([]byte{doSalvage}, id[:]...), own)
}

// takeRevs compares the records of one kind in one bucket behind the one named after.
func (t *repairTaker) takeRevs(todo, after []byte, revs *satchelv1.RecordRevs) error {
	const size = len(satchel.ID{})
	ids := revs.GetRecords()
	if len(ids)%size != 0 || len(ids)/size != len(revs.GetRevs()) || revs.GetMore() && len(ids) == 0 {
		return errors.New("satchelclient: the revs of a bucket cannot be read")
	}
	bucket, kind := bucketOf(todo)
	theirs := map[satchel.ID]uint64{}
	for i, rev := range revs.GetRevs() {
		theirs[satchel.ID(ids[i*size:])] = rev
	}
	var last []byte
	if revs.GetMore() {
		last = ids[len(ids)-size:]
		if bytes.Compare(last, after) <= 0 {
			return errors.New("satchelclient: the revs of a bucket do not go forward")
		}
	}
	prefix := kindPrefix(kind)
	err := scanChanges(t.tx, TableRecord, prefix, append(prefix, after...), func(key []byte, _ *satchelv1.Change) error {
		id := idOf(key)
		if last != nil && bytes.Compare(id[:], last) > 0 {
			return ErrStop
		}
		now, err := standing(t.tx, key) // as the buckets compared before have left it
		if err != nil {
			return err
		}
		rev, there := theirs[id]
		delete(theirs, id)
		has := slices.Contains(now.Entered, bucket)
		switch {
		case there && now.Rev != rev:
			return t.want(id, kind)
		case there && !has:
			return t.stageBuckets(key, now, append(slices.Clone(now.Entered), bucket))
		case !there && has:
			rest := slices.DeleteFunc(slices.Clone(now.Entered), func(b uint64) bool { return b == bucket })
			if len(rest) == 0 {
				if err := t.salvage(id, now); err != nil {
					return err
				}
			}
			return t.stageBuckets(key, now, rest)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for id := range theirs {
		if err := t.want(id, kind); err != nil {
			return err
		}
	}
	if revs.GetMore() {
		return t.tx.Put(TableRepair, todo, last)
	}
	return t.tx.Delete(TableRepair, todo)
}

// stageBuckets stages a row that stands right in other buckets.
func (t *repairTaker) stageBuckets(key []byte, now *satchelv1.Change, buckets []uint64) error {
	ch := proto.CloneOf(now)
	slices.Sort(buckets)
	if ch.Entered = buckets; len(buckets) == 0 {
		// A record that came back by another bucket compared later is asked for whole.
		ch = &satchelv1.Change{RecordId: now.RecordId, Kind: now.Kind}
	}
	return putProto(t.tx, TableStaging, key, ch)
}

// takeRows stages the rows asked for, exactly as they came; what did not come will be gone.
func (t *repairTaker) takeRows(asked [][]byte, res *satchelv1.RepairResponse) error {
	if res.Answered == 0 || int(res.Answered) > len(asked) {
		return fmt.Errorf("satchelclient: %d of %d rows asked for are answered", res.Answered, len(asked))
	}
	came := map[satchel.ID]*satchelv1.Change{}
	for _, ch := range res.Changes {
		id, err := satchel.ParseID(ch.RecordId)
		if err != nil {
			return fmt.Errorf("satchelclient: a row of a repair has no record: %w", err)
		}
		came[id] = ch
	}
	asked = asked[:res.Answered]
	for _, todo := range asked {
		id := idOf(todo)
		kind, err := t.tx.Get(TableRepair, todo)
		if err != nil {
			return err
		}
		key := recordKey(string(kind), id)
		own, err := getChange(t.tx, TableRecord, key)
		if err != nil {
			return err
		}
		next := &satchelv1.Change{RecordId: id.String(), Kind: string(kind)}
		ch := came[id]
		if own != nil && (ch == nil || lost(own.Rev, ch.Rev)) {
			if err := t.salvage(id, own); err != nil {
				return err
			}
		}
		if ch != nil && ch.Kind == next.Kind && !ch.Deleted {
			next.Rev, next.Fields, next.AuthorId, next.EventMs = ch.Rev, ch.Fields, ch.AuthorId, ch.EventMs
			next.Entered = slices.Clone(ch.Entered)
			slices.Sort(next.Entered)
		} else if ch != nil {
			next.Deleted, next.MergedInto = ch.Deleted, ch.MergedInto
		}
		if err := putProto(t.tx, TableStaging, key, next); err != nil {
			return err
		}
	}
	return deleteAll(t.tx, TableRepair, asked)
}

// lost tells whether the server may not know the state that the device holds: it is newer than the server's, or the
// record was changed there since the database was restored, which begins a new epoch, so that the revs do not compare.
func lost(own, server uint64) bool {
	const epochShift = 40
	return own > server || own>>epochShift < server>>epochShift
}
