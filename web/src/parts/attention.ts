import type { BatchApi, Edit, Fields, Kind, Rec } from "@satchel/client";

/**
 * What an attention holds, put so that a person can settle it. Pure: the views draw it, and give what was chosen back.
 *
 * An attention is one record per person and record, so conflicts and refusals may stand in it side by side: each item
 * says by itself what it is.
 */

/** A value that a person offered and that does not stand. */
export interface Item {
  record: string;
  kind: string;
  /** "" = the step as a whole: a deletion, a command, bytes. */
  field: string;
  /** Of a set: which element; undefined = the field as a whole. */
  element: string | undefined;
  action: string;
  value: unknown;
  /** The person may no longer see the value; there is none. */
  withheld: boolean;
  /** It lost against somebody's value; false = its mutation was refused. */
  conflict: boolean;
  /** It stood, until somebody replaced it who had not seen it. */
  overruled: boolean;
  /** Who wrote what stands, a person's id; "" = a rule, an import or the office, undefined = not known. */
  by: string | undefined;
  /** When it was noticed, milliseconds since 1970; 0 = not known. */
  atMs: number;
  /** Items of one refused mutation have the same; "" = not kept. */
  mutation: string;
  /** The value is bytes that nobody could read. */
  bytes: boolean;
}

/** Work that cannot be shown field by field. */
export type Lost =
  /** Numbers of mutations that were damaged on the device. */
  | { what: "damaged"; from: number; to: number }
  /** Too large to be sent: it is still on the device that recorded it. */
  | { what: "large"; bytes: number }
  /** Bytes that were no mutation. */
  | { what: "bytes" };

type Json = Record<string, unknown>;

function isObject(v: unknown): v is Json {
  return typeof v === "object" && v !== null && !Array.isArray(v);
}

const text = (v: unknown): string => (typeof v === "string" ? v : "");
const number = (v: unknown): number => (typeof v === "number" ? v : Number(text(v)) || 0);
const texts = (v: unknown): string[] => (Array.isArray(v) ? v.filter((e): e is string => typeof e === "string") : []);

/** Reads the items of an attention, and what of them has no fields to show. */
export function read(attention: Readonly<Fields>): { items: Item[]; lost: Lost[] } {
  const items: Item[] = [];
  const lost: Lost[] = [];
  for (const raw of Array.isArray(attention.items) ? attention.items : []) {
    if (!isObject(raw)) continue;
    if ("from" in raw) lost.push({ what: "damaged", from: number(raw.from), to: number(raw.to) });
    else if ("sha256" in raw) lost.push({ what: "large", bytes: number(raw.size) });
    else if (!("record" in raw)) lost.push({ what: "bytes" });
    else if (raw.kind !== "attention") items.push(itemOf(raw)); // that the attention itself was to be closed is no news
  }
  return { items, lost };
}

function itemOf(raw: Json): Item {
  const path = text(raw.field);
  const slash = path.indexOf("/");
  return {
    record: text(raw.record), kind: text(raw.kind), field: slash < 0 ? path : path.slice(0, slash),
    element: slash < 0 ? undefined : path.slice(slash + 1), action: text(raw.action), value: raw.value ?? null,
    withheld: raw.withheld === true, conflict: "at" in raw, overruled: raw.overruled === true, by: typeof raw.by === "string" ? raw.by : undefined, atMs: number(raw.at),
    mutation: text(raw.mutation), bytes: "encoding" in raw,
  };
}

/** One step of the mutation that settles an attention. */
export interface Step {
  action: "create" | "patch" | "delete" | "command";
  record: string;
  kind: string;
  fields: Fields;
  edits: Edit[];
  /** Of a command. */
  command: string;
  args: Fields;
}

function stepOf(action: Step["action"], at: { record: string; kind: string }): Step {
  return { action, record: at.record, kind: at.kind, fields: {}, edits: [], command: "", args: {} };
}

/** A field as a conflict shows it. */
export interface Side {
  field: string;
  /** Of a set: what was added and removed; of a counter: the amount. Else absent. */
  edit: Edit | undefined;
  mine: unknown;
  standing: unknown;
  withheld: boolean;
}

/** What a person chooses by one tap: a field, a group of fields that are settled as one, or a deletion. */
export interface Choice {
  key: string;
  record: string;
  kind: string;
  sides: Side[];
  /** Mine is that the record goes. */
  deletion: boolean;
  /** Mine had stood before. */
  overruled: boolean;
  /** As of an item. */
  by: string | undefined;
  atMs: number;
  /** The record is no longer on the device: deleted, or no longer this person's to see. */
  gone: boolean;
  /** Both sides are alike by now, or mine may not be seen: there is nothing to choose. */
  settled: boolean;
}

type Find = (kind: string, id: string) => Rec | undefined;

/**
 * Pairs what lost with what stands now, the newest of each field. find gives a record as the device shows it: of one that
 * was merged, the other one.
 */
export function choicesOf(items: readonly Item[], schema: ReadonlyMap<string, Kind>, find: Find): Choice[] {
  const choices = new Map<string, Choice>();
  for (const it of items) {
    if (!it.conflict || it.bytes) continue;
    const info = schema.get(it.kind)?.fields.find((f) => f.name === it.field);
    const key = `${it.record}/${it.field && (info?.group ? `group ${info.group}` : it.field)}`;
    const standing = find(it.kind, it.record);
    const c = choices.get(key) ?? {
      key, record: standing?.id ?? it.record, kind: it.kind, sides: [], deletion: it.field === "" && it.action === "delete",
      overruled: false, by: undefined, atMs: 0, gone: !standing, settled: false,
    };
    choices.set(key, c);
    c.overruled = it.overruled;
    c.by = it.by ?? c.by;
    c.atMs = Math.max(c.atMs, it.atMs);
    if (it.field) put(c, it, standing?.fields[it.field] ?? null);
  }
  for (const c of choices.values()) c.settled = !c.deletion && c.sides.every((s) => s.withheld || alike(s));
  return [...choices.values()];
}

/** Lets an item stand for its field, over what was there before. */
function put(c: Choice, it: Item, standing: unknown): void {
  const at = c.sides.findIndex((s) => s.field === it.field);
  const before = c.sides[at];
  const side: Side = { field: it.field, edit: undefined, mine: it.value, standing, withheld: it.withheld };
  if (it.element !== undefined) {
    const element = it.element;
    const old = before?.edit && !("by" in before.edit) ? before.edit : { field: it.field };
    const others = (list: string[] | undefined): string[] => (list ?? []).filter((e) => e !== element);
    const adds = it.value !== null;
    side.edit = { field: it.field, add: adds ? [...others(old.add), element] : others(old.add), remove: adds ? others(old.remove) : [...others(old.remove), element] };
    side.withheld = it.withheld || before?.withheld === true;
  } else if (isObject(it.value) && typeof it.value.by === "number") {
    const before_ = before?.edit && "by" in before.edit ? before.edit.by : 0;
    side.edit = { field: it.field, by: before_ + it.value.by };
  }
  if (at < 0) c.sides.push(side);
  else c.sides[at] = side;
}

function alike(s: Side): boolean {
  if (!s.edit) return same(s.mine, s.standing);
  if ("by" in s.edit) return s.edit.by === 0;
  const now = texts(s.standing);
  return (s.edit.add ?? []).every((e) => now.includes(e)) && !(s.edit.remove ?? []).some((e) => now.includes(e));
}

/** Tells whether two values are the same JSON. */
export function same(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((v, i) => same(v, b[i]));
  if (!isObject(a) || !isObject(b)) return (a ?? null) === (b ?? null);
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length && keys.every((k) => k in b && same(a[k], b[k]));
}

/** The steps that let mine stand, of the choices whose keys are in mine. */
export function restore(choices: readonly Choice[], mine: ReadonlySet<string>): Step[] {
  const steps = new Map<string, Step>();
  for (const c of choices) {
    if (c.settled || !mine.has(c.key)) continue;
    if (c.deletion) {
      steps.set(`${c.record} delete`, stepOf("delete", c));
      continue;
    }
    const step = steps.get(c.record) ?? stepOf("patch", c);
    for (const s of c.sides) {
      if (s.withheld || alike(s)) continue;
      if (s.edit) step.edits.push(s.edit);
      else step.fields[s.field] = s.mine;
    }
    steps.set(c.record, step);
  }
  return [...steps.values()];
}

/** What was refused of one record: what the person had written, to be mended and sent again. */
export interface Draft extends Step {
  /** Fields whose values the person may no longer see: they cannot be sent again. */
  withheld: string[];
}

/** What the refused mutations of an attention wanted. */
export interface Refused {
  /** In the order of recording; later values over earlier ones. */
  drafts: Draft[];
  /** Goes on by itself once the creation of the attention's record is accepted. */
  waiting: Draft[];
  /** Some of it is bytes that nobody can read. */
  bytes: boolean;
}

/**
 * Collects what was refused. root is the attention's record: where its creation was refused, the last try of it counts,
 * and all else in the attention waits for it. What was changed of the record since that try stands in its form: the
 * creation is sent later than those changes took place, so without them it would win over them.
 */
export function refusedOf(items: readonly Item[], root: string, schema: ReadonlyMap<string, Kind>, find: Find): Refused {
  const refused = items.filter((it) => !it.conflict);
  const creations = refused.filter((it) => it.action === "create" && it.record === root);
  const tries = new Set(creations.map((it) => it.mutation));
  const lastOne = creations.at(-1);
  if (!lastOne) return { drafts: fold(refused, schema, find), waiting: [], bytes: refused.some((it) => it.bytes) };
  const last = refused.filter((it) => it.mutation === lastOne.mutation);
  const made = new Set(last.filter((it) => it.action === "create").map((it) => it.record));
  const since = refused.slice(refused.lastIndexOf(lastOne)).filter((it) => !tries.has(it.mutation) && it.action === "patch" && made.has(it.record));
  // What is added to a counter is added when its own mutation goes on; twice would be wrong.
  const mine = [...last, ...since.filter((it) => !(isObject(it.value) && "by" in it.value))];
  const waits = refused.filter((it) => !tries.has(it.mutation) && !(it.action === "patch" && made.has(it.record)));
  return { drafts: fold(mine, schema, find), waiting: fold(waits, schema, find), bytes: refused.some((it) => it.bytes) };
}

function fold(items: readonly Item[], schema: ReadonlyMap<string, Kind>, find: Find): Draft[] {
  const drafts = new Map<string, Draft>();
  const of = (it: Item, action: Draft["action"], more = ""): Draft => {
    const key = it.record + more;
    const d = drafts.get(key) ?? { ...stepOf(action, it), withheld: [] };
    if (action === "create") d.action = action;
    drafts.set(key, d);
    return d;
  };
  for (const it of items) {
    if (it.bytes) continue;
    if (it.action === "delete") {
      of(it, "delete", " delete");
    } else if (it.action === "command") {
      const v = isObject(it.value) ? it.value : {};
      const d = of(it, "command", ` ${text(v.command)}`);
      d.command = text(v.command);
      d.args = isObject(v.args) ? v.args : {};
      if (it.withheld) d.withheld = [""];
    } else {
      write(of(it, it.action === "create" ? "create" : "patch"), it, schema, find);
    }
  }
  return [...drafts.values()];
}

/** Writes a refused value into a draft. Of sets and counters the form shows the whole value as it would become. */
function write(d: Draft, it: Item, schema: ReadonlyMap<string, Kind>, find: Find): void {
  if (it.field === "") return; // a creation without fields, or one that is withheld as a whole
  if (it.withheld) {
    if (!d.withheld.includes(it.field)) d.withheld.push(it.field);
    return;
  }
  const info = schema.get(it.kind)?.fields.find((f) => f.name === it.field);
  if (info?.type === "set" && isObject(it.value)) {
    const { add, remove } = it.value;
    const now = texts(it.field in d.fields ? d.fields[it.field] : find(it.kind, it.record)?.fields[it.field]);
    d.fields[it.field] = [...new Set([...now, ...texts(add)])].filter((e) => !texts(remove).includes(e)).sort();
  } else if (info?.merge === "counter" && isObject(it.value) && typeof it.value.by === "number") {
    d.edits.push({ field: it.field, by: it.value.by });
  } else {
    d.fields[it.field] = it.value;
  }
}

/**
 * The step that sends a draft again with the values of its form. Sets become what was added and removed, compared with
 * what stands; of a change, what stands already is left out.
 */
export function resend(d: Draft, form: Fields, schema: ReadonlyMap<string, Kind>, find: Find): Step {
  const out: Step = { ...d, fields: {}, edits: [...d.edits] };
  const standing = find(d.kind, d.record)?.fields ?? {};
  for (const [name, value] of Object.entries(form)) {
    const info = schema.get(d.kind)?.fields.find((f) => f.name === name);
    if (d.action === "create") {
      if (value !== null && value !== "" && value !== undefined) out.fields[name] = value;
    } else if (info?.type === "set") {
      const was = texts(standing[name]);
      const will = texts(value);
      const add = will.filter((e) => !was.includes(e));
      const remove = was.filter((e) => !will.includes(e));
      if (add.length || remove.length) out.edits.push({ field: name, add, remove });
    } else if (!same(value === "" ? null : value, standing[name] ?? null)) {
      out.fields[name] = value === "" ? null : value ?? null;
    }
  }
  return out;
}

/** Tells whether a step does anything. */
export function does(s: Step): boolean {
  return s.action !== "patch" || Object.keys(s.fields).length > 0 || s.edits.length > 0;
}

/** Puts the steps that do anything into a mutation. */
export function record(batch: BatchApi, steps: readonly Step[]): void {
  for (const s of steps) {
    if (!does(s)) continue;
    if (s.action === "delete") batch.delete(s.kind, s.record);
    else if (s.action === "command") batch.command(s.kind, s.record, s.command, s.args);
    else if (s.action === "patch") batch.patch(s.kind, s.record, s.fields, s.edits);
    else batch.createAs(s.kind, s.record, s.fields); // under its own id: what waits for it goes on
  }
}
