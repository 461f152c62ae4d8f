// Package storetest is the specification of satchelclient.Store, in tests: every store must pass [Exercise].
//
//   - owns: nothing
//   - promises: tests that pass on one store pass on all
//   - may import: clients/go, testing
//   - start reading at: [Exercise]
package storetest
