import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Flash } from "./phone.js";
import { inside, photo, start, until, type Program } from "./program.js";
import { startWorld, type World } from "./server.js";

let world: World;
let director = "";
beforeAll(async () => {
  world = await startWorld();
  await start(world.url); // bundles
  const session = (await world.call("AuthService/SignIn", { login: "director", password: "satchel-demo" })) as { tokens: { accessToken: string } };
  director = session.tokens.accessToken;
});
afterAll(() => world.stop());

const rep = { login: "rep01", password: "satchel-demo" };
const created: { close(): Promise<void> }[] = [];

/** The package's client in a mini-program. */
async function client(program: Program, options: object = {}) {
  const satchel = await program.package.createSatchel({ baseUrl: world.url, language: "zh-CN", ...options });
  created.push(satchel);
  return satchel;
}
afterAll(async () => {
  for (const c of created) await c.close();
});

/** What the director sees of a kind, all of it. */
async function office(kind: string): Promise<{ id: string; fields: Record<string, unknown> }[]> {
  const out: { id: string; fields: Record<string, unknown> }[] = [];
  for (let cursor = "", more = true; more; ) {
    const { page } = (await world.call("SyncService/Sync", { cursor }, director)) as { page: { cursor: string; more?: boolean; changes?: { kind: string; recordId: string; fields?: string }[] } };
    for (const c of page.changes ?? []) if (c.kind === kind && c.fields) out.push({ id: c.recordId, fields: JSON.parse(c.fields) as Record<string, unknown> });
    cursor = page.cursor;
    more = page.more === true;
  }
  return out;
}

test("the realm has nothing that a mini-program has not", async () => {
  const p = await start(world.url);
  const names = ["fetch", "URL", "XMLHttpRequest", "ReadableStream", "WebSocket", "crypto", "performance", "structuredClone", "window", "process", "Buffer", "Response", "Event", "atob"];
  expect(inside(p, names.map((n) => `typeof ${n}`).join("+','+"))).toBe(names.map(() => "undefined").join());
  expect(inside(p, "typeof Headers + typeof AbortController + typeof TextEncoder + typeof TextDecoder + typeof Blob")).toBe("function".repeat(5)); // the shims
});

describe.each([
  ["as most phones are", {}],
  ["without BigInt, header names in upper case", { bigInt: false, headers: "upper" }],
  ["old, header names in lower case, bytes around the answer's", { old: true, headers: "lower", padded: true }],
] as const)("a phone %s", (_, habits) => {
  const user = "u" + Object.keys(habits).join("");
  test("binds once, works without a signal, and sends all when there is one", async () => {
    const flash = new Flash();
    const p = await start(world.url, flash, { ...habits, user });
    const s = await client(p);
    await expect(s.signIn()).rejects.toMatchObject({ code: "refused", reason: "WECHAT_NOT_BOUND", userMessage: expect.stringContaining("绑定") as string });
    await expect(s.signIn({ bind: { login: "rep01", password: "wrong" } })).rejects.toMatchObject({ code: "bad_credentials", userMessage: "账号或密码不正确。" });
    // Each rep is one WeChat user's: the demo company has many reps.
    await s.signIn({ bind: { ...rep, login: logins.shift() ?? "" } });
    expect(s.client.identity()).toMatchObject({ signedIn: true });
    const first = await s.client.sync();
    expect(first.checkpoint).toBe(true);
    expect(s.client.list("account").length).toBeGreaterThan(0);

    p.phone.connect(false);
    const account = s.client.list("account")[0]?.id;
    const visit = await s.client.create("visit", { account, subject: "拜访 🧑‍💼 " + user });
    const bytes = inside(p, `new Uint8Array(${photo.length + 20})`) as Uint8Array;
    bytes.set(photo, 10);
    const picture = await s.client.attach("photo", bytes.subarray(10, 10 + photo.length), "image/jpeg", { visit });
    expect(s.client.get("visit", visit)).toMatchObject({ pending: true, fields: { subject: "拜访 🧑‍💼 " + user } });
    await expect(s.client.sync()).rejects.toMatchObject({ code: "unavailable" });
    await s.close();

    // The phone is switched off and on.
    const q = await start(world.url, flash, { ...habits, user });
    const t = await client(q);
    expect(t.client.status()).toMatchObject({ pending: 2, media: 1 });
    const sent = await t.client.sync();
    expect(sent.settled.map((v) => v.fate)).toEqual(["APPLIED", "APPLIED"]);
    expect(await t.client.upload()).toEqual({ uploaded: 1, refused: 0 });
    const uploads = q.phone.sent.filter((r) => r.how === "upload");
    expect(uploads.map((r) => r.data)).toHaveLength(Math.ceil(photo.length / (256 << 10)));
    expect(q.phone.sent.filter((r) => /PutChunk/.test(r.url))).toEqual([]);
    expect(t.client.media()).toEqual([]); // the profile leaves photos at the office: the copy goes when the server has the bytes
    let fetched: Buffer | undefined;
    for (const end = Date.now() + 30_000; !fetched; ) {
      try {
        const blob = await t.client.open(picture);
        expect(blob.type).toBe("image/jpeg");
        fetched = Buffer.from(await blob.arrayBuffer());
      } catch (e) {
        if (Date.now() > end) throw e; // a job says that the bytes are stored
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    }
    expect(fetched.subarray(-20).equals(photo.subarray(-20))).toBe(true);
    expect((await office("visit")).find((v) => v.id === visit)?.fields["subject"]).toBe("拜访 🧑‍💼 " + user);
    const stored = async () => (await office("photo")).find((v) => v.id === picture)?.fields;
    for (const end = Date.now() + 30_000; Date.now() < end && (await stored())?.["blob_state"] !== "stored"; ) await new Promise((resolve) => setTimeout(resolve, 50)); // by a job
    expect(await stored()).toMatchObject({ blob_state: "stored", size: photo.length });
    expect([...flash.files.keys()]).toEqual([]);
    expect(q.phone.queuedByWeChat).toBe(0);
    await t.close();
  });
});
const logins = ["rep01", "rep02", "rep03", "rep04"];

test("a sign-in whose answer is lost works all the same, and WeChat is asked once", async () => {
  const p = await start(world.url, new Flash(), { user: "lost" });
  const s = await client(p);
  await s.signIn({ bind: { login: "rep05", password: "satchel-demo" } });
  await s.client.signOut();
  const before = world.asked.length;
  p.phone.lose = 1;
  await s.signIn();
  expect(s.client.identity().signedIn).toBe(true);
  expect(world.asked.length - before).toBe(1);
});

test("an answer of a hotel's log-in page is no answer of the server's", async () => {
  const hotel = createServer((_, res) => res.writeHead(200, { "Content-Type": "text/html" }).end("<html>Welcome</html>"));
  await listen(hotel);
  const p = await start(world.url);
  const s = await client(p, { baseUrl: urlOf(hotel) });
  await expect(s.client.signIn(rep)).rejects.toMatchObject({ code: "unavailable" });
  await close(hotel);
});

test("what the background breaks off is tried when the app is shown again", async () => {
  const p = await start(world.url, new Flash(), { user: "background", backgroundMs: 30 });
  const events: string[] = [];
  const s = await client(p, { log: (event: string, detail: { error?: string }) => events.push(`${event} ${detail.error ?? ""}`), retryMinMs: 60_000, retryMaxMs: 60_000 });
  await s.signIn({ bind: { login: "rep06", password: "satchel-demo" } });
  const running = s.run();
  await until("it waits for news", () => p.phone.sent.some((r) => r.url.endsWith("/Wait")));
  p.phone.hide();
  await until("the wait is broken off", () => events.some((e) => e.includes("interrupted")));
  const before = p.phone.sent.length;
  const account = s.client.list("account")[0]?.id;
  const visit = await s.client.create("visit", { account, subject: "im Hintergrund" }); // durable, and not sent
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(p.phone.sent.length).toBe(before);
  expect(s.client.get("visit", visit)?.pending).toBe(true);
  p.phone.show();
  await until("it is sent", () => s.client.get("visit", visit)?.pending === false);
  await s.close();
  await expect(running).resolves.toBeUndefined();
});

test("WeChat never has more than ten at once, what people wait for goes first, and two are left for files", async () => {
  const order: string[] = [];
  const held: (() => void)[] = [];
  const slow = createServer((req, res) => {
    order.push(req.url ?? "");
    held.push(() => res.writeHead(200, { "Content-Type": "application/json" }).end('{"offset":"5"}'));
  });
  await listen(slow);
  const p = await start(world.url);
  const { wxFetch, Schedule } = p.package;
  const fetch = wxFetch(p.phone.wx, new Schedule(p.phone.wx));
  const ask = (path: string, body = "{}") => fetch(urlOf(slow) + path, { method: "POST", headers: { "Content-Type": "application/json" }, body });
  const all = Array.from({ length: 14 }, (_, i) => ask(`/satchel.v1.SyncService/Sync?${i}`));
  for (let i = 0; i < 3; i++) all.push(ask("/satchel.v1.MediaService/PutChunk", `{"uploadId":"up${i}","data":"aGFsbG8="}`));
  all.push(ask("/satchel.v1.ApprovalService/Decide"));
  await until("ten are on their way", () => held.length === 10);
  expect([p.phone.running, p.phone.queuedByWeChat]).toEqual([10, 0]);
  expect(order.filter((u) => u.startsWith("/media/v1/chunk/up"))).toHaveLength(2);
  held.shift()?.();
  await until("one more", () => order.length === 11);
  expect(order[10]).toBe("/satchel.v1.ApprovalService/Decide");
  const gone = new (inside(p, "AbortController") as typeof AbortController)();
  const given = fetch(urlOf(slow) + "/never", { signal: gone.signal });
  gone.abort();
  await expect(given).rejects.toMatchObject({ name: "ConnectError" });
  while (order.length < all.length || held.length > 0) {
    held.shift()?.();
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  await Promise.all(all);
  expect([p.phone.most, p.phone.queuedByWeChat, p.phone.running]).toEqual([10, 0, 0]);
  expect(order).not.toContain("/never");
  expect([...p.phone.flash.files.keys()]).toEqual([]);
  await close(slow);
});

test("a request that WeChat throws for takes no place of others", async () => {
  const p = await start(world.url);
  const { wxFetch, Schedule } = p.package;
  const wx = { ...p.phone.wx, request: () => { throw new Error("request:fail parameter error"); } };
  const fetch = wxFetch(wx, new Schedule(wx));
  for (let i = 0; i < 30; i++) await expect(fetch("https://example.com/")).rejects.toMatchObject({ name: "ConnectError", message: expect.stringContaining("parameter error") as string });
});

test("a phone without room for a piece's file sends it by wx.request", async () => {
  const p = await start(world.url, new Flash(), { user: "full" });
  const s = await client(p);
  await s.signIn({ bind: { login: "rep07", password: "satchel-demo" } });
  await s.client.sync();
  const account = s.client.list("account")[0]?.id;
  const visit = await s.client.create("visit", { account, subject: "voll" });
  await s.client.attach("photo", inside(p, `Uint8Array.from(${JSON.stringify([...photo.subarray(0, 2), ...photo.subarray(-150)])})`) as Uint8Array, "image/jpeg", { visit });
  await s.client.sync();
  p.phone.failures.push({ call: "writeFile", errMsg: "writeFile:fail the maximum size of the file storage limit is exceeded" });
  await s.client.upload().catch(() => undefined); // whether it is a JPEG is not the matter here
  expect(p.phone.sent.some((r) => r.how === "request" && /PutChunk$/.test(r.url))).toBe(true);
});

test("a full storage refuses a visit and loses none", async () => {
  const flash = new Flash();
  const p = await start(world.url, flash, { user: "room" });
  const s = await client(p);
  await s.signIn({ bind: { login: "rep08", password: "satchel-demo" } });
  await s.client.sync();
  const account = s.client.list("account")[0]?.id;
  const kept = await s.client.create("visit", { account, subject: "passt noch" });
  flash.otherBytes = 10 * 1024 * 1024;
  await expect(s.client.create("visit", { account, subject: "passt nicht" })).rejects.toMatchObject({ code: "storage_full" });
  flash.otherBytes = 0;
  const r = await s.client.sync();
  expect(r.settled.map((v) => v.fate)).toEqual(["APPLIED"]);
  expect(s.client.list("visit").filter((v) => v.fields["subject"] === "passt nicht")).toEqual([]);
  expect(s.client.get("visit", kept)?.pending).toBe(false);
});

test("what the person allows is counted once each, and what she does not is not", async () => {
  const p = await start(world.url, new Flash(), { user: "grants", subscribe: (t) => (t === "no" ? "reject" : "accept") });
  const s = await client(p);
  await s.signIn({ bind: { login: "rep09", password: "satchel-demo" } });
  expect(await s.grants(["yes", "no"])).toEqual({ yes: 1 });
  p.phone.lose = 1; // the report is counted, its answer lost, and it is sent again
  expect(await s.grants(["yes"])).toEqual({ yes: 2 });
  expect(await s.grants(["no"])).toEqual({});
  await expect(s.grants(["1", "2", "3", "4", "5", "6"])).rejects.toMatchObject({ code: "refused", message: expect.stringContaining("out of max bounds") as string });
});

test("the sample: sign in, log a visit with a photo off-line, see it unsent, and it arrives", async () => {
  const p = await start(world.url, new Flash(), { user: "sample" });
  const app = p.app();
  await until("the client is open", () => p.did.includes("reLaunch /pages/sign-in/sign-in"));
  const satchel = app["opened"] as Awaited<ReturnType<typeof client>>;
  created.push(satchel);
  const signIn = await p.open("sign-in");
  await p.tap(signIn, "onSignIn");
  expect(signIn.data).toMatchObject({ ask: true, busy: false, message: expect.stringContaining("绑定") as string });
  await p.tap(signIn, "onLogin", { value: "rep10" });
  await p.tap(signIn, "onPassword", { value: "satchel-demo" });
  await p.tap(signIn, "onSignIn");
  expect(signIn.data).toMatchObject({ message: "", password: "" });
  expect(p.did.at(-1)).toBe("reLaunch /pages/visits/visits");
  const visits = await p.open("visits");
  await until("the first sync is complete", () => visits.data["complete"] === true);

  p.phone.connect(false);
  const form = await p.open("visit");
  expect((form.data["names"] as string[]).length).toBeGreaterThan(0);
  await p.tap(form, "onAccount", { value: "0" });
  await p.tap(form, "onSubject", { value: "样例拜访" });
  await p.tap(form, "onPhoto");
  await p.tap(form, "onSave");
  expect(p.did.at(-1)).toBe("navigateBack");
  expect(visits.data).toMatchObject({ unsent: 3 });
  expect((visits.data["visits"] as { subject: string; pending: boolean; account: string }[])[0]).toMatchObject({ subject: "样例拜访", pending: true, account: (form.data["names"] as string[])[0] });
  const unsent = await p.open("unsent");
  expect(unsent.data["items"]).toMatchObject([{ text: "create visit" }, { text: "create photo" }]);
  expect(unsent.data["files"]).toMatchObject([{ percent: 0 }]);

  p.phone.connect(true);
  await until("all is sent", () => visits.data["unsent"] === 0);
  expect((await office("visit")).some((v) => v.fields["subject"] === "样例拜访")).toBe(true);
  const before = p.did.length;
  await p.tap(unsent, "onNotify");
  await until("the grants are reported", () => p.phone.sent.some((r) => r.url.endsWith("/AddGrants")));
  expect(p.did.length).toBe(before);
  await satchel.close();
});

const listen = (s: Server): Promise<void> => new Promise((resolve) => s.listen(0, "127.0.0.1", resolve));
const urlOf = (s: Server): string => `http://127.0.0.1:${(s.address() as AddressInfo).port}`;
const close = (s: Server): Promise<unknown> => {
  s.closeAllConnections();
  return new Promise((resolve) => s.close(resolve));
};
