// Package demodata makes up a sales company: teams, people, and the records of the field-sales pack that three years of
// work would have left. Tests, the demo and the laboratory use it; the server does not.
//
//   - owns: no state; the lists of words in words.go were written for it, nothing is copied from a data set
//   - promises: the same Config always gives the same company, byte by byte; every record passes the checks of the
//     pack; no name, number or address is meant to be anybody's: mobiles begin with 12, which no network has, e-mail
//     ends in example.com. Safe for concurrent use
//   - may import: the root package. [Speech] runs the program espeak-ng
//   - start reading at: [Generate]
package demodata
