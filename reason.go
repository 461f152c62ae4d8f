package satchel

// Reason is the typed cause of an error or of a verdict. It is spelt like the enum satchel.v1.Reason without its
// prefix; server/ maps one to the other and a test proves that neither has a value that the other lacks.
type Reason string

// Reasons of errors (the call failed).
const (
	ReasonMalformed          Reason = "MALFORMED"         // the bytes or a field do not have the documented form
	ReasonMalformedCursor    Reason = "MALFORMED_CURSOR"  // the cursor is not one that this server gave to this person
	ReasonTooLarge           Reason = "TOO_LARGE"         // a body, mutation, batch or file is over its limit
	ReasonBadCredentials     Reason = "BAD_CREDENTIALS"   // unknown login or wrong password; which is not said
	ReasonTokenExpired       Reason = "TOKEN_EXPIRED"     // refresh, then try again
	ReasonSessionEnded       Reason = "SESSION_ENDED"     // signed out, disabled, or a token was used twice: sign in again
	ReasonDeviceRevoked      Reason = "DEVICE_REVOKED"    // an administrator revoked this device
	ReasonNotAllowed         Reason = "NOT_ALLOWED"       // the person lacks the right
	ReasonNotFound           Reason = "NOT_FOUND"         // unknown, or not visible to this person
	ReasonTaken              Reason = "TAKEN"             // a name or number that must be unique is in use
	ReasonRateLimited        Reason = "RATE_LIMITED"      // too many attempts; RetryAfter says when
	ReasonClientTooOld       Reason = "CLIENT_TOO_OLD"    // the protocol version is below what this server speaks
	ReasonNotSetUp           Reason = "NOT_SET_UP"        // no organisation exists yet
	ReasonHashMismatch       Reason = "HASH_MISMATCH"     // the bytes are not the ones that were announced
	ReasonUnexpectedOffset   Reason = "UNEXPECTED_OFFSET" // a chunk does not begin where the last one ended
	ReasonUnsupportedMedia   Reason = "UNSUPPORTED_MEDIA" // the bytes are not of an accepted type
	ReasonDatabaseDown       Reason = "DATABASE_DOWN"     // Postgres does not answer; nothing was lost, try again
	ReasonBlobStoreDown      Reason = "BLOB_STORE_DOWN"   // the blob store does not answer; try again
	ReasonDraining           Reason = "DRAINING"          // this replica is shutting down; try again
	ReasonBusy               Reason = "BUSY"              // others held the same rows too long; try again
	ReasonDeadline           Reason = "DEADLINE"          // the work took longer than allowed; nothing of it happened
	ReasonUnexpectedInternal Reason = "INTERNAL"          // a fault of ours; the request id finds it in the log
	ReasonWeChatNotBound     Reason = "WECHAT_NOT_BOUND"  // the WeChat user is bound to nobody: ask for login and password
	ReasonWeChatCode         Reason = "WECHAT_CODE"       // WeChat does not take the code: call wx.login again
	ReasonWeChatBlocked      Reason = "WECHAT_BLOCKED"    // WeChat blocks the user as a risk
	ReasonWeChatDown         Reason = "WECHAT_DOWN"       // WeChat does not answer or is busy; try again
	ReasonWeChatOff          Reason = "WECHAT_OFF"        // no mini-program here, or its app id or secret are wrong
)

// Reasons of verdicts (the call succeeded, a mutation did not).
const (
	ReasonForbidden      Reason = "FORBIDDEN"       // the person may not do this to this record
	ReasonFieldForbidden Reason = "FIELD_FORBIDDEN" // a field that the person, or any device, may not write
	ReasonUnknownKind    Reason = "UNKNOWN_KIND"    // the schema has no such kind
	ReasonUnknownField   Reason = "UNKNOWN_FIELD"   // the kind has no such field
	ReasonUnknownCommand Reason = "UNKNOWN_COMMAND" // this server has no such command
	ReasonBadValue       Reason = "BAD_VALUE"       // a value has the wrong type, form or size
	ReasonInvalid        Reason = "INVALID"         // the record as a whole breaks a rule of its kind
	ReasonRecordUnknown  Reason = "RECORD_UNKNOWN"  // no such record, or not visible to this person
	ReasonRecordExists   Reason = "RECORD_EXISTS"   // somebody else created a record with this id
	ReasonRecordDeleted  Reason = "RECORD_DELETED"  // the record was deleted and its kind lets deletes win
	ReasonDependsOn      Reason = "DEPENDS_ON"      // names a record whose creation was refused
	ReasonImmutable      Reason = "IMMUTABLE"       // the field is set once
	ReasonConcurrent     Reason = "CONCURRENT"      // a concurrent change stands; the offered value is kept
	ReasonStaleForm      Reason = "STALE_FORM"      // the form changed since the decision was made
	ReasonSuperseded     Reason = "SUPERSEDED"      // somebody else decided, or the matter was withdrawn
	ReasonReassigned     Reason = "REASSIGNED"      // the task is now somebody else's
	ReasonGuard          Reason = "GUARD"           // the record moved since the rev that the mutation saw
	ReasonAlreadyRunning Reason = "ALREADY_RUNNING" // an approval of this record is running
	ReasonNotSubmitted   Reason = "NOT_SUBMITTED"   // nothing to decide
	ReasonSkipped        Reason = "SKIPPED"         // numbers that the device could not fill; what stood there is lost on the device
	ReasonSameRecord     Reason = "SAME_RECORD"     // both records are the same one, or were merged already
)
