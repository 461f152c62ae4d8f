import type { DroppedKind, Narrowed, Page } from "./gen/satchel/v1/sync_pb.js";
import { clearValues, isObject, putShown, readFields, type Place } from "./rows.js";
import type { ChangeRow, Tx, U64 } from "./store.js";

// What a page takes away, because rights were taken away: seldom, and only ever with a network: see later in core.ts.

/** Takes away at once what the page says, from what is shown and from what is staged. */
export function takeAway(tx: Tx, at: Place, p: Page): void {
  dropBuckets(tx, at, p.droppedBuckets.map(String), p.droppedKinds);
  narrow(tx, at, p.narrowed);
}

/** Takes buckets away from every record, shown or staged, and deletes what has none left. */
function dropBuckets(tx: Tx, at: Place, dropped: U64[], kinds: DroppedKind[]): void {
  if (dropped.length + kinds.length === 0) return;
  const gone = new Set([...dropped, ...kinds.map((d) => d.bucket + "/" + d.kind)]);
  rewriteAll(tx, at, (ch) => {
    const entered = ch.entered.filter((b) => !gone.has(b) && !gone.has(b + "/" + ch.kind));
    if (entered.length === ch.entered.length) return undefined;
    const next = { ...ch, entered };
    // Staged, it must stay as one that goes, and its values must not.
    if (entered.length === 0) clearValues(next);
    return next;
  });
}

/**
 * Deletes fields from every record of their kinds, and their values from copies: items of attentions, and of whatever else
 * keeps (record, kind, field, value). What speaks of a record as a whole goes with any of its fields, as on the server.
 */
export function narrow(tx: Tx, at: Place, all: Narrowed[]): void {
  if (all.length === 0) return;
  const hidden = new Set(all.flatMap((n) => ["", ...n.fields].map((f) => n.kind + "/" + f)));
  rewriteAll(tx, at, (ch) => {
    const own = hidden.has(ch.kind + "/");
    if (!own && !ch.fields.includes('"items"')) return undefined;
    const fields = readFields(ch.fields);
    if (!fields) return undefined;
    let changed = false;
    for (const name of Object.keys(fields)) {
      if (own && hidden.has(ch.kind + "/" + name)) {
        delete fields[name];
        changed = true;
      }
    }
    if (Array.isArray(fields["items"])) {
      fields["items"] = fields["items"].map((item: unknown) => {
        // An element of a set goes with its field.
        if (!isObject(item) || !("value" in item) || typeof item["field"] !== "string" || !hidden.has(item["kind"] + "/" + item["field"].split("/")[0])) return item;
        changed = true;
        const { value: _, ...rest } = item;
        return { ...rest, withheld: true };
      });
    }
    return changed ? { ...ch, fields: JSON.stringify(fields) } : undefined;
  });
}

/**
 * Changes rows, shown and staged; fn gives the row as it is to be, undefined = as it is. A shown record that lost its last
 * bucket by it is deleted.
 */
function rewriteAll(tx: Tx, at: Place, fn: (ch: ChangeRow) => ChangeRow | undefined): void {
  tx.scan("record", "", (key, was) => {
    const ch = fn(was);
    if (ch) putShown(tx, at, key, was, was.entered.length > 0 && ch.entered.length === 0 ? undefined : ch);
  });
  tx.scan("staging", "", (key, was) => {
    const ch = fn(was);
    if (ch) tx.put("staging", key, ch);
  });
}
