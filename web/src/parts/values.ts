import { t } from "../i18n/office.js";
import { language } from "../i18n/index.js";
import { schema, sdk } from "../satchel.js";
import { dayText, fieldLabel, kindLabel, timeText } from "../words.js";
import { choiceText } from "../choices.js";
import { ownName, type Names } from "./ops.js";

/** The name of a record as the device shows it, and of an approval or attention that of what it is about; "" = not here. */
export function titleOf(kind: string, id: string): string {
  const record = id === "" || kind === "" ? undefined : sdk().get(kind, id);
  if (!record) return "";
  const f = record.fields;
  if (kind === "approval") {
    const form = f["form"];
    const frozen = typeof form === "object" && form !== null ? ownName({ ...form }) : "";
    return frozen || titleOf("quote", String(f["subject"] ?? ""));
  }
  if (kind === "attention") return titleOf(String(f["record_kind"] ?? ""), String(f["record"] ?? ""));
  // What has no name of its own, such as a photo, is known by what it hangs under.
  return ownName(f) || titleOf("visit", String(f["visit"] ?? ""));
}

/** A person's name; "" = not known here. */
export function personName(id: unknown): string {
  return typeof id === "string" ? titleOf("person", id) : "";
}

/** How things are called on this device. */
export const names: Names = { kind: kindLabel, field: fieldLabel, title: titleOf };

/** A value of a field for people; "" where there is none. */
export function valueText(kind: string, field: string, value: unknown, now: number): string {
  if (value === null || value === undefined || value === "") return "";
  const info = schema.value.get(kind)?.fields.find((f) => f.name === field);
  if (typeof value === "boolean") return t(value ? "value.yes" : "value.no");
  if (typeof value === "number") return new Intl.NumberFormat(language(), { maximumFractionDigits: 6 }).format(value);
  if (typeof value === "string") return ofText(info?.type ?? "", info?.target ?? "", kind, field, value, now);
  if (Array.isArray(value)) return value.map((v) => (typeof v === "object" && v !== null ? lineText(v) : String(v))).join(info?.type === "set" && language() === "zh-CN" ? "、" : info?.type === "set" ? ", " : "\n");
  return lineText(value);
}

function ofText(type: string, target: string, kind: string, field: string, value: string, now: number): string {
  switch (type) {
    case "date":
      return dayText(Date.parse(`${value}T00:00:00`) || 0, now) || value;
    case "datetime":
      return timeText(Date.parse(value) || 0, now) || value;
    case "choice":
      return choiceText(kind, field, value);
    case "reference":
      return titleOf(target, value) || t("value.record");
    default:
      return value;
  }
}

/** Tells whether a field holds sentences, which want the whole width. */
export function isLong(kind: string, field: string): boolean {
  return schema.value.get(kind)?.fields.find((f) => f.name === field)?.type === "long_text";
}

/** An object in one line: a place, a line of a quote. */
function lineText(value: object): string {
  const v: Record<string, unknown> = { ...value };
  if (typeof v["lat"] === "number" && typeof v["lng"] === "number") {
    const about = typeof v["accuracy_m"] === "number" ? ` ${t("value.accuracy", { n: Math.round(v["accuracy_m"]) })}` : "";
    return `${v["lat"].toFixed(5)}, ${v["lng"].toFixed(5)}${about}`;
  }
  const number = (n: unknown): string => (typeof n === "number" ? new Intl.NumberFormat(language(), { maximumFractionDigits: 6 }).format(n) : String(n));
  const { quantity, price, ...others } = v;
  const words = Object.values(others).filter((x) => x !== null && typeof x !== "object").sort((a, b) => Number(typeof a === "number") - Number(typeof b === "number")).map(number);
  const sum = [quantity, price].filter((x) => x !== undefined && x !== null).map(number).join(" × ");
  return [...words, sum].filter(Boolean).join(" · ");
}
