import { create, clone, type MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError, createConnectRouter, type ConnectRouter, type HandlerContext } from "@connectrpc/connect";
import { compressionGzip } from "@connectrpc/connect-node";
import { createFetchHandler } from "@connectrpc/connect/protocol";
import { createHash, randomUUID } from "node:crypto";
import { uuidBytes, uuidOf } from "../src/core.js";
import { AuthService } from "../src/gen/satchel/v1/auth_pb.js";
import { ErrorDetailSchema, Reason } from "../src/gen/satchel/v1/errors_pb.js";
import { MediaService, type PutChunkRequest } from "../src/gen/satchel/v1/media_pb.js";
import { GetSchemaResponseSchema, SchemaService, type GetSchemaResponse } from "../src/gen/satchel/v1/schema_pb.js";
import {
  ChangeSchema, DigestSchema, PageSchema, RepairPlanSchema, RepairResponseSchema, Status, SyncResponseSchema, SyncService, VerdictSchema,
  type Change, type Mutation, type Page, type RepairPlan, type RepairRequest, type SyncRequest, type SyncResponse, type Verdict,
} from "../src/gen/satchel/v1/sync_pb.js";

/** The fake's clock. */
export const serverTime = 1_790_000_000_000;

/** A record of the fake. */
export interface FakeRow {
  seq: bigint;
  change: Change;
  fields: Record<string, unknown>;
}

/** An error as the server gives it. */
export function fail(code: Code, reason: Reason, expected = 0): ConnectError {
  return new ConnectError("refused", code, undefined, [{ desc: ErrorDetailSchema, value: { reason, requestId: "r1", expected: BigInt(expected) } }]);
}

/** As when there is no signal. */
export function noSignal(): ConnectError {
  return new ConnectError("the signal went", Code.Unavailable);
}

const epochBits = 40n;
const revsPerAnswer = 2;

/**
 * A small server that keeps the protocol's words over Connect: numbers and random ids, verdicts, pages of pageRows rows,
 * repairs, uploads. Tests bend it through its hooks. It lives in this process: give `fetch` to the client.
 */
export class Fake {
  requests: SyncRequest[] = [];
  /** Answers in place of the fake, unless it gives undefined. */
  script: ((req: SyncRequest) => MessageInitShape<typeof SyncResponseSchema> | undefined) | undefined;
  /** Sees or changes an answer; what it throws loses it. */
  answer: ((req: SyncRequest, res: SyncResponse) => void) | undefined;
  refuse: ((m: Mutation) => [Status, Reason] | undefined) | undefined;
  pageRows = 100;
  /** Called with the path of each call. */
  onCall: ((path: string) => void) | undefined;

  person: string = randomUUID();
  org: string = randomUUID();
  device: string = randomUUID();
  access = "";
  refresh = "";
  private generation = 0;
  /** Good once more until the pair that it gave was used. */
  private previous = "";
  signOuts = 0;
  refreshes = 0;

  seq = 0n;
  /** By device, by number. */
  lanes = new Map<string, Verdict[]>();
  /** Random ids, likewise. */
  ids = new Map<string, string[]>();
  /** By random id. */
  applied = new Map<string, number>();
  rows = new Map<string, FakeRow>();

  /** Checkpoints state them. */
  digests = false;
  /** Of the epoch before this one: what was lost is beyond it. */
  cut = 0n;
  repairs: RepairRequest[] = [];
  plan: ((p: RepairPlan) => void) | undefined;
  onRepair: ((req: RepairRequest) => void) | undefined;
  salvaged = new Map<string, Change>();

  /** Upload → hash. */
  private readonly begun = new Map<string, string>();
  /** By hash. */
  uploads = new Map<string, Uint8Array>();
  stored = new Set<string>();
  chunk = 1 << 20;
  puts = 0;
  onPut: ((req: PutChunkRequest) => void) | undefined;
  blobBytes = new TextEncoder().encode("from the server");

  schema: GetSchemaResponse = create(GetSchemaResponseSchema, { version: 3, kinds: [{ name: "visit", labelEn: "Visit", canCreate: true, fields: [{ name: "note", type: "text" }] }],
    templates: [{ name: "task_due", textZh: "任务即将到期。", textEn: "A task is due." }] });
  schemas = 0;
  waiting = 0;
  /** Answers Wait at once in place of the fake, unless it gives undefined. */
  wake: (() => boolean | undefined) | undefined;

  private readonly news = new Set<() => void>();
  private readonly handlers = new Map<string, (req: Request) => Promise<Response>>();

  constructor() {
    const router = createConnectRouter({ acceptCompression: [compressionGzip], readMaxBytes: 64 << 20 });
    this.routes(router);
    for (const h of router.handlers) this.handlers.set(h.requestPath, createFetchHandler(h));
  }

  readonly fetch: typeof globalThis.fetch = async (input, init) => {
    const req = new Request(input, init);
    const path = new URL(req.url).pathname;
    this.onCall?.(path);
    if (path === "/media/blob") return new Response(this.blobBytes.slice(), { status: req.headers.get("Authorization") ? 418 : 200 }); // a link is not opened with the session's token
    const handler = this.handlers.get(path);
    return handler ? handler(req) : new Response("not found", { status: 404 });
  };

  private routes(router: ConnectRouter): void {
    const mine = (ctx: HandlerContext) => {
      if (ctx.requestHeader.get("Authorization") !== "Bearer " + this.access) throw fail(Code.Unauthenticated, Reason.TOKEN_EXPIRED);
      this.previous = "";
    };
    router.service(AuthService, {
      signIn: (req) => {
        if (req.password !== "right") throw fail(Code.Unauthenticated, Reason.BAD_CREDENTIALS);
        return { tokens: this.mint(), deviceId: this.device, personId: this.person, orgId: this.org, displayName: "Li Na" };
      },
      refresh: (req) => {
        this.refreshes++;
        if (req.refreshToken !== this.refresh && (!this.previous || req.refreshToken !== this.previous)) throw fail(Code.Unauthenticated, Reason.SESSION_ENDED);
        if (req.refreshToken !== this.refresh) return { tokens: { accessToken: this.access, refreshToken: this.refresh } }; // the answer was lost: the same pair again
        return { tokens: this.mint() };
      },
      signOut: (_, ctx) => {
        mine(ctx);
        this.signOuts++;
        return {};
      },
    });
    router.service(SyncService, {
      sync: (req, ctx) => {
        mine(ctx);
        this.requests.push(req);
        const scripted = this.script?.(req);
        if (scripted) return scripted;
        const res = this.sync(req);
        this.answer?.(req, res);
        return res;
      },
      wait: async (req, ctx) => {
        mine(ctx);
        const wake = this.wake?.();
        if (wake !== undefined) return { wake };
        this.waiting++;
        try {
          while (!ctx.signal.aborted) {
            if (this.page(req.cursor).changes.length > 0) return { wake: true };
            await new Promise<void>((resolve) => {
              this.news.add(resolve);
              ctx.signal.addEventListener("abort", () => resolve());
            });
          }
        } finally {
          this.waiting--;
        }
        throw new ConnectError("the caller left", Code.Canceled);
      },
      repair: (req, ctx) => {
        mine(ctx);
        return this.repair(req);
      },
    });
    router.service(SchemaService, {
      getSchema: (_, ctx) => {
        mine(ctx);
        this.schemas++;
        return this.schema;
      },
    });
    router.service(MediaService, {
      begin: (req, ctx) => {
        mine(ctx);
        if (this.stored.has(req.sha256)) return { stored: true };
        if (req.contentType === "text/html") throw fail(Code.InvalidArgument, Reason.UNSUPPORTED_MEDIA);
        this.begun.set(this.uploadId(req.sha256), req.sha256);
        return { uploadId: this.uploadId(req.sha256), offset: BigInt(this.uploads.get(req.sha256)?.length ?? 0), chunkSize: this.chunk };
      },
      putChunk: (req, ctx) => {
        mine(ctx);
        this.puts++;
        this.onPut?.(req);
        const hash = this.hashOfUpload(req.uploadId);
        const have = this.uploads.get(hash) ?? new Uint8Array();
        if (Number(req.offset) !== have.length) throw fail(Code.FailedPrecondition, Reason.UNEXPECTED_OFFSET, have.length);
        const next = new Uint8Array(have.length + req.data.length);
        next.set(have);
        next.set(req.data, have.length);
        this.uploads.set(hash, next);
        return { offset: BigInt(next.length) };
      },
      complete: (req, ctx) => {
        mine(ctx);
        const hash = this.hashOfUpload(req.uploadId);
        if (createHash("sha256").update(this.uploads.get(hash) ?? "").digest("hex") !== hash) {
          this.uploads.delete(hash);
          throw fail(Code.InvalidArgument, Reason.HASH_MISMATCH);
        }
        this.stored.add(hash);
        this.seq++;
        for (const r of this.rows.values()) {
          if (r.fields["blob"] !== hash) continue;
          r.fields["blob_state"] = "stored";
          this.touch(r);
        }
        return { sha256: hash };
      },
      link: (req, ctx) => {
        mine(ctx);
        if (!this.rows.has(req.recordId)) throw fail(Code.NotFound, Reason.NOT_FOUND);
        return { url: "/media/blob", contentType: "image/jpeg", size: BigInt(this.blobBytes.length) };
      },
    });
  }

  private mint(): { accessToken: string; refreshToken: string } {
    this.generation++;
    this.previous = this.refresh;
    this.access = `access-${this.generation}`;
    this.refresh = `refresh-${this.generation}`;
    return { accessToken: this.access, refreshToken: this.refresh };
  }

  private uploadId(hash: string): string {
    return uuidOf(uuidBytes(hash.slice(0, 32)));
  }

  private hashOfUpload(id: string): string {
    const hash = this.begun.get(id);
    if (!hash) throw fail(Code.NotFound, Reason.NOT_FOUND);
    return hash;
  }

  private sync(req: SyncRequest): SyncResponse {
    const res = create(SyncResponseSchema, { serverTimeMs: BigInt(serverTime) });
    const lane = this.lanes.get(this.device) ?? [];
    const ids = this.ids.get(this.device) ?? [];
    const order = (order: MessageInitShape<typeof SyncResponseSchema>["directives"]) =>
      create(SyncResponseSchema, { serverTimeMs: BigInt(serverTime), verdicts: res.verdicts, directives: order ?? [] });
    if (this.cut > 0n && this.beyond(req.seenSeq)) {
      return order([{ order: { case: "restored", value: { afterSeq: this.cut, expectedNumber: BigInt(lane.length + 1), seq: this.seq } } }]);
    }
    this.seq++;
    for (const m of req.mutations) {
      const n = Number(m.number);
      if (n > lane.length + 1) {
        res.expectedNumber = BigInt(lane.length + 1);
        continue;
      }
      const was = lane[n - 1];
      if (was && ids[n - 1] === m.id) {
        res.verdicts.push(was);
        continue;
      }
      if (was) {
        this.device = randomUUID();
        res.verdicts = [];
        return order([{ order: { case: "fork", value: { deviceId: this.device } } }]);
      }
      const v = create(VerdictSchema, { number: m.number, seq: this.seq, status: Status.APPLIED });
      if (m.skip) {
        for (let i = m.number; i < m.skip.to; i++) {
          lane.push(create(VerdictSchema));
          ids.push("skipped");
        }
      } else {
        const refused: [Status, Reason] | undefined = m.envelope ? [Status.REJECTED, Reason.MALFORMED] : this.refuse?.(m);
        if (refused) [v.status, v.reason] = refused;
        else if (!this.applied.has(m.id)) this.apply(m);
      }
      lane.push(v);
      ids.push(m.id);
      res.verdicts.push(v);
    }
    this.lanes.set(this.device, lane);
    this.ids.set(this.device, ids);
    if (req.noPage) return res;
    if (this.cut > 0n && this.beyond(placeOf(req.cursor)[0])) return order([{ order: { case: "repair", value: { salvage: true } } }]);
    res.page = this.page(req.cursor);
    return res;
  }

  private apply(m: Mutation): void {
    this.applied.set(m.id, (this.applied.get(m.id) ?? 0) + 1);
    for (const op of m.ops) {
      const r = this.row(op.kind, op.recordId, this.person);
      const patch = op.action.case === "patch" ? op.action.value : undefined;
      const text = op.action.case === "create" ? op.action.value.fields : patch?.fields;
      if (text) Object.assign(r.fields, JSON.parse(text));
      for (const inc of patch?.increments ?? []) r.fields[inc.field] = Number(r.fields[inc.field] ?? 0) + Number(inc.by);
      if (op.action.case === "delete") r.change.deleted = true;
      if (this.stored.has(String(r.fields["blob"]))) r.fields["blob_state"] = "stored";
      this.touch(r);
    }
  }

  private row(kind: string, id: string, author = ""): FakeRow {
    let r = this.rows.get(id);
    if (!r) {
      r = { seq: 0n, fields: {}, change: create(ChangeSchema, { recordId: id, kind, entered: [1n], authorId: author }) };
      this.rows.set(id, r);
    }
    return r;
  }

  /** Makes what was changed of a row a change at this commit. */
  touch(r: FakeRow): void {
    const first = (this.seq >> epochBits) << epochBits;
    r.seq = this.seq;
    r.change.rev = r.change.rev + 1n > first ? r.change.rev + 1n : first;
    r.change.fields = r.change.deleted ? "" : JSON.stringify(r.fields);
    if (r.change.deleted) r.change.entered = [];
    for (const wake of [...this.news]) wake();
    this.news.clear();
  }

  /** Writes a record as somebody else. */
  put(kind: string, id: string, fields: Record<string, unknown>): void {
    this.seq++;
    const r = this.row(kind, id);
    Object.assign(r.fields, fields);
    this.touch(r);
  }

  /** Gives rows after the cursor "seq/id", in that order. */
  page(cursor: Uint8Array): Page {
    const [seq, id] = placeOf(cursor);
    const p = create(PageSchema, { cursor });
    const all = [...this.rows.values()].sort((a, b) => Number(a.seq - b.seq) || (a.change.recordId < b.change.recordId ? -1 : 1));
    for (const r of all) {
      if (r.seq < seq || (r.seq === seq && r.change.recordId <= id)) continue;
      if (p.changes.length === this.pageRows) {
        p.more = true;
        return p;
      }
      p.changes.push(clone(ChangeSchema, r.change));
      p.cursor = text(`${r.seq}/${r.change.recordId}`);
    }
    Object.assign(p, { cursor: text(`${this.seq}/~`), schemaVersion: 3, checkpoint: true, seq: this.seq, token: text(`token-${this.seq}`) });
    if (!this.digests) return p;
    const digest = create(DigestSchema);
    for (const b of this.shelves()) {
      digest.count += b.digest.count;
      digest.sum += b.digest.sum;
    }
    p.digest = digest;
    return p;
  }

  private beyond(seq: bigint): boolean {
    return seq >> epochBits < this.seq >> epochBits && seq > this.cut;
  }

  /** What lies where, counted in the words of sync.proto. */
  private shelves() {
    const sums = new Map<string, { bucket: bigint; kind: string; digest: { count: bigint; sum: bigint } }>();
    for (const { change } of this.rows.values()) {
      for (const bucket of change.entered) {
        const key = `${bucket}/${change.kind}`;
        const s = sums.get(key) ?? { bucket, kind: change.kind, digest: { count: 0n, sum: 0n } };
        sums.set(key, s);
        s.digest.count++;
        s.digest.sum += hash(change.recordId, change.rev);
      }
    }
    return [...sums.values()];
  }

  /** Keeps a copy of the data as it stands, and gives how to go back to it: a new epoch begins. */
  backup(): () => void {
    const copy = <V>(m: Map<string, V[]>) => new Map([...m].map(([k, v]): [string, V[]] => [k, [...v]]));
    const { seq } = this;
    const lanes = copy(this.lanes);
    const ids = copy(this.ids);
    const applied = new Map(this.applied);
    const rows = new Map([...this.rows].map(([id, r]): [string, FakeRow] => [id, { seq: r.seq, change: clone(ChangeSchema, r.change), fields: { ...r.fields } }]));
    return () => {
      Object.assign(this, { cut: seq, seq: (((this.seq >> epochBits) + 1n) << epochBits) + 1n, lanes, ids, applied, rows });
    };
  }

  private repair(req: RepairRequest) {
    this.repairs.push(req);
    this.onRepair?.(req);
    const res = create(RepairResponseSchema);
    const { step } = req;
    switch (step.case) {
      case "start":
        res.plan = create(RepairPlanSchema, { cursor: text(`${this.seq}/~`), buckets: this.shelves(), forms: {}, seq: this.seq });
        this.plan?.(res.plan);
        break;
      case "revs": {
        const after = uuidOf(step.value.after);
        const lies = [...this.rows.values()]
          .filter(({ change: c }) => c.kind === step.value.kind && c.entered.includes(step.value.bucket) && c.recordId > after)
          .sort((a, b) => (a.change.recordId < b.change.recordId ? -1 : 1));
        const some = lies.slice(0, revsPerAnswer);
        return { revs: { records: new Uint8Array(some.flatMap((r) => [...uuidBytes(r.change.recordId)])), revs: some.map((r) => r.change.rev), more: lies.length > some.length } };
      }
      case "rows":
        for (const id of recordsOf(step.value.records).slice(0, revsPerAnswer)) {
          res.answered++;
          const r = this.rows.get(id);
          if (r && r.change.entered.length > 0) res.changes.push(clone(ChangeSchema, r.change));
        }
        break;
      case "salvage":
        for (const ch of step.value.rows) this.salvaged.set(ch.recordId, ch);
        break;
      default:
        throw fail(Code.InvalidArgument, Reason.MALFORMED);
    }
    return res;
  }

  /** The records whose rows repairs asked for, in order; forgets the calls. */
  travelled(): string[] {
    const asked = new Set(this.repairs.flatMap((req) => (req.step.case === "rows" ? recordsOf(req.step.value.records) : [])));
    this.repairs = [];
    return [...asked];
  }

  /** The mutations of all requests as texts, those that were sent again too; forgets them. */
  noted(): string[] {
    const all = this.requests.flatMap((req) => req.mutations.map((m) => `${m.number}${m.skip ? `-${m.skip.to} skipped` : ""}${m.envelope ? " envelope" : ""}`));
    this.requests = [];
    return all;
  }

  /** Makes the server order a repair with its next answer. */
  orderRepair(salvage: boolean): void {
    this.script = () => {
      this.script = undefined;
      return { serverTimeMs: BigInt(serverTime), directives: [{ order: { case: "repair", value: { salvage } } }] };
    };
  }

  /** Makes its next answer one that took nothing. */
  takeNothing(): void {
    this.script = () => {
      this.script = undefined;
      return { serverTimeMs: BigInt(serverTime) };
    };
  }
}

function recordsOf(bytes: Uint8Array): string[] {
  return Array.from({ length: bytes.length / 16 }, (_, i) => uuidOf(bytes.subarray(16 * i, 16 * i + 16)));
}

function text(s: string): Uint8Array {
  return new TextEncoder().encode(s);
}

function placeOf(cursor: Uint8Array): [seq: bigint, id: string] {
  const [seq = "", id = ""] = new TextDecoder().decode(cursor).split("/");
  return [BigInt(seq), id];
}

/** As sync.proto words it, another way than the client. */
function hash(id: string, rev: bigint): bigint {
  let h = 2166136261n;
  for (const b of [...uuidBytes(id), ...text(String(rev))]) h = ((h ^ BigInt(b)) * 16777619n) & 0xffffffffn;
  h = ((h ^ (h >> 16n)) * 0x85ebca6bn) & 0xffffffffn;
  h = ((h ^ (h >> 13n)) * 0xc2b2ae35n) & 0xffffffffn;
  return h ^ (h >> 16n);
}
