// Package access decides who sees which record and field, and who may do what.
//
//   - owns: nothing
//   - promises: pure functions of the schema's roles, the directory and the record; no I/O, no clock. The default is
//     no. One decision serves sync, media links, notices and online reads
//   - may import: the root package, schema
//   - start reading at: [Grants], [Place], [Follow]
package access
