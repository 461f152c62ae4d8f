/**
 * What was typed into an unfinished form, so that a tab that the phone closed loses no sentence. It is the person's, in
 * this browser, and goes with the visit or with what else this browser has of the person.
 */
export interface Draft {
  person: string;
  account: string;
  subject: string;
  summary: string;
  outcome: string;
  next: string;
  /** When the form was opened, milliseconds since 1970. */
  openedMs: number;
}

const key = "satchel.draft.visit";

/** Keeps it; a browser that keeps nothing does not. */
export function keepDraft(draft: Draft): void {
  try {
    localStorage.setItem(key, JSON.stringify(draft));
  } catch {
    // Then it holds as long as the form is open.
  }
}

/** The draft that this person left within the last day, or undefined. */
export function readDraft(person: string, nowMs: number): Draft | undefined {
  try {
    const read: unknown = JSON.parse(localStorage.getItem(key) ?? "null");
    if (typeof read !== "object" || read === null) return undefined;
    const r = read as Record<string, unknown>;
    const s = (name: string): string => (typeof r[name] === "string" ? r[name] : "");
    const openedMs = typeof r["openedMs"] === "number" ? r["openedMs"] : 0;
    if (s("person") !== person || nowMs - openedMs > 86_400_000) return undefined;
    return { person, account: s("account"), subject: s("subject"), summary: s("summary"), outcome: s("outcome"), next: s("next"), openedMs };
  } catch {
    return undefined;
  }
}

/** Forgets it. */
export function dropDraft(): void {
  try {
    localStorage.removeItem(key);
  } catch {
    // Nothing was kept.
  }
}
