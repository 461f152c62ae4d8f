import type { RouteLocationRaw } from "vue-router";
import type { Rec } from "@satchel/client";
import { t } from "../i18n/office.js";
import { kindLabel, text } from "../words.js";

const templates = ["follow_up_due", "task_due", "approval_waiting", "approval_approved", "approval_rejected", "attention_new"] as const;

/** A notice's sentence. The organisation's own templates do not reach the device: of those it says what kind it is about. */
export function noticeText(notice: Rec): string {
  const template = text(notice, "template");
  const known = templates.find((name) => name === template);
  return known ? t(`template.${known}`) : t("notice.other", { kind: kindLabel(text(notice, "record_kind")) });
}

/** Where the record that a notice is about has a screen of its own; undefined = it has none. */
export function screenOf(kind: string, id: string): RouteLocationRaw | undefined {
  switch (kind) {
    case "account":
    case "visit":
    case "approval":
    case "attention":
      return { name: kind, params: { id } };
    default:
      return undefined;
  }
}
