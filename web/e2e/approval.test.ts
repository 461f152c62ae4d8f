import { expect, test } from "vitest";
import { account, go, installed, office, phone, signIn, until, unsent } from "./kit.js";

test("a manager approves from a notice without a network, and the rep sees it", async () => {
  const rep = await office("rep01");
  const customer = await account(rep, "Approval Works");
  const batch = rep.batch();
  const quote = batch.create("quote", { account: customer, title: "Offer 4711", amount: 150_000 });
  batch.command("quote", quote, "approval.submit", {});
  await rep.record(batch);
  await rep.sync();
  const asked = await until(rep, "approval", (r) => r.fields["subject"] === quote);
  expect(asked.fields["state"]).toBe("waiting");

  const context = await phone();
  const page = await signIn(context, "manager1");
  await installed(page);
  await go(page, "/inbox");
  const notice = page.locator("button.notice", { hasText: "Offer 4711" });
  await notice.waitFor();
  expect(await notice.innerText()).toContain("A quote is waiting for your approval.");
  await context.setOffline(true);
  await notice.click();
  await page.locator("h1", { hasText: "Approval" }).waitFor();
  expect(await page.locator("dl.facts").innerText()).toMatch(/Offer 4711[\s\S]*150,000/);
  await page.locator("#comment").fill("Good price");
  await page.getByRole("button", { name: "Approve" }).click();
  await page.getByText("Your decision is kept on this phone and will be sent.").waitFor();
  await rep.sync();
  expect(rep.get("approval", asked.id)?.fields["state"]).toBe("waiting");
  await context.setOffline(false);

  const decided = await until(rep, "approval", (r) => r.id === asked.id && r.fields["state"] === "approved");
  expect(decided.fields["comment"]).toBe("Good price");
  await until(rep, "quote", (r) => r.id === quote && r.fields["approval_state"] === "approved");
  await expect.poll(() => page.locator("main").innerText(), { timeout: 60_000 }).toMatch(/Approved[\s\S]*Good price/);
  await go(page, "/");
  await expect.poll(() => unsent(page), { timeout: 60_000 }).toBe(0);

  const his = await signIn(await phone(), "rep01");
  await go(his, "/inbox");
  const told = his.locator("button.notice", { hasText: "Your quote was approved." });
  await told.first().click();
  await expect.poll(() => his.locator("main").innerText(), { timeout: 60_000 }).toContain("Offer 4711");
});
