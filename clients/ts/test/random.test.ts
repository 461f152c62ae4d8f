import { expect, test } from "vitest";
import { Client, StorageFull, type Config } from "../src/index.js";
import type { Disk } from "../src/store.js";
import { memoryDisk, memoryStore, type MemoryDisk } from "../src/stores/memory.js";
import { anId, config, keysOf, lina } from "./kit.js";
import { Fake } from "./fake.js";

// Tabs of one store live at random: they record, sync, upload, are killed between any two steps and opened again, while
// answers and requests get lost, broadcasts are missed, the disk is full, and turns are held by two at once, as after a laptop
// slept. At the end all that was recorded is at the server, once, and all tabs show what the server holds.
//
//   SEED=17 npx vitest run --project node test/random.test.ts     one seed
//   SEEDS=1000 …                                                  so many, from SEED on

/** Numbers from 0 to n - 1, the same ones for the same seed (mulberry32). */
function dice(seed: number): (n: number) => number {
  let a = seed;
  return (n) => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 4294967296) * n);
  };
}

/** What may go wrong beside the usual. */
interface Weather {
  /** Two tabs may hold a turn at once. */
  overlaps: boolean;
  /** The server is restored from a backup once. */
  restores: boolean;
}

class World {
  readonly fake = new Fake();
  readonly disk = memoryDisk();
  readonly roll: (n: number) => number;
  /** Record → increments whose promise resolved, and those that may or may not have been recorded. */
  readonly sure = new Map<string, number>();
  readonly perhaps = new Map<string, number>();
  readonly photos = new Set<string>();
  readonly trail: string[] = [];
  calm = false;
  over = false;

  constructor(seed: number, readonly weather: Weather) {
    this.roll = dice(seed);
    this.fake.pageRows = 1 + this.roll(4);
    this.fake.chunk = 64 << 10;
    this.fake.digests = this.roll(2) === 0;
  }

  /** True once in n, unless all is calm. */
  oops(n: number): boolean {
    return !this.calm && this.roll(n) === 0;
  }

  fetch: typeof fetch = async (input, init) => {
    if (this.oops(12)) throw new TypeError("no signal");
    const res = await this.fake.fetch(input, init);
    if (this.oops(12)) throw new TypeError("the answer was lost");
    return res;
  };
}

/** A tab, and its successors. */
class Tab {
  private client: Client | undefined;
  private tab: MemoryDisk | undefined;
  private dead: Promise<never> = Promise.reject(new Error("not open"));
  private steps = 0;
  /** Record → the highest count that this tab has shown. */
  private shown = new Map<string, number>();

  constructor(private readonly w: World, readonly name: string) {
    this.dead.catch(() => undefined);
  }

  /** The client, opened if there is none. undefined: it was killed while it opened. */
  async open(): Promise<Client | undefined> {
    if (this.client) return this.client;
    const { w } = this;
    const tab = (this.tab = w.disk.tab());
    let die = (): void => undefined;
    const dead = (this.dead = new Promise((_, reject) => (die = () => reject(new Error("killed")))));
    dead.catch(() => undefined);
    this.steps = w.oops(3) ? 1 + w.roll(60) : 0;
    this.shown.clear();
    const step = (point: string): void => {
      if (w.oops(150)) throw new Error("the page ran out of memory at " + point);
      if (w.calm || this.steps === 0 || --this.steps > 0) return;
      w.trail.push(`${this.name} dies at ${point}`);
      tab.kill();
      die();
      this.client = undefined;
      throw new Error("killed");
    };
    const more: Partial<Config> = { step, fetch: config({ fetch: w.fetch }, memoryStore()).fetch ?? fetch, log: () => undefined };
    try {
      this.client = await Promise.race([dead, Client.open({ ...config(w.fake, memoryStore(this.weathered(tab))), ...more })]);
    } catch {
      tab.kill();
      return undefined;
    }
    return this.client;
  }

  /** The tab's disk with what may happen to one. */
  private weathered(tab: MemoryDisk): Disk {
    const { w } = this;
    const { exclusive } = tab;
    return {
      ...tab,
      commit: (generation, batch) => (w.oops(80) ? Promise.reject(new StorageFull()) : tab.commit(generation, batch)),
      listen: (fn) => tab.listen?.((generation, batch) => void (w.oops(20) || fn(generation, batch))) ?? (() => undefined),
      exclusive: (name, signal, fn) => {
        if (w.weather.overlaps && name !== "refresh" && w.oops(4)) return fn(); // the other's lease ran out
        if (!exclusive) throw new Error("a disk in memory has turns");
        return exclusive(name, signal, fn);
      },
    };
  }

  /** Does something; whatever happens, the tab goes on or is opened again. */
  async act(): Promise<void> {
    const c = await this.open();
    if (!c) return;
    const { w } = this;
    try {
      const what = this.what(c);
      what.catch(() => undefined);
      await Promise.race([this.dead, what]);
    } catch (e) {
      w.trail.push(`${this.name}: ${String(e).slice(0, 80)}`);
    }
    this.look();
  }

  private async what(c: Client): Promise<void> {
    const { w } = this;
    if (!c.identity().signedIn) {
      w.trail.push(`${this.name} signs in`);
      return c.signIn(lina);
    }
    const known = [...w.sure.keys()];
    const one = known[w.roll(known.length || 1)];
    const roll = w.roll(20);
    w.trail.push(`${this.name} ${roll}`);
    if (roll < 3) {
      const id = anId();
      w.perhaps.set(id, 1);
      await c.record(c.batch().createAs("visit", id, { n: 1 }));
      this.recorded(id);
    } else if (roll < 9 && one) {
      if (!c.get("visit", one)) return; // another tab's, and not heard of here
      w.perhaps.set(one, (w.perhaps.get(one) ?? 0) + 1);
      await c.patch("visit", one, {}, [{ field: "n", by: 1 }]);
      this.recorded(one);
    } else if (roll < 11) {
      const id = await c.attach("photo", new Uint8Array(1000 + w.roll(600_000)).fill(w.roll(256)), "image/jpeg", {});
      w.photos.add(id);
    } else if (roll < 14) await c.sync();
    else if (roll < 17) await c.syncOnce();
    else if (roll < 18) await c.upload();
    else if (roll === 18) w.fake.put("account", anId(), { n: w.roll(9) });
    else if (w.roll(3) === 0) w.fake.access = "expired";
    else {
      this.client = undefined;
      await c.close();
    }
  }

  private recorded(id: string): void {
    this.w.sure.set(id, (this.w.sure.get(id) ?? 0) + 1);
    this.w.perhaps.set(id, (this.w.perhaps.get(id) ?? 0) - 1);
  }

  /** What a tab has shown of the person's own work never vanishes (S14). */
  look(): void {
    if (!this.client || this.w.weather.restores) return;
    const now = new Map(this.client.list("visit").map((r) => [r.id, Number(r.fields["n"])]));
    for (const [id, n] of this.shown) expect(now.get(id) ?? 0, `${this.name} showed ${n} of ${id}`).toBeGreaterThanOrEqual(n);
    for (const [id, n] of now) this.shown.set(id, n);
  }

  async end(): Promise<void> {
    await this.client?.close();
  }
}

async function live(w: World): Promise<void> {
  const tabs = ["one", "two", "three"].slice(0, 2 + w.roll(2)).map((name) => new Tab(w, name));
  const restore = w.weather.restores ? w.roll(25) : -1;
  let back: (() => void) | undefined;
  await Promise.all(
    tabs.map(async (tab, n) => {
      for (let i = 0; i < 30; i++) {
        if (n === 0 && i === restore) {
          w.fake.seq ||= 1n; // a cut of 0 would be none
          back = w.fake.backup();
        }
        if (n === 0 && i === restore + 4) {
          w.trail.push("restored");
          back?.();
        }
        await tab.act();
        for (let ticks = w.roll(4); ticks > 0; ticks--) await new Promise((resolve) => setImmediate(resolve));
      }
    }),
  );
  w.calm = true;
  const clients: Client[] = [];
  for (const tab of tabs) {
    let c: Client | undefined;
    while (!c) c = await tab.open();
    if (!c.identity().signedIn) await c.signIn(lina);
    clients.push(c);
  }
  for (let round = 0; round < 2; round++) for (const c of clients) await c.sync();
  for (const c of clients) {
    await c.upload();
    await c.sync();
  }
  for (const [id, n] of w.sure) {
    const there = Number(w.fake.rows.get(id)?.fields["n"] ?? 0);
    expect(there, "recorded and at the server of " + id).toBeGreaterThanOrEqual(n);
    expect(there, "at the server of " + id).toBeLessThanOrEqual(n + (w.perhaps.get(id) ?? 0));
  }
  expect([...w.fake.applied.values()].filter((n) => n !== 1), "applied other than once").toEqual([]);
  for (const id of w.photos) {
    expect(w.fake.rows.has(id), "the photo " + id).toBe(true);
    // What the fake forgets by a restore is that the bytes of a record are stored, and it still has them.
    if (!w.weather.restores) expect(w.fake.rows.get(id)?.fields["blob_state"], "the photo " + id).toBe("stored");
  }
  const theirs = (kind: string) => [...w.fake.rows.values()].filter((r) => r.change.kind === kind).map((r) => [r.change.recordId, r.fields]);
  const sorted = (all: unknown[]) => all.map((x) => JSON.stringify(x)).sort();
  for (const kind of ["visit", "account", "photo"]) {
    for (const c of clients) await expect.poll(() => sorted(c.list(kind).map((r) => [r.id, r.fields]))).toEqual(sorted(theirs(kind)));
  }
  for (const table of ["outbox", "overlay", "settled", "staging", "repair"] as const) expect(await keysOf(w.disk, table), table).toEqual([]);
  for (const c of clients) expect(c.status()).toMatchObject({ pending: 0, repairing: false, ...(!w.weather.restores && { media: 0 }) });
  for (const tab of tabs) await tab.end();
}

const first = Number(process.env["SEED"] ?? 1);
const count = Number(process.env["SEEDS"] ?? (process.env["SEED"] ? 1 : 6));

test(`tabs that live at random lose nothing, double nothing, and show the same (${count} seeds from ${first})`, { timeout: 3_600_000 }, async () => {
  for (let seed = first; seed < first + count; seed++) {
    const w = new World(seed, { overlaps: seed % 2 === 0, restores: seed % 5 === 3 });
    await live(w).catch((e: unknown) => {
      throw new Error(`seed ${seed}: ${String(e)}\n${w.trail.join("\n")}`, { cause: e });
    });
  }
});
