import { joined, later, maxBatch, maxPageBytes, newId, type Core, type Settings } from "./core.js";
import { SatchelError, StoreClosed } from "./errors.js";
import { media } from "./files.js";
import { attach, forgetMedia, open, upload } from "./media.js";
import { Batch, record } from "./mutation.js";
import { pending, settled } from "./outbox.js";
import { kept } from "./recover.js";
import { getIdentity, putIdentity } from "./rows.js";
import { poke, run } from "./run.js";
import { fetchSchema, schema, templates } from "./schema.js";
import { identity, withSession } from "./session.js";
import { atOffice, get, list, status } from "./show.js";
import { sync, syncOnce, wait } from "./sync.js";
import { attempt, makeTransport } from "./transport.js";
import type { BatchApi, ClientApi, Config, Credentials, Edit, Fields, Identity, Kind, Models, Query, Rec, Result, Status } from "./types.js";
import { watch, watchStatus } from "./watch.js";

export type { Core } from "./core.js";

/** See ClientApi, which says what each method does. */
export class Client<M extends Models = Record<string, Fields>> implements ClientApi<M> {
  private constructor(private readonly core: Core) {}

  /**
   * Opens a client on a store. A new store gets a random installation id, and an older one is continued where it stopped,
   * whatever was under way. It makes no call.
   */
  static async open<M extends Models = Record<string, Fields>>(config: Config): Promise<Client<M>> {
    const core = makeCore(config);
    await core.store.open();
    await core.update("open", (tx) => {
      const id = getIdentity(tx);
      if (!id.installation) putIdentity(tx, { ...id, installation: core.newId() });
    });
    core.memory.person = core.view(getIdentity).person;
    return new Client<M>(core);
  }

  identity(): Identity {
    return identity(this.core);
  }
  async signIn(who: Credentials, signal?: AbortSignal): Promise<void> {
    return (await later(() => import("./signin.js"))).signIn(this.core, who, signal);
  }
  async signInBy(...[what, open, signal]: Parameters<ClientApi["signInBy"]>): Promise<void> {
    const { core } = this;
    return (await later(() => import("./signin.js"))).signInBy(core, what, (device) => attempt(core, "", (headers, until) => open(device, headers, until), signal, core.config.timeoutMs), signal);
  }
  async signOut(signal?: AbortSignal): Promise<void> {
    return (await later(() => import("./signin.js"))).signOut(this.core, signal);
  }

  async create<K extends keyof M & string>(kind: K, fields: Partial<M[K]>): Promise<string> {
    const b = this.batch();
    const id = b.create(kind, fields);
    await record(this.core, b);
    return id;
  }
  async patch<K extends keyof M & string>(kind: K, id: string, fields: { [F in keyof M[K]]?: M[K][F] | null }, edits?: Edit[]): Promise<void> {
    await record(this.core, this.batch().patch(kind, id, fields, edits));
  }
  async delete(kind: keyof M & string, id: string): Promise<void> {
    await record(this.core, this.batch().delete(kind, id));
  }
  async command(kind: keyof M & string, id: string, name: string, args: Fields): Promise<void> {
    await record(this.core, this.batch().command(kind, id, name, args));
  }
  batch(): Batch {
    return new Batch(() => this.core.newId());
  }
  async record(batch: BatchApi): Promise<string> {
    return record(this.core, batch);
  }

  // What fields a kind has is the app's to say: the store keeps what the server sent.
  get<K extends keyof M & string>(kind: K, id: string): Rec<M[K]> | undefined {
    return get(this.core, kind, id) as Rec<M[K]> | undefined;
  }
  list<K extends keyof M & string>(kind: K, query?: Query<M[K]>): Rec<M[K]>[] {
    return list(this.core, kind, query as Query) as Rec<M[K]>[];
  }
  watch<K extends keyof M & string>(kind: K, query: Query<M[K]>, fn: (records: Rec<M[K]>[]) => void): () => void {
    return watch(this.core, kind, query as Query, fn as (records: Rec[]) => void);
  }

  status(): Status {
    return status(this.core);
  }
  watchStatus(fn: (status: Status) => void): () => void {
    return watchStatus(this.core, fn);
  }
  pending() {
    return pending(this.core);
  }
  settled(after: number, limit: number) {
    return settled(this.core, after, limit);
  }
  atOffice() {
    return atOffice(this.core);
  }
  kept() {
    return kept(this.core);
  }

  sync(signal?: AbortSignal): Promise<Result> {
    return sync(this.core, signal);
  }
  syncOnce(signal?: AbortSignal): Promise<Result> {
    return syncOnce(this.core, signal);
  }
  wait(signal?: AbortSignal): Promise<boolean> {
    return wait(this.core, signal);
  }
  run(signal: AbortSignal): Promise<void> {
    return run(this.core, signal);
  }
  poke(): void {
    poke(this.core);
  }

  attach<K extends keyof M & string>(kind: K, bytes: Blob | Uint8Array, contentType: string, fields: Partial<M[K]>): Promise<string> {
    return attach(this.core, kind, bytes, contentType, fields as Fields);
  }
  media() {
    return media(this.core);
  }
  forgetMedia(record: string): Promise<void> {
    return forgetMedia(this.core, record);
  }
  upload(signal?: AbortSignal) {
    return upload(this.core, signal);
  }
  open(record: string, signal?: AbortSignal): Promise<Blob> {
    return open(this.core, record, signal);
  }

  schema(): Map<string, Kind> {
    return schema(this.core);
  }
  templates() {
    return templates(this.core);
  }
  fetchSchema(signal?: AbortSignal): Promise<Map<string, Kind>> {
    return fetchSchema(this.core, signal);
  }

  call<T>(fn: (headers: Headers, signal: AbortSignal) => Promise<T>, signal?: AbortSignal): Promise<T> {
    return withSession(this.core, fn, signal);
  }
  async close(): Promise<void> {
    this.core.closing.abort();
    await this.core.store.close();
  }
}

function makeCore(config: Config): Core {
  const defaults = {
    now: () => Date.now(), language: "", appVersion: "", profile: "", schemaVersion: 0, maxBytes: 0, maxBatch, timeoutMs: 30_000, retryMinMs: 1_000, retryMaxMs: 60_000,
    log: () => {}, step: () => {}, random: (n: number) => crypto.getRandomValues(new Uint8Array(n)),
  };
  const filled = { ...defaults, ...config };
  const settings: Settings = { monotonic: clock(() => filled.now(), () => newId(filled.now(), filled.random)), ...filled };
  const { store, random, now, step } = settings;
  const tooLong = (text: string) => new TextEncoder().encode(text).length > 64;
  if (tooLong(settings.profile) || tooLong(settings.appVersion) || settings.maxBytes > maxPageBytes)
    throw new SatchelError("invalid", `profile and appVersion have at most 64 bytes, maxBytes is at most ${maxPageBytes}`);
  settings.maxBatch = Math.max(1, Math.min(settings.maxBatch, maxBatch));
  const transport = makeTransport(settings);
  const listeners = new Set<() => void>();
  const closing = new AbortController();
  const core: Core = {
    config: settings, store, listeners, closing, pokes: new Set(),
    memory: { batch: settings.maxBatch, budget: settings.maxBytes, counted: false, uploaded: false, single: false, person: "", syncing: false, error: undefined, recs: new WeakMap(), live: new Map() },
    changed: () => listeners.forEach((fn) => fn()),
    async update(point, fn) {
      const result = await store.update((tx) => {
        if (closing.signal.aborted) throw new StoreClosed();
        const out = fn(tx);
        step(point + ":before");
        return out;
      });
      step(point + ":after");
      return result;
    },
    view: (fn) => store.view(fn),
    async exclusive(name, signal, fn) {
      const stop = joined(signal, closing.signal);
      try {
        return await store.exclusive(name, stop.signal, (lost) => {
          lost?.addEventListener("abort", stop.abort);
          return fn(stop.signal);
        });
      } catch (e) {
        throw closing.signal.aborted ? new StoreClosed() : e;
      } finally {
        stop.end();
      }
    },
    call: (method, input, signal, timeoutMs = settings.timeoutMs) =>
      withSession(core, async (headers, until) => (await transport.unary(method, until, timeoutMs, headers, input)).message, signal, timeoutMs),
    bare: (method, input, token, signal) =>
      attempt(core, token, async (headers, until) => (await transport.unary(method, until, settings.timeoutMs, headers, input)).message, signal, settings.timeoutMs),
    newId: () => newId(now(), random),
  };
  return core;
}

/**
 * A clock that goes on while the wall clock is set, as far as the platform has one: performance.now, which may stop while the
 * device sleeps. Where both part by more than 5 seconds, either happened: then it begins anew under another boot id, and the
 * server goes by the wall clock for what was recorded before (S7).
 */
function clock(now: () => number, id: () => string): Settings["monotonic"] {
  let boot = "";
  let apart = 0;
  return () => {
    if (typeof performance === "undefined") return { boot: "", ms: 0 };
    const ms = performance.now();
    const difference = now() - ms;
    if (!boot || Math.abs(difference - apart) > 5_000) {
      boot = id();
      apart = difference;
    }
    return { boot, ms };
  };
}
