// Package jobs is work to be done after a commit: at once, later, again if it failed. It is the only package that
// knows River, whose tables and workers it uses.
//
//   - owns: river_job and River's other tables
//   - promises: a job exists if and only if the transaction that enqueued it was committed; it runs at least once, so
//     handlers can bear to run twice; a handler that panics, hangs or fails harms no other
//   - may import: the root package, internal/pg, pgx and River
//   - start reading at: [Jobs.Handle], [Jobs.Enqueue], [Jobs.Run]
package jobs
