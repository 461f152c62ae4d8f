/**
 * The device's durable memory, as the core sees it.
 *
 * A store keeps a few tables of small rows in memory, where reading is immediate, and on a disk behind it, where every
 * update is durable before its promise resolves. The core puts all meaning into keys and rows, so every store behaves
 * alike; stores/storetest.ts is its specification. stores/mirror.ts does all of it but the disk: a new platform writes a
 * {@link Disk}.
 *
 * Two tabs may open one store. Each has all rows in memory; an update runs alone among all of them and sees what the
 * others have committed.
 */

/** A 64-bit number without sign as decimal digits: seqs, revs and buckets go beyond what a JavaScript number holds. */
export type U64 = string;

/** Compares two numbers: negative, 0 or positive. */
export function compareU64(a: U64, b: U64): number {
  return a.length - b.length || (a < b ? -1 : a > b ? 1 : 0);
}

/** Bytes as base64, so that rows are plain JSON. */
export type Base64 = string;

/** A row as the device shows or stages it: satchel.v1.Change, with `entered` all its buckets. */
export interface ChangeRow {
  id: string;
  kind: string;
  rev: U64;
  /** All buckets by which the device has it, ascending. None: staged as one that goes. */
  entered: U64[];
  /** JSON object; "" = none. */
  fields: string;
  author: string;
  eventMs: number;
  deleted?: boolean;
  mergedInto?: string;
}

/** One step of a mutation, as satchel.v1.Op. */
export interface OpRow {
  id: string;
  kind: string;
  base: U64;
  create?: { fields: string };
  patch?: { fields: string; sets?: { field: string; add: string[]; remove: string[] }[]; increments?: { field: string; by: U64 | number }[] };
  delete?: true;
  command?: { name: string; args: string };
}

/** A mutation, as satchel.v1.Mutation. number 0 = never sent. */
export interface MutationRow {
  number: number;
  id: string;
  ops: OpRow[];
  token: Base64;
  schema: number;
  recorded: { boot: string; ms: number; wall: number };
  skip?: { to: number; why: string };
  envelope?: { size: number; sha256: Base64 };
}

/** A verdict, as satchel.v1.Verdict; enums by the numbers of the contract. */
export interface VerdictRow {
  number: number;
  status: number;
  reason: number;
  paths: { id: string; path: string }[];
  notes: number[];
  seq: U64;
  attention: string;
  detail: string;
}

/**
 * The tables and their rows, all of them plain JSON. Orders in keys are 16 decimal digits with leading zeros; ids are
 * UUIDs in lower case. What each table is for stands in clients/go/store.go, whose tables these are.
 */
export interface Tables {
  /** "identity", "place", "numbers", "repair", "schema", … */
  meta: unknown;
  /** order → mutation without verdict */
  outbox: MutationRow;
  /** order → mutation whose ops are still shown */
  settled: { seq: U64; mutation: MutationRow };
  /** record id / order / place in the mutation (4 digits) → own op */
  overlay: OpRow;
  /** kind / record id → as shown */
  record: ChangeRow;
  /** kind / record id → as it will be shown at the checkpoint */
  staging: ChangeRow;
  /** order → what became of a mutation */
  verdict: { device: string; serverMs: number; mutation: MutationRow; verdict: VerdictRow };
  /** order, or "row/" record id → what could not be sent */
  kept: unknown;
  /** what a repair still has to do: see repair.ts */
  repair: unknown;
  /** record id → the record that it was merged into */
  merged: unknown;
  /** record id → an own creation that is not on the device */
  office: unknown;
  /** boot → clock pair */
  clock: { boot: string; ms: number; serverMs: number };
  /** record id → what is to be uploaded */
  media: unknown;
}

/** The name of a table. */
export type Table = keyof Tables;

/** All tables. */
export const tables: readonly Table[] = ["meta", "outbox", "settled", "overlay", "record", "staging", "verdict", "kept", "repair", "merged", "office", "clock", "media"];

/** Reads within one consistent state, at once. Rows that it hands out are shared: never change one, put a new one. */
export interface ReadTx {
  /** The row, or undefined. */
  get<T extends Table>(table: T, key: string): Tables[T] | undefined;
  /**
   * Calls fn for the keys that begin with prefix ("" = all) and are greater than after ("" = from the first), in ascending
   * order, until fn returns false. In an update, fn may write to the same table: whether the scan meets keys written
   * behind its place is not said; rows removed before they were met are not met.
   */
  scan<T extends Table>(table: T, prefix: string, fn: (key: string, row: Tables[T]) => boolean | void, after?: string): void;
  /** How many rows the table has. */
  count(table: Table): number;
}

/** Reads and writes; it sees its own writes. */
export interface Tx extends ReadTx {
  put<T extends Table>(table: T, key: string, row: Tables[T]): void;
  delete(table: Table, key: string): void;
  /** Removes all rows. */
  clear(table: Table): void;
  /** Keeps bytes under a key, durable with the rest. They are not held in memory. */
  putBytes(key: string, bytes: Uint8Array): void;
  /** Removes the bytes of every key that begins with prefix. */
  deleteBytes(prefix: string): void;
}

/** What a commit touched: keys by table. `all` = anything may have changed. */
export interface Touched {
  all: boolean;
  keys: Map<Table, Set<string>>;
}

/** See the top of this file. Its methods may be called at any time, also while others run. */
export interface Store {
  /** Loads everything. Called once, by Client.open, before anything else. */
  open(): Promise<void>;
  /** Runs fn on the committed state, synchronously. */
  view<T>(fn: (tx: ReadTx) => T): T;
  /**
   * Runs fn alone among all tabs. All its writes become durable, and visible, together before the promise resolves; when
   * fn throws, or the process dies, none of them happened. fn is synchronous and may run again where another tab was
   * first: it does nothing but through tx. Rejects with {@link StorageFull} when the disk has no room: nothing happened.
   */
  update<T>(fn: (tx: Tx) => T): Promise<T>;
  /** Bytes kept under a key, or undefined. */
  bytes(key: string): Promise<Uint8Array | undefined>;
  /** Calls fn after each commit, of this tab or another. Gives the function that ends it. */
  onCommit(fn: (touched: Touched) => void): () => void;
  /**
   * Runs fn while no other client of this store, in any tab, runs something under the same name. Who waits can give up by
   * the signal, which rejects with `canceled`. A tab that dies gives way. fn finds here all that any tab had committed before it began. So does a tab that
   * sleeps, or that the browser froze: it finds lost aborted when it goes on, and until then may not know.
   */
  exclusive<T>(name: string, signal: AbortSignal | undefined, fn: (lost?: AbortSignal) => Promise<T>): Promise<T>;
  /** Releases the store. Calls after it reject with {@link StoreClosed}. */
  close(): Promise<void>;
}

/** A commit on its way to the disk: for each table, rows to put (a value) or to delete (null), after `clear`. */
export interface Batch {
  clear: Table[];
  rows: { table: Table; key: string; row: unknown | null }[];
  bytes: { key: string; bytes: Uint8Array }[];
  /** Prefixes; applied before `bytes`. */
  deleteBytes: string[];
}

/** What a platform gives to stores/mirror.ts. One mirror uses it, one call of commit at a time. */
export interface Disk {
  /** All rows, and the number of commits so far. */
  load(): Promise<{ generation: number; rows: { table: Table; key: string; row: unknown }[] }>;
  /**
   * Writes the batch as commit number generation + 1, all or nothing, durable when it resolves. false = another tab has
   * committed since `generation`: nothing was written. Rejects with {@link StorageFull} where there is no room.
   */
  commit(generation: number, batch: Batch): Promise<boolean>;
  bytes(key: string): Promise<Uint8Array | undefined>;
  /** The number of commits so far. Absent: there are no other tabs. */
  generation?(): Promise<number>;
  /** Hears commits of other tabs; a message may be missed. Without a batch: look whether one was. Absent: there are no other tabs. */
  listen?(fn: (generation: number, batch?: Batch) => void): () => void;
  /** As {@link Store.exclusive}, among tabs. Absent: there are no other tabs. */
  exclusive?<T>(name: string, signal: AbortSignal | undefined, fn: (lost?: AbortSignal) => Promise<T>): Promise<T>;
  close(): Promise<void>;
}
