// What this browser keeps: the session, the cursor, the records as of the last checkpoint, and the outbox. Each step is
// one IndexedDB transaction, so that a tab that is closed at any moment loses nothing.
let db;
export const records = new Map(); // id -> {id, kind, rev, fields, buckets, author, at}: as of the last checkpoint
export let outbox = []; // [{key, id, ops, recorded, token, number?, status?, reason?, seq?}]: waiting, or not visible yet
export let meta = {}; // {session, cursor, token, next, confirmed, person, device, log}

const wait = (r) => new Promise((ok, no) => { r.onsuccess = () => ok(r.result); r.onerror = () => no(r.error); });

export async function openStore() {
  const r = indexedDB.open('satchel', 1);
  r.onupgradeneeded = () => {
    r.result.createObjectStore('meta');
    r.result.createObjectStore('records', { keyPath: 'id' });
    r.result.createObjectStore('outbox', { keyPath: 'key', autoIncrement: true });
  };
  db = await wait(r);
  const tx = db.transaction(['meta', 'records', 'outbox']);
  const [m, recs, out] = await Promise.all([wait(tx.objectStore('meta').get('meta')), wait(tx.objectStore('records').getAll()), wait(tx.objectStore('outbox').getAll())]);
  meta = m || { next: 1, confirmed: 0, log: [] };
  for (const rec of recs) records.set(rec.id, rec);
  outbox = out;
}

// step runs fn over the three stores in one transaction, then adopts what it wrote.
async function step(fn) {
  const tx = db.transaction(['meta', 'records', 'outbox'], 'readwrite', { durability: 'strict' });
  const done = new Promise((ok, no) => { tx.oncomplete = ok; tx.onabort = () => no(tx.error); });
  const after = await fn(tx.objectStore('records'), tx.objectStore('outbox'), tx.objectStore('meta'));
  await done;
  if (after) after();
}

export const setMeta = (change) => step((_r, _o, m) => {
  const next = { ...meta, ...change };
  m.put(next, 'meta');
  return () => { meta = next; };
});

// record keeps a mutation before anybody is told that it was taken.
export const record = (mutation) => step(async (_r, o) => {
  const key = await wait(o.add(mutation));
  return () => outbox.push({ ...mutation, key });
});

// number gives the next mutations their numbers, in the transaction that says so.
export async function number(most) {
  const batch = outbox.filter((m) => !m.status).slice(0, most);
  if (batch.some((m) => !m.number)) {
    await step((_r, o, m) => {
      let next = meta.next;
      const given = batch.map((b) => (b.number ? b : { ...b, number: next++ }));
      given.forEach((b) => o.put(b));
      m.put({ ...meta, next }, 'meta');
      return () => { meta = { ...meta, next }; given.forEach((g, i) => Object.assign(batch[i], g)); };
    });
  }
  return batch;
}

// settle stores verdicts. What was applied stays on top of the data until a checkpoint shows it.
export const settle = (verdicts) => step((_r, o, m) => {
  const log = [...(meta.log || [])];
  const changed = [];
  let confirmed = meta.confirmed;
  for (const v of verdicts) {
    const mine = outbox.find((b) => b.number === Number(v.number) && !b.status);
    confirmed = Math.max(confirmed, Number(v.number));
    if (!mine) continue;
    const status = v.status.replace('STATUS_', '');
    const now = { ...mine, status, seq: v.seq || '0' };
    changed.push([mine, now]);
    o.put(now);
    if (status !== 'APPLIED') log.unshift({ at: Date.now(), status, reason: (v.reason || '').replace('REASON_', ''), what: mine.what });
  }
  log.length = Math.min(log.length, 20);
  m.put({ ...meta, confirmed, log }, 'meta');
  return () => { meta = { ...meta, confirmed, log }; changed.forEach(([old, now]) => Object.assign(old, now)); };
});

// fork takes a new device id and numbers everything that waits anew.
export const fork = (device) => step((_r, o, m) => {
  const next = { ...meta, device, next: 1, confirmed: 0 };
  m.put(next, 'meta');
  const waiting = outbox.filter((b) => !b.status);
  waiting.forEach((b) => o.put({ ...b, number: undefined }));
  return () => { meta = next; waiting.forEach((b) => { b.number = undefined; }); };
});

// lose takes buckets, kinds of buckets and fields away at once, before any checkpoint.
export const lose = (page) => step((r) => {
  const gone = new Set(page.droppedBuckets || []);
  const kinds = new Set((page.droppedKinds || []).map((d) => d.kind + '/' + d.bucket));
  const narrowed = new Map((page.narrowed || []).map((n) => [n.kind, n.fields]));
  const next = [];
  for (const rec of records.values()) {
    const buckets = rec.buckets.filter((b) => !gone.has(b) && !kinds.has(rec.kind + '/' + b));
    const hide = narrowed.get(rec.kind);
    if (buckets.length === rec.buckets.length && !hide) continue;
    const fields = { ...rec.fields };
    (hide || []).forEach((f) => delete fields[f]);
    next.push({ ...rec, buckets, fields });
  }
  next.forEach((rec) => (rec.buckets.length ? r.put(rec) : r.delete(rec.id)));
  return () => next.forEach((rec) => (rec.buckets.length ? records.set(rec.id, rec) : records.delete(rec.id)));
});

// checkpoint shows what was staged, with its cursor, in one transaction.
export const checkpoint = (staged, cursor, page) => step((r, o, m) => {
  const touched = new Map();
  for (const c of staged) {
    const old = touched.has(c.recordId) ? touched.get(c.recordId) : records.get(c.recordId);
    const buckets = new Set(old ? old.buckets : []);
    (c.left || []).forEach((b) => buckets.delete(b));
    (c.entered || []).forEach((b) => buckets.add(b));
    const rec = { id: c.recordId, kind: c.kind, rev: c.rev, buckets: [...buckets], author: c.authorId, at: Number(c.eventMs || 0),
      fields: c.fields ? JSON.parse(c.fields) : (old ? old.fields : {}) };
    touched.set(c.recordId, c.deleted || !buckets.size ? null : rec);
  }
  touched.forEach((rec, id) => (rec ? r.put(rec) : r.delete(id)));
  const shown = (b) => b.status && BigInt(b.seq || 0) <= BigInt(page.seq || 0);
  outbox.filter(shown).forEach((b) => o.delete(b.key));
  const next = { ...meta, cursor: cursor || meta.cursor, token: page.token };
  m.put(next, 'meta');
  return () => {
    meta = next;
    touched.forEach((rec, id) => (rec ? records.set(id, rec) : records.delete(id)));
    outbox = outbox.filter((b) => !shown(b));
  };
});

// restart forgets what was pulled; what waits stays.
export const restart = () => step((r, _o, m) => {
  r.clear();
  const next = { ...meta, cursor: undefined, token: undefined };
  m.put(next, 'meta');
  return () => { meta = next; records.clear(); };
});

// shown gives the records of a kind with what is on top of them.
export function shown(kind) {
  const out = new Map();
  for (const rec of records.values()) if (rec.kind === kind) out.set(rec.id, rec);
  for (const m of outbox) {
    if (m.status && !['APPLIED', 'MERGED', 'CONFLICTED'].includes(m.status)) continue;
    for (const op of m.ops) {
      if (op.kind !== kind) continue;
      const old = out.get(op.recordId);
      const change = op.create || op.patch;
      if (change) out.set(op.recordId, { id: op.recordId, kind, rev: '0', at: m.recorded.wallMs, ...old, waits: true, fields: { ...(old && old.fields), ...JSON.parse(change.fields) } });
      if (op.command && old) out.set(op.recordId, { ...old, waits: true });
    }
  }
  return [...out.values()];
}
