import type { Rec } from "@satchel/client";
import { t } from "../i18n/office.js";
import { pick } from "../i18n/index.js";
import { agoText, kindLabel, text } from "../words.js";
import { read } from "./attention.js";
import { ownName } from "./ops.js";
import { reasons } from "./reasons.js";
import { titleOf } from "./values.js";

/** What an attention is about: the record's name, or that which its refused creation would have given it. */
export function attentionTitle(attention: Rec): string {
  const kind = text(attention, "record_kind");
  const known = titleOf(kind, text(attention, "record"));
  if (known) return known;
  const { items } = read(attention.fields);
  const first = items[0];
  const fields = Object.fromEntries(items.filter((it) => it.record === first?.record && it.element === undefined).map((it) => [it.field, it.value]));
  return ownName(fields) || (kind ? kindLabel(kind) : t("att.refused"));
}

/** Why a mutation was refused, in words. */
export function reasonText(reason: string): string {
  const words = reasons[reason];
  return words ? pick(words[0], words[1]) : reason;
}

/** Who wrote what stands, in words; me is who looks, nameOf gives a person's name, "" = not here. "" where it is not known. */
export function writerText(by: string | undefined, me: string, nameOf: (person: string) => string): string {
  if (by === undefined) return "";
  if (by === "") return t("att.by_system");
  if (by === me) return t("att.by_you");
  const name = nameOf(by);
  return name ? t("att.by", { name }) : t("att.by_other");
}

/** When it last got something to look at, milliseconds since 1970. */
export function sinceOf(attention: Rec): number {
  return Math.max(attention.eventMs, ...read(attention.fields).items.map((it) => it.atMs));
}

/** What happened, to what, when. */
export function attentionLine(attention: Rec, now: number): string {
  const cause = text(attention, "cause");
  const what = cause === "conflict" ? t("att.conflict") : cause === "possible_double" ? t("att.possible_double") : t("att.refused");
  const kind = text(attention, "record_kind");
  return [what, kind ? kindLabel(kind) : "", agoText(sinceOf(attention), now)].filter(Boolean).join(" · ");
}
