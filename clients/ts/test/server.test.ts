import { afterAll, beforeAll, expect, test } from "vitest";
import { Client, type Config } from "../src/index.js";
import { memoryDisk, memoryStore } from "../src/stores/memory.js";
import { rejection, shown } from "./kit.js";
import { startServer, type RealServer } from "./realserver.js";

let server: RealServer;

beforeAll(async () => {
  server = await startServer();
}, 300_000);
afterAll(() => server?.stop());

async function phone(login: string, more: Partial<Config> = {}): Promise<Client> {
  const c = await Client.open({ baseUrl: server.url, store: memoryStore(), ...more });
  await c.signIn({ login, password: "satchel-demo", platform: "web", deviceName: login });
  return c;
}

test("a real server takes a visit and brings the company's data", { timeout: 180_000 }, async () => {
  const rep = await phone("rep01");
  const first = await rep.sync();
  expect(first).toMatchObject({ checkpoint: true, pending: 0, repaired: 0 });
  const account = rep.list("account")[0] ?? expect.fail("rep01 has no account");
  const visit = await rep.create("visit", { account: account.id, subject: "Met the buyer 会" });
  expect(shown(rep, "visit", visit)).toMatchObject({ subject: "Met the buyer 会" });
  const second = await rep.sync();
  expect(second).toMatchObject({ sent: 1, settled: [{ fate: "APPLIED", notes: [] }], pending: 0, repaired: 0 });
  expect(rep.get("visit", visit)).toMatchObject({ pending: false, author: rep.identity().person });

  // Another device of the same person, by the JSON codec, has the same.
  const other = await phone("rep01", { json: true });
  const all = (c: Client) => ["account", "visit", "contact", "task"].map((kind) => c.list(kind));
  await expect.poll(async () => {
    await Promise.all([rep.sync(), other.sync()]); // what the server's rules do comes in its time
    return JSON.stringify(all(other)) === JSON.stringify(all(rep));
  }).toBe(true);
  expect(all(rep).every((list) => list.length > 0)).toBe(true);

  // What one changes, the other is woken for.
  const woken = rep.wait();
  await other.patch("visit", visit, { subject: "Met the buyer twice" });
  await other.sync();
  expect(await woken).toBe(true);
  await rep.sync();
  expect(shown(rep, "visit", visit)).toMatchObject({ subject: "Met the buyer twice" });
  await Promise.all([rep.close(), other.close()]);
});

test("a phone whose clock is off by a year tells a real server when its work took place", { timeout: 180_000 }, async () => {
  const began = Date.now();
  const c = await phone("rep01", { now: () => Date.now() - 365 * 24 * 3600 * 1000 });
  await c.sync();
  const account = c.list("account")[0] ?? expect.fail("rep01 has no account");
  const before = Date.now();
  const visit = await c.create("visit", { account: account.id, subject: "In the wrong year" });
  const after = Date.now();
  expect((await c.sync()).settled).toMatchObject([{ fate: "APPLIED", notes: ["CLOCK_OFF"] }]);
  const slack = Date.now() - began + 100; // the clocks are compared by calls, and as exactly as these are quick
  const { eventMs } = c.get("visit", visit) ?? expect.fail("the visit vanished");
  expect(eventMs).toBeGreaterThan(before - slack);
  expect(eventMs).toBeLessThan(after + slack);
  await c.close();
});

test("a real server's refusals are told apart", { timeout: 180_000 }, async () => {
  const c = await Client.open({ baseUrl: server.url, store: memoryStore(), language: "zh-CN" });
  const e = await rejection(c.signIn({ login: "rep01", password: "wrong" }), "bad_credentials");
  expect(e).toMatchObject({ reason: "BAD_CREDENTIALS", userMessage: expect.stringMatching(/[\u4e00-\u9fff]/), requestId: expect.stringMatching(/./) });
  await c.signIn({ login: "rep01", password: "satchel-demo" });
  await c.sync();
  await c.create("visit", { no_such_field: 1 });
  expect((await c.sync()).settled).toMatchObject([{ fate: "REJECTED", reason: "UNKNOWN_FIELD", paths: [{ path: "no_such_field" }] }]);
  await c.signOut();
  await rejection(c.sync(), "sign_in_again");
  await c.close();
});

test("a real server is given a new token when the old one has ended, and a session that ended asks for the password", { timeout: 180_000 }, async () => {
  const store = memoryStore();
  const c = await Client.open({ baseUrl: server.url, store });
  await c.signIn({ login: "rep01", password: "satchel-demo" });
  const spoil = (secrets: { access: string; refresh?: string }) =>
    store.update((tx) => {
      const id = tx.get("meta", "identity");
      tx.put("meta", "identity", { ...(id as object), ...secrets });
    });
  await spoil({ access: "expired" });
  await Promise.all([c.sync(), c.wait(), c.fetchSchema()]);
  expect(c.schema().get("visit")).toMatchObject({ canCreate: true });
  expect(c.templates().get("task_due")).toEqual({ name: "task_due", textZh: "有一项任务即将到期。", textEn: "A task is due soon." });
  await spoil({ access: "expired", refresh: "unknown" });
  await rejection(c.sync(), "sign_in_again");
  expect(c.identity().signedIn).toBe(false);
  await c.close();
});

test("a real server repairs what a store lost, and run brings up a photo", { timeout: 180_000 }, async () => {
  const disk = memoryDisk();
  const store = memoryStore(disk);
  const before = await Client.open({ baseUrl: server.url, store });
  await before.signIn({ login: "rep01", password: "satchel-demo" });
  await before.sync();
  const kinds = ["account", "contact", "product", "task"];
  const all = (c: Client) => kinds.flatMap((kind) => c.list(kind));
  const [lost, old] = all(before);
  if (!lost || !old) expect.fail("rep01 has too little");
  const account = before.list("account")[0] ?? expect.fail("rep01 has no account");
  await store.update((tx) => {
    tx.delete("record", `${lost.kind}/${lost.id}`);
    const row = tx.get("record", `${old.kind}/${old.id}`);
    if (row) tx.put("record", `${old.kind}/${old.id}`, { ...row, rev: "0", fields: "{}" });
  });
  await before.close();
  const c = await Client.open({ baseUrl: server.url, store: memoryStore(disk.tab()) });
  const visit = await c.create("visit", { account: account.id, subject: "Looked at the shelf" });
  expect(await c.sync()).toMatchObject({ repaired: 1, pending: 0 });
  const fresh = await phone("rep01");
  await fresh.sync();
  expect(all(c)).toEqual(all(fresh));
  expect(await c.sync()).toMatchObject({ repaired: 0 });

  const stop = new AbortController();
  const running = c.run(stop.signal);
  const bytes = new Uint8Array(600_000).map((_, i) => i * 7);
  bytes.set([0xff, 0xd8, 0xff, 0xe0]); // by which a JPEG is known
  const photo = await c.attach("photo", new Blob([bytes]), "image/jpeg", { visit, taken_at: "2026-11-21T10:00:00Z" });
  await expect.poll(() => c.get("photo", photo)?.fields["blob_state"], { timeout: 30_000 }).toBe("stored");
  await expect.poll(() => c.media(), { timeout: 30_000 }).toEqual([]);
  const blob = await c.open(photo);
  expect(blob.type).toBe("image/jpeg");
  expect(Buffer.from(await blob.arrayBuffer()).equals(bytes)).toBe(true);
  expect(c.schema().get("photo")).toMatchObject({ canCreate: true });
  stop.abort();
  await running;
  await Promise.all([c.close(), fresh.close()]);
});
