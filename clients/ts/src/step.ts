import type { Result } from "./types.js";

/** What one call did. */
export interface Step extends Result {
  /** The cursor or the repair moved. */
  advanced: boolean;
  /** Answers that were only orders. */
  ordered: number;
}

/** Of a call that did nothing yet. */
export function noStep(pending = 0): Step {
  return {
    calls: 0, sent: 0, settled: [], pending, changes: 0, checkpoint: false, more: false, forked: 0, repaired: 0, restored: 0, skipped: 0, minProtocol: 0,
    settledPriority: 0, advanced: false, ordered: 0,
  };
}

/** The sum of both, next being the later one. */
export function sum(r: Step, next: Step): Step {
  const total = {
    ...next, settled: [...r.settled, ...next.settled], checkpoint: r.checkpoint || next.checkpoint, minProtocol: Math.max(r.minProtocol, next.minProtocol),
    settledPriority: (next.checkpoint ? next : r).settledPriority,
  };
  for (const count of ["calls", "sent", "changes", "forked", "repaired", "restored", "skipped", "ordered"] as const) total[count] += r[count];
  return total;
}
