import { ask, type Wx } from "./wx.js";

/**
 * Random bytes without waiting, for ids: a generator (xoshiro128**) that WeChat's true random numbers seed, once. Ids must not
 * collide; that somebody who knows many could foretell the next gives him nothing, for the server goes by rights. Before base
 * library 2.19.0 the seed is of the clock and Math.random.
 */
export async function seededRandom(wx: Wx): Promise<(n: number) => Uint8Array> {
  const seed = new Uint32Array(4);
  try {
    const start = wx.getRandomValues;
    if (!start) throw new Error("this WeChat has none");
    const { randomValues } = await ask<{ randomValues: ArrayBuffer }>((c) => start.call(wx, { length: 16, ...c }));
    seed.set(new Uint32Array(randomValues.slice(0, 16)));
  } catch {
    for (let i = 0; i < 4; i++) seed[i] = Math.floor(Math.random() * 2 ** 32) ^ Date.now();
  }
  let [a = 1, b = 2, c = 3, d = 4] = seed;
  const turn = (x: number, n: number) => (x << n) | (x >>> (32 - n));
  const next = () => {
    const out = Math.imul(turn(Math.imul(b, 5), 7), 9);
    const t = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= t;
    d = turn(d, 11);
    return out;
  };
  return (n) => {
    const bytes = new Uint8Array(n);
    for (let i = 0, word = 0; i < n; i++, word >>>= 8) {
      if (i % 4 === 0) word = next();
      bytes[i] = word;
    }
    return bytes;
  };
}
