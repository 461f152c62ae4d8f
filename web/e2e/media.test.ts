import type { Page } from "playwright-core";
import { expect, test } from "vitest";
import { go, installed, logVisit, office, phone, signIn, until, unsent } from "./kit.js";

/** Presses the button for a voice note until its clock shows two seconds. */
async function speak(page: Page): Promise<void> {
  const button = page.locator("button.talk");
  await button.scrollIntoViewIfNeeded();
  const box = (await button.boundingBox()) ?? expect.fail("there is no button");
  await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
  await page.mouse.down();
  await expect.poll(() => page.locator(".talk-time").textContent()).toMatch(/0:0[2-9]/);
  await page.mouse.up();
  await page.locator(".voices audio").waitFor();
}

/** A photo as a camera makes it: a real JPEG, wider than what is kept. */
async function photo(page: Page): Promise<Buffer> {
  const data = await page.evaluate(() => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [3000, 2000];
    const pen = canvas.getContext("2d");
    if (!pen) throw new Error("no canvas");
    for (let i = 0; i < 60; i++) {
      pen.fillStyle = `hsl(${i * 6} 80% ${30 + i}%)`;
      pen.fillRect(i * 50, (i % 7) * 200, 900, 700);
    }
    return canvas.toDataURL("image/jpeg", 0.9);
  });
  return Buffer.from(data.slice(data.indexOf(",") + 1), "base64");
}

test("a photo, a voice note and the place of an offline visit arrive: the manager sees the photo and hears the voice", async () => {
  const context = await phone({ permissions: ["geolocation"], geolocation: { latitude: 31.2304, longitude: 121.4737, accuracy: 12 } });
  const page = await signIn(context, "rep01");
  await installed(page);
  await context.setOffline(true);
  const id = await logVisit(page, { subject: "With pictures and sound" }, async () => {
    await page.locator(".file input").setInputFiles({ name: "shelf.jpg", mimeType: "image/jpeg", buffer: await photo(page) });
    await page.locator(".photos img").waitFor();
    await speak(page);
    await page.getByText("Place taken, within 12 m").waitFor();
  });
  // Saved at once and shown from the device.
  await expect.poll(() => width(page)).toBe(2048);
  await expect.poll(() => seconds(page)).toBeGreaterThan(1);
  await go(page, "/unsent");
  await page.getByText("Files (2)").waitFor();
  const boss = await office("manager1");
  expect(boss.get("visit", id)).toBeUndefined();

  await context.setOffline(false);
  const visit = await until(boss, "visit", (r) => r.id === id);
  expect(visit.fields["place"]).toMatchObject({ lat: 31.2304, lng: 121.4737, accuracy_m: 12 });
  const shot = await until(boss, "photo", (r) => r.fields["visit"] === id && r.fields["blob_state"] === "stored");
  const voice = await until(boss, "voice_note", (r) => r.fields["visit"] === id && r.fields["blob_state"] === "stored");
  const bytes = await boss.open(shot.id);
  expect(bytes.size).toBe(shot.fields["size"]);
  expect(new Uint8Array(await bytes.slice(0, 3).arrayBuffer())).toEqual(new Uint8Array([0xff, 0xd8, 0xff]));
  expect((await boss.open(voice.id)).size).toBe(voice.fields["size"]);

  const his = await signIn(await phone(), "manager1");
  await go(his, `/visits/${id}`);
  await expect.poll(() => width(his), { timeout: 60_000 }).toBe(2048);
  await expect.poll(() => seconds(his), { timeout: 60_000 }).toBeGreaterThan(1);
  await his.locator("audio").evaluate((a: HTMLAudioElement) => {
    a.muted = true;
    return a.play();
  });
  await expect.poll(() => his.locator("audio").evaluate((a: HTMLAudioElement) => a.currentTime)).toBeGreaterThan(0.2);
  await go(page, "/");
  await expect.poll(() => unsent(page), { timeout: 60_000 }).toBe(0);
});

test("where the place is refused, the form says so, and the visit is logged without it", async () => {
  const context = await phone({ permissions: [] }); // all that is not granted is refused
  const page = await signIn(context, "rep02");
  const id = await logVisit(page, { subject: "Somewhere" }, async () => {
    await page.getByRole("button", { name: "Take my place" }).click();
    await page.getByText("This browser may not use your place. Allow it in the settings of the page, or log the visit without.").waitFor();
  });
  const rep = await office("rep02");
  const visit = await until(rep, "visit", (r) => r.id === id);
  expect(visit.fields["place"]).toBeUndefined();
});

async function width(page: Page): Promise<number> {
  return page.locator("main .photos img").evaluate((img: HTMLImageElement) => img.naturalWidth, undefined, { timeout: 15_000 });
}

async function seconds(page: Page): Promise<number> {
  return page.locator("main audio").evaluate(
    async (a: HTMLAudioElement) => {
      // What a recorder writes has no length in its head: a player learns it at the end.
      if (a.duration === Infinity) {
        a.currentTime = 1e9;
        await new Promise((resolve) => a.addEventListener("durationchange", resolve, { once: true }));
        a.currentTime = 0;
      }
      return a.duration || 0;
    },
    undefined,
    { timeout: 15_000 },
  );
}
