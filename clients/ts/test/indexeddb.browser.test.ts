import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Page } from "playwright-core";
import { exercise } from "../src/stores/storetest.js";
import { pace, slowness } from "./pace.js";
import { browser, type Browser } from "./page.js";
import type * as It from "./indexeddb.page.js";

declare const it: typeof It; // in the page

const page = new URL("./indexeddb.page.ts", import.meta.url).pathname;

let chromium: Browser;
let shared: Page;
beforeAll(async () => {
  chromium = await browser(page);
  shared = await chromium.tab();
});
afterAll(() => chromium.end());

describe("IndexedDB keeps the specification of a store:", () => {
  exercise(
    async () => {
      throw new Error("the sentences run in the page");
    },
    (name) => test(name, async () => expect(await shared.evaluate((n) => it.check(n), name)).toBe("")),
  );
});

test("two tabs that record at once lose nothing, and see each other's", async () => {
  const [a, b] = [await chromium.tab(), await chromium.tab()];
  for (const tab of [a, b]) await tab.evaluate(() => it.open("two"));
  await Promise.all([a.evaluate(() => it.record("a", 60)), b.evaluate(() => it.record("b", 60))]);
  for (const tab of [a, b]) await expect.poll(() => tab.evaluate(() => it.recorded().length)).toBe(120);
  expect(new Set(await a.evaluate(() => it.recorded())).size).toBe(120);
  await Promise.all([a.close(), b.close()]);
});

test("what was recorded before a tab is killed is there; the tab's turn goes to another", async () => {
  const [dying, living] = [await chromium.tab(), await chromium.tab()];
  await dying.evaluate(() => it.open("kill"));
  await dying.evaluate(() => it.record("a", 5));
  await dying.evaluate(() => it.hold());
  await living.evaluate(() => it.open("kill"));
  expect(await living.evaluate(() => it.take(300))).toBe(false);
  const session = await chromium.context.newCDPSession(dying);
  session.send("Page.crash").catch(() => undefined); // its process dies at once, without a word
  expect(await living.evaluate(() => it.take(40_000))).toBe(true);
  expect(await living.evaluate(() => it.recorded().length)).toBe(5);
  await dying.close();
  await living.close();
});

test("a turn that a frozen tab holds goes to another, a busy one's does not, and who lost it is told", async () => {
  const [frozen, busy, living] = [await chromium.tab(), await chromium.tab(), await chromium.tab()];
  await frozen.evaluate(() => it.open("frozen"));
  await living.evaluate(() => it.open("frozen"));
  await busy.evaluate(() => it.open("busy"));
  const other = await chromium.tab();
  await other.evaluate(() => it.open("busy"));
  await frozen.evaluate(() => it.hold());
  await busy.evaluate(() => it.hold());
  const silent = frozen.evaluate(() => it.freeze(40_000));
  const [taken, kept] = await Promise.all([living.evaluate(() => it.take(39_000)), other.evaluate(() => it.take(30_000))]);
  expect([taken, kept]).toEqual([true, false]);
  await living.evaluate(() => it.record("while the other was frozen", 1));
  await silent;
  await expect.poll(() => frozen.evaluate(() => [it.lost, it.recorded().length])).toEqual([true, 1]);
  expect(await busy.evaluate(() => it.lost)).toBe(false);
  await Promise.all([frozen, busy, living, other].map((tab) => tab.close()));
});

test("without Web Locks, one tab holds a turn until it gives it back or goes", async () => {
  const [first, second] = [await chromium.tab(), await chromium.tab()];
  for (const tab of [first, second]) await tab.evaluate(() => it.openOnLeases("leases"));
  expect(await first.evaluate(() => it.take(30_000))).toBe(true);
  await first.evaluate(() => it.hold());
  expect(await second.evaluate(() => it.take(1_500))).toBe(false);
  await first.goto("about:blank"); // the page says good-bye
  expect(await second.evaluate(() => it.take(30_000))).toBe(true); // a lease that nobody gives back lasts 75 s
  await Promise.all([first.close(), second.close()]);
});

test("20,000 visits open within 3 s, and a page of 300 changes is committed within 1 s", async () => {
  const tab = await chromium.tab();
  await tab.evaluate(() => it.open("many"));
  const fill = await tab.evaluate(() => it.fill(20_000));
  const slow = slowness("chromium", await tab.evaluate(pace));
  // The disk may be busy with what others write through: the best of a few tries.
  let changed = await tab.evaluate(() => it.page());
  for (let go = 1; go < 8 && changed.commit >= 1_000; go++) changed = await tab.evaluate(() => it.page());
  const one = await tab.evaluate(() => it.one());
  await tab.close();
  let open = Infinity;
  for (let go = 0; go < 8 && open >= 3_000; go++) {
    const again = await chromium.tab();
    open = Math.min(open, await again.evaluate(() => it.reopen("many")));
    await again.close();
  }
  const ms = (n: number): string => n.toFixed(1) + " ms";
  console.log(`IndexedDB: first page of 500 rows ${ms(fill)}, a page of 300 changes ${ms(changed.commit)}, scan of 20,000 ${ms(changed.scan)}, one mutation ${ms(one)}, open ${ms(open)}`);
  expect(changed.met).toBe(20_000);
  expect(changed.commit).toBeLessThan(1_000 * slow);
  expect(open).toBeLessThan(3_000 * slow);
});

test("a full disk refuses the update, keeps what was there, and takes the next when there is room", async () => {
  const small = await browser(page); // Chromium remembers an origin's room for a while
  const tab = await small.tab();
  const session = await small.context.newCDPSession(tab);
  await session.send("Storage.overrideQuotaForOrigin", { origin: new URL(tab.url()).origin, quotaSize: 40 << 20 });
  await tab.evaluate(() => it.open("full"));
  await tab.evaluate(() => it.record("kept", 3));
  const full = await tab.evaluate(() => it.full());
  expect(full).toMatchObject({ code: "storage_full", rows: 1 });
  expect(full.after).toBeGreaterThan(0);
  expect(await tab.evaluate(() => it.recorded())).toEqual(["kept-0", "kept-1", "kept-2"]);
  await small.end();
});

test("where there is no IndexedDB, or a newer version's, opening says which", async () => {
  const tab = await chromium.tab();
  await tab.evaluate(() => it.newerVersion("newer"));
  expect(await tab.evaluate(() => it.openCode("newer"))).toBe("upgrade_app");
  expect(
    await tab.evaluate(() => {
      Object.defineProperty(window, "indexedDB", { value: { open: () => { throw new DOMException("no", "SecurityError"); } } });
      return it.openCode("private");
    }),
  ).toBe("no_storage");
  await tab.close();
});

test("a tab whose database another tab deletes lets go of it, and says so at its next call", async () => {
  const [a, b] = [await chromium.tab(), await chromium.tab()];
  await a.evaluate(() => it.open("deleted"));
  await a.evaluate(() => it.record("a", 1));
  await b.evaluate(() => it.remove("deleted"));
  expect(await a.evaluate(() => it.updateCode())).toBe("closed");
  await Promise.all([a.close(), b.close()]);
});

test("the browser is asked once to keep the data, when there is first something that only this device has", async () => {
  const tab = await chromium.tab();
  const asked = await tab.evaluate(async () => {
    let times = 0;
    navigator.storage.persisted = async () => false;
    navigator.storage.persist = async () => (times++, false);
    await it.open("keep");
    await it.fill(500); // what the server has
    const before = times;
    await it.record("a", 3);
    return [before, times];
  });
  expect(asked).toEqual([0, 1]);
  await tab.close();
});
