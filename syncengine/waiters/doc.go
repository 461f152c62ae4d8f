// Package waiters holds the devices that wait on this replica for something to pull, by the buckets that they follow.
//
//   - owns: nothing; it lives in memory and ends with the process
//   - promises: a waiter that is registered before a wake for one of its buckets is woken, once; asks no database
//   - may import: the root package
//   - start reading at: waiters.go
package waiters
