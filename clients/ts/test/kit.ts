import { Code, ConnectError } from "@connectrpc/connect";
import { randomUUID } from "node:crypto";
import { expect } from "vitest";
import { ErrorDetailSchema, Reason } from "../src/gen/satchel/v1/errors_pb.js";
import type { SyncRequest } from "../src/gen/satchel/v1/sync_pb.js";
import { Client, type Config, type Credentials, type Fields, type Models, type SatchelError, type Store } from "../src/index.js";
import type { Table } from "../src/store.js";
import { memoryDisk, memoryStore, type MemoryDisk } from "../src/stores/memory.js";
import { serverTime, type Fake } from "./fake.js";

export const anId = () => randomUUID();
export const lina: Credentials = { login: "lina", password: "right" };

/** The fake's fetch asks for no compressed answer, for it unpacks none as a real one does. */
function plain(f: Pick<Fake, "fetch">): typeof fetch {
  return (input, init) => {
    const headers = new Headers(init?.headers);
    headers.set("Accept-Encoding", "identity");
    return f.fetch(input, { ...init, headers });
  };
}

export function config(f: Pick<Fake, "fetch">, store: Store): Config {
  return { baseUrl: "http://satchel.test", store, fetch: plain(f), timeoutMs: 20_000, now: () => serverTime + 5, monotonic: () => ({ boot: "boot-1", ms: 77 }) };
}

/** A client that is signed in to the fake. */
export async function signedIn<M extends Models = Record<string, Fields>>(f: Pick<Fake, "fetch">, disk: MemoryDisk = memoryDisk(), more: Partial<Config> = {}): Promise<Client<M>> {
  const c = await Client.open<M>({ ...config(f, memoryStore(disk)), ...more });
  if (!c.identity().signedIn) await c.signIn(lina);
  return c;
}

/** The fake behind a network that can be switched off, and that notes the headers of each call, the last one at the end. */
export function network(f: Fake) {
  const net = {
    down: false,
    headers: [] as Headers[],
    fetch: (async (input, init) => {
      net.headers.push(new Headers(init?.headers));
      if (net.down) throw new TypeError("fetch failed");
      const res = await f.fetch(input, init);
      init?.signal?.throwIfAborted(); // whatever the server does
      return res;
    }) satisfies typeof fetch as typeof fetch,
  };
  return net;
}

/** An error as the server gives it, with what fail leaves out. */
export function failing(code: Code, reason: Reason, more: { message?: string; retryAfterMs?: number }): ConnectError {
  return new ConnectError("refused", code, undefined, [{ desc: ErrorDetailSchema, value: { reason, requestId: "r1", ...more } }]);
}

/** The fields that are shown, or "none". */
export function shown(c: Client, kind: string, id: string): unknown {
  return c.get(kind, id)?.fields ?? "none";
}

export function last(f: Fake): SyncRequest {
  return f.requests.at(-1) ?? expect.fail("there was no request");
}

export function numbers(f: Fake): number[] {
  return last(f).mutations.map((m) => Number(m.number));
}

/** Expects a rejection with a SatchelError of the code, and gives it. */
export async function rejection(p: Promise<unknown>, code: string): Promise<SatchelError> {
  const e: unknown = await p.then(
    () => expect.fail(`expected ${code}`),
    (e: unknown) => e,
  );
  expect(e).toMatchObject({ name: "SatchelError", code });
  return e as SatchelError;
}

/** The keys of a table, as they lie on the disk. */
export async function keysOf(disk: MemoryDisk, table: Table): Promise<string[]> {
  return (await disk.tab().load()).rows.filter((r) => r.table === table).map((r) => r.key);
}

/** A row of "meta", as it lies on the disk. */
export async function metaOf(disk: MemoryDisk, key: string): Promise<unknown> {
  return (await disk.tab().load()).rows.find((r) => r.table === "meta" && r.key === key)?.row;
}

export function bytes(s: string): Uint8Array {
  return new TextEncoder().encode(s);
}

export function text(b: Uint8Array): string {
  return new TextDecoder().decode(b);
}

/** A disk that gives everybody a turn at once, as tabs may have it that slept and do not know yet. */
export function withoutTurns(disk: MemoryDisk): MemoryDisk {
  return { ...disk, exclusive: (_, __, fn) => fn(), tab: () => withoutTurns(disk.tab()) };
}
