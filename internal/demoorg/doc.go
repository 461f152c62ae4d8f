// Package demoorg loads the made-up sales company of internal/demodata into a server, so that a newcomer has something
// to look at. Only the development server, the demo and tests import it.
//
//   - owns: no table; everything goes through identity and the engine
//   - promises: the same company at every run; a load that was killed goes on where it stopped, and nothing is there
//     twice; a database that holds somebody else's organisation is left alone
//   - may import: the root package, identity, syncengine, internal/demodata, internal/pg
//   - start reading at: Load
package demoorg
