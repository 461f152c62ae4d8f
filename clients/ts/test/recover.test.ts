import { randomUUID } from "node:crypto";
import { expect, test } from "vitest";
import { Reason } from "../src/gen/satchel/v1/errors_pb.js";
import { Status } from "../src/gen/satchel/v1/sync_pb.js";
import { orderKey } from "../src/rows.js";
import { memoryDisk } from "../src/stores/memory.js";
import { Fake } from "./fake.js";
import { damage, Killed, killer, open, reopened, shown, signedIn, wantEmpty, wantSame, type Phone } from "./phone.js";

const create = (d: Phone, fields = {}) => d.client.create("visit", fields);

test("a gap that the device cannot fill is skipped, and the rest goes on", async () => {
  const f = new Fake();
  const d = await signedIn(f);
  for (let i = 0; i < 5; i++) await create(d);
  f.takeNothing();
  await d.client.syncOnce(); // numbered, and not taken
  await damage(d, (tx) => [2, 3].forEach((n) => tx.delete("outbox", orderKey(n))));
  f.noted();
  expect(await d.client.sync()).toMatchObject({ skipped: 2, pending: 0 });
  expect(f.noted()).toEqual(["1", "4", "5", "4", "5", "2-3 skipped", "4", "5"]);
  expect(f.rows.size).toBe(3);
  await create(d);
  await d.client.sync();
  expect(f.noted()).toEqual(["6"]);
  expect(d.client.settled(0, 10)).toHaveLength(4);
});

test("a gap before a gap is skipped too", async () => {
  const f = new Fake();
  const d = await signedIn(f);
  for (let i = 0; i < 5; i++) await create(d);
  f.takeNothing();
  await d.client.syncOnce();
  await damage(d, (tx) => [1, 3].forEach((n) => tx.delete("outbox", orderKey(n))));
  f.noted();
  expect(await d.client.sync()).toMatchObject({ skipped: 2, pending: 0 });
  expect(f.noted()).toEqual(expect.arrayContaining(["1-1 skipped", "2", "3-3 skipped", "4", "5"]));
  expect(f.rows.size).toBe(3);
});

test("a gap is filled with what the log still has", async () => {
  const f = new Fake();
  const d = await signedIn(f);
  for (let i = 0; i < 4; i++) await create(d);
  await d.client.sync();
  for (const forgotten of [f.lanes, f.ids, f.applied, f.rows]) forgotten.clear(); // and it does not say so
  await damage(d, (tx) => tx.delete("verdict", orderKey(2)));
  await create(d);
  f.noted();
  expect(await d.client.sync()).toMatchObject({ skipped: 1, pending: 0 });
  expect(f.noted()).toEqual(["5", "1", "2-2 skipped", "3", "4", "5"]);
  expect(f.rows.size).toBe(4);
});

for (const sent of [false, true]) {
  test(`what cannot be read is sent as an envelope and its bytes are kept, ${sent ? "after" : "before"} it had a number`, async () => {
    const f = new Fake();
    const d = await signedIn(f);
    for (let i = 0; i < 4; i++) await create(d, { i });
    if (sent) {
      f.takeNothing();
      await d.client.syncOnce();
    }
    const large = await create(d, { note: "x".repeat(200 << 10) });
    const junk = { no: "mutation" };
    await damage(d, (tx) => {
      const m = tx.get("outbox", orderKey(5));
      if (m) tx.put("outbox", orderKey(5), { ...m, token: "A".repeat(200 << 10) });
      tx.put("outbox", orderKey(2), junk as never);
    });
    f.noted();
    await d.client.sync();
    expect(f.noted()).toEqual(["1", "2 envelope", "3", "4", "5 envelope"]);
    expect(d.client.status().pending).toBe(0);
    wantSame(d, "visit");
    expect(shown(d, "visit", large)).toBe("none");
    const kept = d.client.kept();
    expect(kept.map((k) => k.key)).toEqual([orderKey(2), orderKey(5)]);
    expect(kept[0]?.text).toBe(JSON.stringify(junk));
    expect(kept[1]?.text).toContain("x".repeat(200 << 10));
    wantEmpty(d, "overlay", "outbox");
    expect(d.client.settled(0, 10).map((s) => s.fate)).toEqual(["APPLIED", "REJECTED", "APPLIED", "APPLIED", "REJECTED"]);
  });
}

test("a restored server is offered again what it lost, in the order of recording", async () => {
  const f = new Fake();
  f.digests = true;
  const d = await signedIn(f);
  const visit = await create(d, { n: 0 });
  const theirs = randomUUID();
  const known = randomUUID();
  f.put("account", known, { n: 1 });
  await d.client.sync();
  const restore = f.backup();

  await d.client.patch("visit", visit, {}, [{ field: "n", by: 1 }]);
  await d.client.sync();
  const task = await d.client.create("task", { a: 1 });
  f.refuse = ({ ops: [op] }) => (op?.action.case === "patch" && op.action.value.fields ? [Status.REJECTED, Reason.INVALID] : undefined);
  await d.client.patch("visit", visit, { refused: true });
  f.put("account", theirs, { only: "here" });
  f.put("account", known, { n: 2 });
  await d.client.sync();
  await d.client.patch("visit", visit, {}, [{ field: "n", by: 10 }]); // pending at the restore

  restore();
  f.noted();
  const r = await d.client.sync();
  expect(r).toMatchObject({ restored: 2, repaired: 1, pending: 0 });
  expect(r.settled).toHaveLength(3);
  expect(f.noted()).toEqual(["5", "2", "3", "4"]);
  expect(shown(d, "visit", visit)).toBe('{"n":11}');
  expect(shown(d, "task", task)).toBe('{"a":1}');
  expect(shown(d, "account", theirs)).toBe("none");
  wantSame(d, "visit", "task", "account");
  expect(f.salvaged.get(theirs)?.fields).toBe('{"only":"here"}');
  expect(f.salvaged.get(known)?.fields).toBe('{"n":2}');
  expect([...f.applied.values()].every((n) => n === 1)).toBe(true);
  expect(d.client.settled(0, 10)).toHaveLength(5);
  expect(await d.client.sync()).toMatchObject({ restored: 0, calls: 1 });
  expect((f.requests.at(-1)?.seenSeq ?? 0n) >> 40n).toBe(1n);
  wantEmpty(d, "outbox", "overlay", "settled", "staging", "repair");
});

test("what is offered again is shown all the while", async () => {
  const f = new Fake();
  const d = await signedIn(f);
  await d.client.sync();
  const restore = f.backup();
  const visit = await create(d, { n: 1 });
  await d.client.sync();
  restore();
  for (let calls = 0; ; calls++) {
    const r = await d.client.syncOnce();
    expect(shown(d, "visit", visit)).toBe('{"n":1}');
    if (!r.more && r.pending === 0) break;
    expect(calls).toBeLessThan(20);
  }
  wantSame(d, "visit");
});

// A repair and the taking up of what a restored server lost, killed at each step and gone on with.
test("a kill at any step of a restore loses nothing", async () => {
  const live = async (kill: number): Promise<number> => {
    const f = new Fake();
    f.digests = true;
    f.pageRows = 2;
    let d = await signedIn(f, memoryDisk());
    const visit = await create(d, { n: 0 });
    const theirs = Array.from({ length: 5 }, () => randomUUID());
    const [first = "", second = ""] = theirs;
    theirs.forEach((id, i) => f.put("account", id, { i }));
    await d.client.sync();
    const restore = f.backup();
    for (let i = 0; i < 3; i++) {
      await d.client.patch("visit", visit, {}, [{ field: "n", by: 1 }]);
      await d.client.sync();
    }
    const lost = randomUUID();
    f.put("account", lost, { lost: true });
    f.put("account", first, { i: "lost" });
    await d.client.sync();
    restore();
    f.put("account", second, { i: "since" });
    const task = await d.client.create("task", {});
    await d.client.close();
    const k = killer(kill);
    try {
      d = await open(f, d.disk.tab(), { step: k.step });
      await d.client.sync();
    } catch (e) {
      if (!(e instanceof Killed)) throw e;
    }
    if (k.point()) {
      d.disk.kill();
      d = await open(f, d.disk.tab());
      await d.client.sync();
    }
    const at = `killed at ${k.point()}`;
    expect([at, shown(d, "visit", visit), shown(d, "task", task)]).toEqual([at, '{"n":3}', "{}"]);
    wantSame(d, "visit", "task", "account");
    wantEmpty(d, "outbox", "overlay", "settled", "staging", "repair");
    expect([at, f.salvaged.get(lost)?.fields, f.salvaged.get(first)?.fields]).toEqual([at, '{"lost":true}', '{"i":"lost"}']);
    expect([at, ...f.applied.values()]).toEqual([at, 1, 1, 1, 1, 1]);
    return k.steps();
  };
  const steps = await live(0);
  expect(steps).toBeGreaterThan(30);
  for (let kill = 1; kill <= steps; kill++) await live(kill);
}, 60_000);

test("a wipe takes everything but what the server has not kept, and with nothing left all", async () => {
  const f = new Fake();
  const d = await signedIn(f);
  await create(d, { kept: "by the server" });
  f.takeNothing();
  await d.client.syncOnce(); // number 1
  await create(d, { only: "here" });
  await d.client.attach("photo", new Uint8Array([1, 2, 3]), "image/jpeg", {});
  const wipe = (salvagedNumber: bigint) => {
    f.script = () => {
      f.script = undefined;
      return { directives: [{ order: { case: "wipe", value: { salvagedNumber } } }] };
    };
  };
  wipe(1n);
  await expect(d.client.sync()).rejects.toMatchObject({ code: "wiped" });
  expect(d.client.pending().map((m) => m.ops[0]?.kind)).toEqual(["visit", "photo"]);
  expect(d.client.identity().person).toBe(f.person);
  expect(d.client.list("visit")).toHaveLength(1);
  wipe(3n);
  await expect(d.client.sync()).rejects.toMatchObject({ code: "wiped" });
  wantEmpty(d, "outbox", "overlay", "record", "verdict", "media");
  expect(d.client.identity()).toMatchObject({ person: "", signedIn: false });
  const again = await reopened(d);
  expect(again.client.identity().person).toBe("");
});
