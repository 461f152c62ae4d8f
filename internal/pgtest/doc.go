// Package pgtest gives each test a real Postgres database of its own, with all migrations applied. Tests only.
//
//   - owns: the databases that it makes; the test process's Postgres, unless SATCHEL_TEST_DATABASE_URL names one
//   - promises: a database is nobody else's and is dropped with its test; nothing survives the process
//   - may import: internal/devpg, internal/pg, migrations
//   - start reading at: [New]
package pgtest
