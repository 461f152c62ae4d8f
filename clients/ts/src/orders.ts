import { isUuid, type Core } from "./core.js";
import { SatchelError } from "./errors.js";
import type { Directive, Restored } from "./gen/satchel/v1/sync_pb.js";
import { hide, hideSettled, nothingHappened } from "./outbox.js";
import { blank, readOutbox } from "./recover.js";
import { beginRepair, getIdentity, getNumbers, getPlace, getRepair, isObject, maxU64, orderKey, orderOf, overlayKey, putIdentity, putNumbers, putPlace, restartRepair, rows } from "./rows.js";
import { compareU64, tables, type MutationRow, type Table, type Tables, type Tx } from "./store.js";
import type { Step } from "./step.js";

// What a server orders, and what is done when it misses something. Both are rare, and happen only with a network: see later in
// core.ts.

/** How many numbers one skip closes. */
const maxSkip = 1_000_000;

/** What directives did. */
export interface Orders {
  wiped: boolean;
  /** Of a page: its absence does not say that nothing changed. */
  instead: boolean;
}

/** Obeys the directives of an answer. */
export function obey(tx: Tx, directives: Directive[], r: Step): Orders {
  const orders = { wiped: false, instead: false };
  for (const { order } of directives) {
    switch (order.case) {
      case "fork": {
        const device = order.value.deviceId;
        if (!isUuid(device)) throw new SatchelError("refused", "the server's new device id cannot be read");
        const id = getIdentity(tx);
        // The same id again: nothing was taken under it yet, and what was sent does not begin at 1, for rows before it were
        // lost. It begins anew.
        if (id.device !== device) putIdentity(tx, { ...id, device });
        renumber(tx, 1);
        r.forked++;
        orders.instead = true;
        break;
      }
      case "wipe": {
        const { installation } = getIdentity(tx);
        orders.wiped = true;
        if (wipe(tx, Number(order.value.salvagedNumber))) putIdentity(tx, { ...getIdentity(tx), installation });
        break;
      }
      case "upgrade":
        r.minProtocol = order.value.minProtocol;
        break;
      case "restored": {
        const again = takeRestored(tx, order.value);
        r.restored += again;
        r.pending += again;
        orders.instead = true;
        break;
      }
      case "repair":
        beginRepair(tx, order.value.salvage);
        orders.instead = true;
    } // others are of a newer server, which does without them
  }
  return orders;
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
  if (repair) restartRepair(tx, { ...repair, salvage: true, restarts: 0 });
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
