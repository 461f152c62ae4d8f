// Package rules watches the deadlines of records: at a rule's anchor field plus its offset, the owner of a record that
// satisfies the rule's condition gets a notice.
//
//   - owns: the table timer, the job rules.fire, the command rules.fire (the system's only)
//   - promises: a timer is set, moved or cancelled in the transaction that changes its anchor; a due timer makes exactly
//     one notice, however often its job runs and on however many replicas; the condition is looked at when it is due,
//     under the record's lock; a notice repeats no value of the record; nothing scans for what became due
//   - may import: the root package, schema, access, syncengine, internal/jobs, internal/pg
//   - start reading at: [Rules.Observe], then [Rules.fire]
package rules
