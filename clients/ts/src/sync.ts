import { defaultPageBytes, later, minPageBytes, reading, type Core } from "./core.js";
import { SatchelError } from "./errors.js";
import { SyncService, type SyncResponse } from "./gen/satchel/v1/sync_pb.js";
import { release } from "./files.js";
import { noteClock, number, settle, trimLog, type Sending } from "./outbox.js";
import { nothingNew, refill, takePage, taking, type TakeAway, type Taking } from "./page.js";
import { base64Decode, base64Encode, getPlace, getRepair, maxOf, putPlace } from "./rows.js";
import { noStep, sum, type Step } from "./step.js";
import type { Tx, U64 } from "./store.js";
import type { Result } from "./types.js";

/** Bounds of one sync. */
const maxRounds = 20_000; // calls; a first sync of a very full device takes some thousands
const maxForks = 3; // new device ids; more means that the server does not keep its word
const maxRepairs = 3;
const maxOrders = 20; // answers that were only orders

/**
 * Sends what is pending and brings what changed, in as many calls as it takes, until the device is at a checkpoint and
 * nothing more can be sent. A call that runs out of time is tried with half as much. When it rejects, everything is kept, and
 * what calls before did stays done. When what the device holds is not what it should hold, it is repaired on the way;
 * mutations go up beside that.
 */
export function sync(core: Core, signal?: AbortSignal): Promise<Result> {
  return alone(core, signal, async (signal) => {
    let total = noStep();
    let refilled = false;
    for (let i = 0; i < maxRounds; i++) {
      let r: Step;
      try {
        r = await step(core, signal);
      } catch (e) {
        if (!(e instanceof SatchelError)) throw e;
        if (e.less && sendLess(core)) continue;
        if (e.reason !== "MALFORMED_CURSOR" || refilled) throw e;
        refilled = true;
        await core.update("refill", (tx) => {
          const at = getPlace(tx);
          refill(tx, at);
          putPlace(tx, at);
        });
        continue;
      }
      sendMore(core);
      total = sum(total, r);
      const progress = r.settled.length + r.forked + r.restored + r.skipped > 0 || r.advanced;
      if (total.forked > maxForks) throw refused("the server gave this device one new id after another");
      if (total.repaired > maxRepairs || total.ordered > maxOrders) throw refused("repaired several times, and the server asks for more");
      if (!r.more && (r.pending === 0 || !progress)) return total;
      if (!progress) throw refused("the server says that there is more, and its cursor does not move");
    }
    throw refused(`not in step after ${maxRounds} calls`);
  });
}

function refused(why: string): SatchelError {
  return new SatchelError("refused", why + "; everything is kept, sync again later");
}

/** Exactly one call (and a Refresh, when it must): of Sync, or of Repair while a repair is under way. */
export function syncOnce(core: Core, signal?: AbortSignal): Promise<Result> {
  return alone(core, signal, (signal) => step(core, signal));
}

/** One sync at a time among all tabs, which Status shows. */
function alone(core: Core, signal: AbortSignal | undefined, fn: (signal: AbortSignal) => Promise<Step>): Promise<Result> {
  const { memory } = core;
  return core.exclusive("sync", signal, async (signal) => {
    memory.syncing = true;
    core.changed();
    try {
      const { advanced: _, ordered: __, ...result } = await fn(signal);
      memory.error = undefined;
      return result;
    } catch (e) {
      if (e instanceof SatchelError && e.code !== "canceled") memory.error = { code: e.code, reason: e.reason, message: e.userMessage || e.message };
      throw e;
    } finally {
      memory.syncing = false;
      core.changed();
    }
  });
}

/**
 * Makes the next call. During a repair, calls that send mutations and steps of the repair take turns, so that neither waits
 * for the other when it fails.
 */
async function step(core: Core, signal?: AbortSignal): Promise<Step> {
  const { memory } = core;
  const [repairing, pending] = core.view((tx) => [!!getRepair(tx), tx.count("outbox")]);
  if (!repairing) return round(core, false, signal);
  memory.uploaded = !memory.uploaded && pending > 0;
  // The repair goes on.
  if (memory.uploaded) return { ...(await round(core, true, signal)), more: true, advanced: true };
  const { repairStep } = await later(() => import("./repair.js"));
  return { ...(await repairStep(core, signal)), pending };
}

/**
 * The round trip. Each of its steps is one local transaction, after which it may be killed: numbers are durable before they
 * are sent, verdicts before the page that they belong to, and the cursor moves with the page.
 */
async function round(core: Core, noPage: boolean, signal?: AbortSignal): Promise<Step> {
  const s = await number(core, noPage);
  core.config.step("call");
  const res = await core.call(SyncService.method.sync, s.request, signal);
  const clock = reading(core);
  core.config.step("answer");
  const expected = Number(res.expectedNumber);
  const gap = expected > 0 && expected < (s.mutations[0]?.number ?? 0);
  const rare = res.directives.length > 0 || gap ? await later(() => import("./orders.js")) : undefined;
  const p = res.page;
  const away = p && p.droppedBuckets.length + p.droppedKinds.length + p.narrowed.length > 0 ? await later(() => import("./away.js")) : undefined;
  const [r, orders] = await core.update("verdicts", (tx) => {
    const r = takeAnswer(tx, s, res, clock);
    return [r, rare?.obey(tx, res.directives, r)];
  });
  if (orders?.wiped) throw new SatchelError("wiped", "the server ordered this device to delete its data, and that was done");
  if (orders?.instead) return { ...r, more: true, advanced: true, ordered: 1 };
  if (!noPage) await takeAnswersPage(core, s, res, r, away?.takeAway);
  if (rare && gap) {
    r.skipped = await rare.fillGap(core, expected);
    r.advanced = true;
  }
  return r;
}

/** Stores all of an answer but its page. */
function takeAnswer(tx: Tx, s: Sending, res: SyncResponse, clock: { boot: string; ms: number }): Step {
  const r = { ...noStep(s.pending), calls: 1, sent: s.mutations.length };
  const serverMs = Number(res.serverTimeMs);
  const keys = new Map(s.keys);
  let seen: U64 = "0";
  for (const v of res.verdicts) {
    const key = keys.get(Number(v.number));
    if (key === undefined || v.status === 0) continue; // not one that this call asked about
    keys.delete(Number(v.number));
    seen = maxOf(seen, String(v.seq));
    const settled = settle(tx, key, serverMs, v);
    if (settled) r.settled.push(settled);
    else r.advanced = true;
    r.pending--;
  }
  if (seen !== "0") {
    const at = getPlace(tx);
    putPlace(tx, { ...at, seen: maxOf(at.seen, seen) });
  }
  if (r.settled.length > 0) trimLog(tx, serverMs);
  noteClock(tx, clock.boot, clock.ms, serverMs);
  return r;
}

/** Stores the page, or what its absence says. */
async function takeAnswersPage(core: Core, s: Sending, res: SyncResponse, r: Step, takeAway: TakeAway | undefined): Promise<void> {
  const p = res.page;
  const taken: Taking | undefined = await core.update(p ? "page" : "no-page", (tx) => {
    const t = taking(tx, Number(res.serverTimeMs), !core.memory.counted);
    if (t.at.cursor !== s.cursor || getRepair(tx)) return undefined; // this tab had lost its turn, as when it slept: another went on
    if (!p?.more) t.at.syncedMs = core.config.now();
    if (p) takePage(t, p, takeAway);
    else nothingNew(t);
    return t;
  });
  if (!taken) r.more = r.advanced = true;
  if (!p || !taken) return;
  core.memory.counted ||= taken.counted;
  r.changes = p.changes.length;
  r.checkpoint = p.checkpoint && !taken.broken;
  r.more = p.more;
  r.settledPriority = p.settledPriority;
  r.advanced ||= p.cursor.length > 0 && base64Encode(p.cursor) !== s.cursor;
  if (taken.differs) core.config.log("differs", { then: taken.differs });
  if (taken.differs === "repair" || taken.differs === "refill") r.more = r.advanced = true;
  if (r.checkpoint) await release(core);
}

/** Halves what a call carries, and tells whether that was possible. */
function sendLess({ memory }: Core): boolean {
  const budget = memory.budget || defaultPageBytes;
  if (memory.batch === 1 && budget <= minPageBytes) return false;
  memory.batch = Math.max(1, memory.batch >> 1);
  memory.budget = Math.max(Math.min(minPageBytes, budget), budget >> 1);
  return true;
}

/** Doubles it again, up to the limits. */
function sendMore({ memory, config }: Core): void {
  memory.batch = Math.min(config.maxBatch, memory.batch * 2);
  if (memory.budget === config.maxBytes) return;
  memory.budget *= 2;
  if (memory.budget >= (config.maxBytes || defaultPageBytes)) memory.budget = config.maxBytes;
}

/**
 * Resolves true as soon as there is something to pull, false when the server's time ran out: wait again. A device that has no
 * cursor yet has something to pull.
 */
export async function wait(core: Core, signal?: AbortSignal): Promise<boolean> {
  const cursor = core.view(getPlace).cursor;
  if (!cursor) return true;
  const res = await core.call(SyncService.method.wait, { cursor: base64Decode(cursor) }, signal, Math.max(core.config.timeoutMs, 25_000) + 10_000);
  return res.wake;
}
