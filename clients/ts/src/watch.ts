import type { Core, Live, Watcher } from "./core.js";
import { idOf, recordKey } from "./rows.js";
import { byId, list, ownOps, show, status, survivor } from "./show.js";
import type { Touched } from "./store.js";
import type { Query, Rec, Status } from "./types.js";

/** A record that is shown otherwise: undefined = not. */
interface Step {
  was: Rec | undefined;
  now: Rec | undefined;
}

/** See ClientApi.watch. A change costs by what it touched, beside one copy of the list. */
export function watch(core: Core, kind: string, query: Query, fn: (records: Rec[]) => void): () => void {
  const live = core.memory.live.get(kind) ?? begin(core, kind);
  refresh(core, kind, live); // so that all who watch stand at the same commit
  const { where, order = byId } = query;
  const w: Watcher = { query, order: (a, b) => order(a, b) || byId(a, b), fn, matches: [], due: false };
  w.matches = [...live.recs.values()].filter((r) => !where || where(r)).sort(w.order);
  live.watchers.add(w);
  fn(shown(w));
  return () => void live.watchers.delete(w);
}

/** See ClientApi.watchStatus. */
export function watchStatus(core: Core, fn: (status: Status) => void): () => void {
  let told = "";
  let ended = false;
  const tell = (): void => {
    if (ended) return;
    const now = status(core);
    const text = JSON.stringify(now);
    if (text !== told) {
      told = text;
      fn(now);
    }
  };
  const later = soon(core, tell);
  core.listeners.add(later);
  const deaf = core.store.onCommit(later);
  tell();
  return () => {
    ended = true;
    core.listeners.delete(later);
    deaf();
  };
}

/** A function that has fn called once in the next microtask, however often it is called before; not after close. */
function soon(core: Core, fn: () => void): () => void {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    queueMicrotask(() => {
      asked = false;
      if (!core.closing.signal.aborted) fn();
    });
  };
}

function shown(w: Watcher): Rec[] {
  return w.matches.slice(0, w.query.limit);
}

function begin(core: Core, kind: string): Live {
  const live: Live = { recs: new Map(list(core, kind).map((r) => [r.id, r])), watchers: new Set(), dirty: new Set(), all: false };
  const later = soon(core, () => {
    refresh(core, kind, live);
    for (const w of live.watchers) {
      if (!w.due) continue;
      w.due = false;
      guarded(() => w.fn(shown(w)));
    }
  });
  const deaf = core.store.onCommit((touched) => {
    if (live.watchers.size === 0) {
      deaf();
      core.memory.live.delete(kind);
    } else if (note(live, kind, touched)) later();
  });
  core.memory.live.set(kind, live);
  return live;
}

/** Notes which records a commit touched; false = none that could be of the kind. */
function note(live: Live, kind: string, touched: Touched): boolean {
  const keys = touched.keys;
  live.all ||= touched.all || keys.has("merged"); // a merge leads own ops elsewhere
  for (const key of keys.get("record") ?? []) if (key.startsWith(kind + "/")) live.dirty.add(idOf(key));
  for (const key of keys.get("overlay") ?? []) live.dirty.add(key.slice(0, 36)); // of which kind it was is gone with it
  return live.all || live.dirty.size > 0;
}

/** Brings recs, and what matches, to the committed state. */
function refresh(core: Core, kind: string, live: Live): void {
  const steps: Step[] = [];
  const step = (id: string, now: Rec | undefined): void => {
    const was = live.recs.get(id);
    if (was === now || (was && now && same(was, now))) return;
    if (now) live.recs.set(id, now);
    else live.recs.delete(id);
    steps.push({ was, now });
  };
  if (live.all) {
    const gone = new Set(live.recs.keys());
    for (const now of list(core, kind)) {
      gone.delete(now.id);
      step(now.id, now);
    }
    for (const id of gone) step(id, undefined);
  } else if (live.dirty.size > 0) {
    core.view((tx) => {
      // Own ops of an id that was merged show on another record, and then all of them are to be looked at.
      const ids = new Set([...live.dirty].map((id) => survivor(tx, id)[0]));
      const own = ids.size > 8 || tx.count("merged") > 0 ? ownOps(tx, kind) : undefined;
      for (const id of ids) step(id, show(core, kind, id, tx.get("record", recordKey(kind, id)), (own ?? ownOps(tx, kind, id + "/")).get(id)));
    });
  }
  live.all = false;
  live.dirty.clear();
  if (steps.length > 0) for (const w of live.watchers) guarded(() => apply(w, steps));
}

function same(a: Rec, b: Rec): boolean {
  return a.rev === b.rev && a.pending === b.pending && a.eventMs === b.eventMs && a.author === b.author && JSON.stringify(a.fields) === JSON.stringify(b.fields);
}

/** Makes the new list of matches of the old one: what went is cut out, and what came is put in its place. */
function apply(w: Watcher, steps: Step[]): void {
  const { where, limit = Infinity } = w.query;
  const cuts = new Set<number>();
  const came: { at: number; rec: Rec }[] = [];
  let first = Infinity;
  for (const { was, now } of steps) {
    const at = was ? place(w, was) : -1;
    if (was && w.matches[at] === was) {
      cuts.add(at);
      first = Math.min(first, at);
    }
    if (now && (!where || where(now))) {
      const to = place(w, now);
      came.push({ at: to, rec: now });
      first = Math.min(first, to);
    }
  }
  if (first === Infinity) return;
  came.sort((a, b) => a.at - b.at || w.order(a.rec, b.rec));
  const next: Rec[] = [];
  let i = 0;
  const copy = (to: number): void => {
    for (; i < to; i++) {
      const rec = w.matches[i];
      if (rec && !cuts.has(i)) next.push(rec);
    }
  };
  for (const { at, rec } of came) {
    copy(at);
    next.push(rec);
  }
  copy(w.matches.length);
  w.matches = next;
  w.due ||= first < limit;
}

/** The first place in the list whose record does not come before rec. */
function place(w: Watcher, rec: Rec): number {
  let from = 0;
  let to = w.matches.length;
  while (from < to) {
    const middle = (from + to) >>> 1;
    const there = w.matches[middle];
    if (there && w.order(there, rec) < 0) from = middle + 1;
    else to = middle;
  }
  return from;
}

/** What the app's function throws is reported as an event handler's is, and keeps nobody else from being told. */
function guarded(fn: () => void): void {
  try {
    fn();
  } catch (e) {
    queueMicrotask(() => {
      throw e;
    });
  }
}
