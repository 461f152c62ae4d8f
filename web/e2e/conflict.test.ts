import type { Page } from "playwright-core";
import { expect, test } from "vitest";
import { account, go, hears, installed, office, phone, signIn, until, unsent } from "./kit.js";

/** Sets an account's level in the form that the account's page opens. */
async function level(page: Page, id: string, choice: string): Promise<void> {
  await go(page, `/records/account/${id}`);
  await page.locator(".entry", { hasText: "Level" }).locator("label.choice", { hasText: new RegExp(`^${choice}$`) }).click();
  await hears(page, "Saved. It is sent", () => page.locator("footer button[type=submit]").click());
}

test("two browsers change one level offline: one is asked, sees both side by side, and both show what was chosen", async () => {
  const rep = await office("rep03");
  const id = await account(rep, "Conflict & Sons", { level: "c" });
  const [one, two] = [await phone(), await phone()];
  const [first, second] = [await signIn(one, "rep03"), await signIn(two, "rep03")];
  for (const page of [first, second]) await installed(page);
  await Promise.all([one.setOffline(true), two.setOffline(true)]);
  await level(first, id, "A");
  await level(second, id, "B");

  await one.setOffline(false);
  await until(rep, "account", (r) => r.id === id && r.fields["level"] === "a");
  await two.setOffline(false);
  const attention = await until(rep, "attention", (r) => r.fields["record"] === id);
  expect(attention.fields).toMatchObject({ cause: "conflict", open: true });
  // What came first stands, and the second learns of it: today says that there is something to look at.
  await go(second, "/");
  await second.getByText("one change needs a look").click();
  await second.locator("a.line", { hasText: "Conflict & Sons" }).click();
  const card = second.locator("fieldset", { hasText: "Level" });
  await card.waitFor();
  expect((await card.locator(".side").allInnerTexts()).map((s) => s.replace(/\s+/g, " ").trim())).toEqual([expect.stringMatching(/Mine B$/), expect.stringMatching(/Stands now A$/)]);
  await card.locator(".side").first().click();
  await second.getByRole("button", { name: "Save my choice" }).click();

  await until(rep, "account", (r) => r.id === id && r.fields["level"] === "b");
  await until(rep, "attention", (r) => r.id === attention.id && r.fields["open"] === false);
  for (const page of [first, second]) {
    await go(page, `/accounts/${id}`);
    await expect.poll(() => page.locator("dl.facts").innerText(), { timeout: 60_000 }).toMatch(/Level\s+B/);
    await go(page, "/");
    await expect.poll(() => unsent(page), { timeout: 60_000 }).toBe(0);
    expect(await page.getByText("needs a look").count()).toBe(0);
  }
});

test("what the server refuses comes back with the reason, is mended, sent again, and arrives", async () => {
  const rep = await office("rep04");
  const id = await account(rep, "Refusal Ltd");
  const context = await phone();
  const page = await signIn(context, "rep04");
  await go(page, `/accounts/${id}`);
  await page.locator("h1", { hasText: "Refusal Ltd" }).waitFor();
  await installed(page);
  await context.setOffline(true);
  await go(page, `/records/account/${id}`);
  const amount = page.locator("#f-deal_amount");
  await amount.fill("-5000"); // which the schema's check does not take
  await hears(page, "Saved. It is sent", () => page.locator("footer button[type=submit]").click());
  await context.setOffline(false);

  const attention = await until(rep, "attention", (r) => r.fields["record"] === id);
  expect(attention.fields).toMatchObject({ cause: "refused", open: true });
  await go(page, "/");
  await page.getByText("one change needs a look").click();
  await page.locator("a.line", { hasText: "Refusal Ltd" }).click();
  await page.getByText("The server could not take this. Nothing of it is lost").waitFor();
  expect(await page.locator(".why").innerText()).toContain("Expected amount");
  const input = page.getByLabel("Expected amount");
  expect(await input.inputValue()).toBe("-5000");
  await input.fill("5000");
  await page.getByRole("button", { name: "Send again" }).click();
  await until(rep, "account", (r) => r.id === id && Number(r.fields["deal_amount"]) === 5000);
  await until(rep, "attention", (r) => r.id === attention.id && r.fields["open"] === false);
});
