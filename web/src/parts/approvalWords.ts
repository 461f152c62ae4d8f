import type { Rec } from "@satchel/client";
import { t } from "../i18n/office.js";
import { identity } from "../satchel.js";
import { agoText, text } from "../words.js";
import { personName, valueText } from "./values.js";

/** The state of an approval, as a mark. Not sent yet comes first: it is what the person did last. */
export function stateMark(approval: Rec): { text: string; look: "" | "warn" | "bad" } {
  if (approval.pending) return { text: t("state.sending"), look: "warn" };
  switch (text(approval, "state")) {
    case "approved":
      return { text: t("state.approved"), look: "" };
    case "rejected":
      return { text: t("state.rejected"), look: "bad" };
    case "withdrawn":
      return { text: t("state.withdrawn"), look: "" };
    default:
      return { text: t("state.waiting"), look: "warn" };
  }
}

/** The frozen form of an approval by field; empty = it is not there. */
export function formOf(approval: Rec): Record<string, unknown> {
  const form = approval.fields["form"];
  return typeof form === "object" && form !== null && !Array.isArray(form) ? { ...form } : {};
}

/** Who asks whom, for how much, since when. */
export function approvalLine(approval: Rec, now: number): string {
  const mine = text(approval, "initiator") === identity.value.person;
  const who = mine ? t("approval.to", { name: personName(approval.fields["approver"]) }) : t("approval.from", { name: personName(approval.fields["initiator"]) });
  const form = formOf(approval);
  const amount = [valueText("quote", "amount", form["amount"], now), typeof form["currency"] === "string" ? form["currency"] : ""].filter(Boolean).join(" ");
  return [amount, who, agoText(approval.eventMs, now)].filter(Boolean).join(" · ");
}
