import { SatchelError, StoreClosed } from "../errors.js";
import { tables, type Batch, type Disk, type ReadTx, type Store, type Table, type Tables, type Touched, type Tx } from "../store.js";
import { localLocks, type Exclusive } from "./locks.js";
import { Rows, walk } from "./rows.js";

/** How often an update runs again because other tabs were first. */
const tries = 100;
/** How long a mirror waits to hear of a commit that it missed, before it loads all rows again; milliseconds. */
const patienceMs = 100;
/** Most commits that are kept until the ones before them come. */
const aheadMost = 64;

type Base = { [T in Table]: Rows<Tables[T]> };

function emptyBase(): Base {
  const rows = <T extends Table>(): Rows<Tables[T]> => new Rows<Tables[T]>();
  return {
    meta: rows<"meta">(), outbox: rows<"outbox">(), settled: rows<"settled">(), overlay: rows<"overlay">(), record: rows<"record">(),
    staging: rows<"staging">(), verdict: rows<"verdict">(), kept: rows<"kept">(), repair: rows<"repair">(), merged: rows<"merged">(),
    office: rows<"office">(), clock: rows<"clock">(), media: rows<"media">(),
  };
}

/** Reads what is committed. */
class View implements ReadTx {
  constructor(protected readonly base: Base) {}

  get<T extends Table>(table: T, key: string): Tables[T] | undefined {
    return this.base[table].map.get(key);
  }

  scan<T extends Table>(table: T, prefix: string, fn: (key: string, row: Tables[T]) => boolean | void, after = ""): void {
    walk(this.base[table].keys(), this.ownKeys(table), prefix, after, (key) => {
      const row = this.get(table, key);
      return row === undefined ? true : fn(key, row);
    });
  }

  count(table: Table): number {
    return this.base[table].map.size;
  }

  protected ownKeys(_table: Table): readonly string[] {
    return [];
  }
}

/** What an update did to a table: null = deleted. */
interface Change {
  cleared: boolean;
  rows: Rows<unknown>;
}

/** Reads what is committed with its own writes on top; nobody else sees those. */
class Journal extends View implements Tx {
  private readonly changes = new Map<Table, Change>();
  private bytes = new Map<string, Uint8Array>();
  private readonly deletedBytes: string[] = [];
  private over = false;

  override get<T extends Table>(table: T, key: string): Tables[T] | undefined {
    const change = this.changes.get(table);
    // What put was given for this table, or null.
    const own = change?.rows.map.get(key) as Tables[T] | null | undefined;
    if (own !== undefined) return own ?? undefined;
    return change?.cleared ? undefined : super.get(table, key);
  }

  override count(table: Table): number {
    const change = this.changes.get(table);
    if (!change) return super.count(table);
    const base = this.base[table].map;
    let n = change.cleared ? 0 : base.size;
    for (const [key, row] of change.rows.map) {
      const stood = !change.cleared && base.has(key);
      n += (row === null ? 0 : 1) - (stood ? 1 : 0);
    }
    return n;
  }

  protected override ownKeys(table: Table): readonly string[] {
    return this.changes.get(table)?.rows.keys() ?? [];
  }

  put<T extends Table>(table: T, key: string, row: Tables[T]): void {
    this.change(table).rows.put(key, row);
  }

  delete(table: Table, key: string): void {
    if (this.get(table, key) !== undefined) this.change(table).rows.put(key, null);
  }

  clear(table: Table): void {
    const change = this.change(table);
    change.cleared = true;
    change.rows.clear();
  }

  putBytes(key: string, bytes: Uint8Array): void {
    this.check();
    this.bytes.set(key, bytes);
  }

  deleteBytes(prefix: string): void {
    this.check();
    for (const key of [...this.bytes.keys()]) if (key.startsWith(prefix)) this.bytes.delete(key);
    this.deletedBytes.push(prefix);
  }

  /** Ends it, and gives what is to be written; undefined = nothing. */
  batch(): Batch | undefined {
    this.over = true;
    const batch: Batch = { clear: [], rows: [], bytes: [], deleteBytes: this.deletedBytes };
    for (const [table, change] of this.changes) {
      const base = this.base[table].map;
      if (change.cleared && base.size > 0) batch.clear.push(table);
      for (const [key, row] of change.rows.map) {
        if (row !== null || (!change.cleared && base.has(key))) batch.rows.push({ table, key, row });
      }
    }
    for (const [key, bytes] of this.bytes) batch.bytes.push({ key, bytes });
    const size = batch.clear.length + batch.rows.length + batch.bytes.length + batch.deleteBytes.length;
    return size > 0 ? batch : undefined;
  }

  private change(table: Table): Change {
    this.check();
    let change = this.changes.get(table);
    if (!change) this.changes.set(table, (change = { cleared: false, rows: new Rows() }));
    return change;
  }

  private check(): void {
    if (this.over) throw new SatchelError("invalid", "the update is over: what it was given is not to be kept");
  }
}

/**
 * A store over a disk: all rows in memory, each update on the disk before it is seen. Updates of this tab wait for each
 * other; against those of other tabs, the disk counts commits and takes only one that has seen all before it. What other
 * tabs commit comes by Disk.listen; a tab that missed some loads everything again and finds out itself what changed.
 */
export class Mirror implements Store {
  private readonly base = emptyBase();
  private readonly reader = new View(this.base);
  private readonly listeners = new Set<(touched: Touched) => void>();
  private readonly ahead = new Map<number, Batch>(); // commits of others whose predecessors are missing
  private readonly exclusively: Exclusive;
  private generation = 0;
  private missed = 0; // the highest generation that was heard of
  private loading = false;
  private tail: Promise<unknown> = Promise.resolve(); // ends when all that was asked for so far is done
  private deaf: (() => void) | undefined; // ends listening
  private heard: (() => void) | undefined; // somebody waits for the next commit of another tab
  private timer: ReturnType<typeof setTimeout> | undefined; // a gap is to be closed
  private closed: SatchelError | undefined;

  constructor(private readonly disk: Disk) {
    this.exclusively = disk.exclusive?.bind(disk) ?? localLocks();
  }

  async open(): Promise<void> {
    this.deaf = this.disk.listen?.((generation, batch) => this.hear(generation, batch)); // first: nothing falls between
    try {
      await this.load();
    } catch (e) {
      this.deaf?.();
      throw e;
    }
  }

  view<T>(fn: (tx: ReadTx) => T): T {
    this.check();
    return fn(this.reader);
  }

  update<T>(fn: (tx: Tx) => T): Promise<T> {
    return this.serially(async () => {
      for (let i = 0; i < tries; i++) {
        this.check();
        const tx = new Journal(this.base);
        const generation = this.generation;
        const result = fn(tx);
        const batch = tx.batch();
        if (!batch) return result;
        if (await this.disk.commit(generation, batch)) {
          this.apply(generation + 1, batch);
          this.drain();
          return result;
        }
        if (this.generation === generation) await this.next();
        if (this.generation === generation) await this.load();
      }
      throw new SatchelError("unavailable", "other tabs write all the time; nothing was recorded: try again");
    });
  }

  async bytes(key: string): Promise<Uint8Array | undefined> {
    this.check();
    return this.disk.bytes(key);
  }

  onCommit(fn: (touched: Touched) => void): () => void {
    const listener = (touched: Touched): void => fn(touched); // the same function may listen twice
    this.listeners.add(listener);
    return () => void this.listeners.delete(listener);
  }

  async exclusive<T>(name: string, signal: AbortSignal | undefined, fn: (lost?: AbortSignal) => Promise<T>): Promise<T> {
    this.check();
    return this.exclusively(name, signal, async (lost) => {
      await this.catchUp(); // with all that was done by who held it before
      return fn(lost);
    });
  }

  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = new StoreClosed();
    clearTimeout(this.timer);
    this.deaf?.();
    await this.tail;
    await this.disk.close();
  }

  private check(): void {
    if (this.closed) throw this.closed;
  }

  /** Runs fn when all that was asked for before is done. */
  private serially<T>(fn: () => Promise<T>): Promise<T> {
    const done = this.tail.then(fn);
    this.tail = done.catch(() => undefined);
    return done;
  }

  /** A commit of another tab. */
  private hear(generation: number, batch?: Batch): void {
    if (generation <= this.generation || this.closed) return;
    if (batch && this.ahead.size < aheadMost) this.ahead.set(generation, batch);
    if (this.loading) return;
    this.drain();
    this.heard?.();
    this.missed = Math.max(this.missed, generation);
    if (this.generation < this.missed && this.timer === undefined) {
      this.timer = setTimeout(() => {
        this.timer = undefined;
        if (this.generation < this.missed) this.catchUp().catch(() => undefined); // who uses the store next is told
      }, patienceMs);
    }
  }

  /** Applies the commits of others that follow. */
  private drain(): void {
    for (let batch; (batch = this.ahead.get(this.generation + 1)); ) this.apply(this.generation + 1, batch);
    for (const generation of this.ahead.keys()) if (generation <= this.generation) this.ahead.delete(generation);
  }

  /** Waits for the next commit of another tab, a moment only. */
  private next(): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, this.disk.listen ? patienceMs : 0);
      this.heard = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** Sees to it that all that is on the disk now is here. */
  private catchUp(): Promise<void> {
    return this.serially(async () => {
      this.check();
      const now = (await this.disk.generation?.()) ?? 0;
      if (this.generation < now) await this.next();
      if (this.generation < now) await this.load();
    });
  }

  /** Loads everything and tells what differs from what was here. */
  private async load(): Promise<void> {
    this.loading = true;
    const { generation, rows } = await this.disk.load().finally(() => (this.loading = false));
    if (generation < this.generation) {
      this.closed = new SatchelError("closed", "the store was emptied from outside: open it again");
      throw this.closed;
    }
    const first = this.generation === 0;
    const there = new Map<Table, Set<string>>(tables.map((table) => [table, new Set()]));
    const batch: Batch = { clear: [], rows: [], bytes: [], deleteBytes: [] };
    for (const row of rows) {
      there.get(row.table)?.add(row.key);
      const was: unknown = first ? undefined : this.base[row.table].map.get(row.key);
      if (was === undefined || JSON.stringify(was) !== JSON.stringify(row.row)) batch.rows.push(row);
    }
    for (const [table, keys] of there) {
      for (const key of this.base[table].map.keys()) if (!keys.has(key)) batch.rows.push({ table, key, row: null });
    }
    this.apply(generation, batch);
    this.drain();
  }

  private apply(generation: number, batch: Batch): void {
    const keys = new Map<Table, Set<string>>();
    const of = (table: Table): Set<string> => {
      let set = keys.get(table);
      if (!set) keys.set(table, (set = new Set()));
      return set;
    };
    for (const table of batch.clear) {
      for (const key of this.base[table].map.keys()) of(table).add(key);
      this.base[table].clear();
    }
    for (const { table, key, row } of batch.rows) {
      of(table).add(key);
      const rows: Rows<unknown> = this.base[table]; // what put was given for this table, here or in another tab
      if (row === null) rows.map.delete(key);
      else rows.put(key, row);
    }
    this.generation = generation;
    for (const listener of [...this.listeners]) {
      try {
        listener({ all: false, keys });
      } catch (e) {
        queueMicrotask(() => {
          throw e; // reported as an event handler's would be; the commit stands
        });
      }
    }
  }
}
