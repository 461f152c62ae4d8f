/** Why something did not work, for an app to branch on. None of them loses anything that was recorded. */
export type Code =
  /** No answer, or the server cannot answer just now. Try again, with jitter. */
  | "unavailable"
  /** There is no session, or it has ended. Ask for the password. */
  | "sign_in_again"
  /** Login and password do not fit. */
  | "bad_credentials"
  /** An administrator revoked this device. */
  | "device_revoked"
  /** The server no longer speaks this protocol. Everything is kept for the newer app. */
  | "upgrade_app"
  /** The server ordered this device to delete its data, and that was done. */
  | "wiped"
  /** The store belongs to somebody else. Open another store for this person. */
  | "other_person"
  /** Mutations were not sent yet. Sync first. */
  | "unsent"
  /** A mutation or a file is over its limit; nothing was recorded. */
  | "too_large"
  /** The store has no such thing, or the server has none that this person may see. */
  | "not_found"
  /** The device has no room left; nothing was recorded. */
  | "storage_full"
  /** The platform keeps nothing here, as some private windows. Open a store in memory and tell the person. */
  | "no_storage"
  /** The client or the store was closed. */
  | "closed"
  /** The call was cancelled by its signal. */
  | "canceled"
  /** The server refused the call for another cause: see `reason`. */
  | "refused"
  /** A mistake of the app: see the message. */
  | "invalid";

/** The one error that this package throws. */
export class SatchelError extends Error {
  override readonly name: string = "SatchelError";
  /** What to branch on. */
  readonly code: Code;
  /** The server's typed cause, such as "RATE_LIMITED" (docs/errors.md); "" = none. */
  reason = "";
  /** A sentence for the person, in the client's language, as far as the server gave one. */
  userMessage = "";
  /** Finds the call in the server's log. */
  requestId = "";
  /** Milliseconds after which another try makes sense; 0 = unknown. */
  retryAfterMs = 0;
  /** With UNEXPECTED_OFFSET: the offset that the server expects. */
  expected = 0;
  /** The call ran out of time, or was too much: sending less may help. */
  less = false;
  /** The server refused it for good: sending the same again is of no use. */
  final = false;

  constructor(code: Code, message: string, cause?: unknown) {
    super(message, { cause });
    this.code = code;
  }
}

/** The disk has no room. */
export class StorageFull extends SatchelError {
  constructor(cause?: unknown) {
    super("storage_full", "the device has no room left; nothing was recorded. Free some space and try again", cause);
  }
}

/** The store was closed. */
export class StoreClosed extends SatchelError {
  constructor() {
    super("closed", "the store is closed");
  }
}
