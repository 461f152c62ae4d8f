// Package push knocks: for each notice it sends one short text to every address of its person, through the channel that
// the address is of. The inbox, records of kind notice, stays the truth.
//
//   - owns: the tables push_address, delivery and wechat_grant, the job push.deliver; firebase.google.com/go is imported here only
//   - promises: a delivery exists for each address that the person had when the notice was made, in the same
//     transaction; it is claimed before it is sent, so two workers never send it at once; whatever is sent twice (a
//     crash between the send and its noting) carries the same msg_id; texts come from the schema's templates and hold no
//     customer data; only an answer that the address is unknown ever deletes one, and a mass of those deletes none
//   - may import: the root package, schema, access, syncengine, internal/jobs, internal/pg
//   - start reading at: [Push.Observe], then [Push.deliver] and [Sender]
package push
