import { isUuid } from "./core.js";
import { SatchelError } from "./errors.js";
import type { Change, Digest, Page } from "./gen/satchel/v1/sync_pb.js";
import { hideSettled } from "./outbox.js";
import { base64Encode, beginRepair, changeRow, clearValues, doubtForms, getPlace, idOf, looksOf, maxOf, maxU64, moved, putPlace, putShown, readFields, recordKey, some, trimAged, type Place, type Tally } from "./rows.js";
import { setFields } from "./show.js";
import type { ChangeRow, OpRow, ReadTx, Tx, U64 } from "./store.js";

/** Applies one page within one transaction. */
export interface Taking {
  tx: Tx;
  at: Place;
  /** The server's clock. */
  nowMs: number;
  /** The table of records was not counted yet, or not for a day. */
  recount: boolean;
  /** It was counted. */
  counted: boolean;
  /** A row could not be completed: a repair must bring it. */
  broken: boolean;
  /** What was done about a digest that is not the device's own; "" = nothing was to be done. */
  differs: "" | "repair" | "refill" | "nothing";
}

/** How often the records are counted anew, so that a store that lost rows is found. */
const recountMs = 24 * 3600 * 1000;

/** See away.ts. */
export type TakeAway = (tx: Tx, at: Place, p: Page) => void;

/** Begins to take an answer. */
export function taking(tx: Tx, nowMs: number, recount: boolean): Taking {
  return { tx, at: getPlace(tx), nowMs, recount, counted: false, broken: false, differs: "" };
}

/**
 * Stores the page whole: what must go goes at once, its changes are staged, the cursor moves with them, and at a checkpoint
 * what was staged is shown. takeAway: where it takes something away.
 */
export function takePage(t: Taking, p: Page, takeAway?: TakeAway): void {
  const { tx, at } = t;
  // What must go comes first: the same page may bring a record again, by another bucket or with another mask.
  takeAway?.(tx, at, p);
  for (const ch of p.changes) stage(t, ch);
  if (p.cursor.length > 0) at.cursor = base64Encode(p.cursor);
  if (p.forms) {
    const looks = looksOf(p.forms);
    doubtForms(at, looks);
    at.forms = looks;
  }
  if (t.broken) {
    // Not to be shown without what is missing: as with a digest that differs.
    at.complete = false;
    return end(t, true);
  }
  at.complete = p.checkpoint && p.settledPriority === 0;
  if (!p.checkpoint) return end(t, false);
  showStaged(t);
  at.seen = maxOf(at.seen, String(p.seq));
  at.priority = p.settledPriority;
  at.months = p.followedMonths;
  // A partial checkpoint may prove nothing: then the one before still does.
  if (p.token.length > 0 || at.complete) at.token = base64Encode(p.token);
  if (p.schemaVersion > 0 || at.complete) at.schema = p.schemaVersion;
  if (!at.complete) return end(t, false);
  at.seq = String(p.seq);
  complete(t, at.seq);
  end(t, compare(t, p.digest));
}

/**
 * Takes an answer without a page, which says that nothing changed since the cursor. At a full checkpoint that makes this
 * moment one too, and own mutations that the server has settled can go from the overlay; the cursor of a repair is such a
 * moment as well.
 */
export function nothingNew(t: Taking): void {
  const { at } = t;
  if (at.repaired !== "0") {
    at.complete = true;
    at.priority = 0;
    at.seq = at.repaired;
    showStaged(t);
  } else if (!at.complete) return;
  complete(t, maxU64);
  end(t, false);
}

/** Ends what a checkpoint with all priorities settled ends. */
function complete(t: Taking, seq: U64): void {
  t.at.repaired = "0";
  t.at.unsure = [];
  if (t.at.refill) {
    t.at.refill = false;
    // Without a bucket, it did not come again; and it was not counted.
    t.tx.scan("record", "", (key, ch) => {
      if (ch.entered.length === 0) t.tx.delete("record", key);
    });
  }
  hideSettled(t.tx, seq, t.nowMs, true);
}

function end(t: Taking, repair: boolean): void {
  if (repair) {
    t.differs = "repair";
    if (t.at.doubt === "sure") t.at.doubt = "repaired";
    beginRepair(t.tx, false);
  }
  putPlace(t.tx, t.at);
}

/**
 * Tells whether the digest asks for a repair. When a repair did not help, the cursor is given up, and when that did not
 * help either, nothing is done for a day: what the server states is then not what it sends.
 */
function compare(t: Taking, d: Digest | undefined): boolean {
  const { tx, at } = t;
  if (!d) return false;
  const same = () => String(d.count) === String(at.held.count) && String(d.sum) === String(at.held.sum);
  if (t.recount || t.nowMs - at.countedMs > recountMs || !same()) {
    let held: Tally = { count: 0, sum: 0 };
    tx.scan("record", "", (key, ch) => {
      // A damaged row counts as one that is not there: the digest finds that it is missing, and a repair brings it.
      if (!readFields(ch.fields)) tx.delete("record", key);
      else held = moved(held, undefined, ch);
    });
    at.held = held;
    at.countedMs = t.nowMs;
    t.counted = true;
  }
  if (same()) {
    at.doubt = "sure";
    return false;
  }
  if (at.doubt === "repaired") {
    t.differs = "refill";
    at.doubt = "refilled";
    at.doubtMs = t.nowMs;
    refill(tx, at);
    return false;
  }
  if (at.doubt === "refilled" && t.nowMs - at.doubtMs < recountMs) {
    t.differs = "nothing";
    return false;
  }
  at.doubt = "sure";
  return true;
}

/**
 * Works out how the record will stand at the checkpoint and keeps that aside. A staged row is a whole one: its entered are
 * all its buckets. One that will be gone stays staged without buckets and fields.
 */
function stage(t: Taking, change: Change): void {
  if (!isUuid(change.recordId) || !change.kind) throw new SatchelError("refused", "the server's answer has a change without a record or a kind");
  let ch = changeRow(change);
  if (change.asSent) {
    const whole = completed(t.tx, ch);
    if (!whole) {
      t.broken = true;
      return;
    }
    ch = whole;
  }
  const key = recordKey(ch.kind, ch.id);
  const was = standing(t.tx, key);
  const left = change.left.map(String);
  const kept = ch.deleted ? [] : (was?.entered.filter((b) => !left.includes(b)) ?? []);
  const next = { ...ch, entered: ch.deleted ? [] : buckets([...kept, ...ch.entered]) };
  if (next.entered.length === 0) clearValues(next);
  else if (!ch.fields) {
    // Only its buckets moved.
    next.fields = was?.fields ?? "";
    next.author = was?.author ?? "";
    next.eventMs = was?.eventMs ?? 0;
    next.rev = maxOf(ch.rev, was?.rev ?? "0");
  }
  t.tx.put("staging", key, next);
}

/** Ascending, each once. */
export function buckets(all: U64[]): U64[] {
  return [...new Set(all)].sort((a, b) => a.length - b.length || (a < b ? -1 : 1));
}

/** The record as it will stand at the checkpoint; undefined = not. */
export function standing(tx: ReadTx, key: string): ChangeRow | undefined {
  return tx.get("staging", key) ?? tx.get("record", key);
}

/** The row that stands as this device created it, with the change's fields over its own; undefined = the creation is not here. */
function completed(tx: Tx, ch: ChangeRow): ChangeRow | undefined {
  let create: OpRow["create"];
  tx.scan("overlay", ch.id + "/", (_, op) => {
    if (op.kind === ch.kind) create = op.create ?? create;
  });
  if (!create) return undefined;
  return { ...ch, fields: JSON.stringify(setFields(setFields({}, create.fields), ch.fields)) };
}

/** Replaces what is shown by what is staged. */
function showStaged(t: Taking): void {
  const { tx, at } = t;
  const anyMerged = some(tx, "merged");
  const anyOffice = some(tx, "office");
  let merged = false;
  tx.scan("staging", "", (key, ch) => {
    // Whether it goes is told by its buckets alone, which also a drop after its staging took away.
    const id = idOf(key);
    const was = tx.get("record", key);
    if (ch.entered.length > 0) {
      if (anyMerged) tx.delete("merged", id);
      if (anyOffice) tx.delete("office", id);
      return putShown(tx, at, key, was, ch);
    }
    if (ch.deleted) {
      died(t, id, ch);
      merged ||= !!ch.mergedInto;
    }
    if (was) putShown(tx, at, key, was, undefined);
  });
  if (merged) trimAged(tx, "merged", t.nowMs);
  tx.clear("staging");
}

/**
 * Notes what a tombstone says beside that the record is gone: where its work goes on, and, of an own creation that is still
 * shown, that it is not kept at the office.
 */
function died(t: Taking, id: string, ch: ChangeRow): void {
  if (ch.mergedInto) t.tx.put("merged", id, { kind: ch.kind, into: ch.mergedInto, ms: t.nowMs });
  if (some(t.tx, "overlay", id + "/")) t.tx.put("office", id, { kind: ch.kind, dead: true, ms: t.nowMs });
  else t.tx.delete("office", id);
}

/**
 * Gives up the cursor: the server fills the device anew. What is shown stays until then, without buckets; at the next full
 * checkpoint what did not come again goes.
 */
export function refill(tx: Tx, at: Place): void {
  at.cursor = "";
  at.complete = false;
  at.refill = true;
  at.repaired = "0";
  at.held = { count: 0, sum: 0 };
  tx.clear("staging");
  tx.scan("record", "", (key, ch) => {
    if (ch.entered.length > 0) tx.put("record", key, { ...ch, entered: [] });
  });
}
