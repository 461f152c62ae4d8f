package server

import (
	"testing"

	"buf.build/go/protovalidate"

	satchel "github.com/satchel-sync/satchel"
	satchelv1 "github.com/satchel-sync/satchel/gen/satchel/v1"
)

// BenchmarkReadingABatch tells what the edge spends on a batch of 200 mutations beside the engine.
func BenchmarkReadingABatch(b *testing.B) {
	_, requests := methods()
	validator, err := protovalidate.New(protovalidate.WithMessageDescriptors(requests...), protovalidate.WithDisableLazy())
	if err != nil {
		b.Fatal(err)
	}
	in := &satchelv1.SyncRequest{}
	for n := range 200 {
		in.Mutations = append(in.Mutations, &satchelv1.Mutation{Number: uint64(n + 1), Id: satchel.NewID().String(), Ops: []*satchelv1.Op{{
			RecordId: satchel.NewID().String(), Kind: "visit", Action: &satchelv1.Op_Create{Create: &satchelv1.Create{Fields: `{"subject":"x"}`}}}}})
	}
	s := syncService{Server: &Server{}, validator: validator}
	p := &satchel.Principal{Device: satchel.NewID()}
	for b.Loop() {
		if err := valid(validator, in); err != nil {
			b.Fatal(err)
		}
		if _, err := s.batchOf(p, in); err != nil {
			b.Fatal(err)
		}
	}
}
