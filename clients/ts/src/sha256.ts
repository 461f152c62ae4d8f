/** A SHA-256 under way. */
export interface Sha256 {
  /** Takes the next bytes. */
  update(bytes: Uint8Array): void;
  /** Gives the 32 bytes. Only once, and nothing after it. */
  digest(): Uint8Array;
}

/**
 * SHA-256 (FIPS 180-4), piece by piece and at once. The platform's own takes a file only as a whole and only later, which
 * is neither for 100 MiB on a phone nor for an envelope within a transaction, and pages without https and mini-programs
 * have none. It does 100 MB a second on a laptop. A dependency would cost five times as much of what a page loads.
 */
export function sha256(): Sha256 {
  const { start: state, rounds } = constants();
  const rest = new Uint8Array(64); // of a block
  const w = new Int32Array(64);
  let size = 0;

  const mix = (block: DataView, from: number) => {
    for (let i = 0; i < 64; i++) {
      if (i < 16) {
        w[i] = block.getInt32(from + 4 * i);
        continue;
      }
      const x = at(w, i - 15);
      const y = at(w, i - 2);
      const s0 = turn(x, 7) ^ turn(x, 18) ^ (x >>> 3);
      const s1 = turn(y, 17) ^ turn(y, 19) ^ (y >>> 10);
      w[i] = at(w, i - 16) + s0 + at(w, i - 7) + s1;
    }
    let a = at(state, 0), b = at(state, 1), c = at(state, 2), d = at(state, 3);
    let e = at(state, 4), f = at(state, 5), g = at(state, 6), h = at(state, 7);
    for (let i = 0; i < 64; i++) {
      const t1 = (h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + at(rounds, i) + at(w, i)) | 0;
      const t2 = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g; g = f; f = e; e = (d + t1) | 0;
      d = c; c = b; b = a; a = (t1 + t2) | 0;
    }
    [a, b, c, d, e, f, g, h].forEach((x, i) => (state[i] = at(state, i) + x));
  };

  const update = (bytes: Uint8Array) => {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    for (let from = 0; from < bytes.length; ) {
      const had = size % 64;
      const n = Math.min(64 - had, bytes.length - from);
      size += n;
      if (n === 64) {
        mix(view, from);
      } else {
        rest.set(bytes.subarray(from, from + n), had);
        if (had + n === 64) {
          mix(new DataView(rest.buffer), 0);
        }
      }
      from += n;
    }
  };

  return {
    update,
    digest() {
      const bits = size * 8; // below 2^53: exact
      update(new Uint8Array([0x80]));
      update(new Uint8Array((120 - (size % 64)) % 64)); // zeros, so that 8 bytes fill the block
      const end = new DataView(new ArrayBuffer(8));
      end.setUint32(0, Math.floor(bits / 2 ** 32));
      end.setUint32(4, bits >>> 0);
      update(new Uint8Array(end.buffer));
      const out = new DataView(new ArrayBuffer(32));
      state.forEach((x, i) => out.setInt32(4 * i, x));
      return new Uint8Array(out.buffer);
    },
  };
}

/** Bytes as hex digits in lower case. */
export function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
}

/** Turns 32 bits to the right. */
function turn(x: number, n: number): number {
  return (x >>> n) | (x << (32 - n));
}

function at(a: Int32Array, i: number): number {
  return a[i] ?? 0; // i is always within
}

/**
 * The first 32 bits of the fractional parts of the square roots of the first 8 primes, and of the cube roots of the first
 * 64. None lies near a border: any engine's roots give them.
 */
function constants(): { start: Int32Array; rounds: Int32Array } {
  const primes: number[] = [];
  for (let n = 2; primes.length < 64; n++) {
    if (primes.every((p) => n % p)) {
      primes.push(n);
    }
  }
  const bits = (x: number) => (x % 1) * 2 ** 32;
  return {
    start: new Int32Array(new Uint32Array(primes.slice(0, 8).map((p) => bits(Math.sqrt(p)))).buffer),
    rounds: new Int32Array(new Uint32Array(primes.map((p) => bits(Math.cbrt(p)))).buffer),
  };
}
