import { SatchelError, type Rec } from "@satchel/client";
import { t } from "./i18n/common.js";
import { language, pick } from "./i18n/index.js";
import { schema } from "./satchel.js";

/** What went wrong, for the person. Never more than a sentence or two. */
export function errorText(err: unknown): string {
  if (!(err instanceof SatchelError)) return t("error.unknown");
  switch (err.code) {
    case "unavailable":
      return navigator.onLine ? t("error.unavailable") : t("error.offline");
    case "sign_in_again":
      return t("halted.sign_in_again");
    case "bad_credentials":
      return t("error.bad_credentials");
    case "device_revoked":
      return t("halted.device_revoked");
    case "upgrade_app":
      return t("halted.upgrade_app");
    case "wiped":
      return t("halted.wiped");
    case "other_person":
      return t("error.other_person");
    case "unsent":
      return t("error.unsent");
    case "too_large":
      return t("error.too_large");
    case "not_found":
      return t("error.not_found");
    case "storage_full":
      return t("error.storage_full");
    default:
      return err.userMessage || t("error.refused", { reason: err.reason || err.code });
  }
}

/** A field as text; "" where it is missing or no text. */
export function text(record: Pick<Rec, "fields"> | undefined, field: string): string {
  const value = record?.fields[field];
  return typeof value === "string" ? value : typeof value === "number" ? String(value) : "";
}

/** A field as milliseconds since 1970, of a date or a time; 0 where it is missing or none. A date is its local midnight. */
export function time(record: Pick<Rec, "fields"> | undefined, field: string): number {
  const value = text(record, field);
  const ms = Date.parse(value.length === 10 ? value + "T00:00:00" : value);
  return Number.isNaN(ms) ? 0 : ms;
}

/** A kind's name for people. */
export function kindLabel(kind: string): string {
  const known = schema.value.get(kind);
  return known ? pick(known.labelZh, known.labelEn) || kind : kind;
}

/** A field's name for people. */
export function fieldLabel(kind: string, field: string): string {
  const known = schema.value.get(kind)?.fields.find((f) => f.name === field);
  return known ? pick(known.labelZh, known.labelEn) || field : field;
}

const day = (ms: number): number => new Date(ms).setHours(0, 0, 0, 0);

/** The first millisecond of the day, in the browser's zone, `days` later. */
export function startOfDay(ms: number, days = 0): number {
  const d = new Date(day(ms));
  d.setDate(d.getDate() + days);
  return d.getTime();
}

/** A day as the schema writes dates, such as 2026-11-21, in the browser's zone. */
export function dateOf(ms: number): string {
  const d = new Date(ms);
  return `${d.getFullYear()}-${String(d.getMonth() + 1).padStart(2, "0")}-${String(d.getDate()).padStart(2, "0")}`;
}

const formats = new Map<string, Intl.DateTimeFormat>();

function format(name: string, options: Intl.DateTimeFormatOptions): Intl.DateTimeFormat {
  const key = language() + name;
  let f = formats.get(key);
  if (!f) formats.set(key, (f = new Intl.DateTimeFormat(language(), options)));
  return f;
}

/** A day in words: today, yesterday, tomorrow, else the date, with the year where it is another one. "" of 0. */
export function dayText(ms: number, now: number): string {
  if (!ms) return "";
  const away = Math.round((day(ms) - day(now)) / 86_400_000);
  if (away === 0) return t("day.today");
  if (away === -1) return t("day.yesterday");
  if (away === 1) return t("day.tomorrow");
  const sameYear = new Date(ms).getFullYear() === new Date(now).getFullYear();
  return sameYear
    ? format("day", { month: "short", day: "numeric", weekday: "short" }).format(ms)
    : format("year", { year: "numeric", month: "short", day: "numeric" }).format(ms);
}

/** A clock time, such as 14:05. "" of 0. */
export function clockText(ms: number): string {
  return ms ? format("clock", { hour: "2-digit", minute: "2-digit", hour12: false }).format(ms) : "";
}

/** A day and its time. "" of 0. */
export function timeText(ms: number, now: number): string {
  return ms ? `${dayText(ms, now)} ${clockText(ms)}` : "";
}

/** How long ago, roughly: just now, 5 minutes ago, 3 hours ago, then the day. "" of 0. */
export function agoText(ms: number, now: number): string {
  if (!ms) return "";
  const minutes = Math.floor((now - ms) / 60_000);
  if (minutes < 1) return t("ago.now");
  if (minutes < 60) return t("ago.minutes", { n: minutes });
  if (minutes < 24 * 60) return t("ago.hours", { n: Math.floor(minutes / 60) });
  return dayText(ms, now);
}
