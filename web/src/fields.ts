import type { KindField } from "@satchel/client";

/** What a person typed, as the schema's type wants it; a reason why not. undefined = cleared. */
export function parse(field: Pick<KindField, "type">, typed: string): { value?: unknown; wrong?: "edit.number" | "edit.whole" } {
  const s = typed.trim();
  if (s === "") return {};
  switch (field.type) {
    case "integer":
      return /^[-+]?\d{1,15}$/.test(s) ? { value: Number(s) } : { wrong: "edit.whole" };
    case "decimal": {
      // A JavaScript number holds 15 digits; a longer one would be changed on the way.
      const plain = s.replace(/[,，\s]/g, "");
      return /^[-+]?\d+(\.\d+)?$/.test(plain) && plain.replace(/\D/g, "").length <= 15 ? { value: Number(plain) } : { wrong: "edit.number" };
    }
    case "boolean":
      return { value: s === "true" };
    case "set":
      return { value: [...new Set(s.split(/[,，;；\n]/).map((x) => x.trim()).filter((x) => x !== ""))].sort() };
    case "datetime": {
      const ms = Date.parse(s);
      return Number.isNaN(ms) ? {} : { value: new Date(ms).toISOString() };
    }
    default:
      return { value: s };
  }
}

/** What was added to a set and removed from it: two people who add one element each then both have theirs. */
export function difference(field: string, before: unknown, after: unknown): { field: string; add: string[]; remove: string[] } {
  const texts = (v: unknown): string[] => (Array.isArray(v) ? v.filter((x) => typeof x === "string") : []);
  const [old, now] = [texts(before), texts(after)];
  return { field, add: now.filter((x) => !old.includes(x)), remove: old.filter((x) => !now.includes(x)) };
}

/** A value as an input of its type shows it: the inverse of {@link parse}. */
export function typed(field: Pick<KindField, "type">, value: unknown): string {
  if (value === undefined || value === null) return "";
  switch (field.type) {
    case "set":
      return Array.isArray(value) ? value.join(", ") : "";
    case "datetime": {
      const ms = Date.parse(String(value));
      if (Number.isNaN(ms)) return "";
      // An input of type datetime-local wants the local time without a zone.
      const d = new Date(ms);
      return new Date(ms - d.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
    }
    default:
      return typeof value === "object" ? JSON.stringify(value) : String(value);
  }
}
