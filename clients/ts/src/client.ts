export type { Core } from "./core.js";
// The parts of others, as this file and its neighbours call them:
//   repair.ts  getRepair(tx): RepairState | undefined · beginRepair(tx, salvage) · repairStep(core, signal): Promise<Step> (Step, noStep: sync.ts)
//   recover.ts readOutbox(row): boolean · envelop(core, tx, key, row, last, next): MutationRow · fillGap(core, expected): Promise<number>
//              takeRestored(tx, order): number · renumber(tx, next) · wipe(tx, salvaged): boolean · kept(core): Kept[]
//   media.ts   attach(core, kind, bytes, contentType, fields) · media(core) · forgetMedia(core, record) · upload(core, signal) · open(core, record, signal)
//              release(core): Promise<number> · sweepMedia(tx) · mediaBytes(tx): number
//   run.ts     run(core, signal) · poke(core)         schema.ts  schema(core) · fetchSchema(core, signal)
//   watch.ts   watch(core, kind, query, fn) · watchStatus(core, fn)
// and what these find here:
//   mutation.ts recordIn(core, tx, ops: OpRow[]): string · createOp(kind, id, fields): OpRow      outbox.ts hide(tx, order, m) · hideSettled(tx, seq, nowMs, list) · nothingHappened(status)
//   page.ts    narrow(tx, at, narrowed) · refill(tx, at) · standing(tx, key)                    sync.ts   sync(core, signal) · wait(core, signal)
//   show.ts    get, list, show(core, kind, id, standing, ops) · ownOps(tx, kind, prefix) · status(core)
