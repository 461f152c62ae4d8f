import { expect } from "vitest";
import { Client, type Config, type Result } from "../src/index.js";
import type { Store, Table, Tx } from "../src/store.js";
import { memoryDisk, memoryStore, type MemoryDisk } from "../src/stores/memory.js";
import type { Fake } from "./fake.js";
import { config, lina } from "./kit.js";

/** A client in the hands of a test, on a disk in memory, which it can leave and take up again. */
export interface Phone {
  fake: Fake;
  disk: MemoryDisk;
  store: Store;
  client: Client;
}

/** Opens a client on a disk. */
export async function open(fake: Fake, disk: MemoryDisk = memoryDisk(), more: Partial<Config> = {}): Promise<Phone> {
  const store = memoryStore(disk);
  return { fake, disk, store, client: await Client.open({ ...config(fake, store), ...more }) };
}

/** Opens a client and signs in. */
export async function signedIn(fake: Fake, disk?: MemoryDisk, more?: Partial<Config>): Promise<Phone> {
  const d = await open(fake, disk, more);
  await d.client.signIn(lina);
  return d;
}

/** The app started again, so that it counts what it holds. */
export async function reopened(d: Phone): Promise<Phone> {
  await d.client.close();
  return open(d.fake, d.disk.tab());
}

/** Does what a damaged disk may do. */
export function damage(d: Phone, fn: (tx: Tx) => void): Promise<void> {
  return d.store.update(fn);
}

/** What is shown of a record: its fields as JSON, or "none". */
export function shown(d: Phone, kind: string, id: string): string {
  const r = d.client.get(kind, id);
  return r ? JSON.stringify(r.fields) : "none";
}

/** Expects the device to show what the server has. */
export function wantSame(d: Phone, ...kinds: string[]): void {
  for (const kind of kinds) {
    const theirs = [...d.fake.rows.values()].filter((r) => r.change.kind === kind && r.change.entered.length > 0);
    const byId = (a: { id: string }, b: { id: string }) => (a.id < b.id ? -1 : 1);
    expect(d.client.list(kind).map((r) => ({ id: r.id, rev: r.rev, fields: r.fields })).sort(byId)).toEqual(
      theirs.map((r) => ({ id: r.change.recordId, rev: String(r.change.rev), fields: JSON.parse(r.change.fields) as unknown })).sort(byId),
    );
  }
}

/** Expects tables without rows. */
export function wantEmpty(d: Phone, ...tables: Table[]): void {
  for (const table of tables) expect([table, d.store.view((tx) => tx.count(table))]).toEqual([table, 0]);
}

/** Syncs until one succeeds, at most so often; undefined = none did. */
export async function syncs(d: Phone, tries: number): Promise<Result | undefined> {
  for (let i = 0; i < tries; i++) {
    try {
      return await d.client.sync();
    } catch {
      // the test looks at what came of it
    }
  }
  return undefined;
}

/** What a kill throws. */
export class Killed extends Error {}

/** A step function that kills at the given step, from 1, and from then on, as a dead process does nothing any more; 0 = never. */
export function killer(at: number): { step: (point: string) => void; steps: () => number; point: () => string } {
  let n = 0;
  let name = "";
  return {
    step: (point) => {
      n++;
      if (at > 0 && n >= at) {
        name ||= point;
        throw new Killed(point);
      }
    },
    steps: () => n,
    point: () => name,
  };
}
