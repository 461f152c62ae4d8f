// Package rawhttp is the cheapest client there can be: one connection, requests written by hand. Thousands of them load
// a server without being most of the load, and tell to the microsecond when its answer arrives.
//
//   - owns: nothing
//   - promises: an answer is bounded and is read by HTTP's rules; nothing is retried, pooled or followed
//   - may import: the standard library and protobuf
//   - start reading at: [Dial]
package rawhttp
