import type { CDPSession, Page } from "playwright-core";
import { expect, inject, test } from "vitest";
import { at, disk, fillIn, go, hears, installed, logVisit, office, phone, signIn, start, until, unsent } from "./kit.js";

const megabyte = 1 << 20;

/** Says how many bytes the app may have; undefined = as many as ever. */
async function room(devtools: CDPSession, quotaSize?: number): Promise<void> {
  await devtools.send("Storage.overrideQuotaForOrigin", { origin: inject("url"), ...(quotaSize === undefined ? {} : { quotaSize }) });
}

/** A JPEG that no camera could make smaller: noise. About 2 MB. */
async function noise(page: Page): Promise<Buffer> {
  const data = await page.evaluate(() => {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 1400;
    const pen = canvas.getContext("2d");
    if (!pen) throw new Error("no canvas");
    const image = pen.createImageData(1400, 1400);
    for (let at = 0; at < image.data.length; at += 16_384) crypto.getRandomValues(new Uint8Array(image.data.buffer, at, Math.min(16_384, image.data.length - at)));
    for (let at = 3; at < image.data.length; at += 4) image.data[at] = 255;
    pen.putImageData(image, 0, 0);
    return canvas.toDataURL("image/jpeg", 0.95);
  });
  return Buffer.from(data.slice(data.indexOf(",") + 1), "base64");
}

/** Takes what room is left, as another part of the same site might. */
async function fill(page: Page): Promise<void> {
  await page.evaluate(async () => {
    const db = await new Promise<IDBDatabase>((resolve, reject) => {
      const opening = indexedDB.open("filler", 1);
      opening.onupgradeneeded = () => opening.result.createObjectStore("bytes", { autoIncrement: true });
      opening.onsuccess = () => resolve(opening.result);
      opening.onerror = () => reject(opening.error ?? new Error("no database"));
    });
    for (let size = 1 << 20; size >= 1 << 12; ) {
      const bytes = new Uint8Array(size);
      for (let at = 0; at < size; at += 4096) crypto.getRandomValues(bytes.subarray(at, at + 4096));
      const fits = await new Promise<boolean>((resolve) => {
        const tx = db.transaction("bytes", "readwrite");
        tx.oncomplete = () => resolve(true);
        tx.onabort = () => resolve(false);
        tx.objectStore("bytes").put(bytes);
      });
      if (!fits) size /= 2;
    }
    db.close();
  });
}

test("a full device says so in words, keeps all that it showed as saved, and goes on when there is room again", async () => {
  const context = await start(disk());
  const blank = await context.newPage();
  const devtools = await context.newCDPSession(blank);
  await room(devtools, 12 * megabyte);
  const page = await signIn(context, "rep07");
  await installed(page);
  await context.setOffline(true);
  const kept = await logVisit(page, { subject: "Before it was full" });
  await fill(page);

  // A visit that does not fit: nothing is shown as saved, and what was typed is still there.
  await go(page, "/visits/new");
  await page.locator("#visit-account").click();
  await page.locator("dialog.sheet [role=listitem] button").first().click();
  await page.locator("#visit-subject").fill("When it was full");
  await page.locator("#visit-summary").fill("A long story. ".repeat(10_000));
  await hears(page, "This device has no room left", () => page.locator("footer button[type=submit]").click());
  expect(new URL(page.url()).pathname).toBe("/visits/new");
  expect(await page.locator("#visit-subject").inputValue()).toBe("When it was full");

  // There is some room again, for the visit and not for its photo.
  await page.locator("#visit-summary").fill("A short story.");
  await page.locator(".file input").setInputFiles({ name: "noise.jpg", mimeType: "image/jpeg", buffer: await noise(page) });
  await page.locator(".photos img").waitFor();
  await room(devtools, (await page.evaluate(async () => (await navigator.storage.estimate()).usage ?? 0)) + megabyte / 2);
  await hears(page, "The visit is saved, but not each photo", () => page.locator("footer button[type=submit]").click());

  // The person makes room: the photo, which the form still has, goes the same way.
  await room(devtools);
  await page.locator("footer button[type=submit]").click();
  await page.waitForURL(/\/visits\/[0-9a-f-]{36}$/);
  const late = page.url().slice(-36);
  await page.goto(at("/"));
  await expect.poll(() => unsent(page)).toBe(4); // two visits, a photo's record, its bytes
  await context.setOffline(false);
  const rep = await office("rep07");
  for (const id of [kept, late]) await until(rep, "visit", (r) => r.id === id);
  await until(rep, "photo", (r) => r.fields["visit"] === late && r.fields["blob_state"] === "stored");
  expect(rep.list("visit", { where: (r) => r.fields["subject"] === "When it was full" }).length).toBe(1);
});

test("a private window works as any other while it is open, and keeps nothing afterwards", async () => {
  const context = await phone(); // off the record, as Chromium's own private windows are
  const page = await signIn(context, "rep08");
  const id = await logVisit(page, { subject: "In private" });
  await until(await office("rep08"), "visit", (r) => r.id === id);
  await context.close();
  const again = await (await phone()).newPage();
  await again.goto(at("/"));
  await again.locator("#login").waitFor();
});

test("a browser that offers no database says that it keeps nothing, and works all the same", async () => {
  const context = await phone();
  await context.addInitScript(() => {
    // As Firefox's private windows did for years.
    IDBFactory.prototype.open = () => {
      throw new DOMException("A mutation operation was attempted on a database that did not allow mutations.", "InvalidStateError");
    };
  });
  const page = await context.newPage();
  await page.goto(at("/"));
  const warning = page.getByText("This browser keeps nothing, as in a private window: what you record is lost when the window closes.");
  await warning.waitFor();
  await fillIn(page, "rep09");
  expect(await warning.isVisible()).toBe(true);
  const id = await logVisit(page, { subject: "Kept nowhere" });
  await until(await office("rep09"), "visit", (r) => r.id === id);
});
