import type { Status } from "@satchel/client";

/** Tells whether nothing of the first sync is shown yet: an empty list means nothing then. */
export function nothingCame(status: Status | undefined): boolean {
  return status !== undefined && status.seq === "0" && status.settledPriority === 0;
}
