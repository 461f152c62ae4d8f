import { expect, test } from "vitest";
import { at, go, hears, installed, logVisit, office, phone, signIn, until } from "./kit.js";

test("a revoked device says so, keeps what was not sent, and sends it after the person signs in again", async () => {
  const context = await phone();
  const page = await signIn(context, "rep10");
  await installed(page);
  // From a second phone, by the list of devices.
  const other = await signIn(await phone(), "rep10");
  await context.setOffline(true);
  const id = await logVisit(page, { subject: "Behind the office's back" });
  await go(other, "/devices");
  const lines = other.locator("li.line");
  await lines.first().waitFor();
  await other.locator("li.line button").first().click();
  await hears(other, "is revoked.", () => other.getByRole("dialog").getByRole("button", { name: "Revoke" }).click());
  await context.setOffline(false);

  await page.getByText("The office revoked this device. What is not sent is kept here; sign in again to go on.").waitFor();
  await page.getByRole("link", { name: "Sign in" }).click();
  await page.locator("#login").fill("rep10");
  await page.locator("#password").fill("satchel-demo");
  await page.locator("form button[type=submit]").click();
  const rep = await office("rep10");
  await until(rep, "visit", (r) => r.id === id);
});

test("who signs out leaves no data in the browser, and cannot while something is unsent", async () => {
  const context = await phone();
  const page = await signIn(context, "rep11");
  await installed(page);
  await context.setOffline(true);
  await logVisit(page, { subject: "Not sent" });
  await go(page, "/me");
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByText("one change is only on this device").waitFor();
  await page.getByRole("dialog").getByRole("button", { name: "Cancel" }).click();
  await context.setOffline(false);
  await expect.poll(() => page.locator(".chip").innerText(), { timeout: 60_000 }).toContain("Synced");
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Sign out" }).click();
  await page.locator("#login").waitFor();
  const left = await page.evaluate(
    () =>
      new Promise<string[]>((resolve, reject) => {
        const opening = indexedDB.open("satchel");
        opening.onerror = () => reject(opening.error ?? new Error("no database"));
        opening.onsuccess = () => {
          const keys = opening.result.transaction("rows").objectStore("rows").getAllKeys();
          keys.onsuccess = () => resolve(keys.result.map(String));
        };
      }),
  );
  expect(left.filter((key) => !key.startsWith("meta/"))).toEqual([]);
  await page.goto(at("/visits"));
  await page.locator("#login").waitFor();
});
