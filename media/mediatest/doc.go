// Package mediatest holds the conformance suite of [media.Store] and starts a real S3 server for tests.
//
//   - owns: var/bin/versitygw-…, built from tools/versitygw where it is missing
//   - promises: a store that passes [Exercise] keeps the contract of media.Store; servers end with the test process
//   - may import: media, the root package; test code only
//   - start reading at: [Exercise]
package mediatest
