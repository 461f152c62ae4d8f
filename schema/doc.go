// Package schema says what records are: kinds, fields, merge policies, and the pure rules that check and merge them.
//
//   - owns: the form of the YAML pack; the field-sales pack that ships with the binary (pack/field-sales.yaml)
//   - promises: pure functions, no I/O, no clock; a [Schema] is immutable after [Parse] and safe for concurrent use
//   - may import: the root package, internal/expr, goccy/go-yaml (no other package does)
//   - start reading at: [Kind], then [Merge]
package schema
