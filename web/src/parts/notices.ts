import type { RouteLocationRaw } from "vue-router";
import type { Rec } from "@satchel/client";
import { pick } from "../i18n/index.js";
import { t } from "../i18n/office.js";
import { templates } from "../satchel.js";
import { kindLabel, text } from "../words.js";

/** A notice's sentence, as the organisation has it; where it has none (any more), what kind of thing it is about. */
export function noticeText(notice: Rec): string {
  const words = templates.value.get(text(notice, "template"));
  return words ? pick(words.textZh, words.textEn) : t("notice.other", { kind: kindLabel(text(notice, "record_kind")) });
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
