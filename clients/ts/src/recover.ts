import { base64Encode, getTextEncoding } from "@bufbuild/protobuf/wire";
import { isUuid, type Core } from "./core.js";
import type { Restored } from "./gen/satchel/v1/sync_pb.js";
import { reading } from "./mutation.js";
import { hide, hideSettled, nothingHappened } from "./outbox.js";
import { getRepair, restart } from "./repair.js";
import { getIdentity, getNumbers, getPlace, isObject, maxU64, orderKey, orderOf, overlayKey, putNumbers, putPlace, rows } from "./rows.js";
import { sha256 } from "./sha256.js";
import { compareU64, tables, type MutationRow, type Table, type Tables, type Tx } from "./store.js";
import type { Kept } from "./types.js";

/** How many numbers one skip closes. */
const maxSkip = 1_000_000;

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
function blank(core: Core): MutationRow {
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

/**
 * Makes the outbox begin at the number that the server expects: with what the log still has under the numbers that are
 * missing, and with skips for the others (S3). It tells how many numbers were given up.
 */
export function fillGap(core: Core, expected: number): Promise<number> {
  return core.update("gap", (tx) => {
    const { device } = getIdentity(tx);
    let from = expected;
    let skipped = 0;
    const first = rows(tx, "outbox")[0];
    const end = first && readOutbox(first[1]) ? first[1].number : 0;
    if (!first || from >= end) return 0;
    const skip = (before: string, to: number) => {
      for (; from <= to; from += maxSkip) {
        const last = Math.min(to, from + maxSkip - 1);
        skipped += last - from + 1;
        tx.put("outbox", skipKey(before, from), { ...blank(core), number: from, skip: { to: last, why: "store damaged" } });
      }
    };
    for (const [key, row] of rows(tx, "verdict")) {
      const number = row.verdict?.number;
      if (!readLog(row) || row.device !== device || number < from || number >= end) continue;
      skip(key, number - 1);
      from = number + 1;
      offerAgain(tx, key, row.mutation, number);
    }
    skip(first[0], end - 1);
    return skipped;
  });
}

/** A key right before that of what follows, in the order of the numbers that are skipped. */
function skipKey(before: string, from: number): string {
  const base = before.length > 16 ? before.slice(0, 16) : orderKey(orderOf(before) - 1);
  return `${base}/${orderKey(from)}`;
}

/** Tells whether a line of the verdict log can be read. */
export function readLog(row: unknown): row is Tables["verdict"] {
  return isObject(row) && isObject(row["verdict"]) && isObject(row["mutation"]) && Array.isArray(row["mutation"]["ops"]) && Number.isSafeInteger(row["verdict"]["number"]);
}

/** Puts a settled mutation back into the outbox, and shows it as pending. */
function offerAgain(tx: Tx, key: string, m: MutationRow, number: number): void {
  tx.put("outbox", key, readOutbox(m) ? { ...m, number } : m); // what cannot be read is looked at before it is sent
  if (readOutbox(m)) {
    m.ops.forEach((op, i) => {
      tx.put("overlay", overlayKey(op.id, orderOf(key), i), op);
      if (op.create) tx.delete("office", op.id);
    });
  }
  tx.delete("verdict", key);
  tx.delete("settled", key);
}

/**
 * Offers again what a restored server has lost: every mutation whose verdict is of a later commit than those it still has
 * goes back to its place in the outbox, before what is pending, and all of it is numbered anew. It gives their count.
 */
export function takeRestored(tx: Tx, order: Restored): number {
  const after = String(order.afterSeq);
  let again = 0;
  const offer = (key: string, m: MutationRow) => {
    again++;
    offerAgain(tx, key, m, 0);
  };
  for (const [key, row] of rows(tx, "verdict")) {
    if (readLog(row) && compareU64(row.verdict.seq, after) > 0 && !nothingHappened(row.verdict.status)) offer(key, row.mutation);
  }
  // What is still shown and in no log any more.
  for (const [key, row] of rows(tx, "settled")) {
    if (isObject(row.mutation) && compareU64(row.seq, after) > 0) offer(key, row.mutation);
  }
  renumber(tx, Math.max(Number(order.expectedNumber), 1));
  // A repair by what the server was before it was restored says nothing about it now.
  const repair = getRepair(tx);
  if (repair) restart(tx, { ...repair, salvage: true, restarts: 0 });
  putPlace(tx, { ...getPlace(tx), seen: String(order.seq), complete: false });
  return again;
}

/**
 * Takes the numbers off all pending mutations; they begin again at next, with the next call. Their random ids stay, so
 * that the server knows again what it had already taken. Skips of the old numbers go.
 */
export function renumber(tx: Tx, next: number): void {
  for (const [key, m] of rows(tx, "outbox")) {
    if (!readOutbox(m) || m.number === 0) continue; // what cannot be read is looked at before it is sent
    if (m.skip) tx.delete("outbox", key);
    else tx.put("outbox", key, { ...m, number: 0 });
  }
  putNumbers(tx, { ...getNumbers(tx), next });
}

/**
 * Deletes what the device knows, and of its own mutations those that the server has kept, up to the number salvaged. Others
 * stay, to be sent; with none left, everything goes, the identity too. It tells whether everything is gone.
 */
export function wipe(tx: Tx, salvaged: number): boolean {
  for (const [key, m] of rows(tx, "outbox")) {
    if (!readOutbox(m) || m.number === 0 || m.number > salvaged) continue;
    hide(tx, orderOf(key), m);
    tx.delete("outbox", key);
  }
  hideSettled(tx, maxU64, 0, false);
  const left = tx.count("outbox") > 0;
  const { seen } = getPlace(tx);
  const known: Table[] = ["record", "staging", "verdict", "repair", "merged", "office"];
  for (const table of left ? known : tables) tx.clear(table);
  if (left) {
    for (const key of ["repair", "schema", "place"]) tx.delete("meta", key);
    putPlace(tx, { ...getPlace(tx), seen });
  } else {
    tx.deleteBytes("");
  }
  return !left;
}
