// Package bench measures Satchel beside the floor: the least that Postgres itself could do the same work with. Both run
// in the same minutes on the same Postgres, in turns, so that what is compared is what the product adds.
//
//   - owns: the database satchel_bench_* of the Postgres that it is given, dropped and made anew
//   - promises: ends by itself, loopback only; every load is bounded; an answer that is not as it must be fails the run
//   - may import: everything below cmd/, as internal/app does, but for the other parts of the laboratory
//   - start reading at: [Run], then push.go and pull.go
package bench
