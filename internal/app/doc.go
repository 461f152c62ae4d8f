// Package app wires the packages into the product: the one composition root, used by cmd/satchel, the demo, the
// laboratory and the tests alike, so that what is tested is what runs.
//
//   - owns: no table; the adapters between features that must not know each other
//   - promises: nothing runs before [App.Run]; everything arrives by [Config], nothing is read from the environment
//   - may import: everything below cmd/
//   - start reading at: [New]
package app
