import { expect, test } from "vitest";
import type { Batch, Disk, Store } from "../store.js";
import { memoryDisk, memoryStore } from "./memory.js";
import { exercise } from "./storetest.js";

exercise(async () => {
  const disk = memoryDisk();
  const stores: Store[] = [];
  return {
    tabs: true,
    open: async () => {
      const store = memoryStore(disk.tab());
      stores.push(store);
      await store.open();
      return store;
    },
    end: async () => void (await Promise.all(stores.map((s) => s.close()))),
  };
}, test);

async function opened(disk: Disk): Promise<Store> {
  const store = memoryStore(disk);
  await store.open();
  return store;
}

const get = (s: Store, key: string): unknown => s.view((tx) => tx.get("meta", key));

test("a killed tab wrote what was answered and nothing after, and its turn goes to the next", async () => {
  const first = memoryDisk();
  const dying = await opened(first);
  const living = await opened(first.tab());
  await dying.update((tx) => tx.put("meta", "kept", 1));
  let got: (() => void) | undefined;
  const inside = new Promise<void>((resolve) => (got = resolve));
  const held = dying.exclusive("sync", undefined, () => new Promise<void>(() => got?.()));
  held.catch(() => undefined);
  await inside;
  const next = living.exclusive("sync", undefined, async () => "mine");
  let ended = false;
  void dying.update((tx) => tx.put("meta", "lost", 1)).finally(() => (ended = true));
  first.kill();
  expect(await next).toBe("mine");
  expect([get(living, "kept"), get(living, "lost"), ended]).toEqual([1, undefined, false]);
});

test("a clone does not follow the original", async () => {
  const disk = memoryDisk();
  const phone = await opened(disk);
  await phone.update((tx) => tx.put("meta", "n", 1));
  const backup = disk.clone();
  await phone.update((tx) => tx.put("meta", "n", 2));
  expect(get(await opened(backup), "n")).toBe(1);
});

/** A disk whose messages go through the test's hands. */
function deaf(disk: Disk): { disk: Disk; told: [number, Batch][]; tell: (generation: number, batch: Batch) => void } {
  const told: [number, Batch][] = [];
  let hear: ((generation: number, batch?: Batch) => void) | undefined;
  const listen: Disk["listen"] = (fn) => {
    hear = fn;
    return disk.listen?.((generation, batch) => void (batch && told.push([generation, batch]))) ?? (() => undefined);
  };
  return { disk: { ...disk, listen }, told, tell: (generation, batch) => hear?.(generation, batch) };
}

test("a tab that missed what others committed loads it before its own update, and tells exactly what differs", async () => {
  const disk = memoryDisk();
  const writer = await opened(disk);
  const reader = await opened(deaf(disk.tab()).disk);
  await writer.update((tx) => tx.put("meta", "same", { a: 1 }));
  await reader.update((tx) => tx.put("meta", "own", 1));
  const same = get(reader, "same");
  await writer.update((tx) => {
    tx.put("meta", "more", 2);
    tx.delete("meta", "own");
  });
  const told: string[][] = [];
  reader.onCommit((touched) => told.push([...(touched.keys.get("meta") ?? [])].sort()));
  await reader.update((tx) => tx.put("meta", "last", Number(tx.get("meta", "more"))));
  expect(told).toEqual([["more", "own"], ["last"]]);
  expect(get(reader, "same")).toBe(same);
  expect(get(await opened(disk.tab()), "last")).toBe(2);
});

test("messages that come in another order, or twice, are applied in order once; a gap is closed by loading", async () => {
  const disk = memoryDisk();
  const writer = await opened(disk);
  const line = deaf(disk.tab());
  const reader = await opened(line.disk);
  const seen: unknown[] = [];
  reader.onCommit(() => seen.push(get(reader, "n")));
  for (let i = 1; i <= 5; i++) await writer.update((tx) => tx.put("meta", "n", i));
  await expect.poll(() => line.told.length).toBe(5);
  for (const at of [1, 0, 0, 1]) line.tell(...(line.told[at] ?? expect.fail("no message")));
  expect(seen).toEqual([1, 2]);
  line.tell(...(line.told[4] ?? expect.fail("no message"))); // 3 and 4 never come
  await expect.poll(() => get(reader, "n")).toBe(5);
  expect(seen).toEqual([1, 2, 5]);
});

test("a store that was emptied from outside says so and writes nothing", async () => {
  const full = memoryDisk();
  const empty = memoryDisk();
  let disk: Disk = full;
  const store = await opened({
    load: () => disk.load(),
    commit: (generation, batch) => disk.commit(generation, batch),
    bytes: (key) => disk.bytes(key),
    close: () => disk.close(),
  });
  await store.update((tx) => tx.put("meta", "n", 1));
  disk = empty;
  await expect(store.update((tx) => tx.put("meta", "n", 2))).rejects.toMatchObject({ code: "closed" });
  expect((await empty.load()).rows).toEqual([]);
});

test("an update that meets other tabs again and again gives up after a bounded number of tries", async () => {
  const { load, bytes, close } = memoryDisk();
  let commits = 0;
  const store = await opened({ load, bytes, close, commit: async () => (commits++, false) });
  await expect(store.update((tx) => tx.put("meta", "n", 1))).rejects.toMatchObject({ code: "unavailable" });
  expect(commits).toBe(100);
});
