// Package approval lets the right person decide: a record of a kind that has a flow is submitted, below the flow's limit
// it is approved at once, at or above it one approver decides on the form that was frozen for him.
//
//   - owns: the records of kind approval; the commands approval.submit, approval.decide, approval.withdraw,
//     approval.reopen and approval.late (the system's only); the job approval.late. No table of its own
//   - promises: at most one running approval of a record; exactly one decision of an approval, on any number of replicas,
//     online or from a device that was offline; nobody decides his own request; nothing passes because nobody was found;
//     what an approver decided on is what stands, and stays so until the record is reopened
//   - may import: the root package, schema, access, syncengine, internal/jobs
//   - start reading at: flow.go, which holds every rule as a pure function; then commands.go
package approval
