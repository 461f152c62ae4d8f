import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, test } from "vitest";
import { Reason } from "../src/gen/satchel/v1/errors_pb.js";
import { Client } from "../src/index.js";
import { memoryDisk, memoryStore } from "../src/stores/memory.js";
import { anId, bytes, config, failing, last, lina, metaOf, network, numbers, rejection, shown, signedIn, text } from "./kit.js";
import { Fake, fail, serverTime } from "./fake.js";

const day = 24 * 3600 * 1000;

describe.concurrent("a sync", () => {
  test("what is recorded is shown, sent once and confirmed", async () => {
    const f = new Fake();
    const c = await signedIn(f);
    const id = await c.create("visit", { note: "met" });
    expect(shown(c, "visit", id)).toEqual({ note: "met" });
    expect(c.get("visit", id)).toMatchObject({ pending: true, rev: "0", author: f.person });
    expect(c.pending()).toMatchObject([{ order: 1, sent: false, recordedMs: serverTime + 5, ops: [{ action: "create", kind: "visit", record: id, fields: { note: "met" } }] }]);

    const r = await c.sync();
    expect(r).toMatchObject({ sent: 1, settled: [{ fate: "APPLIED", reason: "", order: 1 }], checkpoint: true, pending: 0 });
    expect(last(f)).toMatchObject({ confirmed: 0n, outbox: { count: 1, oldestMs: BigInt(serverTime + 5) } });
    expect(last(f).cursor).toHaveLength(0);
    expect(c.get("visit", id)).toMatchObject({ pending: false, rev: "1", author: f.person });

    await c.patch("visit", id, { note: "met twice" });
    await c.sync();
    const [m] = last(f).mutations;
    expect(last(f).confirmed).toBe(1n);
    expect(last(f).cursor).not.toHaveLength(0);
    expect(m).toMatchObject({ number: 2n, schemaVersion: 3, recorded: { boot: "boot-1", monotonicMs: 77n, wallMs: BigInt(serverTime + 5) }, ops: [{ baseRev: 1n }] });
    expect(text(m?.checkpointToken ?? bytes(""))).toMatch(/^token-/);
    expect(last(f).clockPairs).toMatchObject([{ boot: "boot-1", serverMs: BigInt(serverTime) }]);
    expect(shown(c, "visit", id)).toEqual({ note: "met twice" });

    await c.sync();
    expect(last(f).mutations).toHaveLength(0);
    expect(last(f).confirmed).toBe(2n);
  });

  test("a lost answer is asked for again with the same numbers and ids", async () => {
    const f = new Fake();
    const c = await signedIn(f);
    const id = await c.create("visit", { n: 0 });
    await c.patch("visit", id, {}, [{ field: "n", by: 3 }]);
    f.answer = () => {
      f.answer = undefined;
      throw new ConnectError("the signal went", Code.Unavailable);
    };
    await rejection(c.sync(), "unavailable");
    expect(c.pending()).toMatchObject([{ sent: true }, { sent: true }]);
    expect(shown(c, "visit", id)).toEqual({ n: 3 });
    await c.create("visit", {}); // what is recorded meanwhile comes behind
    const sent = last(f).mutations;
    await c.sync();
    const again = last(f).mutations;
    expect(again.slice(0, 2).map((m) => m.id)).toEqual(sent.map((m) => m.id));
    expect(numbers(f)).toEqual([1, 2, 3]);
    expect(again[1]?.ops[0]?.baseRev).toBe(0n);
    expect(shown(c, "visit", id)).toEqual({ n: 3 });
    expect(c.status().pending).toBe(0);
  });

  test("a mutation without a verdict stays pending and is sent again", async () => {
    const f = new Fake();
    const c = await signedIn(f);
    for (let i = 0; i < 3; i++) await c.create("visit", {});
    f.answer = (_, res) => {
      f.answer = undefined;
      res.verdicts = res.verdicts.slice(0, 1); // the deadline came
    };
    expect(await c.syncOnce()).toMatchObject({ settled: [{ order: 1 }], pending: 2 });
    await c.sync();
    expect(numbers(f)).toEqual([2, 3]);
    expect(last(f).confirmed).toBe(1n);
    expect(c.status().pending).toBe(0);
  });

  test("many mutations go in calls of two hundred and one MiB", async () => {
    const f = new Fake();
    const c = await signedIn(f);
    for (let i = 0; i < 205; i++) await c.create("visit", {});
    for (let i = 0; i < 6; i++) await c.create("visit", { note: "x".repeat(200 << 10) });
    await c.sync();
    expect(c.status().pending).toBe(0);
    expect(f.requests.map((r) => r.mutations.length)).toEqual([200, 10, 1]);
  });

  test("a time-out halves the batch", async () => {
    const f = new Fake();
    const c = await signedIn(f);
    for (let i = 0; i < 200; i++) await c.create("visit", {});
    const sizes: number[] = [];
    const budgets: number[] = [];
    f.script = (req) => {
      sizes.push(req.mutations.length);
      budgets.push(req.maxBytes);
      if (req.mutations.length > 50) throw new ConnectError("slow", Code.DeadlineExceeded);
      return undefined;
    };
    await c.sync();
    expect(sizes.slice(0, 4)).toEqual([200, 100, 50, 100]);
    expect(budgets.slice(0, 3)).toEqual([0, 128 << 10, 64 << 10]);
    expect(c.status().pending).toBe(0);
  });

  test("an app may have fewer mutations sent at once", async () => {
    const f = new Fake();
    const c = await signedIn(f, memoryDisk(), { maxBatch: 3 });
    for (let i = 0; i < 5; i++) await c.create("visit", {});
    await c.sync();
    expect(f.requests.map((r) => r.mutations.length)).toEqual([3, 2]);
  });

  test("what cannot be a mutation is refused when it is recorded", async () => {
    const c = await signedIn(new Fake());
    const b = c.batch();
    const id = b.create("visit", { note: "x".repeat(256 << 10) });
    expect((await rejection(c.record(b), "too_large")).message).toContain("262144 bytes");
    expect(shown(c, "visit", id)).toBe("none");
    const many = c.batch();
    for (let i = 0; i < 101; i++) many.create("visit", {});
    await rejection(c.record(many), "too_large");
    const ring: Record<string, unknown> = {};
    ring["ring"] = ring;
    await rejection(c.create("visit", ring), "invalid");
    await rejection(c.record(c.batch()), "invalid");
    await rejection(c.patch("visit", "12", {}), "invalid");
    await rejection(c.create("a/b", {}), "invalid");
    await rejection(c.patch("visit", id, {}, [{ field: "n", by: 1.5 }]), "invalid");
    expect(c.status().pending).toBe(0);
  });

  test("a store rolled back is forked and loses nothing", async () => {
    const f = new Fake();
    const disk = memoryDisk();
    const c = await signedIn(f, disk);
    await c.create("visit", { note: "monday" });
    await c.sync();
    const monday = disk.clone();
    await c.create("visit", { note: "tuesday" });
    await c.sync();
    const before = f.device;

    const restored = await signedIn(f, monday);
    for (const note of ["wednesday", "thursday"]) await restored.create("visit", { note });
    expect(await restored.sync()).toMatchObject({ forked: 1, pending: 0 });
    expect(f.device).not.toBe(before);
    expect(restored.identity().device).toBe(f.device);
    expect(numbers(f)).toEqual([1, 2]);
    expect(last(f).confirmed).toBe(0n);
    expect(restored.list("visit").map((r) => r.fields["note"]).sort()).toEqual(["monday", "thursday", "tuesday", "wednesday"]);
    await restored.close();
    const again = await Client.open(config(f, memoryStore(monday.tab())));
    expect(again.identity()).toMatchObject({ device: f.device, signedIn: true });
  });

  test("a cursor that the server does not know is given up and the device filled anew", async () => {
    const f = new Fake();
    const c = await signedIn(f);
    const [gone, stays] = [anId(), anId()];
    f.put("account", gone, { a: 1 });
    f.put("account", stays, { b: 1 });
    await c.sync();
    f.rows.delete(gone);
    f.script = (req) => {
      if (req.cursor.length > 0) throw fail(Code.InvalidArgument, Reason.MALFORMED_CURSOR);
      f.script = undefined;
      return undefined;
    };
    const own = await c.create("account", { c: 1 });
    await c.sync();
    expect(shown(c, "account", gone)).toBe("none");
    expect(shown(c, "account", stays)).toEqual({ b: 1 });
    expect(shown(c, "account", own)).toEqual({ c: 1 });
  });

  test("a wipe deletes what the server has and keeps what it has not", async () => {
    const f = new Fake();
    const disk = memoryDisk();
    const c = await signedIn(f, disk);
    const before = await metaOf(disk, "identity");
    const id = anId();
    f.put("account", id, { a: 1 });
    await c.sync();
    await c.create("visit", {});
    await c.create("visit", {});
    let salvaged = 0n;
    f.script = () => ({ directives: [{ order: { case: "wipe", value: { salvagedNumber: ++salvaged } } }] });
    await rejection(c.sync(), "wiped");
    expect(shown(c, "account", id)).toBe("none");
    expect(c.status().pending).toBe(1);
    await rejection(c.sync(), "wiped");
    expect(c.status().pending).toBe(0);
    expect(c.identity()).toEqual({ org: "", person: "", device: "", displayName: "", signedIn: false });
    const after = await metaOf(disk, "identity");
    expect(after).toMatchObject({ access: "", refresh: "" });
    expect(after).toHaveProperty("installation", before instanceof Object && "installation" in before ? before.installation : "");
  });

  test("a server whose cursor does not move does not hold the device in a loop", async () => {
    const f = new Fake();
    f.script = () => ({ page: { cursor: bytes("same"), more: true } });
    const c = await signedIn(f);
    await rejection(c.sync(), "refused");
    expect(f.requests.length).toBeLessThanOrEqual(3);
  });

  test("the JSON codec carries the same", async () => {
    const f = new Fake();
    const net = network(f);
    const c = await signedIn(net, memoryDisk(), { json: true });
    const id = await c.create("visit", { note: '<&>"会' });
    await c.sync();
    expect(c.get("visit", id)).toMatchObject({ fields: { note: '<&>"会' }, pending: false, rev: "1" });
    expect(net.headers.at(-1)?.get("Content-Type")).toBe("application/json");
    f.script = () => {
      throw failing(Code.Unavailable, Reason.DATABASE_DOWN, { message: "later" });
    };
    expect(await rejection(c.sync(), "unavailable")).toMatchObject({ reason: "DATABASE_DOWN", userMessage: "later" });
  });

  test("a request of some size is compressed", async () => {
    const net = network(new Fake());
    const c = await signedIn(net);
    expect(net.headers.at(-1)?.get("Content-Encoding")).toBeNull();
    const id = await c.create("visit", { note: "met ".repeat(1000) });
    await c.sync();
    expect(net.headers.at(-1)?.get("Content-Encoding")).toBe("gzip");
    expect(c.get("visit", id)).toMatchObject({ pending: false });
  });

  test("the clock pair of an earlier boot is sent with what was recorded in it", async () => {
    const f = new Fake();
    let boot = "monday";
    const c = await signedIn(f, memoryDisk(), { monotonic: () => ({ boot, ms: 5.7 }) });
    await c.sync();
    await c.create("visit", {});
    boot = "tuesday"; // never met the server
    await c.create("visit", {});
    boot = "wednesday";
    await c.sync();
    expect(last(f).clockPairs).toMatchObject([{ boot: "monday", monotonicMs: 5n }]);
    boot = "thursday";
    await c.create("visit", {});
    await c.sync();
    await c.create("visit", {});
    await c.sync();
    expect(last(f).clockPairs).toMatchObject([{ boot: "thursday" }]);
  });

  test("a page's own clock begins anew when the device slept or its wall clock was set", async () => {
    const f = new Fake();
    let wall = serverTime;
    const c = await Client.open({ baseUrl: "http://satchel.test", store: memoryStore(), fetch: f.fetch, now: () => wall });
    await c.signIn(lina);
    await c.create("visit", {});
    await c.create("visit", {});
    wall += 365 * day;
    await c.create("visit", {});
    await c.sync();
    const boots = last(f).mutations.map((m) => m.recorded?.boot);
    expect(boots[0]).toBeTruthy();
    expect(boots[1]).toBe(boots[0]);
    expect(boots[2]).not.toBe(boots[0]);
  });

  test("the verdict log forgets after thirty-five days of the server's clock", async () => {
    const f = new Fake();
    const c = await signedIn(f);
    let now = serverTime;
    f.answer = (_, res) => (res.serverTimeMs = BigInt(now));
    for (const later of [0, 34 * day, 2 * day]) {
      now += later;
      await c.create("visit", {});
      await c.sync();
    }
    expect(c.settled(0, 10).map((s) => s.order)).toEqual([2, 3]);
    expect(c.settled(2, 10).map((s) => s.order)).toEqual([3]);
    expect(c.settled(0, 1).map((s) => s.order)).toEqual([2]);
  });

  test("a request says what the server needs to know", async () => {
    const f = new Fake();
    const net = network(f);
    const c = await signedIn(net, memoryDisk(), { profile: "phone", appVersion: "7.1", language: "zh-CN" });
    await c.sync();
    await c.create("visit", {});
    await c.sync();
    const seen = f.seq;
    f.answer = (_, res) => void res.directives.push({ $typeName: "satchel.v1.Directive", order: { case: undefined } }); // of a server of tomorrow
    await c.sync();
    expect(last(f)).toMatchObject({ profile: "phone", appVersion: "7.1", seenSeq: seen, completesRows: true, noPage: false });
    const headers = net.headers.at(-1) ?? expect.fail();
    expect(headers.get("Satchel-Protocol")).toBe("1");
    expect(headers.get("Accept-Language")).toBe("zh-CN");
  });

  test("a sync that is given up leaves everything for the next", async () => {
    const f = new Fake();
    const c = await signedIn(network(f));
    const id = await c.create("visit", {});
    const give = new AbortController();
    f.script = () => {
      give.abort();
      return undefined;
    };
    await rejection(c.sync(give.signal), "canceled");
    expect(c.status()).toMatchObject({ pending: 1, syncing: false });
    expect(c.status().error).toBeUndefined();
    f.script = undefined;
    await c.sync();
    expect(c.get("visit", id)).toMatchObject({ pending: false });
    expect(f.rows.size).toBe(1);
  });

  test("the status tells how far the device is and why the last sync failed", async () => {
    const f = new Fake();
    const net = network(f);
    const c = await signedIn(net);
    expect(c.status()).toMatchObject({ seq: "0", complete: false, lastSyncMs: 0, syncing: false, records: 0 });
    f.put("account", anId(), { a: 1 });
    f.script = () => {
      expect(c.status().syncing).toBe(true);
      return undefined;
    };
    await c.sync();
    expect(c.status()).toMatchObject({ seq: String(f.seq), complete: true, lastSyncMs: serverTime + 5, syncing: false, records: 1, staged: 0 });
    net.down = true;
    await rejection(c.sync(), "unavailable");
    expect(c.status()).toMatchObject({ error: { code: "unavailable" }, lastSyncMs: serverTime + 5 });
    net.down = false;
    await c.sync();
    expect(c.status().error).toBeUndefined();
  });
});
