import type { Fields, PendingMutation, PendingOp } from "@satchel/client";
import { t } from "../i18n/office.js";

/** How things are called, for {@link opText}. */
export interface Names {
  kind(name: string): string;
  field(kind: string, name: string): string;
  /** The name of a record as the device shows it; "" = it has none, or is not here. */
  title(kind: string, id: string): string;
}

/** Fields that name a record, the best first. */
const naming = ["name", "subject", "title"] as const;

/** The name that a record's fields give it; "" = none. */
export function ownName(fields: Readonly<Fields>): string {
  for (const field of naming) {
    const value = fields[field];
    if (typeof value === "string" && value !== "") return value;
  }
  return "";
}

const commands = {
  "approval.decide": "op.decide", "approval.submit": "op.submit", "approval.withdraw": "op.withdraw", "approval.reopen": "op.reopen", "record.merge": "op.merge",
} as const;

function commandKey(name: string, args: Readonly<Fields>): (typeof commands)[keyof typeof commands] | "op.approve" | "op.reject" | undefined {
  if (name === "approval.decide" && args.decision === "approve") return "op.approve";
  if (name === "approval.decide" && args.decision === "reject") return "op.reject";
  return Object.entries(commands).find(([command]) => command === name)?.[1];
}

/** What a step of a mutation does, in words: "New visit: Autumn shelves". */
export function opText(op: Pick<PendingOp, "action" | "kind" | "record" | "fields" | "command">, names: Names): string {
  const kind = names.kind(op.kind);
  const title = names.title(op.kind, op.record) || ownName(op.fields) || kind;
  switch (op.action) {
    case "create": {
      const own = ownName(op.fields);
      return own ? t("op.create", { kind, title: own }) : t("op.create_bare", { kind });
    }
    case "delete":
      return t("op.delete", { kind, title });
    case "command": {
      const key = commandKey(op.command, op.fields);
      return key ? t(key, { title }) : t("op.command", { command: op.command, title });
    }
    case "patch": {
      if (op.kind === "notice") return t("op.read");
      if (op.kind === "attention") return t("op.settle", { title });
      const fields = Object.keys(op.fields).map((f) => names.field(op.kind, f)).join(" · ");
      return t("op.patch", { kind, title: title === kind ? "" : title, fields }).replace(/[:：]\s*$/, "").replace(/\s+([:：])/, "$1");
    }
  }
}

/** What a mutation does: its chief step in words, and how many others it has. What only closes an attention is the last. */
export function mutationText(m: Pick<PendingMutation, "ops">, names: Names): { text: string; more: number } {
  const chief = m.ops.find((op) => op.kind !== "attention" && op.kind !== "notice") ?? m.ops[0];
  return { text: chief ? opText(chief, names) : "", more: m.ops.filter((op) => op !== chief && op.kind !== "attention").length };
}

/** A size for people: 820 KB, 3.4 MB. Less than a kilobyte counts as one. */
export function sizeText(bytes: number): string {
  const kb = bytes / 1024;
  return kb < 1000 ? `${Math.max(1, Math.round(kb))} KB` : `${(kb / 1024).toFixed(1)} MB`;
}
