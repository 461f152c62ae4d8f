// What the files share: browsers of phone's size, what a person does with the app, and the office's side by the SDK.
import { mkdirSync, mkdtempSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { Client, type Fields, type Rec } from "@satchel/client";
import { memoryStore } from "@satchel/client/memory";
import { chromium, type Browser, type BrowserContext, type BrowserContextOptions, type Page } from "playwright-core";
import { afterAll, afterEach, expect, inject } from "vitest";

/** Of the demo company. */
export const password = "satchel-demo";

const executablePath = process.env["CHROMIUM"] ?? "/usr/bin/chromium";

/** A tab that asks for a camera, a microphone or the place gets made-up ones; the microphone hears voice.wav. */
const args = (): string[] => ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", `--use-file-for-fake-audio-capture=${join(inject("folder"), "voice.wav")}`];

/** A time zone in which it is about noon: no test meets midnight, and today is as long whenever it runs. */
function noon(): string {
  const ahead = 12 - new Date().getUTCHours(); // hours
  return ahead === 0 ? "Etc/GMT" : `Etc/GMT${ahead > 0 ? "-" : "+"}${Math.abs(ahead)}`; // these names count the other way round
}

/** A phone of 390 × 844. */
export const phoneOptions: BrowserContextOptions = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true, locale: "en-US", timezoneId: noon() };

let browser: Promise<Browser> | undefined;
const open = new Set<BrowserContext>();
const ends: (() => Promise<unknown>)[] = [];

afterEach(async ({ task }) => {
  if (task.result?.state === "fail") await failed(task.name);
  for (const end of ends.splice(0).reverse()) await end();
});
afterAll(async () => (await browser)?.close());

/** Runs at the end of the test. */
export function atEnd(fn: () => Promise<unknown>): void {
  ends.push(fn);
}

/** A phone of its own, which the end of the test takes away: nothing of it is on a disk. */
export async function phone(options: BrowserContextOptions = {}): Promise<BrowserContext> {
  const context = await (await (browser ??= chromium.launch({ executablePath, args: args() }))).newContext({ ...phoneOptions, ...options });
  atEnd(() => context.close());
  return calm(context);
}

/** A phone whose browser may end and be started again with what it kept: a folder of its own is its disk. */
export function disk(): string {
  return mkdtempSync(join(inject("folder"), "phone-"));
}

/** Starts a browser on such a disk. */
export async function start(folder: string, options: BrowserContextOptions = {}): Promise<BrowserContext> {
  const context = await chromium.launchPersistentContext(folder, { executablePath, args: args(), ...phoneOptions, ...options });
  atEnd(() => context.close());
  return calm(context);
}

/** Ends the browser of a disk as a battery does: it closes nothing. */
export async function kill(context: BrowserContext, folder: string): Promise<void> {
  const gone = new Promise((resolve) => context.once("close", resolve));
  // Chromium says in its profile who it is: "host-pid".
  process.kill(Number(readlinkSync(join(folder, "SingletonLock")).split("-").at(-1)), "SIGKILL");
  await gone;
}

/** Pictures of what a failed test had open, into var/screens/failed. */
async function failed(name: string): Promise<void> {
  const folder = join(screens, "failed");
  mkdirSync(folder, { recursive: true });
  const pages = [...open].flatMap((c) => c.pages());
  await Promise.all(pages.map((p, i) => p.screenshot({ path: join(folder, `${name.replace(/\W+/g, "-").slice(0, 80)}-${i}.png`), timeout: 5_000 }).catch(() => undefined)));
}

/** The machine may be busy: a person waits. */
function calm(context: BrowserContext): BrowserContext {
  open.add(context);
  context.once("close", () => open.delete(context));
  context.setDefaultTimeout(60_000);
  return context;
}

/** The app's address. */
export function at(path: string): string {
  return inject("url") + path;
}

/** Signs in and waits until the data are there. Gives the page, which shows today. */
export async function signIn(context: BrowserContext, login: string): Promise<Page> {
  const page = await context.newPage();
  await page.goto(at("/"));
  await fillIn(page, login);
  return page;
}

/** The sign-in form: filled in, sent, and the first sync awaited. */
export async function fillIn(page: Page, login: string): Promise<void> {
  await page.locator("#login").fill(login);
  await page.locator("#password").fill(password);
  await page.locator("form button[type=submit]").click();
  await page.locator(".hello").waitFor();
  await expect.poll(() => page.locator(".chip").textContent(), { timeout: 60_000 }).toMatch(/Synced|已同步/);
}

/** Awaits that the service worker has the whole app, so that it opens without a network. */
export async function installed(page: Page): Promise<void> {
  await page.evaluate(async () => {
    await navigator.serviceWorker.ready;
    while (!navigator.serviceWorker.controller) await new Promise((resolve) => setTimeout(resolve, 50));
  });
}

/** Goes to a screen within the app, without loading the page anew. */
export async function go(page: Page, path: string): Promise<void> {
  await page.evaluate((to) => {
    // As vue-router writes it; it hears of no other way from outside than the browser's own.
    const state = { back: location.pathname, current: to, forward: null, position: history.length, replaced: false, scroll: null };
    history.pushState(state, "", to);
    dispatchEvent(new PopStateEvent("popstate", { state }));
  }, path);
}

/** What a person enters when a visit is logged. */
export interface Visit {
  subject: string;
  summary?: string;
}

/** Logs a visit at the first account that the sheet offers; more is done while the form is open. It ends on the visit's page. */
export async function logVisit(page: Page, visit: Visit, more?: () => Promise<void>): Promise<string> {
  await go(page, "/visits/new");
  await page.locator("#visit-account").click();
  await page.locator("dialog.sheet [role=listitem] button").first().click();
  await page.locator("#visit-subject").fill(visit.subject);
  if (visit.summary) await page.locator("#visit-summary").fill(visit.summary);
  await more?.();
  await page.locator("footer button[type=submit]").click();
  await page.waitForURL(/\/visits\/[0-9a-f-]{36}$/);
  return page.url().slice(-36);
}

/** Does something after which the app says a sentence for a few seconds, and hears it; a busy machine looks rarely from outside. */
export async function hears(page: Page, sentence: string, act: () => Promise<unknown>): Promise<void> {
  const heard = page.waitForFunction((s) => document.querySelector(".said")?.textContent?.includes(s) === true, sentence);
  await Promise.all([heard, act()]);
}

/** How many mutations and files the chip in the corner says are unsent; the page must show one. */
export async function unsent(page: Page): Promise<number> {
  const words = (await page.locator(".chip").textContent()) ?? "";
  if (/one to send/.test(words)) return 1;
  return Number(/(\d+) to send/.exec(words)?.[1] ?? 0);
}

/** Somebody's other device, here in Node: how the tests ask the server. */
export async function office(login: string): Promise<Client> {
  const c = await Client.open({ baseUrl: inject("url"), store: memoryStore() });
  atEnd(() => c.close());
  await c.signIn({ login, password, platform: "web", deviceName: `${login} at the office` });
  await c.sync();
  return c;
}

/** Syncs until a record is as wanted, for a minute at most, and gives it. */
export async function until(c: Client, kind: string, wanted: (r: Rec) => boolean): Promise<Rec> {
  const stop = AbortSignal.timeout(60_000);
  for (;;) {
    await c.sync();
    const found = c.list(kind, { where: wanted })[0];
    if (found) return found;
    // The server wakes a device for which there is something; what a job of the server does may come without a wake.
    const pause = AbortSignal.any([stop, AbortSignal.timeout(1_000)]);
    await c.wait(pause).catch(() => undefined);
    if (stop.aborted) return expect.fail(`no such ${kind} after a minute: ${wanted}`);
  }
}

/** A new account of somebody's, known to the server. */
export async function account(c: Client, name: string, more: Fields = {}): Promise<string> {
  const id = await c.create("account", { owner: c.identity().person, name, level: "c", ...more });
  await c.sync();
  return id;
}

/**
 * What the main thread worked for each frame that it made while fn ran, by the browser's own trace: milliseconds of the
 * processor, so that what other programs take from this one does not count. A slowed down CPU does.
 */
export async function work(page: Page, fn: () => Promise<unknown>): Promise<number[]> {
  const from = page.context().browser() ?? expect.fail("the browser of a disk cannot be traced");
  await from.startTracing(page, { categories: ["toplevel", "devtools.timeline", "disabled-by-default-devtools.timeline"] });
  let trace: Buffer = Buffer.alloc(0);
  try {
    await fn();
  } finally {
    trace = await from.stopTracing();
  }
  const events = (JSON.parse(trace.toString()) as { traceEvents: { name: string; ph: string; pid: number; tid: number; ts: number; dur?: number; tdur?: number }[] }).traceEvents;
  // Each frame is handed over by a Commit, in one of the tasks of the thread: all tasks since the last Commit worked for it.
  const thread = (e: { pid: number; tid: number }): string => `${e.pid} ${e.tid}`;
  const commits = events.filter((e) => e.name === "Commit" && e.ph === "X");
  const main = commits[0] ? thread(commits[0]) : expect.fail("no frame was made");
  const tasks = events.filter((e) => thread(e) === main && e.name === "RunTask" && e.ph === "X").sort((a, b) => a.ts - b.ts);
  const ends = commits.filter((e) => thread(e) === main).map((e) => e.ts).sort((a, b) => a - b);
  const out: number[] = [];
  let sum = 0;
  for (const task of tasks) {
    sum += (task.tdur ?? task.dur ?? 0) / 1000;
    let made = false;
    while (ends[0] !== undefined && ends[0] <= task.ts + (task.dur ?? 0)) made = ends.shift() !== undefined;
    if (made) out.push(sum);
    if (made) sum = 0;
  }
  return out;
}

/** Where pictures go. */
const screens = new URL("../../var/screens/", import.meta.url).pathname;

/** A picture of what the phone shows. */
export async function picture(page: Page, name: string): Promise<void> {
  mkdirSync(screens, { recursive: true });
  await page.screenshot({ path: join(screens, `${name}.png`) });
}

/** Awaits that no colour and no place is on its way to another: axe would take it for what it is in between. */
export async function arrived(page: Page): Promise<void> {
  await page.evaluate(async () => {
    for (let still = 0; still < 2; ) {
      await new Promise(requestAnimationFrame);
      const moving = document.getAnimations().filter((a) => a instanceof CSSTransition);
      await Promise.allSettled(moving.map((a) => a.finished));
      still = moving.length ? 0 : still + 1;
    }
  });
}

/** Awaits that nothing in the page has changed for a quarter of a second. */
export async function settled(page: Page): Promise<void> {
  await page.evaluate(
    () =>
      new Promise<void>((resolve) => {
        const done = (): void => {
          observer.disconnect();
          clearTimeout(most);
          resolve();
        };
        let timer = setTimeout(done, 250);
        const most = setTimeout(done, 5_000);
        const observer = new MutationObserver(() => {
          clearTimeout(timer);
          timer = setTimeout(done, 250);
        });
        observer.observe(document, { childList: true, subtree: true, characterData: true });
      }),
  );
  await arrived(page);
}
