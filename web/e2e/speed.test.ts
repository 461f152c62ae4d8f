// How fast the app is on a slow phone: a CPU of a quarter, and a network of 1.6 Mbit/s down, 750 kbit/s up and 150 ms.
//
// A machine that is busy with other work is slow for reasons of its own; so each figure is the best of many tries, and the
// test ends with the first that is good enough. A machine that is slow itself is slowed down less: the phone is the same.
import type { CDPSession, Page } from "playwright-core";
import { expect, test } from "vitest";
import { pace, slowness } from "../../clients/ts/test/pace.js";
import { account, at, go, installed, office, phone, signIn, work } from "./kit.js";

/** On the machine where the limits were set. */
const slowdown = 4;
/** Milliseconds for which a figure is tried again: longer than what keeps a machine busy. */
const patienceMs = 90_000;
/** Bytes that may travel until the first screen can be used. */
const mostBytes = 250 * 1024;
/** Milliseconds until it can be used. */
const mostMs = 2000;
const visits = 20_000;
/** A screen of 60 Hz shows a frame each 16.7 ms: making one may take so long. */
const frameMs = 16;

/** Measures again until it is good or patience ends, and gives the best. */
async function best<T>(measure: () => Promise<T>, cost: (found: T) => number, good: number): Promise<T> {
  const end = Date.now() + patienceMs;
  let found = await measure();
  while (cost(found) > good && Date.now() < end) {
    const other = await measure();
    if (cost(other) < cost(found)) found = other;
  }
  return found;
}

async function slowNetwork(devtools: CDPSession): Promise<void> {
  await devtools.send("Network.enable");
  await devtools.send("Network.emulateNetworkConditions", { offline: false, latency: 150, downloadThroughput: 1_600_000 / 8, uploadThroughput: 750_000 / 8 });
}

let quickest = Infinity;

/** Makes the page's CPU that of the phone, and gives how many times slower it is now. The page is not slowed down yet. */
async function slowCPU(page: Page, devtools: CDPSession): Promise<string> {
  quickest = Math.min(quickest, await page.evaluate(pace)); // what keeps the machine busy only makes it slower
  const rate = Math.max(1, slowdown / slowness("chromium", quickest));
  await devtools.send("Emulation.setCPUThrottlingRate", { rate });
  return `${rate.toFixed(1)}× CPU`;
}

/** From typing the address to a letter that a person typed into the form; nothing is in any cache. */
async function firstVisit(): Promise<{ ms: number; bytes: number; requests: number; cpu: string }> {
  const context = await phone();
  const page = await context.newPage();
  const devtools = await context.newCDPSession(page);
  await slowNetwork(devtools);
  const cpu = await slowCPU(page, devtools);
  await devtools.send("Network.setExtraHTTPHeaders", { headers: { "Accept-Encoding": "gzip" } });
  let bytes = 0;
  let requests = 0;
  devtools.on("Network.loadingFinished", (e) => {
    bytes += e.encodedDataLength; // with the heads
    requests++;
  });
  await page.addInitScript(() => {
    addEventListener("input", () => ((window as { typedAt?: number }).typedAt ??= performance.now()), { capture: true });
    // The person's finger is there as soon as the form is.
    new MutationObserver((_, me) => {
      const login = document.getElementById("login");
      if (!login) return;
      me.disconnect();
      login.focus();
    }).observe(document, { childList: true, subtree: true });
  });
  await page.goto(at("/"), { waitUntil: "commit" });
  await page.waitForFunction(() => document.activeElement?.id === "login");
  await page.keyboard.type("r");
  await expect.poll(() => page.locator("#login").inputValue()).toBe("r");
  const ms = await page.evaluate(() => (window as { typedAt?: number }).typedAt ?? Infinity);
  await context.close();
  return { ms: Math.round(ms), bytes, requests, cpu };
}

test("the first screen travels in at most 250 KB gzip and can be typed into within 2 seconds", { timeout: 240_000 }, async () => {
  const found = await best(firstVisit, (f) => f.ms, mostMs);
  console.log(`first visit, cold cache, ${found.cpu}, 1.6 Mbit/s, 150 ms: ${found.ms} ms to the first typed letter; ${(found.bytes / 1024).toFixed(1)} KB gzip in ${found.requests} requests`);
  expect(found.requests).toBeGreaterThan(3);
  expect(found.bytes).toBeLessThanOrEqual(mostBytes);
  expect(found.ms).toBeLessThanOrEqual(mostMs);
});

/** Writes visits into the app's store while no tab of it is open: copies of the first, 25 minutes apart, up to now. */
async function seed(page: Page): Promise<void> {
  await page.goto(at("/icon.svg"));
  await page.evaluate(async (count) => {
    const db = await new Promise<IDBDatabase>((resolve, reject) => {
      const opening = indexedDB.open("satchel");
      opening.onsuccess = () => resolve(opening.result);
      opening.onerror = () => reject(opening.error ?? new Error("no database"));
    });
    const tx = db.transaction(["rows", "state"], "readwrite");
    const rows = tx.objectStore("rows");
    const first = await new Promise<{ fields: string; eventMs: number; id: string }>((resolve) => {
      rows.get(IDBKeyRange.bound("record/visit/", "record/visit0")).onsuccess = (e) => resolve((e.target as IDBRequest).result);
    });
    const fields = JSON.parse(first.fields);
    const now = Date.now();
    for (let i = 0; i < count; i++) {
      const id = `019a0000-0000-7000-8000-${String(i).padStart(12, "0")}`;
      const eventMs = now - i * 1_500_000;
      rows.put({ ...first, id, eventMs, fields: JSON.stringify({ ...fields, subject: `Visit number ${i}`, visited_at: new Date(eventMs).toISOString() }) }, `record/visit/${id}`);
    }
    const state = tx.objectStore("state");
    state.get("generation").onsuccess = (e) => state.put((e.target as IDBRequest<number>).result + 1, "generation");
    await new Promise((resolve, reject) => {
      tx.oncomplete = resolve;
      tx.onabort = () => reject(tx.error ?? new Error("not written"));
    });
    db.close();
  }, visits);
}

test(`with ${visits} visits on the device, today can be used within 2 seconds, and their list scrolls without late frames`, { timeout: 360_000 }, async () => {
  const rep = await office("rep12"); // one visit at least, however old the demo company's are
  await rep.create("visit", { account: await account(rep, "Speed Ltd"), subject: "Shelf check", summary: "The shelf is half empty.", outcome: "follow_up", visited_at: new Date().toISOString() });
  await rep.sync();
  const context = await phone();
  const page = await signIn(context, "rep12");
  await installed(page);
  await context.setOffline(true);
  await seed(page);
  await page.addInitScript(() => {
    // Today is there when it shows today's visits; and it can be used when the browser has time for something else.
    new MutationObserver((_, me) => {
      if (!document.querySelector("section[aria-labelledby=today-visits] a")) return;
      me.disconnect();
      requestAnimationFrame(() => setTimeout(() => ((window as { usableAt?: number }).usableAt = performance.now())));
    }).observe(document, { childList: true, subtree: true });
  });
  const devtools = await context.newCDPSession(page);
  const cpu = await slowCPU(page, devtools);
  const ms = await best(
    async () => {
      await page.goto(at("/"), { waitUntil: "commit" });
      await page.waitForFunction(() => (window as { usableAt?: number }).usableAt !== undefined);
      return page.evaluate(() => Math.round((window as { usableAt?: number }).usableAt ?? Infinity));
    },
    (x) => x,
    mostMs,
  );
  console.log(`today, from the device, ${cpu}, ${visits} visits: ${ms} ms`);
  expect(ms).toBeLessThanOrEqual(mostMs);

  await go(page, "/visits");
  await page.locator("[role=listitem]").first().waitFor();
  expect(await page.locator("[role=listitem]").first().getAttribute("aria-setsize")).toMatch(/^20\d{3}$/);
  const found = await best(() => scroll(page, devtools), (f) => f.work95, frameMs);
  console.log(
    `scrolling ${visits} visits by touch, ${cpu}, ${found.frames} frames: a frame takes the main thread ${found.work50.toFixed(1)} ms (median), ${found.work95.toFixed(1)} ms (p95), ` +
      `${found.work.toFixed(1)} ms (longest) of the processor; by the clock ${found.gap95.toFixed(1)} ms pass between two frames (p95), and ${found.late} came later than 17.5 ms`,
  );
  expect(found.frames).toBeGreaterThan(60);
  expect(found.rows).toBeGreaterThan(60);
  expect(found.work95).toBeLessThanOrEqual(frameMs);
});

/** What a scroll by a finger costs. Milliseconds. */
interface Scroll {
  frames: number;
  /** Rows that went by. */
  rows: number;
  /** The main thread's work for one frame, in time of the processor: half of them, 95 % of them are below; the longest. */
  work50: number;
  work95: number;
  work: number;
  /** Time from frame to frame, by requestAnimationFrame: 16.7 at 60 Hz when no frame is late. */
  gap95: number;
  late: number;
}

/** Swipes of one measurement. */
const swipes = 12;

/** A finger that wipes up or down the screen in about a third of a second. */
async function swipe(devtools: CDPSession, from: number, to: number): Promise<void> {
  const steps = 20;
  const touch = (type: "touchStart" | "touchMove" | "touchEnd", y?: number): Promise<unknown> => devtools.send("Input.dispatchTouchEvent", { type, touchPoints: y === undefined ? [] : [{ x: 195, y }] });
  await touch("touchStart", from);
  for (let i = 1; i <= steps; i++) {
    await touch("touchMove", from + ((to - from) * i) / steps);
    await new Promise((resolve) => setTimeout(resolve, 16));
  }
  await touch("touchEnd");
}

async function scroll(page: Page, devtools: CDPSession): Promise<Scroll> {
  const top = (): Promise<number> => page.locator(".scroll").evaluate((box) => box.scrollTop);
  const from = await top();
  await page.evaluate(() => {
    const gaps: number[] = [];
    (window as { gaps?: number[] }).gaps = gaps;
    let last = 0;
    const tick = (at: number): void => {
      if (last) gaps.push(at - last);
      last = at;
      if ((window as { gaps?: number[] }).gaps === gaps) requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  });
  const costs = await work(page, async () => {
    for (let n = 0; n < swipes; n++) await swipe(devtools, 700, 200);
  });
  const gaps = await page.evaluate(() => {
    const all = (window as { gaps?: number[] }).gaps ?? [];
    delete (window as { gaps?: number[] }).gaps;
    return all;
  });
  const at = (list: number[], share: number): number => [...list].sort((a, b) => a - b)[Math.min(list.length - 1, Math.floor(list.length * share))] ?? Infinity;
  return { frames: costs.length, rows: Math.round(((await top()) - from) / 68), work50: at(costs, 0.5), work95: at(costs, 0.95), work: Math.max(...costs), gap95: at(gaps, 0.95), late: gaps.filter((g) => g > 17.5).length };
}
