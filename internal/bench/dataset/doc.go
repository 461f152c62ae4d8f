// Package dataset makes the data on which the bench measures: whole organisations, the same for the same scale, loaded
// by COPY exactly as the engine would have written them, and kept for the next run.
//
//   - owns: the databases satchel_bench_* of the Postgres that it is given
//   - promises: one bench at a time on a Postgres; a set that was not loaded to its end is never taken for whole
//   - may import: everything below cmd/, as internal/app does, but for the other parts of the laboratory
//   - start reading at: [Connect], then [Server.Open]
package dataset
