import { expect, test } from "vitest";
import { at, disk, go, installed, kill, logVisit, office, phone, signIn, start, until, unsent } from "./kit.js";

test("an hour of work without a network survives a tab that crashes and a phone that goes out, and arrives", async () => {
  const folder = disk();
  const day = Date.now();
  const first = await start(folder);
  await first.clock.install({ time: day }); // the page's, which goes on as time does
  let page = await signIn(first, "rep01");
  await installed(page);
  await first.setOffline(true);

  // The hour: a visit, a quarter later another one, and then the tab dies in the middle of the third.
  const visits = [await logVisit(page, { subject: "Offline 1: the shelf is empty" })];
  await page.clock.fastForward("15:00");
  visits.push(await logVisit(page, { subject: "Offline 2: 新货架", summary: "两个月内到货" }));
  await page.clock.fastForward("15:00");
  await go(page, "/visits/new");
  await page.locator("#visit-subject").fill("Offline 3: typed and not saved");
  const crashed = page.waitForEvent("crash");
  const devtools = await first.newCDPSession(page);
  devtools.send("Page.crash").catch(() => undefined); // nobody answers
  await crashed;

  // Opened again, still without a network: the app comes from the device, and so does the unfinished visit.
  page = await first.newPage();
  await page.goto(at("/visits/new"));
  await expect.poll(() => page.locator("#visit-subject").inputValue()).toBe("Offline 3: typed and not saved");
  await page.locator("#visit-account").click();
  await page.locator("dialog.sheet [role=listitem] button").first().click();
  await page.locator("footer button[type=submit]").click();
  await page.waitForURL(/\/visits\/[0-9a-f-]{36}$/);
  visits.push(page.url().slice(-36));
  await go(page, "/");
  await expect.poll(() => unsent(page)).toBe(3);

  // The phone goes out at once: the browser is killed, not closed.
  await kill(first, folder);
  const second = await start(folder);
  await second.setOffline(true);
  await second.clock.install({ time: day + 45 * 60_000 });
  page = await second.newPage();
  await page.goto(at("/"));
  await expect.poll(() => unsent(page)).toBe(3);
  visits.push(await logVisit(page, { subject: "Offline 4: after the battery" }));
  await page.clock.fastForward("15:00");
  await go(page, "/unsent");
  await expect.poll(() => page.locator("main li").count()).toBe(4);
  expect(await page.locator("main").innerText()).toContain("There is no network");
  for (const n of [1, 2, 3, 4]) expect(await page.locator("main").innerText()).toContain(`Offline ${n}:`);

  // The manager has his list of visits open while the signal comes back.
  const manager = await signIn(await phone(), "manager1");
  await go(manager, "/visits");
  await manager.locator("input[type=search]").waitFor();
  await second.setOffline(false);
  const boss = await office("manager1");
  for (const id of visits) await until(boss, "visit", (r) => r.id === id);
  await go(page, "/");
  await expect.poll(() => unsent(page), { timeout: 60_000 }).toBe(0);
  await manager.locator("input[type=search]").fill("Offline");
  await manager.locator("input[type=search]").press("Enter");
  await expect.poll(() => manager.locator("[role=listitem]").count(), { timeout: 60_000 }).toBe(4);
  await expect.poll(() => manager.locator(".rows").innerText()).toContain("新货架");

  // Each once, as what the rep wrote, and none of them in the future.
  const held = boss.list("visit", { where: (r) => String(r.fields["subject"]).startsWith("Offline ") });
  expect(held.map((r) => r.id).sort()).toEqual([...visits].sort());
  expect(held.every((r) => r.eventMs >= day - 60_000 && r.eventMs <= Date.now() + 60_000)).toBe(true);
});

test("two tabs of one browser share what is recorded, and what one kills the other sends", async () => {
  const context = await phone();
  const one = await signIn(context, "rep02");
  await installed(one);
  await context.setOffline(true);
  const two = await context.newPage();
  await two.goto(at("/visits"));
  const a = await logVisit(one, { subject: "Tab one" });
  await expect.poll(() => two.locator(".rows").innerText()).toContain("Tab one");
  const b = await logVisit(two, { subject: "Tab two" });
  await go(one, "/visits");
  await expect.poll(() => one.locator(".rows").innerText()).toContain("Tab two");
  await go(one, "/");
  await expect.poll(() => unsent(one)).toBe(2);
  await one.close();
  await context.setOffline(false);
  const boss = await office("rep02");
  await until(boss, "visit", (r) => r.id === a);
  await until(boss, "visit", (r) => r.id === b);
  await go(two, "/");
  await expect.poll(() => unsent(two), { timeout: 60_000 }).toBe(0);
});
