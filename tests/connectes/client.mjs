// A client of Satchel by Connect-ES, as somebody else would write it: signs in, syncs, logs a visit, reads its verdict,
// and finds it at the manager's. tests/foreign_test.go runs it: node client.mjs URL TRANSPORT. It prints one line of JSON.
import { randomUUID } from "node:crypto";
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { AuthService } from "./gen/satchel/v1/auth_pb.js";
import { ErrorDetailSchema, Reason } from "./gen/satchel/v1/errors_pb.js";
import { MutationSchema, Note, Status, SyncService } from "./gen/satchel/v1/sync_pb.js";

const [baseUrl, name] = process.argv.slice(2);

// The access token of whoever is signed in, put on every call.
function bearer(token) {
  return (next) => (req) => {
    if (token.now) req.header.set("Authorization", `Bearer ${token.now}`);
    return next(req);
  };
}

function transport(token) {
  const options = { baseUrl, interceptors: [bearer(token)] };
  switch (name) {
    case "connect-json":
      return createConnectTransport({ ...options, httpVersion: "1.1", useBinaryFormat: false });
    case "connect-binary":
      return createConnectTransport({ ...options, httpVersion: "1.1", useBinaryFormat: true });
    case "grpc":
      return createGrpcTransport(options); // HTTP/2 without TLS
    case "grpc-web":
      return createGrpcWebTransport({ ...options, httpVersion: "1.1" });
  }
  throw new Error(`unknown transport ${name}`);
}

// A device: the least that can sync. It keeps records in memory and applies pages as docs/protocol.md says.
class Device {
  constructor(login) {
    this.login = login;
    this.token = { now: "" };
    const t = transport(this.token);
    this.auth = createClient(AuthService, t);
    this.syncing = createClient(SyncService, t);
    this.records = new Map();
    this.staged = new Map();
    this.next = 1n;
    this.cursor = new Uint8Array();
  }

  async signIn(password) {
    const s = await this.auth.signIn({ org: "acme", login: this.login, password, device: { platform: "node", name } });
    this.token.now = s.tokens.accessToken;
    return s;
  }

  async sync(...mutations) {
    const res = await this.syncing.sync({ cursor: this.cursor, mutations, confirmed: this.next - 1n });
    if (res.page) this.apply(res.page);
    this.next += BigInt(mutations.length);
    return res;
  }

  apply(page) {
    for (const c of page.changes) {
      const had = this.staged.get(c.recordId) ?? this.records.get(c.recordId) ?? { buckets: [], fields: {} };
      const buckets = had.buckets.filter((b) => !c.left.includes(b)).concat(c.entered);
      this.staged.set(c.recordId, c.deleted || buckets.length === 0 ? null
        : { kind: c.kind, rev: c.rev, buckets, fields: c.fields ? JSON.parse(c.fields) : had.fields });
    }
    if (page.checkpoint) {
      for (const [id, r] of this.staged) r ? this.records.set(id, r) : this.records.delete(id);
      this.staged.clear();
    }
    this.cursor = page.cursor;
  }

  mutation(...ops) {
    return create(MutationSchema, { number: this.next, id: randomUUID(), ops, recorded: { wallMs: BigInt(Date.now()) } });
  }
}

function must(ok, what) {
  if (!ok) throw new Error(`this does not hold: ${what}`);
}

const op = (recordId, kind, fields) =>
  ({ recordId, kind, action: { case: "create", value: { fields: JSON.stringify(fields) } } });

const ann = new Device("ann");
// A refusal arrives with its typed reason.
try {
  await ann.signIn("not the password");
  must(false, "a wrong password is refused");
} catch (err) {
  const e = ConnectError.from(err);
  must(e.code === Code.Unauthenticated, `the code of a wrong password is ${Code[e.code]}: ${e.message}`);
  const [detail] = e.findDetails(ErrorDetailSchema);
  must(detail?.reason === Reason.BAD_CREDENTIALS && detail.message !== "" && detail.requestId !== "", "it has a typed reason");
}
await ann.signIn("open sesame 42");
const first = await ann.sync();
must(first.page?.checkpoint === true && ann.records.size > 0, "the first sync ends at a checkpoint and brings colleagues");

const account = randomUUID(), visit = randomUUID(), subject = `拜访 by ${name}`;
const m = ann.mutation(op(account, "account", { name: `Orient ${name}` }), op(visit, "visit", { account, subject }));
const sent = await ann.sync(m);
must(sent.verdicts.length === 1 && sent.verdicts[0].number === 1n, "the mutation has a verdict");
const verdict = sent.verdicts[0];
must(verdict.status === Status.APPLIED, `the verdict is ${Status[verdict.status]} ${Reason[verdict.reason]} ${verdict.detail}`);
must(!verdict.notes.includes(Note.PARENT_MOVED), "the account did not move");
must(sent.page.seq >= verdict.seq && ann.records.get(visit)?.fields.subject === subject, "the page has the visit");

// The answer was lost: the same is sent again and takes effect once.
const again = await ann.syncing.sync({ cursor: ann.cursor, mutations: [m] });
must(again.verdicts[0]?.seq === verdict.seq && !again.page, "a replay gets its verdict and nothing new");

// A bad mutation is a verdict, never an error.
const bad = await ann.sync(ann.mutation({ recordId: visit, kind: "visit", baseRev: 1n,
  action: { case: "patch", value: { fields: JSON.stringify({ satisfaction: 9 }) } } }));
must(bad.verdicts[0].status === Status.REJECTED && bad.verdicts[0].reason === Reason.INVALID, "a bad value is rejected");
must(ann.records.get(bad.verdicts[0].attentionId)?.kind === "attention", "what was refused is kept in an attention");

const mei = new Device("mei");
await mei.signIn("open sesame 42");
await mei.sync();
must(mei.records.get(visit)?.fields.subject === subject, "the manager has the visit");
console.log(JSON.stringify({ visit, status: Status[verdict.status], seq: verdict.seq.toString() }));
