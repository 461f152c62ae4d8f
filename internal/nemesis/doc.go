// Package nemesis is the simulator's real mode: two server processes on a Postgres of their own, real sockets, and phones
// that work at the same time, while processes are killed and stopped, Postgres is restarted, and ways are cut. Then all
// is healed and checked against internal/sim/model.
//
//   - owns: no table; a private Postgres, processes, folders and phones that go when it ends, in whatever way
//   - promises: it signals only processes that it started; everything is on loopback and ends by itself; what it reports
//     as failed is a broken promise of docs/protocol.md, or a mistake of the model
//   - may import: internal/app and below, internal/sim/model, clients/go, gen/
//   - start reading at: [RunMany], then world.go and schedule.go
//
// A seed draws the schedule of faults and the work of each phone before anything starts, so the same seed has the same
// schedule and each phone the same draws. When which step meets which fault is the operating system's to say: a failure
// may need several tries to come again.
package nemesis
