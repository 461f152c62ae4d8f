// Package sqlitestore keeps a client's store in one SQLite file.
//
//   - owns: the file, and those that SQLite puts beside it
//   - promises: what Update reported is on disk, also after a power cut; one process at a time
//   - may import: clients/go, modernc.org/sqlite
//   - start reading at: [Open]
package sqlitestore
