// Package enginetest gives the tests of features an organisation on a database of its own, with an engine, its jobs and
// a clock that stands still until a test moves it.
//
//   - owns: no state beyond a test; writes rows of org, team and person as identity would
//   - promises: everything goes with the test
//   - may import: the root package, internal/jobs, internal/pgtest, syncengine; imported by tests only
//   - start reading at: [New]
package enginetest
