// Package model is what the simulator knows of the promises, for both of its modes: in which company people work, what
// they do on their phones, which mutations were durable on some phone, what the office must hold because of them, and what each phone must show.
//
//   - owns: no table; it reads those of the organisation that it is given
//   - promises: what it reports is a broken promise of docs/protocol.md, or a mistake of the model
//   - may import: internal/app and below, clients/go, gen/
//   - start reading at: [Model], then [Model.CheckLedger] and [Model.Compare]
package model
