/**
 * How fast this computer is at what a client does: makes, orders and reads small objects. Milliseconds of the quickest of
 * many goes, which other programs hardly lengthen. It stands alone, so that it can be evaluated in a page.
 */
export function pace(): number {
  let best = Infinity;
  for (let go = 0; go < 60; go++) {
    const began = performance.now();
    const rows = new Map<string, string>();
    for (let i = 0; i < 10_000; i++) rows.set(`visit/${(i * 7919) % 10_007}`, JSON.stringify({ note: `n${i}`, rank: i % 977 }));
    const read = [...rows].map(([id, fields]) => ({ id, rank: (JSON.parse(fields) as { rank: number }).rank }));
    read.sort((a, b) => a.rank - b.rank || (a.id < b.id ? -1 : 1));
    const took = performance.now() - began;
    if (read.length === rows.size) best = Math.min(best, took);
  }
  return best;
}

/** What pace gives where the limits of time in the tests were set, a core of an AMD EPYC: in Node 20, and in Chromium 143. */
const setAt = { node: 5, chromium: 3.6 };

/**
 * How many times slower than that a computer is whose pace it is; 1 = as fast, or faster. A limit of time that is multiplied by
 * it asks the same of the code on a slow computer.
 */
export function slowness(where: keyof typeof setAt, ms: number): number {
  return Math.max(1, ms / setAt[where]);
}
