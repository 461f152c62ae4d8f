import { base64Encode } from "@bufbuild/protobuf/wire";
import { protoInt64, type MessageInitShape } from "@bufbuild/protobuf";
import { isUuid, maxBatch, maxBatchBytes, uuidBytes, uuidOf, type Core } from "./core.js";
import { narrow } from "./away.js";
import { SatchelError } from "./errors.js";
import { SyncService, type ChangeSchema, type RecordRevs, type RepairPlan, type RepairRequestSchema, type RepairResponse } from "./gen/satchel/v1/sync_pb.js";
import { refill, standing } from "./page.js";
import { changeRow, doubtKinds, getPlace, getRepair, hashOf, looksOf, maxOf, putPlace, putShown, recordKey, restartRepair, rows, some, u64, type Looks, type Place, type RepairState, type Tally } from "./rows.js";
import { compareU64, type ChangeRow, type ReadTx, type Tx, type U64 } from "./store.js";
import { noStep, type Step } from "./step.js";

// A repair (S17) compares what the device holds with what it should hold and brings only what differs. It is a list of
// things to do in the table "repair", made by the answer to start; each answer after it takes some off, in one local
// transaction, so that a kill at any step goes on behind the last answer. What it finds out is staged, and shown together
// at the next checkpoint. The outbox and the overlay are not touched.

/** One kind in one bucket, under "b/" and itself: it differs. after: the last record compared; "" = none yet. */
interface Shelf {
  bucket: U64;
  kind: string;
  after: string;
}

/** Under "r/" and a record: its row is to be asked for. What is under "s/" is a ChangeRow, to be sent up. */
interface Wanted {
  kind: string;
}

// Bounds of a repair's calls.
const maxRepairRows = 500;
const maxSalvageRows = 200;
const maxRestarts = 3;

/** What the next call asks. keys are those of the table "repair" that it is about. */
interface Ask {
  st: RepairState;
  step: Exclude<MessageInitShape<typeof RepairRequestSchema>["step"], undefined>;
  keys: string[];
}

/** Makes one call of the repair. */
export async function repairStep(core: Core, signal?: AbortSignal): Promise<Step> {
  const ask = core.view((tx) => nextAsk(core, tx));
  if (!ask) return noStep();
  core.config.step("call");
  let res: RepairResponse;
  try {
    res = await core.call(SyncService.method.repair, { profile: core.config.profile, step: ask.step }, signal);
  } catch (e) {
    await repairRefused(core, ask, e);
    throw e;
  }
  core.config.step("answer");
  const finished = await core.update("repair", (tx) => {
    // Where this tab had lost its turn, as when it slept, another one went on.
    if (JSON.stringify(getRepair(tx)) !== JSON.stringify(ask.st) || !ask.keys.every((key) => tx.get("repair", key))) return false;
    const t: Taker = { tx, at: getPlace(tx), st: { ...ask.st } };
    if (ask.step.case === "start") takePlan(t, res.plan);
    else if (ask.step.case === "revs") takeRevs(t, ask.keys[0] ?? "", res.revs);
    else if (ask.step.case === "rows") takeRows(t, ask.keys, res);
    else deleteAll(tx, ask.keys);
    return end(t);
  });
  if (finished) core.memory.single = false;
  return { ...noStep(), calls: 1, more: true, advanced: true, repaired: finished ? 1 : 0 };
}

function nextAsk(core: Core, tx: ReadTx): Ask | undefined {
  const st = getRepair(tx);
  if (!st) return undefined;
  if (!st.planned) return { st, step: { case: "start", value: formsToStart(getPlace(tx)) }, keys: [] };
  const shelf = rows(tx, "repair", "b/")[0];
  if (shelf) {
    const { bucket, kind, after } = shelf[1] as Shelf;
    return { st, step: { case: "revs", value: { bucket: u64(bucket), kind, after: uuidBytes(after) } }, keys: [shelf[0]] };
  }
  const keys: string[] = [];
  const batch = core.memory.batch;
  const most = batch < maxBatch ? batch : maxRepairRows; // less when a call ran out of time
  tx.scan("repair", "r/", (key) => keys.push(key) < most);
  if (keys.length > 0) {
    const records = new Uint8Array(16 * keys.length);
    keys.forEach((key, i) => records.set(uuidBytes(key.slice(2)), 16 * i));
    return { st, step: { case: "rows", value: { records } }, keys };
  }
  const mostSalvage = core.memory.single ? 1 : Math.min(maxSalvageRows, batch);
  const salvage: MessageInitShape<typeof ChangeSchema>[] = [];
  let size = 0;
  tx.scan("repair", "s/", (key, row) => {
    size += 3 * JSON.stringify(row).length; // at least its bytes on the wire
    if (keys.length === mostSalvage || (keys.length > 0 && size > maxBatchBytes)) return false;
    keys.push(key);
    salvage.push(toChange(row as ChangeRow));
    return true;
  });
  return { st, step: { case: "salvage", value: { rows: salvage } }, keys };
}

/** The forms, with one that no kind has for those that are unsure: all their rows are asked for. */
function formsToStart(at: Place): { forms?: { forms: { kind: string; form: bigint }[] } } {
  if (!at.forms && at.unsure.length === 0) return {};
  const looks: Looks = { ...at.forms };
  for (const kind of at.unsure) looks[kind] = "18446744073709551615";
  return { forms: { forms: Object.entries(looks).map(([kind, form]) => ({ kind, form: u64(form) })) } };
}

function toChange(ch: ChangeRow): MessageInitShape<typeof ChangeSchema> {
  return { recordId: ch.id, kind: ch.kind, rev: u64(ch.rev), entered: ch.entered.map(u64), fields: ch.fields, authorId: ch.author, eventMs: protoInt64.parse(String(ch.eventMs)) };
}

/**
 * Goes on after a call that failed. What may succeed another time is left as it is. What is refused for good must not keep
 * the device from pulling: rows that the server does not take stay here among what is kept; any other step begins anew,
 * and after some times the cursor is given up.
 */
async function repairRefused(core: Core, { st, step, keys }: Ask, failed: unknown): Promise<void> {
  if (!(failed instanceof SatchelError) || !failed.final) return;
  if (step.case === "salvage" && keys.length > 1) {
    core.memory.single = true;
    return;
  }
  core.config.log(step.case === "salvage" ? "kept" : "restart", { restarts: st.restarts, reason: failed.reason });
  await core.update("repair", (tx) => {
    if (step.case === "salvage") {
      for (const key of keys) tx.put("kept", "row/" + key.slice(2), tx.get("repair", key));
      deleteAll(tx, keys);
      return;
    }
    const restarts = st.restarts + 1;
    if (restarts < maxRestarts || st.salvage) {
      restartRepair(tx, { salvage: st.salvage, restarts });
      return;
    }
    tx.clear("repair");
    tx.delete("meta", "repair");
    const at = getPlace(tx);
    refill(tx, at);
    putPlace(tx, at);
  });
}

function deleteAll(tx: Tx, keys: string[]): void {
  for (const key of keys) tx.delete("repair", key);
}

/** Takes an answer within one transaction. */
interface Taker {
  tx: Tx;
  at: Place;
  st: RepairState;
}

/** Stores the state, or, with nothing left to do, makes the plan's cursor the device's, and tells whether it did. */
function end({ tx, at, st }: Taker): boolean {
  if (!some(tx, "repair") && st.salvage && at.refill && !st.swept) {
    st.swept = true;
    sweep(tx, st);
  }
  const finished = !some(tx, "repair");
  if (finished) {
    Object.assign(at, { cursor: st.cursor, forms: st.forms, complete: false, repaired: maxOf(st.seq, "1") });
    if (at.doubt === "sure") at.doubt = "repaired";
    tx.delete("meta", "repair");
  } else {
    tx.put("meta", "repair", st);
  }
  putPlace(tx, at);
  return finished;
}

/** Salvages the rows that are shown without a bucket since a cursor was given up, and did not come again. */
function sweep(tx: Tx, st: RepairState): void {
  tx.scan("record", "", (key, own) => {
    if (own.entered.length === 0 && !tx.get("staging", key)?.entered.length) salvage(tx, st, own);
  });
}

/** Takes away at once what is no longer this person's, and notes where the device differs from the plan. */
function takePlan({ tx, at, st }: Taker, plan: RepairPlan | undefined): void {
  if (!plan?.cursor.length || !plan.forms) throw strange("no plan for a repair");
  Object.assign(st, { planned: true, cursor: base64Encode(plan.cursor), seq: String(plan.seq), forms: looksOf(plan.forms) });
  // What was staged since the last checkpoint is compared anew with all else.
  tx.clear("staging");
  narrow(tx, at, plan.narrowed);
  doubtKinds(at, [...plan.staleKinds, ...plan.narrowed.map((n) => n.kind)]); // until what is staged of them is shown
  const should = new Map<string, Tally>();
  for (const { bucket, kind, digest } of plan.buckets) {
    should.set(`${bucket}/${kind}`, { count: Number(digest?.count ?? 0), sum: Number(digest?.sum ?? 0) }); // exact: see Tally
  }
  const have = new Map<string, Tally>();
  const stale = new Set(plan.staleKinds);
  tx.scan("record", "", (key, was) => {
    if (was.entered.length === 0) {
      at.refill = true; // shown until the cursor that was given up is replaced
      return;
    }
    const entered = was.entered.filter((bucket) => should.has(`${bucket}/${was.kind}`));
    if (entered.length === 0) {
      salvage(tx, st, was);
      putShown(tx, at, key, was, undefined);
      return;
    }
    if (entered.length < was.entered.length) putShown(tx, at, key, was, { ...was, entered });
    const hash = hashOf(was.id, was.rev);
    for (const bucket of entered) {
      const shelf = `${bucket}/${was.kind}`;
      const sum = have.get(shelf);
      if (sum) {
        sum.count++;
        sum.sum += hash;
      } else {
        have.set(shelf, { count: 1, sum: hash });
      }
    }
    if (stale.has(was.kind)) want(tx, was.id, was.kind);
  });
  for (const [shelf, sum] of should) {
    const own = have.get(shelf) ?? { count: 0, sum: 0 };
    if (own.count === sum.count && own.sum === sum.sum) continue;
    const slash = shelf.indexOf("/");
    const todo: Shelf = { bucket: shelf.slice(0, slash), kind: shelf.slice(slash + 1), after: "" };
    tx.put("repair", "b/" + shelf, todo);
  }
}

function want(tx: Tx, id: string, kind: string): void {
  const todo: Wanted = { kind };
  tx.put("repair", "r/" + id, todo);
}

/** Keeps a row that the server may have lost, to be sent up before the repair ends. */
function salvage(tx: Tx, st: RepairState, own: ChangeRow): void {
  if (st.salvage && own.fields !== "") tx.put("repair", "s/" + own.id, own);
}

/** Compares the records of one kind in one bucket behind the one named after. */
function takeRevs({ tx, st }: Taker, key: string, revs: RecordRevs | undefined): void {
  const todo = tx.get("repair", key) as Shelf | undefined;
  if (!todo) return;
  const { bucket, kind, after } = todo;
  const bytes = revs?.records ?? new Uint8Array();
  const theirs = new Map<string, U64>();
  revs?.revs.forEach((rev, i) => theirs.set(uuidOf(bytes.subarray(16 * i, 16 * i + 16)), String(rev)));
  const last = revs?.more ? ([...theirs.keys()].pop() ?? "") : undefined;
  if (bytes.length !== 16 * (revs?.revs.length ?? 0) || (last !== undefined && last <= after)) throw strange("revs of a bucket that cannot be read");
  tx.scan("record", kind + "/", (key, { id }) => {
    if (last !== undefined && id > last) return false;
    const now = standing(tx, key); // as the buckets compared before have left it
    if (!now) return true;
    const rev = theirs.get(id);
    theirs.delete(id);
    const has = now.entered.includes(bucket);
    if (rev !== undefined && rev !== now.rev) want(tx, id, kind);
    else if (rev !== undefined && !has) stageBuckets(tx, key, now, [...now.entered, bucket]);
    else if (rev === undefined && has) {
      const rest = now.entered.filter((b) => b !== bucket);
      if (rest.length === 0) salvage(tx, st, now);
      stageBuckets(tx, key, now, rest);
    }
    return true;
  }, after && recordKey(kind, after));
  for (const id of theirs.keys()) want(tx, id, kind);
  if (last !== undefined) tx.put("repair", key, { ...todo, after: last });
  else tx.delete("repair", key);
}

/** Stages a row that stands right in other buckets. */
function stageBuckets(tx: Tx, key: string, now: ChangeRow, buckets: U64[]): void {
  // A record that came back by another bucket compared later is asked for whole.
  tx.put("staging", key, buckets.length > 0 ? { ...now, entered: buckets.sort(compareU64) } : gone(now.id, now.kind));
}

function gone(id: string, kind: string): ChangeRow {
  return { id, kind, rev: "0", entered: [], fields: "", author: "", eventMs: 0 };
}

/** Stages the rows asked for, exactly as they came; what did not come will be gone. */
function takeRows({ tx, st }: Taker, keys: string[], res: RepairResponse): void {
  if (res.answered === 0 || res.answered > keys.length) throw strange(`${res.answered} of ${keys.length} rows`);
  const came = new Map<string, ChangeRow>();
  for (const ch of res.changes) {
    if (!isUuid(ch.recordId)) throw strange("a row without a record");
    came.set(ch.recordId, changeRow(ch));
  }
  const answered = keys.slice(0, res.answered);
  for (const todo of answered) {
    const id = todo.slice(2);
    const { kind } = tx.get("repair", todo) as Wanted;
    const key = recordKey(kind, id);
    const own = tx.get("record", key);
    const ch = came.get(id);
    if (own && (!ch || lost(own.rev, ch.rev))) salvage(tx, st, own);
    const { deleted, mergedInto } = ch ?? {};
    const next = ch?.kind === kind && !deleted ? ch : { ...gone(id, kind), ...(deleted && { deleted }), ...(mergedInto && { mergedInto }) };
    tx.put("staging", key, next);
  }
  deleteAll(tx, answered);
}

/**
 * Tells whether the server may not know the state that the device holds: it is newer than the server's, or the record was
 * changed there since the database was restored, which begins a new epoch, so that the revs do not compare.
 */
function lost(own: U64, server: U64): boolean {
  const epoch = (rev: U64) => Math.floor(Number(rev) / 2 ** 40); // exact as long as nobody restores 8,192 times
  return compareU64(own, server) > 0 || epoch(own) < epoch(server);
}

function strange(what: string): SatchelError {
  return new SatchelError("unavailable", "the server gave " + what);
}
