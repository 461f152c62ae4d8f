import { SatchelError, StorageFull, type Batch, type ChangeRow, type Disk, type Store, type Tables } from "@satchel/client";
import { Mirror } from "@satchel/client/mirror";
import { exercise } from "@satchel/client/storetest";
import { describe, expect, it, test } from "vitest";
import { WxDisk, type Budget } from "../src/disk.js";
import { Flash, Phone } from "./phone.js";

const row = (id: string, fields = ""): ChangeRow => ({ id, kind: "visit", rev: "1", entered: ["7"], fields, author: "", eventMs: 0 });
const mutation = (number: number): Tables["outbox"] => ({ number, id: "m", ops: [], token: "", schema: 0, recorded: { boot: "", ms: 0, wall: 0 } });
const disk = (flash: Flash, budget: Partial<Budget> = {}, encrypt = false) => new WxDisk(new Phone(flash).wx, "main", encrypt, budget);

describe("a store on a mini-program's storage does what every store does", () => {
  for (const [how, encrypt, budget] of [["plain", false, {}], ["encrypted, its journal always full", true, { journal: 1 }]] as const) {
    describe(how, () => {
      exercise(async () => {
        const flash = new Flash();
        const open: Store[] = [];
        return {
          tabs: false,
          async open() {
            const store = new Mirror(disk(flash, budget, encrypt));
            open.push(store);
            await store.open();
            return store;
          },
          end: async () => {
            for (const store of open) await store.close();
          },
        };
      }, it);
    });
  }
});

/** Everything that a disk holds, as text. */
async function content(d: Disk, keys: string[]): Promise<string> {
  const { generation, rows } = await d.load();
  const all = rows.map((r) => `${r.table}/${r.key}=${JSON.stringify(r.row)}`).sort();
  for (const key of keys) {
    const b = await d.bytes(key);
    if (b) all.push(`${key}:${b.length}:${b[0]}`);
  }
  return `${generation} ${all.join(" ")}`;
}

/** A life in commits: small, of many keys, with files, with deletions. */
const big = "大".repeat(90_000) + "🧑‍💼".repeat(30_000);
const life: Batch[] = [];
const none = { clear: [], rows: [], bytes: [], deleteBytes: [] };
for (let i = 0; i < 12; i++) {
  life.push({ ...none, rows: [0, 1, 2].map((n) => ({ table: "record" as const, key: `visit/${(i * 2 + n) % 9}`, row: n === 1 && i % 3 === 0 ? null : row(String(i)) })) });
  if (i === 3) life.push({ ...none, rows: [{ table: "meta", key: "big", row: big }], bytes: [{ key: "a/0", bytes: new Uint8Array(10).fill(1) }, { key: "a/1", bytes: new Uint8Array(7).fill(2) }] });
  if (i === 5) life.push({ ...none, bytes: [{ key: "a/1", bytes: new Uint8Array(5).fill(3) }] });
  if (i === 7) life.push({ ...none, clear: ["record"], rows: [{ table: "record", key: "visit/0", row: row("new") }], deleteBytes: ["a/"], bytes: [{ key: "b/0", bytes: new Uint8Array(3).fill(4) }] });
  if (i === 9) life.push({ ...none, clear: ["record", "meta"] });
}
const fileKeys = ["a/0", "a/1", "b/0"];

describe("a kill between any two of WeChat's calls leaves each commit whole or not at all", () => {
  test.each([["with a short journal", { journal: 12_000 }, 1], ["with a long one", {}, 1], ["with none", { journal: 1 }, 3]])("%s", async (_, budget, step) => {
    const after: string[] = [];
    const flash = new Flash();
    const phone = new Phone(flash);
    const d = new WxDisk(phone.wx, "main", false, budget);
    after.push(await content(d, fileKeys));
    for (const [i, batch] of life.entries()) {
      expect(await d.commit(i, batch)).toBe(true);
      after.push(await content(disk(flash.clone(), budget), fileKeys));
    }
    const calls = phone.calls;
    expect(calls).toBeGreaterThan(life.length);

    for (let at = 1; at <= calls; at += step) {
      const victim = new Phone(new Flash());
      victim.dieAt = at; // behind a call is before the next
      const doomed = new WxDisk(victim.wx, "main", false, budget);
      let done = 0;
      const lived = (async () => {
        await doomed.load();
        for (const batch of life) {
          await doomed.commit(done, batch);
          done++;
        }
      })();
      await Promise.race([lived, dead(victim)]);
      const again = disk(victim.flash, budget);
      const found = await content(again, fileKeys);
      const k = after.indexOf(found);
      if (k !== done && k !== done + 1) throw new Error(`killed before call ${at}: of ${done} commits it has ${k}: ${found.slice(0, 300)}`);
      // It goes on from there, whatever the kill left lying about.
      for (let i = k; i < life.length; i++) expect(await again.commit(i, life[i] ?? none)).toBe(true);
      expect(await content(disk(victim.flash, budget), fileKeys)).toBe(after.at(-1));
    }
  });
});

/** Resolves when the phone has died and nothing of it is under way any more. */
async function dead(phone: Phone): Promise<void> {
  while (!phone.dead) await new Promise((resolve) => setImmediate(resolve));
  await new Promise((resolve) => setImmediate(resolve));
}

describe("a call of WeChat's that fails fails its commit, or nothing", () => {
  test.each(["setStorage", "removeStorage", "writeFile", "unlink"])("%s", async (call) => {
    for (let skip = 0; skip < 40; skip++) {
      const flash = new Flash();
      const phone = new Phone(flash);
      const d = new WxDisk(phone.wx, "main", false, { journal: 12_000 });
      await d.load();
      let failed = 0;
      for (let i = 0; i < life.length; ) {
        if (i === skip % life.length && failed === 0) {
          failed = 1;
          phone.failures.push(...Array.from({ length: skip < 20 ? 1 : 3 }, () => ({ call, errMsg: `${call}:fail system error` })));
        }
        const before = i;
        try {
          expect(await d.commit(i, life[i] ?? none)).toBe(true);
          i++;
        } catch (e) {
          expect(String(e)).toMatch(/system error/);
          phone.failures.length = 0;
          expect((await content(disk(flash.clone()), fileKeys)).split(" ")[0]).toBe(String(before));
        }
      }
      phone.failures.length = 0;
      const clean = new WxDisk(new Phone(new Flash()).wx, "main");
      await clean.load();
      for (const [i, batch] of life.entries()) await clean.commit(i, batch);
      expect(await content(disk(flash), fileKeys)).toBe(await content(clean, fileKeys));
    }
  });
});

test("no key is over WeChat's limit, whatever a row holds, and what it holds comes back", async () => {
  for (const encrypt of [false, true]) {
    const flash = new Flash();
    const d = disk(flash, { journal: 1 }, encrypt);
    await d.load();
    const text = big + "\ud83d" + "\u0000\u2028";
    await d.commit(0, { ...none, rows: [{ table: "meta", key: "k", row: text }] });
    for (const [key, { data }] of flash.storage) expect(Buffer.byteLength(String(data)), key).toBeLessThanOrEqual(256 * 1024);
    const { rows } = await disk(flash, {}, encrypt).load();
    expect(rows).toEqual([{ table: "meta", key: "k", row: text }]);
    await expect(disk(flash, {}, !encrypt).load()).rejects.toMatchObject({ code: "no_storage", message: expect.stringContaining("not found") as string });
  }
});

test("a full storage refuses what a person records, and still takes what makes room", async () => {
  const flash = new Flash();
  const d = disk(flash);
  const { generation } = await d.load();
  let at = generation;
  const record = (i: number): Batch => ({ ...none, rows: [{ table: "outbox", key: String(i), row: mutation(0) }, { table: "overlay", key: `k${i}`, row: { id: "x".repeat(100_000), kind: "visit", base: "0" } }] });
  await expect(
    (async () => {
      for (let i = 0; i < 1_000; i++) {
        await d.commit(at, record(i));
        at++;
      }
    })(),
  ).rejects.toBeInstanceOf(StorageFull);
  expect(at).toBeGreaterThan(70);
  expect(d.storage).toBeGreaterThan(7_800_000);
  expect(new Phone(flash).storageBytes()).toBeLessThan(8_400_000);
  const sent = await d.commit(at, { ...none, rows: [{ table: "outbox", key: "0", row: { ...mutation(1), token: "x".repeat(50_000) } }] }); // a sync numbers it
  expect(sent).toBe(true);
  at++;
  for (let i = 0; i < 10; i++) await d.commit(at++, { ...none, rows: [{ table: "outbox", key: String(i), row: null }, { table: "overlay", key: `k${i}`, row: null }] });
  expect(await d.commit(at++, record(2_000))).toBe(true); // there is room again
  const again = disk(flash);
  expect((await again.load()).generation).toBe(at);
});

test("WeChat's own word that there is no room becomes StorageFull, and nothing happened", async () => {
  const flash = new Flash();
  flash.otherBytes = 9_000_000; // of other parts of the mini-program
  const d = disk(flash);
  await d.load();
  let at = 0;
  const put = (): Promise<boolean> => d.commit(at, { ...none, rows: [{ table: "meta", key: String(at), row: "x".repeat(60_000) }] });
  await expect(
    (async () => {
      for (; at < 1_000; at++) await put();
    })(),
  ).rejects.toBeInstanceOf(StorageFull);
  expect(at).toBeGreaterThan(5);
  expect((await disk(flash).load()).generation).toBe(at);
  flash.otherBytes = 0;
  expect(await put()).toBe(true);
});

test("files have a budget of their own, and their bytes are what was given, not what lies around them", async () => {
  const flash = new Flash();
  const d = disk(flash, { files: 3_000 });
  await d.load();
  const wide = new Uint8Array(100).map((_, i) => i);
  await d.commit(0, { ...none, bytes: [{ key: "a", bytes: wide.subarray(10, 20) }] });
  expect([...((await d.bytes("a")) ?? [])]).toEqual([10, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
  await expect(d.commit(1, { ...none, bytes: [{ key: "b", bytes: new Uint8Array(2_991) }] })).rejects.toBeInstanceOf(StorageFull);
  expect(await d.commit(1, { ...none, deleteBytes: ["a"] })).toBe(true);
  expect(await d.commit(2, { ...none, bytes: [{ key: "b", bytes: new Uint8Array(2_991) }] })).toBe(true);
  expect([...flash.files.values()].map((b) => b.length)).toEqual([2_991]);
});

test("two stores of one mini-program do not see each other, and a foreign form is refused", async () => {
  const flash = new Flash();
  const phone = new Phone(flash);
  const [a, b] = [new WxDisk(phone.wx, "li"), new WxDisk(phone.wx, "wang")];
  await a.load();
  await b.load();
  await a.commit(0, { ...none, rows: [{ table: "meta", key: "k", row: 1 }], bytes: [{ key: "f", bytes: new Uint8Array(3) }] });
  expect((await new WxDisk(phone.wx, "wang").load()).rows).toEqual([]);
  expect((await new WxDisk(phone.wx, "li").load()).rows).toHaveLength(1);
  expect((await a.bytes("f"))?.length).toBe(3);
  flash.storage.set("satchel/li/head", { data: "2\n{}", encrypted: false });
  await expect(new WxDisk(phone.wx, "li").load()).rejects.toMatchObject({ code: "no_storage" });
  expect(() => new WxDisk(phone.wx, "../x")).toThrow(SatchelError);
});
