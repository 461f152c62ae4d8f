/** The first place in ascending keys whose key is not less than key. */
function place(keys: readonly string[], key: string, from = 0): number {
  let to = keys.length;
  while (from < to) {
    const middle = (from + to) >>> 1;
    if ((keys[middle] ?? key) < key) from = middle + 1;
    else to = middle;
  }
  return from;
}

/**
 * Rows by key, and the keys in order for who scans. Order is made when it is asked for and only from what is new: a page of
 * a sync changes a few hundred of 20,000 rows.
 */
export class Rows<R> {
  readonly map = new Map<string, R>();
  /** Ascending, never changed in place, since a scan may be walking it; it may hold keys that were removed since. */
  private sorted: readonly string[] = [];
  /** Keys that may not be in sorted yet. */
  private fresh: string[] = [];

  put(key: string, row: R): void {
    if (!this.map.has(key)) this.fresh.push(key);
    this.map.set(key, row);
  }

  clear(): void {
    this.map.clear();
    this.sorted = [];
    this.fresh = [];
  }

  /** All keys in ascending order, and perhaps some that are gone: look each up. */
  keys(): readonly string[] {
    if (this.fresh.length > 0 || this.sorted.length > 2 * this.map.size + 16) {
      const was = this.sorted;
      const keys: string[] = [];
      let i = 0;
      const copy = (to: number): void => {
        for (; i < to; i++) {
          const key = was[i];
          if (key !== undefined && this.map.has(key)) keys.push(key);
        }
      };
      for (const key of this.fresh.sort()) {
        copy(place(was, key, i));
        if (key !== was[i] && key !== keys[keys.length - 1] && this.map.has(key)) keys.push(key);
      }
      copy(was.length);
      this.sorted = keys;
      this.fresh = [];
    }
    return this.sorted;
  }
}

/** Calls fn for the keys of two ascending lists that begin with prefix and are greater than after, until it gives false. */
export function walk(a: readonly string[], b: readonly string[], prefix: string, after: string, fn: (key: string) => boolean | void): void {
  const from = after < prefix ? prefix : after + "\0"; // the smallest key greater than after
  let i = place(a, from);
  let j = place(b, from);
  for (;;) {
    const x = a[i];
    const y = b[j];
    const key = y === undefined || (x !== undefined && x < y) ? x : y;
    if (key === undefined || !key.startsWith(prefix)) return;
    if (key === x) i++;
    if (key === y) j++;
    if (fn(key) === false) return;
  }
}
