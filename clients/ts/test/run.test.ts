import { Code } from "@connectrpc/connect";
import { randomUUID } from "node:crypto";
import { afterEach, describe, expect, test, vi } from "vitest";
import { Reason } from "../src/gen/satchel/v1/errors_pb.js";
import type { Config } from "../src/index.js";
import { memoryDisk, type MemoryDisk } from "../src/stores/memory.js";
import { fail, Fake, noSignal, serverTime } from "./fake.js";
import { open, shown, signedIn, type Phone } from "./phone.js";

const quick: Partial<Config> = { retryMinMs: 5, retryMaxMs: 20 };
const never: Partial<Config> = { retryMinMs: 3_600_000, retryMaxMs: 3_600_000 };
const soon = { timeout: 30_000, interval: 5 };

const ends: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const end of ends.splice(0)) await end();
  vi.unstubAllGlobals();
});

/** Runs a phone until the test ends, or end is called. */
function running(d: Phone): { done: Promise<void>; end: () => Promise<void> } {
  const stop = new AbortController();
  const done = d.client.run(stop.signal);
  done.catch(() => undefined); // whoever looks at it is told
  const end = async () => {
    stop.abort();
    await done.catch(() => undefined);
  };
  ends.push(end);
  return { done, end };
}

/** Waits until the server holds so many calls of Wait. */
const waiting = (f: Fake, n = 1) => expect.poll(() => f.waiting, soon).toBe(n);

describe("run", { timeout: 120_000 }, () => {
  test("syncs at once, when the server has something, and when something was recorded, and ends without an error", async () => {
    const f = new Fake();
    const id = randomUUID();
    f.put("account", id, { n: 1 });
    const d = await signedIn(f, undefined, never);
    const r = running(d);
    await waiting(f);
    expect(shown(d, "account", id)).toBe('{"n":1}');
    f.put("account", id, { n: 2 });
    await expect.poll(() => shown(d, "account", id), soon).toBe('{"n":2}');
    await waiting(f);
    await d.client.create("visit", { n: 3 });
    await expect.poll(() => f.applied.size, soon).toBe(1);
    await waiting(f);
    expect(d.client.status()).toMatchObject({ pending: 0, syncing: false, complete: true, lastSyncMs: serverTime + 5 });
    await r.end();
    await expect(r.done).resolves.toBeUndefined();
    expect(f.waiting).toBe(0);
  });

  test("sends what was recorded while a sync was under way", async () => {
    const f = new Fake();
    const d = await signedIn(f, undefined, never);
    let recorded: Promise<string> | undefined;
    f.answer = () => (recorded ??= d.client.create("visit", {}));
    running(d);
    await expect.poll(() => f.applied.size, soon).toBe(1);
    await recorded;
  });

  test("uploads files beside, and lets the copies go", async () => {
    const f = new Fake();
    const d = await signedIn(f, undefined, quick);
    running(d);
    await waiting(f);
    f.onPut = () => {
      if (f.puts === 1) throw noSignal();
    };
    await d.client.attach("photo", new Uint8Array(300_000).fill(7), "image/jpeg", {});
    await expect.poll(() => d.client.media(), soon).toEqual([]);
    expect(f.stored.size).toBe(1);
  });

  test("pauses after failures and says why, and a poke ends the pause", async () => {
    const f = new Fake();
    const pauses: unknown[] = [];
    const d = await signedIn(f, undefined, { ...never, log: (event, detail) => event === "pause" && pauses.push(detail["ms"]) });
    f.script = () => {
      throw noSignal();
    };
    running(d);
    await expect.poll(() => pauses.length, soon).toBe(1);
    expect(pauses[0]).toBeGreaterThanOrEqual(1_800_000);
    expect(pauses[0]).toBeLessThanOrEqual(3_600_000);
    expect(d.client.status()).toMatchObject({ syncing: false, error: { code: "unavailable" } });
    f.script = undefined;
    d.client.poke();
    await waiting(f);
    expect(d.client.status().error).toBeUndefined();
  });

  test("a poke ends a wait, for its connection may be dead", async () => {
    const f = new Fake();
    const d = await signedIn(f, undefined, never);
    running(d);
    await waiting(f);
    const before = f.requests.length;
    d.client.poke();
    await expect.poll(() => f.requests.length, soon).toBe(before + 1);
    await waiting(f);
  });

  test("does not spin when mutations get no verdict", async () => {
    const f = new Fake();
    const d = await signedIn(f, undefined, never);
    f.script = () => ({ serverTimeMs: BigInt(serverTime) });
    await d.client.create("visit", {});
    const pauses = vi.fn();
    const r = running(await other(d, { ...never, log: pauses }));
    await expect.poll(() => pauses.mock.calls.length, soon).toBe(1);
    expect(f.requests.length).toBeLessThanOrEqual(3);
    await r.end();
  });

  test("does not spin when the server wakes it for nothing, and does not think it a failure for long", async () => {
    const f = new Fake();
    const reasons: unknown[] = [];
    const d = await signedIn(f, undefined, { ...never, log: (event, detail) => event === "pause" && reasons.push(detail["error"]) });
    await d.client.sync();
    f.requests = [];
    f.wake = () => true;
    running(d);
    await expect.poll(() => reasons, soon).toEqual([expect.stringContaining("for nothing")]);
    expect(f.requests).toHaveLength(3);
    f.wake = undefined;
    d.client.poke();
    await waiting(f);
    await d.client.create("visit", {});
    await expect.poll(() => f.applied.size, soon).toBe(1);
  });

  test("does not spin when the server does not hold a wait", async () => {
    const f = new Fake();
    const pauses = vi.fn();
    const d = await signedIn(f, undefined, { ...never, log: pauses });
    f.wake = () => false;
    running(d);
    await expect.poll(() => pauses.mock.calls.length, soon).toBe(1);
    expect(f.requests.length).toBe(1);
  });

  test("waits as long as the server asks, whoever pokes", async () => {
    const f = new Fake();
    const pauses: unknown[] = [];
    const d = await signedIn(f, undefined, { ...quick, log: (event, detail) => event === "pause" && pauses.push(detail["ms"]) });
    f.script = () => {
      const e = fail(Code.ResourceExhausted, Reason.RATE_LIMITED);
      for (const detail of e.details) if ("value" in detail) Object.assign(detail.value, { retryAfterMs: 3_600_000 });
      throw e;
    };
    running(d);
    await expect.poll(() => pauses, soon).toEqual([3_600_000]);
    const calls = f.requests.length;
    d.client.poke();
    await new Promise((resolve) => setImmediate(resolve));
    expect(f.requests.length).toBe(calls);
  });

  test("ends with what only the app can mend", async () => {
    const f = new Fake();
    const out = await open(f, undefined, quick);
    await expect(running(out).done).rejects.toMatchObject({ code: "sign_in_again" });
    const d = await signedIn(f, undefined, quick);
    f.script = () => {
      throw fail(Code.PermissionDenied, Reason.DEVICE_REVOKED);
    };
    await expect(running(d).done).rejects.toMatchObject({ code: "device_revoked" });
    f.script = undefined;
    const closed = running(d);
    await waiting(f);
    await d.client.close();
    await expect(closed.done).rejects.toMatchObject({ code: "closed" });
  });

  test("is done by one tab, for all that is recorded in any, and another takes over", async () => {
    const f = new Fake();
    const one = await signedIn(f, memoryDisk(), never);
    const first = running(one);
    await waiting(f);
    const two = await other(one, never);
    const second = running(two);
    await two.client.create("visit", { by: "two" });
    await expect.poll(() => f.applied.size, soon).toBe(1);
    await waiting(f);
    expect(two.client.status().pending).toBe(0);
    await first.end();
    await waiting(f);
    await one.client.create("visit", { by: "one" });
    await expect.poll(() => f.applied.size, soon).toBe(2);
    await second.end();
  });

  test("ends by close also where it waits for its turn", async () => {
    const f = new Fake();
    const one = await signedIn(f, memoryDisk(), never);
    running(one);
    await waiting(f);
    const two = await other(one, never);
    const second = running(two);
    await two.client.close();
    await expect(second.done).rejects.toMatchObject({ code: "closed" });
  });

  test("goes on as one of those that wait when its turn is lost", async () => {
    const f = new Fake();
    const d = await signedIn(f, memoryDisk(), never);
    let lose = (): void => undefined;
    let turns = 0;
    const disk: MemoryDisk = {
      ...d.disk.tab(),
      exclusive: (name, _, fn) => {
        if (name !== "run") return fn();
        turns++;
        const lost = new AbortController();
        lose = () => lost.abort();
        return fn(lost.signal);
      },
    };
    running(await open(f, disk, never));
    await waiting(f);
    lose();
    await expect.poll(() => turns, soon).toBe(2);
    await waiting(f);
  });

  test("is left to another tab when the page is hidden, and goes on alone where there is none", async () => {
    const f = new Fake();
    const page = new EventTarget();
    const shownAs = { visibilityState: "visible" };
    vi.stubGlobal("window", page);
    vi.stubGlobal("document", Object.assign(page, shownAs));
    const points: string[] = [];
    const config = (name: string): Partial<Config> => ({ ...never, step: (point) => point === "call" && points.push(name) });
    const one = await signedIn(f, memoryDisk(), config("one"));
    running(one);
    await waiting(f);
    const hide = () => {
      Object.assign(page, { visibilityState: "hidden" });
      page.dispatchEvent(new Event("visibilitychange"));
    };
    hide();
    await expect.poll(() => points, soon).toEqual(["one", "one"]);
    await waiting(f);
    running(await other(one, config("two")));
    hide();
    await expect.poll(() => points, soon).toEqual(["one", "one", "two"]);
    await waiting(f);
    page.dispatchEvent(new Event("online"));
    await expect.poll(() => points, soon).toEqual(["one", "one", "two", "two"]);
  });
});

describe("the schema", () => {
  test("is fetched by run, kept on the device, and fetched again for another version and after a day", async () => {
    const f = new Fake();
    let now = serverTime;
    const d = await signedIn(f, memoryDisk(), { ...never, now: () => now });
    expect([d.client.schema().size, d.client.templates().size]).toEqual([0, 0]);
    const r = running(d);
    await waiting(f);
    expect([...d.client.schema().values()]).toEqual([expect.objectContaining({ name: "visit", canCreate: true, fields: [expect.objectContaining({ name: "note" })] })]);
    await r.end();
    const again = await other(d, { ...never, now: () => now });
    expect(again.client.schema().get("visit")?.labelEn).toBe("Visit");
    expect([...again.client.templates()]).toEqual([["task_due", { name: "task_due", textZh: "任务即将到期。", textEn: "A task is due." }]]);
    const fetched = f.schemas;
    const r2 = running(again);
    await waiting(f);
    expect(f.schemas).toBe(fetched);
    f.answer = (_, res) => {
      if (res.page) res.page.schemaVersion = 4;
    };
    f.put("account", randomUUID(), {});
    await expect.poll(() => f.schemas, soon).toBe(fetched + 1);
    now += 25 * 3600 * 1000;
    f.put("account", randomUUID(), {});
    await expect.poll(() => f.schemas, soon).toBe(fetched + 2);
    await waiting(f);
    await r2.end();
  });

  test("that cannot be fetched holds nothing up", async () => {
    const f = new Fake();
    const d = await signedIn(f, undefined, never);
    f.onCall = (path) => {
      if (path.endsWith("GetSchema")) throw new TypeError("fetch failed");
    };
    running(d);
    await waiting(f);
    await expect(d.client.fetchSchema()).rejects.toMatchObject({ code: "unavailable" });
  });
});

/** Another tab. */
function other(d: Phone, config: Partial<Config>): Promise<Phone> {
  return open(d.fake, d.disk.tab(), config);
}
