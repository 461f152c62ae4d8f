import { expect, test } from "vitest";
import type { Rec } from "@satchel/client";
import { setLanguage } from "../i18n/index.js";
import { templates } from "../satchel.js";
import { noticeText } from "./notices.js";

const notice = (template: string): Rec => ({ id: "n1", kind: "notice", rev: "1", fields: { template, record_kind: "visit" }, author: "", eventMs: 0, pending: false });

test("a notice says what the organisation's own template says, in the language that is shown", () => {
  templates.value = new Map([["price_rise", { name: "price_rise", textZh: "有一份报价需要更新。", textEn: "A quote needs new prices." }]]);
  setLanguage("en");
  expect(noticeText(notice("price_rise"))).toBe("A quote needs new prices.");
  setLanguage("zh-CN");
  expect(noticeText(notice("price_rise"))).toBe("有一份报价需要更新。");
});

test("a notice whose template the organisation no longer has says what it is about", () => {
  templates.value = new Map();
  setLanguage("en");
  expect(noticeText(notice("price_rise"))).toBe("News about: visit");
});
