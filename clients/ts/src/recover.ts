import { base64Encode, getTextEncoding } from "@bufbuild/protobuf/wire";
import { isUuid, reading, type Core } from "./core.js";
import { isObject, orderOf, rows } from "./rows.js";
import { sha256 } from "./sha256.js";
import type { MutationRow, Tx } from "./store.js";
import type { Kept } from "./types.js";

/** The last number that a mutation uses up. */
export function lastNumber(m: MutationRow): number {
  return Math.max(m.number, m.skip?.to ?? 0);
}

/** Tells whether a row of the outbox can be sent. A store that was damaged may give anything. */
export function readOutbox(row: unknown): row is MutationRow {
  if (!isObject(row) || !isUuid(row["id"]) || !Number.isSafeInteger(row["number"]) || !isObject(row["recorded"])) return false;
  const ops = row["ops"];
  if (!Array.isArray(ops) || (ops.length === 0 && !row["skip"] && !row["envelope"])) return false;
  return ops.every((op: unknown) => {
    if (!isObject(op) || !isUuid(op["id"]) || typeof op["kind"] !== "string" || op["kind"] === "" || op["kind"].length > 64) return false;
    return isObject(op["create"]) || isObject(op["patch"]) || isObject(op["command"]) || op["delete"] === true;
  });
}

/**
 * Puts an envelope in the place of a row of the outbox that cannot be sent, so that what follows can. The row is kept; its
 * ops are no longer shown. last is the mutation before it, next the next number to be given.
 */
export function envelop(core: Core, tx: Tx, key: string, row: unknown, last: MutationRow | undefined, next: number): MutationRow {
  const bytes = getTextEncoding().encodeUtf8(JSON.stringify(row));
  const hash = sha256();
  hash.update(bytes);
  const m: MutationRow = { ...blank(core), envelope: { size: bytes.length, sha256: base64Encode(hash.digest()) } };
  // Its own number may be unreadable too. Where it had one, its neighbours tell; where they do not, it gets a new one, and the
  // server says what is missing.
  let behind = 0;
  tx.scan("outbox", "", (_, row) => {
    behind++;
    if (!readOutbox(row)) return true;
    m.number = Math.max(0, row.number - behind);
    return false;
  }, key);
  if (m.number === 0 && last && lastNumber(last) + 1 < next) m.number = lastNumber(last) + 1;
  hideOrder(tx, orderOf(key));
  core.config.log("envelope", { order: orderOf(key), bytes: bytes.length });
  tx.put("kept", key, row);
  tx.put("outbox", key, m);
  return m;
}

/** A mutation that does nothing yet, recorded now. */
export function blank(core: Core): MutationRow {
  return { number: 0, id: core.newId(), ops: [], token: "", schema: 0, recorded: reading(core) };
}

/** Takes a mutation that cannot be read off what is shown. */
export function hideOrder(tx: Tx, order: number): void {
  tx.scan("overlay", "", (key) => {
    if (orderOf(key.slice(37)) === order) tx.delete("overlay", key);
  });
}

/**
 * What could not be sent: mutations that were too large or can no longer be read, and rows that a restored server did not
 * take. It is the person's, to be exported; nothing deletes it but a wipe.
 */
export function kept(core: Core): Kept[] {
  return core.view((tx) => rows(tx, "kept").map(([key, row]) => ({ key, text: JSON.stringify(row) })));
}
