import { expect, test } from "vitest";
import { pace, slowness } from "../test/pace.js";
import { Client } from "./client.js";
import { memoryDisk, memoryStore } from "./stores/memory.js";
import type { ChangeRow, Store } from "./store.js";
import type { Fields, Rec, Status } from "./types.js";

function id(n: number): string {
  return "0190aaaa-bbbb-7ccc-8ddd-" + String(n).padStart(12, "0");
}

function visit(n: number, rev: number, fields: Fields): ChangeRow {
  return { id: id(n), kind: "visit", rev: String(rev), entered: ["7"], fields: JSON.stringify(fields), author: "", eventMs: 0 };
}

async function phone(disk = memoryDisk()): Promise<{ client: Client; store: Store; put: (...rows: ChangeRow[]) => Promise<void>; drop: (n: number) => Promise<void> }> {
  const store = memoryStore(disk);
  const client = await Client.open({ baseUrl: "http://127.0.0.1:1", store });
  return {
    client,
    store,
    put: (...rows) => store.update((tx) => rows.forEach((r) => tx.put("record", `${r.kind}/${r.id}`, r))),
    drop: (n) => store.update((tx) => tx.delete("record", "visit/" + id(n))),
  };
}

/** What a watch was told, as text. */
function told(into: string[]): (records: Rec[]) => void {
  return (records) => void into.push(records.map((r) => String(r.fields["name"]) + (r.pending ? "*" : "")).join(" "));
}

test("a watch tells the list at once, and after each commit that changed it, and not after its end", async () => {
  const { client, put, drop } = await phone();
  await put(visit(2, 1, { name: "b" }), visit(1, 1, { name: "a" }));
  const lists: string[] = [];
  const end = client.watch("visit", {}, told(lists));
  expect(lists).toEqual(["a b"]);
  await put(visit(3, 1, { name: "c" }));
  await put({ ...visit(9, 1, { name: "x" }), kind: "account" });
  await put(visit(1, 2, { name: "A" }), visit(2, 2, { name: "B" }));
  await drop(2);
  expect(lists).toEqual(["a b", "a b c", "A B c", "A c"]);
  end();
  await drop(1);
  expect(lists).toHaveLength(4);
});

test("a record is copied whole, although its fields are read when they are first looked at, and they are the same each time", async () => {
  const { client, put } = await phone();
  await put(visit(1, 1, { name: "a" }), { ...visit(2, 1, {}), fields: '{"name":' }, { ...visit(3, 1, {}), fields: '{"name": "c"} ' });
  const [first, third, ...others] = client.list("visit");
  expect(others).toEqual([]); // the fields of the second were cut off
  const whole = { id: id(1), kind: "visit", rev: "1", fields: { name: "a" }, author: "", eventMs: 0, pending: false };
  expect([first, { ...first }, structuredClone(first), JSON.parse(JSON.stringify(first))]).toEqual([whole, whole, whole, whole]);
  expect(third?.fields).toEqual({ name: "c" });
  expect(client.list("visit")[0]?.fields).toBe(first?.fields);
});

test("a condition and an order hold as records come to meet them and cease to", async () => {
  const { client, put } = await phone();
  const lists: string[] = [];
  client.watch("visit", { where: (r) => r.fields["open"] === true, order: (a, b) => Number(a.fields["rank"]) - Number(b.fields["rank"]) }, told(lists));
  await put(visit(1, 1, { name: "a", open: true, rank: 3 }), visit(2, 1, { name: "b", open: false, rank: 2 }), visit(3, 1, { name: "c", open: true, rank: 1 }));
  await put(visit(2, 2, { name: "b", open: true, rank: 2 }));
  await put(visit(3, 2, { name: "c", open: true, rank: 9 }));
  await put(visit(1, 2, { name: "a", open: false, rank: 3 }));
  await put(visit(1, 3, { name: "still closed", open: false, rank: 3 }));
  expect(lists).toEqual(["", "c a", "c b a", "b a c", "b c"]);
});

test("behind its limit nothing changes for a watch", async () => {
  const { client, put, drop } = await phone();
  await put(...[1, 2, 3, 4].map((n) => visit(n, 1, { name: "v" + n })));
  const lists: string[] = [];
  client.watch("visit", { limit: 2 }, told(lists));
  await put(visit(4, 2, { name: "other" }));
  await drop(1);
  await put(visit(5, 1, { name: "last" }));
  expect(lists).toEqual(["v1 v2", "v2 v3"]);
});

test("records that did not change are the same objects, also when their row was written again", async () => {
  const { client, put } = await phone();
  await put(visit(1, 1, { name: "a" }), visit(2, 1, { name: "b" }));
  const lists: Rec[][] = [];
  client.watch("visit", {}, (records) => void lists.push(records));
  await put(visit(1, 1, { name: "a" }));
  await put(visit(1, 1, { name: "a" }), visit(2, 2, { name: "B" }));
  expect(lists).toHaveLength(2);
  expect(lists[1]?.[0]).toBe(lists[0]?.[0]);
  expect(lists[1]?.[1]).not.toBe(lists[0]?.[1]);
});

test("several watches of a kind are told of the same commit, and one that throws does not keep the others from it", async () => {
  const { client, put } = await phone();
  const errors: unknown[] = [];
  const hear = (e: unknown): void => void errors.push(e);
  process.prependListener("uncaughtException", hear);
  const [first, second]: [string[], string[]] = [[], []];
  let calls = 0;
  const kept = process.listeners("uncaughtException").filter((l) => l !== hear);
  kept.forEach((l) => process.removeListener("uncaughtException", l));
  try {
    client.watch("visit", {}, () => {
      if (calls++ > 0) throw new Error("of the app");
    });
    client.watch("visit", {}, told(first));
    await put(visit(1, 1, { name: "a" }));
    client.watch("visit", {}, told(second));
    await put(visit(2, 1, { name: "b" }));
    await expect.poll(() => errors.length).toBe(2);
  } finally {
    kept.forEach((l) => process.on("uncaughtException", l));
    process.removeListener("uncaughtException", hear);
  }
  expect([first, second, calls]).toEqual([["", "a", "a b"], ["a", "a b"], 3]);
});

test("what another tab commits is told, too", async () => {
  const disk = memoryDisk();
  const [a, b] = [await phone(disk), await phone(disk.tab())];
  const lists: string[] = [];
  b.client.watch("visit", {}, told(lists));
  await a.put(visit(1, 1, { name: "a" }));
  await expect.poll(() => lists).toEqual(["", "a"]);
});

test("own mutations are told as pending; the record of a merge is told where it went", async () => {
  const { client, store, put } = await phone();
  await put(visit(1, 1, { name: "one" }), visit(2, 1, { name: "two" }));
  const lists: string[] = [];
  client.watch("visit", {}, told(lists));
  const overlay = (n: number, order: number, name: string): Promise<void> =>
    store.update((tx) => tx.put("overlay", `${id(n)}/${String(order).padStart(16, "0")}/0000`, { id: id(n), kind: "visit", base: "1", patch: { fields: JSON.stringify({ name }) } }));
  await overlay(1, 1, "ONE");
  await store.update((tx) => {
    tx.put("merged", id(1), { kind: "visit", into: id(2), ms: 1 });
    tx.delete("record", "visit/" + id(1));
  });
  await overlay(1, 2, "again");
  await store.update((tx) => tx.clear("overlay"));
  expect(lists).toEqual(["one two", "ONE* two", "ONE*", "again*", "two"]);
});

test("what any changes leave is what a new list gives", async () => {
  const { client, put, store } = await phone();
  const query = { where: (r: Rec) => Number(r.fields["rank"]) % 3 !== 0, order: (a: Rec, b: Rec) => Number(a.fields["rank"]) - Number(b.fields["rank"]), limit: 40 };
  let last: Rec[] = [];
  client.watch("visit", query, (records) => (last = records));
  let seed = 99;
  const random = (n: number): number => (seed = (seed * 48271) % 2147483647) % n;
  for (let i = 1; i < 200; i++) {
    if (i % 50 === 0) await store.update((tx) => tx.clear("record"));
    await put(...Array.from({ length: random(20) }, () => visit(random(90), i, { rank: random(30) })));
    await store.update((tx) => {
      for (let n = random(10); n > 0; n--) tx.delete("record", "visit/" + id(random(90)));
    });
    expect(last.map((r) => [r.id, r.rev])).toEqual(client.list("visit", query).map((r) => [r.id, r.rev]));
  }
});

test("the status is told when it changes", async () => {
  const { client, store, put } = await phone();
  const all: Status[] = [];
  const end = client.watchStatus((s) => void all.push(s));
  await put(visit(1, 1, { name: "a" }));
  await store.update((tx) => tx.put("meta", "other", 1)); // nothing that it shows
  expect(all.map((s) => s.records)).toEqual([0, 1]);
  end();
  await put(visit(2, 1, { name: "b" }));
  expect(all).toHaveLength(2);
});

test("with 20,000 visits and three watches, a change of one is told in under 2 ms of work", async () => {
  const { client, put } = await phone();
  await put(...Array.from({ length: 20_000 }, (_, n) => visit(n, 1, { name: "v" + n, rank: n % 977, note: "客户很满意".repeat(20) })));
  let calls = 0;
  const count = (): void => void calls++;
  client.watch("visit", {}, count);
  client.watch("visit", { order: (a, b) => Number(a.fields["rank"]) - Number(b.fields["rank"]), limit: 50 }, count);
  client.watch("visit", { where: (r) => Number(r.fields["rank"]) < 500 }, count);
  const times: number[] = [];
  const most = 2 * slowness("node", pace());
  for (let i = 0; i < 200; i++) {
    const began = performance.now();
    await put(visit((i * 331) % 20_000, 2 + i, { name: "new", rank: i, note: "" }));
    times.push(performance.now() - began);
  }
  times.sort((a, b) => a - b);
  const best = times[20] ?? Infinity; // the machine may be busy; the work is what the quick ones show
  console.log(`a change of one among 20,000 with three watches: ${best.toFixed(2)} ms (10th percentile of 200), ${(times[100] ?? 0).toFixed(2)} ms (median), where ${most.toFixed(2)} ms are allowed`);
  expect(calls).toBeGreaterThan(400);
  expect(best).toBeLessThan(most);
});
