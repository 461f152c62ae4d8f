import { joined, type Core } from "./core.js";
import { SatchelError, type Code } from "./errors.js";
import { upload } from "./media.js";
import { fetchSchema, schemaIsOld } from "./schema.js";
import type { Touched } from "./store.js";
import { sync, wait } from "./sync.js";

/** What only the app can mend. */
const finals: readonly Code[] = ["sign_in_again", "device_revoked", "upgrade_app", "wiped", "closed"];

/** No pause is longer, whoever asks. */
const dayMs = 24 * 3600 * 1000;

/** Has run try again at once. */
export function poke(core: Core): void {
  for (const wake of [...core.pokes]) wake();
}

/** A tab's time as the one that works. */
interface Shift {
  /** The page is hidden, and may soon be frozen: whoever waits shall go on. */
  over: boolean;
}

/**
 * Keeps the device in step until the signal, and resolves then: syncs when the server says that there is something to pull
 * and when something was recorded, in any tab, and uploads media beside that. After a failure it pauses, with jitter, longer
 * each time. One tab of a store does the work; a page that is hidden lets another have it.
 */
export async function run(core: Core, signal: AbortSignal): Promise<void> {
  const shift: Shift = { over: false };
  const deaf = listen(core, shift);
  try {
    while (!signal.aborted) {
      await core.exclusive("run", signal, (stop) => {
        shift.over = false;
        return work(core, stop, shift);
      });
    }
  } catch (e) {
    if (!signal.aborted) throw e;
  } finally {
    deaf();
  }
}

/** Hears what the platform says, where it says anything. */
function listen(core: Core, shift: Shift): () => void {
  if (typeof window === "undefined" || typeof document === "undefined") return () => undefined;
  const online = () => poke(core);
  const seen = () => {
    shift.over = document.visibilityState === "hidden";
    poke(core);
  };
  window.addEventListener("online", online);
  document.addEventListener("visibilitychange", seen);
  return () => {
    window.removeEventListener("online", online);
    document.removeEventListener("visibilitychange", seen);
  };
}

/** Syncs and uploads until the shift is over. The first part that ends ends the other. */
async function work(core: Core, signal: AbortSignal, shift: Shift): Promise<void> {
  const stop = joined(signal);
  const failed: unknown[] = [];
  const part = async (fn: () => Promise<void>) => {
    try {
      await fn();
    } catch (e) {
      if (!stop.signal.aborted) failed.push(e);
    }
    stop.abort();
  };
  const uploads = bell();
  await Promise.all([part(() => runSync(core, stop.signal, shift, uploads)), part(() => runUpload(core, stop.signal, uploads))]);
  stop.end();
  if (failed.length > 0) throw failed[0];
}

async function runSync(core: Core, stop: AbortSignal, shift: Shift, uploads: Bell): Promise<void> {
  await refreshSchema(core, stop);
  let failures = 0;
  let inVain = false; // the server woke the device, and there was nothing
  for (let woken = false; !stop.aborted && !shift.over; ) {
    try {
      const r = await sync(core, stop);
      uploads.ring(); // media that failed before may get through now, and new ones have their record
      await refreshSchema(core, stop);
      if (r.pending > 0) throw new SatchelError("unavailable", "mutations were sent and have no verdict yet");
      failures = 0;
      const again = inVain;
      inVain = woken && r.changes === 0 && r.settled.length === 0;
      if (again && inVain) await pause(core, stop, "sync", 2, idleWake());
      woken = await newsOrRecorded(core, stop);
    } catch (e) {
      await pause(core, stop, "sync", ++failures, e);
    }
  }
}

/** Why run pauses although no call failed: it must not spin. */
function idleWake(): SatchelError {
  return new SatchelError("unavailable", "the server woke the device for nothing");
}

async function runUpload(core: Core, stop: AbortSignal, uploads: Bell): Promise<void> {
  for (let failures = 0; ; ) {
    if (failures === 0) await uploads.heard(stop);
    if (stop.aborted) return;
    try {
      await upload(core, stop);
      failures = 0;
    } catch (e) {
      await pause(core, stop, "upload", ++failures, e);
    }
  }
}

/** Without the schema an app shows less; nothing waits for it. */
async function refreshSchema(core: Core, stop: AbortSignal): Promise<void> {
  try {
    if (schemaIsOld(core)) await fetchSchema(core, stop);
  } catch (e) {
    core.config.log("schema", { error: String(e) });
  }
}

/** Ends when there is something to pull or to send, and tells whether it was the server that said so. */
async function newsOrRecorded(core: Core, stop: AbortSignal): Promise<boolean> {
  const waiting = new AbortController();
  let woken = false;
  await until(stop, (done, fail) => {
    const recorded = ({ all, keys }: Touched) => {
      const touched = [...(keys.get("outbox") ?? [])];
      if (core.view((tx) => (all ? tx.count("outbox") > 0 : touched.some((key) => tx.get("outbox", key))))) done();
    };
    const deaf = core.store.onCommit(recorded);
    core.pokes.add(done);
    recorded({ all: true, keys: new Map() }); // while the sync came to its end
    news(core, waiting.signal).then(() => {
      woken = true;
      done();
    }, fail);
    return () => {
      deaf();
      core.pokes.delete(done);
      waiting.abort();
    };
  });
  return woken;
}

/** Ends when there is something to pull. */
async function news(core: Core, signal: AbortSignal): Promise<void> {
  for (;;) {
    const asked = Date.now();
    if (await wait(core, signal)) return;
    if (Date.now() - asked < core.config.retryMinMs) throw idleWake(); // it should have taken 25 seconds: never spin
  }
}

/** Waits before the next try, or throws the error when trying again is of no use. */
async function pause(core: Core, stop: AbortSignal, what: string, failures: number, e: unknown): Promise<void> {
  if (stop.aborted) return;
  if (e instanceof SatchelError && finals.includes(e.code)) throw e;
  const { retryMinMs, retryMaxMs, log } = core.config;
  const limit = Math.min(retryMaxMs, retryMinMs * 2 ** Math.min(failures - 1, 30));
  const least = Math.min(e instanceof SatchelError ? e.retryAfterMs : 0, dayMs); // as the server asked: no poke shortens it
  const most = Math.min(Math.max(least, (limit * (1 + Math.random())) / 2), dayMs);
  log("pause", { what, failures, ms: Math.round(most), error: String(e) });
  await until(stop, (done) => {
    let due = least === 0;
    let poked = false;
    const poke = () => {
      poked = true;
      if (due) done();
    };
    const timers = [
      setTimeout(() => {
        due = true;
        if (poked) done();
      }, least),
      setTimeout(done, most),
    ];
    core.pokes.add(poke);
    return () => {
      timers.forEach(clearTimeout);
      core.pokes.delete(poke);
    };
  });
}

/** Waits for done, fail or the signal. begin starts what calls them, and gives what ends it. */
async function until(signal: AbortSignal, begin: (done: () => void, fail: (e: unknown) => void) => () => void): Promise<void> {
  let end = () => {};
  let abort = () => {};
  try {
    await new Promise<void>((resolve, reject) => {
      abort = resolve;
      signal.addEventListener("abort", abort);
      if (signal.aborted) resolve();
      else end = begin(resolve, reject);
    });
  } finally {
    signal.removeEventListener("abort", abort);
    end();
  }
}

/** Wakes the loop that listens, now or when it next does. */
interface Bell {
  ring(): void;
  heard(stop: AbortSignal): Promise<void>;
}

function bell(): Bell {
  let rung = false;
  let wake = () => {};
  return {
    ring() {
      rung = true;
      wake();
    },
    async heard(stop) {
      await until(stop, (done) => {
        wake = done;
        if (rung) done();
        return () => (wake = () => {});
      });
      rung = false;
    },
  };
}
