// What test/indexeddb.browser.test.ts runs in the page.
import { indexedDBDisk, indexedDBStore } from "../src/stores/indexeddb.js";
import { leases } from "../src/stores/leases.js";
import { Mirror } from "../src/stores/mirror.js";
import { exercise } from "../src/stores/storetest.js";
import type { ChangeRow, Store } from "../src/store.js";
import { openDB } from "idb";

let names = 0;
const cases = new Map<string, () => Promise<void>>();

exercise(async () => {
  const name = `world-${Date.now()}-${names++}`;
  const stores: Store[] = [];
  return {
    tabs: true,
    open: async () => {
      const store = indexedDBStore(name);
      stores.push(store);
      await store.open();
      return store;
    },
    end: async () => {
      await Promise.all(stores.map((s) => s.close()));
      indexedDB.deleteDatabase(name);
    },
  };
}, (name, fn) => cases.set(name, fn));

/** The names of the specification's sentences. */
export const sentences = [...cases.keys()];

/** Runs one; the text of its error, or "". */
export async function check(sentence: string): Promise<string> {
  try {
    await (cases.get(sentence) ?? (() => Promise.reject(new Error("no such sentence"))))();
    return "";
  } catch (e) {
    return String(e);
  }
}

export let store: Store;

export async function open(name: string): Promise<void> {
  store = indexedDBStore(name);
  await store.open();
}

/** As open, in a page without Web Locks. */
export async function openOnLeases(name: string): Promise<void> {
  const db = await openDB<{ state: { key: string; value: number | { owner: string; until: number } } }>(name + "-locks", 1, { upgrade: (d) => void d.createObjectStore("state") });
  store = new Mirror({ ...indexedDBDisk(name), exclusive: leases((fn) => fn(db.transaction("state", "readwrite").store)) });
  await store.open();
}

/** Records n mutations one after the other, as Client.record does; gives how many are in the outbox then. */
export async function record(who: string, n: number): Promise<number> {
  for (let i = 0; i < n; i++) {
    await store.update((tx) => {
      const order = Number(tx.get("meta", "order") ?? 0) + 1;
      tx.put("meta", "order", order);
      tx.put("outbox", String(order).padStart(16, "0"), { number: 0, id: `${who}-${i}`, ops: [], token: "", schema: 1, recorded: { boot: "", ms: 0, wall: 0 } });
    });
  }
  return store.view((tx) => tx.count("outbox"));
}

export function recorded(): string[] {
  const ids: string[] = [];
  store.view((tx) => tx.scan("outbox", "", (_, m) => void ids.push(m.id)));
  return ids;
}

/** Takes "sync" and holds it for ever. */
export function hold(): Promise<void> {
  return new Promise(
    (resolve) =>
      void store.exclusive("sync", undefined, (signal) => {
        signal?.addEventListener("abort", () => (lost = true));
        return new Promise(() => resolve());
      }),
  );
}

/** Neither hears nor does anything for so long, as a page that the browser froze. */
export function freeze(ms: number): void {
  for (const end = Date.now() + ms; Date.now() < end; );
}

/** The turn that hold took was lost. */
export let lost = false;

/** Takes "sync" and gives it back; false = not within ms. */
export async function take(ms: number): Promise<boolean> {
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), ms);
  try {
    await store.exclusive("sync", stop.signal, async () => undefined);
    return true;
  } catch {
    return false;
  } finally {
    clearTimeout(timer);
  }
}

function visit(n: number): ChangeRow {
  const id = "0190aaaa-bbbb-7ccc-8ddd-" + String(n).padStart(12, "0");
  const fields = JSON.stringify({ account: id, purpose: "quarterly review", status: "done", note: "客户很满意，下周再来拜访。".repeat(6) });
  return { id, kind: "visit", rev: String(n), entered: ["12345", "98765"], fields, author: id, eventMs: 1.7e12 + n };
}

/** Puts n visits in pages of 500, as a first sync; milliseconds of a page. */
export async function fill(n: number): Promise<number> {
  const began = performance.now();
  for (let i = 0; i < n; i += 500) {
    await store.update((tx) => {
      for (let j = i; j < i + 500; j++) tx.put("record", "visit/" + visit(j).id, visit(j));
    });
  }
  return (performance.now() - began) / (n / 500);
}

/** A page that changes 300 of the visits: milliseconds of its commit, and of a scan of the kind after it. */
export async function page(): Promise<{ commit: number; scan: number; met: number }> {
  const began = performance.now();
  await store.update((tx) => {
    for (let j = 0; j < 300; j++) tx.put("record", "visit/" + visit(j * 7).id, visit(j * 7));
  });
  const commit = performance.now() - began;
  let met = 0;
  store.view((tx) => tx.scan("record", "visit/", () => void met++));
  return { commit, scan: performance.now() - began - commit, met };
}

/** Milliseconds of one recorded mutation. */
export async function one(): Promise<number> {
  const began = performance.now();
  await record("one", 20);
  return (performance.now() - began) / 20;
}

export async function reopen(name: string): Promise<number> {
  const began = performance.now();
  await open(name);
  return performance.now() - began;
}

/** Fills the disk until it is full: the code of the error, and what a smaller update does after it. */
export async function full(): Promise<{ code: string; rows: number; after: number }> {
  const before = store.view((tx) => tx.count("record"));
  let code = "none";
  for (let i = 0; i < 40; i++) {
    try {
      await store.update((tx) => {
        tx.put("record", "big/" + i, { ...visit(i), fields: "x" });
        tx.putBytes("big/" + i, crypto.getRandomValues(new Uint8Array(65536)));
        for (let k = 0; k < 63; k++) tx.putBytes(`big/${i}/${k}`, crypto.getRandomValues(new Uint8Array(65536)));
      });
    } catch (e) {
      code = e instanceof Error && "code" in e ? String(e.code) : String(e);
      await store.update((tx) => tx.deleteBytes("big/"));
      await store.update((tx) => tx.put("record", "after", visit(1)));
      return { code, rows: store.view((tx) => tx.count("record")) - before - i, after: i };
    }
  }
  return { code, rows: 0, after: 40 };
}

/** Opens a store where opening fails; the code of the error. */
export async function openCode(name: string): Promise<string> {
  try {
    await indexedDBStore(name).open();
    return "";
  } catch (e) {
    return e instanceof Error && "code" in e ? String(e.code) : String(e);
  }
}

export async function newerVersion(name: string): Promise<void> {
  (await openDB(name, 99)).close();
}

/** The code of the error of an update after the database was deleted by another tab. */
export async function updateCode(): Promise<string> {
  try {
    await record("late", 1);
    return "";
  } catch (e) {
    return e instanceof Error && "code" in e ? String(e.code) : String(e);
  }
}

export function remove(name: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const request = indexedDB.deleteDatabase(name);
    request.onsuccess = () => resolve();
    request.onerror = () => reject(request.error);
  });
}
