// Package satchelclient is the reference client of Satchel: the executable form of docs/protocol.md. It keeps what a
// person does without a signal, sends it once, and shows what the server says together with what is still on its way.
//
//   - owns: the local store behind [Store] and everything in it; one process and one [Client] per store
//   - promises: what was recorded survives a kill at any step and takes effect once; what is shown changes only at
//     checkpoints, by the person's own mutations, and by what must go at once; records never wait for media
//   - may import: the root package, gen/, internal/mutant, connect, protobuf, golang.org/x/sync. It links no database: stores are in
//     memstore and sqlitestore
//   - start reading at: [New], [Client.SyncOnce], then page.go
//
// # What is kept where
//
// A mutation is recorded in the outbox without a number. When it is first sent it gets the next number, in the local
// transaction that marks it sent; from then on it is sent with that number and its random id until a verdict comes. A
// settled mutation leaves the outbox; its verdict goes to the log and its ops stay shown until a checkpoint at or past
// the verdict's seq (S14). Changes of a page are staged, and shown at the checkpoint (S12).
//
// # What goes wrong, and what is done
//
// The store lost numbers: they are filled from the log, else skipped. It has a mutation that cannot be sent: an envelope
// takes its place, and its bytes are kept. It lost rows, or is behind the server's horizon: a repair brings what differs
// (repair.go). The server lost commits: what it had acknowledged is offered again, and rows that only the device still
// has are salvaged (recover.go). Each of these can be killed at any step.
package satchelclient
