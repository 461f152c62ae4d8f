// Package conformance proves clients of Satchel in any language. It plays transcripts of the protocol, as the server, with
// a driver around the client: README.md says how.
//
//   - owns: the transcripts, their language, and the protocol of drivers
//   - promises: every wait is bounded; a client passes a transcript only if every request came as it says, in its order,
//     and every answer of the driver is as it says
//   - may import: the root package, gen/, connect, protobuf, protovalidate; no client
//   - start reading at: README.md, then [Play]
package conformance
