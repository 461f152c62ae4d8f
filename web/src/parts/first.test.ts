import { expect, test } from "vitest";
import type { Status } from "@satchel/client";
import { nothingCame } from "./first.js";

const at = (seq: string, settledPriority: number): Status => ({
  seq, settledPriority, complete: false, followedMonths: 0, pending: 0, media: 0, mediaBytes: 0, repairing: false, records: 0, staged: 7, syncing: true, lastSyncMs: 0,
});

test("an empty list means nothing until the first checkpoint, of some priorities or of all", () => {
  expect([at("0", 0), at("0", 1), at("41", 0), at("41", 1)].map(nothingCame)).toEqual([true, false, false, false]);
  expect(nothingCame(undefined)).toBe(false);
});
