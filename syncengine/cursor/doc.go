// Package cursor holds the places of devices: what a cursor's bytes say, what it stands for, and how a place in one view
// becomes a place in another.
//
//   - owns: nothing; syncengine keeps views in their table
//   - promises: pure; bytes that this server did not sign for this person are never a place
//   - may import: the root package, access, schema
//   - start reading at: cursor.go, then [TurnTo]; mask.go is how a view hides fields
package cursor
