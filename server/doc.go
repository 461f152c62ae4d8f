// Package server is the edge: Connect, gRPC and gRPC-Web, links to bytes, health and a small page on one port. It
// translates between the wire and the features, and decides nothing.
//
//   - owns: no tables; the HTTP server, its limits and time-outs, the texts of reasons, the metrics
//   - promises: a mutation's fate is a verdict, never an RPC error; every failed call tells a typed reason, a sentence
//     for the person and a request id; nobody without a session makes the server read a large body; no body, header,
//     wait or answer is unbounded; nothing that people wrote, and no secret, is logged
//   - may import: the root package, gen, syncengine, desk, identity, media, schema, access, internal/pg; connect and its
//     companions (cors, grpcreflect, otelconnect, protovalidate), rs/cors, klauspost/compress, prometheus and protobuf
//   - start reading at: New, then calls (http.go), gate and guard (call.go), and sync.go
package server
