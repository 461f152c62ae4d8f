// Package sim drives fleets of phones against the product, on a real Postgres, through whatever a seed draws: lost, late
// and doubled messages, partitions, kills at any step, stores rolled back, cloned and damaged, wrong clocks, database
// connections that break around a COMMIT, transactions paused half-way, the database restored to an older state, half a
// year in a drawer, records merged, rights, profiles and schemas that change, devices revoked. Then it heals everything
// and checks what docs/protocol.md promises against a model of its own.
//
//   - owns: no table; databases that it is given are its own
//   - promises: one step at a time on a virtual clock, every choice drawn from the seed and the step's number alone, so
//     that a seed can be run again, with all of its steps or some; what fails is shrunk to few steps;
//     a run ends by itself; what it reports as failed is a broken promise, or a mistake of the model
//   - may import: internal/app and below, clients/go, gen/
//   - start reading at: [Run], then world.step and check.go
//
// The choices of a run follow from its seed alone, and so does what comes of them: one thing happens at a time. What the
// server does behind an answer is waited for, a connection that breaks is gone on Postgres' side too before anything else
// happens, and where two are at work at once they take turns (world.meanwhile). Random ids, keys and the bytes of tokens
// follow from no seed; ids are minted in the order of the run, so the order of records is the same each time.
// [Many.Twice] proves it.
package sim
