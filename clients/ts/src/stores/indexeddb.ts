import { openDB, unwrap, type DBSchema, type IDBPDatabase } from "idb";
import { SatchelError, StorageFull, StoreClosed } from "../errors.js";
import { tables, type Batch, type Disk, type Store, type Table } from "../store.js";
import { leases, type Lease } from "./leases.js";
import { Mirror } from "./mirror.js";
import { webLocks } from "./weblocks.js";

/** Of the database's layout. */
const version = 1;
/** How long opening may take; browsers were seen to let it hang for ever. Milliseconds. */
const openMs = 30_000;
/** How often a browser without BroadcastChannel looks for what other tabs wrote. Milliseconds. */
const lookMs = 3_000;

interface Layout extends DBSchema {
  /** table "/" key → row */
  rows: { key: string; value: unknown };
  bytes: { key: string; value: Uint8Array };
  /** "generation" → number of commits; "lock/" name → lease */
  state: { key: string; value: number | Lease };
}

type Database = IDBPDatabase<Layout>;

/** What tabs tell each other. */
interface Told {
  generation: number;
  batch: Batch;
}

/**
 * A store in the browser's IndexedDB, under a name: one for each person. Each commit waits until the system has written it
 * through (`durability: "strict"`), so that what was recorded outlives a killed tab, and a power cut as far as the device
 * keeps its word. open rejects with `no_storage` where the browser has no IndexedDB to offer, as in some private windows, and
 * with `upgrade_app` where a newer version of the app wrote the database. When there is first something that only this device
 * has, the browser is asked to keep the data when room gets scarce. Tabs hear each other by BroadcastChannel; a browser
 * without it looks every 3 seconds.
 */
export function indexedDBStore(name: string): Store {
  return new Mirror(indexedDBDisk(name));
}

/** The disk of {@link indexedDBStore}. */
export function indexedDBDisk(name: string): Disk {
  let opening: Promise<Database> | undefined; // undefined = not open, or the browser closed it
  let closed: SatchelError | undefined;
  let asked = false;
  const channel = typeof BroadcastChannel === "undefined" ? undefined : new BroadcastChannel("satchel/" + name);

  const connect = async (): Promise<Database> => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    let late = false;
    try {
      const opened = openDB<Layout>(name, version, {
        upgrade: (db) => {
          db.createObjectStore("rows");
          db.createObjectStore("bytes");
          db.createObjectStore("state");
        },
        blocking: (_was, _now, event) => {
          closed = new SatchelError("closed", "another tab deletes or upgrades the database: load the page again");
          if (event.target instanceof IDBDatabase) event.target.close();
        },
        terminated: () => (opening = undefined),
      });
      const db = await Promise.race([opened, new Promise<undefined>((resolve) => (timer = setTimeout(resolve, openMs, undefined)))]);
      if (db) return db;
      late = true;
      opened.then((db) => db.close()).catch(() => undefined);
      throw new Error(`no answer in ${openMs} ms`);
    } catch (e) {
      opening = undefined; // the next call tries again
      if (isNamed(e, "VersionError")) throw new SatchelError("upgrade_app", "a newer version of the app wrote the database", e);
      if (isNamed(e, "QuotaExceededError")) throw new StorageFull(e);
      throw new SatchelError("no_storage", late ? "the browser's database does not answer" : "the browser keeps no data here, as in some private windows", e);
    } finally {
      clearTimeout(timer);
    }
  };

  /** Starts a transaction, and once more on a fresh connection when the browser had dropped the old one. */
  const begin = async <T>(fn: (db: Database) => T | Promise<T>): Promise<T> => {
    for (let again = false; ; again = true) {
      if (closed) throw closed;
      const db = await (opening ??= connect());
      if (closed) {
        db.close();
        throw closed;
      }
      try {
        return await fn(db);
      } catch (e) {
        if (again || !isNamed(e, "InvalidStateError")) throw e;
        opening = undefined;
      }
    }
  };

  const generationNow = async (): Promise<number> => Number((await begin((db) => db.transaction("state").store.get("generation"))) ?? 0);

  return {
    load: async () => {
      const tx = await begin((db) => db.transaction(["rows", "state"]));
      const [generation, keys, rows] = await Promise.all([tx.objectStore("state").get("generation"), tx.objectStore("rows").getAllKeys(), tx.objectStore("rows").getAll()]);
      return { generation: Number(generation ?? 0), rows: keys.flatMap((path, i) => split(path, rows[i])) };
    },

    generation: generationNow,

    commit: async (generation, batch) => {
      const tx = await begin((db) => db.transaction(["rows", "bytes", "state"], "readwrite", { durability: "strict" }));
      try {
        const state = tx.objectStore("state");
        if (Number((await state.get("generation")) ?? 0) !== generation) {
          await tx.done;
          return false;
        }
        // The bare requests: what fails aborts the transaction, and that is heard at its end.
        const rows = unwrap(tx.objectStore("rows"));
        for (const table of batch.clear) rows.delete(IDBKeyRange.bound(table + "/", table + "0", false, true)); // "0" comes after "/"
        for (const { table, key, row } of batch.rows) {
          if (row === null) rows.delete(`${table}/${key}`);
          else rows.put(row, `${table}/${key}`);
        }
        const bytes = unwrap(tx.objectStore("bytes"));
        for (const prefix of batch.deleteBytes) bytes.delete(IDBKeyRange.bound(prefix, prefix + "\uffff"));
        for (const b of batch.bytes) bytes.put(b.bytes, b.key);
        unwrap(state).put(generation + 1, "generation");
        await tx.done;
      } catch (e) {
        try {
          tx.abort(); // where putting threw
        } catch {
          // it has ended
        }
        tx.done.catch(() => undefined);
        throw isNamed(e, "QuotaExceededError") || isNamed(tx.error, "QuotaExceededError") ? new StorageFull(e) : e;
      }
      channel?.postMessage({ generation: generation + 1, batch: { ...batch, bytes: [] } } satisfies Told);
      if (!asked && batch.rows.some((r) => r.table === "outbox")) {
        asked = true;
        askToKeep().catch(() => undefined); // a browser that will not still has the data
      }
      return true;
    },

    bytes: (key) => begin((db) => db.transaction("bytes").store.get(key)),

    listen: (fn) => {
      const hear = (event: MessageEvent<Told>): void => fn(event.data.generation, event.data.batch);
      channel?.addEventListener("message", hear);
      // A page that was frozen, or that the browser had put aside, missed what the others said.
      const look = (): void => void generationNow().then(fn, () => undefined);
      const seen = (): void => {
        if (document.visibilityState === "visible") look();
      };
      globalThis.addEventListener?.("pageshow", look);
      globalThis.document?.addEventListener("visibilitychange", seen);
      const timer = channel ? undefined : setInterval(look, lookMs);
      return () => {
        channel?.removeEventListener("message", hear);
        globalThis.removeEventListener?.("pageshow", look);
        globalThis.document?.removeEventListener("visibilitychange", seen);
        clearInterval(timer);
      };
    },

    exclusive: typeof navigator !== "undefined" && navigator.locks ? webLocks(name) : leases((fn) => begin((db) => fn(db.transaction("state", "readwrite").store))),

    close: async () => {
      closed ??= new StoreClosed();
      channel?.close();
      const db = await opening?.catch(() => undefined);
      db?.close();
    },
  };
}

async function askToKeep(): Promise<void> {
  if (navigator.storage && !(await navigator.storage.persisted())) await navigator.storage.persist();
}

const known: ReadonlySet<string> = new Set(tables);

function isTable(name: string): name is Table {
  return known.has(name);
}

function split(path: string, row: unknown): { table: Table; key: string; row: unknown }[] {
  const at = path.indexOf("/");
  const table = path.slice(0, at);
  return isTable(table) ? [{ table, key: path.slice(at + 1), row }] : [];
}

function isNamed(e: unknown, name: string): boolean {
  return typeof e === "object" && e !== null && "name" in e && e.name === name;
}
