import { ref } from "vue";

/** The languages of the app. */
export const languages = ["zh-CN", "en"] as const;
export type Language = (typeof languages)[number];

const kept = "satchel.language";

function initial(): Language {
  try {
    const chosen = localStorage.getItem(kept);
    if (chosen === "zh-CN" || chosen === "en") return chosen;
  } catch {
    // A browser that keeps nothing: its own language, then.
  }
  // Tests run without a browser.
  return (globalThis.navigator?.language ?? "en").toLowerCase().startsWith("zh") ? "zh-CN" : "en";
}

const current = ref<Language>(initial());

/** The language that is shown; reactive. */
export function language(): Language {
  return current.value;
}

/** Shows another language from now on, also after a new start where the browser keeps things. */
export function setLanguage(to: Language): void {
  current.value = to;
  try {
    localStorage.setItem(kept, to);
  } catch {
    // It holds until the page is closed.
  }
}

/** Picks between a pair of labels, such as those of a schema; the other one where the right one is empty. */
export function pick(zh: string, en: string): string {
  return (current.value === "zh-CN" ? zh || en : en || zh);
}

/**
 * Makes the function that gives the texts of a part of the app. Keys are checked by the compiler, and that both languages
 * have them. `{name}` in a text is replaced by a parameter; a text "one visit|{n} visits" is chosen by the parameter n.
 */
export function texts<K extends string>(zh: Record<K, string>, en: Record<K, string>): (key: K, params?: Record<string, string | number>) => string {
  return (key, params = {}) => {
    let text = (current.value === "zh-CN" ? zh : en)[key];
    const bar = text.indexOf("|");
    if (bar >= 0) text = params["n"] === 1 ? text.slice(0, bar) : text.slice(bar + 1);
    return text.replace(/\{(\w+)\}/g, (whole, name: string) => String(params[name] ?? whole));
  };
}
