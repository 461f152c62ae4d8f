import type { Core } from "./core.js";
import { uuid } from "./core.js";
import { mediaBytes } from "./files.js";
import { getAged, getIdentity, getPlace, getRepair, idOf, orderOf, readFields, recordKey, some, type Aged } from "./rows.js";
import type { ChangeRow, OpRow, ReadTx } from "./store.js";
import type { Fields, OfficeRecord, Query, Rec, Status } from "./types.js";

/** A record as the device shows it, or undefined. Of one that was merged into another: that one. */
export function get(core: Core, kind: string, record: string): Rec | undefined {
  const asked = uuid(record, "record");
  return core.view((tx) => {
    const [id, anyMerged] = survivor(tx, asked);
    // Where records were merged, own ops may stand under the ids of others.
    return show(core, kind, id, tx.get("record", recordKey(kind, id)), ownOps(tx, kind, anyMerged ? "" : id + "/").get(id));
  });
}

/** All records of a kind as the device shows them, by id, which is by time of creation; see Query for less and otherwise. */
export function list(core: Core, kind: string, query: Query = {}): Rec[] {
  let all = core.view((tx) => {
    const own = ownOps(tx, kind);
    const shown: Rec[] = [];
    const add = (id: string, standing: ChangeRow | undefined) => {
      const r = show(core, kind, id, standing, own.get(id));
      if (r) shown.push(r);
      own.delete(id);
    };
    tx.scan("record", kind + "/", (key, ch) => add(idOf(key), ch));
    if (own.size > 0) {
      for (const id of [...own.keys()]) add(id, undefined);
      shown.sort(byId);
    }
    return shown;
  });
  if (query.where) all = all.filter(query.where);
  if (query.order) all.sort(query.order);
  return query.limit === undefined ? all : all.slice(0, query.limit);
}

/** The order of records where a query names none: by time of creation. */
export function byId(a: Rec, b: Rec): number {
  return a.id < b.id ? -1 : a.id > b.id ? 1 : 0;
}

/**
 * Own ops on records of the kind, in the order of recording, by the record that they are shown on. prefix: "" = of all
 * records, else only those that stand under keys of the overlay that begin with it.
 */
export function ownOps(tx: ReadTx, kind: string, prefix = ""): Map<string, OpRow[]> {
  const own = new Map<string, OpRow[]>();
  const late: { root: string; order: number; op: OpRow }[] = [];
  const add = (id: string, op: OpRow) => {
    const ops = own.get(id);
    if (ops) ops.push(op);
    else own.set(id, [op]);
  };
  const anyMerged = some(tx, "merged");
  tx.scan("overlay", prefix, (key, op) => {
    if (op.kind !== kind) return;
    const id = key.slice(0, 36);
    const root = anyMerged ? survivor(tx, id)[0] : id;
    if (root === id) add(id, op);
    // What was created is the other now, and whether that one goes is the server's to say.
    else if (op.patch) late.push({ root, order: orderOf(key.slice(37)), op });
  });
  // They had not seen what else was done to the other: it comes on top.
  for (const { root, op } of late.sort((a, b) => a.order - b.order)) add(root, op);
  return own;
}

/** The record that an id stands for: another one where it was merged. anyMerged: there are merged records here at all. */
export function survivor(tx: ReadTx, id: string): [id: string, anyMerged: boolean] {
  if (!some(tx, "merged")) return [id, false];
  // A chain, where an older merge was led on later; never a circle.
  for (let i = 0; i < 8; i++) {
    const into = getAged(tx, "merged", id)?.into;
    if (!into) break;
    id = into;
  }
  return [id, true];
}

/**
 * Puts own ops, in order, on top of what stands. undefined: the record is not on the device, or an own op deletes it. What
 * stands without own ops is the same object each time.
 */
export function show(core: Core, kind: string, id: string, standing: ChangeRow | undefined, ops: OpRow[] = []): Rec | undefined {
  const base = standing && plain(core, standing);
  if (ops.length === 0) return base;
  let fields: Fields | undefined = base?.fields;
  let author = base?.author ?? "";
  for (const op of ops) {
    if (op.create) {
      if (!fields) author = core.view(getIdentity).person;
      fields = setFields(fields ?? {}, op.create.fields);
    } else if (!fields) continue; // an edit of what is not on the device shows nothing
    else if (op.patch) fields = patched(fields, op.patch);
    else if (op.delete) fields = undefined;
    // What a command does is the server's to say.
  }
  return fields && { id, kind, rev: base?.rev ?? "0", fields, author, eventMs: base?.eventMs ?? 0, pending: true };
}

/**
 * A row as a record; undefined = it has no fields, or they were cut off. They are read when somebody looks: of 20,000 visits
 * hardly any is looked at, and reading them all took a slow phone half a second at each start.
 */
function plain(core: Core, ch: ChangeRow): Rec | undefined {
  let rec = core.memory.recs.get(ch);
  if (!rec && ((ch.fields.startsWith("{") && ch.fields.endsWith("}")) || readFields(ch.fields))) {
    let fields: Fields | undefined;
    rec = {
      id: ch.id, kind: ch.kind, rev: ch.rev, author: ch.author, eventMs: ch.eventMs, pending: false,
      get fields() {
        return (fields ??= readFields(ch.fields) ?? {});
      },
    };
    core.memory.recs.set(ch, rec);
  }
  return rec;
}

/** The values with those of a JSON object over them; null takes one away. "" = none. */
export function setFields(fields: Fields, object: string): Fields {
  const next = { ...fields, ...readFields(object) };
  for (const name of Object.keys(next)) if (next[name] === null) delete next[name];
  return next;
}

/** An edit that does not fit what stands is not shown; the server will say what is wrong with it. */
function patched(was: Fields, p: NonNullable<OpRow["patch"]>): Fields {
  const fields = setFields(was, p.fields);
  for (const edit of p.sets ?? []) {
    const set: unknown = fields[edit.field] ?? [];
    if (Array.isArray(set)) fields[edit.field] = [...new Set([...set.filter((e) => !edit.remove.includes(e)), ...edit.add])];
  }
  for (const { field, by } of p.increments ?? []) {
    const n = fields[field] ?? 0;
    if (typeof n === "number") fields[field] = n + Number(by);
  }
  return fields;
}

/**
 * What the person created here and the server took, but which lies in no bucket that this device follows. It leaves the list
 * when it comes after all, and after 35 days.
 */
export function atOffice(core: Core): OfficeRecord[] {
  const all: OfficeRecord[] = [];
  core.view((tx) =>
    tx.scan("office", "", (id, row) => {
      const { kind, dead, ms } = row as Aged;
      if (!dead) all.push({ kind, id, serverMs: ms });
    }),
  );
  return all;
}

/** How far the device is. */
export function status(core: Core): Status {
  const { syncing, error } = core.memory;
  return core.view((tx) => {
    const at = getPlace(tx);
    return {
      seq: at.seq, complete: at.complete, settledPriority: at.priority, followedMonths: at.months, pending: tx.count("outbox"),
      media: tx.count("media"), mediaBytes: mediaBytes(tx), repairing: !!getRepair(tx), records: tx.count("record"), staged: tx.count("staging"),
      syncing, lastSyncMs: at.syncedMs, ...(error && { error }),
    };
  });
}
