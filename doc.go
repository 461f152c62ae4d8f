// Package satchel holds the words that every other package speaks: ids, the principal, and the typed error.
//
//   - owns: no state
//   - promises: small value types without I/O; safe for concurrent use
//   - may import: the standard library and github.com/google/uuid
//   - start reading at: [Principal], then syncengine/apply.go
package satchel
