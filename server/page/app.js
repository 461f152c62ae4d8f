import * as store from './store.js';

const zh = navigator.language.toLowerCase().startsWith('zh');
const T = (en, cn) => (zh ? cn : en);
const templates = {
  follow_up_due: T('A visit is due for follow-up.', '有一次拜访到了跟进时间。'),
  task_due: T('A task is due soon.', '有一项任务即将到期。'),
  approval_waiting: T('A quote is waiting for your approval.', '有一份报价等待您审批。'),
  approval_approved: T('Your quote was approved.', '您的报价已批准。'),
  approval_rejected: T('Your quote was rejected.', '您的报价被驳回。'),
  attention_new: T('A change of yours needs a look.', '有一项改动需要您处理。'),
};
const outcomes = { interested: T('Interested', '有意向'), follow_up: T('Follow up', '需跟进'), won: T('Won', '成交'), lost: T('Lost', '失败'), no_contact: T('Nobody met', '未见到') };
const labels = { title: T('Title', '标题'), amount: T('Amount', '金额'), currency: T('Currency', '币种'), discount: T('Discount (%)', '折扣（%）'), lines: T('Lines', '明细') };
const state = { staged: [], cursor: null, message: '', online: true, running: false, waiting: null };

// --- calls
class Failed extends Error {
  constructor(status, body) {
    const d = ((body.details || []).find((x) => x.type === 'satchel.v1.ErrorDetail') || {}).debug || {};
    super(d.message || body.message || T('The server does not answer.', '服务器没有响应。'));
    this.reason = (d.reason || '').replace('REASON_', '');
    this.code = body.code || 'unavailable';
    this.request = d.requestId;
  }
}
async function call(procedure, message, { token, signal, ms = 30000 } = {}) {
  const stop = AbortSignal.timeout(ms);
  let res;
  try {
    res = await fetch('/satchel.v1.' + procedure, {
      method: 'POST', body: JSON.stringify(message), signal: signal ? AbortSignal.any([signal, stop]) : stop,
      headers: { 'Content-Type': 'application/json', 'Satchel-Protocol': '1', 'Accept-Language': zh ? 'zh-CN' : 'en', ...(token && { Authorization: 'Bearer ' + token }) },
    });
  } catch { throw new Failed(0, {}); }
  const body = await res.json().catch(() => ({}));
  if (!res.ok) throw new Failed(res.status, body);
  return body;
}
let refreshing;
async function authed(procedure, message, options) {
  const used = store.meta.session?.accessToken;
  if (!used) throw new Failed(401, { code: 'unauthenticated', message: T('Please sign in.', '请登录。') });
  try {
    return await call(procedure, message, { ...options, token: used });
  } catch (e) {
    if (e.reason !== 'TOKEN_EXPIRED') throw e;
  }
  refreshing ||= (async () => {
    const { tokens } = await call('AuthService/Refresh', { refreshToken: store.meta.session.refreshToken });
    await store.setMeta({ session: { ...store.meta.session, ...tokens } });
  })().finally(() => { refreshing = null; });
  await refreshing;
  return call(procedure, message, { ...options, token: store.meta.session.accessToken });
}

// --- sync: one round trip after the other until nothing is left
async function sync() {
  for (let turn = 0; turn < 500; turn++) {
    const batch = await store.number(50);
    const message = {
      mutations: batch.map(({ number, id, ops, recorded, token }) => ({ number, id, ops, recorded, checkpointToken: token })),
      confirmed: store.meta.confirmed, cursor: state.cursor || store.meta.cursor,
      outbox: { count: waiting().length, oldestMs: waiting()[0]?.recorded.wallMs || 0 },
    };
    let res;
    try {
      res = await authed('SyncService/Sync', message);
    } catch (e) {
      if (e.reason !== 'MALFORMED_CURSOR') throw e;
      Object.assign(state, { staged: [], cursor: null });
      await store.restart();
      continue;
    }
    if (res.verdicts) await store.settle(res.verdicts);
    for (const d of res.directives || []) if (d.fork) await store.fork(d.fork.deviceId);
    const page = res.page;
    if (page) {
      if (page.droppedBuckets || page.droppedKinds || page.narrowed) {
        await store.lose(page);
        // What was staged may hold the same: begin this run again from the last checkpoint, with nothing of it.
        if (state.staged.length) { Object.assign(state, { staged: [], cursor: null }); continue; }
      }
      state.staged.push(...(page.changes || []));
      state.cursor = page.cursor || state.cursor;
      if (page.checkpoint) {
        await store.checkpoint(state.staged, state.cursor, page);
        Object.assign(state, { staged: [], cursor: null });
      }
    }
    draw();
    if (!page?.more && !(waiting().length && res.verdicts)) return;
  }
}
const waiting = () => store.outbox.filter((m) => !m.status);
async function loop() {
  if (state.running) return;
  state.running = true;
  let pause = 1000;
  while (store.meta.session) {
    try {
      await sync();
      state.online = true;
      state.message = '';
      pause = 1000;
      draw();
      state.waiting = new AbortController();
      const { wake } = await authed('SyncService/Wait', { cursor: store.meta.cursor }, { signal: state.waiting.signal, ms: 40000 });
      if (wake || !waiting().length) continue;
    } catch (e) {
      if (state.waiting?.signal.aborted) { state.waiting = null; continue; } // something new to send
      state.online = e.code !== 'unavailable';
      if (e.code === 'unauthenticated') { await signedOut(e.message); break; }
      state.message = e.request ? `${e.message} (${e.request})` : e.code === 'unavailable' ? T('No signal. All is kept here and sent later.', '没有信号。内容都已保存，稍后自动发送。') : e.message;
      draw();
      await new Promise((ok) => { state.knock = ok; setTimeout(ok, pause * (0.5 + Math.random())); });
      pause = Math.min(pause * 2, 60000);
    }
  }
  state.running = false;
}
const knock = () => { state.waiting?.abort(); state.knock?.(); loop(); };
async function signedOut(message) {
  state.message = message;
  await store.setMeta({ session: null });
  draw();
}

// --- recording
function uuid7() {
  const b = crypto.getRandomValues(new Uint8Array(16));
  const t = BigInt(Date.now());
  for (let i = 0; i < 6; i++) b[i] = Number((t >> BigInt(40 - 8 * i)) & 255n);
  b[6] = (b[6] & 15) | 112;
  b[8] = (b[8] & 63) | 128;
  const h = [...b].map((x) => x.toString(16).padStart(2, '0')).join('');
  return [h.slice(0, 8), h.slice(8, 12), h.slice(12, 16), h.slice(16, 20), h.slice(20)].join('-');
}
async function act(what, op) {
  await store.record({ id: uuid7(), what, ops: [op], recorded: { wallMs: Date.now() }, token: store.meta.token });
  draw();
  knock();
}
const patch = (what, rec, fields) => act(what, { recordId: rec.id, kind: rec.kind, baseRev: rec.rev, patch: { fields: JSON.stringify(fields) } });
const decide = (rec, decision, comment) => act(T('Decision: ', '审批：') + decision, { recordId: rec.id, kind: 'approval', baseRev: rec.rev,
  command: { name: 'approval.decide', args: JSON.stringify({ form_hash: rec.fields.form_hash, decision, comment }) } });

// --- drawing: only text nodes, never markup from data
function el(tag, props = {}, ...children) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(props)) if (k in e) e[k] = v; else e.setAttribute(k, v);
  e.append(...children.filter((c) => c !== null && c !== undefined && c !== false));
  return e;
}
const field = (label, input) => el('label', {}, label, input);
const when = (v) => (v ? new Date(v).toLocaleString(zh ? 'zh-CN' : 'en') : '');
const button = (text, onclick, className = '') => el('button', { type: 'button', onclick, className }, text);
const item = (title, lines, ...tail) => el('li', {}, el('div', {}, title, el('small', {}, lines.filter(Boolean).join('\n'))), ...tail);
function list(title, items, empty) {
  if (!items.length && !empty) return [];
  return [el('h2', {}, `${title}${items.length ? ` (${items.length})` : ''}`), items.length ? el('ul', {}, ...items.slice(0, 50)) : el('small', {}, empty)];
}
const formOf = (e) => Object.fromEntries(new FormData(e.target));
function draw() {
  const typing = document.activeElement?.closest('form, textarea, input');
  const n = waiting().length;
  const signed = !!store.meta.session;
  document.getElementById('bar').replaceChildren(...[
    el('strong', {}, 'Satchel', signed ? ' · ' + store.meta.session.name : ''),
    n ? el('span', { className: 'tag warn' }, T(`${n} unsent`, `${n} 项未发送`)) : null,
    signed ? el('span', { className: 'tag' }, state.online ? T('online', '在线') : T('offline', '离线')) : null,
    signed ? button(T('Sync', '同步'), knock) : null,
    signed ? button(T('Sign out', '退出'), leave) : null].filter(Boolean));
  document.getElementById('note').replaceChildren(...(state.message ? [el('span', {}, state.message)] : []));
  const main = document.getElementById('main');
  const key = signed ? 'in' : location.hash.startsWith('#setup=') ? 'setup' : 'out';
  if (main.dataset.view === key && !signed) return;
  if (main.dataset.view !== key) main.replaceChildren(signed ? visitForm() : key === 'setup' ? setupForm() : signInForm());
  main.dataset.view = key;
  if (!signed) return;
  if (typing && main.contains(typing) && typing.closest('li')) return; // somebody writes a remark: do not take it away
  const select = main.querySelector('select[name=account]');
  const chosen = select.value;
  if (document.activeElement !== select) select.replaceChildren(...store.shown('account').sort((a, b) => (a.fields.name || '').localeCompare(b.fields.name || '')).map((a) => el('option', { value: a.id, selected: a.id === chosen }, a.fields.name || a.id)));
  const names = new Map([...store.shown('account'), ...store.shown('person')].map((r) => [r.id, r.fields.name]));
  const me = store.meta.session.person;
  const tag = (r) => (r.waits ? el('span', { className: 'tag' }, T('unsent', '未同步')) : null);
  const approvals = store.shown('approval').filter((r) => r.fields.approver === me && r.fields.state === 'waiting').map((r) => {
    const remark = el('textarea', { rows: 1, maxLength: 2000, placeholder: T('Remark', '意见'), ariaLabel: T('Remark', '意见') });
    const form = Object.entries(r.fields.form || {}).filter(([, v]) => v !== null).map(([k, v]) => `${labels[k] || k}: ${typeof v === 'object' ? JSON.stringify(v) : v}`);
    return item(names.get(r.fields.initiator) || '', form, ...(r.waits ? [tag(r)] : [remark,
      button(T('Approve', '批准'), () => decide(r, 'approve', remark.value), 'main'), button(T('Reject', '驳回'), () => decide(r, 'reject', remark.value))]));
  });
  const newest = (a, b) => (b.at || 0) - (a.at || 0);
  const lists = el('div', { id: 'lists' },
    ...list(T('Waiting for you', '待您审批'), approvals),
    ...list(T('Needs a look', '待处理'), store.shown('attention').filter((r) => r.fields.open).sort(newest).map((r) => item(
      r.fields.cause === 'conflict' ? T('Somebody changed the same', '与他人的更改冲突') : r.fields.cause === 'refused' ? T('Not accepted', '未被接受') : T('Possible double', '可能重复'),
      [r.fields.reason, ...(r.fields.items || []).slice(0, 5).map((i) => [i.field, typeof i.value === 'object' ? JSON.stringify(i.value) : i.value].filter(Boolean).join(': '))],
      button(T('Done', '已处理'), () => patch(T('Attention done', '处理完成'), r, { open: false }))))),
    ...list(T('Inbox', '通知'), store.shown('notice').filter((r) => !r.fields.read).sort(newest).map((r) => item(templates[r.fields.template] || r.fields.template, [when(r.fields.at)],
      button(T('Read', '已读'), () => patch(T('Notice read', '通知已读'), r, { read: true }))))),
    ...list(T('Unsent', '未发送'), waiting().map((m) => item(m.what, [when(m.recorded.wallMs)]))),
    ...list(T('Results', '发送结果'), (store.meta.log || []).map((l) => item(l.what || '', [`${l.status} ${l.reason || ''}`, when(l.at)]))),
    ...list(T('Visits', '拜访'), store.shown('visit').sort((a, b) => String(b.fields.visited_at || '').localeCompare(String(a.fields.visited_at || '')) || newest(a, b)).map((v) => item(
      v.fields.subject || '', [names.get(v.fields.account), when(v.fields.visited_at), outcomes[v.fields.outcome], v.fields.summary], tag(v))), T('No visits yet.', '还没有拜访记录。')));
  main.querySelector('#lists')?.remove();
  main.append(lists);
}
function visitForm() {
  return el('form', { onsubmit: async (e) => {
    e.preventDefault();
    const f = formOf(e);
    const fields = { account: f.account, subject: f.subject, visited_at: new Date().toISOString() };
    if (f.summary) fields.summary = f.summary;
    if (f.outcome) fields.outcome = f.outcome;
    if (f.follow) fields.follow_up_at = new Date(f.follow).toISOString();
    await act(T('Visit: ', '拜访：') + f.subject, { recordId: uuid7(), kind: 'visit', create: { fields: JSON.stringify(fields) } });
    e.target.reset();
  } },
  field(T('Account', '客户'), el('select', { name: 'account', required: true })),
  field(T('Subject', '主题'), el('input', { name: 'subject', required: true, maxLength: 200 })),
  field(T('Summary', '小结'), el('textarea', { name: 'summary', rows: 2 })),
  field(T('Outcome', '结果'), el('select', { name: 'outcome' }, el('option', { value: '' }, '—'), ...Object.entries(outcomes).map(([value, label]) => el('option', { value }, label)))),
  field(T('Follow up at', '跟进时间'), el('input', { name: 'follow', type: 'datetime-local' })),
  el('button', { className: 'main' }, T('Log the visit', '记录拜访')));
}
const text = (name, label, props) => field(label, el('input', { name, required: true, ...props }));
async function signIn(org, login, password) {
  const platform = { installation: store.meta.installation || uuid7(), platform: 'web', name: 'Web', deviceId: store.meta.device || '' };
  const res = await call('AuthService/SignIn', { org, login, password, device: platform });
  if (store.meta.person && store.meta.person !== res.personId) {
    await call('AuthService/SignOut', {}, { token: res.tokens.accessToken }).catch(() => {});
    throw new Error(T('This browser keeps the data of somebody else. Use another browser profile.', '此浏览器保存着他人的数据，请使用其他浏览器配置。'));
  }
  const session = { ...res.tokens, name: res.displayName, person: res.personId };
  await store.setMeta({ installation: platform.installation });
  if (store.meta.device !== res.deviceId) await store.fork(res.deviceId);
  await store.setMeta({ session, person: res.personId });
  state.message = '';
  draw();
  loop();
}
const guarded = (fn) => async (e) => {
  e.preventDefault();
  try { await fn(formOf(e)); } catch (err) {
    if (err.reason === 'NOT_SET_UP') err.message += T(' Open the set-up link.', ' 请打开初始化链接。');
    state.message = err.message;
    draw();
  }
};
function signInForm() {
  return el('form', { onsubmit: guarded((f) => signIn(f.org, f.login, f.password)) },
    text('org', T('Organisation (empty if there is only one)', '组织（只有一个时可留空）'), { required: false }),
    text('login', T('Login', '账号'), { autocomplete: 'username', autocapitalize: 'none' }),
    text('password', T('Password', '密码'), { type: 'password', autocomplete: 'current-password' }),
    el('button', { className: 'main' }, T('Sign in', '登录')));
}
function setupForm() {
  return el('form', { onsubmit: guarded(async (f) => {
    if (f.password !== f.again) throw new Error(T('The two passwords differ.', '两次输入的密码不同。'));
    await call('AuthService/SetUp', { code: decodeURIComponent(location.hash.slice(7)), org: f.org, orgName: f.orgName, login: f.login, displayName: f.displayName, password: f.password });
    history.replaceState(null, '', '/');
    await signIn(f.org, f.login, f.password);
  }) },
  text('org', T('Short name for signing in (letters, digits, hyphens)', '组织短名（小写字母、数字、连字符）'), { pattern: '[a-z0-9][a-z0-9\\-]{0,62}' }),
  text('orgName', T('Organisation', '组织名称'), { maxLength: 200 }),
  text('displayName', T('Your name', '您的姓名'), { maxLength: 200 }),
  text('login', T('Login', '账号'), { autocomplete: 'username', maxLength: 254 }),
  text('password', T('Password (at least 10 characters)', '密码（至少 10 个字符）'), { type: 'password', minLength: 10, autocomplete: 'new-password' }),
  text('again', T('Password again', '再次输入密码'), { type: 'password', minLength: 10, autocomplete: 'new-password' }),
  el('button', { className: 'main' }, T('Set up', '初始化')));
}
async function leave() {
  if (waiting().length) { state.message = T('Sync first: something is not sent yet.', '请先同步：还有内容没有发送。'); draw(); return; }
  try { await authed('AuthService/SignOut', {}); } catch (e) { if (e.code === 'unavailable') { state.message = e.message; draw(); return; } }
  state.waiting?.abort();
  await signedOut('');
}

// --- start: one tab at a time, for two would give the same numbers
async function start() {
  document.documentElement.lang = zh ? 'zh-CN' : 'en';
  await store.openStore();
  draw();
  loop();
  addEventListener('online', knock);
  addEventListener('hashchange', draw);
  navigator.serviceWorker?.register('sw.js').catch(() => {});
}
const only = (lock) => {
  if (!lock) { document.getElementById('main').textContent = T('Satchel is open in another tab.', 'Satchel 已在另一个标签页打开。'); return undefined; }
  return start().then(() => new Promise(() => {}));
};
if (navigator.locks) navigator.locks.request('satchel', { ifAvailable: true }, only); else start();
