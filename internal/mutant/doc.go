// Package mutant plants known faults, so that the simulator can be proved to find them.
//
//   - owns: nothing
//   - promises: without the build tag `mutants` On is false and costs nothing; with it, one fault at a time is planted
//     by its name
//   - may import: the standard library
//   - start reading at: names.go
package mutant
