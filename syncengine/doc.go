// Package syncengine is the heart: it applies what devices did, numbers it, and hands out what changed. It is the one
// door for every write to a record.
//
//   - owns: the tables of migrations/0001_engine.sql and 0005_nothing_lost.sql
//   - promises: S1 to S21 of docs/protocol.md, each with a test of its name; knows no feature by name: features
//     register commands and observers
//   - may import: the root package, schema, access, internal/pg, internal/jobs, pgx
//   - start reading at: apply.go, then pull.go and page.go
//
// The flow of one batch, one Postgres transaction:
//
//	1 seen      device row locked; known number: its stored verdict
//	2 load      the records it touches, locked in id order
//	3 check     schema, access, commands: ops
//	4 merge     pure: base, theirs, mine: row, verdict
//	5 write     records, history, attentions
//	6 react     observers: rules match, deliveries, jobs (same transaction)
//	7 number    seq, heads, buckets, ledger; COMMIT in the same write
package syncengine
