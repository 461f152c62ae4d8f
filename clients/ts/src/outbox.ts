import { create, toBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { maxBatchBytes, maxClockPairs, maxMutationBytes, type Core } from "./core.js";
import { ReasonSchema } from "./gen/satchel/v1/errors_pb.js";
import { MutationSchema, NoteSchema, Status, StatusSchema, SyncRequestSchema, type Verdict } from "./gen/satchel/v1/sync_pb.js";
import { mediaBytes } from "./files.js";
import { envelop, readOutbox } from "./recover.js";
import { nameOf } from "./transport.js";
import { base64Decode, getAged, getIdentity, getNumbers, getPlace, logKeptMs, orderKey, orderOf, overlayKey, putNumbers, readFields, recordKey, rows, toMutation, trimAged, u64, verdictRow } from "./rows.js";
import { compareU64, type Base64, type MutationRow, type OpRow, type Tables, type Tx, type U64 } from "./store.js";
import type { Fate, PendingMutation, PendingOp, Settled } from "./types.js";

/** What one call takes from the outbox. */
export interface Sending {
  mutations: MutationRow[];
  /** Number → key in the outbox. */
  keys: Map<number, string>;
  /** Behind which a page is asked for. */
  cursor: Base64;
  /** All in the outbox, these included. */
  pending: number;
  request: MessageInitShape<typeof SyncRequestSchema>;
}

/** Bytes of a mutation as the limits count them. */
export function sizeOf(m: MutationRow): number {
  return toBinary(MutationSchema, create(MutationSchema, toMutation(m))).length;
}

/**
 * Takes the first mutations of the outbox, gives numbers to those that have none, and makes the request. The numbers are
 * durable when it resolves, and only then may they be sent. What cannot be sent as it is gives its place to an envelope.
 */
export function number(core: Core, noPage: boolean): Promise<Sending> {
  const { batch, budget } = core.memory;
  const { schemaVersion, profile, appVersion } = core.config;
  return core.update("number", (tx) => {
    const at = getPlace(tx);
    const n = getNumbers(tx);
    const s: Sending = { mutations: [], keys: new Map(), cursor: at.cursor, pending: tx.count("outbox"), request: {} };
    const boots = new Set<string>();
    const { next } = n;
    let confirmed = next - 1;
    let size = 0;
    for (const [key, row] of rows(tx, "outbox")) {
      if (s.mutations.length >= batch) break;
      let m = row;
      let bytes = readOutbox(m) ? sizeOf(m) : Infinity;
      if (bytes > maxMutationBytes) {
        m = envelop(core, tx, key, m, s.mutations.at(-1), n.next);
        bytes = 0; // a few bytes now
      }
      const { boot } = m.recorded;
      const isNew = boot !== "" && !boots.has(boot);
      if (size + bytes + 16 > maxBatchBytes || (isNew && boots.size === maxClockPairs)) break;
      if (isNew) boots.add(boot);
      if (s.mutations.length === 0 && m.number > 0) confirmed = m.number - 1;
      if (m.number === 0) {
        m = { ...m, number: n.next++ };
        tx.put("outbox", key, m);
      }
      size += bytes + 16; // its number, tag and length
      s.mutations.push(m);
      s.keys.set(m.number, key);
      if (m.skip) break; // what follows is sent with the next call
    }
    // A boot that has not met the server yet has no pair.
    const pairs = [...boots].flatMap((boot) => tx.get("clock", boot) ?? []);
    s.request = {
      mutations: s.mutations.map(toMutation),
      confirmed: u64(confirmed),
      cursor: base64Decode(at.cursor),
      maxBytes: budget,
      schemaVersion,
      clockPairs: pairs.map((p) => ({ boot: p.boot, monotonicMs: u64(p.ms), serverMs: u64(p.serverMs) })),
      outbox: { count: s.pending, oldestMs: u64(s.mutations[0]?.recorded.wall ?? 0), mediaBytes: u64(mediaBytes(tx)) },
      noPage, profile, appVersion,
      seenSeq: u64(at.seen),
      completesRows: true,
    };
    if (n.next > next) putNumbers(tx, n);
    return s;
  });
}

/**
 * Stores what became of a mutation: it leaves the outbox for the log. Its ops stay shown until a checkpoint at or past the
 * verdict's seq, unless nothing of it took effect. Undefined: it was nobody's work.
 */
export function settle(tx: Tx, key: string, serverMs: number, v: Verdict): Settled | undefined {
  const mutation = tx.get("outbox", key);
  tx.delete("outbox", key);
  // A skip stands in no log, and under no order of its own.
  if (!mutation || mutation.skip) return undefined;
  const order = orderOf(key);
  const row = { device: getIdentity(tx).device, serverMs, mutation, verdict: verdictRow(v) };
  tx.put("verdict", key, row);
  if (nothingHappened(v.status)) hide(tx, order, mutation);
  else tx.put("settled", key, { seq: String(v.seq), mutation });
  return settledOf(key, row);
}

export function nothingHappened(status: number): boolean {
  return status === Status.REJECTED || status === Status.STALE;
}

/** Takes a mutation's ops off what is shown. */
export function hide(tx: Tx, order: number, m: MutationRow): void {
  m.ops.forEach((op, i) => tx.delete("overlay", overlayKey(op.id, order, i)));
}

/**
 * Takes off what is settled at or before seq: the checkpoint shows it. Own creations that it does not show, for they lie in
 * no bucket that the device follows, are noted as kept at the office, where note says so (S14).
 */
export function hideSettled(tx: Tx, seq: U64, nowMs: number, note: boolean): void {
  let noted = false;
  for (const [key, s] of rows(tx, "settled")) {
    if (compareU64(s.seq, seq) > 0) continue;
    if (note) noted = noteOffice(tx, key, s.mutation, nowMs) || noted;
    hide(tx, orderOf(key), s.mutation);
    tx.delete("settled", key);
  }
  if (noted) trimAged(tx, "office", nowMs);
}

/** Notes the creations of a settled mutation that are not on the device at this checkpoint. */
function noteOffice(tx: Tx, key: string, m: MutationRow, nowMs: number): boolean {
  const log = tx.get("verdict", key);
  if (log?.verdict.status === Status.UNSUPPORTED) return false;
  let noted = false;
  for (const op of m.ops) {
    const listed = getAged(tx, "office", op.id);
    if (op.delete || listed?.dead) tx.delete("office", op.id);
    else if (op.create && !listed && !tx.get("record", recordKey(op.kind, op.id))) {
      noted = true;
      tx.put("office", op.id, { kind: op.kind, ms: log?.serverMs ?? nowMs });
    }
  }
  return noted;
}

/** Removes the lines that are older than the log keeps. It is called with each verdict stored. */
export function trimLog(tx: Tx, serverMs: number): void {
  tx.scan("verdict", "", (key, row) => {
    if (row.serverMs > serverMs - logKeptMs) return false;
    tx.delete("verdict", key);
    return true;
  });
}

/** Keeps the pair for this boot, and forgets those of boots in which nothing pending was recorded. */
export function noteClock(tx: Tx, boot: string, ms: number, serverMs: number): void {
  if (boot !== "" && serverMs > 0) tx.put("clock", boot, { boot, ms, serverMs });
  const stale = rows(tx, "clock").filter(([key]) => key !== boot);
  if (stale.length === 0) return;
  const used = new Set(rows(tx, "outbox").map(([, m]) => m.recorded.boot));
  for (const [key] of stale) if (!used.has(key)) tx.delete("clock", key);
}

/** What is not settled yet, in order. */
export function pending(core: Core): PendingMutation[] {
  const all: PendingMutation[] = [];
  core.view((tx) =>
    tx.scan("outbox", "", (key, m) => {
      if (!m.skip) all.push({ order: orderOf(key), id: m.id, ops: m.ops.map(pendingOp), recordedMs: m.recorded.wall, sent: m.number > 0 });
    }),
  );
  return all;
}

/** Lines of the log of verdicts, oldest first. */
export function settled(core: Core, after: number, limit: number): Settled[] {
  const all: Settled[] = [];
  core.view((tx) => tx.scan("verdict", "", (key, row) => all.length < limit && (all.push(settledOf(key, row)), true), orderKey(after)));
  return all;
}

function settledOf(key: string, { mutation, verdict: v, serverMs }: Tables["verdict"]): Settled {
  return {
    order: orderOf(key), id: mutation.id, ops: mutation.ops.map(pendingOp), fate: nameOf(StatusSchema, v.status) as Fate, reason: nameOf(ReasonSchema, v.reason),
    paths: v.paths.map((p) => ({ record: p.id, path: p.path })), notes: v.notes.map((n) => nameOf(NoteSchema, n)), attention: v.attention, serverMs,
  };
}

function pendingOp(op: OpRow): PendingOp {
  const action = op.create ? "create" : op.delete ? "delete" : op.command ? "command" : "patch";
  return { action, kind: op.kind, record: op.id, fields: readFields((op.create ?? op.patch)?.fields ?? op.command?.args ?? "") ?? {}, command: op.command?.name ?? "" };
}
