import { SatchelError, StorageFull, type Batch, type Disk, type Table } from "@satchel/client";
import { ask, type Wx } from "./wx.js";

/** How much a disk may hold. WeChat gives a mini-program 10 MB of storage (7.1 MB encrypted) and 200 MB of files, all told. */
export interface Budget {
  /** Bytes of storage. */
  storage: number;
  /** More bytes of storage, for what a sync writes: without it, a full phone could not send what frees it. */
  reserve: number;
  /** Bytes of files. */
  files: number;
  /** Characters of the journal after which its rows are taken into the shards; a commit counts for 2,600 more. */
  journal: number;
}

const plain: Budget = { storage: 8_000_000, reserve: 1_000_000, files: 150_000_000, journal: 512 << 10 };
const encrypted: Budget = { ...plain, storage: 5_800_000, reserve: 700_000 };

/** Characters of one key's text: at most 256 KB, for each is at most 3 bytes. */
const pieceChars = 85_000;
/** Rows are spread over so many shards, each rewritten as a whole. */
const shardCount = 64;
/** What a commit in the journal costs besides its text, in characters: a key to read at the start. */
const commitChars = 2_600;

/** The form of what is written, at the beginning of each key's text. */
const version = "1";
/** The table of files, besides those of the contract: key → name and size of its file. */
const files = "files";

interface Shard {
  /** Table → key → row. */
  tables: Map<string, Map<string, unknown>>;
  /** The commit up to which its text has everything. */
  at: number;
  /** Keys of its text; 0 = it was empty. */
  parts: number;
  /** It has rows, or lacks rows, that its text does not tell of. */
  dirty: boolean;
}

/** What the key "head" says: which texts count. Writing it is the switch. */
interface Head {
  /** Every shard has all commits up to this one. */
  base: number;
  /** Shard → the commit up to which it has everything, and in how many keys. */
  shards: Record<string, [at: number, parts: number]>;
}

/** A commit as the journal has it: tables that were cleared, rows, files, prefixes of files that went. */
interface Entry {
  c: string[];
  r: [table: string, key: string, row: unknown][];
  f: [key: string, name: string, size: number][];
  d: string[];
}

/**
 * A disk for a Mirror (stores/mirror.ts) on wx.setStorage and, for bytes, files. Each commit is a key of its own, the journal; now
 * and then its rows go into shards, of which a head says which count. A commit is there with the last key that it writes, and
 * a new shard with the head, so that a kill between any two calls of WeChat's leaves all or nothing.
 */
export class WxDisk implements Disk {
  private readonly prefix: string;
  private readonly folder: string;
  private readonly budget: Budget;
  private shards: Shard[] = [];
  private base = 0;
  private at = 0;
  private readonly sizes = new Map<string, number>(); // of our keys, in bytes
  private used = 0;
  private fileBytes = 0;
  private journal = 0; // characters
  private wait = 1; // what the journal must grow by before it is tried again to shrink it
  private failed = false; // the last commit may be on the disk or not
  private closed = false;

  /** name: of the store, letters and digits. encrypt: WeChat encrypts the storage, which is slower and holds less. */
  constructor(
    private readonly wx: Wx,
    name: string,
    private readonly encrypt = false,
    budget: Partial<Budget> = {},
  ) {
    if (!/^[A-Za-z0-9_-]{1,32}$/.test(name)) throw new SatchelError("invalid", "a store's name has 1 to 32 letters, digits, _ and -");
    this.prefix = `satchel/${name}/`;
    this.folder = `${wx.env.USER_DATA_PATH}/satchel-${name}`;
    this.budget = { ...(encrypt ? encrypted : plain), ...budget };
  }

  async load(): Promise<{ generation: number; rows: { table: Table; key: string; row: unknown }[] }> {
    const { keys } = await ask<{ keys: string[] }>((c) => this.wx.getStorageInfo(c));
    const there = new Set(keys.filter((key) => key.startsWith(this.prefix)));
    const counts = new Set<string>();
    const read = async (name: string): Promise<string | undefined> => {
      const key = this.prefix + name;
      if (!there.has(key)) return undefined;
      const { data } = await ask<{ data: unknown }>((c) => this.wx.getStorage({ key, ...(this.encrypt ? { encrypt: true } : {}), ...c }));
      if (typeof data !== "string" || !data.startsWith(version + "\n")) throw new SatchelError("no_storage", `the key ${key} is not of this version of the package`);
      counts.add(key);
      this.note(key, data);
      return data.slice(2);
    };
    const whole = async (name: string, parts: number): Promise<string> => {
      let text = "";
      for (let i = 0; i < parts; i++) {
        const part = await read(`${name}.${i}`);
        if (part === undefined) throw new SatchelError("no_storage", `the key ${this.prefix}${name}.${i} is missing`);
        text += part;
      }
      return text;
    };

    this.sizes.clear();
    this.used = this.journal = this.fileBytes = 0;
    const head = parse<Head>((await read("head")) ?? '{"base":0,"shards":{}}'); // what writeHead wrote
    this.base = this.at = head.base;
    this.shards = await Promise.all(
      Array.from({ length: shardCount }, async (_, i): Promise<Shard> => {
        const [at, parts] = head.shards[i] ?? [head.base, 0];
        const rows = parse<Record<string, [string, unknown][]>>((await whole(`s${i}-${at}`, parts)) || "{}"); // what takeIn wrote
        return { tables: new Map(Object.keys(rows).map((table) => [table, new Map(rows[table])])), at, parts, dirty: false };
      }),
    );
    for (;;) {
      const first = await read(`j${this.at + 1}.0`);
      if (first === undefined) break;
      const end = first.indexOf("\n");
      const text = first.slice(end + 1) + (await this.rest(read, this.at + 1, Number(first.slice(0, end))));
      this.journal += text.length;
      this.apply(parse<Entry>(text), this.at + 1); // what commit wrote
      this.at++;
    }
    for (const key of there) if (!counts.has(key)) await this.remove(key); // left by a kill
    await this.sweep();
    this.failed = false;

    const rows: { table: Table; key: string; row: unknown }[] = [];
    for (const shard of this.shards) {
      for (const [table, map] of shard.tables) {
        if (table !== files) map.forEach((row, key) => rows.push({ table: table as Table, key, row })); // put was given it as one
      }
    }
    return { generation: this.at, rows };
  }

  async commit(generation: number, batch: Batch): Promise<boolean> {
    this.check();
    // What became of a commit that failed is found out before the next: the mirror loads anew when it hears false.
    if (this.failed || generation !== this.at) return false;
    const number = this.at + 1;
    const entry: Entry = {
      c: batch.clear,
      r: batch.rows.map(({ table, key, row }) => [table, key, row]),
      f: batch.bytes.map(({ key, bytes }, i) => [key, `${number}-${i}`, bytes.length]),
      d: batch.deleteBytes,
    };
    const parts = split(JSON.stringify(entry));
    if (!this.fits(parts, batch)) {
      await this.shrink(true);
      if (!this.fits(parts, batch)) throw new StorageFull();
    }
    const gone = this.replaced(entry);
    const written: string[] = [];
    try {
      for (const [i, { bytes }] of batch.bytes.entries()) await this.writeFile(`${number}-${i}`, bytes);
      for (let i = parts.length - 1; i >= 0; i--) {
        const key = `${this.prefix}j${number}.${i}`;
        written.push(key);
        await this.write(key, (i === 0 ? parts.length + "\n" : "") + (parts[i] ?? ""));
      }
    } catch (e) {
      this.failed = true;
      try {
        for (const key of written.reverse()) await this.remove(key); // the first part first: without it there is no commit
        for (const [, name] of entry.f) await this.removeFile(name);
        this.failed = false;
      } catch {
        // A load finds out.
      }
      throw e;
    }
    this.journal += parts.reduce((n, part) => n + part.length, 0);
    this.apply(entry, number);
    this.at = number;
    for (const [name, size] of gone) {
      this.fileBytes -= size;
      await this.removeFile(name).catch(() => undefined); // a load sweeps it away
    }
    for (const [, , size] of entry.f) this.fileBytes += size;
    await this.shrink();
    return true;
  }

  async bytes(key: string): Promise<Uint8Array | undefined> {
    this.check();
    const file = this.shard(files, key).tables.get(files)?.get(key) as [string, number] | undefined; // apply put it
    if (!file) return undefined;
    try {
      const { data } = await ask<{ data: string | ArrayBuffer }>((c) => this.wx.getFileSystemManager().readFile({ filePath: `${this.folder}/${file[0]}`, ...c }));
      return typeof data === "string" ? undefined : new Uint8Array(data);
    } catch (e) {
      if (missing(e)) return undefined; // it went meanwhile
      throw e;
    }
  }

  async close(): Promise<void> {
    this.closed = true;
  }

  /** Bytes of storage that the store holds, for tests and for who shows it. */
  get storage(): number {
    return this.used;
  }

  private check(): void {
    if (this.closed) throw new SatchelError("closed", "the store is closed");
  }

  private async rest(read: (name: string) => Promise<string | undefined>, number: number, parts: number): Promise<string> {
    let text = "";
    for (let i = 1; i < parts; i++) text += (await read(`j${number}.${i}`)) ?? "";
    return text;
  }

  private shard(table: string, key: string): Shard {
    let h = 0x811c9dc5; // FNV-1a
    for (let i = 0; i < key.length; i++) h = Math.imul(h ^ key.charCodeAt(i), 0x01000193);
    for (let i = 0; i < table.length; i++) h = Math.imul(h ^ table.charCodeAt(i), 0x01000193);
    const shard = this.shards[(h >>> 0) % shardCount];
    if (!shard) throw new SatchelError("invalid", "the disk was not loaded");
    return shard;
  }

  /** Brings a commit to the shards that do not have it yet. */
  private apply(entry: Entry, number: number): void {
    const put = (table: string, key: string, row: unknown) => {
      const shard = this.shard(table, key);
      if (shard.at >= number) return;
      shard.dirty = true;
      let map = shard.tables.get(table);
      if (!map) shard.tables.set(table, (map = new Map()));
      if (row === null) map.delete(key);
      else map.set(key, row);
    };
    for (const table of entry.c) {
      for (const shard of this.shards) {
        if (shard.at < number && shard.tables.delete(table)) shard.dirty = true;
      }
    }
    for (const [table, key, row] of entry.r) put(table, key, row);
    for (const prefix of entry.d) for (const key of this.filesUnder(prefix)) put(files, key, null);
    for (const [key, name, size] of entry.f) put(files, key, [name, size]);
  }

  private filesUnder(prefix: string): string[] {
    return this.shards.flatMap((shard) => [...(shard.tables.get(files)?.keys() ?? [])].filter((key) => key.startsWith(prefix)));
  }

  /** The files that a commit makes void. */
  private replaced(entry: Entry): [string, number][] {
    const keys = new Set(entry.d.flatMap((prefix) => this.filesUnder(prefix)).concat(entry.f.map(([key]) => key)));
    return [...keys].flatMap((key) => {
      const file = this.shard(files, key).tables.get(files)?.get(key) as [string, number] | undefined; // apply put it
      return file ? [file] : [];
    });
  }

  /** Tells whether there is room for a batch. What a person records leaves the reserve alone. */
  private fits(parts: string[], batch: Batch): boolean {
    const recorded = batch.bytes.length > 0 || batch.rows.some((r) => r.table === "outbox" && (r.row as { number?: number } | null)?.number === 0);
    const need = parts.reduce((n, part) => n + size(part), 0);
    const grows = batch.rows.some((r) => r.row !== null) || recorded;
    const limit = this.budget.storage + (recorded ? 0 : grows ? this.budget.reserve / 2 : this.budget.reserve);
    const bytes = batch.bytes.reduce((n, b) => n + b.bytes.length, 0);
    return this.used + need <= limit && (bytes === 0 || this.fileBytes + bytes <= this.budget.files);
  }

  /** Takes the journal into the shards, when it is long. The commits in it stand whatever happens here. */
  private async shrink(now = false): Promise<void> {
    if (!now && this.journal + (this.at - this.base) * commitChars < this.budget.journal * this.wait) return;
    const from = this.base;
    try {
      for (const [i, shard] of this.shards.entries()) if (shard.dirty) await this.takeIn(i, shard);
      for (const shard of this.shards) {
        if (shard.parts === 0) shard.at = this.at;
      }
      this.base = this.at;
      await this.writeHead();
      for (let n = from + 1; n <= this.at; n++) {
        for (const key of [...this.sizes.keys()]) if (key.startsWith(`${this.prefix}j${n}.`)) await this.remove(key);
      }
      this.journal = 0;
      this.wait = 1;
    } catch {
      this.base = from;
      this.wait++; // no room, say: later again
    }
  }

  private async takeIn(i: number, shard: Shard): Promise<void> {
    const rows: Record<string, [string, unknown][]> = {};
    for (const [table, map] of shard.tables) if (map.size > 0) rows[table] = [...map];
    const parts = Object.keys(rows).length > 0 ? split(JSON.stringify(rows)) : [];
    const name = `${this.prefix}s${i}-${this.at}.`;
    try {
      for (const [n, part] of parts.entries()) await this.write(name + n, part);
    } catch (e) {
      for (const n of parts.keys()) await this.remove(name + n);
      throw e;
    }
    const before = { at: shard.at, parts: shard.parts };
    Object.assign(shard, { at: this.at, parts: parts.length });
    try {
      await this.writeHead();
    } catch (e) {
      Object.assign(shard, before); // the head may be there all the same: the text that it names stays, until a load
      throw e;
    }
    shard.dirty = false;
    for (let n = 0; n < before.parts; n++) await this.remove(`${this.prefix}s${i}-${before.at}.${n}`);
  }

  private async writeHead(): Promise<void> {
    const head: Head = { base: this.base, shards: {} };
    for (const [i, shard] of this.shards.entries()) {
      // A shard without a text and without rows has everything up to base; one that lost all its rows says since when.
      if (shard.parts > 0 || shard.at > this.base) head.shards[i] = [shard.at, shard.parts];
    }
    await this.write(this.prefix + "head", JSON.stringify(head));
  }

  private note(key: string, data: string): void {
    this.forget(key);
    const n = size(key) + size(data);
    this.sizes.set(key, n);
    this.used += n;
  }

  private forget(key: string): void {
    this.used -= this.sizes.get(key) ?? 0;
    this.sizes.delete(key);
  }

  private async write(key: string, text: string): Promise<void> {
    const data = version + "\n" + text;
    try {
      await ask((c) => this.wx.setStorage({ key, data, ...(this.encrypt ? { encrypt: true } : {}), ...c }));
    } catch (e) {
      throw full(e);
    }
    this.note(key, data);
  }

  private async remove(key: string): Promise<void> {
    await ask((c) => this.wx.removeStorage({ key, ...c }));
    this.forget(key);
  }

  private async writeFile(name: string, bytes: Uint8Array): Promise<void> {
    const data = bytes.slice().buffer as ArrayBuffer; // slice makes no shared one, and no view with something around it
    const write = () => ask((c) => this.wx.getFileSystemManager().writeFile({ filePath: `${this.folder}/${name}`, data, ...c }));
    try {
      await write();
    } catch (e) {
      if (!missing(e)) throw full(e);
      await ask((c) => this.wx.getFileSystemManager().mkdir({ dirPath: this.folder, recursive: true, ...c }));
      await write().catch((again: unknown) => {
        throw full(again);
      });
    }
  }

  private async removeFile(name: string): Promise<void> {
    try {
      await ask((c) => this.wx.getFileSystemManager().unlink({ filePath: `${this.folder}/${name}`, ...c }));
    } catch (e) {
      if (!missing(e)) throw e;
    }
  }

  /** Removes files that no row names, and counts the others. */
  private async sweep(): Promise<void> {
    const named = new Map<string, number>();
    for (const shard of this.shards) {
      for (const file of shard.tables.get(files)?.values() ?? []) named.set(...(file as [string, number])); // apply put it
    }
    named.forEach((size) => (this.fileBytes += size));
    let names: string[] = [];
    try {
      names = (await ask<{ files: string[] }>((c) => this.wx.getFileSystemManager().readdir({ dirPath: this.folder, ...c }))).files;
    } catch {
      return; // there is no folder before the first file
    }
    for (const name of names) if (!named.has(name)) await this.removeFile(name);
  }
}

/** Reads what this class wrote; T is what it was. */
function parse<T>(text: string): T {
  try {
    return JSON.parse(text) as T;
  } catch (e) {
    throw new SatchelError("no_storage", "what stands in the storage cannot be read", e);
  }
}

function missing(e: unknown): boolean {
  return /no such file/i.test(String(e));
}

/** WeChat says so when there is no room: in a key, in the storage, among the files, on the phone. */
function full(e: unknown): unknown {
  return /exceed|maximum size|no space|enospc|quota|storage full|not enough/i.test(String(e)) ? new StorageFull(e) : e;
}

/** Cuts a text, never within a pair of surrogates. */
function split(text: string): string[] {
  const parts: string[] = [];
  for (let from = 0; from < text.length; ) {
    let to = Math.min(from + pieceChars, text.length);
    const last = text.charCodeAt(to - 1);
    if (last >= 0xd800 && last < 0xdc00 && to < text.length) to--;
    parts.push(text.slice(from, to));
    from = to;
  }
  return parts;
}

/** Bytes of a text in UTF-8; a surrogate counts as 2 bytes, so that a pair is 4. */
function size(text: string): number {
  let n = text.length;
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c > 0x7f) n += c < 0x800 || (c >= 0xd800 && c < 0xe000) ? 1 : 2;
  }
  return n;
}
