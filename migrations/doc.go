// Package migrations holds the database's shape, as numbered SQL files, and brings a database up to it.
//
//   - owns: goose_db_version and River's tables; what the SQL files create belongs to the packages that they name
//   - promises: forward only; any number of replicas may call Up at once; code of one version works before and after the
//     migrations of the next
//   - may import: the standard library, pgx, goose, and River's migrator (the one exception to "only internal/jobs
//     knows River", for it is the migrations' floor that makes tables)
//   - start reading at: [Up], then 0001_*.sql
package migrations
