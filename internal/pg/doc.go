// Package pg is how Satchel speaks to Postgres: pools, transactions in few round trips, and what an error means.
//
//   - owns: no tables; the settings of every connection
//   - promises: no statement, lock, idle transaction or wait for a commit lives longer than its limit; a commit is reported only when the
//     server confirmed it, on its standby too where there is one
//   - may import: the root package and pgx
//   - start reading at: [Open], then [InTx] and [Tx]
package pg
