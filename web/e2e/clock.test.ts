import { Note } from "@satchel/client/gen/satchel/v1/sync_pb";
import type { Page } from "playwright-core";
import { expect, test } from "vitest";
import { go, installed, logVisit, office, phone, signIn, until, unsent } from "./kit.js";

/** What the verdicts that the phone keeps say beside the fate. */
async function notes(page: Page): Promise<number[]> {
  return page.evaluate(
    () =>
      new Promise<number[]>((resolve, reject) => {
        const opening = indexedDB.open("satchel");
        opening.onerror = () => reject(opening.error ?? new Error("no database"));
        opening.onsuccess = () => {
          const rows: IDBRequest<{ verdict: { notes: number[] } }[]> = opening.result.transaction("rows").objectStore("rows").getAll(IDBKeyRange.bound("verdict/", "verdict0"));
          rows.onsuccess = () => resolve(rows.result.flatMap((r) => r.verdict.notes));
        };
      }),
  );
}

const year = 365 * 24 * 3600 * 1000;

test.each([
  ["behind", -year, "rep05"],
  ["ahead", year, "rep06"],
] as const)("a phone whose clock is a year %s works, and the server knows when the visit took place", async (_, off, login) => {
  const context = await phone();
  await context.clock.install({ time: Date.now() + off });
  const page = await signIn(context, login);
  await installed(page);
  await context.setOffline(true);
  const before = Date.now();
  const id = await logVisit(page, { subject: "In another year" });
  const after = Date.now();
  await go(page, "/");
  // By the phone's own calendar it is today's.
  await page.locator("section[aria-labelledby=today-visits] a", { hasText: "In another year" }).waitFor();
  await context.setOffline(false);

  const rep = await office(login);
  const visit = await until(rep, "visit", (r) => r.id === id);
  expect(visit.eventMs).toBeGreaterThan(before - 10_000);
  expect(visit.eventMs).toBeLessThan(after + 10_000);
  await expect.poll(() => unsent(page), { timeout: 60_000 }).toBe(0);
  await expect.poll(() => page.locator(".chip").innerText()).toContain("Synced");
  expect(await notes(page)).toEqual([Note.CLOCK_OFF]);
  // It was taken as it was: nothing to look at, and still on the phone.
  expect(await page.getByText("needs a look").count()).toBe(0);
  await go(page, `/visits/${id}`);
  await page.locator("h1", { hasText: "In another year" }).waitFor();
});
