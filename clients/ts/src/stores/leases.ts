import { canceled, localLocks, type Exclusive } from "./locks.js";

/** Who holds a lock, and until when by the wall clock, which all tabs of a device share. */
export interface Lease {
  owner: string;
  until: number;
}

/** How long a tab that died holds others up. Longer than a minute: browsers let timers of hidden tabs run once a minute. */
const leaseMs = 75_000;
const renewMs = 15_000;
/** How often who waits looks. */
const lookMs = 500;

/** An object store within a transaction of its own; it reads and writes leases under names. */
export interface LeaseStore {
  get(key: string): Promise<Lease | number | undefined>;
  put(value: Lease, key: string): Promise<unknown>;
  delete(key: string): Promise<void>;
  readonly transaction: { commit(): void };
}

/**
 * Locks among tabs of a browser without Web Locks, which also every page has that did not come by https: leases in the
 * database, renewed while they are held. begin runs its function in a fresh transaction, alone among all tabs.
 */
export function leases(begin: <T>(fn: (store: LeaseStore) => Promise<T>) => Promise<T>, now: () => number = Date.now): Exclusive {
  const local = localLocks(); // first among those of this tab
  const owner = `${now()}-${Math.random()}`;
  const take = (key: string): Promise<boolean> =>
    begin(async (store) => {
      const held = await store.get(key);
      const at = now();
      // A clock that was set back must not leave a lease for a year.
      if (typeof held === "object" && held.owner !== owner && held.until > at && held.until <= at + leaseMs) return false;
      await store.put({ owner, until: at + leaseMs }, key);
      return true;
    });
  const give = (key: string): Promise<void> =>
    begin(async (store) => {
      const held = await store.get(key);
      if (typeof held === "object" && held.owner === owner) await store.delete(key);
    });

  return (name, signal, fn) =>
    local(name, signal, async () => {
      const key = "lock/" + name;
      while (!(await take(key))) await pause(signal);
      // A page that goes has no time to look whose it is, nor for the transaction to end by itself.
      const release = (): void => {
        const gone = begin(async (store) => {
          store.delete(key).catch(() => undefined);
          store.transaction.commit();
        });
        gone.catch(() => undefined);
      };
      const lost = new AbortController();
      const renew = async (): Promise<void> => {
        if (!(await take(key))) lost.abort(); // the device slept, or its clock was set: another has the turn
      };
      const renewal = setInterval(() => void renew().catch(() => undefined), renewMs);
      globalThis.addEventListener?.("pagehide", release); // where it does not come, the lease runs out
      try {
        return await fn(lost.signal);
      } finally {
        clearInterval(renewal);
        globalThis.removeEventListener?.("pagehide", release);
        await give(key).catch(() => undefined);
      }
    });
}

function pause(signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const end = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end);
      if (signal?.aborted) reject(canceled(signal.reason));
      else resolve();
    };
    const timer = setTimeout(end, lookMs);
    signal?.addEventListener("abort", end, { once: true });
    if (signal?.aborted) end();
  });
}
