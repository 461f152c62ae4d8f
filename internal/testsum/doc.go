// Command testsum runs `go test` and tells what ran: each test with its fate, the output of those that failed, and in
// its last line how many passed and failed.
//
//   - owns: nothing
//   - promises: its exit status is 0 only if every test passed, every package was built, and at least one test ran
//   - may import: the standard library
//   - start reading at: run
package main
