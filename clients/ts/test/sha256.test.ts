import { createHash } from "node:crypto";
import { expect, test } from "vitest";
import { hex, sha256 } from "../src/sha256.js";

const bytes = Uint8Array.from({ length: 300_000 }, (_, i) => (i >> 16) ^ ((i >> 8) * 31) ^ i);

test("SHA-256 is the platform's at every length around a block, in whatever pieces it is fed", () => {
  for (let n = 0; n < 260; n++) {
    const h = sha256();
    for (let from = 0, step = 1; from < n; from += step++) h.update(bytes.subarray(from, Math.min(n, from + step)));
    expect([n, hex(h.digest())]).toEqual([n, createHash("sha256").update(bytes.subarray(0, n)).digest("hex")]);
  }
});

test("SHA-256 of many bytes at once, and of bytes within others, is the platform's", () => {
  for (const part of [bytes, bytes.subarray(7, 200_001)]) {
    const h = sha256();
    h.update(part);
    expect(hex(h.digest())).toBe(createHash("sha256").update(part).digest("hex"));
  }
});
