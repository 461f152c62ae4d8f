// Package mobile is the Go client in a form that gomobile binds for iOS and Android: texts, numbers, booleans, bytes,
// objects and callbacks; JSON where there is more. docs/mobile-ios.md and docs/mobile-android.md say how to build and use it.
//
//   - owns: one store in a file, its [Client], and one background thread that calls the app's listeners, per [Open]
//   - promises: what clients/go promises, and that the bindings leave nothing out; no call panics, whatever it is given
//   - may import: the root package, gen/, clients/go, clients/go/sqlitestore, modernc.org/sqlite (the codes of its errors)
//   - start reading at: [Open], then [Client]
//
// # Threads
//
// Every method may be called from any thread, several at once, and from listeners. Those that say "waits for the network"
// last as long as the network takes (by default at most 30 seconds for each call of the server) and can be ended with
// [Client.Stop]: call them from a worker, never from the main thread. The others wait for the disk only: milliseconds for
// one record, tens of them for long lists. They may be called on the main thread where a frame may be lost.
//
// Listeners are called one after the other on one thread that is not the main one. They must not throw: an exception that
// crosses into Go ends the process. While one takes its time, what happens meanwhile is told in one call after it.
//
// # JSON
//
// Lists and statuses are JSON texts with the names of clients/ts/src/types.ts, so that the teams of all platforms speak of
// the same things. Numbers of 64 bits (rev, seq) are decimal strings. Ids are UUIDs in lower case, "" = none. Unknown members
// may appear in later versions: pass over them. Unknown members in what the app gives are refused: they are typing errors.
//
// # Errors
//
// What fails, fails with a text that begins with a code: "unavailable: no answer …", "bad_credentials BAD_CREDENTIALS: …".
// [ParseError] takes it apart. Go errors become NSError on iOS, where the text is localizedDescription, and Exception on
// Android, where it is message.
package mobile
