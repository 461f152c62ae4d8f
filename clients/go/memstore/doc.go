// Package memstore keeps a client's store in memory: for simulators, tests and tools that may forget.
//
//   - owns: no state outside a Store
//   - promises: behaves like every other satchelclient.Store but for durability; copies of it can be taken
//   - may import: clients/go
//   - start reading at: [New]
package memstore
