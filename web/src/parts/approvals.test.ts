import { describe, expect, it } from "vitest";
import type { Settled } from "@satchel/client";
import { lastSaid } from "./approvals.js";

const op = (record: string, command: string) => ({ action: "command" as const, kind: "approval", record, fields: command === "approval.decide" ? { decision: "reject", form_hash: "00" } : {}, command });
const pending = (order: number, record: string, command: string) => ({ order, id: `m${order}`, ops: [op(record, command)], recordedMs: 0, sent: false });
const settled = (order: number, record: string, command: string, fate: Settled["fate"], reason = ""): Settled =>
  ({ order, id: `m${order}`, ops: [op(record, command)], fate, reason, paths: [], notes: [], attention: "", serverMs: 0 });

describe("the last word on an approval", () => {
  it("waits while it is not answered, whatever was said before", () => {
    expect(lastSaid("x", [pending(3, "x", "approval.decide")], [settled(1, "x", "approval.decide", "STALE", "STALE_FORM")])).toEqual(
      { command: "approval.decide", decision: "reject", waiting: true, refused: "" });
  });
  it("says calmly why it had no effect, until there is another one", () => {
    const log = [settled(1, "x", "approval.decide", "STALE", "SUPERSEDED"), settled(2, "y", "approval.decide", "APPLIED")];
    expect(lastSaid("x", [], log)).toMatchObject({ waiting: false, refused: "SUPERSEDED" });
    expect(lastSaid("x", [], [...log, settled(3, "x", "approval.withdraw", "APPLIED")])).toEqual({ command: "approval.withdraw", decision: "", waiting: false, refused: "" });
  });
  it("is none where nothing was said about this one", () => {
    expect(lastSaid("x", [pending(3, "y", "approval.decide"), pending(4, "x", "approval.submit")], [])).toBeUndefined();
  });
});
