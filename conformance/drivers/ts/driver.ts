import { Client, SatchelError, type Config, type Edit, type MutationRow, type Rec, type Store } from "@satchel/client";

/** Keeps a driver's stores by name. */
export interface Stores {
  /** The store of that name, new if there is none. */
  open(name: string): Store;
  /** From now on nothing of the client that has the store may reach it. */
  kill(name: string): void;
  /** Copies a store that is not open. */
  copy(from: string, to: string): Promise<void> | void;
  /** Forgets all. */
  reset(): Promise<void> | void;
}

interface Clock {
  boot: string;
  ms: number;
  wall_ms: number;
}

interface Op {
  create?: string;
  patch?: string;
  delete?: string;
  command?: string;
  record?: string;
  name?: string;
  fields?: Record<string, unknown>;
  args?: Record<string, unknown>;
  sets?: { field: string; add?: string[]; remove?: string[] }[];
  increments?: { field: string; by: number }[];
}

/** A line of the runner: conformance/README.md says which command has which members. */
export interface Command extends Partial<Clock> {
  id: number;
  do: string;
  base_url?: string;
  store?: string;
  config?: { profile?: string; schema_version?: number; app_version?: string; max_bytes?: number };
  clock?: Clock;
  from?: string;
  to?: string;
  login?: string;
  password?: string;
  ops?: Op[];
  kind?: string;
  record?: string;
  base64?: string;
  content_type?: string;
  fields?: Record<string, unknown>;
  order?: number;
}

/** A driver's answer to a line, which is a line. */
export async function answer(driver: Driver, line: string): Promise<string> {
  const command: Command = JSON.parse(line);
  try {
    return JSON.stringify({ id: command.id, ...(await driver.do(command)) });
  } catch (e) {
    const known = e instanceof SatchelError ? { code: e.code, reason: e.reason, retry_after_ms: e.retryAfterMs } : { code: "invalid", reason: "", retry_after_ms: 0 };
    return JSON.stringify({ id: command.id, error: { ...known, message: String(e) } });
  }
}

/** The driver around one client at a time. more = what else its clients are configured with. */
export class Driver {
  private open: { client: Client; store: Store; name: string; stop: AbortController } | undefined;
  private clock: Clock = { boot: "", ms: 0, wall_ms: 0 };

  constructor(
    private readonly stores: Stores,
    private readonly more: Partial<Config> = {},
  ) {}

  async do(c: Command): Promise<object> {
    switch (c.do) {
      case "reset":
        await this.kill();
        await this.stores.reset();
        return {};
      case "open":
        await this.begin(c);
        return {};
      case "close":
        await this.open?.client.close();
        this.open = undefined;
        return {};
      case "kill":
        await this.kill();
        return {};
      case "copy":
        await this.stores.copy(c.from ?? "", c.to ?? "");
        return {};
      case "clock":
        this.clock = { boot: c.boot ?? "", ms: c.ms ?? 0, wall_ms: c.wall_ms ?? 0 };
        return {};
    }
    if (!this.open) throw new SatchelError("closed", "no client is open");
    const { client, store, stop } = this.open;
    return (await act(client, store, stop.signal, c)) ?? look(client, c) ?? { unknown: true };
  }

  private async begin({ base_url = "", store: name = "", config = {}, clock }: Command): Promise<void> {
    if (this.open) throw new SatchelError("invalid", "a client is open");
    if (clock) this.clock = clock;
    const store = this.stores.open(name);
    const client = await Client.open({
      baseUrl: base_url, store, timeoutMs: 10_000,
      now: () => this.clock.wall_ms, monotonic: () => ({ boot: this.clock.boot, ms: this.clock.ms }),
      ...(config.profile !== undefined && { profile: config.profile }),
      ...(config.schema_version !== undefined && { schemaVersion: config.schema_version }),
      ...(config.app_version !== undefined && { appVersion: config.app_version }),
      ...(config.max_bytes !== undefined && { maxBytes: config.max_bytes }),
      ...this.more,
    });
    this.open = { client, store, name, stop: new AbortController() };
  }

  private async kill(): Promise<void> {
    const killed = this.open;
    if (!killed) return;
    this.open = undefined;
    this.stores.kill(killed.name);
    killed.stop.abort();
    await killed.client.close();
  }
}

/** What changes something or makes calls; undefined = the command is none of these. */
async function act(client: Client, store: Store, signal: AbortSignal, c: Command): Promise<object | undefined> {
  switch (c.do) {
    case "sign_in":
      await client.signIn({ login: c.login ?? "", password: c.password ?? "", platform: "ts" }, signal);
      return {};
    case "sign_out":
      await client.signOut(signal);
      return {};
    case "record":
      return record(client, c.ops ?? []);
    case "sync_once":
    case "sync": {
      const r = await (c.do === "sync" ? client.sync(signal) : client.syncOnce(signal));
      return { more: r.more, min_protocol: r.minProtocol };
    }
    case "wait":
      return { wake: await client.wait(signal) };
    case "attach": {
      const bytes = Uint8Array.from(atob(c.base64 ?? ""), (char) => char.charCodeAt(0));
      return { record: await client.attach(c.kind ?? "", bytes, c.content_type ?? "", c.fields ?? {}) };
    }
    case "upload":
      return client.upload(signal);
    case "damage": {
      const worn: object = { worn: "\ufffd\ufffd" };
      await store.update((tx) => tx.put("outbox", String(c.order).padStart(16, "0"), worn as MutationRow)); // it is none: that is the damage
      return {};
    }
  }
  return undefined;
}

async function record(client: Client, ops: Op[]): Promise<object> {
  const batch = client.batch();
  const created: string[] = [];
  const named = <T>(v: T): T | string => (typeof v === "string" && /^&\d+$/.test(v) ? (created[Number(v.slice(1)) - 1] ?? v) : v);
  const filled = (fields: Record<string, unknown> = {}) => Object.fromEntries(Object.entries(fields).map(([k, v]) => [k, named(v)]));
  for (const op of ops) {
    const id = named(op.record ?? "");
    if (op.create !== undefined) created.push(batch.create(op.create, filled(op.fields)));
    else if (op.patch !== undefined) {
      const edits: Edit[] = [...(op.sets ?? []), ...(op.increments ?? [])];
      batch.patch(op.patch, id, filled(op.fields), edits);
    } else if (op.delete !== undefined) batch.delete(op.delete, id);
    else if (op.command !== undefined) batch.command(op.command, id, op.name ?? "", filled(op.args));
    else throw new SatchelError("invalid", "an op without an action");
  }
  return { mutation: await client.record(batch), created };
}

/** What the client shows; undefined = the command is none of these. */
function look(client: Client, c: Command): object | undefined {
  switch (c.do) {
    case "identity": {
      const id = client.identity();
      return { person: id.person, org: id.org, device: id.device, signed_in: id.signedIn };
    }
    case "show":
      return { records: client.list(c.kind ?? "").map(shown) };
    case "get": {
      const r = client.get(c.kind ?? "", c.record ?? "");
      return { record: r ? shown(r) : null };
    }
    case "status": {
      const s = client.status();
      return { pending: s.pending, seq: s.seq, complete: s.complete, settled_priority: s.settledPriority, followed_months: s.followedMonths, repairing: s.repairing };
    }
    case "settled":
      return { settled: client.settled(0, 10_000).map((s) => ({ mutation: s.id, fate: s.fate, reason: s.reason, attention: s.attention })) };
    case "office":
      return { office: client.atOffice().map((o) => ({ kind: o.kind, id: o.id })) };
    case "kept":
      return { count: client.kept().length };
    case "media":
      return { media: client.media().map((m) => ({ record: m.record, blob: m.blob, size: m.size, refused: m.refused })) };
  }
  return undefined;
}

function shown(r: Rec): object {
  return { id: r.id, fields: r.fields, rev: r.rev, pending: r.pending, author: r.author };
}
