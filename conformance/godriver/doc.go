// Package godriver is the driver of conformance around the Go client, and an example for authors of others.
//
//   - owns: the client and the stores of one driver
//   - promises: what conformance/README.md says of drivers
//   - may import: the root package, gen/, clients/go and its stores
//   - start reading at: [Serve]
package godriver
