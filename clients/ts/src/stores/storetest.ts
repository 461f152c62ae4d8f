import { SatchelError, StoreClosed } from "../errors.js";
import type { ChangeRow, ReadTx, Store, Touched } from "../store.js";

/** The data of one test: opens stores on it, each as a further tab where the platform has tabs. All are closed at the end. */
export interface World {
  open(): Promise<Store>;
  /** Several may be open at once. */
  tabs: boolean;
}

/**
 * The specification of a store. It declares tests with the runner's function, such as vitest's or one that works in a page;
 * world gives new, empty data for each and is told the test's end.
 */
export function exercise(world: () => Promise<World & { end(): Promise<void> }>, test: (name: string, fn: () => Promise<void>) => void): void {
  for (const [name, fn] of Object.entries(cases)) {
    test(name, async () => {
      const w = await world();
      try {
        await fn(w);
      } finally {
        await w.end();
      }
    });
  }
}

function fail(what: string): never {
  throw new Error(what);
}

function equal(got: unknown, want: unknown, what: string): void {
  const [g, w] = [JSON.stringify(got), JSON.stringify(want)];
  if (g !== w) fail(`${what}: got ${g}, want ${w}`);
}

async function rejects(promise: Promise<unknown>, what: string): Promise<unknown> {
  try {
    await promise;
  } catch (e) {
    return e;
  }
  return fail(`${what}: it did not reject`);
}

function row(id: string, fields = ""): ChangeRow {
  return { id, kind: "visit", rev: "1", entered: ["7"], fields, author: "", eventMs: 0 };
}

async function put(store: Store, ...keys: string[]): Promise<void> {
  await store.update((tx) => keys.forEach((key) => tx.put("record", key, row(key))));
}

function keys(tx: ReadTx, prefix = "", after?: string): string[] {
  const all: string[] = [];
  tx.scan("record", prefix, (key) => void all.push(key), after);
  return all;
}

/** Waits until ok, which is looked at after each commit that the store tells of and every 20 ms; at most 30 s. */
async function until(what: string, ok: () => boolean): Promise<void> {
  for (const end = Date.now() + 30_000; !ok(); ) {
    if (Date.now() > end) fail(`${what}: not within 30 s`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const bytes = (...all: number[]): Uint8Array => new Uint8Array(all);

const cases: Record<string, (w: World) => Promise<void>> = {
  "a row that was put is there, in the update and after it": async (w) => {
    const s = await w.open();
    const result = await s.update((tx) => {
      tx.put("record", "a", row("a", "1"));
      equal(tx.get("record", "a")?.fields, "1", "inside");
      equal(keys(tx), ["a"], "scanned inside");
      equal(tx.count("record"), 1, "counted inside");
      return 42;
    });
    equal(result, 42, "the result");
    equal(s.view((tx) => tx.get("record", "a")?.fields), "1", "after");
    equal(s.view((tx) => tx.get("record", "b")), undefined, "another");
  },

  "a put replaces, a delete removes, a clear removes all": async (w) => {
    const s = await w.open();
    await put(s, "a", "b", "c");
    await s.update((tx) => {
      tx.put("record", "a", row("a", "9"));
      tx.delete("record", "b");
      tx.delete("record", "never there");
      equal(tx.count("record"), 2, "count inside");
      equal(tx.get("record", "b"), undefined, "deleted, inside");
    });
    equal(s.view((tx) => [keys(tx), tx.get("record", "a")?.fields, tx.count("record")]), [["a", "c"], "9", 2], "after");
    await s.update((tx) => {
      tx.put("record", "lost", row("lost"));
      tx.clear("record");
      equal([keys(tx), tx.count("record"), tx.get("record", "a")], [[], 0, undefined], "cleared, inside");
      tx.put("record", "d", row("d"));
      tx.put("record", "a", row("a", "new"));
      equal([keys(tx), tx.count("record")], [["a", "d"], 2], "put after the clear");
    });
    equal(s.view((tx) => [keys(tx), tx.get("record", "a")?.fields, tx.count("record")]), [["a", "d"], "new", 2], "after the clear");
  },

  "tables do not see each other": async (w) => {
    const s = await w.open();
    await s.update((tx) => {
      tx.put("record", "k", row("record"));
      tx.put("staging", "k", row("staging"));
      tx.put("meta", "k", { any: ["thing", 1, true, null, "", "客户 🧑‍💼 \u0000"] });
      tx.clear("kept");
    });
    await s.update((tx) => tx.delete("record", "k"));
    const all = s.view((tx) => [tx.get("record", "k"), tx.get("staging", "k")?.id, tx.get("meta", "k")]);
    equal(all, [undefined, "staging", { any: ["thing", 1, true, null, "", "客户 🧑‍💼 \u0000"] }], "the tables");
  },

  "an update that throws did nothing, and its error is what the caller gets": async (w) => {
    const s = await w.open();
    await put(s, "a");
    const oh = new Error("oh");
    let told = 0;
    s.onCommit(() => told++);
    const got = await rejects(
      s.update((tx) => {
        tx.put("record", "b", row("b"));
        tx.clear("record");
        tx.putBytes("x", bytes(1));
        throw oh;
      }),
      "the update",
    );
    if (got !== oh) fail(`another error: ${String(got)}`);
    equal([s.view((tx) => keys(tx)), told, await s.bytes("x")], [["a"], 0, undefined], "after");
    await put(s, "c");
    equal(s.view((tx) => keys(tx)), ["a", "c"], "the next update");
  },

  "nobody sees an update before it is on the disk": async (w) => {
    const s = await w.open();
    await put(s, "a");
    let ran = false;
    const done = s.update((tx) => {
      ran = true;
      tx.put("record", "b", row("b"));
      tx.delete("record", "a");
    });
    let early = 0;
    while (!ran) {
      await Promise.resolve();
      if (++early > 1_000) await new Promise((resolve) => setTimeout(resolve));
    }
    equal(s.view((tx) => [keys(tx), tx.count("record")]), [["a"], 1], "while it is written");
    await done;
    equal(s.view((tx) => [keys(tx), tx.count("record")]), [["b"], 1], "after");
  },

  "a scan goes in ascending order, within its prefix, after its key, until false": async (w) => {
    const s = await w.open();
    await put(s, "visit/2", "account/9", "visit/10", "visit", "visit/1", "visits/1", "zebra");
    equal(s.view((tx) => keys(tx)), ["account/9", "visit", "visit/1", "visit/10", "visit/2", "visits/1", "zebra"], "all");
    equal(s.view((tx) => keys(tx, "visit/")), ["visit/1", "visit/10", "visit/2"], "prefix");
    equal(s.view((tx) => keys(tx, "visit/", "visit/1")), ["visit/10", "visit/2"], "after");
    equal(s.view((tx) => keys(tx, "visit/", "a")), ["visit/1", "visit/10", "visit/2"], "after what is before the prefix");
    equal(s.view((tx) => keys(tx, "visit/", "visit/2")), [], "after the last");
    equal(s.view((tx) => keys(tx, "w")), [], "a prefix of none");
    const met: string[] = [];
    s.view((tx) => tx.scan("record", "visit/", (key) => met.push(key) < 2));
    equal(met, ["visit/1", "visit/10"], "stopped");
  },

  "an update's scan sees its own writes in their places": async (w) => {
    const s = await w.open();
    await put(s, "b", "d", "f");
    await s.update((tx) => {
      tx.put("record", "a", row("a"));
      tx.put("record", "d", row("d", "new"));
      tx.delete("record", "f");
      tx.put("record", "e", row("e"));
      const met: string[] = [];
      tx.scan("record", "", (key, r) => void met.push(key + r.fields));
      equal(met, ["a", "b", "dnew", "e"], "inside");
      tx.put("record", "c", row("c"));
      tx.delete("record", "a");
      equal(keys(tx), ["b", "c", "d", "e"], "scanned again");
    });
    equal(s.view((tx) => keys(tx)), ["b", "c", "d", "e"], "after");
  },

  "a scan survives that its rows are deleted and rewritten": async (w) => {
    const s = await w.open();
    const all = Array.from({ length: 100 }, (_, i) => String(i).padStart(4, "0"));
    await put(s, ...all);
    await s.update((tx) => {
      let met = 0;
      tx.scan("record", "", (key) => {
        met++;
        tx.put("record", key, row(key, "again"));
        tx.delete("record", String(Number(key) + 1).padStart(4, "0")); // not met then
      });
      equal(met, 50, "met");
    });
    equal(s.view((tx) => [tx.count("record"), tx.get("record", "0098")?.fields]), [50, "again"], "after");
  },

  "what many random updates leave is what a plain map holds, also after it is opened again": async (w) => {
    const s = await w.open();
    const model = new Map<string, string>();
    let seed = 4711;
    const random = (n: number): number => (seed = (seed * 48271) % 2147483647) % n;
    for (let i = 0; i < 60; i++) {
      await s.update((tx) => {
        if (random(25) === 0) {
          tx.clear("record");
          model.clear();
        }
        for (let n = random(60); n > 0; n--) {
          const key = String(random(400));
          if (random(3) === 0) {
            tx.delete("record", key);
            model.delete(key);
          } else {
            tx.put("record", key, row(key, String(i)));
            model.set(key, String(i));
          }
        }
        if (random(2) === 0) equal(keys(tx), [...model.keys()].sort(), `inside update ${i}`);
        equal(tx.count("record"), model.size, `the count inside update ${i}`);
      });
      if (random(2) === 0) equal(s.view((tx) => keys(tx)), [...model.keys()].sort(), `after update ${i}`);
    }
    const same = (store: Store): void => {
      const got: [string, string][] = [];
      store.view((tx) => tx.scan("record", "", (key, r) => void got.push([key, r.fields])));
      equal(got, [...model].sort(([a], [b]) => (a < b ? -1 : 1)), "at the end");
    };
    same(s);
    await s.close();
    same(await w.open());
  },

  "bytes are kept with the rest, and go by prefix": async (w) => {
    const s = await w.open();
    await s.update((tx) => {
      tx.putBytes("lost/0", bytes(1));
      tx.deleteBytes("lost/");
      tx.putBytes("a/0", bytes(1, 2, 3));
      tx.putBytes("a/1", bytes());
      tx.putBytes("b/0", bytes(255));
      tx.put("record", "a", row("a"));
    });
    await s.close();
    const again = await w.open();
    const there = async (key: string): Promise<number[] | undefined> => {
      const b = await again.bytes(key);
      return b && [...b];
    };
    equal([await there("a/0"), await there("a/1"), await there("b/0"), await there("lost/0"), await there("none")], [[1, 2, 3], [], [255], undefined, undefined], "opened again");
    await again.update((tx) => {
      tx.deleteBytes("a/");
      tx.putBytes("a/9", bytes(9));
    });
    equal([await there("a/0"), await there("a/1"), await there("a/9"), await there("b/0")], [undefined, undefined, [9], [255]], "after");
  },

  "many updates at once lose nothing": async (w) => {
    const s = await w.open();
    await Promise.all(Array.from({ length: 100 }, () => s.update((tx) => tx.put("meta", "n", Number(tx.get("meta", "n") ?? 0) + 1))));
    equal(s.view((tx) => tx.get("meta", "n")), 100, "the sum");
  },

  "a commit is told after it can be seen, with the keys that it touched": async (w) => {
    const s = await w.open();
    await put(s, "a", "b");
    const told: string[] = [];
    const end = s.onCommit((touched: Touched) => {
      const at = [...(touched.keys.get("record") ?? [])].sort();
      told.push(`${touched.all} ${at.join()} of ${s.view((tx) => keys(tx)).join()}`);
    });
    await s.update((tx) => {
      tx.put("record", "c", row("c"));
      tx.delete("record", "a");
    });
    await s.update((tx) => tx.get("record", "b"));
    await s.update((tx) => tx.clear("record"));
    equal(told, ["false a,c of b,c", "false b,c of "], "told");
    end();
    await put(s, "d");
    equal(told.length, 2, "after it ended");
  },

  "what an update was given does not write after it": async (w) => {
    const s = await w.open();
    const kept = await s.update((tx) => tx);
    try {
      kept.put("record", "late", row("late"));
    } catch (e) {
      equal(e instanceof SatchelError && e.code, "invalid", "the error");
      return;
    }
    fail("it wrote");
  },

  "a closed store refuses": async (w) => {
    const s = await w.open();
    const last = put(s, "a");
    await s.close();
    await s.close();
    const wrote = await last.then(() => true, (e: unknown) => (e instanceof StoreClosed ? false : fail(String(e))));
    for (const call of [put(s, "b"), s.bytes("x"), s.exclusive("sync", undefined, async () => 1)]) {
      if (!((await rejects(call, "a call")) instanceof StoreClosed)) fail("another error");
    }
    let seen = true;
    try {
      s.view((tx) => tx.count("record"));
    } catch (e) {
      seen = !(e instanceof StoreClosed);
    }
    equal(seen, false, "a view");
    equal((await w.open()).view((tx) => keys(tx)), wrote ? ["a"] : [], "opened again");
  },

  "what is exclusive runs one at a time by its name, and waiting can be given up": async (w) => {
    const s = await w.open();
    let inside = 0;
    let most = 0;
    const order: number[] = [];
    const step = (i: number) => async (): Promise<void> => {
      most = Math.max(most, ++inside);
      await put(s, String(i));
      inside--;
      order.push(i);
      if (i === 1) throw new Error("oh");
    };
    const all = [0, 1, 2, 3].map((i) => s.exclusive("sync", undefined, step(i)));
    const other = s.exclusive("refresh", undefined, async () => "free");
    const stop = new AbortController();
    const waiting = rejects(s.exclusive("sync", stop.signal, async () => fail("it ran")), "the one that gave up");
    stop.abort();
    const gaveUp = await waiting;
    equal(gaveUp instanceof SatchelError && gaveUp.code, "canceled", "the one that gave up");
    equal(await other, "free", "another name");
    equal((await Promise.allSettled(all)).map((r) => r.status), ["fulfilled", "rejected", "fulfilled", "fulfilled"], "the four");
    equal([most, order], [1, [0, 1, 2, 3]], "how they ran");
    const late = await rejects(s.exclusive("sync", stop.signal, async () => fail("it ran")), "one that was cancelled before");
    equal(late instanceof SatchelError && late.code, "canceled", "one that was cancelled before");
  },

  "two tabs that write at once lose nothing": async (w) => {
    if (!w.tabs) return;
    const [a, b] = [await w.open(), await w.open()];
    const add = (s: Store, name: string) =>
      s.update((tx) => {
        const n = Number(tx.get("meta", "n") ?? 0) + 1;
        tx.put("meta", "n", n);
        tx.put("record", `${name}/${n}`, row(String(n)));
      });
    await Promise.all(Array.from({ length: 50 }, (_, i) => (i % 2 ? add(a, "a") : add(b, "b"))));
    const c = await w.open();
    equal(c.view((tx) => [tx.get("meta", "n"), tx.count("record"), keys(tx, "a/").length]), [50, 50, 25], "the disk");
    await until("both see all", () => [a, b].every((s) => s.view((tx) => tx.get("meta", "n") === 50 && tx.count("record") === 50)));
  },

  "a tab hears what another commits, once each, and clears": async (w) => {
    if (!w.tabs) return;
    const [a, b] = [await w.open(), await w.open()];
    const told: string[] = [];
    b.onCommit((touched) => told.push([...(touched.keys.get("record") ?? [])].sort().join()));
    await put(a, "x", "y");
    await put(a, "z");
    await a.update((tx) => {
      tx.clear("record");
      tx.put("record", "y", row("y", "new"));
    });
    await until("b hears", () => told.length === 3);
    equal([told, b.view((tx) => [keys(tx), tx.get("record", "y")?.fields])], [["x,y", "z", "x,y,z"], [["y"], "new"]], "heard");
  },

  "who gets an exclusive turn has seen all that the one before did": async (w) => {
    if (!w.tabs) return;
    const stores = [await w.open(), await w.open(), await w.open()];
    let inside = 0;
    const turn = (s: Store) =>
      s.exclusive("sync", undefined, async () => {
        equal(++inside, 1, "inside");
        const n = Number(s.view((tx) => tx.get("meta", "n")) ?? 0) + 1; // as with a token that is used once
        await s.update((tx) => tx.put("meta", "n", n));
        inside--;
        return n;
      });
    const got = await Promise.all(Array.from({ length: 12 }, (_, i) => turn(stores[i % 3] ?? fail("no store"))));
    equal(got.sort((x, y) => x - y), Array.from({ length: 12 }, (_, i) => i + 1), "turns");
  },
};
