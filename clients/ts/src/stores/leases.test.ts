import { afterEach, expect, test, vi } from "vitest";
import { leases, type Lease } from "./leases.js";
import type { Exclusive } from "./locks.js";

afterEach(() => void vi.useRealTimers());

/** Tabs that share leases and a clock. */
function tabs(): { tab: () => Exclusive; setClock: (ms: number) => void; left: () => number } {
  vi.useFakeTimers();
  const rows = new Map<string, Lease | number>();
  let ahead = 0;
  const store = {
    get: async (key: string) => rows.get(key),
    put: async (value: Lease, key: string) => void rows.set(key, value),
    delete: async (key: string) => void rows.delete(key),
    transaction: { commit: () => undefined },
  };
  let last: Promise<unknown> = Promise.resolve();
  const alone = <T>(fn: (s: typeof store) => Promise<T>): Promise<T> => {
    const done = last.then(() => fn(store));
    last = done.catch(() => undefined);
    return done;
  };
  return { tab: () => leases(alone, () => Date.now() + ahead), setClock: (ms) => (ahead += ms), left: () => rows.size };
}

for (const [name, jump] of [["forward", 3_600_000], ["back", -3_600_000]] as const) {
  test(`a clock that is set ${name} gives the turn to another, and who had it is told`, async () => {
    const t = tabs();
    const [one, two] = [t.tab(), t.tab()];
    const told: string[] = [];
    const first = one("sync", undefined, (lost) => new Promise<string>((resolve) => lost?.addEventListener("abort", () => resolve("lost"))));
    await vi.advanceTimersByTimeAsync(100_000); // renewed meanwhile
    let end = (): void => undefined;
    const second = two("sync", undefined, (lost) => {
      told.push("two");
      lost?.addEventListener("abort", () => told.push("two lost it"));
      return new Promise<void>((resolve) => (end = resolve));
    });
    await vi.advanceTimersByTimeAsync(2_000);
    expect(told).toEqual([]);
    t.setClock(jump);
    await vi.advanceTimersByTimeAsync(20_000);
    expect(await first).toBe("lost");
    await vi.advanceTimersByTimeAsync(100_000);
    expect(told).toEqual(["two"]);
    end();
    await second;
    expect(t.left()).toBe(0);
  });
}
