// Package story walks the whole product once: `satchel demo`. Three people with three phones work offline and online
// against a real server process on a real Postgres, which is killed in the middle of it; each step is told in plain
// words and checked.
//
//   - owns: nothing that stays: a private Postgres, a folder and phones that go when the story ends
//   - promises: what is told was seen; the first thing that is not as told ends the story with an error
//   - may import: everything; only cmd/satchel's demo and the tests import it
//   - start reading at: [Run], then chapters.go
package story
