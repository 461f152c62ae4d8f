// Package fakes speaks as services of others do, by script: for tests, the demo and the laboratory. The product's serve
// never reaches it.
//
//   - owns: loopback servers that their makers close
//   - promises: answers as the real service does where Satchel looks; what came in can be read back
//   - may import: the standard library
//   - start reading at: [StartFCM]
package fakes
