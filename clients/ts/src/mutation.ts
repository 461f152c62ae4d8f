import { maxMutationBytes, maxOps, reading, uuid, type Core } from "./core.js";
import { SatchelError } from "./errors.js";
import { sizeOf } from "./outbox.js";
import { getIdentity, getNumbers, getPlace, orderKey, overlayKey, putNumbers, recordKey } from "./rows.js";
import type { MutationRow, OpRow, Tx } from "./store.js";
import type { BatchApi, Edit } from "./types.js";

/** Collects ops that take effect together or not at all: one mutation. What is wrong with an op throws `invalid` at once. */
export class Batch implements BatchApi {
  readonly ops: OpRow[] = [];

  constructor(private readonly newId: () => string) {}

  create(kind: string, fields: object): string {
    const id = this.newId();
    this.createAs(kind, id, fields);
    return id;
  }

  createAs(kind: string, id: string, fields: object): this {
    this.ops.push(createOp(kind, id, fields));
    return this;
  }

  patch(kind: string, id: string, fields: object, edits: Edit[] = []): this {
    const sets = new Map<string, { field: string; add: string[]; remove: string[] }>();
    const increments: { field: string; by: number }[] = [];
    for (const edit of edits) {
      if (!("by" in edit)) {
        const s = sets.get(edit.field) ?? { field: edit.field, add: [], remove: [] };
        sets.set(edit.field, { ...s, add: [...s.add, ...(edit.add ?? [])], remove: [...s.remove, ...(edit.remove ?? [])] });
      } else if (Number.isSafeInteger(edit.by)) increments.push({ field: edit.field, by: edit.by });
      else throw new SatchelError("invalid", `${edit.field}: a counter takes whole numbers`);
    }
    const text = json(fields);
    return this.add(kind, id, {
      patch: { fields: text === "{}" ? "" : text, ...(sets.size > 0 && { sets: [...sets.values()] }), ...(increments.length > 0 && { increments }) },
    });
  }

  delete(kind: string, id: string): this {
    return this.add(kind, id, { delete: true });
  }

  command(kind: string, id: string, name: string, args: object): this {
    const text = json(args);
    return this.add(kind, id, { command: { name, args: text === "{}" ? "" : text } });
  }

  private add(kind: string, id: string, action: Partial<OpRow>): this {
    this.ops.push(op(kind, id, action));
    return this;
  }
}

function op(kind: string, id: string, action: Partial<OpRow>): OpRow {
  if (!/^[^/]{1,64}$/.test(kind)) throw new SatchelError("invalid", "a kind has 1 to 64 characters, and no slash");
  return { id: uuid(id, "record"), kind, base: "0", ...action };
}

/** The creation of a record under an id that the caller has minted. */
export function createOp(kind: string, id: string, fields: object): OpRow {
  return op(kind, id, { create: { fields: json(fields) } });
}

function json(fields: object): string {
  try {
    return JSON.stringify(fields);
  } catch (cause) {
    throw new SatchelError("invalid", "the fields cannot be written as JSON", cause);
  }
}

/** Records ops as one mutation and gives its random id. It makes no call: when it resolves, the mutation is durable and shown. */
export function record(core: Core, batch: BatchApi): Promise<string> {
  if (!(batch instanceof Batch)) throw new SatchelError("invalid", "a batch is made by client.batch()");
  const ops = [...batch.ops];
  return core.update("record", (tx) => recordIn(core, tx, ops));
}

/** Puts ops into the outbox. Base revs are those of what is shown at this moment. */
export function recordIn(core: Core, tx: Tx, ops: OpRow[]): string {
  if (ops.length === 0) throw new SatchelError("invalid", "a mutation needs an op");
  if (ops.length > maxOps) throw new SatchelError("too_large", `a mutation has at most ${maxOps} ops, not ${ops.length}; record several`);
  const { person } = getIdentity(tx);
  if (core.memory.person && person !== core.memory.person) throw new SatchelError(person ? "other_person" : "sign_in_again", "another tab signed out; nothing was recorded");
  const at = getPlace(tx);
  const n = getNumbers(tx);
  const m: MutationRow = {
    number: 0,
    id: core.newId(),
    ops: ops.map((op) => (op.create ? op : { ...op, base: tx.get("record", recordKey(op.kind, op.id))?.rev ?? "0" })),
    token: at.token,
    schema: core.config.schemaVersion || at.schema, // what the person saw, however much later it is sent
    recorded: reading(core),
  };
  // The number is not in it yet; it takes at most 11 bytes.
  const size = sizeOf(m) + 11;
  if (size > maxMutationBytes) throw new SatchelError("too_large", `a mutation has at most ${maxMutationBytes} bytes, not ${size}; record several, and attach files`);
  m.ops.forEach((op, i) => tx.put("overlay", overlayKey(op.id, n.order, i), op));
  tx.put("outbox", orderKey(n.order), m);
  putNumbers(tx, { ...n, order: n.order + 1 });
  return m.id;
}
