// Package devpg runs a private Postgres for development, tests and the demo, so that one command is enough to try
// Satchel. It is not for production: there, Postgres is somebody's job.
//
//   - owns: one data directory per Server, and the postmaster that runs on it
//   - promises: what a kill -9 left behind is taken over; nothing listens beyond this machine; no process but its own
//     postmaster is ever signalled
//   - may import: the standard library and pgx
//   - start reading at: [Start], [StartEphemeral]
package devpg
