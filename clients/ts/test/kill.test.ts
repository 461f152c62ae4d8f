import { expect, test } from "vitest";
import { Client, type Rec } from "../src/index.js";
import { memoryDisk, memoryStore, type MemoryDisk } from "../src/stores/memory.js";
import { anId, config, keysOf, lina, shown } from "./kit.js";
import { Fake } from "./fake.js";

class Killed extends Error {}

/**
 * What a rep does in a day, written so that it can be begun again after a kill: each step looks first whether it was done. Its
 * last state is checked on the device and on the server. kill: the step at which the page dies; 0 = none. Gives the steps that
 * it took, and the name of the last one.
 */
async function live(f: Fake, disk: MemoryDisk, kill: number): Promise<{ over: boolean; steps: number; at: string }> {
  let steps = 0;
  let at = "";
  let die = (): void => undefined;
  const dead = new Promise<never>((_, reject) => (die = () => reject(new Killed())));
  dead.catch(() => undefined);
  const tab = disk.tab();
  const step = (point: string) => {
    at = point;
    if (++steps !== kill) return;
    tab.kill(); // nothing that it asked for happens any more
    die();
    throw new Killed();
  };
  try {
    await Promise.race([dead, open().then((c) => day(f, disk, c))]);
    return { over: true, steps, at };
  } catch (e) {
    if (steps !== kill) throw e;
    return { over: false, steps, at };
  }

  function open(): Promise<Client> {
    return Client.open({ ...config(f, memoryStore(tab)), step });
  }
}

async function day(f: Fake, disk: MemoryDisk, c: Client): Promise<void> {
  const only = (kind: string): Rec | undefined => {
    const all = c.list(kind);
    expect(all.length, `of kind ${kind} are shown`).toBeLessThanOrEqual(1);
    return all[0];
  };
  if (!c.identity().signedIn) await c.signIn(lina);
  if (!only("visit")) await c.create("visit", { n: 0 });
  await c.sync();
  const visit = only("visit") ?? expect.fail("the visit vanished");
  for (let n = Number(visit.fields["n"]); n < 2; n++) await c.patch("visit", visit.id, {}, [{ field: "n", by: 1 }]);
  expect(only("task") !== undefined, "half of a mutation is shown").toBe(visit.fields["note"] === "batch");
  if (!only("task")) {
    const b = c.batch().patch("visit", visit.id, { note: "batch" });
    b.create("task", { of: visit.id });
    await c.record(b);
  }
  if (!only("photo")) await c.attach("photo", new Uint8Array(20_000).fill(7), "image/jpeg", { visit: visit.id });
  await c.sync();
  await c.upload();
  await c.sync();
  f.access = "expired";
  await c.sync();

  // What must hold at its end.
  expect(shown(c, "visit", visit.id)).toEqual({ n: 2, note: "batch" });
  expect(c.status()).toMatchObject({ pending: 0, media: 0 });
  expect(c.settled(0, 100)).toHaveLength(5);
  for (const table of ["outbox", "overlay", "settled", "staging", "media"] as const) expect(await keysOf(disk, table), table).toEqual([]);
  expect(f.rows.get(visit.id)?.fields).toEqual({ n: 2, note: "batch" });
  expect([...f.applied.values()].every((times) => times === 1)).toBe(true);
  expect([...f.rows.values()].map((r) => r.change.kind).sort()).toEqual(["account", "account", "account", "photo", "task", "visit"]);
}

test("a kill at any step loses nothing and doubles nothing", { timeout: 180_000 }, async () => {
  const begin = () => {
    const f = new Fake();
    f.pageRows = 2;
    f.chunk = 8 << 10;
    for (let n = 0; n < 3; n++) f.put("account", anId(), { n });
    return { f, disk: memoryDisk() };
  };
  const whole = begin();
  const { steps } = await live(whole.f, whole.disk, 0);
  expect(steps).toBeGreaterThan(40);
  const points = new Set<string>();
  const killed = async (kill: number) => {
    const { f, disk } = begin();
    const first = await live(f, disk, kill);
    points.add(first.at);
    expect(first.over, `killed at ${kill}, ${first.at}`).toBe(false);
    const again = await live(f, disk, 0).catch((e: unknown) => {
      throw new Error(`after a kill at ${kill}, ${first.at}`, { cause: e });
    });
    expect(again.over).toBe(true);
  };
  await Promise.all(Array.from({ length: steps }, (_, i) => killed(i + 1)));
  for (const point of ["open:before", "record:after", "number:after", "call", "answer", "verdicts:before", "verdicts:after", "page:after", "refresh:before", "sign-in:after"]) {
    expect([...points], "points").toContain(point);
  }
});
