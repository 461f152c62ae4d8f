package server

import (
	"reflect"
	"testing"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	satchel "github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
	"github.com/satchel-sync/satchel/schema"
	"github.com/satchel-sync/satchel/syncengine"
)

// FuzzMutationOf reads what a phone, or anybody, sends as a mutation, as bytes and as JSON, and looks at it as deep as
// goes without a database. Whatever it is, it has a place in the queue and blocks nothing (S5), and sent again it is the
// same (S2).
func FuzzMutationOf(f *testing.F) {
	const id, record = "8f14e45f-ceea-467f-a0e6-1f2e3d4c5b61", "019a9f00-0000-7000-8000-0000000000a1"
	good := &satchelv1.Mutation{Number: 1, Id: id, Ops: []*satchelv1.Op{
		{RecordId: record, Kind: "account", Action: &satchelv1.Op_Create{Create: &satchelv1.Create{Fields: `{"name": "x"}`}}},
		{RecordId: record, Kind: "account", BaseRev: 1, Action: &satchelv1.Op_Patch{Patch: &satchelv1.Patch{Fields: `{"tags": null}`,
			Sets: []*satchelv1.SetEdit{{Field: "tags", Add: []string{"a"}}}, Increments: []*satchelv1.Increment{{Field: "visit_count", By: -1}}}}},
		{RecordId: record, Kind: "quote", Action: &satchelv1.Op_Command{Command: &satchelv1.Command{Name: "approval.submit", Args: `{}`}}},
		{RecordId: record, Kind: "task", Action: &satchelv1.Op_Delete{Delete: &satchelv1.Delete{}}}},
		Recorded: &satchelv1.ClockReading{Boot: "b", MonotonicMs: 1, WallMs: -1}, CheckpointToken: []byte{1}}
	raw, err := proto.Marshal(good)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"number": "2", "id": "` + id + `", "ops": [{"recordId": "` + record + `", "kind": "visit", "create": {"fields": "[1e999]"}}]}`))
	f.Add([]byte(`{"number": "18446744073709551615", "id": "no id", "ops": [{"recordId": "", "kind": ""}]}`))
	f.Add([]byte(`{"number": "7", "id": "` + id + `", "skip": {"to": "3", "why": "store damaged"}}`))
	f.Add([]byte(`{"number": "7", "id": "` + id + `", "envelope": {"size": "300000", "sha256": "AAAA"}, "ops": []}`))
	validator, err := protovalidate.New()
	if err != nil {
		f.Fatal(err)
	}
	kinds, err := schema.Default()
	if err != nil {
		f.Fatal(err)
	}
	s, p := syncService{validator: validator}, &satchel.Principal{Org: satchel.NewID(), Person: satchel.NewID(), Device: satchel.NewID()}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, read := range []func([]byte, proto.Message) error{proto.Unmarshal, protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal} {
			m := &satchelv1.Mutation{}
			if read(raw, m) != nil {
				continue // Connect refuses the call before it comes here
			}
			in := &satchelv1.SyncRequest{Mutations: []*satchelv1.Mutation{proto.CloneOf(good), m, proto.CloneOf(good)}}
			again := proto.CloneOf(in)
			batch, err := s.batchOf(p, in)
			if m.Number == 0 {
				if satchel.ReasonOf(err) != satchel.ReasonMalformed {
					t.Fatalf("without a number: %v", err)
				}
				continue
			}
			if err != nil || len(batch.Mutations) != 3 {
				t.Fatalf("%d of 3 mutations, %v", len(batch.Mutations), err)
			}
			second, err := s.batchOf(p, again)
			if err != nil || !reflect.DeepEqual(batch, second) {
				t.Fatalf("sent again it is another one: %+v and %+v, %v", batch.Mutations[1], second.Mutations[1], err)
			}
			if !reflect.DeepEqual(batch.Mutations[0], batch.Mutations[2]) || len(batch.Mutations[0].Ops) != len(good.Ops) {
				t.Fatal("its neighbours are not what they were")
			}
			look(t, kinds, m, batch.Mutations[1])
		}
	})
}

// look checks one mutation that was read, and its values against the schema, as the engine does.
func look(t *testing.T, kinds *schema.Schema, sent *satchelv1.Mutation, m syncengine.Mutation) {
	t.Helper()
	switch {
	case m.Number != sent.Number || m.ID.IsZero():
		t.Fatalf("it has no place in the queue: %+v", m)
	case len(m.Malformed) > 0 && (len(m.Ops) > 0 || m.Skip != nil || m.Envelope != nil):
		t.Fatalf("it is and is not of the documented form: %+v", m)
	case m.Skip != nil && (m.Envelope != nil || len(m.Ops) > 0), m.Envelope != nil && len(m.Ops) > 0:
		t.Fatalf("it is several things at once: %+v", m)
	case len(m.Malformed) == 0 && (m.Skip == nil) != (sent.Skip == nil) || len(m.Malformed) == 0 && (m.Envelope == nil) != (sent.Envelope == nil):
		t.Fatalf("of %v came %+v", sent, m)
	case len(m.Ops) > syncengine.MaxOps+1:
		t.Fatalf("it has %d ops", len(m.Ops))
	}
	for i, op := range m.Ops {
		if op.Action < syncengine.Create || op.Action > syncengine.Command || op.Record.IsZero() && i < syncengine.MaxOps && sent.Ops[i].RecordId != (satchel.ID{}).String() {
			t.Fatalf("op %d is %+v", i, op)
		}
		k := kinds.Kind(op.Kind)
		if k == nil || op.Action == syncengine.Delete {
			continue
		}
		for _, text := range [][]byte{op.Fields, op.Args} {
			fields, err := schema.DecodeFields(text)
			if err != nil || k.CheckFields(fields) != nil {
				continue
			}
			if p := k.CheckFields(fields); p != nil {
				t.Fatalf("what was taken is refused when it is looked at again: %v", p)
			}
			rec, p := schema.New(k, satchel.NewID(), satchel.NewID(), 1, schema.Edit{Fields: fields})
			if p == nil && k.Invalid(rec.Data) != nil {
				t.Fatalf("a record was made that breaks a check: %v", rec.Data)
			}
		}
	}
}
