// Package wechat speaks to WeChat's server.
//
//   - owns: the address, the app id and the secret of a mini-program; nothing is kept
//   - promises: each question is asked once, within 5 seconds, and its answer bounded; a session_key is never read, and
//     neither it nor a code or the secret comes into an error or a log
//   - may import: the root package
//   - start reading at: [Client.Exchange]
package wechat
