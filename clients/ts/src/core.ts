import type { DescMessage, DescMethodUnary, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { SatchelError } from "./errors.js";
import type { ChangeRow, MutationRow, ReadTx, Store, Tx } from "./store.js";
import type { Config, Query, Rec, Status } from "./types.js";

/** Limits of the protocol. */
export const maxBatch = 200; // mutations in a call
export const maxBatchBytes = 1 << 20; // bytes of them
export const maxOps = 100; // ops in a mutation
export const maxMutationBytes = 256 << 10; // bytes of them
export const maxPageBytes = 4 << 20;
export const minPageBytes = 16 << 10;
export const defaultPageBytes = 256 << 10;
export const maxMediaBytes = 100 << 20;
export const maxClockPairs = 32;

/** The version of docs/protocol.md that this client speaks. A server that no longer speaks it answers CLIENT_TOO_OLD. */
export const protocolVersion = "1";

/** Config with what it left out filled in. */
export type Settings = Config &
  Required<Pick<Config, "now" | "monotonic" | "language" | "appVersion" | "profile" | "schemaVersion" | "maxBytes" | "maxBatch" | "timeoutMs" | "retryMinMs" | "retryMaxMs" | "log" | "step" | "random">>;

/** A kind that is watched: its records as shown, once for all who watch it. */
export interface Live {
  recs: Map<string, Rec>;
  watchers: Set<Watcher>;
  /** Records that may look otherwise since recs was made. */
  dirty: Set<string>;
  /** All of them may. */
  all: boolean;
}

/** One who watches. */
export interface Watcher {
  query: Query;
  order: (a: Rec, b: Rec) => number;
  fn: (records: Rec[]) => void;
  /** What matches, in order, without the limit. Never changed in place. */
  matches: Rec[];
  /** The list changed, and fn was not told. */
  due: boolean;
}

/** What a tab knows beside the store, and forgets with the page. */
export interface Memory {
  /** Mutations to send at once; halved on a time-out. */
  batch: number;
  /** Bytes of a page; 0 = the server's default; halved on a time-out. */
  budget: number;
  /** The table of records was counted. */
  counted: boolean;
  /** The last call during a repair sent mutations: the next one repairs. */
  uploaded: boolean;
  /** Rows that the server did not take are salvaged one by one. */
  single: boolean;
  /** The kinds that are watched: see watch.ts. */
  live: Map<string, Live>;
  /** Whom this tab speaks for, as its app knows; "" = nobody yet. Another tab may have signed out, and somebody else in. */
  person: string;
  /** Part of Status; whoever changes them calls Core.changed. */
  syncing: boolean;
  error: Status["error"];
  /** Records as they were shown before, so that what did not change is the same object again. */
  readonly recs: WeakMap<ChangeRow, Rec>;
}

/** What the parts of the client share. They are functions over it. */
export interface Core {
  readonly config: Settings;
  readonly store: Store;
  readonly memory: Memory;
  /** Who listens for changes of memory that Status shows. */
  readonly listeners: Set<() => void>;
  /** What poke wakes: see run.ts. */
  readonly pokes: Set<() => void>;
  /** Aborted by close, with everything that waits. */
  readonly closing: AbortController;
  /** Tells the listeners. */
  changed(): void;
  /** Every write of the client: one local transaction, with a point to be killed at before and after its commit. */
  update<T>(step: string, fn: (tx: Tx) => T): Promise<T>;
  view<T>(fn: (tx: ReadTx) => T): T;
  /**
   * As Store.exclusive; giving up rejects with `canceled`, or `closed`. fn's signal ends with the caller's, with the client's, and
   * when the turn was lost.
   */
  exclusive<T>(name: string, signal: AbortSignal | undefined, fn: (signal: AbortSignal) => Promise<T>): Promise<T>;
  /**
   * Makes one call with the session's token, and once more with a fresh one when it had expired. Rejects with SatchelError.
   * timeoutMs: absent = config.timeoutMs.
   */
  call<I extends DescMessage, O extends DescMessage>(method: DescMethodUnary<I, O>, input: MessageInitShape<I>, signal?: AbortSignal, timeoutMs?: number): Promise<MessageShape<O>>;
  /** The same without a session. */
  bare<I extends DescMessage, O extends DescMessage>(method: DescMethodUnary<I, O>, input: MessageInitShape<I>, token: string, signal?: AbortSignal): Promise<MessageShape<O>>;
  /** A new UUIDv7. */
  newId(): string;
}

/**
 * Loads a part that is of use with a network only, and not each time, so that it does not hold up the start of a page. Rejects
 * with `unavailable`: another try loads it again.
 */
export async function later<T>(load: () => Promise<T>): Promise<T> {
  try {
    return await load();
  } catch (cause) {
    throw new SatchelError("unavailable", "a part of the app could not be loaded", cause);
  }
}

/** A signal that ends with any of these, or by abort; end stops listening to them. */
export function joined(...signals: (AbortSignal | undefined)[]): { signal: AbortSignal; abort: () => void; end: () => void } {
  const own = new AbortController();
  const abort = () => own.abort();
  for (const s of signals) {
    s?.addEventListener("abort", abort);
    if (s?.aborted) abort();
  }
  return { signal: own.signal, abort, end: () => signals.forEach((s) => s?.removeEventListener("abort", abort)) };
}

/** This moment by the device's own clocks. */
export function reading(core: Core): MutationRow["recorded"] {
  const { boot, ms } = core.config.monotonic();
  return { boot, ms: Math.max(0, Math.floor(ms)), wall: Math.floor(core.config.now()) };
}

/** A UUIDv7: the milliseconds, then random bits. */
export function newId(nowMs: number, random: (n: number) => Uint8Array): string {
  const bytes = random(16);
  for (let i = 5, ms = nowMs; i >= 0; i--, ms = Math.floor(ms / 256)) bytes[i] = ms % 256;
  bytes[6] = ((bytes[6] ?? 0) & 15) | 0x70;
  bytes[8] = ((bytes[8] ?? 0) & 63) | 0x80;
  return uuidOf(bytes);
}

/** The text of 16 bytes. */
export function uuidOf(bytes: Uint8Array): string {
  let text = "";
  bytes.forEach((b, i) => (text += (i === 4 || i === 6 || i === 8 || i === 10 ? "-" : "") + (b < 16 ? "0" : "") + b.toString(16)));
  return text;
}

/** The 16 bytes of a UUID. */
export function uuidBytes(id: string): Uint8Array {
  return Uint8Array.from(id.replaceAll("-", "").match(/../g) ?? [], (hex) => parseInt(hex, 16));
}

/** Tells whether a text is a UUID in lower case. */
export function isUuid(text: unknown): text is string {
  return typeof text === "string" && /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(text);
}

/** The id in lower case; "" stays. Throws `invalid`, naming what it is of, for anything that is no UUID. */
export function uuid(text: string, of: string): string {
  const id = text.toLowerCase();
  if (!isUuid(id)) throw new SatchelError("invalid", `${of}: not a UUID`);
  return id;
}
