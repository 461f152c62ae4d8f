import { StoreClosed } from "../errors.js";
import type { Batch, Disk, Store, Table } from "../store.js";
import { localLocks, type Exclusive } from "./locks.js";
import { Mirror } from "./mirror.js";

/** A disk in memory, for tests and for where a browser keeps nothing. Each one is one tab. */
export interface MemoryDisk extends Disk {
  /** Another tab on the same data. */
  tab(): MemoryDisk;
  /** The tab dies: nothing that it asked for and has not got yet happens or is answered, and its locks are free. */
  kill(): void;
  /** An independent copy of the data, with a first tab: a backup that is restored onto another phone. */
  clone(): MemoryDisk;
}

/** What all tabs share. Rows are JSON here as on a real disk: what JSON does not carry does not come back. */
interface Data {
  generation: number;
  rows: Map<Table, Map<string, string>>;
  bytes: Map<string, Uint8Array>;
  tabs: Set<(generation: number, batch: Batch) => void>;
  lock: Exclusive;
}

/** A store whose data goes with the page. For other tabs of the same data, or to open it again, give it a disk. */
export function memoryStore(disk: Disk = memoryDisk()): Store {
  return new Mirror(disk);
}

/** A new, empty disk. */
export function memoryDisk(): MemoryDisk {
  return tab({ generation: 0, rows: new Map(), bytes: new Map(), tabs: new Set(), lock: localLocks() });
}

function tab(data: Data): MemoryDisk {
  let state: "open" | "closed" | "dead" = "open";
  let die = (): void => undefined;
  const death = new Promise<never>((_, reject) => (die = () => reject(new StoreClosed())));
  death.catch(() => undefined);
  const own = new Set<(generation: number, batch: Batch) => void>();

  /** A dead tab gets no answer: its promises never end. */
  const answer = async <T>(fn: () => T): Promise<T> => {
    await Promise.resolve(); // as of a real disk, never at once
    if (state === "dead") return new Promise<T>(() => undefined);
    if (state === "closed") throw new StoreClosed();
    return fn();
  };

  return {
    tab: () => tab(data),
    clone: () => {
      const rows = new Map([...data.rows].map(([table, map]) => [table, new Map(map)]));
      return tab({ generation: data.generation, rows, bytes: new Map(data.bytes), tabs: new Set(), lock: localLocks() });
    },
    kill: () => {
      state = "dead";
      for (const fn of own) data.tabs.delete(fn);
      die();
    },
    generation: () => answer(() => data.generation),
    load: () =>
      answer(() => {
        const rows = [];
        for (const [table, map] of data.rows) for (const [key, text] of map) rows.push({ table, key, row: JSON.parse(text) as unknown });
        return { generation: data.generation, rows };
      }),
    commit: (generation, batch) =>
      answer(() => {
        if (generation !== data.generation) return false;
        const texts = batch.rows.map((r) => (r.row === null ? null : JSON.stringify(r.row))); // may throw: before anything happens
        for (const table of batch.clear) data.rows.delete(table);
        batch.rows.forEach(({ table, key }, i) => {
          let map = data.rows.get(table);
          if (!map) data.rows.set(table, (map = new Map()));
          const text = texts[i];
          if (text == null) map.delete(key);
          else map.set(key, text);
        });
        for (const prefix of batch.deleteBytes) for (const key of data.bytes.keys()) if (key.startsWith(prefix)) data.bytes.delete(key);
        for (const { key, bytes } of batch.bytes) data.bytes.set(key, bytes.slice());
        data.generation++;
        for (const fn of data.tabs) {
          if (own.has(fn)) continue;
          const rows = batch.rows.map((r, i) => ({ ...r, row: JSON.parse(texts[i] ?? "null") as unknown }));
          queueMicrotask(() => data.tabs.has(fn) && fn(generation + 1, { clear: batch.clear, rows, bytes: [], deleteBytes: [] }));
        }
        return true;
      }),
    bytes: (key) => answer(() => data.bytes.get(key)?.slice()),
    listen: (fn) => {
      const listener = (generation: number, batch: Batch): void => fn(generation, batch);
      data.tabs.add(listener);
      own.add(listener);
      return () => {
        data.tabs.delete(listener);
        own.delete(listener);
      };
    },
    // A dead tab gives way, and what it did goes on alone, without effect.
    exclusive: <T>(name: string, signal: AbortSignal | undefined, fn: () => Promise<T>) =>
      data.lock(name, signal, () => Promise.race([fn(), death])),
    close: async () => {
      state = "closed";
    },
  };
}
