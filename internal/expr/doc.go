// Package expr compiles and evaluates the conditions that administrators write (CEL, https://cel.dev).
//
//   - owns: nothing
//   - promises: compiled once, evaluated many times, safe for concurrent use, bounded in cost; no I/O, no clock
//   - may import: cel-go (no other package does)
//   - start reading at: [Compile]
package expr
