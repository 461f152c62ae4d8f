import { base64Decode, base64Encode } from "@bufbuild/protobuf/wire";
import { protoInt64, type MessageInitShape } from "@bufbuild/protobuf";
import { uuidBytes } from "./core.js";
import type { Change, Forms, MutationSchema, OpSchema, Verdict } from "./gen/satchel/v1/sync_pb.js";
import { compareU64, type Base64, type ChangeRow, type MutationRow, type OpRow, type ReadTx, type Table, type Tables, type Tx, type U64, type VerdictRow } from "./store.js";

/** Who this device is. */
export interface IdentityRow {
  /** Random id of this store. */
  installation: string;
  /** Under which mutations are numbered; "" = nobody has signed in. */
  device: string;
  /** The device of the sign-in: a fork gives another device, and no other session. */
  session: string;
  person: string;
  org: string;
  displayName: string;
  access: string;
  refresh: string;
  refreshExpiresMs: number;
}

/** How far the device's data goes. */
export interface Place {
  /** "" = none. */
  cursor: Base64;
  /** Of the last checkpoint with all priorities settled. */
  seq: U64;
  /** Of the last checkpoint that had one. */
  token: Base64;
  /** Of the last checkpoint. */
  schema: number;
  /** The last page stored was a checkpoint with all priorities settled. */
  complete: boolean;
  /** The cursor was given up; records without a bucket go at the next full checkpoint. */
  refill: boolean;
  /** The highest commit that the device was told of (S18). */
  seen: U64;
  /** Settled at the last checkpoint; 0 = all, or none yet. */
  priority: number;
  /** Of facts that the device follows; 0 = all. */
  months: number;
  /** Kind → look, of the last page that had them; null = none. */
  forms: Looks | null;
  /**
   * The kinds whose rows came to look otherwise since the last checkpoint with all priorities settled: some may be shown as
   * before, some without what was narrowed.
   */
  unsure: string[];
  /** Of the records shown. */
  held: Tally;
  /** When held was counted anew, by the server's clock. */
  countedMs: number;
  /** What was done already about a digest that is not the device's own, so that it is not done for ever. */
  doubt: "sure" | "repaired" | "refilled";
  /** When the cursor was given up. */
  doubtMs: number;
  /** Not "0": cursor is that of a repair as of this seq, and what it brought is staged. */
  repaired: U64;
  /** When the last sync came to its end, by the device's clock. */
  syncedMs: number;
}

/** How rows of each kind look, as satchel.v1.Forms. */
export type Looks = Record<string, U64>;

/** A digest: count and sum of hashes over records and their buckets. Exact below 2^53: some 2 million rows of 32 bits. */
export interface Tally {
  count: number;
  sum: number;
}

/** next is the number that the next mutation sent will get, order the place of the next one recorded; both from 1. */
export interface Numbers {
  next: number;
  order: number;
}

/** A row of "merged" or "office": forgotten in time. */
export interface Aged {
  kind: string;
  /** Merged into. */
  into?: string;
  dead?: boolean;
  /** By the server's clock. */
  ms: number;
}

/** How long a verdict stays in the log, so that its mutation could be offered again to a server restored from a backup. */
export const logKeptMs = 35 * 24 * 3600 * 1000;

/** The greatest seq. */
export const maxU64: U64 = "18446744073709551615";

export function maxOf(a: U64, b: U64): U64 {
  return compareU64(a, b) < 0 ? b : a;
}

/** For messages: works where BigInt is missing, too. */
export function u64(text: U64 | number): bigint {
  return protoInt64.uParse(String(text));
}

/** A row of "meta" as this package wrote it. */
export function getMeta<T>(tx: ReadTx, key: string): T | undefined {
  return tx.get("meta", key) as T | undefined;
}

export function getIdentity(tx: ReadTx): IdentityRow {
  return getMeta<IdentityRow>(tx, "identity") ?? { installation: "", device: "", session: "", person: "", org: "", displayName: "", access: "", refresh: "", refreshExpiresMs: 0 };
}

export function putIdentity(tx: Tx, id: IdentityRow): void {
  tx.put("meta", "identity", id);
}

/** A copy, to be changed and put again. */
export function getPlace(tx: ReadTx): Place {
  return {
    cursor: "", seq: "0", token: "", schema: 0, complete: false, refill: false, seen: "0", priority: 0, months: 0, forms: null, unsure: [],
    held: { count: 0, sum: 0 }, countedMs: 0, doubt: "sure", doubtMs: 0, repaired: "0", syncedMs: 0, ...getMeta<Partial<Place>>(tx, "place"),
  };
}

export function putPlace(tx: Tx, at: Place): void {
  tx.put("meta", "place", at);
}

/** A copy. */
export function getNumbers(tx: ReadTx): Numbers {
  return { next: 1, order: 1, ...getMeta<Numbers>(tx, "numbers") };
}

export function putNumbers(tx: Tx, n: Numbers): void {
  tx.put("meta", "numbers", n);
}

/** An order, or another number below 2^53, as the beginning of a key: 16 digits. */
export function orderKey(order: number): string {
  return String(order).padStart(16, "0");
}

export function orderOf(key: string): number {
  return Number(key.slice(0, 16));
}

export function recordKey(kind: string, id: string): string {
  return kind + "/" + id;
}

/** The record of a key that ends with its id. */
export function idOf(key: string): string {
  return key.slice(-36);
}

export function overlayKey(record: string, order: number, op: number): string {
  return `${record}/${orderKey(order)}/${String(op).padStart(4, "0")}`;
}

/** The values of a JSON object; undefined = it is none: what cannot be read counts as not there. */
export function readFields(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    if (isObject(value)) return value;
  } catch {
    // as any other text
  }
  return undefined;
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** H(record, rev) of S17: 32-bit FNV-1a of the id's bytes and the rev in decimal digits, its bits mixed. */
export function hashOf(id: string, rev: U64): number {
  let h = 2166136261;
  const add = (b: number) => (h = Math.imul(h ^ b, 16777619));
  uuidBytes(id).forEach(add);
  for (let i = 0; i < rev.length; i++) add(rev.charCodeAt(i));
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** Counts a record as it stands now in place of how it stood; undefined = it did not, or no longer does. */
export function moved(t: Tally, was: ChangeRow | undefined, now: ChangeRow | undefined): Tally {
  const weigh = (ch: ChangeRow | undefined) => (ch && ch.entered.length > 0 ? ch.entered.length * hashOf(ch.id, ch.rev) : 0);
  return { count: t.count + (now?.entered.length ?? 0) - (was?.entered.length ?? 0), sum: t.sum + weigh(now) - weigh(was) };
}

/** Stores a record as it is shown, was being how it stood; now undefined removes it. */
export function putShown(tx: Tx, at: Place, key: string, was: ChangeRow | undefined, now: ChangeRow | undefined): void {
  at.held = moved(at.held, was, now);
  if (now) tx.put("record", key, now);
  else tx.delete("record", key);
}

/** Tells whether the table has a row that begins with prefix. */
export function some(tx: ReadTx, table: Table, prefix = ""): boolean {
  let found = false;
  tx.scan(table, prefix, () => {
    found = true;
    return false;
  });
  return found;
}

/** What "meta" keeps of a repair. There is none while none is under way. */
export interface RepairState {
  /** Rows are sent up before they are removed. */
  salvage: boolean;
  /** start was answered; with it came what follows. */
  planned: boolean;
  /** Rows without a bucket were looked at. */
  swept: boolean;
  restarts: number;
  cursor: Base64;
  seq: U64;
  forms: Looks;
}

/** The state of the repair that is under way; undefined = none is. */
export function getRepair(tx: ReadTx): RepairState | undefined {
  return getMeta<RepairState>(tx, "repair");
}

/** Asks for a repair; one that is under way goes on, unless only this one salvages. */
export function beginRepair(tx: Tx, salvage: boolean): void {
  const st = getRepair(tx);
  if (!st || (salvage && !st.salvage)) restartRepair(tx, { salvage, restarts: 0 });
}

/** Begins anew; what is still to be salvaged stays. */
export function restartRepair(tx: Tx, { salvage, restarts }: Pick<RepairState, "salvage" | "restarts">): void {
  for (const prefix of ["b/", "r/"]) tx.scan("repair", prefix, (key) => tx.delete("repair", key));
  const st: RepairState = { salvage, restarts, planned: false, swept: false, cursor: "", seq: "0", forms: {} };
  tx.put("meta", "repair", st);
}

/** All rows whose keys begin with prefix, for loops that write to the table. */
export function rows<T extends Table>(tx: ReadTx, table: T, prefix = "", after?: string): [string, Tables[T]][] {
  const all: [string, Tables[T]][] = [];
  tx.scan(table, prefix, (key, row) => void all.push([key, row]), after);
  return all;
}

/** How many rows of a table of Aged are kept. */
const agedMost = 10_000;

/** Forgets what is older than the verdict log, and the oldest of what is too much. */
export function trimAged(tx: Tx, table: "merged" | "office", nowMs: number): void {
  const all = rows(tx, table).map(([key, row]): [string, number] => [key, (row as Aged).ms]).sort((a, b) => a[1] - b[1]);
  all.forEach(([key, ms], i) => {
    if (ms < nowMs - logKeptMs || i < all.length - agedMost) tx.delete(table, key);
  });
}

export function getAged(tx: ReadTx, table: "merged" | "office", id: string): Aged | undefined {
  return tx.get(table, id) as Aged | undefined;
}

/** Notes the kinds that look otherwise from now on. */
export function doubtForms(at: Place, next: Looks): void {
  const was = at.forms ?? {};
  doubtKinds(at, Object.keys({ ...was, ...next }).filter((kind) => was[kind] !== next[kind]));
}

export function doubtKinds(at: Place, kinds: string[]): void {
  at.unsure = [...new Set([...at.unsure, ...kinds])].sort();
}

export function looksOf(forms: Forms): Looks {
  return Object.fromEntries(forms.forms.map((f) => [f.kind, String(f.form)]));
}

/** A mutation as it is sent. */
export function toMutation(m: MutationRow): MessageInitShape<typeof MutationSchema> {
  const { boot, ms, wall } = m.recorded;
  return {
    number: u64(m.number),
    id: m.id,
    ops: m.ops.map(toOp),
    checkpointToken: base64Decode(m.token),
    schemaVersion: m.schema,
    recorded: { boot, monotonicMs: u64(ms), wallMs: protoInt64.parse(String(wall)) },
    ...(m.skip && { skip: { to: u64(m.skip.to), why: m.skip.why } }),
    ...(m.envelope && { envelope: { size: u64(m.envelope.size), sha256: base64Decode(m.envelope.sha256) } }),
  };
}

function toOp(op: OpRow): MessageInitShape<typeof OpSchema> {
  const o = { recordId: op.id, kind: op.kind, baseRev: u64(op.base) };
  if (op.create) return { ...o, action: { case: "create", value: op.create } };
  if (op.command) return { ...o, action: { case: "command", value: op.command } };
  if (op.delete) return { ...o, action: { case: "delete", value: {} } };
  const { fields = "", sets = [], increments = [] } = op.patch ?? {};
  return { ...o, action: { case: "patch", value: { fields, sets, increments: increments.map((i) => ({ field: i.field, by: protoInt64.parse(String(i.by)) })) } } };
}

/** A verdict as it is kept. */
export function verdictRow(v: Verdict): VerdictRow {
  return {
    number: Number(v.number), status: v.status, reason: v.reason, paths: v.paths.map((p) => ({ id: p.recordId, path: p.path })), notes: v.notes,
    seq: String(v.seq), attention: v.attentionId, detail: v.detail,
  };
}

/** A change as a row: its buckets are those that it entered, ascending. */
export function changeRow(ch: Change): ChangeRow {
  return {
    id: ch.recordId, kind: ch.kind, rev: String(ch.rev), entered: ch.entered.map(String).sort(compareU64), fields: ch.fields, author: ch.authorId, eventMs: Number(ch.eventMs),
    ...(ch.deleted && { deleted: true }), ...(ch.mergedInto && { mergedInto: ch.mergedInto }),
  };
}

export { base64Decode, base64Encode };

/** Takes the values out of a row that goes. */
export function clearValues(ch: ChangeRow): void {
  ch.fields = ch.author = "";
  ch.eventMs = 0;
}
