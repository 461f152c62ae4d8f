// Package desk is the office desk: which phones are not in sync and why, what was refused or waits for somebody, and
// what came back from phones after a restore.
//
//   - owns: no table; it reads the engine's lanes and kept mutations and the directory's devices through its Config
//   - promises: [Troubles] is pure. Who lacks the right [Right] gets nothing; who has it sees values under his own field
//     rights of now (S21), also in mutations that somebody else made. Every list is bounded
//   - may import: the root package, schema, access, syncengine
//   - start reading at: [Troubles], [Desk.States], [Withhold]
package desk
