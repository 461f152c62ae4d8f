// Package identity knows who people are: organisations, teams, roles, devices, and the sessions that tie them together.
//
//   - owns: org, team, person, device, session, sign_in_throttle, setup_code (migrations/0002_identity.sql),
//     wechat_identity, wechat_code (0006_wechat.sql), and the views directory_* for everybody else
//   - promises: a revocation, a disabled person, a changed role holds at the next request on every replica; no password
//     and no token is stored or logged in clear; a lost answer to a refresh signs nobody out; each change of who may see
//     what commits together with the count of rights
//   - may import: the root package, internal/pg, pgx, golang.org/x/{crypto,text,time}
//   - start reading at: [Service.Authenticate], then [Service.SignIn] and [Service.Refresh]
package identity
