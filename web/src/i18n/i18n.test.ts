import { expect, test } from "vitest";
import { setLanguage, texts } from "./index.js";
import enCommon from "./en/common.js";
import enOffice from "./en/office.js";
import zhCommon from "./zh/common.js";
import zhOffice from "./zh/office.js";

const pairs: [string, Record<string, string>, Record<string, string>][] = [
  ["common", enCommon, zhCommon],
  ["office", enOffice, zhOffice],
];

const names = (text: string): string[] => [...new Set([...text.matchAll(/\{(\w+)\}/g)].map((m) => m[1] ?? ""))].sort();

test.each(pairs)("both languages say the same things: %s", (_part, en, zh) => {
  expect(Object.keys(zh).sort()).toEqual(Object.keys(en).sort());
  for (const [key, text] of Object.entries(en)) {
    expect(text, key).not.toBe("");
    expect(zh[key], key).not.toBe("");
    // The words for one may leave the number out; the words for many have the same parameters everywhere.
    expect(names(zh[key]?.split("|").at(-1) ?? ""), key).toEqual(names(text.split("|").at(-1) ?? ""));
    expect(zh[key]?.includes("|"), key).toBe(text.includes("|"));
  }
});

test("a text takes its parameters, and the words for one or for many", () => {
  const t = texts({ visits: "{n} 次拜访|{n} 次拜访", hello: "{name}，您好" }, { visits: "one visit|{n} visits", hello: "Hello {name}" });
  setLanguage("en");
  expect([t("visits", { n: 1 }), t("visits", { n: 3 }), t("hello", { name: "Li {n} | Na" })]).toEqual(["one visit", "3 visits", "Hello Li {n} | Na"]);
  setLanguage("zh-CN");
  expect([t("visits", { n: 1 }), t("hello", { name: "李娜" })]).toEqual(["1 次拜访", "李娜，您好"]);
});
