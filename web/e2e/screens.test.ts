// Every screen in both languages: axe finds nothing serious, and a picture of it goes to var/screens, to be looked at.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import type { AxeResults } from "axe-core";
import type { BrowserContext, Page } from "playwright-core";
import { beforeAll, expect, test } from "vitest";
import { account, arrived, at, go, installed, office, phone, picture, settled, signIn, until } from "./kit.js";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const languages = ["zh-CN", "en"] as const;
type Language = (typeof languages)[number];

/** What axe says is serious or worse, one line each. */
async function findings(page: Page, rules?: string[]): Promise<string[]> {
  // The page's own policy forbids scripts from elsewhere; what a debugger evaluates is none.
  await page.evaluate(`window.axe || (() => { ${axe} })()`);
  const found = await page.evaluate(
    (only) => (window as unknown as { axe: { run(c: Document, o: object): Promise<AxeResults> } }).axe.run(document, { resultTypes: ["violations"], ...(only ? { runOnly: { type: "rule", values: only } } : {}) }),
    rules,
  );
  expect(found.passes.length, "rules that axe had something to apply to").toBeGreaterThan(0);
  return found.violations.filter((v) => v.impact === "serious" || v.impact === "critical").flatMap((v) => v.nodes.map((n) => `${v.id}: ${n.html.slice(0, 160)} — ${n.failureSummary ?? ""}`));
}

/** Looks at a screen: a picture of it, and what axe says, in light and, by its colours, in dark. */
async function look(page: Page, name: string, language: Language, dark = false): Promise<string[]> {
  await settled(page);
  await picture(page, `${name}.${language}`);
  const bad = (await findings(page)).map((x) => `${name}: ${x}`);
  // The colours are those of both languages.
  if (language !== "en") return bad;
  await page.emulateMedia({ colorScheme: "dark" });
  await arrived(page);
  if (dark) await picture(page, `${name}.dark.${language}`);
  const badInTheDark = (await findings(page, ["color-contrast"])).map((x) => `${name} in the dark: ${x}`);
  await page.emulateMedia({ colorScheme: "light" });
  return [...bad, ...badInTheDark];
}

/** What there is to see. */
let seen: { account: string; task: string; visit: string; conflict: string; refused: string; waiting: string; approved: string; notice: string };

beforeAll(async () => {
  const [rep, boss, bossToo] = [await office("rep02"), await office("manager2"), await office("manager2")];
  const customer = await account(rep, "Harbour Instruments 海港仪器", {
    industry: "medical", status: "active", region: "华东", address: "1 Harbour Road", phone: "+86 21 5555 0199", tags: ["key", "pilot"], stage: "proposal", deal_amount: 180_000,
    next_contact_on: new Date().toISOString().slice(0, 10), remark: "Wants the new shelf before the fair. 展会前要到货。",
  });
  await rep.create("contact", { account: customer, name: "王晓梅", title: "Purchasing", mobile: "+86 139 0000 1234", decision_role: "decider" });
  const b = rep.batch();
  const quote = b.create("quote", { account: customer, title: "报价 2026-11 Shelf extension", amount: 250_000, currency: "CNY", lines: [{ product: "Shelf S", quantity: 20, price: 12_500 }] });
  b.command("quote", quote, "approval.submit", {});
  const other = b.create("quote", { account: customer, title: "报价 2026-10 Spare parts", amount: 120_000, currency: "CNY" });
  b.command("quote", other, "approval.submit", {});
  await rep.record(b);
  await rep.sync();
  const waiting = await until(boss, "approval", (r) => r.fields["subject"] === quote);
  const approved = await until(boss, "approval", (r) => r.fields["subject"] === other);
  await boss.command("approval", approved.id, "approval.decide", { form_hash: approved.fields["form_hash"], decision: "approve", comment: "Good. 同意。" });
  const me = boss.identity().person;
  const task = await boss.create("task", { assignee: me, title: "Call about the fair 展会电话", account: customer, due_at: new Date(Date.now() - 3_600_000).toISOString(), priority: "high" });
  const visit = await boss.create("visit", { account: customer, subject: "陈列检查 Shelf check", summary: "The shelf is half empty.\n货架空了一半。", outcome: "follow_up", visited_at: new Date().toISOString(), satisfaction: 4, place: { lat: 31.2304, lng: 121.4737, datum: "wgs84", accuracy_m: 12 } });
  await boss.sync();
  await bossToo.sync();
  await boss.patch("account", customer, { level: "a" });
  await bossToo.patch("account", customer, { level: "d" });
  await boss.sync();
  await bossToo.sync();
  const another = await account(boss, "Lakeside Pumps 湖畔泵业");
  await boss.patch("account", another, { deal_amount: -1, remark: "Refused with the amount 一并被拒" });
  await boss.create("visit", { account: customer, satisfaction: 9, subject: "Too satisfied 满意过头" });
  await boss.sync();
  const conflict = await until(boss, "attention", (r) => r.fields["cause"] === "conflict" && r.fields["record"] === customer);
  const refused = await until(boss, "attention", (r) => r.fields["cause"] === "refused" && r.fields["record"] === another);
  await until(boss, "notice", (r) => r.fields["record"] === waiting.id);
  const notice = await until(boss, "notice", (r) => r.fields["record"] === task);
  seen = { account: customer, task, visit, conflict: conflict.id, refused: refused.id, waiting: waiting.id, approved: approved.id, notice: notice.id };
});

/** A JPEG of stripes. */
async function stripes(page: Page): Promise<Buffer> {
  const data = await page.evaluate(() => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [1200, 900];
    const pen = canvas.getContext("2d");
    for (let i = 0; pen && i < 24; i++) {
      pen.fillStyle = `hsl(${150 + i * 4} 45% ${35 + i}%)`;
      pen.fillRect(i * 50, 0, 50, 900);
    }
    return canvas.toDataURL("image/jpeg", 0.9);
  });
  return Buffer.from(data.slice(data.indexOf(",") + 1), "base64");
}

async function phoneIn(language: Language): Promise<BrowserContext> {
  return phone({ locale: language, permissions: ["geolocation"], geolocation: { latitude: 31.2304, longitude: 121.4737, accuracy: 18 } });
}

test.each(languages)("the door: axe finds nothing serious in signing in and setting up, in %s", async (language) => {
  const context = await phoneIn(language);
  const page = await context.newPage();
  const bad: string[] = [];
  await page.goto(at("/sign-in"));
  await page.locator("#login").waitFor();
  bad.push(...(await look(page, "sign-in", language, true)));
  await page.locator("form button[type=submit]").click();
  await page.locator("#login").fill("manager2");
  await page.locator("#password").fill("wrong");
  await page.locator("form button[type=submit]").click();
  await page.locator("form p[role=alert]").waitFor();
  bad.push(...(await look(page, "sign-in-wrong", language)));
  await context.setOffline(true);
  await page.locator(".strip").waitFor();
  bad.push(...(await look(page, "sign-in-offline", language)));
  await context.setOffline(false);
  await page.goto(at("/setup#setup=code"));
  await page.locator("#setup-org").waitFor();
  await page.locator("form button[type=submit]").click();
  bad.push(...(await look(page, "setup", language)));
  expect(bad).toEqual([]);
});

test.each(languages)("inside: axe finds nothing serious in any screen, in %s", async (language) => {
  const context = await phoneIn(language);
  const page = await signIn(context, "manager2");
  await installed(page);
  const bad: string[] = [];
  const screens: [name: string, path: string, dark?: boolean][] = [
    ["today", "/", true],
    ["accounts", "/accounts", true],
    ["account", `/accounts/${seen.account}`, true],
    ["account-edit", `/records/account/${seen.account}`],
    ["contact-new", `/records/contact/new?account=${seen.account}`],
    ["task", `/records/task/${seen.task}`],
    ["visits", "/visits", true],
    ["visit", `/visits/${seen.visit}`],
    ["inbox", "/inbox", true],
    ["notice", `/notices/${seen.notice}`],
    ["approvals", "/approvals"],
    ["approval-waiting", `/approvals/${seen.waiting}`, true],
    ["approval-approved", `/approvals/${seen.approved}`],
    ["attentions", "/attentions"],
    ["attention-conflict", `/attentions/${seen.conflict}`, true],
    ["attention-refused", `/attentions/${seen.refused}`, true],
    ["devices", "/devices"],
    ["unsent-nothing", "/unsent"],
    ["me", "/me", true],
  ];
  for (const [name, path, dark] of screens) {
    await go(page, path);
    bad.push(...(await look(page, name, language, dark)));
    // A screen without its record would please axe, too.
    expect(await page.locator("main").innerText(), name).not.toMatch(/not here any more|no longer|not on this device|已不在|此设备上没有|无权查看/);
  }
  await page.locator("main .form button").click();
  await page.locator("dialog.ask h2").waitFor();
  bad.push(...(await look(page, "me-sign-out", language, true)));
  await page.keyboard.press("Escape");
  expect(bad).toEqual([]);
});

test.each(languages)("logging a visit without a network: axe finds nothing serious on the way, in %s", async (language) => {
  const context = await phoneIn(language);
  const page = await signIn(context, "rep02");
  await installed(page);
  await context.setOffline(true);
  const bad: string[] = [];
  await go(page, "/visits/new");
  bad.push(...(await look(page, "log-visit-empty", language, true)));
  await page.locator("footer button[type=submit]").click();
  bad.push(...(await look(page, "log-visit-missing", language)));
  await page.locator("#visit-account").click();
  bad.push(...(await look(page, "log-visit-account", language, true)));
  await page.locator("dialog.sheet [role=listitem] button").first().click();
  await page.locator("#visit-subject").fill(language === "en" ? "Autumn shelves" : "秋季陈列");
  await page.locator("#visit-summary").fill(language === "en" ? "They want twenty more by May." : "五月前还要二十个。");
  await page.locator(".choice").first().click();
  await page.locator(".chip-button").nth(1).click();
  await page.locator(".file input").setInputFiles({ name: "shelf.jpg", mimeType: "image/jpeg", buffer: await stripes(page) });
  await page.locator(".photos img").waitFor();
  const talk = page.locator("button.talk");
  await talk.scrollIntoViewIfNeeded();
  const box = (await talk.boundingBox()) ?? expect.fail("there is no button");
  await page.mouse.move(box.x + 50, box.y + 20);
  await page.mouse.down();
  await expect.poll(() => page.locator(".talk-time").textContent()).toMatch(/0:0[2-9]/);
  await picture(page, `log-visit-speaking.${language}`);
  await page.mouse.up();
  await page.locator(".voices audio").waitFor();
  await page.locator("#visit-account").scrollIntoViewIfNeeded();
  bad.push(...(await look(page, "log-visit-top", language)));
  await page.locator(".place").scrollIntoViewIfNeeded();
  bad.push(...(await look(page, "log-visit-foot", language)));
  await page.locator("footer button[type=submit]").click();
  await page.waitForURL(/\/visits\/[0-9a-f-]{36}$/);
  await page.locator("main .photos img").waitFor();
  bad.push(...(await look(page, "visit-pending", language, true)));
  await go(page, "/unsent");
  bad.push(...(await look(page, "unsent", language, true)));
  await go(page, "/");
  bad.push(...(await look(page, "today-offline", language)));
  await go(page, "/devices");
  bad.push(...(await look(page, "devices-offline", language)));
  await go(page, "/me");
  await page.locator("main .form button").click();
  bad.push(...(await look(page, "me-unsent", language)));
  expect(bad).toEqual([]);
});

test.each(languages)("a private window and a session that has ended: axe finds nothing serious, in %s", async (language) => {
  const context = await phoneIn(language);
  await context.addInitScript(() => {
    IDBFactory.prototype.open = () => {
      throw new DOMException("A mutation operation was attempted on a database that did not allow mutations.", "InvalidStateError");
    };
  });
  const page = await signIn(context, "rep03");
  const bad = await look(page, "private", language, true);
  const rep = await office("rep03");
  const { DeviceService } = await import("@satchel/client/gen/satchel/v1/device_pb");
  const { createClient } = await import("@connectrpc/connect");
  const { createConnectTransport } = await import("@connectrpc/connect-web");
  const devices = createClient(DeviceService, createConnectTransport({ baseUrl: at("") }));
  const { devices: all } = await rep.call((headers, signal) => devices.listDevices({}, { headers, signal }));
  for (const d of all) if (d.id !== rep.identity().device && !d.revokedMs) await rep.call((headers, signal) => devices.revokeDevice({ deviceId: d.id }, { headers, signal }));
  await page.evaluate(() => dispatchEvent(new Event("online"))); // else it learns of it within half a minute
  await page.locator(".strip .strip-do").waitFor();
  bad.push(...(await look(page, "revoked", language, true)));
  expect(bad).toEqual([]);
});
