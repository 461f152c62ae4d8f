// Command satchel is the server and what its operator needs: `satchel serve | migrate | org | user | demo | doctor | types |
// version`. Each has --help; each flag can be given by the environment.
//
//   - owns: flags, environment, and what is printed; no rules of the business
//   - promises: errors say what to do; exit status 0 = done, 1 = it failed, 2 = it was called in a wrong way; no secret
//     is printed but the one-time ones that it makes for its caller
//   - may import: internal/app and what that needs to be configured; internal/devpg, internal/demoorg for --dev
//   - start reading at: cli, then serveCmd.Run
package main
