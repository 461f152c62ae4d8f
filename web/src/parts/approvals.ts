import type { PendingMutation, Settled } from "@satchel/client";

/** What this person said about an approval and what became of it. */
export interface Said {
  /** "approval.decide" or "approval.withdraw". */
  command: string;
  /** Recorded, and not answered yet. */
  waiting: boolean;
  /** "approve" or "reject"; "" = of a withdrawal. */
  decision: string;
  /** It was answered, and had no effect: the typed reason. "" = it had one, or there is no answer. */
  refused: string;
}

const said = ["approval.decide", "approval.withdraw"];

function decisionOf(op: PendingMutation["ops"][number]): string {
  return typeof op.fields["decision"] === "string" ? op.fields["decision"] : "";
}

/** The last word of this device on an approval; undefined = it said nothing. settled in the order of recording. */
export function lastSaid(approval: string, pending: readonly PendingMutation[], settled: readonly Settled[]): Said | undefined {
  const about = (m: { ops: PendingMutation["ops"] }) => m.ops.find((op) => op.record === approval && said.includes(op.command));
  for (const m of [...pending].reverse()) {
    const op = about(m);
    if (op) return { command: op.command, decision: decisionOf(op), waiting: true, refused: "" };
  }
  for (const m of [...settled].reverse()) {
    const op = about(m);
    if (op) return { command: op.command, decision: decisionOf(op), waiting: false, refused: m.fate === "STALE" || m.fate === "REJECTED" ? m.reason || "GUARD" : "" };
  }
  return undefined;
}
