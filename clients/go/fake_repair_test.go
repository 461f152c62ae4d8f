package satchelclient_test

import (
	"bytes"
	"cmp"
	"context"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

func placeOf(cursor []byte) (seq uint64, id string) {
	s, i, _ := bytes.Cut(cursor, []byte("/"))
	seq, _ = strconv.ParseUint(string(s), 10, 64)
	return seq, string(i)
}

// beyond tells whether a commit is one that was lost.
func (f *fake) beyond(seq uint64) bool { return seq>>40 < f.seq>>40 && seq > f.cut }

// shelves gives what lies where, counted in the words of sync.proto.
func (f *fake) shelves() []*satchelv1.BucketDigest {
	type shelf struct {
		bucket uint64
		kind   string
	}
	sums := map[shelf]*satchelv1.Digest{}
	for _, r := range f.rows {
		for _, b := range r.change.Entered {
			s := shelf{b, r.change.Kind}
			if sums[s] == nil {
				sums[s] = new(satchelv1.Digest)
			}
			id, err := satchel.ParseID(r.change.RecordId)
			if err != nil {
				panic(err)
			}
			h := fnv.New32a()
			h.Write(id[:])
			h.Write([]byte(strconv.FormatUint(r.change.Rev, 10)))
			sums[s].Count++
			mixed := h.Sum32()
			mixed = (mixed ^ mixed>>16) * 0x85ebca6b
			mixed = (mixed ^ mixed>>13) * 0xc2b2ae35
			sums[s].Sum += uint64(mixed ^ mixed>>16)
		}
	}
	var all []*satchelv1.BucketDigest
	for s, d := range sums {
		all = append(all, &satchelv1.BucketDigest{Bucket: s.bucket, Kind: s.kind, Digest: d})
	}
	slices.SortFunc(all, func(a, b *satchelv1.BucketDigest) int {
		return cmp.Or(cmp.Compare(a.Bucket, b.Bucket), cmp.Compare(a.Kind, b.Kind))
	})
	return all
}

// backup gives a copy of the data as it stands, and how to go back to it: a new epoch begins.
func (f *fake) backup() (restore func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	seq, lanes, ids, applied := f.seq, maps.Clone(f.lanes), maps.Clone(f.ids), maps.Clone(f.applied)
	rows := map[string]*row{}
	for id, r := range f.rows {
		rows[id] = &row{seq: r.seq, change: proto.CloneOf(r.change), fields: maps.Clone(r.fields)}
	}
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.cut, f.seq, f.lanes, f.ids, f.applied, f.rows = seq, (f.seq>>40+1)<<40+1, lanes, ids, applied, rows
	}
}

const revsPerAnswer = 2

func (f *fake) Repair(ctx context.Context, req *satchelv1.RepairRequest) (*satchelv1.RepairResponse, error) {
	if err := f.enter(ctx); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	f.repairs = append(f.repairs, req)
	if f.onRepair != nil {
		if err := f.onRepair(req); err != nil {
			return nil, err
		}
	}
	res := new(satchelv1.RepairResponse)
	switch step := req.Step.(type) {
	case *satchelv1.RepairRequest_Start:
		res.Plan = &satchelv1.RepairPlan{Cursor: []byte(strconv.FormatUint(f.seq, 10) + "/~"), Buckets: f.shelves(), Forms: &satchelv1.Forms{}, Seq: f.seq}
		if f.plan != nil {
			f.plan(res.Plan)
		}
	case *satchelv1.RepairRequest_Revs:
		res.Revs = new(satchelv1.RecordRevs)
		var lies []satchel.ID
		for text, r := range f.rows {
			id, _ := satchel.ParseID(text)
			if r.change.Kind == step.Revs.Kind && slices.Contains(r.change.Entered, step.Revs.Bucket) && bytes.Compare(id[:], step.Revs.After) > 0 {
				lies = append(lies, id)
			}
		}
		slices.SortFunc(lies, func(a, b satchel.ID) int { return bytes.Compare(a[:], b[:]) })
		if len(lies) > revsPerAnswer {
			lies, res.Revs.More = lies[:revsPerAnswer], true
		}
		for _, id := range lies {
			res.Revs.Records = append(res.Revs.Records, id[:]...)
			res.Revs.Revs = append(res.Revs.Revs, f.rows[id.String()].change.Rev)
		}
	case *satchelv1.RepairRequest_Rows:
		for ids := step.Rows.Records; len(ids) > 0 && res.Answered < revsPerAnswer; ids = ids[16:] {
			res.Answered++
			if r := f.rows[satchel.ID(ids).String()]; r != nil && len(r.change.Entered) > 0 {
				res.Changes = append(res.Changes, proto.CloneOf(r.change))
			}
		}
	case *satchelv1.RepairRequest_Salvage:
		for _, ch := range step.Salvage.Rows {
			f.salvaged[ch.RecordId] = ch
		}
	default:
		return nil, fail(connect.CodeInvalidArgument, satchelv1.Reason_REASON_MALFORMED, 0)
	}
	return res, nil
}

// travelled gives the records whose rows a repair asked for, in order, and forgets the calls.
func (f *fake) travelled() []satchel.ID {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []satchel.ID
	asked := map[satchel.ID]bool{}
	for _, req := range f.repairs {
		for ids := req.GetRows().GetRecords(); len(ids) > 0; ids = ids[16:] {
			if id := satchel.ID(ids); !asked[id] {
				asked[id] = true
				all = append(all, id)
			}
		}
	}
	f.repairs = nil
	return all
}
